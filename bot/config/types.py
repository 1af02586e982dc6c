"""The types of settings, each with a sentence for a value that it refuses.

No sentence holds the value, which may be a secret in the wrong place.
"""

import json
import re
import ssl
from collections.abc import Iterable
from ipaddress import ip_network
from pathlib import Path
from stat import S_IRWXO
from typing import Annotated, TypeVar
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    HttpUrl,
    SecretStr,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode

from bot.config.sources import KEY, SecretFile
from bot.core.events import UserId

_SERVER = r"(?:[A-Za-z0-9.-]{1,230}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?"
_USER_ID = re.compile(rf"@[a-z0-9._=/+-]+:{_SERVER}")  # Matrix spec, appendices: user identifiers
_MODEL_KEY = re.compile(r"[a-z0-9][a-z0-9_]{0,29}")
_SERVERS = re.compile(rf"{_SERVER}|\*\.[A-Za-z0-9.-]+")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,100}")
_HALF = re.compile(r"[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_VISIBLE = re.compile("[!-~]+")
_KEY_LENGTH = 32
_PORTS = 1 << 16
_HTTP_URL = TypeAdapter(HttpUrl)

# The largest numbers: beyond any use, and still valid for clocks, ledgers and backends.
DAY = 86_400  # seconds
YEAR_MINUTES = 366 * 24 * 60
YEAR_HOURS = 366 * 24
MOST_TOKENS = 100_000_000
MANY = 1_000_000


def sound(value: object) -> object:
    """Refuse a value if a text in it holds NUL or half a character (a surrogate)."""
    parts = value.items() if isinstance(value, dict) else value
    if isinstance(value, str):
        if "\0" in value or (not value.isascii() and _HALF.search(value)):
            raise PydanticCustomError("unsound", "holds a character that text cannot hold")
    elif isinstance(parts, Iterable):
        for part in parts:
            sound(part)
    return value


def _text(value: object) -> object:
    if isinstance(value, str) and not value.strip():
        raise PydanticCustomError("empty", "must not be empty")
    return value


def _secret(value: object) -> object:
    if not isinstance(value, SecretFile):
        return _text(value)
    if not value.alone:
        raise PydanticCustomError("both", "give this key or its _file twin, not both")
    try:
        path = Path(str(value.path))
        text = path.read_text("utf-8").strip()
        others = path.stat().st_mode & S_IRWXO
    except OSError as error:
        reason = {"reason": error.strerror}
        raise PydanticCustomError("secret_file", "cannot be read: {reason}", reason) from None
    except ValueError:  # bytes that are no UTF-8, or a path with a NUL
        raise PydanticCustomError("secret_file", "must name a file of UTF-8 text") from None
    if others:
        raise PydanticCustomError("secret_file", "open to everyone here; chmod 600 it")
    if not text:
        raise PydanticCustomError("secret_file", "the file is empty")
    return text


def _one_line(secret: SecretStr | None) -> SecretStr | None:
    if secret is not None and _CONTROL.search(secret.get_secret_value()):
        expected = (
            "must be one line, without a line break at its end (in YAML, write it in quotes)"
        )
        raise PydanticCustomError("one_line", expected)
    return secret


def _bearer(secret: SecretStr | None) -> SecretStr | None:
    """Refuse a value that an HTTP header cannot hold (RFC 9110, section 5.5)."""
    if secret is not None and not _VISIBLE.fullmatch(secret.get_secret_value()):
        expected = "must be one word of ASCII letters, digits and signs, without spaces"
        raise PydanticCustomError("bearer", expected)
    return secret


def _long(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value()) < _KEY_LENGTH:
        expected = "must have {length} characters or more; `openssl rand -base64 32` prints one"
        raise PydanticCustomError("key", expected, {"length": _KEY_LENGTH})
    return secret


def _token(secret: SecretStr | None) -> SecretStr | None:
    return None if secret is None else _long(secret)


def _network(text: str) -> str:
    try:
        ip_network(text)
    except ValueError:
        expected = "must be an IP address, or a network such as 10.1.0.0/16"
        raise PydanticCustomError("network", expected) from None
    return text


def _header(text: str) -> str:
    if _HEADER.fullmatch(text):
        return text
    raise PydanticCustomError("header", 'must be the name of a header, such as "Remote-User"')


def _database(secret: SecretStr | None) -> SecretStr | None:
    if secret is None:
        return None
    scheme, separator, rest = secret.get_secret_value().partition("://")
    if not separator or scheme not in {"postgresql", "postgres"}:
        raise PydanticCustomError("database", "must be a URL that begins with postgresql://")
    location, _, options = rest.partition("?")
    before, _, after = location.partition("/")
    hosts = before.rpartition("@")[2].split(",")  # libpq accepts several
    ports = [re.sub(r"\[.*]", "", host).partition(":")[2] or "1" for host in hosts]
    cut = "@" in after or ("@" in options and "@" not in before)
    if cut or "#" in before or "@" in before.rpartition("@")[0]:
        expected = "characters of user and password such as @ : / ? # must be percent-encoded"
        raise PydanticCustomError("database", expected)
    for host in hosts:
        _reachable(re.sub(r":[^:\]]*\Z", "", unquote(host)))
    if not all(port.isascii() and port.isdigit() and 0 < int(port) < _PORTS for port in ports):
        raise PydanticCustomError("database", "its port must be a number from 1 to 65535")
    return secret


def _list(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise PydanticCustomError("json", "must be a list; in a variable, a JSON list") from None


def _keyed(value: object) -> object:
    """Return a mapping whose keys are short plain words, which messages may therefore quote."""
    expected = "must be keys below it, indented; in a variable, JSON"
    if isinstance(value, str):
        try:
            value = json.loads(value, object_pairs_hook=_plain_words)
        except (ValueError, RecursionError):
            raise PydanticCustomError("json", expected) from None
    if not isinstance(value, dict):
        raise PydanticCustomError("mapping", expected)
    if all(_MODEL_KEY.fullmatch(key) for key in value):
        return value
    raise PydanticCustomError("model_key", "its keys must be made of a to z, 0 to 9 and _")


def _plain_words(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs) or not all(KEY.fullmatch(key) for key in values):
        raise ValueError
    return values


def _user_id(text: UserId) -> UserId:
    if _USER_ID.fullmatch(text):
        return text
    example = 'must be a full Matrix id, such as "@assistant:agent.dinum.tchap.gouv.fr"'
    raise PydanticCustomError("user_id", example)


def _servers(text: str) -> str:
    if _SERVERS.fullmatch(text):
        return text
    example = 'must be a server name, such as agent.dinum.tchap.gouv.fr, or "*." and a suffix'
    raise PydanticCustomError("servers", example)


def _reachable(host: str) -> str:
    """Refuse a host name that cannot be looked up: a label is empty or over 63 characters."""
    try:
        if not host.startswith("/"):  # else it is a socket's directory
            host.encode("idna")
    except UnicodeError:
        expected = "its host must be a name, or an IP address"
        raise PydanticCustomError("host", expected) from None
    return host


def _http_url(text: str) -> HttpUrl:
    try:
        url = _HTTP_URL.validate_python(text)
    except ValidationError:
        expected = "must be a URL that begins with https:// or http://"
        raise PydanticCustomError("url", expected) from None
    _reachable(url.host or "")
    return url


def _link(text: str) -> str:
    _http_url(text)
    return text


def _url(text: str) -> HttpUrl:
    url = _http_url(text)
    if url.query is not None or url.fragment is not None:
        raise PydanticCustomError("url", "must end before any ? and #")
    return url


def _without_path(text: str) -> str:
    url = _url(text)
    if url.path not in {None, "/"}:
        raise PydanticCustomError("url", "must end after the host and its port, without a path")
    return str(url).rstrip("/")


def _proxy(text: str) -> str:
    """Return the URL with its port, as some clients know no default port."""
    url = _url(text)
    login = [unquote(part or "") for part in (url.username, url.password)]
    if not all(part.isascii() for part in login) or ":" in login[0]:
        expected = "its user name and password must be ASCII, the user name without a colon"
        raise PydanticCustomError("proxy_login", expected)
    proxy = _without_path(text)
    has_port = re.search(r":[0-9]+\Z", proxy)
    return proxy if has_port else f"{proxy}:{url.port}"


def _plain_proxy(text: str) -> str:
    if _http_url(text).scheme != "http":
        expected = (
            "must be a URL that begins with http://, which homeservers on https pass through"
        )
        raise PydanticCustomError("url", expected)
    return _proxy(text)


def _endpoint(text: str) -> str:
    url = _without_login(text)
    if url.endswith("/chat/completions"):
        raise PydanticCustomError("url", "must end before /chat/completions, which is appended")
    return url


def _without_login(text: str) -> str:
    url = _url(text)
    if url.username is not None or url.password is not None:
        raise PydanticCustomError("url", "must hold no user name and no password")
    return str(url).rstrip("/")


def _ca_bundle(path: Path) -> Path:
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ValueError):  # ssl.SSLError is an OSError; ValueError: a path with a NUL
        expected = "must be a readable file of certificates in PEM format"
        raise PydanticCustomError("ca_bundle", expected) from None
    return path


Text = Annotated[str, BeforeValidator(_text)]
Secret = Annotated[SecretStr | None, BeforeValidator(_secret), AfterValidator(_one_line)]
Bearer = Annotated[SecretStr | None, BeforeValidator(_secret), AfterValidator(_bearer)]
Key = Annotated[
    SecretStr, BeforeValidator(_secret), AfterValidator(_one_line), AfterValidator(_long)
]
Token = Annotated[Secret, AfterValidator(_token)]
Database = Annotated[Secret, AfterValidator(_database)]
Seconds = Annotated[float, Field(gt=0, le=DAY)]
Directory = Annotated[Path, BeforeValidator(_text)]
CaBundle = Annotated[Path, AfterValidator(_ca_bundle)]
MatrixId = Annotated[UserId, AfterValidator(_user_id)]
# Exact server names, or "*." and a suffix: every server whose name ends in "." and the suffix.
Servers = Annotated[
    tuple[Annotated[str, AfterValidator(_servers)], ...],
    NoDecode,
    BeforeValidator(_list),
    Field(min_length=1),
]
Networks = Annotated[
    tuple[Annotated[str, AfterValidator(_network)], ...], NoDecode, BeforeValidator(_list)
]
Header = Annotated[str, AfterValidator(_header)]
MatrixIds = Annotated[tuple[MatrixId, ...], NoDecode, BeforeValidator(_list)]
_Entry = TypeVar("_Entry")
Keyed = Annotated[dict[str, _Entry], NoDecode, BeforeValidator(_keyed)]
Link = Annotated[str, AfterValidator(_link)]
# The values of these URLs have no slash at the end.
Endpoint = Annotated[str, AfterValidator(_endpoint)]
Origin = Annotated[str, AfterValidator(_without_login), AfterValidator(_without_path)]
Proxy = Annotated[str, AfterValidator(_proxy)]
PlainProxy = Annotated[str, AfterValidator(_plain_proxy)]

"""No request makes an error of ours, and no answer tells more than it must, whoever made it."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import pytest
import pytest_asyncio
from aiohttp import web
from hypothesis import example, given
from hypothesis import strategies as st
from typing_extensions import override

from bot.config.sections import DashboardSettings
from bot.core.statistics import Group
from bot.dashboard import server as dashboard_server
from bot.dashboard.server import serve as serve_dashboard
from bot.monitoring.health import Health
from bot.monitoring.http import serve as serve_health
from bot.runtime import http_server
from bot.runtime.http_server import listening, web_application
from tests.fakes.clock import FakeClock
from tests.fakes.statistics import FakeStatistics
from tests.harness.network import free_port
from tests.hostile.raw_http import FORM, RawResponse, ask, form, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN: Final = "t" * 32
LOGINS: Final[Mapping[str, Mapping[str, object]]] = {
    "token": {"token": TOKEN},
    "proxy": {"proxy_header": "Remote-User", "proxies": ["127.0.0.1"]},
    "local": {},
}
Ports = Mapping[str, int]

CODINGS: Final = (
    *("klingon", "a%00", "undefined", "idna", "punycode", "utf-7", "utf-16", "utf-32"),
    *("hex", "rot13", "base64", "zlib", "unicode_escape", "raw_unicode_escape", "mbcs", "oem"),
    *('"', '""', '"utf-8', "é", "utf-8; charset=hex", "x" * 4000, "utf-8\t", "None", "0", "../x"),
)
BODIES: Final = (
    *(b"", b"jeton", b"jeton=%zz", b"jeton=%", b"jeton=%00", b"jeton=\0", b"jeton=%ED%A0%80"),
    *(b"\xff\xfe", b"jeton=+2AA-", b"jeton=\\ud800", b"jeton=\\x", b"&;&=;==", b"jeton=x" * 9000),
    *(b"&".join([b"a="] * 1300), b"jeton[]=1", b"jeton=%C3", "jeton=é\N{BOM}".encode()),
)
ODD: Final = {
    **{
        f"charset {coding[:20]}": form(b"jeton=%80", f"{FORM}; charset={coding}")
        for coding in CODINGS
    },
    **{f"body {body[:20]!r}": form(body) for body in BODIES},
    **{
        f"kind {kind[:30]!r}": form(b"--x\r\n\r\na\r\n--x--", kind)
        for kind in (
            *(
                "",
                ";",
                "/",
                ";;;=",
                "a/b/c",
                "text/plain",
                "application/json",
                "\t",
                "é/é",
                FORM * 9,
            ),
            *(
                "multipart/form-data",
                "multipart/form-data; boundary=x",
                "multipart/mixed;boundary=",
            ),
            *("multipart/form-data; boundary=" + "x" * 99, 'multipart/form-data; boundary="\\'),
            *(f"{FORM}; charset", f"{FORM}; charset=", f"{FORM}; =", f"{FORM},{FORM}"),
        )
    },
    **{
        f"coding {coding}": form(body, Content_Encoding=coding)
        for coding in ("gzip", "deflate", "br", "zstd", "x", "gzip, gzip", "identity")
        for body in (b"jeton=x", gzip.compress(bytes(1 << 20)))
    },
    "chunks that are none": request(
        "POST /connexion", {"Content-Type": FORM, "Transfer-Encoding": "chunked"}
    )
    + b"zz\r\n\r\n",
    "an odd transfer coding": form(b"jeton=x", Transfer_Encoding="x"),
    "two lengths": form(b"jeton=x", Transfer_Encoding="chunked"),
    **{
        f"length {length}": request("POST /connexion", {"Content-Length": length})
        for length in ("x", "-1", "1, 2", "9" * 30, "٣", "0x1", "")
    },
    "an expectation": form(b"jeton=x", Expect="x"),
    "an expectation that is met": form(b"jeton=x", Expect="100-continue"),
    "a body where none is": request("GET /", body=b"abc"),
    "too much of a body where none is": request("GET /livez", body=b"x" * 100_000),
    **{
        f"method {method}": request(f"{method} {path}")
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "HEAD")
        for path in ("/", "/connexion", "/deconnexion", "/statistiques", "/livez", "/metrics", "*")
    },
    **{f"method {method}": request(f"{method} /") for method in ("FOO", "F(O", "get", "é", "\0")},
    **{
        f"target {target[:40]!r}": request(b"GET " + target + b" HTTP/1.1")
        for target in (
            *(b"x", b"", b"//x/y", b"//[/y", b"/%zz?%zz=%ff", b"/%ff%fe%c3", b"/\xff\xfe?\xff"),
            *(b"/?modele=\xff", b"/?modele=%ED%A0%80", b"/?modele=%00", b"/?domaine=a%0D%0Ab"),
            *(b"/?jours=" + days for days in (b"", b"-1", b"1e9", b"%00", b"9" * 5000, b"%D9%A7")),
            *(b"/#x", b"/?" + b"a=b&" * 1900, b"/" + b"a" * 9000, b"/..", b"/%2e%2e/etc/passwd"),
            *(b"/?" + b"jours=7&" * 900, b"/?modele=%C2%A0", b"/?modele=%F0%9F%98", b"/?;;;&&&=="),
            *(b"http://localhost/", b"http://[/", b"http:///x", b"http://a:999999/x", b"ftp://x/"),
            *(b"/publics/%2e%2e%2f-clair.svg", b"/publics/a%00-clair.svg", b"/publics/--.svg"),
            *(b"/graphiques/temps-clair.svg?jours=%ff", b"/graphiques/%F0%9F-sombre.svg"),
            *(b"/metrics?name[]=%ff", b"/metrics?name[]=" + b"x" * 5000, b"/livez%00", b"/livez/"),
        )
    },
    **{
        f"version {version!r}": b"GET / " + version + b"\r\nHost: localhost\r\n\r\n"
        for version in (b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9.9", b"HTTP/x", b"", b"X")
    },
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "no host where none is needed": b"GET / HTTP/1.0\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: b\r\n\r\n",
    **{
        f"host {host!r}": request("GET /", {"Host": host})
        for host in ("", "[", "]", "[::1]:99999999", b"\xff\xfe", ":", "a:b:c", "x" * 5000)
    },
    **{
        f"{name} {value[:20]!r}": request("GET /statistiques", {name: value})
        for name in (
            *("Cookie", "If-None-Match", "If-Modified-Since", "Range", "If-Range", "Accept"),
            *("Accept-Encoding", "X-Forwarded-Proto", "X-Forwarded-For", "Origin", "Remote-User"),
            *("Sec-Fetch-Site", "Authorization", "Forwarded", "Connection", "Upgrade", "Date"),
        )
        for value in (b"", b"\xff", b'"', b'"\\400";=;,*', b"a" * 8000, b"a" * 9000, b"x\0y", b"*")
    },
    "a cookie of the login that is none": request(
        "GET /", {"Cookie": b'tableau_de_bord="\\777"; tableau_de_bord=\xff; =;;'}
    ),
    "many cookies": request("GET /", {"Cookie": "tableau_de_bord=x; " * 400}),
    "many headers": request("GET /", {f"X-{number}": "x" for number in range(300)}),
    "a folded header": request("GET /", {"X": "a\r\n b"}),
    "a header without a name": request("GET /", {"": "x"}),
    "an upgrade": request("GET /", {"Connection": "upgrade", "Upgrade": "websocket"}),
    "an upgrade with a body": request(
        "POST /connexion", {"Connection": "upgrade", "Upgrade": "h2c", "Content-Type": FORM}, b"x"
    ),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    "line feeds alone": b"GET / HTTP/1.1\nHost: localhost\n\n",
    "another protocol": b"EHLO localhost\r\n\r\n",
    "nothing readable": bytes(range(256)) * 40 + b"\r\n\r\n",
}
CUT: Final = {
    "a form's first bytes": form(b"jeton=x", Content_Length="50"),
    "a chunk's first bytes": request(
        "POST /connexion", {"Content-Type": FORM, "Transfer-Encoding": "chunked"}
    )
    + b"5\r\nab",
    "half a head": b"GET / HTTP/1.1\r\nHost: local",
    "nothing": b"",
}


class Hasty(FakeClock):
    """A clock by which nobody is locked out, and little is kept."""

    @override
    def monotonic(self) -> float:
        self.time += 7
        return super().monotonic()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ports() -> AsyncIterator[Ports]:
    """Each server with each way to log in, and what tells probes of the bot."""
    clock, statistics = Hasty(), FakeStatistics()
    today = datetime.fromtimestamp(clock.now(), UTC).date()
    statistics.add(today, Group("small", "a.test", "direct", "", "v1"), replies=20, yes=12, no=3)
    health = Health(clock=FakeClock(), version="1.2.3")
    health.synced()
    async with AsyncExitStack() as servers:
        patch = servers.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(dashboard_server, "_FORM_SECONDS", 1.0)  # some bodies have no end
        found = {}
        for name, login in LOGINS.items():
            found[name] = free_port()
            settings = {"port": found[name], "public": True, **login}
            made = DashboardSettings.model_validate(settings)
            await servers.enter_async_context(serve_dashboard(statistics, made, clock))
        found["health"] = free_port()
        await servers.enter_async_context(serve_health(health, "127.0.0.1", found["health"]))
        yield found


def is_sound(answer: RawResponse) -> None:
    """Check what holds for every answer, whoever has made it."""
    assert answer.status < 500
    assert "Server" not in answer.headers
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert answer.headers["Referrer-Policy"] in {"no-referrer", "same-origin"}
    public = answer.status in {200, 304} and "ETag" in answer.headers
    kept = "public, max-age=60" if public else "no-store"
    assert answer.headers.getall("Cache-Control") == [kept]
    assert b"Traceback" not in answer.body
    assert b"aiohttp" not in answer.body


@pytest.mark.parametrize("odd", ODD)
async def test_no_odd_request_makes_an_error_or_a_line_in_the_log(
    ports: Ports, odd: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for port in ports.values():
        if (answer := await ask(port, ODD[odd])) is not None:
            is_sound(answer)
    logged = [line for text in capfd.readouterr() for line in text.splitlines()]
    assert [line for line in logged if "dashboard login refused" not in line] == []


@pytest.mark.parametrize("cut", CUT)
async def test_who_hangs_up_in_the_middle_is_no_error(
    ports: Ports, cut: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for port in ports.values():
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CUT[cut])
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        for path in ("/", "/livez"):  # in order: what came before has ended
            answer = await ask(port, request(f"GET {path}"))
            assert answer is not None
            is_sound(answer)
    assert "".join(capfd.readouterr()) == ""


PATHS: Final = (
    *("/", "/connexion", "/deconnexion", "/statistiques", "/style.css", "/icon.svg", "/livez"),
    *("/readyz", "/metrics", "/graphiques/temps-clair.svg", "/publics/satisfaction-sombre.svg"),
)
NAMES: Final = (
    *(
        "Content-Type",
        "Cookie",
        "Origin",
        "Sec-Fetch-Site",
        "If-None-Match",
        "Host",
        "Remote-User",
    ),
    *("X-Forwarded-Proto", "Content-Encoding", "Transfer-Encoding", "Content-Length", "Expect"),
    *("Connection", "Upgrade", "Accept", "Range", "X-Odd"),
)
WORDS: Final = (
    *(FORM, "charset=", "utf-8", "hex", "multipart/form-data", "boundary=x", "tableau_de_bord="),
    *(
        "W/",
        '"',
        "*",
        ",",
        ";",
        "\\",
        "null",
        "http://localhost",
        "same-origin",
        "gzip",
        "chunked",
    ),
    *("100-continue", "close", "keep-alive", "7", "-1", "%00", "%ED%A0%80", "é", "\N{BOM}", "\0"),
)
texts = st.lists(st.sampled_from(WORDS) | st.text(max_size=8), max_size=4).map("".join)
lines = texts.map(lambda text: text.replace("\r", "").replace("\n", "").encode(errors="ignore"))
queries = st.dictionaries(st.sampled_from(["jours", "modele", "domaine", "x"]), lines, max_size=3)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Requests that are almost right."""
    method = draw(st.sampled_from(["GET", "GET", "POST", "POST", "HEAD", "PUT", "OPTIONS"]))
    query = b"&".join(name.encode() + b"=" + value for name, value in draw(queries).items())
    target = draw(st.sampled_from(PATHS)).encode() + draw(st.just(b"") | lines)
    line = method.encode() + b" " + target + (b"?" + query if query else b"") + b" HTTP/1.1"
    body = draw(st.just(b"") | st.binary(max_size=50) | lines.map(lambda text: b"jeton=" + text))
    headers: dict[str, str | bytes] = {"Content-Type": FORM} if draw(st.booleans()) else {}
    headers |= draw(st.dictionaries(st.sampled_from(NAMES), lines, max_size=4))
    # Else nobody would know where it ends; what waits for more is cut elsewhere.
    headers |= {"Content-Length": str(len(body))} if "Transfer-Encoding" not in headers else {}
    return request(line, headers, body) + (b"0\r\n\r\n" if "Transfer-Encoding" in headers else b"")


@given(requests(), st.sampled_from([*LOGINS, "health"]))
@example(form(b"jeton=x", f"{FORM}; charset=klingon"), "token")
async def test_no_request_that_is_almost_right_makes_an_error(
    ports: Ports, sent: bytes, server: str
) -> None:
    if (answer := await ask(ports[server], sent)) is not None:
        is_sound(answer)


@pytest.fixture
def health() -> Health:
    return Health(clock=FakeClock(), version="1.2.3")


@asynccontextmanager
async def listened(health: Health) -> AsyncIterator[int]:
    port = free_port()
    async with serve_health(health, "127.0.0.1", port):
        yield port


async def test_who_holds_connections_keeps_nobody_out(
    health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_CONNECTIONS", 8)
    async with listened(health) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
        for number in range(20):
            answer = await ask(port, request("GET /livez"))
            assert answer is not None, number
            assert answer.status == 200
        closed = [await _is_closed(reader) for reader, _ in held[:32]]
        assert closed == [True] * 32
        for _, writer in held:
            writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nHost: local"])
async def test_who_sends_no_whole_head_is_not_waited_for(
    health: Health, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(http_server, "_IDLE_SECONDS", 0.1)
    async with listened(health) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        assert await _is_closed(reader)
        writer.close()


async def _is_closed(reader: asyncio.StreamReader) -> bool:
    """Wait until the other side has closed."""
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


async def test_requests_that_come_at_once_leave_the_loop_to_others_in_between() -> None:
    """Between two answers everybody else has had a turn."""
    turns = 0
    began: list[int] = []

    async def answer(_: web.Request) -> web.Response:
        began.append(turns)
        return web.Response()

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    app = web_application()
    app.add_routes([web.get("/", answer)])
    port = free_port()
    async with listening(app, "health", "127.0.0.1", port):
        turning = asyncio.ensure_future(others())
        await asyncio.gather(*(ask(port, request("GET /")) for _ in range(50)))
        turning.cancel()
    assert len(set(began)) == 50

"""The configuration: what is accepted, and the sentence for each fault."""

import json
import re
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from python_socks import parse_proxy_url

from bot.config.settings import Config, load
from bot.config.sources import names, variable
from bot.core.limits import Limits
from bot.core.model_catalog import ModelCard
from bot.errors import ConfigError

EXAMPLE = Path(__file__).parents[3] / "config.example.yaml"
SECRET = "S3cret-p@ss!"
KEY = SECRET * 3  # of the storage
USER_ID = 'must be a full Matrix id, such as "@assistant:agent.dinum.tchap.gouv.fr"'
COMMENT = (
    "YAML takes a word that begins with # for a comment; write it in quotes "
    "(if a comment is meant, put a space after the #)"
)
HOST = "its host must be a name, or an IP address"
LOGIN = "its user name and password must be ASCII, the user name without a colon"
LINE = "must be one line, without a line break at its end (in YAML, write it in quotes)"
WORD = "must be one word of ASCII letters, digits and signs, without spaces"
TEXTS = [
    *("matrix.homeserver", "matrix.user_id", "matrix.password", "matrix.device_name"),
    *("matrix.admins", "matrix.ca_bundle", "model.base_url", "model.name", "model.api_key"),
    *("model.choices", "model.system_prompt", "model.proxy", "service.contact"),
    *("storage.directory", "storage.key", "storage.database", "health.host", "dashboard.token"),
]
LARGEST = {
    "model.max_tokens": 100_000_000,
    "model.context_length": 100_000_000,
    "model.connect_timeout": 86_400,
    "model.stall_timeout": 86_400,
    "model.queue_timeout": 86_400,
    "conversation.idle_minutes": 527_040,
    "conversation.age_limit_hours": 8_784,
    "conversation.join_seconds": 86_400,
    "reply.first_after": 86_400,
    "reply.edit_interval": 86_400,
    "reply.at_once": 1_000_000,
    "reply.line_after": 86_400,
    "reply.drain_seconds": 86_400,
    "feedback.one_in": 1_000_000,
    "feedback.silence_minutes": 527_040,
    "feedback.per_day": 1_000_000,
    "feedback.window_hours": 8_784,
}
AUTHORITY = """\
-----BEGIN CERTIFICATE-----
MIIBGzCBwqADAgECAgEBMAoGCCqGSM49BAMCMAwxCjAIBgNVBAMMAXgwIBcNMjAw
MTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMAwxCjAIBgNVBAMMAXgwWTATBgcq
hkjOPQIBBggqhkjOPQMBBwNCAAQXqYr9KOH5YcdAPysu8JziP5wQxNlDSy/rasFd
g1N9Inh9DZfdF8XOZnMs04fg0MxvtsLzegFXOW3jtXZ00dnCoxMwETAPBgNVHRMB
Af8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIEgsD/xPaQDJypocmiGmMxz/QP6m
QdhTdJCfIB7bTAlyAiEAjfn+KqvyH8nHc+QT7u5JCZyR2epidMi98wOx1WHAKuo=
-----END CERTIFICATE-----
"""

Settings = dict[str, object]


def text(matrix: Settings | None = None, model: Settings | None = None, **others: object) -> str:
    """Return a configuration that lacks nothing, with these settings besides or instead."""
    account = {
        "homeserver": "https://matrix.agent.dinum.tchap.gouv.fr",
        "user_id": "@bot:agent.dinum.tchap.gouv.fr",
        "password": SECRET,
    }
    backend = {"base_url": "https://albert.api.etalab.gouv.fr/v1", "name": "openai/gpt-oss-120b"}
    whole = {"matrix": account | (matrix or {}), "model": backend | (model or {}), **others}
    storage = others.get("storage", {})
    if isinstance(storage, dict):
        whole["storage"] = {"key": KEY} | storage
    return json.dumps(whole, indent=1)  # JSON is YAML


def text_with(name: str, value: object) -> str:
    """Return a configuration that lacks nothing but holds this one value."""
    section, _, key = name.rpartition(".")
    return text(**{section: {key: value}}) if section else text(language=value)


def load_text(folder: Path, content: str) -> Config:
    path = folder / "config.yaml"
    path.write_text(content, "utf-8")
    return load(path)


def refused(path: Path) -> list[str]:
    """Return the lines of the message, which must hold no value, nor must a traceback."""
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    return str(raised.value).splitlines()


def faults(folder: Path, content: str) -> list[str]:
    """Return the sentences, without the line that names the file."""
    path = folder / "config.yaml"
    path.write_text(content, "utf-8")
    first, *sentences = refused(path)
    assert first == f"{path}, with the environment, cannot be used:"
    return sentences


def secret_file(folder: Path, content: str | bytes = f"\n {SECRET} \r\n") -> str:
    path = folder / "secret"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(0o600)
    return str(path)


def password_of(config: Config) -> str:
    assert config.matrix.password is not None
    return config.matrix.password.get_secret_value()


class TestWhatIsAccepted:
    def test_settings_left_out_have_their_defaults(self, tmp_path: Path) -> None:
        config = load_text(tmp_path, text())
        assert password_of(config) == SECRET
        assert config.matrix.allowed_servers == ("agent.dinum.tchap.gouv.fr",)
        assert config.matrix.device_name == "Assistant IA"
        assert config.model.max_tokens == 2048
        assert config.reply.edit_interval == 2.0
        assert config.reply.tables == "list"
        assert config.reply.share == 0.25
        assert config.limits.limits() == Limits()
        assert config.language == "fr"

    def test_a_section_or_setting_left_empty_has_its_defaults(self, tmp_path: Path) -> None:
        empty = text(model={"max_tokens": None, "proxy": None}, reply=None, language=None)
        assert load_text(tmp_path, empty) == load_text(tmp_path, text())

    @pytest.mark.parametrize(
        ("written", "meant"),
        [("no", "no"), ("0123", "0123"), ("2026-01-01", "2026-01-01"), ("1e3", "1e3")],
    )
    def test_text_needs_no_quotes_to_stay_text(
        self, tmp_path: Path, written: str, meant: str
    ) -> None:
        content = text(model={"name": "NAME"}).replace('"NAME"', written)
        assert load_text(tmp_path, content).model.name == meant

    @pytest.mark.parametrize(
        ("homeserver", "base_url"),
        [
            ("https://matrix.dev01.tchap.incubateur.net", "http://localhost:8080/v1"),
            ("https://matrix.dev01.tchap.incubateur.net/", "http://localhost:8080/v1/"),
        ],
    )
    def test_a_url_loses_the_slash_at_its_end(
        self, tmp_path: Path, homeserver: str, base_url: str
    ) -> None:
        config = load_text(tmp_path, text({"homeserver": homeserver}, {"base_url": base_url}))
        assert config.matrix.homeserver == "https://matrix.dev01.tchap.incubateur.net"
        assert config.model.base_url == "http://localhost:8080/v1"

    def test_the_homeserver_may_have_a_port_and_a_bare_address(self, tmp_path: Path) -> None:
        config = load_text(tmp_path, text({"homeserver": "http://[::1]:8008"}))
        assert config.matrix.homeserver == "http://[::1]:8008"

    @pytest.mark.parametrize(
        ("given", "read"),
        [
            ("http://proxy", "http://proxy:80"),
            ("http://proxy:80/", "http://proxy:80"),
            ("http://u:p%20p@proxy.example:3128", "http://u:p%20p@proxy.example:3128"),
            ("http://[::1]", "http://[::1]:80"),
        ],
    )
    def test_a_proxy_keeps_its_port_and_gets_the_usual_one(
        self, tmp_path: Path, given: str, read: str
    ) -> None:
        config = load_text(tmp_path, text({"proxy": given}, {"proxy": given}))
        assert (config.matrix.proxy, config.model.proxy) == (read, read)
        secure = load_text(tmp_path, text(model={"proxy": "https://proxy"})).model.proxy
        assert secure == "https://proxy:443"

    def test_a_password_may_hold_what_people_type(self, tmp_path: Path) -> None:
        given = "Été à la « Grange »\N{NO-BREAK SPACE}!"
        assert password_of(load_text(tmp_path, text({"password": given}))) == given

    def test_a_database_may_be_reached_by_a_socket(self, tmp_path: Path) -> None:
        socket = f"%2F{'x' * 80}"
        for url in (
            f"postgresql://u@{socket}/d",
            "postgresql://[::1]:5432/d",
            "postgresql:///d",
        ):
            database = load_text(tmp_path, text(storage={"database": url})).storage.database
            assert database is not None
            assert database.get_secret_value() == url

    def test_servers_are_names_or_suffixes(self, tmp_path: Path) -> None:
        servers = ["*.tchap.gouv.fr", "localhost:8448", "[::1]:8448", "192.0.2.1"]
        config = load_text(tmp_path, text({"allowed_servers": servers}))
        assert config.matrix.allowed_servers == tuple(servers)

    def test_the_system_prompt_may_be_none_at_all(self, tmp_path: Path) -> None:
        assert load_text(tmp_path, text(model={"system_prompt": ""})).model.system_prompt == ""

    def test_a_configuration_cannot_be_changed(self, tmp_path: Path) -> None:
        config = load_text(tmp_path, text())
        with pytest.raises(ValidationError, match="frozen"):
            config.model.name = "another"  # type: ignore[misc]  # what the test is about

    def test_a_configuration_can_be_made_of_sections(self, tmp_path: Path) -> None:
        config = load_text(tmp_path, text())
        again = Config(matrix=config.matrix, model=config.model, storage=config.storage)
        assert again == config

    def test_the_system_prompts_version_changes_with_it_alone(self, tmp_path: Path) -> None:
        default, other = load_text(tmp_path, text()), load_text(tmp_path, text(language="en"))
        brief = load_text(tmp_path, text(model={"system_prompt": "Bref."}))
        assert re.fullmatch("[0-9a-f]{8}", default.model.system_prompt_version)
        assert default.model.system_prompt_version == other.model.system_prompt_version
        assert default.model.system_prompt_version != brief.model.system_prompt_version

    def test_the_system_prompt_is_short(self, tmp_path: Path) -> None:
        lines = load_text(tmp_path, text()).model.system_prompt.splitlines()
        assert len(lines) <= 20

    def test_a_bundle_of_authorities_is_accepted(self, tmp_path: Path) -> None:
        bundle = tmp_path / "authority.pem"
        bundle.write_text(AUTHORITY, "ascii")
        config = load_text(tmp_path, text({"ca_bundle": str(bundle)}))
        assert config.matrix.ca_bundle == bundle


class TestTheModels:
    def test_one_model_has_the_end_of_its_id_for_a_key(self, tmp_path: Path) -> None:
        (card,) = load_text(tmp_path, text()).model.catalogue()
        model_id = "openai/gpt-oss-120b"
        assert card == ModelCard(
            id=model_id,
            label=model_id,
            key="gpt_oss_120b",
            context_length=32_000,
            max_tokens=2048,
            temperature=None,
        )

    def test_each_choice_has_its_key_and_settings_of_its_own(self, tmp_path: Path) -> None:
        choices = {
            "code": {"name": "qwen3", "max_tokens": 4096, "temperature": "0.2", "label": None},
            "3b": {"name": "ministral", "label": "Ministral", "context_length": 262_144},
        }
        given = text(model={"label": "GPT", "max_tokens": 64, "choices": choices})
        catalogue = load_text(tmp_path, given).model.catalogue()
        assert list(catalogue) == [
            ModelCard(
                id="openai/gpt-oss-120b",
                label="GPT",
                key="gpt_oss_120b",
                context_length=32_000,
                max_tokens=64,
                temperature=None,
            ),
            ModelCard(
                id="qwen3",
                label="qwen3",
                key="code",
                context_length=32_000,
                max_tokens=4096,
                temperature=0.2,
            ),
            ModelCard(
                id="ministral",
                label="Ministral",
                key="3b",
                context_length=262_144,
                max_tokens=2048,
                temperature=None,
            ),
        ]

    @pytest.mark.parametrize("key", ["code", "gpt_oss_120b"])
    def test_the_fallback_is_one_of_all_models(self, tmp_path: Path, key: str) -> None:
        given = text(model={"choices": {"code": {"name": "qwen3"}}, "fallback": key})
        card = load_text(tmp_path, given).model.fallback_card
        assert card is not None
        assert card.key == key

    def test_without_a_fallback_there_is_none(self, tmp_path: Path) -> None:
        assert load_text(tmp_path, text()).model.fallback_card is None

    def test_a_fallback_that_is_no_models_key_is_refused_with_those_there_are(
        self, tmp_path: Path
    ) -> None:
        given = text(model={"choices": {"code": {"name": "qwen3"}}, "fallback": "qwen3"})
        sentence = "model.fallback: must be the key of a model: gpt_oss_120b, code"
        assert faults(tmp_path, given) == [sentence]

    def test_a_fault_in_the_choices_alone_is_told(self, tmp_path: Path) -> None:
        given = text(model={"choices": {"code": {}}, "fallback": "code"})
        sentence = "model.choices.code.name: missing, and it has no default"
        assert faults(tmp_path, given) == [sentence]

    def test_a_variable_holds_all_choices_as_json(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ASSISTANT_MODEL__CHOICES", '{"code": {"name": "qwen3"}}')
        given = text(model={"choices": {"small": {"name": "ministral"}}})
        _, choice = load_text(tmp_path, given).model.catalogue()
        assert (choice.key, choice.id) == ("code", "qwen3")

    @pytest.mark.parametrize(
        "given",
        [
            SECRET,
            "[]",
            "1",
            "[" * 100_000,
            f'{{"{SECRET}": {{}}}}',
            f'{{"code": {{"name": "x", "{SECRET}": 1}}}}',
            '{"code": {"name": "a"}, "code": {"name": "b"}}',
        ],
    )
    def test_a_variable_that_holds_no_mapping_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
    ) -> None:
        monkeypatch.setenv("ASSISTANT_MODEL__CHOICES", given)
        sentence = "must be keys below it, indented; in a variable, JSON"
        assert faults(tmp_path, text()) == [f"ASSISTANT_MODEL__CHOICES: {sentence}"]

    @pytest.mark.parametrize(
        ("choices", "sentence"),
        [
            (
                {"code": {"name": "a", "nam": SECRET}},
                "model.choices.code.nam: unknown key; did you mean model.choices.code.name?",
            ),
            (
                {"code": {"name": "a", "base_url": SECRET}},
                "model.choices.code.base_url: unknown key; config.example.yaml names them all",
            ),
            ({"code": {}}, "model.choices.code.name: missing, and it has no default"),
            ({"code": None}, "model.choices.code: must be a section: keys below it, indented"),
            ({"code": SECRET}, "model.choices.code: must be a section: keys below it, indented"),
            (
                {"code": {"name": "a", "temperature": 3}},
                "model.choices.code.temperature: must be less than or equal to 2",
            ),
            (
                {"code": {"name": "a", "context_length": 2048}},
                "model.choices.code: context_length must be more than max_tokens, a part of it",
            ),
            ({"Code": {}}, "model.choices: its keys must be made of a to z, 0 to 9 and _"),
            ([], "model.choices: must be keys below it, indented; in a variable, JSON"),
            (
                {"code": {"name": "openai/gpt-oss-120b"}},
                "model: each model must have a name, and a key, that no other one has",
            ),
            (
                {"gpt_oss_120b": {"name": "a"}},
                "model: each model must have a name, and a key, that no other one has",
            ),
        ],
    )
    def test_a_fault_in_a_choice_is_named_by_its_path(
        self, tmp_path: Path, choices: object, sentence: str
    ) -> None:
        assert faults(tmp_path, text(model={"choices": choices})) == [sentence]


class TestTheEnvironment:
    @pytest.mark.parametrize(
        ("name", "given", "read"),
        [
            ("language", "en", "en"),
            ("model.temperature", "0.3", 0.3),
            ("model.max_tokens", "64", 64),
            ("matrix.allowed_servers", '["*.tchap.gouv.fr"]', ("*.tchap.gouv.fr",)),
            ("matrix.bots", '["@meteo:x.fr"]', ("@meteo:x.fr",)),
            ("conversation.idle_minutes", "0.5", 0.5),
            ("conversation.join_seconds", "20", 20.0),
            ("service.status_page", "https://x.fr/?q=1#now", "https://x.fr/?q=1#now"),
            ("storage.directory", "/srv/bot", Path("/srv/bot")),
            ("log.level", "debug", "debug"),
        ],
    )
    def test_a_variable_counts_instead_of_the_file(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        given: str,
        read: object,
    ) -> None:
        monkeypatch.setenv(variable(name), given)
        value: object = load_text(tmp_path, text(model={"max_tokens": 5}, language="fr"))
        for part in name.split("."):
            value = getattr(value, part)
        assert value == read

    def test_null_stands_for_the_default(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ASSISTANT_MODEL__PROXY", "null")
        monkeypatch.setenv("ASSISTANT_LANGUAGE", "null")
        config = load_text(tmp_path, text(model={"proxy": "http://proxy:3128"}, language="en"))
        assert config.model.proxy is None
        assert config.language == "fr"

    def test_an_empty_variable_counts_as_unset(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ASSISTANT_MATRIX__PASSWORD", "")
        assert password_of(load_text(tmp_path, text())) == SECRET

    @pytest.mark.parametrize(
        ("misspelt", "meant"),
        [
            ("ASSISTANT_LANGAGE", "ASSISTANT_LANGUAGE"),
            ("ASSISTANT_MATRX__PASSWORD", "ASSISTANT_MATRIX__PASSWORD"),
            ("ASSISTANT_MATRIX__PASWORD", "ASSISTANT_MATRIX__PASSWORD"),
            ("ASSISTANT_MATRIX_PASSWORD", "ASSISTANT_MATRIX__PASSWORD"),
            ("ASSISTANT_MATRIX__PASSWORDFILE", "ASSISTANT_MATRIX__PASSWORD_FILE"),
        ],
    )
    def test_a_misspelt_variable_is_named_with_the_nearest(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, misspelt: str, meant: str
    ) -> None:
        monkeypatch.setenv(misspelt, SECRET)
        sentence = f"{misspelt}: unknown variable; did you mean {meant}?"
        assert faults(tmp_path, text()) == [sentence]

    @pytest.mark.parametrize("name", ["ASSISTANT_PORT_80_TCP", "ASSISTANT_MATRIX"])
    def test_a_variable_that_names_no_setting_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setenv(name, f'{{"password": "{SECRET}"')
        assert faults(tmp_path, text())[0].startswith(f"{name}: unknown variable; ")

    @pytest.mark.parametrize("given", [f"[{SECRET}", SECRET, "[" * 100_000])
    def test_a_list_that_is_no_json_is_named_by_its_variable(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
    ) -> None:
        monkeypatch.setenv("ASSISTANT_MATRIX__ALLOWED_SERVERS", given)
        sentence = "must be a list; in a variable, a JSON list"
        assert faults(tmp_path, text()) == [f"ASSISTANT_MATRIX__ALLOWED_SERVERS: {sentence}"]

    def test_a_fault_in_a_variable_is_named_by_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ASSISTANT_REPLY__EDIT_INTERVAL", "0.2")
        sentence = "ASSISTANT_REPLY__EDIT_INTERVAL: must be greater than or equal to 1"
        assert faults(tmp_path, text()) == [sentence]


class TestSecrets:
    def test_a_secret_is_read_from_its_file_without_the_space_around_it(
        self, tmp_path: Path
    ) -> None:
        given: Settings = {"password": None, "password_file": secret_file(tmp_path)}
        assert password_of(load_text(tmp_path, text(given))) == SECRET

    @pytest.mark.parametrize("key", ["matrix.access_token", "model.api_key"])
    def test_every_secret_has_a_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
    ) -> None:
        monkeypatch.setenv(variable(f"{key}_file"), secret_file(tmp_path))
        monkeypatch.setenv("ASSISTANT_MATRIX__PASSWORD", "null")
        monkeypatch.setenv("ASSISTANT_MATRIX__ACCESS_TOKEN_FILE", secret_file(tmp_path))
        section, name = key.split(".")
        secret = getattr(getattr(load_text(tmp_path, text()), section), name)
        assert secret.get_secret_value() == SECRET

    @pytest.mark.parametrize("in_file", ["password", "password_file"])
    @pytest.mark.parametrize("in_variable", ["password", "password_file"])
    def test_a_variable_replaces_the_secret_however_either_is_given(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_file: str, in_variable: str
    ) -> None:
        given = SECRET if in_variable == "password" else secret_file(tmp_path)
        monkeypatch.setenv(variable(f"matrix.{in_variable}"), given)
        replaced: Settings = {"password": None, in_file: "/no/such/secret"}
        assert password_of(load_text(tmp_path, text(replaced))) == SECRET

    def test_a_key_in_a_block_of_yaml_is_refused(self, tmp_path: Path) -> None:
        block = yaml.safe_dump(json.loads(text())).replace(
            "model:", f"model:\n  api_key: |\n    {SECRET}", 1
        )
        assert faults(tmp_path, block) == [f"model.api_key: {WORD}"]

    def test_a_secret_file_of_several_lines_is_refused(self, tmp_path: Path) -> None:
        given: Settings = {
            "password": None,
            "password_file": secret_file(tmp_path, f"{SECRET}\n# mine"),
        }
        assert faults(tmp_path, text(given)) == [f"matrix.password: {LINE}"]

    def test_bytes_of_a_variable_that_are_no_text_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ASSISTANT_MATRIX__PASSWORD", f"{SECRET}\udce9")  # Latin-1's é
        sentence = "ASSISTANT_MATRIX__PASSWORD: holds a character that text cannot hold"
        assert faults(tmp_path, text()) == [sentence]

    def test_a_secret_and_its_file_at_once_are_refused(self, tmp_path: Path) -> None:
        both = text({"password_file": secret_file(tmp_path)})
        sentence = "matrix.password: give this key or its _file twin, not both"
        assert faults(tmp_path, both) == [sentence]

    def test_a_secret_and_its_file_in_two_variables_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ASSISTANT_MATRIX__PASSWORD", SECRET)
        monkeypatch.setenv("ASSISTANT_MATRIX__PASSWORD_FILE", secret_file(tmp_path))
        sentence = "ASSISTANT_MATRIX__PASSWORD: give this key or its _file twin, not both"
        assert faults(tmp_path, text()) == [sentence]

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (" \n", "the file is empty"),
            (b"\xff\xfe", "must name a file of UTF-8 text"),
        ],
    )
    def test_a_file_without_a_secret_is_refused(
        self, tmp_path: Path, content: str | bytes, sentence: str
    ) -> None:
        given: Settings = {"password": None, "password_file": secret_file(tmp_path, content)}
        assert faults(tmp_path, text(given)) == [f"matrix.password_file: {sentence}"]

    @pytest.mark.parametrize(
        ("path", "sentence"),
        [
            (SECRET, "cannot be read: No such file or directory"),
            ("/", "cannot be read: Is a directory"),
            ("\0", "must name a file of UTF-8 text"),
            ("x" * 300, "cannot be read: File name too long"),
        ],
    )
    def test_a_secret_file_that_cannot_be_read_is_refused_without_its_path(
        self, tmp_path: Path, path: str, sentence: str
    ) -> None:
        given: Settings = {"password": None, "password_file": path}
        assert faults(tmp_path, text(given)) == [f"matrix.password_file: {sentence}"]

    def test_a_secret_file_in_a_variable_is_named_by_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ASSISTANT_MODEL__API_KEY_FILE", "/no/such/secret")
        sentence = "ASSISTANT_MODEL__API_KEY_FILE: cannot be read: No such file or directory"
        assert faults(tmp_path, text()) == [sentence]

    def test_a_secret_file_open_to_everyone_is_refused(self, tmp_path: Path) -> None:
        path = secret_file(tmp_path)
        Path(path).chmod(0o644)
        sentence = "matrix.password_file: open to everyone here; chmod 600 it"
        assert faults(tmp_path, text({"password": None, "password_file": path})) == [sentence]

    @pytest.mark.parametrize(
        "given", [{"password": None}, {"access_token": SECRET}], ids=["neither", "both"]
    )
    def test_exactly_one_of_password_and_token_is_needed(
        self, tmp_path: Path, given: Settings
    ) -> None:
        sentence = "give either password or access_token (or the file of one), and only one"
        assert faults(tmp_path, text(given)) == [f"matrix: {sentence}"]

    def test_no_secret_is_ever_printed(self, tmp_path: Path) -> None:
        proxy = "http://user:S3cret@proxy:3128"
        given = text({"proxy": proxy}, {"api_key": SECRET, "proxy": proxy})
        config = load_text(tmp_path, given)
        assert config.matrix.proxy == proxy
        printed = f"{config!r} {config} {config.model_dump()} {config.model_dump_json()}"
        assert "S3cret" not in printed


class TestTheFile:
    def test_a_missing_file_is_named_and_how_to_make_it(self, tmp_path: Path) -> None:
        path = tmp_path / "no.yaml"
        sentence = "no such file; copy config.example.yaml there and fill it in"
        assert refused(path) == [f"{path}: {sentence}"]

    def test_a_directory_is_refused(self, tmp_path: Path) -> None:
        assert refused(tmp_path) == [f"{tmp_path}: a directory; name the YAML file in it"]

    def test_a_file_that_cannot_be_read_is_refused_with_the_reason(self, tmp_path: Path) -> None:
        path = tmp_path / "loop.yaml"
        path.symlink_to(path)
        assert refused(path) == [f"{path}: cannot be read: Too many levels of symbolic links"]

    def test_a_file_that_is_not_utf_8_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "latin.yaml"
        path.write_bytes(f"matrix: {{password: {SECRET}é}}".encode("latin-1"))
        assert refused(path) == [f"{path}: not UTF-8 text; save it in that encoding"]

    def test_a_byte_order_mark_is_no_fault(self, tmp_path: Path) -> None:
        assert load_text(tmp_path, f"\N{ZERO WIDTH NO-BREAK SPACE}{text()}").language == "fr"

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            ("", "empty; copy config.example.yaml there and fill it in"),
            ("# a comment\n", "empty; copy config.example.yaml there and fill it in"),
            (f"- {SECRET}\n", "the top level must be sections, such as matrix: and model:"),
            (SECRET, "the top level must be sections, such as matrix: and model:"),
            (f"a: b: {SECRET}\n", "not valid YAML at line 1, column 5"),
            (f"matrix:\n  a: '{SECRET}\n", "not valid YAML at line 3, column 1"),
            ("a: 1\n---\nb: 2\n", "not valid YAML at line 2, column 1"),
            (
                f"matrix:\n\tpassword: {SECRET}\n",
                "not valid YAML at line 2, column 1: indent with spaces, not with tabs",
            ),
            ("a: \0\n", "not valid YAML: it holds a character that text cannot hold"),
            (r'a: "\UFFFFFFFF"', "not valid YAML: it holds a character that text cannot hold"),
            ("[" * 2_000, "not valid YAML: nested too deeply"),
        ],
    )
    def test_a_file_that_holds_no_settings_is_refused(
        self, tmp_path: Path, content: str, sentence: str
    ) -> None:
        path = tmp_path / "config.yaml"
        path.write_text(content, "utf-8")
        assert refused(path) == [f"{path}: {sentence}"]

    @pytest.mark.parametrize("first", ["@", "`", "%", "*", "!no!"])
    def test_a_value_that_yaml_cannot_read_unquoted_is_explained(
        self, tmp_path: Path, first: str
    ) -> None:
        path = tmp_path / "config.yaml"
        path.write_text(f"matrix:\n  user_id: {first}{SECRET}\n", "utf-8")
        where = f"{path}: not valid YAML at line 2, column 12"
        assert refused(path) == [f"{where}: write a value that begins with {first[0]} in quotes"]

    @pytest.mark.parametrize(
        ("value", "sentence"),
        [
            ("!room:x.fr", "YAML drops a word that begins with !; write it in quotes"),
            (f"! {SECRET}", "YAML drops a word that begins with !; write it in quotes"),
            ("&anchor", "YAML drops a word that begins with &; write it in quotes"),
            ("&anchor [*anchor]", "YAML drops a word that begins with &; write it in quotes"),
            (f"#{SECRET}", COMMENT),
            (f"cut #{SECRET}", COMMENT),
        ],
    )
    def test_a_value_that_yaml_drops_in_silence_is_a_fault(
        self, tmp_path: Path, value: str, sentence: str
    ) -> None:
        content = text({"user_id": "USER"}).replace('"USER",', f"{value}\n,")
        assert faults(tmp_path, content) == [f"matrix.user_id: {sentence}"]

    def test_the_same_signs_in_quotes_are_no_fault(self, tmp_path: Path) -> None:
        for value in ("!a", "#a", "&a", "@a", "*a", "a #b", ""):
            content = text(model={"name": "NAME"}).replace('"NAME"', f"'x{value}' # a comment")
            assert load_text(tmp_path, content).model.name == f"x{value}"

    def test_a_key_written_twice_is_named_with_its_lines(self, tmp_path: Path) -> None:
        content = "language: fr\nlanguage: en\nmatrix: {}\nmodel: {}\nmatrix: {}\n"
        assert faults(tmp_path, content) == [
            "language: written twice, at lines 1 and 2",
            "matrix: written twice, at lines 3 and 5",
            "model.name: missing, and it has no default",
            "model.base_url: missing, and it has no default",
            "storage.key: missing, and it has no default",
        ]

    @pytest.mark.parametrize("key", [SECRET, f"password:{SECRET}", "_env_file", "? [a]", "<<"])
    def test_a_key_that_is_no_plain_word_is_not_repeated(self, tmp_path: Path, key: str) -> None:
        content = text().removeprefix("{").replace('"matrix"', f"{{{key}: , matrix", 1)
        assert faults(tmp_path, content) == ["top level, line 2: a key must be a plain word"]


class TestEachSetting:
    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (
                text({"pasword": SECRET}),
                "matrix.pasword: unknown key; did you mean matrix.password?",
            ),
            (text(pasword=SECRET), "pasword: unknown key; did you mean matrix.password?"),
            (text(matrx={}), "matrx: unknown key; did you mean matrix?"),
            (text(Language="en"), "Language: unknown key; did you mean language?"),
            (
                text(model={"api_keyfile": SECRET}),
                "model.api_keyfile: unknown key; did you mean model.api_key_file?",
            ),
            (
                text(model={"empty_and_unknown": None}),
                "model.empty_and_unknown: unknown key; config.example.yaml names them all",
            ),
        ],
    )
    def test_an_unknown_key_is_named_with_the_nearest(
        self, tmp_path: Path, content: str, sentence: str
    ) -> None:
        assert faults(tmp_path, content) == [sentence]

    @pytest.mark.parametrize(
        "section", ["conversation", "reply", "limits", "service", "log", "storage"]
    )
    @pytest.mark.parametrize("value", [SECRET, [SECRET]])
    def test_a_section_that_is_none_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str, value: object
    ) -> None:
        monkeypatch.setenv("ASSISTANT_LOG__LEVEL", "debug")
        sentence = f"{section}: must be a section: keys below it, indented"
        others: dict[str, Any] = {section: value}
        assert faults(tmp_path, text(**others)) == [sentence]

    @pytest.mark.parametrize(
        ("name", "values", "sentence"),
        [
            (
                "matrix.homeserver",
                ["ftp://x", "matrix.tchap.gouv.fr", SECRET, "https://", "http://["],
                "must be a URL that begins with https:// or http://",
            ),
            (
                "matrix.homeserver",
                ["https://x/_matrix", "https://x/_matrix/"],
                "must end after the host and its port, without a path",
            ),
            (
                "model.base_url",
                [f"https://{SECRET}@x/v1", f"https://u:{SECRET}@x"],
                "must hold no user name and no password",
            ),
            (
                "model.base_url",
                [f"https://x/v1?key={SECRET}", "https://x#y", "https://x/?"],
                "must end before any ? and #",
            ),
            (
                "matrix.proxy",
                ["socks5://x:1080", "x:3128"],
                "must be a URL that begins with https:// or http://",
            ),
            (
                "matrix.proxy",
                ["https://x:3128"],
                "must be a URL that begins with http://, which homeservers on https pass through",
            ),
            (
                "model.base_url",
                ["https://x/v1/chat/completions", "https://x/chat/completions/"],
                "must end before /chat/completions, which is appended",
            ),
            *(
                (name, [f"http://{'x' * 64}.fr", f"http://{'x' * 70}:80"], HOST)
                for name in ("matrix.homeserver", "model.base_url", "matrix.proxy", "model.proxy")
            ),
            (
                "storage.database",
                [f"postgresql://{'x' * 64}/d", "postgresql://u:p@a..b:5432,c/d"],
                HOST,
            ),
            *(
                (name, ["http://u:€@x:80", "http://%C3%A9:p@x:80", "http://a%3Ab:c@x"], LOGIN)
                for name in ("matrix.proxy", "model.proxy")
            ),
            *(
                (name, [f"{KEY}\n", f"{KEY}\r\nb: c", f"a\u2028{KEY}", f"{KEY}\x7f"], LINE)
                for name in ("matrix.password", "storage.key", "dashboard.token")
            ),
            ("storage.database", [f"postgresql://a:{SECRET}@x/d\n"], LINE),
            *(
                (name, [f"{SECRET}\n", f"{SECRET}\r\nb: c", f"é{SECRET}", f"a {SECRET}"], WORD)
                for name in ("matrix.access_token", "model.api_key")
            ),
            *(
                (
                    name,
                    [f"{KEY}\0", [f"{KEY}\ud800"], {"a": {"name": "\ud800"}}],
                    "holds a character that text cannot hold",
                )
                for name in TEXTS
            ),
            *(
                (name, [most + 1, 10**30], f"must be less than or equal to {most}")
                for name, most in LARGEST.items()
            ),
            *(
                (name, ["9" * 5_000], "must be a whole number of a few digits")
                for name in ("model.max_tokens", "reply.at_once", "feedback.one_in")
            ),
            (
                "matrix.user_id",
                ["bot", "@bot", "bot:x.fr", "@Bot:x.fr", "@bot:", "@bot@x.fr:x.fr", "@b:x/y"],
                USER_ID,
            ),
            ("matrix.user_id", [["@bot:x"], {}], "must be text"),
            ("matrix.password", ["", " "], "must not be empty"),
            ("matrix.device_name", ["", " "], "must not be empty"),
            ("storage.directory", [""], "must not be empty"),
            ("storage.directory", [["x"]], "must be a path"),
            (
                "storage.key",
                ["x" * 31, SECRET],
                "must have 32 characters or more; `openssl rand -base64 32` prints one",
            ),
            ("storage.key", ["", " "], "must not be empty"),
            ("storage.key", [None], "missing, and it has no default"),
            ("storage.keep_keys_days", [0], "must be greater than or equal to 1"),
            ("storage.keep_keys_days", [10**30], "must be less than or equal to 36500"),
            ("feedback.window_hours", [1e300], "must be less than or equal to 8784"),
            ("model.stall_timeout", [1e12], "must be less than or equal to 86400"),
            ("model.context_length", [10**400], "must be less than or equal to 100000000"),
            ("matrix.allowed_servers", [[]], "must not be empty"),
            ("matrix.allowed_servers", ["x.fr"], "must be a list; in a variable, a JSON list"),
            ("matrix.allowed_servers", [{"x": 1}, "{}"], "must be a list"),
            ("matrix.bots", ["@a:x.fr"], "must be a list; in a variable, a JSON list"),
            ("model.label", ["", " "], "must not be empty"),
            ("model.context_length", [0], "must be greater than 0"),
            ("conversation.idle_minutes", [0, -1], "must be greater than 0"),
            ("conversation.age_limit_hours", [0], "must be greater than or equal to 1"),
            ("conversation.join_seconds", [-1], "must be greater than or equal to 0"),
            ("conversation.salon_replies", ["fil"], "must be 'thread' or 'inline'"),
            ("reply.tables", ["html"], "must be 'list' or 'table'"),
            ("reply.at_once", [0], "must be greater than or equal to 1"),
            ("reply.share", [0, -1], "must be greater than 0"),
            ("reply.share", [1.1], "must be less than or equal to 1"),
            ("limits.prompts_per_hour", [-1], "must be greater than or equal to 0"),
            ("limits.regenerations_per_hour", [-1], "must be greater than or equal to 0"),
            ("limits.comments_per_hour", [-1], "must be greater than or equal to 0"),
            ("limits.prompts_per_minute", [-1], "must be greater than or equal to 0"),
            ("limits.quick_exchanges", [-1], "must be greater than or equal to 0"),
            ("limits.quick_exchanges", [0.5, SECRET], "must be a whole number"),
            ("reply.line_after", [0], "must be greater than or equal to 1"),
            (
                "service.status_page",
                ["x.fr", SECRET, ""],
                "must be a URL that begins with https:// or http://",
            ),
            ("service.contact", ["", " "], "must not be empty"),
            (
                "model.ca_bundle",
                ["/no/such/file", "/", str(EXAMPLE)],
                "must be a readable file of certificates in PEM format",
            ),
            ("model.temperature", [-0.1], "must be greater than or equal to 0"),
            ("model.temperature", [2.1], "must be less than or equal to 2"),
            ("model.temperature", [SECRET, True], "must be a number"),
            ("model.max_tokens", [0], "must be greater than 0"),
            ("model.max_tokens", [SECRET, 1.5, "2 048"], "must be a whole number"),
            ("model.connect_timeout", [0, -1], "must be greater than 0"),
            ("model.stall_timeout", [0, -1], "must be greater than 0"),
            ("model.stall_timeout", ["inf", "nan"], "must be a finite number"),
            ("reply.first_after", [-1], "must be greater than or equal to 0"),
            ("reply.edit_interval", [0.9], "must be greater than or equal to 1"),
            ("language", ["de", False, SECRET], "must be 'fr' or 'en'"),
            ("health.port", [0, -1], "must be greater than or equal to 1"),
            ("health.port", [65_536], "must be less than or equal to 65535"),
            ("health.host", [""], "must not be empty"),
            ("dashboard.port", [65_536], "must be less than or equal to 65535"),
            (
                "dashboard.proxy_header",
                ["", "Remote User", SECRET, "x" * 101],
                'must be the name of a header, such as "Remote-User"',
            ),
            ("log.level", ["INFO", SECRET], "must be 'debug', 'info', 'warning' or 'error'"),
            ("log.format", ["text"], "must be 'json' or 'console'"),
        ],
    )
    def test_what_a_setting_cannot_hold_is_refused(
        self, tmp_path: Path, name: str, values: list[object], sentence: str
    ) -> None:
        for value in values:
            found = faults(tmp_path, text_with(name, value))
            assert found == [f"{name}: {sentence}"], value

    @pytest.mark.parametrize(
        "server", ["", "a b", "*.", "*tchap.gouv.fr", "a.*.fr", "@a:b", SECRET]
    )
    def test_a_wrong_server_is_named_by_its_place(self, tmp_path: Path, server: str) -> None:
        (sentence,) = faults(tmp_path, text({"allowed_servers": ["x.fr", server]}))
        assert sentence.startswith("matrix.allowed_servers.1: must be a server name, such as ")

    def test_a_wrong_bot_is_named_by_its_place(self, tmp_path: Path) -> None:
        given = text({"bots": ["@meteo:x.fr", SECRET]})
        assert faults(tmp_path, given) == [f"matrix.bots.1: {USER_ID}"]

    @pytest.mark.parametrize("network", ["", "10.0.0.1/8", "proxy.test", SECRET])
    def test_a_wrong_proxy_of_the_dashboard_is_named_by_its_place(
        self, tmp_path: Path, network: str
    ) -> None:
        given = text(dashboard={"proxy_header": "Remote-User", "proxies": ["::1", network]})
        expected = "must be an IP address, or a network such as 10.1.0.0/16"
        assert faults(tmp_path, given) == [f"dashboard.proxies.1: {expected}"]

    @pytest.mark.parametrize(
        ("dashboard", "sentence"),
        [
            ({"proxy_header": "Remote-User"}, "proxy_header and proxies belong together: "),
            ({"proxies": ["::1"]}, "proxy_header and proxies belong together: "),
            ({"port": 80, "host": "192.0.2.1"}, "give token (or token_file), or proxy_header"),
            ({"port": 80, "host": "dash.test", "public": "true"}, "give token (or token_file)"),
            ({"port": 80, "host": "::"}, "give token (or token_file), or proxy_header"),
        ],
    )
    def test_a_dashboard_is_never_open_to_the_network(
        self, tmp_path: Path, dashboard: Settings, sentence: str
    ) -> None:
        (fault,) = faults(tmp_path, text(dashboard=dashboard))
        assert fault.startswith(f"dashboard: {sentence}")

    @pytest.mark.parametrize(
        "dashboard",
        [
            {"host": "192.0.2.1"},
            {"port": 80},
            {"port": 80, "host": "localhost"},
            {"port": 80, "host": "::1"},
            {"port": 80, "host": "127.0.0.2"},
            {"port": 80, "host": "192.0.2.1", "token": KEY},
            {"port": 80, "host": "x", "proxy_header": "Remote-User", "proxies": ["10.0.0.0/8"]},
        ],
    )
    def test_a_dashboard_with_a_login_or_for_this_machine_alone_is_accepted(
        self, tmp_path: Path, dashboard: Settings
    ) -> None:
        given = load_text(tmp_path, text(dashboard=dashboard)).dashboard
        assert given.host == dashboard.get("host", "127.0.0.1")

    def test_every_number_has_a_least_and_a_most(self) -> None:
        schema = Config.model_json_schema()
        numbers = {
            f"{section}.{name}": one
            for section, found in schema["$defs"].items()
            for name, setting in found.get("properties", {}).items()
            for one in setting.get("anyOf", [setting])
            if one.get("type") in {"number", "integer"}
        }
        assert len(numbers) > 20
        for name, one in numbers.items():
            assert "maximum" in one, name
            assert {"minimum", "exclusiveMinimum"} & one.keys(), name

    @pytest.mark.parametrize(
        ("given", "used"),
        [
            ("http://proxy", "http://proxy:80"),
            ("http://proxy:80", "http://proxy:80"),
            ("http://proxy:3128/", "http://proxy:3128"),
            ("http://agent:p%40ss@proxy:3128", "http://agent:p%40ss@proxy:3128"),
            ("http://[::1]:3128", "http://[::1]:3128"),
        ],
    )
    def test_the_port_of_the_proxy_to_the_homeserver_is_written_out(
        self, tmp_path: Path, given: str, used: str
    ) -> None:
        assert load_text(tmp_path, text({"proxy": given})).matrix.proxy == used
        assert parse_proxy_url(used)[2] > 0

    def test_a_short_token_is_refused(self, tmp_path: Path) -> None:
        (fault,) = faults(tmp_path, text(dashboard={"token": SECRET}))
        assert fault.startswith("dashboard.token: must have 32 characters or more")

    def test_all_faults_are_told_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ASSISTANT_LANGAGE", "en")
        content = (
            f"matrix:\n  user_id: {SECRET}\n  device_name: !x\n  pasword: x\nmodel:\nlog: 1\n"
        )
        assert faults(tmp_path, content) == [
            "matrix.device_name: YAML drops a word that begins with !; write it in quotes",
            "log: must be a section: keys below it, indented",
            "ASSISTANT_LANGAGE: unknown variable; did you mean ASSISTANT_LANGUAGE?",
            "matrix.homeserver: missing, and it has no default",
            f"matrix.user_id: {USER_ID}",
            "matrix.pasword: unknown key; did you mean matrix.password?",
            "model.name: missing, and it has no default",
            "model.base_url: missing, and it has no default",
            "storage.key: missing, and it has no default",
        ]


def uncommented() -> str:
    """Return the example with the settings that stand in comments."""
    return re.sub(r"(?m)^( *)# ([a-z_]+: )", r"\1\2", EXAMPLE.read_text("utf-8"))


def example(folder: Path) -> Config:
    """Load the example with a key of one's own, which nobody else has read."""
    content = EXAMPLE.read_text("utf-8")
    assert content.count('  key: "change-me"') == 1
    return load_text(folder, content.replace('  key: "change-me"', f'  key: "{KEY}"'))


def required_alone(folder: Path) -> Config:
    """Load what the example requires, and nothing else."""
    given = example(folder)
    required = {
        "matrix": given.matrix.model_dump(include={"homeserver", "user_id"}),
        "model": given.model.model_dump(include={"base_url", "name"}),
    }
    required["matrix"]["password"] = password_of(given)
    required["storage"] = {"key": given.storage.key.get_secret_value()}
    return load_text(folder, json.dumps(required))


def _is_twin(name: str) -> bool:
    """Tell the file of a secret from a setting that names a file."""
    return name.endswith("_file") and name.removesuffix("_file") in names(Config)


class TestTheExample:
    def test_it_names_every_setting_and_no_other(self) -> None:
        named = []
        for key, value in yaml.safe_load(uncommented()).items():
            named += [f"{key}.{name}" for name in value] if isinstance(value, dict) else [key]
        assert sorted(named) == sorted(names(Config))

    def test_it_lacks_but_a_key_and_holds_the_defaults(self, tmp_path: Path) -> None:
        assert example(tmp_path) == required_alone(tmp_path)
        assert refused(EXAMPLE)[1:] == [
            "storage.key: must have 32 characters or more; `openssl rand -base64 32` prints one"
        ]

    def test_a_comment_above_each_setting_says_its_default_and_an_example(
        self, tmp_path: Path
    ) -> None:
        defaults = required_alone(tmp_path)
        section, described = "", set()
        for comment, indent, key, value in re.findall(
            r"(?m)^((?: *# .+\n)*)( *)([a-z_]+):(.*)$", uncommented()
        ):
            if not indent and not value:
                section = key
                continue
            if _is_twin(f"{section}.{key}"):  # stands below its secret, without a comment
                continue
            holder = getattr(defaults, section) if indent else defaults
            described.add(f"{section}.{key}" if indent else key)
            assert " Example: " in comment, key
            if "# Required" in comment:
                continue
            (stated,) = re.findall(r"# Default: (.+)\. Example: ", comment)
            default = getattr(holder, key)
            if key == "system_prompt":
                assert stated == "the text below"
            elif isinstance(default, tuple):
                assert yaml.safe_load(stated) == list(default)
            else:
                assert str(yaml.safe_load(stated)) == str(default), key
        assert described == {name for name in names(Config) if not _is_twin(name)}


FRAGMENTS = [
    "matrix", "model", "log", "password", "user_id", "allowed_servers", "ca_bundle", "proxy",
    "password_file", "level", ":", ": ", "\n", "\n  ", "\n    ", "- ", "[", "]", "{", "}", ", ",
    "'", '"', "#", " #", "!", "&a ", "*a", "@", "|\n", ">\n", "? ", "%", "---\n", "\\", "<<: ",
    "null", "~", "no", "1e3", ".inf", "2024-99-99", "\t", "\0", "\u2028", "é",
    SECRET,
]  # fmt: skip  # one fragment a line would hide the kinds


def message(path: Path) -> str:
    """Return all that is said when a configuration is refused, "" when it is accepted."""
    try:
        load(path)
    except ConfigError as error:
        return "".join(traceback.format_exception(error))
    return ""


class TestAnyText:
    @given(content=st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3)).map("".join))
    def test_text_is_a_configuration_or_refused_without_the_secret_in_it(
        self, tmp_path_factory: pytest.TempPathFactory, content: str
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "any.yaml"
        path.write_text(content, "utf-8")
        assert SECRET not in message(path)

    @given(
        name=st.sampled_from(names(Config)),
        content=st.recursive(
            st.none() | st.booleans() | st.floats() | st.just(SECRET) | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ),
    )
    def test_a_value_is_accepted_or_refused_without_the_secret_in_it(
        self, tmp_path_factory: pytest.TempPathFactory, name: str, content: object
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "any.yaml"
        path.write_text(text_with(name, content), "utf-8")
        assert SECRET not in message(path)

    @given(
        name=st.sampled_from(names(Config)),
        content=st.text(st.characters(codec="utf-8", exclude_characters="\0"))
        | st.just(f"[{SECRET}"),
    )
    def test_a_variable_is_accepted_or_refused_without_the_secret_in_it(
        self, tmp_path_factory: pytest.TempPathFactory, name: str, content: str
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "any.yaml"
        path.write_text(text(), "utf-8")
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv(variable(name), content)
            assert SECRET not in message(path)

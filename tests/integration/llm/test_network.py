"""OpenAIModel across the network: what is down, what is in between, and whom TLS trusts."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bot.core.model_catalog import Catalogue
from bot.errors import (
    CompletionError,
    ConfigError,
    ModelFailed,
    ModelRefused,
    ModelTimeout,
    ModelUnreachable,
)
from bot.startup import check_model
from tests.harness.model import ScriptedModel
from tests.harness.network import answering, make_authority, proxying
from tests.integration.llm.asking import CARD, KEY, ask, connected, fail


@pytest.fixture
async def backend() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as backend:
        yield backend


async def test_a_backend_that_is_down_is_unreachable_until_it_is_back(
    backend: ScriptedModel,
) -> None:
    async with connected(backend.url) as model:
        await backend.stop()
        failure = await fail(model)
        await backend.start()

        assert await ask(model)
    assert type(failure) is ModelUnreachable
    assert "Connect call failed" in str(failure)


async def test_a_host_without_an_address_is_unreachable() -> None:
    async with connected("http://nowhere.invalid/v1") as model:
        assert type(await fail(model)) is ModelUnreachable


@pytest.mark.parametrize(
    ("answer", "error"),
    [(b"", ModelUnreachable), (None, ModelTimeout), (b"no HTTP\r\n\r\n", ModelFailed)],
)
async def test_a_connection_without_an_http_answer_is_told_by_its_kind(
    answer: bytes | None, error: type[CompletionError]
) -> None:
    patience = 0.5 if error is ModelTimeout else 5.0

    async with answering(answer) as url, connected(url, patience=patience) as model:
        assert type(await fail(model)) is error


async def test_a_backend_that_hangs_up_after_its_answer_is_asked_anew() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 14\r\n\r\n"

    async with answering(head + b"data: [DONE]\n\n") as url, connected(url) as model:
        assert [await ask(model) for _ in range(5)] == [[]] * 5


@pytest.mark.parametrize("answer", [None, b"", b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"])
async def test_a_proxy_that_does_not_connect_makes_the_backend_unreachable(
    answer: bytes | None,
) -> None:
    async with (
        answering(answer) as proxy,
        connected("https://nowhere.invalid/v1", proxy=proxy, patience=0.5) as model,
    ):
        assert type(await fail(model)) is ModelUnreachable


# The SDK's adapter hands credentials over in the way that aiohttp 4 will drop.
@pytest.mark.filterwarnings("ignore:BasicAuth is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The 'proxy_auth' parameter:DeprecationWarning")
async def test_a_proxy_is_used_with_its_credentials(backend: ScriptedModel) -> None:
    async with (
        proxying() as (proxy, heads),
        connected(backend.url, proxy=proxy.replace("//", "//agent:secret@")) as model,
    ):
        assert await ask(model)

    [head] = heads
    assert head.startswith(f"POST {backend.url}/chat/completions ".encode())
    assert b"Proxy-Authorization: Basic YWdlbnQ6c2VjcmV0" in head


async def test_proxies_of_the_environment_are_not_used(
    backend: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxying() as (proxy, heads):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        async with connected(backend.url) as model:
            assert await ask(model)

    assert heads == []


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    return tmp_path / "authority.pem"


@pytest.fixture
async def tls_backend(authority: Path) -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel(ssl_context=make_authority(authority)) as backend:
        yield backend


async def test_an_authority_of_the_bundle_is_trusted(
    tls_backend: ScriptedModel, authority: Path
) -> None:
    async with connected(tls_backend.url, ca_bundle=authority) as model:
        assert await ask(model)


async def test_tls_goes_through_a_proxy_end_to_end(
    tls_backend: ScriptedModel, authority: Path
) -> None:
    async with (
        proxying() as (proxy, heads),
        connected(tls_backend.url, ca_bundle=authority, proxy=proxy) as model,
    ):
        assert await ask(model)

    [head] = heads
    assert head.startswith(b"CONNECT 127.0.0.1:")
    assert KEY.encode() not in head


async def test_an_unknown_authority_makes_the_backend_unreachable(
    tls_backend: ScriptedModel,
) -> None:
    async with connected(tls_backend.url) as model:
        failure = await fail(model)

    assert type(failure) is ModelUnreachable
    assert "CERTIFICATE_VERIFY_FAILED" in str(failure)


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_bundle_that_cannot_be_used_is_named(tmp_path: Path, content: str | None) -> None:
    bundle = tmp_path / "bundle.pem"
    if content:
        bundle.write_text(content)

    with pytest.raises(ConfigError, match=r"bundle\.pem"):
        async with connected("https://127.0.0.1/v1", ca_bundle=bundle):
            pass


async def test_a_backend_that_is_down_fails_the_check(backend: ScriptedModel) -> None:
    async with connected(backend.url) as model:
        await backend.stop()
        with pytest.raises(ModelUnreachable):
            await model.check()


async def test_a_key_that_is_refused_fails_the_check() -> None:
    refusal = b"HTTP/1.1 401 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with answering(refusal) as url, connected(url) as model:
        with pytest.raises(ModelRefused, match="401"):
            await model.check()


async def test_a_backend_without_a_list_of_models_passes_the_check() -> None:
    missing = b"HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with answering(missing) as url, connected(url) as model:
        await model.check()

        assert model.listed == frozenset()
        assert model.context_length(CARD) == CARD.context_length


async def test_a_length_that_is_listed_counts_instead_of_the_cards() -> None:
    async with (
        ScriptedModel(max_context_length=131_072) as backend,
        connected(backend.url) as model,
    ):
        await model.check()

        assert model.listed == {"scripted"}
        assert model.context_length(replace(CARD, id="scripted")) == 131_072
        assert model.context_length(CARD) == CARD.context_length


@pytest.mark.parametrize(
    ("path", "times"), [("", 1), ("/api", 1), ("/v1", 0), ("/openai/v1beta2", 0)]
)
async def test_a_url_without_a_list_and_a_version_is_said(path: str, times: int) -> None:
    missing = b"HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with answering(missing) as url, connected(url) as model:
        with capture_logs() as lines:
            await check_model(model, Catalogue([CARD]), f"http://backend.test{path}")

    assert ["model.base_url" in line["event"] for line in lines] == [True] * times


async def test_a_length_that_cuts_completions_is_told_at_the_start() -> None:
    whole, cut = (replace(CARD, id=name, key=name) for name in ("albert", "scripted"))
    async with ScriptedModel(max_context_length=100) as backend, connected(backend.url) as model:
        with capture_logs() as lines:
            await check_model(model, Catalogue([whole, cut]), backend.url)

    [told] = [line for line in lines if "context_length" in line]
    assert told["log_level"] == "warning"
    assert (told["model"], told["context_length"], told["max_tokens"]) == ("scripted", 100, 90)


async def checked(listing: bytes) -> tuple[frozenset[str], int]:
    """Return what a model makes of its backend's list: the names, and the length of CARD's."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(listing)
    async with answering(head + listing) as url, connected(url) as model:
        await model.check()
        return model.listed, model.context_length(CARD)


@pytest.mark.parametrize(
    ("entry", "length"),
    [
        (b'{"id": "albert-small"}', 32_000),
        (b'{"id": "albert-small", "max_context_length": 0}', 32_000),
        (b'{"id": "albert-small", "max_context_length": null, "aliases": []}', 32_000),
        (b'{"id": "albert-small", "max_context_length": 128000, "aliases": ["small"]}', 128_000),
        (b'{"id": "mistral", "max_context_length": 128000, "aliases": ["albert-small"]}', 128_000),
        (b'{"id": "albert-small", "max_model_len": 8192, "permission": [{}]}', 8192),
        (b'{"id": "albert-small", "max_model_len": -1}', 32_000),
        (b'{"id": "albert-small", "max_context_length": 1%b}' % (b"0" * 400), 32_000),
        (b'{"id": "albert-small", "max_context_length": -7, "max_model_len": 8192}', 8192),
    ],
)
async def test_the_length_is_listed_in_more_than_one_way(entry: bytes, length: int) -> None:
    listed, found = await checked(b'{"object": "list", "data": [%b]}' % entry)

    assert found == length
    assert "albert-small" in listed


@pytest.mark.parametrize(
    ("listing", "names"),
    [
        (b"<html>", set()),
        (b"[]", set()),
        (b'{"data": null}', set()),
        (
            b'{"data": [{"id": 3}, null, {"id": "a", "max_context_length": {}}, {"id": "b"}]}',
            {"b"},
        ),
        (b'{"data": [{"id": "a\xff"}, {"id": "b"}]}', {"b"}),
    ],
)
async def test_a_list_that_cannot_be_read_costs_what_it_would_tell(
    listing: bytes, names: set[str]
) -> None:
    assert await checked(listing) == (frozenset(names), CARD.context_length)

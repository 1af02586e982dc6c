"""What comes of a backend without an end, too large, or lying: little, soon, and told by us."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from bot.core.chat import Delta
from bot.errors import CompletionError, ModelFailed, ModelRefused, ModelTimeout
from bot.llm.client import OpenAIModel
from tests.deltas import finish_reasons, text_of
from tests.hostile.backends import (
    ENDLESS,
    FINISHED,
    REFUSING,
    SECRET,
    SILENT,
    TOO_LARGE,
    Backend,
    misbehaving,
)
from tests.integration.llm.asking import CARD, TURNS, connected

_LONGEST = 8 * CARD.max_tokens  # characters
_MEMORY = 24 * 1024 * 1024  # bytes; what is too large has 100 MB at the least, and up to 1 GB


def rows(table: Mapping[str, Backend]) -> Iterable[object]:
    return [pytest.param(backend, id=name) for name, backend in table.items()]


@asynccontextmanager
async def asking(backend: Backend, patience: float = 10.0) -> AsyncIterator[OpenAIModel]:
    async with (
        asyncio.timeout(30),
        misbehaving(backend) as url,
        connected(url, patience=patience) as model,
    ):
        yield model


async def outcome(model: OpenAIModel) -> tuple[list[Delta], CompletionError | None]:
    deltas: list[Delta] = []
    try:
        async for delta in model.stream(TURNS, CARD):
            deltas.append(delta)  # noqa: PERF401  # they stay where it fails
    except CompletionError as error:
        return deltas, error
    return deltas, None


@pytest.fixture
def memory() -> Iterator[None]:
    """Fail where the test has taken more memory at any time than it may."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < _MEMORY


@pytest.mark.parametrize("backend", rows(ENDLESS))
async def test_a_completion_without_an_end_is_cut_and_says_so(backend: Backend) -> None:
    with capture_logs() as logs:
        async with asking(backend) as model:
            deltas, error = await outcome(model)

    assert error is None
    assert [line["event"] for line in logs] == ["endless completion cut"]
    assert finish_reasons(deltas) == ["length"]
    assert len(text_of(deltas)) <= _LONGEST


@pytest.mark.parametrize("backend", rows(FINISHED))
async def test_nothing_behind_a_whole_answer_adds_to_it_or_holds_it_up(backend: Backend) -> None:
    async with asking(backend, patience=0.5) as model:
        deltas, error = await outcome(model)

    assert error is None
    assert (text_of(deltas), finish_reasons(deltas)) == ("Oui.", ["stop"])


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("backend", rows(TOO_LARGE))
async def test_what_is_larger_than_any_answer_is_refused_before_it_fills_the_memory(
    backend: Backend,
) -> None:
    async with asking(backend) as model:
        deltas, error = await outcome(model)

    assert type(error) is ModelFailed
    assert deltas == []
    assert "aaaa" not in str(error)


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("backend", rows(REFUSING))
async def test_a_refusal_is_told_by_its_status_whatever_its_body(backend: Backend) -> None:
    async with asking(backend, patience=1.0) as model:
        deltas, error = await outcome(model)

    assert type(error) is ModelRefused
    assert str(error) == "the backend answered 400"
    assert deltas == []


@pytest.mark.parametrize("backend", rows(SILENT))
async def test_bytes_without_a_word_end_with_the_patience_for_one(backend: Backend) -> None:
    async with asking(backend, patience=0.1) as model:
        deltas, error = await outcome(model)

    assert isinstance(error, ModelTimeout)
    assert deltas == []


LISTS = {name: one for name, one in TOO_LARGE.items() if "completion" in name} | {
    "an endless list": Backend(ENDLESS["words"].body, content_type="application/json"),
}


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("backend", rows(LISTS))
async def test_a_list_of_models_that_is_too_large_lists_none(backend: Backend) -> None:
    async with asking(backend) as model:
        await model.check()

    assert model.listed == frozenset()


async def test_a_list_of_models_that_does_not_come_is_waited_for_no_longer_than_a_connection() -> (
    None
):
    async with asking(Backend(ends=False), patience=0.2) as model:
        with pytest.raises(ModelTimeout):
            await model.check()


@pytest.mark.parametrize(
    "backend",
    rows(
        {
            "a refusal's field": Backend(
                lambda: [
                    b'{"detail": [{"loc": ["body", "' + SECRET.encode() + b' est malade"]}]}'
                ],
                "422 Unprocessable Entity",
                "application/json",
            ),
            "a content type": Backend(content_type=f"x; {SECRET}"),
            "a header": Backend(headers=lambda: [SECRET * 1000]),
            "a chunk's size": Backend(
                lambda: [SECRET.encode()], headers=lambda: ["Transfer-Encoding: chunked"]
            ),
            "a status line": Backend(status=f"200 {SECRET}", content_type=None),
            "half a head": Backend(status=f"200 {SECRET}", headers=lambda: [SECRET]),
        }
    ),
)
async def test_an_error_repeats_no_words_of_the_backend(backend: Backend) -> None:
    async with asking(backend, patience=1.0) as model:
        _, error = await outcome(model)

    assert error is not None
    assert SECRET not in str(error)

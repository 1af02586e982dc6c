"""OpenAIModel over real sockets: every way a backend answers, and every way it fails to."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from bot.core.events import Delta, Usage
from bot.errors import (
    CompletionError,
    ModelBusy,
    ModelFailed,
    ModelRefused,
    ModelTimeout,
    Truncated,
)
from tests.integration.llm.asking import KEY, PROMPT, TURNS, ask, connected, fail
from tests.stand.model import CUT_UTF8, ERROR, MALFORMED, Answer, Mode, ScriptedModel

pytestmark = pytest.mark.integration


@pytest.fixture
async def backend() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as backend:
        yield backend


async def test_the_deltas_are_the_backends_words(backend: ScriptedModel) -> None:
    backend.next(Answer(text="L'été à\u2028Paris.", comments=True, newline="\r\n"))

    async with connected(backend.url) as model:
        deltas = await ask(model)

    assert deltas == [
        Delta("L'été "),
        Delta("à\u2028"),
        Delta("Paris."),
        Delta(finish_reason="stop"),
        Delta(usage=Usage(prompt_tokens=9, completion_tokens=3)),
    ]


async def test_the_request_holds_the_turns_and_the_settings(backend: ScriptedModel) -> None:
    async with connected(backend.url, temperature=0.2, max_tokens=90) as model:
        await ask(model)

    [exchange] = backend.exchanges
    assert exchange.headers["Authorization"] == f"Bearer {KEY}"
    assert exchange.body == {
        "model": "albert-small",
        "messages": [{"role": turn.role, "content": turn.content} for turn in TURNS],
        "temperature": 0.2,
        "max_completion_tokens": 90,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_what_is_not_set_is_left_to_the_backend(
    backend: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    async with connected(backend.url, api_key=None) as model:
        await ask(model)

    [exchange] = backend.exchanges
    assert exchange.body.keys() == {"model", "messages", "stream", "stream_options"}
    assert KEY not in exchange.headers["Authorization"]


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_the_finish_reason_is_told(backend: ScriptedModel, reason: str) -> None:
    backend.next(Answer(finish_reason=reason))

    async with connected(backend.url) as model:
        deltas = await ask(model)

    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == [reason]


@pytest.mark.parametrize(
    ("mode", "tail", "error"),
    [
        ("end", b"", Truncated),
        ("end", CUT_UTF8, Truncated),
        ("end", MALFORMED, ModelFailed),
        ("end", ERROR, ModelFailed),
        pytest.param("end", b"data: " + b"a" * 5 * 1024 * 1024, ModelFailed, id="5 MB line"),
        ("close", b"", Truncated),
        ("reset", b"", Truncated),
        ("stall", b": ping\n\n", ModelTimeout),
    ],
)
async def test_a_stream_that_breaks_off_is_told_after_its_words(
    backend: ScriptedModel, mode: Mode, tail: bytes, error: type[CompletionError]
) -> None:
    read = asyncio.Event()  # a reset may overtake the words before it
    backend.next(Answer(text="one two three", after=2, gate=read, mode=mode, tail=tail))
    patience = 0.5 if error is ModelTimeout else 5.0

    async with (
        connected(backend.url, patience=patience) as model,
        aclosing(model.stream(TURNS)) as deltas,
    ):
        assert [await anext(deltas), await anext(deltas)] == [Delta("one "), Delta("two ")]
        read.set()
        with pytest.raises(CompletionError) as failure:
            await anext(deltas)

    assert type(failure.value) is error


async def test_a_connection_lost_after_the_finish_reason_costs_nothing(
    backend: ScriptedModel,
) -> None:
    done = b'data: {"choices": [{"delta": {"content": "all"}, "finish_reason": "stop"}]}\n\n'
    backend.next(Answer(mode="close", tail=done))

    async with connected(backend.url) as model:
        assert await ask(model) == [Delta("all", finish_reason="stop")]


async def test_nothing_is_read_after_done(backend: ScriptedModel) -> None:
    backend.next(Answer(mode="stall", tail=b"data: [DONE]\n\n"))

    async with connected(backend.url) as model:
        assert await ask(model) == []
        await backend.exchanges[0].over.wait()


async def test_closing_the_stream_closes_the_connection(backend: ScriptedModel) -> None:
    backend.next(Answer(text="one two", after=1, mode="stall"))

    async with connected(backend.url) as model:
        async with aclosing(model.stream(TURNS)) as deltas:
            assert await anext(deltas) == Delta("one ")
        await backend.exchanges[0].over.wait()


async def test_cancelling_the_reader_closes_the_connection(backend: ScriptedModel) -> None:
    backend.next(Answer(mode="stall"))

    async with connected(backend.url) as model, asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(ask(model))
        exchange = await backend.asked()
        asking.cancel()
        await exchange.over.wait()


@pytest.mark.parametrize(
    ("status", "body", "error", "reason"),
    [
        (400, '{"detail": "Insufficient budget."}', ModelRefused, ""),
        (401, '{"error": {"message": "x", "code": "bad_key"}}', ModelRefused, " (bad_key)"),
        (404, '{"error": "no such model"}', ModelRefused, ""),
        (422, '{"detail": "words that were not valid"}', ModelRefused, ""),
        (307, "", ModelRefused, ""),
        (500, "<html>", ModelFailed, ""),
        (502, '{"detail": 3}', ModelFailed, ""),
        (529, '{"error": {"type": "overloaded"}}', ModelFailed, " (overloaded)"),
    ],
)
async def test_a_refusal_tells_its_status_and_the_backends_code(
    backend: ScriptedModel, status: int, body: str, error: type[CompletionError], reason: str
) -> None:
    headers = {"Location": f"{backend.url}/chat/completions"}
    backend.next(Answer(mode="verbatim", status=status, headers=headers, body=body.encode()))

    async with connected(backend.url) as model:
        failure = await fail(model)

    assert type(failure) is error
    assert str(failure) == f"the backend answered {status}{reason}"
    assert len(backend.exchanges) == 1


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (
            422,
            {"detail": [{"loc": ["body", 0], "msg": PROMPT, "input": PROMPT}]},
            " (not valid: body.0)",
        ),
        (422, {"detail": f"not valid: {PROMPT}"}, ""),
        (400, {"error": {"message": f"not valid: {PROMPT[:20]}…"}}, ""),
        (401, {"error": {"message": f"Incorrect API key: {KEY}"}}, ""),
        (500, {"detail": f"{'x' * 190} {KEY}"}, ""),
    ],
)
async def test_neither_the_prompt_nor_the_key_comes_back_in_an_error(
    backend: ScriptedModel, status: int, body: dict[str, object], told: str
) -> None:
    backend.next(Answer(mode="verbatim", status=status, body=json.dumps(body).encode()))

    async with connected(backend.url) as model:
        failure = await fail(model)

    assert str(failure) == f"the backend answered {status}{told}"
    assert failure.__cause__ is None
    assert failure.__suppress_context__


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (429, {}, None),
        (429, {"Retry-After": "7"}, 7),
        (503, {"Retry-After": "soon"}, None),
        (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
    ],
)
async def test_a_busy_backend_may_say_when_to_come_back(
    backend: ScriptedModel, status: int, headers: Mapping[str, str], seconds: float | None
) -> None:
    body = b'{"detail": "10 requests for m per minute exceeded (remaining: 0)."}'
    backend.next(Answer(mode="verbatim", status=status, headers=headers, body=body))

    async with connected(backend.url) as model:
        failure = await fail(model)

    assert isinstance(failure, ModelBusy)
    assert str(failure) == f"the backend answered {status}"
    assert failure.retry_after == seconds
    assert len(backend.exchanges) == 1


async def test_a_busy_backend_may_name_the_date_to_come_back(backend: ScriptedModel) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    backend.next(Answer(mode="verbatim", status=503, headers={"Retry-After": date}))

    async with connected(backend.url) as model:
        failure = await fail(model)

    assert isinstance(failure, ModelBusy)
    assert failure.retry_after == pytest.approx(3600, abs=60)


async def test_a_200_that_is_no_event_stream_is_a_failure(backend: ScriptedModel) -> None:
    whole = b'{"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}]}'
    headers = {"Content-Type": "application/json"}
    backend.next(Answer(mode="verbatim", headers=headers, body=whole))

    async with connected(backend.url) as model:
        failure = await fail(model)

    assert type(failure) is ModelFailed
    assert str(failure) == "the answer is no event stream but 'application/json'"

"""OpenAIModel over real sockets: every way a backend answers, and every way it fails to."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from bot.core.chat import FinishDelta, TextDelta, ThinkingDelta, Usage, UsageDelta
from bot.errors import (
    CompletionError,
    ModelBusy,
    ModelFailed,
    ModelLimited,
    ModelRefused,
    ModelRejected,
    ModelStalled,
    ModelUnknown,
    ModelWordless,
    PromptTooLong,
    PromptTooLongForModel,
    Truncated,
)
from tests.deltas import finish_reasons, text_of
from tests.harness.model import CUT_UTF8, ERROR, MALFORMED, Mode, ScriptedAnswer, ScriptedModel
from tests.integration.llm.asking import CARD, KEY, PROMPT, TURNS, ask, connected, fail

pytestmark = pytest.mark.integration


@pytest.fixture
async def backend() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as backend:
        yield backend


async def test_the_deltas_are_the_backends_words(backend: ScriptedModel) -> None:
    backend.next(ScriptedAnswer(text="L'été à\u2028Paris.", comments=True, newline="\r\n"))

    async with connected(backend.url) as model:
        deltas = await ask(model)

    assert deltas == [
        TextDelta("L'été "),
        TextDelta("à\u2028"),
        TextDelta("Paris."),
        FinishDelta("stop"),
        UsageDelta(Usage(prompt_tokens=9, completion_tokens=3)),
    ]


async def test_the_request_holds_the_turns_and_the_cards_settings(backend: ScriptedModel) -> None:
    async with connected(backend.url) as model:
        await ask(model, replace(CARD, temperature=0.2))

    [exchange] = backend.exchanges
    assert exchange.headers["Authorization"] == f"Bearer {KEY}"
    assert exchange.body == {
        "model": "albert-small",
        "messages": [{"role": turn.role, "content": turn.text} for turn in TURNS],
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
    assert "temperature" not in exchange.body
    assert KEY not in exchange.headers["Authorization"]


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_the_finish_reason_is_told(backend: ScriptedModel, reason: str) -> None:
    backend.next(ScriptedAnswer(finish_reason=reason))

    async with connected(backend.url) as model:
        deltas = await ask(model)

    assert finish_reasons(deltas) == [reason]


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
        ("stall", b": ping\n\n", ModelStalled),
    ],
)
async def test_a_stream_that_breaks_off_is_told_after_its_words(
    backend: ScriptedModel, mode: Mode, tail: bytes, error: type[CompletionError]
) -> None:
    read = asyncio.Event()  # a reset may overtake the words before it
    backend.next(ScriptedAnswer(text="one two three", after=2, gate=read, mode=mode, tail=tail))
    patience = 0.5 if error is ModelStalled else 5.0

    async with (
        connected(backend.url, patience=patience) as model,
        aclosing(model.stream(TURNS, CARD)) as deltas,
    ):
        assert [await anext(deltas), await anext(deltas)] == [TextDelta("one "), TextDelta("two ")]
        read.set()
        with pytest.raises(CompletionError) as failure:
            await anext(deltas)

    assert type(failure.value) is error


async def test_a_stream_that_begins_with_no_word_is_told_as_no_answer(
    backend: ScriptedModel,
) -> None:
    thought = b'data: {"choices": [{"delta": {"reasoning_content": "Hm."}}]}\n\n'
    backend.next(ScriptedAnswer(mode="stall", tail=thought))

    async with connected(backend.url, patience=0.5) as model:
        assert type(await fail(model)) is ModelWordless


PING, THOUGHT = b": ping\n\n", b'data: {"choices": [{"delta": {"reasoning_content": "Hm."}}]}\n\n'
NOTHING = b'data: {"choices": [{"delta": {"content": ""}}], "usage": {"prompt_tokens": 9}}\n\n'


@pytest.mark.parametrize("tail", [PING, THOUGHT, NOTHING])
async def test_a_backend_that_never_comes_to_a_word_is_given_ten_times_as_long(
    backend: ScriptedModel, tail: bytes
) -> None:
    backend.next(ScriptedAnswer(mode="drone", tail=tail))
    begun = asyncio.get_running_loop().time()

    async with connected(backend.url, patience=0.2) as model:
        assert type(await fail(model)) is ModelWordless
        await backend.exchanges[0].over.wait()

    assert 1.9 < asyncio.get_running_loop().time() - begun < 10


async def test_each_word_gives_a_backend_as_long_for_the_next(backend: ScriptedModel) -> None:
    text = " ".join(map(str, range(40)))
    backend.next(
        ScriptedAnswer(text=text, tokens_per_second=12, after=40, mode="drone", tail=PING)
    )

    async with (
        connected(backend.url, patience=0.3) as model,
        aclosing(model.stream(TURNS, CARD)) as deltas,
    ):
        words = [await anext(deltas) for _ in range(40)]
        with pytest.raises(ModelStalled):
            await anext(deltas)

    assert text_of(words) == text


async def test_a_backend_that_goes_on_after_the_finish_reason_costs_nothing(
    backend: ScriptedModel,
) -> None:
    done = b'data: {"choices": [{"delta": {"content": ""}, "finish_reason": "stop"}]}\n\n'
    backend.next(ScriptedAnswer(mode="drone", tail=done))

    async with connected(backend.url, patience=0.1) as model:
        deltas = await ask(model)

    assert set(deltas) == {FinishDelta("stop")}


async def test_a_completion_is_asked_for_at_most_half_of_the_context() -> None:
    async with ScriptedModel(max_context_length=100) as backend, connected(backend.url) as model:
        await model.check()
        await ask(model, replace(CARD, id="scripted"))
        await ask(model)

    asked = [exchange.body["max_completion_tokens"] for exchange in backend.exchanges]
    assert asked == [50, CARD.max_tokens]


async def test_a_connection_lost_after_the_finish_reason_costs_nothing(
    backend: ScriptedModel,
) -> None:
    done = b'data: {"choices": [{"delta": {"content": "all"}, "finish_reason": "stop"}]}\n\n'
    backend.next(ScriptedAnswer(mode="close", tail=done))

    async with connected(backend.url) as model:
        assert await ask(model) == [TextDelta("all"), FinishDelta("stop")]


async def test_nothing_is_read_after_done(backend: ScriptedModel) -> None:
    backend.next(ScriptedAnswer(mode="stall", tail=b"data: [DONE]\n\n"))

    async with connected(backend.url) as model:
        assert await ask(model) == []
        await backend.exchanges[0].over.wait()


async def test_closing_the_stream_closes_the_connection(backend: ScriptedModel) -> None:
    backend.next(ScriptedAnswer(text="one two", after=1, mode="stall"))

    async with connected(backend.url) as model:
        async with aclosing(model.stream(TURNS, CARD)) as deltas:
            assert await anext(deltas) == TextDelta("one ")
        await backend.exchanges[0].over.wait()


async def test_cancelling_the_reader_closes_the_connection(backend: ScriptedModel) -> None:
    backend.next(ScriptedAnswer(mode="stall"))

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
        (403, '{"detail": "Invalid API key."}', ModelRefused, ""),
        (404, '{"error": "no such model"}', ModelUnknown, ""),
        (404, '{"detail": "Model not found."}', ModelUnknown, ""),
        (422, '{"detail": "Wrong model type."}', ModelRejected, ""),
        (424, "", ModelRefused, ""),
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
    backend.next(
        ScriptedAnswer(mode="verbatim", status=status, headers=headers, body=body.encode())
    )

    async with connected(backend.url) as model:
        failure = await fail(model)

    assert type(failure) is error
    assert str(failure) == f"the backend answered {status}{reason}"
    assert len(backend.exchanges) == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, '{"error": {"message": "…", "code": "context_length_exceeded"}}'),
        (400, '{"error": {"code": 400, "type": "exceed_context_size_error", "n_ctx": 8192}}'),
        (400, '{"error": {"type": "BadRequestError", "param": "input_tokens", "code": 400}}'),
        (422, '{"error": {"code": "context_length_exceeded"}, "detail": "…"}'),
        (413, "<html>"),
    ],
)
async def test_a_request_that_the_backend_finds_too_long_is_told_by_its_code(
    backend: ScriptedModel, status: int, body: str
) -> None:
    backend.next(ScriptedAnswer(mode="verbatim", status=status, body=body.encode()))

    async with connected(backend.url) as model:
        failure = await fail(model)

    assert type(failure) is PromptTooLongForModel
    assert isinstance(failure, PromptTooLong)
    assert failure.values == {}


@pytest.mark.parametrize(
    "body",
    [
        '{"detail": "context_length_exceeded"}',
        '{"error": {"message": "maximum context length", "type": "BadRequestError"}}',
    ],
)
async def test_free_words_do_not_make_a_request_too_long(
    backend: ScriptedModel, body: str
) -> None:
    backend.next(ScriptedAnswer(mode="verbatim", status=400, body=body.encode()))

    async with connected(backend.url) as model:
        assert type(await fail(model)) is ModelRefused


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
    backend.next(ScriptedAnswer(mode="verbatim", status=status, body=json.dumps(body).encode()))

    async with connected(backend.url) as model:
        failure = await fail(model)

    assert str(failure) == f"the backend answered {status}{told}"
    assert failure.__cause__ is None
    assert failure.__suppress_context__


@pytest.mark.parametrize(
    ("status", "error"), [(429, ModelLimited), (503, ModelBusy), (502, ModelFailed)]
)
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"Retry-After": "9" * 400}, 604_800),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, 604_800),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 +99999999999999999999"}, None),
    ],
)
async def test_a_backend_may_say_when_to_come_back(
    backend: ScriptedModel,
    status: int,
    error: type[CompletionError],
    headers: Mapping[str, str],
    seconds: float | None,
) -> None:
    body = b'{"detail": "10 requests for m per minute exceeded (remaining: 0)."}'
    backend.next(ScriptedAnswer(mode="verbatim", status=status, headers=headers, body=body))

    async with connected(backend.url) as model:
        failure = await fail(model)

    assert type(failure) is error
    assert str(failure) == f"the backend answered {status}"
    assert failure.retry_after == seconds
    assert len(backend.exchanges) == 1


async def test_a_backend_may_name_the_date_to_come_back(backend: ScriptedModel) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    backend.next(ScriptedAnswer(mode="verbatim", status=503, headers={"Retry-After": date}))

    async with connected(backend.url) as model:
        failure = await fail(model)

    assert failure.retry_after == pytest.approx(3600, abs=60)


TOKENS = {"prompt_tokens": 9, "completion_tokens": 3}


@pytest.mark.parametrize(
    "usage",
    [
        TOKENS | {"total_tokens": 12},
        {"prompt_tokens": 9.0, "completion_tokens": 3.0},
        TOKENS | {"prompt_tokens_details": None, "cost": 0.002},
        TOKENS | {"carbon": {"kWh": {"min": 0.1, "max": 0.2}, "kgCO2eq": {"min": 0, "max": None}}},
        TOKENS | {"impacts": {"kWh": 0.1, "kgCO2eq": 0.02}},
        TOKENS | {"details": [{"id": "1", "model": "m", "usage": TOKENS}], "carbon": None},
    ],
)
async def test_the_tokens_are_counted_whatever_else_the_usage_holds(
    backend: ScriptedModel, usage: object
) -> None:
    backend.next(ScriptedAnswer(text="one", usage=usage))

    async with connected(backend.url) as model:
        assert (await ask(model))[-1] == UsageDelta(Usage(9, 3))


@pytest.mark.parametrize(
    "usage",
    ["null", "{}", '"9"', "[]", '{"prompt_tokens": 9.5}', '{"prompt_tokens": -1}', "1e999"],
)
async def test_a_usage_that_cannot_be_read_costs_nothing_but_itself(
    backend: ScriptedModel, usage: str
) -> None:
    whole = f'data: {{"choices": [{{"delta": {{"content": "a"}}}}], "usage": {usage}}}\n\n'
    backend.next(ScriptedAnswer(mode="end", tail=f"{whole}data: [DONE]\n\n".encode()))

    async with connected(backend.url) as model:
        assert await ask(model) == [TextDelta("a")]


async def test_what_a_model_thinks_is_told_apart_from_its_words(backend: ScriptedModel) -> None:
    thought = b'data: {"choices": [{"delta": {"content": null, "reasoning_content": "Hm."}}]}\n\n'
    words = (
        b'data: {"choices": [{"delta": {"content": ["a", {"type": "text", "text": "b"}]}}]}\n\n'
    )
    backend.next(ScriptedAnswer(mode="end", tail=thought + words + b"data: [DONE]\n\n"))

    async with connected(backend.url) as model:
        assert await ask(model) == [ThinkingDelta("Hm."), TextDelta("ab")]


JSON = {"Content-Type": "application/json; charset=utf-8"}


async def test_a_completion_that_is_not_streamed_is_read_as_well(backend: ScriptedModel) -> None:
    choice = {"message": {"role": "assistant", "content": "à\u2028b"}, "finish_reason": "length"}
    whole = json.dumps({"choices": [choice], "usage": TOKENS}, indent=1).encode()
    backend.next(ScriptedAnswer(mode="verbatim", headers=JSON, body=whole))

    async with connected(backend.url) as model:
        assert await ask(model) == [
            TextDelta("à\u2028b"),
            FinishDelta("length"),
            UsageDelta(Usage(9, 3)),
        ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"detail": "Not now."}',
        b'{"error": {"message": "Not now."}}',
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": "a"}}]}',
        b" " * 2 * 1024 * 1024,
    ],
    ids=lambda body: body[:20].decode(),
)
async def test_json_that_is_no_completion_is_a_failure(
    backend: ScriptedModel, body: bytes
) -> None:
    backend.next(ScriptedAnswer(mode="verbatim", headers=JSON, body=body))

    async with connected(backend.url) as model:
        with pytest.raises(ModelFailed):
            await ask(model)


async def test_a_page_is_a_failure(backend: ScriptedModel) -> None:
    backend.next(
        ScriptedAnswer(mode="verbatim", headers={"Content-Type": "text/html"}, body=b"<html>")
    )

    async with connected(backend.url) as model:
        failure = await fail(model)

    assert type(failure) is ModelFailed
    assert str(failure) == "the answer is no event stream but 'text/html'"

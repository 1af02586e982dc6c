"""The table of the backend's faults over real sockets: what is asked again, and what comes of it.

`tests/unit/llm/test_sse.py` cuts streams at every offset.
"""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from bot.errors import (
    CompletionError,
    ModelBusy,
    ModelFailed,
    ModelLimited,
    ModelRefused,
    ModelRejected,
    ModelStalled,
    ModelTimeout,
    ModelUnknown,
    ModelUnreachable,
    ModelWordless,
    Truncated,
)
from bot.llm.client import OpenAIModel
from bot.monitoring.health import Health
from bot.replies.completion import Completions, FallbackPolicy
from tests.deltas import finish_reasons, text_of
from tests.fakes.clock import FakeClock
from tests.harness.model import CUT_UTF8, ERROR, MALFORMED, ScriptedAnswer, ScriptedModel
from tests.harness.network import answering, make_authority
from tests.integration.llm.asking import CARD, TURNS, connected

WORDS = "one two three"
OK = ScriptedAnswer(text=WORDS)
STREAM = {"Content-Type": "text/event-stream"}
CUT_JSON = b'data: {"choices": [{"delta": {"cont'
PING = b": ping\n\n"
LONG_LINE = b"data: " + b"a" * 5 * 1024 * 1024

Fault = tuple[ScriptedAnswer, type[CompletionError]]


def chunk(*choices: object, **rest: object) -> bytes:
    return f"data: {json.dumps({'choices': choices, **rest})}\n\n".encode()


def says(text: str, **rest: object) -> object:
    return {"index": 0, "delta": {"content": text}, **rest}


def status(code: int, body: str = "", **headers: str) -> ScriptedAnswer:
    return ScriptedAnswer(mode="verbatim", status=code, headers=headers, body=body.encode())


def rows(table: dict[str, Fault]) -> Iterable[object]:
    return [pytest.param(*row, id=name) for name, row in table.items()]


class CompletionOutcome:
    """What has come of one answer: its words, how it ended, and what was counted."""

    def __init__(self) -> None:
        self.words = ""
        self.reasons: list[str] = []
        self.error: CompletionError | None = None
        self.clock = FakeClock()
        self.health = Health(clock=self.clock)

    async def ask(self, model: OpenAIModel) -> None:
        completions = Completions(model, self.clock, self.health, FallbackPolicy())
        try:
            async with aclosing(completions.begin(TURNS, CARD).stream()) as deltas:
                async for delta in deltas:
                    self.words += text_of([delta])
                    self.reasons += finish_reasons([delta])
        except CompletionError as error:
            self.error = error

    def failed(self, kind: type[CompletionError]) -> int:
        return int(self.health.figure("assistant_backend_errors_total", kind=kind.__name__))

    def retried(self, kind: type[CompletionError]) -> int:
        return int(self.health.figure("assistant_backend_retries_total", kind=kind.__name__))


async def outcome(url: str, *, patience: float = 5.0) -> CompletionOutcome:
    made = CompletionOutcome()
    async with connected(url, patience=patience) as model:
        await made.ask(model)
    return made


@pytest.fixture
async def backend() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel(default=OK) as backend:
        yield backend


PASSING: dict[str, Fault] = {
    "429 in Albert's shape": (
        status(429, '{"detail": "10 requests for m per minute exceeded (remaining: 0)."}'),
        ModelLimited,
    ),
    "500": (status(500, '{"detail": "Internal Server Error"}'), ModelFailed),
    "502 html": (status(502, "<html><h1>502</h1></html>"), ModelFailed),
    "503": (status(503, '{"detail": "Model is too busy."}', **{"Retry-After": "10"}), ModelBusy),
    "504": (status(504), ModelFailed),
    "a page": (status(200, "<html>", **{"Content-Type": "text/html"}), ModelFailed),
    "empty body": (ScriptedAnswer(mode="verbatim", headers=STREAM), Truncated),
    "stall before any byte": (ScriptedAnswer(mode="mute"), ModelTimeout),
    "reset before the first token": (ScriptedAnswer(mode="reset", tail=PING), Truncated),
    "clean close without [DONE]": (ScriptedAnswer(mode="end"), Truncated),
    "chunked without terminator": (ScriptedAnswer(mode="close"), Truncated),
    "cut inside UTF-8": (ScriptedAnswer(mode="close", tail=CUT_UTF8), Truncated),
    "cut inside JSON": (ScriptedAnswer(mode="close", tail=CUT_JSON), Truncated),
    "malformed chunk": (ScriptedAnswer(mode="end", tail=MALFORMED), ModelFailed),
    "5 MB line": (ScriptedAnswer(mode="end", tail=LONG_LINE), ModelFailed),
    "error object in the stream": (ScriptedAnswer(mode="end", tail=ERROR), ModelFailed),
}
LASTING: dict[str, Fault] = {
    "400": (status(400, '{"detail": "Insufficient budget."}'), ModelRefused),
    "401": (status(401), ModelRefused),
    "403": (status(403, '{"detail": "Invalid API key."}'), ModelRefused),
    "404": (status(404, '{"detail": "Model not found."}'), ModelUnknown),
    "422": (status(422, '{"detail": "Wrong model type."}'), ModelRejected),
    "stall before the first token": (ScriptedAnswer(mode="stall"), ModelWordless),
}
BREAKING: dict[str, Fault] = {
    "stall": (ScriptedAnswer(mode="stall"), ModelStalled),
    "reset": (ScriptedAnswer(mode="reset", tail=PING), Truncated),
    "clean close without [DONE]": (ScriptedAnswer(mode="end"), Truncated),
    "chunked without terminator": (ScriptedAnswer(mode="close"), Truncated),
    "cut inside UTF-8": (ScriptedAnswer(mode="close", tail=CUT_UTF8), Truncated),
    "cut inside JSON": (ScriptedAnswer(mode="close", tail=CUT_JSON), Truncated),
    "malformed chunk": (ScriptedAnswer(mode="end", tail=MALFORMED), ModelFailed),
    "5 MB line": (ScriptedAnswer(mode="end", tail=LONG_LINE), ModelFailed),
    "error object in the stream": (ScriptedAnswer(mode="end", tail=ERROR), ModelFailed),
}
# What a stream may hold besides words, and still be whole.
ODD = {
    "unknown fields": chunk(says(WORDS, logprobs=None, x=[{}]), id=3, x_search=[{"url": "x"}]),
    "null delta": chunk({"index": 0, "delta": None}) + chunk(says(WORDS)),
    "null content": chunk({"index": 0, "delta": {"content": None}}) + chunk(says(WORDS)),
    "two choices": chunk({"index": 1, "delta": {"content": "no"}}, says(WORDS)),
    "usage only": chunk(usage={"prompt_tokens": 3}) + chunk(says(WORDS)),
    "comment lines": PING * 1000 + chunk(says(WORDS)) + PING,
    "CRLF": chunk(says(WORDS)).replace(b"\n", b"\r\n") + b": ping\r\n\r\n",
    "[DONE] twice": chunk(says(WORDS)) + b"data: [DONE]\n\n",
}
HANGING = {ModelTimeout, ModelStalled, ModelWordless}


@pytest.mark.parametrize(("fault", "kind"), rows(PASSING))
async def test_twice_before_the_first_word_costs_nothing_but_time(
    backend: ScriptedModel, fault: ScriptedAnswer, kind: type[CompletionError]
) -> None:
    backend.next(fault, fault)

    got = await outcome(backend.url, patience=0.5 if kind in HANGING else 5.0)

    assert (got.words, got.error) == (WORDS, None)
    assert len(backend.exchanges) == 3
    assert got.failed(kind) == got.retried(kind) == 2


@pytest.mark.parametrize(("fault", "kind"), rows(PASSING))
async def test_for_good_before_the_first_word_is_told_after_three_requests(
    backend: ScriptedModel, fault: ScriptedAnswer, kind: type[CompletionError]
) -> None:
    backend.when("", fault)

    got = await outcome(backend.url, patience=0.3 if kind in HANGING else 5.0)

    assert type(got.error) is kind
    assert got.words == ""
    assert len(backend.exchanges) == 3 or kind is ModelLimited
    assert len(backend.exchanges) <= 6


@pytest.mark.parametrize(("fault", "kind"), rows(LASTING))
async def test_no_second_request_would_help(
    backend: ScriptedModel, fault: ScriptedAnswer, kind: type[CompletionError]
) -> None:
    backend.next(fault)

    got = await outcome(backend.url, patience=0.3 if kind in HANGING else 5.0)

    assert type(got.error) is kind
    assert len(backend.exchanges) == got.failed(kind) == 1


@pytest.mark.parametrize(("fault", "kind"), rows(BREAKING))
async def test_after_the_first_word_keeps_the_words_and_asks_no_more(
    backend: ScriptedModel, fault: ScriptedAnswer, kind: type[CompletionError]
) -> None:
    # A pause after each word: a reset may overtake what comes right before it.
    backend.next(replace(fault, text=WORDS, after=2, tokens_per_second=20))

    got = await outcome(backend.url, patience=0.5 if kind in HANGING else 5.0)

    assert got.words == "one two "
    assert type(got.error) is kind
    assert len(backend.exchanges) == got.failed(kind) == 1


@pytest.mark.parametrize("tail", [pytest.param(tail, id=name) for name, tail in ODD.items()])
async def test_in_a_stream_costs_nothing(backend: ScriptedModel, tail: bytes) -> None:
    backend.next(ScriptedAnswer(mode="end", tail=tail + b"data: [DONE]\n\n"))

    got = await outcome(backend.url)

    assert (got.words, got.error) == (WORDS, None)
    assert len(backend.exchanges) == 1


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_finish_reason_ends_an_answer_and_is_told(
    backend: ScriptedModel, reason: str
) -> None:
    backend.next(ScriptedAnswer(text=WORDS, finish_reason=reason))

    got = await outcome(backend.url)

    assert (got.words, got.error, got.reasons) == (WORDS, None, [reason])
    assert len(backend.exchanges) == 1


async def test_refused_is_tried_three_times_and_then_told(backend: ScriptedModel) -> None:
    await backend.stop()

    got = await outcome(backend.url)

    assert type(got.error) is ModelUnreachable
    assert got.failed(ModelUnreachable) == 3


async def test_dns_is_tried_three_times_and_then_told() -> None:
    got = await outcome("http://nowhere.invalid/v1")

    assert type(got.error) is ModelUnreachable
    assert got.failed(ModelUnreachable) == 3


async def test_tls_is_tried_three_times_and_then_told(tmp_path: Path) -> None:
    context = make_authority(tmp_path / "nobody trusts.pem")
    async with ScriptedModel(ssl_context=context) as backend:
        got = await outcome(backend.url)

    assert type(got.error) is ModelUnreachable
    assert got.failed(ModelUnreachable) == 3
    assert backend.exchanges == []


async def test_no_http_is_tried_three_times_and_then_told() -> None:
    async with answering(b"220 smtp\r\n\r\n") as url:
        got = await outcome(url)

    assert type(got.error) is ModelFailed
    assert got.failed(ModelFailed) == 3

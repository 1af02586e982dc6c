"""The JSON objects of a chat completion: chunks, their increments, errors.

The fields are those of https://platform.openai.com/docs/api-reference/chat/streaming, and those
that other backends are known to add.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from bot.core.chat import Delta, ThinkingDelta, ToolCallDelta, Usage

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # of decoding JSON
MOST_TOKENS: Final = 100_000_000  # no model takes so many: a larger count is an error
_CODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_NULL: Final = msgspec.Raw(b"null")


class ErrorObject(msgspec.Struct):
    """The OpenAI API's `error`, inside a stream or as the body of a 4xx or 5xx.

    `message` is left out: many backends quote the conversation in it.
    """

    type: str | int | None = None
    code: str | int | None = None
    param: str | int | None = None

    @property
    def codes(self) -> list[str]:
        """The error's type, code and parameter, as far as they are safe to log."""
        return loggable(one for one in (self.type, self.code, self.param) if one is not None)


def loggable(values: Iterable[str | int]) -> list[str]:
    """Return the codes and names of fields: a sentence may quote the conversation."""
    return [str(value) for value in values if _CODE.fullmatch(str(value))]


def describe(error: ErrorObject | str | None) -> str:
    """Return the error's codes in brackets for a log line, "" if there are none."""
    codes = error.codes if isinstance(error, ErrorObject) else []
    return f" ({', '.join(codes)})" if codes else ""


class Part(msgspec.Struct):
    """One part of a content that is a list, as Mistral's reasoning models send it.

    https://docs.mistral.ai/capabilities/reasoning
    """

    text: str | None = None
    thinking: msgspec.Raw = _NULL


class Function(msgspec.Struct):
    """The `function` of a tool call."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    """A piece of a tool call; a completion that is not streamed has whole ones, without index."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None


class Increment(msgspec.Struct):
    """The `delta` of a choice.

    Reasoning and tool calls are decoded apart, as their shape varies: a shape that is not known
    must not cost the text beside it.
    """

    content: str | list[str | Part] | None = None
    reasoning_content: msgspec.Raw = _NULL
    reasoning: msgspec.Raw = _NULL
    tool_calls: msgspec.Raw = _NULL

    @property
    def text(self) -> str:
        """The text of the content."""
        return self.content if isinstance(self.content, str) else _join(self.content or ())


class Choice(msgspec.Struct):
    """One choice; a completion that is not streamed has `message` in place of `delta`."""

    index: int = 0
    delta: Increment | None = None
    message: Increment | None = None
    finish_reason: str | None = None

    @property
    def increment(self) -> Increment:
        """What the chunk adds to this choice."""
        return self.delta or self.message or _NO_INCREMENT


class Chunk(msgspec.Struct):
    """One chunk, or a whole completion that is not streamed.

    `usage` is decoded apart: an odd count must not cost the text beside it.
    """

    choices: list[Choice] | None = None
    usage: msgspec.Raw = _NULL
    error: ErrorObject | str | None = None
    detail: object = None  # FastAPI's name for an error

    @property
    def first_choice(self) -> Choice:
        """The choice of index 0; no request asks for more than one."""
        for choice in self.choices or ():
            if choice.index == 0:
                return choice
        return _NO_CHOICE


class _Usage(msgspec.Struct):
    """Whole numbers, though some backends write them as 3.0."""

    prompt_tokens: float | None = None
    completion_tokens: float | None = None


_NO_CHOICE: Final = Choice()
_NO_INCREMENT: Final = Increment()
decode_chunk: Final = msgspec.json.Decoder(Chunk).decode
_decode_usage: Final = msgspec.json.Decoder(_Usage | None).decode
_decode_text: Final = msgspec.json.Decoder(str).decode
_decode_thinking: Final = msgspec.json.Decoder(str | list[str | Part]).decode
_decode_tool_calls: Final = msgspec.json.Decoder(list[ToolCall] | None).decode


def read_beside_text(increment: Increment, deltas: list[Delta]) -> int:
    """Add the deltas of reasoning and tool calls to `deltas`; return their length in characters.

    Some backends send the same reasoning under both names: it counts once.
    """
    length, thinking = max(
        _reasoning(increment.reasoning_content), _reasoning(increment.reasoning)
    )
    if isinstance(increment.content, list):
        for part in increment.content:
            if isinstance(part, Part) and part.thinking is not _NULL:
                length += _reasoning(part.thinking)[0]
                thinking += _thinking(part.thinking)
    if thinking:
        deltas.append(ThinkingDelta(thinking))
    if increment.tool_calls is not _NULL:
        for call in _tool_calls(increment.tool_calls):
            length += len(call.arguments)
            deltas.append(call)
    return length


def read_usage(raw: msgspec.Raw) -> Usage | None:
    """Return the backend's count, None if it is missing or makes no sense."""
    if raw is _NULL:
        return None
    try:
        usage = _decode_usage(raw)
    except UNREADABLE:
        return None
    if usage is None or usage == _Usage():
        return None
    counts = [usage.prompt_tokens or 0.0, usage.completion_tokens or 0.0]
    valid = all(0 <= count <= MOST_TOKENS and count.is_integer() for count in counts)
    return Usage(*map(int, counts)) if valid else None


def _reasoning(raw: msgspec.Raw) -> tuple[int, str]:
    """Return the length and the text of a reasoning field.

    A JSON string has characters; anything else counts by its bytes and has no text.
    """
    if raw is _NULL or raw == _NULL:
        return 0, ""
    try:
        text = _decode_text(raw)
    except UNREADABLE:
        return len(memoryview(raw)), ""
    return len(text), text


def _thinking(raw: msgspec.Raw) -> str:
    """Return the text of a part's `thinking`, "" if its shape is not known."""
    try:
        thinking = _decode_thinking(raw)
    except UNREADABLE:
        return ""
    return thinking if isinstance(thinking, str) else _join(thinking)


def _tool_calls(raw: msgspec.Raw) -> list[ToolCallDelta]:
    """Return the pieces of tool calls, none if their shape is not known."""
    try:
        calls = _decode_tool_calls(raw) or ()
    except UNREADABLE:
        return []
    return [
        ToolCallDelta(
            position if call.index is None else call.index,
            call.id or "",
            (call.function and call.function.name) or "",
            (call.function and call.function.arguments) or "",
        )
        for position, call in enumerate(calls)
    ]


def _join(parts: Sequence[str | Part]) -> str:
    return "".join(part if isinstance(part, str) else part.text or "" for part in parts)

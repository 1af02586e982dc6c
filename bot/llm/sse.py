"""The event stream of a chat completion: bytes, cut anywhere, become deltas."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from bot.core.chat import (
    Delta,
    FinishDelta,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    Usage,
    UsageDelta,
)
from bot.errors import ModelFailed, Truncated

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # of decoding JSON
MAX_EVENT: Final = 1024 * 1024  # bytes
MOST_TOKENS: Final = 100_000_000  # more than any model takes; what counts more is in error
_WORD: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_NULL: Final = msgspec.Raw(b"null")


class ErrorObject(msgspec.Struct):
    """The OpenAI API's `error`, inside a stream or as the body of a 4xx or 5xx.

    `message` is no field here: many a backend repeats in it what was said to it, or by it.
    """

    type: str | int | None = None
    code: str | int | None = None
    param: str | int | None = None

    @property
    def words(self) -> list[str]:
        """The error's type, code and parameter, as far as they are plain words."""
        return plain(word for word in (self.type, self.code, self.param) if word is not None)


def plain(words: Iterable[str | int]) -> list[str]:
    """Return those that are safe to log: codes and names of fields, never a sentence."""
    return [str(word) for word in words if _WORD.fullmatch(str(word))]


def named(error: ErrorObject | str | None) -> str:
    """Return the error's plain words for a log line, "" where there are none."""
    words = error.words if isinstance(error, ErrorObject) else []
    return f" ({', '.join(words)})" if words else ""


class _Part(msgspec.Struct):
    """One part of a content that is a list, as Mistral's reasoning models send it.

    https://docs.mistral.ai/capabilities/reasoning
    """

    text: str | None = None
    thinking: msgspec.Raw = _NULL


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    """A piece of a tool call; a completion that is not streamed has whole ones, without index."""

    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _ChoiceDelta(msgspec.Struct):
    """The increment.

    Reasoning and tool calls are read apart, as their shape varies: one that is not known must not
    cost the text beside it.
    """

    content: str | list[str | _Part] | None = None
    reasoning_content: msgspec.Raw = _NULL
    reasoning: msgspec.Raw = _NULL
    tool_calls: msgspec.Raw = _NULL


class _Choice(msgspec.Struct):
    """`message` stands where `delta` does in a completion that is not streamed."""

    index: int = 0
    delta: _ChoiceDelta | None = None
    message: _ChoiceDelta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    """Whole numbers, though some backends write them as 3.0."""

    prompt_tokens: float | None = None
    completion_tokens: float | None = None


class _Chunk(msgspec.Struct):
    """`usage` is read apart: a reply is worth more than its count."""

    choices: list[_Choice] | None = None
    usage: msgspec.Raw = _NULL
    error: ErrorObject | str | None = None
    detail: object = None  # FastAPI's name for an error


_NO_CHOICE: Final = _Choice()
_NO_INCREMENT: Final = _ChoiceDelta()
_decode: Final = msgspec.json.Decoder(_Chunk).decode
_decode_usage: Final = msgspec.json.Decoder(_Usage | None).decode
_decode_text: Final = msgspec.json.Decoder(str).decode
_decode_thinking: Final = msgspec.json.Decoder(str | list[str | _Part]).decode
_decode_tool_calls: Final = msgspec.json.Decoder(list[_ToolCall] | None).decode


class CompletionStream:
    """One `text/event-stream` (HTML, section 9.2.6), read as it comes.

    Attributes:
        begun: there were words to pass on.
        finished: the model said that it is done, by a `finish_reason` or by `[DONE]`; words that
            come behind that are ignored.
        cut: the completion was longer than one may be.
        done: nothing is left to read: `[DONE]` has come, or the completion was cut.
    """

    def __init__(self, longest: float = math.inf) -> None:
        """Prepare to read.

        Args:
            longest: characters that a completion may have, thoughts included, which are not
                passed on, and as many chunks. What has more is cut there, and ends with the
                reason "length".
        """
        self._characters = self._chunks = longest  # that may still come
        self.begun = False
        self.finished = False
        self.cut = False
        self.done = False
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._after_cr = False

    def feed(self, data: bytes) -> Iterator[Delta]:
        """Yield the deltas that `data` completes; an error in the stream raises ModelFailed."""
        if not data:
            return
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
        self._after_cr = data.endswith(b"\r")
        *ends, rest = _LINE_END.split(data)
        for end in ends:
            if self.done:
                return
            self._append(end)
            line = bytes(self._line)
            self._line.clear()
            if line:
                self._read_field(line)
            else:
                yield from self._dispatch()
        self._append(rest)

    def read_whole(self, completion: bytes) -> list[Delta]:
        """Return the deltas of a completion that is not streamed; ModelFailed for all else."""
        deltas = self._read_chunk(completion)
        if not self.finished:
            raise ModelFailed("the answer is neither an event stream nor a completion")
        return deltas

    def close(self) -> None:
        """Raise Truncated where the bytes have ended before the model was done."""
        if not self.finished:
            raise Truncated("the stream ended without finish_reason and without [DONE]")

    def _append(self, piece: bytes) -> None:
        self._line += piece
        self._size += len(piece)
        if self._size > MAX_EVENT:
            raise ModelFailed(f"the stream holds an event of more than {MAX_EVENT} bytes")

    def _read_field(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
        else:
            self._size -= len(line)  # a comment or another field is not kept

    def _dispatch(self) -> Sequence[Delta]:
        event = b"\n".join(self._data).strip()
        self._data.clear()
        self._size = 0
        if event == b"[DONE]":
            self.finished = self.done = True
        elif event:
            return self._read_chunk(event)
        return ()

    def _read_chunk(self, event: bytes) -> list[Delta]:
        try:
            chunk = _decode(event)
        except UNREADABLE as error:
            # `from None`: a UnicodeDecodeError holds the bytes, which are the reply's words.
            raise ModelFailed(f"an event is no chat completion chunk: {error}") from None
        if chunk.error is not None or chunk.detail is not None:
            raise ModelFailed(f"the stream holds an error{named(chunk.error)}")
        deltas = [] if self.finished else self._read_choice(chunk)
        usage = _usage(chunk.usage)
        if usage is not None:
            deltas.append(UsageDelta(usage))
        return deltas

    def _read_choice(self, chunk: _Chunk) -> list[Delta]:
        """Return the deltas of the first choice; only one choice is ever asked for.

        What is longer than a completion may be is cut.
        """
        choice = next((one for one in chunk.choices or () if one.index == 0), _NO_CHOICE)
        increment = choice.delta or choice.message or _NO_INCREMENT
        deltas: list[Delta] = []
        left = self._characters - _read_aside(increment, deltas)
        text, reason = _text(increment.content), choice.finish_reason
        self._characters = left - len(text)
        self._chunks -= 1
        if self._characters < 0 or self._chunks < 0:
            self.cut = self.done = True
            deltas.clear()
            text, reason = text[: max(int(left), 0)], "length"
        if text:
            self.begun = True
            deltas.append(TextDelta(text))
        if reason:
            self.finished = True
            deltas.append(FinishDelta(reason))
        return deltas


def _read_aside(increment: _ChoiceDelta, deltas: list[Delta]) -> int:
    """Add the deltas of what is no text, and return how many characters it has."""
    length, thinking = max(
        _reasoning(increment.reasoning_content), _reasoning(increment.reasoning)
    )
    if isinstance(increment.content, list):
        for part in increment.content:
            if isinstance(part, _Part) and part.thinking is not _NULL:
                length += _reasoning(part.thinking)[0]
                thinking += _thinking(part.thinking)
    if thinking:
        deltas.append(ThinkingDelta(thinking))
    if increment.tool_calls is not _NULL:
        for call in _tool_calls(increment.tool_calls):
            length += len(call.arguments)
            deltas.append(call)
    return length


def _reasoning(raw: msgspec.Raw) -> tuple[int, str]:
    """Return the length and the text of a reasoning field.

    Of a JSON string it is its characters; of anything else its bytes, and no text.
    """
    if raw is _NULL or raw == _NULL:
        return 0, ""
    try:
        text = _decode_text(raw)
    except UNREADABLE:
        return len(memoryview(raw)), ""
    return len(text), text


def _thinking(raw: msgspec.Raw) -> str:
    """Return the text of a part's `thinking`, "" where its shape is not known."""
    try:
        return _text(_decode_thinking(raw))
    except UNREADABLE:
        return ""


def _tool_calls(raw: msgspec.Raw) -> list[ToolCallDelta]:
    """Return the pieces of tool calls, none where their shape is not known."""
    try:
        calls = _decode_tool_calls(raw) or ()
    except UNREADABLE:
        return []
    return [
        ToolCallDelta(
            number if call.index is None else call.index,
            call.id or "",
            (call.function and call.function.name) or "",
            (call.function and call.function.arguments) or "",
        )
        for number, call in enumerate(calls)
    ]


def _usage(raw: msgspec.Raw) -> Usage | None:
    """Return the backend's count, None where it is missing or makes no sense."""
    if raw is _NULL:
        return None
    try:
        usage = _decode_usage(raw)
    except UNREADABLE:
        return None
    if usage is None or usage == _Usage():
        return None
    counts = [usage.prompt_tokens or 0.0, usage.completion_tokens or 0.0]
    whole = all(0 <= count <= MOST_TOKENS and count.is_integer() for count in counts)
    return Usage(*map(int, counts)) if whole else None


def _text(content: str | Sequence[str | _Part] | None) -> str:
    if isinstance(content, str):
        return content
    parts = content or ()
    return "".join(part if isinstance(part, str) else part.text or "" for part in parts)

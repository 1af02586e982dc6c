"""The event stream of a chat completion: bytes, cut anywhere, become deltas."""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from bot.core.chat import Delta, Usage
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
    """One part of a content that is a list; Mistral's models think in such parts."""

    text: str | None = None
    thinking: msgspec.Raw = _NULL


class _ChoiceDelta(msgspec.Struct):
    """The increment; a model's thoughts are not shown, only counted, whatever their shape."""

    content: str | list[str | _Part] | None = None
    reasoning_content: msgspec.Raw = _NULL
    reasoning: msgspec.Raw = _NULL

    @property
    def thoughts(self) -> int:
        """The characters of the thoughts; some backends send them under both names."""
        beside = max(_length(self.reasoning_content), _length(self.reasoning))
        if not isinstance(self.content, list):
            return beside
        parts = [part for part in self.content if isinstance(part, _Part)]
        return beside + sum(_length(part.thinking) for part in parts)


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


_decode: Final = msgspec.json.Decoder(_Chunk).decode
_decode_usage: Final = msgspec.json.Decoder(_Usage | None).decode
_decode_text: Final = msgspec.json.Decoder(str).decode


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

    def read_whole(self, completion: bytes) -> Iterator[Delta]:
        """Yield the one delta of a completion that is not streamed; ModelFailed for all else."""
        yield from self._read_chunk(completion)
        if not self.finished:
            raise ModelFailed("the answer is neither an event stream nor a completion")

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

    def _dispatch(self) -> Iterator[Delta]:
        event = b"\n".join(self._data).strip()
        self._data.clear()
        self._size = 0
        if event == b"[DONE]":
            self.finished = self.done = True
        elif event:
            yield from self._read_chunk(event)

    def _read_chunk(self, event: bytes) -> Iterator[Delta]:
        try:
            chunk = _decode(event)
        except UNREADABLE as error:
            # `from None`: a UnicodeDecodeError holds the bytes, which are the reply's words.
            raise ModelFailed(f"an event is no chat completion chunk: {error}") from None
        if chunk.error is not None or chunk.detail is not None:
            raise ModelFailed(f"the stream holds an error{named(chunk.error)}")
        usage = _usage(chunk.usage)
        delta = Delta(usage=usage) if self.finished else self._increment(chunk, usage)
        if delta.finish_reason:
            self.finished = True
        if delta.text:
            self.begun = True
        if delta != Delta():
            yield delta

    def _increment(self, chunk: _Chunk, usage: Usage | None) -> Delta:
        """Return the first choice's increment; only one choice is ever asked for.

        What is longer than a completion may be is cut.
        """
        choice = next((choice for choice in chunk.choices or () if choice.index == 0), _Choice())
        said = choice.delta or choice.message or _ChoiceDelta()
        text = _text(said.content)
        left = self._characters - said.thoughts
        self._characters = left - len(text)
        self._chunks -= 1
        if min(self._characters, self._chunks) < 0:
            self.cut = self.done = True
            return Delta(text[: max(int(left), 0)], "length", usage)
        return Delta(text, choice.finish_reason or None, usage)


def _length(raw: msgspec.Raw) -> int:
    """Return the characters of a JSON string, the bytes of what is none."""
    if raw is _NULL or raw == _NULL:
        return 0
    try:
        return len(_decode_text(raw))
    except UNREADABLE:
        return len(memoryview(raw))


def _usage(raw: msgspec.Raw) -> Usage | None:
    """Return the backend's count, None where it is missing or makes no sense."""
    try:
        usage = _decode_usage(raw)
    except UNREADABLE:
        return None
    if usage is None or usage == _Usage():
        return None
    counts = [usage.prompt_tokens or 0.0, usage.completion_tokens or 0.0]
    whole = all(0 <= count <= MOST_TOKENS and count.is_integer() for count in counts)
    return Usage(*map(int, counts)) if whole else None


def _text(content: str | list[str | _Part] | None) -> str:
    if isinstance(content, list):
        return "".join(part if isinstance(part, str) else part.text or "" for part in content)
    return content or ""

"""The event stream of a chat completion: bytes, cut anywhere, become deltas."""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from bot.core.events import Delta, Usage
from bot.errors import ModelFailed, Truncated

_MAX_EVENT: Final = 1024 * 1024
_WORD: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")


class ErrorObject(msgspec.Struct):
    """The OpenAI API's `error`, inside a stream or as the body of a 4xx or 5xx.

    `message` is no field here: many a backend repeats in it what was said to it, or by it.
    """

    type: str | int | None = None
    code: str | int | None = None


def named(error: ErrorObject | str | None) -> str:
    """Return the error's type and code for a log line, "" where neither is a plain word."""
    if not isinstance(error, ErrorObject):
        return ""
    words = [str(word) for word in (error.type, error.code) if word is not None]
    plain = [word for word in words if _WORD.fullmatch(word)]
    return f" ({', '.join(plain)})" if plain else ""


class _Part(msgspec.Struct):
    text: str | None = None


class _ChoiceDelta(msgspec.Struct):
    """`reasoning_content` is no field here: a model's thoughts are not shown."""

    content: str | list[str | _Part] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _ChoiceDelta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: ErrorObject | str | None = None


_decode: Final = msgspec.json.Decoder(_Chunk).decode


class CompletionStream:
    """One `text/event-stream` (HTML, section 9.2.6), read as it comes.

    Attributes:
        finished: the model said that it is done, by a `finish_reason` or by `[DONE]`.
        done: `[DONE]` has come: nothing is left to read.
    """

    def __init__(self) -> None:
        self.finished = False
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

    def close(self) -> None:
        """Raise Truncated where the bytes have ended before the model was done."""
        if not self.finished:
            raise Truncated("the stream ended without finish_reason and without [DONE]")

    def _append(self, piece: bytes) -> None:
        self._line += piece
        self._size += len(piece)
        if self._size > _MAX_EVENT:
            raise ModelFailed(f"the stream holds an event of more than {_MAX_EVENT} bytes")

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
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            # `from None`: a UnicodeDecodeError holds the bytes, which are the reply's words.
            raise ModelFailed(f"an event is no chat completion chunk: {error}") from None
        if chunk.error is not None:
            raise ModelFailed(f"the stream holds an error{named(chunk.error)}")
        delta = _to_delta(chunk)
        if delta.finish_reason:
            self.finished = True
        if delta != Delta():
            yield delta


def _to_delta(chunk: _Chunk) -> Delta:
    """Return the first choice's increment; only one choice is ever asked for."""
    choice = next((choice for choice in chunk.choices or () if choice.index == 0), _Choice())
    return Delta(
        text=_text(choice.delta.content) if choice.delta else "",
        finish_reason=choice.finish_reason or None,
        usage=_usage(chunk.usage) if chunk.usage else None,
    )


def _usage(usage: _Usage) -> Usage:
    return Usage(usage.prompt_tokens or 0, usage.completion_tokens or 0)


def _text(content: str | list[str | _Part] | None) -> str:
    if isinstance(content, list):
        return "".join(part if isinstance(part, str) else part.text or "" for part in content)
    return content or ""

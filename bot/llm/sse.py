"""The event stream of a chat completion: bytes, cut anywhere, become deltas.

The SDK decodes such streams as well, and its decoder is not used, for three reasons. It builds a
pydantic model of the whole chunk for each token of a reply, of which two or three fields are read
here; decoded by msgspec into those fields alone, a chunk costs a fraction of that. It bounds
neither an event nor a line (https://github.com/openai/openai-python/pull/3687), so that one
backend could fill the memory. And it does not tell a stream that was cut from one that ended.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Final

from bot.core.chat import Delta, FinishDelta, TextDelta, UsageDelta
from bot.errors import ModelFailed, Truncated
from bot.llm.chunks import (
    UNREADABLE,
    Chunk,
    decode_chunk,
    describe,
    read_beside_text,
    read_usage,
)

MAX_EVENT: Final = 1024 * 1024  # bytes
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")


class CompletionStream:
    """One `text/event-stream`, read as it arrives.

    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation

    Attributes:
        begun: whether there was text.
        finished: whether the model has said that it is done, by a `finish_reason` or `[DONE]`;
            text after that is ignored.
        cut: whether the completion was longer than one may be.
        done: whether nothing is left to read: `[DONE]` has come, or the completion was cut.
    """

    def __init__(self, longest: float = math.inf) -> None:
        """Prepare to read.

        Args:
            longest: characters that a completion may have, reasoning and tool calls included, and
                as many chunks. A longer one is cut there, and its finish reason is "length".
        """
        self._characters_left = self._chunks_left = longest
        self.begun = False
        self.finished = False
        self.cut = False
        self.done = False
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0  # bytes of the event so far
        self._after_cr = False

    def feed(self, data: bytes) -> Iterator[Delta]:
        """Yield the deltas that `data` completes.

        Raises:
            ModelFailed: the stream holds an error, is malformed, or an event is too large.
        """
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

    def read_whole(self, completion: bytes) -> Sequence[Delta]:
        """Return the deltas of a completion that is not streamed.

        Raises:
            ModelFailed: it is anything else.
        """
        deltas = self._read_chunk(completion)
        if not self.finished:
            raise ModelFailed("the answer is neither an event stream nor a completion")
        return deltas

    def close(self) -> None:
        """Report the end of the bytes.

        Raises:
            Truncated: the model was not done.
        """
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
            chunk = decode_chunk(event)
        except UNREADABLE as error:
            # `from None`: a UnicodeDecodeError holds the bytes, which are the reply's words.
            raise ModelFailed(f"an event is no chat completion chunk: {error}") from None
        if chunk.error is not None or chunk.detail is not None:
            raise ModelFailed(f"the stream holds an error{describe(chunk.error)}")
        deltas = [] if self.finished else self._read_choice(chunk)
        usage = read_usage(chunk.usage)
        if usage is not None:
            deltas.append(UsageDelta(usage))
        return deltas

    def _read_choice(self, chunk: Chunk) -> list[Delta]:
        """Return the deltas of the first choice, cut where the completion becomes too long."""
        choice = chunk.first_choice
        increment = choice.increment
        deltas: list[Delta] = []
        left = self._characters_left - read_beside_text(increment, deltas)
        text, reason = increment.text, choice.finish_reason
        self._characters_left = left - len(text)
        self._chunks_left -= 1
        if self._characters_left < 0 or self._chunks_left < 0:
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

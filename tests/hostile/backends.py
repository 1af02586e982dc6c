"""Backends that misbehave, each as the bytes of its answer: without an end, too large, or lying.

As a program it serves one of them until its stdin closes, at the address that it prints as its
one line: `python -m tests.hostile.backends endless/words`.
"""

import asyncio
import gzip
import json
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import chain, repeat

from tests.harness.network import listening

SECRET = "le-patient-Durand"  # what must never be in a log
PARAGRAPH = "L'agent dépose **son dossier** au guichet n° 3, puis il attend. " * 6 + "\n\n"

_PIECE = 64 * 1024

Body = Callable[[], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Backend:
    """What every request is answered with, until the client leaves.

    Attributes:
        body: pieces, as they are written; it may have no end.
        content_type: None for no such header.
        headers: lines behind the status line, without their line ends; they may have no end.
        ends: whether the connection is closed behind the body, or stays open without a byte.
    """

    body: Body = tuple
    status: str = "200 OK"
    content_type: str | None = "text/event-stream"
    headers: Callable[[], Iterable[str]] = tuple
    ends: bool = True


def event(**delta: object) -> bytes:
    """Return a chunk of a completion."""
    return _chunk({"index": 0, "delta": delta})


def finish(reason: str, **rest: object) -> bytes:
    """Return the chunk that says that the model is done."""
    return _chunk({"index": 0, "delta": {}, "finish_reason": reason, **rest})


def _chunk(*choices: object) -> bytes:
    return b"data: " + json.dumps({"choices": choices}, ensure_ascii=False).encode() + b"\n\n"


def _together(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the pieces without an end, many in one write: as fast as they are taken."""
    once = b"".join(pieces)
    return repeat(once * (1 + _PIECE // len(once)))


def words(text: str = PARAGRAPH, size: int = 4) -> Iterator[bytes]:
    """Yield a completion that goes on for ever, some characters a chunk."""
    return _together(
        event(content=text[start : start + size]) for start in range(0, len(text), size)
    )


def many_words(characters: int = 3_000_000) -> Iterator[bytes]:
    """Yield a completion of so many characters, and its end."""
    once = b"".join(event(content=PARAGRAPH[at : at + 4]) for at in range(0, len(PARAGRAPH), 4))
    yield from repeat(once, characters // len(PARAGRAPH))
    yield finish("stop") + b"data: [DONE]\n\n"


def _gzipped(piece: bytes, times: int | None = 1024) -> Iterator[bytes]:
    """Yield what unpacks to so many MB, None for an endless lot: a thousand times its size."""
    packer = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    yield packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    # What a full flush ends may stand there any number of times.
    block = piece * (1024 * 1024 // len(piece))
    once = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    yield from repeat(once) if times is None else repeat(once, times)


def _twice_gzipped() -> Iterator[bytes]:
    yield gzip.compress(b"".join(_gzipped(b" ")), 9)


def _long(before: bytes, piece: bytes, after: bytes, size: int = 100 * 1024 * 1024) -> Body:
    return lambda: chain([before], repeat(piece * (_PIECE // len(piece)), size // _PIECE), [after])


_TEXT = b'{"choices": [{"delta": {"content": "'
_JSON = "application/json"
_NEVER = f"Mon, 01 Jan {'9' * 99} 00:00:00 GMT"


def _informational() -> Iterator[str]:
    yield ""
    yield from repeat("HTTP/1.1 100 Continue\r\n")


def _packed() -> list[str]:
    return ["Content-Encoding: gzip"]


def _done(tail: Body) -> Body:
    """Return an answer that is whole, and what comes behind it."""
    return lambda: chain([event(content="Oui."), finish("stop")], tail())


# Completions without an end.
ENDLESS = {
    "words": Backend(words),
    "single signs": Backend(lambda: words(size=1)),
    "huge words": Backend(lambda: words("a" * 4096, 4096)),
    "white space": Backend(lambda: chain([event(content="Oui.")], words(" \n"))),
    "signs of Markdown": Backend(lambda: words("> - # * ` | ")),
    "a fence": Backend(lambda: chain([event(content="```\n")], words("x = 1\n"))),
    "thoughts": Backend(lambda: _together([event(reasoning_content="Voyons voir. ")])),
    "thoughts by another name": Backend(lambda: _together([event(reasoning="Voyons. ")])),
    "thoughts that are no text": Backend(
        lambda: _together([event(reasoning_content=[{"text": "Voyons voir. "}])])
    ),
    "thoughts in parts": Backend(
        lambda: _together([event(content=[{"type": "thinking", "thinking": "Voyons. "}])])
    ),
    "words in parts": Backend(
        lambda: _together([event(content=[{"type": "text", "text": "mot "}] * 50)])
    ),
    "chunks without a word": Backend(lambda: _together([event(content="")])),
    "3 million characters": Backend(many_words),
}

# Whole answers, and what should not come behind one.
FINISHED = {
    "words": Backend(_done(words)),
    "comments": Backend(_done(lambda: _together([b": ping\n\n"]))),
    "other reasons": Backend(_done(lambda: _together([finish("length")]))),
    "thoughts": Backend(_done(lambda: _together([event(reasoning="Hm. ")]))),
    "nothing": Backend(_done(tuple), ends=False),
}

# Answers of which one piece is larger than any memory.
TOO_LARGE = {
    "a line": Backend(_long(b"data: ", b"a", b"\n\n")),
    "a comment": Backend(_long(b": ", b"a", b"\n\n")),
    "a chunk": Backend(_long(b"data: " + _TEXT, b"a", b'"}}]}\n\n')),
    "an event of many lines": Backend(_long(b"", b"data: a\n", b"\n")),
    "a completion": Backend(_long(_TEXT, b"a", b'"}}]}'), content_type=_JSON),
    "a gzipped line": Backend(lambda: _gzipped(b"a"), headers=_packed),
    "a gzipped completion": Backend(lambda: _gzipped(b" "), content_type=_JSON, headers=_packed),
    "a header": Backend(headers=lambda: ["X-Large: " + "a" * 1_000_000]),
    "headers": Backend(headers=lambda: (f"X-{number}: a" for number in range(10_000))),
}

# Refusals whose body has no end, or is none.
REFUSING = {
    name: Backend(body, "400 Bad Request", _JSON, headers, ends=ends)
    for name, body, headers, ends in (
        ("words", _long(b'{"error": {"message": "', SECRET.encode(), b'"}}'), tuple, True),
        ("words without an end", lambda: repeat(SECRET.encode() * 4096), tuple, True),
        ("a gzip bomb", lambda: _gzipped(b" "), _packed, True),
        ("a gzip bomb in another", _twice_gzipped, lambda: ["Content-Encoding: gzip, gzip"], True),
        ("no gzip", lambda: [SECRET.encode()], _packed, True),
        ("nothing", tuple, tuple, False),
        ("a wait without an end", tuple, lambda: ["Retry-After: " + "9" * 5000], True),
        ("a date without an end", tuple, lambda: [f"Retry-After: {_NEVER}"], True),
    )
}

# Bytes without an end, and no word in them.
SILENT = {
    "empty lines": Backend(lambda: _together([b"\n"])),
    "comments": Backend(lambda: _together([b": ping\n\n"])),
    "empty comments": Backend(lambda: _together([b":\r"])),
    "events without data": Backend(lambda: _together([b"event: a\nid: 1\n\n"])),
    "gzipped empty lines": Backend(lambda: _gzipped(b"\n", None), headers=_packed),
    "informational answers": Backend(status="100 Continue", headers=_informational),
}

BACKENDS = {
    f"{kind}/{name}": backend
    for kind, table in {
        "endless": ENDLESS,
        "finished": FINISHED,
        "too large": TOO_LARGE,
        "refusing": REFUSING,
        "silent": SILENT,
    }.items()
    for name, backend in table.items()
}


@asynccontextmanager
async def misbehaving(backend: Backend) -> AsyncIterator[str]:
    """Listen where every request is answered so; yield the base URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):  # the client may leave
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
            await reader.readexactly(length)
            for piece in chain(_head(backend), backend.body()):
                writer.write(piece)
                await writer.drain()
            if not backend.ends:
                await reader.read()
        writer.close()

    async with listening(serve) as url:
        yield f"{url}/v1"


def _head(backend: Backend) -> Iterator[bytes]:
    yield f"HTTP/1.1 {backend.status}\r\n".encode()
    if backend.content_type is not None:
        yield f"Content-Type: {backend.content_type}\r\n".encode()
    for line in backend.headers():
        yield f"{line}\r\n".encode()
    yield b"\r\n"


async def _serve(name: str) -> None:
    async with misbehaving(BACKENDS[name]) as url:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))

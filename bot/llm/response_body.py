"""The body of an HTTP response, read in pieces and up to a limit."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

import httpx2

from bot.errors import ModelFailed

_PIECE: Final = 16 * 1024  # bytes that are read before other tasks run
_MEDIA_TYPE: Final = re.compile(r"[A-Za-z]{1,20}/[A-Za-z0-9.+-]{1,40}")


async def pieces(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """Yield the body in pieces, and let other tasks run between them.

    Without that, none would run as long as bytes are there: a read that finds some does not wait.
    And a compressed body, which is refused but may come all the same, arrives decompressed in
    pieces of up to a thousand times their size.
    """
    size = 0
    async with aclosing(response.aiter_bytes()) as body:
        async for data in body:
            for start in range(0, len(data), _PIECE):
                piece = data[start : start + _PIECE]
                yield piece
                size += len(piece)
                if size >= _PIECE:
                    size = 0
                    await asyncio.sleep(0)


async def read_at_most(limit: int, body: AsyncIterator[bytes]) -> bytes:
    """Return the first `limit` bytes of a body, which may have no end."""
    found = bytearray()
    async for piece in body:
        found += piece
        if len(found) >= limit:
            break
    del found[limit:]
    return bytes(found)


def is_event_stream(headers: httpx2.Headers) -> bool:
    """Return whether the body is an event stream, or JSON, as a completion that is not streamed.

    Raises:
        ModelFailed: it is neither.
    """
    content_type = headers.get("content-type", "")
    if content_type.lower().startswith("text/event-stream"):
        return True
    if content_type.lower().startswith("application/json"):
        return False
    found = _MEDIA_TYPE.match(content_type)
    raise ModelFailed(f"the answer is no event stream but {found[0] if found else 'none'!r}")

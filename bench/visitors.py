"""The delays of a streamed reply while a hundred visitors load the public statistics.

As a program it runs the visitors, at the given address.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import quantiles
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from bench.rows import Row
from bot.runtime.http_server import listening
from tests.harness.network import free_port

VISITORS: Final = 100

_PATHS: Final = "/statistiques", "/publics/satisfaction-clair.svg"
_PIECE_SECONDS: Final = 0.01  # seconds between two pieces of the reply
_PIECES: Final = 500
_DELAY: Final = 10.0  # milliseconds
_LONGEST: Final = 50.0  # milliseconds


async def bench(app: web.Application) -> list[Row]:
    """Measure the delays of the pieces of a reply, without visitors and with them.

    Args:
        app: the dashboard, with public statistics.
    """
    rows = [
        Row("an answer's piece is late by, alone"),
        Row(f"the same beside {VISITORS} visitors", goal=_DELAY),
        Row("99 in 100 of these are late by at most", goal=_LONGEST),
        Row("(public pages and charts that they got, a second)"),
    ]
    alone, beside, most, pages = (row.bot for row in rows)
    port = free_port()
    async with listening(app, "dashboard", "127.0.0.1", port):
        await _answer(alone)
        async with _visiting(f"http://127.0.0.1:{port}", pages):
            await _answer(beside)
    most.append(quantiles(beside, n=100, method="inclusive")[-1])
    return rows


async def _answer(late: list[float]) -> None:
    """Wait for the pieces, and record the delay of each in milliseconds."""
    for _ in range(_PIECES):
        due = time.perf_counter() + _PIECE_SECONDS
        await asyncio.sleep(_PIECE_SECONDS)
        late.append((time.perf_counter() - due) * 1000)


@asynccontextmanager
async def _visiting(url: str, pages: list[float]) -> AsyncIterator[None]:
    """Run the visitors in another process until the block ends."""
    visitors = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.visitors", url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert visitors.stdin
    assert visitors.stdout
    await visitors.stdout.readline()  # every visitor has got a page
    yield
    told, _ = await visitors.communicate(b"\n")
    assert visitors.returncode == 0
    pages.append(float(told))


async def _visit(url: str, seen: list[int], path: str, *, once: bool = False) -> None:
    """Request a page again and again on one connection."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    request = f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode()
    try:
        while True:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
            await reader.readexactly(int(length))
            seen[0] += 1
            if once:
                return
    finally:
        writer.close()


async def _visitors(url: str) -> None:
    """Run all visitors until stdin closes; print a line when all have begun, then the pace."""
    seen = [0]
    for path in _PATHS:
        await _visit(url, seen, path, once=True)
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        visits = [
            tasks.create_task(_visit(url, seen, _PATHS[number % len(_PATHS)]))
            for number in range(VISITORS)
        ]
        await asyncio.sleep(0)
        begun, before = time.perf_counter(), seen[0]
        print(flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
        print((seen[0] - before) / (time.perf_counter() - begun), flush=True)
        for visit in visits:
            visit.cancel()


if __name__ == "__main__":
    asyncio.run(_visitors(sys.argv[1]))

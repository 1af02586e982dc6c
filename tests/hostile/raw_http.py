"""Requests as bytes on a socket: what no well-behaved client would send."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from multidict import CIMultiDict

HOST: Final = "localhost"
FORM: Final = "application/x-www-form-urlencoded"

_ANSWER_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class RawResponse:
    """What came back for one request."""

    status: int
    headers: CIMultiDict[str]
    body: bytes


def request(
    line: str | bytes, headers: Mapping[str, str | bytes] | None = None, body: bytes = b""
) -> bytes:
    """Return a request of HTTP/1.1; the rest of the line is given, and headers beside the host."""
    given: dict[str, str | bytes] = {"Host": HOST}
    if body:
        given["Content-Length"] = str(len(body))
    given |= headers or {}
    lines = [line if isinstance(line, bytes) else f"{line} HTTP/1.1".encode()]
    lines += [name.encode() + b": " + _bytes(value) for name, value in given.items()]
    return b"\r\n".join([*lines, b"", body])


def form(body: bytes, kind: str | bytes = FORM, **headers: str | bytes) -> bytes:
    """Return a login, whose form is of that kind."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return request("POST /connexion", {"Content-Type": kind, **named}, body)


async def ask(port: int, sent: bytes) -> RawResponse | None:
    """Send bytes on a connection of their own; None where it is closed without an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            writer.write(sent)
            return await _read(reader, headless=sent.startswith(b"HEAD"))
    except (ConnectionError, asyncio.IncompleteReadError):
        return None
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader, *, headless: bool) -> RawResponse:
    status, headers = await _head(reader)
    while status == 100:
        status, headers = await _head(reader)
    length = 0 if headless or status == 304 else int(headers.get("Content-Length", "0"))
    return RawResponse(status, headers, await reader.readexactly(length))


async def _head(reader: asyncio.StreamReader) -> tuple[int, CIMultiDict[str]]:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    headers: CIMultiDict[str] = CIMultiDict()
    for line in lines:
        name, _, value = line.partition(": ")
        headers.add(name, value)
    return int(first.split(" ")[1]), headers


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()

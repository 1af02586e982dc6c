"""Networks between the bot and its servers: proxies, TLS, listeners with faulty answers."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which nobody listens at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]],
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """Serve connections on a free port; the block ends after all of them are served."""
    async with asyncio.TaskGroup() as connections:
        server = await asyncio.start_server(
            lambda *streams: connections.create_task(serve(*streams)), "127.0.0.1", 0, ssl=context
        )
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[str]:
    """Run a listener that answers a request with `answer` and FIN; with None, not at all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is not None:
            writer.write(answer)
            writer.write_eof()
        with suppress(ConnectionError):  # the client may leave by RST
            await reader.read()  # unread bytes would turn the FIN into an RST
        writer.close()

    async with listening(serve) as url:
        yield url


@asynccontextmanager
async def proxying() -> AsyncIterator[tuple[str, list[bytes]]]:
    """Run an HTTP proxy (CONNECT and absolute-form); yield its URL and the received heads."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        method, target, _ = heads[-1].decode().split(" ", 2)
        url = urlsplit(f"//{target}" if method == "CONNECT" else target)
        there = await asyncio.open_connection(url.hostname, url.port)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            there[1].write(heads[-1])
        await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))

    async with listening(serve) as url:
        yield url, heads


Fault = Literal[
    "refused",  # nobody listens
    "407",
    "cut",  # a request is read, and gets FIN
    "mute",  # not a byte until the client leaves
    "noise",  # an answer that no proxy gives
]
_ANSWERS: dict[Fault, bytes] = {
    "407": b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
    "cut": b"",
    "noise": b"canary-noise \xff\xfe\r\n\r\n",
}


class FailingProxy:
    """An HTTP proxy (CONNECT) that can fail; its port stays the same.

    Attributes:
        url: its address.
        met: number of connections that met its fault.
    """

    def __init__(self) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.met = 0
        self._fault: Fault | None = None
        self._server: asyncio.Server | None = None
        self._open = set[asyncio.StreamWriter]()

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.fail("refused")

    async def fail(self, fault: Fault) -> None:
        """Break all connections, and apply the fault to new ones."""
        self._fault = fault
        for writer in self._open:
            writer.transport.abort()
        if fault == "refused" and self._server is not None:
            self._server.close()
            self._server = None

    async def recover(self) -> None:
        """Serve again; connections that wait for an answer are broken."""
        await self.fail("cut")
        self._fault = None
        await self._listen()

    async def _listen(self) -> None:
        if self._server is None:
            port = urlsplit(self.url).port
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if self._fault is None:
                there = urlsplit(f"//{head.split()[1].decode()}")
                back, forth = await asyncio.open_connection(there.hostname, there.port)
                self._open.add(forth)
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                await asyncio.gather(_pump(reader, forth), _pump(back, writer))
                self._open.discard(forth)
            else:
                self.met += 1
                if self._fault in _ANSWERS:
                    writer.write(_ANSWERS[self._fault])
                    writer.write_eof()
                await reader.read()
        self._open.discard(writer)
        writer.close()


@asynccontextmanager
async def behind_tls(url: str, context: ssl.SSLContext) -> AsyncIterator[str]:
    """Serve `url`'s host over TLS on another port; yield its address."""
    there = urlsplit(url)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection(there.hostname, there.port)
        await asyncio.gather(_pump(reader, forth), _pump(back, writer))

    async with listening(serve, context) as plain:
        yield plain.replace("http:", "https:")


def make_authority(path: Path) -> ssl.SSLContext:
    """Write the key and certificate of an authority; return a server's context for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stand")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
        + certificate.public_bytes(pem)
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    return context


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()

"""A web application at an address of the configuration, while a block runs.

What everybody on a network may send ends here at the latest: requests that cannot be parsed are
refused in few words and without a line in the log, and connections are limited in time and number.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final, cast

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from typing_extensions import override

from bot.errors import ConfigError

# On all that is answered, unless a page says otherwise.
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_CLOSING_SECONDS: Final = 1.0  # for who is being answered when the bot ends
_IDLE_SECONDS: Final = 75  # for a request's head; nginx lets its connections idle for 60
_CONNECTIONS: Final = 256  # of one address; a process may have 1,024 files open by default


def web_application(*middlewares: Middleware, largest_body: int = 1024) -> web.Application:
    """Return an application whose answers all have HEADERS, and do not name the server.

    Args:
        middlewares: what each request goes through.
        largest_body: that is read of a request, in bytes.
    """
    app = web.Application(middlewares=[_one_by_one(), *middlewares], client_max_size=largest_body)
    app.on_response_prepare.append(_tidy)
    return app


def _one_by_one() -> Middleware:
    """Return what lets one request begin in each turn of the event loop.

    A hundred that come at once would else be a single long turn, and whatever the bot is writing
    would wait for all of them.
    """
    door = asyncio.Lock()

    @web.middleware
    async def wait(request: web.Request, handler: Handler) -> web.StreamResponse:
        async with door:
            await asyncio.sleep(0)
        return await handler(request)

    return wait


async def _tidy(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.pop("Server", None)  # which version of what answers is nobody's business


class _Refusal(web.Response):
    """The answer to what is no request: the application's signals do not hear of it."""

    @override
    async def _prepare_headers(self) -> None:
        # No public way leads between aiohttp's own headers and the wire here.
        await super()._prepare_headers()
        self.headers.pop("Server", None)


class _Connection(web.RequestHandler):
    """One connection: `handle_error` answers where no application can."""

    __slots__ = ()

    @override
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Refuse in few words: aiohttp's own repeat the request, and log it with a traceback."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            super().handle_error(request, status, exc, message)  # logs it
        text = f"{status}: {HTTPStatus(status).phrase}"
        refusal = _Refusal(text=text, status=status, headers=HEADERS)
        refusal.force_close()
        return refusal


@asynccontextmanager
async def listening(
    application: web.Application, section: str, host: str, port: int
) -> AsyncIterator[None]:
    """Answer while the block runs.

    Args:
        application: what answers.
        section: of the configuration, which names the address.
        host: address that is listened on, or a name of it.
        port: its TCP port.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    runner = web.AppRunner(application, shutdown_timeout=_CLOSING_SECONDS)
    await runner.setup()
    try:
        listener = await _listen(cast("web.Server", runner.server), section, host, port)
        try:
            yield
        finally:
            listener.close()
    finally:
        await runner.cleanup()


async def _listen(server: web.Server, section: str, host: str, port: int) -> asyncio.Server:
    loop = asyncio.get_running_loop()

    def connection() -> web.RequestHandler:
        # The oldest one gives way: who holds connections and asks nothing keeps nobody else out.
        transports = [one.transport for one in server.connections if one.transport is not None]
        for oldest in transports[: 1 - _CONNECTIONS]:
            oldest.abort()
        return _Connection(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's way to have none
            auto_decompress=False,  # no browser compresses a form, and one may be a bomb
            keepalive_timeout=_IDLE_SECONDS,
        )

    try:
        return await loop.create_server(connection, host, port)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{section}.port {port} of {section}.host {host} cannot be listened on:"
            f" {_reason(error)}; give another one, or null for no port at all"
        ) from error


def _reason(error: OSError | ValueError) -> str:
    """Say why; asyncio's own words repeat the address. ValueError: it can be no host's name."""
    if isinstance(error, ValueError | socket.gaierror):
        return "no such host"
    return os.strerror(error.errno or 0)

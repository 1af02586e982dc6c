"""An HTTP server for a web application, hardened against clients that mean ill.

Requests that cannot be parsed are refused with a short text and without a line in the log.
Connections are limited in time and number.
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

# Headers of every response, unless a handler sets others.
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_CLOSING_SECONDS: Final = 1.0  # for running requests when the bot ends
_IDLE_SECONDS: Final = 75  # for a request's head; nginx lets its connections idle for 60
_CONNECTIONS: Final = 256  # of one server; a process may have 1,024 files open by default


def web_application(*middlewares: Middleware, largest_body: int = 1024) -> web.Application:
    """Return an application whose responses all have HEADERS, and do not name the server.

    Args:
        middlewares: middlewares of the application.
        largest_body: largest size of a request's body, in bytes.
    """
    app = web.Application(middlewares=[_one_by_one(), *middlewares], client_max_size=largest_body)
    app.on_response_prepare.append(_tidy)
    return app


def _one_by_one() -> Middleware:
    """Return a middleware that starts one request in each iteration of the event loop.

    A hundred requests that come at once would otherwise be a single long iteration, for which
    running replies would have to wait.
    """
    lock = asyncio.Lock()

    @web.middleware
    async def wait(request: web.Request, handler: Handler) -> web.StreamResponse:
        async with lock:
            await asyncio.sleep(0)
        return await handler(request)

    return wait


async def _tidy(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.pop("Server", None)  # it would reveal the version of aiohttp


class _Refusal(web.Response):
    """The response to bytes that are no request, which the application's signals do not get."""

    @override
    async def _prepare_headers(self) -> None:
        # aiohttp has no public way to change the headers that it adds here.
        await super()._prepare_headers()
        self.headers.pop("Server", None)


class _Connection(web.RequestHandler):
    """One connection; `handle_error` answers what does not reach the application."""

    __slots__ = ()

    @override
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Refuse with a short text; aiohttp would quote the request, and log a traceback."""
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
    """Serve an application while the block runs.

    Args:
        application: the application.
        section: the section of the configuration that has the address, for error messages.
        host: address or host name to listen on.
        port: TCP port to listen on.

    Raises:
        ConfigError: the server cannot listen on the address.
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
        # The oldest connection is closed for a new one, so that idle clients lock nobody out.
        transports = [one.transport for one in server.connections if one.transport is not None]
        for oldest in transports[: 1 - _CONNECTIONS]:
            oldest.abort()
        return _Connection(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's way to disable it
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
    """Return the reason without the address, which asyncio's message repeats."""
    # ValueError: the text cannot be a host name.
    if isinstance(error, ValueError | socket.gaierror):
        return "no such host"
    return os.strerror(error.errno or 0)

"""A web application at an address of the configuration, while a block runs."""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from bot.errors import ConfigError

_CLOSING_SECONDS = 1.0  # for who is being answered when the bot ends


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
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=_CLOSING_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{section}.port {port} of {section}.host {host} cannot be listened on:"
                f" {_reason(error)}; give another one, or null for no port at all"
            ) from error
        yield
    finally:
        await runner.cleanup()


def _reason(error: OSError | ValueError) -> str:
    """Say why; asyncio's own words repeat the address. ValueError: it can be no host's name."""
    if isinstance(error, ValueError | socket.gaierror):
        return "no such host"
    return os.strerror(error.errno or 0)

"""Where errors end: a fatal one goes on, every other costs one piece of work and is logged."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from bot.errors import FatalError, MatrixError, Retryable
from bot.monitoring.logs import log_bug

log = structlog.get_logger()


@asynccontextmanager
async def error_boundary(
    refused: str = "refused by the homeserver",
    *,
    put_off: Callable[[Retryable], Awaitable[object]] | None = None,
    later: str = "homeserver away",
    give_up: Callable[[], Awaitable[object]] | None = None,
    **ids: object,
) -> AsyncIterator[None]:
    """Log the error that ends the block, and see to what is left of the work.

    Args:
        refused: the log's event where the homeserver refuses, or is away and nothing is put off.
        put_off: is awaited with an error that passes by itself; None where that counts as refused.
        later: the log's event in that case.
        give_up: is awaited after any other error.
        ids: further values of the log's event.

    Raises:
        FatalError: the ledger or the login is gone; the process ends, and nothing is lost.
    """
    try:
        yield
    except FatalError:
        raise
    except MatrixError as error:
        if put_off is not None and isinstance(error, Retryable):
            log.warning(later, reason=str(error), **ids)
            await put_off(error)
            return
        log.warning(refused, reason=str(error), **ids)
    except Exception as error:  # noqa: BLE001  # a bug costs one piece of work, not the bot
        log_bug(error)
    else:
        return
    if give_up is not None:
        await give_up()

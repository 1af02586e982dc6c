"""The error boundary: a fatal error is raised again, any other ends one piece of work."""

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
    """Log the error that ends the block, then put off or give up the work.

    Args:
        refused: log event for an error of the homeserver that is not put off.
        put_off: called with a `Retryable` error of the homeserver; None to treat it as any other.
        later: log event for an error that is put off.
        give_up: called after any other error.
        ids: further values for the log event.

    Raises:
        FatalError: the ledger or the login is lost; the process ends, and no work is lost.
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

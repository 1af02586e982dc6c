"""Retries of requests, until the homeserver accepts them or refuses them for good."""

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from bot.errors import MatrixError, RateLimited, Retryable
from bot.ports.clock import Clock

T = TypeVar("T")

_SHORTEST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds

log = structlog.get_logger()


def backoff(failures: int) -> float:
    """Return the seconds to wait after `failures` earlier failures: 1, 2, 4… 60, plus up to half.

    The addition is random.
    """
    longest = min(_LONGEST_WAIT, 2.0 ** min(failures, 10))
    return longest * random.uniform(1.0, 1.5)  # noqa: S311  # spreads retries, guards no secret


def pause(error: MatrixError, failures: int) -> float:
    """Return the seconds after which to try again; raise `error` if another try cannot help."""
    match error:
        case RateLimited():
            return max(error.retry_after, _SHORTEST_WAIT)
        case Retryable():  # a soft logout among them: the sync loop renews the login meanwhile
            return backoff(failures)
        case _:
            raise error


async def retry_until_accepted(
    clock: Clock, request: Callable[[], Awaitable[T]], *, within: float | None = None
) -> T:
    """Repeat a request while the homeserver is away, busy, or renews the login.

    Args:
        clock: the clock for the waits.
        request: makes a new awaitable for each try.
        within: seconds after which the last error is raised; None for never.

    Raises:
        MatrixError: an error that another try would not change, or the last error in time.
    """
    failures, start = 0, clock.monotonic()
    while True:
        try:
            return await request()
        except MatrixError as error:
            wait = pause(error, failures)
            if within is not None and clock.monotonic() + wait - start > within:
                raise
            log.warning("homeserver away", reason=str(error), retry_in=round(wait, 1))
        failures += 1
        await clock.sleep(wait)

"""Requests that must get through: repeated until the homeserver accepts, or refuses for good."""

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from bot.errors import HomeserverUnreachable, LoggedOut, RateLimited
from bot.ports import Clock

T = TypeVar("T")

_LONGEST_WAIT = 60.0  # seconds

log = structlog.get_logger()


def backoff(failures: int) -> float:
    """Return the seconds to wait after `failures` earlier ones: 1, 2, 4… 60, less up to half."""
    longest = min(_LONGEST_WAIT, 2.0 ** min(failures, 10))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  # spreads retries, guards no secret


async def insist(clock: Clock, request: Callable[[], Awaitable[T]]) -> T:
    """Await `request()` again and again while the homeserver is away, busy, or logs us in anew.

    Raises:
        MatrixError: another one, which no second try would change.
    """
    failures = 0
    while True:
        try:
            return await request()
        except RateLimited as error:
            wait = error.retry_after
        except HomeserverUnreachable as error:
            wait = backoff(failures)
            log.warning("homeserver away", reason=str(error), retry_in=round(wait, 1))
        except LoggedOut as error:
            if not error.soft:
                raise
            wait = backoff(failures)  # the sync loop renews the login meanwhile
        failures += 1
        await clock.sleep(wait)

"""A cache with a time limit, in which concurrent callers share one computation."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from math import inf
from typing import Generic, TypeVar

from bot.core.bounded import BoundedDict
from bot.ports.clock import Clock

V = TypeVar("V")


@dataclass(slots=True)
class _Entry(Generic[V]):
    """A cached value, or one that is being made.

    Attributes:
        until: end of its validity, by the monotonic clock; infinite while it is being made.
    """

    value: asyncio.Future[V]
    until: float = inf


class Kept(Generic[V]):
    """A bounded cache in which each value is made once, by the first caller that asks for it.

    Callers that ask meanwhile wait for that value. A failure is raised in all of them and is not
    cached; the next caller tries again.
    """

    def __init__(self, clock: Clock, seconds: float, most: int) -> None:
        """Keep at most `most` values, each for so many seconds."""
        self._clock = clock
        self._seconds = seconds
        self._entries = BoundedDict[Hashable, _Entry[V]](most)

    async def get(self, key: Hashable, make: Callable[[], Awaitable[V]]) -> V:
        """Return the value of a key; make it if it is missing or too old.

        Raises:
            TimeoutError: the caller that was making the value was cancelled.
        """
        entry = self._entries.get(key)
        if entry is not None and self._clock.monotonic() < entry.until:
            return await asyncio.shield(entry.value)
        entry = _Entry(asyncio.get_running_loop().create_future())
        self._entries[key] = entry
        try:
            value = await make()
        except BaseException as error:
            if self._entries.get(key) is entry:
                del self._entries[key]
            entry.value.set_exception(error if isinstance(error, Exception) else TimeoutError())
            entry.value.exception()  # marks it as retrieved, as nobody else may be waiting
            raise
        entry.value.set_result(value)
        entry.until = self._clock.monotonic() + self._seconds
        return value

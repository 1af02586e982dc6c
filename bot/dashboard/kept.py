"""Values that are made once, however many ask for them at the same time, and kept for a while."""

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
    """A value that is made, or being made.

    Attributes:
        until: when it is too old, by the monotonic clock; for ever while it is being made.
    """

    value: asyncio.Future[V]
    until: float = inf


class Kept(Generic[V]):
    """A bounded cache without a rush: who asks while a value is being made waits for that one.

    Who asks first makes it. What fails is not kept: all who wait are told, and who comes later
    tries again.
    """

    def __init__(self, clock: Clock, seconds: float, most: int) -> None:
        """Take how long values are kept, in seconds, and how many of them."""
        self._clock = clock
        self._seconds = seconds
        self._entries = BoundedDict[Hashable, _Entry[V]](most)

    async def get(self, key: Hashable, make: Callable[[], Awaitable[V]]) -> V:
        """Return what is kept under a key, or make it.

        Raises:
            TimeoutError: who was making it has given up.
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
            entry.value.exception()  # perhaps nobody else waits
            raise
        entry.value.set_result(value)
        entry.until = self._clock.monotonic() + self._seconds
        return value

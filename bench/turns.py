"""How long a piece of work keeps the event loop from everybody else."""

import asyncio
import selectors
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from selectors import SelectorKey

from typing_extensions import override

_TICK_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class Spent:
    """What one piece of work has cost, in milliseconds.

    Attributes:
        blocked: of the loop, all its turns together.
        longest: between two chances for others to run.
        took: until it was done.
    """

    blocked: float
    longest: float
    took: float


class Turns(selectors.DefaultSelector):
    """The loop's selector, where each of its turns begins and ends: it notes how long they last.

    A turn counts from when the loop was due to wake, which is before it wakes where a thread holds
    the interpreter.
    """

    def __init__(self) -> None:
        super().__init__()
        self._restart()

    def _restart(self) -> None:
        self._woken = self._due = time.perf_counter()
        self._blocked = self._longest = 0.0

    def _end_turn(self) -> float:
        now = time.perf_counter()
        self._blocked += now - self._woken
        self._longest = max(self._longest, now - self._due)
        return now

    @override
    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """Wait as the loop asks."""
        now = self._end_turn()
        ready = super().select(timeout)
        self._woken = time.perf_counter()
        self._due = self._woken if timeout is None else min(self._woken, now + timeout)
        return ready

    async def spent(self, work: Awaitable[object]) -> Spent:
        """Do the work and return what it has cost."""
        self._tick(asyncio.get_running_loop())
        self._restart()
        began = time.perf_counter()
        await work
        took = self._end_turn() - began
        self._ticker.cancel()
        return Spent(self._blocked * 1000, self._longest * 1000, took * 1000)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have a wish to run every few milliseconds, as others would."""
        self._ticker = loop.call_later(_TICK_SECONDS, self._tick, loop)

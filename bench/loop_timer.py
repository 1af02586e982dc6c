"""A timer of the event loop: how long a piece of work keeps it from other tasks."""

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
    """The cost of one piece of work, in milliseconds.

    Attributes:
        blocked: total time of the loop's iterations.
        longest: longest time between two chances for other tasks to run.
        took: time until the work was done.
    """

    blocked: float
    longest: float
    took: float


class LoopTimer(selectors.DefaultSelector):
    """The selector of the loop, which measures each iteration of the loop.

    An iteration counts from the time at which the loop should wake. That is earlier than it wakes
    if a thread holds the interpreter.
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
        """Wait as the loop requests, and measure the iteration before."""
        now = self._end_turn()
        ready = super().select(timeout)
        self._woken = time.perf_counter()
        self._due = self._woken if timeout is None else min(self._woken, now + timeout)
        return ready

    async def spent(self, work: Awaitable[object]) -> Spent:
        """Do the work, and return its cost."""
        self._tick(asyncio.get_running_loop())
        self._restart()
        began = time.perf_counter()
        await work
        took = self._end_turn() - began
        self._ticker.cancel()
        return Spent(self._blocked * 1000, self._longest * 1000, took * 1000)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Schedule a callback every few milliseconds, like other tasks would."""
        self._ticker = loop.call_later(_TICK_SECONDS, self._tick, loop)

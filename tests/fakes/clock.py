"""Clocks that a test moves."""

import asyncio

from typing_extensions import override

from tests.make import MIDNIGHT


class FakeClock:
    """A clock that moves only when code sleeps, and then at once."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.time

    def now(self) -> float:
        return MIDNIGHT + self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


class HeldClock(FakeClock):
    """A clock that moves only when a test calls `pass_time`."""

    def __init__(self) -> None:
        super().__init__()
        self._sleepers: dict[asyncio.Event, float] = {}  # what wakes each, and when it is due

    @override
    async def sleep(self, seconds: float) -> None:
        wake = asyncio.Event()
        self._sleepers[wake] = self.time + seconds
        try:
            await wake.wait()
        finally:
            self._sleepers.pop(wake, None)

    async def pass_time(self, seconds: float) -> None:
        """Move the clock, and run each sleeper that is due until it waits again."""
        end = self.time + seconds
        await self._settle()
        while self._sleepers and min(self._sleepers.values()) <= end:
            wake = min(self._sleepers, key=self._sleepers.__getitem__)
            self.time = max(self.time, self._sleepers.pop(wake))
            wake.set()
            await self._settle()
        self.time = end

    @staticmethod
    async def _settle() -> None:
        """Let every task run until it waits; the fakes answer after one or two loop iterations."""
        for _ in range(100):
            await asyncio.sleep(0)

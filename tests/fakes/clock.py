"""Clocks that a test moves."""

import asyncio

from typing_extensions import override

from tests.make import MIDNIGHT


class FakeClock:
    """Time that passes only when somebody sleeps; it then passes at once."""

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
    """Time that passes only when the story says so."""

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
        """Let the time pass; who sleeps wakes when due, and goes on as far as they can."""
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
        """Give every task the turns that it needs: the fakes answer after one or two each."""
        for _ in range(100):
            await asyncio.sleep(0)

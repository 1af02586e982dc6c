"""The machine's own clocks."""

import asyncio
import time


class SystemClock:
    """The `Clock` port on the machine's own clocks."""

    def monotonic(self) -> float:
        """Return seconds since some fixed moment."""
        return time.monotonic()

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time()  # noqa: TID251  # this is the Clock that the rule asks for

    async def sleep(self, seconds: float) -> None:
        """Wait that long."""
        await asyncio.sleep(seconds)

"""The `Clock` port on the machine's clocks."""

import asyncio
import time


class SystemClock:
    """The `Clock` port on the machine's clocks."""

    def monotonic(self) -> float:
        """Return seconds that never jump, from an arbitrary start."""
        return time.monotonic()

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time()  # noqa: TID251  # this is the Clock that the rule asks for

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds."""
        await asyncio.sleep(seconds)

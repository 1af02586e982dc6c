"""The clock port."""

from typing import Protocol


class Clock(Protocol):
    """The time, in seconds, as a port: tests run on a clock of their own."""

    def monotonic(self) -> float:
        """Return seconds that never jump, from an arbitrary start; for measuring durations."""

    def now(self) -> float:
        """Return seconds since the epoch; for times that another process must understand."""

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds."""

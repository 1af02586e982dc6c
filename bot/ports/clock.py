"""The clock port."""

from typing import Protocol


class Clock(Protocol):
    """Seconds: `monotonic` never jumps, `now` counts from the epoch, `sleep` waits that many.

    Spans are measured by `monotonic`; `now` is for what another process must know.
    """

    def monotonic(self) -> float: ...

    def now(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...

"""Time slices of the event loop, so that long work lets other tasks run."""

import asyncio

_PIECE_SECONDS = 0.02  # seconds of work between two yields


class TimeSlice:
    """Lets other tasks run between small pieces of work."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()

    async def yield_if_over(self) -> None:
        """Yield to other tasks if the slice is over."""
        if self._loop.time() - self._since > _PIECE_SECONDS:
            await asyncio.sleep(0)
            self._since = self._loop.time()

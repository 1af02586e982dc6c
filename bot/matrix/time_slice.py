"""Long loops that let other tasks run: a time slice, and a yield where it is over."""

import asyncio

_PIECE_SECONDS = 0.02  # of the loop, before others may have it


class TimeSlice:
    """Lets others have the loop between small pieces of work."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()

    async def yield_if_over(self) -> None:
        """Give way where this turn has lasted long enough."""
        if self._loop.time() - self._since > _PIECE_SECONDS:
            await asyncio.sleep(0)
            self._since = self._loop.time()

"""A signal for all who wait at this moment."""

import asyncio


class Broadcast:
    """Wakes everybody who waits for the next change; who comes later waits for the one after.

    `current` is the event that the next `send` sets: take it before you look at what may change,
    and no change is missed.
    """

    def __init__(self) -> None:
        self.current = asyncio.Event()

    def send(self) -> None:
        """Wake all who wait for the current event, and begin a new one."""
        self.current.set()
        self.current = asyncio.Event()

"""A signal that wakes all tasks that wait for it."""

import asyncio


class Broadcast:
    """A signal that wakes all tasks that wait for the next change.

    Attributes:
        current: the event that the next `send` sets. A task that takes it before it reads the
            state that may change misses no change.
    """

    def __init__(self) -> None:
        self.current = asyncio.Event()

    def send(self) -> None:
        """Wake all tasks that wait for the current event, and replace the event."""
        self.current.set()
        self.current = asyncio.Event()

"""One answer at a time in each conversation, in the order in which the prompts came."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from bot.core.events import Conversation


class Lanes:
    """A lock for each conversation that somebody is in or waits for."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[Conversation, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, conversation: Conversation) -> AsyncIterator[None]:
        """Wait for the conversation's turn, and hold it while the block runs."""
        lock = self._locks.setdefault(conversation, asyncio.Lock())
        async with lock:
            yield

"""Signs that a prompt is being answered: the read receipt and the typing notice."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress

import nio
import structlog

from bot.core.events import Prompt, RoomId
from bot.errors import MatrixError
from bot.matrix.error_mapping import call
from bot.matrix.nio_client import SafeClient
from bot.monitoring.logs import costing_nothing
from bot.runtime.uncancellable import run_uncancelled

_TYPING_MS = 30_000
_TYPING_AGAIN_SECONDS = 20

log = structlog.get_logger()


class Attention:
    """Sends read receipts and typing notices, and shares the room's key at the same time."""

    def __init__(self, client: SafeClient) -> None:
        self._client = client
        self._typing: Counter[RoomId] = Counter()  # number of replies being written

    @asynccontextmanager
    async def show(self, prompt: Prompt) -> AsyncIterator[None]:
        """Send the read receipt, and show "typing…" while the block runs.

        The room's key is shared meanwhile, because the first reply in a large room would wait for
        it.
        """
        over, loop = asyncio.Event(), asyncio.get_running_loop()
        typing = loop.create_task(self._show_typing(prompt, over))
        sharing = loop.create_task(run_uncancelled(self._share_key(prompt.room_id)))
        try:
            yield
        except asyncio.CancelledError:
            # the typing notice times out by itself, and the caller waits no longer
            typing.cancel()
            raise
        finally:
            over.set()
            await asyncio.wait([typing, sharing])
        for task in (typing, sharing):
            with costing_nothing():
                task.result()

    async def _show_typing(self, prompt: Prompt, over: asyncio.Event) -> None:
        room_id, read = prompt.room_id, prompt.messages[-1]
        receipt = self._client.update_receipt_marker(
            room_id, read.event_id, thread_id=read.thread_root or "main"
        )
        await self._try(nio.UpdateReceiptMarkerResponse, receipt)
        self._typing[room_id] += 1
        try:
            while not over.is_set():
                typing = self._client.room_typing(room_id, typing_state=True, timeout=_TYPING_MS)
                await self._try(nio.RoomTypingResponse, typing)
                with suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), _TYPING_AGAIN_SECONDS)
        finally:
            self._typing[room_id] -= 1
        # the room has one typing notice for all replies being written
        if not self._typing[room_id]:
            del self._typing[room_id]
            typing = self._client.room_typing(room_id, typing_state=False)
            await self._try(nio.RoomTypingResponse, typing)

    async def _share_key(self, room_id: RoomId) -> None:
        try:
            await self._client.prepare(room_id)
        except MatrixError as error:
            # the send tries again
            log.info("key not shared yet", room_id=room_id, reason=str(error))

    async def _try(self, expected: type[nio.Response], request: Awaitable[object]) -> None:
        """Make a request whose failure must not stop the reply."""
        try:
            await call(expected, request)
        except MatrixError as error:
            log.info("courtesy refused", request=expected.__name__, reason=str(error))

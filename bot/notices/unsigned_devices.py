"""A notice, once a day, for people who have unsigned devices, which get no keys from the bot."""

import asyncio
from collections.abc import Iterable

import structlog

from bot.core.events import RoomId, UserId
from bot.core.outgoing import Notice
from bot.i18n.texts import Texts
from bot.monitoring.error_boundary import error_boundary
from bot.ports.clock import Clock
from bot.ports.matrix import Matrix
from bot.replies.notices import Notifier
from bot.runtime.once_a_day import OnceADay, day_of

_PATIENCE = 60.0  # seconds for which one notice is tried

log = structlog.get_logger()


class UnsignedDeviceNotices:
    """Sends the notice in the direct message, where the person's signed devices can read it.

    In a salon it could mean one notice per member. There only the device's client explains it,
    from the reason that it gets instead of the key.
    """

    def __init__(self, *, matrix: Matrix, clock: Clock, notifier: Notifier, texts: Texts) -> None:
        self._matrix = matrix
        self._clock = clock
        self._notifier = notifier
        self._texts = texts
        self._queue: asyncio.Queue[tuple[RoomId, UserId]] = asyncio.Queue()
        self._notified: OnceADay[UserId] = OnceADay()

    def hear(self, left_out: Iterable[tuple[RoomId, UserId]]) -> None:
        """Receive the users whose devices got no key, with their rooms."""
        for room_id, user_id in left_out:
            log.info("devices left out", room_id=room_id, user_id=user_id)
            if self._matrix.room(room_id).direct:
                self._queue.put_nowait((room_id, user_id))

    async def run(self) -> None:
        """Send the notices, for ever."""
        while True:
            room_id, user_id = await self._queue.get()
            try:
                async with error_boundary("left out untold", user_id=user_id):
                    await self._tell(room_id, user_id)
            finally:
                self._queue.task_done()

    async def _tell(self, room_id: RoomId, user_id: UserId) -> None:
        now = self._clock.now()
        if self._notified.is_due(user_id, now):
            transaction = f"left-out-{user_id}-{day_of(now):.0f}"
            notice = Notice(text=self._texts("devices left out"))
            await self._notifier.send_as(room_id, notice, transaction, within=_PATIENCE)

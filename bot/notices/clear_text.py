"""Clear text in encrypted rooms: a log entry for each event, a notice once a day."""

import structlog

from bot.core.events import RoomId, UserId
from bot.ports.clock import Clock
from bot.ports.ledger import Store, Unheeded
from bot.runtime.once_a_day import OnceADay, day_of

log = structlog.get_logger()


class ClearText:
    """The people who were told today that the bot ignores their clear text.

    The ledger stores this across restarts. Days are days of UTC.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._notified: OnceADay[tuple[UserId, RoomId]] = OnceADay()

    async def is_due(self, event: Unheeded) -> bool:
        """Return whether a notice is due in the room: once a day, even for parallel calls."""
        log.warning("clear text refused", heard=type(event).__name__, sender=event.sender)
        key, now = (event.sender, event.room_id), self._clock.now()
        if not self._notified.is_due(key, now):
            return False
        latest = await self._store.last_notice(*key)
        return latest is None or latest < day_of(now)

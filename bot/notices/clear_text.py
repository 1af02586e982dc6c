"""Clear text in encrypted rooms: logged each time, told of once a day."""

import structlog

from bot.core.events import RoomId, UserId
from bot.ports.clock import Clock
from bot.ports.ledger import Store, Unheeded
from bot.runtime.once_a_day import OnceADay, day_of

log = structlog.get_logger()


class ClearText:
    """Who was told today that what they say in clear counts for nothing.

    The ledger knows it after a restart. The day is the one of UTC.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._told: OnceADay[tuple[UserId, RoomId]] = OnceADay()

    async def is_due(self, event: Unheeded) -> bool:
        """Tell whether the person is to be told in the room: once a day, whoever asks at once."""
        log.warning("clear text refused", heard=type(event).__name__, sender=event.sender)
        place, now = (event.sender, event.room_id), self._clock.now()
        if not self._told.is_due(place, now):
            return False
        latest = await self._store.last_notice(*place)
        return latest is None or latest < day_of(now)

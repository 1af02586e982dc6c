"""Clear text in encrypted rooms: logged each time, told of once a day."""

import structlog

from bot.core.events import RoomId, UserId
from bot.ports import Clock, Store, Unheeded

_DAY = 86_400.0
_REMEMBERED = 10_000  # people in rooms

log = structlog.get_logger()


class ClearText:
    """Who was told today that what they say in clear counts for nothing.

    The ledger knows it after a restart. The day is the one of UTC.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._told: dict[tuple[UserId, RoomId], float] = {}  # on which day, the oldest first

    async def is_due(self, event: Unheeded) -> bool:
        """Tell whether the person is to be told in the room: once a day, whoever asks at once."""
        log.warning("clear text refused", heard=type(event).__name__, sender=event.sender)
        place, now = (event.sender, event.room_id), self._clock.now()
        today = now - now % _DAY
        if self._told.get(place) == today:
            return False
        self._told.pop(place, None)
        self._told[place] = today
        if len(self._told) > _REMEMBERED:
            del self._told[next(iter(self._told))]
        latest = await self._store.last_notice(*place)
        return latest is None or latest < today

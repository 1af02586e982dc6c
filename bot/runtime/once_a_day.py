"""A limit of one notice a day for each person or other key."""

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from bot.core.bounded import BoundedDict

K = TypeVar("K", bound=Hashable)

DAY: Final = 86_400.0  # seconds
_REMEMBERED: Final = 10_000


class OnceADay(Generic[K]):
    """A record of the keys that were notified today, in UTC; it keeps the last ten thousand."""

    def __init__(self) -> None:
        self._days = BoundedDict[K, float](_REMEMBERED)  # the day of each key's last notice

    def is_due(self, key: K, now: float) -> bool:
        """Return whether a notice is due, and record it as sent.

        Args:
            key: the person, or any other key.
            now: the current time, in seconds since the epoch.
        """
        today = day_of(now)
        if self._days.get(key) == today:
            return False
        self._days[key] = today
        return True

    def forget(self, key: K) -> None:
        """Record that the notice could not be sent."""
        self._days.pop(key, None)


def day_of(now: float) -> float:
    """Return the start of the UTC day, in seconds since the epoch."""
    return now - now % DAY

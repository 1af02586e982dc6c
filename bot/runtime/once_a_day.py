"""What somebody is told once a day, however often there is cause."""

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from bot.core.bounded import BoundedDict

K = TypeVar("K", bound=Hashable)

DAY: Final = 86_400.0  # seconds
_REMEMBERED: Final = 10_000


class OnceADay(Generic[K]):
    """Who was told today; the day is the one of UTC. The last ten thousand are remembered."""

    def __init__(self) -> None:
        self._told = BoundedDict[K, float](_REMEMBERED)  # on which day

    def is_due(self, key: K, now: float) -> bool:
        """Tell whether it is to be told now, and take it for told.

        Args:
            key: who, or what.
            now: seconds since the epoch.
        """
        today = day_of(now)
        if self._told.get(key) == today:
            return False
        self._told[key] = today
        return True

    def forget(self, key: K) -> None:
        """Note that it could not be told."""
        self._told.pop(key, None)


def day_of(now: float) -> float:
    """Return when the day of UTC began."""
    return now - now % DAY

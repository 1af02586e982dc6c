"""What the process knows of its own health, for its log and for who watches it."""

from dataclasses import dataclass, field

import structlog

from bot.ports import Clock

_LOOK_SECONDS = 60.0
_TELL_SECONDS = 600.0
STALLED_SECONDS = 900.0  # longer than any one request of the sync loop may take

log = structlog.get_logger()


@dataclass
class Health:
    """Signs of life of the sync loop, and how much of what it heard could be read.

    Attributes:
        decrypted: encrypted messages read since the start.
        undecryptable: those that could not be read when they came.
    """

    clock: Clock
    decrypted: int = 0
    undecryptable: int = 0
    _beat: float = field(init=False)
    _synced: float = field(init=False)

    def __post_init__(self) -> None:
        self._beat = self._synced = self.clock.monotonic()

    def beat(self) -> None:
        """Note that the sync loop begins another turn."""
        self._beat = self.clock.monotonic()

    def synced(self) -> None:
        """Note that the homeserver has answered a sync."""
        self._synced = self.clock.monotonic()

    @property
    def sync_age(self) -> float:
        """Seconds since the homeserver's last answer to a sync."""
        return self.clock.monotonic() - self._synced

    @property
    def stalled(self) -> bool:
        """Tell whether the sync loop has stopped: a failing homeserver keeps it turning."""
        return self.clock.monotonic() - self._beat > STALLED_SECONDS

    async def watch(self) -> None:
        """Return when the sync loop has stalled; until then, tell the log how things stand."""
        told = self.clock.monotonic()
        while not self.stalled:
            await self.clock.sleep(_LOOK_SECONDS)
            if self.clock.monotonic() - told >= _TELL_SECONDS:
                told = self.clock.monotonic()
                log.info(
                    "health",
                    sync_age=round(self.sync_age, 1),
                    decrypted=self.decrypted,
                    undecryptable=self.undecryptable,
                )

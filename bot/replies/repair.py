"""Read-back of final versions, and their repair where the homeserver shows another text."""

from collections.abc import Iterable

import structlog

from bot.core.events import EventId
from bot.core.outgoing import OutgoingEdit, PreparedEvent, Reply
from bot.errors import FatalError
from bot.monitoring.health import Health
from bot.ports.clock import Clock
from bot.replies.delivery import ReplyDelivery

_REPAIRS = 3  # of one message

log = structlog.get_logger()


class Repair:
    """Makes sure that the homeserver shows the final version of a reply.

    The newest `origin_server_ts` wins among edits, whichever was sent last; and a transaction id
    that was used before returns an old event.
    """

    def __init__(self, *, clock: Clock, health: Health, delivery: ReplyDelivery) -> None:
        self._clock = clock
        self._health = health
        self._delivery = delivery

    async def verify_edits(self, parts: Iterable[int]) -> None:
        """Verify parts whose last edit happens to be their final version."""
        for part in parts:
            wire = self._delivery.unverified_edit(part)
            if wire is not None:
                await self.verify(part, wire)

    async def verify(self, part: int, wire: PreparedEvent, reply: Reply | None = None) -> None:
        """Read the message back, and send it once more where another text stands.

        Args:
            part: number of the reply's message.
            wire: the event whose content is to stand there.
            reply: what it says, where `wire` is no edit.
        """
        delivery = self._delivery
        event_id = delivery.event_ids[part]
        for repair in range(_REPAIRS + 1):
            if await self._is_shown(wire, event_id):
                return
            log.warning("another text stands", event_id=event_id, repairs=repair)
            if repair == _REPAIRS:
                log.error("reply not repaired", event_id=event_id)
                return
            self._health.repaired()
            await self._clock.sleep(2.0**repair)
            if reply is not None:
                wire = await delivery.prepare(OutgoingEdit(event_id, reply))
            stage = f"repair:{repair}"
            transaction = delivery.transaction(stage, part, delivery.claim)
            await delivery.put(wire, stage, transaction)

    async def _is_shown(self, wire: PreparedEvent, event_id: EventId) -> bool:
        """Return whether the homeserver shows the event, or need not.

        A redacted event needs no repair; and one that cannot be read back may well be right.
        """
        try:
            shown = await self._delivery.shown(event_id)
        except FatalError:
            raise
        except Exception as error:  # noqa: BLE001  # the reply stands: nobody need be told
            log.warning("reply not read back", event_id=event_id, kind=type(error).__name__)
            return True
        return shown is None or wire.is_shown_as(shown)

    async def stands(self, wire: PreparedEvent, event_id: EventId) -> bool:
        """Return whether the homeserver shows the event."""
        shown = await self._delivery.shown(event_id)
        return shown is not None and wire.is_shown_as(shown)

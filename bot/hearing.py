"""What the bot makes of an event: decided at once, or once what it relates to is looked up."""

from collections.abc import Iterable, Sequence
from functools import partial

import structlog

from bot.core.events import Event, Pending
from bot.core.routing import Await, Ignore, Intent, Look, Policy, decide
from bot.errors import MatrixError
from bot.insist import insist
from bot.ports import Clock, Matrix

_PATIENCE = 600.0  # seconds for which one message is looked up
_PATIENCE_IN_LOOP = 2.0  # while everything that is new waits

log = structlog.get_logger()


class Hearing:
    """Decides about events, from what the homeserver tells of their rooms."""

    def __init__(self, matrix: Matrix, clock: Clock, policy: Policy) -> None:
        self._matrix = matrix
        self._clock = clock
        self._policy = policy

    def decide(self, event: Event, left: Pending | None = None) -> Intent | Await | Look:
        """Return what the event asks for; `left` tells what an earlier process did about it."""
        begun = left is not None and (left.begun or left.joined_to is not None)
        now = None if begun else self._clock.now()
        room = self._matrix.room(event.room_id)
        return decide(event, room, self._policy, self._matrix.known, now)

    async def resolve(
        self, event: Event, left: Pending | None = None, *, within: float = _PATIENCE
    ) -> Intent | Await:
        """Return what the event asks for, and look up what must be known for that.

        Raises:
            MatrixError: that cannot be had.
        """
        while isinstance(intent := self.decide(event, left), Look):
            fetch = partial(self._matrix.fetch, event.room_id, intent.event_id)
            await insist(self._clock, fetch, within=within)
        return intent

    async def asking(self, events: Iterable[Event]) -> Sequence[Event]:
        """Return those about which anything is to be done; the ledger is spared the others.

        What cannot be decided now is among them: it is decided later.
        """
        asking, away = [], False
        for event in events:
            ids = {"event_id": event.event_id, "room_id": event.room_id}
            intent = self.decide(event)
            if isinstance(intent, Look) and not away:
                try:
                    intent = await self.resolve(event, within=_PATIENCE_IN_LOOP)
                except MatrixError as error:
                    away = True  # one wait is enough for all that came together
                    log.warning("message not looked up", reason=str(error), **ids)
            if isinstance(intent, Ignore):
                log.debug("ignored", reason=intent.reason, **ids)
            else:
                asking.append(event)
        return asking

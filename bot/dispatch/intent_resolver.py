"""What the bot makes of an event: decided at once, or once what it relates to is looked up."""

import asyncio
from collections import ChainMap
from collections.abc import Iterable, Sequence
from functools import partial
from typing import cast

import structlog

from bot.core.bounded import BoundedDict
from bot.core.events import Event, EventId, Message, Pending, RoomId
from bot.core.intents import AwaitKey, Ignore, Intent, NeedsLookup
from bot.core.routing import Policy, decide
from bot.errors import MatrixError
from bot.monitoring.logs import costing_nothing
from bot.ports.clock import Clock
from bot.ports.matrix import Matrix
from bot.runtime.retry import retry_until_accepted

_PATIENCE_IN_LOOP = 2.0  # seconds for all that a batch must have looked up, while others wait
_REMEMBERED = 1_000  # events that are not there

log = structlog.get_logger()


class IntentResolver:
    """Decides about events, from what the homeserver tells of their rooms."""

    def __init__(self, matrix: Matrix, clock: Clock, policy: Policy) -> None:
        self._matrix = matrix
        self._clock = clock
        self._policy = policy
        self._gone = BoundedDict[tuple[RoomId, EventId], None](_REMEMBERED)  # not there

    def decide(self, event: Event, left: Pending | None = None) -> Intent | AwaitKey | NeedsLookup:
        """Return what the event asks for; `left` tells what an earlier process did about it."""
        begun = left is not None and (left.begun or left.joined_to is not None)
        now = None if begun else self._clock.now()
        room = self._matrix.room(event.room_id)
        known = cast("dict[EventId, Message | None]", self._matrix.known)  # it is only read
        gone: dict[EventId, Message | None] = {}
        while True:
            intent = decide(event, room, self._policy, ChainMap(gone, known), now)
            if (
                not isinstance(intent, NeedsLookup)
                or (room.room_id, intent.event_id) not in self._gone
            ):
                return intent
            gone[intent.event_id] = None

    async def resolve(
        self, event: Event, left: Pending | None = None, *, within: float | None = None
    ) -> Intent | AwaitKey:
        """Return what the event asks for, and look up what must be known for that.

        Args:
            event: what was heard.
            left: what an earlier process did about it.
            within: seconds for which each look-up is tried; None for as long as it takes.

        Raises:
            MatrixError: that cannot be had.
        """
        while isinstance(intent := self.decide(event, left), NeedsLookup):
            fetch = partial(self._matrix.fetch, event.room_id, intent.event_id)
            if not isinstance(
                await retry_until_accepted(self._clock, fetch, within=within), Message
            ):
                self._gone[event.room_id, intent.event_id] = None
        return intent

    async def asking(self, events: Iterable[Event]) -> Sequence[Event]:
        """Return those about which anything is to be done; the ledger is spared the others.

        What cannot be decided now is among them: it is decided later.
        """
        asking: list[Event] = []
        away = False
        until = asyncio.get_running_loop().time() + _PATIENCE_IN_LOOP
        for event in events:
            ids = {"event_id": event.event_id, "room_id": event.room_id}
            with costing_nothing():
                try:
                    intent = self.decide(event)
                    if isinstance(intent, NeedsLookup) and not away:
                        async with asyncio.timeout_at(until):
                            intent = await self.resolve(event, within=0.0)
                except (TimeoutError, MatrixError) as error:
                    away = True
                    log.warning("message not looked up", reason=str(error), **ids)
                    asking.append(event)
                    continue
                if isinstance(intent, Ignore):
                    log.debug("ignored", reason=intent.reason, **ids)
                else:
                    asking.append(event)
        return asking

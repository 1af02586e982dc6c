"""The intent of an event: decided at once, or after a look-up of the event it refers to."""

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

_PATIENCE_IN_LOOP = 2.0  # seconds for all look-ups of a batch, while later batches wait
_REMEMBERED = 1_000  # events that are not on the homeserver

log = structlog.get_logger()


class IntentResolver:
    """Decides the intents of events from the state of their rooms and from known messages."""

    def __init__(self, matrix: Matrix, clock: Clock, policy: Policy) -> None:
        self._matrix = matrix
        self._clock = clock
        self._policy = policy
        self._missing = BoundedDict[tuple[RoomId, EventId], None](_REMEMBERED)

    def decide(
        self, event: Event, pending: Pending | None = None
    ) -> Intent | AwaitKey | NeedsLookup:
        """Return the intent of an event; `pending` is the event as an earlier process left it."""
        begun = pending is not None and (pending.begun or pending.joined_to is not None)
        now = None if begun else self._clock.now()
        room = self._matrix.room(event.room_id)
        known = cast("dict[EventId, Message | None]", self._matrix.known)  # read only
        missing: dict[EventId, Message | None] = {}
        while True:
            intent = decide(event, room, self._policy, ChainMap(missing, known), now)
            if (
                not isinstance(intent, NeedsLookup)
                or (room.room_id, intent.event_id) not in self._missing
            ):
                return intent
            missing[intent.event_id] = None

    async def resolve(
        self, event: Event, pending: Pending | None = None, *, within: float | None = None
    ) -> Intent | AwaitKey:
        """Return the intent of an event, after the look-ups that it needs.

        Args:
            event: the event.
            pending: the event as an earlier process left it; None for a new event.
            within: seconds for which each look-up is tried; None for as long as it takes.

        Raises:
            MatrixError: a look-up failed.
        """
        while isinstance(intent := self.decide(event, pending), NeedsLookup):
            fetch = partial(self._matrix.fetch, event.room_id, intent.event_id)
            if not isinstance(
                await retry_until_accepted(self._clock, fetch, within=within), Message
            ):
                self._missing[event.room_id, intent.event_id] = None
        return intent

    async def relevant(self, events: Iterable[Event]) -> Sequence[Event]:
        """Return the events that the ledger must admit: all except those to ignore.

        Events that cannot be decided now are among them, and are decided later.
        """
        relevant: list[Event] = []
        failed = False
        until = asyncio.get_running_loop().time() + _PATIENCE_IN_LOOP
        for event in events:
            ids = {"event_id": event.event_id, "room_id": event.room_id}
            with costing_nothing():
                try:
                    intent = self.decide(event)
                    if isinstance(intent, NeedsLookup) and not failed:
                        async with asyncio.timeout_at(until):
                            intent = await self.resolve(event, within=0.0)
                except (TimeoutError, MatrixError) as error:
                    failed = True
                    log.warning("message not looked up", reason=str(error), **ids)
                    relevant.append(event)
                    continue
                if isinstance(intent, Ignore):
                    log.debug("ignored", reason=intent.reason, **ids)
                else:
                    relevant.append(event)
        return relevant

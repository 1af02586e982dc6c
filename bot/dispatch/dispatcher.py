"""Events on their way to what they ask for: begun at once, looked up, or read again."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from weakref import WeakValueDictionary

import structlog

from bot.core.events import Conversation, Event, Pending, Redaction
from bot.core.intents import AwaitKey, HandleRedaction, Intent, NeedsLookup
from bot.dispatch.intent_resolver import IntentResolver
from bot.dispatch.pending_decryption import PendingDecryption
from bot.errors import Retryable
from bot.monitoring.error_boundary import error_boundary
from bot.monitoring.logs import costing_nothing
from bot.ports.clock import Clock
from bot.ports.ledger import Store, UndecryptedEvent
from bot.ports.matrix import Matrix
from bot.runtime.retry import retry_until_accepted

log = structlog.get_logger()

Start = Callable[[Event, Intent, Sequence[str], Pending | None], None]


class EventDispatcher:
    """Brings every event that was admitted to its start, once, whatever must be had for that."""

    def __init__(
        self,
        *,
        matrix: Matrix,
        store: Store,
        clock: Clock,
        intent_resolver: IntentResolver,
        pending_decryption: PendingDecryption,
    ) -> None:
        self._matrix = matrix
        self._store = store
        self._clock = clock
        self._intent_resolver = intent_resolver
        self._pending_decryption = pending_decryption
        self._looking = WeakValueDictionary[Conversation, asyncio.Lock]()

    def bind(self, tasks: asyncio.TaskGroup, start: Start) -> None:
        """Run look-ups in `tasks`, and give each event with its intent to `start`."""
        self._tasks = tasks
        self._start = start

    def begin(
        self, event: Event, remarks: Sequence[str] = (), left: Pending | None = None
    ) -> None:
        """Start on the event at once: who asks first gets the first place.

        What cannot be read waits for its key, and costs no task.

        Args:
            event: what was heard, or can be read by now.
            remarks: lines of the bot's own that a reply to it carries.
            left: what an earlier process did about it.
        """
        root = getattr(event, "thread_root", None)
        if root is None and not self._matrix.room(event.room_id).direct:
            root = event.event_id  # in a salon, of a conversation of its own
        place = Conversation(event.room_id, root)
        with costing_nothing():
            intent = self._intent_resolver.decide(event, left)
            match intent:
                case AwaitKey(message):
                    self._pending_decryption.add(message, left)
                case _ if isinstance(intent, NeedsLookup) or place in self._looking:
                    turn = self._looking.setdefault(place, asyncio.Lock())
                    self._tasks.create_task(self._look(event, remarks, left, turn))
                case _:
                    self._start(event, intent, remarks, left)

    async def restore(self, left: Event | Pending | UndecryptedEvent, patience: float) -> None:
        """Go on with what an earlier process admitted, before anything newer is heard.

        What cannot be fetched in that time is waited for beside the rest; what never can be waits
        for the next start.
        """
        if isinstance(left, UndecryptedEvent):
            self._pending_decryption.restore(left)
        elif not isinstance(left, Pending):
            self.begin(left)
        elif not await self._read_again(left, patience):
            self._tasks.create_task(self._read_again(left))

    async def _read_again(self, left: Pending, patience: float | None = None) -> bool:
        """Begin anew with what is known by its ids; False where the time is over."""
        again = list[Retryable]()

        async def put_off(error: Retryable) -> None:
            again.append(error)

        event = "message not read"
        async with error_boundary(
            event, put_off=put_off, later=event, event_id=left.event_id, room_id=left.room_id
        ):
            await self._begin_again(left, patience)
        return not again

    async def _begin_again(self, left: Pending, patience: float | None) -> None:
        """Begin anew; what makes one prompt with an earlier message goes where that one goes."""
        if left.joined_to is None:
            found = [(left, await self._again(left, patience))]
        else:
            first = Pending(left.joined_to, left.room_id, begun=True)
            found = [(one, await self._again(one, patience)) for one in (first, left)]
        if found[-1][1] is None:
            return
        for one, event in found:
            if event is not None:
                self.begin(event, left=one)

    async def _again(self, left: Pending, patience: float | None = None) -> Event | None:
        """Fetch what is known by its ids; what is gone is finished, and its reply goes with it."""
        fetch = partial(self._matrix.fetch, left.room_id, left.event_id)
        event = await retry_until_accepted(self._clock, fetch, within=patience)
        if event is None:
            log.warning("message gone", event_id=left.event_id, room_id=left.room_id)
            if left.begun:
                me, gone = self._matrix.user_id, left.event_id
                redaction = Redaction(gone, left.room_id, me, gone)
                self._start(redaction, HandleRedaction(redaction, begun=True), (), left)
            else:
                await self._store.finish(left.event_id)
        return event

    async def _look(
        self, event: Event, remarks: Sequence[str], left: Pending | None, turn: asyncio.Lock
    ) -> None:
        """Start on an event once it can be decided; at the next start, where it cannot be now.

        What a thread is asked stays in order; what is redacted meanwhile is let go.
        """
        async with (
            turn,
            error_boundary(
                "message not looked up", event_id=event.event_id, room_id=event.room_id
            ),
        ):
            await self._intent_resolver.resolve(event, left)
            now = await self._again(Pending(event.event_id, event.room_id))
            if now is None:
                return
            intent = await self._intent_resolver.resolve(now, left)
            if not isinstance(intent, AwaitKey):
                self._start(now, intent, remarks, left)

"""Dispatch of admitted events: start, look up what is missing, or resume after a restart."""

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
from bot.monitoring.logs import log_bug
from bot.ports.clock import Clock
from bot.ports.ledger import Store, UndecryptedEvent
from bot.ports.matrix import Matrix
from bot.runtime.retry import retry_until_accepted

log = structlog.get_logger()

Start = Callable[[Event, Intent, Sequence[str], Pending | None], None]


class EventDispatcher:
    """Starts each admitted event once, after the look-ups that its intent needs."""

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
        self._locks = WeakValueDictionary[Conversation, asyncio.Lock]()

    def bind(self, tasks: asyncio.TaskGroup, start: Start) -> None:
        """Run look-ups in `tasks`, and pass each event with its intent to `start`."""
        self._tasks = tasks
        self._start = start

    def begin(
        self, event: Event, remarks: Sequence[str] = (), pending: Pending | None = None
    ) -> None:
        """Start an event at once if possible, so that prompts queue in the order of their events.

        An event that needs a look-up gets a task. An undecryptable event waits for its key
        without a task.

        Args:
            event: the event, which may have become readable only now.
            remarks: lines of the bot that a reply to the event carries.
            pending: the event as an earlier process left it; None for a new event.
        """
        root = getattr(event, "thread_root", None)
        if root is None and not self._matrix.room(event.room_id).direct:
            root = event.event_id  # in a salon each such event begins its own conversation
        conversation = Conversation(event.room_id, root)
        try:
            intent = self._intent_resolver.decide(event, pending)
        except Exception as error:  # noqa: BLE001  # a bug in one decision costs one event
            log_bug(error)
            return
        match intent:
            case AwaitKey(message):
                self._pending_decryption.add(message, pending)
            case _ if isinstance(intent, NeedsLookup) or conversation in self._locks:
                lock = self._locks.setdefault(conversation, asyncio.Lock())
                self._tasks.create_task(self._look_up(event, remarks, pending, lock))
            case _:
                self._start(event, intent, remarks, pending)

    async def restore(
        self, unfinished: Event | Pending | UndecryptedEvent, patience: float
    ) -> None:
        """Resume an event that an earlier process admitted, before newer events are started.

        If the event cannot be fetched within `patience` seconds, a task goes on trying. If the
        homeserver refuses it, the event waits for the next start.
        """
        if isinstance(unfinished, UndecryptedEvent):
            self._pending_decryption.restore(unfinished)
        elif not isinstance(unfinished, Pending):
            self.begin(unfinished)
        elif not await self._restore_pending(unfinished, patience):
            self._tasks.create_task(self._restore_pending(unfinished))

    async def _restore_pending(self, pending: Pending, patience: float | None = None) -> bool:
        """Fetch and start an event that is known by its ids; return False if the time is over."""
        errors = list[Retryable]()

        async def put_off(error: Retryable) -> None:
            errors.append(error)

        event = "message not read"
        async with error_boundary(
            event, put_off=put_off, later=event, event_id=pending.event_id, room_id=pending.room_id
        ):
            await self._begin_pending(pending, patience)
        return not errors

    async def _begin_pending(self, pending: Pending, patience: float | None) -> None:
        """Fetch and start an event, after the first message of its prompt if it has joined one."""
        if pending.joined_to is None:
            found = [(pending, await self._fetch(pending, patience))]
        else:
            first = Pending(pending.joined_to, pending.room_id, begun=True)
            found = [(item, await self._fetch(item, patience)) for item in (first, pending)]
        if found[-1][1] is None:
            return
        for item, event in found:
            if event is not None:
                self.begin(event, pending=item)

    async def _fetch(self, pending: Pending, patience: float | None = None) -> Event | None:
        """Fetch an event; if it was redacted, finish it and withdraw its reply."""
        fetch = partial(self._matrix.fetch, pending.room_id, pending.event_id)
        event = await retry_until_accepted(self._clock, fetch, within=patience)
        if event is None:
            log.warning("message gone", event_id=pending.event_id, room_id=pending.room_id)
            if pending.begun:
                sender, target = self._matrix.user_id, pending.event_id
                redaction = Redaction(target, pending.room_id, sender, target)
                self._start(redaction, HandleRedaction(redaction, begun=True), (), pending)
            else:
                await self._store.finish(pending.event_id)
        return event

    async def _look_up(
        self, event: Event, remarks: Sequence[str], pending: Pending | None, lock: asyncio.Lock
    ) -> None:
        """Look up what the intent of an event needs, then start the event.

        The lock keeps the events of a thread in order. An event that was redacted meanwhile is
        dropped. If the look-up is refused, the event waits for the next start.
        """
        ready = list[tuple[Event, Intent]]()
        async with lock:
            async with error_boundary(
                "message not looked up", event_id=event.event_id, room_id=event.room_id
            ):
                await self._intent_resolver.resolve(event, pending)
                current = await self._fetch(Pending(event.event_id, event.room_id))
                if current is None:
                    return
                intent = await self._intent_resolver.resolve(current, pending)
                if not isinstance(intent, AwaitKey):
                    ready.append((current, intent))
            for current, intent in ready:  # not within the boundary: a start must not be half done
                self._start(current, intent, remarks, pending)

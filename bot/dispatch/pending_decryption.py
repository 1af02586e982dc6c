"""Messages without their room key: a notice after a while, a retry with each key, for a day.

A key may come long after the message it belongs to: the sender's device was offline, or the
homeserver was slow (spec: Megolm; key sharing). The bot waits and does not request keys, since no
client sends a key to another person on request.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from bot.core.bounded import BoundedDict
from bot.core.events import (
    Conversation,
    EventId,
    KeyNews,
    Message,
    Pending,
    Undecryptable,
    UserId,
    Vote,
)
from bot.core.outgoing import Notice, transaction_id
from bot.errors import (
    Forbidden,
    Retryable,
)
from bot.i18n.texts import Texts, speak
from bot.monitoring.error_boundary import error_boundary
from bot.ports.clock import Clock
from bot.ports.ledger import Store, UndecryptedEvent
from bot.ports.matrix import Matrix
from bot.replies.notices import Notifier
from bot.runtime.retry import retry_until_accepted

NOTICE_AFTER: Final = 30.0  # seconds; most keys come with their message or shortly after
_LATE_AFTER = 600.0
_DROP_AFTER = _DAY = 86_400.0
_PATIENCE = 3.0  # seconds for which one step is tried before it is put off
_AGAIN_AFTER = 90.0  # seconds until a step that was put off is tried again
_NEWS_KEPT = 10_000  # sessions
_ID_LENGTH = 255  # characters; the spec allows as many bytes

_CAME = ""
_UNKNOWN = "key missing"
_REASONS = {
    "m.blacklisted": "key blacklisted",
    "m.no_olm": "key without olm",
    "m.unauthorised": "key unauthorised",
    "m.unavailable": "key unavailable",
    "m.unverified": "key unverified",
}

log = structlog.get_logger()


@dataclass(eq=False, slots=True)
class _Waiting:
    """One message that waits for its key.

    Attributes:
        awaited: the message, and when it was received.
        heard_at: time of its receipt, in monotonic seconds of this process.
        pending: the message as an earlier process left it; None for a new message.
        is_queued: whether it is queued to be fetched again.
    """

    awaited: UndecryptedEvent
    heard_at: float
    pending: Pending | None
    is_queued: bool = False

    @property
    def message(self) -> Undecryptable:
        return self.awaited.message


Begin = Callable[[Message | Vote, tuple[str, ...], Pending | None], None]
_Queue = asyncio.Queue[_Waiting]
_Step = Callable[[_Waiting], Awaitable[None]]


class PendingDecryption:
    """All messages that wait for their keys, served by four tasks.

    A message is read again when its key comes, explained by a notice after `notice_after`
    seconds, and dropped after a day. Each of these steps has a queue, whose entries become due in
    the order in which they were added.
    """

    def __init__(
        self,
        *,
        matrix: Matrix,
        store: Store,
        clock: Clock,
        notifier: Notifier,
        texts: Texts,
        notice_after: float = NOTICE_AFTER,
    ) -> None:
        self._matrix = matrix
        self._store = store
        self._clock = clock
        self._notifier = notifier
        self._texts = texts
        self._notice_after = notice_after
        self._waiting: dict[EventId, _Waiting] = {}
        self._to_read, self._to_notice, self._to_drop = _Queue(), _Queue(), _Queue()
        self._to_repeat: asyncio.Queue[tuple[float, _Queue, _Waiting]] = asyncio.Queue()
        self._news = BoundedDict[tuple[UserId, str, str], str](_NEWS_KEPT)

    async def run(self, begin: Begin) -> None:
        """Serve the queues, for ever.

        Args:
            begin: starts an event that can be read now. The second argument holds the remarks
                that the reply carries because it is late, the third the event as an earlier
                process left it.
        """

        async def read(waiting: _Waiting) -> None:
            await self._read(waiting, begin)

        async def notice(waiting: _Waiting) -> None:
            if await self._is_due(waiting):
                await self._read(waiting, begin)  # the news of its key may have been missed
                await self._notice(waiting)

        async def drop(waiting: _Waiting) -> None:
            await self._read(waiting, begin)  # its key may have come while the bot was not running
            if self._is_waiting(waiting):
                await self._drop(waiting)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._process(self._to_read, 0.0, read, drop))
            tasks.create_task(self._process(self._to_notice, self._notice_after, notice, drop))
            tasks.create_task(self._process(self._to_drop, _DROP_AFTER, drop, drop))
            tasks.create_task(self._repeat())

    def add(self, message: Undecryptable, pending: Pending | None = None) -> None:
        """Wait for the key of a message; read the message at once if the key has come already.

        Args:
            message: the message that cannot be decrypted.
            pending: the message as an earlier process left it; None for a new message.
        """
        waiting = self._begin_to_wait(UndecryptedEvent(message, self._clock.now()), pending)
        if self._news.get(_key(message)) == _CAME:
            self._read_soon(waiting)

    def restore(self, awaited: UndecryptedEvent) -> None:
        """Resume a message of an earlier process: read it, since its key may have come."""
        pending = Pending(awaited.message.event_id, awaited.message.room_id)
        self._read_soon(self._begin_to_wait(awaited, pending))

    def hear(self, news: Iterable[KeyNews]) -> None:
        """Receive the news of keys that have come, and of keys that will not come."""
        come = set()
        for one in news:
            self._remember(one)
            if one.withheld is None:
                come.add((one.room_id, one.session_id))
        if come:
            for waiting in self._waiting.values():
                if (waiting.message.room_id, waiting.message.session_id) in come:
                    self._read_soon(waiting)

    def _begin_to_wait(self, awaited: UndecryptedEvent, pending: Pending | None) -> _Waiting:
        age = max(self._clock.now() - awaited.heard_at, 0.0)
        waiting = _Waiting(awaited, self._clock.monotonic() - age, pending)
        self._waiting[awaited.message.event_id] = waiting
        self._to_notice.put_nowait(waiting)
        self._to_drop.put_nowait(waiting)
        return waiting

    def _read_soon(self, waiting: _Waiting) -> None:
        if not waiting.is_queued:
            waiting.is_queued = True
            self._to_read.put_nowait(waiting)

    def _remember(self, news: KeyNews) -> None:
        """Store the latest news of each session, by the sender who reported it.

        A message uses only the news from its own sender. The news comes from other clients and may
        have any length: a code is stored as one of the known reasons, and news with an id longer
        than the spec allows (appendices: identifiers) is ignored.
        """
        key = (news.sender, news.room_id, news.session_id)
        if max(map(len, key)) > _ID_LENGTH:
            return
        if news.withheld is None:
            self._news[key] = _CAME
            self._news.pop((news.sender, "", ""), None)  # the sender has an Olm session again
        else:
            self._news[key] = _REASONS.get(news.withheld, _UNKNOWN)

    def _age(self, waiting: _Waiting) -> float:
        return self._clock.monotonic() - waiting.heard_at

    def _is_waiting(self, waiting: _Waiting) -> bool:
        return self._waiting.get(waiting.message.event_id) is waiting

    async def _process(self, queue: _Queue, after: float, step: _Step, drop: _Step) -> None:
        """Run `step` on each entry of the queue, `after` seconds after its receipt.

        Entries that have waited for a day go through `drop` instead.
        """
        while True:
            waiting = await queue.get()
            if (rest := after - self._age(waiting)) > 0:
                await self._clock.sleep(rest)
            if self._is_waiting(waiting):
                overdue = self._age(waiting) >= _DROP_AFTER
                with structlog.contextvars.bound_contextvars(
                    event_id=waiting.message.event_id, room_id=waiting.message.room_id
                ):
                    delay = await self._attempt(drop if overdue else step, waiting)
                    if delay is not None:
                        due = self._clock.monotonic() + delay
                        self._to_repeat.put_nowait((due, queue, waiting))

    async def _repeat(self) -> None:
        """Put failed entries back into their queues when they are due again."""
        while True:
            due, queue, waiting = await self._to_repeat.get()
            if (rest := due - self._clock.monotonic()) > 0:
                await self._clock.sleep(rest)
            queue.put_nowait(waiting)

    async def _attempt(self, step: _Step, waiting: _Waiting) -> float | None:
        """Run one step; return seconds until it must be repeated, or None. Its errors end here."""
        delay: float | None = None

        async def put_off(error: Retryable) -> None:
            nonlocal delay
            delay = max(_AGAIN_AFTER, getattr(error, "retry_after", 0.0))

        async with error_boundary(put_off=put_off):
            await step(waiting)
        return delay

    async def _read(self, waiting: _Waiting, begin: Begin) -> None:
        """Fetch the message again, and start it if it can be read now."""
        waiting.is_queued = False
        message = waiting.message
        event = await retry_until_accepted(
            self._clock,
            lambda: self._matrix.fetch(message.room_id, message.event_id),
            within=_PATIENCE,
        )
        if isinstance(event, Undecryptable) or self._waiting.pop(message.event_id, None) is None:
            return
        if not isinstance(event, Message | Vote):
            log.warning("message gone")
            await self._store.finish(message.event_id)
            return
        age = self._age(waiting)
        log.info("late key came", after=round(age, 1))
        late = age > _LATE_AFTER
        exchange = await self._store.exchange(message.room_id, message.event_id)
        if exchange is not None and exchange.reply:
            log.info("answered meanwhile")  # by `!refaire`, before the news of the key came
            await self._store.finish(message.event_id)
            return
        remarks = ((await self._texts_for(message))("key late"),) if late else ()
        begin(event, remarks, waiting.pending)

    async def _is_due(self, waiting: _Waiting) -> bool:
        """Return whether a notice is due: at most one per person, room and day (UTC).

        The day is the one on which the notice became due, so that a restart on the next day does
        not repeat it.
        """
        message = waiting.message
        if not await self._is_meant(message):
            return False
        due_at = waiting.awaited.heard_at + self._notice_after
        latest = await self._store.last_notice(message.sender, message.room_id)
        return latest is None or latest < due_at - due_at % _DAY

    async def _is_meant(self, message: Undecryptable) -> bool:
        """Return whether the message is for the bot.

        In a salon only a thread tells: its first message, by the same sender, mentions the bot.

        Votes never count, since nobody expects an answer to a vote.
        """
        if message.refers_to is not None:
            return False
        room_id, root, known = message.room_id, message.thread_root, self._matrix.known
        if self._matrix.room(room_id).direct:
            return True
        if root is None:
            return False
        if root not in known:
            await retry_until_accepted(
                self._clock, lambda: self._matrix.fetch(room_id, root), within=_PATIENCE
            )
        opener = known.get(root)
        return (
            opener is not None
            and not opener.exposed
            and opener.sender == message.sender
            and self._matrix.user_id in opener.mentions
        )

    async def _texts_for(self, message: Undecryptable) -> Texts:
        """Return the sentences in the language of the message's conversation."""
        conversation = Conversation(message.room_id, message.thread_root)
        language = (await self._store.choices(conversation)).language
        return speak(language) if language else self._texts

    async def _notice(self, waiting: _Waiting, key: str | None = None) -> None:
        """Send the notice that the message cannot be read, unless it was read meanwhile."""
        message = waiting.message
        reason = key or self._reason(message)
        texts = await self._texts_for(message)
        notice = Notice(text=texts(reason, hours=round(_DROP_AFTER / 3600)), to=message)
        transaction = transaction_id(
            self._matrix.device_id, message.event_id, "key missing", part=0, claim=0
        )

        event_id = await self._notifier.send_as(
            message.room_id,
            notice,
            transaction,
            within=_PATIENCE,
            is_due=lambda: self._is_waiting(waiting),
        )
        if event_id is not None:
            await self._store.noticed(message, self._clock.now())
            log.info("key missing", session_id=message.session_id, reason=reason)

    async def _drop(self, waiting: _Waiting) -> None:
        """Stop waiting for the key, and send a notice if the person got none today."""
        message = waiting.message
        if await self._is_due(waiting):
            with suppress(Forbidden):  # the bot has left the room
                await self._notice(waiting, "expired")
        if self._waiting.pop(message.event_id, None) is None:
            return  # it was read meanwhile
        log.warning("key never came", session_id=message.session_id, reason=self._reason(message))
        await self._store.finish(message.event_id)

    def _reason(self, message: Undecryptable) -> str:
        """Return the key of the sentence that says why the message cannot be read."""
        reason = self._news.get(_key(message), _UNKNOWN)
        if reason not in {_UNKNOWN, _CAME}:
            return reason
        return self._news.get((message.sender, "", ""), _UNKNOWN)


def _key(message: Undecryptable) -> tuple[UserId, str, str]:
    return message.sender, message.room_id, message.session_id

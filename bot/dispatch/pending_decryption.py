"""Messages whose keys are late: explained after a moment, read when the key comes, for a day.

A key may come long after the message it belongs to: the sender's device was offline, or the
homeserver was slow (spec: Megolm; key sharing). Asking for it helps nobody, since no client hands
a key to another person on request: one can only wait.
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

NOTICE_AFTER: Final = 30.0  # seconds: keys mostly come with their message, or a moment later
_LATE_AFTER = 600.0
_DROP_AFTER = _DAY = 86_400.0
_PATIENCE = 3.0  # seconds for which one request is tried before others get their turn
_AGAIN_AFTER = 90.0  # until it gets another
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
    """One message on its way through the ladder.

    Attributes:
        heard: when, in monotonic seconds of this process.
        left: an earlier process may have dealt with it.
        to_read: its turn to be read is coming.
    """

    awaited: UndecryptedEvent
    heard: float
    left: Pending | None
    to_read: bool = False

    @property
    def message(self) -> Undecryptable:
        return self.awaited.message


Begin = Callable[[Message | Vote, tuple[str, ...], Pending | None], None]
_Queue = asyncio.Queue[_Waiting]
_Step = Callable[[_Waiting], Awaitable[None]]


class PendingDecryption:
    """Every message that waits for its key, and four tasks however many they are.

    Each step of the ladder is a queue whose entries fall due in the order in which they came.
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
        """Take every message through the ladder, for ever.

        Args:
            begin: starts the usual way of a message that can be read now; the second argument
                holds what the reply must say of its being late, the third tells whether an
                earlier process may have dealt with it.
        """

        async def read(waiting: _Waiting) -> None:
            await self._read(waiting, begin)

        async def notice(waiting: _Waiting) -> None:
            if await self._is_due(waiting):
                await self._read(waiting, begin)  # in case the news of its key was missed
                await self._notice(waiting)

        async def drop(waiting: _Waiting) -> None:
            await self._read(waiting, begin)  # it may have come while nobody was there to read it
            if self._waits(waiting):
                await self._drop(waiting)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._each(self._to_read, 0.0, read, drop))
            tasks.create_task(self._each(self._to_notice, self._notice_after, notice, drop))
            tasks.create_task(self._each(self._to_drop, _DROP_AFTER, drop, drop))
            tasks.create_task(self._repeat())

    def add(self, message: Undecryptable, left: Pending | None = None) -> None:
        """Wait for the key of a message just heard, or read it at once where that has come.

        Args:
            message: what cannot be read.
            left: it may have been dealt with before.
        """
        waiting = self._begin_to_wait(UndecryptedEvent(message, self._clock.now()), left)
        if self._news.get(_key(message)) == _CAME:
            self._read_soon(waiting)

    def restore(self, awaited: UndecryptedEvent) -> None:
        """Go on with a message of an earlier process; its key may have come as that one ended."""
        left = Pending(awaited.message.event_id, awaited.message.room_id)
        self._read_soon(self._begin_to_wait(awaited, left))

    def hear(self, news: Iterable[KeyNews]) -> None:
        """Take in which keys have come, and which will not."""
        come = set()
        for one in news:
            self._remember(one)
            if one.withheld is None:
                come.add((one.room_id, one.session_id))
        if come:
            for waiting in self._waiting.values():
                if (waiting.message.room_id, waiting.message.session_id) in come:
                    self._read_soon(waiting)

    def _begin_to_wait(self, awaited: UndecryptedEvent, left: Pending | None) -> _Waiting:
        age = max(self._clock.now() - awaited.heard_at, 0.0)
        waiting = _Waiting(awaited, self._clock.monotonic() - age, left)
        self._waiting[awaited.message.event_id] = waiting
        self._to_notice.put_nowait(waiting)
        self._to_drop.put_nowait(waiting)
        return waiting

    def _read_soon(self, waiting: _Waiting) -> None:
        if not waiting.to_read:
            waiting.to_read = True
            self._to_read.put_nowait(waiting)

    def _remember(self, news: KeyNews) -> None:
        """Keep the newest news of each session; only its own sender's word counts for a message.

        The words are another's and of any length: of a code its reason is kept, and no id that is
        longer than the spec allows (appendices: identifiers).
        """
        key = (news.sender, news.room_id, news.session_id)
        if max(map(len, key)) > _ID_LENGTH:
            return
        if news.withheld is None:
            self._news[key] = _CAME
            self._news.pop((news.sender, "", ""), None)  # they can be reached after all
        else:
            self._news[key] = _REASONS.get(news.withheld, _UNKNOWN)

    def _age(self, waiting: _Waiting) -> float:
        return self._clock.monotonic() - waiting.heard

    def _waits(self, waiting: _Waiting) -> bool:
        return self._waiting.get(waiting.message.event_id) is waiting

    async def _each(self, queue: _Queue, after: float, step: _Step, drop: _Step) -> None:
        """Take each entry of the queue through `step`, `after` seconds after it was heard.

        What is heard for so long that it is given up goes through `drop` instead.
        """
        while True:
            waiting = await queue.get()
            if (rest := after - self._age(waiting)) > 0:
                await self._clock.sleep(rest)
            if self._waits(waiting):
                overdue = self._age(waiting) >= _DROP_AFTER
                with structlog.contextvars.bound_contextvars(
                    event_id=waiting.message.event_id, room_id=waiting.message.room_id
                ):
                    again = await self._try(drop if overdue else step, waiting)
                    if again is not None:
                        due = self._clock.monotonic() + again
                        self._to_repeat.put_nowait((due, queue, waiting))

    async def _repeat(self) -> None:
        """Put back what has failed when it is due again; meanwhile it holds up no other."""
        while True:
            due, queue, waiting = await self._to_repeat.get()
            if (rest := due - self._clock.monotonic()) > 0:
                await self._clock.sleep(rest)
            queue.put_nowait(waiting)

    async def _try(self, step: _Step, waiting: _Waiting) -> float | None:
        """Take one step; return after how long it must be taken again. Its errors end here."""
        again: float | None = None

        async def put_off(error: Retryable) -> None:
            nonlocal again
            again = max(_AGAIN_AFTER, getattr(error, "retry_after", 0.0))

        async with error_boundary(put_off=put_off):
            await step(waiting)
        return again

    async def _read(self, waiting: _Waiting, begin: Begin) -> None:
        """Fetch the message again, and let it go its usual way where its key is there."""
        waiting.to_read = False
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
            log.info("answered meanwhile")  # `!refaire` was quicker than the news of the key
            await self._store.finish(message.event_id)
            return
        remarks = ((await self._chosen(message))("key late"),) if late else ()
        begin(event, remarks, waiting.left)

    async def _is_due(self, waiting: _Waiting) -> bool:
        """Tell whether the person is to be told: once a day (UTC), where the bot is meant.

        The day is the one on which the notice fell due, so that a start on the next day does not
        tell of it again.
        """
        message = waiting.message
        if not await self._is_meant(message):
            return False
        due_at = waiting.awaited.heard_at + self._notice_after
        latest = await self._store.last_notice(message.sender, message.room_id)
        return latest is None or latest < due_at - due_at % _DAY

    async def _is_meant(self, message: Undecryptable) -> bool:
        """Tell whether the message is for the bot; in a salon the thread says so, if anything.

        Nobody expects an answer to a vote.
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

    async def _chosen(self, message: Undecryptable) -> Texts:
        """Return the sentences in the language of the message's conversation."""
        conversation = Conversation(message.room_id, message.thread_root)
        language = (await self._store.choices(conversation)).language
        return speak(language) if language else self._texts

    async def _notice(self, waiting: _Waiting, key: str | None = None) -> None:
        """Tell the person that the message cannot be read, and why, unless it can be by now."""
        message = waiting.message
        reason = key or self._reason(message)
        texts = await self._chosen(message)
        notice = Notice(texts(reason, hours=round(_DROP_AFTER / 3600)), message)
        transaction = transaction_id(
            self._matrix.device_id, message.event_id, "key missing", part=0, claim=0
        )

        event_id = await self._notifier.send_as(
            message.room_id,
            notice,
            transaction,
            within=_PATIENCE,
            is_due=lambda: self._waits(waiting),
        )
        if event_id is not None:
            await self._store.noticed(message, self._clock.now())
            log.info("key missing", session_id=message.session_id, reason=reason)

    async def _drop(self, waiting: _Waiting) -> None:
        """Give the message up; who was not told today that it cannot be read is told so now."""
        message = waiting.message
        if await self._is_due(waiting):
            with suppress(Forbidden):  # the bot is out, and there is nobody to tell
                await self._notice(waiting, "expired")
        if self._waiting.pop(message.event_id, None) is None:
            return  # its key came at the very last
        log.warning("key never came", session_id=message.session_id, reason=self._reason(message))
        await self._store.finish(message.event_id)

    def _reason(self, message: Undecryptable) -> str:
        """Return the key of the sentence that says why the message cannot be read."""
        of_session = self._news.get(_key(message), _UNKNOWN)
        if of_session not in {_UNKNOWN, _CAME}:
            return of_session
        return self._news.get((message.sender, "", ""), _UNKNOWN)


def _key(message: Undecryptable) -> tuple[UserId, str, str]:
    return message.sender, message.room_id, message.session_id

"""The way of a message: heard, decided, answered by edits. Read this first."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import structlog

from bot.core.events import Conversation, Event, EventId, Message, Pending, RoomId
from bot.core.replies import Notice, transaction_id
from bot.core.routing import (
    Accept,
    Answer,
    Await,
    Decline,
    Explain,
    Ignore,
    Intent,
    Leave,
    Policy,
    Welcome,
    decide,
)
from bot.core.turns import build_turns
from bot.errors import AccountExpired, LoggedOut, MatrixError, StoreError
from bot.insist import insist
from bot.lanes import Lanes
from bot.late_keys import LateKeys
from bot.logs import log_bug
from bot.ports import Awaited, Clock, Matrix, Model, Store
from bot.replying import Replying
from bot.texts import Texts

_PATIENCE = 600.0  # seconds for which one request is tried, but for a reply's own
_PATIENCE_AT_START = 30.0  # for all that is left, while everything that is new waits

log = structlog.get_logger()


class Assistant:
    """Hears the account's rooms and does what each event asks for, each event to its end."""

    def __init__(
        self,
        matrix: Matrix,
        model: Model,
        store: Store,
        replying: Replying,
        policy: Policy,
        system_prompt: str,
    ) -> None:
        self._matrix = matrix
        self._model = model
        self._store = store
        self._replying = replying
        self._policy = policy
        self._system_prompt = system_prompt
        self._clock: Clock = replying.clock
        self._texts: Texts = replying.texts
        self._lanes = Lanes()
        self._late_keys = LateKeys(matrix, store, self._clock, self._texts)

    async def run(self) -> None:
        """Take in batch after batch; what an earlier process left unfinished comes first."""
        unfinished = await self._store.unfinished()
        async with asyncio.TaskGroup() as tasks:
            begin = partial(self._begin, tasks)
            tasks.create_task(self._late_keys.run(begin))
            async for batch in self._matrix.batches(await self._store.sync_token()):
                until = self._clock.monotonic() + _PATIENCE_AT_START
                for left in unfinished:
                    event = await self._again(left, max(until - self._clock.monotonic(), 0.0))
                    if event is not None:
                        begin(event)
                unfinished = ()
                asking = tuple(event for event in batch.events if self._asks(event))
                heard = replace(batch, events=asking)
                for event in await self._store.admit(heard, self._clock.now()):
                    begin(event)
                self._late_keys.hear(batch.keys)

    def _begin(self, tasks: asyncio.TaskGroup, event: Event, remarks: Sequence[str] = ()) -> None:
        """Start on the event at once; what cannot be read waits for its key, and costs no task."""
        intent = self._decide(event)
        if isinstance(intent, Await):
            self._late_keys.add(intent.message)
        else:
            tasks.create_task(self._handle(event, intent, remarks))

    async def _again(self, left: Event | Pending | Awaited, patience: float) -> Event | None:
        """Read again what an earlier process admitted, before anything newer is heard.

        A message that is gone is finished; one that cannot be fetched now waits for the next
        start, and one whose key has not come goes on waiting.
        """
        if isinstance(left, Awaited):
            self._late_keys.restore(left)
            return None
        if not isinstance(left, Pending):
            return left
        ids = {"event_id": left.event_id, "room_id": left.room_id}
        try:
            message = await insist(
                self._clock,
                lambda: self._matrix.fetch(left.room_id, left.event_id),
                within=patience,
            )
        except MatrixError as error:
            log.warning("message not read", reason=str(error), **ids)
            return None
        if message is None:
            log.warning("message gone", **ids)
            await self._store.finish(left.event_id)
        return message

    def _asks(self, event: Event) -> bool:
        """Tell whether anything is to be done about the event; if not, the ledger is spared it."""
        intent = self._decide(event)
        if isinstance(intent, Ignore):
            log.debug(
                "ignored", event_id=event.event_id, room_id=event.room_id, reason=intent.reason
            )
        return not isinstance(intent, Ignore)

    def _decide(self, event: Event) -> Intent | Await:
        return decide(event, self._matrix.room(event.room_id), self._policy)

    async def _handle(self, event: Event, intent: Intent, remarks: Sequence[str]) -> None:
        """Do what `event` asks for, and note that it is done."""
        with structlog.contextvars.bound_contextvars(
            event_id=event.event_id, room_id=event.room_id
        ):
            await self._do(event, intent, remarks)
            await self._store.finish(event.event_id)

    async def _do(self, event: Event, intent: Intent, remarks: Sequence[str]) -> None:
        """Perform the intent; errors end here, and in LateKeys while nothing can be done yet."""
        log.info("decided", heard=type(event).__name__, intent=type(intent).__name__)
        try:
            await self._perform(intent, remarks)
        except (StoreError, LoggedOut, AccountExpired):
            raise  # the ledger or the login is gone: the process ends, and nothing is lost
        except MatrixError as error:
            log.warning("refused by the homeserver", reason=str(error))
            await self._apologise(event)
        except Exception as error:  # noqa: BLE001  # a bug must cost one answer, not the bot
            log_bug(error)
            await self._apologise(event)

    async def _perform(self, intent: Intent, remarks: Sequence[str]) -> None:
        match intent:
            case Answer(prompt):
                await self._answer(prompt, remarks)
            case Explain(message, key):
                await self._say(
                    Notice(self._texts(key), message), message.room_id, message.event_id
                )
            case Welcome(room_id, event_id, key):
                await self._welcome(room_id, event_id, key)
            case Accept(invite):
                await insist(self._clock, lambda: self._matrix.join(invite), within=_PATIENCE)
            case Decline(room_id, key):
                reason = self._texts(key)
                await insist(
                    self._clock, lambda: self._matrix.leave(room_id, reason), within=_PATIENCE
                )
            case Leave(room_id):
                await insist(self._clock, lambda: self._matrix.leave(room_id), within=_PATIENCE)
            case Ignore(reason):  # since it was admitted, the room or the policy has changed
                log.info("ignored", reason=reason)

    async def _answer(self, prompt: Message, remarks: Sequence[str]) -> None:
        """Stream the completion into one reply by editing it."""
        async with self._matrix.attention(prompt), self._lanes.of(prompt.conversation):
            said = await insist(
                self._clock, lambda: self._matrix.history(prompt), within=_PATIENCE
            )
            turns = build_turns(self._system_prompt, said, prompt)
            await self._replying.stream(prompt, self._model.stream(turns), remarks)

    async def _welcome(self, room_id: RoomId, event_id: EventId, key: str) -> None:
        """Introduce the assistant, before it answers anything in the room's main timeline."""
        async with self._lanes.of(Conversation(room_id, None)):
            await self._say(Notice(self._texts(key)), room_id, event_id)

    async def _apologise(self, event: Event) -> None:
        """Tell the person that there is no answer, if the room still takes a word of the bot."""
        if not isinstance(event, Message):
            return
        try:
            notice = Notice(self._texts("bug"), event)
            await self._say(notice, event.room_id, event.event_id)
        except (StoreError, LoggedOut, AccountExpired):
            raise
        except Exception as error:  # noqa: BLE001  # what failed once may well fail here again
            log.warning("no apology", kind=type(error).__name__)

    async def _say(self, notice: Notice, room_id: RoomId, cause: EventId) -> None:
        """Send one notice, once, however often it is tried."""
        transaction = transaction_id(self._matrix.device_id, cause, "notice", part=0, claim=0)
        await insist(
            self._clock,
            lambda: self._matrix.send(room_id, notice, transaction),
            within=_PATIENCE,
        )

"""Stand-ins at the ports, for fast stories; the contract tests keep them honest."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from typing_extensions import override

from bot.assistant import Assistant
from bot.core.events import (
    Batch,
    Delta,
    Event,
    EventId,
    Invite,
    Joined,
    KeyNews,
    Left,
    Message,
    Pending,
    Room,
    RoomId,
    Turn,
    Undecryptable,
    UserId,
)
from bot.core.markdown import render
from bot.core.replies import Edit, Outgoing, Reply
from bot.core.routing import Policy
from bot.core.turns import Said
from bot.errors import BotError, HomeserverUnreachable, MatrixError, StoreError
from bot.ports import Awaited, Claim
from bot.replying import Pace, Replying
from bot.texts import Texts
from tests.make import BOT, MIDNIGHT


class FakeMatrix:
    """A homeserver of one room: records what the bot does, and remembers transaction ids."""

    def __init__(self, *, direct: bool = True) -> None:
        self.user_id: UserId = BOT
        self.device_id = "FAKE"
        self.direct = direct
        self.batch_queue: asyncio.Queue[Batch | BotError] = asyncio.Queue()
        self.joined: list[RoomId] = []
        self.left: list[tuple[RoomId, str | None]] = []
        self.sent: list[tuple[EventId, Outgoing]] = []
        self.transactions: dict[str, EventId] = {}
        self.messages: dict[EventId, Message | Undecryptable] = {}
        self.fetched: list[EventId] = []
        self.fetch_gate = asyncio.Event()
        self.fetch_gate.set()
        self.said: list[Said] = []
        self.failures: list[MatrixError] = []  # raised by the next sends, in order
        self.fetch_failure: MatrixError | None = None
        self.unreadable: set[EventId] = set()  # whose fetches fail, for ever
        self.history_failure: MatrixError | None = None
        self.attending = 0
        self.attended: list[EventId] = []
        self.changed = asyncio.Condition()

    def hear(self, *events: Event, keys: Sequence[KeyNews] = ()) -> None:
        """Let the next sync response carry `events` and `keys`."""
        for event in events:
            if isinstance(event, Message | Undecryptable):
                self.messages[event.event_id] = event
        token = f"s{len(self.messages)}-{self.batch_queue.qsize()}"
        self.batch_queue.put_nowait(Batch(events, token, tuple(keys)))

    async def batches(self, since: str | None) -> AsyncIterator[Batch]:  # noqa: ARG002  # the port
        while True:
            batch = await self.batch_queue.get()
            if isinstance(batch, BotError):
                raise batch
            yield batch

    def room(self, room_id: RoomId) -> Room:
        return Room(room_id, direct=self.direct)

    async def join(self, invite: Invite) -> None:
        self._fail()
        self.joined.append(invite.room_id)
        await self._tell()

    async def leave(self, room_id: RoomId, reason: str | None = None) -> None:
        self._fail()
        self.left.append((room_id, reason))
        await self._tell()

    async def fetch(
        self,
        room_id: RoomId,  # noqa: ARG002  # the port
        event_id: EventId,
    ) -> Message | Undecryptable | None:
        self.fetched.append(event_id)
        await self.fetch_gate.wait()
        if self.fetch_failure is not None:
            raise self.fetch_failure
        if event_id in self.unreadable:
            raise HomeserverUnreachable("500")
        return self.messages.get(event_id)

    async def history(self, prompt: Message) -> Sequence[Said]:  # noqa: ARG002  # the port
        if self.history_failure is not None:
            raise self.history_failure
        return list(self.said)

    @asynccontextmanager
    async def attention(self, message: Message) -> AsyncIterator[None]:
        self.attending += 1
        self.attended.append(message.event_id)
        try:
            yield
        finally:
            self.attending -= 1

    async def send(self, room_id: RoomId, outgoing: Outgoing, transaction_id: str) -> EventId:  # noqa: ARG002  # the port
        await asyncio.sleep(0)
        self._fail()
        if transaction_id in self.transactions:
            return self.transactions[transaction_id]
        event_id = EventId(f"$sent{len(self.sent)}")
        self.transactions[transaction_id] = event_id
        self.sent.append((event_id, outgoing))
        await self._tell()
        return event_id

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something the bot did makes `condition` hold."""
        async with self.changed:
            await self.changed.wait_for(condition)

    def standing(self) -> dict[EventId, str]:
        """Return the plain text of each message as the room shows it now."""
        shown: dict[EventId, str] = {}
        for event_id, outgoing in self.sent:
            match outgoing:
                case Edit(target, reply):
                    shown[target] = self._text(reply)
                case Reply():
                    shown[event_id] = self._text(outgoing)
                case _:
                    shown[event_id] = outgoing.text
        return shown

    @staticmethod
    def _text(reply: Reply) -> str:
        return "\n\n".join([render(reply.part).body, *reply.added]).strip()

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


class FakeModel:
    """A model that says what it is told to, piece by piece, and waits where it is told to."""

    def __init__(self, *script: Delta | Exception | asyncio.Event) -> None:
        self.script = script or (Delta("Bonjour."), Delta(finish_reason="stop"))
        self.requests: list[Sequence[Turn]] = []

    async def stream(self, turns: Sequence[Turn]) -> AsyncGenerator[Delta, None]:
        self.requests.append(turns)
        for step in self.script:
            match step:
                case asyncio.Event():
                    await step.wait()
                case Exception():
                    raise step
                case Delta():
                    yield step


def _fingerprint(event: Event) -> object:
    """Return what makes two events one, the event's own id where nothing else does."""
    return getattr(event, "fingerprint", None) or event.event_id


class FakeStore:
    """A ledger in memory."""

    def __init__(self) -> None:
        self.token: str | None = None
        self.events: dict[EventId, Event] = {}
        self.heard_at: dict[EventId, float] = {}
        self.notices: dict[EventId, float] = {}
        self.senders: dict[EventId, UserId] = {}
        self.finished: set[EventId] = set()
        self.claims: dict[EventId, int] = {}
        self.replies: dict[EventId, dict[int, EventId]] = {}
        self.broken = False

    async def sync_token(self) -> str | None:
        return self.token

    async def admit(self, batch: Batch, heard_at: float) -> Sequence[Event]:
        if self.broken:
            raise StoreError("the disk is full")
        new: list[Event] = []
        for event in batch.events:
            again = isinstance(event, Invite)
            known = event.event_id in self.events or _fingerprint(event) in map(
                _fingerprint, self.events.values()
            )
            if not known or again:
                self.events[event.event_id] = event
                self.heard_at[event.event_id] = heard_at
                self.finished.discard(event.event_id)
                new.append(event)
        self.token = batch.next_batch
        return new

    async def unfinished(self) -> Sequence[Invite | Joined | Left | Pending | Awaited]:
        return [self._left(one) for key, one in self.events.items() if key not in self.finished]

    def _left(self, event: Event) -> Invite | Joined | Left | Pending | Awaited:
        key = event.event_id
        if isinstance(event, Invite | Joined | Left):
            return event
        if isinstance(event, Undecryptable) and key not in self.claims:
            return Awaited(event, self.heard_at[key])
        return Pending(key, event.room_id)

    async def claim(self, prompt: EventId) -> Claim:
        if prompt not in self.events:
            raise StoreError(f"{prompt} was claimed before it was admitted")
        self.claims[prompt] = self.claims.get(prompt, 0) + 1
        parts = self.replies.get(prompt, {})
        return Claim(self.claims[prompt], tuple(parts[part] for part in sorted(parts)))

    async def sent(self, prompt: EventId, part: int, event_id: EventId) -> None:
        self.replies.setdefault(prompt, {})[part] = event_id

    async def finish(self, event_id: EventId) -> None:
        self.finished.add(event_id)

    async def noticed(self, message: Undecryptable, at: float) -> None:
        if message.event_id in self.events:
            self.senders[message.event_id] = message.sender
            self.notices[message.event_id] = at

    async def last_notice(self, sender: UserId, room_id: RoomId) -> float | None:
        told = [
            at
            for key, at in self.notices.items()
            if self.senders[key] == sender and self.events[key].room_id == room_id
        ]
        return max(told, default=None)


class FakeClock:
    """Time that passes only when somebody sleeps; it then passes at once."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.time

    def now(self) -> float:
        return MIDNIGHT + self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


class HeldClock(FakeClock):
    """Time that passes only when the story says so."""

    def __init__(self) -> None:
        super().__init__()
        self._sleepers: dict[asyncio.Event, float] = {}  # what wakes each, and when it is due

    @override
    async def sleep(self, seconds: float) -> None:
        wake = asyncio.Event()
        self._sleepers[wake] = self.time + seconds
        try:
            await wake.wait()
        finally:
            self._sleepers.pop(wake, None)

    async def pass_time(self, seconds: float) -> None:
        """Let the time pass; who sleeps wakes when due, and goes on as far as they can."""
        end = self.time + seconds
        await self._settle()
        while self._sleepers and min(self._sleepers.values()) <= end:
            wake = min(self._sleepers, key=self._sleepers.__getitem__)
            self.time = max(self.time, self._sleepers.pop(wake))
            wake.set()
            await self._settle()
        self.time = end

    @staticmethod
    async def _settle() -> None:
        """Give every task the turns that it needs: the fakes answer after one or two each."""
        for _ in range(100):
            await asyncio.sleep(0)


class Story:
    """The whole assistant on fakes; `run` keeps it going while the block lasts."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.matrix, self.model, self.store = FakeMatrix(), FakeModel(), FakeStore()
        self.clock = clock or FakeClock()
        self.texts = Texts("fr")

    def assistant(self) -> Assistant:
        replying = Replying(
            self.matrix, self.store, self.clock, self.texts, Pace(0.8, 2.0), "small"
        )
        policy = Policy(BOT, ("tchap.test",))
        return Assistant(self.matrix, self.model, self.store, replying, policy, "Sobre.")

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        task = asyncio.get_running_loop().create_task(self.assistant().run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110  # it may be about any of the three fakes
                await asyncio.sleep(0)

    def done(self, *event_ids: str) -> bool:
        return {EventId(one) for one in event_ids} <= self.store.finished

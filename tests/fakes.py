"""Stand-ins at the ports, for fast stories; the contract tests keep them honest."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from bot.core.events import (
    Batch,
    Delta,
    Event,
    EventId,
    Invite,
    Joined,
    Left,
    Message,
    Pending,
    Room,
    RoomId,
    Turn,
    UserId,
)
from bot.core.markdown import render
from bot.core.replies import Edit, Outgoing, Reply
from bot.core.turns import Said
from bot.errors import BotError, MatrixError, StoreError
from bot.ports import Claim
from tests.make import BOT


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
        self.messages: dict[EventId, Message] = {}
        self.said: list[Said] = []
        self.failures: list[MatrixError] = []  # raised by the next sends, in order
        self.fetch_failure: MatrixError | None = None
        self.history_failure: MatrixError | None = None
        self.attending = 0
        self.attended: list[EventId] = []
        self.changed = asyncio.Condition()

    def hear(self, *events: Event) -> None:
        """Let the next sync response carry `events`."""
        for event in events:
            if isinstance(event, Message):
                self.messages[event.event_id] = event
        token = f"s{len(self.messages)}-{self.batch_queue.qsize()}"
        self.batch_queue.put_nowait(Batch(events, token))

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

    async def fetch(self, room_id: RoomId, event_id: EventId) -> Message | None:  # noqa: ARG002  # the port
        if self.fetch_failure is not None:
            raise self.fetch_failure
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


class FakeStore:
    """A ledger in memory."""

    def __init__(self) -> None:
        self.token: str | None = None
        self.events: dict[EventId, Event] = {}
        self.finished: set[EventId] = set()
        self.claims: dict[EventId, int] = {}
        self.replies: dict[EventId, dict[int, EventId]] = {}
        self.broken = False

    async def sync_token(self) -> str | None:
        return self.token

    async def admit(self, batch: Batch) -> Sequence[Event]:
        if self.broken:
            raise StoreError("the disk is full")
        new: list[Event] = []
        for event in batch.events:
            again = isinstance(event, Invite)
            if event.event_id not in self.events or again:
                self.events[event.event_id] = event
                self.finished.discard(event.event_id)
                new.append(event)
        self.token = batch.next_batch
        return new

    async def unfinished(self) -> Sequence[Invite | Joined | Left | Pending]:
        left = [one for key, one in self.events.items() if key not in self.finished]
        return [
            one if isinstance(one, Invite | Joined | Left) else Pending(one.event_id, one.room_id)
            for one in left
        ]

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


class FakeClock:
    """Time that passes only when somebody sleeps; it then passes at once."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

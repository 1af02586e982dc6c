"""A model homeserver of several rooms, and the world in which a process may end at any moment."""

import asyncio
import copy
import hashlib
import selectors
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

from typing_extensions import override

from bot.core.chat import Delta, FinishDelta, TextDelta, Turn
from bot.core.events import (
    Batch,
    Conversation,
    Edit,
    Event,
    EventId,
    KeyNews,
    Message,
    Pending,
    Prompt,
    Redaction,
    Room,
    RoomId,
    Undecryptable,
    UserId,
)
from bot.core.limits import Limits
from bot.core.markdown import render
from bot.core.model_catalog import ModelCard
from bot.core.outgoing import (
    Attachment,
    Notice,
    Outgoing,
    OutgoingEdit,
    PreparedEvent,
    Reply,
    SentReply,
    SentSince,
)
from bot.core.polls import Poll, PollEnd
from bot.core.prompt_context import History
from bot.core.transcript import Transcript, TranscriptMessage
from bot.errors import Forbidden, HomeserverUnreachable, MatrixError
from bot.ports.matrix import ReadableEvent
from tests.deltas import finish_reasons, text_of
from tests.fakes.clock import FakeClock
from tests.fakes.ledger import FakeStore
from tests.fakes.matrix import FakeMatrix
from tests.fakes.model import FakeModel
from tests.fakes.story import Story
from tests.make import BOT, MIDNIGHT

SALON = RoomId("!salon:tchap.test")
DAY = 86_400.0
STORE = frozenset({"admit", "claim", "sent", "keep_outbox", "finish", "noticed"})
WRITES = frozenset({"put", "redact"})
READS = frozenset({"fetch", "history", "own_since", "shown", "edits"})

_TOLERATED = 5_000  # milliseconds by which the homeserver's clock may go back: repairs take 7 s
_START = 1_000.0


class Stuck(AssertionError):
    """Somebody waits for what will never happen."""


class _Waits(selectors.SelectSelector):
    """Never waits: where nothing is left to be done now, the time passes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.time = _START
        self.quiet: asyncio.Future[None] | None = None

    @override
    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is not None and timeout <= 0:
            return []
        if self.quiet is not None:
            self.quiet.set_result(None)
            self.quiet = None
        elif timeout is None:
            raise Stuck("nothing will ever happen")
        else:
            self.time += timeout
        return []


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while somebody sleeps, and then at once."""

    def __init__(self) -> None:
        self.waits = _Waits()
        super().__init__(self.waits)

    @override
    def time(self) -> float:
        return self.waits.time

    async def quiet(self) -> None:
        """Return when nothing more can be done before time passes."""
        self.waits.quiet = self.create_future()
        await self.waits.quiet


class LoopClock(FakeClock):
    """The loop's time."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop

    @override
    def monotonic(self) -> float:
        return self._loop.time()

    @override
    def now(self) -> float:
        return MIDNIGHT + self._loop.time()

    @override
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class RoomClosure:
    """The bot can no longer speak in a room; `refused` where the homeserver sees to that."""

    room_id: RoomId
    refused: bool


@dataclass(frozen=True, slots=True)
class SendFault:
    """What the homeserver answers to one send; `stored` where it takes it all the same."""

    error: MatrixError
    stored: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """An event of the bot's own.

    Attributes:
        at: the homeserver's `origin_server_ts`.
    """

    event_id: EventId
    room_id: RoomId
    at: int
    outgoing: Outgoing
    wire: PreparedEvent

    @property
    def order(self) -> tuple[int, str]:
        """Which of two edits is newer (spec: event replacements)."""
        return self.at, self.event_id


def to_of(outgoing: Outgoing) -> Prompt | None:
    """Return the prompt that is answered, where there is one."""
    match outgoing:
        case OutgoingEdit(_, reply):
            return reply.prompt
        case Reply():
            return outgoing.prompt
        case Notice(text=_, to=Prompt() as prompt):
            return prompt
        case _:
            return None


class SimulatedHomeserver(FakeMatrix):
    """Keeps what is sent, shows of each message the newest edit, and tells it in a stream.

    Attributes:
        stream: all that happened; a sync token is a place in it.
        sealed: the session that each encrypted message needs.
        opened: sessions whose keys the bot has, and since when.
        refused, closed: rooms where it can no longer speak, and of which it knows.
        faults: what the next sends get; `unreadable_for`, how many reads fail.
        collisions: events brought back by a transaction id that was used for other words.
        trespasses: what began to be sent to rooms that the process knew to be closed.
        lost: how many sends it took and did not answer.
        again: how much of the stream the next response repeats.
    """

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock = clock
        self.stream: list[Event | KeyNews | RoomClosure] = []
        self.own: dict[EventId, Sent] = {}
        self.sealed: dict[EventId, str] = {}
        self.opened: dict[str, float] = {}
        self.refused: set[RoomId] = set()
        self.faults: list[SendFault] = []
        self.unreadable_for = 0
        self.skew = 0
        self.latest = 0
        self.again = 0
        self.lost = 0
        self.collisions: list[tuple[Sent, Outgoing]] = []
        self.trespasses: list[tuple[object, ...]] = []
        self._contents: dict[str, Outgoing] = {}
        self._ids = 0

    # What people do.

    def stamp(self) -> int:
        """Return a timestamp for a person's event, later than all before."""
        self.latest = max(self.latest + 1, int(self.clock.now() * 1000))
        return self.latest

    def new_id(self) -> EventId:
        """Return an id whose order says nothing of when it was made."""
        self._ids += 1
        return EventId("$" + hashlib.sha256(str(self._ids).encode()).hexdigest()[:10])

    def happen(self, *events: Event | KeyNews | RoomClosure) -> None:
        """Let the next response tell of it."""
        for event in events:
            if isinstance(event, RoomClosure) and event.refused:
                self.refused.add(event.room_id)
            elif not isinstance(event, KeyNews | RoomClosure):
                self.messages[event.event_id] = cast("ReadableEvent", event)
        self.stream += events

    def step_back(self, milliseconds: int) -> None:
        """Set the homeserver's clock back, no further than can be repaired."""
        now = int(self.clock.now() * 1000) + len(self.own)
        newest = max((one.at for one in self.own.values()), default=0)
        self.skew = max(self.skew - milliseconds, min(newest - _TOLERATED - now, self.skew))

    # What the bot hears.

    def _seen(self, event_id: EventId) -> ReadableEvent | None:
        """Return the event as the bot can read it now; None where it is gone."""
        event = None if event_id in self._gone() else self.messages.get(event_id)
        session = self.sealed.get(event_id, "")
        if not isinstance(event, Message) or session in {"", *self.opened}:
            return event
        return Undecryptable(
            event_id=event_id,
            room_id=event.room_id,
            sender=event.sender,
            session_id=session,
            timestamp=event.timestamp,
            thread_root=event.thread_root,
        )

    @override
    async def batches(self, since: str | None) -> AsyncIterator[Batch]:
        place, first = int(since or 0), True
        before = [one.room_id for one in self.stream[:place] if isinstance(one, RoomClosure)]
        self.known, self.closed = {}, set(before)
        while True:
            async with self.changed:
                await self.changed.wait_for(
                    lambda: first or self.again or len(self.stream) > place  # noqa: B023  # awaited here
                )
            place, self.again = max(place - self.again, 0), 0
            news, place = self.stream[place:], len(self.stream)
            keys = [one for one in news if isinstance(one, KeyNews)]
            for one in keys:
                if one.withheld is None:
                    self.opened.setdefault(one.session_id, self.clock.now())
            closed = [one.room_id for one in news if isinstance(one, RoomClosure)]
            events = [seen for one in news if (seen := self._heard(one)) is not None]
            self.closed.update(closed)
            yield Batch(
                events=tuple(events),
                next_batch=str(place),
                keys=tuple(keys),
                closed=tuple(closed),
                missed=first,
            )
            first = False

    def _heard(self, one: Event | KeyNews | RoomClosure) -> Event | None:
        """Return what a response says of it to the bot, and remember who sent it."""
        if isinstance(one, KeyNews | RoomClosure):
            return None
        if isinstance(one, Redaction):
            self.known[one.target] = None
        seen = one if isinstance(one, Redaction) else self._seen(one.event_id)
        if isinstance(seen, Message):
            self.known.setdefault(seen.event_id, seen)
        return None if seen is None or seen.sender == BOT else cast("Event", seen)

    @override
    def room(self, room_id: RoomId) -> Room:
        return replace(super().room(room_id), direct=room_id != SALON)

    # What it reads.

    def _read(self) -> None:
        if self.unreadable_for:
            self.unreadable_for -= 1
            raise HomeserverUnreachable("502")

    @override
    async def fetch(self, room_id: RoomId, event_id: EventId) -> ReadableEvent | None:
        self._read()
        found = self._seen(event_id) or self._notice(event_id)
        if isinstance(found, Message):
            edits = [one for one in self._edits(event_id) if one.sender == found.sender]
            if edits:
                newest = max(edits, key=lambda one: (one.timestamp, one.event_id))
                answers, claim, final = newest.answers, newest.claim, newest.final
                found = replace(found, body=newest.body, answers=answers, claim=claim, final=final)
        self.known[event_id] = found if isinstance(found, Message) else None
        return found

    def _notice(self, event_id: EventId) -> Message | None:
        """Return one of the bot's notices, which no history has."""
        one = None if event_id in self._gone() else self.own.get(event_id)
        if one is None or not isinstance(one.outgoing, Notice):
            return None
        body = render(one.outgoing.text).body
        return Message(
            event_id=event_id,
            room_id=one.room_id,
            sender=BOT,
            msgtype="m.notice",
            body=body,
            timestamp=one.at,
        )

    @override
    async def history(
        self, prompt: Prompt, enough: Callable[[Sequence[TranscriptMessage]], bool]
    ) -> History:
        self._read()
        transcript = Transcript(conversation=prompt.conversation, me=BOT)
        for event_id, event in self.messages.items():
            seen = self._seen(event_id)
            if event.room_id == prompt.room_id and isinstance(
                seen, Message | Undecryptable | Edit
            ):
                transcript.add(seen)
        return History(transcript.messages())

    def stands(self, event_id: EventId) -> Sent | None:
        """Return what is shown for one of the bot's messages, None where it is gone."""
        gone = self._gone()
        if event_id in gone or event_id not in self.own:
            return None
        edits = [
            one
            for one in self.own.values()
            if isinstance(one.outgoing, OutgoingEdit)
            and one.outgoing.event_id == event_id
            and one.event_id not in gone
        ]
        return max(edits, key=lambda one: one.order, default=self.own[event_id])

    @override
    async def shown(self, room_id: RoomId, event_id: EventId) -> PreparedEvent | None:
        self._read()
        found = self.stands(event_id)
        return found.wire if found else None

    @override
    async def own_since(self, room_id: RoomId, prompt: Sequence[EventId]) -> SentSince:
        """Return what names the prompt, as the markers of the real ones do."""
        self._read()
        about = [one for one in self.own.values() if self._names(one.outgoing, prompt)]
        return SentSince(tuple(self._as_own(one) for one in about if self.stands(one.event_id)))

    def _names(self, outgoing: Outgoing, prompt: Sequence[EventId]) -> bool:
        to = None if isinstance(outgoing, OutgoingEdit) else to_of(outgoing)
        return to is not None and not set(prompt).isdisjoint(to.event_ids)

    def _as_own(self, one: Sent) -> SentReply:
        match (self.stands(one.event_id) or one).outgoing:
            case OutgoingEdit(_, reply) | (Reply() as reply):
                ids, body = reply.prompt.event_ids, reply.part.source
                return SentReply(
                    event_id=one.event_id,
                    answers=ids,
                    claim=reply.claim,
                    final=reply.final,
                    body=body,
                )
            case Notice(text=text):
                return SentReply(event_id=one.event_id, body=render(text).body)
            case Poll() | PollEnd() | Attachment():
                raise AssertionError("nobody is asked in these stories")

    @override
    async def edits(self, room_id: RoomId, event_id: EventId) -> Sequence[EventId]:
        self._read()
        return [one.event_id for one in self._edits(event_id) if one.sender == BOT]

    # What it sends.

    def _answer(self, room_id: RoomId) -> SendFault | None:
        """Return what goes wrong with the next send."""
        if room_id in self.refused:
            raise Forbidden("not in the room")
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None and not fault.stored:
            raise fault.error
        return fault

    @override
    async def put(self, room_id: RoomId, wire: PreparedEvent, transaction_id: str) -> EventId:
        outgoing = self.wires[wire.content["number"]]
        fault = self._answer(room_id)
        if transaction_id not in self.transactions:
            self.transactions[transaction_id] = self._store(room_id, wire, outgoing)
        event_id = self.transactions[transaction_id]
        if self._contents.setdefault(transaction_id, outgoing) != outgoing:
            self.collisions.append((self.own[event_id], outgoing))
        if fault is not None:
            self.lost += 1
            raise fault.error
        await self._tell()
        return event_id

    def _store(self, room_id: RoomId, wire: PreparedEvent, outgoing: Outgoing) -> EventId:
        event_id = self.new_id()
        at = int(self.clock.now() * 1000) + self.skew + len(self.own)  # each takes a millisecond
        self.own[event_id] = Sent(event_id, room_id, at, outgoing, wire)
        self._hear_own(event_id, outgoing)
        if not isinstance(outgoing, Notice):
            self.messages[event_id] = replace(
                cast("Message | Edit", self.messages[event_id]), timestamp=at
            )
        return event_id

    @override
    async def redact(self, room_id: RoomId, event_id: EventId, transaction_id: str) -> None:
        fault = self._answer(room_id)
        if event_id not in self.redacted:
            self.redacted.append(event_id)
            self.happen(Redaction(self.new_id(), room_id, BOT, event_id))
        if fault is not None:
            raise fault.error
        await self._tell()

    async def tell(self) -> None:
        """Wake who waits for news."""
        await self._tell()


@dataclass(eq=False)
class SimulatedRequest:
    """One request to the model, and what it has said so far.

    Attributes:
        asked: the words of the last turn.
        ended: None while it goes on, or the bot has closed it; else how.
    """

    number: int
    asked: str
    text: str = ""
    ended: str | None = None
    closed: bool = False
    feed: asyncio.Queue[Delta | Exception] = field(default_factory=asyncio.Queue)

    @property
    def mark(self) -> str:
        """What its text begins with, and no other."""
        return f"R{self.number}r."


class Talker(FakeModel):
    """A model that says what it is told to, request by request.

    Attributes:
        fluent: it answers at once, and wholly.
    """

    def __init__(self) -> None:
        super().__init__()
        self.talks: list[SimulatedRequest] = []
        self.fluent = False

    @property
    def open(self) -> list[SimulatedRequest]:
        """The requests that wait for words."""
        return [talk for talk in self.talks if not talk.closed and talk.ended is None]

    @override
    async def stream(self, turns: Sequence[Turn], card: ModelCard) -> AsyncGenerator[Delta, None]:
        talk = SimulatedRequest(len(self.talks), turns[-1].text)
        self.talks.append(talk)
        if self.fluent:
            self.finish(talk)
        try:
            while talk.ended is None:
                step = await talk.feed.get()
                if isinstance(step, Exception):
                    talk.ended = type(step).__name__
                    raise step
                talk.text += text_of([step])
                talk.ended = next(iter(finish_reasons([step])), None)
                yield step
        finally:
            talk.closed = True

    def say(self, talk: SimulatedRequest, sentences: int, paragraph: str = " ") -> None:
        """Let it say some more."""
        begun = talk.text or talk.feed.qsize()
        words = "" if begun else f"{talk.mark} "
        for number in range(sentences):
            words += f"Phrase {len(talk.text) + number} de la suite.{paragraph}"
        talk.feed.put_nowait(TextDelta(words))

    def finish(self, talk: SimulatedRequest) -> None:
        """Let it come to its end."""
        self.say(talk, 1)
        talk.feed.put_nowait(FinishDelta("stop"))


@dataclass
class Doom:
    """Where the process ends: at the `at`th operation of a name, before or after it is done."""

    name: str
    at: int
    after: bool

    def strikes(self, name: str, *, after: bool) -> bool:
        """Count, and tell whether it is now."""
        if (name, after) == (self.name, self.after):
            self.at -= 1
        return self.at == 0


class Door:
    """A port as one process has it: nothing passes once that has ended."""

    def __init__(self, inside: object, process: "AssistantRun", names: frozenset[str]) -> None:
        self._inside = inside
        self._process = process
        self._names = names

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the port has
        found = getattr(self._inside, name)
        return partial(self._pass, name, found) if name in self._names else found

    async def _pass(
        self, name: str, operation: Callable[..., Awaitable[Any]], *given: object, **how: object
    ) -> object:
        process = self._process
        if name == "put" and not process.over:
            process.see_put(given)
        process.in_flight += 1
        try:
            await process.reach(name, after=False)
            result = await operation(*given, **how)
            await process.reach(name, after=True)
        finally:
            process.in_flight -= 1
        return result


class AssistantRun(Story):
    """The whole assistant, from one start to its end.

    Attributes:
        doom: where it ends.
        over: it has ended.
        in_flight: operations that it waits for.
    """

    def __init__(self, world: "World") -> None:
        super().__init__(world.clock)
        self.policy = replace(self.policy, age_limit=DAY)
        self.at_once, self.share = 2, 1.0
        self.limits = Limits(
            prompts=0, regenerations=0, comments=0, per_minute=0, quick=0
        )  # chance asks faster than people
        self.matrix = cast("FakeMatrix", Door(world.homeserver, self, WRITES | READS))
        self.store = cast("FakeStore", Door(world.ledger, self, STORE))
        self.model = world.talker
        self.doom: Doom | None = None
        self.over = self.gone = False
        self.in_flight = 0
        self._world = world
        self.task = world.loop.create_task(self.assistant().run(self.stopping))

    def see_put(self, given: tuple[object, ...]) -> None:
        """Note what is sent to a room where the bot knows that it can no longer speak."""
        homeserver = self._world.homeserver
        if given[0] in homeserver.closed:
            homeserver.trespasses.append(given)

    async def reach(self, name: str, *, after: bool) -> None:
        """Pass a place where the process may end, or be slow."""
        if not self.over and self._world.slowness:
            await asyncio.sleep(self._world.slowness)
        if self.doom is not None and self.doom.strikes(name, after=after):
            self.over = True
        while self.over:
            if self.gone:
                raise asyncio.CancelledError
            await asyncio.Event().wait()

    async def end(self) -> None:
        """Let nothing that it does have any effect, and take it away."""
        self.over = self.gone = True
        self.task.cancel()
        await asyncio.wait([self.task])


@dataclass(eq=False)
class PersonMessage:
    """A message of a person, and all that became of it.

    Attributes:
        kind: "prompt", "command", or "image".
        body: its words by now, which no other message has.
        earlier: how many processes had ended when it was sent.
    """

    message: Message
    kind: str
    conversation: Conversation
    earlier: int
    version: int = 0
    redacted: bool = False

    @property
    def event_id(self) -> EventId:
        """Its id."""
        return self.message.event_id

    @property
    def name(self) -> str:
        """What no other message is called."""
        return self.message.body.partition("v")[0]

    @property
    def words(self) -> str:
        """What it says by now."""
        return f"{self.name}v{self.version}v"


class World:
    """People, a homeserver, a model and a ledger; and the bot, while it runs.

    Attributes:
        slowness: seconds that each half of an operation takes.
        ends: how many processes have been ended.
        stays_down: the next process begins when somebody sees to it.
        restores: how often the ledger was set back.
        set_back_until: when a process last began with such a ledger.
        forgotten: how often the homeserver has forgotten transaction ids.
        happened: how often what happened.
    """

    def __init__(self) -> None:
        self.loop = Loop()
        self.clock = LoopClock(self.loop)
        self.homeserver = SimulatedHomeserver(self.clock)
        self.talker = Talker()
        self.ledger = FakeStore()
        self.ledger.token = "0"
        self.backup: FakeStore | None = None
        self.slowness = 0.0
        self.asked: list[PersonMessage] = []
        self.changes: list[tuple[str, PersonMessage]] = []
        self.moderated: set[EventId] = set()
        self.ends = self.restores = self.forgotten = 0
        self.happened: Counter[str] = Counter()
        self.process: AssistantRun | None = None
        self.stays_down = False
        self.set_back_until = 0.0
        self._is_set_back = False

    # The process.

    def start(self) -> None:
        """Start a process."""
        if self._is_set_back:
            self.set_back_until, self._is_set_back = self.clock.now(), False
        self.process = AssistantRun(self)
        self.settle()

    def kill(self) -> None:
        """End the process as SIGKILL does."""
        if self.process is not None:
            self.loop.run_until_complete(self.process.end())
            self.process = None
            self.ends += 1

    def settle(self) -> None:
        """Let everybody do what they can before time passes."""
        self.loop.run_until_complete(self.homeserver.tell())
        self.loop.run_until_complete(self.loop.quiet())
        self._bury()

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.settle()

    def _bury(self) -> None:
        """Take away a process that has ended; by itself it may end where it was asked to."""
        process = self.process
        if process is None:
            return
        if process.task.done():
            process.task.result()
            assert process.stopping.is_set(), "the process has ended by itself"
            self.process = None
        elif process.over:
            doom = process.doom
            assert doom is not None
            self.happened[f"killed {'after' if doom.after else 'before'} {doom.name}"] += 1
            self.kill()

    @property
    def closed(self) -> set[RoomId]:
        """The rooms in which the bot can no longer speak, whether it knows or not."""
        return {one.room_id for one in self.homeserver.stream if isinstance(one, RoomClosure)}

    @property
    def unfinished(self) -> set[EventId]:
        """What the ledger knows to be done."""
        return self.ledger.events.keys() - self.ledger.finished

    @property
    def outstanding(self) -> bool:
        """Tell whether the process has anything to lose."""
        process = self.process
        return process is not None and bool(
            process.in_flight or self.loop.run_until_complete(self._pending())
        )

    async def _pending(self) -> list[Pending]:
        return [one for one in await self.ledger.unfinished() if isinstance(one, Pending)]

    @property
    def untold(self) -> bool:
        """Tell whether the ledger has not taken in all that has happened."""
        return self.ledger.token != str(len(self.homeserver.stream))

    def restore(self) -> None:
        """Put back the ledger of a backup."""
        assert self.backup is not None
        self.kill()
        self.ledger = copy.deepcopy(self.backup)
        self.restores += 1
        self._is_set_back = True

    def close(self) -> None:
        """Let go of everything."""
        self.kill()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    # People.

    def say(
        self,
        room_id: RoomId,
        sender: UserId,
        kind: str = "prompt",
        root: PersonMessage | None = None,
    ) -> PersonMessage:
        """Let a person write a message."""
        homeserver, event_id = self.homeserver, self.homeserver.new_id()
        body = f"q{len(self.asked)}v0v" if kind == "prompt" else kind
        mentions = frozenset({BOT} if room_id == SALON and root is None else set[UserId]())
        message = Message(
            event_id=event_id,
            room_id=room_id,
            sender=sender,
            msgtype="m.image" if kind == "image" else "m.text",
            body=body,
            timestamp=homeserver.stamp(),
            thread_root=root.event_id if root else None,
            mentions=mentions,
        )
        conversation = Conversation(room_id, message.thread_root)
        if room_id == SALON and root is None:
            conversation = Conversation(room_id, event_id)
        asked = PersonMessage(message, kind, conversation, self.ends)
        self.asked.append(asked)
        homeserver.happen(message)
        return asked

    def edit(self, asked: PersonMessage) -> None:
        """Let a person put a message in other words."""
        asked.version += 1
        message, homeserver = asked.message, self.homeserver
        event_id, at = homeserver.new_id(), homeserver.stamp()
        self.changes.append(("edit", asked))
        homeserver.happen(
            Edit(
                event_id=event_id,
                room_id=message.room_id,
                sender=message.sender,
                target=message.event_id,
                body=asked.words,
                timestamp=at,
            )
        )

    def redact(self, asked: PersonMessage) -> None:
        """Let a person take a message back."""
        asked.redacted = True
        message = asked.message
        self.changes.append(("redact", asked))
        self.homeserver.happen(
            Redaction(self.homeserver.new_id(), message.room_id, message.sender, message.event_id)
        )

    # What stands.

    def standing(self) -> list[tuple[EventId, Sent]]:
        """Return the bot's messages, oldest first, each as it is shown."""
        found = [
            (key, self.homeserver.stands(key))
            for key, one in self.homeserver.own.items()
            if not isinstance(one.outgoing, OutgoingEdit)
        ]
        return [(key, one) for key, one in found if one is not None]

    def describe(self) -> str:
        """Say what stands, for who reads of a failure."""
        lines = [
            f"{one.event_id} {one.kind} {one.words} in {one.conversation}"
            f"{' (redacted)' if one.redacted else ''}"
            for one in self.asked
        ]
        lines += [
            f"talk {one.number}: {one.asked!r} -> {one.text!r} {one.ended} closed={one.closed}"
            for one in self.talker.talks
        ]
        lines += [f"{one.at} {one.event_id} {_said(one)}" for one in self.homeserver.own.values()]
        lines += [f"{key} shows {one.event_id}" for key, one in self.standing()]
        lines.append(f"redacted by the bot: {self.homeserver.redacted}")
        lines.append(f"unfinished: {self.unfinished}, joined: {self.ledger.joined}")
        return "\n".join(lines)


def _said(one: Sent) -> str:
    outgoing = one.outgoing
    reply = outgoing.reply if isinstance(outgoing, OutgoingEdit) else outgoing
    assert not isinstance(reply, Poll | PollEnd | Attachment)
    to = to_of(outgoing)
    ids = to.event_ids if to else ()
    text = (
        reply.text
        if isinstance(reply, Notice)
        else f"{reply.above}{reply.part.source!r}{reply.added}{' FINAL' if reply.final else ''}"
    )
    target = f" of {outgoing.event_id}" if isinstance(outgoing, OutgoingEdit) else ""
    return f"{type(outgoing).__name__}{target} to {ids}: {text}"

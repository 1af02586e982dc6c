"""The homeserver as the bot sees it, in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from bot.core.events import (
    Batch,
    Change,
    Edit,
    Event,
    EventId,
    Invite,
    KeyNews,
    Message,
    Prompt,
    Redaction,
    Room,
    RoomId,
    Undecryptable,
    Upgraded,
    UserId,
    VerificationEvent,
)
from bot.core.markdown import Part, render
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
from bot.core.polls import POLL, QUESTION, Poll, PollEnd
from bot.core.prompt_context import History
from bot.core.transcript import Transcript, TranscriptMessage
from bot.core.verification import VerificationStep
from bot.errors import BotError, HomeserverUnreachable, MatrixError
from bot.ports.matrix import ReadableEvent
from tests.make import AGENT, BOT, ROOM


def _thread(outgoing: Outgoing) -> EventId | None:
    match outgoing:
        case Reply(prompt=prompt) | OutgoingEdit(_, Reply(prompt=prompt)):
            return prompt.thread_root
        case Notice(to=to):
            return to.thread_root if to else None
        case Poll():
            return outgoing.thread_root
        case Attachment(to=to):
            return to.thread_root if to else None
        case PollEnd():
            return None


@dataclass
class Verifying:
    """The verification events that the bot has handled, and the results of the next ones."""

    taken: list[tuple[VerificationEvent, bool]] = field(default_factory=list)
    steps: list[VerificationStep | None] = field(default_factory=list)


class FakeMatrix:
    """A homeserver with one room, which records what the bot does and knows transaction ids."""

    fetch_failure: MatrixError | None = None
    history_failure: MatrixError | None = None
    admin_room: RoomId | None = None
    largest_upload: int | None = None
    undecryptable: Collection[EventId] = ()  # of what was sent, whose keys are gone
    bounded = False  # more was sent than is read
    unknown: Collection[UserId] = ()  # users that there are not
    device_id = "FAKE"

    def __init__(self, *, direct: bool = True) -> None:
        self.user_id: UserId = BOT
        self.direct = direct
        self.batch_queue: asyncio.Queue[Batch | BotError] = asyncio.Queue()
        self.joined: list[RoomId] = []
        self.left: list[tuple[RoomId, str | None]] = []
        self.sent: list[tuple[EventId, Outgoing]] = []
        self.transactions: dict[str, EventId] = {}
        self.wires: list[Outgoing] = []  # by the number that the wire carries
        self.shadows: dict[EventId, PreparedEvent] = {}  # what is shown in place of what was sent
        self.messages: dict[EventId, ReadableEvent] = {}
        self.known: dict[EventId, Message | None] = {}
        self.levels, self.names = dict[UserId, float](), dict[UserId, str]()
        self.predecessors: dict[RoomId, RoomId] = {}
        self.followed: list[RoomId] = []
        self.redacted: list[EventId] = []
        self.people: dict[RoomId, set[UserId]] = {}
        self.others: dict[RoomId, Room] = {}
        self.places = dict[EventId, RoomId]()  # of what was sent
        self.closed: set[RoomId] = set()
        self.fetched: list[EventId] = []
        self.fetch_gate = asyncio.Event()
        self.fetch_gate.set()
        self.said: list[TranscriptMessage] = []
        self.chain: list[TranscriptMessage] = []
        self.lost, self.attending, self.verifying = 0, 0, Verifying()
        self.failures: list[MatrixError] = []  # raised by the next sends, in order
        self.unreadable: set[EventId] = set()  # whose fetches fail, for ever
        self._wire_of: dict[EventId, PreparedEvent] = {}  # by what it stands for, the newest
        self.attended = list[EventId]()
        self.changed = asyncio.Condition()

    def hear(
        self,
        *events: Event,
        keys: Sequence[KeyNews] = (),
        closed: Sequence[RoomId] = (),
        missed: bool = False,
    ) -> None:
        """Put events and other news into the next sync response."""
        for event in events:
            if isinstance(event, Message | Undecryptable | Change | Upgraded):
                self.messages[event.event_id] = event
            if isinstance(event, Message):
                self.known[event.event_id] = event
        token = f"s{len(self.messages)}-{self.batch_queue.qsize()}"
        self.batch_queue.put_nowait(
            Batch(
                events=events,
                next_batch=token,
                keys=tuple(keys),
                closed=tuple(closed),
                missed=missed,
            )
        )

    async def batches(self, since: str | None) -> AsyncIterator[Batch]:  # noqa: ARG002  # the port
        while True:
            batch = await self.batch_queue.get()
            if isinstance(batch, BotError):
                raise batch
            self.closed.update(batch.closed)
            yield batch

    def room(self, room_id: RoomId) -> Room:
        closed = room_id in self.closed
        if room_id in self.others:
            return replace(self.others[room_id], closed=closed)
        admin = room_id == self.admin_room
        direct = self.direct and not admin
        person, called = AGENT if direct else None, self.names.get(self.user_id, "")
        return Room(
            room_id=room_id,
            direct=direct,
            closed=closed,
            admin=admin,
            person=person,
            called=called,
        )

    def name(self, room_id: RoomId, user_id: UserId) -> str:  # noqa: ARG002  # the port
        return self.names.get(user_id, user_id)

    def rooms(self) -> Sequence[Room]:
        here = [ROOM, *self.others, *([self.admin_room] if self.admin_room else [])]
        return [self.room(one) for one in here if one not in self.closed]

    async def open_admin_room(self, name: str) -> RoomId:  # noqa: ARG002  # the port
        self._fail()
        self.admin_room = self.admin_room or RoomId("!admin:tchap.test")
        self.people.setdefault(self.admin_room, {self.user_id})
        await self._tell()
        return self.admin_room

    async def members(self, room_id: RoomId) -> frozenset[UserId]:
        self._fail()
        return frozenset(self.people.get(room_id, ()))

    async def invite(self, room_id: RoomId, user_id: UserId) -> None:
        self._fail()
        self.people[room_id].add(user_id)
        await self._tell()

    async def exists(self, user_id: UserId) -> bool:
        self._fail()
        return user_id not in self.unknown

    def power_level(self, room_id: RoomId, user_id: UserId) -> float:  # noqa: ARG002  # the port
        return self.levels.get(user_id, 0)

    def predecessor(self, room_id: RoomId) -> RoomId | None:
        return self.predecessors.get(room_id)

    async def follow(self, upgraded: Upgraded) -> None:
        self._fail()
        self.followed.append(upgraded.replacement)
        await self._tell()

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
    ) -> ReadableEvent | None:
        self.fetched.append(event_id)
        await self.fetch_gate.wait()
        if self.fetch_failure is not None:
            raise self.fetch_failure
        if event_id in self.unreadable:
            raise HomeserverUnreachable("500")
        found = None if event_id in self._gone() else self.messages.get(event_id)
        for edit in self._edits(event_id):
            if isinstance(found, Message) and edit.sender == found.sender:
                answers, claim, final = edit.answers, edit.claim, edit.final
                found = replace(found, body=edit.body, answers=answers, claim=claim, final=final)
        self.known[event_id] = found if isinstance(found, Message) else None
        return found

    async def history(
        self,
        prompt: Prompt,
        enough: Callable[[Sequence[TranscriptMessage]], bool],  # noqa: ARG002  # the port
    ) -> History:
        """Return `said` and all messages since, each in its last version."""
        if self.history_failure is not None:
            raise self.history_failure
        transcript = Transcript(conversation=prompt.conversation, me=self.user_id)
        for event in self.messages.values():
            if isinstance(event, Message | Undecryptable | Edit | Redaction):
                transcript.add(event)
        for event_id in self.redacted:
            transcript.add(Redaction(EventId(""), prompt.room_id, self.user_id, event_id))
        return History([*self.said, *transcript.messages()], self.chain, self.lost)

    @asynccontextmanager
    async def attention(self, prompt: Prompt) -> AsyncIterator[None]:
        self.attending += 1
        self.attended.append(prompt.event_id)
        try:
            yield
        finally:
            self.attending -= 1

    async def upload_limit(self) -> int | None:
        return self.largest_upload

    async def prepare(self, room_id: RoomId, outgoing: Outgoing) -> PreparedEvent:  # noqa: ARG002  # the port
        self.wires.append(outgoing)
        return PreparedEvent("m.room.message", {"number": len(self.wires) - 1})

    async def put(self, room_id: RoomId, wire: PreparedEvent, transaction_id: str) -> EventId:
        await asyncio.sleep(0)
        self._fail()
        if transaction_id in self.transactions:
            return self.transactions[transaction_id]
        event_id = EventId(f"$sent{len(self.sent)}")
        self.transactions[transaction_id] = event_id
        outgoing = self.wires[wire.content["number"]]
        self.sent.append((event_id, outgoing))
        self.places[event_id] = room_id
        place = outgoing.event_id if isinstance(outgoing, OutgoingEdit) else event_id
        self._wire_of[place] = wire
        self._hear_own(event_id, outgoing)
        await self._tell()
        return event_id

    async def verify(self, event: VerificationEvent, *, trusted: bool) -> VerificationStep | None:
        self._fail()
        self.verifying.taken.append((event, trusted))
        await self._tell()
        return self.verifying.steps.pop(0) if self.verifying.steps else None

    async def shown(self, room_id: RoomId, event_id: EventId) -> PreparedEvent | None:  # noqa: ARG002  # the port
        if event_id in self._gone():
            return None
        return self.shadows.pop(event_id, None) or self._wire_of.get(event_id)

    async def own_since(self, room_id: RoomId, prompt: Sequence[EventId]) -> SentSince:  # noqa: ARG002  # the port
        """Return the event as the homeserver does, or nothing if it was redacted."""
        ids, gone, found = set(prompt), self._gone(), dict[EventId, SentReply]()
        for event_id, outgoing in self.sent:
            match outgoing:
                case OutgoingEdit(target, reply) if target in found:
                    found[target] = self._own(target, reply)
                case Reply() if ids & set(outgoing.prompt.event_ids):
                    found[event_id] = self._own(event_id, outgoing)
                case Notice(text=text, to=Prompt() as to) if ids & set(to.event_ids):
                    found[event_id] = SentReply(event_id=event_id, body=render(text).body)
        about = tuple(one for key, one in found.items() if key not in {*gone, *self.undecryptable})
        return SentSince(about, self._hidden(), whole=not self.bounded)

    def _hidden(self) -> tuple[Undecryptable, ...]:
        """Return the bot's own messages whose keys are gone."""
        threads = {key: _thread(outgoing) for key, outgoing in self.sent}
        return tuple(
            Undecryptable(
                event_id=key,
                room_id=ROOM,
                sender=self.user_id,
                session_id="lost",
                timestamp=0,
                thread_root=threads[key],
            )
            for key in threads
            if key in self.undecryptable and key not in self._gone()
        )

    @staticmethod
    def _own(event_id: EventId, reply: Reply) -> SentReply:
        ids, body = reply.prompt.event_ids, render(Part(reply.part.source)).body
        return SentReply(
            event_id=event_id, answers=ids, claim=reply.claim, final=reply.final, body=body
        )

    def _hear_own(self, event_id: EventId, outgoing: Outgoing) -> None:
        """Add what was just sent to the history, without the lines that the bot adds."""
        if isinstance(outgoing, Poll):
            root, at = outgoing.thread_root, 1_700_000_000_000
            poll = Message(
                event_id=event_id,
                room_id=ROOM,
                sender=self.user_id,
                msgtype=POLL,
                body=outgoing.question,
                timestamp=at,
                thread_root=root,
            )
            self.messages[event_id] = self.known[event_id] = poll
        if isinstance(outgoing, Notice) and outgoing.asks:
            at, me = 1_700_000_000_000, self.user_id
            asked = Message(
                event_id=event_id,
                room_id=ROOM,
                sender=me,
                msgtype=QUESTION,
                body=outgoing.text,
                timestamp=at,
            )
            self.messages[event_id] = self.known[event_id] = asked
        if isinstance(outgoing, Notice) and isinstance(outgoing.to, Prompt):
            to, at = outgoing.to, outgoing.to.messages[-1].timestamp
            said = Message(
                event_id=event_id,
                room_id=to.room_id,
                sender=self.user_id,
                msgtype="m.notice",
                body=outgoing.text,
                timestamp=at,
                thread_root=to.thread_root,
                about=to.event_ids,
                unanswered=outgoing.unanswered,
            )
            self.messages[event_id] = self.known[event_id] = said
        if isinstance(outgoing, Notice | Poll | PollEnd | Attachment):
            return
        reply = outgoing.reply if isinstance(outgoing, OutgoingEdit) else outgoing
        prompt, body = reply.prompt, render(Part(reply.part.source)).body
        room_id, at, ids = prompt.room_id, prompt.messages[-1].timestamp, prompt.event_ids
        if isinstance(outgoing, OutgoingEdit):
            edit = Edit(
                event_id=event_id,
                room_id=room_id,
                sender=self.user_id,
                target=outgoing.event_id,
                body=body,
                timestamp=at,
                answers=ids,
                claim=reply.claim,
                final=reply.final,
            )
            self.messages[event_id] = edit
        else:
            own = Message(
                event_id=event_id,
                room_id=room_id,
                sender=self.user_id,
                msgtype="m.text",
                body=body,
                timestamp=at,
                thread_root=prompt.thread_root,
                answers=ids,
                claim=reply.claim,
                final=reply.final,
            )
            self.messages[event_id] = self.known[event_id] = own

    def _gone(self) -> set[EventId]:
        redactions = [one for one in self.messages.values() if isinstance(one, Redaction)]
        return {*self.redacted, *(one.target for one in redactions)}

    def _edits(self, event_id: EventId) -> list[Edit]:
        """Return the edits of an event, the newest last; none if it was redacted."""
        gone = self._gone()
        edits = [one for one in self.messages.values() if isinstance(one, Edit)]
        return [
            one
            for one in edits
            if one.target == event_id and event_id not in gone and one.event_id not in gone
        ]

    async def edits(self, room_id: RoomId, event_id: EventId) -> Sequence[EventId]:  # noqa: ARG002  # the port
        return [one.event_id for one in self._edits(event_id)]

    async def redact(self, room_id: RoomId, event_id: EventId, transaction_id: str) -> None:  # noqa: ARG002  # the port
        self._fail()
        if event_id not in self.redacted:
            self.redacted.append(event_id)
        await self._tell()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds, which is checked after each action of the bot."""
        async with self.changed:
            await self.changed.wait_for(condition)

    def standing(self) -> dict[EventId, str]:
        """Return the plain text of each message as the room shows it now."""
        shown: dict[EventId, str] = {}
        for event_id, outgoing in self.sent:
            match outgoing:
                case OutgoingEdit(target, reply):
                    shown[target] = self._text(reply)
                case Reply():
                    shown[event_id] = self._text(outgoing)
                case Poll():
                    shown[event_id] = outgoing.question
                case PollEnd():
                    continue
                case Attachment():
                    shown[event_id] = outgoing.body
                case Notice():
                    shown[event_id] = outgoing.text
        gone = self._gone()
        return {event_id: text for event_id, text in shown.items() if event_id not in gone}

    @staticmethod
    def _text(reply: Reply) -> str:
        return "\n\n".join([*reply.above, render(reply.part).body, *reply.added]).strip()

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

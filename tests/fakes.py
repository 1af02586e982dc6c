"""Stand-ins at the ports, for fast stories; the contract tests keep them honest."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Literal, cast, get_args

from typing_extensions import override

from bot.app import AssistantSettings, assemble
from bot.assistant import Assistant
from bot.commands.registry import About
from bot.core.campaigns import (
    CLOSED,
    AskedQuestion,
    CampaignResults,
    DeliveryProgress,
    DueMessage,
    Recipient,
    RecipientRoom,
)
from bot.core.chat import Delta, FinishDelta, TextDelta, Turn
from bot.core.events import (
    Batch,
    Change,
    Conversation,
    Edit,
    Event,
    EventId,
    Invite,
    Joined,
    KeyNews,
    Left,
    Message,
    Pending,
    Prompt,
    Reaction,
    Redaction,
    Room,
    RoomId,
    Undecryptable,
    Upgraded,
    UserId,
    VerificationEvent,
    Vote,
)
from bot.core.export_format import ExportName
from bot.core.feedback import (
    ANSWERS,
    Ask,
    AskHistory,
    AskPolicy,
    Opinion,
    Question,
    Rating,
    ReplyMetadata,
    VoteOutcome,
    answer_of,
    asks_why,
    reason_of,
)
from bot.core.limits import Limits
from bot.core.markdown import Part, render
from bot.core.model_catalog import Catalogue, ModelCard
from bot.core.outgoing import (
    Attachment,
    Notice,
    OutboxMessage,
    Outgoing,
    OutgoingEdit,
    PreparedEvent,
    Reply,
    SentReply,
    SentSince,
)
from bot.core.polls import POLL, QUESTION, Poll, PollEnd, chosen
from bot.core.prompt_context import History
from bot.core.routing import Policy
from bot.core.statistics import (
    PUBLIC_FIGURES,
    PUBLIC_PARTS,
    CampaignFigures,
    FeedbackComment,
    FigureFilter,
    Figures,
    Group,
    Published,
    Step,
    chunk,
    first_of,
)
from bot.core.transcript import Transcript, TranscriptMessage
from bot.core.verification import VerificationStep
from bot.errors import BotError, HomeserverUnreachable, MatrixError, StoreError
from bot.i18n.texts import Texts, speak
from bot.monitoring.health import Health
from bot.ports.campaigns import CampaignLedger
from bot.ports.clock import Clock
from bot.ports.feedback import Opinions
from bot.ports.ledger import Choices, Claim, Exchange, UndecryptedEvent, Unheeded
from bot.ports.matrix import ReadableEvent
from bot.ports.statistics import Export
from bot.replies.completion import Completions
from bot.replies.context_builder import Contexts, ContextSettings
from bot.replies.notices import Notifier
from bot.replies.reply_text import Pace
from tests.make import AGENT, BOT, MIDNIGHT, ROOM


def _thread(outgoing: Outgoing) -> EventId | None:
    match outgoing:
        case Reply(prompt) | OutgoingEdit(_, Reply(prompt)):
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
    """What was verified, and what comes of the next steps."""

    taken: list[tuple[VerificationEvent, bool]] = field(default_factory=list)
    steps: list[VerificationStep | None] = field(default_factory=list)


class FakeMatrix:
    """A homeserver of one room: records what the bot does, and remembers transaction ids."""

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
        """Let the next sync response carry `events` and what else it tells."""
        for event in events:
            if isinstance(event, Message | Undecryptable | Change | Upgraded):
                self.messages[event.event_id] = event
            if isinstance(event, Message):
                self.known[event.event_id] = event
        token = f"s{len(self.messages)}-{self.batch_queue.qsize()}"
        self.batch_queue.put_nowait(
            Batch(events, token, tuple(keys), closed=tuple(closed), missed=missed)
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
        return Room(room_id, direct, closed=closed, admin=admin, person=person, called=called)

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
        """Return what `said` holds, then what was heard and sent since, as the room shows it."""
        if self.history_failure is not None:
            raise self.history_failure
        transcript = Transcript(prompt.conversation, self.user_id)
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

    async def send(self, room_id: RoomId, outgoing: Outgoing, transaction_id: str) -> EventId:
        return await self.put(room_id, await self.prepare(room_id, outgoing), transaction_id)

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
        """Return it as the homeserver does: of what is redacted, nothing."""
        ids, gone, found = set(prompt), self._gone(), dict[EventId, SentReply]()
        for event_id, outgoing in self.sent:
            match outgoing:
                case OutgoingEdit(target, reply) if target in found:
                    found[target] = self._own(target, reply)
                case Reply() if ids & set(outgoing.prompt.event_ids):
                    found[event_id] = self._own(event_id, outgoing)
                case Notice(text, Prompt() as to) if ids & set(to.event_ids):
                    found[event_id] = SentReply(event_id, body=render(text).body)
        about = tuple(one for key, one in found.items() if key not in {*gone, *self.undecryptable})
        return SentSince(about, self._hidden(), whole=not self.bounded)

    def _hidden(self) -> tuple[Undecryptable, ...]:
        """Return the bot's own messages whose keys are gone."""
        threads = {key: _thread(outgoing) for key, outgoing in self.sent}
        return tuple(
            Undecryptable(key, ROOM, self.user_id, "lost", 0, thread_root=threads[key])
            for key in threads
            if key in self.undecryptable and key not in self._gone()
        )

    @staticmethod
    def _own(event_id: EventId, reply: Reply) -> SentReply:
        ids, body = reply.prompt.event_ids, render(Part(reply.part.source)).body
        return SentReply(event_id, ids, reply.claim, final=reply.final, body=body)

    def _hear_own(self, event_id: EventId, outgoing: Outgoing) -> None:
        """Let the history have what was just sent, without the bot's own lines."""
        if isinstance(outgoing, Poll):
            root, at = outgoing.thread_root, 1_700_000_000_000
            poll = Message(event_id, ROOM, self.user_id, POLL, outgoing.question, at, root)
            self.messages[event_id] = self.known[event_id] = poll
        if isinstance(outgoing, Notice) and outgoing.asks:
            at, me = 1_700_000_000_000, self.user_id
            asked = Message(event_id, ROOM, me, QUESTION, outgoing.text, at)
            self.messages[event_id] = self.known[event_id] = asked
        if isinstance(outgoing, Notice) and isinstance(outgoing.to, Prompt):
            to, at = outgoing.to, outgoing.to.messages[-1].timestamp
            said = Message(
                *(event_id, to.room_id, self.user_id, "m.notice", outgoing.text, at),
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
            target = outgoing.event_id
            told = ids, reply.claim, reply.final
            edit = Edit(event_id, room_id, self.user_id, target, body, at, *told)
            self.messages[event_id] = edit
        else:
            root, me = prompt.thread_root, self.user_id
            own = Message(
                *(event_id, room_id, me, "m.text", body, at, root),
                answers=ids,
                claim=reply.claim,
                final=reply.final,
            )
            self.messages[event_id] = self.known[event_id] = own

    def _gone(self) -> set[EventId]:
        redactions = [one for one in self.messages.values() if isinstance(one, Redaction)]
        return {*self.redacted, *(one.target for one in redactions)}

    def _edits(self, event_id: EventId) -> list[Edit]:
        """Return the edits of an event, the newest last; of a redacted one, none are listed."""
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
        """Wait until something the bot did makes `condition` hold."""
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


Script = Sequence[Delta | Exception | asyncio.Event]


class FakeModel:
    """A model that says what it is told to, piece by piece, and waits where it is told to."""

    def __init__(self, *script: Delta | Exception | asyncio.Event) -> None:
        self.script = script or (TextDelta("Bonjour."), FinishDelta("stop"))
        self.requests: list[Sequence[Turn]] = []
        self.asked: list[str] = []  # which model, by id
        self.length = 32_000

    def context_length(self, card: ModelCard) -> int:  # noqa: ARG002  # the port
        return self.length

    async def stream(self, turns: Sequence[Turn], card: ModelCard) -> AsyncGenerator[Delta, None]:
        self.requests.append(turns)
        self.asked.append(card.id)
        for step in self.script:
            match step:
                case asyncio.Event():
                    await step.wait()
                case Exception():
                    raise step
                case _:
                    yield step


class FakeModels(FakeModel):
    """Two models that answer request by request: each its own scripts in turn, then wholly."""

    def __init__(self, *scripts: Script, other: Sequence[Script] = ()) -> None:
        super().__init__()
        self._answer = self.script
        self._scripts = {SMALL.id: list(scripts), LARGE.id: list(other)}

    @override
    def context_length(self, card: ModelCard) -> int:
        return card.context_length

    @override
    async def stream(self, turns: Sequence[Turn], card: ModelCard) -> AsyncGenerator[Delta, None]:
        left = self._scripts[card.id]
        self.script = tuple(left.pop(0)) if left else self._answer
        async with aclosing(super().stream(turns, card)) as deltas:
            async for delta in deltas:
                yield delta


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
        self.frozen: dict[EventId, tuple[OutboxMessage, ...]] = {}
        self.joined: dict[EventId, EventId] = {}
        self.chosen: dict[Conversation, Choices] = {}
        self.broken = False
        self.opinions = FakeOpinions()
        self.campaigns = FakeCampaigns(self.opinions)
        self.askers = (self.opinions, self.campaigns)

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
            if self._is_nobodys(event):
                continue
            if not known or again:
                self.events[event.event_id] = event
                self.heard_at[event.event_id] = heard_at
                self.finished.discard(event.event_id)
                new.append(event)
        self.token = batch.next_batch
        return new

    async def unfinished(self) -> Sequence[Invite | Joined | Left | Pending | UndecryptedEvent]:
        return [self._left(one) for key, one in self.events.items() if key not in self.finished]

    def _left(self, event: Event) -> Invite | Joined | Left | Pending | UndecryptedEvent:
        key = event.event_id
        if isinstance(event, Invite | Joined | Left):
            return event
        if isinstance(event, Undecryptable) and key not in {*self.claims, *self.joined}:
            return UndecryptedEvent(event, self.heard_at[key])
        return Pending(key, event.room_id, key in self.claims, self.joined.get(key))

    def _is_nobodys(self, event: Event) -> bool:
        poll = event.target if isinstance(event, Vote) else getattr(event, "refers_to", None)
        if poll is not None:
            return not any(one.may_know(event.room_id, poll) for one in self.askers)
        return isinstance(event, Change) and self._is_no_part(event)

    def _is_no_part(self, change: Change) -> bool:
        here = [one for one in self.events.values() if one.room_id == change.room_id]
        ids = {
            *(one.event_id for one in here),
            *(getattr(one, "thread_root", None) for one in here),
            *(one for parts in self.replies.values() for one in parts.values()),
        }
        return change.target not in ids

    async def claim(self, prompt: Prompt, *, again: bool = False) -> Claim:  # noqa: ARG002  # the port
        first, *joined = prompt.event_ids
        if first not in self.events:
            raise StoreError(f"{first} was claimed before it was admitted")
        self.claims[first] = self.claims.get(first, 0) + 1
        self.joined.pop(first, None)
        self.joined |= dict.fromkeys(joined, first)
        self.finished.difference_update(prompt.event_ids)
        return Claim(self.claims[first], self._reply(first), self.frozen.get(first, ()))

    def _reply(self, prompt: EventId) -> tuple[EventId, ...]:
        parts = self.replies.get(prompt, {})
        return tuple(parts[part] for part in sorted(parts))

    async def exchange(self, room_id: RoomId, event_id: EventId) -> Exchange | None:
        replied = [key for key, parts in self.replies.items() if event_id in parts.values()]
        [message] = replied or [event_id]
        first = self.joined.get(message, message)
        if first not in self.events or self.events[first].room_id != room_id:
            return None
        joined = [key for key in self.events if self.joined.get(key) == first]
        return Exchange((first, *joined), self._reply(first))

    async def choose(self, conversation: Conversation, chosen: Choices) -> None:
        before = self.chosen.get(conversation, Choices())
        self.chosen[conversation] = Choices(
            chosen.model or before.model, chosen.language or before.language
        )

    async def choices(self, conversation: Conversation) -> Choices:
        here = self.chosen.get(conversation, Choices())
        room = self.chosen.get(Conversation(conversation.room_id, None), Choices())
        return Choices(here.model or room.model, here.language or room.language)

    async def sent(self, prompt: EventId, part: int, event_id: EventId) -> None:
        for key, parts in self.replies.items():
            for number, known in parts.items():
                if known == event_id and (key, number) != (prompt, part):
                    raise StoreError("each event is one part of one reply")
        self.replies.setdefault(prompt, {})[part] = event_id

    async def keep_outbox(self, prompt: EventId, frozen: Sequence[OutboxMessage]) -> None:
        self.frozen[prompt] = tuple(frozen)

    async def finish(self, *event_ids: EventId) -> None:
        self.finished.update(event_ids)
        for event_id in event_ids:
            self.frozen.pop(event_id, None)

    async def noticed(self, message: Unheeded, at: float) -> None:
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


class FakeOpinions:
    """The ledger of opinions in memory; people under their own ids.

    Attributes:
        asks: every poll that was planned and not dropped, by number.
        sent: of those, the events at which they stand, and until when votes count.
        ratings: what counts, by prompt and person: the answer and the reason.
    """

    def __init__(self) -> None:
        self.asks: dict[int, Ask] = {}
        self.sent: dict[int, tuple[EventId, float, float]] = {}
        self.people: dict[int, UserId] = {}
        self.thanked: set[EventId] = set()
        self.said: dict[EventId, tuple[EventId, UserId, Opinion, bool]] = {}
        self.ratings: dict[tuple[EventId, UserId], tuple[str | None, str | None]] = {}
        self.comments: dict[EventId, tuple[EventId | None, UserId, str]] = {}
        self.edits: dict[EventId, EventId] = {}  # by what they edit
        self.how: dict[EventId, ReplyMetadata] = {}
        self.shared: dict[EventId, tuple[EventId, UserId, str, str]] = {}
        self.unwanted: set[str] = set()
        self.active: dict[RoomId, float] = {}
        self._order: list[tuple[Conversation, UserId, EventId]] = []
        self._numbers = itertools.count(1)

    async def answered(
        self,
        prompt: Prompt,
        how: ReplyMetadata,
        after: Callable[[AskHistory], float | None],
        at: float,
    ) -> float | None:
        if max(how.prompt_tokens or 0, how.completion_tokens or 0) >= 2**63:
            raise OverflowError("SQLite has no such integer")
        place, person, event_id = prompt.conversation, how.sender, prompt.event_id
        past = self._past(prompt, person, at)
        self.how[event_id] = how if how.model or event_id not in self.how else self.how[event_id]
        self._order = [one for one in self._order if one[2] != event_id]
        self._order.append((place, person, event_id))
        self.active[place.room_id] = at
        wait = after(past)
        for number in self._waiting(place):
            del self.asks[number]
        if wait is None:
            return None
        self._plan(event_id, "helped", place, person, at + wait)
        return at + wait

    def _past(self, prompt: Prompt, person: UserId, at: float) -> AskHistory:
        place = prompt.conversation
        waiting = self._waiting(place)
        asked = [
            number
            for number, ask in self.asks.items()
            if ask.question == "helped"
            and self.people[number] == person
            and number not in waiting
            and (number not in self.sent or self.sent[number][1] > at - 86_400)
        ]
        before = [one for where, who, one in self._order if (where, who) == (place, person)]
        last = {prompt.event_id, *[one for one in before if one != prompt.event_id][-1:]}
        return AskHistory(
            refused=not self.unwanted.isdisjoint({person, place.room_id}),
            asked=len(asked),
            last_asked=any(
                one.prompt in last and (one.begun or number in self.sent)
                for number, one in self.asks.items()
            ),
            waiting=bool(waiting),
        )

    def _waiting(self, place: Conversation) -> list[int]:
        return [
            number
            for number, ask in self.asks.items()
            if number not in self.sent
            and not ask.begun
            and ask.question == "helped"
            and Conversation(ask.room_id, ask.thread_root) == place
        ]

    def _plan(
        self,
        prompt: EventId,
        question: Question,
        place: Conversation,
        person: UserId,
        due_at: float,
    ) -> bool:
        if any((one.prompt, one.question) == (prompt, question) for one in self.asks.values()):
            return False
        number = next(self._numbers)
        where = place.room_id, place.thread_root
        self.asks[number] = Ask(number, prompt, question, *where, due_at, due_at)
        self.people[number] = person
        return True

    async def due(self, now: float) -> tuple[Sequence[Ask], float | None]:
        unsent = [one for number, one in self.asks.items() if number not in self.sent]
        unsent.sort(key=lambda one: one.due_at)
        ready = [one for one in unsent if one.due_at <= now]
        return ready, next((one.due_at for one in unsent if one.due_at > now), None)

    async def begin(self, ask: Ask) -> bool:
        if ask.number in self.asks:
            self.asks[ask.number] = replace(self.asks[ask.number], begun=True)
        return ask.number in self.asks

    async def is_begun(self, room_id: RoomId) -> bool:
        begun = {key for key, one in self.asks.items() if one.begun and one.room_id == room_id}
        return bool(begun - self.sent.keys())

    async def asked(self, ask: Ask, event_id: EventId, at: float, closes_at: float) -> None:
        self.sent[ask.number] = event_id, at, closes_at

    async def put_off(self, ask: Ask, due_at: float) -> None:
        if ask.number in self.asks:
            self.asks[ask.number] = replace(self.asks[ask.number], due_at=due_at)

    async def drop(self, ask: Ask) -> None:
        if ask.number not in self.sent:
            self.asks.pop(ask.number, None)

    def knows(self, room_id: RoomId, event_id: EventId) -> Ask | None:
        """Return the poll that stands at an event of the room."""
        for number, (sent, _, _) in self.sent.items():
            if sent == event_id and self.asks[number].room_id == room_id:
                return self.asks[number]
        return None

    def may_know(self, room_id: RoomId, event_id: EventId) -> bool:
        """Tell whether that is a poll of ours, or may be one that is not recorded yet."""
        unsent = [one for number, one in self.asks.items() if number not in self.sent]
        here = any(one.room_id == room_id and one.begun for one in unsent)
        return here or self.knows(room_id, event_id) is not None

    async def poll(self, room_id: RoomId, event_id: EventId) -> Ask | None:
        return self.knows(room_id, event_id)

    async def count(self, vote: Vote, at: float) -> VoteOutcome | None:
        ask = self.knows(vote.room_id, vote.target)
        if ask is None:
            return None
        person = self.people[ask.number]
        answer = chosen(vote.answers, ANSWERS[ask.question])
        in_time = vote.timestamp / 1000 <= self.sent[ask.number][2]
        counts = in_time and person == vote.sender
        said = Opinion(ask.question, answer, vote.timestamp, ask.number)
        self.said.setdefault(vote.event_id, (ask.prompt, vote.sender, said, counts))
        if not counts:
            return None
        self._rate_anew(ask.prompt, person)
        goes_on = ask.question == "helped" and asks_why(answer)
        place = Conversation(ask.room_id, ask.thread_root)
        goes_on = goes_on and self._plan(ask.prompt, "why", place, person, at)
        thanks = answer is not None and not asks_why(answer) and ask.prompt not in self.thanked
        if thanks:
            self.thanked.add(ask.prompt)
        return VoteOutcome(ask, answer, thanks=thanks, goes_on=goes_on)

    async def rate(
        self,
        said: Reaction | Message,
        prompt: EventId,
        answer: Rating,
        at: float,  # noqa: ARG002  # the port
    ) -> None:
        opinion = Opinion("helped", answer, said.timestamp)
        self.said.setdefault(said.event_id, (prompt, said.sender, opinion, True))
        self._rate_anew(prompt, said.sender)

    def _rate_anew(self, prompt: EventId, person: UserId) -> None:
        said = [
            opinion
            for about, who, opinion, counts in self.said.values()
            if (about, who) == (prompt, person) and counts
        ]
        helped = answer_of(said, "helped")
        if helped is None:
            self.ratings.pop((prompt, person), None)
            return
        self.ratings[prompt, person] = helped.answer, reason_of(said)

    async def comment(
        self,
        said: Message,
        prompt: EventId | None,
        at: float,  # noqa: ARG002  # the port
    ) -> None:
        self.comments[said.event_id] = prompt, said.sender, said.body

    async def is_said(self, event_id: EventId) -> bool:
        said = self.said.get(event_id)
        return event_id in self.comments or (said is not None and said[2].poll is None)

    async def amend(
        self,
        edit: Edit,
        rating: Rating | None,
        at: float,  # noqa: ARG002  # the port
    ) -> None:
        event_id, person = edit.target, edit.sender
        comment, said = self.comments.get(event_id), self.said.get(event_id)
        if comment is not None and comment[1] == person:
            prompt = comment[0]
            del self.comments[event_id]
        elif said is not None and said[1] == person and said[2].poll is None:
            prompt = said[0]
            del self.said[event_id]
        else:
            return
        self.edits[event_id] = edit.event_id
        if rating is not None and prompt is not None:
            opinion = Opinion("helped", rating, edit.timestamp)
            self.said[event_id] = prompt, person, opinion, True
        elif edit.body:
            self.comments[event_id] = prompt, person, edit.body
        if prompt is not None:
            self._rate_anew(prompt, person)

    async def share(
        self,
        said: Message,
        prompt: EventId,
        exchange: tuple[str, str],
        at: float,  # noqa: ARG002  # the port
    ) -> None:
        self.shared.setdefault(said.event_id, (prompt, said.sender, *exchange))

    async def withdraw(self, event_id: EventId) -> None:
        for said, edit in list(self.edits.items()):
            if edit == event_id:
                del self.edits[said]
                await self.withdraw(said)
        self.comments.pop(event_id, None)
        kept = self.shared.items()
        self.shared = {key: one for key, one in kept if event_id not in {key, one[0]}}
        unsent = [one for number, one in self.asks.items() if number not in self.sent]
        for ask in unsent:
            if ask.prompt == event_id:
                del self.asks[ask.number]
        gone = self.said.pop(event_id, None)
        if gone is not None:
            self._rate_anew(gone[0], gone[1])

    async def last_answered(self, conversation: Conversation) -> EventId | None:
        here = [one for where, _, one in self._order if where == conversation]
        return here[-1] if here else None

    async def want_polls(self, whose: UserId | RoomId, *, wanted: bool) -> None:
        (self.unwanted.discard if wanted else self.unwanted.add)(whose)
        for number, ask in list(self.asks.items()):
            theirs = whose in {self.people[number], ask.room_id}
            if not (wanted or ask.begun or number in self.sent) and theirs:
                del self.asks[number]


@dataclass
class _To:
    person: UserId | None
    step: int = 0
    due_at: float | None = None
    remind_at: float | None = None
    reached: bool = False
    declined: bool = False
    completed: bool = False
    root: EventId | None = None
    event_id: EventId | None = None
    begun: bool = False
    reached_at: float | None = None


@dataclass
class _One:
    definition: str
    state: str = "draft"
    ends_at: float | None = None
    closed_at: float | None = None
    told: int = 0
    to: dict[RoomId, _To] = field(default_factory=dict)


class FakeCampaigns:
    """The ledger of campaigns in memory; people under their own ids.

    Attributes:
        asks: by the event at which a question stands: campaign, room, question, when, whether it
            is a poll that has not ended.
        said: by event: campaign, room, question, who, the answer, the words, when, whether it
            counts.
    """

    def __init__(self, opinions: FakeOpinions) -> None:
        self.all: dict[str, _One] = {}
        self.asks: dict[EventId, tuple[str, RoomId, str, float, bool]] = {}
        self.said: dict[
            EventId, tuple[str, RoomId, str, UserId, str | None, str | None, int, bool]
        ] = {}
        self.edits: dict[EventId, EventId] = {}  # by what they edit
        self._opinions = opinions

    async def draft(self, name: str, definition: str, at: float) -> bool:  # noqa: ARG002  # the port
        if name in self.all and self.all[name].state != "draft":
            return False
        self.all[name] = _One(definition)
        return True

    async def definition(self, name: str) -> str | None:
        return self.all[name].definition if name in self.all else None

    async def names(self) -> Sequence[tuple[str, str]]:
        return [(name, one.state) for name, one in reversed(self.all.items())]

    async def active(self) -> Mapping[RoomId, float]:
        return self._opinions.active

    async def launch(
        self, name: str, to: Sequence[Recipient], begins_at: float, ends_at: float | None
    ) -> bool:
        one = self.all.get(name)
        if one is None or one.state != "draft":
            return False
        one.state, one.ends_at = "running", ends_at
        one.to = {each.room_id: _To(each.person, due_at=begins_at) for each in to}
        return True

    async def close(self, name: str, at: float) -> bool:
        one = self.all.get(name)
        if one is None or one.state != "running":
            return False
        one.state, one.closed_at = "closing", at
        for each in one.to.values():
            each.due_at, each.remind_at = each.due_at if each.begun else None, None
        self._close_if_done(name)
        return True

    def _close_if_done(self, name: str) -> None:
        one = self.all[name]
        left = any(poll and of == name for of, _, _, _, poll in self.asks.values())
        if one.state == "closing" and not left and not any(to.begun for to in one.to.values()):
            one.state = "closed"

    async def running(self) -> Sequence[str]:
        return [
            name
            for name, one in self.all.items()
            if one.state in {"running", "closing"} or (one.state == "closed" and one.told < CLOSED)
        ]

    async def due(self, name: str, now: float) -> tuple[DueMessage | None, float | None] | None:
        one = self.all[name]
        if one.state not in {"running", "closing"}:
            return None
        if one.state == "running" and one.ends_at is not None and one.ends_at <= now:
            return None, one.ends_at
        found = []
        for room_id, to in one.to.items():
            place = RecipientRoom(room_id, to.person is not None, to.root)
            if to.due_at is not None and (to.begun or one.state == "running"):
                step = to.step, to.due_at, to.event_id, to.begun
                found.append(DueMessage(name, place, "step", *step))
            if to.remind_at is not None:
                found.append(DueMessage(name, place, "remind", to.step, to.remind_at, to.event_id))
        found.sort(
            key=lambda one: (
                *(one.kind == "remind", not one.begun, one.step == 0, one.due_at),
                one.recipient.room_id,
            )
        )
        found += self._ends(name) if one.state == "closing" else []
        ready = [sending for sending in found if sending.due_at <= now]
        rest = [sending.due_at for sending in found if sending.due_at > now]
        rest += [one.ends_at] if one.ends_at is not None and one.state == "running" else []
        return next(iter(ready), None), min(rest, default=None)

    def _ends(self, name: str) -> list[DueMessage]:
        found = []
        for event_id, (of, room_id, _, at, poll) in self.asks.items():
            if of == name and poll:
                to = self.all[name].to[room_id]
                place = RecipientRoom(room_id, to.person is not None, to.root)
                found.append(DueMessage(name, place, "end", to.step, at, event_id))
        return sorted(found, key=lambda one: one.due_at)

    async def sent(
        self,
        one: DueMessage,
        event_id: EventId,
        at: float,
        *,
        question: tuple[str, bool] | None,
        next_due: float | None,
        remind_at: float | None,
    ) -> None:
        room_id = one.recipient.room_id
        to = self.all[one.campaign].to[room_id]
        if to.step == one.step:
            to.step, to.due_at, to.remind_at = one.step + 1, next_due, remind_at
            to.reached, to.event_id, to.begun = True, event_id, False
            to.reached_at = to.reached_at or at
            if self.all[one.campaign].state != "running":
                to.due_at = to.remind_at = None
                if question is not None and question[1]:
                    self.all[one.campaign].state = "closing"
            if not one.recipient.direct:
                to.root = to.root or event_id
        if question is not None:
            key, poll = question
            self.asks.setdefault(event_id, (one.campaign, room_id, key, at, poll))
        self._close_if_done(one.campaign)

    async def reminded(self, one: DueMessage) -> None:
        self.all[one.campaign].to[one.recipient.room_id].remind_at = None

    async def ended(self, one: DueMessage) -> None:
        assert one.event_id is not None
        self.asks[one.event_id] = (*self.asks[one.event_id][:4], False)
        self._close_if_done(one.campaign)

    async def put_off(self, one: DueMessage, due_at: float) -> None:
        to = self.all[one.campaign].to[one.recipient.room_id]
        if one.kind == "end" and one.event_id is not None:
            of, room_id, key, _, poll = self.asks[one.event_id]
            self.asks[one.event_id] = of, room_id, key, due_at, poll
        elif one.kind == "remind":
            to.remind_at = due_at
        elif to.step == one.step:
            to.due_at = due_at

    async def decline(self, one: DueMessage) -> None:
        to = self.all[one.campaign].to[one.recipient.room_id]
        to.declined, to.due_at, to.remind_at, to.begun = True, None, None, False
        self._close_if_done(one.campaign)

    async def wanted(self, room: Room, campaign: str, now: float) -> float | None:
        if not self._opinions.unwanted.isdisjoint({room.person or "", room.room_id}):
            return None
        others = [
            to.reached_at
            for name, one in self.all.items()
            for room_id, to in one.to.items()
            if name != campaign
            and to.reached_at is not None
            and (room_id == room.room_id or room.person in {to.person} - {None})
        ]
        theirs = [
            to.begun
            for name, one in self.all.items()
            for room_id, to in one.to.items()
            if name != campaign
            and (room_id == room.room_id or room.person in {to.person} - {None})
        ]
        return max([now + 300.0 * any(theirs), *(at + 86_400 for at in others)])

    async def asked(self, room_id: RoomId, event_id: EventId) -> AskedQuestion | None:
        found = self.asks.get(event_id)
        if found is None or found[1] != room_id:
            return None
        to = self.all[found[0]].to[room_id]
        return AskedQuestion(
            found[0], found[2], RecipientRoom(room_id, to.person is not None, to.root)
        )

    async def begin(self, one: DueMessage, room: Room, now: float, *, asks: bool) -> float | None:
        to = self.all[one.campaign].to[one.recipient.room_id]
        if one.begun:
            return now
        if self.all[one.campaign].state != "running":
            return None
        since = await self.wanted(room, one.campaign, now) if asks else now
        if since is not None and one.step > 0:
            since = now
        if since is not None and since <= now:
            to.begun = to.begun or to.step == one.step
        return since

    async def is_begun(self, room_id: RoomId) -> bool:
        return any(one.to[room_id].begun for one in self.all.values() if room_id in one.to)

    async def withdraw(self, event_id: EventId) -> None:
        for said, edit in self.edits.items():
            if edit == event_id:
                self.said.pop(said, None)
        self.said.pop(event_id, None)

    async def amend(self, edit: Edit) -> None:
        found = self.said.get(edit.target)
        if found is not None and found[3] == edit.sender and found[5] is not None:
            self.said[edit.target] = (*found[:5], edit.body, *found[6:])
            self.edits[edit.target] = edit.event_id

    def may_know(self, room_id: RoomId, event_id: EventId) -> bool:
        """Tell whether that is a question of ours, or may be one that is not recorded yet."""
        found = self.asks.get(event_id)
        begun = [one.to[room_id].begun for one in self.all.values() if room_id in one.to]
        return (found is not None and found[1] == room_id) or any(begun)

    async def answer(
        self,
        said: Vote | Message,
        asked: AskedQuestion,
        answer: str | None,
        *,
        step: int,
        steps: int,
        at: float,
    ) -> Literal["goes on", "thanks", "counts", "late"]:
        one, room_id = self.all[asked.campaign], asked.recipient.room_id
        to = one.to[room_id]
        closed = one.closed_at if one.closed_at is not None else one.ends_at
        stands = any(
            of[:3] == (asked.campaign, room_id, asked.question) and of[4]
            for of in self.asks.values()
        )
        in_time = stands or closed is None or said.timestamp / 1000 <= closed
        counts = in_time and to.person in {None, said.sender}
        text = said.body if isinstance(said, Message) else None
        row = (asked.question, said.sender, answer, text, said.timestamp, counts)
        again = said.event_id in self.said
        self.said.setdefault(said.event_id, (asked.campaign, room_id, *row))
        if not counts:
            return "late"
        if to.person is None or (answer is None and text is None) or to.step != step + 1:
            return "counts"
        more, done = step + 1 < steps, to.completed
        to.due_at, to.remind_at = (at if more else None), None
        to.completed = not more
        if more:
            return "goes on"
        return "counts" if done and not again else "thanks"

    async def delivery_progress(self, name: str) -> DeliveryProgress:
        one = self.all[name]
        done = sum(each.reached or each.declined for each in one.to.values())
        return DeliveryProgress(len(one.to), done, one.state == "closed", one.told)

    async def milestone_reported(self, name: str, milestone: int) -> None:
        self.all[name].told = milestone

    async def result(
        self, room_id: RoomId, event_id: EventId
    ) -> tuple[str, Mapping[str, int]] | None:
        if event_id not in self.asks:
            return None
        name, _, question, _, _ = self.asks[event_id]
        here = [each for each in self.said.values() if each[:3] == (name, room_id, question)]
        counts, _ = self._tally(here)
        return question, counts.get(question, {})

    async def progress(self, name: str) -> CampaignResults | None:
        one = self.all.get(name)
        if one is None:
            return None
        said = [each for each in self.said.values() if each[0] == name and each[7]]
        counts, texts = self._tally(said)
        to = one.to.values()
        return CampaignResults(
            one.state,
            len(to),
            sum(each.reached for each in to),
            sum(each.declined and not each.reached for each in to),
            len({each[1] for each in said}),
            sum(each.completed for each in to),
            counts,
            texts,
        )

    @staticmethod
    def _tally(
        said: Sequence[tuple[str, RoomId, str, UserId, str | None, str | None, int, bool]],
    ) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
        last: dict[tuple[str, UserId], tuple[int, str | None]] = {}
        for _, _, question, who, answer, text, at, counts_too in said:
            if counts_too and text is None and at > last.get((question, who), (-1, None))[0]:
                last[question, who] = at, answer
        counts: dict[str, dict[str, int]] = {}
        for (question, _), (_, answer) in last.items():
            if answer is not None:
                of_question = counts.setdefault(question, {})
                of_question[answer] = of_question.get(answer, 0) + 1
        written = {(each[2], each[3]) for each in said if each[5] is not None}
        return counts, dict(Counter(question for question, _ in written))


class FakeStatistics:
    """Figures by day and group, as a test gives them."""

    def __init__(self) -> None:
        self.figures: dict[tuple[date, Group], Figures] = {}
        # By part and name, of weeks that were asked for.
        self.fixed: dict[date, dict[tuple[str, str], Figures]] = {}
        self.said: list[FeedbackComment] = []
        self.launched: list[CampaignFigures] = []
        self.error: Exception | None = None
        self.asked = 0

    def add(self, day: date, group: Group, **figures: int) -> None:
        self.figures.setdefault((day, group), Counter()).update(figures)

    async def by_step(
        self, step: Step, first: date, last: date, only: FigureFilter
    ) -> dict[date, Figures]:
        self._answer()
        found: dict[date, Figures] = {}
        for (day, group), figures in self.figures.items():
            begun = first_of(step, day)
            if first <= begun <= last and group in only:
                found.setdefault(begun, Counter()).update(figures)
        return found

    async def by_group(self, step: Step, first: date, last: date) -> dict[Group, Figures]:
        self._answer()
        groups: dict[Group, Figures] = {}
        for (day, group), figures in self.figures.items():
            if first <= first_of(step, day) <= last:
                groups.setdefault(group, Counter()).update(figures)
        return groups

    async def published(self, first: date, last: date) -> Published:
        self._answer()
        mondays = [first + timedelta(weeks=n) for n in range((last - first).days // 7 + 1)]
        since = first  # the first week that is in no chunk
        for monday in mondays:
            if monday not in self.fixed:
                groups = await self.by_group("week", since, monday)
                self.fixed[monday] = chunk(
                    {group: _public(figures) for group, figures in groups.items()}
                )
            if self.fixed[monday]:
                since = monday + timedelta(weeks=1)
        self.fixed = {monday: self.fixed[monday] for monday in mondays}
        weeks = {monday: rows["", ""] for monday, rows in self.fixed.items() if rows}
        return Published(weeks, {part: self._published(part) for part in PUBLIC_PARTS})

    async def remarks(self, only: FigureFilter, most: int) -> list[FeedbackComment]:
        self._answer()
        return [] if only != FigureFilter() else self.said[:most]

    async def campaigns(self, most: int) -> list[CampaignFigures]:
        self._answer()
        return self.launched[:most]

    def _published(self, part: str) -> dict[str, Figures]:
        names: dict[str, Figures] = {}
        for rows in self.fixed.values():
            for (its, name), figures in rows.items():
                if its == part:
                    names.setdefault(name, Counter()).update(figures)
        return names

    def _answer(self) -> None:
        self.asked += 1
        if self.error:
            raise self.error


def _public(figures: Figures) -> Figures:
    return Counter({name: figures[name] for name in PUBLIC_FIGURES if figures[name]})


def exported(*rows: Mapping[str, object]) -> Export:
    """Return a table with these rows."""

    async def pages(at_once: int) -> AsyncGenerator[Sequence[Mapping[str, object]], None]:
        for at in range(0, len(rows), at_once):
            yield rows[at : at + at_once]

    return Export(tuple(rows[0]) if rows else (), pages)


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


SMALL = ModelCard(
    id="small",
    label="Petit modèle",
    key="small",
    context_length=32_000,
    max_tokens=1_000,
    temperature=None,
)
LARGE = ModelCard(
    id="vendor/large",
    label="Grand modèle",
    key="large",
    context_length=128_000,
    max_tokens=2_000,
    temperature=0.3,
)
CATALOGUE = Catalogue([SMALL, LARGE])


def make_notifier(matrix: FakeMatrix, store: FakeStore, clock: Clock) -> Notifier:
    """Return what sends notices, for a test of one part; it asks no model."""
    settings = ContextSettings(
        system_prompt="Sobre.", catalogue=CATALOGUE, language="fr", idle_limit=3600
    )
    contexts = Contexts(matrix, store, clock, cast("Completions", None), settings)
    return Notifier(matrix=matrix, store=store, clock=clock, contexts=contexts)


class Story:
    """The whole assistant on fakes; `run` keeps it going while the block lasts."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.matrix, self.model, self.store = FakeMatrix(), FakeModel(), FakeStore()
        self.clock = clock or FakeClock()
        self.texts: Texts = speak("fr")
        self.pace = Pace(0.8, 2.0, 10.0, least=1)
        self.policy = Policy(BOT, ("tchap.test",), age_limit=10 * 365 * 86_400)
        self.at_once = 20
        self.share = 0.25
        self.limits = Limits()
        self.catalogue = CATALOGUE
        self.fallback: ModelCard | None = None
        self.feedback = AskPolicy("never")
        self.opinions: Opinions | None = None  # other than the fake ledger's own
        self.campaigns: CampaignLedger | None = None
        self.statistics = FakeStatistics()
        self.exports = {what: exported() for what in get_args(ExportName)}
        self.about = About("1.2.3", "https://status.test", "équipe@tchap.test")
        self.stopping = asyncio.Event()

    def assistant(self) -> Assistant:
        health = Health(self.clock)
        settings = ContextSettings(
            system_prompt="Sobre.",
            catalogue=self.catalogue,
            language="fr",
            idle_limit=3600,
            heeds=self.policy.heeds,
        )
        how = AssistantSettings(
            policy=self.policy,
            context=settings,
            about=self.about,
            pace=self.pace,
            at_once=self.at_once,
            feedback=self.feedback,
            fallback=self.fallback,
            share=self.share,
            limits=self.limits,
        )
        return assemble(
            how,
            matrix=self.matrix,
            model=self.model,
            store=self.store,
            opinions=self.opinions or self.store.opinions,
            campaigns=self.campaigns or self.store.campaigns,
            statistics=self.statistics,
            exports=self.exports,
            clock=self.clock,
            health=health,
        )

    @asynccontextmanager
    async def run(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.get_running_loop().create_task(self.assistant().run(self.stopping))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110  # it may be about any of the three fakes
                await asyncio.sleep(0)

    @property
    def shown(self) -> list[str]:
        """What stands in the room, in the order in which it came."""
        return list(self.matrix.standing().values())

    def done(self, *event_ids: str) -> bool:
        return {EventId(one) for one in event_ids} <= self.store.finished

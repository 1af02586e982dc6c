"""The doors to the outside: what the bot asks of Matrix, the model, the ledger and the clock."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, Protocol

from bot.core.campaigns import Asked, CampaignResults, DeliveryProgress, Recipient, Sending
from bot.core.events import (
    Batch,
    Conversation,
    Delta,
    Event,
    EventId,
    Invite,
    Joined,
    Left,
    Message,
    Pending,
    Prompt,
    Reaction,
    Redaction,
    Revision,
    Room,
    RoomId,
    Turn,
    Undecryptable,
    Upgraded,
    UserId,
    VerificationEvent,
    Vote,
)
from bot.core.export_format import What
from bot.core.feedback import Ask, AskHistory, Rating, ReplyMetadata, VoteOutcome
from bot.core.model_catalog import ModelCard
from bot.core.outgoing import OutboxMessage, Outgoing, PreparedEvent, SentSince
from bot.core.prompt_context import History
from bot.core.routing import MessageIndex
from bot.core.statistics import (
    CampaignFigures,
    FeedbackComment,
    Figures,
    Group,
    Only,
    Published,
    Step,
)
from bot.core.transcript import TranscriptMessage
from bot.core.verification import VerificationStep

Unheeded = Undecryptable | Message | Revision | Vote
ReadableEvent = Message | Undecryptable | Revision | Redaction | Reaction | Vote | Upgraded


class Matrix(Protocol):
    """The bot's account on its homeserver. Every method may raise MatrixError.

    `batches` syncs for ever from the given token and yields each response once; the next one is
    asked for when the consumer comes back for it. It waits out what passes (network, 5xx, 429)
    and raises what does not (LoggedOut, AccountExpired).
    `room`, `power_level`, `predecessor` (the room that this one replaces) and `name` (how a person
    is called in a room; the id where that is not known) answer from what the syncs so far have
    told; so does `known`, of earlier messages.
    `rooms` are those in which the bot can speak. `open_admin_room` returns the one for its admins,
    and makes it where there is none; `members` are those in a room or invited, `invite` adds one;
    `exists` tells whether there is such a user, True where the homeserver does not say.
    `follow` joins the room that takes the place of another; Forbidden where that does not say so
    itself, where who gave the other up has not the power to, or where it takes an invitation.
    `fetch` reads one event again, a message in its last version; None where it is gone.
    `history` returns the prompt's conversation; `enough` tells of what is read already whether
    older messages would count.
    `attention` sends the read receipt and shows "typing…" while its block runs; no MatrixError.
    `freeze` returns what is to be sent as it goes over the wire, encrypted where the room is;
    `put` sends that, and never in clear where the room is encrypted by then; `send` does both. The
    same transaction id never makes two events, for a day (Synapse) and on the same device.
    `upload_limit` returns how many bytes a file may have; None where the homeserver does not say.
    `shown` returns what the homeserver shows for an event, its newest edit where it has any; None
    where it is gone. Of what is as it was put, `PreparedEvent.is_shown_as` holds.
    `own_since` returns what the bot has sent since the first message of a prompt, which may be
    redacted by now: what is about the prompt, and what cannot be read.
    `verify` does one step of a verification of the bot's device, and returns what people are to be
    told of it; given again after an error, it sends nothing twice.
    `edits` lists the edits of an event that is not redacted yet; `redact` takes one away.
    """

    @property
    def user_id(self) -> UserId: ...

    @property
    def device_id(self) -> str: ...

    @property
    def known(self) -> MessageIndex: ...

    def batches(self, since: str | None) -> AsyncIterator[Batch]: ...

    def room(self, room_id: RoomId) -> Room: ...

    def rooms(self) -> Sequence[Room]: ...

    async def open_admin_room(self, name: str) -> RoomId: ...

    async def members(self, room_id: RoomId) -> frozenset[UserId]: ...

    async def invite(self, room_id: RoomId, user_id: UserId) -> None: ...

    async def exists(self, user_id: UserId) -> bool: ...

    def power_level(self, room_id: RoomId, user_id: UserId) -> float: ...

    def predecessor(self, room_id: RoomId) -> RoomId | None: ...

    def name(self, room_id: RoomId, user_id: UserId) -> str: ...

    async def join(self, invite: Invite) -> None: ...

    async def follow(self, upgraded: Upgraded) -> None: ...

    async def leave(self, room_id: RoomId, reason: str | None = None) -> None: ...

    async def fetch(self, room_id: RoomId, event_id: EventId) -> ReadableEvent | None: ...

    async def history(
        self, prompt: Prompt, enough: Callable[[Sequence[TranscriptMessage]], bool]
    ) -> History: ...

    def attention(self, prompt: Prompt) -> AbstractAsyncContextManager[None]: ...

    async def upload_limit(self) -> int | None: ...

    async def freeze(self, room_id: RoomId, outgoing: Outgoing) -> PreparedEvent: ...

    async def put(self, room_id: RoomId, wire: PreparedEvent, transaction_id: str) -> EventId: ...

    async def send(self, room_id: RoomId, outgoing: Outgoing, transaction_id: str) -> EventId: ...

    async def verify(
        self, event: VerificationEvent, *, trusted: bool
    ) -> VerificationStep | None: ...

    async def shown(self, room_id: RoomId, event_id: EventId) -> PreparedEvent | None: ...

    async def own_since(self, room_id: RoomId, prompt: Sequence[EventId]) -> SentSince: ...

    async def edits(self, room_id: RoomId, event_id: EventId) -> Sequence[EventId]: ...

    async def redact(self, room_id: RoomId, event_id: EventId, transaction_id: str) -> None: ...


class Model(Protocol):
    """A chat completion backend that speaks the OpenAI API.

    `stream` yields deltas until the model says that it is done, and raises CompletionError
    otherwise; closing the iterator closes the connection. What is longer than the card allows, at
    8 characters a token, is cut, and done for the reason "length".
    `context_length` returns how many tokens request and completion may have together.
    """

    def stream(self, turns: Sequence[Turn], card: ModelCard) -> AsyncGenerator[Delta, None]: ...

    def context_length(self, card: ModelCard) -> int: ...


@dataclass(frozen=True, slots=True)
class Claim:
    """A prompt taken up by this process.

    Attributes:
        number: 1 for the first process that takes it up, one more after each crash.
        event_ids: the reply's messages that already stand in the room, in order.
        frozen: those of its final version that may be on their way, in order.
    """

    number: int
    event_ids: tuple[EventId, ...]
    frozen: tuple[OutboxMessage, ...] = ()


@dataclass(frozen=True, slots=True)
class Exchange:
    """A prompt that was taken up, and its reply: the messages of both, in order.

    Attributes:
        reply: empty where there is none.
    """

    prompt: tuple[EventId, ...]
    reply: tuple[EventId, ...]


@dataclass(frozen=True, slots=True)
class Choices:
    """What people have chosen; None where they have not.

    Attributes:
        model: as the backend knows it.
    """

    model: str | None = None
    language: Literal["fr", "en"] | None = None


@dataclass(frozen=True, slots=True)
class UndecryptedEvent:
    """An undecryptable message whose key may still come.

    Attributes:
        heard_at: seconds since the epoch.
    """

    message: Undecryptable
    heard_at: float


class Store(Protocol):
    """The ledger: ids and states, and no word of a conversation but sealed.

    Where it is away for a while its methods wait, and raise StoreError where it is for good.

    `admit` commits the batch's events and its token in one transaction, and returns the events
    that were not known yet, neither by event id nor by fingerprint; `heard_at` is in seconds since
    the epoch. What changes nothing of a prompt, a reply or the thread of one is left out.
    `unfinished` returns what was admitted and not finished, oldest first. What was undecryptable
    and has been claimed since is a Pending, as every message that could be read.
    `claim` takes a prompt up, once more where it was finished, and ties its messages together; its
    number survives a power cut where it is taken up `again`, as something may stand under others;
    `sent` records one message of its reply; `freeze` keeps the messages of its final version, in
    place of any others, until `finish` ends the events.
    `exchange` returns the prompt and reply that an event is a message of, None for none.
    `choose` records choices for a conversation (a thread root of None stands for all of the
    room); `choices` returns those that hold in it.
    `noticed` records when a message's sender was told that it cannot be read, or that it counts
    for nothing as it came in clear; `last_notice` returns when that last was so in the room,
    whichever the message, None for never.
    """

    async def sync_token(self) -> str | None: ...

    async def admit(self, batch: Batch, heard_at: float) -> Sequence[Event]: ...

    async def unfinished(
        self,
    ) -> Sequence[Invite | Joined | Left | Pending | UndecryptedEvent]: ...

    async def claim(self, prompt: Prompt, *, again: bool = False) -> Claim: ...

    async def sent(self, prompt: EventId, part: int, event_id: EventId) -> None: ...

    async def freeze(self, prompt: EventId, frozen: Sequence[OutboxMessage]) -> None: ...

    async def finish(self, *event_ids: EventId) -> None: ...

    async def exchange(self, room_id: RoomId, event_id: EventId) -> Exchange | None: ...

    async def choose(self, conversation: Conversation, chosen: Choices) -> None: ...

    async def choices(self, conversation: Conversation) -> Choices: ...

    async def noticed(self, message: Unheeded, at: float) -> None: ...

    async def last_notice(self, sender: UserId, room_id: RoomId) -> float | None: ...


class Opinions(Protocol):
    """What people think of replies: polls, votes, ratings, comments; a part of the ledger.

    People are kept as pseudonyms, comments sealed. Times are in seconds since the epoch. It waits
    and raises as `Store` does.

    `answered` records how the reply to a prompt came about, and plans the poll about it that
    `after` wants, in so many seconds from `at`; it returns when that is due, None for never.
    `due` returns the polls to be sent by `now`, the oldest first, and when the next one is due.
    `begin` records that one may be sent from now on, False where it is not wanted any more; until
    `asked` records that it was, and until when votes count, `is_begun` holds for its room.
    `put_off` and `drop` record that it is sent later, or never.
    `poll` returns the poll that stands at an event, None for none.
    `count` takes in a vote, once however often it is told, and plans the next question where
    there is one; None where it does not count: for a poll that is not ours, too late, or of
    somebody who was not asked. `rate` takes in what somebody says of a reply without a poll.
    `is_said` tells whether an event has said something of a reply in words, that still counts.
    `comment` keeps a comment, and `amend` lets it, or a word that was taken for a rating, say what
    the edit by its author says: another rating, or else a comment. `withdraw` takes
    back what an event has said, what was shared of a prompt, or planned about it; it tells of no
    event that it knows nothing of.
    `share` keeps the words of a prompt and of its reply, which a person hands over.
    `last_answered` returns the prompt of the last reply in a conversation.
    `want_polls` records whether a person, or the people of a room, are to be asked at all.
    """

    async def answered(
        self,
        prompt: Prompt,
        how: ReplyMetadata,
        after: Callable[[AskHistory], float | None],
        at: float,
    ) -> float | None: ...

    async def due(self, now: float) -> tuple[Sequence[Ask], float | None]: ...

    async def begin(self, ask: Ask) -> bool: ...

    async def is_begun(self, room_id: RoomId) -> bool: ...

    async def asked(self, ask: Ask, event_id: EventId, at: float, closes_at: float) -> None: ...

    async def put_off(self, ask: Ask, due_at: float) -> None: ...

    async def drop(self, ask: Ask) -> None: ...

    async def poll(self, room_id: RoomId, event_id: EventId) -> Ask | None: ...

    async def count(self, vote: Vote, at: float) -> VoteOutcome | None: ...

    async def rate(
        self, said: Reaction | Message, prompt: EventId, answer: Rating, at: float
    ) -> None: ...

    async def comment(self, said: Message, prompt: EventId | None, at: float) -> None: ...

    async def is_said(self, event_id: EventId) -> bool: ...

    async def amend(self, revision: Revision, rating: Rating | None, at: float) -> None: ...

    async def share(
        self, said: Message, prompt: EventId, exchange: tuple[str, str], at: float
    ) -> None: ...

    async def withdraw(self, event_id: EventId) -> None: ...

    async def last_answered(self, conversation: Conversation) -> EventId | None: ...

    async def want_polls(self, whose: UserId | RoomId, *, wanted: bool) -> None: ...


class CampaignLedger(Protocol):
    """Campaigns and how far they have come; a part of the ledger.

    Times are in seconds since the epoch, steps count from 0 on. It waits and raises as `Store`.

    `draft` keeps what a campaign says, False where one of that name is launched; `definition`
    returns it, `names` every campaign with its state. `active` returns when something was last
    answered in each room. `launch` lets a draft begin, `close` ends it; False where it cannot be.
    `running` are those that have anything left to be sent or told; `due` returns what one is to
    send first by `now`, and when to look again (in the past: its time is over), None where it has
    nothing left. `sent`, `reminded`,
    `ended`, `put_off` and `decline` record what became of it.
    `wanted` returns from when on a room may be asked, None where it wants no polls. `begin` does
    so too, and where a step `asks` nothing or is wanted by `now`, records that it may be sent from
    now on: `is_begun` holds for its room till `sent`.
    `headway` tells how many rooms are dealt with, and `told` records of which milestone the admins
    were told. `result` returns to which question a poll belongs, and how often each answer was
    chosen there.
    `asked` returns the question that stands at an event, and `answer` takes in what somebody says
    to it, until `withdraw`; `amend` lets a text say what its edit says.
    `progress` returns how far a campaign has come, None where there is none of that name.
    """

    async def draft(self, name: str, definition: str, at: float) -> bool: ...

    async def definition(self, name: str) -> str | None: ...

    async def names(self) -> Sequence[tuple[str, str]]: ...

    async def active(self) -> Mapping[RoomId, float]: ...

    async def launch(
        self, name: str, to: Sequence[Recipient], begins_at: float, ends_at: float | None
    ) -> bool: ...

    async def close(self, name: str, at: float) -> bool: ...

    async def running(self) -> Sequence[str]: ...

    async def due(self, name: str, now: float) -> tuple[Sending | None, float | None] | None: ...

    async def sent(
        self,
        one: Sending,
        event_id: EventId,
        at: float,
        *,
        question: tuple[str, bool] | None,
        next_due: float | None,
        remind_at: float | None,
    ) -> None: ...

    async def reminded(self, one: Sending) -> None: ...

    async def ended(self, one: Sending) -> None: ...

    async def put_off(self, one: Sending, due_at: float) -> None: ...

    async def decline(self, one: Sending) -> None: ...

    async def wanted(self, room: Room, campaign: str, now: float) -> float | None: ...

    async def asked(self, room_id: RoomId, event_id: EventId) -> Asked | None: ...

    async def begin(self, one: Sending, room: Room, now: float, *, asks: bool) -> float | None: ...

    async def is_begun(self, room_id: RoomId) -> bool: ...

    async def withdraw(self, event_id: EventId) -> None: ...

    async def amend(self, revision: Revision) -> None: ...

    async def answer(
        self,
        said: Vote | Message,
        asked: Asked,
        answer: str | None,
        *,
        step: int,
        steps: int,
        at: float,
    ) -> Literal["goes on", "thanks", "counts", "late"]: ...

    async def progress(self, name: str) -> CampaignResults | None: ...

    async def headway(self, name: str) -> DeliveryProgress: ...

    async def told(self, name: str, milestone: int) -> None: ...

    async def result(
        self, room_id: RoomId, event_id: EventId
    ) -> tuple[str, Mapping[str, int]] | None: ...


class Statistics(Protocol):
    """Figures of replies and of what people think of them, by days or weeks, in UTC.

    `by_step` returns those of each day or week that has any and begins from the first day to the
    last one, narrowed to a model and a domain; `by_group` those of each group that has any in all
    of these. `published` returns those of the weeks that begin then and are over; what a week had
    when it was first asked for is kept, and told ever after, whatever has changed since; one with
    too few ratings waits, and is told with the next as one `chunk`. Weeks before the first one are
    kept no longer, and wait no longer.
    `remarks` returns the latest comments and `campaigns` the latest campaigns that were launched,
    the last one first. It waits and raises as `Store` does.
    """

    async def by_step(
        self, step: Step, first: date, last: date, only: Only
    ) -> Mapping[date, Figures]: ...

    async def by_group(self, step: Step, first: date, last: date) -> Mapping[Group, Figures]: ...

    async def published(self, first: date, last: date) -> Published: ...

    async def remarks(self, only: Only, most: int) -> Sequence[FeedbackComment]: ...

    async def campaigns(self, most: int) -> Sequence[CampaignFigures]: ...


@dataclass(frozen=True, slots=True)
class Export:
    """A table of the ledger that can leave it as a file, with all that is sealed in it opened.

    Attributes:
        columns: in their order; a row may have more.
        pages: reads all rows, so many at once; it waits and raises as `Store` does.
    """

    columns: tuple[str, ...]
    pages: Callable[[int], AsyncGenerator[Sequence[Mapping[str, Any]], None]]


@dataclass(frozen=True, slots=True)
class Ledgers:
    """What is kept besides prompts and replies."""

    opinions: Opinions
    campaigns: CampaignLedger
    statistics: Statistics
    exports: Mapping[What, Export]


class Clock(Protocol):
    """Seconds: `monotonic` never jumps, `now` counts from the epoch, `sleep` waits that many.

    Spans are measured by `monotonic`; `now` is for what another process must know.
    """

    def monotonic(self) -> float: ...

    def now(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class Sends(Protocol):
    """Who has all that a request to the homeserver needs."""

    @property
    def matrix(self) -> Matrix: ...

    @property
    def clock(self) -> Clock: ...

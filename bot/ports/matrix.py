"""The Matrix port: the bot's account on its homeserver."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from bot.core.events import (
    Batch,
    Edit,
    EventId,
    Invite,
    Message,
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
from bot.core.outgoing import Outgoing, PreparedEvent, SentSince
from bot.core.prompt_context import History
from bot.core.routing import MessageIndex
from bot.core.transcript import TranscriptMessage
from bot.core.verification import VerificationStep
from bot.ports.clock import Clock

ReadableEvent = Message | Undecryptable | Edit | Redaction | Reaction | Vote | Upgraded


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
    `prepare` returns what is to be sent as it goes over the wire, encrypted where the room is;
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

    async def prepare(self, room_id: RoomId, outgoing: Outgoing) -> PreparedEvent: ...

    async def put(self, room_id: RoomId, wire: PreparedEvent, transaction_id: str) -> EventId: ...

    async def send(self, room_id: RoomId, outgoing: Outgoing, transaction_id: str) -> EventId: ...

    async def verify(
        self, event: VerificationEvent, *, trusted: bool
    ) -> VerificationStep | None: ...

    async def shown(self, room_id: RoomId, event_id: EventId) -> PreparedEvent | None: ...

    async def own_since(self, room_id: RoomId, prompt: Sequence[EventId]) -> SentSince: ...

    async def edits(self, room_id: RoomId, event_id: EventId) -> Sequence[EventId]: ...

    async def redact(self, room_id: RoomId, event_id: EventId, transaction_id: str) -> None: ...


class Sends(Protocol):
    """Who has all that a request to the homeserver needs."""

    @property
    def matrix(self) -> Matrix: ...

    @property
    def clock(self) -> Clock: ...

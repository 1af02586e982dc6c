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

# Events that `Matrix.fetch` can read again.
ReadableEvent = Message | Undecryptable | Edit | Redaction | Reaction | Vote | Upgraded


class ReplyRecovery(Protocol):
    """Look-ups on the homeserver by which an interrupted reply is resumed."""

    async def shown(self, room_id: RoomId, event_id: EventId) -> PreparedEvent | None:
        """Return what the homeserver shows for an event; None if it was redacted or is unknown.

        That is its newest edit, if it has any (spec: event replacements, server-side
        aggregation). `PreparedEvent.is_shown_as` compares it with what was sent.
        """

    async def own_since(self, room_id: RoomId, prompt: Sequence[EventId]) -> SentSince:
        """Return what the bot has sent since the first message of a prompt.

        The result has the messages about the prompt, and those that may be about it but cannot be
        decrypted. The prompt's first message may have been redacted meanwhile.
        """

    async def edits(self, room_id: RoomId, event_id: EventId) -> Sequence[EventId]:
        """Return the bot's own edits of an event that is not redacted."""


class Matrix(ReplyRecovery, Protocol):
    """The bot's account on its homeserver.

    Every method may raise MatrixError, unless it says otherwise. Methods that are not
    asynchronous answer from the syncs so far.
    """

    @property
    def user_id(self) -> UserId:
        """The account's full Matrix id."""

    @property
    def device_id(self) -> str:
        """The device that this process is logged in as."""

    @property
    def known(self) -> MessageIndex:
        """The messages that were last seen, without their text; None for a redacted one."""

    # Events.

    def batches(self, since: str | None) -> AsyncIterator[Batch]:
        """Sync for ever, and yield each response once.

        The next response is requested when the consumer asks for it. Passing failures (network,
        5xx, 429) are waited out.

        Args:
            since: the sync token to start from; None for a first sync.

        Raises:
            LoggedOut: the device is not logged in any more.
            AccountExpired: the account has expired.
        """

    async def fetch(self, room_id: RoomId, event_id: EventId) -> ReadableEvent | None:
        """Return one event of a room, a message in its last version; None if it is gone."""

    async def history(
        self, prompt: Prompt, enough: Callable[[Sequence[TranscriptMessage]], bool]
    ) -> History:
        """Return the conversation of a prompt, without what the room hides from its sender.

        Args:
            prompt: the prompt that ends the conversation.
            enough: whether the messages that were read so far suffice, so that older ones would
                not count.
        """

    # Rooms and people.

    def room(self, room_id: RoomId) -> Room:
        """Return what the room's state says."""

    def rooms(self) -> Sequence[Room]:
        """Return every room in which the bot can speak."""

    async def open_admin_room(self, name: str) -> RoomId:
        """Return the admins' room; create it under this name if there is none."""

    async def members(self, room_id: RoomId) -> frozenset[UserId]:
        """Return everybody who has joined a room or is invited to it."""

    async def invite(self, room_id: RoomId, user_id: UserId) -> None:
        """Invite a user to a room."""

    async def exists(self, user_id: UserId) -> bool:
        """Return whether the user exists; True where the homeserver does not say."""

    def power_level(self, room_id: RoomId, user_id: UserId) -> float:
        """Return a user's power level in a room; infinite for creators from room version 12 on."""

    def predecessor(self, room_id: RoomId) -> RoomId | None:
        """Return the room that this one replaces; None where the two rooms do not agree."""

    def name(self, room_id: RoomId, user_id: UserId) -> str:
        """Return a user's display name in a room; the user id where it is not known."""

    async def join(self, invite: Invite) -> None:
        """Accept an invitation; mark the room as a direct message if the invitation says so."""

    async def follow(self, upgraded: Upgraded) -> None:
        """Join the room that replaces another one (spec: room upgrades).

        Raises:
            Forbidden: the new room does not name the old one as its predecessor, the sender had
                not the power level to upgrade the room, or the new room requires an invitation.
        """

    async def leave(self, room_id: RoomId, reason: str | None = None) -> None:
        """Leave a room, or decline its invitation; no error if the bot is out already."""

    # Sending.

    def attention(self, prompt: Prompt) -> AbstractAsyncContextManager[None]:
        """Send the read receipt, and show "typing…" while the block runs; no MatrixError."""

    async def upload_limit(self) -> int | None:
        """Return the largest size of a file, in bytes; None where the homeserver does not say."""

    async def prepare(self, room_id: RoomId, outgoing: Outgoing) -> PreparedEvent:
        """Return the event to send, encrypted if the room is."""

    async def put(self, room_id: RoomId, wire: PreparedEvent, transaction_id: str) -> EventId:
        """Send a prepared event, encrypted if the room has become encrypted meanwhile.

        The same transaction id of the same device never makes two events, for as long as the
        homeserver remembers it (Synapse: one day).
        """

    async def redact(self, room_id: RoomId, event_id: EventId, transaction_id: str) -> None:
        """Redact one of the bot's own events."""

    # Verification.

    async def verify(self, event: VerificationEvent, *, trusted: bool) -> VerificationStep | None:
        """Take one step of a verification of the bot's device.

        Safe to repeat after an error: nothing is sent twice.

        Args:
            event: the other side's event.
            trusted: whether the bot verifies with its sender; else the verification is refused.

        Returns:
            The step that people are to be told of; None for none.
        """

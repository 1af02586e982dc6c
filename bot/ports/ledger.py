"""The ledger port: the states of prompts and replies, and people's choices."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from bot.core.events import (
    Batch,
    Conversation,
    Edit,
    Event,
    EventId,
    Invite,
    Joined,
    Left,
    Message,
    Pending,
    Prompt,
    RoomId,
    Undecryptable,
    UserId,
    Vote,
)
from bot.core.outgoing import OutboxMessage

# Events that the bot does not act on and whose sender may be told so, as `Store.noticed` records.
Unheeded = Undecryptable | Message | Edit | Vote


@dataclass(frozen=True, slots=True)
class Claim:
    """The right of this process to answer a prompt.

    Attributes:
        number: 1 for the first process that takes the prompt up, one more after each crash.
        event_ids: messages of the reply that are already in the room, in order.
        outbox: messages of the reply's final version that may have been sent, in order.
    """

    number: int
    event_ids: tuple[EventId, ...]
    outbox: tuple[OutboxMessage, ...] = ()


@dataclass(frozen=True, slots=True)
class Exchange:
    """A claimed prompt and its reply, each as its messages in order.

    Attributes:
        reply: the reply's messages; empty if there is no reply.
    """

    prompt: tuple[EventId, ...]
    reply: tuple[EventId, ...]


@dataclass(frozen=True, slots=True)
class Choices:
    """The choices that hold in a conversation; None where nobody has chosen.

    Attributes:
        model: the model's id, as the backend knows it.
    """

    model: str | None = None
    language: Literal["fr", "en"] | None = None


@dataclass(frozen=True, slots=True)
class UndecryptedEvent:
    """An undecryptable message whose key may still come.

    Attributes:
        heard_at: time of its admission, in seconds since the epoch.
    """

    message: Undecryptable
    heard_at: float


class Store(Protocol):
    """The ledger: ids and states; any text of a conversation in it is encrypted.

    Every method waits while the database is unavailable for a while, and raises StoreError if it
    is unavailable for good.
    """

    async def sync_token(self) -> str | None:
        """Return the sync token of the last admitted batch; None before the first."""

    async def admit(self, batch: Batch, heard_at: float) -> Sequence[Event]:
        """Commit the batch's events and its token in one transaction.

        An event is left out if it changes neither a prompt, nor a reply, nor the thread of one.

        Args:
            batch: one sync response.
            heard_at: time of the response, in seconds since the epoch.

        Returns:
            The events that were not known yet, neither by event id nor by fingerprint.
        """

    async def unfinished(
        self,
    ) -> Sequence[Invite | Joined | Left | Pending | UndecryptedEvent]:
        """Return the events that were admitted and not finished, oldest first.

        A message that was undecryptable and has since been claimed is returned as `Pending`, as
        every message that could be read.
        """

    async def claim(self, prompt: Prompt, *, again: bool = False) -> Claim:
        """Take a prompt up, even if it was finished, and join its messages to one prompt.

        Args:
            prompt: the prompt to answer.
            again: whether earlier claims of the prompt may have sent messages. The claim's
                number then survives a power cut, so that it is never used twice.
        """

    async def sent(self, prompt: EventId, part: int, event_id: EventId) -> None:
        """Record that part `part` (from 0) of the reply to `prompt` is the event `event_id`."""

    async def keep_outbox(self, prompt: EventId, messages: Sequence[OutboxMessage]) -> None:
        """Keep the messages of a reply's final version until `finish`; replace earlier ones."""

    async def finish(self, *event_ids: EventId) -> None:
        """Record that nothing is left to do for these events."""

    async def exchange(self, room_id: RoomId, event_id: EventId) -> Exchange | None:
        """Return the prompt and the reply of which the event is a message; None if of neither."""

    async def choose(self, conversation: Conversation, chosen: Choices) -> None:
        """Record choices for a conversation; a thread root of None stands for the whole room.

        A choice of None leaves the recorded one as it is.
        """

    async def choices(self, conversation: Conversation) -> Choices:
        """Return the choices that hold in a conversation: its own, or those of its room."""

    async def noticed(self, message: Unheeded, at: float) -> None:
        """Record that the sender was told why the bot does nothing about the message.

        Args:
            message: an event that could not be read, or was sent in clear in an encrypted room.
            at: time of the notice, in seconds since the epoch.
        """

    async def last_notice(self, sender: UserId, room_id: RoomId) -> float | None:
        """Return when `noticed` was last recorded for the sender in the room, for any event.

        In seconds since the epoch; None for never.
        """

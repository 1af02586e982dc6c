"""The ledger port: prompts, replies and choices by their ids."""

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

Unheeded = Undecryptable | Message | Edit | Vote


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
    `sent` records one message of its reply; `keep_outbox` keeps the messages of its final version,
    in place of any others, until `finish` ends the events.
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

    async def keep_outbox(self, prompt: EventId, frozen: Sequence[OutboxMessage]) -> None: ...

    async def finish(self, *event_ids: EventId) -> None: ...

    async def exchange(self, room_id: RoomId, event_id: EventId) -> Exchange | None: ...

    async def choose(self, conversation: Conversation, chosen: Choices) -> None: ...

    async def choices(self, conversation: Conversation) -> Choices: ...

    async def noticed(self, message: Unheeded, at: float) -> None: ...

    async def last_notice(self, sender: UserId, room_id: RoomId) -> float | None: ...

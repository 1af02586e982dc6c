"""The doors to the outside: what the bot asks of Matrix, the model, the ledger and the clock."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

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
    Undecryptable,
    UserId,
)
from bot.core.replies import Outgoing
from bot.core.turns import Said


class Matrix(Protocol):
    """The bot's account on its homeserver. Every method may raise MatrixError.

    `batches` syncs for ever from the given token and yields each response once; the next one is
    asked for when the consumer comes back for it. It waits out what passes (network, 5xx, 429)
    and raises what does not (LoggedOut, AccountExpired).
    `room` answers from what the syncs so far have told.
    `fetch` reads one event again, None where it is gone or no prompt.
    `history` returns what was said before the prompt in its conversation, oldest first.
    `attention` sends the read receipt and shows "typing…" while its block runs; no MatrixError.
    `send` encrypts where the room is encrypted; the same transaction id never makes two events.
    """

    @property
    def user_id(self) -> UserId: ...

    @property
    def device_id(self) -> str: ...

    def batches(self, since: str | None) -> AsyncIterator[Batch]: ...

    def room(self, room_id: RoomId) -> Room: ...

    async def join(self, invite: Invite) -> None: ...

    async def leave(self, room_id: RoomId, reason: str | None = None) -> None: ...

    async def fetch(
        self, room_id: RoomId, event_id: EventId
    ) -> Message | Undecryptable | None: ...

    async def history(self, prompt: Message) -> Sequence[Said]: ...

    def attention(self, message: Message) -> AbstractAsyncContextManager[None]: ...

    async def send(self, room_id: RoomId, outgoing: Outgoing, transaction_id: str) -> EventId: ...


class Model(Protocol):
    """A chat completion backend that speaks the OpenAI API.

    `stream` yields deltas until the model says that it is done, and raises CompletionError
    otherwise; closing the iterator closes the connection.
    """

    def stream(self, turns: Sequence[Turn]) -> AsyncGenerator[Delta, None]: ...


@dataclass(frozen=True, slots=True)
class Claim:
    """A prompt taken up by this process.

    Attributes:
        number: 1 for the first process that takes it up, one more after each crash.
        event_ids: the reply's messages that already stand in the room, in order.
    """

    number: int
    event_ids: tuple[EventId, ...]


@dataclass(frozen=True, slots=True)
class Awaited:
    """An undecryptable message whose key may still come.

    Attributes:
        heard_at: seconds since the epoch.
    """

    message: Undecryptable
    heard_at: float


class Store(Protocol):
    """The ledger: ids and states, never a word of a conversation. It may raise StoreError.

    `admit` commits the batch's events and its token in one transaction, and returns the events
    that were not known yet, neither by event id nor by fingerprint; `heard_at` is in seconds since
    the epoch.
    `unfinished` returns what was admitted and not finished, oldest first. What was undecryptable
    and has been claimed since is a Pending, as every message that could be read.
    `claim` takes a prompt up; `sent` records one message of its reply; `finish` ends an event.
    `noticed` records when a message's sender was told that it cannot be read; `last_notice`
    returns when that last was so in the room, whichever the message, None for never.
    """

    async def sync_token(self) -> str | None: ...

    async def admit(self, batch: Batch, heard_at: float) -> Sequence[Event]: ...

    async def unfinished(self) -> Sequence[Invite | Joined | Left | Pending | Awaited]: ...

    async def claim(self, prompt: EventId) -> Claim: ...

    async def sent(self, prompt: EventId, part: int, event_id: EventId) -> None: ...

    async def finish(self, event_id: EventId) -> None: ...

    async def noticed(self, message: Undecryptable, at: float) -> None: ...

    async def last_notice(self, sender: UserId, room_id: RoomId) -> float | None: ...


class Clock(Protocol):
    """Seconds: `monotonic` never jumps, `now` counts from the epoch, `sleep` waits that many.

    Spans are measured by `monotonic`; `now` is for what another process must know.
    """

    def monotonic(self) -> float: ...

    def now(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...

"""The values everything is said in: ids, what is heard from rooms, what goes to the model."""

from dataclasses import dataclass
from typing import Literal, NewType

RoomId = NewType("RoomId", str)
EventId = NewType("EventId", str)
UserId = NewType("UserId", str)


def server_name(user_id: UserId) -> str:
    """Return the server part of a full Matrix id, "" where there is none."""
    return user_id.partition(":")[2]


@dataclass(frozen=True, slots=True)
class Invite:
    """The bot is invited into a room; `direct` is the inviter's `is_direct`."""

    event_id: EventId
    room_id: RoomId
    sender: UserId
    direct: bool


@dataclass(frozen=True, slots=True)
class Joined:
    """The bot has joined a room."""

    event_id: EventId
    room_id: RoomId


@dataclass(frozen=True, slots=True)
class Left:
    """A member is gone; `alone` says that nobody but the bot is joined or invited any more."""

    event_id: EventId
    room_id: RoomId
    alone: bool


@dataclass(frozen=True, slots=True)
class Message:
    """An `m.room.message` that is no edit, decrypted where it was encrypted.

    Attributes:
        thread_root: the thread's root event id, None in the main timeline.
        timestamp: the homeserver's `origin_server_ts`, in milliseconds.
        fingerprint: what the same encrypted message has in common under whatever event id; None
            where it was not encrypted.
    """

    event_id: EventId
    room_id: RoomId
    sender: UserId
    msgtype: str
    body: str
    timestamp: int
    thread_root: EventId | None = None
    fingerprint: str | None = None

    @property
    def conversation(self) -> "Conversation":
        """The conversation that the message belongs to."""
        return Conversation(self.room_id, self.thread_root)


@dataclass(frozen=True, slots=True)
class Undecryptable:
    """A message whose key has not come: all that can be said of it without reading it.

    Attributes:
        session_id: the Megolm session that its sender encrypted it with.
        timestamp: the homeserver's `origin_server_ts`, in milliseconds.
        thread_root: the thread's root event id, from the relation that stays in clear.
        fingerprint: as a `Message` has it.
    """

    event_id: EventId
    room_id: RoomId
    sender: UserId
    session_id: str
    timestamp: int
    thread_root: EventId | None = None
    fingerprint: str | None = None


Event = Invite | Joined | Left | Message | Undecryptable


@dataclass(frozen=True, slots=True)
class KeyNews:
    """The key of a Megolm session has come, or its owner says why it will not.

    Attributes:
        sender: who sent the key or withholds it.
        room_id: "" where the news is of all that the sender's device would send (`m.no_olm`).
        session_id: "" in the same case.
        withheld: the code of `m.room_key.withheld` (spec: reporting that decryption keys are
            withheld), None where the key has come.
    """

    sender: UserId
    room_id: RoomId
    session_id: str
    withheld: str | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """A message that an earlier process admitted and did not finish: its ids are all we keep."""

    event_id: EventId
    room_id: RoomId


@dataclass(frozen=True, slots=True)
class Conversation:
    """What one context belongs to: a thread, or a direct message's main timeline."""

    room_id: RoomId
    thread_root: EventId | None


@dataclass(frozen=True, slots=True)
class Room:
    """What routing must know of a room, as the homeserver's state says."""

    room_id: RoomId
    direct: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """One sync response: what was heard, the token that follows it, and news of keys."""

    events: tuple[Event, ...]
    next_batch: str
    keys: tuple[KeyNews, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the model's request, in the OpenAI API's roles."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that the backend counted for one completion."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """One increment of a completion.

    Attributes:
        text: words to append, possibly "".
        finish_reason: the OpenAI API's word ("stop", "length", "content_filter"…), at the end.
        usage: the backend's count, where it sends one.
    """

    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None

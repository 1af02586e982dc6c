"""The values everything is said in: ids, what is heard from rooms, what goes to the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NewType

RoomId = NewType("RoomId", str)
EventId = NewType("EventId", str)
UserId = NewType("UserId", str)


def server_name(user_id: UserId) -> str:
    """Return the server part of a full Matrix id, "" where there is none."""
    return user_id.partition(":")[2]


@dataclass(frozen=True, slots=True)
class Invite:
    """The bot is invited into a room.

    Attributes:
        direct: the inviter's `is_direct`.
        space: the room is a space, as far as the invitation tells.
    """

    event_id: EventId
    room_id: RoomId
    sender: UserId
    direct: bool
    space: bool = False


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
class Upgraded:
    """The room has been given up for another one (spec: m.room.tombstone)."""

    event_id: EventId
    room_id: RoomId
    sender: UserId
    replacement: RoomId


@dataclass(frozen=True, slots=True)
class Message:
    """An `m.room.message` that is no edit, decrypted where it was encrypted.

    Attributes:
        body: without a mention of the bot before it, and without lines that the bot has added.
        thread_root: the thread's root event id, None in the main timeline.
        timestamp: the homeserver's `origin_server_ts`, in milliseconds.
        fingerprint: what the same encrypted message has in common under whatever event id; None
            where it was not encrypted.
        mentions: who is mentioned (spec: m.mentions; a pill where the event has no such key).
        replies_to: the message that it replies to (`m.in_reply_to`), where that is no fallback.
        answers: of what an assistant has generated, the messages that it answers.
        claim: of that, which parts are of one text: they have the same number.
        final: with it, the answer is whole.
        about: the messages that a notice or file of an assistant is about.
        unanswered: whether that stands in place of an answer to them.
        exposed: it came in clear although the room was encrypted by then: anybody with a hand on
            the homeserver may have written it.
        typed_at: the words behind each "@" that is typed, outside quotations and code: a mention
            that is meant, perhaps.
    """

    event_id: EventId
    room_id: RoomId
    sender: UserId
    msgtype: str
    body: str
    timestamp: int
    thread_root: EventId | None = None
    fingerprint: str | None = None
    mentions: frozenset[UserId] = frozenset()
    replies_to: EventId | None = None
    answers: tuple[EventId, ...] = ()
    claim: int = 0
    final: bool = False
    about: tuple[EventId, ...] = ()
    unanswered: bool = False
    exposed: bool = False
    typed_at: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Undecryptable:
    """A message whose key has not come: all that can be said of it without reading it.

    Attributes:
        session_id: the Megolm session that its sender encrypted it with.
        timestamp: the homeserver's `origin_server_ts`, in milliseconds.
        thread_root: the thread's root event id, from the relation that stays in clear.
        fingerprint: as a `Message` has it.
        refers_to: the event that it refers to (`m.reference`): where that is a poll, it is a vote.
    """

    event_id: EventId
    room_id: RoomId
    sender: UserId
    session_id: str
    timestamp: int
    thread_root: EventId | None = None
    fingerprint: str | None = None
    refers_to: EventId | None = None


@dataclass(frozen=True, slots=True)
class Edit:
    """An edit (`m.replace`) of an earlier message: its new body, as a `Message` has it.

    Attributes:
        exposed: as a `Message` has it.
    """

    event_id: EventId
    room_id: RoomId
    sender: UserId
    target: EventId
    body: str
    timestamp: int
    answers: tuple[EventId, ...] = ()
    claim: int = 0
    final: bool = False
    exposed: bool = False


@dataclass(frozen=True, slots=True)
class Redaction:
    """An event has been redacted, by its sender or by a moderator."""

    event_id: EventId
    room_id: RoomId
    sender: UserId
    target: EventId


@dataclass(frozen=True, slots=True)
class Reaction:
    """An `m.annotation` of a message.

    Attributes:
        key: the emoji, without variation selectors and skin tones.
        timestamp: the homeserver's `origin_server_ts`, in milliseconds.
    """

    event_id: EventId
    room_id: RoomId
    sender: UserId
    target: EventId
    key: str
    timestamp: int = 0


@dataclass(frozen=True, slots=True)
class Vote:
    """What somebody chooses in a poll (`m.poll.response`, MSC3381).

    Attributes:
        target: the poll's event.
        answers: the ids that are chosen, none where an earlier vote is taken back.
        timestamp: the homeserver's `origin_server_ts`, in milliseconds.
        fingerprint: as a `Message` has it.
        exposed: as a `Message` has it.
    """

    event_id: EventId
    room_id: RoomId
    sender: UserId
    target: EventId
    answers: tuple[str, ...]
    timestamp: int
    fingerprint: str | None = None
    exposed: bool = False


Change = Edit | Redaction | Reaction | Vote
Event = Invite | Joined | Left | Upgraded | Message | Undecryptable | Change


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
    """What an earlier process admitted and did not finish: its ids are all we keep.

    Attributes:
        begun: a process has taken it up.
        joined_to: the message with which it makes one prompt.
    """

    event_id: EventId
    room_id: RoomId
    begun: bool = False
    joined_to: EventId | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """What one context belongs to: a thread, or a direct message's main timeline."""

    room_id: RoomId
    thread_root: EventId | None


MOST_MESSAGES: Final = 50  # of one prompt: each message of the reply names them all


@dataclass(frozen=True, slots=True)
class Prompt:
    """The messages of one person that one reply answers, and where that reply goes.

    Attributes:
        messages: at least one and at most MOST_MESSAGES, in order.
        thread_root: the thread that the reply goes to, None for the main timeline.
    """

    messages: tuple[Message, ...]
    conversation: Conversation
    thread_root: EventId | None = None

    @property
    def event_id(self) -> EventId:
        """The first message's, by which the ledger knows the prompt."""
        return self.messages[0].event_id

    @property
    def event_ids(self) -> tuple[EventId, ...]:
        """Every message's."""
        return tuple(message.event_id for message in self.messages)

    @property
    def room_id(self) -> RoomId:
        """Where it was asked."""
        return self.conversation.room_id

    @property
    def sender(self) -> UserId:
        """Who asks."""
        return self.messages[0].sender

    @property
    def body(self) -> str:
        """What is asked."""
        return "\n\n".join(message.body for message in self.messages)


@dataclass(frozen=True, slots=True)
class Room:
    """What routing must know of a room, as the homeserver's state says.

    Attributes:
        closed: the bot does not speak there: it is out, another room takes its place, or it is a
            space or stray.
        admin: the bot has made it for those who administer it.
        person: of a direct message, the other one, where that is known.
        space: it is a space, in which nobody talks.
        stray: the bot came there because another room pointed there, and is not meant to be there.
        called: the bot's own display name there, "" where it has none.
    """

    room_id: RoomId
    direct: bool
    closed: bool = False
    admin: bool = False
    person: UserId | None = None
    space: bool = False
    stray: bool = False
    called: str = ""


@dataclass(frozen=True, slots=True)
class VerificationEvent:
    """One event of the key verification framework, heard in a room or by to-device.

    Attributes:
        sender: whose.
        kind: what stands behind `m.key.verification.` in its type: "request", "start", "key", …
        transaction_id: the verification that it belongs to; in a room the request's event id.
        content: of the event, as its sender has written it.
        room_id: where it was heard, None for to-device.
    """

    sender: UserId
    kind: str
    transaction_id: str
    content: Mapping[str, object]
    room_id: RoomId | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """One sync response: what was heard, the token that follows it, and what else it tells.

    Attributes:
        keys: which rooms' keys have come, and which will not.
        verifications: what of it is about verifying the bot's device.
        left_out: rooms and people some of whose devices were given the room's key, and others not.
        closed: rooms in which the bot can no longer speak: it is out, or they were upgraded.
        missed: it was said while this process was not there, so an earlier one may have acted.
    """

    events: tuple[Event, ...]
    next_batch: str
    keys: tuple[KeyNews, ...] = ()
    verifications: tuple[VerificationEvent, ...] = ()
    left_out: tuple[tuple[RoomId, UserId], ...] = ()
    closed: tuple[RoomId, ...] = ()
    missed: bool = False

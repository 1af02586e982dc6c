"""Ids, rooms, prompts, and the events that the bot receives from its rooms."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NewType

RoomId = NewType("RoomId", str)
EventId = NewType("EventId", str)
UserId = NewType("UserId", str)


def server_name(user_id: UserId) -> str:
    """Return the server name in a full Matrix id; "" if there is none."""
    return user_id.partition(":")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """An invitation of the bot to a room.

    Attributes:
        direct: `is_direct`, as the inviter set it.
        space: whether the room is a space, as far as the invitation says.
    """

    event_id: EventId
    room_id: RoomId
    sender: UserId
    direct: bool
    space: bool = False


@dataclass(frozen=True, slots=True)
class Joined:
    """The bot's own joining of a room."""

    event_id: EventId
    room_id: RoomId


@dataclass(frozen=True, slots=True)
class Left:
    """The departure of a member of a room.

    Attributes:
        alone: whether nobody but the bot is joined or invited any more.
    """

    event_id: EventId
    room_id: RoomId
    alone: bool


@dataclass(frozen=True, slots=True)
class Upgraded:
    """The replacement of a room by another one (spec: m.room.tombstone)."""

    event_id: EventId
    room_id: RoomId
    sender: UserId
    replacement: RoomId


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """An `m.room.message` that is no edit, decrypted if it was encrypted.

    Attributes:
        body: text without a leading mention of the bot, and without lines that the bot added.
        thread_root: root event id of its thread; None in the main timeline.
        timestamp: the homeserver's `origin_server_ts`, in milliseconds.
        fingerprint: a value that is the same if the same encrypted message comes again under
            another event id; None if it was not encrypted.
        mentions: the users it mentions (spec: m.mentions; pills if the event has no such key).
        replies_to: the message that it replies to (`m.in_reply_to`), unless that is a fallback.
        answers: messages that an assistant's generated message answers.
        claim: number of the generation; parts of one generated text share it.
        final: whether the generated answer is complete with this message.
        about: messages that an assistant's notice or file is about.
        unanswered: whether that notice takes the place of an answer to them.
        exposed: whether it was sent in clear although the room was already encrypted. Anybody who
            controls the homeserver may have written it.
        typed_at: the text behind each typed "@", outside quotations and code, as it may be meant
            as a mention.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Undecryptable:
    """An encrypted message whose key has not arrived: the parts of it that are in clear.

    Attributes:
        session_id: the Megolm session that its sender encrypted it with.
        timestamp: the homeserver's `origin_server_ts`, in milliseconds.
        thread_root: root event id of its thread, from the relation, which is in clear.
        fingerprint: as in `Message`.
        refers_to: the event that it refers to (`m.reference`); if that is a poll, it is a vote.
    """

    event_id: EventId
    room_id: RoomId
    sender: UserId
    session_id: str
    timestamp: int
    thread_root: EventId | None = None
    fingerprint: str | None = None
    refers_to: EventId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """An edit (`m.replace`) of an earlier message.

    Attributes:
        target: the message that it edits.
        body: the new text, as in `Message`; so are `answers`, `claim`, `final` and `exposed`.
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
    """The redaction of an event, by its sender or by a moderator."""

    event_id: EventId
    room_id: RoomId
    sender: UserId
    target: EventId


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """A reaction (`m.annotation`) to a message.

    Attributes:
        target: the message.
        key: the emoji, without variation selectors and skin tones.
        timestamp: the homeserver's `origin_server_ts`, in milliseconds.
    """

    event_id: EventId
    room_id: RoomId
    sender: UserId
    target: EventId
    key: str
    timestamp: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """A vote in a poll (`m.poll.response`, MSC3381).

    Attributes:
        target: the poll's event.
        answers: ids of the chosen answers; empty if an earlier vote is taken back.
        timestamp: the homeserver's `origin_server_ts`, in milliseconds.
        fingerprint: as in `Message`.
        exposed: as in `Message`.
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
    """The arrival of a Megolm session's key, or its sender's reason to withhold it.

    Attributes:
        sender: the user who sent the key or withholds it.
        room_id: the session's room; "" if the sender's device withholds all keys (`m.no_olm`).
        session_id: the session; "" in the same case.
        withheld: code of the `m.room_key.withheld` (spec: reporting that decryption keys are
            withheld); None if the key has arrived.
    """

    sender: UserId
    room_id: RoomId
    session_id: str
    withheld: str | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """An event that an earlier process admitted and did not finish; only its ids are kept.

    Attributes:
        begun: whether a process has claimed it.
        joined_to: the first message of its prompt, if it is a later one of the same prompt.
    """

    event_id: EventId
    room_id: RoomId
    begun: bool = False
    joined_to: EventId | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """The messages that share one context: a thread, or a direct message's main timeline.

    Attributes:
        thread_root: root event id of the thread; None for the main timeline.
    """

    room_id: RoomId
    thread_root: EventId | None


MOST_MESSAGES: Final = 50  # in one prompt, as each message of the reply names all of them


@dataclass(frozen=True, slots=True)
class Prompt:
    """The messages of one person that one reply answers, and the place of that reply.

    Attributes:
        messages: in order, at least one and at most MOST_MESSAGES.
        thread_root: the thread that the reply goes to; None for the main timeline.
    """

    messages: tuple[Message, ...]
    conversation: Conversation
    thread_root: EventId | None = None

    @property
    def event_id(self) -> EventId:
        """The first message's id, by which the ledger knows the prompt."""
        return self.messages[0].event_id

    @property
    def event_ids(self) -> tuple[EventId, ...]:
        """The ids of all its messages."""
        return tuple(message.event_id for message in self.messages)

    @property
    def room_id(self) -> RoomId:
        """The room it was asked in."""
        return self.conversation.room_id

    @property
    def sender(self) -> UserId:
        """The person who asks."""
        return self.messages[0].sender

    @property
    def body(self) -> str:
        """The text of all its messages."""
        return "\n\n".join(message.body for message in self.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The state of a room that routing needs, as the homeserver reports it.

    Attributes:
        direct: whether it is a direct message; else it is a salon.
        closed: whether the bot cannot speak there: it is out, another room replaces this one, or
            the room is a space or stray.
        admin: whether it is the admins' room, which the bot created.
        person: the other member of a direct message; None if unknown, or in a salon.
        space: whether it is a space, in which nobody talks.
        stray: whether the bot joined it only because another room named it as its replacement,
            which the room itself does not confirm.
        called: the bot's display name there; "" if it has none.
    """

    room_id: RoomId
    direct: bool
    closed: bool = False
    admin: bool = False
    person: UserId | None = None
    space: bool = False
    stray: bool = False
    called: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationEvent:
    """One event of the key verification framework, received in a room or to-device.

    Attributes:
        sender: the user who sent it.
        kind: its type without `m.key.verification.`: "request", "start", "key", …
        transaction_id: id of its verification; in a room, the request's event id.
        content: the event's content, unchecked.
        room_id: its room; None for a to-device message.
    """

    sender: UserId
    kind: str
    transaction_id: str
    content: Mapping[str, object]
    room_id: RoomId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One sync response: its events, the token that follows it, and other news.

    Attributes:
        keys: keys that have arrived, and keys that are withheld.
        verifications: events about the verification of the bot's device.
        left_out: rooms and people of whom some devices were given the room's key, others not.
        closed: rooms in which the bot can no longer speak: it is out, or they were upgraded.
        missed: whether the events were sent while this process did not run, so that an earlier
            one may have acted on them.
    """

    events: tuple[Event, ...]
    next_batch: str
    keys: tuple[KeyNews, ...] = ()
    verifications: tuple[VerificationEvent, ...] = ()
    left_out: tuple[tuple[RoomId, UserId], ...] = ()
    closed: tuple[RoomId, ...] = ()
    missed: bool = False

"""What to do about an event: one pure decision."""

from dataclasses import dataclass
from typing import assert_never

from bot.core.events import (
    Event,
    EventId,
    Invite,
    Joined,
    Left,
    Message,
    Room,
    RoomId,
    Undecryptable,
    UserId,
    server_name,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """Ask the model, and stream its completion as the reply to `prompt`."""

    prompt: Message


@dataclass(frozen=True, slots=True)
class Explain:
    """Send one notice: the sentence named `key`, as a reply to `message`."""

    message: Message
    key: str


@dataclass(frozen=True, slots=True)
class Welcome:
    """Say what the assistant is and what it reads, in a room just joined."""

    room_id: RoomId
    event_id: EventId
    key: str


@dataclass(frozen=True, slots=True)
class Accept:
    """Join the room of the invitation."""

    invite: Invite


@dataclass(frozen=True, slots=True)
class Decline:
    """Refuse the invitation, with the sentence named `key` as its reason."""

    room_id: RoomId
    key: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Leave a room in which nobody is left to talk to."""

    room_id: RoomId


@dataclass(frozen=True, slots=True)
class Await:
    """Wait for the key of `message`: only who can read it knows what it asks for."""

    message: Undecryptable


@dataclass(frozen=True, slots=True)
class Ignore:
    """Do nothing, for `reason` (for the log)."""

    reason: str


_HELP = {"!aide", "!help"}
_TEXT = {"m.text", "m.emote"}
_OWN = "own message"
_NOT_ALLOWED = "sender's homeserver is not allowed"

Intent = Answer | Explain | Welcome | Accept | Decline | Leave | Ignore


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator allows.

    Attributes:
        me: the bot's own full Matrix id.
        allowed_servers: server names, or `*.suffix`, whose people may invite the bot.
    """

    me: UserId
    allowed_servers: tuple[str, ...]

    def allows(self, user_id: UserId) -> bool:
        """Tell whether the person's homeserver is on the list."""
        server = server_name(user_id)
        return any(
            server == allowed or (allowed.startswith("*.") and server.endswith(allowed[1:]))
            for allowed in self.allowed_servers
        )


def decide(event: Event, room: Room, policy: Policy) -> Intent | Await:
    """Return what the bot does about `event`, heard in `room`."""
    match event:
        case Invite():
            return (
                Accept(event) if policy.allows(event.sender) else Decline(event.room_id, "decline")
            )
        case Joined():
            key = "welcome" if room.direct else "welcome salon"
            return Welcome(event.room_id, event.event_id, key)
        case Left():
            return Leave(event.room_id) if event.alone else Ignore("others are still here")
        case Message():
            return _decide_message(event, room, policy)
        case Undecryptable():
            return _decide_undecryptable(event, policy)
        case _:
            assert_never(event)


def is_command(body: str) -> bool:
    """Tell whether the text is for the bot itself, and no part of what the model is asked."""
    return body.strip().lower() in _HELP


def _decide_message(message: Message, room: Room, policy: Policy) -> Intent:
    reason = _no_prompt(message, room, policy)
    if reason is not None:
        return Ignore(reason)
    if message.msgtype not in _TEXT:
        return Explain(message, "unreadable message")
    if is_command(message.body):
        return Explain(message, "help")
    return Answer(message)


def _decide_undecryptable(message: Undecryptable, policy: Policy) -> Await | Ignore:
    if message.sender == policy.me:
        return Ignore(_OWN)
    return Await(message) if policy.allows(message.sender) else Ignore(_NOT_ALLOWED)


def _no_prompt(message: Message, room: Room, policy: Policy) -> str | None:
    """Return why the message asks nothing of the bot, None where it does."""
    reasons = {
        _OWN: message.sender == policy.me,
        "a notice is never a prompt": message.msgtype == "m.notice",
        "not a direct message": not room.direct,
        _NOT_ALLOWED: not policy.allows(message.sender),
        "empty message": message.msgtype in _TEXT and not message.body.strip(),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)

"""What the bot does about an event: a closed union of intents."""

from dataclasses import dataclass

from bot.core.events import (
    Edit,
    EventId,
    Invite,
    Message,
    Prompt,
    Reaction,
    Redaction,
    RoomId,
    Undecryptable,
    Upgraded,
    Vote,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """Ask the model, and stream its completion as the reply to `prompt`."""

    prompt: Prompt


@dataclass(frozen=True, slots=True)
class Run:
    """Do what the command asks for, and say so.

    Attributes:
        name: as it was typed, in lower case and without the "!".
        argument: what stands behind the name.
    """

    prompt: Prompt
    name: str
    argument: str


@dataclass(frozen=True, slots=True)
class SendNotice:
    """Send one notice: the sentence named `key`, as a reply to `prompt`."""

    prompt: Prompt
    key: str


@dataclass(frozen=True, slots=True)
class Hint:
    """Say, once a day, how one mentions the bot: its name alone is typed."""

    prompt: Prompt


@dataclass(frozen=True, slots=True)
class Refuse:
    """Do nothing of what came in clear in an encrypted room, and say why, once a day.

    Attributes:
        prompt: what the sentence named `key` is a reply to, None for nothing.
    """

    event: Message | Edit | Vote
    prompt: Prompt | None
    key: str


@dataclass(frozen=True, slots=True)
class HandleEdit:
    """What was asked is asked in other words now."""

    edit: Edit


@dataclass(frozen=True, slots=True)
class HandleRedaction:
    """Something of a conversation has been redacted: what hangs on it ends, and goes with it.

    Attributes:
        begun: an earlier process may have answered it, and the ledger not know.
    """

    redaction: Redaction
    begun: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the answer that the event reacts to."""

    reaction: Reaction


@dataclass(frozen=True, slots=True)
class Redo:
    """Answer once more, in the same reply."""

    reaction: Reaction


@dataclass(frozen=True, slots=True)
class Rate:
    """Note what the person thinks of the reply that the event reacts to."""

    reaction: Reaction


@dataclass(frozen=True, slots=True)
class RecordVote:
    """Count a vote, where it is one of the bot's own polls."""

    vote: Vote


@dataclass(frozen=True, slots=True)
class Comment:
    """Keep what the person writes in reply to a poll.

    Attributes:
        prompt: the message, and where an acknowledgement goes.
        poll: the poll's event.
    """

    prompt: Prompt
    poll: EventId


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
    """Refuse the invitation, with the sentence named `key` as its reason.

    Attributes:
        server: of who has invited, where it is the reason: it is not in `matrix.allowed_servers`.
    """

    room_id: RoomId
    key: str
    server: str | None = None


@dataclass(frozen=True, slots=True)
class FollowUpgrade:
    """Join the room that takes the place of one given up."""

    upgraded: Upgraded


@dataclass(frozen=True, slots=True)
class Leave:
    """Leave a room in which nobody is left to talk to."""

    room_id: RoomId


@dataclass(frozen=True, slots=True)
class AwaitKey:
    """Wait for the key of `message`: only who can read it knows what it asks for."""

    message: Undecryptable


@dataclass(frozen=True, slots=True)
class NeedsLookup:
    """Look up the message `event_id` and decide again: nothing is known of it yet."""

    event_id: EventId


@dataclass(frozen=True, slots=True)
class Ignore:
    """Do nothing, for `reason` (for the log)."""

    reason: str


Intent = (
    Answer
    | Run
    | SendNotice
    | Hint
    | Refuse
    | HandleEdit
    | HandleRedaction
    | Stop
    | Redo
    | Rate
    | RecordVote
    | Comment
    | Welcome
    | Accept
    | Decline
    | FollowUpgrade
    | Leave
    | Ignore
)

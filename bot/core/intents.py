"""The intents: everything the bot can do about an event, as a closed union."""

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
    """Run a command, and report what was done.

    Attributes:
        name: the command as it was typed, in lower case and without the "!".
        argument: the text after the name.
    """

    prompt: Prompt
    name: str
    argument: str


@dataclass(frozen=True, slots=True)
class SendNotice:
    """Send the sentence named `key` as a notice that replies to `prompt`."""

    prompt: Prompt
    key: str


@dataclass(frozen=True, slots=True)
class Hint:
    """Explain, once a day, how to mention the bot, whose name was typed without a mention."""

    prompt: Prompt


@dataclass(frozen=True, slots=True)
class Refuse:
    """Do nothing about an event sent in clear in an encrypted room; explain why, once a day.

    Attributes:
        prompt: the prompt that the sentence named `key` replies to; None for none.
    """

    event: Message | Edit | Vote
    prompt: Prompt | None
    key: str


@dataclass(frozen=True, slots=True)
class HandleEdit:
    """Apply a person's edit, which may change a prompt, a comment or an answer."""

    edit: Edit


@dataclass(frozen=True, slots=True)
class HandleRedaction:
    """Apply a redaction: stop and remove replies and feedback that depend on the event.

    Attributes:
        begun: whether an earlier process may have answered the event without a record.
    """

    redaction: Redaction
    begun: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the reply that the reaction is on."""

    reaction: Reaction


@dataclass(frozen=True, slots=True)
class Redo:
    """Answer the prompt again, in the reply that the reaction is on."""

    reaction: Reaction


@dataclass(frozen=True, slots=True)
class Rate:
    """Record the reaction as a rating of the reply that it is on."""

    reaction: Reaction


@dataclass(frozen=True, slots=True)
class RecordVote:
    """Record a vote, if its poll is one of the bot's own."""

    vote: Vote


@dataclass(frozen=True, slots=True)
class Comment:
    """Keep what a person writes in reply to a poll or to a question.

    Attributes:
        prompt: the message; an acknowledgement replies to it.
        poll: event of the poll or question.
    """

    prompt: Prompt
    poll: EventId


@dataclass(frozen=True, slots=True)
class Welcome:
    """Introduce the assistant in a room that it has just joined."""

    room_id: RoomId
    event_id: EventId
    key: str


@dataclass(frozen=True, slots=True)
class Accept:
    """Accept an invitation to a room."""

    invite: Invite


@dataclass(frozen=True, slots=True)
class Decline:
    """Decline an invitation, with the sentence named `key` as the reason.

    Attributes:
        server: the inviter's server name, if it is declined for not being in
            `matrix.allowed_servers`.
    """

    room_id: RoomId
    key: str
    server: str | None = None


@dataclass(frozen=True, slots=True)
class FollowUpgrade:
    """Join the room that replaces an upgraded one."""

    upgraded: Upgraded


@dataclass(frozen=True, slots=True)
class Leave:
    """Leave a room in which nobody is left."""

    room_id: RoomId


@dataclass(frozen=True, slots=True)
class AwaitKey:
    """Wait for the key of `message`: until it can be read, nothing can be decided."""

    message: Undecryptable


@dataclass(frozen=True, slots=True)
class NeedsLookup:
    """Look up the unknown message `event_id`, then decide again."""

    event_id: EventId


@dataclass(frozen=True, slots=True)
class Ignore:
    """Do nothing; `reason` is for the log."""

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

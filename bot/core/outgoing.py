"""What the bot says: notices, replies in parts, edits, and the ids that make sending them safe."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bot.core.events import EventId, Prompt, Undecryptable
from bot.core.markdown import Part
from bot.core.polls import Poll, PollEnd


@dataclass(frozen=True, slots=True)
class Anchor:
    """A message of a thread that is answered there, by its ids."""

    event_id: EventId
    thread_root: EventId


@dataclass(frozen=True, slots=True)
class Notice:
    """What the bot itself says: everything that is not the model's text.

    It is an `m.notice`, of which no client tells anybody, unless it is meant to reach people.

    Attributes:
        to: what it answers, None where it answers nothing (the welcome).
        asks: a reply to it answers a campaign, and is no prompt.
        unanswered: whether it stands in place of an answer to that prompt.
        notifies: it is an `m.text`, so that clients tell people of it.
    """

    text: str
    to: Prompt | Undecryptable | Anchor | None = None
    asks: bool = False
    unanswered: bool = False
    notifies: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """One message of a reply: the model's text between lines of the bot's own.

    Attributes:
        model: the model's name, as the backend knows it.
        above: lines before the text; as those below it, they never enter a later context.
        added: lines below the text.
        claim: the number of the claim under which the text was made: parts of one have the same.
        final: with it, the reply is whole. Two that differ in these alone say the same.
        unfinished: whether more of the text is to come, which a sign behind it says.
    """

    prompt: Prompt
    part: Part
    model: str
    added: tuple[str, ...] = ()
    above: tuple[str, ...] = ()
    unfinished: bool = False
    claim: int = field(default=0, compare=False)
    final: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class OutgoingEdit:
    """A newer version (`m.replace`) of the reply that stands at `event_id`."""

    event_id: EventId
    reply: Reply


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file of the bot's own making: an `m.image` where it is a picture, else an `m.file`.

    Attributes:
        name: of the file, with its extension.
        mimetype: what its data are.
        alternative: of a picture, what it shows, in plain words for who cannot see it. Nothing
            else may be told in it: clients show no captions.
        size: of a picture, its width and height in pixels; None for any other file.
        to: the command that it answers, in whose thread it stands.
    """

    name: str
    mimetype: str
    data: bytes = field(repr=False)
    alternative: str = ""
    size: tuple[int, int] | None = None
    to: Prompt | None = None

    @property
    def body(self) -> str:
        """What stands for it in words: a picture's alternative text, any other file's name."""
        return self.name if self.size is None else self.alternative


Outgoing = Notice | Reply | OutgoingEdit | Poll | PollEnd | Attachment


@dataclass(frozen=True, slots=True)
class PreparedEvent:
    """An event as the homeserver gets and shows it, encrypted where the room is.

    Attributes:
        clear: type and content of what it says, where this process knows; it never leaves the
            memory.
    """

    type: str
    content: Mapping[str, Any]
    clear: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def is_shown_as(self, shown: "PreparedEvent") -> bool:
        """Tell whether the homeserver shows this; what became encrypted on its way, it may."""
        return self == shown or (self.type, shown.type) == ("m.room.message", "m.room.encrypted")


IN_STEAD = -1  # the part of a notice that is said instead of a reply


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """A message of a final version: the same under the same id, until it is acknowledged.

    Attributes:
        part: number of the reply's message, 0 for the first, or IN_STEAD.
        device_id: whose transaction id it is.
        replaces: of an edit, the event that it edits.
        answers: the messages of the prompt.
    """

    part: int
    device_id: str
    transaction_id: str
    replaces: EventId | None
    answers: tuple[EventId, ...]
    wire: PreparedEvent


@dataclass(frozen=True, slots=True)
class SentReply:
    """A message of the bot's own that is about a prompt, as it stands.

    Attributes:
        answers: of a reply, the messages that it answers; of a notice, none.
        claim: of a reply, which parts are of one text: they have the same number.
        final: of a reply, whether it is whole.
        body: what it says, without lines that the bot has added to a reply.
    """

    event_id: EventId
    answers: tuple[EventId, ...] = ()
    claim: int = 0
    final: bool = False
    body: str = ""


@dataclass(frozen=True, slots=True)
class SentSince:
    """What the bot has sent since a prompt, as far as that was read.

    Attributes:
        about: the messages that say that they are about the prompt, oldest first.
        unreadable: those that cannot be decrypted: each of them may be about it, too.
        whole: whether nothing was left unread behind them, but what follows a whole reply.
    """

    about: tuple[SentReply, ...] = ()
    unreadable: tuple[Undecryptable, ...] = ()
    whole: bool = True

    def unreadable_for(self, prompt: Prompt) -> list[EventId]:
        """Return those that cannot be decrypted and stand where a reply to the prompt may stand.

        That is its thread; of a prompt in the main timeline also there, or in a thread of its own,
        as the setting of the room may have been another.
        """
        root = prompt.messages[0].thread_root
        places = {root} if root is not None else {None, *prompt.event_ids}
        return [one.event_id for one in self.unreadable if one.thread_root in places]


def transaction_id(device_id: str, prompt: EventId, stage: str, *, part: int, claim: int) -> str:
    """Return the id under which one send of one reply is known to the homeserver.

    The homeserver answers a repeated id of the same device with the event it already has (spec:
    transaction identifiers), so a send may be repeated after a crash without a second event. The
    stage "first" must find itself again whatever process sends it: its claim is always 0. An edit
    of a later claim is a new text and must not find an older one.

    Args:
        device_id: the bot's device, which the homeserver keeps such ids for.
        prompt: the event that is answered.
        stage: "first", "edit:1", "edit:2", …, "final", "repair:1", … of a reply, "redact" of one
            of its events, "notice …", "attachment …", "key missing", "poll helped", "poll why",
            "thanks helped", "thanks why", "mention hint", or "campaign …".
        part: number of the reply's message, 0 for the first.
        claim: how often this prompt has been taken up by a process.
    """
    words = "\0".join((device_id, prompt, str(part), stage, str(claim)))
    return hashlib.sha256(words.encode()).hexdigest()[:32]

"""Messages that the bot sends, their form in the outbox, and their transaction ids."""

import hashlib
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from bot.core.events import EventId, Prompt, Undecryptable
from bot.core.markdown import Part
from bot.core.polls import Poll, PollEnd


@dataclass(frozen=True, slots=True)
class Anchor:
    """The ids of a message that is answered in its thread."""

    event_id: EventId
    thread_root: EventId


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A message in the bot's own words: every text that is not the model's.

    It is sent as `m.notice`, for which clients notify nobody.

    Attributes:
        to: the message that it replies to; None for none (the welcome).
        asks: whether it is a campaign's question, so that a reply to it is no prompt.
        unanswered: whether it stands in place of a reply to the prompt.
        notifies: whether it is sent as `m.text`, so that clients notify people.
    """

    text: str
    to: Prompt | Undecryptable | Anchor | None = None
    _: KW_ONLY
    asks: bool = False
    unanswered: bool = False
    notifies: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One message of a reply: the model's text between lines of the bot.

    `claim` and `final` are ignored in comparisons.

    Attributes:
        part: the message's part of the model's text.
        model: the model's id at the backend.
        added: lines below the text; lines of the bot never enter a later context.
        above: lines before the text.
        unfinished: whether more of the text is to come; a sign behind it says so.
        claim: number of the claim under which the text was generated; parts of one text share it.
        final: whether this message completes the reply.
    """

    prompt: Prompt
    part: Part
    model: str
    _: KW_ONLY
    added: tuple[str, ...] = ()
    above: tuple[str, ...] = ()
    unfinished: bool = False
    claim: int = field(default=0, compare=False)
    final: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class OutgoingEdit:
    """A newer version (`m.replace`) of the message `event_id` of a reply."""

    event_id: EventId
    reply: Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A file that the bot has made: an `m.image` if it is a picture, else an `m.file`.

    Attributes:
        name: the file's name, with its extension.
        mimetype: the media type of `data`.
        alternative: description of a picture, for people who cannot see it. It holds nothing
            else: clients show no captions.
        size: width and height of a picture in pixels; None for any other file.
        to: the command that it replies to, in its thread.
    """

    name: str
    mimetype: str
    data: bytes = field(repr=False)
    alternative: str = ""
    _: KW_ONLY
    size: tuple[int, int] | None = None
    to: Prompt | None = None

    @property
    def body(self) -> str:
        """The event's `body`: a picture's description, any other file's name."""
        return self.name if self.size is None else self.alternative


Outgoing = Notice | Reply | OutgoingEdit | Poll | PollEnd | Attachment


@dataclass(frozen=True, slots=True)
class PreparedEvent:
    """An event as the homeserver receives and shows it, encrypted in an encrypted room.

    Attributes:
        clear: type and content before encryption, if this process knows them; they never leave
            the memory.
    """

    type: str
    content: Mapping[str, Any]
    clear: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def is_shown_as(self, shown: "PreparedEvent") -> bool:
        """Return whether `shown` may be this event.

        An event that was prepared in clear may have been encrypted before it was sent; then only
        its type can be compared.
        """
        return self == shown or (self.type, shown.type) == ("m.room.message", "m.room.encrypted")


IN_STEAD = -1  # the part of a notice that is sent in place of a reply


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxMessage:
    """A message of a final version: the same event under the same id, until it is acknowledged.

    Attributes:
        part: number of the reply's message, 0 for the first, or IN_STEAD.
        device_id: the device that the transaction id belongs to.
        replaces: the event that an edit replaces; None for a first version.
        answers: ids of the prompt's messages.
    """

    part: int
    device_id: str
    transaction_id: str
    replaces: EventId | None
    answers: tuple[EventId, ...]
    wire: PreparedEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class SentReply:
    """A message of the bot that is about a prompt, as the room shows it.

    Attributes:
        answers: ids of the messages that a reply answers; empty for a notice.
        claim: number of the claim of a reply; parts of one text share it.
        final: whether this message completes a reply.
        body: the text, without lines that the bot has added to a reply.
    """

    event_id: EventId
    answers: tuple[EventId, ...] = ()
    claim: int = 0
    _: KW_ONLY
    final: bool = False
    body: str = ""


@dataclass(frozen=True, slots=True)
class SentSince:
    """The bot's messages since a prompt, as far as the room was read.

    Attributes:
        about: messages that name the prompt, oldest first.
        unreadable: messages that cannot be decrypted; each of them may be about the prompt.
        whole: whether the room was read to its end, or up to a whole reply.
    """

    about: tuple[SentReply, ...] = ()
    unreadable: tuple[Undecryptable, ...] = ()
    whole: bool = True

    def unreadable_for(self, prompt: Prompt) -> list[EventId]:
        """Return the unreadable messages that are where a reply to the prompt may be.

        That is the prompt's thread. The reply to a prompt in the main timeline may be there, or in
        a thread of its own: the room may have had another setting.
        """
        root = prompt.messages[0].thread_root
        roots = {root} if root is not None else {None, *prompt.event_ids}
        return [one.event_id for one in self.unreadable if one.thread_root in roots]


def transaction_id(device_id: str, prompt: EventId, stage: str, *, part: int, claim: int) -> str:
    """Return the transaction id of one send.

    If a device repeats an id, the homeserver returns the event that it already has (spec:
    transaction identifiers). So a send may be repeated after a crash without a second event. The
    stage "first" must have the same id in every process: its claim is always 0. An edit of a later
    claim is a new text, and must not return the event of an older one.

    Args:
        device_id: the bot's device.
        prompt: the event that is answered.
        stage: "first", "edit:1", "edit:2", …, "final", "repair:1", … of a reply, "redact" of one
            of its events, "notice …", "attachment …", "key missing", "poll helped", "poll why",
            "thanks helped", "thanks why", "mention hint", or "campaign …".
        part: number of the reply's message, 0 for the first.
        claim: how often the prompt has been claimed by a process.
    """
    words = "\0".join((device_id, prompt, str(part), stage, str(claim)))
    return hashlib.sha256(words.encode()).hexdigest()[:32]

"""What the bot says: notices, replies in parts, edits, and the ids that make sending them safe."""

import hashlib
from dataclasses import dataclass

from bot.core.events import EventId, Prompt, Undecryptable
from bot.core.markdown import Part


@dataclass(frozen=True, slots=True)
class Notice:
    """An `m.notice`: everything the bot says that is not the model's text.

    Attributes:
        to: what it answers, None where it answers nothing (the welcome).
    """

    text: str
    to: Prompt | Undecryptable | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One message of a reply: the model's text between lines of the bot's own.

    Attributes:
        model: the model's name, as the backend knows it.
        above: lines before the text; as those below it, they never enter a later context.
        added: lines below the text.
    """

    prompt: Prompt
    part: Part
    model: str
    added: tuple[str, ...] = ()
    above: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Edit:
    """A newer version (`m.replace`) of the reply that stands at `event_id`."""

    event_id: EventId
    reply: Reply


Outgoing = Notice | Reply | Edit


def transaction_id(device_id: str, prompt: EventId, stage: str, *, part: int, claim: int) -> str:
    """Return the id under which one send of one reply is known to the homeserver.

    The homeserver answers a repeated id of the same device with the event it already has (spec:
    transaction identifiers), so a send may be repeated after a crash without a second event. The
    stage "first" must find itself again whatever process sends it: its claim is always 0. An edit
    of a later claim is a new text and must not find an older one.

    Args:
        device_id: the bot's device, which the homeserver keeps such ids for.
        prompt: the event that is answered.
        stage: "first", "edit:1", "edit:2", …, "final" of a reply, "redact" of one of its events,
            "notice", or "key missing".
        part: number of the reply's message, 0 for the first.
        claim: how often this prompt has been taken up by a process.
    """
    words = "\0".join((device_id, prompt, str(part), stage, str(claim)))
    return hashlib.sha256(words.encode()).hexdigest()[:32]

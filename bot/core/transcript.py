"""What was said in one conversation, as it stands: last versions, redactions gone, in order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bot.core.bounded import BoundedDict
from bot.core.events import (
    Conversation,
    Edit,
    EventId,
    Message,
    Redaction,
    Undecryptable,
    UserId,
)
from bot.core.invisible_text import visible
from bot.core.polls import POLL, QUESTION
from bot.core.routing import TEXT

_LONGEST = (
    1_000  # messages; a quarter of them leaves at once, so that the start is mostly the same
)
_VERSIONS = 10  # of a message, the newest
_IDS = 1_000  # of what was there and is not to come back

_Edited = tuple[EventId, UserId]  # a message, and who edits it


@dataclass(frozen=True, slots=True)
class TranscriptMessage:
    """One message of a conversation in its last version.

    Attributes:
        body: what can be seen of it; "" where it cannot be read.
        mine: the bot's own reply, or a notice in place of one; no other notice is among these.
        answers: of a reply, the messages that it answers.
        readable: False where its key is missing.
        unanswered: whether a notice stands in place of an answer to it.
        failed: whether it is such a notice; an edit may make the answer of it.
    """

    event_id: EventId
    sender: UserId
    body: str
    timestamp: int
    mine: bool = False
    answers: tuple[EventId, ...] = ()
    replies_to: EventId | None = None
    readable: bool = True
    unanswered: bool = False
    failed: bool = False

    @property
    def before(self) -> tuple[EventId, ...]:
        """The messages that this one follows on from, in order, where it names any."""
        return self.answers or ((self.replies_to,) if self.replies_to else ())


def said(event: Message | Undecryptable, me: UserId) -> TranscriptMessage:
    """Return the message as it was first written."""
    if isinstance(event, Undecryptable):
        return TranscriptMessage(event.event_id, event.sender, "", event.timestamp, readable=False)
    mine = event.sender == me
    failed = mine and event.unanswered
    return TranscriptMessage(
        event.event_id,
        event.sender,
        "" if failed else visible(event.body),
        event.timestamp,
        mine=mine,
        answers=(event.about if failed else event.answers) if mine else (),
        replies_to=event.replies_to,
        failed=failed,
    )


def _ids() -> BoundedDict[EventId, None]:
    return BoundedDict(_IDS)


@dataclass(slots=True)
class Transcript:
    """One conversation; what is heard later is added, what was said before is put in front.

    Attributes:
        whole: what was said before is there, as far back as it counts.
    """

    conversation: Conversation
    me: UserId
    whole: bool = False
    _said: dict[EventId, TranscriptMessage] = field(default_factory=dict)
    _edits: dict[_Edited, dict[EventId, Edit]] = field(default_factory=dict)  # newest last
    _outdated: BoundedDict[EventId, None] = field(default_factory=_ids)  # own, but the last
    _redacted: BoundedDict[EventId, None] = field(default_factory=_ids)
    _originals: dict[str, EventId] = field(default_factory=dict)  # by fingerprint
    # The bot's polls and questions.
    _asks: BoundedDict[EventId, None] = field(default_factory=_ids)

    @property
    def size(self) -> int:
        """Characters that it holds."""
        edits = sum(len(edit.body) for edits in self._edits.values() for edit in edits.values())
        return edits + sum(len(one.body) for one in self._said.values())

    def add(self, event: Message | Undecryptable | Edit | Redaction) -> None:
        """Take in what was heard after all the rest; again, it changes nothing but the time.

        What the bot sends is heard first with its host's clock, then with the homeserver's.
        """
        match event:
            case Message(exposed=True) | Edit(exposed=True):
                pass  # nobody knows who says it
            case Redaction(target=target):
                self._redact(target)
            case Edit():
                self._edit(event)
            case Message(msgtype=msgtype) if msgtype in {POLL, QUESTION}:
                if event.sender == self.me:
                    self._asks[event.event_id] = None
                self._say(event)  # what could not be read until now is no text
            case _:
                self._say(event)

    def _say(self, event: Message | Undecryptable) -> None:
        event_id = self._original(event)
        known = self._said.get(event_id)
        if known is not None and (known.readable or isinstance(event, Undecryptable)):
            if event.event_id == event_id:
                self._said[event_id] = replace(known, timestamp=event.timestamp)
        elif self._belongs(event) and event_id not in self._redacted:
            self._said[event_id] = replace(said(event, self.me), event_id=event_id)
        elif known is not None:  # its key came, and it is no text
            self._drop(known)
        if len(self._said) > _LONGEST:
            for gone in list(self._said.values())[: _LONGEST // 4]:
                self._drop(gone)
            kept = self._originals.items()
            there = self._said.keys() | self._redacted.keys()
            self._originals = {key: one for key, one in kept if one in there}

    def _drop(self, one: TranscriptMessage) -> None:
        del self._said[one.event_id]
        self._edits.pop((one.event_id, one.sender), None)

    def reveal(self, message: Message) -> None:
        """Take in what a message says whose key was missing."""
        if message.event_id in self._said:
            self.add(message)

    def put_before(self, events: Sequence[Message | Undecryptable | Edit]) -> None:
        """Take in what was said before all the rest, oldest first, edits in any order."""
        later, self._said = self._said, {}
        edits, self._edits = self._edits, {}
        for event in sorted(events, key=_when_edited):
            self.add(event)
        self._said |= {
            key: one
            for key, one in later.items()
            if key not in self._said or not self._said[key].readable
        }
        there = {event.event_id for event in events}
        for edited, heard in edits.items():
            new = {key: edit for key, edit in heard.items() if key not in there}
            self._keep(edited, self._edits.get(edited, {}) | new)
        self._edits = {
            (key, sender): of_one
            for (key, sender), of_one in self._edits.items()
            if key in self._said and self._said[key].sender == sender
        }
        self.whole = True

    def messages(self) -> list[TranscriptMessage]:
        """Return the messages in order, a reply right behind what it answers."""
        replies: dict[EventId, list[TranscriptMessage]] = {}
        rest: list[TranscriptMessage] = []
        for one in map(self._current, self._said.values()):
            if one.answers and self._redacted.keys() >= set(one.answers):
                continue  # it is about to be redacted as well
            if one.replies_to in self._asks:
                continue  # an answer to a campaign
            behind = [event_id for event_id in one.answers if event_id in self._said]
            if behind:
                replies.setdefault(behind[-1], []).append(one)
            else:
                rest.append(one)
        in_order = [each for one in rest for each in (one, *replies.get(one.event_id, ()))]
        unanswered = self._unanswered(in_order)
        return [
            replace(one, unanswered=True) if one.event_id in unanswered else one
            for one in in_order
        ]

    def _unanswered(self, said: Sequence[TranscriptMessage]) -> set[EventId]:
        """Return the messages that got a notice in place of an answer, or a reply without words.

        Where any of them is answered after all, as by `!refaire`, that counts.
        """
        replies = [one for one in said if one.mine]
        answered = {key for one in replies if one.body.strip() for key in one.answers}
        return {key for one in replies for key in one.answers} - answered

    def get(self, event_id: EventId) -> TranscriptMessage | None:
        """Return one message as it stands, None where it is not here."""
        found = self._said.get(event_id)
        return None if found is None else self._current(found)

    def _original(self, event: Message | Undecryptable) -> EventId:
        """Return under what id the message stands: sent again under another one, it counts once.

        Of the two, only the first that is decrypted can be read (see `Olm`), whichever that is.
        """
        if event.fingerprint is None:
            return event.event_id
        return self._originals.setdefault(event.fingerprint, event.event_id)

    def _belongs(self, event: Message | Undecryptable) -> bool:
        if isinstance(event, Message) and event.msgtype not in TEXT:
            failed = event.unanswered and event.sender == self.me
            if not failed:
                return False
        root = self.conversation.thread_root
        ids = {event.thread_root} if root is None else {event.thread_root, event.event_id}
        return event.event_id not in self._redacted and root in ids

    def _edit(self, edit: Edit) -> None:
        one = self._said.get(edit.target)
        theirs = not self.whole if one is None else one.sender == edit.sender
        if not theirs or edit.event_id in self._redacted or edit.event_id in self._outdated:
            return
        edited = edit.target, edit.sender
        edits = self._edits.get(edited, {})
        if edit.event_id not in edits and edit.sender == self.me:
            for before in edits:  # of its own, the bot redacts no single one
                self._outdated[before] = None
            edits = {}
        self._keep(edited, edits | {edit.event_id: replace(edit, body=visible(edit.body))})

    def _keep(self, edited: _Edited, edits: Mapping[EventId, Edit]) -> None:
        newest = sorted(edits.values(), key=_when_edited)[-_VERSIONS:]
        self._edits[edited] = {edit.event_id: edit for edit in newest}

    def _redact(self, target: EventId) -> None:
        one, known = self._said.get(target), not self.whole
        if one is not None:
            self._drop(one)
        for edits in self._edits.values():
            known = edits.pop(target, None) is not None or known
        if one is not None or known:  # else somebody redacts without end what was never here
            self._redacted[target] = None

    def _current(self, one: TranscriptMessage) -> TranscriptMessage:
        """Return the message in its last version by its own author (spec: the newest wins)."""
        edits = self._edits.get((one.event_id, one.sender))
        if not edits:
            return one
        newest = edits[next(reversed(edits))]
        answers = newest.answers if one.mine else ()
        return replace(one, body=newest.body, answers=answers, failed=one.failed and not answers)


def _when_edited(event: Message | Undecryptable | Edit) -> tuple[int, str]:
    """Sort edits behind messages, in their own order: a bundled one is the newest."""
    return (event.timestamp, event.event_id) if isinstance(event, Edit) else (-1, "")

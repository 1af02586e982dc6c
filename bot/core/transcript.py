"""The messages of one conversation: in order, in their last versions, without redacted ones."""

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

# Messages; if there are more, the oldest quarter is dropped: the beginning changes rarely, and a
# backend's cache of it stays valid.
_LONGEST = 1_000
_VERSIONS = 10  # of a message, the newest
_IDS = 1_000  # of events that were removed, and must not come back

_Edited = tuple[EventId, UserId]  # the message, and the sender of its edits


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptMessage:
    """One message of a conversation in its last version.

    Attributes:
        body: its visible text; "" if it cannot be read.
        timestamp: the homeserver's, in milliseconds since the epoch.
        mine: whether it is the bot's reply, or a notice instead of one; other notices are left
            out.
        answers: the messages that a reply answers.
        replies_to: the message that it replies to.
        readable: False if its key is missing.
        unanswered: whether a notice was sent instead of an answer to it.
        failed: whether it is such a notice; an edit may turn it into the answer.
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
        """The messages that it refers to, in order: those it answers, or the one it replies to."""
        return self.answers or ((self.replies_to,) if self.replies_to else ())


def original_version(event: Message | Undecryptable, me: UserId) -> TranscriptMessage:
    """Return the message as it was first sent."""
    if isinstance(event, Undecryptable):
        return TranscriptMessage(
            event_id=event.event_id,
            sender=event.sender,
            body="",
            timestamp=event.timestamp,
            readable=False,
        )
    mine = event.sender == me
    failed = mine and event.unanswered
    return TranscriptMessage(
        event_id=event.event_id,
        sender=event.sender,
        body="" if failed else visible(event.body),
        timestamp=event.timestamp,
        mine=mine,
        answers=(event.about if failed else event.answers) if mine else (),
        replies_to=event.replies_to,
        failed=failed,
    )


def _ids() -> BoundedDict[EventId, None]:
    return BoundedDict(_IDS)


@dataclass(slots=True, kw_only=True)
class Transcript:
    """The messages of one conversation: new ones are added, older ones are put before them.

    Attributes:
        conversation: the conversation.
        me: the bot.
        whole: whether the older messages are there, as far back as they count.
    """

    conversation: Conversation
    me: UserId
    whole: bool = False
    _messages: dict[EventId, TranscriptMessage] = field(default_factory=dict)
    _edits: dict[_Edited, dict[EventId, Edit]] = field(default_factory=dict)  # newest last
    _outdated: BoundedDict[EventId, None] = field(
        default_factory=_ids
    )  # own edits before the last
    _redacted: BoundedDict[EventId, None] = field(default_factory=_ids)
    _originals: dict[str, EventId] = field(default_factory=dict)  # by fingerprint
    _questions: BoundedDict[EventId, None] = field(default_factory=_ids)  # own polls as well

    @property
    def size(self) -> int:
        """How many characters it holds, in all versions."""
        edits = sum(len(edit.body) for edits in self._edits.values() for edit in edits.values())
        return edits + sum(len(one.body) for one in self._messages.values())

    def add(self, event: Message | Undecryptable | Edit | Redaction) -> None:
        """Add the newest event; the same event again changes only the time.

        The bot's own events are added twice: first with the time of its host, then with that of
        the homeserver.
        """
        match event:
            case Message(exposed=True) | Edit(exposed=True):
                pass  # sent in clear text: its sender is not proven
            case Redaction(target=target):
                self._redact(target)
            case Edit():
                self._edit(event)
            case Message(msgtype=msgtype) if msgtype in {POLL, QUESTION}:
                if event.sender == self.me:
                    self._questions[event.event_id] = None
                self._add_message(event)  # one whose key was missing may turn out to be a poll
            case _:
                self._add_message(event)

    def _add_message(self, event: Message | Undecryptable) -> None:
        event_id = self._original(event)
        known = self._messages.get(event_id)
        if known is not None and (known.readable or isinstance(event, Undecryptable)):
            if event.event_id == event_id:
                self._messages[event_id] = replace(known, timestamp=event.timestamp)
        elif self._belongs(event) and event_id not in self._redacted:
            self._messages[event_id] = replace(original_version(event, self.me), event_id=event_id)
        elif known is not None:  # its key has come, and it is no text
            self._drop(known)
        if len(self._messages) > _LONGEST:
            for gone in list(self._messages.values())[: _LONGEST // 4]:
                self._drop(gone)
            kept = self._originals.items()
            ids = self._messages.keys() | self._redacted.keys()
            self._originals = {key: one for key, one in kept if one in ids}

    def _drop(self, one: TranscriptMessage) -> None:
        del self._messages[one.event_id]
        self._edits.pop((one.event_id, one.sender), None)

    def reveal(self, message: Message) -> None:
        """Add the text of a message whose key was missing."""
        if message.event_id in self._messages:
            self.add(message)

    def put_before(self, events: Sequence[Message | Undecryptable | Edit]) -> None:
        """Put older messages before the others: oldest first, their edits in any order."""
        later, self._messages = self._messages, {}
        edits, self._edits = self._edits, {}
        for event in sorted(events, key=_edit_order):
            self.add(event)
        self._messages |= {
            key: one
            for key, one in later.items()
            if key not in self._messages or not self._messages[key].readable
        }
        read = {event.event_id for event in events}
        for edited, versions in edits.items():
            new = {key: edit for key, edit in versions.items() if key not in read}
            self._keep(edited, self._edits.get(edited, {}) | new)
        self._edits = {
            (key, sender): versions
            for (key, sender), versions in self._edits.items()
            if key in self._messages and self._messages[key].sender == sender
        }
        self.whole = True

    def messages(self) -> list[TranscriptMessage]:
        """Return the messages in order, each reply right after the messages that it answers."""
        replies: dict[EventId, list[TranscriptMessage]] = {}
        rest: list[TranscriptMessage] = []
        for one in map(self._current, self._messages.values()):
            if one.answers and self._redacted.keys() >= set(one.answers):
                continue  # the reply is about to be redacted as well
            if one.replies_to in self._questions:
                continue  # a person's answer to a question of the bot
            answered = [event_id for event_id in one.answers if event_id in self._messages]
            if answered:
                replies.setdefault(answered[-1], []).append(one)
            else:
                rest.append(one)
        in_order = [each for one in rest for each in (one, *replies.get(one.event_id, ()))]
        unanswered = self._unanswered(in_order)
        return [
            replace(one, unanswered=True) if one.event_id in unanswered else one
            for one in in_order
        ]

    def _unanswered(self, messages: Sequence[TranscriptMessage]) -> set[EventId]:
        """Return the messages that got a notice instead of an answer, or a reply without words.

        A message that was answered later, as after `!refaire`, is not among them.
        """
        replies = [one for one in messages if one.mine]
        answered = {key for one in replies if one.body.strip() for key in one.answers}
        return {key for one in replies for key in one.answers} - answered

    def get(self, event_id: EventId) -> TranscriptMessage | None:
        """Return one message in its last version, None if it is not here."""
        found = self._messages.get(event_id)
        return None if found is None else self._current(found)

    def _original(self, event: Message | Undecryptable) -> EventId:
        """Return the id under which the message is kept: sent twice under two ids, it counts once.

        Of the two, only the one that is decrypted first can be read (see `Olm`).
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
        one = self._messages.get(edit.target)
        may_edit = not self.whole if one is None else one.sender == edit.sender
        if not may_edit or edit.event_id in self._redacted or edit.event_id in self._outdated:
            return
        edited = edit.target, edit.sender
        edits = self._edits.get(edited, {})
        if edit.event_id not in edits and edit.sender == self.me:
            for earlier in edits:  # the bot never redacts a single edit of its own
                self._outdated[earlier] = None
            edits = {}
        self._keep(edited, edits | {edit.event_id: replace(edit, body=visible(edit.body))})

    def _keep(self, edited: _Edited, edits: Mapping[EventId, Edit]) -> None:
        newest = sorted(edits.values(), key=_edit_order)[-_VERSIONS:]
        self._edits[edited] = {edit.event_id: edit for edit in newest}

    def _redact(self, target: EventId) -> None:
        one, known = self._messages.get(target), not self.whole
        if one is not None:
            self._drop(one)
        for edits in self._edits.values():
            known = edits.pop(target, None) is not None or known
        if one is not None or known:  # else redactions of anything would fill the memory
            self._redacted[target] = None

    def _current(self, one: TranscriptMessage) -> TranscriptMessage:
        """Return the message with its author's newest edit.

        https://spec.matrix.org/latest/client-server-api/#event-replacements
        """
        edits = self._edits.get((one.event_id, one.sender))
        if not edits:
            return one
        newest = edits[next(reversed(edits))]
        answers = newest.answers if one.mine else ()
        return replace(one, body=newest.body, answers=answers, failed=one.failed and not answers)


def _edit_order(event: Message | Undecryptable | Edit) -> tuple[int, str]:
    """Return the key that sorts messages, in their order, before edits, by their time."""
    return (event.timestamp, event.event_id) if isinstance(event, Edit) else (-1, "")

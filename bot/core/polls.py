"""Polls (MSC3381): their questions and answers, and how a vote is read."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from bot.core.events import EventId, UserId

MOST_ANSWERS: Final = 20  # MSC3381: clients leave out further ones

POLL: Final = "org.matrix.msc3381.poll.start"  # the type under which clients send and show polls
POLL_END: Final = "org.matrix.msc3381.poll.end"
QUESTION: Final = "fr.gouv.assistant.question"  # marks a notice to which a reply is an answer


@dataclass(frozen=True, slots=True)
class PollAnswer:
    """One answer of a poll: its id in votes, and its text for people."""

    id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """A poll that the bot sends, in which each person chooses one answer.

    Attributes:
        answers: at least one and at most MOST_ANSWERS, with different ids.
        disclosed: whether people see the results once they have voted; else nobody does before
            the poll's end.
        thread_root: the thread that it is sent to; None for the main timeline.
        latest: in a thread, the message that it is a reply to in clients without threads.
        asks: the only person it asks, whom it mentions (spec: m.mentions); None for everybody in
            the room.
    """

    question: str
    answers: tuple[PollAnswer, ...]
    disclosed: bool = True
    thread_root: EventId | None = None
    latest: EventId | None = None
    asks: UserId | None = None


@dataclass(frozen=True, slots=True)
class PollEnd:
    """The end of one of the bot's own polls; no vote counts after it.

    Attributes:
        event_id: the poll's event.
        text: text for clients that do not support polls.
    """

    event_id: EventId
    text: str


def chosen(voted: Sequence[str], offered: Collection[str]) -> str | None:
    """Return the answer that a vote chooses; None if it is spoilt or takes an earlier one back.

    As Element counts (MSC3381, matrix-events-sdk `PollResponseEvent`): a single id that the poll
    does not offer spoils the vote, and only the first of several answers counts.

    Args:
        voted: ids in the vote.
        offered: ids of the poll's answers.
    """
    if not voted or not set(voted) <= set(offered):
        return None
    return voted[0]

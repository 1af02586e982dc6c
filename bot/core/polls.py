"""Polls (MSC3381): a question with answers to choose one of, and what a vote chooses."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from bot.core.events import EventId, UserId

MOST_ANSWERS: Final = 20  # MSC3381: clients leave out those behind

POLL: Final = "org.matrix.msc3381.poll.start"  # the type under which clients send and show polls
POLL_END: Final = "org.matrix.msc3381.poll.end"
QUESTION: Final = "fr.gouv.assistant.question"  # marks a notice that a reply to is an answer


@dataclass(frozen=True, slots=True)
class PollAnswer:
    """One answer that can be chosen: its id in votes, and its words."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Poll:
    """A poll of the bot's own, of which each person chooses one answer.

    Attributes:
        answers: at least one and at most MOST_ANSWERS, with different ids.
        disclosed: who has voted sees how the others did; else nobody does before its end.
        thread_root: the thread that it stands in, None for the main timeline.
        latest: of a thread, the message that clients without threads show it as a reply to.
        asks: whom alone it asks, and mentions (spec: m.mentions); None for everybody there.
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
        event_id: the poll's.
        text: what clients show that know no polls.
    """

    event_id: EventId
    text: str


def chosen(voted: Sequence[str], offered: Collection[str]) -> str | None:
    """Return the answer that a vote chooses, None where it is spoilt or takes an earlier one back.

    As Element counts (MSC3381, matrix-events-sdk `PollResponseEvent`): one id that the poll does
    not have spoils the vote, and of several answers the first alone counts.

    Args:
        voted: ids, as the vote names them.
        offered: the ids of the poll's answers.
    """
    if not voted or not set(voted) <= set(offered):
        return None
    return voted[0]

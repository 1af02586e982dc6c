"""Feedback on a reply: what is asked, when and of whom, and which of their answers counts."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from bot.core.events import EventId, RoomId, UserId

Rating = Literal["yes", "partly", "no"]
Question = Literal["helped", "why"]

RATINGS: Final[tuple[Rating, ...]] = ("yes", "partly", "no")
REASONS: Final = ("inaccurate", "incomplete", "off_topic", "too_long", "sources", "other")
ANSWERS: Final[dict[Question, tuple[str, ...]]] = {"helped": RATINGS, "why": REASONS}
THUMBS: Final[dict[str, Rating]] = {"👍": "yes", "👎": "no"}
COMMAND: Final = ("avis", "feedback")  # its names, French and English
SHARE: Final = {"partager", "share"}  # what stands behind it to hand an exchange over
LONGEST_COMMENT: Final = 4_000  # characters

_WORDS: Final[dict[str, Rating]] = {
    "oui": "yes",
    "en partie": "partly",
    "non": "no",
    **{rating: rating for rating in RATINGS},
    **THUMBS,
}

_BITS = 64


@dataclass(frozen=True, slots=True)
class ReplyMetadata:
    """How a reply came about: what is stored with each rating of it, and no word of either.

    Attributes:
        sender: who has asked; kept as a pseudonym.
        direct: in a direct message; else in a salon.
        model: who has answered, by its id; None where an earlier process alone knew.
        prompt_version: of the system prompt.
        first_words: seconds until they could be seen, from when the prompt was heard.
        seconds: until the reply was whole.
        characters: of the model's text.
    """

    sender: UserId
    direct: bool
    model: str | None = None
    prompt_version: str = ""
    first_words: float | None = None
    seconds: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    characters: int | None = None


@dataclass(frozen=True, slots=True)
class AskPolicy:
    """When a person is asked whether a reply has helped.

    Attributes:
        when: never; right behind a reply; or once the conversation has fallen silent.
        one_in: of so many replies, one is asked about.
        silence: seconds without a further prompt after which a conversation has fallen silent.
        per_day: polls that one person gets in 24 hours, at the most.
        window: seconds for which an answer counts.
        salons: in salons a poll is sent, too; or the welcome there names the reactions that rate a
            reply; or nothing is asked.
        least_characters: of the model's text: in a direct message no poll is sent behind a shorter
            one, than which it would be taller.
    """

    when: Literal["never", "reply", "silence"] = "silence"
    one_in: int = 3
    silence: float = 300.0
    per_day: int = 2
    window: float = 86_400.0
    salons: Literal["never", "reactions", "poll"] = "reactions"
    least_characters: int = 300


@dataclass(frozen=True, slots=True)
class AskHistory:
    """What is known of a person and of a conversation before they are asked.

    Attributes:
        refused: the person wants no polls, or the room's moderators want none there.
        asked: how many polls the person got in the last 24 hours.
        last_asked: the person was asked about the reply before this one.
        waiting: a poll about an earlier reply of the conversation is still to be sent.
    """

    refused: bool = False
    asked: int = 0
    last_asked: bool = False
    waiting: bool = False


def ask_after(
    policy: AskPolicy, how: ReplyMetadata, past: AskHistory, prompt: EventId
) -> float | None:
    """Return the seconds after which to ask about the reply to `prompt`; None for never.

    Which of the replies are asked about depends on the prompt's id alone, so that nobody can tell
    beforehand, and a process that comes after a crash decides alike. A poll that still waits for
    silence is about the last reply.
    """
    if policy.when == "never" or past.refused or past.asked >= policy.per_day or past.last_asked:
        return None
    if not _deserves_poll(policy, how):
        return None
    if not past.waiting and _draw(prompt) * policy.one_in >= 1:
        return None
    return policy.silence if policy.when == "silence" else 0.0


def _deserves_poll(policy: AskPolicy, how: ReplyMetadata) -> bool:
    """Tell whether a poll has its place behind such a reply."""
    if not how.direct:
        return policy.salons == "poll"
    return (how.characters or 0) >= policy.least_characters


def _draw(prompt: EventId) -> float:
    """Return a number from 0 to 1, the same whenever it is asked for."""
    digest = hashlib.sha256(prompt.encode()).digest()
    return float(int.from_bytes(digest[: _BITS // 8]) / 2**_BITS)


@dataclass(frozen=True, slots=True)
class Ask:
    """A poll about the reply to a prompt, which is to be sent or was.

    Attributes:
        number: the ledger's.
        due_at: when to send it, in seconds since the epoch.
        planned_at: when that was first so.
        begun: it may have been sent.
    """

    number: int
    prompt: EventId
    question: Question
    room_id: RoomId
    thread_root: EventId | None
    due_at: float
    planned_at: float = 0.0
    begun: bool = False


@dataclass(frozen=True, slots=True)
class VoteOutcome:
    """What has come of a vote that counts.

    Attributes:
        ask: the poll that it was in.
        answer: None where an earlier one was taken back.
        thanks: the person is to be thanked, for the first and only time.
        goes_on: the person is to be asked for the reason.
    """

    ask: Ask
    answer: str | None
    thanks: bool = False
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class Opinion:
    """One thing that a person has said of a reply: a reaction, or a vote.

    Attributes:
        question: of a vote, what was asked; of a reaction, "helped".
        answer: None where an earlier vote of the same poll is taken back.
        timestamp: the homeserver's `origin_server_ts`, in milliseconds.
        poll: which poll a vote is of, None for a reaction.
    """

    question: Question
    answer: str | None
    timestamp: int
    poll: int | None = None


def answer_of(opinions: Iterable[Opinion], question: Question) -> Opinion | None:
    """Return the opinion that counts, None for none.

    Of one poll the last vote, which may take itself back (MSC3381); of that and of the reactions
    that stand, the last.

    Args:
        opinions: of one person on one reply, in the order in which they were heard.
        question: which of the questions is asked about.
    """
    votes: dict[int, Opinion] = {}
    standing: list[Opinion] = []
    for one in opinions:
        if one.question != question:
            continue
        if one.poll is None:
            standing.append(one)
        elif one.poll not in votes or one.timestamp > votes[one.poll].timestamp:
            votes[one.poll] = one
    standing += [one for one in votes.values() if one.answer is not None]
    return max(standing, key=lambda one: one.timestamp, default=None)


def reason_of(opinions: Sequence[Opinion]) -> str | None:
    """Return the reason that was given for the rating that counts, None for none.

    It stays with the answer that stood when it was given: another answer has not got it.

    Args:
        opinions: as for `answer_of`.
    """
    helped, why = answer_of(opinions, "helped"), answer_of(opinions, "why")
    if helped is None or why is None or not asks_why(helped.answer):
        return None
    then = answer_of((one for one in opinions if one.timestamp <= why.timestamp), "helped")
    if then is None:  # the clocks of two homeservers differ: it was given for the first one
        rated = (one for one in opinions if one.question == "helped" and one.answer is not None)
        then = min(rated, key=lambda one: one.timestamp)
    return why.answer if then.answer == helped.answer else None


def rating_in(words: str) -> Rating | None:
    """Return the rating that a word is, as polls offer them; None where it says something else."""
    return _WORDS.get(words.strip().lower().rstrip(".!"))


def asks_why(answer: str | None) -> bool:
    """Tell whether a person who has answered so is asked for the reason."""
    return answer in {"partly", "no"}

"""Feedback on replies: when to send a poll about one, and which of a person's opinions counts."""

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
COMMAND: Final = ("avis", "feedback")  # names of the command, French and English
SHARE: Final = {"partager", "share"}  # its arguments that hand over a prompt and its reply
LONGEST_COMMENT: Final = 4_000  # characters

_WORDS: Final[dict[str, Rating]] = {
    "oui": "yes",
    "en partie": "partly",
    "non": "no",
    **{rating: rating for rating in RATINGS},
    **THUMBS,
}

_BITS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyMetadata:
    """How a reply was made, as stored with its ratings; it holds no text of a conversation.

    Attributes:
        sender: the person who asked; stored as a pseudonym.
        direct: whether it was in a direct message; else it was in a salon.
        model: id of the model that answered; None if only an earlier process knew it.
        prompt_version: version of the system prompt.
        first_words: seconds from the arrival of the prompt to the first visible words.
        seconds: seconds from the arrival of the prompt to the complete reply.
        characters: length of the model's text.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class AskPolicy:
    """When a person is asked whether a reply has helped.

    Attributes:
        when: "never", right after a "reply", or once the conversation is silent ("silence").
        one_in: number of replies of which one gets a poll.
        silence: seconds without a further prompt after which a conversation is silent.
        per_day: largest number of polls that one person gets in 24 hours.
        window: seconds for which a vote counts.
        salons: in salons, send a "poll" as well; or name in the welcome the "reactions" that rate
            a reply; or do not ask ("never").
        least_characters: length of the model's text from which a poll follows it in a direct
            message. A poll would be taller than a shorter text.
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
    """Earlier polls of a person and of a conversation, as `ask_after` needs them.

    Attributes:
        refused: whether the person, or the room's moderators for the room, have refused polls.
        asked: number of polls that the person got in the last 24 hours.
        last_asked: whether there was a poll about the previous reply.
        waiting: whether a poll about an earlier reply of the conversation is still to be sent.
    """

    refused: bool = False
    asked: int = 0
    last_asked: bool = False
    waiting: bool = False


def ask_after(
    policy: AskPolicy, how: ReplyMetadata, past: AskHistory, prompt: EventId
) -> float | None:
    """Return the seconds after which to ask about the reply to `prompt`; None for never.

    Only the prompt's id decides which replies are asked about: nobody can predict it, and after a
    crash the next process decides the same. While a poll of the conversation still waits for
    silence, it moves to the latest reply, whatever that reply's id.
    """
    if policy.when == "never" or past.refused or past.asked >= policy.per_day or past.last_asked:
        return None
    if not _deserves_poll(policy, how):
        return None
    if not past.waiting and _draw(prompt) * policy.one_in >= 1:
        return None
    return policy.silence if policy.when == "silence" else 0.0


def _deserves_poll(policy: AskPolicy, how: ReplyMetadata) -> bool:
    """Return whether a poll may follow such a reply."""
    if not how.direct:
        return policy.salons == "poll"
    return (how.characters or 0) >= policy.least_characters


def _draw(prompt: EventId) -> float:
    """Return a number from 0 to 1 that is always the same for a prompt."""
    digest = hashlib.sha256(prompt.encode()).digest()
    return float(int.from_bytes(digest[: _BITS // 8]) / 2**_BITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A poll about the reply to a prompt, either planned or sent.

    Attributes:
        number: its number in the ledger.
        due_at: time to send it, in seconds since the epoch.
        planned_at: first value of `due_at`, before the poll was put off.
        begun: whether it may have been sent.
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
    """The outcome of a vote that counts.

    Attributes:
        ask: the poll.
        answer: the chosen answer; None if an earlier vote was taken back.
        thanks: whether to thank the person, which is done once.
        goes_on: whether to ask the person for the reason.
    """

    ask: Ask
    answer: str | None
    thanks: bool = False
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class Opinion:
    """One opinion of a person on a reply: a vote, or a rating without a poll.

    Attributes:
        question: the poll's question; "helped" for a rating without a poll.
        answer: the chosen answer; None if an earlier vote in the same poll is taken back.
        timestamp: the homeserver's `origin_server_ts`, in milliseconds.
        poll: number of the poll; None for a rating without a poll.
    """

    question: Question
    answer: str | None
    timestamp: int
    poll: int | None = None


def answer_of(opinions: Iterable[Opinion], question: Question) -> Opinion | None:
    """Return the opinion that counts; None if none does.

    In a poll, the last vote counts, unless it takes an earlier one back (MSC3381). Between that
    vote and the reactions that are not redacted, the latest counts.

    Args:
        opinions: those of one person on one reply, in the order of their arrival.
        question: the question to answer.
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
    """Return the reason for the rating that counts; None if there is none.

    A reason belongs to the answer that counted when it was given. It does not count for another
    answer.

    Args:
        opinions: as for `answer_of`.
    """
    helped, why = answer_of(opinions, "helped"), answer_of(opinions, "why")
    if helped is None or why is None or not asks_why(helped.answer):
        return None
    then = answer_of((one for one in opinions if one.timestamp <= why.timestamp), "helped")
    if then is None:  # the clocks of two homeservers differ: take the first rating
        rated = (one for one in opinions if one.question == "helped" and one.answer is not None)
        then = min(rated, key=lambda one: one.timestamp)
    return why.answer if then.answer == helped.answer else None


def rating_in(words: str) -> Rating | None:
    """Return the rating that a word names, as polls offer it; None for any other text."""
    return _WORDS.get(words.strip().lower().rstrip(".!"))


def asks_why(answer: str | None) -> bool:
    """Return whether a person who gave this answer is asked for the reason."""
    return answer in {"partly", "no"}

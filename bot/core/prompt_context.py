"""From what was said in a conversation to the turns that go to the model."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from bot.core.chat import Turn, join_parts, text_turn
from bot.core.events import EventId, Prompt, UserId
from bot.core.invisible_text import visible
from bot.core.routing import begins_anew, parse_command
from bot.core.transcript import TranscriptMessage

_SPEAKER = re.compile(r"^[^\S\n]*Agent\s+\d+\s*:", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class History:
    """What the homeserver tells of a conversation, up to now.

    Attributes:
        said: its messages, in order.
        chain: the message that the prompt replies to and those before that, oldest first; they
            may be of another conversation of the room.
        lost: messages of the chain that cannot be fetched or read any more.
    """

    said: Sequence[TranscriptMessage] = ()
    chain: Sequence[TranscriptMessage] = ()
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Context:
    """What the model is asked with, and what the person must know of it.

    Attributes:
        turns: system prompt, earlier turns, and the prompt as the last one; see `merged`.
        silent: earlier turns were left out because of a long silence, and none is left.
        unreadable: messages since the last reply that count and cannot be read.
    """

    turns: Sequence[Turn]
    silent: bool = False
    unreadable: int = 0


def build_context(
    system_prompt: str,
    history: History,
    prompt: Prompt,
    *,
    direct: bool,
    idle_limit: float,
    heeds: Callable[[UserId], bool] = bool,
) -> Context:
    """Return the context of a prompt.

    Commands and what is empty are no turns. In a salon each turn names its speaker, by a number:
    who first spoke in the conversation is "Agent 1".

    Args:
        system_prompt: "" for none.
        history: of the prompt's conversation.
        prompt: what is asked.
        direct: the room is a direct message.
        idle_limit: seconds of silence after which a direct message begins anew.
        heeds: tells whose commands count.
    """
    said = history.said
    earlier = said_before(said, prompt)
    heard = _since_new(earlier, heeds)
    kept = heard
    if direct and prompt.conversation.thread_root is None:
        kept = _since_silence(heard, prompt, idle_limit)
    # What got no answer is left out: a question that was too long would fail the next as well.
    heard, kept = ([one for one in part if not one.unanswered] for part in (heard, kept))
    silent = bool(_spoken(heard)) and not _spoken(kept)
    here = {one.event_id for one in kept} | set(prompt.event_ids)
    kept = [*(one for one in history.chain if one.event_id not in here), *kept]
    speakers = {} if direct else _speakers([*said, *history.chain], prompt)
    turns = [
        *([text_turn("system", system_prompt)] if system_prompt else []),
        *(
            text_turn("assistant", one.body)
            if one.mine
            else _asked(one.body, speakers.get(one.sender))
            for one in _spoken(kept)
        ),
        _asked(_body(said, prompt), speakers.get(prompt.sender)),
    ]
    replies = (place for place, one in enumerate(kept, 1) if one.mine and not one.failed)
    since = max(replies, default=0)
    unreadable = sum(not one.readable for one in kept[since:]) + history.lost
    return Context(turns, silent and not history.chain, unreadable)


def enough(
    said: Sequence[TranscriptMessage], prompt: Prompt, idle_limit: float, characters: int
) -> bool:
    """Tell whether nothing that was said before `said` could count any more.

    Args:
        said: what is known of the conversation, in order.
        prompt: what is asked.
        idle_limit: as `build_context` has it.
        characters: as many as the model takes.
    """
    earlier = said_before(said, prompt)
    kept = _since_silence(_since_new(earlier), prompt, idle_limit)
    counted = sum(len(one.body) for one in kept if not one.unanswered)
    return len(kept) < len(earlier) or counted > characters


def is_last(said: Sequence[TranscriptMessage], prompt: Prompt) -> bool:
    """Tell whether no reply of the conversation answers a later prompt."""
    ids = set(prompt.event_ids)
    later = said[_up_to(said, ids) :]
    replies = (one for one in later if one.mine and not one.failed)
    return all(not ids.isdisjoint(one.answers) for one in replies)


def merged(turns: Iterable[Turn]) -> Sequence[Turn]:
    """Join turns of one role that follow each other: many models want the roles to alternate."""
    return [
        Turn(role, join_parts(group)) for role, group in groupby(turns, key=lambda turn: turn.role)
    ]


def said_before(said: Sequence[TranscriptMessage], prompt: Prompt) -> list[TranscriptMessage]:
    """Return the messages before the prompt; of a prompt in many messages, before the last."""
    ids = set(prompt.event_ids)
    before = said[: _up_to(said, ids)]
    return [one for one in before if one.event_id not in ids and ids.isdisjoint(one.answers)]


def _up_to(said: Sequence[TranscriptMessage], ids: set[EventId]) -> int:
    """Return how many were said up to the last of these messages, 0 where none is there."""
    return max((place for place, one in enumerate(said, 1) if one.event_id in ids), default=0)


def _since_new(
    said: list[TranscriptMessage], heeds: Callable[[UserId], bool] = bool
) -> list[TranscriptMessage]:
    """Return what was said since a person who is heeded began a new conversation."""
    for place in range(len(said) - 1, -1, -1):
        one = said[place]
        if not one.mine and begins_anew(one.body) and heeds(one.sender):
            return said[place + 1 :]
    return said


def _since_silence(
    said: list[TranscriptMessage], prompt: Prompt, idle_limit: float
) -> list[TranscriptMessage]:
    """Return what was said since the last silence of more than `idle_limit` seconds."""
    later = prompt.messages[0].timestamp
    for place in range(len(said) - 1, -1, -1):
        if later - said[place].timestamp > idle_limit * 1000:
            return said[place + 1 :]
        later = said[place].timestamp
    return said


def _spoken(said: Iterable[TranscriptMessage]) -> list[TranscriptMessage]:
    """Return what makes a turn."""
    return [
        one for one in said if one.body.strip() and (one.mine or parse_command(one.body) is None)
    ]


def _speakers(said: Iterable[TranscriptMessage], prompt: Prompt) -> Mapping[UserId, str]:
    persons = [*(one.sender for one in said if not one.mine), prompt.sender]
    return {user_id: f"Agent {number}" for number, user_id in enumerate(dict.fromkeys(persons), 1)}


def _body(said: Sequence[TranscriptMessage], prompt: Prompt) -> str:
    """Return what is asked, each message in its last version."""
    current = {one.event_id: one.body for one in said}
    return "\n\n".join(
        current.get(message.event_id) or visible(message.body) for message in prompt.messages
    )


def _asked(body: str, speaker: str | None) -> Turn:
    """Return a person's turn; nobody speaks in another's name, unless it reads as a quotation."""
    if speaker is None:
        return text_turn("user", body)
    return text_turn("user", f"{speaker} : " + _SPEAKER.sub(r"> \g<0>", body))

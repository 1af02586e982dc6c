"""From the messages of a conversation to the turns that go to the model."""

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
    """What the homeserver has of a conversation, up to now.

    Attributes:
        messages: its messages, in order.
        chain: the message that the prompt replies to, and those that this one replies to in turn,
            oldest first; they may belong to another conversation of the room.
        lost: how many messages of the chain can no longer be fetched or read.
    """

    messages: Sequence[TranscriptMessage] = ()
    chain: Sequence[TranscriptMessage] = ()
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Context:
    """What is sent to the model, and what the person must know about it.

    Attributes:
        turns: system prompt, earlier turns, and the prompt as the last one; see `merged`.
        silent: whether all earlier turns were left out because of a long silence.
        unreadable: how many messages since the last reply would count, but cannot be read.
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

    Commands and empty messages are no turns. In a salon each turn names its speaker by a number:
    the first one who wrote in the conversation is "Agent 1".

    Args:
        system_prompt: "" for none.
        history: the prompt's conversation.
        prompt: the prompt.
        direct: whether the room is a direct message.
        idle_limit: seconds of silence after which a direct message begins anew.
        heeds: whether the bot acts on what a person writes; if not, their commands do not count.
    """
    messages = history.messages
    current = _since_new(messages_before(messages, prompt), heeds)
    recent = current
    if direct and prompt.conversation.thread_root is None:
        recent = _since_silence(current, prompt, idle_limit)
    # Unanswered messages are left out: a prompt that was too long would make the next one fail.
    current, recent = ([one for one in part if not one.unanswered] for part in (current, recent))
    silent = bool(_with_text(current)) and not _with_text(recent)
    ids = {one.event_id for one in recent} | set(prompt.event_ids)
    kept = [*(one for one in history.chain if one.event_id not in ids), *recent]
    speakers = {} if direct else _speakers([*messages, *history.chain], prompt)
    turns = [
        *([text_turn("system", system_prompt)] if system_prompt else []),
        *(
            text_turn("assistant", one.body)
            if one.mine
            else _user_turn(one.body, speakers.get(one.sender))
            for one in _with_text(kept)
        ),
        _user_turn(_prompt_text(messages, prompt), speakers.get(prompt.sender)),
    ]
    replies = (number for number, one in enumerate(kept, 1) if one.mine and not one.failed)
    last_reply = max(replies, default=0)
    unreadable = sum(not one.readable for one in kept[last_reply:]) + history.lost
    return Context(turns, silent and not history.chain, unreadable)


def enough(
    messages: Sequence[TranscriptMessage], prompt: Prompt, idle_limit: float, characters: int
) -> bool:
    """Return whether no message before `messages` could count.

    Args:
        messages: the known end of the conversation, in order.
        prompt: the prompt.
        idle_limit: see `build_context`.
        characters: the most that is read of a conversation.
    """
    earlier = messages_before(messages, prompt)
    kept = _since_silence(_since_new(earlier), prompt, idle_limit)
    counted = sum(len(one.body) for one in kept if not one.unanswered)
    return len(kept) < len(earlier) or counted > characters


def is_last(messages: Sequence[TranscriptMessage], prompt: Prompt) -> bool:
    """Return whether no reply of the conversation answers a later prompt."""
    ids = set(prompt.event_ids)
    later = messages[_end(messages, ids) :]
    replies = (one for one in later if one.mine and not one.failed)
    return all(not ids.isdisjoint(one.answers) for one in replies)


def merged(turns: Iterable[Turn]) -> Sequence[Turn]:
    """Join successive turns of one role: the templates of many models want roles to alternate."""
    return [
        Turn(role, join_parts(group)) for role, group in groupby(turns, key=lambda turn: turn.role)
    ]


def messages_before(
    messages: Sequence[TranscriptMessage], prompt: Prompt
) -> list[TranscriptMessage]:
    """Return the messages before the prompt's last message, without the prompt and its reply."""
    ids = set(prompt.event_ids)
    before = messages[: _end(messages, ids)]
    return [one for one in before if one.event_id not in ids and ids.isdisjoint(one.answers)]


def _end(messages: Sequence[TranscriptMessage], ids: set[EventId]) -> int:
    """Return the index after the last message that has one of the ids, 0 if there is none."""
    return max((end for end, one in enumerate(messages, 1) if one.event_id in ids), default=0)


def _since_new(
    messages: list[TranscriptMessage], heeds: Callable[[UserId], bool] = bool
) -> list[TranscriptMessage]:
    """Return the messages since the last command of a new conversation that counts."""
    for index in range(len(messages) - 1, -1, -1):
        one = messages[index]
        if not one.mine and begins_anew(one.body) and heeds(one.sender):
            return messages[index + 1 :]
    return messages


def _since_silence(
    messages: list[TranscriptMessage], prompt: Prompt, idle_limit: float
) -> list[TranscriptMessage]:
    """Return the messages since the last silence of more than `idle_limit` seconds."""
    next_timestamp = prompt.messages[0].timestamp
    for index in range(len(messages) - 1, -1, -1):
        if next_timestamp - messages[index].timestamp > idle_limit * 1000:
            return messages[index + 1 :]
        next_timestamp = messages[index].timestamp
    return messages


def _with_text(messages: Iterable[TranscriptMessage]) -> list[TranscriptMessage]:
    """Return the messages that become turns."""
    return [
        one
        for one in messages
        if one.body.strip() and (one.mine or parse_command(one.body) is None)
    ]


def _speakers(messages: Iterable[TranscriptMessage], prompt: Prompt) -> Mapping[UserId, str]:
    persons = [*(one.sender for one in messages if not one.mine), prompt.sender]
    return {user_id: f"Agent {number}" for number, user_id in enumerate(dict.fromkeys(persons), 1)}


def _prompt_text(messages: Sequence[TranscriptMessage], prompt: Prompt) -> str:
    """Return the text of the prompt, each message in its last version."""
    bodies = {one.event_id: one.body for one in messages}
    return "\n\n".join(
        bodies.get(message.event_id) or visible(message.body) for message in prompt.messages
    )


def _user_turn(body: str, speaker: str | None) -> Turn:
    """Return a person's turn; a line that names another speaker is marked as a quotation."""
    if speaker is None:
        return text_turn("user", body)
    return text_turn("user", f"{speaker} : " + _SPEAKER.sub(r"> \g<0>", body))

"""From what was said in a conversation to the turns that go to the model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bot.core.events import EventId, Message, Turn
from bot.core.routing import is_command
from bot.core.visible import visible


@dataclass(frozen=True, slots=True)
class Said:
    """One earlier message of the conversation in its last version.

    Attributes:
        mine: the bot's own reply; notices of the bot are never among these.
    """

    event_id: EventId
    body: str
    mine: bool


def build_turns(system_prompt: str, said: Iterable[Said], prompt: Message) -> Sequence[Turn]:
    """Return system prompt, earlier turns in order, and the prompt as the last turn.

    What was said to the bot itself, and what is empty, is no turn; what nobody sees is no part of
    one (smuggled instructions).
    """
    earlier = [
        Turn("assistant" if one.mine else "user", visible(one.body))
        for one in said
        if one.body.strip() and not is_command(one.body)
    ]
    system = [Turn("system", system_prompt)] if system_prompt else []
    return [*system, *earlier, Turn("user", visible(prompt.body))]

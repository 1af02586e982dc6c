"""How much of a conversation a model can take: tokens, reckoned in characters."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import floor
from typing import Final, assert_never

from bot.core.chat import (
    FilePart,
    ImagePart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Turn,
    TurnPart,
)
from bot.core.model_catalog import ModelCard
from bot.errors import PromptTooLong

_TURN: Final = 16  # characters for what the model's template puts around each turn
_TEMPLATE: Final = 128  # tokens for what it puts around them all
# Characters for an image: those of some 1,100 tokens, what the largest one costs at high detail.
# https://platform.openai.com/docs/guides/images-vision#calculating-costs
_IMAGE: Final = 3_500

# Characters per token. French has some 3.5, code and other scripts fewer.
_FIRST: Final = 3.0
_LEAST, _MOST = 1.5, 4.5
_STEP: Final = 0.25
_WEIGHT: Final = 0.2  # of the newest request in the average
_TOLERANCE: Final = 0.1  # share of the ratio in use that the average may be off
_REFUSED: Final = 0.75  # share of the ratio in use that stays when the backend finds it too high
_SHORTEST: Final = 2000  # characters of a request that says something about the ratio


def size(turns: Iterable[Turn]) -> int:
    """Return how many characters of a model's room the turns take."""
    return sum(_TURN + sum(map(_characters, turn.parts)) for turn in turns)


def _characters(part: TurnPart) -> int:
    match part:
        case TextPart():
            return len(part.text)
        case ToolCallPart():
            return len(part.name) + len(part.arguments)
        case ToolResultPart():
            return len(part.content)
        case ImagePart():
            return _IMAGE
        case FilePart():  # no fewer than the backend makes of it, whatever it makes of it
            return len(part.file_data)
        case _:
            assert_never(part)


class Calibration:
    """Characters per token of each model, learnt from what the backend counts.

    It is everybody's: it follows a slow average, so that one odd request does not move it. And
    it moves in coarse steps: with the room, the place would move where conversations are cut, and
    a backend's cache of their beginning with it.
    """

    def __init__(self) -> None:
        self._averages: dict[str, float] = {}
        self._used: dict[str, float] = {}

    def learn(self, model_id: str, characters: int, prompt_tokens: int) -> None:
        """Take in that a request of so many characters (`size`) was counted as so many tokens."""
        if prompt_tokens <= 0 or characters < _SHORTEST:
            return
        measured = min(max(characters / prompt_tokens, _LEAST), _MOST)
        average = self._averages.get(model_id, _FIRST)
        average += _WEIGHT * (measured - average)
        self._averages[model_id] = average
        used = self._ratio(model_id)
        if not (1 - _TOLERANCE) * used <= average <= (1 + _TOLERANCE) * used:
            self._used[model_id] = _coarse(average)

    def step_down(self, model_id: str) -> None:
        """Take in that the backend found a request too long that had the room."""
        ratio = _coarse(_REFUSED * self._ratio(model_id))
        self._used[model_id] = self._averages[model_id] = ratio

    def longest_request(self, card: ModelCard, context_length: int) -> int:
        """Return how many characters a request to the model may have, as `size` counts them."""
        tokens = context_length - card.longest_completion(context_length) - _TEMPLATE
        return max(0, floor(tokens * self._ratio(card.id)))

    def _ratio(self, model_id: str) -> float:
        return self._used.get(model_id, _FIRST)


def _coarse(ratio: float) -> float:
    return max(floor(ratio / _STEP) * _STEP, _LEAST)


def fit(turns: Sequence[Turn], room: int) -> Sequence[Turn]:
    """Return the turns without the oldest, where all are too many.

    The system turn, if there is one, and the prompt, which is the last turn, always stay. Whole
    turns leave, at least a quarter of the room at once, so that the first one stays the same over
    many prompts; it is never the assistant's. What has left is found by going through the
    conversation from its beginning, as it grew: nothing needs to be remembered.

    Raises:
        PromptTooLong: system turn and prompt alone are too long.
    """
    head = [turn for turn in turns[:1] if turn.role == "system"]
    said = turns[len(head) :]
    excess = size([*head, said[-1]]) - room
    if excess > 0:
        raise PromptTooLong(f"the prompt is {excess} characters too long", n=excess)
    first = _first(said, room - size(head), room // 4)
    return [*head, *said[first:]]


def _first(said: Sequence[Turn], room: int, step: int) -> int:
    """Return the number of the first turn that stays."""
    ends = list(accumulate((size([turn]) for turn in said), initial=0))
    first = 0
    for last in range(len(said)):
        while first < last and ends[last + 1] - ends[first] > room:
            goal = ends[first] + step
            while first < last and ends[first] < goal:
                first += 1
        while 0 < first < last and said[first].role in {"assistant", "tool"}:
            first += 1
    return first

"""How much of a conversation fits a model: its tokens, estimated in characters."""

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

_TURN: Final = 16  # characters for what the model's chat template adds to each turn
_TEMPLATE: Final = 128  # tokens for what it adds to the request
# Characters for an image: some 1,100 tokens, which the largest one takes at high detail.
# https://platform.openai.com/docs/guides/images-vision#calculating-costs
_IMAGE: Final = 3_500

# Characters per token. French has some 3.5, code and other scripts fewer.
_FIRST: Final = 3.0
_LEAST, _MOST = 1.5, 4.5
_STEP: Final = 0.25
_WEIGHT: Final = 0.2  # of the newest request in the average
_TOLERANCE: Final = 0.1  # by which the average may differ from the ratio in use, as a share of it
_REFUSED: Final = 0.75  # share of the ratio that stays if the backend finds a request too long
_SHORTEST: Final = 2000  # characters of a request that is measured; shorter ones say little


def size(turns: Iterable[Turn]) -> int:
    """Return how many characters the turns count for, templates included."""
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
        case FilePart():  # an upper bound: the backend decides what it extracts
            return len(part.file_data)
        case _:
            assert_never(part)


class Calibration:
    """Characters per token of each model, learnt from the backend's counts.

    One ratio of a model serves all conversations, so it follows a slow average: one unusual
    request does not change it. It changes in coarse steps: each change moves the point where
    conversations are cut, and invalidates a backend's cache of their beginning.
    """

    def __init__(self) -> None:
        self._averages: dict[str, float] = {}
        self._used: dict[str, float] = {}

    def learn(self, model_id: str, characters: int, prompt_tokens: int) -> None:
        """Learn how many tokens a request of so many characters (see `size`) has."""
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
        """Learn that the backend found a request too long that was expected to fit."""
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


def fit(turns: Sequence[Turn], limit: int) -> Sequence[Turn]:
    """Return the turns without the oldest ones, if all are longer than `limit` characters.

    The system turn, if there is one, and the prompt, which is the last turn, always stay. Whole
    turns are dropped, at least a quarter of the limit at once, so that the first turn that stays
    is the same for many prompts; it is a user's. The cut is found by going through the
    conversation as it grew: so nothing needs to be remembered from one prompt to the next.

    Raises:
        PromptTooLong: system turn and prompt alone are too long.
    """
    head = [turn for turn in turns[:1] if turn.role == "system"]
    others = turns[len(head) :]
    excess = size([*head, others[-1]]) - limit
    if excess > 0:
        raise PromptTooLong(f"the prompt is {excess} characters too long", n=excess)
    first = _first_kept(others, limit - size(head), limit // 4)
    return [*head, *others[first:]]


def _first_kept(turns: Sequence[Turn], limit: int, step: int) -> int:
    """Return the index of the first turn that stays."""
    ends = list(accumulate((size([turn]) for turn in turns), initial=0))
    first = 0
    for last in range(len(turns)):
        while first < last and ends[last + 1] - ends[first] > limit:
            goal = ends[first] + step
            while first < last and ends[first] < goal:
                first += 1
        while 0 < first < last and turns[first].role in {"assistant", "tool"}:
            first += 1
    return first

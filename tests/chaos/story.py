"""Prompts and the model's answers to them: the same prompt always gets the same text."""

import random
import re
from collections import Counter
from collections.abc import Sequence

from typing_extensions import override

from tests.harness.model import ScriptedAnswer, ScriptedModel

_NUMBER = re.compile(r"histoire n° (\d+)")
_PHRASES = (
    "le phare",
    "la mer",
    "un pêcheur",
    "attend",
    "regarde",
    "la brume",
    "une lampe",
    "tourne encore",
    "sans bruit",
    "près du port",
    "des voiles blanches",
    "reviennent au soir",
    "avec le vent",
    "les enfants",
    "comptent les mouettes",
)
_PACES = (50, 75, 120)  # words per second


def ask(number: int) -> str:
    """Return the prompt for a story; no other prompt has this number."""
    return f"Contez l'histoire n° {number}."


def numbers(words: str) -> list[int]:
    """Return the numbers of the stories that a text asks for, in order."""
    return [int(found) for found in _NUMBER.findall(words)]


def tell(asked: Sequence[int]) -> str:
    """Return the model's whole answer to prompts for these stories."""
    return "\n\n".join(map(_story, asked))


def _story(number: int) -> str:
    dice = random.Random(number)  # noqa: S311  # it guards no secret
    sentences = [" ".join(dice.choices(_PHRASES, k=5)).capitalize() + "." for _ in range(2, 9)]
    kept = sentences[: dice.randrange(3, 8)]
    return "\n\n".join([f"**Histoire {number}**", *kept, f"Fin de l'histoire {number}."])


class Storyteller(ScriptedModel):
    """A model that answers with the stories of the prompt, at different paces.

    Attributes:
        calls: number of requests for each story.
    """

    def __init__(self) -> None:
        super().__init__(max_context_length=1_000_000)
        self.calls: Counter[int] = Counter()

    @override
    def _choose(self, prompt: str) -> ScriptedAnswer:
        asked = numbers(prompt)
        self.calls.update(asked)
        self._forget()
        pace = _PACES[sum(asked) % len(_PACES)]
        return ScriptedAnswer(text=tell(asked), tokens_per_second=pace)

    def _forget(self) -> None:
        """Forget the requests, since a long run has many, and long ones."""
        self.exchanges.clear()
        while not self._arrivals.empty():
            self._arrivals.get_nowait()

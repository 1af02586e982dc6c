"""A model that says what a test has told it to."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from typing_extensions import override

from bot.core.chat import Delta, FinishDelta, TextDelta, Turn
from bot.core.model_catalog import Catalogue, ModelCard

Script = Sequence[Delta | Exception | asyncio.Event]


SMALL = ModelCard(
    id="small",
    label="Petit modèle",
    key="small",
    context_length=32_000,
    max_tokens=1_000,
    temperature=None,
)


LARGE = ModelCard(
    id="vendor/large",
    label="Grand modèle",
    key="large",
    context_length=128_000,
    max_tokens=2_000,
    temperature=0.3,
)


CATALOGUE = Catalogue([SMALL, LARGE])


class FakeModel:
    """A model that sends the deltas of its script, raises its errors and waits for its events."""

    def __init__(self, *script: Delta | Exception | asyncio.Event) -> None:
        self.script = script or (TextDelta("Bonjour."), FinishDelta("stop"))
        self.requests: list[Sequence[Turn]] = []
        self.asked: list[str] = []  # which model, by id
        self.length = 32_000

    def context_length(self, card: ModelCard) -> int:  # noqa: ARG002  # the port
        return self.length

    async def stream(self, turns: Sequence[Turn], card: ModelCard) -> AsyncGenerator[Delta, None]:
        self.requests.append(turns)
        self.asked.append(card.id)
        for step in self.script:
            match step:
                case asyncio.Event():
                    await step.wait()
                case Exception():
                    raise step
                case _:
                    yield step


class FakeModels(FakeModel):
    """Two models, each with one script a request, and then with the default answer."""

    def __init__(self, *scripts: Script, other: Sequence[Script] = ()) -> None:
        super().__init__()
        self._answer = self.script
        self._scripts = {SMALL.id: list(scripts), LARGE.id: list(other)}

    @override
    def context_length(self, card: ModelCard) -> int:
        return card.context_length

    @override
    async def stream(self, turns: Sequence[Turn], card: ModelCard) -> AsyncGenerator[Delta, None]:
        left = self._scripts[card.id]
        self.script = tuple(left.pop(0)) if left else self._answer
        async with aclosing(super().stream(turns, card)) as deltas:
            async for delta in deltas:
                yield delta

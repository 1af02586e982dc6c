"""The completion of a context: as much of it as the model takes, and the deltas that come back."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from bot.core.budget import Calibration, fit, size
from bot.core.events import Delta, Turn
from bot.core.models import ModelCard
from bot.core.turns import merged
from bot.ports import Model


class Completion:
    """The model, with what has been learnt of how it counts tokens."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._calibration = Calibration()

    def room(self, card: ModelCard) -> int:
        """Return how many characters a request to the model may have."""
        return self._calibration.room(card, self._model.context_length(card))

    async def stream(self, turns: Sequence[Turn], card: ModelCard) -> AsyncGenerator[Delta, None]:
        """Yield the model's deltas; what ends them too early raises CompletionError.

        Args:
            turns: of a context; the oldest leave where they are too many.
            card: the model that is asked.
        """
        request = merged(fit(turns, self.room(card)))
        async with aclosing(self._model.stream(request, card)) as deltas:
            async for delta in deltas:
                if delta.usage is not None:
                    tokens = delta.usage.prompt_tokens
                    self._calibration.learn(card.id, size(request), tokens)
                yield delta

"""The completion of a context: who is asked, and with as much of it as they take."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial

from bot.core.chat import Delta, Turn, UsageDelta
from bot.core.model_catalog import ModelCard
from bot.core.prompt_context import merged
from bot.core.token_budget import Calibration, fit, size
from bot.errors import CompletionError, PromptTooLong, PromptTooLongForModel
from bot.ports.model import Model
from bot.replies.completion_attempts import Asking, FallbackPolicy


class Completion:
    """The models, with what has been learnt of how they count tokens."""

    def __init__(self, model: Model, recourse: FallbackPolicy) -> None:
        self._model = model
        self._recourse = recourse
        self._calibration = Calibration()

    def room(self, card: ModelCard) -> int:
        """Return how many characters a request to the model may have."""
        return self._calibration.room(card, self._model.context_length(card))

    def ask(self, turns: Sequence[Turn], card: ModelCard) -> Asking:
        """Return the way to the completion of `turns`: its `deltas`, and what to say meanwhile.

        Args:
            turns: of a context; the oldest leave where they are too many for who is asked.
            card: the model that is to answer.
        """
        return Asking(partial(self._fitted, turns), card, self._recourse)

    async def _fitted(self, turns: Sequence[Turn], card: ModelCard) -> AsyncGenerator[Delta, None]:
        """Yield the deltas of one request.

        Where the backend finds it too long, it is asked once more, with less.
        """
        room, begun = self.room(card), False
        kept = fit(turns, room)
        try:
            async with aclosing(self._ask(kept, card)) as deltas:
                async for delta in deltas:
                    begun = True
                    yield delta
        except PromptTooLongForModel as refusal:
            if self.room(card) >= room:  # else another refusal has taught it meanwhile
                self._calibration.step_down(card.id)
            if begun:
                raise
            fewer = self._fewer(turns, card, size(kept), refusal)
        else:
            return
        self._recourse.watch.backend_retried(PromptTooLongForModel.__name__)
        async with aclosing(self._ask(fewer, card)) as deltas:
            async for delta in deltas:
                yield delta

    def _fewer(
        self, turns: Sequence[Turn], card: ModelCard, asked: int, refusal: PromptTooLongForModel
    ) -> Sequence[Turn]:
        """Return what is asked once `asked` characters were refused.

        Raises:
            PromptTooLongForModel: the refusal, where no turn can leave.
        """
        room = self.room(card)
        if room >= asked:  # they did not fill the room: the same would be asked again
            room = asked * 3 // 4
        try:
            return fit(turns, room)
        except PromptTooLong:
            raise refusal from None

    async def _ask(self, turns: Sequence[Turn], card: ModelCard) -> AsyncGenerator[Delta, None]:
        request = merged(turns)
        try:
            async with aclosing(self._model.stream(request, card)) as deltas:
                async for delta in deltas:
                    if isinstance(delta, UsageDelta):
                        tokens = delta.usage.prompt_tokens
                        self._calibration.learn(card.id, size(request), tokens)
                    yield delta
        except CompletionError as error:
            self._recourse.watch.backend_failed(type(error).__name__)
            raise

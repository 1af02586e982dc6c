"""One answer asked of the backend: again where that may help, in line, or of another model."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from bot.core.chat import Delta, FallbackDelta, TextDelta
from bot.core.model_catalog import ModelCard
from bot.errors import (
    CompletionError,
    ModelBusy,
    ModelFailed,
    ModelLimited,
    ModelTimeout,
    ModelUnreachable,
    ModelWordless,
    PromptTooLong,
    Truncated,
)
from bot.i18n.texts import Texts
from bot.ports.clock import Clock
from bot.replies.rate_limit import ModelRateLimiter, Place
from bot.runtime.retry import backoff

_RETRIES: Final = 2
_LONGEST_WAIT: Final = 30.0  # seconds that a backend may ask for; where it asks for more, we end
_PASSING: Final = (ModelUnreachable, ModelTimeout, ModelBusy, ModelFailed, Truncated)

log = structlog.get_logger()


class Watch(Protocol):
    """Counts what fails at the backend, by the name of the error's class."""

    def backend_failed(self, kind: str) -> None:
        """Count a request that failed."""

    def backend_retried(self, kind: str) -> None:
        """Count one that is made once more, of this or another model, by what failed."""


@dataclass(frozen=True, slots=True)
class FallbackPolicy:
    """What there is to turn to where a model does not answer.

    Attributes:
        fallback: the model that is asked in its place, None for none.
        patience: seconds in all for which an answer stands in line while a quota is used up.
    """

    clock: Clock
    watch: Watch
    fallback: ModelCard | None = None
    patience: float = 120.0
    _gates: dict[str, ModelRateLimiter] = field(default_factory=dict, init=False)

    def gate(self, card: ModelCard) -> ModelRateLimiter:
        """Return the model's gate, the same for every answer."""
        return self._gates.setdefault(card.id, ModelRateLimiter(self.clock, card.id))


class Asking:
    """One context on its way to an answer.

    Only before the first word is anything asked again: what was said may be seen by then.

    - 429: the answer stands in line at the model's `ModelRateLimiter`.
    - What may pass (no connection, no byte in time, 5xx, a stream that broke off): two more tries,
      after a second and after two, or after what the backend asks for.
    - Where the model cannot answer, whatever the reason, the fallback is asked the same, in the
      same way; unless it is the prompt that is too long. If it cannot either, what the first
      model met is told.
    """

    def __init__(
        self,
        ask: Callable[[ModelCard], AsyncGenerator[Delta, None]],
        card: ModelCard,
        to: FallbackPolicy,
    ) -> None:
        """Prepare it.

        Args:
            ask: makes one request.
            card: the model that is to answer.
            to: what there is to turn to.
        """
        self._ask = ask
        self._card = card
        self._to = to
        self._begun = False  # a word has been passed on
        self._again = False
        self._place: Place | None = None
        self._end = 0.0

    def line(self, texts: Texts) -> str:
        """Return what to tell who waits for the first word."""
        rank = self._place.rank if self._place else None
        if rank is not None:
            return texts("in demand", place=rank)
        return texts("trying again" if self._again else "working")

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """Yield the completion, once; the first words of the fallback say whose they are.

        Raises:
            CompletionError: nobody has answered, or the answer ends too early.
        """
        self._end = self._to.clock.monotonic() + self._to.patience
        try:
            async with aclosing(self._tried(self._card)) as deltas:
                async for delta in deltas:
                    yield delta
        except CompletionError as error:
            failure, fallback = error, self._fallback(error)
        else:
            return
        self._to.watch.backend_retried(type(failure).__name__)
        log.warning("falling back", to=fallback.id, reason=str(failure))
        self._again = False
        try:
            async with aclosing(self._tried(fallback)) as deltas:
                async for delta in deltas:
                    yield delta
        except CompletionError as error:
            if self._begun:
                raise
            log.warning("fallback failed", kind=type(error).__name__, reason=str(error))
            raise failure from None

    def _fallback(self, error: CompletionError) -> ModelCard:
        """Return who is asked after `error`; raise it where nobody is."""
        fallback = self._to.fallback
        if self._begun or fallback is None or fallback.id == self._card.id:
            raise error
        if isinstance(error, PromptTooLong):
            raise error
        return fallback

    async def _tried(self, card: ModelCard) -> AsyncGenerator[Delta, None]:
        """Yield what one model says, at once or in the end."""
        failures, failed = 0, ""
        with self._to.gate(card).place() as self._place:
            while True:
                await self._turn(self._place, failed)
                try:
                    async with aclosing(self._once(card, self._place)) as deltas:
                        async for delta in deltas:
                            yield delta
                except CompletionError as error:
                    if self._begun:
                        raise
                    failed = type(error).__name__
                    if not isinstance(error, ModelLimited):  # there the gate makes it wait
                        await self._pause(error, failures)
                        failures += 1
                else:
                    return

    async def _turn(self, place: Place, failed: str) -> None:
        """Wait until the model may be asked, once more where something has failed before."""
        if not await place.turn(self._end):
            raise ModelLimited("the quota stayed used up for as long as one may wait")
        if failed:
            self._to.watch.backend_retried(failed)

    async def _pause(self, error: CompletionError, failures: int) -> None:
        """Wait until it is time to ask again; raise `error` where that may not help."""
        asked_for = error.retry_after or 0.0
        if failures == _RETRIES or asked_for > _LONGEST_WAIT:
            raise error
        if not isinstance(error, _PASSING) or isinstance(error, ModelWordless):
            raise error
        seconds = asked_for + backoff(failures)
        log.info("asking again", reason=str(error), retry_in=round(seconds, 1))
        self._again = True
        await self._to.clock.sleep(seconds)

    async def _once(self, card: ModelCard, place: Place) -> AsyncGenerator[Delta, None]:
        """Yield what comes of one request, and tell the gate how it went."""
        try:
            async with aclosing(self._ask(card)) as deltas:
                async for delta in deltas:
                    if isinstance(delta, TextDelta) and not self._begun:
                        self._begun = True
                        place.answered()
                        if card.id != self._card.id:
                            yield FallbackDelta(card, self._card)
                    yield delta
        except ModelLimited as error:
            place.limited(error.retry_after)
            raise
        except CompletionError:
            place.failed()
            raise
        place.answered()

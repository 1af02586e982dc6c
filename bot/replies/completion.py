"""Completions: attempts at a model until it answers, then at the fallback model."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog

from bot.core.chat import Delta, FallbackDelta, TextDelta, Turn, Usage, UsageDelta
from bot.core.model_catalog import ModelCard
from bot.core.prompt_context import merged
from bot.core.token_budget import Calibration, fit, size
from bot.errors import (
    CompletionError,
    ModelBusy,
    ModelFailed,
    ModelLimited,
    ModelTimeout,
    ModelUnreachable,
    ModelWordless,
    PromptTooLong,
    PromptTooLongForModel,
    Truncated,
)
from bot.i18n.texts import Texts
from bot.ports.clock import Clock
from bot.ports.model import Model
from bot.replies.rate_limit import ModelRateLimiter, Requester
from bot.runtime.retry import backoff

_RETRIES: Final = 2
_LONGEST_RETRY_AFTER: Final = 30.0  # seconds; if the backend asks for more, there is no retry
_TRANSIENT: Final = (ModelUnreachable, ModelTimeout, ModelBusy, ModelFailed, Truncated)

log = structlog.get_logger()


class BackendMetrics(Protocol):
    """Counts the backend's failures, by the name of the error's class."""

    def backend_failed(self, kind: str) -> None:
        """Count a request that failed."""

    def backend_retried(self, kind: str) -> None:
        """Count a further request, to this or another model, by the failure before it."""


@dataclass(frozen=True, slots=True)
class FallbackPolicy:
    """What to do when a model does not answer.

    Attributes:
        fallback: the model that is asked instead; None for none.
        patience: seconds for which a completion may wait for used up quotas, in all.
    """

    fallback: ModelCard | None = None
    patience: float = 120.0


class Completions:
    """Makes completions, and keeps what they share.

    Attributes:
        model: the backend.
        clock: measures the waits.
        metrics: counts the backend's failures.
        policy: what to do when a model does not answer.
    """

    def __init__(
        self, model: Model, clock: Clock, metrics: BackendMetrics, policy: FallbackPolicy
    ) -> None:
        self.model = model
        self.clock = clock
        self.metrics = metrics
        self.policy = policy
        self._calibration = Calibration()
        self._limiters: dict[str, ModelRateLimiter] = {}

    def limiter(self, card: ModelCard) -> ModelRateLimiter:
        """Return the model's rate limiter, the same for all completions."""
        return self._limiters.setdefault(card.id, ModelRateLimiter(self.clock, card.id))

    def longest_request(self, card: ModelCard) -> int:
        """Return how many characters a request to the model may have."""
        return self._calibration.longest_request(card, self.model.context_length(card))

    def learn(self, card: ModelCard, request: Sequence[Turn], usage: Usage) -> None:
        """Learn from the backend's count how many characters one of the model's tokens has."""
        self._calibration.learn(card.id, size(request), usage.prompt_tokens)

    def learn_limit(self, card: ModelCard, limit: int) -> None:
        """Learn that a request of at most `limit` characters was too long for the model."""
        if self.longest_request(card) >= limit:  # else it has been learnt from another request
            self._calibration.step_down(card.id)

    def begin(self, turns: Sequence[Turn], card: ModelCard) -> "CompletionRunner":
        """Prepare the completion of `turns`; nothing is requested yet.

        Args:
            turns: system prompt, earlier turns and prompt. The oldest are left out if all are too
                long for the model that is asked.
            card: the model that is asked first.
        """
        return CompletionRunner(self, turns, card)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """One request to a model, made or still to be made.

    Attributes:
        card: the model.
        requester: this completion at the model's rate limiter.
        delay: seconds to wait before it.
        turns: the turns that fit the model; None while that is not known.
        limit: characters that the request could have when its turns were chosen.
        shortened: whether the backend has refused a longer request as too long.
        failures: how many earlier attempts at this model failed, those apart that its quota
            refused.
        failed: the error's name of the attempt before it, "" for the first one at a model.
        instead_of: the failure of the model that was asked first, for an attempt at the fallback.
    """

    card: ModelCard
    requester: Requester
    delay: float = 0.0
    turns: Sequence[Turn] | None = None
    limit: int = 0
    shortened: bool = False
    failures: int = 0
    failed: str = ""
    instead_of: CompletionError | None = None


class CompletionRunner:
    """One completion: a loop over attempts until one is answered.

    Nothing is attempted again once the first word has been passed on: it may have been seen.

    - The model's quota is used up (429): the completion waits in the queue of the model's
      `ModelRateLimiter`.
    - The failure may be transient (no connection, no byte in time, 5xx, a stream that broke off):
      two more attempts, after one and two seconds, or after what the backend asks for.
    - The backend finds the request too long: one more attempt, with fewer turns.
    - The model cannot answer for any reason but a prompt that is too long: the fallback model is
      asked in the same way. If it cannot answer either, the first model's failure is raised.
    """

    def __init__(self, shared: Completions, turns: Sequence[Turn], card: ModelCard) -> None:
        self._shared = shared
        self._turns = turns
        self._card = card
        self._attempt: _Attempt | None = None
        self._started = False  # the first word has been passed on

    def status(self, texts: Texts) -> str:
        """Return the sentence for the person who waits for the first word."""
        position = self._attempt.requester.position if self._attempt else None
        if position is not None:
            return texts("in demand", place=position)
        retrying = self._attempt is not None and self._attempt.failures > 0
        return texts("trying again" if retrying else "working")

    async def stream(self) -> AsyncGenerator[Delta, None]:
        """Yield the deltas of the one attempt that is answered; call it once.

        Before the first word of a fallback comes a `FallbackDelta`.

        Raises:
            CompletionError: no model has answered, or the answer broke off.
        """
        shared = self._shared
        deadline = shared.clock.monotonic() + shared.policy.patience
        self._attempt = attempt = self._first_attempt(self._card)
        try:
            while True:
                try:
                    self._attempt = attempt = await self._prepare(attempt, deadline)
                    request = merged(attempt.turns or ())
                    async with aclosing(shared.model.stream(request, attempt.card)) as deltas:
                        async for delta in deltas:
                            if not self._started and isinstance(delta, TextDelta):
                                self._started = True
                                attempt.requester.answered()
                                if attempt.instead_of is not None:
                                    yield FallbackDelta(attempt.card, self._card)
                            elif isinstance(delta, UsageDelta):
                                shared.learn(attempt.card, request, delta.usage)
                            yield delta
                except CompletionError as error:
                    self._attempt = attempt = self._next_attempt(attempt, error)
                else:
                    attempt.requester.answered()
                    return
        finally:
            attempt.requester.leave()

    def _first_attempt(
        self, card: ModelCard, instead_of: CompletionError | None = None
    ) -> _Attempt:
        requester = self._shared.limiter(card).add()
        return _Attempt(card=card, requester=requester, instead_of=instead_of)

    async def _prepare(self, attempt: _Attempt, deadline: float) -> _Attempt:
        """Wait until it is time for the attempt; return it with the turns to send.

        Raises:
            ModelLimited: that would not be before `deadline` (monotonic seconds).
            PromptTooLong: the prompt alone is too long for the model.
        """
        if attempt.delay:
            await self._shared.clock.sleep(attempt.delay)
        if not attempt.shortened and not await attempt.requester.acquire(deadline):
            raise ModelLimited("the quota stayed used up for as long as one may wait")
        if attempt.failed:
            self._shared.metrics.backend_retried(attempt.failed)
        if attempt.turns is not None:
            return attempt
        limit = self._shared.longest_request(attempt.card)
        return replace(attempt, turns=fit(self._turns, limit), limit=limit)

    def _next_attempt(self, attempt: _Attempt, error: CompletionError) -> _Attempt:
        """Return the attempt after a failed one.

        Raises:
            CompletionError: no other attempt may help.
        """
        if attempt.turns is not None:  # else nothing was requested
            self._shared.metrics.backend_failed(_name(error))
            following = self._shortened(attempt, error) or self._retry(attempt, error)
            if following is not None:
                return following
        if self._started:
            raise error
        return self._fallback(attempt, error)

    def _shortened(self, attempt: _Attempt, error: CompletionError) -> _Attempt | None:
        """Return an attempt with fewer turns, if the backend found the request too long."""
        if attempt.shortened or not isinstance(error, PromptTooLongForModel):
            return None
        self._shared.learn_limit(attempt.card, attempt.limit)
        if self._started:
            return None
        limit, length = self._shared.longest_request(attempt.card), size(attempt.turns or ())
        if limit >= length:  # the same turns would be sent again
            limit = length * 3 // 4
        try:
            turns = fit(self._turns, limit)
        except PromptTooLong:
            return None
        return replace(attempt, delay=0.0, turns=turns, shortened=True, failed=_name(error))

    def _retry(self, attempt: _Attempt, error: CompletionError) -> _Attempt | None:
        """Return another attempt at the same model, if that may help."""
        again = replace(attempt, delay=0.0, turns=None, shortened=False, failed=_name(error))
        if isinstance(error, ModelLimited):
            attempt.requester.limited(error.retry_after)
            return None if self._started else again
        attempt.requester.failed()
        if self._started or not _may_pass(error) or attempt.failures == _RETRIES:
            return None
        delay = (error.retry_after or 0.0) + backoff(attempt.failures)
        log.info("asking again", reason=str(error), retry_in=round(delay, 1))
        return replace(again, delay=delay, failures=attempt.failures + 1)

    def _fallback(self, attempt: _Attempt, error: CompletionError) -> _Attempt:
        """Return the first attempt at the fallback model.

        Raises:
            CompletionError: there is none, or it cannot help, or it is the one that failed.
        """
        if attempt.instead_of is not None:
            log.warning("fallback failed", kind=_name(error), reason=str(error))
            raise attempt.instead_of from None
        fallback = self._shared.policy.fallback
        if fallback is None or fallback.id == self._card.id or isinstance(error, PromptTooLong):
            raise error
        self._shared.metrics.backend_retried(_name(error))
        log.warning("falling back", to=fallback.id, reason=str(error))
        attempt.requester.leave()
        return self._first_attempt(fallback, instead_of=error)


def _may_pass(error: CompletionError) -> bool:
    """Return whether the same request may succeed in a few seconds."""
    if isinstance(error, ModelWordless) or not isinstance(error, _TRANSIENT):
        return False
    return (error.retry_after or 0.0) <= _LONGEST_RETRY_AFTER


def _name(error: CompletionError) -> str:
    return type(error).__name__

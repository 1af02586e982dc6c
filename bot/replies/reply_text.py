"""The text of one reply: the model's words so far, and the bot's own lines around them."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

import structlog

from bot.core.chat import (
    Delta,
    FallbackDelta,
    FinishDelta,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    Usage,
    UsageDelta,
)
from bot.core.draft import Draft
from bot.core.first_words import LEAST
from bot.core.markdown import Part
from bot.core.readable import is_readable
from bot.errors import CompletionError
from bot.i18n.texts import Texts
from bot.monitoring.health import Health
from bot.monitoring.logs import costing_nothing, log_bug
from bot.ports.clock import Clock

_WHOLE = {None, "stop", "eos_token", "stop_sequence"}  # the last two are TGI's
_REMARKS = {"length": "cut by length", "content_filter": "cut by filter"}
# Other finish reasons that backends are known to send: what a log may hold of what one sends.
_KNOWN = {*_REMARKS, "tool_calls", "function_call", "model_length", "abort", "error"}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pace:
    """How soon and how often a reply is shown, in seconds.

    Attributes:
        first_after: from the model's first token to the first version without a whole sentence.
        edit_interval: from one version to the next.
        line_after: until the line for the person who waits is shown, and between two such lines.
        least: visible characters of the first version (no seconds).
    """

    first_after: float
    edit_interval: float
    line_after: float
    least: int = LEAST


class ReplyText:
    """Reads the model's deltas into a draft.

    Attributes:
        draft: the model's words for the present prompt.
        model: id of the model that answers.
        above: lines of the bot before the model's words.
        texts: the sentences of the bot, in the person's language.
        usage: the backend's count, if it has sent one.
        has_failed: whether a completion has failed, so that the reply is not whole.
    """

    def __init__(self, *, clock: Clock, health: Health, pace: Pace, texts: Texts) -> None:
        self.texts = texts
        self.model = ""
        self.above = tuple[str, ...]()
        self.usage: Usage | None = None
        self.has_failed = False
        self._clock = clock
        self._health = health
        self._pace = pace
        self._below: list[str] = []
        self._shown_at: float | None = None
        self._reading: asyncio.Task[None] | None = None
        self.draft = self._new_draft()

    @property
    def below(self) -> Sequence[str]:
        """Lines of the bot behind the model's words."""
        return self._below

    def speak(self, texts: Texts) -> None:
        """Use these sentences from now on."""
        self.texts = texts

    def begin(self, model: str, above: Sequence[str], below: Sequence[str]) -> None:
        """Begin with an empty draft.

        Args:
            model: id of the model that answers.
            above: lines of the bot before the model's words.
            below: lines of the bot behind them.
        """
        self.model, self.above, self._below = model, tuple(above), list(below)
        self.draft = self._new_draft()

    def restart(self) -> None:
        """Drop what the model has said so far: what nobody has seen of it is never shown."""
        self.draft = self._new_draft()

    def interrupt(self) -> None:
        """Read no more of the present completion."""
        if self._reading is not None:
            self._reading.cancel()

    def fail(self, key: str) -> None:
        """End without the model, with the sentence named `key`."""
        self.has_failed = True
        self._below = [*self._below, self.texts(key)]

    def note_shown(self, draft: Draft, version: str) -> None:
        """Note that a version of a draft stands in the room since now.

        Args:
            draft: the draft that was shown; there may be another one by now.
            version: its text.
        """
        self._shown_at = self._clock.monotonic()
        draft.shown(version, self._shown_at)

    async def parts(self, text: str) -> tuple[Sequence[Part], Part]:
        """Return the full parts of a version of the present draft, and the one behind them."""
        cuts = self.draft.cuts(text)
        for _ in cuts.more(text):
            await asyncio.sleep(0)  # a long text has many
        return cuts.full, cuts.rest(text)

    async def read(self, deltas: AsyncGenerator[Delta, None], on_text: Callable[[], None]) -> None:
        """Read deltas until the completion ends or fails, or reading is interrupted.

        Args:
            deltas: of one completion; they are closed in the end.
            on_text: called after each delta of text.
        """
        self._reading = asyncio.get_running_loop().create_task(self._take(deltas, on_text))
        try:
            await asyncio.wait([self._reading])
        finally:
            self._reading.cancel()
            await asyncio.wait([self._reading])
            await deltas.aclose()
        if not self._reading.cancelled():
            self._reading.result()

    async def _take(
        self, deltas: AsyncGenerator[Delta, None], on_text: Callable[[], None]
    ) -> None:
        try:
            reason = await self._add(deltas, on_text)
        except CompletionError as error:
            self.has_failed = True
            log.warning("completion failed", kind=type(error).__name__, reason=str(error))
            self._below.append(self.texts(error.key, **error.values))
        except Exception as error:  # noqa: BLE001  # even then, what stands must not look whole
            log_bug(error)
            self.has_failed = True
            self._below.append(self.texts("bug"))
        else:
            self._remark(reason)

    async def _add(
        self, deltas: AsyncGenerator[Delta, None], on_text: Callable[[], None]
    ) -> str | None:
        """Add the deltas to the draft; return the finish reason, None if none has come."""
        reason: str | None = None
        usage: Usage | None = None
        try:
            async for delta in deltas:
                match delta:
                    case TextDelta():
                        self.draft.add(delta.text, self._clock.monotonic())
                        on_text()
                    case ThinkingDelta() | ToolCallDelta():
                        pass  # not shown
                    case FinishDelta():
                        reason = delta.reason
                    case UsageDelta():
                        usage = delta.usage
                    case FallbackDelta():
                        self._fall_back(delta)
                    case _:
                        assert_never(delta)
        finally:
            self._count(usage)  # the tokens are spent, whatever becomes of the reply
        return reason

    def _count(self, usage: Usage | None) -> None:
        if usage is not None:
            self.usage = usage
            with costing_nothing():
                self._health.spent(self.model, usage.prompt_tokens, usage.completion_tokens)

    def _remark(self, reason: str | None) -> None:
        """Add the sentence that says what a completion with this finish reason lacks."""
        if reason not in _WHOLE:  # a reason that no specification has must not look whole
            log.info("completion cut", finish_reason=reason if reason in _KNOWN else "unknown")
            self._below.append(self.texts(_REMARKS.get(reason or "", "model truncated")))
        if not is_readable(self.draft.text):
            self.has_failed = True
            unseen = "model unreadable" if self.draft.text.strip() else "model empty"
            self._below.append(self.texts(unseen))

    def _fall_back(self, to: FallbackDelta) -> None:
        """Record that the fallback model answers, and add the remark."""
        self.model, label = to.card.id, to.card.label
        self._below.append(self.texts("fallback", label=label, missing=to.instead_of.label))

    def _new_draft(self) -> Draft:
        pace = self._pace
        draft = Draft(
            first_after=pace.first_after, edit_interval=pace.edit_interval, least=pace.least
        )
        if self._shown_at is not None:
            draft.postpone(self._shown_at + pace.edit_interval)
        return draft

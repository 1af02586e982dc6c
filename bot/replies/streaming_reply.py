"""One reply to one prompt: opened, shown while the model speaks, and brought to its end."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import structlog

from bot.core.chat import Delta, Usage
from bot.core.events import EventId, Message, Prompt
from bot.core.reply_state import (
    Found,
    PriorState,
    Reason,
    Restarting,
    can_restart,
    can_stop,
    ends_early,
    is_outdated,
    is_visible,
    reason_of,
)
from bot.errors import FatalError
from bot.i18n.texts import Texts
from bot.monitoring.health import Health
from bot.monitoring.logs import costing_nothing
from bot.ports.clock import Clock
from bot.ports.ledger import Store
from bot.ports.matrix import Matrix
from bot.replies.delivery import DeliveryClosed, ReplyDelivery
from bot.replies.final_version import FinalVersion
from bot.replies.lifecycle import ReplyLifecycle
from bot.replies.live_edits import LiveEdits
from bot.replies.outbox import Outbox
from bot.replies.outcome import Outcome
from bot.replies.reply_messages import ReplyMessages
from bot.replies.reply_text import Pace, ReplyText

log = structlog.get_logger()


class StreamingReply:
    """The reply to one prompt.

    `ReplyText` reads the model, `LiveEdits` shows the text while it grows, `FinalVersion` ends
    it; all send through `ReplyMessages`, `Outbox` and `ReplyDelivery`.

    Attributes:
        found: set when it is known what stands of the reply.
        outcome: how the reply came about, once it stands.
    """

    def __init__(
        self,
        *,
        matrix: Matrix,
        store: Store,
        clock: Clock,
        pace: Pace,
        health: Health,
        prompt: Prompt,
        texts: Texts,
        before: PriorState = PriorState.NOTHING,
    ) -> None:
        """Prepare the reply.

        Args:
            matrix: the port that sends it.
            store: the ledger that claims its prompt.
            clock: measures waits and pace.
            pace: how soon and how often it is shown.
            health: told of its figures.
            prompt: the prompt to answer.
            texts: the sentences of the bot, until `speak` names others.
            before: what is known of earlier work on the reply.
        """
        self.found = asyncio.Event()
        self.outcome: Outcome | None = None
        self._matrix = matrix
        self._clock = clock
        self._health = health
        self._before = before
        self._lifecycle = lifecycle = ReplyLifecycle(before)
        self._text = text = ReplyText(clock=clock, health=health, pace=pace, texts=texts)
        self._delivery = delivery = ReplyDelivery(
            matrix=matrix,
            store=store,
            clock=clock,
            prompt=prompt,
            is_closed=lambda: lifecycle.is_closed,
        )
        self._outbox = Outbox(
            matrix=matrix, store=store, clock=clock, health=health, delivery=delivery
        )
        self._messages = ReplyMessages(
            clock=clock, health=health, lifecycle=lifecycle, text=text, delivery=delivery
        )
        self._edits = LiveEdits(
            clock=clock,
            pace=pace,
            lifecycle=lifecycle,
            text=text,
            delivery=delivery,
            messages=self._messages,
        )
        self._final = FinalVersion(
            lifecycle=lifecycle,
            text=text,
            delivery=delivery,
            messages=self._messages,
            outbox=self._outbox,
        )

    @property
    def visible(self) -> bool:
        """Whether something of the reply may be visible in the room."""
        return is_visible(self._lifecycle.state)

    @property
    def ended(self) -> asyncio.Event:
        """Set when the reply ends before the model does."""
        return self._lifecycle.ended

    @property
    def usage(self) -> Usage | None:
        """The backend's count, where it has sent one."""
        return self._text.usage

    @property
    def event_ids(self) -> Sequence[EventId]:
        """The reply's messages, by part."""
        return self._delivery.event_ids

    @property
    def left_out(self) -> tuple[Message, ...]:
        """The messages of the prompt that a reply of an earlier process does not answer."""
        return self._delivery.left_out

    @property
    def first_words_at(self) -> float | None:
        """When words of the model were first visible, in the clock's monotonic seconds."""
        seconds = self._messages.first_words
        return None if seconds is None else self._messages.begun_at + seconds

    @property
    def prompt(self) -> Prompt:
        """The prompt that is answered."""
        return self._delivery.prompt

    @property
    def doubtful(self) -> bool:
        """Whether the reply may stand unfound, and was not asked for again."""
        return self._lifecycle.prior.is_doubtful

    @property
    def unseen(self) -> bool:
        """Whether the prompt may still change, and nothing of the reply is visible."""
        return can_restart(self._lifecycle.state) and not (self.visible or self.doubtful)

    def tells_of(self, event_id: EventId) -> bool:
        """Return whether the reply may answer the message, or the event is one of the reply's."""
        return event_id in {*self.prompt.event_ids, *self._delivery.answered, *self.event_ids}

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Show the reply while the block makes it, and its final version after that.

        A reply that cannot be brought to its end is marked, whatever has failed.

        Raises:
            Unmarked: something stands, and could not be marked.
            Exception: what failed, where nothing stands that could be marked.
        """
        try:
            failure = await self._open()
        finally:
            self.found.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(failure))
                yield
                self._lifecycle.finish()
                self._edits.look()
        except ExceptionGroup as group:
            self._lifecycle.finish()
            await self._final.fall_short(group.exceptions[0])  # the one that ended the other
        finally:
            self._lifecycle.finish()

    async def _open(self) -> Exception | None:
        """Find out what stands of the reply; return what has kept it from being found."""
        failure, found = None, Found.NOTHING
        try:
            found, unsent = await self._delivery.open(self._before)
            self._outbox.restore(unsent)
        except FatalError:
            self._lifecycle.finish()  # no further message can join the prompt
            raise
        except Exception as error:  # noqa: BLE001  # what stands must not look whole even then
            failure = error
            self.abandon()
        except BaseException:
            self._lifecycle.finish()
            raise
        stands = bool(self.event_ids) or self._before is PriorState.WHOLE
        self._lifecycle.open(found, visible=stands)
        return failure

    async def settled(self) -> bool:
        """Return whether the model need not be asked.

        Either an earlier process knew the final version, or the reply is closed.
        """
        if ends_early(self._lifecycle.state):
            return self._lifecycle.is_closed
        with suppress(DeliveryClosed):
            while True:
                prior, prompt = self._lifecycle.prior, self.prompt
                settled = await self._outbox.is_settled(prior)
                if self._lifecycle.prior == prior and self.prompt is prompt:
                    return settled or self.doubtful  # else the prompt has changed meanwhile
        return False

    def speak(self, texts: Texts) -> None:
        """Use these sentences of the bot from now on."""
        self._text.speak(texts)

    def say(self, line: Callable[[], str]) -> None:
        """Show a line of the bot, after a while, as long as there is nothing else to see.

        Args:
            line: returns the line, whenever one is due.
        """
        self._edits.say(line)

    async def begin(
        self, prompt: Prompt, model: str, above: Sequence[str], below: Sequence[str]
    ) -> None:
        """Begin with the model's answer to `prompt`, unless it is not wanted any more.

        Args:
            prompt: the prompt; it may hold more messages than before.
            model: id of the model that is asked.
            above: lines of the bot before the text.
            below: lines of the bot behind it.
        """
        if self._lifecycle.is_closed or is_outdated(self._lifecycle.state):
            return
        self._delivery.change_prompt(prompt)
        await self._delivery.begin_text()
        self._text.begin(model, above, below)

    async def read(self, deltas: AsyncGenerator[Delta, None]) -> None:
        """Read deltas until the completion ends or fails, or nobody wants it any more."""
        state = self._lifecycle.state
        if can_restart(state) and not is_outdated(state):
            await self._text.read(deltas, self._edits.look)

    def fail(self, key: str) -> None:
        """End without the model, with the sentence named `key` below what stands."""
        self._text.fail(key)

    def restart(self, prompt: Prompt | None = None) -> bool:
        """Have the model asked anew, as the prompt has changed.

        What the model has said so far and nobody has seen is never shown.

        Args:
            prompt: the prompt, where its messages are not the same any more.

        Returns:
            False if it is too late for that.
        """
        if not can_restart(self._lifecycle.state):
            return False
        self._delivery.change_prompt(prompt or self._delivery.prompt)
        self._lifecycle.restart(same_messages=prompt is None)
        self._text.restart()
        self._interrupt()
        return True

    def restarted(self) -> bool:
        """Return whether the model must be asked anew, and note that it is about to be."""
        is_restarting = isinstance(self._lifecycle.state, Restarting)
        self._lifecycle.ask_again()
        return is_restarting

    def stop(self, reason: Reason = Reason.STOPPED) -> bool:
        """Keep what stands, and mark it.

        Of a text that is far longer than what stands, one more message is shown, and no others.

        Args:
            reason: names the sentence of the mark.

        Returns:
            False if it is too late for that.
        """
        if not can_stop(self._lifecycle.state, several_missing=self._final.lacks_several):
            return False
        if reason is Reason.STOPPED and self._matrix.room(self.prompt.room_id).direct:
            reason = Reason.STOPPED_DIRECT
        self._lifecycle.interrupt(reason)
        self._interrupt()
        return True

    def abandon(self) -> None:
        """Mark what an earlier process has left in the room, and ask no model."""
        if not ends_early(self._lifecycle.state):
            self._lifecycle.interrupt(Reason.ABANDONED)
            self._interrupt()

    def silence(self) -> None:
        """Send nothing more but what is on its way."""
        self._lifecycle.close()
        self._interrupt()

    def _interrupt(self) -> None:
        self._text.interrupt()
        self._edits.look()

    async def _write(self, failure: Exception | None) -> None:
        """Show the reply until it is whole."""
        with suppress(DeliveryClosed):
            await self._edits.run()
            if not self._lifecycle.is_closed:
                await self._finish(failure)

    async def _finish(self, failure: Exception | None) -> None:
        """Bring the reply to its final version."""
        lifecycle = self._lifecycle
        lifecycle.show()
        if failure is not None:
            raise failure
        if await self._outbox.send_settled(lifecycle.prior):
            events = self._delivery.sent_events
            log.info("reply stands", parts=len(self.event_ids), events=events)
            self.outcome = Outcome(whole=True) if self.event_ids else None
        elif reason_of(lifecycle.state) is Reason.ABANDONED:
            await self._final.mark(self._text.texts("model truncated"))
        elif self.doubtful:
            await self._final.send_notice(self._text.texts("perhaps answered"))
        else:
            text = await self._final.complete()
            if text is not None:
                with costing_nothing():
                    self._report(text)

    def _report(self, text: str) -> None:
        """Report the reply to the log and the metrics, and keep its outcome."""
        edits, events = self._edits.count, self._delivery.sent_events
        log.info(
            "reply sent",
            parts=len(self.event_ids),
            edits=edits,
            events=events,
            characters=len(text),
            tokens=self.usage.completion_tokens if self.usage else None,
        )
        seconds = self._clock.monotonic() - self._messages.begun_at
        self._health.replied(seconds, edits, events)
        self.outcome = Outcome(
            whole=not (ends_early(self._lifecycle.state) or self._text.has_failed),
            model=self._text.model,
            first_words=self._messages.first_words,
            seconds=seconds,
            characters=len(text),
            usage=self.usage,
        )

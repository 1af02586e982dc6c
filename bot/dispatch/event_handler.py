"""Work on one event: perform its intent once, and record in the ledger that it is done."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

import structlog

from bot.core.events import (
    Conversation,
    Event,
    EventId,
    Message,
    Pending,
    Prompt,
)
from bot.core.intents import (
    Answer,
    Comment,
    HandleEdit,
    HandleRedaction,
    Intent,
    Rate,
    RecordVote,
    Run,
    SendNotice,
    Stop,
    Welcome,
)
from bot.core.reply_state import PriorState
from bot.dispatch.prompt_changes import PromptChanges
from bot.dispatch.usage_limits import UsageLimits
from bot.monitoring.error_boundary import error_boundary
from bot.monitoring.logs import costing_nothing, log_bug
from bot.ports.ledger import Store
from bot.ports.matrix import Matrix
from bot.replies.final_version import Unmarked
from bot.replies.generations import ActiveGenerations, Generation
from bot.replies.notices import Notifier
from bot.replies.responder import Responder
from bot.replies.scheduler import Slot

log = structlog.get_logger()

Work = Callable[[], Awaitable[None]]


class EventHandler:
    """Performs the intent of each event, and records in the ledger that it is done."""

    def __init__(
        self,
        *,
        matrix: Matrix,
        store: Store,
        generations: ActiveGenerations,
        usage_limits: UsageLimits,
        prompt_changes: PromptChanges,
        responder: Responder,
        notifier: Notifier,
    ) -> None:
        self._matrix = matrix
        self._store = store
        self._generations = generations
        self._usage_limits = usage_limits
        self._prompt_changes = prompt_changes
        self._responder = responder
        self._notifier = notifier
        self._storing: dict[EventId, asyncio.Event] = {}  # set when it is in the ledger
        prompt_changes.answer = partial(self._answer_also, prior=PriorState.WHOLE)

    def bind(
        self,
        tasks: asyncio.TaskGroup,
        *,
        perform: Callable[[Intent], Awaitable[None]],
        apologise: Callable[[Intent], Awaitable[None]],
        answered: Callable[[Generation], Awaitable[None]],
    ) -> None:
        """Run the work of each event in `tasks`.

        Args:
            tasks: the tasks of this run.
            perform: performs an intent other than `Answer`.
            apologise: tells the person that there is no answer; it raises only a FatalError.
            answered: records how a finished reply was made.
        """
        self._tasks = tasks
        self._perform = perform
        self._apologise = apologise
        self._answered = answered

    def start(
        self, event: Event, intent: Intent, remarks: Sequence[str], pending: Pending | None
    ) -> None:
        """Start to perform an intent; answers and welcomes join the scheduler's queue at once.

        Args:
            event: the event.
            intent: the intent of the event.
            remarks: lines of the bot that a reply to the event carries.
            pending: the event as an earlier process left it; None for a new event.
        """
        generation = None
        if isinstance(intent, Answer) and self._generations.of(event.room_id, event.event_id):
            return  # an edit or `!refaire` has started it already
        intent = self._usage_limits.admit(intent, pending, late=bool(remarks))
        if isinstance(intent, Welcome):
            lane = Conversation(intent.room_id, None)
            slot = self._generations.scheduler.queue(lane, self._matrix.user_id, free=True)
            work: Work = partial(self._perform_in, slot, intent)
        elif isinstance(intent, Answer):
            begun, joined_to = (pending.begun, pending.joined_to) if pending else (False, None)
            separate = begun and joined_to is None  # it has its own reply
            first = None if separate else self._generations.join(intent.prompt, joined_to)
            if first is not None:
                first.remarks += [one for one in remarks if one not in first.remarks]
                self._tasks.create_task(self._attend(intent.prompt, first))
                return
            prior = PriorState.NOTHING
            if pending is not None:
                prior = PriorState.BEGUN if begun else PriorState.PERHAPS
            generation = self._generations.begin(intent.prompt, remarks, prior)
            work = partial(self._responder.answer, generation)
        else:
            work = self._perform_now(event.event_id, intent)
            if pending is not None and pending.begun and isinstance(event, Message):
                work = partial(self._instead, event, intent, work)
        if pending is not None:
            self._notifier.doubtful.add(event.event_id)
        self._tasks.create_task(self._handle(event, intent, work, generation))

    def _perform_now(self, event_id: EventId, intent: Intent) -> Work:
        """Do at once the steps that must precede other events; return the rest of the work."""
        match intent:
            case HandleRedaction(redaction):
                self._prompt_changes.interrupt(redaction)
            case Run(prompt):
                self._generations.complete(prompt.conversation)
            case Stop(reaction):
                self._generations.complete_of(reaction.room_id, reaction.target)
            case HandleEdit(edit) if again := self._prompt_changes.restart(edit):
                return partial(_wait, again)  # until then the edit is unfinished as well
        if isinstance(intent, Run | Comment | Rate | RecordVote | HandleEdit):
            self._storing.setdefault(event_id, asyncio.Event())
        return partial(self._perform, intent)

    async def _perform_in(self, slot: Slot, intent: Intent) -> None:
        """Perform an intent in the room's order, before the answers that are queued after it."""
        async with slot:
            await self._perform(intent)

    async def _handle(
        self, event: Event, intent: Intent, work: Work, generation: Generation | None
    ) -> None:
        """Do the work of an event, and record that it is done."""
        with structlog.contextvars.bound_contextvars(
            event_id=event.event_id, room_id=event.room_id
        ):
            try:
                done = await self._do(event, intent, work)
                self._usage_limits.spoke(intent)
                if done:
                    await self._note_done(event, generation)
            finally:
                self._notifier.doubtful.discard(event.event_id)
                self.note_stored(event.event_id)
                if generation is not None:
                    self._generations.finish(generation)
        if generation is not None and generation.reply.left_out:
            rest = self._prompt_changes.without_redacted(generation.reply.left_out)
            prior = PriorState.PERHAPS if generation.reply.doubtful else PriorState.NOTHING
            if rest:
                await self._answer_also(replace(generation.prompt, messages=rest), prior)

    async def _note_done(self, event: Event, generation: Generation | None) -> None:
        """Record how the reply was made; then, even after a bug in that, that the event is done.

        An event that is not recorded as done is resumed at the next start, which finds the
        messages that were sent.
        """
        done = generation.done_with if generation else ()
        if generation is not None:
            with costing_nothing():
                await self._answered(generation)
        with costing_nothing():
            await self._store.finish(*dict.fromkeys((event.event_id, *done)))

    async def _do(self, event: Event, intent: Intent, work: Work) -> bool:
        """Do the work of an intent; all errors except fatal ones end here.

        Returns:
            True if nothing is left for the next start.
        """
        log.info("decided", heard=type(event).__name__, intent=type(intent).__name__)
        apologise = partial(self._apologise, intent)
        async with error_boundary(give_up=apologise):
            try:
                await work()
            except Unmarked:
                log.error("reply left unmarked")  # noqa: TRY400  # the cause is in the log already
                await apologise()
                return False
        return True

    async def _answer_also(self, prompt: Prompt, prior: PriorState = PriorState.NOTHING) -> None:
        """Answer a prompt for which no event is being handled."""
        generation = self._generations.begin(prompt, before=prior)
        work = partial(self._responder.answer, generation)
        await self._handle(prompt.messages[0], Answer(prompt), work, generation)

    async def _instead(self, message: Message, intent: Intent, work: Work) -> None:
        """Mark the reply that an earlier process began for the message, then do the work."""
        root = message.thread_root
        prompt = Prompt((message,), Conversation(message.room_id, root), root)
        if isinstance(intent, Run | SendNotice):
            prompt = intent.prompt
        generation = self._generations.begin(prompt, before=PriorState.BEGUN)
        generation.reply.abandon()
        try:
            await self._responder.answer(generation)
        finally:
            self._generations.finish(generation)
        self._notifier.unanswered.add(message.event_id)
        try:
            await work()
        finally:
            self._notifier.unanswered.discard(message.event_id)

    async def _attend(self, prompt: Prompt, first: Generation) -> None:
        """Show that a message which joined an earlier one is read and being answered."""
        try:
            async with self._matrix.attention(prompt):
                await first.done.wait()
        except Exception as error:  # noqa: BLE001  # without this display the bot still works
            log_bug(error)

    def is_doubtful(self, event_id: EventId) -> bool:
        """Return whether an earlier process may have handled the event."""
        return event_id in self._notifier.doubtful

    def note_stored(self, event_id: EventId) -> None:
        """Record that the content of an event is in the ledger, or never will be."""
        if (storing := self._storing.pop(event_id, None)) is not None:
            storing.set()

    async def stored(self, event_id: EventId) -> None:
        """Wait until the content of an event that is being handled is in the ledger.

        Before that, an edit or a redaction of the event would find nothing to change.
        """
        if (storing := self._storing.get(event_id)) is not None:
            await storing.wait()


async def _wait(generation: Generation) -> None:
    await generation.done.wait()

"""The way of a message: heard, decided, answered by edits. Read this first."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NoReturn

import structlog

from bot.campaigns.sender import Campaigns
from bot.commands import registry
from bot.commands.registry import About, Call, Desk
from bot.core.events import (
    Conversation,
    Edit,
    Event,
    EventId,
    Invite,
    Message,
    Pending,
    Prompt,
    Redaction,
    RoomId,
    Upgraded,
)
from bot.core.feedback import AskPolicy
from bot.core.intents import (
    Accept,
    Answer,
    Comment,
    Decline,
    FollowUpgrade,
    HandleEdit,
    HandleRedaction,
    Hint,
    Ignore,
    Intent,
    Leave,
    Rate,
    RecordVote,
    Redo,
    Refuse,
    Run,
    SendNotice,
    Stop,
    Welcome,
)
from bot.core.limits import Limits
from bot.core.markdown import render
from bot.core.model_catalog import ModelCard
from bot.core.outgoing import Notice, transaction_id
from bot.core.routing import Policy, parse_command
from bot.dispatch.dispatcher import EventDispatcher
from bot.dispatch.intent_resolver import IntentResolver
from bot.dispatch.pending_decryption import PendingDecryption
from bot.dispatch.prompt_changes import PromptChanges
from bot.dispatch.usage_limits import UsageLimits
from bot.errors import FatalError, Forbidden, MatrixError
from bot.feedback.collector import FeedbackCollector
from bot.i18n.texts import speak
from bot.monitoring.logs import costing_nothing, log_bug
from bot.notices.clear_text import ClearText
from bot.notices.mention_hint import MentionHint
from bot.notices.unsigned_devices import LeftOut
from bot.notices.verification import Verifications
from bot.ports.clock import Clock
from bot.ports.ledger import Store
from bot.ports.matrix import Matrix
from bot.ports.model import Model
from bot.ports.statistics import Ledgers
from bot.replies.completion import Completion
from bot.replies.completion_attempts import FallbackPolicy
from bot.replies.context_builder import Contexts, Settings
from bot.replies.delivery import PriorState, Replying, Unmarked, hidden_messages
from bot.replies.generations import ActiveGenerations, Generation
from bot.replies.scheduler import Slot
from bot.rooms import open_admin_room
from bot.runtime.failpoints import armed
from bot.runtime.retry import retry_until_accepted

_SKEW = 5.0  # seconds by which the homeserver's clock may be ahead of ours
_PATIENCE_AT_START = 30.0  # for all that is left, while everything that is new waits

log = structlog.get_logger()

Work = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class AssistantSettings:
    """How the operator wants the assistant.

    Attributes:
        at_once: answers that are written at the same time, in all.
        feedback: who is asked whether a reply has helped, and when.
        fallback: who answers where the model that was chosen cannot; None for nobody.
        queue_timeout: seconds for which an answer waits while a model's quota is used up.
        join_seconds: within which a message follows the one before to be of one prompt.
        share: the part of `at_once` that is one person's, or one room's, while others wait.
        limits: what one person may ask for.
    """

    policy: Policy
    settings: Settings
    about: About
    at_once: int
    feedback: AskPolicy
    fallback: ModelCard | None = None
    queue_timeout: float = 120.0
    join_seconds: float = 60.0
    share: float = 0.25
    limits: Limits = field(default_factory=Limits)


class _Drained(Exception):  # ends one run, never leaves this module
    """What was being written has come to its end."""


class Assistant:
    """Hears the account's rooms and does what each event asks for, each event to its end."""

    def __init__(
        self, model: Model, ledgers: Ledgers, replying: Replying, how: AssistantSettings
    ) -> None:
        self._to = replying
        self._matrix: Matrix = replying.matrix
        self._store: Store = replying.store
        self._clock: Clock = replying.clock
        self._age_limit, self._admins = how.policy.age_limit, how.policy.admins
        self._texts = speak(how.settings.language)
        self._intent_resolver = IntentResolver(self._matrix, self._clock, how.policy)
        recourse = FallbackPolicy(self._clock, replying.health, how.fallback, how.queue_timeout)
        self._completion = Completion(model, recourse)
        self._contexts = Contexts(
            self._matrix, self._store, self._clock, self._completion, how.settings
        )
        self._generations = ActiveGenerations(
            replying, self._texts, how.at_once, how.join_seconds, how.share
        )
        self._usage_limits = UsageLimits(replying, self._generations, how.limits)
        again = partial(self._answer_also, before=PriorState.WHOLE)
        self._prompt_changes = PromptChanges(
            replying,
            self._generations,
            self._contexts,
            self._intent_resolver,
            self._usage_limits,
            again,
        )
        self._feedback = FeedbackCollector(
            replying, ledgers.opinions, self._generations, self._contexts, how.feedback
        )
        self._campaigns = Campaigns(replying, ledgers.campaigns, self._contexts, how.policy)
        self._desk = Desk(
            *(self._matrix, self._store, self._generations, self._prompt_changes, self._feedback),
            *(self._campaigns, ledgers.statistics, ledgers.exports, how.settings.catalogue),
            *(how.about, self._clock, how.policy.admins),
        )
        self._clear_text = ClearText(self._store, self._clock)
        self._verifications = Verifications(replying, how.policy, self._texts)
        self._mention_hint = MentionHint(replying, self._contexts)
        self._thumbs = how.feedback.salons == "reactions" and how.feedback.when != "never"
        self._left_out = LeftOut(replying, self._texts)
        self._pending_decryption = PendingDecryption(
            self._matrix, self._store, self._clock, self._texts
        )
        self._restored = asyncio.Event()  # what an earlier process left has its place again
        self._synced = asyncio.Event()  # the rooms are known
        self._doubtful: set[EventId] = set()  # that an earlier process may have dealt with
        self._unanswered: set[EventId] = set()  # of these, to which no reply is an answer
        self._noting: dict[EventId, asyncio.Event] = {}  # set once what one says is taken in

    async def run(self, stopping: asyncio.Event | None = None) -> None:
        """Take in batch after batch; what an earlier process left unfinished comes first.

        Args:
            stopping: once it is set, nothing more is heard or begun; what is being written comes
                to its end, and the rest waits for the next start.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                start = partial(self._start, tasks)
                dispatcher = EventDispatcher(
                    self._to, self._intent_resolver, self._pending_decryption, tasks, start
                )
                tasks.create_task(self._pending_decryption.run(dispatcher.begin))
                tasks.create_task(self._feedback.run(self._synced))
                tasks.create_task(self._verifications.run())
                tasks.create_task(self._left_out.run())
                tasks.create_task(self._campaigns.run(self._synced))
                if self._admins:
                    opening = open_admin_room(self._to, self._admins, self._texts, self._synced)
                    tasks.create_task(opening)
                listening = tasks.create_task(self._listen(dispatcher))
                await self._drain(listening, stopping or asyncio.Event())
        except* _Drained:
            log.info("drained")

    async def _drain(self, listening: asyncio.Task[None], stopping: asyncio.Event) -> NoReturn:
        """End all once nothing is being written any more, from when it is asked for."""
        await stopping.wait()
        listening.cancel()
        self._restored.set()  # what was not restored by now is left to the next start
        await self._generations.drain()
        raise _Drained

    async def _listen(self, dispatcher: EventDispatcher) -> None:
        unfinished = await self._store.unfinished()
        # Of what was said before, an earlier process may know more than the ledger does. The
        # homeserver may hand it out in many responses, each as it did before.
        since = (self._clock.now() + _SKEW) * 1000
        async for batch in self._matrix.batches(await self._store.sync_token()):
            for room_id in batch.closed:
                self._generations.silence(room_id)
            until = self._clock.monotonic() + _PATIENCE_AT_START
            for left in unfinished:
                patience = max(until - self._clock.monotonic(), 0.0)
                await dispatcher.restore(left, patience)
            unfinished = ()
            self._restored.set()
            self._synced.set()
            asking = await self._intent_resolver.asking(batch.events)
            heard = replace(batch, events=tuple(asking))
            for event in await self._store.admit(heard, self._clock.now()):
                self._to.health.admitted(type(event).__name__)
                missed = batch.missed or getattr(event, "timestamp", math.inf) < since
                before_us = Pending(event.event_id, event.room_id) if missed else None
                dispatcher.begin(event, left=before_us)
            for room_id in batch.closed:
                self._generations.silence(room_id)
            self._pending_decryption.hear(batch.keys)
            self._verifications.hear(batch.verifications)
            self._left_out.hear(batch.left_out)

    def _start(
        self,
        tasks: asyncio.TaskGroup,
        event: Event,
        intent: Intent,
        remarks: Sequence[str],
        left: Pending | None,
    ) -> None:
        """Begin to do what the event asks for; answers and welcomes get their place at once."""
        answering = None
        if isinstance(intent, Answer) and self._generations.of(event.room_id, event.event_id):
            return  # a change of mind was quicker
        intent = self._usage_limits.admit(intent, left, late=bool(remarks))
        if isinstance(intent, Welcome):
            lane = Conversation(intent.room_id, None)
            ticket = self._generations.lanes.queue(lane, self._matrix.user_id, free=True)
            work: Work = partial(self._welcome, intent, ticket)
        elif isinstance(intent, Answer):
            begun, joined_to = (left.begun, left.joined_to) if left else (False, None)
            alone = begun and joined_to is None  # it has a reply of its own
            first = None if alone else self._generations.join(intent.prompt, joined_to)
            if first is not None:
                first.remarks += [one for one in remarks if one not in first.remarks]
                tasks.create_task(self._attend(intent.prompt, first))
                return
            before = (
                (PriorState.BEGUN if begun else PriorState.PERHAPS) if left else PriorState.NOTHING
            )
            answering = self._generations.begin(intent.prompt, remarks, before)
            work = partial(self._answer, answering)
        else:
            work = self._begin(event.event_id, intent)
            if left is not None and left.begun and isinstance(event, Message):
                work = partial(self._instead, event, intent, work)
        if left is not None:
            self._doubtful.add(event.event_id)
        tasks.create_task(self._handle(event, intent, work, answering))

    def _begin(self, event_id: EventId, intent: Intent) -> Work:
        """Do what cannot wait for a turn of the loop; return the rest."""
        match intent:
            case HandleRedaction(redaction):
                self._prompt_changes.let_go(redaction)
            case Run(prompt):
                self._generations.part(prompt.conversation)
            case Stop(reaction):
                self._generations.part_of(reaction.room_id, reaction.target)
            case HandleEdit(edit) if again := self._prompt_changes.restart(edit):
                return partial(self._see_through, again)
        if isinstance(intent, Run | Comment | Rate | RecordVote | HandleEdit):
            self._noting.setdefault(event_id, asyncio.Event())
        return partial(self._perform, intent)

    async def _handle(
        self,
        event: Event,
        intent: Intent,
        work: Work,
        answering: Generation | None,
    ) -> None:
        """Do what `event` asks for, and note that it is done."""
        with structlog.contextvars.bound_contextvars(
            event_id=event.event_id, room_id=event.room_id
        ):
            try:
                done = await self._do(event, intent, work)
                self._usage_limits.spoke(intent)
                if done:
                    await self._note_done(event, answering)
            finally:
                self._doubtful.discard(event.event_id)
                self._note_down(event.event_id)
                if answering is not None:
                    self._generations.finish(answering)
        if answering is not None and answering.reply.left_out:
            rest = self._prompt_changes.still_there(answering.reply.left_out)
            before = PriorState.PERHAPS if answering.reply.doubtful else PriorState.NOTHING
            if rest:
                await self._answer_also(replace(answering.prompt, messages=rest), before)

    async def _note_done(self, event: Event, answering: Generation | None) -> None:
        """Note what an answer has cost, and that all is done; a bug in one note costs that alone.

        What is not noted to be done is seen to at the next start, which finds what stands.
        """
        done = answering.done_with if answering else ()
        if answering is not None:
            with costing_nothing():
                await self._feedback.answered(answering)
        with costing_nothing():
            await self._store.finish(*dict.fromkeys((event.event_id, *done)))

    async def _do(self, event: Event, intent: Intent, work: Work) -> bool:
        """Perform the intent; errors end here, or in PendingDecryption while it waits.

        Returns:
            Whether nothing is left for the next start.
        """
        log.info("decided", heard=type(event).__name__, intent=type(intent).__name__)
        try:
            await work()
        except FatalError:
            raise  # the ledger or the login is gone: the process ends, and nothing is lost
        except Unmarked:
            log.error("reply left unmarked")  # noqa: TRY400  # what it was is in the log
            await self._apologise(intent)
            return False
        except MatrixError as error:
            log.warning("refused by the homeserver", reason=str(error))
            await self._apologise(intent)
        except Exception as error:  # noqa: BLE001  # a bug must cost one answer, not the bot
            log_bug(error)
            await self._apologise(intent)
        return True

    async def _perform(self, intent: Intent) -> None:  # noqa: C901, PLR0912, PLR0915  # a line for each intent
        match intent:
            case SendNotice(prompt, key):
                await self._explain(prompt, key)
            case Hint(prompt):
                await self._mention_hint.give(prompt)
            case Refuse():
                await self._refuse(intent)
            case Run():
                await self._run(intent)
            case HandleEdit(edit):
                await self._amend(edit)
            case Rate() | RecordVote() | Comment():
                await self._note(intent)
            case HandleRedaction(redaction, begun):
                await self._withdraw(redaction, begun=begun)
            case Stop(reaction):
                await self._prompt_changes.stop(reaction)
            case Redo(reaction):
                asked = reaction.room_id, reaction.target, reaction.sender, reaction.event_id
                await self._prompt_changes.redo(*asked)
            case Accept(invite):
                await retry_until_accepted(self._clock, partial(self._join, invite))
            case FollowUpgrade(upgraded):
                await self._follow(upgraded)
            case Decline():
                await self._decline(intent)
            case Leave(room_id):
                await self._leave(room_id)
            case Ignore(reason):  # since it was admitted, the room or the policy has changed
                log.info("ignored", reason=reason)
            case Answer() | Welcome():
                raise AssertionError("these have their place in the line: see _start")

    async def _answer(self, answering: Generation) -> None:
        """Stream the completion into one reply by editing it.

        What is asked may change meanwhile: the model is then asked anew, the reply is the same.
        """
        reply = answering.reply
        async with (
            self._matrix.attention(answering.prompt),
            AsyncExitStack() as turn,  # until the final stands: the next context needs it
            reply.shown(),
        ):
            answering.prompt = reply.prompt
            chosen = await self._contexts.chosen(answering.prompt.conversation)
            reply.speak(chosen.texts)
            if not await answering.wait(chosen.texts):
                return
            await turn.enter_async_context(answering.ticket)
            await self._restored.wait()  # another message of the prompt may still come
            while not await reply.settled():
                reply.restarted()
                prompt = answering.prompt
                chosen = await self._contexts.chosen(prompt.conversation)
                reply.speak(chosen.texts)
                reply.say(partial(chosen.texts, "working"))
                try:
                    context = await self._contexts.of(prompt, chosen.card)
                except MatrixError as error:
                    if isinstance(error, FatalError):
                        raise
                    log.warning("no context", reason=str(error))
                    reply.fail("bug")
                else:
                    above = self._contexts.remarks(context, chosen.texts)
                    await reply.begin(prompt, chosen.card.id, above, answering.remarks)
                    asking = self._completion.ask(context.turns, chosen.card)
                    reply.say(partial(asking.line, chosen.texts))
                    await reply.read(asking.deltas())
                if not reply.restarted():
                    break

    async def _answer_also(self, prompt: Prompt, before: PriorState = PriorState.NOTHING) -> None:
        """Answer what no event that is being dealt with asks for."""
        answering = self._generations.begin(prompt, before=before)
        work = partial(self._answer, answering)
        await self._handle(prompt.messages[0], Answer(prompt), work, answering)

    async def _see_through(self, answering: Generation) -> None:
        """Leave what has changed it unfinished until the answer is."""
        await answering.done.wait()

    async def _instead(self, message: Message, intent: Intent, work: Work) -> None:
        """Do what a message asks for by now, and mark the reply that it had begun to get."""
        root = message.thread_root
        prompt = Prompt((message,), Conversation(message.room_id, root), root)
        if isinstance(intent, Run | SendNotice):
            prompt = intent.prompt
        answering = self._generations.begin(prompt, before=PriorState.BEGUN)
        answering.reply.abandon()
        try:
            await self._answer(answering)
        finally:
            self._generations.finish(answering)
        self._unanswered.add(message.event_id)  # what is marked is no answer to it
        try:
            await work()
        finally:
            self._unanswered.discard(message.event_id)

    async def _attend(self, prompt: Prompt, before: Generation) -> None:
        """Show that a message which joined an earlier one is read and being answered."""
        try:
            async with self._matrix.attention(prompt):
                await before.done.wait()
        except Exception as error:  # noqa: BLE001  # a courtesy must not cost the bot
            log_bug(error)

    async def _run(self, asked: Run) -> None:
        """Do what a command asks for, and say what it has to say."""
        prompt = asked.prompt
        chosen = await self._contexts.chosen(prompt.conversation)
        call = Call(prompt, asked.argument, chosen.card, chosen.texts, self._desk)
        said = await registry.run(asked.name, call)
        if said is not None:
            await self._say(Notice(said, prompt), prompt.room_id, prompt.event_id)

    async def _note(self, said: Rate | RecordVote | Comment) -> None:
        """Take in what a person thinks of a reply."""
        match said:
            case Rate(reaction):
                await self._feedback.react(reaction)
            case RecordVote(vote):
                if await self._feedback.knows(vote):
                    await self._feedback.count(vote)
                else:
                    await self._campaigns.count(vote)
            case Comment(prompt):
                key: str | None = "feedback kept"
                if not await self._feedback.comment(said):
                    key = await self._campaigns.comment(said)
                if key is not None:
                    await self._explain(prompt, key, unanswered=False)

    async def _amend(self, edit: Edit) -> None:
        await self._noted(edit.target)
        await self._feedback.amend(edit)
        await self._campaigns.amend(edit)
        self._note_down(edit.event_id)  # what follows may take as long as an answer
        await self._prompt_changes.amend(edit)

    def _note_down(self, event_id: EventId) -> None:
        if (noting := self._noting.pop(event_id, None)) is not None:
            noting.set()

    async def _noted(self, event_id: EventId) -> None:
        """Wait until what an event says is taken in, where that was just heard.

        What changes it, or takes it back, would find nothing to change.
        """
        if (noting := self._noting.get(event_id)) is not None:
            await noting.wait()

    async def _withdraw(self, redaction: Redaction, *, begun: bool) -> None:
        await self._noted(redaction.target)
        await self._feedback.withdraw(redaction)
        await self._campaigns.withdraw(redaction.target)
        begun = begun or redaction.event_id in self._doubtful
        await self._prompt_changes.withdraw(redaction, begun=begun)

    async def _follow(self, upgraded: Upgraded) -> None:
        """Join the room that replaces another, where it lets us; else an invitation will come."""
        try:
            with armed.around("join"):
                await retry_until_accepted(self._clock, lambda: self._matrix.follow(upgraded))
        except Forbidden as error:
            log.info("waiting for an invitation", reason=str(error))

    async def _join(self, invite: Invite) -> None:
        with armed.around("join"):
            await self._matrix.join(invite)

    async def _decline(self, declined: Decline) -> None:
        """Refuse an invitation, and say in the log whose it was where that is the reason."""
        key, server = declined.key, declined.server
        reason = key if server is None else "not in matrix.allowed_servers"
        log.info("invitation declined", room_id=declined.room_id, server=server, reason=reason)
        await self._leave(declined.room_id, self._texts(key))

    async def _leave(self, room_id: RoomId, reason: str | None = None) -> None:
        async def leave() -> None:
            with armed.around("leave"):
                await self._matrix.leave(room_id, reason)

        await retry_until_accepted(self._clock, leave)

    async def _welcome(self, welcome: Welcome, ticket: Slot) -> None:
        """Introduce the assistant, before it answers anything in the room's main timeline.

        What was chosen in a room that this one replaces holds on.
        """
        room_id = welcome.room_id
        async with ticket:
            before = self._matrix.predecessor(room_id)
            if before is not None:
                chosen = await self._store.choices(Conversation(before, None))
                await self._store.choose(Conversation(room_id, None), chosen)
            here = await self._contexts.chosen(Conversation(room_id, None))
            said = here.texts(welcome.key)
            if welcome.key.startswith("welcome salon") and self._thumbs:
                said = f"{said}  \n{here.texts('welcome thumbs')}"
            await self._say(Notice(said), room_id, welcome.event_id)

    async def _explain(self, prompt: Prompt, key: str, *, unanswered: bool = True) -> None:
        """Send the sentence named `key`, in place of an answer to the prompt or beside one."""
        chosen = await self._contexts.chosen(prompt.conversation)
        sentence = chosen.texts(key, hours=round(self._age_limit / 3600))
        asks = unanswered and parse_command(prompt.body) is None  # a command is answered by that
        notice = Notice(sentence, prompt, unanswered=asks)
        await self._say(notice, prompt.room_id, prompt.event_id)

    async def _refuse(self, refused: Refuse) -> None:
        """Say why nothing is made of what came in clear, where that was not said today."""
        event, prompt = refused.event, refused.prompt
        if not await self._clear_text.is_due(event):
            return
        place = Conversation(event.room_id, None) if prompt is None else prompt.conversation
        sentence = (await self._contexts.chosen(place)).texts(refused.key, sender=event.sender)
        notice = Notice(sentence, prompt, unanswered=prompt is not None)
        await self._say(notice, event.room_id, event.event_id)
        await self._store.noticed(event, self._clock.now())

    async def _apologise(self, intent: Intent) -> None:
        """Tell the person that there is no answer, if the room still takes a word of the bot."""
        if not isinstance(intent, Answer | SendNotice | Run):
            return
        try:
            await self._explain(intent.prompt, "bug")
        except FatalError:
            raise
        except Exception as error:  # noqa: BLE001  # what failed once may well fail here again
            log.warning("no apology", kind=type(error).__name__)

    async def _say(self, notice: Notice, room_id: RoomId, cause: EventId) -> None:
        """Send one notice, once, however often it is tried."""
        prompt = notice.to
        if cause in self._doubtful and isinstance(prompt, Prompt):
            unsaid = await self._unsaid(notice, prompt, answered=cause not in self._unanswered)
            if unsaid is None:
                log.info("said before")
                return
            notice = unsaid
        transaction = transaction_id(self._matrix.device_id, cause, "notice", part=0, claim=0)
        wire = await retry_until_accepted(
            self._clock, lambda: self._matrix.prepare(room_id, notice)
        )

        async def put() -> None:
            if self._matrix.room(room_id).closed:
                log.info("not said", reason="the bot can no longer speak here")
                return
            with armed.around("notice"):
                await self._matrix.put(room_id, wire, transaction)

        await retry_until_accepted(self._clock, put)

    async def _unsaid(self, notice: Notice, prompt: Prompt, *, answered: bool) -> Notice | None:
        """Return what is still to be said, None where an earlier process has said it.

        The homeserver knows transaction ids for a day, and a ledger may come from a backup. What
        cannot be read may have said it, too: then only that is said.

        Args:
            notice: what would be said.
            prompt: what it is about.
            answered: whether an answer to the prompt counts for it.
        """
        since = await retry_until_accepted(
            self._clock, lambda: self._matrix.own_since(prompt.room_id, prompt.event_ids)
        )
        body = render(notice.text).body
        if any((one.final and answered) or one.body == body for one in since.about):
            return None
        unreadable = await hidden_messages(self._store, prompt, since)
        if since.whole and not unreadable:
            return notice
        log.error("notice perhaps sent", unreadable=unreadable, all_read=since.whole)
        texts = (await self._contexts.chosen(prompt.conversation)).texts
        doubt = replace(notice, text=texts("perhaps answered"))
        return None if any(one.body == render(doubt.text).body for one in since.about) else doubt

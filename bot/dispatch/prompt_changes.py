"""Changes of mind: a prompt in other words, withdrawn, stopped, or answered once more."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

import structlog

from bot.core.bounded import BoundedDict
from bot.core.events import (
    Edit,
    EventId,
    Message,
    Pending,
    Prompt,
    Reaction,
    Redaction,
    RoomId,
    UserId,
)
from bot.core.intents import Answer
from bot.core.outgoing import Anchor, Notice, transaction_id
from bot.core.prompt_context import is_last, said_before
from bot.core.reply_state import Reason
from bot.core.routing import parse_command
from bot.core.transcript import TranscriptMessage
from bot.dispatch.intent_resolver import IntentResolver
from bot.dispatch.usage_limits import UsageLimits
from bot.errors import Forbidden
from bot.ports.clock import Clock
from bot.ports.ledger import Exchange, Store
from bot.ports.matrix import Matrix, ReadableEvent
from bot.replies.context_builder import Contexts
from bot.replies.generations import ActiveGenerations, Generation
from bot.replies.notices import Notifier
from bot.runtime.failpoints import armed
from bot.runtime.retry import retry_until_accepted

_REMEMBERED = 10_000  # redacted events

log = structlog.get_logger()


class PromptChanges:
    """Changes a prompt's reply when the prompt is edited, redacted, stopped or asked again.

    Only the person who has asked changes an answer; whoever may redact ends it.

    Attributes:
        answer: answers a prompt in the reply that it has; `EventHandler` sets it.
    """

    answer: Callable[[Prompt], Awaitable[None]]

    def __init__(
        self,
        *,
        matrix: Matrix,
        store: Store,
        clock: Clock,
        generations: ActiveGenerations,
        contexts: Contexts,
        intent_resolver: IntentResolver,
        usage_limits: UsageLimits,
        notifier: Notifier,
    ) -> None:
        self._matrix = matrix
        self._store = store
        self._clock = clock
        self._generations = generations
        self._contexts = contexts
        self._intent_resolver = intent_resolver
        self._usage_limits = usage_limits
        self._notifier = notifier
        self._gone = BoundedDict[EventId, None](_REMEMBERED)  # redacted lately

    def restart(self, edit: Edit) -> Generation | None:
        """Begin anew at once what is being answered, and return it; None where that must wait.

        It may come to its end while one looks up what else the edit may be of.
        """
        running = self._generations.of(edit.room_id, edit.target)
        if running is None or running.prompt.sender != edit.sender:
            return None
        begun = Pending(edit.target, edit.room_id, begun=True)
        for one in running.prompt.messages:
            now = replace(one, body=edit.body)
            mine = one.event_id == edit.target
            if mine and isinstance(self._intent_resolver.decide(now, begun), Answer):
                cause = edit.event_id
                allowed = self._usage_limits.allows("regenerations", running.prompt, cause)
                return running if allowed and running.reply.restart() else None
        return None

    async def amend(self, edit: Edit) -> None:
        """Answer what is asked now, in the same reply, if it is the last prompt.

        It lasts as long as that: what is begun anew may look whole to a process after a crash.
        """
        prompt = await self._asked(edit.room_id, edit.target)
        if prompt is None or prompt.sender != edit.sender:
            return
        if edit.target not in prompt.event_ids:  # only their author edits replies
            return
        running = self._generations.of(edit.room_id, edit.target)
        if running is not None:
            if await self._may_ask_again(prompt, edit.event_id):
                restarted = running.reply.restart()
                await running.done.wait()
                if not restarted:
                    await self.amend(edit)  # the prompt may hold more by now
        elif not self._generations.is_passed(prompt) and is_last(await self._said(prompt), prompt):
            prompt = await self._asked(prompt.room_id, prompt.event_id)
            if prompt is not None and await self._may_ask_again(prompt, edit.event_id):
                await self._answer_again(prompt)

    def let_go(self, redaction: Redaction) -> None:
        """Begin nothing more under a root that is gone, and end what is being written."""
        room_id, root = redaction.room_id, redaction.target
        self._gone[root] = None
        for answering in self._generations.of_thread(room_id, root):
            if answering.reply.visible and root not in answering.prompt.event_ids:
                answering.reply.stop(Reason.THREAD_GONE)
            else:
                answering.reply.silence()

    async def withdraw(self, redaction: Redaction, *, begun: bool = False) -> None:
        """End what hangs on what was redacted and let go; a prompt takes its reply along.

        Args:
            redaction: what is gone.
            begun: an earlier process may have answered it, and the ledger not know.
        """
        room_id, target = redaction.room_id, redaction.target
        running = await self._running(room_id, target)
        if running is not None:
            if await running.withdraw(target):
                return
            await running.done.wait()
            begun = begun or running.reply.visible  # a send may have been taken, unknown to us
        exchange = await self._store.exchange(room_id, target)
        if exchange is None or target not in exchange.prompt:
            return
        reply: Sequence[EventId] = exchange.reply
        if begun:
            since = await retry_until_accepted(
                self._clock, lambda: self._matrix.own_since(room_id, (target,))
            )
            traces = [one.event_id for one in since.about if target in one.answers]
            reply = list(dict.fromkeys((*reply, *traces)))
            if since.unreadable or not since.whole:
                unreadable = [one.event_id for one in since.unreadable]
                log.error("reply perhaps left", unreadable=unreadable, all_read=since.whole)
        await self._take_away(room_id, reply)
        if running is not None and not reply:  # nothing told of it, whatever was being sent
            await self._answer_rest(running)

    async def _answer_rest(self, ended: Generation) -> None:
        """Answer what is still asked of a prompt that was ended for one of its messages."""
        rest = self.still_there(ended.rest)
        ended.rest = ()  # another of its messages may be withdrawn at the same time
        if rest:
            await self.answer(replace(ended.prompt, messages=rest))

    def still_there(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Return those of the messages that have not been redacted lately."""
        return tuple(one for one in messages if one.event_id not in self._gone)

    async def _take_away(self, room_id: RoomId, reply: Sequence[EventId]) -> None:
        """Redact the messages of a reply, each after its edits.

        Of a redacted event the homeserver lists no edits, and each of them stays readable.
        """
        for event_id in reply:
            listing = partial(self._matrix.edits, room_id, event_id)
            edits = await retry_until_accepted(self._clock, listing)
            for one in (*edits, event_id):
                await self._redact(room_id, one)
        log.info("reply withdrawn", parts=len(reply))

    async def stop(self, reaction: Reaction) -> None:
        """Stop the answer that the asker reacts to; what stands stays."""
        running = await self._running(reaction.room_id, reaction.target)
        if running is not None and running.prompt.sender == reaction.sender:
            await running.stop()

    async def redo(
        self, room_id: RoomId, event_id: EventId, asker: UserId, cause: EventId
    ) -> str | None:
        """Answer once more what the event is a message of, in the same reply.

        Args:
            room_id: where.
            event_id: a message of the prompt or of its reply.
            asker: who wants it.
            cause: the event that says so.

        Returns:
            The key of the sentence that says why not, None where it is done, or that was said.
        """
        prompt = await self._asked(room_id, event_id)
        if prompt is None:
            return "nothing to redo"
        if prompt.sender != asker:
            return "not yours to redo"
        if await self._may_ask_again(prompt, cause):
            await self._answer_again(prompt)
        return None

    async def _may_ask_again(self, prompt: Prompt, cause: EventId) -> bool:
        """Tell whether the model may be asked anew for that cause; the person is told, if not."""
        if self._usage_limits.allows("regenerations", prompt, cause):
            return True
        key = self._usage_limits.sentence("regenerations", prompt.sender, cause)
        if key is not None:
            texts = (await self._contexts.chosen(prompt.conversation)).texts
            root = prompt.thread_root
            notice = Notice(texts(key), None if root is None else Anchor(prompt.event_id, root))
            await self._notifier.send_once(prompt.room_id, notice, cause, "notice ceiling")
        return False

    async def last(self, prompt: Prompt) -> EventId | None:
        """Return the last reply before a command, or a later prompt that has none yet.

        What follows the command is not meant: after a crash it may be there before the command
        is carried out.
        """
        for one in reversed(said_before(await self._said(prompt), prompt)):
            if one.failed:
                continue
            asks = one.body.strip() and parse_command(one.body) is None
            if one.mine or (asks and await self._store.exchange(prompt.room_id, one.event_id)):
                return one.event_id
        return None

    async def _said(self, prompt: Prompt) -> Sequence[TranscriptMessage]:
        chosen = await self._contexts.chosen(prompt.conversation)
        return (await self._contexts.history(prompt, chosen.card)).said

    async def _running(self, room_id: RoomId, event_id: EventId) -> Generation | None:
        """Return the answer that the event is a message of, be it an earlier process's."""
        running = self._generations.of(room_id, event_id)
        if running is not None:
            return running
        exchange = await self._store.exchange(room_id, event_id)
        return self._generations.of(room_id, exchange.prompt[0]) if exchange else None

    async def _asked(self, room_id: RoomId, event_id: EventId) -> Prompt | None:
        """Return the prompt that the event belongs to, or whose reply it does, as it is now.

        None where it is gone, or its reply was redacted: what is redacted is not written again.
        """
        exchange = await self._store.exchange(room_id, event_id)
        if exchange is None:
            return None
        prompt = await self._read(exchange, room_id)
        if await self._store.exchange(room_id, event_id) != exchange:  # meanwhile
            return await self._asked(room_id, event_id)
        gone = {*exchange.reply, *(prompt.event_ids if prompt else ())} & self._gone.keys()
        return None if gone else prompt

    async def _read(self, exchange: Exchange, room_id: RoomId) -> Prompt | None:
        for reply in exchange.reply[:1]:
            if await self._fetch(room_id, reply) is None:
                return None
        answered = bool(exchange.reply)
        found = [await self._recall(Pending(one, room_id, answered)) for one in exchange.prompt]
        prompts = [prompt for prompt in found if prompt is not None]
        if not prompts:
            return None
        messages = tuple(message for prompt in prompts for message in prompt.messages)
        return replace(prompts[0], messages=messages)

    async def _recall(self, one: Pending) -> Prompt | None:
        """Return one message as a prompt, None where it is gone or none any more."""
        message = await self._fetch(one.room_id, one.event_id)
        if not isinstance(message, Message):
            return None
        intent = await self._intent_resolver.resolve(message, one)
        return intent.prompt if isinstance(intent, Answer) else None

    async def _fetch(self, room_id: RoomId, event_id: EventId) -> ReadableEvent | None:
        fetch = partial(self._matrix.fetch, room_id, event_id)
        return await retry_until_accepted(self._clock, fetch)

    async def _answer_again(self, prompt: Prompt | None) -> None:
        """Answer a prompt in the reply that it has: in the same answer, where one is running."""
        while prompt is not None:
            running = self._generations.of(prompt.room_id, prompt.event_id)
            if running is None:
                await self.answer(prompt)
                return
            restarted = running.reply.restart()
            await running.done.wait()  # a process that comes after a crash must know what for
            if restarted:
                return
            prompt = await self._asked(prompt.room_id, prompt.event_id)

    async def _redact(self, room_id: RoomId, event_id: EventId) -> None:
        """Redact one of the bot's events; one that cannot be holds up no other."""
        transaction = transaction_id(self._matrix.device_id, event_id, "redact", part=0, claim=0)

        async def redact() -> None:
            with armed.around("redact"):
                await self._matrix.redact(room_id, event_id, transaction)

        try:
            await retry_until_accepted(self._clock, redact)
        except Forbidden as error:
            log.warning("not redacted", redacts=event_id, reason=str(error))

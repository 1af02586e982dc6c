"""Changes to prompts: edits, redactions, stops, and prompts that are answered again."""

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
)
from bot.core.intents import Answer
from bot.core.outgoing import Anchor, Notice, transaction_id
from bot.core.prompt_context import is_last, messages_before
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

    Edits, stops and new answers are for the sender of the prompt only. A redaction counts from
    everybody who may redact in the room.

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
        self._redacted = BoundedDict[EventId, None](_REMEMBERED)  # recently redacted

    def restart(self, edit: Edit) -> Generation | None:
        """Restart the running generation of an edited prompt at once, and return it.

        It may end while `amend` looks up the edited message, so this is tried first. None if no
        generation of the prompt runs, or it cannot be restarted now.
        """
        running = self._generations.of(edit.room_id, edit.target)
        if running is None or running.prompt.sender != edit.sender:
            return None
        begun = Pending(edit.target, edit.room_id, begun=True)
        for one in running.prompt.messages:
            now = replace(one, body=edit.body)
            is_edited = one.event_id == edit.target
            if is_edited and isinstance(self._intent_resolver.decide(now, begun), Answer):
                cause = edit.event_id
                allowed = self._usage_limits.allows("regenerations", running.prompt, cause)
                return running if allowed and running.reply.restart() else None
        return None

    async def amend(self, edit: Edit) -> None:
        """Answer an edited prompt again in the same reply, if it is the last prompt.

        Waits until that is done. The edit is unfinished until then, since after a crash the
        restarted reply may look complete.
        """
        prompt = await self._current_prompt(edit.room_id, edit.target)
        if prompt is None or prompt.sender != edit.sender:
            return
        if edit.target not in prompt.event_ids:  # an event of the reply: only the bot edits it
            return
        running = self._generations.of(edit.room_id, edit.target)
        if running is not None:
            if await self._may_regenerate(prompt, edit.event_id):
                restarted = running.reply.restart()
                await running.done.wait()
                if not restarted:
                    await self.amend(edit)  # the prompt may have got another message
        elif not self._generations.is_passed(prompt) and is_last(
            await self._transcript(prompt), prompt
        ):
            prompt = await self._current_prompt(prompt.room_id, prompt.event_id)
            if prompt is not None and await self._may_regenerate(prompt, edit.event_id):
                await self._answer_again(prompt)

    def interrupt(self, redaction: Redaction) -> None:
        """End the generations of a redacted message or thread, and start no more of them."""
        room_id, root = redaction.room_id, redaction.target
        self._redacted[root] = None
        for generation in self._generations.of_thread(room_id, root):
            if generation.reply.visible and root not in generation.prompt.event_ids:
                generation.reply.stop(Reason.THREAD_GONE)
            else:
                generation.reply.silence()

    async def withdraw(self, redaction: Redaction, *, begun: bool = False) -> None:
        """Drop a redacted message from its prompt; if that was all of it, redact the reply.

        Args:
            redaction: the redaction, which `interrupt` has handled before.
            begun: whether an earlier process may have answered the message without a record.
        """
        room_id, target = redaction.room_id, redaction.target
        running = await self._running(room_id, target)
        if running is not None:
            if await running.withdraw(target):
                return
            await running.done.wait()
            begun = begun or running.reply.visible  # an unacknowledged send may have arrived
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
        await self._redact_reply(room_id, reply)
        if running is not None and not reply:  # nothing visible contains the redacted message
            await self._answer_rest(running)

    async def _answer_rest(self, ended: Generation) -> None:
        """Answer the other messages of a prompt that ended because one of them was redacted."""
        rest = self.without_redacted(ended.rest)
        ended.rest = ()  # another of its messages may be redacted at the same time
        if rest:
            await self.answer(replace(ended.prompt, messages=rest))

    def without_redacted(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Return the messages that were not redacted recently."""
        return tuple(one for one in messages if one.event_id not in self._redacted)

    async def _redact_reply(self, room_id: RoomId, reply: Sequence[EventId]) -> None:
        """Redact the messages of a reply, each after its edits.

        The homeserver lists no edits of a redacted event, and they would stay readable.
        """
        for event_id in reply:
            listing = partial(self._matrix.edits, room_id, event_id)
            edits = await retry_until_accepted(self._clock, listing)
            for one in (*edits, event_id):
                await self._redact(room_id, one)
        log.info("reply withdrawn", parts=len(reply))

    async def stop(self, reaction: Reaction) -> None:
        """Stop the generation that its prompt's sender reacts to; the text so far stays."""
        running = await self._running(reaction.room_id, reaction.target)
        if running is not None and running.prompt.sender == reaction.sender:
            await running.stop()

    async def redo(self, request: Reaction | Message, target: EventId) -> str | None:
        """Answer a prompt again, in the same reply.

        Args:
            request: the event that asks for it.
            target: a message of the prompt or of its reply.

        Returns:
            The key of the sentence with the reason for a refusal; None if the prompt was answered,
            or the person was told already.
        """
        prompt = await self._current_prompt(request.room_id, target)
        if prompt is None:
            return "nothing to redo"
        if prompt.sender != request.sender:
            return "not yours to redo"
        if await self._may_regenerate(prompt, request.event_id):
            await self._answer_again(prompt)
        return None

    async def _may_regenerate(self, prompt: Prompt, cause: EventId) -> bool:
        """Return whether the prompt may be answered again; if not, send a notice to the person."""
        if self._usage_limits.allows("regenerations", prompt, cause):
            return True
        key = self._usage_limits.sentence("regenerations", prompt.sender, cause)
        if key is not None:
            texts = (await self._contexts.chosen(prompt.conversation)).texts
            root = prompt.thread_root
            notice = Notice(
                text=texts(key), to=None if root is None else Anchor(prompt.event_id, root)
            )
            await self._notifier.send_once(prompt.room_id, notice, cause, "notice ceiling")
        return False

    async def last(self, prompt: Prompt) -> EventId | None:
        """Return the last reply before a command, or a later prompt that has no reply yet.

        Messages after the command do not count: after a crash they may be there before the
        command runs.
        """
        for one in reversed(messages_before(await self._transcript(prompt), prompt)):
            if one.failed:
                continue
            asks = one.body.strip() and parse_command(one.body) is None
            if one.mine or (asks and await self._store.exchange(prompt.room_id, one.event_id)):
                return one.event_id
        return None

    async def _transcript(self, prompt: Prompt) -> Sequence[TranscriptMessage]:
        chosen = await self._contexts.chosen(prompt.conversation)
        return (await self._contexts.history(prompt, chosen.card)).messages

    async def _running(self, room_id: RoomId, event_id: EventId) -> Generation | None:
        """Return the running generation whose prompt or reply the event belongs to."""
        running = self._generations.of(room_id, event_id)
        if running is not None:
            return running
        exchange = await self._store.exchange(room_id, event_id)
        return self._generations.of(room_id, exchange.prompt[0]) if exchange else None

    async def _current_prompt(self, room_id: RoomId, event_id: EventId) -> Prompt | None:
        """Return the current version of the prompt that the event, or its reply, belongs to.

        None if the prompt or its reply was redacted: a redacted reply is not written again.
        """
        exchange = await self._store.exchange(room_id, event_id)
        if exchange is None:
            return None
        prompt = await self._read_prompt(exchange, room_id)
        if await self._store.exchange(room_id, event_id) != exchange:  # it has changed meanwhile
            return await self._current_prompt(room_id, event_id)
        redacted = {*exchange.reply, *(prompt.event_ids if prompt else ())} & self._redacted.keys()
        return None if redacted else prompt

    async def _read_prompt(self, exchange: Exchange, room_id: RoomId) -> Prompt | None:
        for reply in exchange.reply[:1]:
            if await self._fetch(room_id, reply) is None:
                return None
        answered = bool(exchange.reply)
        found = [
            await self._fetch_prompt(Pending(one, room_id, answered)) for one in exchange.prompt
        ]
        prompts = [prompt for prompt in found if prompt is not None]
        if not prompts:
            return None
        messages = tuple(message for prompt in prompts for message in prompt.messages)
        return replace(prompts[0], messages=messages)

    async def _fetch_prompt(self, one: Pending) -> Prompt | None:
        """Return one message as a prompt; None if it was redacted or is no prompt any more."""
        message = await self._fetch(one.room_id, one.event_id)
        if not isinstance(message, Message):
            return None
        intent = await self._intent_resolver.resolve(message, one)
        return intent.prompt if isinstance(intent, Answer) else None

    async def _fetch(self, room_id: RoomId, event_id: EventId) -> ReadableEvent | None:
        fetch = partial(self._matrix.fetch, room_id, event_id)
        return await retry_until_accepted(self._clock, fetch)

    async def _answer_again(self, prompt: Prompt | None) -> None:
        """Answer a prompt again in its reply; restart its generation if one is running."""
        while prompt is not None:
            running = self._generations.of(prompt.room_id, prompt.event_id)
            if running is None:
                await self.answer(prompt)
                return
            restarted = running.reply.restart()
            # Until the end the cause stays unfinished, so that a crash cannot lose it.
            await running.done.wait()
            if restarted:
                return
            prompt = await self._current_prompt(prompt.room_id, prompt.event_id)

    async def _redact(self, room_id: RoomId, event_id: EventId) -> None:
        """Redact one of the bot's events; a refusal is logged, and the caller goes on."""
        transaction = transaction_id(self._matrix.device_id, event_id, "redact", part=0, claim=0)

        async def redact() -> None:
            with armed.around("redact"):
                await self._matrix.redact(room_id, event_id, transaction)

        try:
            await retry_until_accepted(self._clock, redact)
        except Forbidden as error:
            log.warning("not redacted", redacts=event_id, reason=str(error))

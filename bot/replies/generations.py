"""The replies in flight: which prompt a message joins, and which reply an event changes."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from bot.core.events import (
    MOST_MESSAGES,
    Conversation,
    EventId,
    Message,
    Prompt,
    RoomId,
    UserId,
)
from bot.core.reply_state import PriorState
from bot.i18n.texts import Texts
from bot.monitoring.health import Health, Queue
from bot.ports.clock import Clock
from bot.ports.ledger import Store
from bot.ports.matrix import Matrix
from bot.replies.reply_text import Pace
from bot.replies.scheduler import FairScheduler, Slot
from bot.replies.streaming_reply import StreamingReply


@dataclass(eq=False, slots=True, kw_only=True)
class Generation:
    """One prompt on its way from heard to answered.

    Attributes:
        heard_at: when the prompt was heard, in the clock's monotonic seconds.
        event_ids: every message that was ever a part of the prompt.
        is_complete: whether the sender's next message makes a prompt of its own.
        rest: the messages that still need an answer after one was withdrawn while the reply was
            being sent.
        remarks: lines of the bot that the final version carries below the text.
        done: set when nothing more is to be done for the prompt.
    """

    prompt: Prompt
    reply: StreamingReply
    slot: Slot
    heard_at: float
    event_ids: list[EventId]
    is_complete: bool = False
    rest: tuple[Message, ...] = ()
    remarks: list[str] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def done_with(self) -> Sequence[EventId]:
        """The messages that need no other reply."""
        left_out = {one.event_id for one in self.reply.left_out}
        return [one for one in self.event_ids if one not in left_out]

    async def wait(self, texts: Texts) -> bool:
        """Wait for the slot, and show the person the rank in the queue meanwhile.

        Returns:
            False if nobody wants the reply any more.
        """
        if self.slot.rank is not None:
            self.reply.say(lambda: texts("queued", place=self.slot.rank or 1))
            await _wait_for_first(self.slot.granted.wait(), self.reply.ended.wait())
        return not self.reply.ended.is_set()

    def concerns(self, event_id: EventId) -> bool:
        """Return whether the event is a message of the prompt or of the reply."""
        return event_id in self.prompt.event_ids or event_id in self.reply.event_ids

    def join(self, message: Message) -> bool:
        """Add a message to the prompt; return False if it is too late for that."""
        joined = self._change(replace(self.prompt, messages=(*self.prompt.messages, message)))
        if joined:
            self.event_ids.append(message.event_id)
        return joined

    async def withdraw(self, event_id: EventId) -> bool:
        """Drop a message from the prompt; return whether the reply goes on without it.

        If something of the reply is visible, it may tell of the message, so the reply ends.
        """
        await self.reply.found.wait()
        if not self.reply.tells_of(event_id):
            return True
        rest = tuple(one for one in self.prompt.messages if one.event_id != event_id)
        if rest and self.reply.unseen and self._change(replace(self.prompt, messages=rest)):
            return True
        if not self.reply.ended.is_set():
            self.rest = rest
        self.reply.silence()
        return False

    async def stop(self) -> bool:
        """Keep what stands, and wait until it is marked; return False if it is too late."""
        stopped = self.reply.stop()
        if stopped:
            await self.done.wait()
        return stopped

    def _change(self, prompt: Prompt) -> bool:
        if not self.reply.restart(prompt):
            return False
        self.prompt = prompt
        return True


class ActiveGenerations:
    """Every prompt that waits or is being answered, in the order in which they were heard."""

    def __init__(
        self,
        *,
        matrix: Matrix,
        store: Store,
        clock: Clock,
        pace: Pace,
        health: Health,
        texts: Texts,
        at_once: int,
        join_seconds: float,
        share: float = 1.0,
    ) -> None:
        """Begin with no prompt.

        Args:
            matrix: the port that sends replies.
            store: the ledger that claims their prompts.
            clock: measures their waits and pace.
            pace: how soon and how often replies are shown.
            health: told of their figures, and of how many wait.
            texts: the sentences of the bot in a conversation for which nobody has chosen others.
            at_once: number of replies that are written at the same time.
            join_seconds: seconds within which a message must follow the one before to join its
                prompt, by the homeserver's time.
            share: the part of `at_once` that one person or one room may have while others wait.
        """
        self.scheduler = FairScheduler(at_once, share)
        self._join_ms = join_seconds * 1000
        self._matrix = matrix
        self._clock = clock
        self._reply = partial(
            StreamingReply, matrix=matrix, store=store, clock=clock, pace=pace, health=health
        )
        self._texts = texts
        self._open: list[Generation] = []
        health.watch_queue(self.queue)

    def join(self, prompt: Prompt, joined_to: EventId | None) -> Generation | None:
        """Join the prompt to one in flight, and return that; None if it needs a reply of its own.

        Messages that one person sends in a row, each soon after the one before, make one prompt
        until anything of the reply is visible. Messages that an earlier process has joined stay
        joined.

        Args:
            prompt: a prompt of one message.
            joined_to: the first message of the prompt to which an earlier process has joined it.
        """
        before = self.joinable(prompt, joined_to)
        return before if before and before.join(prompt.messages[0]) else None

    def joinable(self, prompt: Prompt, joined_to: EventId | None = None) -> Generation | None:
        """Return the prompt in flight that `join` would join this one to; change nothing."""
        if joined_to is None:
            before = self._last(prompt.conversation)
            if before is None or before.is_complete or not before.reply.unseen:
                return None
            if before.prompt.sender != prompt.sender or not self._is_soon(prompt, before.prompt):
                return None
        elif (before := self.of(prompt.room_id, joined_to)) is None:
            return None
        return None if len(before.prompt.messages) == MOST_MESSAGES else before

    def _is_soon(self, prompt: Prompt, before: Prompt) -> bool:
        sent_at, last = prompt.messages[0].timestamp, before.messages[-1].timestamp
        return abs(sent_at - last) <= self._join_ms  # a late message was not sent behind the last

    def complete(self, conversation: Conversation) -> None:
        """Let no message join the last prompt of the conversation any more."""
        last = self._last(conversation)
        if last is not None:
            last.is_complete = True

    def complete_of(self, room_id: RoomId, event_id: EventId) -> None:
        """Do the same for the prompt or reply that the event is a message of."""
        running = self.of(room_id, event_id)
        if running is not None:
            running.is_complete = True

    def begin(
        self,
        prompt: Prompt,
        remarks: Sequence[str] = (),
        before: PriorState = PriorState.NOTHING,
    ) -> Generation:
        """Queue a prompt for a slot.

        Args:
            prompt: the prompt.
            remarks: lines of the bot that the final version carries below the text.
            before: what is known of earlier work on the reply.
        """
        generation = Generation(
            prompt=prompt,
            reply=self._reply(prompt=prompt, texts=self._texts, before=before),
            slot=self.scheduler.queue(prompt.conversation, prompt.sender),
            heard_at=self._clock.monotonic(),
            event_ids=list(prompt.event_ids),
            remarks=list(remarks),
        )
        if self._matrix.room(prompt.room_id).closed:
            generation.reply.silence()
        self._open.append(generation)
        return generation

    def finish(self, generation: Generation) -> None:
        """Forget a prompt that is answered, or never will be."""
        generation.slot.drop()
        self._open.remove(generation)
        generation.done.set()

    async def drain(self) -> None:
        """Grant no slot any more, and wait for the replies that have one."""
        self.scheduler.close()
        for generation in [one for one in self._open if one.slot.rank is None]:
            await generation.done.wait()

    def queue(self) -> Queue:
        """Return how many prompts wait for a slot, since when, and how many have one."""
        waiting = [one for one in self._open if not one.slot.granted.is_set()]
        now = self._clock.monotonic()
        oldest_wait = now - waiting[0].heard_at if waiting else 0.0
        return Queue(len(waiting), oldest_wait, len(self._open) - len(waiting))

    def of(self, room_id: RoomId, event_id: EventId) -> Generation | None:
        """Return the generation whose prompt or reply the event is a message of."""
        return next((one for one in self.of_room(room_id) if one.concerns(event_id)), None)

    def of_thread(self, room_id: RoomId, root: EventId) -> list[Generation]:
        """Return the generations in a thread."""
        conversation = Conversation(room_id, root)
        return [one for one in self._open if one.prompt.conversation == conversation]

    def silence(self, *room_ids: RoomId) -> None:
        """Send nothing more to rooms in which the bot can no longer send messages."""
        for room_id in room_ids:
            for generation in self.of_room(room_id):
                generation.reply.silence()

    def of_room(self, room_id: RoomId) -> list[Generation]:
        """Return the generations in a room, the newest first."""
        return [one for one in reversed(self._open) if one.prompt.room_id == room_id]

    def is_passed(self, prompt: Prompt) -> bool:
        """Return whether a prompt of the conversation is in flight that was sent no earlier."""
        sent_at = prompt.messages[-1].timestamp
        here = [one for one in self._open if one.prompt.conversation == prompt.conversation]
        return any(one.prompt.messages[-1].timestamp >= sent_at for one in here)

    def is_followed(self, conversation: Conversation, prompt: EventId) -> bool:
        """Return whether the last prompt in flight of the conversation is another one."""
        last = self._last(conversation)
        return last is not None and last.prompt.event_id != prompt

    def last_to(self, conversation: Conversation, sender: UserId) -> Generation | None:
        """Return the newest generation for a person in a conversation."""
        found = [one for one in self._open if one.prompt.conversation == conversation]
        return next((one for one in reversed(found) if one.prompt.sender == sender), None)

    def _last(self, conversation: Conversation) -> Generation | None:
        found = [one for one in self._open if one.prompt.conversation == conversation]
        return found[-1] if found else None


async def _wait_for_first(*waits: Coroutine[None, None, object]) -> None:
    """Return when the first of the waits is over; the others are cancelled."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

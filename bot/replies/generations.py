"""The answers that are not finished: whom a message joins, and what a change of mind concerns."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace

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
from bot.monitoring.health import Line
from bot.replies.delivery import Replying
from bot.replies.scheduler import FairScheduler, Slot
from bot.replies.streaming_reply import StreamingReply


@dataclass(eq=False, slots=True)
class Generation:
    """One prompt on its way from heard to answered.

    Attributes:
        asked_at: when it was heard, in the clock's monotonic seconds.
        event_ids: every message that was ever a part of the prompt.
        parted: what is said next makes a prompt of its own.
        rest: what is still asked, where one message was withdrawn as the reply was being sent.
        remarks: lines of the bot's own that the final version carries below the text.
        done: set when nothing more is to be done about it.
    """

    prompt: Prompt
    reply: StreamingReply
    ticket: Slot
    asked_at: float
    event_ids: list[EventId]
    parted: bool = False
    rest: tuple[Message, ...] = ()
    remarks: list[str] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def done_with(self) -> Sequence[EventId]:
        """The messages that need no other answer."""
        left_out = {one.event_id for one in self.reply.left_out}
        return [one for one in self.event_ids if one not in left_out]

    async def wait(self, texts: Texts) -> bool:
        """Wait for the prompt's turn, and tell the person the place meanwhile.

        Returns:
            False where nobody wants the answer any more.
        """
        if self.ticket.place is not None:
            self.reply.say(lambda: texts("queued", place=self.ticket.place or 1))
            await _first(self.ticket.turn.wait(), self.reply.ended.wait())
        return not self.reply.ended.is_set()

    def concerns(self, event_id: EventId) -> bool:
        """Tell whether the event is a message of the prompt or of the reply."""
        return event_id in self.prompt.event_ids or event_id in self.reply.event_ids

    def join(self, message: Message) -> bool:
        """Take in a further message; False where it is too late for that."""
        joined = self._ask(replace(self.prompt, messages=(*self.prompt.messages, message)))
        if joined:
            self.event_ids.append(message.event_id)
        return joined

    async def withdraw(self, event_id: EventId) -> bool:
        """Ask no more what one message asks, and tell whether anything is still asked.

        Where something of the reply is visible it may tell of the message, so all ends.
        """
        await self.reply.found.wait()
        if not self.reply.tells_of(event_id):
            return True
        rest = tuple(one for one in self.prompt.messages if one.event_id != event_id)
        if rest and self.reply.unseen and self._ask(replace(self.prompt, messages=rest)):
            return True
        if not self.reply.ended.is_set():
            self.rest = rest
        self.reply.silence()
        return False

    async def stop(self) -> bool:
        """Keep what stands, and see that it is marked; False where it is too late for that."""
        stopped = self.reply.stop()
        if stopped:
            await self.done.wait()
        return stopped

    def _ask(self, prompt: Prompt) -> bool:
        if not self.reply.restart(prompt):
            return False
        self.prompt = prompt
        return True


class ActiveGenerations:
    """Every answer that is waiting or being written, in the order in which they were asked for."""

    def __init__(
        self,
        replying: Replying,
        texts: Texts,
        at_once: int,
        join_seconds: float,
        share: float = 1.0,
    ) -> None:
        """Prepare for answers.

        Args:
            replying: what every reply needs.
            texts: what the bot says where nobody has chosen.
            at_once: answers that are written at the same time.
            join_seconds: within which a message follows the one before to be of one prompt, by
                the homeserver's time.
            share: the part of `at_once` that is one person's, or one room's, while others wait.
        """
        self.lanes = FairScheduler(at_once, share)
        self._join_ms = join_seconds * 1000
        self._replying = replying
        self._texts = texts
        self._open: list[Generation] = []
        replying.health.ask(self.line)

    def join(self, prompt: Prompt, joined_to: EventId | None) -> Generation | None:
        """Return the answer that the prompt has become a part of, None where it needs its own.

        What one person sends in a row, each message soon after the one before, makes one prompt
        until anything of the reply is visible; what an earlier process has joined stays joined.
        """
        before = self.joinable(prompt, joined_to)
        return before if before and before.join(prompt.messages[0]) else None

    def joinable(self, prompt: Prompt, joined_to: EventId | None = None) -> Generation | None:
        """Return the answer that the prompt may become a part of, and leave it as it is."""
        if joined_to is None:
            before = self._last(prompt.conversation)
            if before is None or before.parted or not before.reply.unseen:
                return None
            if before.prompt.sender != prompt.sender or not self._is_soon(prompt, before.prompt):
                return None
        elif (before := self.of(prompt.room_id, joined_to)) is None:
            return None
        return None if len(before.prompt.messages) == MOST_MESSAGES else before

    def _is_soon(self, prompt: Prompt, before: Prompt) -> bool:
        said_at, last = prompt.messages[0].timestamp, before.messages[-1].timestamp
        return abs(said_at - last) <= self._join_ms  # one that came late was not said behind it

    def part(self, conversation: Conversation) -> None:
        """Note that something else was said after the last prompt of the conversation."""
        last = self._last(conversation)
        if last is not None:
            last.parted = True

    def part_of(self, room_id: RoomId, event_id: EventId) -> None:
        """Note the same where the event is a message of an answer."""
        running = self.of(room_id, event_id)
        if running is not None:
            running.parted = True

    def begin(
        self,
        prompt: Prompt,
        remarks: Sequence[str] = (),
        before: PriorState = PriorState.NOTHING,
    ) -> Generation:
        """Give the prompt its place in the line, whatever may stand of its reply."""
        answering = Generation(
            prompt,
            StreamingReply(self._replying, prompt, self._texts, before),
            self.lanes.queue(prompt.conversation, prompt.sender),
            self._replying.clock.monotonic(),
            list(prompt.event_ids),
            remarks=list(remarks),
        )
        if self._replying.matrix.room(prompt.room_id).closed:
            answering.reply.silence()
        self._open.append(answering)
        return answering

    def finish(self, answering: Generation) -> None:
        """Let go of an answer that is given, or never will be."""
        answering.ticket.drop()
        self._open.remove(answering)
        answering.done.set()

    async def drain(self) -> None:
        """Let nobody's turn come any more, and wait until those that have it are done."""
        self.lanes.close()
        for answering in [one for one in self._open if one.ticket.place is None]:
            await answering.done.wait()

    def line(self) -> Line:
        """Return how many prompts wait for their turn, since when, and how many have it."""
        waiting = [one for one in self._open if not one.ticket.turn.is_set()]
        now = self._replying.clock.monotonic()
        oldest_wait = now - waiting[0].asked_at if waiting else 0.0
        return Line(len(waiting), oldest_wait, len(self._open) - len(waiting))

    def of(self, room_id: RoomId, event_id: EventId) -> Generation | None:
        """Return the answer that an event of the room is a message of."""
        return next((one for one in self.of_room(room_id) if one.concerns(event_id)), None)

    def of_thread(self, room_id: RoomId, root: EventId) -> list[Generation]:
        """Return the answers in a thread."""
        conversation = Conversation(room_id, root)
        return [one for one in self._open if one.prompt.conversation == conversation]

    def silence(self, room_id: RoomId) -> None:
        """Send nothing more to a room in which the bot can no longer speak."""
        for answering in self.of_room(room_id):
            answering.reply.silence()

    def of_room(self, room_id: RoomId) -> list[Generation]:
        """Return the answers in a room, the last asked for first."""
        return [one for one in reversed(self._open) if one.prompt.room_id == room_id]

    def is_passed(self, prompt: Prompt) -> bool:
        """Tell whether what was not said before it is being answered, or to be answered."""
        said_at = prompt.messages[-1].timestamp
        here = [one for one in self._open if one.prompt.conversation == prompt.conversation]
        return any(one.prompt.messages[-1].timestamp >= said_at for one in here)

    def is_followed(self, conversation: Conversation, prompt: EventId) -> bool:
        """Tell whether anything else of the conversation is being answered, or to be answered."""
        last = self._last(conversation)
        return last is not None and last.prompt.event_id != prompt

    def last_to(self, conversation: Conversation, sender: UserId) -> Generation | None:
        """Return the last answer to somebody in a conversation that is not whole yet."""
        found = [one for one in self._open if one.prompt.conversation == conversation]
        return next((one for one in reversed(found) if one.prompt.sender == sender), None)

    def _last(self, conversation: Conversation) -> Generation | None:
        found = [one for one in self._open if one.prompt.conversation == conversation]
        return found[-1] if found else None


async def _first(*waits: Coroutine[None, None, object]) -> None:
    """Return when the first of the waits is over; the others are given up."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

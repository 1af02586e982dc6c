"""One reply on its way into the room: first words early, newest text always, the final whole."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass

import structlog

from bot.core.draft import Draft
from bot.core.events import Delta, EventId, Message, Usage
from bot.core.markdown import Part
from bot.core.replies import Edit, Notice, Outgoing, Reply, transaction_id
from bot.core.split import split
from bot.errors import CompletionError, MatrixError
from bot.insist import insist, pause
from bot.ports import Claim, Clock, Matrix, Store
from bot.texts import Texts

log = structlog.get_logger()

_REMARKS = {"length": "cut by length", "content_filter": "cut by filter"}


@dataclass(frozen=True, slots=True)
class Pace:
    """How soon and how often a reply is shown, in seconds."""

    first_after: float
    edit_interval: float


class Replying:
    """Streams deltas into the reply to a prompt: one send in flight, never two.

    The reply's messages and ids are in the ledger, so a process that comes after a crash goes on
    in the same messages.
    """

    def __init__(
        self, matrix: Matrix, store: Store, clock: Clock, texts: Texts, pace: Pace, model: str
    ) -> None:
        self.matrix = matrix
        self.store = store
        self.clock = clock
        self.texts = texts
        self.pace = pace
        self.model = model

    async def stream(
        self, prompt: Message, deltas: AsyncGenerator[Delta, None], remarks: Sequence[str] = ()
    ) -> None:
        """Show the completion as it grows; return when its final version is acknowledged.

        Args:
            prompt: the message that is answered.
            deltas: the completion; it is closed at the end.
            remarks: lines of the bot's own that the final version carries below the text.

        Raises:
            MatrixError: the homeserver refuses for good.
        """
        async with aclosing(deltas):
            claim = await self.store.claim(prompt.event_id)
            reply = _Growing(self, prompt, claim, remarks)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(reply.read(deltas))
                    tasks.create_task(reply.write())
            except ExceptionGroup as group:
                raise group.exceptions[0] from group  # the one that ended the other


class _Growing:
    """The state of one reply: what the model has said, and what stands in the room."""

    def __init__(
        self, to: Replying, prompt: Message, claim: Claim, remarks: Sequence[str]
    ) -> None:
        self._to = to
        self._prompt = prompt
        self._claim = claim
        self._draft = Draft(first_after=to.pace.first_after, edit_interval=to.pace.edit_interval)
        self._events = list(claim.event_ids)  # the reply's messages, by part
        self._standing: dict[int, Reply] = {}  # what this process put into each
        self._edits = 0
        self._refused = 0  # edits in a row
        self._added = list(remarks)
        self._usage: Usage | None = None
        self._over = False
        self._changed = asyncio.Event()

    async def read(self, deltas: AsyncGenerator[Delta, None]) -> None:
        """Take in the deltas until the completion ends or fails."""
        reason = None
        try:
            async for delta in deltas:
                self._usage = delta.usage or self._usage
                self._draft.add(delta.text, self._to.clock.monotonic())
                reason = delta.finish_reason or reason
                self._changed.set()
        except CompletionError as error:
            log.warning("completion failed", kind=type(error).__name__, reason=str(error))
            self._add(error.key)
        else:
            if reason in _REMARKS:
                self._add(_REMARKS[reason])
            elif not self._draft.text.strip():
                self._add("model empty")
        self._over = True
        self._changed.set()

    async def write(self) -> None:
        """Show the newest text whenever it is due, and the whole at the end."""
        while await self._due():
            await self._show()
        await self._finish()

    def _add(self, key: str) -> None:
        self._added.append(self._to.texts(key))

    async def _due(self) -> bool:
        """Wait until the draft is due; False when the completion is over."""
        while not self._over:
            due_at = self._draft.due_at()
            wait = None if due_at is None else due_at - self._to.clock.monotonic()
            if wait is not None and wait <= 0:
                return True
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait)
        return False

    async def _show(self) -> None:
        """Put what stands now into the room; a refused edit gives way to a newer one."""
        text = self._draft.text
        *full, growing = split(text)
        for number, part in enumerate(full):
            await self._put(number, Reply(self._prompt, part, self._to.model), stage="final")
        reply = Reply(self._prompt, growing, self._to.model)
        try:
            await self._put(len(full), reply, stage=f"edit:{self._edits}", insisting=False)
        except MatrixError as error:
            wait = pause(error, self._refused)
            self._refused += 1
            log.info("edit refused", reason=str(error), retry_in=round(wait, 1))
            self._draft.postpone(self._to.clock.monotonic() + wait)
        else:
            self._refused = 0
            self._draft.shown(text, self._to.clock.monotonic())
        self._edits += 1

    async def _finish(self) -> None:
        text = self._draft.text
        if not text.strip() and not self._events:
            await self._send(Notice("\n\n".join(self._added), self._prompt), "first", 0)
            return
        parts = split(text)
        for number, part in enumerate(parts):
            added = tuple(self._added) if number == len(parts) - 1 else ()
            reply = Reply(self._prompt, part, self._to.model, added)
            await self._put(number, reply, stage="final")
        void = Reply(self._prompt, Part(""), self._to.model, (self._to.texts("void"),))
        for number in range(len(parts), len(self._events)):  # a longer text of an earlier process
            await self._put(number, void, stage="final")
        tokens = self._usage.completion_tokens if self._usage else None
        log.info(
            "reply sent", parts=len(parts), edits=self._edits, characters=len(text), tokens=tokens
        )

    async def _put(self, number: int, reply: Reply, *, stage: str, insisting: bool = True) -> None:
        """Bring part `number` to `reply`: post it, edit it, or leave it where it is that already.

        The first message of a part is always insisted on, with the same content under the same
        id. Where an earlier process may have sent it, the homeserver keeps that one's text: what
        stands is then unknown, and a final edit must follow.
        """
        if self._standing.get(number) == reply:
            return
        if number >= len(self._events):
            event_id = await self._send(reply, "first", number)
            await self._to.store.sent(self._prompt.event_id, number, event_id)
            self._events.append(event_id)
            if self._claim.number == 1:
                self._standing[number] = reply
                return
            if stage != "final":
                return
        edit = Edit(self._events[number], reply)
        if insisting:
            await self._send(edit, stage, number)
        else:
            await self._send_once(edit, stage, number)
        self._standing[number] = reply

    async def _send(self, outgoing: Outgoing, stage: str, part: int) -> EventId:
        return await insist(self._to.clock, lambda: self._send_once(outgoing, stage, part))

    async def _send_once(self, outgoing: Outgoing, stage: str, part: int) -> EventId:
        claim = 0 if stage == "first" else self._claim.number
        return await self._to.matrix.send(
            self._prompt.room_id,
            outgoing,
            transaction_id(
                self._to.matrix.device_id, self._prompt.event_id, stage, part=part, claim=claim
            ),
        )

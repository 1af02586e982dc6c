"""Delivery of one reply's messages: claim of the prompt, transaction ids, and sends."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from bot.core.events import EventId, Message, Prompt
from bot.core.outgoing import (
    OutboxMessage,
    Outgoing,
    OutgoingEdit,
    PreparedEvent,
    Reply,
    transaction_id,
)
from bot.core.reply_state import Found, PriorState
from bot.ports.clock import Clock
from bot.ports.ledger import Store
from bot.ports.matrix import Matrix
from bot.replies.prior_reply import (
    PriorMessages,
    is_any_there,
    match_prior_messages,
    may_be_hidden,
    read_text,
    sent_since,
)
from bot.runtime.failpoints import armed
from bot.runtime.retry import retry_until_accepted


class DeliveryClosed(Exception):  # ends one send, and is caught by StreamingReply
    """Nothing more may be sent for the reply."""


class ReplyDelivery:
    """Sends the messages of one reply, each under one transaction id however often it is tried.

    The ledger holds their event ids, and each message names the prompt. So a process that comes
    after a crash goes on in the same messages, and so does a reply that is written once more.

    Attributes:
        prompt: the prompt that is answered.
        event_ids: the reply's messages, by part.
        claim: how often the prompt has been claimed.
        is_first_claim: whether no process had claimed the prompt before this one.
        answered: the prompt's messages that a reply of an earlier process answers.
        left_out: messages that a reply of an earlier process does not answer; they are no part of
            the prompt any more.
        notices: the bot's notices about the prompt that stand beside the reply.
        sent_events: how many events were sent.
    """

    def __init__(
        self,
        *,
        matrix: Matrix,
        store: Store,
        clock: Clock,
        prompt: Prompt,
        is_closed: Callable[[], bool],
    ) -> None:
        """Prepare the delivery; `is_closed` returns whether nothing more may be sent."""
        self.prompt = prompt
        self.event_ids: list[EventId] = []
        self.claim = 0
        self.is_first_claim = False
        self.answered: tuple[EventId, ...] = ()
        self.left_out: tuple[Message, ...] = ()
        self.notices: tuple[EventId, ...] = ()
        self.sent_events = 0
        self._matrix = matrix
        self._store = store
        self._clock = clock
        self._is_closed = is_closed
        self._claimed: tuple[EventId, ...] = ()  # the prompt's messages, as the ledger joins them
        self._claim_is_used = False  # a transaction id of this claim may be taken
        self._edits: dict[int, PreparedEvent] = {}  # the last one of each part, not read back

    @property
    def is_first_send(self) -> bool:
        """Whether no process can have sent anything under the ids of first versions.

        A notice may have been sent under the first one, by a process whose claim the ledger does
        not know because it comes from a backup.
        """
        return self.is_first_claim and not self.notices

    async def open(self, before: PriorState) -> tuple[Found, Sequence[OutboxMessage]]:
        """Claim the prompt, and find what an earlier process has sent of the reply.

        Returns:
            How much of the reply stands, and the messages of its final version that an earlier
            process has left in the ledger.
        """
        unsent = await self._take_up(again=before is not PriorState.NOTHING)
        self.is_first_claim = self.claim == 1
        if before is PriorState.NOTHING:
            return Found.NOTHING, unsent
        return await self._find(before), unsent

    async def _take_up(self, *, again: bool = True) -> Sequence[OutboxMessage]:
        self._claim_is_used, prompt = False, self.prompt
        claim = await self._store.claim(prompt, again=again)
        self.claim, self._claimed = claim.number, prompt.event_ids
        self.event_ids = list(claim.event_ids)
        return claim.outbox

    async def _find(self, before: PriorState) -> Found:
        """Find the reply's messages in the room, whatever the ledger knows of them.

        A reply that was redacted meanwhile is not continued.
        """
        prompt = self.prompt
        since = await sent_since(self._matrix, self._clock, prompt)
        prior = match_prior_messages(since, prompt.event_id)
        self.notices = prior.notices
        if await is_any_there(self._matrix, self._clock, prompt.room_id, prior.joined_to):
            return Found.WORDLESS  # the reply to the other prompt is restored with that one
        self.answered = prior.answered
        if self.event_ids and self.event_ids[0] not in prior.event_ids:
            is_gone = await self.shown(self.event_ids[0]) is None
            return Found.REDACTED if is_gone else Found.PART
        await self._record_unknown(prior)
        if prior.reply:
            self._leave_out(self.answered)
            return prior.found
        if before is PriorState.WHOLE:  # the person asks for the reply once more
            return Found.NOTHING
        is_hidden = await may_be_hidden(self._store, self.prompt, since)
        if is_hidden:  # the prompt's other messages may well have a reply of their own
            self._leave_out(self.prompt.event_ids[:1])
        return Found.HIDDEN if is_hidden else Found.NOTHING

    async def _record_unknown(self, prior: PriorMessages) -> None:
        """Record the messages that stand in the room and not in the ledger."""
        unknown = [one for one in prior.event_ids if one not in self.event_ids]
        for event_id in unknown:
            await self._record(self.prompt, len(self.event_ids), event_id)

    async def _record(self, prompt: Prompt, part: int, event_id: EventId) -> None:
        await self._store.sent(prompt.event_id, part, event_id)
        self.event_ids[part:] = [event_id]  # the ledger may have been read meanwhile

    def _leave_out(self, answered: Sequence[EventId]) -> None:
        """Drop from the prompt the messages that the existing reply does not answer."""
        messages = self.prompt.messages
        kept = tuple(one for one in messages if one.event_id in answered)
        if kept and len(kept) < len(messages):
            self.left_out = tuple(one for one in messages if one.event_id not in answered)
            self.prompt = replace(self.prompt, messages=kept)

    def change_prompt(self, prompt: Prompt) -> None:
        """Answer this prompt from now on; it may have more or fewer messages."""
        self.prompt = prompt

    async def begin_text(self) -> None:
        """Prepare for a new text, which must not find the events of an earlier one."""
        if self._claim_is_used:
            await self._take_up()
        else:
            await self.claim_all()

    async def claim_all(self) -> None:
        """Join all messages of the prompt in the ledger, where they are not yet.

        The reply goes wherever any of them goes: it is redacted with it.
        """
        if self.prompt.event_ids != self._claimed:
            await self._take_up()

    async def post(self, part: int, reply: Reply) -> None:
        """Send the first version of part `part`: the same text under the same id, for ever.

        Where an earlier process may have sent it, the homeserver keeps that one's text.
        """
        if reply.prompt.event_ids != self._claimed:
            await self._take_up()
        transaction = self.transaction("first", part, 0)
        event_id = await self.put(await self.prepare(reply), "first", transaction)
        await self._record(reply.prompt, part, event_id)

    async def post_prepared(self, part: int, wire: PreparedEvent, transaction: str) -> None:
        """Send the first version of part `part` as it was prepared."""
        event_id = await self.put(wire, "first", transaction)
        await self._record(self.prompt, part, event_id)

    async def edit(self, part: int, edit: OutgoingEdit, stage: str, claim: int) -> None:
        """Edit part `part`, until the homeserver accepts it or refuses for good.

        It is the same event in every try: a send that was answered by a 429 may have been
        accepted.
        """
        self._claim_is_used = True
        transaction = self.transaction(stage, part, claim)
        wire = await self.prepare(edit)
        await self.put(wire, stage, transaction)
        self._edits[part] = wire

    async def edit_once(self, part: int, edit: OutgoingEdit, stage: str, claim: int) -> None:
        """Edit part `part` in one try: a newer version will follow a refused one."""
        self._claim_is_used = True
        transaction = self.transaction(stage, part, claim)
        wire = await self._prepare_once(edit)
        await self._put_once(wire, stage, transaction)
        self._edits[part] = wire

    def unverified_edit(self, part: int) -> PreparedEvent | None:
        """Return the last edit of a part, None where it was read back or the part has none."""
        return self._edits.get(part)

    def forget_edit(self, part: int) -> None:
        """Note that a newer version of the part was read back."""
        self._edits.pop(part, None)

    def transaction(self, stage: str, part: int, claim: int) -> str:
        """Return the transaction id of one send."""
        device_id, prompt = self._matrix.device_id, self.prompt.event_id
        return transaction_id(device_id, prompt, stage, part=part, claim=claim)

    async def shown(self, event_id: EventId) -> PreparedEvent | None:
        """Return what the homeserver shows for one of the reply's messages, None if redacted."""
        matrix, room_id = self._matrix, self.prompt.room_id
        return await retry_until_accepted(self._clock, lambda: matrix.shown(room_id, event_id))

    async def read_text(self) -> Sequence[Message]:
        """Return the reply's messages as the room shows them, as far as they are one text."""
        return await read_text(self._matrix, self._clock, self.prompt.room_id, self.event_ids)

    async def prepare(self, outgoing: Outgoing) -> PreparedEvent:
        """Return the event to send, encrypted where the room is, however long that takes."""
        return await retry_until_accepted(self._clock, lambda: self._prepare_once(outgoing))

    async def _prepare_once(self, outgoing: Outgoing) -> PreparedEvent:
        self._check_open()
        return await self._matrix.prepare(self.prompt.room_id, outgoing)

    async def put(self, wire: PreparedEvent, stage: str, transaction: str) -> EventId:
        """Send an event until the homeserver accepts it, or refuses for good.

        Raises:
            DeliveryClosed: nothing more may be sent.
        """
        return await retry_until_accepted(
            self._clock, lambda: self._put_once(wire, stage, transaction)
        )

    async def _put_once(self, wire: PreparedEvent, stage: str, transaction: str) -> EventId:
        self._check_open()
        with armed.around(stage.partition(":")[0]):
            event_id = await self._matrix.put(self.prompt.room_id, wire, transaction)
        self.sent_events += 1
        return event_id

    def _check_open(self) -> None:
        if self._is_closed():
            raise DeliveryClosed

"""The outbox of one reply: its final version, kept in the ledger before any of it is sent."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from bot.core.events import EventId
from bot.core.outgoing import IN_STEAD, Notice, OutboxMessage, OutgoingEdit, PreparedEvent, Reply
from bot.core.reply_state import Found, PriorReply
from bot.monitoring.health import Health
from bot.ports.clock import Clock
from bot.ports.ledger import Store
from bot.ports.matrix import Matrix
from bot.replies.delivery import ReplyDelivery
from bot.replies.repair import Repair


class Outbox:
    """Sends final versions, so that a process that comes after a crash sends them as they are.

    The ledger holds the messages sealed.
    """

    def __init__(
        self,
        *,
        matrix: Matrix,
        store: Store,
        clock: Clock,
        health: Health,
        delivery: ReplyDelivery,
    ) -> None:
        self._matrix = matrix
        self._store = store
        self._delivery = delivery
        self._repair = Repair(clock=clock, health=health, delivery=delivery)
        self._unsent: Sequence[OutboxMessage] = ()  # left by an earlier process

    def restore(self, unsent: Sequence[OutboxMessage]) -> None:
        """Take over the messages that an earlier process has left in the ledger."""
        self._unsent = unsent

    async def is_settled(self, prior: PriorReply) -> bool:
        """Return whether the final version is known, so that the model need not be asked.

        An earlier process has sent it, or has left it in the ledger. A version that is not wanted
        any more is dropped from the ledger.
        """
        in_doubt = prior.is_doubtful and any(one.part != IN_STEAD for one in self._unsent)
        if not (prior.outdated or in_doubt) and await self._can_be_sent():
            return True
        if self._unsent:
            self._unsent = ()
            await self._store.keep_outbox(self._delivery.prompt.event_id, ())
        return prior.is_settled

    async def _can_be_sent(self) -> bool:
        """Return whether the messages of an earlier process are still right.

        Messages that are no edits are sent to find out: another text may stand under their ids.
        """
        delivery = self._delivery
        for one in self._unsent:
            if one.device_id != self._matrix.device_id:
                return False
            if set(one.answers) != set(delivery.prompt.event_ids):
                return False
            if one.replaces is not None or one.part == IN_STEAD:
                continue
            if one.part >= len(delivery.event_ids):
                await delivery.post_prepared(one.part, one.wire, one.transaction_id)
            if not await self._repair.stands(one.wire, delivery.event_ids[one.part]):
                return False
        return bool(self._unsent)

    async def send_settled(self, prior: PriorReply) -> bool:
        """Send what an earlier process has left to be sent; return False if nothing is settled."""
        if not await self.is_settled(prior):
            return False
        for one in self._unsent:
            if one.part == IN_STEAD:
                await self._send_notice(one)
            elif one.replaces is not None:
                await self._send(one, None)
        return True

    async def send_notice(self, notice: Notice, prior: PriorReply) -> None:
        """Send a notice once, in place of a reply, or beside the one that is to stay."""
        delivery = self._delivery
        await delivery.claim_all()
        nothing_stands = (
            delivery.is_first_claim and not delivery.event_ids and prior.found is not Found.HIDDEN
        )
        stage, claim = ("first", 0) if nothing_stands else ("notice", delivery.claim)
        transaction = delivery.transaction(stage, 0, claim)
        message = self._message(IN_STEAD, transaction, None, await delivery.prepare(notice))
        await self._store.keep_outbox(delivery.prompt.event_id, [message])
        await self._send_notice(message)

    async def _send_notice(self, one: OutboxMessage) -> None:
        """Send a notice, unless it stands already: the homeserver may have forgotten its id."""
        for event_id in self._delivery.notices:
            if await self._repair.stands(one.wire, event_id):
                return
        await self._delivery.put(one.wire, "notice", one.transaction_id)

    async def send_final(
        self, replies: Mapping[int, Reply], goes_on: Callable[[int], bool] = lambda _: True
    ) -> None:
        """Keep messages of the final version in the ledger as they are sent, then send them.

        Args:
            replies: the messages, by part.
            goes_on: is called with the part of each message that stands, and returns whether the
                next one is still wanted.
        """
        delivery = self._delivery
        await delivery.claim_all()
        messages: list[OutboxMessage] = []
        for part, reply in replies.items():
            messages.append(await self._prepare(part, reply))
            await asyncio.sleep(0)  # a long text has many, each of which is rendered
        if messages:
            await self._store.keep_outbox(delivery.prompt.event_id, messages)
        for one in messages:
            await self._send(one, replies[one.part])
            delivery.forget_edit(one.part)
            if not goes_on(one.part):
                return

    async def verify_edits(self, parts: Iterable[int]) -> None:
        """Read back parts whose final version was sent as an edit before."""
        await self._repair.verify_edits(parts)

    async def _prepare(self, part: int, reply: Reply) -> OutboxMessage:
        delivery = self._delivery
        replaces = delivery.event_ids[part] if part < len(delivery.event_ids) else None
        stage, claim = ("first", 0) if replaces is None else ("final", delivery.claim)
        transaction = delivery.transaction(stage, part, claim)
        wire = await delivery.prepare(reply if replaces is None else OutgoingEdit(replaces, reply))
        return self._message(part, transaction, replaces, wire)

    def _message(
        self, part: int, transaction: str, replaces: EventId | None, wire: PreparedEvent
    ) -> OutboxMessage:
        return OutboxMessage(
            part=part,
            device_id=self._matrix.device_id,
            transaction_id=transaction,
            replaces=replaces,
            answers=self._delivery.prompt.event_ids,
            wire=wire,
        )

    async def _send(self, one: OutboxMessage, reply: Reply | None) -> None:
        """Send a message of the final version, and make sure that the homeserver shows it.

        Args:
            one: the message as it is sent.
            reply: what it says; None where only an earlier process knew.
        """
        delivery = self._delivery
        if one.replaces is not None:
            await delivery.put(one.wire, "final", one.transaction_id)
            await self._repair.verify(one.part, one.wire)
            return
        await delivery.post_prepared(one.part, one.wire, one.transaction_id)
        if not delivery.is_first_send and reply is not None:  # else no other text can stand there
            await self._repair.verify(one.part, one.wire, reply)

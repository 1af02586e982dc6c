"""The messages of one reply in the room: claimed, found again, sent once, and read back."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial

import structlog

from bot.core.events import EventId, Message, Prompt
from bot.core.first_words import LEAST
from bot.core.outgoing import (
    IN_STEAD,
    Notice,
    OutboxMessage,
    Outgoing,
    OutgoingEdit,
    PreparedEvent,
    Reply,
    SentSince,
    transaction_id,
)
from bot.errors import FatalError
from bot.monitoring.health import Health
from bot.ports.clock import Clock
from bot.ports.ledger import Store
from bot.ports.matrix import Matrix
from bot.runtime.failpoints import armed
from bot.runtime.retry import retry_until_accepted

_REPAIRS = 3  # of a final version that the homeserver does not show

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pace:
    """How soon and how often a reply is shown, in seconds.

    Attributes:
        line_after: until who waits is told why, and between two such lines.
        least: visible characters of the first words, no seconds.
    """

    first_after: float
    edit_interval: float
    line_after: float
    least: int = LEAST


@dataclass(frozen=True, slots=True)
class Replying:
    """What every reply needs."""

    matrix: Matrix
    store: Store
    clock: Clock
    pace: Pace
    health: Health


class PriorState(Enum):
    """What may stand of a reply before this process begins with it."""

    NOTHING = "nothing"
    PERHAPS = "perhaps"  # its prompt came while the bot was away: an earlier process may know it
    BEGUN = "begun"  # an earlier process has taken it up, and may have shown something
    WHOLE = "whole"  # and it is to be replaced


class DeliveryClosed(Exception):  # ends one send, and is caught by whoever writes the reply
    """Nothing more is to be sent."""


async def hidden_messages(store: Store, prompt: Prompt, since: SentSince) -> list[EventId]:
    """Return the bot's messages that may be about a prompt and cannot be read.

    What the ledger knows as the reply to another prompt is none of them.
    """
    return [
        event_id
        for event_id in since.unreadable_for(prompt)
        if await store.exchange(prompt.room_id, event_id) is None
    ]


class Unmarked(Exception):  # ends one answer, and is caught by whoever asked for it
    """A part of a reply stands, and nothing could be put there to say so."""


class ReplyDelivery:
    """Sends the messages of a reply, each under one id whatever happens between two tries.

    They are in the ledger by their ids, and name the prompt: a process that comes after a crash
    goes on in the same ones, and so does who answers once more. The final version is in the
    ledger before any of it is sent, sealed: such a process sends it as it is.

    Attributes:
        prompt: what is answered.
        event_ids: the reply's messages, by part.
        claimed: the prompt's messages that the ledger ties.
        claim: how often the prompt has been taken up.
        fresh: no process has taken it up before.
        used: something may stand under an id of this claim.
        events: how many were sent.
        silent: nothing more is sent.
        answered: the messages that what an earlier process has sent may tell of.
        whole: an earlier process has sent all of it.
        worded: that has words of the model.
        left_out: messages that a reply of an earlier process does not answer; they are no part of
            the prompt any more.
        doubtful: whether an earlier process may have sent a reply that cannot be found.
    """

    def __init__(self, to: Replying, prompt: Prompt) -> None:
        self.prompt = prompt
        self.event_ids: list[EventId] = []
        self.claimed: tuple[EventId, ...] = ()
        self.claim = 0
        self.fresh = self.used = self.silent = self.whole = self.worded = False
        self.doubtful = False
        self.answered: tuple[EventId, ...] = ()
        self.events = 0
        self.left_out: tuple[Message, ...] = ()
        self._to = to
        self._frozen: tuple[OutboxMessage, ...] = ()  # what an earlier process has left on its way
        self._notices: list[EventId] = []  # what stands of the bot's beside the reply
        self._edits: dict[int, PreparedEvent] = {}  # the last of each part

    async def open(self, before: PriorState) -> None:
        """Claim the prompt, and find what an earlier process has sent of the reply."""
        self._frozen = await self.take_up(again=before is not PriorState.NOTHING)
        self.fresh = self.claim == 1
        if before is not PriorState.NOTHING:
            await self._look(before)

    async def take_up(self, *, again: bool = True) -> tuple[OutboxMessage, ...]:
        """Claim the prompt; return what an earlier process has left to be sent."""
        self.used, prompt = False, self.prompt
        claim = await self._to.store.claim(prompt, again=again)
        self.claim, self.claimed = claim.number, prompt.event_ids
        self.event_ids = list(claim.event_ids)
        return claim.frozen

    async def _look(self, before: PriorState) -> None:
        """Find in the room what an earlier process has sent, whatever the ledger knows of it.

        The ledger may be older than the room: the process ended before it could record a message,
        or the ledger comes from a backup. A reply that was redacted meanwhile is not gone on with.
        """
        prompt = self.prompt
        since = await self._own_since()
        related = since.about
        self._notices = [one.event_id for one in related if not one.answers]
        found = [one for one in related if one.answers[:1] == (prompt.event_id,)]
        if not found and any(prompt.event_id in one.answers for one in related):
            self.whole = True  # it is a part of another prompt, whose reply is seen to
            return
        self.answered = found[-1].answers if found else ()
        if self.event_ids and self.event_ids[0] not in {one.event_id for one in found}:
            gone = await self._shown(self.event_ids[0]) is None
            self.silent = self.silent or gone
            return
        unknown = [one for one in found if one.event_id not in self.event_ids]
        for number, one in enumerate(unknown, len(self.event_ids)):
            await self._to.store.sent(prompt.event_id, number, one.event_id)
            self.event_ids.append(one.event_id)
        if found:
            self.whole = found[-1].final and found[0].claim == found[-1].claim
            self.worded = any(one.body.strip() for one in found)
            self._leave_out(self.answered)
        elif (
            not self.event_ids and before is not PriorState.WHOLE
        ):  # else it is asked for once more
            self.doubtful = await self._may_hide_reply(since)
            if self.doubtful:  # each of the others may well have its answer
                self._leave_out(self.prompt.event_ids[:1])

    async def _own_since(self) -> SentSince:
        """Return what the bot has sent since the prompt."""
        prompt, matrix = self.prompt, self._to.matrix
        return await retry_until_accepted(
            self._to.clock, lambda: matrix.own_since(prompt.room_id, prompt.event_ids)
        )

    async def _may_hide_reply(self, since: SentSince) -> bool:
        """Tell whether a reply may stand that was not found: nobody must be answered twice."""
        hidden = await hidden_messages(self._to.store, self.prompt, since)
        if hidden or not since.whole:
            log.error("reply perhaps sent", unreadable=hidden, all_read=since.whole)
        return bool(hidden) or not since.whole

    def _leave_out(self, answered: Sequence[EventId]) -> None:
        """Let the reply that stands be to what it answers, and to nothing that came later."""
        messages = self.prompt.messages
        kept = tuple(one for one in messages if one.event_id in answered)
        if kept and len(kept) < len(messages):
            self.left_out = tuple(one for one in messages if one.event_id not in answered)
            self.prompt = replace(self.prompt, messages=kept)

    async def standing(self) -> list[Message]:
        """Return what the room shows of the reply, part by part, as far as that is one text."""
        matrix, room_id, found = self._to.matrix, self.prompt.room_id, list[Message]()
        for event_id in self.event_ids:
            one = await retry_until_accepted(
                self._to.clock, partial(matrix.fetch, room_id, event_id)
            )
            if not (isinstance(one, Message) and one.answers and one.body.strip()):
                break  # a notice stands there, or only a line
            if found and one.claim != found[0].claim:
                break  # it stands there since an earlier text
            found.append(one)
        return found

    async def settled(self, *, changed: bool) -> bool:
        """Tell whether the final version is known, so that nobody need be asked for it.

        An earlier process has sent it, or has left it in the ledger to be sent.

        Args:
            changed: what is asked has other words by now.
        """
        in_doubt = self.doubtful and any(one.part != IN_STEAD for one in self._frozen)
        if not (changed or in_doubt) and await self._is_right():
            return True
        if self._frozen:
            self._frozen = ()
            await self._to.store.keep_outbox(self.prompt.event_id, ())
        return self.whole and not changed

    async def _is_right(self) -> bool:
        """Tell whether what an earlier process has left to be sent is still right.

        Messages that are no edits are sent for that: something else may stand under their ids.
        """
        for one in self._frozen:
            if one.device_id != self._to.matrix.device_id:
                return False
            if set(one.answers) != set(self.prompt.event_ids):
                return False
            if one.replaces is not None or one.part == IN_STEAD:
                continue
            if one.part >= len(self.event_ids):
                await self._bring_first(one)
            if not await self._stands(one.wire, self.event_ids[one.part]):
                return False
        return bool(self._frozen)

    async def finish_settled(self, *, changed: bool) -> bool:
        """Send what an earlier process has left to be sent; False where nothing is settled.

        Args:
            changed: what is asked has other words by now.
        """
        if not await self.settled(changed=changed):
            return False
        for one in self._frozen:
            if one.part == IN_STEAD:
                await self._say(one)
            elif one.replaces is not None:
                await self._bring(one, None)
        return True

    async def post(self, number: int, reply: Reply) -> None:
        """Send the first version of part `number`: the same words under the same id, for ever.

        Where an earlier process may have sent it, the homeserver keeps that one's text.
        """
        if reply.prompt.event_ids != self.claimed:
            await self.take_up()  # the reply goes where any of its prompt's messages goes
        event_id = await self.send(reply, "first", number, 0)
        await self._to.store.sent(reply.prompt.event_id, number, event_id)
        self.event_ids[number:] = [event_id]  # the ledger may have been read meanwhile

    async def send(
        self, outgoing: Outgoing, stage: str, part: int, claim: int, *, insisting: bool = True
    ) -> EventId:
        """Send under one id; what is insisted on stays the same, whatever a try was answered.

        A 429 may answer a send that was accepted.
        """
        self.used = self.used or stage != "first"
        name, transaction = stage.partition(":")[0], self._transaction(stage, part, claim)
        if insisting:
            wire = await self._wire(outgoing)
            event_id = await self._put(wire, name, transaction)
        else:
            wire = await self._prepare(outgoing)
            event_id = await self._put_once(wire, name, transaction)
        if isinstance(outgoing, OutgoingEdit):
            self._edits[part] = wire
        return event_id

    async def say_instead(self, notice: Notice) -> None:
        """Say this in place of a reply, once, or beside the reply that is to stay."""
        if self.prompt.event_ids != self.claimed:
            await self.take_up()
        nothing_stands = self.fresh and not self.event_ids and not self.doubtful
        stage, claim = ("first", 0) if nothing_stands else ("notice", self.claim)
        transaction = self._transaction(stage, 0, claim)
        frozen = self._fix(IN_STEAD, transaction, None, await self._wire(notice))
        await self._to.store.keep_outbox(self.prompt.event_id, [frozen])
        await self._say(frozen)

    async def _say(self, one: OutboxMessage) -> None:
        """Send a notice, unless it stands already and the homeserver has forgotten its id."""
        for event_id in self._notices:
            if await self._stands(one.wire, event_id):
                return
        await self._put(one.wire, "notice", one.transaction_id)

    async def send_final(
        self, replies: Mapping[int, Reply], goes_on: Callable[[int], bool] = lambda _: True
    ) -> None:
        """Keep messages of the final version in the ledger as they are sent, then send them.

        Args:
            replies: the messages, by part.
            goes_on: is told of each that stands, and tells whether the next is still wanted.
        """
        if self.prompt.event_ids != self.claimed:
            await self.take_up()
        frozen: list[OutboxMessage] = []
        for number, reply in replies.items():
            frozen.append(await self._final(number, reply))
            await asyncio.sleep(0)  # a long text has many, each of which is rendered
        if frozen:
            await self._to.store.keep_outbox(self.prompt.event_id, frozen)
        for one in frozen:
            await self._bring(one, replies[one.part])
            self._edits.pop(one.part, None)  # it is verified, and nothing else stands there
            if not goes_on(one.part):
                return

    async def _final(self, number: int, reply: Reply) -> OutboxMessage:
        replaces = self.event_ids[number] if number < len(self.event_ids) else None
        stage, claim = ("first", 0) if replaces is None else ("final", self.claim)
        transaction = self._transaction(stage, number, claim)
        wire = await self._wire(reply if replaces is None else OutgoingEdit(replaces, reply))
        return self._fix(number, transaction, replaces, wire)

    def _fix(
        self, part: int, transaction: str, replaces: EventId | None, wire: PreparedEvent
    ) -> OutboxMessage:
        device_id, answers = self._to.matrix.device_id, self.prompt.event_ids
        return OutboxMessage(part, device_id, transaction, replaces, answers, wire)

    async def _bring(self, one: OutboxMessage, reply: Reply | None) -> None:
        """Send a message of the final version, and see that the homeserver shows it.

        Args:
            one: as it is sent.
            reply: what it says; None where only an earlier process knew.
        """
        if one.replaces is not None:
            await self._put(one.wire, "final", one.transaction_id)
            await self._verify(one.part, one.wire)
            return
        await self._bring_first(one)
        if not self.fresh and reply is not None:  # else nothing but this can stand there
            await self._verify(one.part, one.wire, reply)

    async def _bring_first(self, one: OutboxMessage) -> None:
        event_id = await self._put(one.wire, "first", one.transaction_id)
        await self._to.store.sent(self.prompt.event_id, one.part, event_id)
        self.event_ids[one.part :] = [event_id]

    async def verify(self, parts: Iterable[int]) -> None:
        """See that the homeserver shows what was sent before as an edit, and is final."""
        for part in parts:
            if part in self._edits:
                await self._verify(part, self._edits[part])

    async def _verify(self, part: int, wire: PreparedEvent, reply: Reply | None = None) -> None:
        """Read the message back, and send it once more where another text stands.

        The newest `origin_server_ts` wins among edits, whichever was sent last; and a transaction
        id that was used before brings back an old event.

        Args:
            part: which message of the reply.
            wire: what is to stand there.
            reply: what it says, where `wire` is no edit.
        """
        event_id = self.event_ids[part]
        for repair in range(_REPAIRS + 1):
            if await self._is_shown(wire, event_id):
                return
            log.warning("another text stands", event_id=event_id, repairs=repair)
            if repair == _REPAIRS:
                log.error("reply not repaired", event_id=event_id)
                return
            self._to.health.repaired()
            await self._to.clock.sleep(2.0**repair)
            if reply is not None:
                wire = await self._wire(OutgoingEdit(event_id, reply))
            transaction = self._transaction(f"repair:{repair}", part, self.claim)
            await self._put(wire, "repair", transaction)

    async def _is_shown(self, wire: PreparedEvent, event_id: EventId) -> bool:
        """Tell whether the homeserver shows what it has acknowledged, or need not.

        What was redacted needs no repair; and what cannot be read back may well be right.
        """
        try:
            shown = await self._shown(event_id)
        except FatalError:
            raise
        except Exception as error:  # noqa: BLE001  # the reply stands: nobody need be told
            log.warning("reply not read back", event_id=event_id, kind=type(error).__name__)
            return True
        return shown is None or wire.is_shown_as(shown)

    async def _stands(self, wire: PreparedEvent, event_id: EventId) -> bool:
        """Tell whether the homeserver shows this."""
        shown = await self._shown(event_id)
        return shown is not None and wire.is_shown_as(shown)

    async def _shown(self, event_id: EventId) -> PreparedEvent | None:
        """Return what the homeserver shows for one of the reply's messages."""
        matrix, room_id = self._to.matrix, self.prompt.room_id
        return await retry_until_accepted(self._to.clock, lambda: matrix.shown(room_id, event_id))

    def _transaction(self, stage: str, part: int, claim: int) -> str:
        device_id, prompt = self._to.matrix.device_id, self.prompt.event_id
        return transaction_id(device_id, prompt, stage, part=part, claim=claim)

    async def _wire(self, outgoing: Outgoing) -> PreparedEvent:
        """Return what is to be sent as it goes over the wire, however long that takes."""
        return await retry_until_accepted(self._to.clock, lambda: self._prepare(outgoing))

    async def _prepare(self, outgoing: Outgoing) -> PreparedEvent:
        self._heed()
        return await self._to.matrix.prepare(self.prompt.room_id, outgoing)

    async def _put(self, wire: PreparedEvent, name: str, transaction: str) -> EventId:
        """Send until the homeserver takes it, or refuses for good."""
        return await retry_until_accepted(
            self._to.clock, lambda: self._put_once(wire, name, transaction)
        )

    async def _put_once(self, wire: PreparedEvent, name: str, transaction: str) -> EventId:
        self._heed()
        with armed.around(name):
            event_id = await self._to.matrix.put(self.prompt.room_id, wire, transaction)
        self.events += 1
        return event_id

    def _heed(self) -> None:
        if self.silent:
            raise DeliveryClosed

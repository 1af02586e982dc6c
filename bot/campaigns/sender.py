"""The sending of campaigns: each message to each room once, at a set pace, never at night."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import structlog

from bot.campaigns.definition import find
from bot.campaigns.messages import message_of, send
from bot.campaigns.results_text import of_poll, of_question, progress_line
from bot.core.campaigns import (
    CLOSED,
    Campaign,
    DeliveryProgress,
    DueMessage,
    next_time,
)
from bot.core.events import Conversation, EventId, Room
from bot.core.outgoing import Anchor, Notice, Outgoing
from bot.core.polls import PollEnd
from bot.errors import FatalError, MatrixError, RateLimited, Retryable
from bot.i18n.texts import Texts
from bot.monitoring.error_boundary import error_boundary
from bot.ports.campaigns import CampaignLedger
from bot.ports.clock import Clock
from bot.ports.matrix import Matrix
from bot.replies.context_builder import Contexts
from bot.replies.notices import Notifier
from bot.runtime.broadcast import Broadcast
from bot.runtime.waiting import wait_for_event

_AGAIN = 300.0  # seconds until what has failed gets another try
_REPORTS = 60.0  # between two looks at how far a campaign is, while it has enough to send
_IN_SALON = 2.0  # seconds between two questions in a salon, which wait for nobody's answer

log = structlog.get_logger()


class CampaignSender:
    """Sends the messages of running campaigns, and tells the admins how far they are."""

    def __init__(
        self,
        *,
        matrix: Matrix,
        clock: Clock,
        ledger: CampaignLedger,
        contexts: Contexts,
        notifier: Notifier,
        changes: Broadcast,
        launches: Broadcast,
    ) -> None:
        """Keep what sending needs.

        Args:
            matrix: the account's rooms.
            clock: measures the pace.
            ledger: the campaigns and how far they are.
            contexts: knows each conversation's language.
            notifier: sends the messages.
            changes: tells that something has changed of a campaign.
            launches: tells that a campaign was launched or closed.
        """
        self._matrix = matrix
        self._clock = clock
        self._ledger = ledger
        self._contexts = contexts
        self._notifier = notifier
        self._changes = changes
        self._launches = launches
        self._slots: dict[str, float] = {}  # when each may send again, in monotonic seconds
        self._reports: dict[str, float] = {}  # when its progress is looked at again, in the same

    async def run(self, synced: asyncio.Event) -> None:
        """Send what is due, for ever; what earlier processes have launched is among it.

        Args:
            synced: set once it is known in which rooms the bot can speak.
        """
        await synced.wait()
        async with asyncio.TaskGroup() as tasks:
            working: dict[str, asyncio.Task[None]] = {}
            while True:
                launched = self._launches.current
                for name in await self._ledger.running():
                    if name not in working or working[name].done():
                        working[name] = tasks.create_task(self._carry_out(name))
                await launched.wait()

    async def _carry_out(self, name: str) -> None:
        """Send what one campaign has to send, until there is nothing left."""
        campaign, going_on = await find(self._ledger, name), True
        while going_on:
            async with error_boundary(give_up=lambda: self._clock.sleep(_AGAIN)):
                going_on = await self._go_on(
                    campaign or Campaign(name), known=campaign is not None
                )

    async def _go_on(self, campaign: Campaign, *, known: bool) -> bool:
        """Send the next message, or wait for it; what comes first may be another by then.

        Of a campaign that is not known any more, nobody can say what it asks: its polls are ended
        once it is over.

        Returns:
            Whether there is anything left to do.
        """
        name, changed = campaign.name, self._changes.current
        await self._keep_pace(name)
        now = self._clock.now()
        found = await self._ledger.due(name, now)
        if found is None:
            return not await self._is_told(name)
        one, until = found
        quiet_until = next_time(campaign.quiet, now)
        if until is not None and until <= now:
            await self._ledger.close(name, until)
        elif one is None or not (known or one.begun or one.kind == "end"):
            await self._rest(campaign, until, changed)
        elif not known and one.kind != "end":  # nobody can say what may stand there
            await self._decline(one)
        elif one.kind == "end" and not (await self._results(one))[1]:
            await self._ledger.ended(one)  # one more message would tell nobody anything
            self._changes.send()
        elif quiet_until > now:
            await self._rest(campaign, min(quiet_until, until or quiet_until), changed)
        else:
            self._slots[name] = self._clock.monotonic() + 60.0 / campaign.per_minute
            await self._try(campaign, one)
            if self._clock.monotonic() >= self._reports.get(name, 0.0):
                await self._report(name)
        return True

    async def _is_told(self, name: str) -> bool:
        """Tell the admins of a campaign's end; False where they must be told later."""
        delivery = await self._report(name)
        is_reported = delivery.reported == delivery.milestone
        if not is_reported:
            await self._clock.sleep(_AGAIN)
        return is_reported

    async def _rest(self, campaign: Campaign, until: float | None, changed: asyncio.Event) -> None:
        """Wait for something to do; an announcement that everybody has got is over."""
        delivery, now = await self._report(campaign.name), self._clock.now()
        if delivery.reported < delivery.milestone:
            until = min(now + _AGAIN, until or math.inf)
        if campaign.steps and not campaign.questions and delivery.done == delivery.rooms:
            await self._ledger.close(campaign.name, now)
        else:
            await wait_for_event(self._clock, changed, None if until is None else until - now)

    async def _keep_pace(self, name: str) -> None:
        """Wait until the campaign may send one more message."""
        wait = self._slots.get(name, 0.0) - self._clock.monotonic()
        if wait > 0:
            await self._clock.sleep(wait)

    async def _report(self, name: str) -> DeliveryProgress:
        """Tell the admins of the last milestone that was passed, once; return how far it is."""
        delivery = await self._ledger.delivery_progress(name)
        self._reports[name] = self._clock.monotonic() + _REPORTS
        if delivery.milestone <= delivery.reported:
            return delivery
        try:
            if not await self._tell_admins(name, delivery.milestone):
                return delivery
        except FatalError:
            raise
        except Retryable as error:
            log.warning("admins told later", campaign=name, reason=str(error))
            return delivery
        except MatrixError as error:
            log.warning("admins not told", campaign=name, reason=str(error))
        await self._ledger.milestone_reported(name, delivery.milestone)
        return replace(delivery, reported=delivery.milestone)

    async def _tell_admins(self, name: str, milestone: int) -> bool:
        """Say how far a campaign is, and at its end what came of it; False where nobody is told.

        What came of each question is a message of its own: an event holds 64 KiB.
        """
        room = next((one for one in self._matrix.rooms() if one.admin), None)
        progress = await self._ledger.progress(name)
        if room is None or progress is None:
            return False
        texts = (await self._contexts.chosen(Conversation(room.room_id, None))).texts
        campaign = await find(self._ledger, name)
        said = [progress_line(texts, name, progress, campaign)]
        if milestone == CLOSED and campaign is not None:
            said += [of_question(texts, one, progress) for one in campaign.questions]
        for number, words in enumerate(said):
            stage = f"told {milestone} {number}"
            await send(self._notifier, room.room_id, Notice(words), EventId(name), stage)
        return True

    async def _try(self, campaign: Campaign, one: DueMessage) -> None:
        """Send one message, once, or put it off. Its errors end here."""
        with structlog.contextvars.bound_contextvars(
            campaign=one.campaign, room_id=one.recipient.room_id
        ):
            async with error_boundary(
                "campaign message refused",
                put_off=partial(self._put_off, one),
                later="campaign message put off",
                give_up=lambda: self._give_up(one),
            ):
                await self._do(campaign, one)

    async def _put_off(self, one: DueMessage, error: Retryable) -> None:
        """Let it be due later; what else is due goes first."""
        if isinstance(error, RateLimited):  # of the account, so of every room
            later = self._clock.monotonic() + error.retry_after
            self._slots[one.campaign] = max(self._slots[one.campaign], later)
        await self._ledger.put_off(one, self._clock.now() + _AGAIN)

    async def _give_up(self, one: DueMessage) -> None:
        if one.kind == "end":
            await self._ledger.ended(one)
            self._changes.send()
        else:
            await self._decline(one)

    async def _do(self, campaign: Campaign, one: DueMessage) -> None:
        room = self._matrix.room(one.recipient.room_id)
        if room.closed:
            await self._give_up(one)
            return
        place = Conversation(room.room_id, one.recipient.thread_root)
        texts = (await self._contexts.chosen(place)).texts
        match one.kind:
            case "end":
                await self._end(campaign, one, texts)
            case "remind":
                await self._remind(one, room, texts)
            case "step":
                await self._step(campaign, one, texts)

    async def _step(self, campaign: Campaign, one: DueMessage, texts: Texts) -> None:
        now, room = self._clock.now(), self._matrix.room(one.recipient.room_id)
        since = await self._ledger.begin(one, room, now, asks=bool(campaign.questions))
        if since is None or since > now:
            await (self._decline(one) if since is None else self._ledger.put_off(one, since))
            return
        question = campaign.question(one.step)
        outgoing = message_of(campaign, one.step, texts, one.recipient.thread_root)
        event_id = await self._send_once(one, outgoing)
        last = one.step + 1 >= campaign.steps
        waits = question is not None and one.recipient.direct
        next_due = None if last or waits else now + _IN_SALON * (not one.recipient.direct)
        reminds = (
            waits and campaign.reminder_after is not None and one.step < 1 + bool(campaign.message)
        )
        await self._ledger.sent(
            one,
            event_id,
            now,
            question=None if question is None else (question.key, question.kind != "text"),
            next_due=next_due,
            remind_at=now + (campaign.reminder_after or 0.0) if reminds else None,
        )
        self._changes.send()

    async def _decline(self, one: DueMessage) -> None:
        await self._ledger.decline(one)
        self._changes.send()

    async def _remind(self, one: DueMessage, room: Room, texts: Texts) -> None:
        if await self._ledger.wanted(room, one.campaign, self._clock.now()) is None:
            await self._decline(one)
            return
        root = one.recipient.thread_root
        to = Anchor(one.event_id, root) if root and one.event_id else None
        await self._send_once(one, Notice(texts("campaign reminder"), to))
        await self._ledger.reminded(one)

    async def _end(self, campaign: Campaign, one: DueMessage, texts: Texts) -> None:
        if one.event_id is None:
            return
        key, counts = await self._results(one)
        over = of_poll(texts, campaign.asked(key), counts)
        await self._send_once(one, PollEnd(one.event_id, over))
        await self._ledger.ended(one)

    async def _results(self, one: DueMessage) -> tuple[str, Mapping[str, int]]:
        """Return the question of a poll that is to be ended, and how often each answer was chosen.

        Only votes in the poll's own room count here; without any, there are no answers.
        """
        nothing: tuple[str, Mapping[str, int]] = ("", {})
        if one.event_id is None:
            return nothing
        return await self._ledger.result(one.recipient.room_id, one.event_id) or nothing

    async def _send_once(self, one: DueMessage, outgoing: Outgoing) -> EventId:
        """Send under one id, whatever process does."""
        room_id = one.recipient.room_id
        cause = EventId(f"{one.campaign} {room_id} {one.event_id if one.kind == 'end' else ''}")
        return await send(self._notifier, room_id, outgoing, cause, f"{one.kind} {one.step}")

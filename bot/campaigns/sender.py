"""The sender of campaigns: each message to each room once, at a set pace, in allowed hours."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import structlog

from bot.campaigns.definition import find
from bot.campaigns.messages import message_of, send
from bot.campaigns.results_text import poll_results, progress_line, question_results
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

_AGAIN = 300.0  # seconds until a failed message is tried again
_REPORTS = 60.0  # seconds between two checks of a campaign's progress while messages are due
_IN_SALON = 2.0  # seconds between two questions in a salon, where none waits for an answer

log = structlog.get_logger()


class CampaignSender:
    """Sends the messages of running campaigns, and reports their progress to the admins."""

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
        """Store the parts.

        Args:
            matrix: the account's rooms.
            clock: the clock for pace and due times.
            ledger: the campaigns and their progress.
            contexts: the language of each conversation.
            notifier: the sender of messages.
            changes: signal that the ledger has changed for a campaign.
            launches: signal that a campaign was launched or closed.
        """
        self._matrix = matrix
        self._clock = clock
        self._ledger = ledger
        self._contexts = contexts
        self._notifier = notifier
        self._changes = changes
        self._launches = launches
        self._next_send_at: dict[str, float] = {}  # by campaign, in monotonic seconds
        self._next_report_at: dict[str, float] = {}  # by campaign, in monotonic seconds

    async def run(self, synced: asyncio.Event) -> None:
        """Send the messages of running campaigns, also those of earlier processes, for ever.

        Args:
            synced: set when the bot knows in which rooms it can speak.
        """
        await synced.wait()
        async with asyncio.TaskGroup() as tasks:
            working: dict[str, asyncio.Task[None]] = {}
            while True:
                launched = self._launches.current
                for name in await self._ledger.running():
                    if name not in working or working[name].done():
                        working[name] = tasks.create_task(self._run_campaign(name))
                await launched.wait()

    async def _run_campaign(self, name: str) -> None:
        """Send the messages of one campaign until none is left."""
        campaign, unfinished = await find(self._ledger, name), True
        while unfinished:
            async with error_boundary(campaign=name, give_up=lambda: self._clock.sleep(_AGAIN)):
                unfinished = await self._send_next(
                    campaign or Campaign(name=name), known=campaign is not None
                )

    async def _send_next(self, campaign: Campaign, *, known: bool) -> bool:
        """Send the next message, or wait until one may be due.

        If the definition can no longer be read, only the end of its polls is left to send.

        Returns:
            Whether anything is left to do.
        """
        name, changed = campaign.name, self._changes.current
        await self._keep_pace(name)
        now = self._clock.now()
        found = await self._ledger.due(name, now)
        if found is None:
            return not await self._report_end(name)
        one, until = found
        quiet_until = next_time(campaign.quiet, now)
        if until is not None and until <= now:
            await self._ledger.close(name, until)
        elif one is None or not (known or one.begun or one.kind == "end"):
            await self._wait(campaign, until, changed)
        elif not known and one.kind != "end":  # its text is unknown
            await self._decline(one)
        elif one.kind == "end" and not (await self._poll_results(one))[1]:
            await self._ledger.ended(one)  # without votes the end needs no message
            self._changes.send()
        elif quiet_until > now:
            await self._wait(campaign, min(quiet_until, until or quiet_until), changed)
        else:
            self._next_send_at[name] = self._clock.monotonic() + 60.0 / campaign.per_minute
            await self._send_due(campaign, one)
            if self._clock.monotonic() >= self._next_report_at.get(name, 0.0):
                await self._report(name)
        return True

    async def _report_end(self, name: str) -> bool:
        """Report a campaign's end to the admins; wait and return False if that failed for now."""
        delivery = await self._report(name)
        is_reported = delivery.reported == delivery.milestone
        if not is_reported:
            await self._clock.sleep(_AGAIN)
        return is_reported

    async def _wait(self, campaign: Campaign, until: float | None, changed: asyncio.Event) -> None:
        """Wait until a message is due; close an announcement that all rooms have got."""
        delivery, now = await self._report(campaign.name), self._clock.now()
        if delivery.reported < delivery.milestone:
            until = min(now + _AGAIN, until or math.inf)
        if campaign.steps and not campaign.questions and delivery.done == delivery.rooms:
            await self._ledger.close(campaign.name, now)
        else:
            await wait_for_event(self._clock, changed, None if until is None else until - now)

    async def _keep_pace(self, name: str) -> None:
        """Wait until the campaign may send one more message."""
        wait = self._next_send_at.get(name, 0.0) - self._clock.monotonic()
        if wait > 0:
            await self._clock.sleep(wait)

    async def _report(self, name: str) -> DeliveryProgress:
        """Report the last milestone to the admins, once; return the campaign's progress."""
        delivery = await self._ledger.delivery_progress(name)
        self._next_report_at[name] = self._clock.monotonic() + _REPORTS
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
        """Send a campaign's progress, and at its end its results; False if no room is there.

        The results of each question are a message of their own: an event holds 64 KiB.
        """
        room = next((one for one in self._matrix.rooms() if one.admin), None)
        progress = await self._ledger.results(name)
        if room is None or progress is None:
            return False
        texts = (await self._contexts.chosen(Conversation(room.room_id, None))).texts
        campaign = await find(self._ledger, name)
        paragraphs = [progress_line(texts, name, progress, campaign)]
        if milestone == CLOSED and campaign is not None:
            paragraphs += [question_results(texts, one, progress) for one in campaign.questions]
        for number, text in enumerate(paragraphs):
            stage = f"told {milestone} {number}"
            await send(self._notifier, room.room_id, Notice(text=text), EventId(name), stage)
        return True

    async def _send_due(self, campaign: Campaign, one: DueMessage) -> None:
        """Send one message exactly once, or put it off. Its errors end here."""
        with structlog.contextvars.bound_contextvars(
            campaign=one.campaign, room_id=one.recipient.room_id
        ):
            async with error_boundary(
                "campaign message refused",
                put_off=partial(self._put_off, one),
                later="campaign message put off",
                give_up=lambda: self._give_up(one),
            ):
                await self._send_message(campaign, one)

    async def _put_off(self, one: DueMessage, error: Retryable) -> None:
        """Make a message due later, so that other messages go first."""
        if isinstance(error, RateLimited):  # the limit is the account's, so it holds for all rooms
            later = self._clock.monotonic() + error.retry_after
            self._next_send_at[one.campaign] = max(self._next_send_at[one.campaign], later)
        await self._ledger.put_off(one, self._clock.now() + _AGAIN)

    async def _give_up(self, one: DueMessage) -> None:
        if one.kind == "end":
            await self._ledger.ended(one)
            self._changes.send()
        else:
            await self._decline(one)

    async def _send_message(self, campaign: Campaign, one: DueMessage) -> None:
        room = self._matrix.room(one.recipient.room_id)
        if room.closed:
            await self._give_up(one)
            return
        conversation = Conversation(room.room_id, one.recipient.thread_root)
        texts = (await self._contexts.chosen(conversation)).texts
        match one.kind:
            case "end":
                await self._end_poll(campaign, one, texts)
            case "remind":
                await self._send_reminder(one, room, texts)
            case "step":
                await self._send_step(campaign, one, texts)

    async def _send_step(self, campaign: Campaign, one: DueMessage, texts: Texts) -> None:
        now, room = self._clock.now(), self._matrix.room(one.recipient.room_id)
        allowed_at = await self._ledger.begin(one, room, now, asks=bool(campaign.questions))
        if allowed_at is None or allowed_at > now:
            await (
                self._decline(one) if allowed_at is None else self._ledger.put_off(one, allowed_at)
            )
            return
        question = campaign.question(one.step)
        outgoing = message_of(campaign, one.step, texts, one.recipient.thread_root)
        event_id = await self._send_once(one, outgoing)
        last = one.step + 1 >= campaign.steps
        awaits_answer = question is not None and one.recipient.direct
        next_due = None if last or awaits_answer else now + _IN_SALON * (not one.recipient.direct)
        reminds = (
            awaits_answer
            and campaign.reminder_after is not None
            and one.step < 1 + bool(campaign.message)
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

    async def _send_reminder(self, one: DueMessage, room: Room, texts: Texts) -> None:
        if await self._ledger.wanted(room, one.campaign, self._clock.now()) is None:
            await self._decline(one)
            return
        root = one.recipient.thread_root
        anchor = Anchor(one.event_id, root) if root and one.event_id else None
        await self._send_once(one, Notice(text=texts("campaign reminder"), to=anchor))
        await self._ledger.reminded(one)

    async def _end_poll(self, campaign: Campaign, one: DueMessage, texts: Texts) -> None:
        if one.event_id is None:
            return
        key, counts = await self._poll_results(one)
        over = poll_results(texts, campaign.by_key(key), counts)
        await self._send_once(one, PollEnd(one.event_id, over))
        await self._ledger.ended(one)

    async def _poll_results(self, one: DueMessage) -> tuple[str, Mapping[str, int]]:
        """Return the question of a poll to end, and how often each answer was chosen in its room.

        Without votes, the counts are empty.
        """
        nothing: tuple[str, Mapping[str, int]] = ("", {})
        if one.event_id is None:
            return nothing
        return await self._ledger.poll_result(one.recipient.room_id, one.event_id) or nothing

    async def _send_once(self, one: DueMessage, outgoing: Outgoing) -> EventId:
        """Send a message under a transaction id that is the same in every process."""
        room_id = one.recipient.room_id
        cause = EventId(f"{one.campaign} {room_id} {one.event_id if one.kind == 'end' else ''}")
        return await send(self._notifier, room_id, outgoing, cause, f"{one.kind} {one.step}")

"""The path of every event: received, decided, performed. Read this first."""

import asyncio
import math
from dataclasses import replace
from typing import NoReturn

import structlog

from bot.campaigns.responses import CampaignResponses
from bot.campaigns.sender import CampaignSender
from bot.commands.registry import Commands
from bot.core.events import Pending
from bot.core.intents import (
    Accept,
    Answer,
    Comment,
    Decline,
    FollowUpgrade,
    HandleEdit,
    HandleRedaction,
    Hint,
    Ignore,
    Intent,
    Leave,
    Rate,
    RecordVote,
    Redo,
    Refuse,
    Run,
    SendNotice,
    Stop,
    Welcome,
)
from bot.core.outgoing import Notice
from bot.dispatch.dispatcher import EventDispatcher
from bot.dispatch.event_handler import EventHandler
from bot.dispatch.intent_resolver import IntentResolver
from bot.dispatch.pending_decryption import PendingDecryption
from bot.dispatch.prompt_changes import PromptChanges
from bot.feedback.collector import FeedbackCollector
from bot.monitoring.health import Health
from bot.notices.explanations import Explanations
from bot.notices.mention_hint import MentionHint
from bot.notices.unsigned_devices import UnsignedDeviceNotices
from bot.notices.verification import Verifications
from bot.ports.clock import Clock
from bot.ports.ledger import Store
from bot.ports.matrix import Matrix
from bot.replies.generations import ActiveGenerations
from bot.replies.notices import Notifier
from bot.replies.responder import Responder
from bot.rooms import Rooms

_SKEW = 5.0  # seconds by which the homeserver's clock may be ahead of ours
_PATIENCE_AT_START = 30.0  # seconds for unfinished events, while new ones wait

log = structlog.get_logger()


class _Drained(Exception):  # ends one run, never leaves this module
    """Every running generation has ended."""


class Assistant:
    """Receives the events of the account's rooms, and performs the intent of each.

    `IntentResolver` decides the intent of an event. `EventDispatcher` starts the event, after a
    look-up if it needs one. `EventHandler` follows it to its end: it gives prompts to the
    `Responder` and every other intent to `perform`. `bot.app` builds the parts.
    """

    def __init__(
        self,
        *,
        matrix: Matrix,
        store: Store,
        clock: Clock,
        health: Health,
        intent_resolver: IntentResolver,
        dispatcher: EventDispatcher,
        event_handler: EventHandler,
        pending_decryption: PendingDecryption,
        prompt_changes: PromptChanges,
        generations: ActiveGenerations,
        responder: Responder,
        notifier: Notifier,
        explanations: Explanations,
        mention_hint: MentionHint,
        unsigned_devices: UnsignedDeviceNotices,
        verifications: Verifications,
        feedback: FeedbackCollector,
        campaign_sender: CampaignSender,
        campaign_responses: CampaignResponses,
        commands: Commands,
        rooms: Rooms,
    ) -> None:
        self._matrix = matrix
        self._store = store
        self._clock = clock
        self._health = health
        self._intent_resolver = intent_resolver
        self._dispatcher = dispatcher
        self._event_handler = event_handler
        self._pending_decryption = pending_decryption
        self._prompt_changes = prompt_changes
        self._generations = generations
        self._responder = responder
        self._notifier = notifier
        self._explanations = explanations
        self._mention_hint = mention_hint
        self._unsigned_devices = unsigned_devices
        self._verifications = verifications
        self._feedback = feedback
        self._campaign_sender = campaign_sender
        self._campaign_responses = campaign_responses
        self._commands = commands
        self._rooms = rooms
        self._synced = asyncio.Event()  # set when the rooms are known

    async def run(self, stopping: asyncio.Event | None = None) -> None:
        """Process the syncs, for ever; the unfinished events of earlier processes come first.

        Args:
            stopping: when it is set, no event is received or started any more, running
                generations end, and the rest waits for the next start.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                self._event_handler.bind(
                    tasks,
                    perform=self.perform,
                    apologise=self._explanations.apologise,
                    answered=self._feedback.answered,
                )
                self._dispatcher.bind(tasks, self._event_handler.start)
                tasks.create_task(self._pending_decryption.run(self._dispatcher.begin))
                tasks.create_task(self._feedback.run(self._synced))
                tasks.create_task(self._verifications.run())
                tasks.create_task(self._unsigned_devices.run())
                tasks.create_task(self._campaign_sender.run(self._synced))
                tasks.create_task(self._rooms.open_admin_room(self._synced))
                listening = tasks.create_task(self._listen())
                await self._drain(listening, stopping or asyncio.Event())
        except* _Drained:
            log.info("drained")

    async def _drain(self, listening: asyncio.Task[None], stopping: asyncio.Event) -> NoReturn:
        """Wait for the request to stop and then for the running generations; then end the run."""
        await stopping.wait()
        listening.cancel()
        self._responder.restored.set()  # events not restored by now wait for the next start
        await self._generations.drain()
        raise _Drained

    async def _listen(self) -> None:
        unfinished = await self._store.unfinished()
        # An earlier process may have handled an event from before the start without a record in
        # this ledger. The homeserver may send such events in any number of responses.
        start_ms = (self._clock.now() + _SKEW) * 1000
        async for batch in self._matrix.batches(await self._store.sync_token()):
            self._generations.silence(*batch.closed)
            until = self._clock.monotonic() + _PATIENCE_AT_START
            for item in unfinished:
                await self._dispatcher.restore(item, max(until - self._clock.monotonic(), 0.0))
            unfinished = ()
            self._responder.restored.set()
            self._synced.set()
            events = tuple(await self._intent_resolver.relevant(batch.events))
            for event in await self._store.admit(replace(batch, events=events), self._clock.now()):
                self._health.admitted(type(event).__name__)
                missed = batch.missed or getattr(event, "timestamp", math.inf) < start_ms
                pending = Pending(event.event_id, event.room_id) if missed else None
                self._dispatcher.begin(event, pending=pending)
            self._generations.silence(*batch.closed)
            self._pending_decryption.hear(batch.keys)
            self._verifications.hear(batch.verifications)
            self._unsigned_devices.hear(batch.left_out)

    async def perform(self, intent: Intent) -> None:  # noqa: C901, PLR0912  # a line for each intent
        """Perform an intent; prompts go to the `Responder` instead, in the scheduler's order."""
        match intent:
            case SendNotice(prompt, key):
                await self._explanations.explain(prompt, key)
            case Hint(prompt):
                await self._mention_hint.give(prompt)
            case Refuse():
                await self._explanations.refuse(intent)
            case Run():
                await self._run(intent)
            case HandleEdit() | HandleRedaction():
                await self._change(intent)
            case Rate() | RecordVote() | Comment():
                await self._store_opinion(intent)
            case Stop(reaction):
                await self._prompt_changes.stop(reaction)
            case Redo(reaction):
                await self._prompt_changes.redo(reaction, reaction.target)
            case Accept(invite):
                await self._rooms.accept(invite)
            case Welcome():
                await self._rooms.welcome(intent)
            case FollowUpgrade(upgraded):
                await self._rooms.follow(upgraded)
            case Decline():
                await self._rooms.decline(intent)
            case Leave(room_id):
                await self._rooms.leave(room_id)
            case Ignore(reason):  # the room or the policy has changed since its admission
                log.info("ignored", reason=reason)
            case Answer():
                raise AssertionError("an Answer goes to the Responder: see EventHandler.start")

    async def _run(self, run: Run) -> None:
        """Run a command, and send the text that it returns."""
        prompt = run.prompt
        text = await self._commands.run(run)
        if text is not None:
            await self._notifier.say(Notice(text=text, to=prompt), prompt.room_id, prompt.event_id)

    async def _store_opinion(self, opinion: Rate | RecordVote | Comment) -> None:
        """Store a rating, a vote or a comment: on a reply, or in a campaign."""
        match opinion:
            case Rate(reaction):
                await self._feedback.react(reaction)
            case RecordVote(vote) if await self._feedback.knows(vote):
                await self._feedback.count(vote)
            case RecordVote(vote):
                await self._campaign_responses.count(vote)
            case Comment(prompt):
                kept = await self._feedback.comment(opinion)
                key = "feedback kept" if kept else await self._campaign_responses.comment(opinion)
                if key is not None:
                    await self._explanations.explain(prompt, key, unanswered=False)

    async def _change(self, change: HandleEdit | HandleRedaction) -> None:
        """Apply an edit or redaction to the feedback, campaign answer or prompt of its target."""
        match change:
            case HandleEdit(edit):
                await self._event_handler.stored(edit.target)
                await self._feedback.amend(edit)
                await self._campaign_responses.amend(edit)
                self._event_handler.note_stored(edit.event_id)  # the new reply may take long
                await self._prompt_changes.amend(edit)
            case HandleRedaction(redaction, begun):
                await self._event_handler.stored(redaction.target)
                await self._feedback.withdraw(redaction)
                await self._campaign_responses.withdraw(redaction.target)
                begun = begun or self._event_handler.is_doubtful(redaction.event_id)
                await self._prompt_changes.withdraw(redaction, begun=begun)

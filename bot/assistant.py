"""The way of an event: heard, decided, done. Read this first."""

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
from bot.replies.generations import ActiveGenerations, Generation
from bot.replies.notices import Notifier
from bot.replies.responder import Responder
from bot.rooms import Rooms

_SKEW = 5.0  # seconds by which the homeserver's clock may be ahead of ours
_PATIENCE_AT_START = 30.0  # seconds for all that is left, while everything that is new waits

log = structlog.get_logger()


class _Drained(Exception):  # ends one run, never leaves this module
    """Every answer that was being written has come to its end."""


class Assistant:
    """Hears the account's rooms, and has each event done to its end.

    `IntentResolver` decides what an event asks for, `EventDispatcher` brings it there although
    something may have to be looked up first, `EventHandler` sees it through and has `perform` do
    it; prompts go to the `Responder`. `bot.app` builds the parts.
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
        self._synced = asyncio.Event()  # the rooms are known

    async def run(self, stopping: asyncio.Event | None = None) -> None:
        """Take in batch after batch; what an earlier process left unfinished comes first.

        Args:
            stopping: once it is set, nothing more is heard or begun; what is being written comes
                to its end, and the rest waits for the next start.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                self._event_handler.bind(tasks, self)
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
        """End all once nothing is being written any more, from when it is asked for."""
        await stopping.wait()
        listening.cancel()
        self._responder.restored.set()  # what is not restored by now is left to the next start
        await self._generations.drain()
        raise _Drained

    async def _listen(self) -> None:
        unfinished = await self._store.unfinished()
        # Of what was said before, an earlier process may know more than the ledger does. The
        # homeserver may hand it out in many responses, each as it did before.
        since = (self._clock.now() + _SKEW) * 1000
        async for batch in self._matrix.batches(await self._store.sync_token()):
            for room_id in batch.closed:
                self._generations.silence(room_id)
            until = self._clock.monotonic() + _PATIENCE_AT_START
            for left in unfinished:
                patience = max(until - self._clock.monotonic(), 0.0)
                await self._dispatcher.restore(left, patience)
            unfinished = ()
            self._responder.restored.set()
            self._synced.set()
            relevant = await self._intent_resolver.relevant(batch.events)
            heard = replace(batch, events=tuple(relevant))
            for event in await self._store.admit(heard, self._clock.now()):
                self._health.admitted(type(event).__name__)
                missed = batch.missed or getattr(event, "timestamp", math.inf) < since
                before_us = Pending(event.event_id, event.room_id) if missed else None
                self._dispatcher.begin(event, pending=before_us)
            for room_id in batch.closed:
                self._generations.silence(room_id)
            self._pending_decryption.hear(batch.keys)
            self._verifications.hear(batch.verifications)
            self._unsigned_devices.hear(batch.left_out)

    async def perform(self, intent: Intent) -> None:  # noqa: C901, PLR0912  # a line for each intent
        """Do what an event asks for; a prompt is the `Responder`'s, in its order."""
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
                target, asker = reaction.target, reaction.sender
                room_id, cause = reaction.room_id, reaction.event_id
                await self._prompt_changes.redo(room_id, target, asker, cause)
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
            case Ignore(reason):  # since it was admitted, the room or the policy has changed
                log.info("ignored", reason=reason)
            case Answer():
                raise AssertionError("a prompt has its place in the line: see EventHandler.start")

    async def apologise(self, intent: Intent) -> None:
        """Tell the person that something has failed."""
        await self._explanations.apologise(intent)

    async def answered(self, generation: Generation) -> None:
        """Note how a reply that stands came about, and plan the poll about it."""
        await self._feedback.answered(generation)

    async def _run(self, asked: Run) -> None:
        """Do what a command asks for, and send what it has to say."""
        prompt = asked.prompt
        said = await self._commands.run(asked)
        if said is not None:
            await self._notifier.say(Notice(said, prompt), prompt.room_id, prompt.event_id)

    async def _store_opinion(self, opinion: Rate | RecordVote | Comment) -> None:
        """Store what a person thinks of a reply, or answers to a campaign."""
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
        """Change, or take back, what an earlier event has said; a prompt's reply follows it."""
        match change:
            case HandleEdit(edit):
                await self._event_handler.stored(edit.target)
                await self._feedback.amend(edit)
                await self._campaign_responses.amend(edit)
                self._event_handler.note_stored(edit.event_id)  # an answer may take long
                await self._prompt_changes.amend(edit)
            case HandleRedaction(redaction, begun):
                await self._event_handler.stored(redaction.target)
                await self._feedback.withdraw(redaction)
                await self._campaign_responses.withdraw(redaction.target)
                begun = begun or self._event_handler.is_doubtful(redaction.event_id)
                await self._prompt_changes.withdraw(redaction, begun=begun)

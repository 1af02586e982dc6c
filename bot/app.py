"""The composition root: build the parts from the configuration, run them, close them."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version

import structlog
from prometheus_client import ProcessCollector

from bot.assistant import Assistant
from bot.campaigns.admin import CampaignAdmin
from bot.campaigns.responses import CampaignResponses
from bot.campaigns.sender import CampaignSender
from bot.commands.registry import About, Commands
from bot.config.settings import Config
from bot.core.export_format import ExportName
from bot.core.feedback import AskPolicy
from bot.core.limits import Limits
from bot.core.model_catalog import ModelCard
from bot.core.routing import Policy
from bot.dashboard.server import serve as dashboard
from bot.dispatch.dispatcher import EventDispatcher
from bot.dispatch.event_handler import EventHandler
from bot.dispatch.intent_resolver import IntentResolver
from bot.dispatch.pending_decryption import NOTICE_AFTER, PendingDecryption
from bot.dispatch.prompt_changes import PromptChanges
from bot.dispatch.usage_limits import UsageLimits
from bot.errors import CompletionError
from bot.feedback.collector import FeedbackCollector
from bot.i18n.texts import speak
from bot.llm.client import OpenAIModel
from bot.matrix.adapter import NioMatrix
from bot.monitoring.health import Health
from bot.monitoring.http import serve
from bot.notices.clear_text import ClearText
from bot.notices.explanations import Explanations
from bot.notices.mention_hint import MentionHint
from bot.notices.unsigned_devices import UnsignedDeviceNotices
from bot.notices.verification import Verifications
from bot.ports.campaigns import CampaignLedger
from bot.ports.clock import Clock
from bot.ports.feedback import Opinions
from bot.ports.ledger import Store
from bot.ports.matrix import Matrix
from bot.ports.model import Model
from bot.ports.statistics import Export, Statistics
from bot.process import Signals, freeze_garbage_collector, run_until_signalled
from bot.replies.completion import Completions, FallbackPolicy
from bot.replies.context_builder import Contexts, ContextSettings
from bot.replies.generations import ActiveGenerations
from bot.replies.notices import Notifier
from bot.replies.reply_text import Pace
from bot.replies.responder import Responder
from bot.reporting.charts import avatar
from bot.rooms import Rooms
from bot.runtime.broadcast import Broadcast
from bot.runtime.clock import SystemClock
from bot.startup import (
    StartOver,
    account_of,
    check_model,
    check_servers,
    ledger_location,
    logged_wait,
    opened_ledger,
    vault_of,
)
from bot.storage.campaigns import SqlCampaigns
from bot.storage.database import Database
from bot.storage.exports import exports
from bot.storage.feedback import SqlFeedback
from bot.storage.statistics import SqlStatistics

_LIST_SECONDS = 600.0  # seconds between two requests for the backend's list of models

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Durations that operators cannot set, but tests can.

    Attributes:
        key_notice: seconds until the notice that a message cannot be read.
    """

    key_notice: float = NOTICE_AFTER


async def run(config: Config, start_over: StartOver, timings: Timings | None = None) -> None:
    """Run the bot until SIGTERM or SIGINT.

    After the signal, no event is started, and running generations have `reply.drain_seconds` to
    end; the rest waits in the ledger. A second signal ends this wait.

    Args:
        config: all settings.
        start_over: the parts that may be created anew if they are lost.
        timings: durations; None for the defaults.

    Raises:
        BotError: the cause of the stop, as a sentence for the operator.
    """
    freeze_garbage_collector()
    health = Health(clock=SystemClock(), version=version("assistant-tchap"))
    ProcessCollector(registry=health.registry)
    work = partial(_run, config, start_over, timings or Timings(), health)
    await run_until_signalled(work, health, config.reply.drain_seconds)


async def _run(
    config: Config, start_over: StartOver, timings: Timings, health: Health, signals: Signals
) -> None:
    async with AsyncExitStack() as parts:
        key = config.storage.key.get_secret_value()
        matrix = NioMatrix(
            account_of(config), vault_of(config), health, tables=config.reply.tables
        )
        parts.push_async_callback(matrix.close)
        # First, since another process may use this device, and so the ledger and the port.
        matrix.take()
        await parts.enter_async_context(serve(health, config.health.host, config.health.port))
        ledger = opened_ledger(config, health, start_over, known=matrix.is_known())
        store = await parts.enter_async_context(ledger)
        model = _model(config)
        parts.push_async_callback(model.close)
        with logged_wait("the homeserver: see matrix.homeserver", url=config.matrix.homeserver):
            await matrix.open()
        check_servers(config.matrix)
        await matrix.check_profile(avatar if config.matrix.avatar == "auto" else None)
        base_url = config.model.base_url
        with logged_wait("the model's backend: see model.base_url", url=base_url):
            await check_model(model, config.model.catalogue(), base_url)
        listing = asyncio.get_running_loop().create_task(_keep_listing_models(model, health.clock))
        parts.callback(listing.cancel)
        await parts.enter_async_context(_dashboard(config, store.database, health.clock))
        opinions, campaigns = SqlFeedback(store.database, key), SqlCampaigns(store.database, key)
        assistant = assemble(
            _settings(config, timings),
            matrix=matrix,
            model=model,
            store=store,
            opinions=opinions,
            campaigns=campaigns,
            statistics=SqlStatistics(store.database, key),
            exports=exports(opinions, campaigns),
            clock=health.clock,
            health=health,
        )
        log.info(
            "started",
            user_id=matrix.user_id,
            device_id=matrix.device_id,
            system_prompt=config.model.system_prompt_version,
        )
        signals.drains.set()
        await assistant.run(signals.stop)


@asynccontextmanager
async def _dashboard(config: Config, ledger: Database, clock: Clock) -> AsyncIterator[None]:
    """Serve the dashboard, which reads the ledger through connections of its own."""
    if config.dashboard.port is None:
        yield
        return
    # A failure of these connections is no failure of the ledger: they have their own health.
    key = config.storage.key.get_secret_value()
    statistics = await SqlStatistics.open(
        ledger_location(config), key, Health(clock=clock), ledger
    )
    try:
        async with dashboard(statistics, config.dashboard, clock):
            yield
    finally:
        await statistics.close()


async def _keep_listing_models(model: OpenAIModel, clock: Clock) -> None:
    """Update the list of the backend's models, for ever, since it changes or may be missing."""
    while True:
        await clock.sleep(_LIST_SECONDS)
        try:
            await model.check()
        except CompletionError as error:
            log.info("models not listed", reason=str(error))


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantSettings:
    """The settings of the assistant's parts.

    Attributes:
        context: settings of every request to the model.
        pace: delays of a reply's first message and of its edits.
        at_once: the largest number of generations at the same time.
        feedback: when a person gets a poll about a reply.
        fallback: the model that answers if the chosen one fails; None for none.
        queue_timeout: seconds for which a prompt waits while a model's quota is used up.
        join_seconds: seconds within which a message joins the prompt before it.
        share: the part of `at_once` that one person or room may have while others wait.
        limits: limits on the use by one person.
        timings: durations that operators cannot set.
    """

    policy: Policy
    context: ContextSettings
    about: About
    pace: Pace
    at_once: int
    feedback: AskPolicy
    fallback: ModelCard | None = None
    queue_timeout: float = 120.0
    join_seconds: float = 60.0
    share: float = 0.25
    limits: Limits = field(default_factory=Limits)
    timings: Timings = field(default_factory=Timings)


def assemble(
    settings: AssistantSettings,
    *,
    matrix: Matrix,
    model: Model,
    store: Store,
    opinions: Opinions,
    campaigns: CampaignLedger,
    statistics: Statistics,
    exports: Mapping[ExportName, Export],
    clock: Clock,
    health: Health,
) -> Assistant:
    """Build the assistant from its ports."""
    texts, admins = speak(settings.context.language), settings.policy.admins
    intent_resolver = IntentResolver(matrix, clock, settings.policy)
    policy = FallbackPolicy(settings.fallback, settings.queue_timeout)
    completions = Completions(model, clock, health, policy)
    contexts = Contexts(matrix, store, clock, completions, settings.context)
    responder = Responder(matrix=matrix, contexts=contexts, completions=completions)
    notifier = Notifier(matrix=matrix, store=store, clock=clock, contexts=contexts)
    generations = ActiveGenerations(
        matrix=matrix,
        store=store,
        clock=clock,
        pace=settings.pace,
        health=health,
        texts=texts,
        at_once=settings.at_once,
        join_seconds=settings.join_seconds,
        share=settings.share,
    )
    usage_limits = UsageLimits(
        matrix=matrix, clock=clock, generations=generations, limits=settings.limits
    )
    prompt_changes = PromptChanges(
        matrix=matrix,
        store=store,
        clock=clock,
        generations=generations,
        contexts=contexts,
        intent_resolver=intent_resolver,
        usage_limits=usage_limits,
        notifier=notifier,
    )
    pending_decryption = PendingDecryption(
        matrix=matrix,
        store=store,
        clock=clock,
        notifier=notifier,
        texts=texts,
        notice_after=settings.timings.key_notice,
    )
    feedback = FeedbackCollector(
        matrix=matrix,
        store=store,
        clock=clock,
        health=health,
        opinions=opinions,
        generations=generations,
        contexts=contexts,
        notifier=notifier,
        policy=settings.feedback,
    )
    changes, launches = Broadcast(), Broadcast()
    return Assistant(
        matrix=matrix,
        store=store,
        clock=clock,
        health=health,
        intent_resolver=intent_resolver,
        dispatcher=EventDispatcher(
            matrix=matrix,
            store=store,
            clock=clock,
            intent_resolver=intent_resolver,
            pending_decryption=pending_decryption,
        ),
        event_handler=EventHandler(
            matrix=matrix,
            store=store,
            generations=generations,
            usage_limits=usage_limits,
            prompt_changes=prompt_changes,
            responder=responder,
            notifier=notifier,
        ),
        pending_decryption=pending_decryption,
        prompt_changes=prompt_changes,
        generations=generations,
        responder=responder,
        notifier=notifier,
        explanations=Explanations(
            store=store,
            clock=clock,
            contexts=contexts,
            notifier=notifier,
            clear_text=ClearText(store, clock),
            age_limit=settings.policy.age_limit,
        ),
        mention_hint=MentionHint(matrix=matrix, clock=clock, contexts=contexts, notifier=notifier),
        unsigned_devices=UnsignedDeviceNotices(
            matrix=matrix, clock=clock, notifier=notifier, texts=texts
        ),
        verifications=Verifications(
            matrix=matrix, clock=clock, notifier=notifier, policy=settings.policy, texts=texts
        ),
        feedback=feedback,
        campaign_sender=CampaignSender(
            matrix=matrix,
            clock=clock,
            ledger=campaigns,
            contexts=contexts,
            notifier=notifier,
            changes=changes,
            launches=launches,
        ),
        campaign_responses=CampaignResponses(
            clock=clock,
            ledger=campaigns,
            contexts=contexts,
            notifier=notifier,
            changes=changes,
        ),
        commands=Commands(
            matrix=matrix,
            store=store,
            clock=clock,
            contexts=contexts,
            generations=generations,
            prompt_changes=prompt_changes,
            feedback=feedback,
            campaigns=CampaignAdmin(
                matrix=matrix,
                clock=clock,
                ledger=campaigns,
                contexts=contexts,
                notifier=notifier,
                policy=settings.policy,
                changes=changes,
                launches=launches,
            ),
            notifier=notifier,
            statistics=statistics,
            exports=exports,
            catalogue=settings.context.catalogue,
            about=settings.about,
            admins=admins,
        ),
        rooms=Rooms(
            matrix=matrix,
            store=store,
            clock=clock,
            contexts=contexts,
            notifier=notifier,
            texts=texts,
            admins=admins,
            names_thumbs=settings.feedback.salons == "reactions"
            and settings.feedback.when != "never",
        ),
    )


def _settings(config: Config, timings: Timings) -> AssistantSettings:
    conversation = config.conversation
    policy = Policy(
        me=config.matrix.user_id,
        allowed_servers=config.matrix.allowed_servers,
        bots=frozenset(config.matrix.bots),
        age_limit=conversation.age_limit_hours * 3600,
        inline=conversation.salon_replies == "inline",
        admins=frozenset(config.matrix.admins),
    )
    return AssistantSettings(
        policy=policy,
        context=ContextSettings(
            system_prompt=config.model.system_prompt,
            catalogue=config.model.catalogue(),
            language=config.language,
            idle_limit=conversation.idle_minutes * 60,
            heeds=policy.heeds,
            prompt_version=config.model.system_prompt_version,
        ),
        about=About(
            version("assistant-tchap"), config.service.status_page, config.service.contact
        ),
        pace=Pace(config.reply.first_after, config.reply.edit_interval, config.reply.line_after),
        at_once=config.reply.at_once,
        feedback=config.feedback.policy(),
        fallback=config.model.fallback_card,
        queue_timeout=config.model.queue_timeout,
        join_seconds=conversation.join_seconds,
        share=config.reply.share,
        limits=config.limits.limits(),
        timings=timings,
    )


def _model(config: Config) -> OpenAIModel:
    model = config.model
    return OpenAIModel(
        base_url=model.base_url,
        api_key=model.api_key.get_secret_value() if model.api_key else None,
        connect_timeout=model.connect_timeout,
        stall_timeout=model.stall_timeout,
        proxy=model.proxy,
        ca_bundle=model.ca_bundle,
    )

"""The composition root: each part made from its section of the configuration, run, and closed."""

import asyncio
import gc
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

import structlog
from prometheus_client import ProcessCollector

from bot.assistant import Assistant, AssistantSettings
from bot.commands.registry import About
from bot.config.settings import Config
from bot.core.routing import Policy
from bot.dashboard.server import serve as dashboard
from bot.errors import CompletionError, Stalled
from bot.llm.client import OpenAIModel
from bot.matrix.adapter import NioMatrix
from bot.monitoring.health import Health
from bot.monitoring.http import serve
from bot.ports.clock import Clock
from bot.ports.statistics import Ledgers
from bot.replies.context_builder import Settings
from bot.replies.delivery import Pace, Replying
from bot.reporting.charts import avatar
from bot.startup import (
    Anew,
    account_of,
    awaited,
    check_model,
    check_servers,
    ledger_place,
    opened_ledger,
    vault_of,
)
from bot.storage.campaigns import SqlCampaigns
from bot.storage.database import Database
from bot.storage.exports import exports
from bot.storage.feedback import SqlFeedback
from bot.storage.statistics import SqlStatistics

_LAST_SECONDS = 3.0  # for the sends and transactions that are under way in the end

_LIST_SECONDS = 600.0  # between two looks at the backend's list of models

log = structlog.get_logger()


class SystemClock:
    """The `Clock` port on the machine's own clocks."""

    def monotonic(self) -> float:
        """Return seconds since some fixed moment."""
        return time.monotonic()

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time()  # noqa: TID251  # this is the Clock that the rule asks for

    async def sleep(self, seconds: float) -> None:
        """Wait that long."""
        await asyncio.sleep(seconds)


async def run(config: Config, anew: Anew) -> None:
    """Run the bot until SIGTERM or SIGINT.

    Replies under way end first, if they do within `reply.drain_seconds`, and nothing new is begun;
    the rest waits in the ledger. A second signal ends that wait.

    Args:
        config: all settings.
        anew: what may be begun anew.

    Raises:
        BotError: what stopped it, in a sentence for the operator.
    """
    freeze_garbage_collector()
    loop, signals = asyncio.get_running_loop(), _Signals()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.take)
    health = Health(SystemClock(), version=version("assistant-tchap"))
    ProcessCollector(registry=health.registry)
    work, told = loop.create_task(_run(config, anew, health, signals)), _wait(signals.stop)
    watch = loop.create_task(health.watch())
    await asyncio.wait([work, told, watch], return_when=asyncio.FIRST_COMPLETED)
    if watch.done():
        log.error("sync stalled", sync_age=round(health.sync_age))
    elif not work.done():
        log.info("stopping", drains=signals.drains.is_set())
        patience = config.reply.drain_seconds if signals.drains.is_set() else 0.0
        at_once = _wait(signals.at_once)
        await asyncio.wait(
            [work, at_once, watch], timeout=patience, return_when=asyncio.FIRST_COMPLETED
        )
        at_once.cancel()
    if not work.done():
        work.cancel()
        await asyncio.wait([work], timeout=_LAST_SECONDS)
    drained = work.done() and not work.cancelled() and work.exception() is None
    log.info("stopped", drained=drained)
    told.cancel()
    watch.cancel()
    if health.stalled:
        raise Stalled("the sync loop stood still; started anew, the assistant goes on")
    if work.done() and not work.cancelled():
        work.result()


class _Signals:
    """How the process is asked to end.

    Attributes:
        stop: it is to end.
        at_once: without waiting.
        drains: the assistant listens to `stop`; before that there is nothing to wait for.
    """

    def __init__(self) -> None:
        self.stop, self.at_once, self.drains = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def take(self) -> None:
        (self.at_once if self.stop.is_set() else self.stop).set()


def _wait(event: asyncio.Event) -> asyncio.Task[bool]:
    return asyncio.get_running_loop().create_task(event.wait())


def freeze_garbage_collector() -> None:
    """Let the garbage collector leave alone what is there for good: modules, classes, schemas.

    Walking it takes 100 ms, in the middle of whatever the event loop does.
    """
    gc.collect()
    gc.freeze()


async def _run(config: Config, anew: Anew, health: Health, signals: _Signals) -> None:
    async with AsyncExitStack() as parts:
        key = config.storage.key.get_secret_value()
        matrix = NioMatrix(
            account_of(config), vault_of(config), health, tables=config.reply.tables
        )
        parts.push_async_callback(matrix.close)
        # Before anything is done to a ledger or port that another process on it may have.
        matrix.take()
        await parts.enter_async_context(serve(health, config.health.host, config.health.port))
        remembered = opened_ledger(config, health, anew, known=matrix.is_known())
        store = await parts.enter_async_context(remembered)
        model = _model(config)
        parts.push_async_callback(model.close)
        with awaited("the homeserver: see matrix.homeserver", url=config.matrix.homeserver):
            await matrix.open()
        check_servers(config.matrix)
        await matrix.check_profile(avatar if config.matrix.avatar == "auto" else None)
        base_url = config.model.base_url
        with awaited("the model's backend: see model.base_url", url=base_url):
            await check_model(model, config.model.catalogue(), base_url)
        asking = asyncio.get_running_loop().create_task(_ask_again(model, health.clock))
        parts.callback(asking.cancel)
        pace = Pace(config.reply.first_after, config.reply.edit_interval, config.reply.line_after)
        replying = Replying(matrix, store, health.clock, pace, health)
        await parts.enter_async_context(_dashboard(config, store.database, health.clock))
        opinions, campaigns = SqlFeedback(store.database, key), SqlCampaigns(store.database, key)
        statistics = SqlStatistics(store.database, key)
        ledgers = Ledgers(opinions, campaigns, statistics, exports(opinions, campaigns))
        assistant = Assistant(model, ledgers, replying, _behaviour(config))
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
    """Let people see the figures, which are read beside the ledger's own work."""
    if config.dashboard.port is None:
        yield
        return
    # What befalls its own connections says nothing of the ledger's: it has a health of its own.
    key = config.storage.key.get_secret_value()
    statistics = await SqlStatistics.open(ledger_place(config), key, Health(clock), ledger)
    try:
        async with dashboard(statistics, config.dashboard, clock):
            yield
    finally:
        await statistics.close()


async def _ask_again(model: OpenAIModel, clock: Clock) -> None:
    """Keep up with what the backend lists: it may have been away, and models change."""
    while True:
        await clock.sleep(_LIST_SECONDS)
        try:
            await model.check()
        except CompletionError as error:
            log.info("models not listed", reason=str(error))


def _behaviour(config: Config) -> AssistantSettings:
    conversation = config.conversation
    policy = Policy(
        config.matrix.user_id,
        config.matrix.allowed_servers,
        frozenset(config.matrix.bots),
        conversation.age_limit_hours * 3600,
        conversation.salon_replies == "inline",
        frozenset(config.matrix.admins),
    )
    return AssistantSettings(
        policy,
        Settings(
            config.model.system_prompt,
            config.model.catalogue(),
            config.language,
            conversation.idle_minutes * 60,
            policy.heeds,
            config.model.system_prompt_version,
        ),
        About(version("assistant-tchap"), config.service.status_page, config.service.contact),
        config.reply.at_once,
        config.feedback.policy(),
        config.model.fallback_card,
        config.model.queue_timeout,
        conversation.join_seconds,
        config.reply.share,
        config.limits.limits(),
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

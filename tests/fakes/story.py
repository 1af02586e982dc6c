"""The whole assistant on fakes, for the stories that unit tests tell."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast, get_args

from bot.app import AssistantSettings, assemble
from bot.assistant import Assistant
from bot.commands.registry import About
from bot.core.events import EventId
from bot.core.export_format import ExportName
from bot.core.feedback import AskPolicy
from bot.core.limits import Limits
from bot.core.model_catalog import ModelCard
from bot.core.routing import Policy
from bot.i18n.texts import Texts, speak
from bot.monitoring.health import Health
from bot.ports.campaigns import CampaignLedger
from bot.ports.clock import Clock
from bot.ports.feedback import Opinions
from bot.replies.completion import Completions
from bot.replies.context_builder import Contexts, ContextSettings
from bot.replies.notices import Notifier
from bot.replies.reply_text import Pace
from tests.fakes.clock import FakeClock
from tests.fakes.ledger import FakeStore
from tests.fakes.matrix import FakeMatrix
from tests.fakes.model import CATALOGUE, FakeModel
from tests.fakes.statistics import FakeStatistics, exported
from tests.make import BOT


def make_notifier(matrix: FakeMatrix, store: FakeStore, clock: Clock) -> Notifier:
    """Return a notifier for a test of one part; it calls no model."""
    settings = ContextSettings(
        system_prompt="Sobre.", catalogue=CATALOGUE, language="fr", idle_limit=3600
    )
    contexts = Contexts(matrix, store, clock, cast("Completions", None), settings)
    return Notifier(matrix=matrix, store=store, clock=clock, contexts=contexts)


_PATIENCE_SECONDS = 20.0  # of real time: a shared machine may be slow for a moment


class Story:
    """The whole assistant on fakes, which runs inside an `async with story.run()` block."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.matrix, self.model, self.store = FakeMatrix(), FakeModel(), FakeStore()
        self.clock = clock or FakeClock()
        self.texts: Texts = speak("fr")
        self.pace = Pace(0.8, 2.0, 10.0, least=1)
        self.policy = Policy(me=BOT, allowed_servers=("tchap.test",), age_limit=10 * 365 * 86_400)
        self.at_once = 20
        self.share = 0.25
        self.limits = Limits()
        self.catalogue = CATALOGUE
        self.fallback: ModelCard | None = None
        self.feedback = AskPolicy(when="never")
        self.opinions: Opinions | None = None  # other than the fake ledger's own
        self.campaigns: CampaignLedger | None = None
        self.statistics = FakeStatistics()
        self.exports = {what: exported() for what in get_args(ExportName)}
        self.about = About("1.2.3", "https://status.test", "équipe@tchap.test")
        self.stopping = asyncio.Event()

    def assistant(self) -> Assistant:
        health = Health(clock=self.clock)
        settings = ContextSettings(
            system_prompt="Sobre.",
            catalogue=self.catalogue,
            language="fr",
            idle_limit=3600,
            heeds=self.policy.heeds,
        )
        how = AssistantSettings(
            policy=self.policy,
            context=settings,
            about=self.about,
            pace=self.pace,
            at_once=self.at_once,
            feedback=self.feedback,
            fallback=self.fallback,
            share=self.share,
            limits=self.limits,
        )
        return assemble(
            how,
            matrix=self.matrix,
            model=self.model,
            store=self.store,
            opinions=self.opinions or self.store.opinions,
            campaigns=self.campaigns or self.store.campaigns,
            statistics=self.statistics,
            exports=self.exports,
            clock=self.clock,
            health=health,
        )

    @asynccontextmanager
    async def run(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.get_running_loop().create_task(self.assistant().run(self.stopping))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not condition():  # noqa: ASYNC110  # it may be about any of the three fakes
                await asyncio.sleep(0)

    @property
    def shown(self) -> list[str]:
        """The text of each message in the room, in the order of arrival."""
        return list(self.matrix.standing().values())

    def done(self, *event_ids: str) -> bool:
        return {EventId(one) for one in event_ids} <= self.store.finished

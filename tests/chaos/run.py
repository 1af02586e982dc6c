"""One run: people send prompts, the bot is killed, and observers check the rooms afterwards."""

import asyncio
import random
import time
from contextlib import AsyncExitStack
from pathlib import Path

from bot.core.events import RoomId
from tests.chaos.checker import Verdict, judge
from tests.chaos.killer import Killer
from tests.chaos.observer import Observer
from tests.chaos.report import ChaosReport
from tests.chaos.story import Storyteller
from tests.chaos.traffic import Lane, Traffic
from tests.harness import canaries
from tests.harness.bot import Bot
from tests.harness.expectations import meet, talk
from tests.harness.fault_proxy import FaultProxy
from tests.harness.fork import ForkServer
from tests.harness.nio_person import NioPerson
from tests.harness.postgres import Postgres
from tests.harness.synapse import Synapse

_ENCRYPTED = {
    "ada": True,
    "bob": False,
    "zoe": True,
}  # whether each person's direct message is encrypted
_STUCK = 60.0  # seconds for all replies after the last start
_PASSWORD = "secret"


async def run(directory: Path, kills: int, seed: int, *, postgresql: bool = False) -> ChaosReport:
    """Kill the bot that many times, and check its replies; its log stays in the directory.

    Args:
        directory: an empty directory.
        kills: number of kills.
        seed: seed of all random choices.
        postgresql: whether the ledger is on a PostgreSQL server; else it is a file.
    """
    with canaries.apart():  # the many texts of a run must not slow the searches for other bots
        async with AsyncExitStack() as parts:
            stage = _Stage(directory, parts, seed)
            begun = time.monotonic()
            await stage.set_up(postgresql=postgresql)
            await stage.meet()
            ready = time.monotonic()
            await stage.play(kills)
            report = await stage.judge(seed, (begun, ready, time.monotonic()))
            await stage.bot.stop()
        await asyncio.to_thread(canaries.search, stage.bot.log, stage.bot.directory / "data")
    return report


class _Stage:
    """The parts of one run."""

    bot: Bot

    def __init__(self, directory: Path, parts: AsyncExitStack, seed: int) -> None:
        self._directory = directory
        self._enter = parts.enter_async_context
        self._end_with = parts.push_async_callback
        self._dice = random.Random(seed)  # noqa: S311  # it guards no secret
        self._traffic = Traffic()
        self._lanes: list[Lane] = []
        self._observers: dict[RoomId, Observer] = {}

    async def set_up(self, *, postgresql: bool) -> None:
        """Start all parts."""
        storage = {"directory": str(self._directory / "bot" / "data"), "key": "s" * 32}
        if postgresql:
            storage["database"] = (await self._enter(Postgres())).url
        self._synapse = await self._enter(Synapse(self._folder("synapse")))
        self._model = await self._enter(Storyteller())
        between = await self._enter(FaultProxy(self._synapse.url))
        server = await self._enter(ForkServer())
        me = await self._synapse.register("assistant", _PASSWORD, displayname="Assistant IA")
        self.bot = Bot(
            self._folder("bot"),
            me,
            matrix={"homeserver": between.url, "user_id": me, "password": _PASSWORD},
            model={"base_url": self._model.url, "name": "scripted"},
            reply={"edit_interval": 1, "first_after": 0.3},
            storage=storage,
            log={"level": "debug"},
        )
        self._end_with(self.bot.kill)
        self._killer = Killer(self.bot, server, between, self._traffic, self._dice)
        await self._killer.start()

    async def meet(self) -> None:
        """Open the direct messages and a salon, after everybody's second device is there."""
        people = [await self._arrive(name) for name in _ENCRYPTED]
        for (person, observer), encrypted in zip(people, _ENCRYPTED.values(), strict=True):
            room_id = await talk(person, self.bot.user_id, encrypted=encrypted)
            self._add_lane(room_id, person, observer, salon=False)
        opener, *others = [person for person, _ in people]
        room_id = await meet(opener, self.bot.user_id, *others)
        for person, observer in people:
            self._add_lane(room_id, person, observer, salon=True)

    async def play(self, kills: int) -> None:
        """Run the people while the bot is killed, and then until they have their replies."""
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(lane.run(enough)) for lane in self._lanes]
            await self._killer.run(kills)
            enough.set()
            await asyncio.wait(asking, timeout=_STUCK)
            for one in asking:
                one.cancel()

    async def judge(self, seed: int, times: tuple[float, float, float]) -> ChaosReport:
        """Read the rooms from their beginning, and check them."""
        self._killer.finish()
        end = time.monotonic() + _STUCK
        while (verdict := await self._look()).duplicated and time.monotonic() < end:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(1.0)  # the redaction of a reply may still be running
        return ChaosReport(
            seed=seed,
            verdict=verdict,
            lives=self._killer.lives,
            prompts=self._traffic.prompts,
            calls=self._model.calls,
            bugs=self.bot.said("bug"),
            times=times,
        )

    async def _look(self) -> Verdict:
        prompts = self._traffic.prompts
        asked = {prompt.event_id: prompt.number for prompt in prompts}
        withdrawn = {prompt.event_id for prompt in prompts if prompt.withdrawn}
        events = [
            event
            for room_id, observer in self._observers.items()
            for event in await observer.read(room_id)
        ]
        return judge(events, self.bot.user_id, asked, withdrawn)

    async def _arrive(self, name: str) -> tuple[NioPerson, Observer]:
        """Register a person, and return the two devices."""
        user_id = await self._synapse.register(name, _PASSWORD)
        url, folder = self._synapse.url, self._folder
        observer = Observer(url, user_id, _PASSWORD, folder(f"{name}-observer"))
        person = NioPerson(url, user_id, _PASSWORD, folder(name))
        return await self._enter(person), await self._enter(observer)

    def _add_lane(
        self, room_id: RoomId, person: NioPerson, observer: Observer, *, salon: bool
    ) -> None:
        dice = random.Random(self._dice.random())  # noqa: S311  # it guards no secret
        lane = Lane(
            traffic=self._traffic,
            person=person,
            bot=self.bot.user_id,
            room_id=room_id,
            salon=salon,
            dice=dice,
        )
        self._lanes.append(lane)
        self._observers[room_id] = observer

    def _folder(self, name: str) -> Path:
        folder = self._directory / name
        folder.mkdir()
        return folder

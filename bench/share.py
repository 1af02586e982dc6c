"""The waits of others while one person causes a flood of long replies."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import msgspec
from rich.table import Table

from bench.between import ANSWERS, Addresses
from bench.crowd import EDIT_INTERVAL, Watcher
from bench.rig import program, running
from bench.rows import rounded, table
from bot.core.events import RoomId, UserId
from tests.harness.bot import Bot
from tests.harness.synapse import Synapse

_AT_ONCE = 20
_SHARE = 0.25
_HONEST, _ROUNDS = 4, 6  # people, and prompts of each, one after the other: 5 s per reply
_FLOOD = 80  # threads: 15 s per reply
_GOAL = 1.2  # largest ratio of the others' p99 wait to that of a quiet run
_PATIENCE_SECONDS = 240.0
_PASSWORD = secrets.token_urlsafe()


@dataclass(frozen=True, slots=True)
class Found:
    """Seconds from a prompt until its whole reply could be read, for everybody except one person.

    Attributes:
        quiet: seconds while that person did nothing.
        flood: seconds while that person had many threads with long replies.
        left: number of these replies that were unfinished when the others were done.
    """

    quiet: Sequence[float]
    flood: Sequence[float]
    left: int

    @property
    def missed(self) -> bool:
        """Return whether others wait longer than the goal allows."""
        return _p99(self.flood) > _GOAL * _p99(self.quiet)

    def table(self) -> Table:
        """Return the table of both runs."""
        rows = [
            [name, str(len(samples)), *map(rounded, (median(samples), _p99(samples)))]
            for name, samples in (("quiet", self.quiet), ("flood", self.flood))
        ]
        rows[0] += ["", ""]
        ratio = _p99(self.flood) / _p99(self.quiet)
        rows[1] += [f"{ratio:.2f}", f"≤ {_GOAL}{', missed' if self.missed else ''}"]
        headings = "s, prompt sent → whole reply visible", "n", "median", "p99", "/ quiet", "goal"
        return table(headings, rows)


def _p99(samples: Sequence[float]) -> float:
    return quantiles(samples, n=100, method="inclusive")[-1]


async def bench(directory: Path) -> Found:
    """Measure in an empty directory; AssertionError if the flood ended too early."""
    async with AsyncExitStack() as parts:
        bot, people = await parts.enter_async_context(_start(directory))
        flood, *honest = [(one, await _open(one, bot)) for one in people]
        quiet = await _ask(honest, bot)
        roots = [
            await flood[0].send(flood[1], f"Thread {number}", msgtype="m.notice")
            for number in range(_FLOOD)
        ]
        for root in roots:
            relation = {"rel_type": "m.thread", "event_id": root}
            await flood[0].send(flood[1], "One for the flood", **{"m.relates_to": relation})
        flooded = await _ask(honest, bot)
        text = ANSWERS["flood"].text
        whole = sum(seen.body == text for seen in flood[0].messages(flood[1]))
    assert 0 < whole < _FLOOD, "there was no flood, or it was over too early"
    return Found(quiet, flooded, _FLOOD - whole)


async def _ask(people: Sequence[tuple[Watcher, RoomId]], bot: UserId) -> list[float]:
    """Send everybody's prompts, each after the reply to the one before; return the waits."""
    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(_ask_on(*one, bot)) for one in people]
    return [seconds for one in asking for seconds in one.result()]


async def _ask_on(person: Watcher, room_id: RoomId, bot: UserId) -> list[float]:
    text, took = ANSWERS["crowd"].text, list[float]()
    for _ in range(_ROUNDS):
        known = {seen.event_id for seen in person.messages(room_id)}
        began = time.monotonic()
        await person.send(room_id, f"One for the crowd: {secrets.token_hex(8)}")
        seen = await person.wait_for_message(
            room_id,
            lambda seen: seen.sender == bot and seen.event_id not in known and seen.body == text,  # noqa: B023  # it ends before the next round
            within=_PATIENCE_SECONDS,
        )
        took.append(seen.versions[-1].at - began)
    return took


async def _open(person: Watcher, bot: UserId) -> RoomId:
    room_id = await person.open_direct_message(bot, encrypted=False)
    await person.wait_for_message(room_id, lambda seen: bool(seen.body), within=_PATIENCE_SECONDS)
    return room_id


@asynccontextmanager
async def _start(directory: Path) -> AsyncIterator[tuple[UserId, Sequence[Watcher]]]:
    """Start all parts; yield the bot, and the people who write to it."""
    async with AsyncExitStack() as parts:
        synapse = await parts.enter_async_context(Synapse(directory))
        names = ["bot", "flood", *(f"honest{number}" for number in range(_HONEST))]
        me, *users = [await synapse.register(name, _PASSWORD) for name in names]
        line, _ = await parts.enter_async_context(program("bench.between", synapse.url, "0"))
        model = msgspec.json.decode(line, type=Addresses).model
        (directory / "bot").mkdir()
        bot = Bot(
            directory / "bot",
            me,
            matrix={"homeserver": synapse.url, "user_id": me, "password": _PASSWORD},
            model={"base_url": model, "name": "scripted"},
            reply={"at_once": _AT_ONCE, "share": _SHARE, "edit_interval": EDIT_INTERVAL},
        )
        await parts.enter_async_context(running(bot))
        people = [
            await parts.enter_async_context(Watcher(synapse.url, user, _PASSWORD))
            for user in users
        ]
        yield me, people

"""Many conversations at once: are they answered as fast as one alone?"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import fmean, median

import aiohttp
import msgspec
from typing_extensions import override

from bench.between import ANSWERS, Addresses
from bench.rig import Exchange, cpu_seconds, program, running
from bench.rows import faults, ranks, rounded
from bot.core.events import EventId, RoomId, UserId
from bot.core.markdown import UNFINISHED
from tests.harness.bot import Bot
from tests.harness.client_view import JSON
from tests.harness.person import Person
from tests.harness.synapse import Synapse

SIDES = FLOOR, BOT = "F", "bot"

# Seconds: as long as the longest reply, so that a reply is two events, of the bot and of F. With
# the default of 2 s, a hundred replies would add fifty events per second, and the figures would
# be those of the homeserver.
EDIT_INTERVAL = 10.0

_BESIDES = "the same without the model's own time"
_GOAL = 1.1  # largest ratio of the bot's total time to F's
_OPENING = 10  # rooms that are opened at the same time
_FILLERS = 200  # events to measure the capacity of the homeserver
_PATIENCE_SECONDS = 120.0
_SYNC = {"filter": '{"presence": {"types": []}, "room": {"timeline": {"limit": 100}}}'}
_PASSWORD = secrets.token_urlsafe()


@dataclass(frozen=True, slots=True)
class Size:
    """A number of conversations at once.

    Attributes:
        rounds: number of repetitions.
        kind: key of the model's answer in `ANSWERS`.
        pause: seconds between two prompts; 0 for as fast as the homeserver accepts them.
    """

    at_once: int
    rounds: int
    kind: str = "crowd"
    pause: float = 0.0

    @override
    def __str__(self) -> str:
        paced = f", begun {self.pause * 1000:.0f} ms apart" if self.pause else ""
        return f"{self.at_once}{paced}"


# In the last size, prompts come one by one, so that the homeserver has time for each: when the
# last one is sent, the first reply is about to end.
SIZES = Size(1, 5), Size(20, 2), Size(100, 2), Size(100, 1, "stream of people", 0.1)

_ROOMS = max(size.at_once for size in SIZES)
_AT_ONCE = _ROOMS + 20  # generations of the bot


class Watcher(Person):
    """A person on plain aiohttp for unencrypted rooms, so that reading costs almost nothing."""

    @override
    async def close(self) -> None:
        self._syncing.cancel()
        await asyncio.wait([self._syncing])
        await self._http.close()

    @override
    async def send_event(self, room_id: RoomId, event_type: str, content: JSON) -> EventId:
        path = f"rooms/{room_id}/send/{event_type}/{next(self._transactions)}"
        async with self._http.put(path, json=content) as response:
            return EventId((await response.json())["event_id"])

    @override
    async def _connect(self) -> None:
        self._transactions = count()
        self._http = aiohttp.ClientSession(
            f"{self.homeserver}/_matrix/client/v3/",
            headers={"Authorization": f"Bearer {self._access_token}"},
            raise_for_status=True,
            connector=aiohttp.TCPConnector(limit=0),  # prompts must not delay the sync
        )
        token = await self._sync({})
        self._syncing = asyncio.get_running_loop().create_task(self._sync_for_ever(token))
        self._syncing.add_done_callback(self._on_end)

    async def _sync_for_ever(self, token: str) -> None:
        while True:
            token = await self._sync({"since": token, "timeout": "30000"})

    def _on_end(self, syncing: asyncio.Task[None]) -> None:
        if not syncing.cancelled() and (error := syncing.exception()):
            self.observed.fail(error)

    async def _sync(self, query: Mapping[str, str]) -> str:
        async with self._http.get("sync", params={**_SYNC, **query}) as response:
            synced = msgspec.json.decode(await response.read())
        rooms = synced.get("rooms", {})
        for room_id, room in rooms.get("join", {}).items():
            for event in [*room["state"]["events"], *room["timeline"]["events"]]:
                self.observed.see(room_id, event)
        return str(synced["next_batch"])


@dataclass(frozen=True, slots=True)
class Answerer:
    """One measured process, and the rooms in which it gets prompts."""

    name: str
    user_id: UserId
    pid: int
    rooms: Sequence[RoomId]


@dataclass(frozen=True, slots=True)
class Answered:
    """One prompt and its reply; times are `time.monotonic()`.

    Attributes:
        prompt: text of the prompt, different for each prompt.
        sent: time when the person began to send it.
        accepted: time when the homeserver acknowledged it.
        final: time when the person could read the whole reply.
        versions: number of versions of the reply.
    """

    prompt: str
    sent: float
    accepted: float
    final: float
    versions: int


@dataclass(frozen=True, slots=True)
class Run:
    """The prompts of one crowd to one side.

    Attributes:
        seconds: time from the first prompt to the last reply.
        homeserver: CPU seconds of the homeserver.
        cpu: CPU seconds of the side's own process.
    """

    name: str
    size: Size
    answered: Sequence[Answered]
    seconds: float
    homeserver: float
    cpu: float

    @property
    def events(self) -> int:
        """The number of prompts and of versions of replies."""
        return sum(1 + one.versions for one in self.answered)


class Crowd:
    """One person with many rooms, who sends prompts in many of them at once."""

    def __init__(self, person: Watcher, synapse: Synapse, sides: Sequence[Answerer]) -> None:
        self._person = person
        self._synapse = synapse
        self._sides = sides

    async def capacity(self) -> float:
        """Return the events per second that the homeserver accepts while nobody answers."""
        rooms = self._sides[0].rooms
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for one in range(_FILLERS):
                filler = {"body": "x" * 1000}  # it needs no answer
                room_id = rooms[one % len(rooms)]
                tasks.create_task(self._person.send_event(room_id, "bench.filler", filler))
        return _FILLERS / (time.monotonic() - began)

    async def run(self) -> list[Run]:
        """Run both sides alternately, after one prompt in each room that is not counted."""
        for side in self._sides:
            await self._ask(side, Size(_ROOMS, 1, "short"))
        return [
            await self._run(side, size)
            for number in range(max(size.rounds for size in SIZES))
            for size in SIZES
            if number < size.rounds
            for side in self._sides[:: 1 if number % 2 else -1]
        ]

    async def _run(self, side: Answerer, size: Size) -> Run:
        pid = self._synapse.pid
        assert pid, "the homeserver is gone"
        homeserver, own, began = cpu_seconds(pid), cpu_seconds(side.pid), time.monotonic()
        answered = await self._ask(side, size)
        seconds = time.monotonic() - began
        homeserver, own = cpu_seconds(pid) - homeserver, cpu_seconds(side.pid) - own
        await asyncio.sleep(1)  # work after a reply must not fall into the next run
        return Run(side.name, size, answered, seconds, homeserver, own)

    async def _ask(self, side: Answerer, size: Size) -> list[Answered]:
        """Send a prompt in each room of the crowd."""
        rooms = side.rooms[: size.at_once]
        before = {room_id: len(self._person.messages(room_id)) for room_id in rooms}
        async with asyncio.TaskGroup() as tasks:
            sending = [
                tasks.create_task(self._send(room_id, size.kind, after=number * size.pause))
                for number, room_id in enumerate(rooms)
            ]
            await self._wait(side, before, ANSWERS[size.kind].text or "")
        return [
            self._answered(room_id, *sent.result())
            for room_id, sent in zip(rooms, sending, strict=True)
        ]

    async def _send(self, room_id: RoomId, kind: str, *, after: float) -> tuple[str, float, float]:
        await asyncio.sleep(after)
        prompt = f"One for the {kind}: {secrets.token_hex(8)}"
        content = {"msgtype": "m.text", "body": prompt}
        sent = time.monotonic()
        await self._person.send_event(room_id, "m.room.message", content)
        return prompt, sent, time.monotonic()

    async def _wait(self, side: Answerer, before: Mapping[RoomId, int], text: str) -> None:
        """Wait in each room for one message after the prompt, until its text is complete."""
        waiting = dict(before)

        def look() -> bool | None:
            for room_id, messages in list(waiting.items()):
                new = self._person.messages(room_id)[messages + 1 :]  # after the prompt
                if new and new[-1].sender == side.user_id and new[-1].body == text:
                    del waiting[room_id]
            return None if waiting else True

        def missing() -> str:
            return f"{len(waiting)} replies of {side.name} are not whole"

        await self._person.observed.until(look, _PATIENCE_SECONDS, missing)

    def _answered(self, room_id: RoomId, prompt: str, sent: float, accepted: float) -> Answered:
        asked, reply = self._person.messages(room_id)[-2:]
        assert asked.body == prompt, "not one message for a prompt"
        bodies = (str(version.content["body"]) for version in reply.versions)
        words = [body.removesuffix(UNFINISHED) for body in bodies]
        assert all(map(words[-1].startswith, words)), "a version says what the model did not"
        return Answered(prompt, sent, accepted, reply.versions[-1].at, len(words))


@asynccontextmanager
async def start(synapse: Synapse, directory: Path) -> AsyncIterator[tuple[Crowd, str]]:
    """Start both sides and the model; yield the crowd and the model's address."""
    async with AsyncExitStack() as parts:
        names = ["watcher", "crowd-floor", "crowd-bot"]
        who, *users = [await synapse.register(name, _PASSWORD) for name in names]
        line, _ = await parts.enter_async_context(program("bench.between", synapse.url, "0"))
        model = msgspec.json.decode(line, type=Addresses).model
        person = await parts.enter_async_context(Watcher(synapse.url, who, _PASSWORD))
        floor = "bench.floor", synapse.url, model, users[0], _PASSWORD, str(EDIT_INTERVAL)
        bot = Bot(
            directory,
            users[1],
            matrix={"homeserver": synapse.url, "user_id": users[1], "password": _PASSWORD},
            model={"base_url": model, "name": "scripted"},
            reply={"edit_interval": EDIT_INTERVAL, "at_once": _AT_ONCE, "share": 1},
        )
        _, floor_pid = await parts.enter_async_context(program(*floor))
        _, bot_pid = await parts.enter_async_context(running(bot))
        sides = []
        for name, user_id, pid in zip(SIDES, users, (floor_pid, bot_pid), strict=True):
            rooms = await _open(person, user_id, welcome=name == BOT)
            sides.append(Answerer(name, user_id, pid, rooms))
        yield Crowd(person, synapse, sides), model


async def _open(person: Watcher, user_id: UserId, *, welcome: bool) -> list[RoomId]:
    """Open all of one side's rooms."""
    some = asyncio.Semaphore(_OPENING)

    async def one() -> RoomId:
        async with some:
            room_id = await person.open_direct_message(user_id, encrypted=False)
        await person.wait_joined(room_id, user_id, within=_PATIENCE_SECONDS)
        if welcome:
            await person.wait_for_message(
                room_id, lambda seen: bool(seen.body), within=_PATIENCE_SECONDS
            )
        return room_id

    async with asyncio.TaskGroup() as tasks:
        opening = [tasks.create_task(one()) for _ in range(_ROOMS)]
    return [room.result() for room in opening]


_Measure = Callable[[Answered, Exchange], float]


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity in milliseconds, in crowds of one size: its samples by side, in order.

    Attributes:
        goal: largest ratio of the bot's median to F's; None for no goal.
        whole: whether it is the total of the others, whose drift it shares.
    """

    label: str
    size: Size
    samples: Mapping[str, Sequence[float]]
    goal: float | None = None
    whole: bool = False

    @property
    def missed(self) -> bool:
        """Return whether the bot misses its goal."""
        return self.goal is not None and self._ratio > self.goal

    @property
    def _ratio(self) -> float:
        return median(self.samples[BOT]) / median(self.samples[FLOOR])

    def cells(self) -> list[str]:
        """Return the cells: label, size, samples, both sides, and the bot relative to F."""
        floor, bot = (self.samples[name] for name in SIDES)
        goal = "" if self.goal is None else f"≤ {self.goal}"
        return [
            self.label,
            str(self.size),
            str(len(bot)),
            ranks(floor),
            ranks(bot),
            f"{median(bot) - median(floor):+.0f}",
            f"{self._ratio:.2f}",
            f"{goal}, missed" if self.missed else goal,
        ]

    def faults(self) -> list[str]:
        """Return the remarks about the figure."""
        label = f"{self.label}, at once: {self.size}"
        return faults(label, self.samples[FLOOR] if self.whole else (), missed=self.missed)


def figures(runs: Sequence[Run], log: Mapping[str, Exchange]) -> list[Figure]:
    """Return the figures of the runs; `log` has the exchanges of the model, by prompt."""
    quantities: dict[str, _Measure] = {
        "prompt sent → whole reply visible": lambda one, _: one.final - one.sent,
        _BESIDES: lambda one, at: one.final - one.sent - (at.done - at.arrived),
        "of it: prompt sent → accepted": lambda one, _: one.accepted - one.sent,
        "of it: accepted → request at the model": lambda one, at: at.arrived - one.accepted,
        "of it: [DONE] → whole reply visible": lambda one, at: one.final - at.done,
    }
    return [
        Figure(
            label,
            size,
            _samples(runs, size, log, measure),
            _GOAL if number == 0 else None,
            whole=label == _BESIDES,
        )
        for number, (label, measure) in enumerate(quantities.items())
        for size in SIZES
    ]


def _samples(
    runs: Iterable[Run], size: Size, log: Mapping[str, Exchange], measure: _Measure
) -> dict[str, list[float]]:
    return {
        name: [
            measure(one, log[one.prompt]) * 1000
            for run in runs
            if run.name == name and run.size == size
            for one in run.answered
        ]
        for name in SIDES
    }


def loads(runs: Sequence[Run]) -> list[list[str]]:
    """Return the load of each crowd on the homeserver and on the side's own process."""
    rows = []
    for size in SIZES:
        for name in SIDES:
            some = [run for run in runs if run.name == name and run.size == size]
            rows.append(
                [
                    f"{size}: {name}",
                    rounded(fmean(run.events / run.seconds for run in some)),
                    f"{fmean(run.homeserver / run.seconds for run in some):.0%}",
                    rounded(fmean(run.homeserver / size.at_once * 1000 for run in some)),
                    f"{fmean(run.cpu / run.seconds for run in some):.0%}",
                    rounded(fmean(run.cpu / size.at_once * 1000 for run in some)),
                ]
            )
    return rows

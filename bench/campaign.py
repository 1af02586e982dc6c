"""A campaign to 10,000 direct messages on a stub of the homeserver: memory, pace, a restart."""

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psutil
import structlog
from rich.table import Table

from bot.campaigns.admin import CampaignAdmin
from bot.campaigns.responses import CampaignResponses
from bot.campaigns.sender import CampaignSender
from bot.core.events import EventId, Room, RoomId, UserId, Vote
from bot.core.model_catalog import Catalogue, ModelCard
from bot.core.outgoing import Outgoing, PreparedEvent
from bot.core.routing import Policy
from bot.monitoring.health import Health
from bot.ports.clock import Clock
from bot.ports.matrix import Matrix
from bot.replies.completion import Completions
from bot.replies.context_builder import Contexts, ContextSettings
from bot.replies.notices import Notifier
from bot.runtime.broadcast import Broadcast
from bot.storage.campaigns import SqlCampaigns
from bot.storage.ledger import SqlStore

ROOMS = 10_000
PER_MINUTE = 600.0
PACED = 3  # messages to each room: the introduction, the question, its end
MESSAGES = PACED + 1  # thanks follow a vote, outside the pace
_ADMIN_ROOM = RoomId("!admin:x")  # gets the progress reports
_ME, _KEY = UserId("@assistant:x"), "k" * 32
_CARD = ModelCard(
    id="small",
    label="small",
    key="small",
    context_length=32_000,
    max_tokens=1_000,
    temperature=None,
)
_DEFINITION = f"""\
name: bench
message: Bonjour
questions:
- question: "Utile ?"
  answers: [Oui, Non]
quiet:
per_minute: {PER_MINUTE}
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of one run.

    Attributes:
        served: number of rooms that got all of MESSAGES.
        most_messages: the largest number of messages in one room.
        minutes: duration on the clock by which the campaign keeps its pace.
        asking: seconds of the bot's own work until all rooms had the question.
        counting: seconds of the bot's own work to count a vote in each room and send thanks.
        ending: seconds of the bot's own work to end all polls.
        grown: largest growth of memory since the launch, in bytes.
    """

    served: int
    most_messages: int
    minutes: float
    asking: float
    counting: float
    ending: float
    grown: int

    @property
    def pace(self) -> float:
        """Messages per minute, without the thanks."""
        return PACED * ROOMS / self.minutes


class _Skipping:
    """A clock whose waits end at once, so that a campaign of hours takes less time."""

    def __init__(self) -> None:
        self._passed = 0.0
        self._begun = time.time()  # noqa: TID251  # it is a Clock

    def monotonic(self) -> float:
        return self._passed

    def now(self) -> float:
        return self._begun + self._passed

    async def sleep(self, seconds: float) -> None:
        self._passed += seconds
        await asyncio.sleep(0)


class _Stub:
    """The part of the Matrix port that campaigns need; it counts messages and drops them."""

    user_id, device_id = _ME, "BENCH"

    def __init__(self) -> None:
        self.sent: Counter[RoomId] = Counter()
        self.last: dict[RoomId, EventId] = {}
        self.transactions: set[str] = set()
        self.enough = asyncio.Event()
        self.stop_at = 0

    def room(self, room_id: RoomId) -> Room:
        return Room(room_id=room_id, direct=True, person=UserId(f"@agent{room_id}"))

    def rooms(self) -> list[Room]:
        admin = Room(room_id=_ADMIN_ROOM, direct=False, admin=True)
        return [admin, *(self.room(RoomId(f"!{number}:x")) for number in range(ROOMS))]

    async def prepare(self, room_id: RoomId, outgoing: Outgoing) -> PreparedEvent:  # noqa: ARG002  # the port
        return PreparedEvent("m.room.message", {})

    async def put(self, room_id: RoomId, wire: PreparedEvent, transaction_id: str) -> EventId:  # noqa: ARG002  # the port
        if room_id != _ADMIN_ROOM and transaction_id not in self.transactions:
            self.transactions.add(transaction_id)
            self.sent[room_id] += 1
            self.last[room_id] = EventId(f"${transaction_id}")
        if len(self.transactions) == self.stop_at:
            self.enough.set()
            await asyncio.Event().wait()  # like a homeserver whose response is lost
        return EventId(f"${transaction_id}")


def bench(directory: Path) -> Outcome:
    """Run one campaign, with a restart of the process in its middle."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    return asyncio.run(_bench(directory))


async def _bench(directory: Path) -> Outcome:
    clock, stub = _Skipping(), _Stub()
    store = await SqlStore.open(directory / "ledger.db", _ME, _KEY, Health(clock=clock))
    ledger = SqlCampaigns(store.database, _KEY)
    process, begun = psutil.Process(os.getpid()), time.perf_counter()
    before = most = process.memory_info().rss
    first = _campaigns(stub, store, ledger, clock)
    await _launch(first.admin)
    launched = clock.now()
    stub.stop_at = ROOMS
    async with _running(first.sender):
        await stub.enough.wait()
    stub.stop_at = 0
    second = _campaigns(stub, store, ledger, clock)
    async with _running(second.sender):
        while len(stub.transactions) < (PACED - 1) * ROOMS:
            most = max(most, process.memory_info().rss)
            await asyncio.sleep(0.2)
        asked = time.perf_counter()
        await _vote(second.responses, stub, clock)
        counted = time.perf_counter()
        await second.admin.close("bench")
        while await ledger.due("bench", clock.now()) is not None:
            most = max(most, process.memory_info().rss)
            await asyncio.sleep(0.2)
    minutes, ended = (clock.now() - launched) / 60, time.perf_counter()
    await store.close()
    sent = stub.sent.values()
    seconds = asked - begun, counted - asked, ended - counted
    served = sum(one == MESSAGES for one in sent)
    return Outcome(served, max(sent), minutes, *seconds, most - before)


async def _launch(campaigns: CampaignAdmin) -> None:
    await campaigns.draft(_DEFINITION)
    campaign = await campaigns.find("bench")
    assert campaign is not None
    assert await campaigns.launch(campaign) == ROOMS


async def _vote(responses: CampaignResponses, stub: _Stub, clock: Clock) -> None:
    """Send a vote in each room."""
    for room_id, poll in list(stub.last.items()):
        person, at = UserId(f"@agent{room_id}"), int(clock.now() * 1000)
        await responses.count(
            Vote(
                event_id=EventId(f"{poll}v"),
                room_id=room_id,
                sender=person,
                target=poll,
                answers=("1",),
                timestamp=at,
            )
        )


@dataclass(frozen=True, slots=True)
class _Campaigns:
    admin: CampaignAdmin
    sender: CampaignSender
    responses: CampaignResponses


def _campaigns(stub: _Stub, store: SqlStore, ledger: SqlCampaigns, clock: Clock) -> _Campaigns:
    matrix = cast("Matrix", stub)
    settings = ContextSettings(
        system_prompt="", catalogue=Catalogue([_CARD]), language="fr", idle_limit=3600.0
    )
    contexts = Contexts(matrix, store, clock, cast("Completions", None), settings)
    notifier = Notifier(matrix=matrix, store=store, clock=clock, contexts=contexts)
    changes, launches = Broadcast(), Broadcast()
    return _Campaigns(
        CampaignAdmin(
            matrix=matrix,
            clock=clock,
            ledger=ledger,
            contexts=contexts,
            notifier=notifier,
            policy=Policy(me=_ME, allowed_servers=("x",)),
            changes=changes,
            launches=launches,
        ),
        CampaignSender(
            matrix=matrix,
            clock=clock,
            ledger=ledger,
            contexts=contexts,
            notifier=notifier,
            changes=changes,
            launches=launches,
        ),
        CampaignResponses(
            clock=clock, ledger=ledger, contexts=contexts, notifier=notifier, changes=changes
        ),
    )


@asynccontextmanager
async def _running(campaigns: CampaignSender) -> AsyncIterator[None]:
    synced = asyncio.Event()
    synced.set()
    task = asyncio.get_running_loop().create_task(campaigns.run(synced))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def table(found: Outcome) -> Table:
    """Return the table of the results."""
    rows = Table("figure", "measured", "goal")
    rows.add_row(f"rooms that got all {MESSAGES} messages", f"{found.served:,}", f"{ROOMS:,}")
    rows.add_row("messages in one room, at the most", f"{found.most_messages}", f"{MESSAGES}")
    over = found.pace / PER_MINUTE - 1
    rows.add_row(f"pace beside {PER_MINUTE:.0f} a minute", f"{over:+.2%}", "at most +1 %")
    rows.add_row("memory grown, at the most", f"{found.grown / 2**20:.0f} MiB", "bounded")
    asking = found.asking / (PACED - 1) / ROOMS
    counting, ending = found.counting / ROOMS, found.ending / ROOMS
    rows.add_row("time of the bot's own, for a message", f"{1000 * asking:.1f} ms", "")
    rows.add_row("the same, for a vote and its thanks", f"{1000 * counting:.1f} ms", "")
    rows.add_row("the same, for the end of a poll", f"{1000 * ending:.1f} ms", "")
    return rows

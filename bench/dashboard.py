"""The time of the dashboard's pages with a million rated replies."""

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from aiohttp.test_utils import TestClient, TestServer
from rich.table import Table
from typing_extensions import override

from bench import visitors
from bench.loop_timer import LoopTimer
from bench.rows import Row, table
from bot.config.sections import DashboardSettings
from bot.core.events import Batch, EventId
from bot.core.feedback import ReplyMetadata
from bot.dashboard.server import application
from bot.monitoring.health import Health
from bot.runtime.clock import SystemClock
from bot.storage.feedback import SqlFeedback
from bot.storage.ledger import SqlStore
from bot.storage.statistics import SqlStatistics
from tests.harness.sample import Sample, count_anew, fill
from tests.make import AGENT, BOT, message, prompt, reaction

RATINGS: Final = 1_000_000
DOMAINS: Final = 30

_KEY: Final = "k" * 32
_ROUNDS: Final = 15
_RATINGS_ROUNDS: Final = 200
_GOAL: Final = 300.0  # milliseconds
_LONGEST_PIECE: Final = 50.0  # milliseconds
_SAMPLE: Final = Sample(RATINGS, rated=100, days=365, domains=DOMAINS)
_PAGES: Final = {
    "page, 7 days": "/?jours=7",
    "page, 30 days": "/",
    "page, 90 days": "/?jours=90",
    "page, 365 days": "/?jours=365",
    "page, 365 days, one model and one domain": (
        "/?jours=365&modele=exemple/moyen&domaine=exemple.finances.test"
    ),
    "the same, of which there is nothing": "/?jours=365&modele=x&domaine=y",
    "public page": "/statistiques",
    "a chart of 365 days": "/graphiques/satisfaction-clair.svg?jours=365",
}


class _AtTheEnd(SystemClock):
    """A clock at the last day of the sample."""

    @override
    def now(self) -> float:
        """Return the end of the sample."""
        return _SAMPLE.end.timestamp()


class _Clock(_AtTheEnd):
    """A clock on which every cached page has expired at the next request."""

    @override
    def monotonic(self) -> float:
        """Return a time that runs an hour per second."""
        return super().monotonic() * 3600


def bench(directory: Path) -> list[Row]:
    """Fill a ledger and measure; AssertionError if a page is wrong."""
    loop_timer = LoopTimer()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(loop_timer)) as runner:
        return runner.run(_bench(directory / "ledger.db", loop_timer))


def table_of(rows: Sequence[Row]) -> Table:
    """Return the table of the rows."""
    cells = (row.cells() for row in rows)
    headings = ("ms", "n", "median (smallest-largest)", "goal")
    return table(headings, ([label, n, bot, goal] for label, n, _, bot, *_, goal in cells))


async def _bench(path: Path, loop_timer: LoopTimer) -> list[Row]:
    await (await _open(path)).close()
    await asyncio.to_thread(fill, path, _KEY, _SAMPLE)
    measured = [*await _pages(path, loop_timer), *await _visited(path), await _grouping(path)]
    return [*measured, await _counting(path), *await _ratings(path)]


async def _pages(path: Path, loop_timer: LoopTimer) -> list[Row]:
    store = await _open(path)
    statistics = await SqlStatistics.open(path, _KEY, Health(clock=SystemClock()), store.database)
    app = application(statistics, DashboardSettings(public=True), _Clock())
    rows = [Row(label, goal=_GOAL) for label in _PAGES]
    pieces = Row("longest piece of the event loop, in all of these", goal=_LONGEST_PIECE)
    async with TestClient(TestServer(app)) as client:

        async def fetch(page: str) -> None:
            async with client.get(page) as response:
                assert response.status == 200
                await response.read()

        for number in range(_ROUNDS + 1):
            for row, page in zip(rows, _PAGES.values(), strict=True):
                spent = await loop_timer.spent(fetch(page))
                if number:  # the first one also loads templates and the file
                    row.bot.append(spent.took)
                    pieces.bot.append(spent.longest)
    await statistics.close()
    await store.close()
    return [*rows, pieces]


async def _visited(path: Path) -> list[Row]:
    """Measure a reply while visitors load the public statistics."""
    store = await _open(path)
    statistics = await SqlStatistics.open(path, _KEY, Health(clock=SystemClock()), store.database)
    app = application(statistics, DashboardSettings(public=True), _AtTheEnd())
    rows = await visitors.bench(app)
    await statistics.close()
    await store.close()
    return rows


async def _grouping(path: Path) -> Row:
    """Measure the time of one chart without the stored figures of days and weeks."""
    row = Row("(grouping the ratings themselves, for one chart)")

    def group() -> int:
        with closing(sqlite3.connect(path)) as ledger:
            query = "SELECT date(answered_at), answer, count(*) FROM ratings GROUP BY 1, 2"
            return len(ledger.execute(query).fetchall())

    for _ in range(3):
        begun = time.perf_counter()
        assert await asyncio.to_thread(group)
        row.bot.append((time.perf_counter() - begun) * 1000)
    return row


async def _counting(path: Path) -> Row:
    """Measure the count of all replies, which an upgrade of an older ledger does once."""
    row = Row("(counting all replies and ratings once)")
    begun = time.perf_counter()
    await asyncio.to_thread(count_anew, path)
    row.bot.append((time.perf_counter() - begun) * 1000)
    return row


async def _ratings(path: Path) -> list[Row]:
    """Measure the transactions that update the figures."""
    store = await _open(path)
    opinions = SqlFeedback(store.database, _KEY)
    answers, rates = Row("a reply's transaction"), Row("a rating's transaction")
    for number in range(_RATINGS_ROUNDS):
        asked = prompt(message(event_id=f"$bench-{number}"))
        how = ReplyMetadata(sender=AGENT, direct=True, model="small", seconds=3.0)
        await store.admit(
            Batch(events=asked.messages, next_batch=f"{number}"), _SAMPLE.end.timestamp()
        )
        begun = time.perf_counter()
        await opinions.answered(asked, how, lambda _: None, _SAMPLE.end.timestamp())
        answers.bot.append((time.perf_counter() - begun) * 1000)
        said = reaction("👍", event_id=f"$rates-{number}")
        begun = time.perf_counter()
        await opinions.rate(said, EventId(asked.event_id), "yes", _SAMPLE.end.timestamp())
        rates.bot.append((time.perf_counter() - begun) * 1000)
    await store.close()
    return [answers, rates]


async def _open(path: Path) -> SqlStore:
    return await SqlStore.open(path, BOT, _KEY, Health(clock=SystemClock()))

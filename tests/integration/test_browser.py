"""The dashboard in a real browser: its figures, its looks, and what keeps people from reading."""

import itertools
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestServer
from typing_extensions import override

from bot.config.sections import DashboardSettings
from bot.dashboard.server import application
from bot.monitoring.health import Health
from bot.storage.ledger import SqlStore
from bot.storage.statistics import SqlStatistics
from tests.fakes.clock import FakeClock
from tests.harness.browser import Browser, Look, executable
from tests.harness.sample import Sample, fill
from tests.make import BOT

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

KEY, TOKEN = "k" * 32, "t" * 32
NOW = datetime(2026, 11, 15, 19, tzinfo=UTC)
SINCE = {7: "2026-11-09", 30: "2026-10-17", 90: "2026-08-17", 365: "2025-11-10"}
PUBLIC = ("2026-08-17", "2026-11-09")  # twelve whole weeks
ALL_LOOKS = pytest.mark.parametrize(
    ("theme", "width"), list(itertools.product(("light", "dark"), (1280, 400, 320)))
)
Theme = Literal["light", "dark"]


class SampleClock(FakeClock):
    """A clock that stands at the sample's end."""

    @override
    def now(self) -> float:
        return NOW.timestamp()


@dataclass
class Site:
    """A server of the pages, over a ledger filled with a sample."""

    path: Path
    statistics: SqlStatistics

    @asynccontextmanager
    async def served(self, **settings: object) -> AsyncIterator[str]:
        """Yield the server's address, which ends in a slash."""
        made = DashboardSettings.model_validate({"public": True, **settings})
        async with TestServer(application(self.statistics, made, SampleClock())) as server:
            yield str(server.make_url("/"))

    def row(self, query: str, *values: str) -> Any:  # noqa: ANN401  # as the query
        with closing(sqlite3.connect(self.path)) as ledger:
            return ledger.execute(query, values).fetchone()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    path = tmp_path_factory.mktemp("site") / "ledger.db"
    store = await SqlStore.open(path, BOT, KEY, Health(clock=FakeClock()))
    fill(path, KEY, Sample(9000))
    statistics = await SqlStatistics.open(path, KEY, Health(clock=FakeClock()), store.database)
    yield Site(path, statistics)
    await statistics.close()
    await store.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    program = executable()
    if program is None:
        pytest.skip("there is no Chromium on this machine")
    async with Browser(program) as running:
        yield running


def shows_what_matters(seen: Any, width: int) -> None:  # noqa: ANN401  # what a look gives
    """Check that the newest days and the satisfaction are seen without scrolling to the side."""
    edges = [
        edge for name, edge in seen["edges"] if name.startswith(("Graphique", "Satisfaction"))
    ]
    assert len(edges) > 3
    assert width < 400 or max(edges) <= width
    assert seen["hints"] == seen["wide"]
    assert bool(seen["wide"]) == (width < 1280)


def plain(text: object) -> str:
    return str(text).replace("\N{NARROW NO-BREAK SPACE}", " ").replace("\N{NO-BREAK SPACE}", " ")


def number(text: object) -> int:
    return int(plain(text).replace(" ", ""))


def is_sound(seen: Any, url: str) -> None:  # noqa: ANN401  # what a look gives
    """Check what holds for every page, however it is looked at."""
    assert seen["errors"] == []
    assert seen["violations"] == []
    assert all(one.startswith(url) for one in seen["requests"]), seen["requests"]
    assert seen["overflow"] == 0
    assert seen["lang"] == "fr"
    levels = [level for level, _ in seen["headings"]]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(width > 0 for _, width in seen["images"])


@ALL_LOOKS
async def test_everybody_can_read_the_dashboard(
    site: Site, browser: Browser, theme: Theme, width: int
) -> None:
    async with site.served() as url:
        file = f"dashboard-{theme}-{width}.png"
        seen = await browser.look(Look(url, theme, width, file=file))

    is_sound(seen, url)
    assert seen["title"] == "Tableau de bord – Assistant IA"  # a dash in French
    assert len(seen["images"]) == 3
    shade = ("sombre" if theme == "dark" else "clair") + ("_etroit" if width < 736 else "")
    assert all(f"-{shade}.svg" in source for source, _ in seen["images"])
    shows_what_matters(seen, width)
    assert seen["background"] == ("rgb(22, 22, 22)" if theme == "dark" else "rgb(255, 255, 255)")


@pytest.mark.parametrize("width", [667, 735, 737])  # a telephone held sideways, and both charts
async def test_the_newest_days_of_the_dashboard_are_in_view_at_any_width(
    site: Site, browser: Browser, width: int
) -> None:
    async with site.served() as url:
        seen = await browser.look(Look(url, "light", width, script=False))

    assert seen["overflow"] == 0
    shows_what_matters(seen, width)


@ALL_LOOKS
async def test_everybody_can_read_the_public_page(
    site: Site, browser: Browser, theme: Theme, width: int
) -> None:
    async with site.served(token=TOKEN) as url:
        file = f"public-{theme}-{width}.png"
        seen = await browser.look(Look(f"{url}statistiques", theme, width, file=file))

    is_sound(seen, url)
    shows_what_matters(seen, width)


@pytest.mark.parametrize("days", SINCE)
async def test_its_figures_are_the_ledgers_own_also_without_scripts(
    site: Site, browser: Browser, days: int
) -> None:
    async with site.served() as url:
        seen = await browser.look(Look(f"{url}?jours={days}", script=False))

    is_sound(seen, url)
    since = SINCE[days]
    replies, median = site.row(
        "SELECT count(*), (SELECT seconds FROM circumstances WHERE answered_at >= ?1"
        " ORDER BY seconds LIMIT 1 OFFSET (SELECT count(*) / 2 FROM circumstances"
        " WHERE answered_at >= ?1)) FROM circumstances WHERE answered_at >= ?1",
        since,
    )
    rated, yes = site.row(
        "SELECT count(*), sum(answer = 'yes') FROM ratings WHERE answered_at >= ?", since
    )
    (polls,) = site.row("SELECT count(*) FROM polls WHERE sent_at >= ?", since)
    (votes,) = site.row(
        "SELECT count(*) FROM ratings WHERE answered_at >= ? AND source = 'poll'", since
    )
    tiles = {name: plain(value) for name, value in seen["tiles"].items()}
    assert number(tiles["Réponses"]) == replies
    assert number(tiles["Avis"]) == rated
    assert tiles["Satisfaction"] == f"{100 * yes / rated:.0f} %"
    assert tiles["Sondages répondus"] == f"{100 * votes / polls:.0f} %"
    shown = float(tiles["Temps médian"].removesuffix(" s").replace(",", "."))
    assert shown == pytest.approx(median, rel=0.1)


async def test_its_tables_are_the_ledgers_own(site: Site, browser: Browser) -> None:
    async with site.served() as url:
        seen = await browser.look(Look(url, script=False))

    columns = {"Par modèle": "model", "Par domaine": "domain", "Par version": "prompt_version"}
    for caption, table in seen["tables"].items():
        column = next((name for part, name in columns.items() if caption.startswith(part)), None)
        for name, _, _, replies, rated, yes, *_ in table[1:] if column else []:
            about = f"WHERE answered_at >= '{SINCE[30]}' AND {column} = ?"
            assert site.row(f"SELECT count(*) FROM circumstances {about}", name) == (  # noqa: S608  # ours
                number(replies),
            )
            found = site.row(
                f"SELECT count(*), coalesce(sum(answer = 'yes'), 0) FROM ratings {about}",  # noqa: S608  # ours
                name,
            )
            assert found == (number(rated), number(yes))
    assert len(seen["tables"]["Avis, réponses et temps par jour"]) == 31
    reasons = seen["tables"]["Raisons données"]
    (given,) = site.row("SELECT count(reason) FROM ratings WHERE answered_at >= ?", SINCE[30])
    assert sum(number(count) for _, count in reasons[1:]) == given
    assert seen["text"].count("[exemple]") == 20


async def test_the_public_page_shows_no_group_of_fewer_than_ten(
    site: Site, browser: Browser
) -> None:
    async with site.served(token=TOKEN) as url:
        seen = await browser.look(Look(f"{url}statistiques", script=False))

    is_sound(seen, url)
    (rated,) = site.row(
        "SELECT count(*) FROM ratings WHERE answered_at >= ? AND answered_at < ?", *PUBLIC
    )
    assert number(seen["tiles"]["Avis"]) == rated
    assert len(seen["tables"]) == 4
    for table in seen["tables"].values():
        counts = [number(count) for _, _, _, _, count, *_ in table[1:]]
        assert min(counts) >= 10
        assert sum(counts) == rated
    assert "agent.agriculture.test" not in seen["text"]
    assert "[exemple]" not in seen["text"]


@pytest.mark.parametrize("script", [True, False])
async def test_one_logs_in_by_the_form(site: Site, browser: Browser, *, script: bool) -> None:
    async with site.served(token=TOKEN) as url:
        asked = await browser.look(Look(url, script=script, file="login.png"))
        refused = await browser.look(Look(url, script=True, form={"jeton": "x"}))
        inside = await browser.look(Look(url, script=script, form={"jeton": TOKEN}))

    is_sound(asked, url)
    assert asked["url"] == f"{url}connexion"
    assert refused["status"] == 401
    assert refused["violations"] == []
    assert "Erreur : ce jeton" in plain(refused["text"])
    is_sound(inside, url)
    assert inside["url"] == url
    assert "Se déconnecter" in inside["text"]


async def test_pages_that_say_no_can_be_read_as_well(site: Site, browser: Browser) -> None:
    async with site.served(proxy_header="Remote-User", proxies=["127.0.0.1"]) as url:
        looks = [
            await browser.look(Look(f"{url}{path}", headers=headers))
            for path, headers in (
                ("", {}),
                ("nowhere", {"Remote-User": "camille"}),
                ("?jours=8", {"Remote-User": "camille"}),
            )
        ]

    assert [seen["status"] for seen in looks] == [403, 404, 400]
    assert [seen["violations"] for seen in looks] == [[], [], []]

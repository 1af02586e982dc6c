"""The dashboard and the public page as a browser asks for them, and who may see what."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import ClientResponse, ClientSession, CookieJar, TCPConnector
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request
from multidict import CIMultiDict
from typing_extensions import override

from bot.config.sections import DashboardSettings
from bot.core.events import Batch, EventId
from bot.core.feedback import Rating, ReplyMetadata
from bot.core.statistics import (
    CampaignFigures,
    FeedbackComment,
    FigureFilter,
    Figures,
    Group,
    Published,
    Step,
)
from bot.dashboard import auth, server
from bot.dashboard.auth import COOKIE, STAYS
from bot.dashboard.server import application, serve
from bot.errors import ConfigError, StoreError
from bot.monitoring.health import Health
from bot.ports.statistics import Statistics
from bot.runtime.failpoints import Failpoints
from bot.storage import database
from bot.storage.feedback import SqlFeedback
from bot.storage.ledger import SqlStore
from bot.storage.statistics import SqlStatistics
from tests.fakes.clock import FakeClock
from tests.fakes.statistics import FakeStatistics
from tests.harness.ledgers import migrated_file
from tests.make import AGENT, BOT, message, prompt, reaction

ROOT = Path(__file__).parents[2]
TOKEN, KEY = "t" * 32, "k" * 32
WEEK = 7 * 86_400.0
TODAY = datetime.fromtimestamp(FakeClock().now(), UTC).date()
DIRECT = Group("small", "a.test", "direct", "", "v1")
SALON = Group("large", "b.test", "salon", "", "v1")
ODD = Group('<b>"x"</b>', "c.test", "", "", "")

Client = TestClient[Request, Application]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def statistics() -> FakeStatistics:
    """Figures of a direct message's people and a salon's."""
    fake = FakeStatistics()
    fake.add(TODAY, DIRECT, replies=1200, yes=60, partly=15, no=25, why_sources=7, seconds_6=1200)
    fake.add(TODAY, DIRECT, polls=80, votes=20)
    fake.add(TODAY - timedelta(days=20), SALON, replies=30, yes=3, no=3, others_yes=2)
    fake.said = [FeedbackComment(1_700_000_000.0, "<script>alert(1)</script>\nBien", "partly")]
    return fake


@asynccontextmanager
async def running(
    statistics: Statistics, clock: FakeClock, **settings: object
) -> AsyncIterator[Client]:
    made = application(statistics, DashboardSettings.model_validate(settings), clock)
    # Cookies of an address are kept by hand: their jar would refuse `Secure` ones over HTTP.
    jar = CookieJar(unsafe=True)
    async with TestClient(TestServer(made), cookie_jar=jar) as client:
        yield client


@pytest_asyncio.fixture
async def client(statistics: FakeStatistics, clock: FakeClock) -> AsyncIterator[Client]:
    """A dashboard on this machine alone, without a login."""
    async with running(statistics, clock, public=True) as client:
        yield client


async def get(
    client: Client, path: str = "/", headers: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Return the status and the text, without following."""
    async with client.get(path, headers=headers, allow_redirects=False) as response:
        return response.status, words(await response.text())


def words(page: str) -> str:
    """Return what a page says, with plain spaces."""
    text = re.sub(r"<[^>]+>", " ", page.replace("&nbsp;", " ").replace("&#8239;", " "))
    text = text.replace("\N{NARROW NO-BREAK SPACE}", " ").replace("\N{NO-BREAK SPACE}", " ")
    return " ".join(text.split())


async def test_the_dashboard_shows_figures_of_the_last_thirty_days(client: Client) -> None:
    status, page = await get(client)

    assert status == 200
    assert "Satisfaction 59 % de 50 % à 68 % (intervalle à 95 %)" in page
    assert "Avis 106 15 en partie, 28 non" in page
    assert "Réponses 1 230 de l" in page
    assert "9 réponses sur 10 en moins de 4,9 s" in page
    assert "Sondages répondus 25 % 20 sur 80 envoyés" in page
    assert "small 60 % de 50 % à 69 % 1 200 100 60 15 25" in page
    assert "b.test 50 % de 19 % à 81 % 30 6 3 0 3" in page
    assert "Message direct 60 % de 50 % à 69 % 1 200" in page
    assert "Salon 50 % de 19 % à 81 % 30" in page
    assert "Sans outil 59 % de 50 % à 68 % 1 230" in page
    assert "Sources manquantes 7" in page
    assert "2 « Oui », 0 « En partie », 0 « Non »" in page


async def test_campaigns_are_shown_with_their_response_rates(
    client: Client, statistics: FakeStatistics
) -> None:
    statistics.launched = [
        CampaignFigures(name="utile", state="running", rooms=1200, reached=400, answered=100),
        CampaignFigures(name="fin", state="closed", rooms=3, reached=0, answered=0),
    ]

    _, page = await get(client)

    assert "utile en cours 1 200 400 100 25 %" in page
    assert "fin terminée 3 0 0 \N{EN DASH}" in page


async def test_figures_are_narrowed_to_a_period_a_model_and_a_domain(client: Client) -> None:
    for query in (
        "jours=7",
        "modele=small",
        "domaine=a.test&modele=",
        "jours=90&modele=small",
    ):
        status, page = await get(client, f"/?{query}")
        assert (status, "Réponses 1 200 de" in page) == (200, True), query
    status, page = await get(client, "/?modele=large&domaine=a.test")
    assert (status, "aucun avis sur la période" in page) == (200, True)


async def test_a_model_that_answers_no_more_stays_chosen(client: Client) -> None:
    async with client.get("/", params={"modele": '"><b>'}) as response:
        assert response.status == 200
        assert "<option selected>&#34;&gt;&lt;b&gt;</option>" in await response.text()


async def test_comments_and_names_are_shown_as_text(
    client: Client, statistics: FakeStatistics
) -> None:
    statistics.add(TODAY, ODD, replies=1)
    async with client.get("/") as response:
        page = await response.text()
    assert "<blockquote>&lt;script&gt;alert(1)&lt;/script&gt;\nBien</blockquote>" in page
    assert "&lt;b&gt;&#34;x&#34;&lt;/b&gt;" in page
    assert "Non précisé" in page
    assert "<script" not in page
    assert "14 novembre 2023, 22:13 UTC" in words(page)


@pytest.mark.parametrize(
    "query",
    [
        *("jours=0", "jours=-7", "jours=31", "jours=", "jours=7.0", "jours=%D9%A7", "jours=1e9"),
        *("jours=' OR 1=1", "jours=%00", "modele=%00", "domaine=a%0Ab", f"modele={'x' * 256}"),
    ],
)
@pytest.mark.parametrize("path", ["/", "/graphiques/satisfaction-clair.svg"])
async def test_wrong_values_are_refused_with_a_page(client: Client, path: str, query: str) -> None:
    status, page = await get(client, f"{path}?{query}")
    assert status == 400
    assert "Demande incorrecte" in page


async def test_values_that_mean_nothing_are_passed_over(client: Client) -> None:
    assert (await get(client, "/?x=1&jours=7&jours=bad"))[0] == 200
    assert (await get(client, "/?modele=%F0%9F%98%80&domaine=%FF"))[0] == 200


@pytest.mark.parametrize("name", ["satisfaction", "reponses", "temps"])
async def test_each_chart_is_drawn_in_both_themes(client: Client, name: str) -> None:
    drawn = set()
    looks = ("clair", "sombre", "clair_etroit", "sombre_etroit")
    for path in (f"/graphiques/{name}-{look}.svg?jours=7" for look in looks):
        async with client.get(path) as response:
            assert (response.status, response.content_type) == (200, "image/svg+xml")
            assert "script-src" not in response.headers["Content-Security-Policy"]
            assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
            drawn.add(await response.text())
    assert len(drawn) == len(looks)


@pytest.mark.parametrize(
    "path",
    [
        *("/x", "/graphiques/x-clair.svg", "/graphiques/temps-rouge.svg", "/graphiques/temps.svg"),
        *("/connexion", "/style.css/", "/publics/x-clair.svg", "/%00"),
    ],
)
async def test_what_is_not_there_is_told_by_a_page(client: Client, path: str) -> None:
    status, page = await get(client, path)
    assert status == 404
    assert "Page introuvable" in page


async def test_other_methods_are_refused_with_those_that_do(client: Client) -> None:
    async with client.put("/") as response:
        assert response.status == 405
        assert "GET" in response.headers["Allow"]
    async with client.head("/") as response:
        assert response.status == 200


@pytest.mark.parametrize("path", ["/", "/statistiques", "/x", "/style.css", "/icon.svg"])
async def test_browsers_are_kept_from_all_they_need_not_do(client: Client, path: str) -> None:
    async with client.get(path) as response:
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'; img-src 'self'; form-")
        assert "unsafe" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        # Under "no-referrer" browsers would send the login's form with `Origin: null` (Fetch).
        assert response.headers["Referrer-Policy"] == "same-origin"
        assert response.headers["X-Frame-Options"] == "DENY"


async def test_the_dashboard_is_kept_by_nobody(client: Client) -> None:
    for path in ("/", "/graphiques/temps-clair.svg"):
        async with client.get(path) as response:
            assert response.headers["Cache-Control"] == "no-store"


async def test_a_page_and_its_charts_are_of_one_report(
    client: Client, statistics: FakeStatistics, clock: FakeClock
) -> None:
    await get(client)
    statistics.add(TODAY, DIRECT, replies=1)
    assert "Réponses 1 230 de" in (await get(client))[1]
    clock.time += 31
    assert "Réponses 1 231 de" in (await get(client))[1]


async def test_many_reports_are_not_all_kept(client: Client, statistics: FakeStatistics) -> None:
    for number in range(70):
        await get(client, f"/?modele=m{number}")
    asked = statistics.asked
    await get(client, "/?modele=m69")
    assert statistics.asked == asked + 2  # comments and campaigns
    await get(client, "/?modele=m0")
    assert statistics.asked == asked + 6


async def test_a_ledger_that_is_away_is_told_by_a_page(
    client: Client, statistics: FakeStatistics
) -> None:
    statistics.error = StoreError("the ledger …: disk I/O error")
    for path in ("/", "/statistiques", "/graphiques/temps-clair.svg"):
        status, page = await get(client, path)
        assert status == 503
        assert "Service indisponible" in page
        assert "disk" not in page


class Hanging(FakeStatistics):
    """A ledger that never answers."""

    @override
    async def by_step(
        self, step: Step, first: date, last: date, only: FigureFilter
    ) -> dict[date, Figures]:
        await asyncio.Event().wait()
        return {}


async def test_a_ledger_that_hangs_is_not_waited_for(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_PATIENCE", 0.05)
    async with running(Hanging(), clock) as client:
        assert (await get(client))[0] == 503


async def test_a_bug_is_told_by_a_page_without_its_words(
    client: Client, statistics: FakeStatistics, capsys: pytest.CaptureFixture[str]
) -> None:
    statistics.error = RuntimeError("secret-word")
    status, page = await get(client)
    assert status == 500
    assert "secret-word" not in page + "".join(capsys.readouterr())


PUBLIC = [
    "/statistiques",
    *[f"/publics/{name}-clair.svg" for name in ("satisfaction", "reponses", "temps")],
    "/publics/temps-sombre.svg",
]


class Held(FakeStatistics):
    """A ledger that answers when the test lets it, and counts who reads what is public."""

    def __init__(self, kept: FakeStatistics) -> None:
        super().__init__()
        self._kept = kept
        self.begun, self.goes_on = asyncio.Event(), asyncio.Event()
        self.reads = 0

    @override
    async def published(self, first: date, last: date) -> Published:
        self.reads += 1
        self.begun.set()
        await self.goes_on.wait()
        return await self._kept.published(first, last)


async def kept(client: Client, path: str) -> bytes:
    async with client.get(path) as response:
        assert response.status == 200
        return await response.read()


class TestPublicPage:
    async def test_nobody_needs_to_log_in(
        self, statistics: FakeStatistics, clock: FakeClock
    ) -> None:
        async with running(statistics, clock, public=True, token=TOKEN) as client:
            status, page = await get(client, "/statistiques")
            assert status == 200
            assert "Moins de 10 avis ont été donnés" in page
            assert (await get(client, "/publics/satisfaction-sombre.svg"))[0] == 200
            assert (await get(client))[0] == 303

    async def test_small_groups_are_merged_and_no_comment_is_shown(
        self, statistics: FakeStatistics, clock: FakeClock
    ) -> None:
        week_ago = TODAY - timedelta(days=7)
        statistics.add(week_ago, DIRECT, replies=90, yes=30, no=10)
        statistics.add(week_ago, ODD, replies=8, yes=8)
        statistics.add(week_ago, SALON._replace(model="other"), replies=60, yes=12)
        async with running(statistics, clock, public=True) as client:
            status, page = await get(client, "/statistiques?jours=7&modele=small")
        assert status == 200
        assert "Avis 66" in page  # with six of three weeks ago, which have waited
        share = r"\d+ % de \d+ % à \d+ %"
        assert re.search(f"small {share} 90 40 30 0 10", page)
        assert re.search(f"other {share} 60 12", page)
        merged = "Groupes de moins de 10 avis par semaine, réunis"
        assert re.search(f"{merged} {share} 38 14", page)
        assert "c.test" not in page
        assert "large" not in page
        assert "alert" not in page

    @pytest.mark.parametrize("path", PUBLIC)
    async def test_it_is_made_once_a_minute_however_many_ask(
        self, statistics: FakeStatistics, clock: FakeClock, path: str
    ) -> None:
        held = Held(statistics)
        async with running(held, clock, public=True) as client:
            asks = [asyncio.ensure_future(kept(client, path)) for _ in range(30)]
            await held.begun.wait()
            held.goes_on.set()
            answers = {await one for one in asks}
            assert len(answers) == 1
            clock.time += 59
            answers.add(await kept(client, f"{path}?x=1"))
            assert (len(answers), held.reads) == (1, 1)
            clock.time += 2
            assert await kept(client, path) in answers
            assert held.reads == 2

    @pytest.mark.parametrize("path", PUBLIC)
    async def test_what_fails_is_told_all_who_wait_and_tried_again(
        self, statistics: FakeStatistics, clock: FakeClock, path: str
    ) -> None:
        held = Held(statistics)
        async with running(held, clock, public=True) as client:
            statistics.error = StoreError("the ledger …: disk I/O error")
            asks = [asyncio.ensure_future(get(client, path)) for _ in range(10)]
            await held.begun.wait()
            held.goes_on.set()
            assert {(await one)[0] for one in asks} == {503}
            statistics.error = None
            assert (await get(client, path))[0] == 200

    @pytest.mark.parametrize("path", [*PUBLIC, "/style.css", "/icon.svg"])
    async def test_a_browser_that_has_it_gets_it_once(self, client: Client, path: str) -> None:
        async with client.get(path) as response:
            tag, whole = response.headers["ETag"], await response.read()
            assert response.headers["Cache-Control"] == "public, max-age=60"
        for known, status in (
            *((tag, 304), (f"W/{tag}", 304), (f'"x", {tag}', 304), ("*", 304)),
            *(('"x"', 200), ("", 200), (tag.strip('"'), 200), ('"', 200)),
        ):
            async with client.get(path, headers={"If-None-Match": known}) as response:
                assert response.status == status, known
                assert await response.read() == (b"" if status == 304 else whole)
                assert (response.headers["ETag"], response.headers["Cache-Control"]) == (
                    tag,
                    "public, max-age=60",
                )

    async def test_a_week_that_is_over_is_shown_at_once(
        self, statistics: FakeStatistics, clock: FakeClock
    ) -> None:
        statistics.add(TODAY, DIRECT, yes=41)
        week_over = datetime.combine(
            TODAY + timedelta(days=7 - TODAY.weekday()), datetime.min.time(), UTC
        ).timestamp()
        async with running(statistics, clock, public=True) as client:
            clock.time += week_over - clock.now() - 1
            async with client.get("/statistiques") as response:
                before = response.headers["ETag"]
                assert "Avis 147" not in words(await response.text())
            clock.time += 1
            async with client.get("/statistiques", headers={"If-None-Match": before}) as response:
                assert response.status == 200
                assert "Avis 147" in words(await response.text())

    async def test_it_is_not_there_unless_wanted(
        self, statistics: FakeStatistics, clock: FakeClock
    ) -> None:
        async with running(statistics, clock) as client:
            for path in ("/statistiques", "/publics/satisfaction-clair.svg"):
                assert (await get(client, path))[0] == 404
            assert "Statistiques publiques" not in (await get(client))[1]


class TestPublishedWeeks:
    """The public page over a ledger."""

    @pytest_asyncio.fixture
    async def ledger(self, tmp_path: Path, clock: FakeClock) -> AsyncIterator[SqlStore]:
        """A ledger with twelve ratings of the week before."""
        store = await SqlStore.open(
            migrated_file(tmp_path / "ledger.db"), BOT, KEY, Health(clock=clock)
        )
        for number in range(12):
            asked = prompt(message(event_id=f"${number}"))
            await store.admit(Batch(events=asked.messages, next_batch=f"s{number}"), clock.now())
            how, at = ReplyMetadata(sender=AGENT, direct=True, model="small"), clock.now() - WEEK
            await SqlFeedback(store.database, KEY).answered(asked, how, lambda _: None, at)
            await self.rate(store, number, "yes")
        yield store
        await store.close()

    @pytest_asyncio.fixture
    async def page(
        self, ledger: SqlStore, tmp_path: Path, clock: FakeClock
    ) -> AsyncIterator[Client]:
        place, health = tmp_path / "ledger.db", Health(clock=clock)
        statistics = await SqlStatistics.open(place, KEY, health, ledger.database)
        async with running(statistics, clock, public=True) as client:
            yield client
        await statistics.close()

    async def rate(self, ledger: SqlStore, number: int, answer: Rating) -> None:
        said = reaction("👍", event_id=f"${number}-{answer}", timestamp=len(answer))
        opinions = SqlFeedback(ledger.database, KEY)
        await opinions.rate(said, EventId(f"${number}"), answer, 0.0)

    async def test_a_late_rating_is_shown_to_the_team_alone(
        self, page: Client, ledger: SqlStore, clock: FakeClock
    ) -> None:
        status, before = await get(page, "/statistiques")
        assert (status, "Avis 12 0 en partie, 0 non" in before) == (200, True)

        await self.rate(ledger, 3, "partly")
        clock.time += 31

        assert await get(page, "/statistiques") == (200, before)
        assert "Avis 12 1 en partie, 0 non" in (await get(page))[1]

    async def test_where_nothing_can_be_written_no_figure_is_shown(
        self, page: Client, ledger: SqlStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server, "_PATIENCE", 0.05)
        monkeypatch.setattr(database, "backoff", lambda _: 0.01)
        full = ",".join(f"publish.before:enospc@{number}" for number in range(1, 100))
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(database, "armed", Failpoints(full))
            status, told = await get(page, "/statistiques")
            assert (status, "Service indisponible" in told, "Avis" in told) == (503, True, False)
            await self.rate(ledger, 3, "partly")

        monkeypatch.undo()
        status, told = await get(page, "/statistiques")
        assert (status, "Avis 12 1 en partie, 0 non" in told) == (200, True)


async def log_in(client: Client, token: str, **headers: str) -> ClientResponse:
    given = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return await client.post(
        "/connexion", data={"jeton": token}, headers=given, allow_redirects=False
    )


async def guess_from(client: Client, address: str) -> int:
    """Return the status that a wrong token gets from an address of this machine."""
    async with (
        ClientSession(connector=TCPConnector(local_addr=(address, 0))) as http,
        http.post(client.make_url("/connexion"), data={"jeton": "x"}) as response,
    ):
        return response.status


class TestToken:
    @pytest_asyncio.fixture
    async def client(self, statistics: FakeStatistics, clock: FakeClock) -> AsyncIterator[Client]:
        async with running(statistics, clock, token=TOKEN) as client:
            yield client

    async def test_who_has_it_gets_in_until_they_leave(self, client: Client) -> None:
        async with client.get("/?jours=7", allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (303, "connexion")
        assert (await get(client, "/graphiques/temps-clair.svg"))[0] == 403
        assert "Jeton d" in (await get(client, "/connexion"))[1]

        response = await log_in(client, TOKEN)
        assert (response.status, response.headers["Location"]) == (303, "./")
        status, page = await get(client)
        assert (status, "Se déconnecter" in page) == (200, True)
        assert (await get(client, "/connexion"))[0] == 303
        assert (await get(client, "/graphiques/temps-clair.svg"))[0] == 200

        session = response.cookies[COOKIE].value
        async with client.post("/deconnexion", allow_redirects=False) as left:
            assert (left.status, left.headers["Location"]) == (303, "connexion")
        assert (await get(client))[0] == 303
        stolen = {"Cookie": f"{COOKIE}={session}"}
        assert (await get(client, "/", stolen))[0] == 303

    async def test_its_cookie_says_nothing_and_goes_nowhere_else(self, client: Client) -> None:
        response = await log_in(client, TOKEN)
        cookie = response.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert "Secure" not in cookie
        assert TOKEN not in cookie
        again = await log_in(client, TOKEN, X_Forwarded_Proto="https")
        assert "Secure" in again.headers["Set-Cookie"]
        assert again.cookies[COOKIE].value != response.cookies[COOKIE].value

    async def test_a_session_ends_by_itself(self, client: Client, clock: FakeClock) -> None:
        await log_in(client, TOKEN)
        clock.time += STAYS - 1
        assert (await get(client))[0] == 200
        clock.time += 1
        assert (await get(client))[0] == 303

    @pytest.mark.parametrize("token", ["", "t" * 31, "t" * 33, "T" * 32, "é" * 32])
    async def test_a_wrong_one_is_refused(self, client: Client, token: str) -> None:
        response = await log_in(client, token)
        assert response.status == 401
        assert COOKIE not in response.cookies
        assert "est pas le bon" in await response.text()

    async def test_who_guesses_is_kept_waiting(self, client: Client, clock: FakeClock) -> None:
        for _ in range(10):
            assert (await log_in(client, "x")).status == 401
        assert (await log_in(client, TOKEN)).status == 429
        assert "Attendez une minute" in words(await (await log_in(client, "x")).text())
        clock.time += 61
        assert (await log_in(client, TOKEN)).status == 303

    async def test_a_login_ends_the_one_before(self, client: Client) -> None:
        first = (await log_in(client, TOKEN)).cookies[COOKIE].value
        await log_in(client, TOKEN)
        assert (await get(client))[0] == 200
        client.session.cookie_jar.clear()
        assert (await get(client, "/", {"Cookie": f"{COOKIE}={first}"}))[0] == 303

    async def test_guesses_that_are_on_their_way_count_as_well(self, client: Client) -> None:
        goes_on = asyncio.Event()

        async def form() -> AsyncIterator[bytes]:
            yield b"jeton="
            await goes_on.wait()
            yield b"x"

        async def guess() -> int:
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            async with client.post("/connexion", data=form(), headers=headers) as response:
                return response.status

        guesses = [asyncio.ensure_future(guess()) for _ in range(40)]
        assert (await get(client, "/connexion"))[0] == 200  # in order: they have begun
        goes_on.set()
        assert sorted([await one for one in guesses]) == [401] * 10 + [429] * 30

    async def test_who_guesses_is_known_among_many(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(auth, "_MOST", 3)
        found = [
            await guess_from(client, f"127.0.0.{number}")
            for number in [*range(2, 9), *[9] * 10, 8, 9]
        ]
        assert found == [401] * 18 + [429]

    async def test_a_form_that_does_not_come_is_not_waited_for(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server, "_FORM_SECONDS", 0.05)

        async def form() -> AsyncIterator[bytes]:
            yield b"jeton="
            await asyncio.Event().wait()

        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        async with client.post("/connexion", data=form(), headers=headers) as response:
            assert response.status == 408

    @pytest.mark.parametrize(
        ("headers", "comes_from_us"),
        [
            ({}, True),
            *[({"Sec-Fetch-Site": site}, True) for site in ("same-origin", "none")],
            *[({"Sec-Fetch-Site": site}, False) for site in ("cross-site", "same-site", "", "x")],
            ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, True),
            ({"Sec-Fetch-Site": "cross-site", "Origin": "http://dash.test"}, False),
            *[
                ({"Origin": origin, "Host": host}, True)
                for origin, host in (
                    ("http://dash.test", "dash.test"),
                    ("http://dash.test", "dash.test:80"),
                    ("https://dash.test", "dash.test"),  # TLS ends at a proxy
                    ("https://dash.test", "DASH.test:443"),
                    ("http://dash.test:8080", "dash.test:8080"),
                    ("http://[::1]:8080", "[::1]:8080"),
                )
            ],
            *[
                ({"Origin": origin, "Host": host}, False)
                for origin, host in (
                    *[(odd, "dash.test") for odd in ("null", "", "dash.test", "file://", "x://[")],
                    ("http://evil.test", "dash.test"),
                    ("http://dash.test.evil.test", "dash.test"),
                    ("http://dash.test:8080", "dash.test"),
                    ("http://dash.test", "dash.test:8080"),
                    ("https://dash.test:80", "dash.test"),
                    ("ftp://dash.test", "dash.test"),
                    ("http://dash.test@evil.test", "dash.test"),
                    ("http://", ""),
                )
            ],
        ],
    )
    async def test_only_a_page_of_ours_changes_anything(
        self, client: Client, headers: dict[str, str], *, comes_from_us: bool
    ) -> None:
        await log_in(client, TOKEN)
        for path, status in (("/connexion", 303), ("/deconnexion", 303), ("/x", 404)):
            async with client.post(
                path, data={"jeton": TOKEN}, headers=headers, allow_redirects=False
            ) as response:
                assert response.status == (status if comes_from_us else 403)

    async def test_another_site_can_neither_log_in_nor_out(self, client: Client) -> None:
        assert (await log_in(client, TOKEN, Sec_Fetch_Site="cross-site")).status == 403
        await log_in(client, TOKEN, Sec_Fetch_Site="same-origin")
        headers = {"Sec-Fetch-Site": "cross-site"}
        async with client.post("/deconnexion", headers=headers) as response:
            assert response.status == 403
        assert (await get(client))[0] == 200

    async def test_what_is_no_form_is_refused(self, client: Client) -> None:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        for given in (b"\xff\xfe", b"jeton", b"", b"jeton=%zz", b"jeton=%ff&jeton=2"):
            async with client.post("/connexion", data=given, headers=form) as response:
                assert response.status == (400 if b"\xff" in given else 401)
        async with client.post("/connexion", data={"jeton": "x" * 10_000}) as response:
            assert response.status == 413
        wrong = {"Content-Type": "multipart/form-data; boundary=x"}
        async with client.post("/connexion", data=b"--y", headers=wrong) as response:
            assert response.status == 415


class TestProxy:
    @pytest.mark.parametrize(
        ("proxies", "status"),
        [
            (["127.0.0.1"], 200),
            (["10.0.0.0/8", "127.0.0.0/8"], 200),
            (["10.0.0.1"], 403),
            (["::1", "::/0"], 403),
        ],
    )
    async def test_its_word_counts_from_its_own_address_alone(
        self, statistics: FakeStatistics, clock: FakeClock, proxies: list[str], status: int
    ) -> None:
        async with running(
            statistics, clock, proxy_header="Remote-User", proxies=proxies
        ) as client:
            assert (await get(client, "/", {"Remote-User": "camille"}))[0] == status
            assert (await get(client, "/", {"Remote-User": " "}))[0] == 403
            spoofed = {"X-Forwarded-For": "10.0.0.1", "X-Real-IP": "10.0.0.1"}
            assert (await get(client, "/", spoofed))[0] == 403
            assert (await get(client))[0] == 403
            assert (await get(client, "/connexion"))[0] == 404
            assert (await log_in(client, TOKEN)).status == 404

    async def test_a_token_may_stand_beside_it(
        self, statistics: FakeStatistics, clock: FakeClock
    ) -> None:
        async with running(
            statistics, clock, token=TOKEN, proxy_header="Remote-User", proxies=["127.0.0.1"]
        ) as client:
            assert (await get(client, "/", {"Remote-User": "camille"}))[0] == 200
            assert (await get(client))[0] == 303
            assert (await log_in(client, TOKEN)).status == 303
            assert (await get(client))[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *[(name, 200) for name in ("127.0.0.1:8080", "localhost", "[::1]:8080", "[::1]")],
        *[(name, 403) for name in ("dash.test", "127.0.0.1.dash.test", "192.0.2.1:80", "[::]")],
    ],
)
async def test_without_a_login_only_a_local_name_is_answered(
    client: Client, host: str, status: int
) -> None:
    assert (await get(client, "/", {"Host": host}))[0] == status


def test_each_setting_is_on_the_page_for_operators() -> None:
    page = (ROOT / "docs" / "dashboard.md").read_text("utf-8")
    for name in DashboardSettings.model_fields:
        assert f"`dashboard.{name}`" in page


async def test_it_answers_while_the_block_runs_and_not_without_a_port(
    statistics: FakeStatistics, clock: FakeClock
) -> None:
    async with serve(statistics, DashboardSettings(), clock):
        pass
    with pytest.raises(ConfigError, match=r"dashboard\.port 80 of dashboard\.host 192\.0\.2\.1"):
        async with serve(
            statistics,
            DashboardSettings.model_validate({"host": "192.0.2.1", "port": 80, "token": TOKEN}),
            clock,
        ):
            pass

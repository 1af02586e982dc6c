"""Figures of days and weeks: whatever happens to ratings, they are what counting gives."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy import text as sql
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from bot.core.campaigns import DueMessage, Recipient, RecipientRoom
from bot.core.events import Batch, EventId, RoomId, UserId
from bot.core.feedback import Ask, Rating, ReplyMetadata
from bot.core.statistics import (
    FIGURES,
    OTHERS,
    PUBLIC_FIGURES,
    PUBLIC_PARTS,
    CampaignFigures,
    FeedbackComment,
    FigureFilter,
    Figures,
    Group,
    Published,
    rated,
)
from bot.errors import StoreError
from bot.monitoring.health import Health
from bot.runtime.failpoints import Failpoints
from bot.storage import database as storage_database
from bot.storage.campaigns import SqlCampaigns
from bot.storage.feedback import SqlFeedback
from bot.storage.ledger import SqlStore
from bot.storage.second_connection import open_beside
from bot.storage.statistics import SqlStatistics
from bot.storage.tables import TALLIES, published
from tests.fakes.clock import FakeClock
from tests.fakes.statistics import FakeStatistics
from tests.harness.ledgers import KEY, open_store
from tests.harness.sample import migration
from tests.make import AGENT, COLLEAGUE, MIDNIGHT, ROOM, message, prompt, reaction, vote

pytestmark = pytest.mark.asyncio(loop_scope="session")

DAY = 86_400.0
WEEK = 7 * DAY
FIRST, SECOND = date(2023, 11, 14), date(2023, 11, 15)
MONDAY = date(2023, 11, 13)  # of their week
BEFORE = MONDAY - timedelta(weeks=1)
ELSEWHERE = UserId("@other:agriculture.test")
HOW = ReplyMetadata(sender=AGENT, direct=True, model="small", prompt_version="1234", seconds=3.5)
GROUP = Group("small", "tchap.test", "direct", "", "1234")
ALL = FigureFilter()
Rows = dict[tuple[str, str], Figures]  # by part and name


@dataclass
class StatisticsStores:
    """A ledger that is written to, and read beside that."""

    place: Path | str
    store: SqlStore
    opinions: SqlFeedback
    statistics: SqlStatistics

    async def answer(
        self,
        name: str = "$prompt",
        how: ReplyMetadata = HOW,
        *,
        at: float = MIDNIGHT,
        wait: float | None = None,
    ) -> None:
        asked = prompt(message(event_id=name))
        await self.store.admit(Batch(events=asked.messages, next_batch=name), at)
        await self.opinions.answered(asked, how, lambda _: wait, at)

    async def ask(self, name: str) -> None:
        """Send the poll that is due about a prompt, if there is one."""
        asks, _ = await self.opinions.due(MIDNIGHT + 100 * DAY)
        for ask in asks:
            if ask.prompt == name:
                await self.send(ask)

    async def send(self, ask: Ask) -> None:
        poll = EventId(f"$poll-{ask.question}-{ask.prompt}")
        await self.opinions.poll_sent(ask, poll, MIDNIGHT, MIDNIGHT + 100 * DAY)

    async def count(self, name: str, *answers: str, at: int = 1, event_id: str = "$v") -> None:
        question = "helped" if answers and answers[0] in {"yes", "partly", "no"} else "why"
        target = f"$poll-{question}-{name}"
        cast = vote(*answers, target=target, event_id=event_id, timestamp=at)
        await self.opinions.count(cast, MIDNIGHT)

    async def rate(
        self, name: str, answer: Rating, *, sender: UserId = AGENT, event_id: str = "$r"
    ) -> None:
        said = reaction("👍", event_id=event_id, sender=sender, timestamp=len(event_id))
        await self.opinions.rate(said, EventId(name), answer, MIDNIGHT)

    async def rated(
        self,
        count: int,
        name: str,
        answer: Rating = "yes",
        how: ReplyMetadata = HOW,
        at: float = MIDNIGHT,
    ) -> None:
        """Make so many replies that are rated."""
        for number in range(count):
            await self.answer(f"{name}-{number}", how, at=at)
            await self.rate(f"{name}-{number}", answer, event_id=f"{name}-{number}-r")

    async def tally(self, weeks: Mapping[tuple[date, Group], Figures]) -> None:
        """Let these be the figures of weeks, whatever there was."""
        table = TALLIES["week"]
        rows = [
            {"first": monday, **group._asdict(), **{name: figures[name] for name in FIGURES}}
            for (monday, group), figures in weeks.items()
        ]

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(table.delete())
            if rows:
                await connection.execute(table.insert(), rows)

        await self.store.database.run("tally", work)

    async def kept(self) -> list[tuple[object, ...]]:
        """Return the rows of both tables that are not all noughts."""
        counted = " + ".join(f"abs({name})" for name in FIGURES)

        async def work(connection: AsyncConnection) -> list[tuple[object, ...]]:
            rows: list[tuple[object, ...]] = []
            for table in TALLIES.values():
                query = f"SELECT * FROM {table.name} WHERE {counted} > 0"  # noqa: S608  # ours
                found = await connection.execute(sql(query))
                rows += sorted((table.name, str(row[0]), *row[1:]) for row in found)
            return rows

        return await self.store.database.run("kept", work)

    async def published_rows(self) -> dict[date, Rows]:
        """Return the rows that are kept of published weeks, by Monday."""

        async def work(connection: AsyncConnection) -> dict[date, Rows]:
            weeks: dict[date, Rows] = {}
            for row in (await connection.execute(select(published))).mappings():
                figures = Counter({name: row[name] for name in PUBLIC_FIGURES})
                weeks.setdefault(row["first"], {})[row["part"], row["name"]] = figures
            return weeks

        return await self.store.database.run("rows", work)

    async def publish_anew(self) -> None:
        """Forget what is published."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(published.delete())

        await self.store.database.run("forget", work)

    async def count_anew(self) -> None:
        """Let the migration count all replies and ratings."""

        async def work(connection: AsyncConnection) -> None:
            for table in TALLIES.values():
                await connection.execute(table.delete())
            for statement in migration().fill(connection.dialect.name):
                await connection.execute(sql(statement))

        await self.store.database.run("anew", work)


@pytest_asyncio.fixture(loop_scope="session", params=["sqlite", "postgresql"])
async def ledger(
    request: pytest.FixtureRequest, migrated_ledger: Callable[[str], Awaitable[Path | str]]
) -> AsyncIterator[StatisticsStores]:
    place = await migrated_ledger(request.param)
    store = await open_store(place)
    statistics = await SqlStatistics.open(place, KEY, Health(clock=FakeClock()), store.database)
    yield StatisticsStores(place, store, SqlFeedback(store.database, KEY), statistics)
    await statistics.close()
    await store.close()


Step = tuple[str, str, *tuple[object, ...]]

NAMES = st.sampled_from(["$1", "$2", "$3"])
ANSWERS = st.sampled_from(["yes", "partly", "no"])
HOWS = st.builds(
    ReplyMetadata,
    sender=st.sampled_from([AGENT, ELSEWHERE]),
    direct=st.booleans(),
    model=st.sampled_from(["small", "large", None]),
    prompt_version=st.sampled_from(["", "1234"]),
    first_words=st.sampled_from([None, 0.0, 0.5, 0.7, 400.0]),
    seconds=st.sampled_from([None, 3.0, 3.5, 1e5]),
)
EVENTS = st.sampled_from(["$a", "$bb", "$ccc"])
STEPS = st.one_of(
    st.tuples(st.just("answer"), NAMES, HOWS, st.sampled_from([0.0, DAY])),
    st.tuples(st.just("ask"), NAMES),
    st.tuples(st.just("count"), NAMES, st.none() | ANSWERS | st.just("sources"), EVENTS),
    st.tuples(st.just("rate"), NAMES, ANSWERS, EVENTS, st.sampled_from([AGENT, COLLEAGUE])),
    st.tuples(st.just("withdraw"), NAMES, EVENTS),
)


async def take(ledger: StatisticsStores, step: Step) -> None:
    what, name, *details = step
    match what, *details:
        case "answer", ReplyMetadata() as how, float(later):
            await ledger.answer(name, how, at=MIDNIGHT + later, wait=0.0)
        case "ask", *_:
            await ledger.ask(name)
        case "count", answer, str(event):
            answers = () if answer is None else (str(answer),)
            await ledger.count(name, *answers, at=len(event), event_id=f"{event}-v-{name}")
        case "rate", answer, str(event), sender:
            rating: Rating = "yes" if answer == "yes" else "partly" if answer == "partly" else "no"
            who = UserId(str(sender))
            await ledger.rate(name, rating, sender=who, event_id=f"{event}-r-{name}")
        case _, event:
            for kind in ("r", "v"):
                await ledger.opinions.withdraw(EventId(f"{event}-{kind}-{name}"))
        case _:
            raise AssertionError(step)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=1, max_size=12))
async def test_the_figures_are_what_counting_gives_whatever_has_happened(
    ledger: StatisticsStores, steps: list[Step]
) -> None:
    for step in steps:
        await take(ledger, step)

    kept = await ledger.kept()
    await ledger.count_anew()
    assert await ledger.kept() == kept


async def test_what_an_older_ledger_holds_is_counted_once_it_is_brought_up_to_date(
    ledger: StatisticsStores,
) -> None:
    await ledger.answer(wait=0.0)
    await ledger.ask("$prompt")
    await ledger.count("$prompt", "partly")
    counted = await ledger.kept()

    await ledger.count_anew()

    assert await ledger.kept() == counted
    assert [row[:2] for row in counted] == [("daily", "2023-11-14"), ("weekly", "2023-11-13")]


async def test_a_reply_counts_once_however_often_it_is_made(ledger: StatisticsStores) -> None:
    await ledger.answer()
    await ledger.answer(how=replace(HOW, model="large", seconds=0.4, first_words=400.0))

    assert await ledger.statistics.by_group("day", FIRST, FIRST) == {
        GROUP._replace(model="large"): {"replies": 1, "seconds_0": 1, "first_words_18": 1}
    }


async def test_a_rating_counts_with_its_reply_and_moves_where_it_changes(
    ledger: StatisticsStores,
) -> None:
    await ledger.answer(wait=0.0)
    await ledger.ask("$prompt")
    await ledger.count("$prompt", "no")
    await ledger.ask("$prompt")
    await ledger.count("$prompt", "sources", event_id="$why")
    await ledger.rate("$prompt", "no", sender=COLLEAGUE, event_id="$theirs")

    figures = {"replies": 1, "polls": 1, "seconds_6": 0, "seconds_5": 1}
    figures |= {"no": 1, "votes": 1, "why_sources": 1, "others_no": 1}
    assert await ledger.statistics.by_step("day", FIRST, FIRST, ALL) == {
        FIRST: {name: number for name, number in figures.items() if number}
    }
    await ledger.rate("$prompt", "yes", event_id="$later")
    await ledger.opinions.withdraw(EventId("$theirs"))
    [changed] = (await ledger.statistics.by_step("day", FIRST, FIRST, ALL)).values()
    assert changed == {"replies": 1, "polls": 1, "seconds_5": 1, "yes": 1}
    await ledger.opinions.withdraw(EventId("$later"))
    await ledger.opinions.withdraw(EventId("$v"))
    [left] = (await ledger.statistics.by_step("day", FIRST, FIRST, ALL)).values()
    assert left == {"replies": 1, "polls": 1, "seconds_5": 1}


async def test_figures_are_of_the_days_and_the_groups_that_are_asked_for(
    ledger: StatisticsStores,
) -> None:
    await ledger.answer("$1")
    await ledger.answer("$2", replace(HOW, model="large"))
    await ledger.answer("$3", replace(HOW, sender=ELSEWHERE, direct=False), at=MIDNIGHT + DAY)

    async def replies(first: date, last: date, only: FigureFilter) -> dict[date, int]:
        days = await ledger.statistics.by_step("day", first, last, only)
        return {day: figures["replies"] for day, figures in days.items()}

    assert await replies(FIRST, SECOND, ALL) == {FIRST: 2, SECOND: 1}
    assert await replies(SECOND, SECOND, ALL) == {SECOND: 1}
    assert await replies(FIRST, SECOND, FigureFilter(model="large")) == {FIRST: 1}
    assert await replies(FIRST, SECOND, FigureFilter(domain="agriculture.test")) == {SECOND: 1}
    assert await replies(FIRST, SECOND, FigureFilter("large", "agriculture.test")) == {}
    weeks = await ledger.statistics.by_step("week", FIRST - timedelta(days=1), SECOND, ALL)
    assert weeks == {FIRST - timedelta(days=1): {"replies": 3, "seconds_5": 3}}
    assert await ledger.statistics.by_step("week", FIRST, SECOND, ALL) == {}
    groups = await ledger.statistics.by_group("day", FIRST, SECOND)
    assert {group.place for group in groups} == {"direct", "salon"}
    assert await ledger.statistics.by_group("day", date(2020, 1, 1), date(2020, 1, 2)) == {}


async def test_a_published_week_is_told_as_it_was_then_whatever_has_changed_since(
    ledger: StatisticsStores,
) -> None:
    await ledger.answer("$1", wait=0.0)
    await ledger.ask("$1")
    await ledger.count("$1", "no")
    await ledger.rated(9, "$small", "no")
    await ledger.rated(10, "$2", how=replace(HOW, model="large", direct=False, first_words=0.3))
    await ledger.rate("$2-0", "no", sender=COLLEAGUE, event_id="$theirs")
    small = {"replies": 10, "polls": 1, "votes": 1, "no": 10, "seconds_5": 10}
    large = {"replies": 10, "yes": 10, "seconds_5": 10}
    both = {"replies": 20, "polls": 1, "votes": 1, "yes": 10, "no": 10, "seconds_5": 20}
    expected = Published(
        {MONDAY: Counter(both)},
        {
            "model": {"small": Counter(small), "large": Counter(large)},
            "domain": {"tchap.test": Counter(both)},
            "place": {"direct": Counter(small), "salon": Counter(large)},
        },
    )
    assert await ledger.statistics.published(BEFORE, MONDAY) == expected

    await ledger.count("$1", "yes", at=9, event_id="$late-vote")
    await ledger.opinions.withdraw(EventId("$2-0-r"))
    await ledger.answer("$1", replace(HOW, model="other"), at=MIDNIGHT + WEEK)
    await ledger.rated(10, "$late", how=replace(HOW, model="late"), at=MIDNIGHT + DAY)
    await ledger.rated(10, "$earlier", at=MIDNIGHT - WEEK)

    assert await ledger.statistics.published(BEFORE, MONDAY) == expected
    live = await ledger.statistics.by_step("week", BEFORE, MONDAY, ALL)
    assert live[MONDAY] != both
    assert BEFORE in live  # which had no figures when it was published


async def test_a_week_stays_as_it_was_while_others_come_and_go(ledger: StatisticsStores) -> None:
    for ago in range(3):
        await ledger.rated(10, f"${ago}", at=MIDNIGHT - ago * WEEK)
    after, before = MONDAY + timedelta(weeks=1), BEFORE - timedelta(weeks=1)
    await ledger.statistics.published(before, MONDAY)
    for ago in range(-1, 3):
        await ledger.rated(10, f"$late-{ago}", at=MIDNIGHT - ago * WEEK)

    moved = await ledger.statistics.published(BEFORE, after)

    assert {day: figures["replies"] for day, figures in moved.weeks.items()} == dict.fromkeys(
        (BEFORE, MONDAY, after), 10
    )
    assert moved.groups["place"] == {"direct": {"replies": 30, "yes": 30, "seconds_5": 30}}
    rows = await ledger.published_rows()
    assert rows.keys() == {BEFORE, MONDAY, after}
    parts = {("", ""), ("domain", "tchap.test"), ("model", "small"), ("place", "direct")}
    assert rows[after].keys() == parts


async def test_a_week_without_figures_is_published_as_such(ledger: StatisticsStores) -> None:
    nothing = Published({}, {"model": {}, "domain": {}, "place": {}})
    assert await ledger.statistics.published(MONDAY, MONDAY) == nothing

    await ledger.rated(10, "$late")

    assert await ledger.statistics.published(MONDAY, MONDAY) == nothing
    assert await ledger.published_rows() == {MONDAY: {("", ""): Counter()}}


async def test_weeks_of_few_ratings_wait_until_they_have_enough_together(
    ledger: StatisticsStores,
) -> None:
    after = MONDAY + timedelta(weeks=1)
    weeks = {(BEFORE, GROUP): Counter(replies=50, yes=9), (MONDAY, GROUP): Counter(replies=7)}
    await ledger.tally(weeks)
    assert (await ledger.statistics.published(BEFORE, MONDAY)).weeks == {}
    weeks[BEFORE, GROUP] += Counter(no=2)  # late
    weeks[after, GROUP] = Counter(replies=1, partly=1)
    await ledger.tally(weeks)

    told = await ledger.statistics.published(BEFORE, after)

    chunk = {"replies": 58, "yes": 9, "no": 2, "partly": 1}
    assert told.weeks == {after: chunk}
    assert told.groups["model"] == {"small": chunk}
    assert (await ledger.statistics.published(MONDAY, after)).weeks == {after: chunk}


async def test_what_waits_is_forgotten_with_its_week(ledger: StatisticsStores) -> None:
    await ledger.tally({(BEFORE, GROUP): Counter(yes=9), (MONDAY, GROUP): Counter(yes=9)})
    await ledger.statistics.published(BEFORE, BEFORE)

    assert (await ledger.statistics.published(MONDAY, MONDAY)).weeks == {}


async def test_a_group_is_hidden_in_the_week_in_which_it_is_small(
    ledger: StatisticsStores,
) -> None:
    rare = GROUP._replace(domain="agriculture.test")
    weeks = {
        (BEFORE, GROUP): Counter(yes=30),
        (BEFORE, rare): Counter(yes=20),
        (MONDAY, GROUP): Counter(yes=40),
        (MONDAY, rare): Counter(no=1),
    }
    await ledger.tally(weeks)

    early = await ledger.statistics.published(BEFORE, BEFORE)
    later = await ledger.statistics.published(BEFORE, MONDAY)

    shown = {"tchap.test": {"yes": 30}, "agriculture.test": {"yes": 20}}
    assert early.groups["domain"] == shown
    assert later.groups["domain"] == {**shown, OTHERS: {"yes": 40, "no": 1}}
    assert later.groups["model"] == {"small": {"yes": 90, "no": 1}}


GROUPS = st.builds(
    Group,
    model=st.sampled_from(["", "small", "large"]),
    domain=st.sampled_from(["a.test", "b.test", "c.test"]),
    place=st.sampled_from(["direct", "salon"]),
    tools=st.sampled_from(["", "web"]),
    prompt_version=st.just("1234"),
)
RATED = st.tuples(st.integers(0, 3), GROUPS, st.integers(0, 12))  # weeks ago, of whom, how many


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(weeks=st.lists(st.lists(RATED, max_size=6), min_size=1, max_size=8))
async def test_kept_pages_differ_by_sums_of_ten_ratings_or_more(
    ledger: StatisticsStores, weeks: list[list[tuple[int, Group, int]]]
) -> None:
    await ledger.publish_anew()
    fake, page, chunks = FakeStatistics(), Published({}, {}), dict[date, Rows]()
    for number, ratings in enumerate(weeks):
        monday = MONDAY + timedelta(weeks=number)
        for ago, group, count in ratings:
            fake.add(monday - timedelta(weeks=ago), group, replies=1, yes=count)
        await ledger.tally(fake.figures)
        first = monday - timedelta(weeks=2)

        before, page = page, await ledger.statistics.published(first, monday)
        was, chunks = chunks, await ledger.published_rows()

        assert page == await fake.published(first, monday)
        come = [rows for day, rows in chunks.items() if day not in was]
        gone = [rows for day, rows in was.items() if day not in chunks]
        assert all(was[day] == chunks[day] for day in was.keys() & chunks.keys())
        assert moved(sums(before), sums(page)) == moved(added(gone), added(come))
        for rows in come:
            assert all(rated(figures) >= 10 for figures in rows.values()) or not any(
                figures.total() for figures in rows.values()
            )
            for part in PUBLIC_PARTS:
                its = (figures for (of, _), figures in rows.items() if of == part)
                assert sum(its, Counter()) == rows["", ""]


def sums(page: Published) -> Rows:
    """Return all that a page shows, by part and name."""
    rows: Rows = {("", ""): sum(page.weeks.values(), Counter())}
    for part, groups in page.groups.items():
        rows |= {(part, name): figures for name, figures in groups.items()}
    return rows


def added(chunks: list[Rows]) -> Rows:
    every: Rows = {}
    for rows in chunks:
        for key, figures in rows.items():
            every.setdefault(key, Counter()).update(figures)
    return every


def moved(before: Rows, after: Rows) -> Rows:
    """Return by what figures differ."""
    differences: Rows = {}
    for key in before.keys() | after.keys():
        differences[key] = Counter(after.get(key, {}))
        differences[key].subtract(before.get(key, {}))
    return {key: figures for key, figures in differences.items() if any(figures.values())}


async def test_what_is_not_known_has_an_empty_name(ledger: StatisticsStores) -> None:
    await ledger.rated(10, "$1", how=replace(HOW, model=None))

    told = await ledger.statistics.published(MONDAY, MONDAY)

    assert told.groups["model"] == {"": {"replies": 10, "yes": 10, "seconds_5": 10}}
    assert ("model", "") in (await ledger.published_rows())[MONDAY]


async def test_who_asks_at_the_same_moment_is_told_the_same(ledger: StatisticsStores) -> None:
    databases = [
        await open_beside(ledger.place, Health(clock=FakeClock()), writes=True) for _ in range(3)
    ]
    others = [SqlStatistics(database, KEY) for database in databases]
    told: list[Published] = []
    await ledger.rated(4, "$waits", at=MIDNIGHT - WEEK)
    await ledger.rated(10, "$enough")

    async def ask(statistics: SqlStatistics) -> None:
        told.append(await statistics.published(BEFORE, MONDAY))

    await asyncio.gather(
        *(ask(one) for one in (ledger.statistics, ledger.statistics, *others)),
        *(ledger.rated(1, f"${number}") for number in range(3)),
    )
    # One more has seen that it is missing, and comes late.
    await ledger.rated(10, "$later", how=replace(HOW, model="later"))
    await others[0]._publish([BEFORE, MONDAY], BEFORE)
    await ask(others[0])

    assert told == [told[0]] * 6
    assert 14 <= rated(told[0].weeks[MONDAY]) <= 17
    for database in databases:
        await database.close()


async def test_a_try_that_stands_although_it_failed_is_not_done_twice(
    ledger: StatisticsStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.rated(10, "$1")
    monkeypatch.setattr(storage_database, "backoff", lambda _: 0.01)
    monkeypatch.setattr(storage_database, "armed", Failpoints("publish.after:enospc"))

    told = await ledger.statistics.published(MONDAY, MONDAY)

    assert told.weeks == {MONDAY: {"replies": 10, "yes": 10, "seconds_5": 10}}


async def test_the_latest_comments_are_opened_with_the_rating_beside(
    ledger: StatisticsStores,
) -> None:
    await ledger.answer("$1")
    await ledger.rate("$1", "no")
    first = message("Trop long.", event_id="$c1")
    await ledger.opinions.comment(first, EventId("$1"), MIDNIGHT + 10)
    second = message("Très bien", event_id="$c2", sender=COLLEAGUE)
    await ledger.opinions.comment(second, EventId("$1"), MIDNIGHT + 20)
    await ledger.opinions.comment(message("Rien", event_id="$c3"), None, MIDNIGHT + 30)

    late, middle, early = (
        FeedbackComment(MIDNIGHT + 30, "Rien", None),
        FeedbackComment(MIDNIGHT + 20, "Très bien", None),
        FeedbackComment(MIDNIGHT + 10, "Trop long.", "no"),
    )
    assert await ledger.statistics.remarks(ALL, 9) == [late, middle, early]
    assert await ledger.statistics.remarks(ALL, 1) == [late]
    assert await ledger.statistics.remarks(FigureFilter(model="small"), 9) == [middle, early]
    assert await ledger.statistics.remarks(FigureFilter(domain="x.test"), 9) == []


async def test_a_comment_under_another_key_is_left_out(ledger: StatisticsStores) -> None:
    await ledger.opinions.comment(message("Secret"), None, MIDNIGHT)
    other = SqlStatistics(ledger.statistics._database, "another " + KEY)

    assert await other.remarks(ALL, 9) == []


async def test_who_reads_neither_writes_nor_holds_up_who_does(
    ledger: StatisticsStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_database, "backoff", lambda _: 0.01)
    if not ledger.store.database.is_sqlite:
        return  # its readers never hold up a writer

    async def reads(connection: AsyncConnection) -> None:
        await connection.execute(sql("SELECT count(*) FROM daily"))
        await ledger.answer()  # in the middle of it

    async def writes(connection: AsyncConnection) -> None:
        await connection.execute(sql("DELETE FROM daily"))

    await ledger.statistics._database.run("reads", reads)
    assert len(await ledger.kept()) == 2
    with pytest.raises(OperationalError, match="readonly"):
        await ledger.statistics._database._once("x", writes, durable=True)


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE alembic_version SET version_num = '0006'", "older version: start the assistant"),
        ("UPDATE alembic_version SET version_num = '0999'", "newer version: run that version"),
        ("DELETE FROM alembic_version", "no ledger in this database: the assistant has not run"),
        ("DROP TABLE alembic_version", "no ledger in this database: the assistant has not run"),
    ],
)
async def test_a_ledger_of_another_version_is_not_read(
    ledger: StatisticsStores, statement: str, told: str
) -> None:
    async def change(connection: AsyncConnection) -> None:
        await connection.execute(sql(statement))

    await ledger.store.database.run("change", change)
    with pytest.raises(StoreError, match=told):
        await open_beside(ledger.place, Health(clock=FakeClock()))


async def test_a_ledger_that_is_not_there_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="has not run yet"):
        await open_beside(tmp_path / "none.db", Health(clock=FakeClock()))


async def test_campaigns_that_were_launched_come_with_how_far_they_are(
    ledger: StatisticsStores,
) -> None:
    campaigns = SqlCampaigns(ledger.store.database, KEY)
    for name in ("old", "new", "draft"):
        await campaigns.draft(name, f"name: {name}", MIDNIGHT)
    there = [Recipient(ROOM, AGENT), Recipient(RoomId("!other:x"), COLLEAGUE)]
    await campaigns.launch("old", there, MIDNIGHT, None)
    await campaigns.launch("new", there[:1], MIDNIGHT, None)
    here = DueMessage(
        campaign="old", recipient=RecipientRoom(ROOM), kind="step", step=0, due_at=MIDNIGHT
    )
    poll = EventId("$poll")
    await campaigns.sent(here, poll, MIDNIGHT, question=("1", True), next_due=None, remind_at=None)
    asked = await campaigns.question_at(ROOM, poll)
    assert asked is not None
    cast = vote("1", target=poll, timestamp=1)
    await campaigns.answer(cast, asked, "1", step=0, steps=1, at=MIDNIGHT)

    old, new = (
        CampaignFigures(name="old", state="running", rooms=2, reached=1, answered=1),
        CampaignFigures(name="new", state="running", rooms=1, reached=0, answered=0),
    )
    assert await ledger.statistics.campaigns(9) == [new, old]
    assert await ledger.statistics.campaigns(1) == [new]

"""What is reported of a period: to the product team, to everybody, and in words."""

from datetime import date, timedelta

import pytest

from bot.core.statistics import OTHERS, FigureFilter, Group, rated
from bot.i18n.texts import speak
from bot.reporting.reports import (
    CHARTS,
    PERIODS,
    in_words,
    public_report,
    report,
    satisfaction_shown,
)
from tests.fakes.statistics import FakeStatistics

SUNDAY = date(2026, 11, 15)
DIRECT = Group("small", "a.test", "direct", "", "v1")
SALON = Group("large", "b.test", "salon", "web", "v1")
FR, EN = speak("fr"), speak("en")
DAY, WEEK = timedelta(days=1), timedelta(weeks=1)


def plain(words: str) -> str:
    """Return words with ordinary spaces alone."""
    return words.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")


@pytest.fixture
def statistics() -> FakeStatistics:
    return FakeStatistics()


async def test_each_day_of_a_month_is_there_with_or_without_figures(
    statistics: FakeStatistics,
) -> None:
    statistics.add(SUNDAY, DIRECT, replies=4, yes=3, no=1)
    statistics.add(SUNDAY - 29 * DAY, SALON, replies=2)
    statistics.add(SUNDAY - 30 * DAY, DIRECT, replies=1)

    about = await report(statistics, SUNDAY, 30, FigureFilter())

    assert (about.first, about.last, about.step) == (date(2026, 10, 17), SUNDAY, "day")
    assert list(about.series) == [about.first + n * DAY for n in range(30)]
    assert about.whole == {"replies": 6, "yes": 3, "no": 1}
    assert (about.models, about.domains) == (("large", "small"), ("a.test", "b.test"))


@pytest.mark.parametrize("days", PERIODS)
@pytest.mark.parametrize("today", [SUNDAY, SUNDAY + DAY, SUNDAY + 4 * DAY])
async def test_a_period_ends_today_and_its_parts_are_its_whole(
    statistics: FakeStatistics, days: int, today: date
) -> None:
    for ago in range(800):
        statistics.add(today - ago * DAY, DIRECT, replies=1)

    about = await report(statistics, today, days, FigureFilter())

    assert sum(figures["replies"] for figures in about.series.values()) == about.whole["replies"]
    assert days <= about.whole["replies"] < days + 7
    assert max(about.series) <= today
    if about.step == "week":
        assert {day.weekday() for day in about.series} == {0}


async def test_what_is_narrowed_still_names_all_there_is(statistics: FakeStatistics) -> None:
    statistics.add(SUNDAY, DIRECT, replies=4)
    statistics.add(SUNDAY, SALON, replies=2)

    about = await report(statistics, SUNDAY, 7, FigureFilter(model="large"))

    assert about.whole == {"replies": 2}
    assert about.series[SUNDAY] == {"replies": 2}
    assert about.models == ("large", "small")


async def test_everybody_sees_whole_weeks_alone(statistics: FakeStatistics) -> None:
    statistics.add(SUNDAY, DIRECT, replies=30, yes=20)  # the week ends with this day
    statistics.add(SUNDAY - 6 * DAY, DIRECT, replies=1, yes=1)
    statistics.add(SUNDAY - 12 * WEEK, DIRECT, replies=50, yes=50)
    statistics.add(SUNDAY + DAY, DIRECT, replies=70, yes=70)

    for today in (SUNDAY + n * DAY for n in range(1, 8)):
        about = await public_report(statistics, today)
        assert (about.first, about.last) == (SUNDAY - 12 * WEEK + DAY, SUNDAY)
        assert about.whole == {"replies": 31, "yes": 21}
        assert about.weeks == {SUNDAY - 6 * DAY: about.whole}


async def test_what_everybody_has_seen_of_a_week_is_not_changed(
    statistics: FakeStatistics,
) -> None:
    statistics.add(SUNDAY - WEEK, DIRECT, replies=20, yes=20)
    statistics.add(SUNDAY, DIRECT, replies=30, yes=20)
    seen = await public_report(statistics, SUNDAY + DAY)

    statistics.add(SUNDAY, DIRECT, yes=-1, no=1)  # another answer
    statistics.add(SUNDAY - WEEK, DIRECT, replies=-1, yes=-1)  # redacted
    statistics.add(SUNDAY - WEEK, SALON, replies=10, no=10)
    statistics.add(SUNDAY + WEEK, SALON, replies=40, yes=11, no=4)

    assert await public_report(statistics, SUNDAY + WEEK) == seen
    later = await public_report(statistics, SUNDAY + WEEK + DAY)
    assert later.whole == {"replies": 90, "yes": 51, "no": 4}
    assert later.weeks == {**seen.weeks, SUNDAY + DAY: {"replies": 40, "yes": 11, "no": 4}}
    assert later.groups["place"] == {"direct": seen.whole, "salon": later.weeks[SUNDAY + DAY]}


async def test_nobody_sees_a_group_of_fewer_than_ten_ratings(statistics: FakeStatistics) -> None:
    statistics.add(SUNDAY, DIRECT, replies=40, yes=31)
    statistics.add(SUNDAY - WEEK, DIRECT, replies=40, yes=30)
    statistics.add(SUNDAY - WEEK, SALON, replies=9, no=9)

    about = await public_report(statistics, SUNDAY + DAY)

    assert {day: rated(one) for day, one in about.weeks.items()} == {
        SUNDAY - 13 * DAY: 39,
        SUNDAY - 6 * DAY: 31,
    }
    names = {"model": "small", "domain": "a.test", "place": "direct"}
    for part, groups in about.groups.items():
        counts = {name: rated(figures) for name, figures in groups.items()}
        assert counts == {names[part]: 31, OTHERS: 39}  # nine would be the difference


async def test_a_week_of_fewer_than_ten_ratings_waits_for_the_next(
    statistics: FakeStatistics,
) -> None:
    statistics.add(SUNDAY - WEEK, DIRECT, replies=500, yes=9)
    early = await public_report(statistics, SUNDAY - WEEK + DAY)
    statistics.add(SUNDAY, SALON, replies=1, no=1)

    later = await public_report(statistics, SUNDAY + DAY)

    assert (early.whole, early.weeks) == ({}, {})
    assert not any(early.groups.values())
    assert later.weeks == {SUNDAY - 6 * DAY: {"replies": 501, "yes": 9, "no": 1}}
    assert later.groups["place"] == {OTHERS: later.whole}


@pytest.mark.parametrize(("weeks", "shown"), [(11, 10), (12, 0)])
async def test_a_week_waits_no_longer_than_it_would_be_shown(
    statistics: FakeStatistics, weeks: int, shown: int
) -> None:
    statistics.add(SUNDAY, DIRECT, replies=9, yes=9)
    for number in range(weeks):
        await public_report(statistics, SUNDAY + DAY + number * WEEK)
    statistics.add(SUNDAY + weeks * WEEK, DIRECT, replies=1, yes=1)

    about = await public_report(statistics, SUNDAY + DAY + weeks * WEEK)

    assert rated(about.whole) == shown


async def test_the_words_say_all_and_a_pictures_alternative_what_it_shows(
    statistics: FakeStatistics,
) -> None:
    statistics.add(SUNDAY, DIRECT, replies=1500, yes=72, partly=17, no=11, polls=130, votes=61)
    statistics.add(SUNDAY, DIRECT, seconds_6=900, seconds_9=100)

    about = await report(statistics, SUNDAY, 30, FigureFilter())

    assert plain(in_words(about, FR)) == (
        "Du 17 octobre 2026 au 15 novembre 2026 : 72 % de « Oui » sur 100 avis (intervalle de"
        " confiance à 95 % : de 63 % à 80 %), 17 « En partie », 11 « Non ». 1 500 réponses."
        " Temps de réponse médian : 4,6 s ; 9 réponses sur 10 en moins de 5 s."
        " Sondages : 61 réponses sur 130 envois (47 %)."
    )
    assert plain(satisfaction_shown(about, FR)) == (
        "Courbe de la part de « Oui » dans les avis, par jour, du 17 octobre 2026 au"
        " 15 novembre 2026. En tout, 72 % de « Oui » sur 100 avis."
    )


async def test_the_words_are_in_the_language_that_is_chosen(statistics: FakeStatistics) -> None:
    statistics.add(SUNDAY, DIRECT, replies=1500, yes=72, partly=17, no=11, polls=130, votes=61)
    statistics.add(SUNDAY, DIRECT, seconds_6=900, seconds_9=100)

    about = await report(statistics, SUNDAY, 30, FigureFilter())

    assert plain(in_words(about, EN)) == (
        "From 17 October 2026 to 15 November 2026: 72% “Yes” out of 100 ratings (95% confidence"
        " interval: from 63% to 80%), 17 “Partly”, 11 “No”. 1,500 answers."
        " Median response time: 4.6 s; 9 answers out of 10 come in less than 5 s."
        " Polls: 61 votes of 130 sent (47%)."
    )
    assert plain(satisfaction_shown(about, EN)) == (
        "Line of the share of “Yes” in the ratings, by day, from 17 October 2026 to"
        " 15 November 2026. In all, 72% “Yes” of 100 ratings."
    )
    chart = CHARTS["satisfaction"](about.series, about.step, EN)
    assert (chart.title, chart.unit, chart.labels[-1], chart.language) == (
        *("Share of “Yes” in the ratings, by day", "%"),
        *("15 Nov", "en"),
    )


async def test_one_is_one(statistics: FakeStatistics) -> None:
    statistics.add(SUNDAY, DIRECT, replies=1, yes=1, polls=1, votes=1)
    about = await report(statistics, SUNDAY, 7, FigureFilter())

    english, french = plain(in_words(about, EN)), plain(in_words(about, FR))

    assert "out of 1 rating (" in english
    assert "1 answer." in english
    assert "1 vote of 1 sent" in english
    assert "1 réponse. " in french
    assert "1 réponse sur 1 envoi (" in french


async def test_without_figures_the_words_say_so(statistics: FakeStatistics) -> None:
    about = await report(statistics, SUNDAY, 30, FigureFilter())
    assert in_words(about, FR).endswith("aucun avis. 0 réponse.")
    assert satisfaction_shown(about, FR).endswith("Aucun avis.")


async def test_a_time_beyond_all_classes_is_told_as_more(statistics: FakeStatistics) -> None:
    statistics.add(SUNDAY, DIRECT, replies=1, seconds_18=1)
    about = await report(statistics, SUNDAY, 7, FigureFilter())
    assert "plus d’une réponse sur 10 prend plus de" in in_words(about, FR)
    assert "more than one answer in 10 takes more than" in in_words(about, EN)
    assert CHARTS["temps"](about.series, about.step, FR).series[0].values[-1] == 300


async def test_charts_show_the_report(statistics: FakeStatistics) -> None:
    statistics.add(SUNDAY, DIRECT, replies=4, yes=3, no=1, seconds_0=4)
    about = await report(statistics, SUNDAY, 7, FigureFilter())

    satisfaction, replies, times = (draw(about.series, about.step, FR) for draw in CHARTS.values())

    assert satisfaction.labels[-1] == "15 nov."
    assert satisfaction.series[0].values == (*[None] * 6, 75.0)
    assert satisfaction.series[0].intervals[-1] == pytest.approx((30.06, 95.44), abs=0.01)
    assert replies.series[0].values == (*[0.0] * 6, 4.0)
    assert [one.values[-1] for one in times.series] == [0.2, 0.5]

"""Reports of a period's replies and ratings, for the product team and for the public."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from bot.core.statistics import (
    BOUNDS,
    FigureFilter,
    Figures,
    Group,
    Part,
    Step,
    answered,
    first_of,
    quantile,
    satisfaction,
    total,
)
from bot.i18n.texts import Texts
from bot.ports.statistics import Statistics
from bot.reporting.charts import Chart, Series
from bot.reporting.formats import formats

PERIODS: Final = (7, 30, 90, 365)  # days
PUBLIC_WEEKS: Final = 12

_LONGEST_BY_DAY: Final = 31  # days; a longer period is shown by weeks


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The report of a period for the product team.

    Attributes:
        first: first day of the period, in UTC; the first Monday if it is by weeks.
        last: last day of the period.
        step: day or week, as the series is divided.
        series: figures of each day or week, including those without any.
        groups: figures of each group that the filter lets through.
        models: all models with figures in the period, whatever the filter.
        domains: all domains with figures in the period, whatever the filter.
    """

    first: date
    last: date
    step: Step
    series: Mapping[date, Figures]
    groups: Mapping[Group, Figures]
    models: tuple[str, ...]
    domains: tuple[str, ...]

    @property
    def whole(self) -> Figures:
        """The sum of all figures."""
        return total(self.groups)


@dataclass(frozen=True, slots=True)
class PublicReport:
    """The public report of the last complete weeks; each figure is of at least ten ratings.

    Attributes:
        first: the first Monday.
        last: the last Sunday.
        weeks: figures of each week with enough ratings, including the weeks that waited for it.
        groups: figures by "model", "domain" and "place", and in each by name, or OTHERS.
    """

    first: date
    last: date
    weeks: Mapping[date, Figures]
    groups: Mapping[Part, Mapping[str, Figures]]

    @property
    def whole(self) -> Figures:
        """The sum of all figures."""
        return total(self.weeks)


async def report(statistics: Statistics, today: date, days: int, only: FigureFilter) -> Report:
    """Return the report of the last `days` days, including today.

    A period longer than a month is shown by weeks, and extended to begin on a Monday.
    """
    first = today - timedelta(days=days - 1)
    step: Step = "day" if days <= _LONGEST_BY_DAY else "week"
    first = first_of(step, first)
    found = await statistics.by_step(step, first, today, only)
    groups = await statistics.by_group(step, first, today)
    width = timedelta(days=1 if step == "day" else 7)
    count = math.ceil(((today - first).days + 1) / width.days)
    return Report(
        first=first,
        last=today,
        step=step,
        series={
            day: found.get(day, Counter()) for day in (first + width * n for n in range(count))
        },
        groups={group: figures for group, figures in groups.items() if group in only},
        models=tuple(sorted({group.model for group in groups})),
        domains=tuple(sorted({group.domain for group in groups})),
    )


async def public_report(statistics: Statistics, today: date) -> PublicReport:
    """Return the public report, which is of complete weeks and changes once a week only.

    The difference between two days of a moving period would reveal the figures of a single day,
    and the current week, which still changes, the answer of a single person.
    """
    end = first_of("week", today)
    first = end - timedelta(weeks=PUBLIC_WEEKS)
    last = end - timedelta(days=1)
    published = await statistics.published(first, last)
    return PublicReport(first, last, published.weeks, published.groups)


def satisfaction_shown(about: Report, texts: Texts) -> str:
    """Return the alternative text of the chart of a report's satisfaction."""
    share, say = satisfaction(about.whole), formats(texts.language)
    days = {"first": say.day(about.first), "last": say.day(about.last)}
    shown = texts("picture satisfaction", step=texts(_STEPS[about.step]), **days)
    if share is None:
        return f"{shown} {texts('picture no ratings')}"
    ratings = texts("ratings", n=share.whole, number=say.number(share.whole))
    return f"{shown} {texts('picture ratings', share=say.percent(share.value), ratings=ratings)}"


def in_words(about: Report, texts: Texts) -> str:
    """Return a report as a few sentences."""
    whole, say = about.whole, formats(texts.language)
    share, polls = satisfaction(whole), answered(whole)

    def count(key: str, n: int) -> str:
        return texts(key, n=n, number=say.number(n))

    sentences = [texts("stats period", first=say.day(about.first), last=say.day(about.last))]
    if share is None:
        sentences.append(texts("stats no ratings"))
    else:
        low, high = map(say.percent, share.interval)
        shares = {"share": say.percent(share.value), "low": low, "high": high}
        others = {name: say.number(whole[name]) for name in ("partly", "no")}
        ratings = count("ratings", share.whole)
        sentences.append(texts("stats ratings", ratings=ratings, **shares, **others))
    sentences.append(texts("stats replies", replies=count("replies", whole["replies"])))
    times = quantile(whole, "seconds", 0.5), quantile(whole, "seconds", 0.9)
    if times[0] is not None and times[1] is not None:
        late = nine_in_ten(times[1], texts)
        sentences.append(texts("stats times", median=say.seconds(times[0]), late=late))
    if polls is not None:
        votes, sent = count("votes", polls.part), count("polls sent", polls.whole)
        percent = say.percent(polls.value)
        sentences.append(texts("stats polls", votes=votes, sent=sent, share=percent))
    return " ".join(sentences)


def nine_in_ten(seconds: float, texts: Texts) -> str:
    """Return a phrase for the duration that nine replies in ten do not exceed.

    If it is infinite, as the last class of durations has no end, the phrase says that more than
    one reply in ten takes longer than that class begins.
    """
    key = "more than one in ten" if math.isinf(seconds) else "nine in ten"
    return texts(key, time=formats(texts.language).seconds(seconds))


def _satisfaction(series: Mapping[date, Figures], step: Step, texts: Texts) -> Chart:
    shares = [satisfaction(figures) for figures in series.values()]
    values = tuple(None if one is None else round(100 * one.value, 1) for one in shares)
    intervals = tuple(
        None if one is None else (100 * one.interval[0], 100 * one.interval[1]) for one in shares
    )
    drawn = Series(texts("chart satisfaction line"), values, intervals)
    title, unit = texts("chart satisfaction", step=texts(_STEPS[step])), texts("chart per cent")
    return Chart(
        kind="line",
        title=title,
        labels=_labels(series, texts),
        series=(drawn,),
        unit=unit,
        top=100,
        language=texts.language,
    )


def _replies(series: Mapping[date, Figures], step: Step, texts: Texts) -> Chart:
    counts = tuple(float(figures["replies"]) for figures in series.values())
    drawn = Series(texts("chart replies bars"), counts)
    title, labels = texts("chart replies", step=texts(_STEPS[step])), _labels(series, texts)
    return Chart(kind="bar", title=title, labels=labels, series=(drawn,), language=texts.language)


def _times(series: Mapping[date, Figures], step: Step, texts: Texts) -> Chart:
    def times(part: float) -> tuple[float | None, ...]:
        found = (quantile(figures, "seconds", part) for figures in series.values())
        return tuple(None if one is None else round(min(one, BOUNDS[-1]), 1) for one in found)

    drawn = (
        Series(texts("chart times median"), times(0.5)),
        Series(texts("chart times most"), times(0.9)),
    )
    title, unit = texts("chart times", step=texts(_STEPS[step])), texts("chart seconds")
    return Chart(
        kind="line",
        title=title,
        labels=_labels(series, texts),
        series=drawn,
        unit=unit,
        language=texts.language,
    )


def _labels(series: Mapping[date, Figures], texts: Texts) -> tuple[str, ...]:
    return tuple(formats(texts.language).short_day(day) for day in series)


_STEPS: Final[dict[Step, str]] = {"day": "chart by day", "week": "chart by week"}
CHARTS: Final[dict[str, Callable[[Mapping[date, Figures], Step, Texts], Chart]]] = {
    "satisfaction": _satisfaction,
    "reponses": _replies,
    "temps": _times,
}

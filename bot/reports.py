"""What is reported of replies and ratings: of a period, to the product team or to everybody."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from bot import french
from bot.charts import Chart, Series
from bot.core.statistics import (
    BOUNDS,
    Figures,
    Group,
    Only,
    Part,
    Step,
    answered,
    first_of,
    quantile,
    satisfaction,
    total,
)
from bot.ports import Statistics

PERIODS: Final = (7, 30, 90, 365)  # days
PUBLIC_WEEKS: Final = 12

_LONGEST_BY_DAY: Final = 31  # days; of a longer period, weeks are shown
_NBSP: Final = "\N{NO-BREAK SPACE}"
_NARROW: Final = "\N{NARROW NO-BREAK SPACE}"


@dataclass(frozen=True, slots=True)
class Report:
    """What the product team sees of a period.

    Attributes:
        first: its first day, in UTC; of weeks, the first Monday.
        last: its last one.
        step: what each part of the series is.
        series: the figures of each day or week, also of those without any.
        groups: the figures of each group that the report is narrowed to.
        models: all that have any figures in the period, narrowed or not.
        domains: the same.
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
    """What everybody may see of the last whole weeks; no figure is of fewer than ten ratings.

    Attributes:
        first: the first Monday.
        last: the last Sunday.
        weeks: the figures of each week with enough ratings, and of those that waited for it.
        groups: by "model", "domain" and "place", and there by name, or OTHERS.
    """

    first: date
    last: date
    weeks: Mapping[date, Figures]
    groups: Mapping[Part, Mapping[str, Figures]]

    @property
    def whole(self) -> Figures:
        """The sum of all figures."""
        return total(self.weeks)


async def report(statistics: Statistics, today: date, days: int, only: Only) -> Report:
    """Return what is known of so many days up to today.

    More days than a month are shown by weeks, and begin on a Monday.
    """
    first = today - timedelta(days=days - 1)
    step: Step = "day" if days <= _LONGEST_BY_DAY else "week"
    first = first_of(step, first)
    found = await statistics.by_step(step, first, today, only)
    groups = await statistics.by_group(step, first, today)
    width = timedelta(days=1 if step == "day" else 7)
    count = math.ceil(((today - first).days + 1) / width.days)
    return Report(
        first,
        today,
        step,
        {day: found.get(day, Counter()) for day in (first + width * n for n in range(count))},
        {group: figures for group, figures in groups.items() if group in only},
        tuple(sorted({group.model for group in groups})),
        tuple(sorted({group.domain for group in groups})),
    )


async def public_report(statistics: Statistics, today: date) -> PublicReport:
    """Return what everybody may see: of whole weeks alone, so that it changes once a week.

    From one day to the next a moving period would tell what a single day holds, and a week that
    still changed what one person has just said.
    """
    end = first_of("week", today)
    first = end - timedelta(weeks=PUBLIC_WEEKS)
    last = end - timedelta(days=1)
    published = await statistics.published(first, last)
    return PublicReport(first, last, published.weeks, published.groups)


def satisfaction_shown(about: Report) -> str:
    """Return the alternative text of the picture of a report's satisfaction, in French."""
    share = satisfaction(about.whole)
    shown = (
        f"Courbe de la part de «{_NBSP}Oui{_NBSP}» dans les avis, par {_STEPS[about.step]},"
        f" du {french.day(about.first)} au {french.day(about.last)}."
    )
    if share is None:
        return f"{shown} Aucun avis."
    whole = _many(share.whole, "avis", "avis")
    return f"{shown} En tout, {french.percent(share.value)} de «{_NBSP}Oui{_NBSP}» sur {whole}."


def in_words(about: Report) -> str:
    """Return what a report says, in a few French sentences."""
    whole = about.whole
    share, polls = satisfaction(whole), answered(whole)
    sentences = [f"Du {french.day(about.first)} au {french.day(about.last)}{_NBSP}:"]
    if share is None:
        sentences.append("aucun avis.")
    else:
        low, high = share.interval
        sentences.append(
            f"{french.percent(share.value)} de «{_NBSP}Oui{_NBSP}» sur"
            f" {_many(share.whole, 'avis', 'avis')} (intervalle de confiance à"
            f" 95{_NARROW}%{_NBSP}: de {french.percent(low)} à {french.percent(high)}),"
            f" {french.number(whole['partly'])} «{_NBSP}En partie{_NBSP}»,"
            f" {french.number(whole['no'])} «{_NBSP}Non{_NBSP}»."
        )
    sentences.append(f"{_many(whole['replies'], 'réponse', 'réponses')}.")
    times = quantile(whole, "seconds", 0.5), quantile(whole, "seconds", 0.9)
    if times[0] is not None and times[1] is not None:
        sentences.append(
            f"Temps de réponse médian{_NBSP}: {french.seconds(times[0])}{_NARROW};"
            f" 9 réponses sur 10 {within(times[1])}."
        )
    if polls is not None:
        sentences.append(
            f"Sondages{_NBSP}: {french.number(polls.part)} réponses sur"
            f" {_many(polls.whole, 'envoi', 'envois')} ({french.percent(polls.value)})."
        )
    return " ".join(sentences)


def within(seconds: float) -> str:
    """Return "in less than", or "in more than" where the end is not known."""
    told = french.seconds(seconds)
    return f"en {told}" if math.isinf(seconds) else f"en moins de {told}"


def _many(count: int, one: str, more: str) -> str:
    return f"{french.number(count)} {one if count < 2 else more}"  # noqa: PLR2004  # French: 0, 1


def _satisfaction(series: Mapping[date, Figures], step: Step) -> Chart:
    shares = [satisfaction(figures) for figures in series.values()]
    values = tuple(None if one is None else round(100 * one.value, 1) for one in shares)
    intervals = tuple(
        None if one is None else (100 * one.interval[0], 100 * one.interval[1]) for one in shares
    )
    title = f"Part de «{_NBSP}Oui{_NBSP}» dans les avis, par {_STEPS[step]}"
    drawn = Series("Satisfaction", values, intervals)
    return Chart("line", title, _labels(series), (drawn,), f"{_NBSP}%", 100)


def _replies(series: Mapping[date, Figures], step: Step) -> Chart:
    counts = tuple(float(figures["replies"]) for figures in series.values())
    title = f"Réponses par {_STEPS[step]}"
    return Chart("bar", title, _labels(series), (Series("Réponses", counts),))


def _times(series: Mapping[date, Figures], step: Step) -> Chart:
    def times(part: float) -> tuple[float | None, ...]:
        found = (quantile(figures, "seconds", part) for figures in series.values())
        return tuple(None if one is None else round(min(one, BOUNDS[-1]), 1) for one in found)

    title = f"Temps de réponse par {_STEPS[step]}"
    drawn = Series("Médiane", times(0.5)), Series("9 réponses sur 10", times(0.9))
    return Chart("line", title, _labels(series), drawn, f"{_NBSP}s")


def _labels(series: Mapping[date, Figures]) -> tuple[str, ...]:
    return tuple(french.short_day(day) for day in series)


_STEPS: Final[dict[Step, str]] = {"day": "jour", "week": "semaine"}
CHARTS: Final[dict[str, Callable[[Mapping[date, Figures], Step], Chart]]] = {
    "satisfaction": _satisfaction,
    "reponses": _replies,
    "temps": _times,
}

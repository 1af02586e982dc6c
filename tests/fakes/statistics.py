"""Figures that a test has set."""

from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import date, timedelta

from bot.core.statistics import (
    PUBLIC_FIGURES,
    PUBLIC_PARTS,
    CampaignFigures,
    FeedbackComment,
    FigureFilter,
    Figures,
    Group,
    Published,
    Step,
    chunk,
    first_of,
)
from bot.ports.statistics import Export


class FakeStatistics:
    """Figures by day and group, as a test gives them."""

    def __init__(self) -> None:
        self.figures: dict[tuple[date, Group], Figures] = {}
        # By part and name, of weeks that were asked for.
        self.fixed: dict[date, dict[tuple[str, str], Figures]] = {}
        self.said: list[FeedbackComment] = []
        self.launched: list[CampaignFigures] = []
        self.error: Exception | None = None
        self.asked = 0

    def add(self, day: date, group: Group, **figures: int) -> None:
        self.figures.setdefault((day, group), Counter()).update(figures)

    async def by_step(
        self, step: Step, first: date, last: date, only: FigureFilter
    ) -> dict[date, Figures]:
        self._answer()
        found: dict[date, Figures] = {}
        for (day, group), figures in self.figures.items():
            begun = first_of(step, day)
            if first <= begun <= last and group in only:
                found.setdefault(begun, Counter()).update(figures)
        return found

    async def by_group(self, step: Step, first: date, last: date) -> dict[Group, Figures]:
        self._answer()
        groups: dict[Group, Figures] = {}
        for (day, group), figures in self.figures.items():
            if first <= first_of(step, day) <= last:
                groups.setdefault(group, Counter()).update(figures)
        return groups

    async def published(self, first: date, last: date) -> Published:
        self._answer()
        mondays = [first + timedelta(weeks=n) for n in range((last - first).days // 7 + 1)]
        since = first  # the first week that is in no chunk
        for monday in mondays:
            if monday not in self.fixed:
                groups = await self.by_group("week", since, monday)
                self.fixed[monday] = chunk(
                    {group: _public(figures) for group, figures in groups.items()}
                )
            if self.fixed[monday]:
                since = monday + timedelta(weeks=1)
        self.fixed = {monday: self.fixed[monday] for monday in mondays}
        weeks = {monday: rows["", ""] for monday, rows in self.fixed.items() if rows}
        return Published(weeks, {part: self._published(part) for part in PUBLIC_PARTS})

    async def remarks(self, only: FigureFilter, most: int) -> list[FeedbackComment]:
        self._answer()
        return [] if only != FigureFilter() else self.said[:most]

    async def campaigns(self, most: int) -> list[CampaignFigures]:
        self._answer()
        return self.launched[:most]

    def _published(self, part: str) -> dict[str, Figures]:
        names: dict[str, Figures] = {}
        for rows in self.fixed.values():
            for (its, name), figures in rows.items():
                if its == part:
                    names.setdefault(name, Counter()).update(figures)
        return names

    def _answer(self) -> None:
        self.asked += 1
        if self.error:
            raise self.error


def _public(figures: Figures) -> Figures:
    return Counter({name: figures[name] for name in PUBLIC_FIGURES if figures[name]})


def exported(*rows: Mapping[str, object]) -> Export:
    """Return a table with these rows."""

    async def pages(at_once: int) -> AsyncGenerator[Sequence[Mapping[str, object]], None]:
        for at in range(0, len(rows), at_once):
            yield rows[at : at + at_once]

    return Export(tuple(rows[0]) if rows else (), pages)

"""The statistics port: figures of replies and feedback, and tables to export."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

from bot.core.export_format import What
from bot.core.statistics import (
    CampaignFigures,
    FeedbackComment,
    Figures,
    Group,
    Only,
    Published,
    Step,
)
from bot.ports.campaigns import CampaignLedger
from bot.ports.feedback import Opinions


class Statistics(Protocol):
    """Figures of replies and of what people think of them, by days or weeks, in UTC.

    `by_step` returns those of each day or week that has any and begins from the first day to the
    last one, narrowed to a model and a domain; `by_group` those of each group that has any in all
    of these. `published` returns those of the weeks that begin then and are over; what a week had
    when it was first asked for is kept, and told ever after, whatever has changed since; one with
    too few ratings waits, and is told with the next as one `chunk`. Weeks before the first one are
    kept no longer, and wait no longer.
    `remarks` returns the latest comments and `campaigns` the latest campaigns that were launched,
    the last one first. It waits and raises as `Store` does.
    """

    async def by_step(
        self, step: Step, first: date, last: date, only: Only
    ) -> Mapping[date, Figures]: ...

    async def by_group(self, step: Step, first: date, last: date) -> Mapping[Group, Figures]: ...

    async def published(self, first: date, last: date) -> Published: ...

    async def remarks(self, only: Only, most: int) -> Sequence[FeedbackComment]: ...

    async def campaigns(self, most: int) -> Sequence[CampaignFigures]: ...


@dataclass(frozen=True, slots=True)
class Export:
    """A table of the ledger that can leave it as a file, with all that is sealed in it opened.

    Attributes:
        columns: in their order; a row may have more.
        pages: reads all rows, so many at once; it waits and raises as `Store` does.
    """

    columns: tuple[str, ...]
    pages: Callable[[int], AsyncGenerator[Sequence[Mapping[str, Any]], None]]


@dataclass(frozen=True, slots=True)
class Ledgers:
    """What is kept besides prompts and replies."""

    opinions: Opinions
    campaigns: CampaignLedger
    statistics: Statistics
    exports: Mapping[What, Export]

"""The statistics port: figures of replies and feedback, and tables to export."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

from bot.core.export_format import ExportName
from bot.core.statistics import (
    CampaignFigures,
    FeedbackComment,
    FigureFilter,
    Figures,
    Group,
    Published,
    Step,
)
from bot.ports.campaigns import CampaignLedger
from bot.ports.feedback import Opinions


class Statistics(Protocol):
    """Figures of replies and of the feedback on them, by day or week in UTC.

    A period from `first` to `last` holds the days or weeks that begin in it, both ends included.
    Every method waits and raises as those of `Store`.
    """

    async def by_step(
        self, step: Step, first: date, last: date, only: FigureFilter
    ) -> Mapping[date, Figures]:
        """Return the figures of each day or week that has any, by its first day.

        Args:
            step: day or week.
            first: first day of the period.
            last: last day of the period.
            only: the model and the domain to count.
        """

    async def by_group(self, step: Step, first: date, last: date) -> Mapping[Group, Figures]:
        """Return the figures of each group that has any in the period."""

    async def published(self, first: date, last: date) -> Published:
        """Return the public figures of the weeks that begin in the period and are over.

        A week's figures are fixed when they are first asked for, and never change afterwards. A
        week with too few ratings waits, and is published with the next one as one chunk (see
        `core.statistics.chunk`). Weeks before `first` are forgotten.
        """

    async def remarks(self, only: FigureFilter, most: int) -> Sequence[FeedbackComment]:
        """Return the latest comments, newest first, `most` at the most."""

    async def campaigns(self, most: int) -> Sequence[CampaignFigures]:
        """Return the campaigns that were launched, newest first, `most` at the most."""


@dataclass(frozen=True, slots=True)
class Export:
    """A table of the ledger to export as a file, with its encrypted columns decrypted.

    Attributes:
        columns: names in order; a row may have more.
        pages: yields all rows in pages of the given size; waits and raises as `Store` does.
    """

    columns: tuple[str, ...]
    pages: Callable[[int], AsyncGenerator[Sequence[Mapping[str, Any]], None]]


@dataclass(frozen=True, slots=True)
class Ledgers:
    """The parts of the ledger besides prompts and replies."""

    opinions: Opinions
    campaigns: CampaignLedger
    statistics: Statistics
    exports: Mapping[ExportName, Export]

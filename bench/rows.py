"""Rows of figures in milliseconds: the bot, what stands beside it, and whether a goal is met."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles

from rich import box
from rich.table import Table

DRIFT_LIMIT = 0.15

_ENOUGH_FOR_DRIFT = 10


@dataclass(slots=True)
class Row:
    """One quantity.

    Attributes:
        goal: what the bot's median shall not exceed; None where there is no goal.
        above: the goal is for the bot's distance to what stands beside it, in the same round.
        beside: samples of that, none where nothing is like it.
    """

    label: str
    goal: float | None = None
    above: bool = False
    bot: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)

    @property
    def more(self) -> float:
        """The bot's median distance to what stands beside it."""
        return median(one - other for one, other in zip(self.bot, self.beside, strict=True))

    @property
    def missed(self) -> bool:
        """Tell whether the bot does not reach its goal."""
        return self.goal is not None and self.goal < (
            self.more if self.above else median(self.bot)
        )

    def cells(self) -> list[str]:
        """Return what, how often, what is beside it, the bot, one by the other, and the goal."""
        compared = ["", spread(self.bot), "", ""]
        if self.beside:
            ratio = median(self.bot) / median(self.beside)
            compared = [spread(self.beside), spread(self.bot), f"{self.more:+.2f}", f"{ratio:.2g}"]
        return [self.label, str(len(self.bot)), *compared, self._goal()]

    def _goal(self) -> str:
        if self.goal is None:
            return ""
        goal = f"≤ {'+' if self.above else ''}{rounded(self.goal)}"
        return f"{goal}, missed" if self.missed else goal

    def faults(self) -> list[str]:
        """Return what is to be said of the row beside its cells."""
        return faults(self.label, self.beside, missed=self.missed)


def rounded(value: float) -> str:
    """Return so many digits as mean something."""
    return f"{value:.0f}" if value >= 20 else f"{value:.2f}" if value < 2 else f"{value:.1f}"


def spread(samples: Sequence[float]) -> str:
    """Return the median, and the range."""
    return f"{rounded(median(samples))} ({rounded(min(samples))}-{rounded(max(samples))})"


def ranks(samples: Sequence[float]) -> str:
    """Return the median, the 90th percentile and the largest."""
    p90 = quantiles(samples, n=10, method="inclusive")[-1] if len(samples) > 1 else samples[0]
    return f"{rounded(median(samples))} (p90 {rounded(p90)}, max {rounded(max(samples))})"


def drift(samples: Sequence[float]) -> float:
    """Return how far the median of the second half is from the first one's, as a share of it.

    Few samples tell nothing of it: 0.
    """
    half = len(samples) // 2
    if len(samples) < _ENOUGH_FOR_DRIFT:
        return 0.0
    return abs(median(samples[half:]) / median(samples[:half]) - 1)


def faults(label: str, beside: Sequence[float], *, missed: bool) -> list[str]:
    """Return the sentences for a missed goal, and for a machine that has changed meanwhile."""
    drifted, found = drift(beside), []
    if missed:
        found.append(f"goal missed: {label}")
    if drifted > DRIFT_LIMIT:
        found.append(f"not publishable: what it stands beside drifted {drifted:.0%} ({label})")
    return found


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table in Markdown."""
    found = Table(box=box.MARKDOWN)
    for heading in headings:
        found.add_column(heading, no_wrap=True)
    for cells in rows:
        found.add_row(*cells)
    return found

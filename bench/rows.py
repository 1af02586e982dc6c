"""Rows of figures in milliseconds: the bot, its reference, and whether a goal is met."""

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
        goal: upper limit of the bot's median; None for no goal.
        above: whether the goal is for the bot's difference from the reference in the same round.
        beside: samples of the reference; empty if there is none.
    """

    label: str
    goal: float | None = None
    above: bool = False
    bot: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)

    @property
    def more(self) -> float:
        """The bot's median difference from the reference."""
        return median(one - other for one, other in zip(self.bot, self.beside, strict=True))

    @property
    def missed(self) -> bool:
        """Return whether the bot misses its goal."""
        return self.goal is not None and self.goal < (
            self.more if self.above else median(self.bot)
        )

    def cells(self) -> list[str]:
        """Return the cells: label, samples, reference, bot, their ratio, and the goal."""
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
        """Return the remarks about the row."""
        return faults(self.label, self.beside, missed=self.missed)


def rounded(value: float) -> str:
    """Return the value with its significant digits."""
    return f"{value:.0f}" if value >= 20 else f"{value:.2f}" if value < 2 else f"{value:.1f}"


def spread(samples: Sequence[float]) -> str:
    """Return the median, and the range."""
    return f"{rounded(median(samples))} ({rounded(min(samples))}-{rounded(max(samples))})"


def ranks(samples: Sequence[float]) -> str:
    """Return the median, the 90th percentile and the largest."""
    p90 = quantiles(samples, n=10, method="inclusive")[-1] if len(samples) > 1 else samples[0]
    return f"{rounded(median(samples))} (p90 {rounded(p90)}, max {rounded(max(samples))})"


def drift(samples: Sequence[float]) -> float:
    """Return the difference of the second half's median from the first's, as a share of it.

    The result is 0 if there are too few samples.
    """
    half = len(samples) // 2
    if len(samples) < _ENOUGH_FOR_DRIFT:
        return 0.0
    return abs(median(samples[half:]) / median(samples[:half]) - 1)


def faults(label: str, beside: Sequence[float], *, missed: bool) -> list[str]:
    """Return the sentences about a missed goal, and about a machine whose speed has changed."""
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

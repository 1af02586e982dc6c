"""Figures of replies and of what people think of them: shares, spans, and what may be shown."""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final, Literal, NamedTuple

from bot.core.feedback import RATINGS, REASONS

Step = Literal["day", "week"]
Span = Literal["first_words", "seconds"]
Part = Literal["model", "domain", "place", "tools", "prompt_version"]

SPANS: Final[tuple[Span, ...]] = ("first_words", "seconds")
PARTS: Final[tuple[Part, ...]] = ("model", "domain", "place", "tools", "prompt_version")
PUBLIC_PARTS: Final[tuple[Part, ...]] = ("model", "domain", "place")
# Upper ends of the classes in which times are counted, in seconds; one more is open above.
BOUNDS: Final = (
    *(0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0),
    *(15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0),
)
# What is counted: replies; polls about them that were sent, and those whose answer counts;
# ratings of who has asked, of others, and reasons; replies by their times, a class each.
FIGURES: Final = (
    *("replies", "polls", "votes"),
    *RATINGS,
    *(f"others_{answer}" for answer in RATINGS),
    *(f"why_{reason}" for reason in REASONS),
    *(f"{span}_{number}" for span in SPANS for number in range(len(BOUNDS) + 1)),
)
# Of these, what everybody may see.
PUBLIC_FIGURES: Final = (
    *("replies", "polls", "votes"),
    *RATINGS,
    *(f"seconds_{number}" for number in range(len(BOUNDS) + 1)),
)
LEAST: Final = 10  # ratings of a group that may be shown to everybody
# In the place of a name, of the sum of groups that are not shown: blank, as neither a model's id
# nor a server name can be.
OTHERS: Final = "\n"

Figures = Counter[str]  # of FIGURES; what is not there is 0

_Z: Final = 1.959964  # of 95 %


class Group(NamedTuple):
    """What replies have in common; "" for what is not known.

    Attributes:
        model: its id.
        domain: the server name of who has asked.
        place: direct or salon.
        tools: their names, by commas; "" for none.
        prompt_version: of the system prompt.
    """

    model: str
    domain: str
    place: str
    tools: str
    prompt_version: str


@dataclass(frozen=True, slots=True)
class Only:
    """To what figures are narrowed, None for all."""

    model: str | None = None
    domain: str | None = None

    def __contains__(self, group: Group) -> bool:
        """Tell whether the group's figures count."""
        return self.model in {None, group.model} and self.domain in {None, group.domain}


@dataclass(frozen=True, slots=True)
class Published:
    """PUBLIC_FIGURES of weeks that are over, as they were when each week was first asked for.

    Attributes:
        weeks: of each chunk, by the Monday of its last week.
        groups: of all chunks together, for each of PUBLIC_PARTS by name, or OTHERS.
    """

    weeks: Mapping[date, Figures]
    groups: Mapping[Part, Mapping[str, Figures]]


@dataclass(frozen=True, slots=True)
class FeedbackComment:
    """A comment: when it was written, what it says, and how the same person rates the reply."""

    written_at: float
    comment: str
    answer: str | None


@dataclass(frozen=True, slots=True)
class CampaignFigures:
    """A campaign: how far it has come, in conversations.

    Attributes:
        state: "draft", "running", "closing" or "closed".
        rooms: that it goes to; of these, how many were reached, and have answered something.
    """

    name: str
    state: str
    rooms: int
    reached: int
    answered: int


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole, with the 95 % confidence interval of what it stands for, from 0 to 1."""

    part: int
    whole: int

    @property
    def value(self) -> float:
        """The share itself."""
        return self.part / self.whole

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval, sound also for few and for shares near 0 and 1.

        E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
        Journal of the American Statistical Association 22 (1927).
        """
        n, p = self.whole, self.value
        middle = p + _Z * _Z / (2 * n)
        spread = _Z * math.sqrt(p * (1 - p) / n + _Z * _Z / (4 * n * n))
        scale = 1 + _Z * _Z / n
        return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def rated(figures: Figures) -> int:
    """Return how many of those who have asked have rated the reply."""
    return sum(figures[answer] for answer in RATINGS)


def satisfaction(figures: Figures) -> Share | None:
    """Return the share of "yes" in the ratings of who has asked; None without any.

    "Partly" is no yes: it is shown beside it. A mixture of the two would be no share, and have no
    interval.
    """
    whole = rated(figures)
    return Share(figures["yes"], whole) if whole else None


def answered(figures: Figures) -> Share | None:
    """Return the share of polls whose answer counts; None where none was sent."""
    polls = figures["polls"]
    return Share(min(figures["votes"], polls), polls) if polls else None


def time_class(seconds: float) -> int:
    """Return the number of the class in which a time is counted."""
    return bisect_left(BOUNDS, seconds)


def quantile(figures: Figures, span: Span, part: float) -> float | None:
    """Return the time, in seconds, within which that part of the replies came.

    It is interpolated within its class; infinite in the one open above, None without any reply.
    """
    counts = [figures[f"{span}_{number}"] for number in range(len(BOUNDS) + 1)]
    left = part * sum(counts)
    if not left:
        return None
    for number, bound in enumerate(BOUNDS):
        if left <= counts[number]:
            below = BOUNDS[number - 1] if number else 0.0
            return below + (bound - below) * left / counts[number]
        left -= counts[number]
    return math.inf


def first_of(step: Step, day: date) -> date:
    """Return the first day of the step that the day belongs to; weeks begin on Mondays."""
    return day if step == "day" else day - timedelta(days=day.weekday())


def by(
    part: Part,
    groups: Mapping[Group, Figures],
) -> dict[str, Figures]:
    """Return the figures by one thing that groups have in common.

    A reply for which several tools were used counts for each of them.
    """
    parts: dict[str, Figures] = {}
    for group, figures in groups.items():
        value: str = getattr(group, part)
        for name in value.split(",") if part == "tools" else (value,):
            parts.setdefault(name, Counter()).update(figures)
    return parts


def total(groups: Mapping[Group, Figures] | Mapping[date, Figures]) -> Figures:
    """Return the sum of all figures."""
    whole: Figures = Counter()
    for figures in groups.values():
        whole.update(figures)
    return whole


def showable(groups: Mapping[str, Figures]) -> tuple[dict[str, Figures], Figures]:
    """Return the groups that may be shown to everybody, and the sum of all others.

    A group of fewer than LEAST ratings is among the others. So that it does not come out as the
    difference to the total either, the others have LEAST ratings or none: the smallest of the
    larger groups joins them where that must be. Where even all together are fewer, nothing is
    returned.
    """
    shown = {name: figures for name, figures in groups.items() if rated(figures) >= LEAST}
    rest = [figures for name, figures in groups.items() if name not in shown]
    others: Figures = Counter()
    for figures in rest:
        others.update(figures)
    while rest and rated(others) < LEAST and shown:
        smallest = min(shown, key=lambda name: (rated(shown[name]), name))
        others.update(shown.pop(smallest))
    if rated(others) < LEAST:
        others = Counter()
    return shown, others


def chunk(groups: Mapping[Group, Figures]) -> dict[tuple[str, str], Figures]:
    """Return the rows by which weeks are published together, by part and name; none for too few.

    The row of ("", "") is the whole, and the rows of each of PUBLIC_PARTS, that of OTHERS among
    them, add up to it. Each row has LEAST ratings or more: who subtracts the page of one week from
    that of another is left with rows of the chunks that only one of them has, and nothing smaller.
    """
    whole = total(groups)
    if rated(whole) < LEAST:
        return {}
    rows = {("", ""): whole}
    for part in PUBLIC_PARTS:
        shown, others = showable(by(part, groups))
        rows |= {(part, name): figures for name, figures in shown.items()}
        if others:
            rows[part, OTHERS] = others
    return rows

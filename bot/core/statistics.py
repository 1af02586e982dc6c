"""Figures of replies and feedback: counts, shares, quantiles, and which of them are public."""

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
# Upper bounds of the classes in which durations are counted, in seconds; a last class is open.
BOUNDS: Final = (
    *(0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0),
    *(15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0),
)
# The figures: replies; polls sent about them, and polls with a vote that counts; ratings by the
# people who asked, ratings by others, and reasons; replies in each class of durations.
FIGURES: Final = (
    *("replies", "polls", "votes"),
    *RATINGS,
    *(f"others_{answer}" for answer in RATINGS),
    *(f"why_{reason}" for reason in REASONS),
    *(f"{span}_{number}" for span in SPANS for number in range(len(BOUNDS) + 1)),
)
# Those of FIGURES that everybody may see.
PUBLIC_FIGURES: Final = (
    *("replies", "polls", "votes"),
    *RATINGS,
    *(f"seconds_{number}" for number in range(len(BOUNDS) + 1)),
)
LEAST: Final = 10  # ratings that a group needs to be public
# The name of the sum of all groups that are not public. It is white space, which neither a
# model's id nor a server name can be.
OTHERS: Final = "\n"

Figures = Counter[str]  # by the names in FIGURES; a missing one is 0

_Z: Final = 1.959964  # the normal distribution's quantile for 95 % confidence


class Group(NamedTuple):
    """Properties that a group of replies has in common; "" if unknown.

    Attributes:
        model: the model's id.
        domain: server name of the people who asked.
        place: "direct" or "salon".
        tools: names of the tools used, separated by commas; "" for none.
        prompt_version: version of the system prompt.
    """

    model: str
    domain: str
    place: str
    tools: str
    prompt_version: str


@dataclass(frozen=True, slots=True)
class FigureFilter:
    """A filter of figures by model and domain; None for all of them."""

    model: str | None = None
    domain: str | None = None

    def __contains__(self, group: Group) -> bool:
        """Return whether the filter lets the group's figures through."""
        return self.model in {None, group.model} and self.domain in {None, group.domain}


@dataclass(frozen=True, slots=True)
class Published:
    """PUBLIC_FIGURES of past weeks, as they were when each week was first asked for.

    Attributes:
        weeks: figures of each chunk of weeks, by the Monday of its last week.
        groups: figures of all chunks together, for each of PUBLIC_PARTS by name, or OTHERS.
    """

    weeks: Mapping[date, Figures]
    groups: Mapping[Part, Mapping[str, Figures]]


@dataclass(frozen=True, slots=True)
class FeedbackComment:
    """A comment, and the same person's rating of the reply.

    Attributes:
        written_at: time of the comment, in seconds since the epoch.
        comment: its text.
        answer: the rating; None if there is none.
    """

    written_at: float
    comment: str
    answer: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignFigures:
    """The progress of a campaign, in rooms.

    Attributes:
        state: "draft", "running", "closing" or "closed".
        rooms: number of rooms that it goes to.
        reached: number of rooms that got at least one message.
        answered: number of rooms with at least one answer.
    """

    name: str
    state: str
    rooms: int
    reached: int
    answered: int


@dataclass(frozen=True, slots=True)
class Share:
    """A share, from 0 to 1, and its 95 % confidence interval."""

    part: int
    whole: int

    @property
    def value(self) -> float:
        """The share itself."""
        return self.part / self.whole

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval, valid for small counts and for shares near 0 and 1 as well.

        E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
        Journal of the American Statistical Association 22 (1927).
        """
        n, p = self.whole, self.value
        centre = p + _Z * _Z / (2 * n)
        spread = _Z * math.sqrt(p * (1 - p) / n + _Z * _Z / (4 * n * n))
        scale = 1 + _Z * _Z / n
        return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def rated(figures: Figures) -> int:
    """Return the number of ratings by the people who asked."""
    return sum(figures[answer] for answer in RATINGS)


def satisfaction(figures: Figures) -> Share | None:
    """Return the share of "yes" in the ratings by the people who asked; None without ratings.

    "Partly" does not count as "yes" and is shown separately: a weighted sum of the two would be
    no share and have no confidence interval.
    """
    whole = rated(figures)
    return Share(figures["yes"], whole) if whole else None


def answered(figures: Figures) -> Share | None:
    """Return the share of polls with a vote that counts; None if no poll was sent."""
    polls = figures["polls"]
    return Share(min(figures["votes"], polls), polls) if polls else None


def time_class(seconds: float) -> int:
    """Return the number of the class in which a duration is counted."""
    return bisect_left(BOUNDS, seconds)


def quantile(figures: Figures, span: Span, part: float) -> float | None:
    """Return the duration, in seconds, that a given share of the replies did not exceed.

    It is interpolated within its class, and infinite in the open class; None without replies.

    Args:
        figures: the counts.
        span: the kind of duration.
        part: the share, from 0 to 1.
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
    """Return the first day of the day or week that a day is in; weeks begin on Mondays."""
    return day if step == "day" else day - timedelta(days=day.weekday())


def by(
    part: Part,
    groups: Mapping[Group, Figures],
) -> dict[str, Figures]:
    """Return the figures for each value of one property of the groups.

    A reply that used several tools counts for each of them.
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
    """Return the groups that may be public, and the sum of all others.

    A group with fewer than LEAST ratings is among the others. The others together must have LEAST
    ratings or none, so that no small group can be derived as the difference to the total. If they
    have fewer, the smallest public groups are added to them. If all groups together have fewer
    than LEAST ratings, nothing is returned.
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
    """Return the rows that publish one chunk of weeks, by part and name; none if too few ratings.

    The row ("", "") is the total. The rows of each of PUBLIC_PARTS, including OTHERS, add up to
    it. Each row has at least LEAST ratings, so that the difference between two published pages
    consists of whole chunks, and never of a smaller group.
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

"""Campaigns: questions or an announcement for many rooms; whom they reach, and when."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta, tzinfo
from typing import Final, Literal

from bot.core.events import EventId, Room, RoomId, UserId, server_name
from bot.core.polls import PollAnswer

Kind = Literal["choice", "scale", "text"]

SCALE: Final = tuple(PollAnswer(str(number), str(number)) for number in range(11))

CLOSED: Final = 101  # the milestone behind 100 percent

_SATURDAY = 5  # as `datetime.weekday` counts
_QUARTER, _MANY = 25, 20


@dataclass(frozen=True, slots=True)
class CampaignQuestion:
    """One question of a campaign.

    Attributes:
        key: its id, "1" for the first.
        answers: of a choice; a scale has SCALE, a text none.
    """

    key: str
    kind: Kind
    text: str
    answers: tuple[PollAnswer, ...] = ()


@dataclass(frozen=True, slots=True)
class Quiet:
    """When nothing is sent.

    Attributes:
        begin: of each day's quiet hours; where it is later than `end` they go on past midnight.
        end: when the next may be sent.
        weekend: Saturday and Sunday are quiet from their first to their last minute.
        zone: whose clock it is.
    """

    begin: time
    end: time
    zone: tzinfo
    weekend: bool = True


@dataclass(frozen=True, slots=True)
class Audience:
    """Which rooms a campaign goes to.

    Attributes:
        rooms: direct messages, salons, or both.
        domains: of a direct message's person; any where it is empty.
        active_days: something was answered there in so many days; None for whenever.
        sample: how many at the most, by chance; None for all.
    """

    rooms: Literal["direct", "salons", "all"] = "direct"
    domains: tuple[str, ...] = ()
    active_days: int | None = None
    sample: int | None = None


@dataclass(frozen=True, slots=True)
class Campaign:
    """What is sent to whom.

    Attributes:
        name: `[a-z0-9-]+`, by which it is spoken of.
        message: an announcement, or what introduces the questions.
        begins_at: in seconds since the epoch, as `ends_at`; None for as soon as it is launched.
        ends_at: when it closes by itself; None for when somebody closes it.
        reminder_after: seconds without an answer after which a person is reminded, once.
        per_minute: messages that it sends at the most.
        notifies: clients tell people of its first message, unless that is a poll.
    """

    name: str
    questions: tuple[CampaignQuestion, ...] = ()
    message: str = ""
    audience: Audience = Audience()
    begins_at: float | None = None
    ends_at: float | None = None
    quiet: Quiet | None = None
    reminder_after: float | None = None
    per_minute: float = 30.0
    notifies: bool = True

    @property
    def steps(self) -> int:
        """How many messages a room gets: the introduction, and one for each question."""
        return bool(self.message) + len(self.questions)

    def question(self, step: int) -> CampaignQuestion | None:
        """Return the question that is asked at a step from 0 on; None for the message."""
        number = step - bool(self.message)
        return self.questions[number] if number >= 0 else None

    def asked(self, key: str) -> CampaignQuestion | None:
        """Return the question of that key, None where there is none."""
        return next((one for one in self.questions if one.key == key), None)

    def step_of(self, key: str) -> int:
        """Return the step at which a question is asked."""
        return bool(self.message) + [one.key for one in self.questions].index(key)


@dataclass(frozen=True, slots=True)
class Recipient:
    """A room that a campaign goes to; `person` is a direct message's."""

    room_id: RoomId
    person: UserId | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a campaign stands in a room.

    Attributes:
        direct: a direct message; else a salon.
        thread_root: of a salon, the campaign's first message there.
    """

    room_id: RoomId
    direct: bool = True
    thread_root: EventId | None = None


@dataclass(frozen=True, slots=True)
class Sending:
    """One message of a campaign that is due in one room.

    Attributes:
        campaign: its name.
        deed: the next step; a reminder; the end of a poll.
        step: which step, from 0 on.
        due_at: in seconds since the epoch.
        event_id: of a reminder and of an end, the question that it is about.
        begun: it may stand in its room already.
    """

    campaign: str
    recipient: Place
    deed: Literal["step", "remind", "end"]
    step: int
    due_at: float
    event_id: EventId | None = None
    begun: bool = False


@dataclass(frozen=True, slots=True)
class DeliveryProgress:
    """How many of its rooms a campaign has dealt with, and what the admins know of that.

    Attributes:
        rooms: that it goes to.
        done: of these, those that were reached or get nothing.
        closed: it has ended, and so have its polls.
        told: the last milestone that they were told of.
    """

    rooms: int
    done: int
    closed: bool
    told: int

    @property
    def milestone(self) -> int:
        """The last one that was passed: 0, 25, 50, 75 or 100 percent of the rooms, CLOSED.

        Of a campaign for a few rooms, there are the last two.
        """
        if self.closed:
            return CLOSED
        passed = self.done * 100 // self.rooms if self.rooms else 0
        return passed - passed % (_QUARTER if self.rooms >= _MANY else 100)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of a campaign where it stands.

    Attributes:
        question: its key.
    """

    campaign: str
    question: str
    recipient: Place


@dataclass(frozen=True, slots=True)
class CampaignResults:
    """How far a campaign has come.

    Attributes:
        state: "draft", "running", "closing" (polls are being ended) or "closed".
        rooms: that it goes to; of these, how many were reached, get nothing, and have answered
            something, or everything.
        answers: of each question by its key: how many people chose each answer.
        texts: of each question by its key: how many people have written something.
    """

    state: str
    rooms: int = 0
    reached: int = 0
    declined: int = 0
    answered: int = 0
    completed: int = 0
    answers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    texts: Mapping[str, int] = field(default_factory=dict)


def choose(
    campaign: Campaign,
    rooms: Iterable[Room],
    active: Mapping[RoomId, float],
    heeds: Callable[[UserId], bool],
    now: float,
) -> list[Recipient]:
    """Return the rooms that a campaign goes to, in an order that tells nothing.

    Args:
        campaign: whose audience.
        rooms: in which the bot can speak.
        active: when something was last answered there, in seconds since the epoch.
        heeds: whether what a person writes is for the bot; else a vote would not count either.
        now: in the same as `active`.
    """
    audience = campaign.audience
    fitting = [one for one in rooms if _fits(audience, one) and _lives(audience, one, active, now)]
    found = [one for one in fitting if not one.direct or (one.person and heeds(one.person))]
    found.sort(key=lambda one: hashlib.sha256(f"{campaign.name}\0{one.room_id}".encode()).digest())
    to = [Recipient(one.room_id, one.person if one.direct else None) for one in found]
    people = {one.person or one.room_id: one for one in reversed(to)}  # each once
    once = [one for one in to if people[one.person or one.room_id] is one]
    return once[: audience.sample]


def _fits(audience: Audience, room: Room) -> bool:
    if room.admin or room.closed:
        return False
    if audience.rooms != "all" and room.direct != (audience.rooms == "direct"):
        return False
    if not audience.domains:
        return True
    return room.person is not None and server_name(room.person) in audience.domains


def _lives(audience: Audience, room: Room, active: Mapping[RoomId, float], now: float) -> bool:
    if audience.active_days is None:
        return True
    return active.get(room.room_id, 0.0) >= now - audience.active_days * 86_400


def next_time(quiet: Quiet | None, at: float) -> float:
    """Return the first moment from `at` on at which something may be sent (seconds, epoch)."""
    if quiet is None:
        return at
    here = begun = datetime.fromtimestamp(at, quiet.zone)
    for _ in range(10):  # a weekend, and the nights around it
        end = _quiet_until(quiet, here)
        if end is None:
            return at if here is begun else max(here.timestamp(), at)
        here = end
    raise ValueError("there is no moment that is not quiet")


def _quiet_until(quiet: Quiet, here: datetime) -> datetime | None:
    """Return the end of the quiet time that a moment falls into, None where it does not."""
    today = here.replace(hour=0, minute=0, second=0, microsecond=0)
    tomorrow = today + timedelta(days=1)
    if quiet.weekend and here.weekday() >= _SATURDAY:
        return tomorrow
    clock = here.time()
    if quiet.begin <= quiet.end:
        inside = quiet.begin <= clock < quiet.end
        return _at(today, quiet.end) if inside else None
    if clock < quiet.end:
        return _at(today, quiet.end)
    return _at(tomorrow, quiet.end) if clock >= quiet.begin else None


def _at(day: datetime, clock: time) -> datetime:
    return day.replace(hour=clock.hour, minute=clock.minute)


def offered(question: CampaignQuestion) -> tuple[PollAnswer, ...]:
    """Return the answers that a poll offers."""
    return SCALE if question.kind == "scale" else question.answers


def share(counts: Mapping[str, int]) -> Sequence[tuple[str, int, float]]:
    """Return each answer with its count and its part of all, 0 to 1."""
    total = sum(counts.values())
    return [(key, count, count / total if total else 0.0) for key, count in counts.items()]

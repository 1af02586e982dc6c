"""Campaigns (questions or an announcement to many rooms): their values, audience and timing."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta, tzinfo
from typing import Final, Literal

from bot.core.events import EventId, Room, RoomId, UserId, server_name
from bot.core.polls import PollAnswer

Kind = Literal["choice", "scale", "text"]

SCALE: Final = tuple(PollAnswer(str(number), str(number)) for number in range(11))

CLOSED: Final = 101  # the milestone after 100 percent

_SATURDAY = 5  # as `datetime.weekday` counts
_QUARTER = 25  # percent between two milestones
_MANY = 20  # rooms from which a campaign has a milestone every quarter


@dataclass(frozen=True, slots=True)
class CampaignQuestion:
    """One question of a campaign.

    Attributes:
        key: its id, "1" for the first question.
        answers: the answers of a "choice"; a "scale" offers SCALE, a "text" none.
    """

    key: str
    kind: Kind
    text: str
    answers: tuple[PollAnswer, ...] = ()


@dataclass(frozen=True, slots=True)
class Quiet:
    """The times at which nothing is sent.

    Attributes:
        begin: start of each day's quiet hours; if it is later than `end`, they pass midnight.
        end: end of the quiet hours, from which messages may be sent.
        weekend: whether all of Saturday and Sunday is quiet as well.
        zone: the time zone of these times.
    """

    begin: time
    end: time
    zone: tzinfo
    weekend: bool = True


@dataclass(frozen=True, slots=True)
class Audience:
    """The conditions for a room to get a campaign.

    Attributes:
        rooms: direct messages, salons, or both.
        domains: server names of the persons in direct messages; empty for any.
        active_days: number of days in which the bot must have answered there; None for no limit.
        sample: largest number of rooms, chosen at random; None for all.
    """

    rooms: Literal["direct", "salons", "all"] = "direct"
    domains: tuple[str, ...] = ()
    active_days: int | None = None
    sample: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """The definition of a campaign: its messages, its audience and its timing.

    Attributes:
        name: its unique name, `[a-z0-9-]+`.
        message: the announcement, or the introduction to the questions.
        begins_at: time of its start, in seconds since the epoch; None for its launch.
        ends_at: time at which it closes, in seconds since the epoch; None if it is closed by hand.
        reminder_after: seconds without an answer after which a person is reminded, once.
        per_minute: largest number of messages that it sends in a minute.
        notifies: whether clients notify people of its first message, unless that is a poll.
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
        """The number of messages for each room: the introduction, and one for each question."""
        return bool(self.message) + len(self.questions)

    def question(self, step: int) -> CampaignQuestion | None:
        """Return the question of a step (from 0); None if the step is the message."""
        number = step - bool(self.message)
        return self.questions[number] if number >= 0 else None

    def by_key(self, key: str) -> CampaignQuestion | None:
        """Return the question with that key; None if there is none."""
        return next((one for one in self.questions if one.key == key), None)

    def step_of(self, key: str) -> int:
        """Return the step at which a question is asked."""
        return bool(self.message) + [one.key for one in self.questions].index(key)


@dataclass(frozen=True, slots=True)
class Recipient:
    """A room that a campaign goes to.

    Attributes:
        person: the other member of a direct message; None in a salon.
    """

    room_id: RoomId
    person: UserId | None = None


@dataclass(frozen=True, slots=True)
class RecipientRoom:
    """The room of a campaign's messages, and their thread in it.

    Attributes:
        direct: whether it is a direct message; else it is a salon.
        thread_root: in a salon, the campaign's first message there, once it is sent.
    """

    room_id: RoomId
    direct: bool = True
    thread_root: EventId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DueMessage:
    """One message of a campaign that is due in one room.

    Attributes:
        campaign: the campaign's name.
        recipient: the room.
        kind: the next step, a reminder, or the end of a poll.
        step: number of the step, from 0.
        due_at: time to send it, in seconds since the epoch.
        event_id: the question that a reminder or an end is about.
        begun: whether it may have been sent already.
    """

    campaign: str
    recipient: RecipientRoom
    kind: Literal["step", "remind", "end"]
    step: int
    due_at: float
    event_id: EventId | None = None
    begun: bool = False


@dataclass(frozen=True, slots=True)
class DeliveryProgress:
    """How many rooms of a campaign are done, and which milestone the admins know of.

    Attributes:
        rooms: number of rooms that it goes to.
        done: number of these that were reached, or get nothing.
        closed: whether the campaign and its polls have ended.
        reported: the last milestone that was reported to the admins.
    """

    rooms: int
    done: int
    closed: bool
    reported: int

    @property
    def milestone(self) -> int:
        """The last milestone passed: 0, 25, 50, 75 or 100 percent of the rooms, or CLOSED.

        A campaign to fewer than 20 rooms has only 0, 100 and CLOSED.
        """
        if self.closed:
            return CLOSED
        passed = self.done * 100 // self.rooms if self.rooms else 0
        return passed - passed % (_QUARTER if self.rooms >= _MANY else 100)


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """A question of a campaign that was sent to a room.

    Attributes:
        question: the question's key.
        recipient: the room.
    """

    campaign: str
    question: str
    recipient: RecipientRoom


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignResults:
    """The state of a campaign and the answers so far.

    Attributes:
        state: "draft", "running", "closing" (polls are being ended) or "closed".
        rooms: number of rooms that it goes to.
        reached: number of rooms that got at least one message.
        declined: number of rooms that get nothing.
        answered: number of rooms with at least one answer.
        completed: number of rooms with an answer to the last question.
        answers: for each question's key, how many people chose each answer.
        texts: for each question's key, how many people answered in words.
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
    """Return the rooms that a campaign goes to, in an order that looks random.

    Each person is in one of them at the most.

    Args:
        campaign: the campaign, with its audience.
        rooms: the rooms in which the bot can speak.
        active: time of the bot's last answer in each room, in seconds since the epoch.
        heeds: whether the bot acts on what a person writes; if not, it would not count a vote.
        now: the current time, in seconds since the epoch.
    """
    audience = campaign.audience
    fitting = [
        one for one in rooms if _fits(audience, one) and _is_active(audience, one, active, now)
    ]
    found = [one for one in fitting if not one.direct or (one.person and heeds(one.person))]
    found.sort(key=lambda one: hashlib.sha256(f"{campaign.name}\0{one.room_id}".encode()).digest())
    to = [Recipient(one.room_id, one.person if one.direct else None) for one in found]
    people = {one.person or one.room_id: one for one in reversed(to)}
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


def _is_active(audience: Audience, room: Room, active: Mapping[RoomId, float], now: float) -> bool:
    if audience.active_days is None:
        return True
    return active.get(room.room_id, 0.0) >= now - audience.active_days * 86_400


def next_time(quiet: Quiet | None, at: float) -> float:
    """Return the first time from `at` on that is not quiet, in seconds since the epoch."""
    if quiet is None:
        return at
    moment = start = datetime.fromtimestamp(at, quiet.zone)
    for _ in range(10):  # enough for a weekend and the nights around it
        end = _quiet_until(quiet, moment)
        if end is None:
            return at if moment is start else max(moment.timestamp(), at)
        moment = end
    raise ValueError("there is no moment that is not quiet")


def _quiet_until(quiet: Quiet, moment: datetime) -> datetime | None:
    """Return the end of the quiet time that a moment is in; None if the moment is not quiet."""
    today = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    tomorrow = today + timedelta(days=1)
    if quiet.weekend and moment.weekday() >= _SATURDAY:
        return tomorrow
    clock = moment.time()
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
    """Return each answer with its count and its share of all counts, from 0 to 1."""
    total = sum(counts.values())
    return [(key, count, count / total if total else 0.0) for key, count in counts.items()]

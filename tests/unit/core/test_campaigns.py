from datetime import datetime, time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.campaigns import (
    SCALE,
    Audience,
    Campaign,
    CampaignQuestion,
    Quiet,
    Recipient,
    choose,
    next_time,
    offered,
    share,
)
from bot.core.events import Room, RoomId, UserId
from bot.core.polls import PollAnswer

PARIS = ZoneInfo("Europe/Paris")
NIGHTS = Quiet(time(18), time(9), PARIS)
NOON = Quiet(time(12), time(14), PARIS, weekend=False)
DAY = 86_400.0
NOW = 1_000 * DAY


def direct(number: int, server: str = "tchap.test") -> Room:
    return Room(room_id=RoomId(f"!{number}"), direct=True, person=UserId(f"@a{number}:{server}"))


def salon(number: int) -> Room:
    return Room(room_id=RoomId(f"!s{number}"), direct=False)


def chosen(audience: Audience, *rooms: Room, active: dict[str, float] | None = None) -> set[str]:
    known = {RoomId(room_id): at for room_id, at in (active or {}).items()}
    found = choose(Campaign(name="n", audience=audience), rooms, known, heeds, NOW)
    return {one.room_id for one in found}


def heeds(person: UserId) -> bool:
    return not person.startswith("@bot")


@pytest.mark.parametrize(
    ("audience", "reached"),
    [
        (Audience(), {"!1", "!2"}),
        (Audience("salons"), {"!s1"}),
        (Audience("all"), {"!1", "!2", "!s1"}),
        (Audience(domains=("other.test",)), {"!2"}),
        (Audience("all", domains=("other.test",)), {"!2"}),
        (Audience(domains=("nowhere.test",)), set()),
        (Audience(active_days=7), {"!1"}),
        (Audience("all", active_days=30), {"!1", "!s1"}),
    ],
)
def test_an_audience_is_chosen_by_kind_domain_and_activity(
    audience: Audience, reached: set[str]
) -> None:
    rooms = [
        direct(1),
        direct(2, "other.test"),
        salon(1),
        Room(room_id=RoomId("!admin"), direct=False, admin=True),
        Room(room_id=RoomId("!closed"), direct=True, closed=True, person=UserId("@x:tchap.test")),
        Room(room_id=RoomId("!nobody"), direct=True),
        Room(room_id=RoomId("!bot"), direct=True, person=UserId("@bot:tchap.test")),
    ]

    active = {"!1": NOW - DAY, "!s1": NOW - 20 * DAY, "!2": NOW - 40 * DAY}
    assert chosen(audience, *rooms, active=active) == reached


def test_a_sample_is_drawn_by_the_campaigns_name() -> None:
    rooms = [direct(number) for number in range(1_000)]
    audience = Audience(sample=100)

    one = choose(Campaign(name="one", audience=audience), rooms, {}, heeds, NOW)
    again = choose(Campaign(name="one", audience=audience), reversed(rooms), {}, heeds, NOW)
    other = choose(Campaign(name="other", audience=audience), rooms, {}, heeds, NOW)

    assert len(one) == 100
    assert one == again
    assert 0 < len({*one} & {*other}) < 50
    assert isinstance(one[0], Recipient)
    assert one[0].person is not None


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=PARIS).timestamp()


@pytest.mark.parametrize(
    ("quiet", "moment", "first"),
    [
        (None, "2026-11-28T03:00", "2026-11-28T03:00"),
        (NIGHTS, "2026-11-27T10:00", "2026-11-27T10:00"),
        (NIGHTS, "2026-11-26T18:00", "2026-11-27T09:00"),
        (NIGHTS, "2026-11-27T08:59", "2026-11-27T09:00"),
        (NIGHTS, "2026-11-27T17:59", "2026-11-27T17:59"),
        (NIGHTS, "2026-11-27T18:00", "2026-11-30T09:00"),  # a Friday evening
        (NIGHTS, "2026-11-28T12:00", "2026-11-30T09:00"),
        (NOON, "2026-11-28T12:00", "2026-11-28T14:00"),
        (NOON, "2026-11-28T14:00", "2026-11-28T14:00"),
        (NIGHTS, "2026-03-27T20:00", "2026-03-30T09:00"),  # over the change to summer time
    ],
)
def test_nothing_is_sent_in_quiet_hours(quiet: Quiet | None, moment: str, first: str) -> None:
    assert next_time(quiet, at(moment)) == at(first)


@given(st.times(), st.times(), st.booleans(), st.floats(1.5e9, 2e9))
def test_what_is_said_to_be_no_quiet_moment_is_none(
    begin: time,
    end: time,
    weekend: bool,  # noqa: FBT001  # drawn
    moment: float,
) -> None:
    begin, end = begin.replace(second=0, microsecond=0), end.replace(second=0, microsecond=0)
    quiet = Quiet(begin, end, PARIS, weekend)

    first = next_time(quiet, moment)

    assert moment <= first <= moment + 4 * DAY
    assert next_time(quiet, first) == first


CHOICE = CampaignQuestion("1", "choice", "Utile ?", (PollAnswer("1", "Oui"),))
ANSWERED = Campaign(
    name="n", questions=(CHOICE, CampaignQuestion("2", "scale", "Combien ?")), message="Bonjour"
)


def test_steps_are_the_message_and_the_questions() -> None:
    silent = Campaign(name="n", questions=ANSWERED.questions)

    assert [ANSWERED.question(step) for step in range(3)] == [None, *ANSWERED.questions]
    assert [silent.question(step) for step in range(2)] == [*ANSWERED.questions]
    assert (ANSWERED.steps, silent.steps) == (3, 2)
    assert (ANSWERED.step_of("2"), silent.step_of("2")) == (2, 1)
    assert Campaign(name="n", message="Bonjour").steps == 1


def test_a_scale_offers_eleven_answers() -> None:
    assert offered(CHOICE) == CHOICE.answers
    assert offered(ANSWERED.questions[1]) == SCALE
    assert [one.text for one in SCALE] == [str(number) for number in range(11)]


def test_parts_are_of_all_answers() -> None:
    assert share({"a": 3, "b": 1}) == [("a", 3, 0.75), ("b", 1, 0.25)]
    assert share({"a": 0}) == [("a", 0, 0.0)]
    assert share({}) == []

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.events import Conversation, EventId, UserId
from bot.core.limits import HOUR, PAUSE, Allowance, Breaker, Limits
from tests.make import AGENT, COLLEAGUE, ROOM

HERE = Conversation(ROOM, None)
THERE = Conversation(ROOM, EventId("$root"))


@pytest.mark.parametrize(
    ("most", "times", "granted"),
    [
        (3, [0, 1, 2, 3, 3599], 3),
        (3, [0, 1, 2, 3600], 4),
        (3, [0, 1, 2, 3600, 3600.5], 4),  # the next is free when the second is an hour old
        (3, [0, 1800, 3500, 3599, 3601, 5401], 5),  # whenever the hour begins
        (0, [0.0] * 1000, 1000),
        (1, [0, 10, 20, 3600, 3601], 2),
    ],
)
def test_so_many_are_granted_in_any_one_hour(
    most: int, times: Sequence[float], granted: int
) -> None:
    allowance = Allowance(most, HOUR)

    assert sum(allowance.take(AGENT, number, at) for number, at in enumerate(times)) == granted


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 30), st.integers(1, 3)), max_size=50),
)
def test_no_span_of_time_holds_more_than_there_is(
    most: int, asked: Sequence[tuple[str, float, int]]
) -> None:
    allowance, now, granted = Allowance(most, 60.0), 0.0, list[tuple[str, float, int]]()
    for number, (whose, pause, much) in enumerate(asked):
        now += pause
        there = sum(one[2] for one in granted if one[0] == whose and one[1] > now - 60.0)
        if allowance.take(whose, number, now, much):
            assert there + much <= most
            granted.append((whose, now, much))
        else:
            assert there + much > most


def test_one_cause_counts_once_and_everybody_has_their_own() -> None:
    allowance = Allowance(1)

    assert allowance.take(AGENT, "$1", 0.0)
    assert allowance.take(AGENT, "$1", 1.0)
    assert not allowance.take(AGENT, "$2", 2.0)
    assert allowance.take(COLLEAGUE, "$2", 2.0)
    assert allowance.take("the whole service", "$2", 2.0)


def test_an_allowance_may_be_of_any_measure() -> None:
    tokens = Allowance(1_000)

    assert tokens.take(AGENT, "$1", 0.0, 900)
    assert not tokens.take(AGENT, "$2", 1.0, 101)
    assert tokens.take(AGENT, "$3", 2.0, 100)


def test_who_was_there_long_ago_is_forgotten() -> None:
    allowance = Allowance(1)
    for number in range(20_000):
        allowance.take(number, "$1", 0.0)

    assert len(allowance._used) == 10_000


Step = tuple[str, float]  # "hear" or "speak", and when

ECHO = [
    (what, n * 1.5 + later) for n in range(10) for what, later in (("speak", 0.0), ("hear", 1.0))
]
PERSON = [
    (what, n * 9.0 + later) for n in range(10) for what, later in (("speak", 0.0), ("hear", 2.1))
]


def heard(breaker: Breaker, steps: Sequence[Step], *, late: bool = False) -> list[int]:
    """Return after how many messages the conversation was paused, each time."""
    count, paused = 0, []
    for what, at in steps:
        if what == "speak":
            breaker.spoke(HERE, AGENT, at)
            continue
        count += 1
        event_id = EventId(f"${count}")
        if not breaker.is_paused(HERE, at) and breaker.trips(HERE, AGENT, event_id, at, late=late):
            paused.append(count)
    return paused


@pytest.mark.parametrize(
    ("steps", "paused"),
    [
        (ECHO, [6]),
        (ECHO[:11], []),
        (PERSON, []),
        ([*ECHO[:10], ("hear", 10.0), *((what, at + 20) for what, at in ECHO[:10])], []),
        ([*ECHO, *((what, at + PAUSE + 9) for what, at in ECHO)], [6, 16]),
        ([("hear", n * 3.0) for n in range(40)], []),  # twenty in a minute
        ([("hear", n * 2.9) for n in range(40)], [21]),
        ([("hear", n * 0.1) for n in range(400)], [21]),
        ([("hear", n * 0.1) for n in range(20)] + [("hear", n * 4 + 60.0) for n in range(20)], []),
        ([("hear", 0.0)] * 20 + [("hear", 59.9)], [21]),
        ([("hear", 0.0)] * 20 + [("hear", 60.0)], []),
    ],
)
def test_a_conversation_is_paused_when_people_could_not_write_as_fast(
    steps: Sequence[Step], paused: Sequence[int]
) -> None:
    assert heard(Breaker(Limits()), steps) == paused


def test_a_message_in_the_middle_of_an_answer_neither_counts_nor_excuses() -> None:
    breaker = Breaker(Limits())
    for number in range(5):
        breaker.spoke(HERE, AGENT, number * 10.0)
        assert not breaker.trips(HERE, AGENT, EventId(f"${number}"), number * 10.0 + 1)
        middle = EventId(f"$middle{number}")
        assert not breaker.trips(HERE, AGENT, middle, number * 10.0 + 5, busy=True)

    breaker.spoke(HERE, AGENT, 60.0)
    assert breaker.trips(HERE, AGENT, EventId("$last"), 61.0)


def test_what_comes_all_at_once_after_a_downtime_pauses_nothing() -> None:
    assert heard(Breaker(Limits()), [("hear", 0.0)] * 100, late=True) == []


@pytest.mark.parametrize(
    ("limits", "steps"),
    [(Limits(quick=0), ECHO), (Limits(per_minute=0), [("hear", 0.0)] * 400)],
)
def test_what_is_switched_off_pauses_nothing(limits: Limits, steps: Sequence[Step]) -> None:
    assert heard(Breaker(limits), steps) == []


def test_each_sender_and_each_conversation_has_exchanges_of_its_own() -> None:
    breaker = Breaker(Limits(per_minute=0))
    for number in range(12):
        sender = (AGENT, COLLEAGUE, UserId("@third:tchap.test"))[number % 3]
        conversation = (HERE, THERE)[number % 2]
        breaker.spoke(conversation, sender, number)
        assert not breaker.trips(conversation, sender, EventId(f"${number}"), number + 1)


def test_a_sender_is_told_once_however_many_conversations_are_paused() -> None:
    breaker = Breaker(Limits())

    assert breaker.tells(AGENT, EventId("$1"), 0.0)
    assert not breaker.tells(AGENT, EventId("$2"), 1.0)
    assert breaker.tells(COLLEAGUE, EventId("$3"), 1.0)
    assert breaker.tells(AGENT, EventId("$4"), PAUSE)

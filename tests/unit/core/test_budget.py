"""What of a conversation goes to the model, however long it grows."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.budget import Calibration, fit, size
from bot.core.events import Turn
from bot.core.models import ModelCard
from bot.errors import PromptTooLong

CARD = ModelCard("m", "M", "m", context_length=10_000, max_tokens=872, temperature=None)
SYSTEM = Turn("system", "s" * 84)  # takes 100 of the room
QUESTION = Turn("user", "u" * 84)
REPLY = Turn("assistant", "a" * 184)  # takes 200


class TestTheRoom:
    def test_it_is_what_completion_and_template_leave_at_three_characters_a_token(self) -> None:
        assert Calibration().room(CARD, 10_000) == 9000 * 3

    def test_it_is_never_below_nothing(self) -> None:
        assert Calibration().room(CARD, 500) == 0

    @pytest.mark.parametrize(
        ("characters", "tokens", "ratio"),
        [
            (4100, 1000, 4.0),
            (2000, 1000, 2.0),
            (3290, 1000, 3.0),
            (3310, 1000, 3.25),
            (2710, 1000, 3.0),
            (2690, 1000, 2.5),
            (9000, 1000, 6.0),
            (2000, 9000, 1.0),
            (1999, 1000, 3.0),
            (4100, 0, 3.0),
            (4100, -1, 3.0),
        ],
    )
    def test_it_follows_what_the_backend_counts_in_coarse_steps(
        self, characters: int, tokens: int, ratio: float
    ) -> None:
        calibration = Calibration()
        calibration.learn("m", characters, tokens)

        assert calibration.room(CARD, 10_000) == 9000 * ratio

    def test_it_is_each_models_own(self) -> None:
        calibration = Calibration()
        calibration.learn("another", 4000, 1000)

        assert calibration.room(CARD, 10_000) == 9000 * 3

    def test_it_stays_while_the_measure_is_near_the_one_in_use(self) -> None:
        calibration = Calibration()
        rooms = []
        for characters in (4010, 4300, 3700, 4390, 3610):
            calibration.learn("m", characters, 1000)
            rooms.append(calibration.room(CARD, 10_000))

        assert rooms == [9000 * 4.0] * 5

    @given(st.lists(st.tuples(st.integers(-10, 10**6), st.integers(-10, 10**6))))
    def test_the_ratio_keeps_its_bounds_and_its_steps(self, counts: list[tuple[int, int]]) -> None:
        calibration = Calibration()
        for characters, tokens in counts:
            calibration.learn("m", characters, tokens)

        ratio = calibration.room(CARD, 10_000) / 9000
        assert 1 <= ratio <= 6
        assert ratio % 0.25 == 0


def test_all_stays_while_it_fits() -> None:
    turns = [SYSTEM, REPLY, QUESTION, REPLY, QUESTION]

    assert fit(turns, size(turns)) == turns


def test_the_oldest_leave_until_a_quarter_is_free() -> None:
    said = [Turn("user", str(number) * 84) for number in range(9)]

    assert fit(said, 800) == said[2:]


def test_what_stays_begins_with_a_person() -> None:
    turns = [SYSTEM, QUESTION, REPLY, REPLY, QUESTION, REPLY, QUESTION]

    assert fit(turns, 900) == [SYSTEM, QUESTION, REPLY, QUESTION]


def test_a_long_prompt_costs_no_more_than_it_needs() -> None:
    said = [*[QUESTION] * 8, Turn("user", "long" * 100)]

    assert fit(said, 1000) == said[3:]


def test_a_document_stays_when_what_came_before_it_leaves() -> None:
    said = [QUESTION, REPLY, Turn("user", "document" * 80), REPLY, QUESTION]

    assert fit(said, 1000) == said[2:]


@pytest.mark.parametrize("system", [[], [SYSTEM]])
def test_a_prompt_that_does_not_fit_alone_is_told_by_how_much(system: list[Turn]) -> None:
    turns = [*system, QUESTION, REPLY, QUESTION]
    room = size([*system, QUESTION]) - 7

    with pytest.raises(PromptTooLong) as failure:
        fit(turns, room)

    assert failure.value.values == {"excess": 7}
    assert fit(turns, room + 7) == [*system, QUESTION]


ROOM = 2000
SYSTEMS = st.sampled_from([[], [SYSTEM]])


def conversations(longest: int) -> st.SearchStrategy[list[Turn]]:
    """Return conversations that end with a prompt, of turns up to that long."""
    words = (st.integers(0, longest // 10) | st.integers(0, longest)).map("x".__mul__)
    roles = st.sampled_from(["user", "user", "assistant"])
    turns = st.lists(st.builds(Turn, roles, words), max_size=40)
    return st.builds(lambda said, prompt: [*said, Turn("user", prompt)], turns, words)


@given(SYSTEMS, conversations(ROOM + 500))
def test_what_stays_fits_in_order_with_the_system_turn_and_the_prompt(
    system: list[Turn], said: list[Turn]
) -> None:
    try:
        kept = fit([*system, *said], ROOM)
    except PromptTooLong:
        assert size([*system, said[-1]]) > ROOM
        return
    rest = kept[len(system) :]
    assert size(kept) <= ROOM
    assert kept[: len(system)] == system
    assert rest == said[-len(rest) :]
    assert len(rest) == len(said) or rest[0].role == "user"


@given(SYSTEMS, conversations(ROOM // 2))
def test_the_beginning_stays_until_a_quarter_of_the_room_leaves_at_once(
    system: list[Turn], said: list[Turn]
) -> None:
    firsts = []
    for length, turn in enumerate(said, 1):
        if turn.role == "user":
            kept = fit([*system, *said[:length]], ROOM)
            firsts.append(length - len(kept) + len(system))

    for before, after in pairwise(firsts):
        assert before == after or size(said[before:after]) >= ROOM // 4

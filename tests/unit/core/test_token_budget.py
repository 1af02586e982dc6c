"""What of a conversation goes to the model, however long it grows."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.chat import (
    FilePart,
    ImagePart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Turn,
    TurnPart,
    text_turn,
)
from bot.core.model_catalog import ModelCard
from bot.core.token_budget import Calibration, fit, size
from bot.errors import PromptTooLong

CARD = ModelCard(
    id="m", label="M", key="m", context_length=10_000, max_tokens=872, temperature=None
)
SYSTEM = text_turn("system", "s" * 84)  # takes 100 of the room
QUESTION = text_turn("user", "u" * 84)
REPLY = text_turn("assistant", "a" * 184)  # takes 200


class TestTheRoom:
    def test_it_is_what_completion_and_template_leave_at_three_characters_a_token(self) -> None:
        assert Calibration().longest_request(CARD, 10_000) == 9000 * 3

    def test_the_completion_leaves_it_half_of_a_small_context(self) -> None:
        card = replace(CARD, max_tokens=2048)

        assert Calibration().longest_request(card, 2048) == (1024 - 128) * 3

    @pytest.mark.parametrize("context_length", [1, 256])
    def test_it_is_never_below_nothing(self, context_length: int) -> None:
        assert Calibration().longest_request(CARD, context_length) == 0

    @pytest.mark.parametrize(
        ("characters", "tokens", "ratio"),
        [
            (4100, 1000, 3.75),
            (2000, 1000, 2.0),
            (3290, 1000, 3.0),
            (2710, 1000, 3.0),
            (9000, 1000, 4.25),
            (2000, 9000, 1.5),
            (1999, 1000, 3.0),
            (4100, 0, 3.0),
            (4100, -1, 3.0),
        ],
    )
    def test_it_follows_what_the_backend_counts_for_long_in_coarse_steps(
        self, characters: int, tokens: int, ratio: float
    ) -> None:
        calibration, rooms = Calibration(), []
        for _ in range(50):
            calibration.learn("m", characters, tokens)
            rooms.append(calibration.longest_request(CARD, 10_000))

        assert rooms[0] == 9000 * 3
        assert rooms[-1] == 9000 * ratio
        assert sum(before != after for before, after in pairwise(rooms)) <= 4

    @pytest.mark.parametrize(("characters", "tokens"), [(2000, 9000), (10**6, 1000)])
    def test_one_odd_request_does_not_move_it(self, characters: int, tokens: int) -> None:
        calibration = Calibration()
        calibration.learn("m", characters, tokens)

        assert calibration.longest_request(CARD, 10_000) == 9000 * 3

    def test_contents_in_turn_do_not_move_it(self) -> None:
        calibration, rooms = Calibration(), set()
        for _ in range(20):
            for characters in (8800, 3200):
                calibration.learn("m", characters, 2000)
                rooms.add(calibration.longest_request(CARD, 10_000))

        assert rooms == {9000 * 3}

    def test_it_is_each_models_own(self) -> None:
        calibration = Calibration()
        for _ in range(50):
            calibration.learn("another", 4000, 1000)
        calibration.step_down("a third")

        assert calibration.longest_request(CARD, 10_000) == 9000 * 3

    def test_it_steps_down_to_three_quarters_where_the_backend_refuses(self) -> None:
        calibration, rooms = Calibration(), []
        for _ in range(3):
            calibration.step_down("m")
            rooms.append(calibration.longest_request(CARD, 10_000))

        assert rooms == [9000 * 2.25, 9000 * 1.5, 9000 * 1.5]

    def test_it_comes_back_slowly_from_a_step_down(self) -> None:
        calibration, rooms = Calibration(), []
        calibration.step_down("m")
        for _ in range(50):
            calibration.learn("m", 3000, 1000)
            rooms.append(calibration.longest_request(CARD, 10_000))

        assert rooms[0] == 9000 * 2.25
        assert rooms == sorted(rooms)
        assert rooms[-1] == 9000 * 2.75

    @given(st.lists(st.tuples(st.integers(-10, 10**6), st.integers(-10, 10**6)) | st.none()))
    def test_the_ratio_keeps_its_bounds_and_its_steps(
        self, counts: list[tuple[int, int] | None]
    ) -> None:
        calibration = Calibration()
        for count in counts:
            if count:
                calibration.learn("m", *count)
            else:
                calibration.step_down("m")

        ratio = calibration.longest_request(CARD, 10_000) / 9000
        assert 1.5 <= ratio <= 4.5
        assert ratio % 0.25 == 0


def test_all_stays_while_it_fits() -> None:
    turns = [SYSTEM, REPLY, QUESTION, REPLY, QUESTION]

    assert fit(turns, size(turns)) == turns


def test_the_oldest_leave_until_a_quarter_is_free() -> None:
    said = [text_turn("user", str(number) * 84) for number in range(9)]

    assert fit(said, 800) == said[2:]


def test_what_stays_begins_with_a_person() -> None:
    turns = [SYSTEM, QUESTION, REPLY, REPLY, QUESTION, REPLY, QUESTION]

    assert fit(turns, 900) == [SYSTEM, QUESTION, REPLY, QUESTION]


def test_a_long_prompt_costs_no_more_than_it_needs() -> None:
    said = [*[QUESTION] * 8, text_turn("user", "long" * 100)]

    assert fit(said, 1000) == said[3:]


def test_a_document_stays_when_what_came_before_it_leaves() -> None:
    said = [QUESTION, REPLY, text_turn("user", "document" * 80), REPLY, QUESTION]

    assert fit(said, 1000) == said[2:]


CALL, RESULT = ToolCallPart("1", "meteo", "{}"), ToolResultPart("1", "r" * 84)


@pytest.mark.parametrize(
    ("parts", "characters"),
    [
        ((TextPart("Un"), TextPart("Deux")), 6),
        ((CALL,), 7),
        ((RESULT, RESULT), 168),
        ((FilePart("note.pdf", "data:,abc"),), 9),
        ((TextPart("Un"), ImagePart("https://images.test/1")), 3_502),
        ((), 0),
    ],
)
def test_each_kind_of_part_takes_its_share_of_the_room(
    parts: tuple[TurnPart, ...], characters: int
) -> None:
    assert size([Turn("user", parts)]) == 16 + characters


def test_no_result_of_a_tool_stays_without_the_call_before_it() -> None:
    said = [QUESTION, Turn("assistant", (CALL,)), Turn("tool", (RESULT,)), REPLY, QUESTION]

    assert fit(said, size(said[1:])) == said[4:]


@pytest.mark.parametrize("system", [[], [SYSTEM]])
def test_a_prompt_that_does_not_fit_alone_is_told_by_how_much(system: list[Turn]) -> None:
    turns = [*system, QUESTION, REPLY, QUESTION]
    room = size([*system, QUESTION]) - 7

    with pytest.raises(PromptTooLong) as failure:
        fit(turns, room)

    assert failure.value.values == {"n": 7}
    assert fit(turns, room + 7) == [*system, QUESTION]


ROOM = 2000
SYSTEMS = st.sampled_from([[], [SYSTEM]])


def conversations(longest: int) -> st.SearchStrategy[list[Turn]]:
    """Return conversations that end with a prompt, of turns up to that long."""
    words = (st.integers(0, longest // 10) | st.integers(0, longest)).map("x".__mul__)
    roles = st.sampled_from(["user", "user", "assistant"])
    turns = st.lists(st.builds(text_turn, roles, words), max_size=40)
    return st.builds(lambda said, prompt: [*said, text_turn("user", prompt)], turns, words)


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

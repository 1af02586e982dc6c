import pytest

from bot.core.polls import chosen


@pytest.mark.parametrize(
    ("voted", "answer"),
    [
        (["a"], "a"),
        (["b", "a"], "b"),
        (["a", "a"], "a"),
        ([], None),
        (["x"], None),
        (["a", "x"], None),
        ([""], None),
    ],
)
def test_a_vote_chooses_its_first_answer_unless_it_is_spoilt(
    voted: list[str], answer: str | None
) -> None:
    assert chosen(voted, {"a", "b"}) == answer

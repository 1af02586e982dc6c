from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.events import EventId
from bot.core.feedback import AskPolicy, Opinion, Past, answer_of, ask_after, asks_why

PROMPT = EventId("$prompt")
ALWAYS = AskPolicy("reply", one_in=1, silence=300.0, per_day=2)
SILENT = replace(ALWAYS, when="silence")
RARELY = 1_000_000  # of so many replies, one


@pytest.mark.parametrize(
    ("policy", "past", "after"),
    [
        (ALWAYS, Past(), 0.0),
        (SILENT, Past(), 300.0),
        (replace(ALWAYS, when="never"), Past(), None),
        (replace(SILENT, when="never"), Past(waiting=True), None),
        (ALWAYS, Past(refused=True), None),
        (SILENT, Past(refused=True, waiting=True), None),
        (ALWAYS, Past(asked=1), 0.0),
        (ALWAYS, Past(asked=2), None),
        (ALWAYS, Past(asked=3), None),
        (replace(ALWAYS, per_day=0), Past(), None),
        (ALWAYS, Past(last_asked=True), None),
        (replace(ALWAYS, one_in=RARELY), Past(), None),
        (replace(SILENT, one_in=RARELY), Past(), None),
        (replace(SILENT, one_in=RARELY), Past(waiting=True), 300.0),
    ],
)
def test_who_is_asked_and_when(policy: AskPolicy, past: Past, after: float | None) -> None:
    assert ask_after(policy, past, PROMPT) == after


def test_one_in_n_replies_is_asked_about_and_always_the_same_ones() -> None:
    policy = replace(ALWAYS, one_in=4)
    prompts = [EventId(f"${number}") for number in range(10_000)]

    asked = [one for one in prompts if ask_after(policy, Past(), one) is not None]

    assert 2_300 < len(asked) < 2_700
    assert asked == [one for one in prompts if ask_after(policy, Past(), one) is not None]


def thumb(answer: str, at: int) -> Opinion:
    return Opinion("helped", answer, at)


def cast(answer: str | None, at: int, poll: int = 1) -> Opinion:
    return Opinion("helped", answer, at, poll)


@pytest.mark.parametrize(
    ("opinions", "counts"),
    [
        ([], None),
        ([thumb("yes", 1)], "yes"),
        ([thumb("yes", 1), thumb("no", 2)], "no"),
        ([thumb("no", 2), thumb("yes", 1)], "no"),
        ([cast("partly", 1)], "partly"),
        ([cast("partly", 1), cast("no", 2)], "no"),
        ([cast("no", 2), cast("partly", 1)], "no"),
        ([cast("partly", 1), cast("no", 1)], "partly"),
        ([cast("no", 1), cast(None, 2)], None),
        ([cast(None, 2), cast("no", 1)], None),
        ([cast(None, 1), cast("no", 2)], "no"),
        ([thumb("yes", 1), cast("no", 2)], "no"),
        ([cast("no", 1), thumb("yes", 2)], "yes"),
        ([thumb("yes", 1), cast("no", 2), cast(None, 3)], "yes"),
        ([cast("no", 1, poll=1), cast("yes", 2, poll=2), cast(None, 3, poll=2)], "no"),
        ([Opinion("why", "other", 5, 2)], None),
    ],
)
def test_of_what_a_person_says_the_last_thing_counts(
    opinions: list[Opinion], counts: str | None
) -> None:
    found = answer_of(opinions, "helped")

    assert (found and found.answer) == counts


@given(st.permutations([cast("yes", 1), cast("no", 2), cast(None, 3), cast("partly", 4)]))
def test_the_order_in_which_votes_are_heard_changes_nothing(opinions: list[Opinion]) -> None:
    assert answer_of(opinions, "helped") == cast("partly", 4)


def test_who_is_not_content_is_asked_why() -> None:
    assert [asks_why(one) for one in ("yes", "partly", "no", None)] == [False, True, True, False]

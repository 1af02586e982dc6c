from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.events import EventId
from bot.core.feedback import (
    AskHistory,
    AskPolicy,
    Opinion,
    ReplyMetadata,
    answer_of,
    ask_after,
    asks_why,
    reason_of,
)
from tests.make import AGENT

PROMPT = EventId("$prompt")
ALWAYS = AskPolicy(when="reply", one_in=1, silence=300.0, per_day=2)
SILENT = replace(ALWAYS, when="silence")
RARELY = 1_000_000  # of so many replies, one
DIRECT = ReplyMetadata(sender=AGENT, direct=True, characters=300)
SALON = replace(DIRECT, direct=False, characters=5)


@pytest.mark.parametrize(
    ("policy", "past", "after"),
    [
        (ALWAYS, AskHistory(), 0.0),
        (SILENT, AskHistory(), 300.0),
        (replace(ALWAYS, when="never"), AskHistory(), None),
        (replace(SILENT, when="never"), AskHistory(waiting=True), None),
        (ALWAYS, AskHistory(refused=True), None),
        (SILENT, AskHistory(refused=True, waiting=True), None),
        (ALWAYS, AskHistory(asked=1), 0.0),
        (ALWAYS, AskHistory(asked=2), None),
        (ALWAYS, AskHistory(asked=3), None),
        (replace(ALWAYS, per_day=0), AskHistory(), None),
        (ALWAYS, AskHistory(last_asked=True), None),
        (replace(ALWAYS, one_in=RARELY), AskHistory(), None),
        (replace(SILENT, one_in=RARELY), AskHistory(), None),
        (replace(SILENT, one_in=RARELY), AskHistory(waiting=True), 300.0),
    ],
)
def test_who_is_asked_and_when(policy: AskPolicy, past: AskHistory, after: float | None) -> None:
    assert ask_after(policy, DIRECT, past, PROMPT) == after


@pytest.mark.parametrize(
    ("how", "salons", "least", "asked"),
    [
        (DIRECT, "never", 300, True),
        (replace(DIRECT, characters=299), "poll", 300, False),
        (replace(DIRECT, characters=0), "poll", 0, True),
        (replace(DIRECT, characters=None), "poll", 300, False),  # an earlier process knew
        (SALON, "poll", 300, True),
        (SALON, "reactions", 0, False),
        (SALON, "never", 0, False),
    ],
)
def test_polls_crowd_no_room(
    how: ReplyMetadata, salons: Literal["never", "reactions", "poll"], least: int, *, asked: bool
) -> None:
    policy = replace(ALWAYS, salons=salons, least_characters=least)
    for past in (AskHistory(), AskHistory(waiting=True)):
        assert (ask_after(policy, how, past, PROMPT) is not None) == asked


def test_one_in_n_replies_is_asked_about_and_always_the_same_ones() -> None:
    policy = replace(ALWAYS, one_in=4)
    prompts = [EventId(f"${number}") for number in range(10_000)]

    asked = [one for one in prompts if ask_after(policy, DIRECT, AskHistory(), one) is not None]

    assert 2_300 < len(asked) < 2_700
    again = [one for one in prompts if ask_after(policy, DIRECT, AskHistory(), one) is not None]
    assert asked == again


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


def why(answer: str | None, at: int) -> Opinion:
    return Opinion("why", answer, at, 2)


@pytest.mark.parametrize(
    ("opinions", "reason"),
    [
        ([cast("no", 1)], None),
        ([cast("no", 1), why("sources", 2)], "sources"),
        ([why("sources", 2), cast("no", 1)], "sources"),
        ([why("sources", 1), cast("no", 2)], "sources"),  # two homeservers, two clocks
        ([why("sources", 1), cast("no", 2), thumb("yes", 3)], None),
        ([why("sources", 1), cast("partly", 2), cast("no", 3)], None),
        ([cast("no", 1), why("sources", 2), thumb("yes", 3)], None),
        ([cast("no", 1), why("sources", 2), cast("partly", 3)], None),
        ([cast("partly", 1), why("sources", 2), thumb("no", 3)], None),
        ([cast("no", 1), why("sources", 2), thumb("no", 3)], "sources"),
        ([cast("no", 1), why("sources", 2), cast("yes", 3), thumb("no", 4)], "sources"),
        ([cast("no", 1), why("sources", 2), cast("partly", 3), why("other", 4)], "other"),
        ([cast("no", 1), why("sources", 2), why(None, 3)], None),
        ([cast("no", 1), why("sources", 2), cast(None, 3)], None),
        ([thumb("no", 1), cast("partly", 2), why("other", 3), cast(None, 4)], None),
        ([why("sources", 1)], None),
    ],
)
def test_a_reason_stays_with_the_rating_that_it_was_given_for(
    opinions: list[Opinion], reason: str | None
) -> None:
    assert reason_of(opinions) == reason


@given(st.permutations([cast("yes", 1), cast("no", 2), cast(None, 3), cast("partly", 4)]))
def test_the_order_in_which_votes_are_heard_changes_nothing(opinions: list[Opinion]) -> None:
    assert answer_of(opinions, "helped") == cast("partly", 4)


def test_who_is_not_content_is_asked_why() -> None:
    assert [asks_why(one) for one in ("yes", "partly", "no", None)] == [False, True, True, False]

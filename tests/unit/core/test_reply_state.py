from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.reply_state import (
    Closed,
    Finishing,
    Found,
    Interrupted,
    Opening,
    PriorReply,
    PriorState,
    Reason,
    ReplyState,
    Restarting,
    Streaming,
    Waiting,
    asked_again,
    can_restart,
    can_stop,
    closed,
    ends_early,
    finishing,
    interrupted,
    is_outdated,
    is_visible,
    opened,
    opening,
    reason_of,
    restarted,
    shown,
)

Transition = Callable[[ReplyState], ReplyState]

STOPPED, ABANDONED = Reason.STOPPED, Reason.ABANDONED
STATES: list[ReplyState] = [
    *(Opening(visible) for visible in (False, True)),
    Waiting(),
    Streaming(),
    *(Restarting(visible) for visible in (False, True)),
    *(
        Interrupted(reason, visible, outdated)
        for reason, visible, outdated in product(Reason, (False, True), (False, True))
    ),
    *(Finishing(reason, visible) for reason, visible in product((None, *Reason), (False, True))),
    *(Closed(visible) for visible in (False, True)),
]
TRANSITIONS: list[Transition] = [
    *(partial(opened, visible=visible) for visible in (False, True)),
    *(shown, restarted, asked_again, finishing, closed),
    *(partial(interrupted, reason=reason) for reason in Reason),
]
states, events = st.sampled_from(STATES), st.lists(st.sampled_from(TRANSITIONS), max_size=12)


def after(state: ReplyState, sequence: Sequence[Transition]) -> ReplyState:
    for event in sequence:
        state = event(state)
    return state


@pytest.mark.parametrize(
    ("before", "visible"),
    [
        (PriorState.NOTHING, False),
        (PriorState.PERHAPS, False),
        (PriorState.BEGUN, True),
        (PriorState.WHOLE, True),
    ],
)
def test_a_reply_that_was_begun_may_be_visible_before_it_is_looked_for(
    before: PriorState, *, visible: bool
) -> None:
    assert opening(before) == Opening(visible)


@pytest.mark.parametrize(
    ("state", "event", "then"),
    [
        (Opening(visible=True), partial(opened, visible=False), Waiting()),
        (Opening(visible=False), partial(opened, visible=True), Streaming()),
        (
            Interrupted(ABANDONED, visible=True),
            partial(opened, visible=False),
            Interrupted(ABANDONED, visible=False),
        ),
        (Closed(visible=True), partial(opened, visible=False), Closed(visible=False)),
        (Waiting(), shown, Streaming()),
        (Streaming(), shown, Streaming()),
        (Restarting(visible=False), shown, Restarting(visible=True)),
        (Interrupted(STOPPED, visible=False), shown, Interrupted(STOPPED, visible=True)),
        (Finishing(None, visible=False), shown, Finishing(None, visible=True)),
        (Closed(visible=False), shown, Closed(visible=True)),
        # What is asked before the model was asked needs no second request.
        (Opening(visible=False), restarted, Opening(visible=False)),
        (Waiting(), restarted, Restarting(visible=False)),
        (Streaming(), restarted, Restarting(visible=True)),
        (Restarting(visible=False), restarted, Restarting(visible=False)),
        (Interrupted(STOPPED, visible=True), restarted, Interrupted(STOPPED, visible=True)),
        (Finishing(None, visible=True), restarted, Finishing(None, visible=True)),
        (Closed(visible=True), restarted, Closed(visible=True)),
        (Restarting(visible=False), asked_again, Waiting()),
        (Restarting(visible=True), asked_again, Streaming()),
        (
            Interrupted(STOPPED, visible=True, outdated=True),
            asked_again,
            Interrupted(STOPPED, visible=True),
        ),
        (Streaming(), asked_again, Streaming()),
        (
            Opening(visible=True),
            partial(interrupted, reason=ABANDONED),
            Interrupted(ABANDONED, visible=True),
        ),
        (
            Waiting(),
            partial(interrupted, reason=STOPPED),
            Interrupted(STOPPED, visible=False),
        ),
        (
            Restarting(visible=True),
            partial(interrupted, reason=STOPPED),
            Interrupted(STOPPED, visible=True, outdated=True),
        ),
        (
            Finishing(None, visible=True),
            partial(interrupted, reason=STOPPED),
            Finishing(STOPPED, visible=True),
        ),
        # The first reason is the one that is told.
        (
            Interrupted(STOPPED, visible=True),
            partial(interrupted, reason=ABANDONED),
            Interrupted(STOPPED, visible=True),
        ),
        (
            Finishing(STOPPED, visible=True),
            partial(interrupted, reason=Reason.THREAD_GONE),
            Finishing(STOPPED, visible=True),
        ),
        (Closed(visible=True), partial(interrupted, reason=STOPPED), Closed(visible=True)),
        (Opening(visible=True), finishing, Finishing(None, visible=True)),
        (Waiting(), finishing, Finishing(None, visible=False)),
        (Streaming(), finishing, Finishing(None, visible=True)),
        (Restarting(visible=True), finishing, Finishing(None, visible=True)),
        (Interrupted(STOPPED, visible=True), finishing, Finishing(STOPPED, visible=True)),
        (Finishing(STOPPED, visible=True), finishing, Finishing(STOPPED, visible=True)),
        (Closed(visible=False), finishing, Closed(visible=False)),
    ],
)
def test_an_event_leads_from_one_state_to_the_next(
    state: ReplyState, event: Transition, then: ReplyState
) -> None:
    assert event(state) == then


@pytest.mark.parametrize("state", STATES)
def test_every_event_leads_to_a_defined_state(state: ReplyState) -> None:
    assert {event(state) for event in TRANSITIONS} <= set(STATES)


@pytest.mark.parametrize("state", STATES)
def test_whatever_the_state_a_reply_is_closed_at_once(state: ReplyState) -> None:
    assert closed(state) == Closed(is_visible(state))


@given(states, events)
def test_a_closed_reply_stays_closed(state: ReplyState, sequence: Sequence[Transition]) -> None:
    assert isinstance(after(closed(state), sequence), Closed)


@given(states, events)
def test_the_first_reason_stays_until_the_reply_is_closed(
    state: ReplyState, sequence: Sequence[Transition]
) -> None:
    reason, then = reason_of(state), after(state, sequence)

    assert reason is None or isinstance(then, Closed) or reason_of(then) is reason


@given(states, events)
def test_no_event_brings_back_what_has_ended(
    state: ReplyState, sequence: Sequence[Transition]
) -> None:
    then = after(state, sequence)

    assert can_restart(state) or not can_restart(then)
    assert not ends_early(state) or ends_early(then)
    assert not isinstance(state, Finishing) or isinstance(then, Finishing | Closed)


@given(states, st.lists(st.sampled_from([one for one in TRANSITIONS if one is not closed])))
def test_what_was_shown_stays_visible(state: ReplyState, sequence: Sequence[Transition]) -> None:
    sequence = [one for one in sequence if not (isinstance(one, partial) and one.func is opened)]

    assert is_visible(after(shown(state), sequence))


@pytest.mark.parametrize("state", STATES)
def test_only_a_reply_without_a_reason_can_be_stopped(state: ReplyState) -> None:
    then = interrupted(state, STOPPED)

    assert can_stop(state, several_missing=True) == (then != state)
    late = isinstance(state, Finishing)
    assert can_stop(state, several_missing=False) == (then != state and not late)


@pytest.mark.parametrize("state", STATES)
def test_a_restart_is_known_until_the_model_is_asked_again(state: ReplyState) -> None:
    then = restarted(state)

    assert is_outdated(then) or not can_restart(state) or isinstance(state, Opening)
    assert not is_outdated(asked_again(then))


@pytest.mark.parametrize(
    ("found", "doubtful", "settled"),
    [
        (Found.NOTHING, False, False),
        (Found.PART, False, False),
        (Found.WHOLE, False, True),
        (Found.WORDLESS, False, True),
        (Found.REDACTED, False, False),
        (Found.HIDDEN, True, False),
    ],
)
def test_what_was_found_counts_only_for_the_words_that_are_asked_now(
    found: Found, *, doubtful: bool, settled: bool
) -> None:
    prior = PriorReply(found)
    assert (prior.is_doubtful, prior.is_settled) == (doubtful, settled)

    prior = PriorReply(found, outdated=True)
    assert not prior.is_doubtful
    assert not prior.is_settled

"""Tests of the checker on histories with faults that it must find."""

import pytest

from bot.core.events import EventId, UserId
from bot.core.markdown import render
from bot.matrix.parse import MARKER, NOTICE_MARKER
from tests.chaos.checker import Verdict, judge
from tests.chaos.story import ask, numbers, tell
from tests.harness.client_view import JSON

BOT, ADA = UserId("@assistant:stand.test"), UserId("@ada:stand.test")
ONE, TWO = EventId("$one"), EventId("$two")
ASKED = {ONE: 1, TWO: 2}


def event(event_id: str, content: JSON, *, at: int = 0, sender: str = BOT) -> JSON:
    kind = "m.room.message" if "body" in content else "m.room.encrypted"
    return {
        "event_id": event_id,
        "sender": sender,
        "type": kind,
        "content": content,
        "origin_server_ts": at,
    }


def content(text: str, *answers: EventId) -> JSON:
    shown, (prompt, *joined) = render(text), answers
    return {
        "body": shown.body,
        "formatted_body": shown.formatted_body,
        MARKER: {"prompt": prompt, "joined": joined},
    }


def edit(event_id: str, target: str, text: str, *answers: EventId, at: int) -> JSON:
    relation = {"rel_type": "m.replace", "event_id": target}
    new = content(text, *answers)
    return event(event_id, {"body": "*", "m.new_content": new, "m.relates_to": relation}, at=at)


def unreadable(event_id: str, relation: JSON, *, at: int = 0) -> JSON:
    return event(event_id, {"ciphertext": "…", "m.relates_to": relation}, at=at)


def found(*events: JSON) -> tuple[list[int], list[int]]:
    """Return the numbers of the prompts without and with too many replies."""
    verdict: Verdict = judge(events, BOT, ASKED)
    lost, duplicated = verdict.lost, verdict.duplicated
    return [fault.number for fault in lost], [fault.number for fault in duplicated]


WHOLE = event("$r1", content(tell([1]), ONE))
OTHER = event("$r2", content(tell([2]), TWO))
BOTH = content(tell([1, 2]), ONE, TWO)


def test_what_was_redacted_is_to_have_no_reply() -> None:
    withdrawn = {EventId(ONE)}

    kept = judge([WHOLE, OTHER], BOT, ASKED, withdrawn)
    gone = judge([OTHER], BOT, ASKED, withdrawn)

    assert ([one.number for one in kept.duplicated], kept.lost) == ([1], [])
    assert (gone.duplicated, gone.lost) == ([], [])


def test_one_whole_reply_to_each_prompt_is_as_it_should_be() -> None:
    assert found(WHOLE, OTHER) == ([], [])
    assert found(event("$r", BOTH)) == ([], [])


def test_a_prompt_without_a_reply_is_lost() -> None:
    assert found(WHOLE) == ([2], [])
    assert found() == ([1, 2], [])


@pytest.mark.parametrize("cut", [1, 40, len(tell([1])) - 2])
def test_a_truncated_reply_is_lost(cut: int) -> None:
    truncated = event("$r1", content(tell([1])[:cut], ONE))

    assert found(truncated, OTHER) == ([1], [])


def test_a_reply_that_says_more_than_the_model_is_lost() -> None:
    marked = event("$r1", content(f"{tell([1])}\n\nInterrompu.", ONE))

    assert found(marked, OTHER) == ([1], [])


def test_the_reply_to_another_prompt_is_none() -> None:
    assert found(event("$r1", content(tell([2]), ONE)), OTHER) == ([1], [])
    assert found(event("$r", content(tell([2, 1]), ONE, TWO))) == ([1, 2], [])


def test_two_replies_are_one_too_many_whatever_they_say() -> None:
    cut = event("$r3", content(tell([1])[:40], ONE))
    notice = event("$n", {"body": "Désolé", NOTICE_MARKER: {"prompt": ONE}})
    again = event("$r4", content(tell([1]), ONE))

    for second in (cut, notice, again, event("$r", BOTH)):
        assert found(WHOLE, OTHER, second)[1][:1] == [1]


def test_a_notice_alone_is_no_answer() -> None:
    notice = event("$n", {"body": "Désolé", NOTICE_MARKER: {"prompt": ONE}})

    assert found(notice, OTHER) == ([1], [])


def test_what_the_observer_cannot_read_counts_and_says_nothing() -> None:
    reply = unreadable("$r0", {"rel_type": "m.reference", "event_id": ONE})

    assert found(reply, OTHER) == ([1], [])
    assert found(reply, WHOLE, OTHER) == ([], [1])
    assert found(WHOLE, unreadable("$e", {"rel_type": "m.replace", "event_id": "$r1"}, at=1)) == (
        [1, 2],
        [],
    )


def test_the_newest_edit_stands_and_of_one_millisecond_the_greatest_id() -> None:
    first = event("$r1", content("Il", ONE))
    whole = edit("$e2", "$r1", tell([1]), ONE, at=2)

    assert found(first, whole, edit("$e1", "$r1", "Il était", ONE, at=1), OTHER) == ([], [])
    assert found(first, whole, edit("$e1", "$r1", "Il était", ONE, at=3), OTHER) == ([1], [])
    assert found(first, whole, edit("$e1", "$r1", "Il était", ONE, at=2), OTHER) == ([], [])
    assert found(first, whole, edit("$e3", "$r1", "Il était", ONE, at=2), OTHER) == ([1], [])


def test_what_is_redacted_and_what_others_say_does_not_count() -> None:
    redacted = {**event("$r3", content(tell([1]), ONE)), "unsigned": {"redacted_because": {}}}
    foreign = event("$r4", content(tell([1]), ONE), sender=ADA)

    assert found(WHOLE, OTHER, redacted, foreign) == ([], [])
    assert found(OTHER, redacted, foreign) == ([1], [])


def test_what_is_found_instead_is_told() -> None:
    cut = event("$r1", content(tell([1])[:40], ONE))

    [fault, other] = judge([cut], BOT, ASKED).lost

    assert fault.found.startswith("$r1 ")
    assert other.found == "no reply"


def test_a_story_is_the_same_for_the_same_words_and_another_for_others() -> None:
    assert numbers(f"Agent 1 : {ask(7)}\n\n{ask(12)}") == [7, 12]
    assert tell([7]) == tell([7]) != tell([8])
    assert tell([7, 8]) == f"{tell([7])}\n\n{tell([8])}"

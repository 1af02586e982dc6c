from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.events import EventId, Message, UserId
from bot.matrix.parse import MARKER, Revision, parse_membership, parse_message
from tests.make import AGENT, ROOM

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "type": st.just("m.room.message") | st.just("m.room.member") | JSON,
        "event_id": st.just("$e") | JSON,
        "sender": st.just(AGENT) | JSON,
        "state_key": st.just("") | JSON,
        "origin_server_ts": st.integers() | JSON,
        "unsigned": JSON | st.fixed_dictionaries({"prev_content": JSON}),
        "content": JSON
        | st.fixed_dictionaries(
            {},
            optional={
                "msgtype": st.just("m.text") | JSON,
                "body": st.text() | JSON,
                "membership": st.just("join") | JSON,
                MARKER: JSON | st.fixed_dictionaries({"added": JSON}),
                "m.new_content": JSON | st.fixed_dictionaries({"body": JSON}),
                "m.relates_to": JSON
                | st.fixed_dictionaries(
                    {"rel_type": st.sampled_from(["m.replace", "m.thread"]) | JSON},
                    optional={"event_id": st.just("$t") | JSON},
                ),
            },
        ),
    },
)


def source(**content: Any) -> dict[str, Any]:  # noqa: ANN401  # JSON of any shape
    return {
        "type": "m.room.message",
        "event_id": "$e",
        "sender": AGENT,
        "origin_server_ts": 12,
        "content": {"msgtype": "m.text", "body": "Bonjour", **content},
    }


@given(NEARLY)
def test_no_shape_of_an_event_makes_the_parser_fail(event: dict[str, Any]) -> None:
    heard = parse_message(event, ROOM)
    member = parse_membership(event)

    assert heard is None or heard.event_id == event["event_id"]
    assert member is None or member.user_id == event["state_key"]


def test_a_text_message_is_read() -> None:
    expected = Message(EventId("$e"), ROOM, AGENT, "m.text", "Bonjour", 12)

    assert parse_message(source(), ROOM) == expected


def test_a_message_in_a_thread_names_its_root() -> None:
    relation = {"rel_type": "m.thread", "event_id": "$root", "is_falling_back": True}

    heard = parse_message(source(**{"m.relates_to": relation}), ROOM)

    assert isinstance(heard, Message)
    assert heard.thread_root == "$root"


def test_an_edit_is_a_revision_of_its_target_and_no_message() -> None:
    edit = source(
        **{
            "m.new_content": {"msgtype": "m.text", "body": "Bonsoir"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": "$first"},
        }
    )

    expected = Revision(EventId("$e"), EventId("$first"), UserId(AGENT), "Bonsoir", 12)
    assert parse_message(edit, ROOM) == expected


def test_lines_that_the_bot_added_are_not_part_of_what_was_said() -> None:
    marked = source(body="Le ciel.\n\nIncomplet !", **{MARKER: {"added": ["Incomplet !"]}})

    heard = parse_message(marked, ROOM)

    assert isinstance(heard, Message)
    assert heard.body == "Le ciel."


@pytest.mark.parametrize(
    "broken",
    [
        {"content": {}},
        {"content": {"msgtype": "m.text", "body": 3}},
        {"content": {"msgtype": None, "body": "x"}},
        {"event_id": None},
        {"sender": 7},
        {"type": "m.room.name"},
    ],
)
def test_what_is_no_message_is_none(broken: dict[str, Any]) -> None:
    assert parse_message(source() | broken, ROOM) is None

"""What a homeserver may answer, and what comes of it."""

import json
from typing import Any

import nio
import pytest
from nio.crypto import OlmAccount
from nio.responses import EmptyResponse, RoomEventRelationsResponse

from bot.matrix import response_repair
from bot.matrix.parse import latest_edit
from tests.unit.matrix.shapes import device_keys

ADA, MALLORY = "@ada:x", "@mallory:x"


def read(expected: type[nio.Response], body: object, *data: object) -> Any:  # noqa: ANN401  # of many classes
    return response_repair.read(expected, json.dumps(body).encode(), data)


def sync(**sections: object) -> Any:  # noqa: ANN401  # nio's response, or ours
    return read(
        nio.SyncResponse,
        {"next_batch": "s1", "rooms": {}, "device_one_time_keys_count": {}} | sections,
    )


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[]", b"null", b'"x"', b"\xff"])
def test_an_answer_without_a_json_object_is_an_error_not_an_empty_answer(raw: bytes) -> None:
    assert isinstance(response_repair.read(EmptyResponse, raw, ()), nio.ErrorResponse)


def test_the_unused_fallback_keys_are_read() -> None:
    key = "device_unused_fallback_key_types"

    assert sync(**{key: ["signed_curve25519"]}).unused_fallback_key_types == ("signed_curve25519",)
    assert sync(**{key: []}).unused_fallback_key_types == ()
    assert sync().unused_fallback_key_types is None
    assert sync(**{key: "x"}).unused_fallback_key_types is None


CREATE = {"type": "m.room.create", "state_key": "", "sender": ADA}


@pytest.mark.parametrize(
    ("state", "space"),
    [
        ([CREATE | {"content": {"type": "m.space"}}], True),
        ([CREATE | {"content": {}}], False),
        ([CREATE | {"content": {"type": ["m.space"]}}], False),
        ([CREATE | {"type": "m.room.name", "content": {"type": "m.space"}}], False),
        ([3, None, {"content": {"type": "m.space"}}], False),
        ({}, False),
        (None, False),
    ],
)
def test_an_invitation_tells_whether_it_is_to_a_space(state: object, *, space: bool) -> None:
    rooms = {"invite": {"!a:x": {"invite_state": {"events": state}}}}

    assert sync(rooms=rooms).spaces == ({"!a:x"} if space else set())


MALFORMED: list[Any] = [
    *(3, None, [], "x", {}),
    {"user_id": MALLORY, "device_id": "D", "algorithms": []},
    {"user_id": 3, "device_id": "D", "algorithms": [], "keys": {}},
    {"user_id": MALLORY, "device_id": "D", "algorithms": [], "keys": {"ed25519:D": 3}},
    {"user_id": MALLORY, "device_id": "D", "algorithms": "x", "keys": {}},
    *(
        {"user_id": MALLORY, "device_id": "D", "algorithms": [], "keys": {}, "signatures": bad}
        for bad in list[Any]([{"@x:x": 1}, 5, None, []])
    ),
    {"user_id": MALLORY, "device_id": "D", "algorithms": [], "keys": {"ed25519:D": "\ud800"}},
]


@pytest.mark.parametrize("bad", MALFORMED, ids=str)
def test_t7_a_malformed_device_hides_no_other(bad: object) -> None:
    good = device_keys(ADA, OlmAccount())
    response = read(
        nio.KeysQueryResponse, {"device_keys": {MALLORY: {"D": bad}, ADA: {"D": good}}}
    )

    assert isinstance(response, nio.KeysQueryResponse)
    assert response.device_keys == {MALLORY: {}, ADA: {"D": good}}


@pytest.mark.parametrize("bad", [3, None, [], "x", {}], ids=str)
def test_a_malformed_one_time_key_hides_no_other(bad: object) -> None:
    good = {"signed_curve25519:AAAA": {"key": "A", "signatures": {}}}
    response = read(
        nio.KeysClaimResponse, {"one_time_keys": {MALLORY: {"D": bad}, ADA: {"D": good}}}
    )

    assert isinstance(response, nio.KeysClaimResponse)
    assert response.one_time_keys == {MALLORY: {}, ADA: {"D": good}}


def encrypted(**content: object) -> dict[str, Any]:
    """Return an encrypted message as MSC3700 has it: no sender_key, no device_id."""
    whole = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x", "session_id": "s"} | content
    event = {"type": "m.room.encrypted", "event_id": "$1", "sender": ADA, "origin_server_ts": 1}
    return event | {"room_id": "!r:x", "content": whole}


def test_msc3700_an_encrypted_event_without_its_sender_key_is_one_all_the_same() -> None:
    timeline = {"events": [encrypted()], "limited": False, "prev_batch": "p"}
    heard = sync(rooms={"join": {"!r:x": {"timeline": timeline}}})
    page = read(nio.RoomMessagesResponse, {"chunk": [encrypted()], "start": "s"}, "!r:x")
    one = read(nio.RoomGetEventResponse, encrypted())

    events = [*heard.rooms.join["!r:x"].timeline.events, *page.chunk, one.event]
    assert [type(event) for event in events] == [nio.MegolmEvent] * 3


@pytest.mark.parametrize("content", [{"ciphertext": None}, {"algorithm": 3}, {"session_id": {}}])
def test_a_malformed_encrypted_event_takes_no_other_with_it(content: dict[str, object]) -> None:
    chunk = [encrypted(**content), encrypted()]
    page = read(nio.RoomMessagesResponse, {"chunk": chunk, "start": "s"}, "!r:x")

    assert isinstance(page.chunk[-1], nio.MegolmEvent)
    assert not any(isinstance(event, nio.MegolmEvent) for event in page.chunk[:-1])


def test_errors_stay_errors() -> None:
    refused = {"errcode": "M_FORBIDDEN", "error": "no"}

    for expected, *data in (
        (nio.SyncResponse,),
        (nio.KeysQueryResponse,),
        (nio.KeysClaimResponse, ""),
        (nio.RoomMessagesResponse, "!r:x"),
        (RoomEventRelationsResponse, "!r:x", "$1"),
        (EmptyResponse,),
    ):
        response = read(expected, refused, *data)
        assert isinstance(response, nio.ErrorResponse)
        assert response.status_code == "M_FORBIDDEN"


@pytest.mark.parametrize(
    "answer",
    [
        {"device_keys": {MALLORY: 5}},
        {"device_keys": {MALLORY: None}},
        {"device_keys": {}, "failures": 5},
    ],
)
def test_one_users_malformed_answer_hides_no_other(answer: dict[str, Any]) -> None:
    good = device_keys(ADA, OlmAccount())
    answer["device_keys"][ADA] = {"D": good}
    claimed = {"D": {"signed_curve25519:AAAA": {"key": "A", "signatures": {}}}}
    claim = {"one_time_keys": {MALLORY: 5, ADA: claimed}, "failures": []}

    response = read(nio.KeysQueryResponse, answer)
    assert isinstance(response, nio.KeysQueryResponse)
    assert response.device_keys == {ADA: {"D": good}}
    assert read(nio.KeysClaimResponse, claim, "").one_time_keys == {ADA: claimed}


@pytest.mark.parametrize(
    ("unsigned", "name"),
    [
        (None, {}),
        ([], {}),
        ({"device_display_name": {}}, {}),
        ({"device_display_name": "\ud800"}, {}),
        ({"device_display_name": 10**30}, {}),
        ({"device_display_name": "Phone"}, {"device_display_name": "Phone"}),
    ],
)
def test_what_a_device_says_of_its_name_is_a_name_or_nothing(
    unsigned: object, name: dict[str, str]
) -> None:
    device = device_keys(ADA, OlmAccount()) | {"unsigned": unsigned}
    response = read(nio.KeysQueryResponse, {"device_keys": {ADA: {"D": device}}})

    assert response.device_keys[ADA]["D"]["unsigned"] == name


def bundled(edit: object) -> dict[str, Any]:
    relations = {"m.relations": {"m.replace": edit}}
    return said("hi") | {"room_id": "!r:x", "unsigned": relations}


def test_a_bundled_edit_is_made_whole_like_any_event() -> None:
    page = read(nio.RoomMessagesResponse, {"chunk": [bundled(encrypted())], "start": "s"}, "!r:x")
    related = read(RoomEventRelationsResponse, {"chunk": [bundled(encrypted())]}, "!r:x", "$1")
    one = read(nio.RoomGetEventResponse, bundled(encrypted()))

    edits = [latest_edit(event) for event in (page.chunk[0], related.events[0], one.event)]
    parsed = [nio.Event.parse_event(dict(edit or {})) for edit in edits]
    assert [type(event) for event in parsed] == [nio.MegolmEvent] * 3


@pytest.mark.parametrize("odd", [3, None, [], {}, {"content": 3}, {"content": {}}])
def test_an_odd_bundled_edit_takes_its_event_not_with_it(odd: object) -> None:
    page = read(RoomEventRelationsResponse, {"chunk": [bundled(odd), 3]}, "!r:x", "$1")

    assert [event.body for event in page.events] == ["hi"]
    found = latest_edit(page.events[0])
    assert found is None or isinstance(
        nio.Event.parse_event(dict(found)), nio.Event | nio.BadEvent | nio.UnknownBadEvent
    )


def said(body: str) -> dict[str, Any]:
    content = {"msgtype": "m.text", "body": body}
    event = {"type": "m.room.message", "event_id": "$1", "sender": ADA, "origin_server_ts": 1}
    return event | {"content": content}


@pytest.mark.parametrize(
    "bad",
    [
        3,
        None,
        "x",
        {"type": "m.room.member", "state_key": ADA, "unsigned": None, "content": {}},
        {"type": "m.room.member", "state_key": ADA, "unsigned": {"prev_content": 5}},
        said("x") | {"unsigned": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("section", ["timeline", "state", "invite_state", "to_device", "leave"])
def test_what_is_no_event_takes_no_other_with_it(section: str, bad: object) -> None:
    body: dict[str, Any] = {"to_device": {"events": []}}
    rooms: dict[str, Any] = {"join": {"!r:x": {"timeline": {"events": [said("hi")]}}}}
    events = {"events": [bad]}
    if section == "to_device":
        body["to_device"] = events
    elif section == "invite_state":
        rooms["invite"] = {"!i:x": {"invite_state": events}}
    elif section == "leave":
        rooms["leave"] = {"!l:x": {"timeline": {**events, "limited": False, "prev_batch": "p"}}}
    elif section == "state":
        rooms["join"]["!r:x"]["state"] = events
    else:
        rooms["join"]["!r:x"]["timeline"]["events"].insert(0, bad)

    heard = sync(rooms=rooms, **body)

    assert isinstance(heard, nio.SyncResponse)
    assert heard.next_batch == "s1"
    texts = [getattr(one, "body", None) for one in heard.rooms.join["!r:x"].timeline.events]
    assert "hi" in texts


@pytest.mark.parametrize("sent", [-1, 1.5, None, "x", True, [], ...], ids=str)
def test_an_event_of_no_time_is_of_the_beginning_and_takes_no_other_with_it(sent: object) -> None:
    odd = {key: value for key, value in said("odd").items() if key != "origin_server_ts"}
    if sent is not ...:
        odd["origin_server_ts"] = sent
    chunk = [odd | {"room_id": "!r:x"}, said("hi") | {"room_id": "!r:x"}]
    timeline = {"events": chunk, "limited": False, "prev_batch": "p"}

    events = [
        *sync(rooms={"join": {"!r:x": {"timeline": timeline}}}).rooms.join["!r:x"].timeline.events,
        *read(nio.RoomMessagesResponse, {"chunk": chunk, "start": "s"}, "!r:x").chunk,
        *read(RoomEventRelationsResponse, {"chunk": chunk}, "!r:x", "$1").events,
        *(read(nio.RoomGetEventResponse, one).event for one in chunk),
    ]

    assert [(one.body, one.server_timestamp) for one in events] == [("odd", 0), ("hi", 1)] * 4


@pytest.mark.parametrize("levels", [150, 1_500, 30_000])
def test_an_event_nested_too_deep_takes_no_other_with_it(levels: int) -> None:
    deep = '{"type": "x", "sender": "@m:x", "content": {"x": ' + "[" * levels + "]" * levels + "}}"
    body = json.dumps(
        {
            "next_batch": "s1",
            "to_device": {
                "events": ["DEEP", {"type": "y", "sender": ADA, "content": {"a": "]}"}}]
            },
            "rooms": {"join": {"!r:x": {"timeline": {"events": [said('a "deep" [one')]}}}},
            "device_one_time_keys_count": {},
        }
    )
    heard = response_repair.read(nio.SyncResponse, body.replace('"DEEP"', deep).encode(), ())

    assert isinstance(heard, nio.SyncResponse)
    assert heard.to_device_events[-1].source["content"] == {"a": "]}"}
    [message] = heard.rooms.join["!r:x"].timeline.events
    assert getattr(message, "body", None) == 'a "deep" [one'


def test_a_response_that_cannot_be_parsed_is_given_up_and_its_token_is_not() -> None:
    heard = sync(rooms={"join": {"!r:x": {"timeline": {"events": [said("hi")]}, "summary": 5}}})

    assert isinstance(heard, nio.SyncResponse)
    assert heard.next_batch == "s1"
    assert heard.rooms.join == {}
    assert heard.device_key_count.signed_curve25519 == 50  # nothing is uploaded on its account

import itertools
import json
import math
from typing import Any

import nio
import pytest

from bot.core.events import (
    Event,
    EventId,
    Invite,
    Joined,
    KeyNews,
    Left,
    Message,
    RoomId,
    Undecryptable,
    UserId,
)
from bot.matrix.rooms import Rooms
from tests.make import AGENT, BOT, ROOM
from tests.stand.vault import health

DIRECT = {
    "type": "im.vector.room.access_rules",
    "state_key": "",
    "event_id": "$rule",
    "sender": AGENT,
    "origin_server_ts": 1,
    "content": {"rule": "direct"},
}


def member(
    now: str, before: str | None = None, user: str = BOT, event_id: str | None = None
) -> dict[str, Any]:
    return {
        "type": "m.room.member",
        "state_key": user,
        "event_id": event_id or f"${now}-{user}",
        "sender": user,
        "origin_server_ts": 1,
        "content": {"membership": now},
        "unsigned": {"prev_content": {"membership": before}} if before else {},
    }


def said(body: str, event_id: str) -> dict[str, Any]:
    return {
        "type": "m.room.message",
        "event_id": event_id,
        "sender": AGENT,
        "origin_server_ts": 1,
        "content": {"msgtype": "m.text", "body": body},
    }


def sync(
    timeline: list[dict[str, Any]],
    *,
    state: list[dict[str, Any]] | None = None,
    members: tuple[int, int] = (2, 0),
    direct: dict[str, list[str]] | None = None,
    **rooms: Any,  # noqa: ANN401  # other sections of /sync
) -> nio.SyncResponse:
    body = {
        "next_batch": "s1",
        "device_one_time_keys_count": {},
        "account_data": {"events": [{"type": "m.direct", "content": direct}] if direct else []},
        "rooms": {
            "join": {
                ROOM: {
                    "state": {"events": state or []},
                    "timeline": {"events": timeline, "limited": False, "prev_batch": "p"},
                    "ephemeral": {"events": []},
                    "account_data": {"events": []},
                    "summary": {
                        "m.joined_member_count": members[0],
                        "m.invited_member_count": members[1],
                    },
                }
            },
            **rooms,
        },
    }
    response = nio.SyncResponse.from_dict(json.loads(json.dumps(body)))
    assert isinstance(response, nio.SyncResponse), response
    return response


def hear(rooms: Rooms, response: nio.SyncResponse, **how: bool) -> list[Event]:
    pieces = rooms.hear(response, **({"first": False, "fresh": False} | how))
    return list(itertools.chain.from_iterable(pieces))


def bodies(events: list[Event]) -> list[str]:
    return [event.body for event in events if isinstance(event, Message)]


def test_the_first_prompt_sent_with_the_invitation_follows_the_joining() -> None:
    arrival = sync(
        [
            said("before", "$0"),
            member("invite"),
            said("first prompt", "$1"),
            member("join", "invite"),
            said("second", "$2"),
        ],
        state=[DIRECT],
    )

    events = hear(Rooms(BOT, health()), arrival)

    assert events[0] == Joined(EventId(f"$join-{BOT}"), ROOM)
    assert bodies(events) == ["first prompt", "second"]


def test_in_a_salon_nothing_from_before_the_joining_is_heard() -> None:
    arrival = sync([member("invite"), said("before", "$1"), member("join", "invite")])

    assert hear(Rooms(BOT, health()), arrival) == [Joined(EventId(f"$join-{BOT}"), ROOM)]


def test_a_joining_outside_the_timeline_is_noticed_in_a_room_not_known_before() -> None:
    rooms, arrival = (
        Rooms(BOT, health()),
        sync([said("hi", "$1")], state=[member("join", "invite"), DIRECT]),
    )

    assert Joined(EventId(f"$join-{BOT}"), ROOM) in hear(rooms, arrival)
    assert bodies(hear(rooms, sync([said("again", "$2")]))) == ["again"]


def test_a_restart_does_not_join_again() -> None:
    state = [member("join", "invite"), DIRECT]

    assert hear(Rooms(BOT, health()), sync([said("hi", "$1")], state=state), first=True) != []
    assert not any(
        isinstance(one, Joined)
        for one in hear(Rooms(BOT, health()), sync([], state=state), first=True)
    )


def test_a_new_display_name_is_no_joining() -> None:
    assert hear(Rooms(BOT, health()), sync([member("join", "join")])) == []


def test_an_account_that_never_synced_hears_nothing_old() -> None:
    assert (
        hear(
            Rooms(BOT, health()), sync([said("old", "$1")], state=[DIRECT]), first=True, fresh=True
        )
        == []
    )


def test_the_last_person_to_leave_leaves_the_bot_alone() -> None:
    rooms = Rooms(BOT, health())

    left = hear(rooms, sync([member("leave", "join", user=AGENT)], members=(1, 0)))

    assert left == [Left(EventId(f"$leave-{AGENT}"), ROOM, alone=True)]


@pytest.mark.parametrize("members", [(2, 0), (1, 1)])
def test_somebody_joined_or_invited_is_company(members: tuple[int, int]) -> None:
    left = hear(Rooms(BOT, health()), sync([member("leave", "join", user=AGENT)], members=members))

    assert left == [Left(EventId(f"$leave-{AGENT}"), ROOM, alone=False)]


@pytest.mark.parametrize(
    ("state", "listed", "members", "direct"),
    [
        ([DIRECT], False, (2, 0), True),
        ([DIRECT], False, (2, 1), False),
        ([DIRECT | {"content": {"rule": "restricted"}}], True, (2, 0), False),
        ([], True, (2, 0), True),
        ([], True, (1, 1), True),
        ([], True, (2, 1), False),
        ([], False, (2, 0), False),
        ([DIRECT | {"state_key": "x"}], False, (2, 0), False),
    ],
)
def test_a_direct_message_is_known_by_its_rule_else_by_the_account_data(
    state: list[dict[str, Any]],
    listed: bool,  # noqa: FBT001  # a table's column
    members: tuple[int, int],
    direct: bool,  # noqa: FBT001  # a table's column
) -> None:
    rooms = Rooms(BOT, health())
    hear(rooms, sync([], state=state, members=members, direct={AGENT: [ROOM]} if listed else None))

    assert rooms.room(ROOM).direct is direct


def test_an_older_echo_of_the_account_data_takes_no_room_off_the_list() -> None:
    rooms = Rooms(BOT, health())
    rooms.note_direct(AGENT, ROOM)

    hear(rooms, sync([], direct={AGENT: ["!another:x"]}))

    assert rooms.room(ROOM).direct
    assert rooms.direct == {AGENT: [ROOM, "!another:x"]}


def test_an_invitation_names_its_sender_and_whether_it_is_direct() -> None:
    invitation = {"type": "m.room.member", "state_key": BOT, "sender": AGENT}
    invitation["content"] = {"membership": "invite", "is_direct": True}  # type: ignore[assignment]  # JSON
    state = {"invite_state": {"events": [{"type": "x"}, invitation]}}

    events = hear(Rooms(BOT, health()), sync([], invite={"!new:x": state}))

    assert events == [Invite(EventId("invite:!new:x"), "!new:x", UserId(AGENT), direct=True)]  # type: ignore[arg-type]  # a room id


def test_a_decrypted_payload_is_never_state() -> None:
    forged = nio.Event.parse_event(member("leave", "join", user=AGENT))
    forged.decrypted = True
    response = sync([], members=(1, 0))
    response.rooms.join[ROOM].timeline.events.append(forged)

    assert hear(Rooms(BOT, health()), response) == []


def test_the_bot_does_not_hear_itself() -> None:
    rooms = Rooms(BOT, health())

    assert hear(rooms, sync([said("mine", "$1") | {"sender": BOT}])) == []
    assert rooms.latest(ROOM) == "$1"


def test_the_last_message_is_known_and_edits_do_not_count() -> None:
    rooms = Rooms(BOT, health())
    edit = said("* x", "$2")
    edit["content"] |= {
        "m.new_content": {"msgtype": "m.text", "body": "x"},
        "m.relates_to": {"rel_type": "m.replace", "event_id": "$1"},
    }

    hear(rooms, sync([said("hi", "$1"), edit]))

    assert rooms.latest(ROOM) == "$1"
    rooms.note_sent(ROOM, EventId("$mine"))
    assert rooms.latest(ROOM) == "$mine"


def created(version: str, **content: object) -> dict[str, Any]:
    event = {"type": "m.room.create", "state_key": "", "event_id": "$create", "sender": AGENT}
    return event | {"origin_server_ts": 1, "content": {"room_version": version, **content}}


def levels(**content: object) -> dict[str, Any]:
    event = {"type": "m.room.power_levels", "state_key": "", "event_id": "$levels"}
    return event | {"sender": AGENT, "origin_server_ts": 1, "content": content}


SECOND, OTHER = UserId("@second:tchap.test"), UserId("@other:tchap.test")


@pytest.mark.parametrize(
    ("state", "user_id", "level"),
    [
        ([], AGENT, 0),
        ([created("10", creator=AGENT)], AGENT, 100),
        ([created("10", creator=AGENT)], OTHER, 0),
        ([created("11")], AGENT, 100),
        ([created("11"), levels(users={OTHER: 50}, users_default=10)], AGENT, 10),
        ([created("11"), levels(users={OTHER: 50}, users_default=10)], OTHER, 50),
        ([created("11"), levels(users={OTHER: "100"}, users_default="x")], OTHER, 0),
        ([created("11"), levels(users=[OTHER])], OTHER, 0),
        ([created("12"), levels(users={OTHER: 100})], AGENT, math.inf),
        ([created("12"), levels(users={OTHER: 100})], OTHER, 100),
        ([created("12", additional_creators=[SECOND]), levels()], SECOND, math.inf),
        ([created("11", additional_creators=[SECOND]), levels()], SECOND, 0),
    ],
)
def test_a_power_level_is_what_the_homeservers_state_says(
    state: list[dict[str, Any]], user_id: UserId, level: float
) -> None:
    rooms = Rooms(BOT, health())
    hear(rooms, sync([], state=state))

    assert rooms.power_level(ROOM, user_id) == level


def test_a_power_level_that_changes_counts_from_then_on() -> None:
    rooms = Rooms(BOT, health())
    hear(rooms, sync([], state=[created("11"), levels(users={OTHER: 50})]))
    hear(rooms, sync([levels(users={OTHER: 0})]))

    assert rooms.power_level(ROOM, OTHER) == 0


def encrypted(**content: object) -> dict[str, Any]:
    whole = {
        "algorithm": "m.megolm.v1.aes-sha2",
        "ciphertext": "x",
        "session_id": "session",
        "sender_key": "",
        "device_id": "",
    }
    event = {"type": "m.room.encrypted", "event_id": "$e", "sender": AGENT, "origin_server_ts": 7}
    return event | {"content": whole | content}


def test_a_message_that_cannot_be_read_is_heard_as_that() -> None:
    state = health()

    [event] = hear(Rooms(BOT, state), sync([encrypted()]))

    assert event == Undecryptable(EventId("$e"), ROOM, AGENT, "session", 7, None)
    assert (state.decrypted, state.undecryptable) == (0, 1)


def test_its_thread_is_read_from_what_stays_in_clear() -> None:
    relation = {"rel_type": "m.thread", "event_id": "$root"}

    [event] = hear(Rooms(BOT, health()), sync([encrypted(**{"m.relates_to": relation})]))

    assert isinstance(event, Undecryptable)
    assert event.thread_root == "$root"


@pytest.mark.parametrize("kind", ["m.replace", "m.reference", "m.annotation"])
def test_an_edit_or_vote_that_cannot_be_read_asks_for_nothing(kind: str) -> None:
    relation = {"rel_type": kind, "event_id": "$1"}

    assert hear(Rooms(BOT, health()), sync([encrypted(**{"m.relates_to": relation})])) == []


def test_the_bots_own_message_that_cannot_be_read_is_none() -> None:
    assert hear(Rooms(BOT, health()), sync([encrypted() | {"sender": BOT}])) == []


def test_a_redacted_message_is_not_one_that_cannot_be_read() -> None:
    redacted = encrypted() | {"content": {}, "unsigned": {"redacted_because": {"event_id": "$r"}}}

    assert hear(Rooms(BOT, health()), sync([redacted])) == []


def test_news_of_keys_are_what_came_and_what_is_withheld() -> None:
    withheld = {"room_id": ROOM, "session_id": "s1", "code": "m.unverified", "sender_key": "k"}
    response = sync([])
    response.to_device_events = [
        nio.RoomKeyEvent({}, AGENT, "k", ROOM, "s0", "m.megolm.v1.aes-sha2"),
        nio.UnknownToDeviceEvent({"content": withheld}, AGENT, "m.room_key.withheld"),
        nio.UnknownToDeviceEvent({"content": {"code": "m.no_olm"}}, AGENT, "m.room_key.withheld"),
        nio.UnknownToDeviceEvent({"content": []}, AGENT, "m.room_key.withheld"),
        nio.UnknownToDeviceEvent({"content": withheld}, AGENT, "org.example.other"),
    ]

    nowhere = RoomId("")
    assert Rooms(BOT, health()).hear_keys(response) == (
        KeyNews(AGENT, ROOM, "s0", None),
        KeyNews(AGENT, ROOM, "s1", "m.unverified"),
        KeyNews(AGENT, nowhere, "", "m.no_olm"),
        KeyNews(AGENT, nowhere, "", ""),
    )

import itertools
import json
import math
from typing import Any

import nio
import pytest

from bot.core.events import (
    Conversation,
    Edit,
    Event,
    EventId,
    Invite,
    Joined,
    KeyNews,
    Left,
    Message,
    Reaction,
    Redaction,
    RoomId,
    Undecryptable,
    Upgraded,
    UserId,
    Vote,
)
from bot.core.prompt_context import History
from bot.matrix import room_events as module
from bot.matrix.history import Histories
from bot.matrix.nio_client import SafeClient
from bot.matrix.parse import MARKER, NOTICE_MARKER
from bot.matrix.room_events import Rooms
from bot.matrix.state_events import ADMIN, FOLLOWING, ROOM_MARKER
from bot.monitoring.health import Health
from tests.harness.vault import health
from tests.make import AGENT, BOT, COLLEAGUE, ROOM, message, prompt

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


VOTE = {
    "type": "m.poll.response",
    "event_id": "$1",
    "sender": AGENT,
    "content": {
        "m.relates_to": {"rel_type": "m.reference", "event_id": "$poll"},
        "m.selections": ["yes"],
    },
}


def own(event_id: str, marker: str, prompt: str) -> dict[str, Any]:
    event = said("x", event_id) | {"sender": BOT}
    msgtype = "m.text" if marker == MARKER else "m.notice"
    event["content"] |= {"msgtype": msgtype, marker: {"prompt": prompt}}
    return event


def sync(
    timeline: list[dict[str, Any]],
    *,
    state: list[dict[str, Any]] | None = None,
    members: tuple[int, int] = (2, 0),
    direct: dict[str, list[str]] | None = None,
    heroes: list[str] | None = None,
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
                        **({} if heroes is None else {"m.heroes": heroes}),
                    },
                }
            },
            **rooms,
        },
    }
    response = nio.SyncResponse.from_dict(json.loads(json.dumps(body)))
    assert isinstance(response, nio.SyncResponse), response
    return response


def new_rooms(state: Health | None = None) -> Rooms:
    histories = Histories(SafeClient("http://x", BOT, "BOT"), BOT)
    return Rooms(BOT, state or health(), histories)


def hear(rooms: Rooms, response: nio.SyncResponse, **how: bool) -> list[Event]:
    pieces = rooms.read_response(response, **({"first": False, "fresh": False} | how))
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

    events = hear(new_rooms(), arrival)

    assert events[0] == Joined(EventId(f"$join-{BOT}"), ROOM)
    assert bodies(events) == ["first prompt", "second"]


def test_in_a_salon_nothing_from_before_the_joining_is_heard() -> None:
    arrival = sync([member("invite"), said("before", "$1"), member("join", "invite")])

    assert hear(new_rooms(), arrival) == [Joined(EventId(f"$join-{BOT}"), ROOM)]


def test_a_joining_outside_the_timeline_is_noticed_in_a_room_not_known_before() -> None:
    rooms, arrival = (
        new_rooms(),
        sync([said("hi", "$1")], state=[member("join", "invite"), DIRECT]),
    )

    assert Joined(EventId(f"$join-{BOT}"), ROOM) in hear(rooms, arrival)
    assert bodies(hear(rooms, sync([said("again", "$2")]))) == ["again"]


def test_a_restart_does_not_join_again() -> None:
    state = [member("join", "invite"), DIRECT]

    assert hear(new_rooms(), sync([said("hi", "$1")], state=state), first=True) != []
    assert not any(
        isinstance(one, Joined) for one in hear(new_rooms(), sync([], state=state), first=True)
    )


def test_a_new_display_name_is_no_joining() -> None:
    assert hear(new_rooms(), sync([member("join", "join")])) == []


def test_an_account_that_never_synced_hears_nothing_old() -> None:
    assert (
        hear(new_rooms(), sync([said("old", "$1")], state=[DIRECT]), first=True, fresh=True) == []
    )


def test_the_person_of_a_direct_message_is_its_other_member_where_no_list_says_so() -> None:
    rooms = new_rooms()
    hear(rooms, sync([], state=[DIRECT], heroes=[AGENT]))
    assert (rooms.room(ROOM).direct, rooms.room(ROOM).person) == (True, AGENT)

    hear(rooms, sync([]))  # they have not changed
    assert rooms.room(ROOM).person == AGENT
    hear(rooms, sync([], heroes=[], members=(1, 0)))
    assert rooms.room(ROOM).person is None
    hear(rooms, sync([], heroes=[AGENT, COLLEAGUE], members=(3, 0)))
    assert (rooms.room(ROOM).direct, rooms.room(ROOM).person) == (False, None)
    hear(rooms, sync([], heroes=[COLLEAGUE], direct={AGENT: [ROOM]}))
    assert rooms.room(ROOM).person == AGENT


def test_two_members_alone_are_no_direct_message() -> None:
    rooms = new_rooms()
    hear(rooms, sync([], heroes=[AGENT]))
    assert not rooms.room(ROOM).direct


def test_the_last_person_to_leave_leaves_the_bot_alone() -> None:
    rooms = new_rooms()

    left = hear(rooms, sync([member("leave", "join", user=AGENT)], members=(1, 0)))

    assert left == [Left(EventId(f"$leave-{AGENT}"), ROOM, alone=True)]


@pytest.mark.parametrize("members", [(2, 0), (1, 1)])
def test_somebody_joined_or_invited_is_company(members: tuple[int, int]) -> None:
    left = hear(new_rooms(), sync([member("leave", "join", user=AGENT)], members=members))

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
    rooms = new_rooms()
    hear(rooms, sync([], state=state, members=members, direct={AGENT: [ROOM]} if listed else None))

    assert rooms.room(ROOM).direct is direct


def test_an_older_echo_of_the_account_data_takes_no_room_off_the_list() -> None:
    rooms = new_rooms()
    rooms.note_direct(AGENT, ROOM)

    hear(rooms, sync([], direct={AGENT: ["!another:x"]}))

    assert rooms.room(ROOM).direct
    assert rooms.direct == {AGENT: [ROOM, "!another:x"]}


def test_an_invitation_names_its_sender_and_whether_it_is_direct() -> None:
    invitation = {"type": "m.room.member", "state_key": BOT, "sender": AGENT}
    invitation["content"] = {"membership": "invite", "is_direct": True}  # type: ignore[assignment]  # JSON
    state = {"invite_state": {"events": [{"type": "x"}, invitation]}}

    events = hear(new_rooms(), sync([], invite={"!new:x": state}))

    assert events == [
        Invite(
            event_id=EventId("invite:!new:x"),
            room_id=RoomId("!new:x"),
            sender=UserId(AGENT),
            direct=True,
        )
    ]


def test_a_decrypted_payload_is_never_state() -> None:
    forged = nio.Event.parse_event(member("leave", "join", user=AGENT))
    forged.decrypted = True
    response = sync([], members=(1, 0))
    response.rooms.join[ROOM].timeline.events.append(forged)

    assert hear(new_rooms(), response) == []


def test_the_bot_does_not_hear_itself() -> None:
    rooms = new_rooms()

    assert hear(rooms, sync([said("mine", "$1") | {"sender": BOT}])) == []
    assert rooms.is_followed(ROOM, [EventId("$asked")])


def related(itself: str, **relation: object) -> dict[str, Any]:
    event = said("x", itself)
    event["content"] |= {"m.relates_to": relation}
    return event


@pytest.mark.parametrize(
    ("later", "followed"),
    [
        ([], False),
        ([said("Et ?", "$other")], True),
        ([related("$edit", rel_type="m.replace", event_id="$asked")], False),
        ([related("$thread", rel_type="m.thread", event_id="$root")], False),
        ([own("$reply", MARKER, "$asked")], False),
        ([own("$notice", NOTICE_MARKER, "$asked")], False),
        ([own("$reply", MARKER, "$other")], True),
        ([own("$notice", NOTICE_MARKER, "$other")], True),
        ([own("$welcome", "x", "$asked")], True),
        ([own("$reply", MARKER, "$asked") | {"sender": AGENT}], True),  # forged
        ([own("$reply", MARKER, "$asked"), said("Et ?", "$other")], True),
        ([said("Et ?", "$other"), own("$reply", MARKER, "$asked")], False),  # its next part
    ],
)
def test_a_prompt_is_followed_where_others_have_spoken_since(
    later: list[dict[str, Any]], *, followed: bool
) -> None:
    rooms = new_rooms()

    hear(rooms, sync([said("Quoi ?", "$asked"), *later]))

    assert rooms.is_followed(ROOM, [EventId("$before"), EventId("$asked")]) is followed


def test_what_was_just_sent_follows_a_prompt_as_well() -> None:
    rooms = new_rooms()
    hear(rooms, sync([said("Quoi ?", "$asked")]))

    rooms.note_sent(ROOM, EventId("$welcome"))

    assert rooms.is_followed(ROOM, [EventId("$asked")])


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
        ([created("11"), levels(users={OTHER: 10**400}, users_default=10**400)], OTHER, 0),
        ([created("11"), levels(users={OTHER: 50.5})], OTHER, 0),
        ([created("11"), levels(users={OTHER: True})], OTHER, 0),
        ([created("12"), levels(users={OTHER: 100})], AGENT, math.inf),
        ([created("12"), levels(users={OTHER: 100})], OTHER, 100),
        ([created("12", additional_creators=[SECOND]), levels()], SECOND, math.inf),
        ([created("11", additional_creators=[SECOND]), levels()], SECOND, 0),
    ],
)
def test_a_power_level_is_what_the_homeservers_state_says(
    state: list[dict[str, Any]], user_id: UserId, level: float
) -> None:
    rooms = new_rooms()
    hear(rooms, sync([], state=state))

    assert rooms.power_level(ROOM, user_id) == level


def test_a_power_level_that_changes_counts_from_then_on() -> None:
    rooms = new_rooms()
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

    [event] = hear(new_rooms(state), sync([encrypted()]))

    assert event == Undecryptable(
        event_id=EventId("$e"),
        room_id=ROOM,
        sender=AGENT,
        session_id="session",
        timestamp=7,
        thread_root=None,
    )
    assert state.figure("assistant_messages_decrypted_total") == 0
    assert state.figure("assistant_messages_undecryptable_total") == 1


def test_its_thread_is_read_from_what_stays_in_clear() -> None:
    relation = {"rel_type": "m.thread", "event_id": "$root"}

    [event] = hear(new_rooms(), sync([encrypted(**{"m.relates_to": relation})]))

    assert isinstance(event, Undecryptable)
    assert event.thread_root == "$root"


@pytest.mark.parametrize("kind", ["m.replace", "m.annotation"])
def test_an_edit_or_reaction_that_cannot_be_read_asks_for_nothing(kind: str) -> None:
    relation = {"rel_type": kind, "event_id": "$1"}

    assert hear(new_rooms(), sync([encrypted(**{"m.relates_to": relation})])) == []


def test_a_vote_that_cannot_be_read_is_no_message_of_the_conversation() -> None:
    rooms = new_rooms()
    relation = {"rel_type": "m.reference", "event_id": "$poll"}

    [event] = hear(
        rooms, sync([said("Bonjour", "$said"), encrypted(**{"m.relates_to": relation})])
    )[1:]

    assert isinstance(event, Undecryptable)
    assert event.refers_to == "$poll"
    assert not rooms.is_followed(ROOM, [EventId("$said")])


def test_the_bots_own_message_that_cannot_be_read_is_none() -> None:
    assert hear(new_rooms(), sync([encrypted() | {"sender": BOT}])) == []


def test_a_redacted_message_is_not_one_that_cannot_be_read() -> None:
    redacted = encrypted() | {"content": {}, "unsigned": {"redacted_because": {"event_id": "$r"}}}

    assert hear(new_rooms(), sync([redacted])) == []


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
    assert new_rooms().key_news(response) == (
        KeyNews(AGENT, ROOM, "s0", None),
        KeyNews(AGENT, ROOM, "s1", "m.unverified"),
        KeyNews(AGENT, nowhere, "", "m.no_olm"),
        KeyNews(AGENT, nowhere, "", ""),
    )


def edited(event_id: str, target: str, body: str) -> dict[str, Any]:
    edit = said(f"* {body}", event_id)
    edit["content"] |= {
        "m.new_content": {"msgtype": "m.text", "body": body},
        "m.relates_to": {"rel_type": "m.replace", "event_id": target},
    }
    return edit


def redacted(event_id: str, target: str) -> dict[str, Any]:
    return said("", event_id) | {"type": "m.room.redaction", "content": {"redacts": target}}


def reacted(event_id: str, target: str) -> dict[str, Any]:
    relation = {"rel_type": "m.annotation", "event_id": target, "key": "🛑"}
    return said("", event_id) | {"type": "m.reaction", "content": {"m.relates_to": relation}}


def test_edits_redactions_and_reactions_are_heard_in_order_but_not_the_bots_own() -> None:
    timeline = [edited("$e", "$1", "x"), redacted("$r", "$1"), reacted("$a", "$1")]
    mine = [one | {"sender": BOT, "event_id": f"{one['event_id']}-mine"} for one in timeline]

    heard = hear(new_rooms(), sync([*timeline, *mine]))

    assert [type(one) for one in heard] == [Edit, Redaction, Reaction]


def tombstone(**changed: object) -> dict[str, Any]:
    content = {"replacement_room": "!new:x"}
    return DIRECT | {"type": "m.room.tombstone", "event_id": "$t", "content": content} | changed


NEW = RoomId("!new:x")


def joining(room_id: RoomId, *state: dict[str, Any]) -> nio.SyncResponse:
    """Return a sync that tells of the bot's joining of another room, with two members."""
    response = sync([], state=[member("join"), *state])
    response.rooms.join[room_id] = response.rooms.join.pop(ROOM)
    return response


def replacing(room_id: str = ROOM, **content: object) -> dict[str, Any]:
    before = {"room_id": room_id, "event_id": "$t"}
    return created("11", predecessor=before, **content)


def test_a_room_given_up_is_closed() -> None:
    rooms = new_rooms()

    heard = hear(rooms, sync([tombstone()]))

    assert heard == [Upgraded(EventId("$t"), ROOM, AGENT, NEW)]
    assert rooms.take_closed() == (ROOM,)
    assert rooms.take_closed() == ()
    assert rooms.room(ROOM).closed


@pytest.mark.parametrize("first", ["old", "new"])
def test_what_replaces_a_direct_message_is_one_with_the_same_person(first: str) -> None:
    rooms = new_rooms()
    hear(rooms, sync([], direct={AGENT: [ROOM]}))
    told = [sync([tombstone()]), joining(NEW, replacing())]
    for response in told if first == "old" else reversed(told):
        hear(rooms, response)

    assert rooms.direct == {AGENT: [ROOM, NEW]}
    assert rooms.room(NEW).direct
    assert rooms.predecessor(NEW) == ROOM


def test_a_restart_knows_what_replaces_a_direct_message() -> None:
    rooms = new_rooms()
    hear(rooms, sync([], state=[tombstone()], direct={AGENT: [ROOM]}), first=True)
    hear(rooms, joining(NEW, replacing()), first=True)

    assert rooms.room(NEW).direct


@pytest.mark.parametrize(
    ("stone", "create"),
    [
        (tombstone(), created("11")),
        (tombstone(), replacing("!other:x")),
        (tombstone(content={"replacement_room": "!other:x"}), replacing()),
        (None, replacing()),
    ],
    ids=["only pointed to", "of another", "another is pointed to", "only says so"],
)
def test_a_room_inherits_nothing_where_one_of_both_does_not_say_so(
    stone: dict[str, Any] | None, create: dict[str, Any]
) -> None:
    rooms = new_rooms()
    hear(rooms, sync([stone] if stone else [], direct={AGENT: [ROOM]}))
    hear(rooms, joining(NEW, create))

    assert rooms.predecessor(NEW) is None
    assert not rooms.room(NEW).direct
    assert rooms.direct == {AGENT: [ROOM]}


@pytest.mark.parametrize(
    ("state", "may"),
    [
        ([created("11")], True),
        ([created("11"), levels(users={AGENT: 100})], True),
        ([created("11"), levels(users={AGENT: 50})], True),
        ([created("11"), levels(users={AGENT: 49})], False),
        ([created("11"), levels(users={AGENT: 50}, state_default=60)], False),
        ([created("11"), levels(users={AGENT: 50}, events={"m.room.tombstone": 100})], False),
        ([created("11"), levels(users={AGENT: 0}, events={"m.room.tombstone": 0})], True),
        ([created("12"), levels(events={"m.room.tombstone": 150})], True),
        ([created("11"), levels(users={AGENT: 100}, events={"m.room.tombstone": "1"})], False),
        ([created("11"), levels(users={AGENT: 100}, state_default=None)], False),
        ([created("11"), levels(users={AGENT: 100}, events=[])], True),
        ([], False),
    ],
)
def test_who_has_the_power_for_a_tombstone_may_give_a_room_up(
    state: list[dict[str, Any]], *, may: bool
) -> None:
    rooms = new_rooms()
    hear(rooms, sync([], state=state))

    assert rooms.may_upgrade(ROOM, AGENT) is may


@pytest.mark.parametrize(
    ("reason", "create", "stray"),
    [
        (f"{FOLLOWING}{ROOM}", replacing(), False),
        (f"{FOLLOWING}{ROOM}", created("11"), True),
        (f"{FOLLOWING}{ROOM}", replacing("!other:x"), True),
        (f"{FOLLOWING}{ROOM}", None, True),
        (f"{FOLLOWING}", created("11"), True),
        ("Bonjour", created("11"), False),
        (None, created("11"), False),
        (3, created("11"), False),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_room_that_the_bot_was_led_to_is_stray_where_it_does_not_replace_the_other(
    reason: object, create: dict[str, Any] | None, *, stray: bool, first: bool
) -> None:
    rooms = new_rooms()
    arrival = member("join")
    arrival["content"]["reason"] = reason
    told = [said("@assistant", "$1")]
    hear(rooms, sync(told, state=[arrival, *([create] if create else [])]), first=first)

    assert rooms.room(ROOM).stray is stray
    assert rooms.room(ROOM).closed is stray
    assert [one.room_id for one in rooms.rooms()] == ([] if stray else [ROOM])


def test_a_space_is_no_room_to_speak_in() -> None:
    rooms = new_rooms()
    hear(rooms, sync([], state=[created("11", type="m.space")]))

    assert rooms.room(ROOM).space
    assert rooms.room(ROOM).closed


SEALED = {
    "type": "m.room.encryption",
    "state_key": "",
    "event_id": "$sealed",
    "sender": AGENT,
    "origin_server_ts": 100,
    "content": {"algorithm": "m.megolm.v1.aes-sha2"},
}
AGAIN = SEALED | {"unsigned": {"replaces_state": "$before"}}


def heard_at(at: int, event: dict[str, Any]) -> dict[str, Any]:
    return event | {"origin_server_ts": at}


@pytest.mark.parametrize("event", ["message", "edit", "vote"])
@pytest.mark.parametrize(
    ("responses", "at", "exposed"),
    [
        ([([], [])], 200, False),
        ([([SEALED], [])], 200, True),
        ([([SEALED], [])], 99, False),  # said before; the gap was filled
        ([([], [SEALED])], 100, True),
        ([([SEALED], []), ([], [])], 1, True),  # it lies about when it was said
        ([([AGAIN], [])], 1, True),  # since when is not told
        ([([SEALED], []), ([AGAIN], [])], 1, True),
        ([([created("11", **{ROOM_MARKER: ADMIN}) | {"sender": BOT}], [])], 1, True),
        ([([SEALED | {"state_key": "x"}], [])], 200, False),
        ([([], [{**SEALED, "state_key": None}])], 200, False),
    ],
)
def test_what_is_said_in_clear_counts_as_such_once_the_room_is_encrypted(
    event: str,
    responses: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]],
    at: int,
    *,
    exposed: bool,
) -> None:
    kinds = {"message": said("x", "$1"), "edit": edited("$1", "$0", "x"), "vote": VOTE}
    rooms = new_rooms()
    for state, timeline in responses[:-1]:
        hear(rooms, sync(timeline, state=state))
    state, timeline = responses[-1]

    [found] = hear(rooms, sync([*timeline, heard_at(at, kinds[event])], state=state))

    assert isinstance(found, Message | Edit | Vote)
    assert found.exposed is exposed


def test_what_was_decrypted_is_never_taken_for_clear_text() -> None:
    response = sync([said("x", "$1")], state=[SEALED])
    [event] = response.rooms.join[ROOM].timeline.events
    event.decrypted = True

    [found] = hear(new_rooms(), response)

    assert isinstance(found, Message)
    assert not found.exposed


def test_no_event_that_was_decrypted_says_that_a_room_is_encrypted() -> None:
    response = sync([SEALED, said("x", "$1")])
    response.rooms.join[ROOM].timeline.events[0].decrypted = True

    [found] = hear(new_rooms(), response)

    assert isinstance(found, Message)
    assert not found.exposed


def test_a_room_that_an_earlier_process_knew_as_encrypted_is_so_whatever_is_told() -> None:
    client = SafeClient("http://x", BOT, "BOT")
    client.known_encrypted = frozenset({ROOM})
    rooms = Rooms(BOT, health(), Histories(client, BOT))

    [found] = hear(rooms, sync([said("x", "$1")]), first=True)

    assert isinstance(found, Message)
    assert found.exposed


def test_a_room_given_up_long_ago_is_not_heard_of_again() -> None:
    rooms = new_rooms()

    assert hear(rooms, sync([], state=[tombstone()]), first=True) == []
    assert rooms.take_closed() == ()
    assert rooms.room(ROOM).closed


@pytest.mark.parametrize("odd", [None, 3, {}, {"room_id": 3}])
def test_an_odd_predecessor_is_none(odd: object) -> None:
    rooms = new_rooms()
    hear(rooms, sync([], state=[created("11", predecessor=odd)]))

    assert rooms.predecessor(ROOM) is None


def test_who_sent_a_message_is_remembered_but_not_what_it_says() -> None:
    rooms = new_rooms()
    hear(rooms, sync([said("secret", "$1"), edited("$e", "$1", "secret"), encrypted()]))

    [(event_id, known)] = rooms.known.items()

    assert event_id == "$1"
    assert known is not None
    assert (known.sender, known.body) == (AGENT, "")


def test_only_the_last_messages_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KNOWN", 2)
    rooms = new_rooms()
    hear(rooms, sync([said("x", "$1"), said("x", "$2")]))
    rooms.remember(message(event_id="$1"))
    hear(rooms, sync([said("x", "$3")]))

    assert list(rooms.known) == ["$1", "$3"]


def test_of_a_redacted_message_is_known_that_it_is_gone() -> None:
    rooms = new_rooms()
    hear(rooms, sync([said("x", "$1"), redacted("$r", "$1"), redacted("$s", "$never")]))
    assert rooms.known == {"$1": None}

    rooms.remember(message(event_id="$1"))  # it was looked up meanwhile
    hear(rooms, sync([said("x", "$1")]))

    assert rooms.known == {"$1": None}


def test_a_redaction_in_another_room_says_nothing_of_a_message() -> None:
    rooms = new_rooms()
    hear(rooms, sync([said("x", "$1")]))

    rooms.redact(Redaction(EventId("$x"), RoomId("!other:x"), AGENT, EventId("$1")))

    assert rooms.known[EventId("$1")] is not None


@pytest.mark.parametrize(
    ("content", "visibility"),
    [
        *(({"history_visibility": one}, one) for one in ("joined", "invited", "world_readable")),
        ({"history_visibility": 3}, "shared"),
        ({}, "shared"),
    ],
)
def test_who_may_read_what_was_said_before_is_told_by_the_rooms_state(
    content: dict[str, Any], visibility: str
) -> None:
    rooms = new_rooms()
    assert rooms.visibility(ROOM) == "shared"
    state = DIRECT | {"type": "m.room.history_visibility", "content": content}

    hear(rooms, sync([said("forged", "$1") | {"type": state["type"]}, state]))
    assert rooms.visibility(ROOM) == visibility

    hear(rooms, sync([], leave={ROOM: {"timeline": {"events": []}}}, join={}))
    assert rooms.visibility(ROOM) == "shared"


def test_the_bots_own_membership_is_the_last_one_told() -> None:
    rooms = new_rooms()
    assert rooms.membership(ROOM) == {}
    hear(rooms, sync([], state=[member("invite"), member("join", user=AGENT)]))
    hear(rooms, sync([member("join", "invite")]))
    assert rooms.membership(ROOM)["event_id"] == f"$join-{BOT}"

    left = {ROOM: {"timeline": {"events": [], "limited": False, "prev_batch": "p"}}}
    response = sync([], leave=left)
    response.rooms.join.clear()
    hear(rooms, response)

    assert rooms.membership(ROOM) == {}
    assert rooms.take_closed() == (ROOM,)


MENTION = {"m.mentions": {"user_ids": [BOT]}}
IN_THREAD = {"m.relates_to": {"rel_type": "m.thread", "event_id": "$root"}}


def also(event: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    return event | {"content": event["content"] | content}


OPENING = [also(said("Question", "$root"), MENTION), also(said("Suite", "$2"), IN_THREAD)]


async def thread(rooms: Rooms) -> History:
    """Return the thread; one that is not in memory would be asked for, and cannot be."""
    asked = prompt(message(event_id="$2", thread_root="$root"))
    return await rooms._histories.read(asked, rooms.membership(ROOM), lambda _: False)


def is_warm(rooms: Rooms) -> bool:
    return Conversation(ROOM, EventId("$root")) in rooms._histories._transcripts


async def test_a_thread_that_opens_with_a_mention_is_known_from_its_first_message_on() -> None:
    rooms = new_rooms()
    timeline = [*OPENING, edited("$e", "$root", "Question ?"), said("aside", "$3")]

    hear(rooms, sync(timeline))

    assert [one.body for one in (await thread(rooms)).messages] == ["Question ?", "Suite"]


async def test_what_is_redacted_is_gone_from_memory() -> None:
    rooms = new_rooms()
    hear(rooms, sync(OPENING))
    hear(rooms, sync([redacted("$r", "$2")]))

    assert [one.body for one in (await thread(rooms)).messages] == ["Question"]


@pytest.mark.parametrize(
    "opening",
    [
        also(said("x", "$root"), {"m.mentions": {"user_ids": [AGENT]}}),
        also(said("x", "$root"), MENTION | {"m.relates_to": IN_THREAD["m.relates_to"]}),
        said("x", "$root"),
        encrypted() | {"event_id": "$root"},
    ],
)
def test_no_thread_is_kept_that_nobody_has_opened_with_the_bot(opening: dict[str, Any]) -> None:
    rooms = new_rooms()
    hear(rooms, sync([opening]))

    assert not is_warm(rooms)


@pytest.mark.parametrize(
    ("news", "warm"),
    [
        ([said("x", "$9")], True),
        ([member("join", "join")], True),
        ([member("leave", "join", user=AGENT)], True),
        ([member("invite", "leave")], False),
        ([member("join", "leave")], False),
    ],
)
def test_a_bot_that_was_away_knows_no_thread_any_more(
    news: list[dict[str, Any]],
    warm: bool,  # noqa: FBT001  # a table's column
) -> None:
    rooms = new_rooms()
    hear(rooms, sync(OPENING))

    hear(rooms, sync(news))

    assert is_warm(rooms) is warm


def test_a_room_that_the_bot_has_left_is_forgotten() -> None:
    rooms = new_rooms()
    hear(rooms, sync(OPENING))
    left = {ROOM: {"timeline": {"events": [], "limited": False, "prev_batch": "p"}}}
    response = sync([], leave=left)
    response.rooms.join.clear()
    assert not rooms.room(ROOM).closed

    hear(rooms, response)

    assert not is_warm(rooms)
    assert rooms.room(ROOM).closed

    hear(rooms, sync([]))
    assert not rooms.room(ROOM).closed


@pytest.mark.parametrize(
    ("missed", "warm"), [(ROOM, False), (RoomId("!other:x"), True), (None, False)]
)
def test_where_not_all_was_heard_nothing_is_kept(
    missed: RoomId | None,
    warm: bool,  # noqa: FBT001  # a table's column
) -> None:
    rooms = new_rooms()
    hear(rooms, sync(OPENING))

    rooms.miss(missed)

    assert is_warm(rooms) is warm

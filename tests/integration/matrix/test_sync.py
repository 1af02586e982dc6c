"""The sync loop against a homeserver that fails on purpose."""

import asyncio
import copy
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import nio
import pytest
from aiohttp import web
from nio.crypto import OlmAccount, OutboundGroupSession
from unpaddedbase64 import encode_base64

from bot.core.events import Batch, Conversation, EventId, Message, RoomId, UserId
from bot.errors import AccountExpired, LoggedOut
from bot.matrix import sync as matrix_sync
from bot.matrix.adapter import NioMatrix
from bot.matrix.history import Histories
from bot.matrix.room_events import Rooms
from bot.matrix.session import Account, Session
from bot.matrix.sync import batches
from bot.matrix.verification import Verifications
from bot.monitoring.health import STALLED_SECONDS, Health
from tests.fakes.clock import FakeClock
from tests.harness.vault import health, vault

ME = UserId("@bot:stand.test")
HTML = (502, "<html>bad gateway</html>")


@dataclass
class SyncServer:
    """Answers each `/sync` with the next of `answers`, then with an empty batch for ever."""

    url: str = ""
    answers: list[tuple[int, Any]] = field(default_factory=list)
    asked: list[Mapping[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    logins: list[dict[str, Any]] = field(default_factory=list)
    refused_logins: list[tuple[int, Any]] = field(default_factory=list)
    pages: list[tuple[int, Any]] = field(default_factory=list)  # of /messages, newest first
    paged: list[Mapping[str, str]] = field(default_factory=list)
    uploads: list[tuple[int, Any]] = field(default_factory=list)
    upload_times: list[float] = field(default_factory=list)
    uploaded: list[dict[str, Any]] = field(default_factory=list)
    whoami_status: int = 200

    async def sync(self, request: web.Request) -> web.Response:
        self.asked.append(dict(request.query))
        self.times.append(time.monotonic())
        status, body = self.answers.pop(0) if self.answers else (200, None)
        if isinstance(body, str):
            return web.Response(status=status, text=body, content_type="text/html")
        default = {"next_batch": f"s{len(self.asked)}", "device_one_time_keys_count": {}}
        return web.json_response(body or default | {"rooms": {}}, status=status)

    async def login(self, request: web.Request) -> web.Response:
        if self.refused_logins:
            status, body = self.refused_logins.pop()
            return web.json_response(body, status=status)
        self.logins.append(await request.json())
        device_id = self.logins[-1]["device_id"]
        return web.json_response(
            {"user_id": ME, "device_id": device_id, "access_token": f"t{len(self.logins)}"}
        )

    async def upload(self, request: web.Request) -> web.Response:
        self.upload_times.append(time.monotonic())
        self.uploaded.append(await request.json())
        taken = {"one_time_key_counts": {"signed_curve25519": 50}}
        status, body = self.uploads.pop(0) if self.uploads else (200, taken)
        return web.json_response(body, status=status)

    async def whoami(self, _: web.Request) -> web.Response:
        return web.json_response({"user_id": ME, "device_id": "D"}, status=self.whoami_status)

    async def messages(self, request: web.Request) -> web.Response:
        self.paged.append(dict(request.query))
        status, body = self.pages.pop(0)
        return web.json_response(body, status=status)


@pytest.fixture
async def homeserver() -> AsyncIterator[SyncServer]:
    server, app = SyncServer(), web.Application()
    app.router.add_get("/_matrix/client/v3/sync", server.sync)
    app.router.add_post("/_matrix/client/v3/login", server.login)
    app.router.add_post("/_matrix/client/v3/keys/upload", server.upload)
    app.router.add_get("/_matrix/client/v3/rooms/{room}/messages", server.messages)
    app.router.add_get("/_matrix/client/v3/account/whoami", server.whoami)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture
async def session(homeserver: SyncServer, tmp_path: Path) -> AsyncIterator[Session]:
    session = Session(
        Account(homeserver=homeserver.url, user_id=ME, device_name="bot", password="secret"),
        vault(tmp_path),
    )
    await session.open()
    yield session
    await session.close()


def new_rooms(session: Session, state: Health) -> Rooms:
    return Rooms(ME, state, Histories(session.client, ME))


def heard(
    session: Session, rooms: Rooms, state: Health, since: str | None
) -> AsyncIterator[Batch]:
    return batches(session, rooms, Verifications(session.client, rooms), state, since)


def listen(session: Session, since: str | None) -> AsyncIterator[Batch]:
    return heard(session, new_rooms(session, health()), health(), since)


async def test_t5_a_failing_homeserver_is_asked_less_often_and_from_the_same_place(
    homeserver: SyncServer, session: Session
) -> None:
    homeserver.answers = [HTML, (200, "no json"), (500, {"errcode": "M_UNKNOWN", "error": "x"})]

    first = await anext(listen(session, "s_saved"))

    assert first.next_batch == "s4"
    assert [asked["since"] for asked in homeserver.asked] == ["s_saved"] * 4
    assert [asked["full_state"] for asked in homeserver.asked] == ["true"] * 4
    waits = [later - before for before, later in pairwise(homeserver.times)]
    assert waits[0] >= 1.0
    assert waits[1] >= 2.0
    assert waits[2] >= 4.0


async def test_the_wait_that_a_homeserver_asks_for_is_kept(
    homeserver: SyncServer, session: Session
) -> None:
    limited = {"errcode": "M_LIMIT_EXCEEDED", "error": "x", "retry_after_ms": 1200}
    homeserver.answers = [(429, limited)]

    await anext(listen(session, None))

    assert homeserver.times[1] - homeserver.times[0] >= 1.2


async def test_every_request_that_is_answered_429_is_counted(
    homeserver: SyncServer, tmp_path: Path
) -> None:
    limited = {"errcode": "M_LIMIT_EXCEEDED", "error": "x", "retry_after_ms": 0}
    homeserver.refused_logins, homeserver.answers = [(429, limited)], [(429, limited), HTML]
    state = health()
    matrix = NioMatrix(
        Account(homeserver=homeserver.url, user_id=ME, device_name="bot", password="secret"),
        vault(tmp_path),
        state,
    )

    await matrix._session.open()  # of cross-signing this homeserver knows nothing
    await anext(matrix.batches(None))

    assert state.figure("assistant_homeserver_rate_limited_total") == 2
    await matrix.close()


async def test_later_syncs_go_on_from_the_last_batch_and_wait_for_news(
    homeserver: SyncServer, session: Session
) -> None:
    loop = listen(session, None)
    await anext(loop)
    await anext(loop)

    assert homeserver.asked[1]["since"] == "s1"
    assert "full_state" not in homeserver.asked[1]
    assert homeserver.asked[1]["timeout"] == "30000"
    assert "lazy_load_members" in homeserver.asked[0]["filter"]


async def test_a_soft_logout_is_followed_by_a_login_on_the_same_device(
    homeserver: SyncServer, session: Session
) -> None:
    ended = {"errcode": "M_UNKNOWN_TOKEN", "error": "x", "soft_logout": True}
    homeserver.answers = [(401, ended)]

    await anext(listen(session, "s_saved"))

    first, second = homeserver.logins
    assert first["device_id"] == second["device_id"] == session.client.device_id
    assert session.client.access_token == "t2"
    assert [asked["since"] for asked in homeserver.asked] == ["s_saved"] * 2


@pytest.mark.parametrize(
    ("status", "errcode", "error"),
    [
        (401, "M_UNKNOWN_TOKEN", LoggedOut),
        (403, "ORG_MATRIX_EXPIRED_ACCOUNT", AccountExpired),
    ],
)
async def test_what_no_retry_can_mend_ends_the_loop(
    homeserver: SyncServer, session: Session, status: int, errcode: str, error: type[Exception]
) -> None:
    homeserver.answers = [(status, {"errcode": errcode, "error": "x"})]

    with pytest.raises(error):
        await anext(listen(session, None))


async def test_without_a_password_a_soft_logout_is_the_end(
    homeserver: SyncServer, session: Session
) -> None:
    session._account = replace(session._account, password=None, access_token="t1")
    ended = {"errcode": "M_UNKNOWN_TOKEN", "error": "x", "soft_logout": True}
    homeserver.answers = [(401, ended)]

    with pytest.raises(LoggedOut):
        await anext(listen(session, None))


async def test_a_response_that_cannot_be_taken_in_is_given_up_and_the_next_one_heard(
    homeserver: SyncServer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned = {"next_batch": "s_poison", "device_one_time_keys_count": {}, "rooms": {}}
    homeserver.answers = [(200, poisoned)] * 3
    handle = session.client._handle_to_device

    async def fail_at_poison(response: nio.SyncResponse) -> None:
        if response.next_batch == "s_poison":
            raise RuntimeError("nobody expected this")
        await handle(response)

    monkeypatch.setattr(session.client, "_handle_to_device", fail_at_poison)

    batch = await anext(listen(session, "s_saved"))

    assert batch.next_batch == "s4"
    asked = [one["since"] for one in homeserver.asked]
    assert asked == ["s_saved"] * 3 + ["s_poison"]


async def test_a_homeserver_that_ends_every_login_is_not_asked_all_the_time(
    homeserver: SyncServer, session: Session
) -> None:
    ended = {"errcode": "M_UNKNOWN_TOKEN", "error": "x", "soft_logout": True}
    homeserver.answers = [(401, ended)] * 2

    await anext(listen(session, None))

    assert homeserver.times[2] - homeserver.times[0] >= 2.0


async def test_too_many_logins_are_waited_out(homeserver: SyncServer, tmp_path: Path) -> None:
    limited = {"errcode": "M_LIMIT_EXCEEDED", "error": "x", "retry_after_ms": 0}
    homeserver.refused_logins = [(429, limited)]
    (tmp_path / "new").mkdir()
    session = Session(
        Account(homeserver=homeserver.url, user_id=ME, device_name="bot", password="secret"),
        vault(tmp_path / "new"),
    )

    await session.open()

    assert session.client.access_token
    await session.close()


ROOM, ADA = "!r:stand.test", "@ada:stand.test"


def said(number: int) -> dict[str, Any]:
    content = {"msgtype": "m.text", "body": f"message {number}"}
    event = {"type": "m.room.message", "event_id": f"${number}", "sender": ADA, "room_id": ROOM}
    return event | {"origin_server_ts": number, "content": content}


def membership(now: str, **unsigned: object) -> dict[str, Any]:
    event = {"type": "m.room.member", "event_id": f"${now}", "sender": ADA, "state_key": ME}
    content = {"membership": now}
    return event | {"origin_server_ts": 1, "content": content, "unsigned": unsigned}


def cut(*events: dict[str, Any]) -> tuple[int, Any]:
    """Return a sync response whose timeline holds the newest events alone."""
    timeline = {"events": list(events), "limited": True, "prev_batch": "p1"}
    room = {"timeline": timeline, "state": {"events": []}, "summary": {"m.joined_member_count": 2}}
    rule = {"type": "im.vector.room.access_rules", "state_key": "", "event_id": "$rule"}
    rule_of_ada = rule | {"sender": ADA, "origin_server_ts": 1, "content": {"rule": "direct"}}
    room["state"] = {"events": [rule_of_ada]}
    body = {"next_batch": "s_new", "device_one_time_keys_count": {"signed_curve25519": 50}}
    return 200, body | {"rooms": {"join": {ROOM: room}}}


def page(*events: dict[str, Any], end: str | None = None) -> tuple[int, Any]:
    return 200, {"chunk": list(events), "start": "x"} | ({"end": end} if end else {})


def texts(batch: Batch) -> list[str]:
    return [event.body for event in batch.events if isinstance(event, Message)]


async def test_t12_what_a_cut_timeline_leaves_out_is_read_back_in_order_and_once(
    homeserver: SyncServer, session: Session
) -> None:
    homeserver.answers = [cut(said(6), said(7))]
    homeserver.pages = [page(said(6), said(5), said(4), end="p2"), page(said(4), said(3))]

    batch = await anext(listen(session, "s_saved"))

    assert texts(batch) == [f"message {number}" for number in (3, 4, 5, 6, 7)]
    assert [one["from"] for one in homeserver.paged] == ["p1", "p2"]
    assert {one["to"] for one in homeserver.paged} == {"s_saved"}
    assert {one["dir"] for one in homeserver.paged} == {"b"}


async def test_a_gap_that_cannot_be_read_now_holds_the_response_until_it_can(
    homeserver: SyncServer, session: Session
) -> None:
    homeserver.answers = [cut(said(2))]
    homeserver.pages = [(502, {"errcode": "M_UNKNOWN", "error": "x"}), page(said(1))]

    batch = await anext(listen(session, "s_saved"))

    assert texts(batch) == ["message 1", "message 2"]
    assert batch.next_batch == "s_new"
    assert len(homeserver.asked) == 1  # its to-device messages are heard once


async def test_a_gap_in_a_room_that_was_left_meanwhile_stops_nothing(
    homeserver: SyncServer, session: Session
) -> None:
    homeserver.answers = [cut(said(2))]
    homeserver.pages = [(403, {"errcode": "M_FORBIDDEN", "error": "x"})]

    assert texts(await anext(listen(session, "s_saved"))) == ["message 2"]


BROKEN = (500, {"errcode": "M_UNKNOWN", "error": "x"})


async def test_a_cut_timeline_lets_go_of_what_was_kept_of_its_room_alone(
    homeserver: SyncServer, session: Session
) -> None:
    homeserver.answers = [cut(said(7))]
    homeserver.pages = [page(said(6))]
    rooms = new_rooms(session, health())
    conversations = [Conversation(RoomId(room), EventId("$1")) for room in (ROOM, "!other:x")]
    for one in conversations:
        root = Message(
            event_id=EventId("$1"),
            room_id=one.room_id,
            sender=UserId(ADA),
            msgtype="m.text",
            body="x",
            timestamp=1,
        )
        rooms._histories.begin(one, root)

    await anext(heard(session, rooms, health(), "s_saved"))

    assert list(rooms._histories._transcripts) == conversations[1:]


async def test_a_batch_tells_once_in_which_rooms_the_bot_can_no_longer_speak(
    homeserver: SyncServer, session: Session
) -> None:
    _, upgraded = cut(tombstone := said(1) | {"type": "m.room.tombstone", "state_key": ""})
    tombstone["content"] = {"replacement_room": "!new:x"}
    upgraded["rooms"]["join"][ROOM]["timeline"]["limited"] = False
    upgraded["rooms"]["leave"] = {"!left:x": {"timeline": {"events": []}}}
    homeserver.answers = [(200, upgraded)]
    loop = listen(session, "s_saved")

    first, second = await anext(loop), await anext(loop)

    assert (first.closed, second.closed) == ((ROOM, "!left:x"), ())


def cut_twice() -> tuple[int, Any]:
    """Return a response in which two rooms' timelines are cut."""
    _, body = cut(said(2))
    rooms = body["rooms"]["join"]
    rooms["!other:stand.test"] = copy.deepcopy(rooms[ROOM])
    event = rooms["!other:stand.test"]["timeline"]["events"][0]
    event |= {"event_id": "$other", "room_id": "!other:stand.test"}
    return 200, body


async def test_one_room_that_cannot_be_read_back_does_not_hold_up_the_others_for_ever(
    homeserver: SyncServer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix_sync, "_GAP_TRIES", 1)
    homeserver.answers = [cut_twice()]
    homeserver.pages = [BROKEN, page(said(1)), BROKEN]

    batch = await anext(listen(session, "s_saved"))

    assert texts(batch) == ["message 2", "message 1", "message 2"]
    assert batch.next_batch == "s_new"


async def test_an_answer_of_the_right_shape_is_an_error_where_its_status_says_so(
    homeserver: SyncServer, session: Session
) -> None:
    body = {"next_batch": "s_proxy", "device_one_time_keys_count": {}, "rooms": {}}
    homeserver.answers = [(502, body)]

    assert (await anext(listen(session, "s_saved"))).next_batch == "s2"


async def test_a_homeserver_that_is_away_loses_no_gap(
    homeserver: SyncServer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix_sync, "_GAP_TRIES", 0)
    homeserver.whoami_status = 502
    homeserver.answers = [cut(said(2))]
    homeserver.pages = [BROKEN, page(said(1))]

    assert texts(await anext(listen(session, "s_saved"))) == ["message 1", "message 2"]


async def test_a_response_that_cannot_be_parsed_is_passed_over(
    homeserver: SyncServer, session: Session
) -> None:
    body = {"next_batch": "s_odd", "rooms": {"join": {ROOM: {"summary": 5}}}}
    homeserver.answers = [(200, body)]
    loop = listen(session, "s_saved")

    assert (await anext(loop)).next_batch == "s_odd"
    assert (await anext(loop)).next_batch == "s2"
    assert [asked["since"] for asked in homeserver.asked] == ["s_saved", "s_odd"]


async def test_nothing_from_before_the_bots_invitation_is_read_back(
    homeserver: SyncServer, session: Session
) -> None:
    homeserver.answers = [cut(membership("join", prev_content={"membership": "invite"}), said(4))]
    homeserver.pages = [page(said(3), membership("invite"), said(2), said(1), end="p2")]

    assert texts(await anext(listen(session, "s_saved"))) == ["message 3", "message 4"]
    assert len(homeserver.paged) == 1


async def test_an_account_that_never_synced_reads_nothing_back(
    homeserver: SyncServer, session: Session
) -> None:
    homeserver.answers = [cut(said(2))]

    assert texts(await anext(listen(session, None))) == []
    assert homeserver.paged == []


async def test_a_place_that_leads_back_to_itself_is_left(
    homeserver: SyncServer, session: Session
) -> None:
    homeserver.answers = [cut(said(2))]
    homeserver.pages = [page(said(1), end="p1")]

    assert texts(await anext(listen(session, "s_saved"))) == ["message 1", "message 2"]


async def test_keys_that_cannot_be_kept_hold_no_message_up_and_are_not_tried_all_the_time(
    homeserver: SyncServer, session: Session
) -> None:
    homeserver.uploads = [(500, {"errcode": "M_UNKNOWN", "error": "x"})] * 9
    loop = listen(session, None)

    for _ in range(5):
        await asyncio.wait_for(anext(loop), 5)
    assert len(homeserver.upload_times) == 1

    while len(homeserver.upload_times) < 2:
        await asyncio.wait_for(anext(loop), 5)
    assert homeserver.upload_times[1] - homeserver.upload_times[0] >= 1


async def test_t6_keys_that_the_homeserver_refuses_for_good_are_replaced_by_others(
    homeserver: SyncServer, session: Session
) -> None:
    exists = {"errcode": "M_UNKNOWN", "error": "One time key signed_curve25519:A already exists"}
    homeserver.uploads = [(400, exists)]
    loop = listen(session, None)

    while len(homeserver.uploaded) < 2:
        await asyncio.wait_for(anext(loop), 5)

    first, second = (set(one["one_time_keys"]) for one in homeserver.uploaded)
    assert len(first) == len(second) == 50
    assert first.isdisjoint(second)
    assert "device_keys" in homeserver.uploaded[1]


async def test_a_homeserver_that_tells_nothing_new_is_asked_once_a_second_at_the_most(
    homeserver: SyncServer, session: Session
) -> None:
    same = {"next_batch": "s", "device_one_time_keys_count": {"signed_curve25519": 50}}
    homeserver.answers = [(200, same)] * 9
    loop = listen(session, "s")

    await anext(loop)
    await anext(loop)

    assert homeserver.times[1] - homeserver.times[0] >= 1


async def test_the_health_tells_of_turns_and_answers(
    homeserver: SyncServer, session: Session
) -> None:
    clock = FakeClock()
    state = Health(clock=clock)
    clock.time += 2 * STALLED_SECONDS
    seen = [(state.stalled, state.sync_age)]
    homeserver.answers = [HTML]

    await anext(heard(session, new_rooms(session, state), state, None))

    seen.append((state.stalled, state.sync_age))
    assert seen == [(True, 2 * STALLED_SECONDS), (False, 0)]


async def test_what_waits_behind_a_full_response_is_fetched_before_its_messages_are_judged(
    homeserver: SyncServer, session: Session
) -> None:
    megolm = OutboundGroupSession()
    megolm.shared = True
    key = room_key(session, OlmAccount(), megolm)
    payload = {"type": "m.room.message", "room_id": ROOM}
    inner = json.dumps(payload | {"content": {"msgtype": "m.text", "body": "hello"}})
    content = {
        "algorithm": "m.megolm.v1.aes-sha2",
        "ciphertext": megolm.encrypt(inner),  # type: ignore[no-untyped-call]  # nio has no hint
        "session_id": megolm.id,
    }
    sealed = said(1) | {"type": "m.room.encrypted", "content": content}
    _, full = cut(sealed)
    full["rooms"]["join"][ROOM]["timeline"]["limited"] = False
    noise = {"type": "org.example.noise", "sender": ADA, "content": {}}
    full["to_device"] = {"events": [noise] * 100}
    rest = {"next_batch": "s_rest", "device_one_time_keys_count": {"signed_curve25519": 50}}
    homeserver.answers = [
        (200, full),
        HTML,  # what fails in the middle goes on from there
        (200, rest | {"to_device": {"events": [key]}}),
    ]
    state = health()
    loop = heard(session, new_rooms(session, state), state, "s_saved")

    first, second = await anext(loop), await anext(loop)

    assert texts(first) == ["hello"]
    assert state.figure("assistant_messages_decrypted_total") == 1
    assert state.figure("assistant_messages_undecryptable_total") == 0
    assert (first.next_batch, second.next_batch) == ("s_new", "s_rest")
    assert [one.session_id for one in second.keys] == [megolm.id]
    assert [asked["since"] for asked in homeserver.asked] == ["s_saved", "s_new", "s_new"]


def room_key(session: Session, sender: OlmAccount, megolm: OutboundGroupSession) -> dict[str, Any]:
    """Return the room's key as ADA's device gives it to the bot's."""
    own = session.client.machine.account
    own.generate_one_time_keys(1)
    one_time_key = next(iter(own.one_time_keys["curve25519"].values()))
    own.mark_keys_as_published()
    payload = {
        "type": "m.room_key",
        "content": {
            "algorithm": "m.megolm.v1.aes-sha2",
            "room_id": ROOM,
            "session_id": megolm.id,
            "session_key": megolm.session_key,
        },
        "sender": ADA,
        "sender_device": "D",
        "keys": {"ed25519": sender.identity_keys["ed25519"]},
        "recipient": ME,
        "recipient_keys": {"ed25519": own.identity_keys["ed25519"]},
    }
    olm = sender.create_outbound_session(own.identity_keys["curve25519"], one_time_key)
    kind, ciphertext = olm.encrypt(json.dumps(payload).encode()).to_parts()
    body = {"type": kind, "body": encode_base64(bytes(ciphertext))}
    content = {
        "algorithm": "m.olm.v1.curve25519-aes-sha2",
        "sender_key": sender.identity_keys["curve25519"],
        "ciphertext": {own.identity_keys["curve25519"]: body},
    }
    return {"type": "m.room.encrypted", "sender": ADA, "content": content}


async def test_who_sends_without_end_holds_nothing_up_without_end(
    homeserver: SyncServer, session: Session
) -> None:
    noise = {"type": "org.example.noise", "sender": ADA, "content": {}}

    def full(number: int) -> tuple[int, Any]:
        body = {"next_batch": f"f{number}", "to_device": {"events": [noise] * 100}}
        return 200, body | {"device_one_time_keys_count": {"signed_curve25519": 50}}

    homeserver.answers = [full(number) for number in range(200)]

    first = await anext(listen(session, "s_saved"))

    assert first.next_batch == "f0"
    assert len(homeserver.asked) == 50

"""Defects of matrix-nio that the bot must not have: crashes, lost keys, forged state."""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import nio
import pytest
import vodozemac
from nio.crypto import OlmAccount, OutboundGroupSession
from nio.responses import EmptyResponse
from nio.rooms import MatrixRoom
from structlog.testing import capture_logs
from unpaddedbase64 import encode_base64

from bot.core.events import Message, RoomId, Undecryptable, UserId
from bot.errors import HomeserverUnreachable, MatrixError, NotEncrypted, StoreError
from bot.matrix import nio_client, response_repair
from bot.matrix.cross_signing import CrossSigningKeys, add_signature
from bot.matrix.crypto import Rotation, SafeOlm
from bot.matrix.crypto_store import CryptoStore
from bot.matrix.error_mapping import call
from bot.matrix.history import Histories
from bot.matrix.identity import Identity
from bot.matrix.interactive_auth import InteractiveAuth
from bot.matrix.nio_client import SafeClient
from bot.matrix.parse import parse_event
from bot.matrix.recovery_key import RecoveryKeyPlace
from bot.matrix.room_events import Rooms
from bot.matrix.room_history_keys import RoomHistoryKeys
from bot.matrix.session import Session
from bot.matrix.state_events import ADMIN, ROOM_MARKER
from bot.matrix.sync import _Upkeep
from tests.harness.vault import health, vault
from tests.unit.matrix.shapes import device_keys

ROOM, MALLORY, BOSS = "!r:x", "@mallory:x", "@boss:x"


def opened(directory: Path) -> SafeClient:
    client = SafeClient("http://x", "@bot:x", "BOT")
    client.restore_login("@bot:x", "BOT", "token")
    client.open_store(CryptoStore(directory / "crypto.db", "@bot:x", "BOT", "s" * 32))
    return client


@pytest.fixture
def client(tmp_path: Path) -> Iterator[SafeClient]:
    client = opened(tmp_path)
    yield client
    olm(client).store.close()


def olm(client: SafeClient) -> SafeOlm:
    return client.machine


def sync(**sections: Any) -> nio.SyncResponse:  # noqa: ANN401  # sections of /sync
    body = {"next_batch": "s1", "rooms": {}, "device_one_time_keys_count": {}} | sections
    response = response_repair.read(nio.SyncResponse, json.dumps(body).encode(), ())
    assert isinstance(response, nio.SyncResponse), response
    return response


def room(*timeline: dict[str, Any], state: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    joined = {
        "state": {"events": list(state)},
        "timeline": {"events": list(timeline), "limited": False, "prev_batch": "p"},
        "ephemeral": {"events": []},
        "account_data": {"events": []},
        "summary": {},
        "unread_notifications": {},
    }
    return {"rooms": {"join": {ROOM: joined}}}


def said(body: str) -> dict[str, Any]:
    content = {"msgtype": "m.text", "body": body}
    event = {"type": "m.room.message", "event_id": "$1", "sender": BOSS, "origin_server_ts": 1}
    return event | {"content": content}


def to_device(client: SafeClient, sender_key: str, kind: int, body: str) -> dict[str, Any]:
    own = olm(client).account.identity_keys["curve25519"]
    content = {
        "algorithm": "m.olm.v1.curve25519-aes-sha2",
        "sender_key": sender_key,
        "ciphertext": {own: {"type": kind, "body": body}},
    }
    return {"type": "m.room.encrypted", "sender": MALLORY, "content": content}


def olm_payload(client: SafeClient, peer: OlmAccount, payload: dict[str, Any]) -> dict[str, Any]:
    """Return the plaintext of a peer's Olm message, with what `payload` changes in it."""
    return {
        "sender": MALLORY,
        "sender_device": "D",
        "keys": {"ed25519": peer.identity_keys["ed25519"]},
        "recipient": "@bot:x",
        "recipient_keys": {"ed25519": olm(client).account.identity_keys["ed25519"]},
    } | payload


def olm_message(
    client: SafeClient, peer: OlmAccount, payload: dict[str, Any], nested: int = 0
) -> dict[str, Any]:
    """Return `payload` as a real peer's pre-key message to the bot."""
    account = olm(client).account
    account.generate_one_time_keys(1)
    key = next(iter(account.one_time_keys["curve25519"].values()))
    account.mark_keys_as_published()
    session = peer.create_outbound_session(account.identity_keys["curve25519"], key)
    text = json.dumps(olm_payload(client, peer, payload))
    if nested:
        text = text[:-1] + f', "x": {"[" * nested}{"]" * nested}}}'
    kind, ciphertext = session.encrypt(text.encode()).to_parts()
    return to_device(
        client, peer.identity_keys["curve25519"], kind, encode_base64(bytes(ciphertext))
    )


def unknown_one_time_key(client: SafeClient) -> dict[str, Any]:
    peer, other = OlmAccount(), OlmAccount()
    other.generate_one_time_keys(1)
    key = next(iter(other.one_time_keys["curve25519"].values()))
    session = peer.create_outbound_session(olm(client).account.identity_keys["curve25519"], key)
    kind, ciphertext = session.encrypt(b"{}").to_parts()
    return to_device(
        client, peer.identity_keys["curve25519"], kind, encode_base64(bytes(ciphertext))
    )


def bad_room_key(client: SafeClient) -> dict[str, Any]:
    content = {
        "algorithm": "m.megolm.v1.aes-sha2",
        "room_id": ROOM,
        "session_id": "x",
        "session_key": "AAAA",
    }
    return olm_message(client, OlmAccount(), {"type": "m.room_key", "content": content})


BAD_EVENTS: dict[str, Callable[[SafeClient], dict[str, Any]]] = {
    "unknown one-time key": unknown_one_time_key,
    "garbage pre-key body": lambda client: to_device(client, "A" * 43, 0, "AAAA"),
    "garbage body": lambda client: to_device(client, "A" * 43, 1, "!!!"),
    "bad session key of a real peer": bad_room_key,
    "deeply nested payload": lambda client: olm_message(
        client, OlmAccount(), {"type": "m.dummy", "content": {}}, nested=100_000
    ),
    "payload without its fields": lambda client: olm_message(
        client, OlmAccount(), {"type": "m.room_key", "content": 3}
    ),
    "forged sender": lambda client: olm_message(
        client, OlmAccount(), {"type": "m.dummy", "content": {}, "sender": BOSS}
    ),
}


@pytest.mark.parametrize("name", BAD_EVENTS)
async def test_a_bad_to_device_event_does_not_stop_the_rest_of_a_sync(
    client: SafeClient, name: str
) -> None:
    response = sync(to_device={"events": [BAD_EVENTS[name](client)]}, **room(said("hi")))

    await client.receive_response(response)

    assert client.rooms[ROOM] is not None
    assert [event.body for event in response.rooms.join[ROOM].timeline.events] == ["hi"]


@pytest.mark.parametrize("count", [{"signed_curve25519": 0}, {}, {"signed_curve25519": 49}])
async def test_keys_that_are_used_up_are_uploaded_again(
    client: SafeClient, count: dict[str, int]
) -> None:
    olm(client).account.shared = True

    await client.receive_response(sync(device_one_time_keys_count=count))

    assert client.should_upload_keys


async def test_enough_keys_are_left_alone(client: SafeClient) -> None:
    olm(client).account.shared = True

    await client.receive_response(sync(device_one_time_keys_count={"signed_curve25519": 50}))

    assert not client.should_upload_keys


@pytest.mark.parametrize(
    "bad",
    [
        {"keys": {"ed25519:D": "AAAA", "curve25519:D": "AAAA"}},
        {"signatures": {MALLORY: {"ed25519:D": "AAAA"}}},
        {"signatures": {MALLORY: {"ed25519:D": "not base64 é"}}},
    ],
)
async def test_one_devices_malformed_keys_do_not_hide_another_device(
    client: SafeClient, bad: dict[str, Any]
) -> None:
    answer = {
        MALLORY: {"D": device_keys(MALLORY, OlmAccount()) | bad},
        BOSS: {"D": device_keys(BOSS, OlmAccount())},
    }
    response = nio.KeysQueryResponse.from_dict({"device_keys": answer, "failures": {}})

    await client.receive_response(response)

    store = olm(client).device_store
    assert "D" in store[BOSS]
    assert "D" not in store[MALLORY]


async def test_a_session_that_reaches_further_back_is_never_replaced(
    client: SafeClient,
) -> None:
    session, keys = vodozemac.GroupSession(), OlmAccount().identity_keys
    early = session.session_key.to_base64()
    session.encrypt(b"x")
    late = session.session_key.to_base64()

    def index_after(*copies: str) -> int:
        for copy in copies:
            olm(client).create_group_session(
                keys["curve25519"], keys["ed25519"], ROOM, session.session_id, copy
            )
        known = olm(client).inbound_group_store.get(ROOM, keys["curve25519"], session.session_id)
        assert known is not None
        return int(known.first_known_index)

    assert index_after(late) == 1
    assert index_after(early, late) == 0


def state(kind: str, content: dict[str, Any], key: str = "") -> dict[str, Any]:
    event = {"type": kind, "state_key": key, "event_id": f"${kind}{key}", "sender": BOSS}
    return event | {"origin_server_ts": 1, "content": content}


async def test_a_state_event_that_cannot_be_taken_in_hides_no_other(
    client: SafeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: MatrixRoom, event: nio.Event) -> None:
        raise ValueError(event.event_id)

    monkeypatch.setattr(MatrixRoom, "handle_event", fail)
    named = state("m.room.name", {"name": "x"})
    joined = state("m.room.member", {"membership": "join"}, BOSS)
    encryption = state("m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    response = sync(**room(named, said("hi"), state=(named, encryption, joined)))

    await client.receive_response(response)

    assert client.rooms[ROOM].encrypted
    assert BOSS in client.rooms[ROOM].users
    assert "hi" in [
        getattr(one, "body", None) for one in response.rooms.join[ROOM].timeline.events
    ]


async def test_an_encrypted_message_forges_no_state(client: SafeClient) -> None:
    session, keys = OutboundGroupSession(), OlmAccount().identity_keys
    session.shared = True
    olm(client).create_group_session(
        keys["curve25519"], keys["ed25519"], ROOM, session.id, session.session_key
    )

    def encrypted(kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        inner = json.dumps({"type": kind, "room_id": ROOM} | payload)
        content = {
            "algorithm": "m.megolm.v1.aes-sha2",
            "ciphertext": session.encrypt(inner),  # type: ignore[no-untyped-call]  # nio has no hint
            "device_id": "D",
            "sender_key": keys["curve25519"],
            "session_id": session.id,
        }
        event = {"type": "m.room.encrypted", "event_id": f"$enc-{kind}", "sender": MALLORY}
        return event | {"origin_server_ts": 2, "content": content}

    levels = {"users": {MALLORY: 100}}
    forged = [
        encrypted("m.room.power_levels", {"state_key": "", "content": levels}),
        encrypted("m.room.member", {"state_key": BOSS, "content": {"membership": "leave"}}),
    ]
    given = (
        state("m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"}),
        state("m.room.member", {"membership": "join"}, BOSS),
        state("m.room.power_levels", {"users": {BOSS: 100}}),
    )

    await client.receive_response(sync(**room(*forged, state=given)))

    assert client.rooms[ROOM].power_levels.get_user_level(MALLORY) == 0
    assert BOSS in client.rooms[ROOM].users


class KeyServer:
    """Stands behind `_send`: answers what it has been told to, and lets others in meanwhile.

    Attributes:
        asked: the class of answer and the body of each request.
        refused: how many requests for an answer of a class are refused.
        devices: by user id, the devices that a query brings.
        members: of the room.
        encryption: the content of its m.room.encryption, None while it has none.
        keys: the one-time key that a claim brings for each device, by user id.
    """

    def __init__(self, client: SafeClient, monkeypatch: pytest.MonkeyPatch) -> None:
        self.client = client
        self.asked: list[tuple[type[nio.Response], Any]] = []
        self.refused: Counter[type[nio.Response]] = Counter()
        self.devices: dict[str, dict[str, Any]] = {}
        self.members: set[str] = set()
        self.encryption: dict[str, Any] | None = None
        self.keys: dict[str, dict[str, Any]] = {}
        self.meanwhile: Callable[[type[nio.Response]], None] = lambda _: None
        self.gate: asyncio.Event | None = None
        self.reached = asyncio.Event()
        monkeypatch.setattr(client, "_send", self.answer)

    async def answer(
        self,
        kind: type[nio.Response],
        _method: str,
        path: str,
        body: str = "",
        *_: object,
        **given: object,
    ) -> nio.Response:
        self.asked.append((kind, json.loads(body) if body else path))
        self.reached.set()
        if kind is nio.ToDeviceResponse:
            return await self.took(given)
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        self.meanwhile(kind)
        if self.refused[kind]:
            self.refused[kind] -= 1
            return nio.ErrorResponse("bad gateway", "M_UNKNOWN")
        response = self._response(kind, self.asked[-1][1])
        await self.client.receive_response(response)
        return response

    def _response(self, kind: type[nio.Response], body: Any) -> nio.Response:  # noqa: ANN401  # JSON
        if kind is nio.RoomSendResponse:
            return nio.RoomSendResponse("$sent", ROOM)
        if kind is nio.KeysQueryResponse:
            answer = {
                user: self.devices[user] for user in body["device_keys"] if user in self.devices
            }
            return nio.KeysQueryResponse(answer, {})
        if kind is nio.KeysClaimResponse:
            asked = body["one_time_keys"]
            answer = {
                user: {
                    one: key for one, key in self.keys.get(user, {}).items() if one in asked[user]
                }
                for user in asked
            }
            return nio.KeysClaimResponse(answer, {})
        if kind is nio.JoinedMembersResponse:
            members = [nio.RoomMember(user, "", "") for user in self.members]
            return nio.JoinedMembersResponse(members, ROOM)
        return self._encryption() if kind is response_repair.ObjectResponse else EmptyResponse()

    def _encryption(self) -> nio.Response:
        if self.encryption is None:
            return nio.ErrorResponse("Event not found.", "M_NOT_FOUND")
        return response_repair.ObjectResponse(self.encryption)

    async def took(self, given: dict[str, object]) -> nio.Response:
        """Take one message of the Olm machine's own, or refuse it."""
        if self.refused[nio.ToDeviceResponse]:
            self.refused[nio.ToDeviceResponse] -= 1
            return nio.ErrorResponse("no such device", "M_NOT_FOUND")
        response = nio.ToDeviceResponse(*cast("tuple[Any]", given["response_data"]))
        await self.client.receive_response(response)
        return response

    def count(self, kind: type[nio.Response]) -> int:
        return sum(asked is kind for asked, _ in self.asked)

    def given(self) -> list[set[tuple[str, str]]]:
        """Return to which devices each piece of a room's key went."""
        return [
            {(user, device) for user, devices in body["messages"].items() for device in devices}
            for kind, body in self.asked
            if kind is EmptyResponse
        ]


@pytest.fixture
def homeserver(client: SafeClient, monkeypatch: pytest.MonkeyPatch) -> KeyServer:
    return KeyServer(client, monkeypatch)


async def send(client: SafeClient) -> dict[str, Any]:
    """Send one message, and return what went over the wire."""
    content = {"msgtype": "m.text", "body": "x"}
    request = client.room_send(ROOM, "m.room.message", content, "txn")
    response = await call(nio.RoomSendResponse, asyncio.wait_for(request, 5))
    assert response.event_id == "$sent"
    server = cast("KeyServer", cast("Any", client._send).__self__)
    return cast("dict[str, Any]", server.asked[-1][1])


def one_time_key(user_id: str, account: OlmAccount, device_id: str = "D") -> dict[str, Any]:
    account.generate_one_time_keys(1)
    key_id, key = next(iter(account.one_time_keys["curve25519"].items()))
    account.mark_keys_as_published()
    signature = account.sign(nio.Api.to_canonical_json({"key": key}))
    signed = {"key": key, "signatures": {user_id: {f"ed25519:{device_id}": signature}}}
    return {f"signed_curve25519:{key_id}": signed}


def enter(client: SafeClient, homeserver: KeyServer, devices: int = 1) -> list[OlmAccount]:
    """Put the bot into an encrypted room with BOSS, whose devices it has yet to learn of."""
    accounts = [OlmAccount() for _ in range(devices)]
    homeserver.members = {BOSS, "@bot:x"}
    homeserver.devices = {
        "@bot:x": {},
        BOSS: {f"D{i}": device_keys(BOSS, one, f"D{i}") for i, one in enumerate(accounts)},
    }
    homeserver.keys[BOSS] = {
        f"D{i}": one_time_key(BOSS, one, f"D{i}") for i, one in enumerate(accounts)
    }
    client.rooms[ROOM] = MatrixRoom(ROOM, "@bot:x", encrypted=True)
    return accounts


async def test_a_room_key_goes_to_every_device_before_the_first_message(
    client: SafeClient, homeserver: KeyServer
) -> None:
    enter(client, homeserver, devices=100)

    sent = await send(client)

    assert set.union(*homeserver.given()) == {(BOSS, f"D{i}") for i in range(100)}
    assert max(map(len, homeserver.given())) <= 40  # so that each piece is short
    assert sent["algorithm"] == "m.megolm.v1.aes-sha2"
    asked = len(homeserver.asked)
    await send(client)
    assert len(homeserver.asked) == asked + 1  # nothing but the message


MEGOLM = {"algorithm": "m.megolm.v1.aes-sha2"}


async def make(client: SafeClient, *, by: str = "@bot:x", encrypted: bool = False) -> None:
    """Let a sync tell that the bot is in an admin room, and perhaps no more of its state."""
    create = state("m.room.create", {ROOM_MARKER: ADMIN}) | {"sender": by}
    joined = state("m.room.member", {"membership": "join"}, "@bot:x")
    sealed = [state("m.room.encryption", MEGOLM)] if encrypted else []
    token = f"s-{len(sealed)}"  # nio passes over a token that it knows
    await client.receive_response(sync(next_batch=token, **room(create, joined, *sealed)))


async def test_a_welcome_is_encrypted_though_no_sync_has_told_that_the_room_is(
    client: SafeClient, homeserver: KeyServer
) -> None:
    await make(client)
    homeserver.encryption = MEGOLM

    assert (await send(client))["ciphertext"]
    assert await client.is_encrypted(ROOM)
    assert homeserver.count(response_repair.ObjectResponse) == 1
    assert homeserver.count(nio.RoomSendResponse) == 1


async def test_a_welcome_waits_while_the_homeserver_makes_the_room(
    client: SafeClient, homeserver: KeyServer
) -> None:
    await make(client)
    async with client.creating_room:
        sending = asyncio.get_running_loop().create_task(send(client))
        for _ in range(5):
            await asyncio.sleep(0)
        assert homeserver.asked == []
        homeserver.encryption = MEGOLM

    assert (await sending)["ciphertext"]


@pytest.mark.parametrize("told", [True, False], ids=["by a sync", "on asking"])
async def test_a_welcome_is_tried_again_where_the_room_is_not_yet_whole(
    client: SafeClient, homeserver: KeyServer, *, told: bool
) -> None:
    await make(client)

    for what in (client.prepare(ROOM), client.is_encrypted(ROOM), send(client)):
        with pytest.raises(HomeserverUnreachable, match="still making"):
            await what
    assert homeserver.count(nio.RoomSendResponse) == 0

    if told:
        await make(client, encrypted=True)
    else:
        homeserver.encryption = MEGOLM
    assert (await send(client))["ciphertext"]


async def test_in_an_admin_room_that_was_never_made_to_its_end_nothing_is_said(
    client: SafeClient, homeserver: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nio_client, "_CREATION_SECONDS", 0.0)
    await make(client)

    with capture_logs() as logs, pytest.raises(NotEncrypted, match="delete it and start"):
        await send(client)

    assert homeserver.count(nio.RoomSendResponse) == 0
    assert [(one["event"], one["log_level"]) for one in logs] == [("room not encrypted", "error")]


async def test_a_room_of_somebody_else_s_is_in_clear_as_they_made_it(
    client: SafeClient, homeserver: KeyServer
) -> None:
    await make(client, by=BOSS)

    assert (await send(client))["msgtype"] == "m.text"
    assert homeserver.count(response_repair.ObjectResponse) == 0


async def test_a_send_cancelled_while_it_shares_does_not_block_the_room(
    client: SafeClient, homeserver: KeyServer
) -> None:
    enter(client, homeserver)
    homeserver.gate = asyncio.Event()
    cut = asyncio.get_running_loop().create_task(send(client))
    await homeserver.reached.wait()
    cut.cancel()
    await asyncio.wait([cut])
    homeserver.gate.set()

    assert (await send(client))["ciphertext"]


@pytest.mark.parametrize(
    "refused",
    [EmptyResponse, nio.KeysClaimResponse, nio.KeysQueryResponse, nio.JoinedMembersResponse],
    ids=["to-device", "claim", "query", "members"],
)
async def test_what_the_homeserver_refuses_is_an_error_and_done_again(
    client: SafeClient, homeserver: KeyServer, refused: type[nio.Response]
) -> None:
    enter(client, homeserver)
    homeserver.refused[refused] = 1

    with pytest.raises(MatrixError):
        await send(client)
    assert homeserver.count(nio.RoomSendResponse) == 0

    await send(client)
    assert homeserver.given()[-1] == {(BOSS, "D0")}


async def test_a_share_cut_in_the_middle_goes_on_with_the_rest(
    client: SafeClient, homeserver: KeyServer
) -> None:
    enter(client, homeserver, devices=70)

    def refuse_the_second(_: type[nio.Response]) -> None:
        homeserver.refused[EmptyResponse] = int(homeserver.count(EmptyResponse) == 2)

    homeserver.meanwhile = refuse_the_second
    with pytest.raises(MatrixError):
        await send(client)
    homeserver.meanwhile = lambda _: None
    await send(client)

    first, refused, again = homeserver.given()
    assert refused == again
    assert first | again == {(BOSS, f"D{i}") for i in range(70)}
    session = olm(client).outbound_group_sessions[ROOM]
    assert session.message_count == 1


async def test_two_sends_at_once_share_the_key_once(
    client: SafeClient, homeserver: KeyServer
) -> None:
    enter(client, homeserver)

    await asyncio.gather(send(client), send(client), client.prepare(ROOM))

    assert len(homeserver.given()) == 1


async def test_who_leaves_while_the_key_is_shared_gets_none_of_what_follows(
    client: SafeClient, homeserver: KeyServer
) -> None:
    enter(client, homeserver)
    left = nio.RoomMemberEvent.from_dict(state("m.room.member", {"membership": "leave"}, MALLORY))
    homeserver.members.add(MALLORY)
    homeserver.devices[MALLORY] = {"D": device_keys(MALLORY, mallory := OlmAccount())}
    homeserver.keys[MALLORY] = {"D": one_time_key(MALLORY, mallory)}
    leaving = [left]

    def leave(kind: type[nio.Response]) -> None:
        if kind is EmptyResponse and leaving:
            client._apply_state(client.rooms[ROOM], leaving.pop())

    homeserver.meanwhile = leave
    sent = await send(client)

    early, late = homeserver.given()
    assert early == {(BOSS, "D0"), (MALLORY, "D")}
    assert late == {(BOSS, "D0")}
    assert sent["session_id"] == olm(client).outbound_group_sessions[ROOM].id


async def test_who_joins_while_the_key_is_shared_gets_it_too(
    client: SafeClient, homeserver: KeyServer
) -> None:
    enter(client, homeserver)
    mallory = OlmAccount()
    homeserver.devices[MALLORY] = {"D": device_keys(MALLORY, mallory)}
    homeserver.keys[MALLORY] = {"D": one_time_key(MALLORY, mallory)}
    joined = nio.RoomMemberEvent.from_dict(state("m.room.member", {"membership": "join"}, MALLORY))
    joining = [joined]

    def join(kind: type[nio.Response]) -> None:
        if kind is EmptyResponse and joining:
            client._apply_state(client.rooms[ROOM], joining.pop())

    homeserver.meanwhile = join
    await send(client)

    assert homeserver.given() == [{(BOSS, "D0")}, {(MALLORY, "D")}]


async def test_a_new_device_gets_the_key_and_a_lost_one_ends_it(
    client: SafeClient, homeserver: KeyServer
) -> None:
    enter(client, homeserver)
    first = (await send(client))["session_id"]
    new = OlmAccount()
    homeserver.devices[BOSS]["NEW"] = device_keys(BOSS, new, "NEW")
    homeserver.keys[BOSS]["NEW"] = one_time_key(BOSS, new, "NEW")
    olm(client).add_changed_users({BOSS})

    assert (await send(client))["session_id"] == first
    assert homeserver.given()[-1] == {(BOSS, "NEW")}

    del homeserver.devices[BOSS]["D0"]
    olm(client).add_changed_users({BOSS})
    assert (await send(client))["session_id"] != first
    assert homeserver.given()[-1] == {(BOSS, "NEW")}


async def test_a_device_that_is_renamed_changes_nothing(
    client: SafeClient, homeserver: KeyServer
) -> None:
    enter(client, homeserver)
    first = (await send(client))["session_id"]
    homeserver.devices[BOSS]["D0"] |= {"unsigned": {"device_display_name": "New name"}}
    olm(client).add_changed_users({BOSS})

    assert (await send(client))["session_id"] == first
    assert len(homeserver.given()) == 1


async def test_a_device_without_a_key_left_is_asked_again_later(
    client: SafeClient, homeserver: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(client, homeserver)
    key = homeserver.keys[BOSS].pop("D0")
    first = (await send(client))["session_id"]
    assert homeserver.given() == []
    homeserver.keys[BOSS]["D0"] = key
    await send(client)
    assert homeserver.count(nio.KeysClaimResponse) == 1  # not at every message

    monkeypatch.setitem(client._undelivered, ROOM, 0.0)  # a minute later
    assert (await send(client))["session_id"] == first
    assert homeserver.given() == [{(BOSS, "D0")}]


async def test_a_query_that_is_refused_is_made_again_for_whoever_has_changed(
    client: SafeClient, homeserver: KeyServer
) -> None:
    enter(client, homeserver)
    await send(client)
    new = OlmAccount()
    homeserver.devices[BOSS]["NEW"] = device_keys(BOSS, new, "NEW")
    homeserver.keys[BOSS]["NEW"] = one_time_key(BOSS, new, "NEW")
    olm(client).add_changed_users({BOSS})
    homeserver.refused[nio.KeysQueryResponse] = 1

    with pytest.raises(MatrixError):
        await send(client)
    await send(client)

    assert homeserver.given()[-1] == {(BOSS, "NEW")}


async def test_users_without_an_answer_are_asked_again_later(
    client: SafeClient, homeserver: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(client, homeserver)
    known = homeserver.devices.pop(BOSS)  # their homeserver is away
    await send(client)
    await send(client)
    assert homeserver.count(nio.KeysQueryResponse) == 1
    homeserver.devices[BOSS] = known

    monkeypatch.setitem(client._unanswered, BOSS, 0.0)
    await send(client)
    assert homeserver.given() == [{(BOSS, "D0")}]


async def test_a_user_who_changes_while_a_query_runs_is_asked_again(
    client: SafeClient, homeserver: KeyServer
) -> None:
    enter(client, homeserver)
    once = [BOSS]

    def change(kind: type[nio.Response]) -> None:
        if kind is nio.KeysQueryResponse and once:
            olm(client).add_changed_users({once.pop()})

    homeserver.meanwhile = change
    await client.query_keys()
    assert homeserver.count(nio.KeysQueryResponse) == 0  # nobody is noted yet

    await send(client)
    asked = [
        list(body["device_keys"])
        for kind, body in homeserver.asked
        if kind is nio.KeysQueryResponse
    ]
    assert [BOSS in one for one in asked] == [True, True]


async def test_a_room_key_is_replaced_after_as_many_messages_as_the_room_says(
    client: SafeClient, homeserver: KeyServer
) -> None:
    enter(client, homeserver)
    content = {"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": 3}
    await client.receive_response(sync(**room(state=(state("m.room.encryption", content),))))

    used = [(await send(client))["session_id"] for _ in range(7)]

    assert [used.count(one) for one in dict.fromkeys(used)] == [3, 3, 1]


async def test_a_room_key_is_replaced_when_it_is_as_old_as_the_room_says(
    client: SafeClient, homeserver: KeyServer
) -> None:
    enter(client, homeserver)
    content = {"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_ms": 3_600_000}
    await client.receive_response(sync(**room(state=(state("m.room.encryption", content),))))
    first = (await send(client))["session_id"]
    olm(client).outbound_group_sessions[ROOM].creation_time -= timedelta(hours=1)

    assert (await send(client))["session_id"] != first


@pytest.mark.parametrize(
    "content",
    [{}, {"rotation_period_msgs": 0, "rotation_period_ms": -1}, {"rotation_period_ms": "x"}],
)
def test_a_rotation_that_is_none_is_the_default(content: dict[str, object]) -> None:
    assert Rotation.of(content) == Rotation(100, timedelta(days=7))


def test_an_endless_rotation_is_no_error() -> None:
    assert datetime.now(UTC) - Rotation.of({"rotation_period_ms": 2**60}).age < datetime.now(UTC)


@pytest.mark.parametrize(
    "content",
    [
        {"algorithm": "m.megolm.v1.aes-sha2"},
        {},
        {"algorithm": 5},
        {"algorithm": "org.example.new"},
        {"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": "x"},
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["state", "timeline"])
async def test_whatever_its_encryption_event_says_nothing_goes_into_the_room_in_clear(
    client: SafeClient, homeserver: KeyServer, content: dict[str, object], place: str
) -> None:
    enter(client, homeserver)
    del client.rooms[ROOM]
    event = state("m.room.encryption", content)
    body = room(event) if place == "timeline" else room(state=(event,))
    await client.receive_response(sync(**body))

    assert "ciphertext" in await send(client)


async def test_a_room_stays_encrypted_over_restarts_and_later_state(
    client: SafeClient, homeserver: KeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(client, homeserver)
    content = {"algorithm": "m.megolm.v1.aes-sha2"}
    await client.receive_response(sync(**room(state=(state("m.room.encryption", content),))))
    olm(client).save_account()

    again = opened(tmp_path)
    enter(again, server := KeyServer(again, monkeypatch))
    del again.rooms[ROOM]
    await again.receive_response(sync(**room(said("no word of encryption"))))

    assert "ciphertext" in await send(again)
    assert server.given() == [{(BOSS, "D0")}]
    olm(again).store.close()


async def test_nothing_is_sent_into_a_room_that_is_not_known(
    client: SafeClient, homeserver: KeyServer
) -> None:
    with pytest.raises(MatrixError, match="not in this room"):
        await send(client)
    assert homeserver.asked == []


async def test_a_room_that_is_left_is_forgotten(client: SafeClient, homeserver: KeyServer) -> None:
    enter(client, homeserver)
    await send(client)
    empty = {
        "state": {"events": []},
        "timeline": {"events": [], "limited": False, "prev_batch": "p"},
    }

    await client.receive_response(sync(rooms={"leave": {ROOM: empty}}))

    assert client.rooms == {}
    assert olm(client).outbound_group_sessions == {}


async def test_a_cut_timeline_lets_the_room_key_go_and_the_members_be_asked_anew(
    client: SafeClient, homeserver: KeyServer
) -> None:
    enter(client, homeserver)
    first = (await send(client))["session_id"]
    body = room(said("hi"))
    body["rooms"]["join"][ROOM]["timeline"]["limited"] = True

    await client.receive_response(sync(**body))

    assert (await send(client))["session_id"] != first
    assert homeserver.count(nio.JoinedMembersResponse) == 2


# Our own keys.


def test_keys_that_may_have_been_uploaded_are_offered_again_and_no_others(
    client: SafeClient, tmp_path: Path
) -> None:
    offered = olm(client).share_keys()

    again = olm(opened(tmp_path)).share_keys()

    for section in ("one_time_keys", "fallback_keys"):
        kept = {key_id: key["key"] for key_id, key in again[section].items()}
        assert kept == {key_id: key["key"] for key_id, key in offered[section].items()}
    assert len(offered["one_time_keys"]) == 50


async def uploaded(client: SafeClient, **sections: object) -> dict[str, Any]:
    """Return what is uploaded after the homeserver has taken the first keys and said this."""
    olm(client).share_keys()
    olm(client).handle_response(nio.KeysUploadResponse(0, 50))
    due = [client.should_upload_keys]
    await client.receive_response(sync(**sections))
    due.append(client.should_upload_keys)
    assert due[0] is False
    return olm(client).share_keys() if due[1] else {}


async def test_one_time_keys_that_are_gone_are_replaced_by_as_many(client: SafeClient) -> None:
    content = await uploaded(client, device_one_time_keys_count={"signed_curve25519": 47})

    assert len(content["one_time_keys"]) == 3
    assert "fallback_keys" not in content


async def test_a_fallback_key_that_was_used_is_replaced_and_stays_readable(
    client: SafeClient,
) -> None:
    first = olm(client).share_keys()["fallback_keys"]
    olm(client).handle_response(nio.KeysUploadResponse(0, 50))
    [key] = first.values()
    peer = OlmAccount()
    own = olm(client).account.identity_keys
    session = peer.create_outbound_session(own["curve25519"], key["key"])
    await client.receive_response(
        sync(
            device_one_time_keys_count={"signed_curve25519": 50},
            device_unused_fallback_key_types=[],
        )
    )
    second = olm(client).share_keys()
    olm(client).handle_response(nio.KeysUploadResponse(0, 50))
    payload = olm_payload(client, peer, {"type": "m.dummy", "content": {}})
    kind, ciphertext = session.encrypt(json.dumps(payload).encode()).to_parts()
    body = encode_base64(bytes(ciphertext))
    response = sync(
        next_batch="s2",
        to_device={"events": [to_device(client, peer.identity_keys["curve25519"], kind, body)]},
    )
    await client.receive_response(response)

    assert key["fallback"] is True
    assert olm(client).verify_json(dict(key), own["ed25519"], "@bot:x", "BOT")
    assert second["one_time_keys"] == {}
    assert second["fallback_keys"].keys().isdisjoint(first)
    assert isinstance(response.to_device_events[0], nio.DummyEvent)


@pytest.mark.parametrize("types", [["signed_curve25519"], None])
async def test_a_fallback_key_that_nobody_used_is_left_alone(
    client: SafeClient, types: list[str] | None
) -> None:
    said: dict[str, object] = {"device_one_time_keys_count": {"signed_curve25519": 50}}
    if types is not None:
        said["device_unused_fallback_key_types"] = types

    assert await uploaded(client, **said) == {}


# What is read, and whose word it is.


class Sender:
    """A device of `user_id` that has given its room's key to the bot."""

    def __init__(self, client: SafeClient, user_id: str) -> None:
        self.user_id = user_id
        self.account = OlmAccount()
        self.session = OutboundGroupSession()
        self.session.shared = True
        self._client = client
        self._events = itertools.count()

    async def give_key(self) -> None:
        content = {
            "algorithm": "m.megolm.v1.aes-sha2",
            "room_id": ROOM,
            "session_id": self.session.id,
            "session_key": self.session.session_key,
        }
        event = olm_message(
            self._client,
            self.account,
            {"type": "m.room_key", "content": content, "sender": self.user_id},
        )
        await self._client.receive_response(
            sync(
                next_batch=f"k{id(self)}", to_device={"events": [event | {"sender": self.user_id}]}
            )
        )

    def says(self, body: str, **clear: object) -> dict[str, Any]:
        inner = {"type": "m.room.message", "room_id": ROOM}
        payload = inner | {"content": {"msgtype": "m.text", "body": body}}
        content = {
            "algorithm": "m.megolm.v1.aes-sha2",
            "ciphertext": self.session.encrypt(json.dumps(payload)),  # type: ignore[no-untyped-call]  # nio
            "session_id": self.session.id,
        }
        event = {"type": "m.room.encrypted", "event_id": f"${self.user_id}{next(self._events)}"}
        return event | {"sender": self.user_id, "origin_server_ts": 1, "content": content | clear}


async def heard(client: SafeClient, *events: dict[str, Any]) -> list[str | None]:
    """Return the texts that the bot reads of the events; None for one that it cannot read."""
    response = sync(next_batch=f"s{id(events)}", **room(*events))
    await client.receive_response(response)
    return [getattr(one, "body", None) for one in response.rooms.join[ROOM].timeline.events]


@pytest.mark.parametrize("clear", [{}, {"sender_key": "wrong", "device_id": "WRONG"}])
async def test_msc3700_a_message_is_read_whatever_it_says_of_its_sender_key(
    client: SafeClient, clear: dict[str, object]
) -> None:
    boss = Sender(client, BOSS)
    await boss.give_key()

    assert await heard(client, boss.says("hello", **clear)) == ["hello"]


@pytest.mark.parametrize("wrong", [{"session_id": "another"}, {"algorithm": "m.megolm.v9"}])
async def test_a_room_key_that_is_not_what_it_says_is_not_kept(
    client: SafeClient, wrong: dict[str, str]
) -> None:
    boss = Sender(client, BOSS)
    content = {
        "algorithm": "m.megolm.v1.aes-sha2",
        "room_id": ROOM,
        "session_id": boss.session.id,
        "session_key": boss.session.session_key,
    } | wrong
    payload = {"type": "m.room_key", "content": content, "sender": BOSS}
    event = olm_message(client, boss.account, payload) | {"sender": BOSS}

    await client.receive_response(sync(to_device={"events": [event]}))

    for session_id in (boss.session.id, "another"):
        assert olm(client).inbound_group_store.copies(RoomId(ROOM), session_id) == {}


async def test_the_devices_of_a_stranger_who_cannot_be_read_are_asked_for(
    client: SafeClient,
) -> None:
    assert await heard(client, Sender(client, BOSS).says("hello")) == [None]

    assert BOSS in olm(client).users_for_key_query


async def test_a_one_time_key_and_the_session_it_makes_are_saved_together_or_not_at_all(
    client: SafeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreError("the disk is full")

    events = [
        olm_message(client, OlmAccount(), {"type": "m.dummy", "content": {}}) for _ in range(2)
    ]
    store = olm(client).store
    saved = store._rows("SELECT pickle FROM account")
    await client.receive_response(sync(to_device={"events": events[:1]}))
    assert store._rows("SELECT pickle FROM account") != saved
    assert len(store._rows("SELECT 1 FROM olm_sessions")) == 1
    monkeypatch.setattr(store, "save_account", full)

    with pytest.raises(StoreError):
        await client.receive_response(sync(next_batch="s2", to_device={"events": events[1:]}))

    assert len(store._rows("SELECT 1 FROM olm_sessions")) == 1


async def test_a_message_in_anothers_name_is_not_read(client: SafeClient) -> None:
    boss = Sender(client, BOSS)
    await boss.give_key()
    said = boss.says("hello")

    assert await heard(client, said | {"sender": MALLORY, "event_id": "$m"}, said) == [
        None,
        "hello",
    ]


async def test_a_key_that_another_has_passed_on_first_takes_no_message_away(
    client: SafeClient,
) -> None:
    boss, mallory = Sender(client, BOSS), Sender(client, MALLORY)
    mallory.session = boss.session
    await mallory.give_key()
    await boss.give_key()

    assert await heard(client, boss.says("hello")) == ["hello"]


async def test_a_message_that_comes_again_under_another_id_is_not_read_again(
    client: SafeClient,
) -> None:
    boss = Sender(client, BOSS)
    await boss.give_key()
    said = boss.says("pay")

    assert await heard(client, said, said, said | {"event_id": "$again"}) == ["pay", "pay", None]


async def test_a_message_has_the_same_fingerprint_with_its_key_and_without(
    client: SafeClient,
) -> None:
    boss, stranger = Sender(client, BOSS), Sender(client, BOSS)
    await boss.give_key()
    first, second = boss.says("one"), boss.says("two")

    async def fingerprints(*events: dict[str, Any]) -> list[str | None]:
        response = sync(next_batch=f"s{id(events)}", **room(*events))
        await client.receive_response(response)
        heard = [
            parse_event(one, RoomId(ROOM), UserId("@bot:x"))
            for one in response.rooms.join[ROOM].timeline.events
        ]
        return [one.fingerprint for one in heard if isinstance(one, Message | Undecryptable)]

    read = await fingerprints(first, second)
    again = await fingerprints(first, first | {"event_id": "$again"}, stranger.says("one"))

    assert len({*read, *again}) == 3
    assert None not in {*read, *again}
    assert again[:2] == [read[0]] * 2  # the second is refused, and can be known all the same


async def test_a_key_that_comes_late_reads_what_waited(client: SafeClient) -> None:
    boss = Sender(client, BOSS)
    said = boss.says("hello")
    late = Sender(client, BOSS)
    late.session = boss.session

    assert await heard(client, said) == [None]
    await late.give_key()
    assert await heard(client, boss.says("and more")) == ["and more"]


async def test_250_room_keys_in_one_sync_are_all_taken_in(client: SafeClient) -> None:
    senders = [Sender(client, f"@u{i}:x") for i in range(250)]
    events = []
    for one in senders:
        content = {
            "algorithm": "m.megolm.v1.aes-sha2",
            "room_id": ROOM,
            "session_id": one.session.id,
            "session_key": one.session.session_key,
        }
        payload = {"type": "m.room_key", "content": content, "sender": one.user_id}
        events.append(olm_message(client, one.account, payload) | {"sender": one.user_id})
    await client.receive_response(sync(to_device={"events": events}))

    texts = await heard(client, *(one.says(f"from {one.user_id}") for one in senders))
    assert texts == [f"from {one.user_id}" for one in senders]


async def test_requests_and_verifications_of_strangers_leave_nothing_behind(
    client: SafeClient,
) -> None:
    request = {
        "action": "request",
        "body": {
            "algorithm": "m.megolm.v1.aes-sha2",
            "room_id": ROOM,
            "session_id": "s",
            "sender_key": "k",
        },
        "request_id": "1",
        "requesting_device_id": "D",
    }
    start = {
        "from_device": "D",
        "method": "m.sas.v1",
        "transaction_id": "t",
        "key_agreement_protocols": ["curve25519"],
        "hashes": ["sha256"],
        "message_authentication_codes": ["hkdf-hmac-sha256"],
        "short_authentication_string": ["emoji"],
    }
    events = [
        {"type": "m.room_key_request", "sender": MALLORY, "content": request},
        {"type": "m.key.verification.start", "sender": MALLORY, "content": start},
    ]

    await client.receive_response(sync(to_device={"events": events}))

    assert olm(client).key_verifications == {}
    assert olm(client).received_key_requests == {}
    assert olm(client).outgoing_to_device_messages == []


async def test_a_large_answer_is_parsed_while_the_loop_turns(client: SafeClient) -> None:
    events = [said("x" * 100) | {"event_id": f"${i}"} for i in range(3000)]
    body = json.dumps({"next_batch": "s1", "device_one_time_keys_count": {}} | room(*events))
    turns, over = 0, asyncio.Event()

    async def tick() -> None:
        nonlocal turns
        while not over.is_set():
            turns += 1
            await asyncio.sleep(0.001)  # without a pause it would keep the parser's thread waiting

    class Transport:
        status = 200

        async def read(self) -> bytes:
            return body.encode()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(tick())
        response = await client.create_matrix_response(nio.SyncResponse, cast("Any", Transport()))
        parsed_at = turns
        await client.receive_response(response)
        over.set()

    assert isinstance(response, nio.SyncResponse)
    assert len(response.rooms.join[ROOM].timeline.events) == 3000
    assert parsed_at > 10


@pytest.mark.parametrize(
    "left",
    [
        state("m.room.member", {"membership": "leave", "reason": 5}, MALLORY),
        state("m.room.member", {"membership": "leave", "displayname": 5}, MALLORY),
        state("m.room.member", {}, MALLORY) | {"unsigned": {"redacted_because": {}}},
    ],
    ids=["odd reason", "odd name", "redacted"],
)
async def test_who_leaves_in_an_odd_way_gets_none_of_what_follows(
    client: SafeClient, homeserver: KeyServer, left: dict[str, Any]
) -> None:
    enter(client, homeserver)
    homeserver.members.add(MALLORY)
    homeserver.devices[MALLORY] = {"D": device_keys(MALLORY, mallory := OlmAccount())}
    homeserver.keys[MALLORY] = {"D": one_time_key(MALLORY, mallory)}
    first = (await send(client))["session_id"]
    homeserver.members.remove(MALLORY)

    await client.receive_response(sync(**room(left)))

    assert (await send(client))["session_id"] != first
    assert homeserver.given()[-1] == {(BOSS, "D0")}


@pytest.mark.parametrize("membership", ["leave", "join"])
async def test_a_list_of_members_older_than_a_sync_decides_nothing(
    client: SafeClient, homeserver: KeyServer, membership: str
) -> None:
    enter(client, homeserver)
    homeserver.devices[MALLORY] = {"D": device_keys(MALLORY, mallory := OlmAccount())}
    homeserver.keys[MALLORY] = {"D": one_time_key(MALLORY, mallory)}
    with_mallory = homeserver.members | {MALLORY}
    stale, fresh = with_mallory, set(homeserver.members)
    if membership == "join":
        stale, fresh = fresh, stale
    homeserver.members = stale
    event = nio.RoomMemberEvent.from_dict(
        state("m.room.member", {"membership": membership}, MALLORY)
    )
    changes = [event]

    def change(kind: type[nio.Response]) -> None:
        if kind is nio.JoinedMembersResponse and changes:
            client._apply_state(client.rooms[ROOM], changes.pop())
            client._renew_key(ROOM, gone=membership == "leave")  # nio may not have known them
        elif kind is nio.JoinedMembersResponse:
            homeserver.members = fresh

    homeserver.meanwhile = change
    await send(client)

    given = set.union(*homeserver.given())
    assert given == {(BOSS, "D0")} | ({(MALLORY, "D")} if membership == "join" else set())


async def test_a_cut_timeline_while_devices_are_queried_has_the_members_asked_anew(
    client: SafeClient, homeserver: KeyServer
) -> None:
    enter(client, homeserver)
    homeserver.members.add(MALLORY)
    homeserver.devices[MALLORY] = {"D": device_keys(MALLORY, mallory := OlmAccount())}
    homeserver.keys[MALLORY] = {"D": one_time_key(MALLORY, mallory)}
    cuts = [room(said("hi"))["rooms"]["join"][ROOM]]
    cuts[0]["timeline"]["limited"] = True

    def cut(kind: type[nio.Response]) -> None:
        if kind is nio.KeysQueryResponse and cuts:
            homeserver.members.remove(MALLORY)
            info = sync(rooms={"join": {ROOM: cuts.pop()}}).rooms.join[ROOM]
            client._state(ROOM, info)

    homeserver.meanwhile = cut
    sent = await send(client)

    assert homeserver.given() == [{(BOSS, "D0")}]
    assert sent["session_id"] == olm(client).outbound_group_sessions[ROOM].id


async def test_a_device_that_was_missing_once_gets_keys_again(
    client: SafeClient, homeserver: KeyServer
) -> None:
    enter(client, homeserver)
    await send(client)
    device = homeserver.devices[BOSS].pop("D0")
    olm(client).add_changed_users({BOSS})
    await client.query_keys()
    homeserver.devices[BOSS]["D0"] = device
    olm(client).add_changed_users({BOSS})

    await send(client)

    assert homeserver.given() == [{(BOSS, "D0")}] * 2


async def test_a_device_with_another_key_gets_the_rooms_next_one(
    client: SafeClient, homeserver: KeyServer
) -> None:
    [account] = enter(client, homeserver)
    first = (await send(client))["session_id"]
    other = OlmAccount()
    keys = device_keys(BOSS, account, "D0")
    keys["keys"]["curve25519:D0"] = other.identity_keys["curve25519"]
    del keys["signatures"]
    keys["signatures"] = {BOSS: {"ed25519:D0": account.sign(nio.Api.to_canonical_json(keys))}}
    homeserver.devices[BOSS]["D0"] = keys
    other.generate_one_time_keys(1)
    key_id, key = next(iter(other.one_time_keys["curve25519"].items()))
    signed = {"key": key}
    signature = account.sign(nio.Api.to_canonical_json(signed))
    homeserver.keys[BOSS]["D0"] = {
        f"signed_curve25519:{key_id}": signed | {"signatures": {BOSS: {"ed25519:D0": signature}}}
    }
    olm(client).add_changed_users({BOSS})

    assert (await send(client))["session_id"] != first
    assert homeserver.given()[-1] == {(BOSS, "D0")}


async def test_who_changes_devices_while_we_know_of_no_room_with_them_is_asked_again(
    client: SafeClient, homeserver: KeyServer
) -> None:
    enter(client, homeserver)
    await send(client)
    client.rooms[ROOM].remove_member(BOSS)  # as after a cut timeline
    new = OlmAccount()
    homeserver.devices[BOSS]["NEW"] = device_keys(BOSS, new, "NEW")
    homeserver.keys[BOSS]["NEW"] = one_time_key(BOSS, new, "NEW")
    await client.receive_response(sync(device_lists={"changed": [BOSS], "left": []}))
    client.rooms[ROOM].members_synced = False

    await send(client)

    assert homeserver.given()[-1] >= {(BOSS, "NEW")}


@pytest.mark.parametrize("age", [1, 1000])
async def test_a_room_that_wants_a_new_key_all_the_time_gets_one_an_hour(
    client: SafeClient, homeserver: KeyServer, age: int
) -> None:
    enter(client, homeserver)
    content = {"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_ms": age}
    await client.receive_response(sync(**room(state=(state("m.room.encryption", content),))))

    assert (await send(client))["session_id"] == (await send(client))["session_id"]
    assert olm(client).outbound_group_sessions[ROOM].max_age == timedelta(hours=1)


@pytest.mark.parametrize("count", [-20_000, -(10**30), 10**30])
async def test_a_count_of_one_time_keys_that_lies_makes_no_more_than_all(
    client: SafeClient, count: int
) -> None:
    content = await uploaded(client, device_one_time_keys_count={"signed_curve25519": count})

    assert len(content.get("one_time_keys", {})) == (50 if count < 0 else 0)


@pytest.mark.parametrize(
    "payload",
    [
        {"type": "m.room.power_levels", "state_key": "", "content": []},
        {"type": "m.room.create", "state_key": "", "content": "x"},
        {
            "type": "m.room.message",
            "sender": "@ada:x",
            "event_id": "$forged",
            "room_id": 5,
            "content": {"msgtype": "m.text", "body": "in another's name"},
        },
        {
            "type": "m.room.member",
            "state_key": "@bot:x",
            "content": {"membership": "invite"},
            "unsigned": {"prev_content": {"membership": "leave"}},
        },
    ],
    ids=lambda payload: str(payload["type"]),
)
async def test_a_payload_of_any_shape_says_nothing_in_anothers_name_and_is_no_state(
    client: SafeClient, payload: dict[str, Any]
) -> None:
    mallory = Sender(client, MALLORY)
    await mallory.give_key()
    event = mallory.says("x")
    event["content"]["ciphertext"] = mallory.session.encrypt(json.dumps(payload))  # type: ignore[no-untyped-call]  # nio
    event["unsigned"] = {"age": 1}
    response = sync(next_batch="forged", **room(event))
    await client.receive_response(response)

    [read] = response.rooms.join[ROOM].timeline.events
    source = cast("Any", read).source
    assert "state_key" not in source
    assert (source["sender"], source["event_id"]) == (MALLORY, event["event_id"])
    assert source["unsigned"] == {"age": 1}  # the homeserver's own


@pytest.mark.parametrize("field", ["session_id", "sender_key", "device_id"])
async def test_half_a_character_in_an_id_hides_no_other_message(
    client: SafeClient, field: str
) -> None:
    boss = Sender(client, BOSS)
    await boss.give_key()
    odd, fine = boss.says("odd"), boss.says("fine")
    odd["content"][field] = "\ud800"

    assert (await heard(client, odd, fine))[-1] == "fine"


@pytest.mark.parametrize("refused", [0, 1])
async def test_a_device_that_had_no_key_of_ours_is_begun_anew_with_once(
    client: SafeClient, homeserver: KeyServer, tmp_path: Path, refused: int
) -> None:
    [account] = enter(client, homeserver)
    olm(client).add_changed_users({BOSS})
    await client.query_keys()
    olm(client).account.shared = True
    content = {"code": "m.no_olm", "sender_key": account.identity_keys["curve25519"]}
    event = {"type": "m.room_key.withheld", "sender": BOSS, "content": content}
    full = {"signed_curve25519": 50}
    await client.receive_response(
        sync(to_device={"events": [event]}, device_one_time_keys_count=full)
    )
    homeserver.refused[nio.ToDeviceResponse] = refused
    me = str(client.user_id)
    identity = Identity(
        client, me, RecoveryKeyPlace(None), InteractiveAuth("", me, None, lambda _: None)
    )
    parts = SimpleNamespace(client=client, vault=vault(tmp_path), identity=identity)
    rooms = Rooms(UserId(me), health(), Histories(client, UserId(me)))
    upkeep = _Upkeep(cast("Session", parts), RoomHistoryKeys(client, rooms, wanted=False))

    await upkeep.run()
    await upkeep.run()

    assert homeserver.count(nio.KeysClaimResponse) == 1
    assert homeserver.count(nio.ToDeviceResponse) == 1  # a dummy message: the session is known
    assert olm(client).session_store[account.identity_keys["curve25519"]]
    assert not client.should_claim_keys


def identity_of(user_id: str, account: OlmAccount, device_id: str) -> dict[str, Any]:
    """Return the answer to a query about a user whose identity has signed that one device."""
    identity, device = CrossSigningKeys.new(), device_keys(user_id, account, device_id)
    add_signature(device, user_id, identity.self_signing)
    body = identity.published(user_id)
    return {
        "device_keys": {user_id: {device_id: device}},
        "failures": {},
        **{f"{usage}_keys": {user_id: body[f"{usage}_key"]} for usage in identity.by_usage},
    }


async def ask_about(client: SafeClient, answer: dict[str, Any]) -> None:
    response = response_repair.read(nio.KeysQueryResponse, json.dumps(answer).encode(), ())
    await client.receive_response(response)


async def test_of_signed_devices_alone_those_with_the_keys_that_are_known_are_served(
    client: SafeClient,
) -> None:
    olm(client).signed_only = True
    phone, evil = OlmAccount(), OlmAccount()
    await ask_about(client, {**identity_of(BOSS, evil, "EVIL"), "master_keys": {}})
    assert not olm(client).serves(BOSS)
    honest = identity_of(BOSS, phone, "PHONE")
    await ask_about(client, honest)
    assert olm(client).signed == {(BOSS, "PHONE")}

    # What is truly signed stands under the id of a device that is known, and is not.
    both = {
        "PHONE": honest["device_keys"][BOSS]["PHONE"],
        "EVIL": honest["device_keys"][BOSS]["PHONE"],
    }
    await ask_about(client, {**honest, "device_keys": {BOSS: both}})

    assert olm(client).signed == {(BOSS, "PHONE")}


async def test_a_refused_notice_of_a_withheld_key_keeps_nobody_waiting(
    client: SafeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    olm(client).signed_only = True
    await ask_about(client, {**identity_of(BOSS, OlmAccount(), "D"), "master_keys": {}})
    olm(client).create_outbound_group_session(ROOM)
    session = olm(client).outbound_group_sessions[ROOM]
    sent, refusing = list[dict[str, Any]](), True

    async def ask(_method: str, _path: list[str], body: dict[str, Any], **_: str) -> None:
        if refusing:
            raise MatrixError("refused")
        sent.append(body["messages"])

    monkeypatch.setattr(client, "ask", ask)
    await client._withhold(session, ROOM, [BOSS])
    refusing = False
    await client._withhold(session, ROOM, [BOSS])
    await client._withhold(session, ROOM, [BOSS])

    [messages] = sent
    assert messages[BOSS]["D"]["code"] == "m.unverified"
    assert client.left_out == []  # no device of theirs could read the sentence

"""matrix-nio's known defects (T1, T1b, T2, T7, T9, state forgery): none of them here."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import nio
import pytest
import vodozemac
from nio.crypto import OlmAccount, OlmDevice, OutboundGroupSession
from nio.rooms import MatrixRoom
from unpaddedbase64 import encode_base64

from bot.errors import MatrixError
from bot.matrix.crypto import MemoryTrustStore, SafeClient, SafeOlm
from bot.matrix.failures import call

ROOM, MALLORY, BOSS = "!r:x", "@mallory:x", "@boss:x"


@pytest.fixture
def client(tmp_path: Path) -> SafeClient:
    config = nio.AsyncClientConfig(store=MemoryTrustStore, store_name="crypto.db")
    client = SafeClient("http://x", "@bot:x", "BOT", str(tmp_path), config)
    client.restore_login("@bot:x", "BOT", "token")
    return client


def olm(client: SafeClient) -> SafeOlm:
    assert isinstance(client.olm, SafeOlm)
    return client.olm


def sync(**sections: Any) -> nio.SyncResponse:  # noqa: ANN401  # sections of /sync
    body = {"next_batch": "s1", "rooms": {}, "device_one_time_keys_count": {}} | sections
    response = nio.SyncResponse.from_dict(body)
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


def olm_message(
    client: SafeClient, peer: OlmAccount, payload: dict[str, Any], nested: int = 0
) -> dict[str, Any]:
    """Return `payload` as a real peer's pre-key message to the bot."""
    account = olm(client).account
    account.generate_one_time_keys(1)
    key = next(iter(account.one_time_keys["curve25519"].values()))
    session = peer.create_outbound_session(account.identity_keys["curve25519"], key)
    whole = {
        "sender": MALLORY,
        "keys": {"ed25519": peer.identity_keys["ed25519"]},
        "recipient": "@bot:x",
        "recipient_keys": {"ed25519": account.identity_keys["ed25519"]},
    } | payload
    text = json.dumps(whole)
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
    "T1 unknown one-time key": unknown_one_time_key,
    "T1 garbage pre-key body": lambda client: to_device(client, "A" * 43, 0, "AAAA"),
    "T1 garbage body": lambda client: to_device(client, "A" * 43, 1, "!!!"),
    "T1b bad session key of a real peer": bad_room_key,
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
async def test_t1_a_bad_to_device_event_does_not_stop_the_rest_of_a_sync(
    client: SafeClient, name: str
) -> None:
    response = sync(to_device={"events": [BAD_EVENTS[name](client)]}, **room(said("hi")))

    await client.receive_response(response)

    assert client.rooms[ROOM] is not None
    assert [event.body for event in response.rooms.join[ROOM].timeline.events] == ["hi"]


@pytest.mark.parametrize("count", [{"signed_curve25519": 0}, {}, {"signed_curve25519": 49}])
async def test_t2_keys_that_are_used_up_are_uploaded_again(
    client: SafeClient, count: dict[str, int]
) -> None:
    olm(client).account.shared = True

    await client.receive_response(sync(device_one_time_keys_count=count))

    assert client.should_upload_keys


async def test_t2_enough_keys_are_left_alone(client: SafeClient) -> None:
    olm(client).account.shared = True

    await client.receive_response(sync(device_one_time_keys_count={"signed_curve25519": 50}))

    assert not client.should_upload_keys


def device_keys(user_id: str, account: OlmAccount) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "device_id": "D",
        "user_id": user_id,
        "keys": {f"{kind}:D": key for kind, key in account.identity_keys.items()},
    }
    signature = account.sign(nio.Api.to_canonical_json(keys))
    return keys | {"signatures": {user_id: {"ed25519:D": signature}}}


@pytest.mark.parametrize(
    "bad",
    [
        {"keys": {"ed25519:D": "AAAA", "curve25519:D": "AAAA"}},
        {"signatures": {MALLORY: {"ed25519:D": "AAAA"}}},
        {"signatures": {MALLORY: {"ed25519:D": "not base64 é"}}},
    ],
)
async def test_t7_one_devices_malformed_keys_do_not_hide_another_device(
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


async def test_t9_a_session_that_reaches_further_back_is_never_replaced(
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


def meet(client: SafeClient) -> OlmAccount:
    """Put the bot into an encrypted room with a device of BOSS, no Olm session yet."""
    account = OlmAccount()
    account.generate_one_time_keys(2)
    olm(client).device_store.add(
        OlmDevice(BOSS, "D", cast("dict[str, str]", account.identity_keys))
    )
    olm(client).store.save_device_keys({BOSS: {"D": olm(client).device_store[BOSS]["D"]}})
    client.rooms[ROOM] = MatrixRoom(ROOM, "@bot:x", encrypted=True)
    client.rooms[ROOM].add_member(BOSS, None, None)
    client.rooms[ROOM].members_synced = True
    return account


def session_with(client: SafeClient, account: OlmAccount) -> None:
    key = next(iter(account.one_time_keys["curve25519"].values()))
    olm(client).create_session(key, account.identity_keys["curve25519"])


class Answers:
    """Stands for the homeserver behind `_send`: refuses shares as often as told."""

    def __init__(self, client: SafeClient, *, refused: int = 0) -> None:
        self.client = client
        self.refused = refused
        self.sent: list[str] = []

    async def __call__(
        self, kind: type[nio.Response], _method: str, path: str, *_: object, **given: object
    ) -> nio.Response:
        self.sent.append(path)
        if kind is not nio.ShareGroupSessionResponse:
            return nio.RoomSendResponse("$sent", ROOM)
        if self.refused:
            self.refused -= 1
            return nio.ShareGroupSessionError("bad gateway", "M_UNKNOWN", room_id=ROOM)
        room_id, devices = cast("tuple[str, set[tuple[str, str]]]", given["response_data"])
        answer = nio.ShareGroupSessionResponse(room_id, devices)
        await self.client.receive_response(answer)
        return answer


async def send(client: SafeClient) -> nio.RoomSendResponse:
    content = {"msgtype": "m.text", "body": "x"}
    request = client.room_send(ROOM, "m.room.message", content, ignore_unverified_devices=True)
    return await call(nio.RoomSendResponse, asyncio.wait_for(request, 5))


async def test_t3_a_send_cancelled_while_it_shares_does_not_block_the_room(
    client: SafeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    account, claiming = meet(client), asyncio.Event()

    async def claim(_: object) -> nio.KeysClaimResponse:
        claiming.set()
        await asyncio.Event().wait()
        raise AssertionError("never reached")

    monkeypatch.setattr(client, "_send", Answers(client))
    monkeypatch.setattr(client, "keys_claim", claim)
    cut = asyncio.get_running_loop().create_task(send(client))
    await claiming.wait()
    cut.cancel()
    await asyncio.wait([cut])
    session_with(client, account)

    assert (await send(client)).event_id == "$sent"


async def test_t8_a_share_that_the_homeserver_refuses_is_an_error_and_done_again(
    client: SafeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_with(client, meet(client))
    answers = Answers(client, refused=1)
    monkeypatch.setattr(client, "_send", answers)

    with pytest.raises(MatrixError):
        await send(client)
    assert not olm(client).outbound_group_sessions[ROOM].shared
    assert not any("/send/" in path for path in answers.sent)

    await send(client)
    assert olm(client).outbound_group_sessions[ROOM].users_shared_with == {(BOSS, "D")}


async def test_a_claim_that_fails_is_an_error_and_leaves_no_device_out(
    client: SafeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = meet(client)
    answers = Answers(client)

    async def claim(_: object) -> nio.KeysClaimError:
        return nio.KeysClaimError("bad gateway", "M_UNKNOWN", room_id=ROOM)

    monkeypatch.setattr(client, "_send", answers)
    monkeypatch.setattr(client, "keys_claim", claim)
    with pytest.raises(MatrixError):
        await send(client)
    session_with(client, account)

    await send(client)
    assert olm(client).outbound_group_sessions[ROOM].users_shared_with == {(BOSS, "D")}


def test_t6_keys_that_may_have_been_uploaded_are_offered_again_and_no_others(
    client: SafeClient, tmp_path: Path
) -> None:
    offered = olm(client).share_keys()["one_time_keys"]

    again = SafeClient("http://x", "@bot:x", "BOT", str(tmp_path), client.config)
    again.restore_login("@bot:x", "BOT", "token")

    kept = olm(again).account.one_time_keys["curve25519"]
    assert {key["key"] for key in offered.values()} == set(kept.values())

"""What of a sync response is a verification of the bot's device, and what is not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nio
import pytest

from bot.core.events import UserId, VerificationEvent
from bot.matrix import response_repair
from bot.matrix.crypto_store import CryptoStore
from bot.matrix.history import Histories
from bot.matrix.nio_client import SafeClient
from bot.matrix.room_events import Rooms
from bot.matrix.verification import Verifications
from tests.harness.vault import health

ME, ADA, BOB, ROOM = UserId("@bot:x"), UserId("@ada:x"), UserId("@bob:x"), "!r:x"
NOW = 1_800_000_000.0
AT = int(NOW * 1000)
REQUEST = "m.key.verification.request"


@pytest.fixture
def verifications(tmp_path: Path) -> Iterator[Verifications]:
    client = SafeClient("http://x", ME, "BOT")
    client.restore_login(ME, "BOT", "token")
    client.open_store(CryptoStore(tmp_path / "crypto.db", ME, "BOT", "s" * 32))
    yield Verifications(client, Rooms(ME, health(), Histories(client, ME)))
    client.machine.store.close()


def sync(*, to_device: list[Any] | None = None, room: list[Any] | None = None) -> nio.SyncResponse:
    joined = {
        "state": {"events": []},
        "timeline": {"events": room or [], "limited": False, "prev_batch": "p"},
        "ephemeral": {"events": []},
        "account_data": {"events": []},
        "summary": {},
        "unread_notifications": {},
    }
    body = {
        "next_batch": "s1",
        "rooms": {"join": {ROOM: joined}},
        "device_one_time_keys_count": {},
        "to_device": {"events": to_device or []},
    }
    response = response_repair.read(nio.SyncResponse, json.dumps(body).encode(), ())
    assert isinstance(response, nio.SyncResponse)
    return response


def asked(**content: object) -> dict[str, Any]:
    """Return a request by to-device."""
    whole = {"from_device": "D", "transaction_id": "t1", "timestamp": AT, "methods": []}
    return {"type": REQUEST, "sender": ADA, "content": {**whole, **content}}


def said(kind: str, sender: str = ADA, event_id: str = "$1", **more: Any) -> dict[str, Any]:  # noqa: ANN401  # any JSON
    """Return an event of the room."""
    base = {"type": kind, "sender": sender, "event_id": event_id, "origin_server_ts": AT}
    return {**base, "content": {}, **more}


def request(event_id: str = "$1", *, to: str = ME, at: object = AT) -> dict[str, Any]:
    content = {"msgtype": REQUEST, "body": "?", "to": to, "from_device": "D", "methods": []}
    return said("m.room.message", event_id=event_id, content=content, origin_server_ts=at)


def step(kind: str, sender: str = ADA, of: str = "$1") -> dict[str, Any]:
    relation = {"m.relates_to": {"rel_type": "m.reference", "event_id": of}}
    return said(f"m.key.verification.{kind}", sender, f"$of-{kind}", content=relation)


def kinds(heard: tuple[VerificationEvent, ...]) -> list[tuple[str, str]]:
    return [(one.kind, one.transaction_id) for one in heard]


def test_a_request_by_to_device_and_what_follows_it_are_heard(
    verifications: Verifications,
) -> None:
    start = {**asked(), "type": "m.key.verification.start"}

    heard = verifications.read_response(sync(to_device=[asked(), start]), NOW)

    assert kinds(heard) == [("request", "t1"), ("start", "t1")]


@pytest.mark.parametrize(
    "timestamp",
    [None, "now", True, 10**400, -(10**400), 1e300, AT - 700_000, AT + 400_000, [], {}],
)
def test_a_request_of_another_time_is_none(
    verifications: Verifications, timestamp: object
) -> None:
    assert verifications.read_response(sync(to_device=[asked(timestamp=timestamp)]), NOW) == ()


@pytest.mark.parametrize("transaction_id", [None, "", 7, "x" * 256, ["t"], {}])
def test_a_request_without_transaction_is_none(
    verifications: Verifications, transaction_id: object
) -> None:
    response = sync(to_device=[asked(transaction_id=transaction_id)])

    assert verifications.read_response(response, NOW) == ()


def test_in_a_room_a_request_to_the_bot_and_what_follows_it_are_heard(
    verifications: Verifications,
) -> None:
    heard = verifications.read_response(sync(room=[request(), step("cancel")]), NOW)
    later = verifications.read_response(sync(room=[step("start")]), NOW)

    assert kinds(heard) == [("request", "$1"), ("cancel", "$1")]
    assert kinds(later) == [("start", "$1")]


def test_what_others_verify_among_themselves_is_not_heard(verifications: Verifications) -> None:
    between_others = [request(to=BOB), step("start"), step("key", BOB)]
    strangers = [request("$2"), step("start", BOB, "$2")]

    heard = verifications.read_response(sync(room=[*between_others, *strangers]), NOW)

    assert kinds(heard) == [("request", "$2")]


def test_what_the_bot_has_answered_an_earlier_process_has_dealt_with(
    verifications: Verifications,
) -> None:
    heard = verifications.read_response(sync(room=[request(), step("ready", ME)]), NOW)

    assert heard == ()


@pytest.mark.parametrize("at", [0, AT - 700_000, 2**53, "x"])
def test_a_request_that_is_old_is_none(verifications: Verifications, at: object) -> None:
    assert verifications.read_response(sync(room=[request(at=at)]), NOW) == ()

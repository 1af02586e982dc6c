"""Room key bundles: what is taken of them, and what no bundle can do."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import nio
import pytest
from nio.crypto import OlmAccount, OlmDevice
from nio.crypto.attachments import encrypt_attachment
from nio.crypto.sessions import InboundGroupSession, OutboundGroupSession
from typing_extensions import override

from bot.core.events import RoomId, UserId
from bot.errors import HomeserverUnreachable, MatrixError, TooLarge
from bot.matrix.cross_signing import CrossSigningKeys, add_signature
from bot.matrix.crypto import RoomKeyBundle
from bot.matrix.crypto_store import CryptoStore
from bot.matrix.history import Histories
from bot.matrix.nio_client import SafeClient
from bot.matrix.room_events import Rooms
from bot.matrix.room_history_keys import RoomHistoryKeys
from tests.harness.vault import health

ROOM, ME = RoomId("!r:x"), UserId("@bot:x")
HOST, MALLORY = "@host:x", "@mallory:x"


class Client(SafeClient):
    """A homeserver with one file, and one inviter's identity."""

    answer: bytes | MatrixError = b""
    shown: dict[str, Any]

    @override
    async def download_media(self, url: str, limit: int) -> bytes:
        assert url == "mxc://x/file"
        assert limit > 0
        if isinstance(self.answer, MatrixError):
            raise self.answer
        return self.answer

    @override
    async def ask(self, *_: object, **__: object) -> dict[str, Any]:
        return self.shown

    @override
    async def learn_devices(self, room_id: str) -> None:
        assert room_id == ROOM


class HistoryKeySetup:
    """A room to which the host has invited the bot, and the key of what was said there before."""

    def __init__(self, directory: Path) -> None:
        self.client = Client("http://x", ME, "BOT")
        self.client.restore_login(ME, "BOT", "token")
        self.client.open_store(CryptoStore(directory / "crypto.db", ME, "BOT", "s" * 32))
        self.account = OlmAccount()
        self.keys = cast("dict[str, str]", self.account.identity_keys)
        self.rooms = Rooms(ME, health(), Histories(self.client, ME))
        self.rooms._members[ROOM] = (2, 0)
        invited = {"prev_content": {"membership": "invite"}, "prev_sender": HOST}
        self.rooms._memberships[ROOM] = {"unsigned": invited}
        room = nio.MatrixRoom(ROOM, ME, encrypted=True)
        room.add_member(HOST, "Host", None)
        self.client.rooms[ROOM] = room
        self.client.machine.device_store.add(OlmDevice(HOST, "H", self.keys, "Phone"))
        self.client.shown = self.identity(signed=True)
        self.session = OutboundGroupSession()

    def identity(self, *, signed: bool) -> dict[str, Any]:
        identity = CrossSigningKeys.new()
        keys = {"curve25519:H": self.keys["curve25519"], "ed25519:H": self.keys["ed25519"]}
        device = {"user_id": HOST, "device_id": "H", "keys": keys}
        if signed:
            add_signature(device, HOST, identity.self_signing)
        body = identity.published(HOST)
        return {
            "device_keys": {HOST: {"H": device}},
            **{f"{usage}_keys": {HOST: body[f"{usage}_key"]} for usage in identity.by_usage},
        }

    def key(self, **changes: object) -> dict[str, Any]:
        inbound = InboundGroupSession(
            self.session.session_key, self.keys["ed25519"], self.keys["curve25519"], ROOM
        )
        return {
            "algorithm": "m.megolm.v1.aes-sha2",
            "room_id": ROOM,
            "sender_key": self.keys["curve25519"],
            "sender_claimed_keys": {"ed25519": self.keys["ed25519"]},
            "session_id": self.session.id,
            "session_key": inbound.export_session(0),
            **changes,
        }

    def bundle(
        self, content: object, *, sender: str = HOST, file: Mapping[str, object] | None = None
    ) -> None:
        sealed, keys = encrypt_attachment(json.dumps(content).encode())
        if not isinstance(self.client.answer, MatrixError):
            self.client.answer = sealed
        self.client.machine.bundles[sender, ROOM] = RoomKeyBundle(
            sender=sender,
            sender_key=self.keys["curve25519"],
            sender_ed25519=self.keys["ed25519"],
            room_id=ROOM,
            file={"url": "mxc://x/file", **keys, **(file or {})},
        )

    async def take(self, *, wanted: bool = True) -> bool:
        """Take bundles in, and tell whether the key is there."""
        await RoomHistoryKeys(self.client, self.rooms, wanted=wanted).import_bundles()
        return bool(self.client.machine.inbound_group_store.copies(ROOM, self.session.id))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[HistoryKeySetup]:
    stage = HistoryKeySetup(tmp_path)
    yield stage
    stage.client.machine.store.close()


async def test_a_bundle_of_the_inviter_s_signed_device_is_taken_in(stage: HistoryKeySetup) -> None:
    stage.bundle({"room_keys": [stage.key()]})

    assert await stage.take()
    [copy] = stage.client.machine.inbound_group_store.copies(ROOM, stage.session.id).values()
    assert copy.sender == HOST
    assert stage.client.machine.bundles == {}


async def test_a_bundle_that_is_not_wanted_is_let_go(stage: HistoryKeySetup) -> None:
    stage.bundle({"room_keys": [stage.key()]})

    assert not await stage.take(wanted=False)
    assert stage.client.machine.bundles == {}


async def test_a_bundle_of_another_than_the_inviter_is_left_out(stage: HistoryKeySetup) -> None:
    stage.bundle({"room_keys": [stage.key()]}, sender=MALLORY)

    assert not await stage.take()


async def test_a_bundle_of_an_unsigned_device_is_left_out(stage: HistoryKeySetup) -> None:
    stage.client.shown = stage.identity(signed=False)
    stage.bundle({"room_keys": [stage.key()]})

    assert not await stage.take()


async def test_a_bundle_waits_until_the_bot_is_in_the_room(stage: HistoryKeySetup) -> None:
    del stage.rooms._members[ROOM]
    stage.bundle({"room_keys": [stage.key()]})

    assert not await stage.take()
    stage.rooms._members[ROOM] = (2, 0)
    assert await stage.take()


@pytest.mark.parametrize(
    "changes",
    [
        {"room_id": "!other:x"},
        {"sender_key": "unknown"},
        {"sender_claimed_keys": {"ed25519": "another"}},
        {"session_id": "another"},
        {"session_key": "AAAA"},
        {"session_key": None},
        {"sender_claimed_keys": []},
    ],
)
async def test_a_key_that_is_not_what_it_says_is_left_out(
    stage: HistoryKeySetup, changes: dict[str, object]
) -> None:
    stage.bundle({"room_keys": [stage.key(**changes), 7, None]})

    assert not await stage.take()


@pytest.mark.parametrize("content", [{}, [], {"room_keys": {}}, {"room_keys": [[]]}, 7, None])
async def test_a_file_without_keys_gives_none(stage: HistoryKeySetup, content: object) -> None:
    stage.bundle(content)

    assert not await stage.take()
    assert stage.client.machine.bundles == {}


@pytest.mark.parametrize(
    "file",
    [
        {"hashes": {"sha256": "A" * 43}},
        {"hashes": {}},
        {"key": {"k": "A" * 43}},
        {"key": {"k": 7}},
        {"iv": "?"},
    ],
)
async def test_a_file_that_was_changed_is_let_go(
    stage: HistoryKeySetup, file: dict[str, object]
) -> None:
    stage.bundle({"room_keys": [stage.key()]}, file=file)

    assert not await stage.take()
    assert stage.client.machine.bundles == {}


async def test_a_file_that_is_too_large_is_let_go_and_one_that_is_away_is_tried_again(
    stage: HistoryKeySetup,
) -> None:
    stage.client.answer = HomeserverUnreachable("away")
    stage.bundle({"room_keys": [stage.key()]})
    with pytest.raises(HomeserverUnreachable):
        await stage.take()
    assert len(stage.client.machine.bundles) == 1

    stage.client.answer = TooLarge("too large")
    assert not await stage.take()
    assert stage.client.machine.bundles == {}


def test_bundles_of_strangers_are_bounded(stage: HistoryKeySetup) -> None:
    for number in range(200):
        content: dict[str, Any] = {"room_id": f"!{number}:x", "file": 7}
        payload = {"type": "m.room_key_bundle", "content": content, "keys": {}}
        assert stage.client.machine._handle_olm_event(MALLORY, "key", payload) is None

    assert len(stage.client.machine.bundles) == 32
    assert (MALLORY, "!199:x") in stage.client.machine.bundles

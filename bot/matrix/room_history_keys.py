"""Keys of earlier messages, shared by the bot's inviter (MSC4268, room key bundles).

The inviter's client uploads a room's keys as an encrypted file and sends its location. Nothing
proves that the keys belong to the users they name. A bundle is therefore accepted only if the
operator allows it, only from a device signed by its owner, and only from the user who invited the
bot. The keys make earlier messages readable; these are never prompts.
"""

import json
from collections.abc import Mapping
from typing import Any

import nio
import structlog
from nio.crypto.attachments import decrypt_attachment
from nio.crypto.sessions import InboundGroupSession

from bot.core.events import RoomId, UserId
from bot.errors import Forbidden, MatrixError
from bot.matrix.cross_signing import PublicIdentity
from bot.matrix.crypto import RoomKeyBundle
from bot.matrix.error_mapping import MALFORMED
from bot.matrix.json_fields import Json, mapping, text
from bot.matrix.nio_client import SafeClient
from bot.matrix.room_events import Rooms
from bot.matrix.time_slice import TimeSlice

_LARGEST = 32 * 1024 * 1024  # bytes, some 40,000 keys
_MOST_KEYS = 50_000

log = structlog.get_logger()


class RoomHistoryKeys:
    """Imports the bundles of rooms that the bot has joined."""

    def __init__(self, client: SafeClient, rooms: Rooms, *, wanted: bool) -> None:
        self._client = client
        self._rooms = rooms
        self._wanted = wanted

    async def import_bundles(self) -> None:
        """Import the bundles that have come for rooms that the bot is in.

        Raises:
            MatrixError: the homeserver did not answer. The next call tries again.
        """
        bundles = self._client.machine.bundles
        if not self._wanted:
            bundles.clear()
        for bundle in [one for one in bundles.values() if self._rooms.knows(RoomId(one.room_id))]:
            if await self._is_trusted(bundle):
                try:
                    keys = await self._download(bundle.file)
                except (Forbidden, *MALFORMED) as error:
                    ids = {"room_id": bundle.room_id, "sender": bundle.sender}
                    log.warning("room key bundle unusable", reason=type(error).__name__, **ids)
                else:
                    await self._import(bundle, keys)
            bundles.pop((bundle.sender, bundle.room_id), None)

    async def _is_trusted(self, bundle: RoomKeyBundle) -> bool:
        """Return whether the bundle comes from a signed device of the bot's inviter."""
        ids = {"room_id": bundle.room_id, "sender": bundle.sender}
        if self._rooms.inviter(RoomId(bundle.room_id)) != bundle.sender:
            log.info("room key bundle of another than the inviter left out", **ids)
            return False
        body: dict[str, Any] = {"device_keys": {bundle.sender: []}}
        shown = await self._client.ask("POST", ["keys", "query"], body)
        identity = PublicIdentity.of(shown, bundle.sender)
        for device_id, device in identity.devices.items():
            keys = mapping(device.get("keys"))
            if text(keys, f"curve25519:{device_id}") == bundle.sender_key:
                signed = identity.has_signed(device_id)
                same = text(keys, f"ed25519:{device_id}") == bundle.sender_ed25519
                if signed and same:
                    return True
        log.info("room key bundle of an unsigned device left out", **ids)
        return False

    async def _download(self, file: Json) -> list[Json]:
        """Download an encrypted file, and return its keys (spec: EncryptedFile)."""
        key, hashes = mapping(file.get("key")), mapping(file.get("hashes"))
        encrypted = await self._client.download_media(text(file, "url"), _LARGEST)
        plain = decrypt_attachment(
            encrypted, text(key, "k"), text(hashes, "sha256"), text(file, "iv")
        )
        keys = mapping(json.loads(plain)).get("room_keys")
        return [mapping(one) for one in keys[:_MOST_KEYS]] if isinstance(keys, list) else []

    async def _import(self, bundle: RoomKeyBundle, keys: list[Json]) -> None:
        senders = await self._senders(bundle.room_id)
        store, taken = self._client.machine.inbound_group_store, 0
        time_slice = TimeSlice()
        for key in keys:
            sender = senders.get(text(key, "sender_key"))
            if sender is not None and text(key, "room_id") == bundle.room_id:
                try:
                    store.keep(_session(key, sender.ed25519), UserId(sender.user_id))
                    taken += 1
                except MALFORMED as error:
                    log.debug("key of a bundle left out", reason=type(error).__name__)
            await time_slice.yield_if_over()
        log.info(
            "room key bundle taken in",
            room_id=bundle.room_id,
            sender=bundle.sender,
            keys=taken,
            left_out=len(keys) - taken,
        )

    async def _senders(self, room_id: str) -> Mapping[str, nio.crypto.OlmDevice]:
        """Return the devices of the room's members by their Curve25519 keys."""
        try:
            await self._client.learn_devices(room_id)
        except MatrixError as error:
            log.warning("devices not asked for", room_id=room_id, reason=str(error))
        users = self._client.rooms[room_id].users if room_id in self._client.rooms else {}
        devices = self._client.machine.device_store
        return {
            device.curve25519: device
            for user_id in users
            for device in devices.active_user_devices(user_id)
        }


def _session(key: Json, ed25519: str) -> InboundGroupSession:
    """Return the session of one key; ValueError if it is malformed or names another device."""
    claimed = text(mapping(key.get("sender_claimed_keys")), "ed25519")
    if claimed != ed25519:
        raise ValueError("another device's")
    session = InboundGroupSession.import_session(
        text(key, "session_key"), claimed, text(key, "sender_key"), text(key, "room_id")
    )
    if session.id != text(key, "session_id"):
        raise ValueError("another session's key")
    return session

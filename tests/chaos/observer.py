"""The observer: a person's second device, which only reads rooms from their beginning."""

import nio
from typing_extensions import override

from bot.core.events import RoomId
from tests.harness.client_view import JSON
from tests.harness.nio_person import NioPerson
from tests.harness.person import Refused

_FILTER: JSON = {"room": {"timeline": {"limit": 1}}}


class Observer(NioPerson):
    """A device without a sync loop; its keys wait on the homeserver until it reads."""

    @override
    async def _connect(self) -> None:
        self._client.restore_login(self.user_id, self.device_id, self._access_token)
        await self._catch_up()

    async def read(self, room_id: RoomId) -> list[JSON]:
        """Return all events of the room, oldest first, decrypted where that is possible."""
        await self._catch_up()
        return [self._decrypt(room_id, event) for event in await self.timeline(room_id)]

    async def _catch_up(self) -> None:
        """Receive all keys; the homeserver returns a hundred to-device messages at a time."""
        while True:
            synced = await self._client.sync(0, _FILTER)
            if isinstance(synced, nio.SyncError):
                raise Refused(str(synced))
            await self._exchange_keys()
            if not synced.to_device_events:
                return

    def _decrypt(self, room_id: RoomId, event: JSON) -> JSON:
        if event["type"] != "m.room.encrypted" or "ciphertext" not in event["content"]:
            return event
        parsed = nio.Event.parse_encrypted_event({**event, "room_id": room_id})
        if not isinstance(parsed, nio.MegolmEvent):
            return event
        try:
            source: JSON = self._client.decrypt_event(parsed).source
        except nio.EncryptionError:
            return event
        return source

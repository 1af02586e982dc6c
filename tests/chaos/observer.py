"""A second device of somebody: it reads rooms from their beginning, and does nothing else."""

import nio
from typing_extensions import override

from bot.core.events import RoomId
from tests.harness.client_view import JSON
from tests.harness.nio_person import NioPerson
from tests.harness.person import Refused

_FILTER: JSON = {"room": {"timeline": {"limit": 1}}}


class Observer(NioPerson):
    """It hears nothing by itself; keys wait for it on the homeserver."""

    @override
    async def _connect(self) -> None:
        self._client.restore_login(self.user_id, self.device_id, self._access_token)
        await self._catch_up()

    async def read(self, room_id: RoomId) -> list[JSON]:
        """Return all the room's events, oldest first; those that can be are decrypted."""
        await self._catch_up()
        return [self._decrypt(room_id, event) for event in await self.timeline(room_id)]

    async def _catch_up(self) -> None:
        """Take all the keys there are: the homeserver gives a hundred messages at a time."""
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

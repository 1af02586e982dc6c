"""The admin room, in which the bot reports to its admins."""

import nio

from bot.core.events import RoomId
from bot.errors import Forbidden
from bot.matrix.error_mapping import call
from bot.matrix.json_fields import identifier, mapping
from bot.matrix.nio_client import SafeClient
from bot.matrix.room_events import Rooms
from bot.matrix.state_events import ADMIN, ROOM_MARKER, is_admin_rooms


class AdminRooms:
    """Finds or creates the admin room of one account."""

    def __init__(self, client: SafeClient, rooms: Rooms) -> None:
        self._client = client
        self._rooms = rooms

    async def open(self, name: str) -> RoomId:
        """Return the admin room, and create it if there is none.

        The room is private and encrypted, and only the bot can change that. If the response to an
        earlier request was lost, the room exists before a sync shows it: the joined rooms are
        searched first.

        Raises:
            NotEncrypted: the room exists, but the homeserver did not finish creating it.
        """
        existing = next((one.room_id for one in self._rooms.rooms() if one.admin), None)
        if existing is not None:
            await self._client.is_encrypted(existing)
            return existing
        if (existing := await self._find()) is not None:
            return existing
        encryption = {"algorithm": "m.megolm.v1.aes-sha2"}
        states: dict[str, dict[str, str]] = {
            "m.room.encryption": encryption,
            "m.room.history_visibility": {"history_visibility": "invited"},
            "m.room.guest_access": {"guest_access": "forbidden"},
            "im.vector.room.access_rules": {"rule": "restricted"},
        }
        body = {
            "name": name,
            "preset": "private_chat",
            "creation_content": {ROOM_MARKER: ADMIN},
            "power_level_content_override": {"invite": 100},
            "initial_state": [
                {"type": kind, "state_key": "", "content": content}
                for kind, content in states.items()
            ],
        }
        async with self._client.creating_room:
            created = await self._client.ask("POST", ["createRoom"], body)
        return RoomId(identifier(created, "room_id"))

    async def _find(self) -> RoomId | None:
        """Return the admin room if it is among the joined rooms that no sync has shown yet."""
        joined = await call(nio.JoinedRoomsResponse, self._client.joined_rooms())
        for room_id in map(RoomId, joined.rooms):
            if self._rooms.knows(room_id):
                continue
            reading = self._client.room_messages(
                room_id,
                direction=nio.MessageDirection.front,
                limit=1,
                message_filter={"types": ["m.room.create"]},
            )
            try:
                page = await call(nio.RoomMessagesResponse, reading)
            except Forbidden:  # the bot has left the room meanwhile
                continue
            if any(is_admin_rooms(mapping(one.source), self._rooms.me) for one in page.chunk):
                return room_id
        return None

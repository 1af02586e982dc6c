"""The room in which the bot reports to its admins: found again, or made."""

import nio

from bot.core.events import (
    RoomId,
)
from bot.errors import Forbidden
from bot.matrix.error_mapping import call
from bot.matrix.json_fields import identifier, mapping
from bot.matrix.nio_client import SafeClient
from bot.matrix.room_events import Rooms
from bot.matrix.state_events import ADMIN, ROOM_MARKER, is_admin_rooms


class AdminRooms:
    """Opens the admin room of one account."""

    def __init__(self, client: SafeClient, rooms: Rooms) -> None:
        self._client = client
        self._rooms = rooms

    async def open(self, name: str) -> RoomId:
        """Return the room for the admins; make it where there is none.

        It is private and encrypted; nobody in it can change that but the bot. Where the answer to
        an earlier request was lost, the room is there before a sync tells of it.

        Raises:
            NotEncrypted: the room is there, and was never made to its end.
        """
        there = next((one.room_id for one in self._rooms.rooms() if one.admin), None)
        if there is not None:
            await self._client.is_encrypted(there)
            return there
        if (there := await self._find()) is not None:
            return there
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
        async with self._client.making:
            made = await self._client.ask("POST", ["createRoom"], body)
        return RoomId(identifier(made, "room_id"))

    async def _find(self) -> RoomId | None:
        """Return the admin room among the rooms that no sync has told of yet."""
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
            except Forbidden:  # the bot is out again
                continue
            if any(is_admin_rooms(mapping(one.source), self._rooms.me) for one in page.chunk):
                return room_id
        return None

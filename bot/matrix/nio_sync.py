"""What a sync response changes: the members, the encryption and the keys of each room."""

from typing import Any

import nio
import structlog
from typing_extensions import override

from bot.errors import (
    MatrixError,
)
from bot.matrix.crypto import Rotation, SafeOlm
from bot.matrix.crypto_store import CryptoStore
from bot.matrix.error_mapping import BAD
from bot.matrix.json_fields import Json, identifier, mapping, text
from bot.matrix.nio_requests import RequestClient
from bot.matrix.state_events import is_admin_rooms
from bot.matrix.time_slice import TimeSlice

log = structlog.get_logger()


class SyncClient(RequestClient):
    """nio's client, which takes no state from what it decrypts.

    Attributes:
        sealed_before: rooms that were encrypted before this process, whatever is told of them.
        own_devices_changed: a sync has told of the account's own devices.
    """

    olm: SafeOlm | None
    sealed_before: frozenset[str] = frozenset()
    own_devices_changed: bool = False

    def open_store(self, store: CryptoStore) -> None:
        """Take up the device's keys, or make them where the store is new.

        Raises:
            StoreError: the store's key does not open it.
        """
        self.store = store  # type: ignore[assignment]  # stands in for nio's
        self.olm = SafeOlm(str(self.user_id), str(self.device_id), store)
        self.encrypted_rooms = store.load_encrypted_rooms()
        self._saved = set(self.encrypted_rooms)
        self.sealed_before = frozenset(self._saved)
        self._unserved: dict[str, float] = {}  # rooms with devices without the key, the same
        self._changed: set[str] = set()  # rooms in which somebody or some device is new
        self._made: set[str] = set()  # rooms that the bot has made: they are all encrypted
        self._bare: dict[str, float] = {}  # of these, when the first was found not to be so yet

    @property
    def machine(self) -> SafeOlm:
        """The Olm machine, which is there after `open_store`."""
        if self.olm is None:
            raise MatrixError("the crypto store is not open")
        return self.olm

    @override
    def load_store(self) -> None:
        """Leave the store as `open_store` has set it: nio calls this at each login."""

    @override
    async def _handle_sync(self, response: nio.SyncResponse) -> None:
        await super()._handle_sync(response)
        for room_id in response.rooms.leave:
            self.rooms.pop(room_id, None)
            self._unserved.pop(room_id, None)
            self._changed.discard(room_id)
            self._made.discard(room_id)
            self._bare.pop(room_id, None)
            self.machine.outbound_group_sessions.pop(room_id, None)
            self.machine.rotations.pop(room_id, None)

    @override
    async def _handle_to_device(self, response: nio.SyncResponse) -> None:
        time_slice, events = TimeSlice(), response.to_device_events
        for index, event in enumerate(events):
            events[index] = self.machine.handle_to_device_event(event) or event
            await time_slice.yield_if_over()

    @override
    async def _handle_invited_rooms(self, response: nio.SyncResponse) -> None:
        """Keep nothing of invitations: `Rooms` reads them, and they may be many."""

    @override
    async def _handle_joined_rooms(self, response: nio.SyncResponse) -> None:
        """Take in the rooms; what is wrong with one event concerns no other."""
        time_slice = TimeSlice()
        for room_id, info in response.rooms.join.items():
            room = self._state(room_id, info)
            events = info.timeline.events
            for index, event in enumerate(events):
                if isinstance(event, nio.MegolmEvent):
                    events[index] = self.decrypted(room_id, event)
                else:
                    self._take_state(room, event)
                await time_slice.yield_if_over()
        self.machine.store.save_encrypted_rooms(self.encrypted_rooms - self._saved)
        self._saved |= self.encrypted_rooms

    def read_again(self, response: nio.SyncResponse) -> None:
        """Decrypt what a response held without its key, now that more keys have come."""
        for room_id, info in response.rooms.join.items():
            events = info.timeline.events
            events[:] = [self.decrypted(room_id, event) for event in events]

    def decrypted(self, room_id: str, event: Any) -> Any:  # noqa: ANN401  # any of nio's events
        """Return the event in clear, or as it is where it is so or has no key."""
        if not isinstance(event, nio.MegolmEvent):
            return event
        event.room_id = room_id
        return self.machine._decrypt_megolm_no_error(event) or event  # noqa: SLF001  # nio's own callers use it

    def _state(self, room_id: str, info: nio.RoomInfo) -> nio.MatrixRoom:
        """Return the room with the state that the response brings; nobody sees a half of it."""
        known = self.rooms.get(room_id)
        room = known or nio.MatrixRoom(
            room_id, str(self.user_id), encrypted=room_id in self.encrypted_rooms
        )
        for event in info.state:
            self._take_state(room, event)
        if info.summary is not None:
            room.update_summary(info.summary)
        if info.timeline.limited:  # who came and left meanwhile is not told
            self._ask_members(room)
        self.rooms[room_id] = room
        return room

    def _take_state(self, room: nio.MatrixRoom, event: nio.Event | nio.BadEventType) -> None:
        """Take in one event where it is state (an encrypted event's payload never is)."""
        source = mapping(getattr(event, "source", None))
        if "state_key" not in source or getattr(event, "decrypted", False):
            return
        if text(source, "type") == "m.room.member" and not isinstance(event, nio.RoomMemberEvent):
            self._ask_members(room)  # who came or left is not told in a way that nio can read
        self._take_kind(room, source)
        try:
            if isinstance(event, nio.RoomMemberEvent):
                if room.handle_membership(event):
                    self._let_go(room.room_id, gone=event.membership in {"leave", "ban"})
            elif not isinstance(event, nio.BadEvent | nio.UnknownBadEvent):
                room.handle_event(event)
        except BAD as error:
            log.warning(
                "state event skipped",
                event_id=identifier(source, "event_id"),
                room_id=room.room_id,
                reason=type(error).__name__,
            )

    def _take_kind(self, room: nio.MatrixRoom, source: Json) -> None:
        """Note that a room is encrypted, or is to be as the bot has made it."""
        if text(source, "type") == "m.room.encryption" and source["state_key"] == "":
            self._encrypt(room, source)
        elif is_admin_rooms(source, str(self.user_id)):
            self._made.add(room.room_id)

    def _ask_members(self, room: nio.MatrixRoom) -> None:
        """Trust in nothing about who is in the room; the next send asks."""
        room.members_synced = False
        self._let_go(room.room_id, gone=True)

    def _encrypt(self, room: nio.MatrixRoom, source: Json) -> None:
        """Take the room for encrypted, whatever else the event says, and for ever."""
        self.machine.rotations[room.room_id] = Rotation.of(mapping(source.get("content")))
        self.encrypted_rooms.add(room.room_id)
        room.encrypted = True

    @override
    def _handle_olm_events(self, response: nio.SyncResponse) -> None:
        """Take a missing or zero count of one-time keys for what it is: none are left."""
        super()._handle_olm_events(response)
        # Also of those whom nio sees in no room now: they may be in one whose members it asks for.
        self.machine.tracked_users -= {*response.device_list.changed, *response.device_list.left}
        if self.user_id in response.device_list.changed:
            self.own_devices_changed = True
        self.machine.uploaded_key_count = response.device_key_count.signed_curve25519 or 0
        unused = getattr(response, "unused_fallback_key_types", None)
        self.machine.fallback_due = unused is not None and "signed_curve25519" not in unused

    @override
    def _handle_olm_response(self, response: Any) -> None:
        """Take in an answer about keys; a new device gets the key, a lost one ends it."""
        self.machine.handle_response(response)
        if not isinstance(response, nio.KeysQueryResponse):
            return
        gone, self.machine.gone = self.machine.gone, set()
        for user_id in {*response.changed, *gone}:
            for room in self.rooms.values():
                if room.encrypted and user_id in room.users:
                    self._let_go(room.room_id, gone=user_id in gone)

    def _let_go(self, room_id: str, *, gone: bool) -> None:
        """End the room's key where a member or device is gone; else share it with who is new."""
        session = self.machine.outbound_group_sessions.get(room_id)
        self._changed.add(room_id)
        if gone:
            self.invalidate_outbound_session(room_id)
        elif session is not None:
            session.shared = False

    @override
    def invalidate_outbound_session(self, room_id: str) -> None:
        """Let the room's key go, also while it is being shared: somebody may have left."""
        self.machine.outbound_group_sessions.pop(room_id, None)

"""The effect of a sync response: the members, the encryption and the keys of each room."""

from typing import Any

import nio
import structlog
from typing_extensions import override

from bot.errors import MatrixError
from bot.matrix.crypto import Rotation, SafeOlm
from bot.matrix.crypto_store import CryptoStore
from bot.matrix.error_mapping import MALFORMED
from bot.matrix.json_fields import Json, identifier, mapping, text
from bot.matrix.nio_requests import RequestClient
from bot.matrix.state_events import is_admin_rooms
from bot.matrix.time_slice import TimeSlice

log = structlog.get_logger()


class SyncClient(RequestClient):
    """nio's client, which takes no room state from decrypted events.

    Attributes:
        known_encrypted: rooms that an earlier process knew as encrypted; they stay so.
        own_devices_changed: whether a sync has shown a change of the account's own devices.
    """

    olm: SafeOlm | None
    known_encrypted: frozenset[str] = frozenset()
    own_devices_changed: bool = False

    def open_store(self, store: CryptoStore) -> None:
        """Load the device's keys, or create them in a new store.

        Raises:
            StoreError: the key does not open the store.
        """
        self.store = store  # type: ignore[assignment]  # replaces nio's
        self.olm = SafeOlm(str(self.user_id), str(self.device_id), store)
        self.encrypted_rooms = store.load_encrypted_rooms()
        self._saved = set(self.encrypted_rooms)
        self.known_encrypted = frozenset(self._saved)
        # rooms with devices that have no key, and when to try again
        self._undelivered: dict[str, float] = {}
        self._changed: set[str] = set()  # rooms with a new member or a new device
        self._made: set[str] = set()  # rooms that the bot has created; all are encrypted
        self._unencrypted_since: dict[
            str, float
        ] = {}  # those without encryption yet, and since when

    @property
    def machine(self) -> SafeOlm:
        """The Olm machine, available after `open_store`."""
        if self.olm is None:
            raise MatrixError("the crypto store is not open")
        return self.olm

    @override
    def load_store(self) -> None:
        """Keep the store that `open_store` has set. nio calls this at each login."""

    @override
    async def _handle_sync(self, response: nio.SyncResponse) -> None:
        await super()._handle_sync(response)
        for room_id in response.rooms.leave:
            self.rooms.pop(room_id, None)
            self._undelivered.pop(room_id, None)
            self._changed.discard(room_id)
            self._made.discard(room_id)
            self._unencrypted_since.pop(room_id, None)
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
        """Store nothing about invitations. `Rooms` reads them, and there may be many."""

    @override
    async def _handle_joined_rooms(self, response: nio.SyncResponse) -> None:
        """Update the joined rooms. A malformed event affects no other."""
        time_slice = TimeSlice()
        for room_id, info in response.rooms.join.items():
            room = self._state(room_id, info)
            events = info.timeline.events
            for index, event in enumerate(events):
                if isinstance(event, nio.MegolmEvent):
                    events[index] = self.decrypted(room_id, event)
                else:
                    self._apply_state(room, event)
                await time_slice.yield_if_over()
        self.machine.store.save_encrypted_rooms(self.encrypted_rooms - self._saved)
        self._saved |= self.encrypted_rooms

    def read_again(self, response: nio.SyncResponse) -> None:
        """Decrypt the events that had no key, now that more keys have come."""
        for room_id, info in response.rooms.join.items():
            events = info.timeline.events
            events[:] = [self.decrypted(room_id, event) for event in events]

    def decrypted(self, room_id: str, event: Any) -> Any:  # noqa: ANN401  # any event class of nio
        """Return the decrypted event; the same one if it is clear or has no key."""
        if not isinstance(event, nio.MegolmEvent):
            return event
        event.room_id = room_id
        decrypt = self.machine._decrypt_megolm_no_error  # noqa: SLF001  # nio's client uses it
        return decrypt(event) or event

    def _state(self, room_id: str, info: nio.RoomInfo) -> nio.MatrixRoom:
        """Return the room with its new state, visible only once all of it is applied."""
        known = self.rooms.get(room_id)
        room = known or nio.MatrixRoom(
            room_id, str(self.user_id), encrypted=room_id in self.encrypted_rooms
        )
        for event in info.state:
            self._apply_state(room, event)
        if info.summary is not None:
            room.update_summary(info.summary)
        if info.timeline.limited:  # the response does not show all changes of membership
            self._mark_members_unknown(room)
        self.rooms[room_id] = room
        return room

    def _apply_state(self, room: nio.MatrixRoom, event: nio.Event | nio.BadEventType) -> None:
        """Apply a state event. The payload of an encrypted event is never state."""
        source = mapping(getattr(event, "source", None))
        if "state_key" not in source or getattr(event, "decrypted", False):
            return
        if text(source, "type") == "m.room.member" and not isinstance(event, nio.RoomMemberEvent):
            self._mark_members_unknown(room)  # nio cannot read who came or left
        self._note_encryption(room, source)
        try:
            if isinstance(event, nio.RoomMemberEvent):
                if room.handle_membership(event):
                    self._renew_key(room.room_id, gone=event.membership in {"leave", "ban"})
            elif not isinstance(event, nio.BadEvent | nio.UnknownBadEvent):
                room.handle_event(event)
        except MALFORMED as error:
            log.warning(
                "state event skipped",
                event_id=identifier(source, "event_id"),
                room_id=room.room_id,
                reason=type(error).__name__,
            )

    def _note_encryption(self, room: nio.MatrixRoom, source: Json) -> None:
        """Record that a room is encrypted, or was created by the bot and will be."""
        if text(source, "type") == "m.room.encryption" and source["state_key"] == "":
            self._mark_encrypted(room, source)
        elif is_admin_rooms(source, str(self.user_id)):
            self._made.add(room.room_id)

    def _mark_members_unknown(self, room: nio.MatrixRoom) -> None:
        """Mark the members as unknown. The next send asks for them."""
        room.members_synced = False
        self._renew_key(room.room_id, gone=True)

    def _mark_encrypted(self, room: nio.MatrixRoom, source: Json) -> None:
        """Mark the room as encrypted, whatever the event says, and for ever."""
        self.machine.rotations[room.room_id] = Rotation.of(mapping(source.get("content")))
        self.encrypted_rooms.add(room.room_id)
        room.encrypted = True

    @override
    def _handle_olm_events(self, response: nio.SyncResponse) -> None:
        """Treat a missing or zero count of one-time keys as: none are left."""
        super()._handle_olm_events(response)
        # Also users in no room that nio knows: they may be in a room whose members it will ask
        # for.
        self.machine.tracked_users -= {*response.device_list.changed, *response.device_list.left}
        if self.user_id in response.device_list.changed:
            self.own_devices_changed = True
        self.machine.uploaded_key_count = response.device_key_count.signed_curve25519 or 0
        unused = getattr(response, "unused_fallback_key_types", None)
        self.machine.fallback_due = unused is not None and "signed_curve25519" not in unused

    @override
    def _handle_olm_response(self, response: Any) -> None:
        """Handle a response about keys. New devices get the room keys; a lost one ends them."""
        self.machine.handle_response(response)
        if not isinstance(response, nio.KeysQueryResponse):
            return
        gone, self.machine.gone = self.machine.gone, set()
        for user_id in {*response.changed, *gone}:
            for room in self.rooms.values():
                if room.encrypted and user_id in room.users:
                    self._renew_key(room.room_id, gone=user_id in gone)

    def _renew_key(self, room_id: str, *, gone: bool) -> None:
        """Replace the room's key if a member or device is gone; else share it anew."""
        session = self.machine.outbound_group_sessions.get(room_id)
        self._changed.add(room_id)
        if gone:
            self.invalidate_outbound_session(room_id)
        elif session is not None:
            session.shared = False

    @override
    def invalidate_outbound_session(self, room_id: str) -> None:
        """Drop the room's key, even while it is being shared: a member may have left."""
        self.machine.outbound_group_sessions.pop(room_id, None)

"""nio's client with safe encryption: keys are shared with every member before a send."""

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary, WeakValueDictionary

import nio
import structlog
from nio.crypto.sessions import OutboundGroupSession
from nio.responses import EmptyResponse
from typing_extensions import override

from bot.errors import HomeserverUnreachable, MatrixError, NotEncrypted, NotFound
from bot.matrix.crypto_store import CryptoStore
from bot.matrix.error_mapping import call
from bot.matrix.nio_sync import SyncClient

_USERS_PER_QUERY = 40
_DEVICES_PER_CLAIM = 30
_DEVICES_PER_NOTICE = 100
_SHARE_TRIES = 5  # times that a key is shared while members come and go
_RETRY_SECONDS = 60.0  # seconds until users and devices without keys are asked again
_CREATION_SECONDS = 60.0  # seconds for which a homeserver may be creating a room

log = structlog.get_logger()


class SafeClient(SyncClient):
    """nio's client, which sends nothing in clear text to an encrypted room.

    Attributes:
        creating_room: a lock that is held while the homeserver is asked to create a room.
        left_out: rooms and people of whose devices some receive the room's key, and others do not.
    """

    creating_room: asyncio.Lock
    left_out: list[tuple[str, str]]

    @override
    def open_store(self, store: CryptoStore) -> None:
        """Load the device's keys, or create them in a new store.

        Raises:
            StoreError: the key does not open the store.
        """
        super().open_store(store)
        self._sharing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._querying = asyncio.Lock()
        # users whose homeserver did not answer, and when to ask again
        self._unanswered: dict[str, float] = {}
        self.left_out = []
        self._withheld: WeakKeyDictionary[OutboundGroupSession, set[tuple[str, str]]] = (
            WeakKeyDictionary()
        )
        self.creating_room = asyncio.Lock()

    # Keys.

    @override
    async def keys_upload(self) -> Any:
        """Upload device keys and one-time keys. Drop one-time keys that are refused for good.

        The homeserver answers 400 if it holds other keys under the same ids, for example after the
        store was restored from a backup. The next upload brings new ones.
        """
        response = await super().keys_upload()
        refused = getattr(response.transport_response, "status", 0) == HTTPStatus.BAD_REQUEST
        if refused:
            log.warning("one-time keys refused", code=getattr(response, "status_code", None))
            self.machine.mark_keys_as_published()
            self.machine.save_account()
        return response

    async def query_keys(self) -> None:
        """Query the devices of all users whose devices may have changed.

        Users whose homeserver does not answer are queried again a minute later.

        Raises:
            MatrixError: the homeserver did not answer. The next call asks again.
        """
        async with self._querying:
            noted, now = self.machine.users_for_key_query, asyncio.get_running_loop().time()
            for user_id, due in self._unanswered.items():
                (noted.add if due <= now else noted.discard)(user_id)
            while noted:
                some = {noted.pop() for _ in range(min(len(noted), _USERS_PER_QUERY))}
                request = nio.Api.keys_query(self.access_token, some)
                try:
                    response = await call(
                        nio.KeysQueryResponse, self._send(nio.KeysQueryResponse, *request)
                    )
                except BaseException:
                    noted |= some
                    raise
                for user_id in some:
                    self._unanswered.pop(user_id, None)
                    if user_id not in response.device_keys:
                        self._unanswered[user_id] = now + _RETRY_SECONDS

    async def claim_keys(self, devices: Iterable[dict[str, list[str]]]) -> None:
        """Start an Olm session with each device that has a one-time key left.

        Raises:
            MatrixError: the homeserver did not answer.
        """
        for some in devices:
            request = nio.Api.keys_claim(self.access_token, dict(some))
            await call(
                nio.KeysClaimResponse,
                self._send(nio.KeysClaimResponse, *request, response_data=("",)),
            )

    # Sending.

    async def share_key(self, room_id: str) -> None:
        """Share the room's key with every device of its members.

        Raises:
            MatrixError: the homeserver did not answer, or the bot is not in the room. The next
                call delivers the rest.
        """
        lock = self._sharing.setdefault(room_id, asyncio.Lock())
        async with lock:
            for _ in range(_SHARE_TRIES):
                await self.learn_devices(room_id)
                room = self._room(room_id)
                if not room.members_synced:
                    continue  # a member came or left during the requests
                if not self._must_share(room_id):
                    return
                await self._share(room)
            raise HomeserverUnreachable("the room's members change while its key is shared")

    async def learn_devices(self, room_id: str) -> None:
        """Query the room's members and their devices, as far as they are not known.

        Raises:
            MatrixError: the homeserver did not answer, or the bot is not in the room.
        """
        room = self._room(room_id)
        if not room.members_synced:
            await self._learn_members(room)
        self.machine.update_tracked_users(room)  # type: ignore[no-untyped-call]  # nio
        await self.query_keys()

    async def is_encrypted(self, room_id: str) -> bool:
        """Return whether events sent to the room are encrypted.

        A waiting sync shows a new room before all of its state exists. For a room that the bot
        creates, the homeserver is asked until it returns the encryption.

        Raises:
            HomeserverUnreachable: the homeserver may still be creating the room.
            NotEncrypted: the homeserver did not finish creating the room.
            MatrixError: the bot is not in the room.
        """
        room = self._room(room_id)
        if not room.encrypted and room_id in self._made:
            async with self.creating_room:  # otherwise the question would come too early
                await self._learn_encryption(self._room(room_id))
        return bool(self._room(room_id).encrypted)

    async def _learn_encryption(self, room: nio.MatrixRoom) -> None:
        """Query the encryption of a room that the bot created, unless a sync has shown it."""
        if room.encrypted:
            return
        path = ["rooms", room.room_id, "state", "m.room.encryption"]
        try:
            content = await self.ask("GET", path)
        except NotFound:
            raise self._not_encrypted(room.room_id) from None
        self._unencrypted_since.pop(room.room_id, None)
        self._mark_encrypted(room, {"content": content})

    def _not_encrypted(self, room_id: str) -> MatrixError:
        """Return the error for a room without encryption: not yet, or not at all."""
        now = asyncio.get_running_loop().time()
        if now - self._unencrypted_since.setdefault(room_id, now) < _CREATION_SECONDS:
            return HomeserverUnreachable("the homeserver is still making the admin room")
        error = NotEncrypted(
            f"the admin room {room_id} is not encrypted, as the homeserver did not make it to its"
            " end: nothing is said there; let the homeserver's administrators delete it and start"
            " the assistant again, which makes another"
        )
        log.error("room not encrypted", room_id=room_id, reason=str(error))
        return error

    async def prepare(self, room_id: str) -> None:
        """Do in advance what a send into the room needs.

        Raises:
            MatrixError: see `is_encrypted` and `share_key`.
        """
        if await self.is_encrypted(room_id):
            await self.share_key(room_id)

    def _room(self, room_id: str) -> nio.MatrixRoom:
        try:
            return self.rooms[room_id]
        except KeyError:
            raise MatrixError("the bot is not in this room") from None

    async def _learn_members(self, room: nio.MatrixRoom) -> None:
        """Query the room's members. A result older than the last sync does not count."""
        self._changed.discard(room.room_id)
        await call(nio.JoinedMembersResponse, self.joined_members(room.room_id))
        if room.room_id in self._changed:
            room.members_synced = False

    def _must_share(self, room_id: str) -> bool:
        due = self._undelivered.get(room_id)
        overdue = due is not None and due <= asyncio.get_running_loop().time()
        return overdue or self.machine.should_share_group_session(room_id)

    async def _share(self, room: nio.MatrixRoom) -> None:
        """Share the room's key in small pieces. It is shared when every piece was accepted.

        If a member came or left meanwhile, it is not, and the caller tries again.
        """
        machine, room_id, users = self.machine, room.room_id, list(room.users)
        self._changed.discard(room_id)
        await self.claim_keys(machine.missing_sessions(users, _DEVICES_PER_CLAIM))
        old = machine.outbound_group_sessions.get(room_id)
        if old is not None and old.expired:
            del machine.outbound_group_sessions[room_id]
        elif old is not None:
            # otherwise nio would start a new key for the devices that did not get it
            old.shared = False
        session = None
        pieces = machine.share_group_session_parallel(room_id, users)
        while True:
            with machine.store.transaction():
                piece = next(pieces, None)
            session = session or machine.outbound_group_sessions[room_id]
            if piece is None:
                break
            devices, messages = piece
            await self._give(messages)
            session.users_shared_with |= devices
        if machine.outbound_group_sessions.get(room_id) is session:
            session.shared = room_id not in self._changed
            self._undelivered.pop(room_id, None)
            if any(machine.missing_sessions(users, 1)):
                self._undelivered[room_id] = asyncio.get_running_loop().time() + _RETRY_SECONDS
        await self._withhold(session, room_id, users)

    async def _withhold(
        self, session: OutboundGroupSession, room_id: str, users: Iterable[str]
    ) -> None:
        """Tell the devices that get no key, and the reason (spec: m.room_key.withheld)."""
        machine, told = self.machine, self._withheld.setdefault(session, set())
        devices = [
            (user_id, device.id)
            for user_id in users
            for device in machine.device_store.active_user_devices(user_id)
            if user_id != self.user_id
            and (user_id, device.id) not in told
            and machine.is_device_blacklisted(device)
        ]
        content = {
            "algorithm": "m.megolm.v1.aes-sha2",
            "room_id": room_id,
            "session_id": session.id,
            "sender_key": machine.account.identity_keys["curve25519"],
            "code": "m.unverified",
            "reason": "the assistant encrypts to devices that their owner has verified",
        }
        for start in range(0, len(devices), _DEVICES_PER_NOTICE):
            messages: dict[str, dict[str, Any]] = {}
            for user_id, device_id in devices[start : start + _DEVICES_PER_NOTICE]:
                messages.setdefault(user_id, {})[device_id] = content
            path = ["sendToDevice", "m.room_key.withheld", str(uuid4())]
            try:
                await self.ask("PUT", path, {"messages": messages})
            except MatrixError as error:  # no reply waits for this message
                log.info("withheld untold", room_id=room_id, reason=str(error))
                return
        told.update(devices)
        people = dict.fromkeys(user_id for user_id, _ in devices)
        self.left_out += [(room_id, user_id) for user_id in people if machine.serves(user_id)]

    async def _give(self, messages: dict[str, Any]) -> None:
        """Send one piece of a room's key to all its devices, or raise MatrixError."""
        request = nio.Api.to_device(self.access_token, "m.room.encrypted", messages, uuid4())
        await call(EmptyResponse, self._send(EmptyResponse, *request))

    @override
    async def room_send(
        self,
        room_id: str,
        message_type: str,
        content: dict[Any, Any],
        tx_id: str | None = None,
        ignore_unverified_devices: bool = False,
    ) -> Any:
        """Send an event, encrypted if the room is. Every member's devices can read it.

        Raises:
            MatrixError: the room's key cannot be shared with all, or the bot is not in the room.
        """
        message_type, content = await self.encrypt_if_needed(room_id, message_type, content)
        return await self.put(room_id, message_type, content, tx_id or str(uuid4()))

    async def encrypt_if_needed(
        self, room_id: str, message_type: str, content: dict[Any, Any]
    ) -> tuple[str, dict[Any, Any]]:
        """Return type and content as they are sent: encrypted if the room is.

        Raises:
            MatrixError: see `room_send`.
        """
        await self.prepare(room_id)
        if self._room(room_id).encrypted and message_type != "m.room.encrypted":
            encrypted: tuple[str, dict[Any, Any]] = self.encrypt(room_id, message_type, content)
            return encrypted
        return message_type, content

    async def put(
        self, room_id: str, message_type: str, content: dict[Any, Any], tx_id: str
    ) -> Any:  # noqa: ANN401  # nio has many response classes
        """Send type and content unchanged."""
        request = nio.Api.room_send(self.access_token, room_id, message_type, content, tx_id)
        return await self._send(nio.RoomSendResponse, *request, (room_id,))

"""nio's client on the safe Olm machine: no response, room or cancelled send takes it down."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4
from weakref import WeakKeyDictionary, WeakValueDictionary

import nio
import structlog
from aiohttp import ClientResponse
from nio.crypto.sessions import OutboundGroupSession
from nio.responses import EmptyResponse
from typing_extensions import override

from bot.errors import (
    Forbidden,
    HomeserverUnreachable,
    MatrixError,
    NotEncrypted,
    NotFound,
    TooLarge,
)
from bot.matrix import response_repair
from bot.matrix.crypto import Rotation, SafeOlm
from bot.matrix.crypto_store import CryptoStore
from bot.matrix.error_mapping import BAD, call, named
from bot.matrix.json_fields import Json, identifier, mapping, text
from bot.matrix.state_events import is_admin_rooms
from bot.runtime.uncancellable import run_uncancelled

_LARGE = 64 * 1024  # bytes of an answer that is parsed in a thread: some 10 ms
_PIECE_SECONDS = 0.02  # of the loop, before others may have it
_LONGEST_REQUEST_SECONDS = 600  # where nio would wait for ever
_USERS_A_QUERY = 40
_DEVICES_A_CLAIM = 30
_DEVICES_A_NOTICE = 100
_TRIES = 5  # of sharing a key while members come and go
_AGAIN_SECONDS = 60.0  # until users and devices that gave no keys are asked again
_MAKING_SECONDS = 60.0  # for which a homeserver may be at work on a room, at the most

log = structlog.get_logger()


class Turns:
    """Lets others have the loop between small pieces of work."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()

    async def next(self) -> None:
        """Give way where this turn has lasted long enough."""
        if self._loop.time() - self._since > _PIECE_SECONDS:
            await asyncio.sleep(0)
            self._since = self._loop.time()


class SafeClient(nio.AsyncClient):
    """nio's client, which takes no state from what it decrypts, nor sends in clear what is not.

    Attributes:
        limited: is told of each request that the homeserver answers 429.
        making: held while the homeserver is asked to make a room.
        sealed_before: rooms that were encrypted before this process, whatever is told of them.
        left_out: rooms and people some of whose devices were given the room's key, and others not.
        own_devices_changed: a sync has told of the account's own devices.
    """

    olm: SafeOlm | None
    limited: Callable[[], None] | None = None
    making: asyncio.Lock
    sealed_before: frozenset[str] = frozenset()
    own_devices_changed: bool = False
    left_out: list[tuple[str, str]]

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
        self._sharing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._querying = asyncio.Lock()
        self._silent: dict[str, float] = {}  # users without an answer, and when to ask again
        self._unserved: dict[str, float] = {}  # rooms with devices without the key, the same
        self._changed: set[str] = set()  # rooms in which somebody or some device is new
        self.left_out = []
        self._withheld: WeakKeyDictionary[OutboundGroupSession, set[tuple[str, str]]] = (
            WeakKeyDictionary()
        )
        self.making = asyncio.Lock()
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

    # Answers.

    @override
    async def send(
        self,
        method: str,
        path: str,
        data: Any = None,
        headers: dict[str, str] | None = None,
        trace_context: Any = None,
        timeout: float | None = None,
    ) -> ClientResponse:
        """Make one request, which ends some time even where nio sets no limit (0)."""
        limit = _LONGEST_REQUEST_SECONDS if timeout == 0 else timeout
        response: ClientResponse = await super().send(
            method, path, data, headers, trace_context, limit
        )
        if response.status == HTTPStatus.TOO_MANY_REQUESTS and self.limited is not None:
            self.limited()
        return response

    @override
    async def create_matrix_response(
        self,
        response_class: Any,
        transport_response: ClientResponse,
        data: tuple[Any, ...] | None = None,
        save_to: Any = None,
    ) -> Any:
        """Parse an answer, a large one without holding up the loop."""
        if issubclass(response_class, nio.FileResponse | nio.RoomGetStateEventResponse):
            return await super().create_matrix_response(
                response_class, transport_response, data, save_to
            )
        raw = await transport_response.read()
        if len(raw) > _LARGE:
            response = await asyncio.to_thread(
                response_repair.read, response_class, raw, data or ()
            )
        else:
            response = response_repair.read(response_class, raw, data or ())
        refused = transport_response.status >= HTTPStatus.BAD_REQUEST
        told = isinstance(response, nio.ErrorResponse) or getattr(response, "challenge", False)
        if refused and not told:  # a proxy's, with JSON of its own
            response = nio.ErrorResponse("an error without a code")
        response.transport_response = transport_response  # type: ignore[assignment]  # nio hints its own
        return response

    async def ask(
        self,
        method: str,
        path: Iterable[str],
        body: Mapping[str, Any] | None = None,
        **query: str,
    ) -> Json:
        """Make a request that nio has no method for, and return its answer, a JSON object.

        Args:
            method: of HTTP.
            path: its steps below `/_matrix/client/v3`, not yet quoted.
            body: JSON; None for none.
            query: the URL's parameters.

        Raises:
            MatrixError: the homeserver has refused it, or did not answer.
        """
        request = self.send_json(response_repair.ObjectResponse, method, path, body, **query)
        return (await call(response_repair.ObjectResponse, run_uncancelled(request))).source

    def send_json(
        self,
        expected: type[nio.Response],
        method: str,
        path: Iterable[str],
        body: Mapping[str, Any] | None = None,
        **query: str,
    ) -> Coroutine[Any, Any, object]:
        """Make such a request, and return whatever comes back."""
        url = "/".join(["/_matrix/client/v3", *(quote(step, safe="") for step in path)])
        data = None if body is None else nio.Api.to_json(dict(body))
        return self._send(expected, method, f"{url}?{urlencode(query)}" if query else url, data)

    async def download_media(self, url: str, limit: int) -> bytes:
        """Return a file from the media repository (spec: authenticated media).

        Args:
            url: an `mxc://` URI.
            limit: how many bytes it may have, counted as they come.

        Raises:
            Forbidden: there is no such file, or it is larger.
            HomeserverUnreachable: the homeserver did not answer.
        """
        server, _, media_id = url.removeprefix("mxc://").partition("/")
        steps = ["_matrix", "client", "v1", "media", "download", server, media_id]
        path = "/" + "/".join(quote(step, safe="") for step in steps)
        headers = {"Authorization": f"Bearer {self.access_token}"}
        with named():
            response = await self.send("GET", path, headers=headers)
            async with response:
                if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise HomeserverUnreachable(f"HTTP {response.status} for a file")
                if response.status != HTTPStatus.OK:
                    raise Forbidden(f"HTTP {response.status} for a file")
                data = bytearray()
                async for piece in response.content.iter_chunked(_LARGE):
                    data += piece
                    if len(data) > limit:
                        raise TooLarge(f"a file of more than {limit} bytes")
        return bytes(data)

    # What a sync brings.

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
        turns, events = Turns(), response.to_device_events
        for index, event in enumerate(events):
            events[index] = self.machine.handle_to_device_event(event) or event
            await turns.next()

    @override
    async def _handle_invited_rooms(self, response: nio.SyncResponse) -> None:
        """Keep nothing of invitations: `Rooms` reads them, and they may be many."""

    @override
    async def _handle_joined_rooms(self, response: nio.SyncResponse) -> None:
        """Take in the rooms; what is wrong with one event concerns no other."""
        turns = Turns()
        for room_id, info in response.rooms.join.items():
            room = self._state(room_id, info)
            events = info.timeline.events
            for index, event in enumerate(events):
                if isinstance(event, nio.MegolmEvent):
                    events[index] = self.decrypted(room_id, event)
                else:
                    self._take_state(room, event)
                await turns.next()
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

    # Keys.

    @override
    async def keys_upload(self) -> Any:
        """Upload device and one-time keys; let go of those that the homeserver refuses for good.

        It answers 400 where it holds other keys under the same ids (a store restored from a
        backup): the next upload brings new ones.
        """
        response = await super().keys_upload()
        refused = getattr(response.transport_response, "status", 0) == HTTPStatus.BAD_REQUEST
        if refused:
            log.warning("one-time keys refused", code=getattr(response, "status_code", None))
            self.machine.mark_keys_as_published()
            self.machine.save_account()
        return response

    async def query_keys(self) -> None:
        """Ask for the devices of everybody whose devices may have changed.

        Who gets no answer (their homeserver is away) is asked again a minute later.

        Raises:
            MatrixError: the homeserver did not answer; the next call asks again.
        """
        async with self._querying:
            noted, now = self.machine.users_for_key_query, asyncio.get_running_loop().time()
            for user_id, due in self._silent.items():
                (noted.add if due <= now else noted.discard)(user_id)
            while noted:
                some = {noted.pop() for _ in range(min(len(noted), _USERS_A_QUERY))}
                request = nio.Api.keys_query(self.access_token, some)
                try:
                    response = await call(
                        nio.KeysQueryResponse, self._send(nio.KeysQueryResponse, *request)
                    )
                except BaseException:
                    noted |= some
                    raise
                for user_id in some:
                    self._silent.pop(user_id, None)
                    if user_id not in response.device_keys:
                        self._silent[user_id] = now + _AGAIN_SECONDS

    async def claim_keys(self, devices: Iterable[dict[str, list[str]]]) -> None:
        """Start an Olm session with each of the devices that has a key left for us.

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

    async def ready(self, room_id: str) -> None:
        """Give the key of what is sent next to every device of the room's members.

        Raises:
            MatrixError: the homeserver did not take or give what this needs, or the bot is not in
                the room. What was not delivered is taken up at the next call.
        """
        lock = self._sharing.setdefault(room_id, asyncio.Lock())
        async with lock:
            for _ in range(_TRIES):
                await self.learn_devices(room_id)
                room = self._room(room_id)
                if not room.members_synced:
                    continue  # somebody came or left while we asked
                if not self._must_share(room_id):
                    return
                await self._share(room)
            raise HomeserverUnreachable("the room's members change while its key is shared")

    async def learn_devices(self, room_id: str) -> None:
        """Ask who is in a room, and for their devices, as far as that is not known.

        Raises:
            MatrixError: the homeserver did not answer, or the bot is not in the room.
        """
        room = self._room(room_id)
        if not room.members_synced:
            await self._learn_members(room)
        self.machine.update_tracked_users(room)  # type: ignore[no-untyped-call]  # nio
        await self.query_keys()

    async def is_encrypted(self, room_id: str) -> bool:
        """Tell whether what is sent to a room is encrypted.

        A sync that waits tells of a room while the homeserver still makes it: the bot is in it
        before the rest of its state is there. Of a room that the bot itself makes, the homeserver
        is asked until it says how the room is encrypted.

        Raises:
            HomeserverUnreachable: it may still be at work on the room.
            NotEncrypted: it was never made to its end.
            MatrixError: the bot is not in the room.
        """
        room = self._room(room_id)
        if not room.encrypted and room_id in self._made:
            async with self.making:  # else it would be asked too early
                await self._learn_encryption(self._room(room_id))
        return bool(self._room(room_id).encrypted)

    async def _learn_encryption(self, room: nio.MatrixRoom) -> None:
        """Ask how a room of the bot's making is encrypted, unless a sync has told meanwhile."""
        if room.encrypted:
            return
        path = ["rooms", room.room_id, "state", "m.room.encryption"]
        try:
            content = await self.ask("GET", path)
        except NotFound:
            raise self._not_encrypted(room.room_id) from None
        self._bare.pop(room.room_id, None)
        self._encrypt(room, {"content": content})

    def _not_encrypted(self, room_id: str) -> MatrixError:
        """Return what to raise of a room that has no encryption: yet, or at all."""
        now = asyncio.get_running_loop().time()
        if now - self._bare.setdefault(room_id, now) < _MAKING_SECONDS:
            return HomeserverUnreachable("the homeserver is still making the admin room")
        error = NotEncrypted(
            f"the admin room {room_id} is not encrypted, as the homeserver did not make it to its"
            " end: nothing is said there; let the homeserver's administrators delete it and start"
            " the assistant again, which makes another"
        )
        log.error("room not encrypted", room_id=room_id, reason=str(error))
        return error

    async def prepare(self, room_id: str) -> None:
        """Do ahead what sending into the room will need.

        Raises:
            MatrixError: as `is_encrypted` and `ready`.
        """
        if await self.is_encrypted(room_id):
            await self.ready(room_id)

    def _room(self, room_id: str) -> nio.MatrixRoom:
        try:
            return self.rooms[room_id]
        except KeyError:
            raise MatrixError("the bot is not in this room") from None

    async def _learn_members(self, room: nio.MatrixRoom) -> None:
        """Ask who is in the room; an answer older than what a sync says counts for none."""
        self._changed.discard(room.room_id)
        await call(nio.JoinedMembersResponse, self.joined_members(room.room_id))
        if room.room_id in self._changed:
            room.members_synced = False

    def _must_share(self, room_id: str) -> bool:
        due = self._unserved.get(room_id)
        overdue = due is not None and due <= asyncio.get_running_loop().time()
        return overdue or self.machine.should_share_group_session(room_id)

    async def _share(self, room: nio.MatrixRoom) -> None:
        """Share the room's key in small pieces; it counts as shared when all were accepted.

        Where somebody came or left meanwhile it does not, and the caller goes on.
        """
        machine, room_id, users = self.machine, room.room_id, list(room.users)
        self._changed.discard(room_id)
        await self.claim_keys(machine.missing_sessions(users, _DEVICES_A_CLAIM))
        old = machine.outbound_group_sessions.get(room_id)
        if old is not None and old.expired:
            del machine.outbound_group_sessions[room_id]
        elif old is not None:
            old.shared = False  # else nio would begin anew for those who were not served
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
            self._unserved.pop(room_id, None)
            if any(machine.missing_sessions(users, 1)):
                self._unserved[room_id] = asyncio.get_running_loop().time() + _AGAIN_SECONDS
        await self._withhold(session, room_id, users)

    async def _withhold(
        self, session: OutboundGroupSession, room_id: str, users: Iterable[str]
    ) -> None:
        """Tell devices that are left out that they are, and why (spec: m.room_key.withheld)."""
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
        for start in range(0, len(devices), _DEVICES_A_NOTICE):
            messages: dict[str, dict[str, Any]] = {}
            for user_id, device_id in devices[start : start + _DEVICES_A_NOTICE]:
                messages.setdefault(user_id, {})[device_id] = content
            path = ["sendToDevice", "m.room_key.withheld", str(uuid4())]
            try:
                await self.ask("PUT", path, {"messages": messages})
            except MatrixError as error:  # it is a courtesy: nobody's answer waits for it
                log.info("withheld untold", room_id=room_id, reason=str(error))
                return
        told.update(devices)
        people = dict.fromkeys(user_id for user_id, _ in devices)
        self.left_out += [(room_id, user_id) for user_id in people if machine.serves(user_id)]

    async def _give(self, messages: dict[str, Any]) -> None:
        """Send one piece of a room's key; it is lost to none of its devices, or MatrixError."""
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
        """Send an event, encrypted where the room is: every device of a member can read it.

        Raises:
            MatrixError: the room's key cannot be given to all, or the bot is not in the room.
        """
        message_type, content = await self.seal(room_id, message_type, content)
        return await self.put(room_id, message_type, content, tx_id or str(uuid4()))

    async def seal(
        self, room_id: str, message_type: str, content: dict[Any, Any]
    ) -> tuple[str, dict[Any, Any]]:
        """Return type and content as they are sent: encrypted where the room is.

        Raises:
            MatrixError: as `room_send`.
        """
        await self.prepare(room_id)
        if self._room(room_id).encrypted and message_type != "m.room.encrypted":
            sealed: tuple[str, dict[Any, Any]] = self.encrypt(room_id, message_type, content)
            return sealed
        return message_type, content

    async def put(
        self, room_id: str, message_type: str, content: dict[Any, Any], tx_id: str
    ) -> Any:  # noqa: ANN401  # any of nio's responses
        """Send type and content as they are."""
        request = nio.Api.room_send(self.access_token, room_id, message_type, content, tx_id)
        return await self._send(nio.RoomSendResponse, *request, (room_id,))

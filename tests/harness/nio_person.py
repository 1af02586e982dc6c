"""A person on matrix-nio, with its stock encryption, a store on disk and its own sync loop."""

import asyncio
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar, cast

import aiohttp
import nio
from typing_extensions import override

from bot.core.events import EventId, RoomId, UserId
from tests.harness.client_view import JSON
from tests.harness.person import Person, Refused

_R = TypeVar("_R")

_SYNC_MILLISECONDS = 30_000
_SYNC_FILTER: JSON = {"room": {"timeline": {"limit": 100}}}
_PAUSE_SECONDS = 0.5


class NioPerson(Person):
    """A person on matrix-nio; `directory` has the store of this one device."""

    def __init__(self, homeserver: str, user_id: UserId, password: str, directory: Path) -> None:
        super().__init__(homeserver, user_id, password)
        config = nio.AsyncClientConfig(max_timeout_retry_wait_time=1, request_timeout=20)
        self._client = nio.AsyncClient(
            homeserver, user_id, store_path=str(directory), config=config
        )
        self._undecrypted: dict[str, nio.MegolmEvent] = {}
        self._syncing: asyncio.Task[None] | None = None

    @override
    async def close(self) -> None:
        if self._syncing:
            self._syncing.cancel()
            await asyncio.wait([self._syncing])
        await self._client.close()  # type: ignore[no-untyped-call]  # nio's, without hints
        if self._client.store:
            self._client.store.database.close()

    @override
    async def send_event(self, room_id: RoomId, event_type: str, content: JSON) -> EventId:
        sending = self._client.room_send(
            room_id, event_type, content, ignore_unverified_devices=True
        )
        return EventId(_ok(await sending).event_id)

    @override
    async def _connect(self) -> None:
        self._client.restore_login(self.user_id, self.device_id, self._access_token)
        await self._sync()
        self._syncing = asyncio.get_running_loop().create_task(self._sync_for_ever())
        self._syncing.add_done_callback(self._on_end)

    async def _sync_for_ever(self) -> None:
        while True:
            await self._sync()

    def _on_end(self, syncing: asyncio.Task[None]) -> None:
        if not syncing.cancelled() and (error := syncing.exception()):
            self.observed.fail(error)

    async def _sync(self) -> None:
        response = await self._client.sync(_SYNC_MILLISECONDS, _SYNC_FILTER)
        if isinstance(response, nio.SyncError) and _server_fault(response):
            await asyncio.sleep(_PAUSE_SECONDS)
            return
        synced = _ok(response)
        # Before the view is updated, so that a later message goes to all devices.
        await self._exchange_keys()
        self._show(synced)

    async def _exchange_keys(self) -> None:
        client = self._client
        if client.should_upload_keys:
            _ok(await client.keys_upload())
        if client.should_query_keys:
            _ok(await client.keys_query())
        if client.should_claim_keys:
            _ok(await client.keys_claim(client.get_users_for_key_claiming()))
        for response in await client.send_to_device_messages():
            _ok(response)

    def _show(self, synced: nio.SyncResponse) -> None:
        if synced.to_device_events:
            for late in list(self._undecrypted.values()):
                self._show_event(RoomId(late.room_id), late)
        for room_id, invited in synced.rooms.invite.items():
            for event in invited.invite_state:
                if isinstance(event, nio.InviteMemberEvent):  # nio has removed its content
                    source = {**event.source, "content": event.content}
                    self.observed.see(RoomId(room_id), source)
        for room_id, room in [*synced.rooms.join.items(), *synced.rooms.leave.items()]:
            for event in [*room.state, *room.timeline.events]:
                self._show_event(RoomId(room_id), event)

    def _show_event(self, room_id: RoomId, event: nio.Event) -> None:
        if not isinstance(event, nio.MegolmEvent):
            self.observed.see(room_id, event.source)
            return
        try:
            decrypted = self._client.decrypt_event(event)
        except nio.EncryptionError as error:
            self._undecrypted[event.event_id] = event
            self.observed.see(room_id, event.source, failure=str(error))
        else:
            self._undecrypted.pop(event.event_id, None)
            self.observed.see(room_id, decrypted.source)


def _server_fault(response: nio.SyncError) -> bool:
    answer = cast("aiohttp.ClientResponse", response.transport_response)
    return answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _ok(response: _R | nio.ErrorResponse) -> _R:
    """Return a response, or raise an error for nio's error responses."""
    if isinstance(response, nio.ErrorResponse):
        raise Refused(str(response))
    return response

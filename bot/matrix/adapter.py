"""The `Matrix` port, implemented with matrix-nio."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import nio
import structlog
from nio.responses import EmptyResponse

from bot.core.display_names import plain_name
from bot.core.events import (
    Batch,
    Edit,
    EventId,
    Invite,
    Message,
    Prompt,
    Redaction,
    Room,
    RoomId,
    Undecryptable,
    Upgraded,
    UserId,
    VerificationEvent,
)
from bot.core.markdown import Tables
from bot.core.outgoing import Attachment, Notice, Outgoing, PreparedEvent, Reply, SentSince
from bot.core.prompt_context import History
from bot.core.verification import VerificationRefused, VerificationStep
from bot.errors import Forbidden
from bot.matrix import sync
from bot.matrix.admin_room import AdminRooms
from bot.matrix.attention import Attention
from bot.matrix.content import build, event_type
from bot.matrix.error_mapping import call, mapped_errors
from bot.matrix.history import Enough, Histories
from bot.matrix.json_fields import mapping
from bot.matrix.parse import ReadableEvent, parse_clear
from bot.matrix.profile import check_profile
from bot.matrix.response_repair import ObjectResponse
from bot.matrix.room_events import Rooms
from bot.matrix.session import Account, Session, Vault
from bot.matrix.state_events import parse_membership
from bot.matrix.successors import Successors
from bot.matrix.verification import Verifications
from bot.monitoring.health import Health
from bot.monitoring.logs import costing_nothing
from bot.runtime.uncancellable import run_uncancelled

_CLOSE_SECONDS = 1.0  # seconds that open verifications may take to be cancelled
_CHUNK_BYTES = 64 * 1024  # bytes of a file that are encrypted in one step, in a thread

log = structlog.get_logger()


class NioMatrix:
    """The `Matrix` port for one account on one device."""

    def __init__(
        self, account: Account, vault: Vault, health: Health, *, tables: Tables = "list"
    ) -> None:
        self._session = Session(account, vault, beat=health.beat)
        self._client = self._session.client
        self._client.limited = health.limited
        self._health = health
        self._tables = tables
        self._histories = Histories(self._client, account.user_id)
        self._rooms = Rooms(account.user_id, health, self._histories)
        self._successors = Successors(self._client, self._rooms)
        self._verifications = Verifications(self._client, self._rooms)
        self._attention = Attention(self._client)
        self._admin_rooms = AdminRooms(self._client, self._rooms)
        self.user_id: UserId = account.user_id

    @property
    def device_id(self) -> str:
        """The device that this process is logged in as."""
        return str(self._client.device_id)

    def take(self) -> None:
        """Reserve the device's directory for this process, after checking what a start needs.

        Raises:
            BotError: see `Session.lock` and `Session.check_recovery_key`.
        """
        self._session.lock()
        self._session.check_recovery_key()

    def is_known(self) -> bool:
        """Return whether the device has logged in before; see `Session.is_known`."""
        return self._session.is_known()

    async def open(self) -> None:
        """Log in, and make this device one that clients trust.

        Raises:
            BotError: see `Session.open` and `Identity.ensure`.
        """
        await self._session.open()
        await self._session.identity.ensure()

    async def check_profile(self, draw: Callable[[], Awaitable[bytes]] | None) -> None:
        """Give the account a display name and an avatar if it has none; see `profile`."""
        await check_profile(self._client, self.user_id, draw)

    async def close(self) -> None:
        """Close the connections and the crypto store. The device stays logged in.

        People who are verifying the device are told that the verification is cancelled.
        """
        with costing_nothing(), suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._verifications.cancel_all()
        await self._session.close()

    def batches(self, since: str | None) -> AsyncIterator[Batch]:
        """Yield each sync response once; see `sync.batches`."""
        parts = self._session, self._rooms, self._verifications, self._health
        return sync.batches(*parts, since)

    def room(self, room_id: RoomId) -> Room:
        """Return the homeserver's state of the room."""
        return self._rooms.room(room_id)

    def rooms(self) -> Sequence[Room]:
        """Return every room in which the bot can speak."""
        return self._rooms.rooms()

    async def open_admin_room(self, name: str) -> RoomId:
        """Return the room for the admins, and create it if there is none; see `AdminRooms`."""
        return await self._admin_rooms.open(name)

    async def members(self, room_id: RoomId) -> frozenset[UserId]:
        """Return everybody who is joined or invited (spec: GET /rooms/{roomId}/members)."""
        found = (await self._client.ask("GET", ["rooms", room_id, "members"])).get("chunk")
        members = map(parse_membership, map(mapping, found if isinstance(found, list) else []))
        return frozenset(one.user_id for one in members if one and one.now in {"join", "invite"})

    async def invite(self, room_id: RoomId, user_id: UserId) -> None:
        """Invite a user to a room."""
        invitation = self._client.room_invite(room_id, user_id)
        await call(nio.RoomInviteResponse, run_uncancelled(invitation))

    async def exists(self, user_id: UserId) -> bool:
        """Return whether the user exists; True if it is not said (spec: GET /profile/{userId})."""
        with mapped_errors():
            answer = await self._client.send_json(ObjectResponse, "GET", ["profile", user_id])
        if not isinstance(answer, nio.ErrorResponse):
            return True
        # Synapse has no error code of its own for an unknown user. A 403 proves nothing: profiles
        # may be hidden from strangers. A 404 with another code proves nothing either: the endpoint
        # is missing.
        # The transport response is aiohttp's; nio's type hint is another.
        status = getattr(answer.transport_response, "status", 0)
        is_unknown = answer.status_code in {"M_NOT_FOUND", "M_UNKNOWN"}
        return not (is_unknown and status == HTTPStatus.NOT_FOUND)

    @property
    def known(self) -> Mapping[EventId, Message | None]:
        """The messages last received or fetched, without their text; None for redacted ones."""
        return self._rooms.known

    def predecessor(self, room_id: RoomId) -> RoomId | None:
        """Return the room that this one replaces; None unless both rooms say so."""
        return self._rooms.predecessor(room_id)

    def name(self, room_id: RoomId, user_id: UserId) -> str:
        """Return a person's display name in a room, or the user id if the name is not known."""
        room = self._client.rooms.get(room_id)
        name = None if room is None else room.user_name(user_id)
        return plain_name(name or "") or user_id

    def power_level(self, room_id: RoomId, user_id: UserId) -> float:
        """Return the user's power level in the homeserver's state; infinite for creators."""
        return self._rooms.power_level(room_id, user_id)

    async def join(self, invite: Invite) -> None:
        """Join a room. A direct message is added to the account's `m.direct`."""
        if invite.direct:  # before the sync that brings the room and its first prompt
            self._rooms.note_direct(invite.sender, invite.room_id)
        await call(nio.JoinResponse, run_uncancelled(self._client.join(invite.room_id)))
        if invite.direct:
            path = ["user", self.user_id, "account_data", "m.direct"]
            await self._request("PUT", path, dict(self._rooms.direct))

    async def leave(self, room_id: RoomId, reason: str | None = None) -> None:
        """Leave a room or decline an invitation. No error if the bot is not in the room."""
        body = {} if reason is None else {"reason": reason}
        try:
            await self._request("POST", ["rooms", room_id, "leave"], body)
        except Forbidden:
            log.info("already out", room_id=room_id)

    async def follow(self, upgraded: Upgraded) -> None:
        """Join the room that replaces an upgraded one; see `Successors.follow`."""
        await self._successors.follow(upgraded)

    async def fetch(self, room_id: RoomId, event_id: EventId) -> ReadableEvent | None:
        """Fetch one event, a message in its newest version; None if it is gone."""
        found = await self._histories.fetch(room_id, event_id)
        event = found[0] if found else None
        if not isinstance(event, Message):
            return event
        self._rooms.remember(event)
        for edit in found[1:]:
            if isinstance(edit, Edit) and edit.sender == event.sender:
                source = edit if edit.answers else event  # an edit by a person has no marker
                answers, claim, final = source.answers, source.claim, source.final
                event = replace(event, body=edit.body, answers=answers, claim=claim, final=final)
        self._histories.reveal(event)
        return event

    async def history(self, prompt: Prompt, enough: Enough) -> History:
        """Return the prompt's conversation, from memory if it is still there.

        Messages that the room hides from the prompt's sender are left out. A direct message hides
        nothing.
        """
        room_id = prompt.room_id
        direct = self._rooms.room(room_id).direct
        visibility = "shared" if direct else self._rooms.visibility(room_id)
        membership = self._rooms.membership(room_id)
        return await self._histories.read(prompt, membership, enough, visibility)

    async def edits(self, room_id: RoomId, event_id: EventId) -> Sequence[EventId]:
        """Return the bot's own edits of an event that is not redacted."""
        return await self._histories.edits(room_id, event_id)

    async def redact(self, room_id: RoomId, event_id: EventId, transaction_id: str) -> None:
        """Redact one of the bot's own events."""
        redaction = self._client.room_redact(room_id, event_id, tx_id=transaction_id)
        response = await call(nio.RoomRedactResponse, run_uncancelled(redaction))
        own = EventId(response.event_id)
        self._rooms.redact(Redaction(own, room_id, self.user_id, event_id))

    def attention(self, prompt: Prompt) -> AbstractAsyncContextManager[None]:
        """Send the read receipt, and show "typing…" while the block runs; see `Attention`."""
        return self._attention.show(prompt)

    async def prepare(self, room_id: RoomId, outgoing: Outgoing) -> PreparedEvent:
        """Return an event ready to send: type and content, encrypted if the room is encrypted."""
        media = None
        if isinstance(outgoing, Attachment):
            media = await self._upload(room_id, outgoing)
        kind = event_type(outgoing)
        quoting = self._is_followed(room_id, outgoing)
        content = build(outgoing, quoting=quoting, media=media, tables=self._tables)
        sent_kind, sent = await run_uncancelled(self._encrypt_if_needed(room_id, kind, content))
        return PreparedEvent(sent_kind, sent, {"type": kind, "content": content})

    def _is_followed(self, room_id: RoomId, outgoing: Outgoing) -> bool:
        """Return whether other messages stand between a prompt and its answer.

        If so, the answer quotes the prompt. A prompt that itself replies to a message of a thread
        is never quoted: matrix-js-sdk takes such a chain of replies for a part of the thread
        (`Room.eventShouldLiveIn`) and shows it nowhere.
        """
        match outgoing:
            case Reply(prompt=prompt) | Notice(to=Prompt() as prompt):
                before = self._rooms.known.get(prompt.messages[-1].replies_to or EventId(""))
                in_thread = before is not None and before.thread_root is not None
                return not in_thread and self._rooms.is_followed(room_id, prompt.event_ids)
            case Notice(to=Undecryptable(event_id=event_id)):
                return self._rooms.is_followed(room_id, (event_id,))
            case _:
                return False

    async def _upload(self, room_id: RoomId, attached: Attachment) -> dict[str, Any]:
        """Upload a file, encrypted if the room is, and return where it is stored."""
        data = attached.data
        with mapped_errors():
            encrypted = await self._client.is_encrypted(room_id)
            uploading = self._client.upload(
                lambda *_: (
                    data[at : at + _CHUNK_BYTES] for at in range(0, len(data), _CHUNK_BYTES)
                ),
                attached.mimetype,
                # the homeserver need not know the name of an encrypted file
                None if encrypted else attached.name,
                encrypt=encrypted,
                filesize=len(data),
            )
            response, keys = await run_uncancelled(uploading)

        async def answer() -> object:
            return response

        url = (await call(nio.UploadResponse, answer())).content_uri
        return {"file": {**keys, "url": url}} if keys else {"url": url}

    async def upload_limit(self) -> int | None:
        """Return the largest accepted file in bytes; None if the homeserver does not say."""
        asked = self._client.content_repository_config()
        try:
            return (await call(nio.ContentRepositoryConfigResponse, asked)).upload_size
        except Forbidden:  # an older homeserver without this endpoint
            return None

    async def put(self, room_id: RoomId, prepared: PreparedEvent, transaction_id: str) -> EventId:
        """Send a prepared event, never in clear text if the room is encrypted by now."""
        kind, content = await run_uncancelled(
            self._encrypt_if_needed(room_id, prepared.type, dict(prepared.content))
        )
        response = await call(
            nio.RoomSendResponse,
            run_uncancelled(self._client.put(room_id, kind, content, transaction_id)),
        )
        event_id = EventId(response.event_id)
        if "rel_type" not in mapping(content.get("m.relates_to")):
            self._rooms.note_sent(room_id, event_id)
        if prepared.clear is not None:
            self._remember_own(room_id, event_id, prepared.clear)
        return event_id

    async def verify(self, event: VerificationEvent, *, trusted: bool) -> VerificationStep | None:
        """Do one step of a verification of this device; see `Verifications`."""
        if not trusted:
            return VerificationRefused(await self._verifications.refuse(event))
        return await self._verifications.handle(event)

    async def shown(self, room_id: RoomId, event_id: EventId) -> PreparedEvent | None:
        """Return what the homeserver shows for an event; None if it is gone."""
        return await self._histories.shown(room_id, event_id)

    async def own_since(self, room_id: RoomId, prompt: Sequence[EventId]) -> SentSince:
        """Return what the bot has sent since the first message of a prompt; see `OwnMessages`."""
        return await self._histories.own_since(room_id, prompt)

    async def _encrypt_if_needed(
        self, room_id: RoomId, kind: str, content: dict[str, Any]
    ) -> tuple[str, dict[str, Any]]:
        with mapped_errors():
            return await self._client.encrypt_if_needed(room_id, kind, content)

    def _remember_own(self, room_id: RoomId, event_id: EventId, clear: Mapping[str, Any]) -> None:
        """Remember an event when it is sent: the next prompt may come before its echo."""
        source = {
            **clear,
            "event_id": event_id,
            "sender": self.user_id,
            "origin_server_ts": int(self._health.clock.now() * 1000),
        }
        event = parse_clear(source, room_id, self.user_id)
        if event is not None:
            self._histories.update(event)
        if isinstance(event, Message):
            self._rooms.remember(event)

    async def _request(self, method: str, path: list[str], body: dict[Any, Any]) -> None:
        """Make a request that nio has no method for, over nio's connection."""
        await call(EmptyResponse, self._client.send_json(EmptyResponse, method, path, body))

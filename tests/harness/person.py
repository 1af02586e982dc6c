"""The common base of test persons: the actions of a user at a Matrix client."""

import asyncio
import html
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote
from uuid import uuid4

import aiohttp
from nio.crypto.attachments import decrypt_attachment

from bot.core.events import EventId, RoomId, UserId
from tests.harness import canaries
from tests.harness.client_view import JSON, ClientView, Seen, Version

_PATIENCE_SECONDS = 20.0
_LIMITS = itertools.count(1)
_MEGOLM: JSON = {"algorithm": "m.megolm.v1.aes-sha2"}


class Refused(Exception):
    """The homeserver, or the client itself, refused an action of a person."""


class Person(ABC):
    """A person at a client; subclasses receive and encrypt events in different ways.

    Attributes:
        device_id: the device that `start` logged in.
        observed: the client's view of its rooms.
    """

    def __init__(self, homeserver: str, user_id: UserId, password: str) -> None:
        self.homeserver = homeserver
        self.user_id = user_id
        self.device_id = ""
        self.observed = ClientView()
        self._password = password
        self._access_token = ""
        self._direct: dict[str, list[RoomId]] = {}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Log in as a new device, and wait for the first sync."""
        identifier = {"type": "m.id.user", "user": self.user_id}
        password = {"type": "m.login.password", "password": self._password}
        login = await self._call("POST", "/login", {"identifier": identifier, **password})
        self.device_id, self._access_token = login["device_id"], login["access_token"]
        try:
            await self._connect()
        except BaseException:
            await self.close()
            raise

    @abstractmethod
    async def close(self) -> None:
        """End all tasks and processes; the device stays on the homeserver."""

    @abstractmethod
    async def send_event(self, room_id: RoomId, event_type: str, content: JSON) -> EventId:
        """Send a message event of any type, encrypted if the room is."""

    @abstractmethod
    async def _connect(self) -> None:
        """Sync once, then start to sync for ever, into `observed`."""

    async def open_direct_message(
        self,
        bot: UserId,
        *,
        first_prompt: str | None = None,
        encrypted: bool | JSON = True,
        version: str | None = None,
    ) -> RoomId:
        """Open a direct message like Tchap.

        Args:
            bot: the invited user.
            first_prompt: a text to send before the bot can join; None for none.
            encrypted: whether it is encrypted, or an unusual content of `m.room.encryption`.
            version: the room version; None for the homeserver's default.
        """
        room: JSON = {"preset": "trusted_private_chat", "is_direct": True, "invite": [bot]}
        if version is not None:
            room["room_version"] = version
        room_id = await self._create(room, rule="direct", encrypted=encrypted)
        if first_prompt is not None:
            await self.send(room_id, first_prompt)
        self._direct.setdefault(bot, []).append(room_id)
        await self._call("PUT", f"/user/{self.user_id}/account_data/m.direct", self._direct)
        return room_id

    async def create_room(
        self,
        name: str,
        invite: Sequence[UserId],
        *,
        encrypted: bool = True,
        public: bool = False,
        history: Literal["invited", "shared"] = "invited",
    ) -> RoomId:
        """Open a salon like Tchap, and invite its members.

        Args:
            name: name of the salon.
            invite: the users to invite.
            encrypted: whether it is encrypted. Tchap's public salons are not; salons that are open
                by link may be.
            public: whether anybody may join.
            history: the history visibility: the messages that members may read.
        """
        preset = "public_chat" if public else "private_chat"
        room: JSON = {"preset": preset, "name": name, "invite": list(invite)}
        return await self._create(room, rule="restricted", encrypted=encrypted, history=history)

    async def join(self, room_id: RoomId) -> None:
        """Join a room, and wait until this client shows it."""
        await self._call("POST", f"/join/{room_id}", {})
        await self.wait_joined(room_id, self.user_id)

    async def download(self, file: JSON) -> bytes:
        """Return the decrypted content of an attachment (spec: sending encrypted attachments)."""
        server, media = file["url"].removeprefix("mxc://").split("/")
        path = f"/_matrix/client/v1/media/download/{server}/{media}"
        headers = {"Authorization": f"Bearer {self._access_token}"}
        async with (
            aiohttp.ClientSession(self.homeserver, headers=headers) as session,
            session.get(path) as response,
        ):
            sealed = await response.read()
        keys = file["key"]["k"], file["hashes"]["sha256"], file["iv"]
        return bytes(decrypt_attachment(sealed, *keys))

    async def invitations(self, inviter: UserId) -> list[RoomId]:
        """Return the rooms of this person's open invitations by a user."""
        # Synapse caches its response to a first sync for two minutes, per filter.
        unlike = quote(json.dumps({"room": {"timeline": {"limit": next(_LIMITS)}}}))
        answer = await self._call("GET", f"/sync?timeout=0&filter={unlike}", {})
        invited = answer["rooms"].get("invite", {})
        return [
            RoomId(room_id)
            for room_id, room in invited.items()
            if any(one["sender"] == inviter for one in room["invite_state"]["events"])
        ]

    async def invite(self, room_id: RoomId, user_id: UserId) -> None:
        """Invite a user, and wait until this client shows it."""
        await self._call("POST", f"/rooms/{room_id}/invite", {"user_id": user_id})
        await self._wait_member(room_id, user_id, "invite", "join")

    async def kick(self, room_id: RoomId, user_id: UserId) -> None:
        """Kick a user, and wait until this client shows it."""
        await self._call("POST", f"/rooms/{room_id}/kick", {"user_id": user_id})
        await self._wait_member(room_id, user_id, "leave")

    async def upgrade(self, room_id: RoomId, *, version: str = "11") -> RoomId:
        """Upgrade the room, invite its members to the new one, and return its id."""
        reply = await self._call("POST", f"/rooms/{room_id}/upgrade", {"new_version": version})
        replacement = RoomId(reply["replacement_room"])
        await self.wait_joined(replacement, self.user_id)
        members = [
            UserId(user_id)
            for (room, kind, user_id), content in self.observed.state.items()
            if (room, kind) == (room_id, "m.room.member")
            and content["membership"] in {"join", "invite"}
        ]
        for user_id in members:
            if user_id != self.user_id:
                await self.invite(replacement, user_id)
        return replacement

    async def empower(self, room_id: RoomId, user_id: UserId, level: int) -> None:
        """Set a user's power level, and wait until this client shows it."""
        kind = "m.room.power_levels"
        levels = self.observed.state[room_id, kind, ""]
        users = {**levels.get("users", {}), user_id: level}
        await self._call("PUT", f"/rooms/{room_id}/state/{kind}", {**levels, "users": users})
        await self._wait_state(room_id, kind, "", lambda now: bool(now.get("users") == users))

    async def leave(self, room_id: RoomId) -> None:
        """Leave a room."""
        await self._call("POST", f"/rooms/{room_id}/leave", {})

    async def send(self, room_id: RoomId, text: str, **content: object) -> EventId:
        """Send a text message; `content` adds to the event's content, or replaces it."""
        canaries.remember(text)
        text_message = {"msgtype": "m.text", "body": text}
        return await self.send_event(room_id, "m.room.message", {**text_message, **content})

    async def write(
        self,
        room_id: RoomId,
        text: str,
        *,
        mentioning: UserId | None = None,
        replying_to: EventId | None = None,
        thread: EventId | None = None,
        listed: bool = True,
    ) -> EventId:
        """Send a text like Element.

        Args:
            room_id: the room.
            text: the typed text.
            mentioning: the user who is mentioned before the text; None for nobody.
            replying_to: the message that it replies to; its sender is mentioned without a pill.
            thread: root of its thread; None for the main timeline.
            listed: whether it has `m.mentions`, as since 2023; older clients only write the pill.
        """
        canaries.remember(text)
        content: JSON = {"msgtype": "m.text", "body": text}
        if mentioning is not None:
            content |= self._mention(room_id, mentioning, text)
        if listed:
            content["m.mentions"] = self._mentions(room_id, mentioning, replying_to)
        if thread is not None or replying_to is not None:
            content["m.relates_to"] = self._relation(room_id, thread, replying_to)
        return await self.send_event(room_id, "m.room.message", content)

    def _mention(self, room_id: RoomId, user_id: UserId, text: str) -> JSON:
        name = self.observed.state[room_id, "m.room.member", user_id]["displayname"]
        pill = f'<a href="https://matrix.to/#/{user_id}">{html.escape(name)}</a>'
        formatted = f"{pill} : {html.escape(text)}"
        return {
            "body": f"{name} : {text}",
            "format": "org.matrix.custom.html",
            "formatted_body": formatted,
        }

    def _mentions(
        self, room_id: RoomId, mentioned: UserId | None, replied_to: EventId | None
    ) -> JSON:
        senders = {seen.event_id: seen.sender for seen in self.messages(room_id)}
        found = {mentioned, None if replied_to is None else senders[replied_to]}
        users = sorted(one for one in found - {self.user_id} if one is not None)
        return {"user_ids": users} if users else {}

    def _relation(
        self, room_id: RoomId, thread: EventId | None, replied_to: EventId | None
    ) -> JSON:
        if thread is None:
            return {"m.in_reply_to": {"event_id": replied_to}}
        there = [
            seen.event_id
            for seen in self.messages(room_id)
            if seen.versions
            and seen.versions[0].content.get("m.relates_to", {}).get("event_id") == thread
        ]
        quoted = replied_to or [thread, *there][-1]
        return {
            "rel_type": "m.thread",
            "event_id": thread,
            "is_falling_back": replied_to is None,
            "m.in_reply_to": {"event_id": quoted},
        }

    async def react(self, room_id: RoomId, event_id: EventId, key: str) -> EventId:
        """React to a message with an emoji."""
        relation = {"rel_type": "m.annotation", "event_id": event_id, "key": key}
        return await self.send_event(room_id, "m.reaction", {"m.relates_to": relation})

    async def vote(
        self, room_id: RoomId, poll: EventId, *answers: str, stable: bool = False
    ) -> EventId:
        """Vote in a poll with the names that clients use, or with those of the final MSC3381."""
        relation: JSON = {"m.relates_to": {"rel_type": "m.reference", "event_id": poll}}
        if stable:
            content = relation | {"m.selections": list(answers)}
            return await self.send_event(room_id, "m.poll.response", content)
        kind = "org.matrix.msc3381.poll.response"
        return await self.send_event(room_id, kind, relation | {kind: {"answers": [*answers]}})

    async def put_event(self, room_id: RoomId, event_type: str, content: JSON) -> EventId:
        """Send an event with this content in clear, even if the room is encrypted."""
        path = f"/rooms/{room_id}/send/{event_type}/{uuid4()}"
        return EventId((await self._call("PUT", path, content))["event_id"])

    async def timeline(self, room_id: RoomId) -> list[JSON]:
        """Return all events of a room from the homeserver, oldest first."""
        events: list[JSON] = []
        query = "dir=f&limit=1000"
        while True:
            page = await self._call("GET", f"/rooms/{room_id}/messages?{query}", {})
            events += page["chunk"]
            if "end" not in page:
                return events
            query = f"dir=f&limit=1000&from={page['end']}"

    async def event(self, room_id: RoomId, event_id: EventId) -> JSON:
        """Return one event from the homeserver."""
        return await self._call("GET", f"/rooms/{room_id}/event/{event_id}", {})

    async def log_out(self) -> None:
        """End this device: the homeserver forgets it and its keys."""
        await self._call("POST", "/logout", {})
        await self.close()

    async def edit(
        self, room_id: RoomId, event_id: EventId, text: str, *, mentioning: UserId | None = None
    ) -> EventId:
        """Replace the text of an own message; mentions are as in `write`."""
        relation = {"rel_type": "m.replace", "event_id": event_id}
        new_content: JSON = {"msgtype": "m.text", "body": text}
        if mentioning is not None:
            new_content |= self._mention(room_id, mentioning, text)
            new_content["m.mentions"] = {"user_ids": [mentioning]}
        edit = {"m.relates_to": relation, "m.new_content": new_content}
        canaries.remember(text)
        return await self.send(room_id, f"* {new_content['body']}", **edit)

    async def redact(self, room_id: RoomId, event_id: EventId) -> EventId:
        """Redact one event; a message's edits are events of their own."""
        path = f"/rooms/{room_id}/redact/{event_id}/{uuid4()}"
        return EventId((await self._call("PUT", path, {}))["event_id"])

    async def wait_joined(
        self, room_id: RoomId, user_id: UserId, *, within: float = _PATIENCE_SECONDS
    ) -> None:
        """Wait until this client shows that the user has joined."""
        await self._wait_member(room_id, user_id, "join", within=within)

    async def wait_for_message(
        self,
        room_id: RoomId,
        matches: Callable[[Seen], bool],
        *,
        within: float = _PATIENCE_SECONDS,
    ) -> Seen:
        """Wait for a message of the room that matches in its current version; return the first."""

        def look() -> Seen | None:
            return next(filter(matches, self.messages(room_id)), None)

        def missing() -> str:
            return f"no such message among {self.messages(room_id)}"

        return await self.observed.until(look, within, missing)

    def messages(self, room_id: RoomId) -> list[Seen]:
        """Return the room's messages in their current versions, undecryptable ones too."""
        return self.observed.messages(room_id)

    def changes(self, room_id: RoomId) -> AsyncIterator[Seen]:
        """Yield a message of the room at each change, from this call on."""
        return self.observed.changes(room_id)

    def versions(self, room_id: RoomId, event_id: EventId) -> tuple[Version, ...]:
        """Return all versions of a message so far, in order of arrival; () if not seen."""
        for seen in self.messages(room_id):
            if seen.event_id == event_id:
                return seen.versions
        return ()

    async def _create(
        self, room: JSON, *, rule: str, encrypted: bool | JSON, history: str = "invited"
    ) -> RoomId:
        state: dict[str, JSON] = {
            "im.vector.room.access_rules": {"rule": rule},
            "m.room.history_visibility": {"history_visibility": history},
        }
        if encrypted is not False:
            state["m.room.encryption"] = _MEGOLM if encrypted is True else encrypted
        initial = [{"type": key, "state_key": "", "content": state[key]} for key in state]
        reply = await self._call("POST", "/createRoom", {**room, "initial_state": initial})
        room_id = RoomId(reply["room_id"])
        # Before a client knows the room's encryption and members, it sends in clear.
        for key, content in state.items():
            await self._wait_state(room_id, key, "", content.__eq__)
        for user_id in [self.user_id, *room["invite"]]:
            await self._wait_member(room_id, user_id, "invite", "join")
        return room_id

    async def _wait_member(
        self,
        room_id: RoomId,
        user_id: UserId,
        *memberships: str,
        within: float = _PATIENCE_SECONDS,
    ) -> None:
        def accepts(content: JSON) -> bool:
            return content.get("membership") in memberships

        await self._wait_state(room_id, "m.room.member", user_id, accepts, within=within)

    async def _wait_state(
        self,
        room_id: RoomId,
        event_type: str,
        state_key: str,
        accepts: Callable[[JSON], bool],
        *,
        within: float = _PATIENCE_SECONDS,
    ) -> None:
        def content() -> JSON:
            return self.observed.state.get((room_id, event_type, state_key), {})

        def look() -> bool | None:
            return accepts(content()) or None

        def missing() -> str:
            return f"{event_type} of {state_key!r} in {room_id} is still {content()}"

        await self.observed.until(look, within, missing)

    async def _call(self, method: str, path: str, body: JSON) -> JSON:
        headers = {"Authorization": f"Bearer {self._access_token}"} if self._access_token else {}
        url = f"{self.homeserver}/_matrix/client/v3{path}"
        async with aiohttp.ClientSession(headers=headers) as http:
            while True:
                async with http.request(method, url, json=body) as response:
                    reply: JSON = await response.json()
                    if response.ok:
                        return reply
                    if response.status != HTTPStatus.TOO_MANY_REQUESTS:
                        raise Refused(f"{method} {path}: {response.status} {reply}")
                await asyncio.sleep(reply["retry_after_ms"] / 1000)

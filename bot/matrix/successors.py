"""Replacements of upgraded rooms, joined only if both rooms name each other."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import nio

from bot.core.bounded import BoundedDict
from bot.core.events import RoomId, Upgraded
from bot.errors import Forbidden
from bot.matrix.error_mapping import call
from bot.matrix.json_fields import Json
from bot.matrix.nio_client import SafeClient
from bot.matrix.response_repair import ObjectResponse
from bot.matrix.room_events import Rooms
from bot.matrix.state_events import FOLLOWING, is_space, predecessor
from bot.runtime.failpoints import armed
from bot.runtime.uncancellable import run_uncancelled

_REMEMBERED = 1_000  # rooms


class Successors:
    """Joins the room that replaces an upgraded one.

    A tombstone can name any room. Which room that one replaces is in its `m.room.create`, which a
    homeserver shows only to members, or to everybody in a world-readable room (spec: room history
    visibility, GET /rooms/{roomId}/state; the summary of MSC3266 does not contain it). So the bot
    may have to join first. The reason of its join names the old room (`Rooms.is_stray`). Until the
    right room is confirmed, the bot neither speaks nor listens there. It leaves a wrong room at
    once, also after a crash.
    """

    def __init__(self, client: SafeClient, rooms: Rooms) -> None:
        self._client = client
        self._rooms = rooms
        # By room; it never changes. A second tombstone to the same room changes nothing.
        self._replaces = BoundedDict[RoomId, RoomId | None](_REMEMBERED)
        self._entered: set[RoomId] = set()  # rooms joined without knowing what they replace

    async def follow(self, upgraded: Upgraded) -> None:
        """Join the replacement of a room, if it is the right one.

        Raises:
            Forbidden: it is not, or requires an invitation.
            MatrixError: the homeserver did not answer.
        """
        old, new = upgraded.room_id, upgraded.replacement
        if not self._rooms.may_upgrade(old, upgraded.sender):
            raise Forbidden("who gave the room up has not the power to")
        if self._rooms.knows(new) and not self._rooms.is_stray(new):
            return  # it is there already, and may stay
        if new not in self._replaces:
            await self._learn(old, new)
        if self._replaces[new] != old:
            await self._go(new)
            raise Forbidden("the room that is pointed to does not replace this one")
        if new not in self._entered and not self._rooms.knows(new):
            await self._enter(old, new)
        self._entered.discard(new)

    async def _learn(self, old: RoomId, new: RoomId) -> None:
        """Find out which room it replaces, by joining it if necessary."""
        create = await self._read(new)
        if create is None:
            await self._enter(old, new)
            if (create := await self._read(new)) is None:
                await self._go(new)
                raise Forbidden("the room that is pointed to does not say what it replaces")
        self._replaces[new] = None if is_space(create) else predecessor(create)

    async def _read(self, room_id: RoomId) -> Json | None:
        """Return the room's `m.room.create`; None if the bot may not read it."""
        try:
            return await self._ask(
                "GET", "rooms", room_id, "state", "m.room.create", query="?format=event"
            )
        except Forbidden:
            return None

    async def _enter(self, old: RoomId, new: RoomId) -> None:
        self._entered.add(new)
        try:
            with armed.around("enter"):
                await self._ask("POST", "join", new, body={"reason": f"{FOLLOWING}{old}"})
        except Forbidden:
            self._entered.discard(new)
            raise

    async def _go(self, new: RoomId) -> None:
        """Leave silently, if the bot joined for this check."""
        if new not in self._entered and not self._rooms.is_stray(new):
            return
        with suppress(Forbidden), armed.around("leave"):  # it may have left already
            await self._ask("POST", "rooms", new, "leave", body={})
        self._entered.discard(new)

    async def _ask(
        self, method: str, *steps: str, query: str = "", body: Mapping[str, Any] | None = None
    ) -> Json:
        path = "/".join(quote(step, safe="") for step in steps)
        data = None if body is None else nio.Api.to_json(dict(body))
        request = self._client._send(  # noqa: SLF001  # nio's only method for any request
            ObjectResponse, method, f"/_matrix/client/v3/{path}{query}", data
        )
        return (await call(ObjectResponse, run_uncancelled(request))).source

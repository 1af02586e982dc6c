"""What takes the place of a room given up: followed only where both rooms say so."""

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import nio

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

_REMEMBERED = 1_000  # rooms that were pointed to


class Successors:
    """Follows a room to the one that replaces it.

    A tombstone names any room whatever. What that room replaces is told by its `m.room.create`,
    which a homeserver shows to members alone, but where anybody may read (spec: room history
    visibility, GET /rooms/{roomId}/state; a room's summary, MSC3266, does not tell). So the bot
    may have to join to know. Its joining says why it came (`Rooms.is_stray`): until the room has
    said that it is the right one, nothing is said or heard there, and out of a wrong one it goes
    at once, also after a crash.
    """

    def __init__(self, client: SafeClient, rooms: Rooms) -> None:
        self._client = client
        self._rooms = rooms
        # By room, as nobody can change it. Whoever points to the same room again moves nothing.
        self._replaces: OrderedDict[RoomId, RoomId | None] = OrderedDict()
        self._entered: set[RoomId] = set()  # without knowing yet

    async def follow(self, upgraded: Upgraded) -> None:
        """Join what replaces the room, where it is the right one.

        Raises:
            Forbidden: it is not, or it lets the bot in by invitation only.
            MatrixError: the homeserver did not answer.
        """
        old, new = upgraded.room_id, upgraded.replacement
        if not self._rooms.may_upgrade(old, upgraded.sender):
            raise Forbidden("who gave the room up has not the power to")
        if self._rooms.knows(new) and not self._rooms.is_stray(new):
            return  # it is there already, and need not go
        if new not in self._replaces:
            await self._learn(old, new)
        if self._replaces[new] != old:
            await self._go(new)
            raise Forbidden("the room that is pointed to does not replace this one")
        if new not in self._entered and not self._rooms.knows(new):
            await self._enter(old, new)
        self._entered.discard(new)

    async def _learn(self, old: RoomId, new: RoomId) -> None:
        """Find out what the room replaces, from inside where nobody else is told."""
        create = await self._read(new)
        if create is None:
            await self._enter(old, new)
            if (create := await self._read(new)) is None:
                await self._go(new)
                raise Forbidden("the room that is pointed to does not say what it replaces")
        self._replaces[new] = None if is_space(create) else predecessor(create)
        if len(self._replaces) > _REMEMBERED:
            self._replaces.popitem(last=False)

    async def _read(self, room_id: RoomId) -> Json | None:
        """Return the room's `m.room.create`, None where the bot may not read it."""
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
        """Leave without a word, where the bot came for this."""
        if new not in self._entered and not self._rooms.is_stray(new):
            return
        with suppress(Forbidden), armed.around("leave"):  # it may be out already
            await self._ask("POST", "rooms", new, "leave", body={})
        self._entered.discard(new)

    async def _ask(
        self, method: str, *steps: str, query: str = "", body: Mapping[str, Any] | None = None
    ) -> Json:
        path = "/".join(quote(step, safe="") for step in steps)
        data = None if body is None else nio.Api.to_json(dict(body))
        request = self._client._send(  # noqa: SLF001  # nio's one door for any request
            ObjectResponse, method, f"/_matrix/client/v3/{path}{query}", data
        )
        return (await call(ObjectResponse, run_uncancelled(request))).source

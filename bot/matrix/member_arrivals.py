"""When the bot and its people came into a room, which bounds the history they may read."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from urllib.parse import quote

import nio

from bot.core.events import (
    EventId,
    Prompt,
    RoomId,
    UserId,
)
from bot.errors import Forbidden
from bot.matrix.error_mapping import call
from bot.matrix.json_fields import Json, identifier, mapping, timestamp
from bot.matrix.nio_client import SafeClient
from bot.matrix.response_repair import ObjectResponse
from bot.matrix.state_events import Membership, parse_membership
from bot.matrix.timeline import PAGES

_PEOPLE = 1_000  # of whom is remembered when they came into a room


@dataclass(frozen=True, slots=True)
class _Person:
    """Since when somebody may read a room of such a visibility, by which membership."""

    member_id: EventId
    visibility: str
    since: float


class MemberArrivals:
    """When members of rooms were invited or joined, by the homeserver's clock."""

    def __init__(self, client: SafeClient) -> None:
        self._client = client
        self._arrivals: dict[RoomId, float] = {}
        self._people: OrderedDict[tuple[RoomId, UserId], _Person] = OrderedDict()
        self._heard_members = 0

    def hear(self, room_id: RoomId, member: Membership) -> None:
        """Let go of when a person came, unless it is told once more."""
        self._heard_members += 1
        person = self._people.get((room_id, member.user_id))
        if person is not None and person.member_id != member.event_id:
            del self._people[room_id, member.user_id]

    def forget(self, room_id: RoomId | None = None) -> None:
        """Let go of a room, or of all."""
        if room_id is None:
            self._arrivals.clear()
        else:
            self._arrivals.pop(room_id, None)
        self._heard_members += 1
        for place in [place for place in self._people if room_id in {None, place[0]}]:
            del self._people[place]

    async def of_bot(self, room_id: RoomId, membership: Json) -> float:
        """Return when the bot was invited, in the homeserver's milliseconds.

        Whoever wrote before did not write to it.
        """
        arrival = self._arrivals.get(room_id, math.inf)
        if arrival == math.inf:
            arrival = self._arrivals[room_id] = await self._look_back(room_id, membership)
        return arrival

    async def of_sender(self, prompt: Prompt, visibility: str) -> float:
        """Return since when the prompt's sender may read, in the homeserver's milliseconds."""
        place = prompt.room_id, prompt.sender
        known = self._people.get(place)
        if known is not None and known.visibility == visibility:
            self._people.move_to_end(place)
            return known.since
        heard = self._heard_members
        source = await self._member(*place)
        member = parse_membership(source)
        if member is None or member.user_id != prompt.sender or member.now != "join":
            return math.inf
        since = await self._look_back(prompt.room_id, source, invited=visibility == "invited")
        if heard == self._heard_members:  # else it may have changed while it was asked for
            self._people[place] = _Person(member.event_id, visibility, since)
            if len(self._people) > _PEOPLE:
                self._people.popitem(last=False)
        return since

    async def _look_back(
        self, room_id: RoomId, membership: Json, *, invited: bool = True
    ) -> float:
        """Return when a member came, in the homeserver's milliseconds; infinite for none.

        What its membership replaced leads back past changes of its profile. A homeserver need not
        tell of an event that is asked for by its id what it replaced has said.

        Args:
            room_id: where.
            membership: the member's current `m.room.member` event.
            invited: the invitation counts for the arrival; else the joining.
        """
        there = {"join", "invite"} if invited else {"join"}
        source, arrival = membership, math.inf
        for _ in range(PAGES):
            member = parse_membership(source)
            if member is None or member.now not in there:
                return arrival
            arrival = timestamp(source)
            replaced = EventId(identifier(mapping(source.get("unsigned")), "replaces_state"))
            if member.now == "invite" or member.before not in {"", *there} or not replaced:
                return arrival
            try:
                response = await call(
                    nio.RoomGetEventResponse, self._client.room_get_event(room_id, replaced)
                )
            except Forbidden:
                return arrival
            source = mapping(response.event.source)
        return arrival

    async def _member(self, room_id: RoomId, user_id: UserId) -> Json:
        """Return the user's current `m.room.member` event, {} where it is not told whole."""
        path = "/".join(
            quote(step, safe="") for step in ("rooms", room_id, "state", "m.room.member", user_id)
        )
        request = self._client._send(  # noqa: SLF001  # nio asks for the content alone
            ObjectResponse, "GET", f"/_matrix/client/v3/{path}?format=event"
        )
        try:
            return (await call(ObjectResponse, request)).source
        except Forbidden:
            return {}

"""The times at which members came into rooms, which limit the history they may read."""

import math
from dataclasses import dataclass
from urllib.parse import quote

import nio

from bot.core.bounded import BoundedDict
from bot.core.events import EventId, Prompt, RoomId, UserId
from bot.errors import Forbidden
from bot.matrix.error_mapping import call
from bot.matrix.json_fields import Json, identifier, mapping, timestamp
from bot.matrix.nio_client import SafeClient
from bot.matrix.response_repair import ObjectResponse
from bot.matrix.state_events import Membership, parse_membership
from bot.matrix.timeline import PAGES

_PEOPLE = 1_000  # people whose arrival is remembered


@dataclass(frozen=True, slots=True)
class _Person:
    """Since when a member may read a room, for one visibility and one membership event."""

    member_id: EventId
    visibility: str
    since: float


class MemberArrivals:
    """The times at which members were invited or joined, by the homeserver's clock."""

    def __init__(self, client: SafeClient) -> None:
        self._client = client
        self._arrivals: dict[RoomId, float] = {}
        self._people = BoundedDict[tuple[RoomId, UserId], _Person](_PEOPLE)
        self._changes = 0

    def update(self, room_id: RoomId, member: Membership) -> None:
        """Forget when a person came, unless the event is the known one."""
        self._changes += 1
        person = self._people.get((room_id, member.user_id))
        if person is not None and person.member_id != member.event_id:
            del self._people[room_id, member.user_id]

    def forget(self, room_id: RoomId | None = None) -> None:
        """Forget the members of a room, or of all rooms."""
        if room_id is None:
            self._arrivals.clear()
        else:
            self._arrivals.pop(room_id, None)
        self._changes += 1
        for member_key in [
            member_key for member_key in self._people if room_id in {None, member_key[0]}
        ]:
            del self._people[member_key]

    async def of_bot(self, room_id: RoomId, membership: Json) -> float:
        """Return when the bot was invited, in the homeserver's milliseconds.

        Earlier messages were not written for it.
        """
        arrival = self._arrivals.get(room_id, math.inf)
        if arrival == math.inf:
            arrival = self._arrivals[room_id] = await self._look_back(room_id, membership)
        return arrival

    async def of_sender(self, prompt: Prompt, visibility: str) -> float:
        """Return since when the prompt's sender may read the room, in milliseconds."""
        member_key = prompt.room_id, prompt.sender
        known = self._people.use(member_key)
        if known is not None and known.visibility == visibility:
            return known.since
        changes = self._changes
        source = await self._member(*member_key)
        member = parse_membership(source)
        if member is None or member.user_id != prompt.sender or member.now != "join":
            return math.inf
        since = await self._look_back(prompt.room_id, source, invited=visibility == "invited")
        if changes == self._changes:  # otherwise it may have changed during the request
            self._people[member_key] = _Person(member.event_id, visibility, since)
        return since

    async def _look_back(
        self, room_id: RoomId, membership: Json, *, invited: bool = True
    ) -> float:
        """Return when a member came, in milliseconds; infinite if it is not in the room.

        The replaced member events lead back past changes of the profile. A homeserver need not
        return the previous content of an event that is requested by id.

        Args:
            room_id: the room.
            membership: the member's current `m.room.member` event.
            invited: whether the invitation counts as the arrival, rather than the join.
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
        """Return the user's current `m.room.member` event; {} if the bot may not read it."""
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

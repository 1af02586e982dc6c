"""What the syncs tell of the rooms: their kind, who is left, and what was heard, as our events."""

import math

import nio
import structlog

from bot.core.events import (
    Room,
    RoomId,
    UserId,
)
from bot.matrix.json_fields import Json, identifier, mapping, text, whole
from bot.matrix.state_events import (
    FOLLOWING,
    is_admin_rooms,
    is_space,
    predecessor,
)

_DIRECT_MEMBERS = 2
_STATE_LEVEL = 50  # where the power levels name none for state events
_CREATOR_LEVEL = 100  # where the room has no power levels
_NUMBERED_CREATORS = {"", *map(str, range(1, 12))}  # room versions whose creators have a number

log = structlog.get_logger()


class RoomState:
    """The homeserver's own word on each room. Nothing decrypted ever counts as state.

    Attributes:
        direct: the account's `m.direct`.
    """

    def __init__(self, me: UserId) -> None:
        self.me = me
        self._rules: dict[RoomId, str] = {}
        self._members: dict[RoomId, tuple[int, int]] = {}  # joined, invited
        self._heroes: dict[RoomId, UserId] = {}  # of those with one other member
        self._create: dict[RoomId, Json] = {}  # the room's m.room.create
        self._visibility: dict[RoomId, str] = {}
        self._levels: dict[RoomId, Json] = {}  # content of its m.room.power_levels
        self._memberships: dict[RoomId, Json] = {}  # the bot's own m.room.member
        self._replaced: dict[RoomId, RoomId] = {}  # by what
        self.direct: dict[UserId, list[RoomId]] = {}
        self._people: dict[RoomId, UserId] = {}  # of `direct`, by room

    def room(self, room_id: RoomId) -> Room:
        """Tell whether the room is a direct message, and whether the bot can speak there.

        Tchap's `im.vector.room.access_rules` decides; where it is missing, `m.direct`. A third
        member makes a salon of either.
        """
        rule = self._rules.get(room_id)
        person = self._people.get(room_id) or self._heroes.get(room_id)
        direct = rule == "direct" or (rule is None and room_id in self._people)
        direct = direct and sum(self._members.get(room_id, ())) <= _DIRECT_MEMBERS
        space, stray = is_space(self._create.get(room_id, {})), self.is_stray(room_id)
        gone = room_id not in self._members or room_id in self._replaced
        return Room(
            room_id,
            direct=direct,
            closed=gone or space or stray,
            admin=self._is_admin(room_id),
            person=person if direct else None,
            space=space,
            stray=stray,
            called=text(mapping(self.membership(room_id).get("content")), "displayname"),
        )

    def rooms(self) -> list[Room]:
        """Return every room in which the bot can speak."""
        return [one for one in map(self.room, self._members) if not one.closed]

    def _is_admin(self, room_id: RoomId) -> bool:
        """Tell whether the bot has made the room for its admins; nobody else can make one so."""
        return is_admin_rooms(self._create.get(room_id, {}), self.me)

    def knows(self, room_id: RoomId) -> bool:
        """Tell whether a sync has told that the bot is in the room."""
        return room_id in self._members

    def power_level(self, room_id: RoomId, user_id: UserId) -> float:
        """Return the user's power level in the room (spec: m.room.power_levels).

        Those who made a room of version 12 or later stand above every number. Who is not joined
        has the level too: ask only for the sender of an event, whom the homeserver let in.
        """
        create, levels = self._create.get(room_id, {}), self._levels.get(room_id)
        content = mapping(create.get("content"))
        creators = [identifier(create, "sender") or None]
        eternal = text(content, "room_version") not in _NUMBERED_CREATORS
        if eternal:
            additional = content.get("additional_creators")
            creators += additional if isinstance(additional, list) else []
        elif text(content, "creator"):
            creators = [text(content, "creator")]
        if user_id in creators and (eternal or levels is None):
            return math.inf if eternal else _CREATOR_LEVEL
        default = mapping(levels).get("users_default", 0)
        return whole(mapping(mapping(levels).get("users")).get(user_id, default))

    def may_upgrade(self, room_id: RoomId, user_id: UserId) -> bool:
        """Tell whether the user can give the room up for another (spec: room upgrades)."""
        levels = mapping(self._levels.get(room_id))
        default = levels.get("state_default", _STATE_LEVEL)
        needed = mapping(levels.get("events")).get("m.room.tombstone", default)
        # Where it is no number, nobody knows what the homeserver takes it for.
        return isinstance(needed, int) and self.power_level(room_id, user_id) >= needed

    def is_stray(self, room_id: RoomId) -> bool:
        """Tell whether the bot has followed another room there, which this one does not replace.

        Its own joining says whom it followed, so that this holds after a restart as well.
        """
        joining = mapping(self._memberships.get(room_id, {}).get("content"))
        old = text(joining, "reason")
        created = self._create.get(room_id, {})
        return old.startswith(FOLLOWING) and old[len(FOLLOWING) :] != predecessor(created)

    def inviter(self, room_id: RoomId) -> UserId | None:
        """Return who has invited the bot, None where it has come without that (spec: unsigned)."""
        unsigned = mapping(self.membership(room_id).get("unsigned"))
        invited = text(mapping(unsigned.get("prev_content")), "membership") == "invite"
        return UserId(text(unsigned, "prev_sender")) if invited else None

    def membership(self, room_id: RoomId) -> Json:
        """Return the bot's own `m.room.member` event, {} where the room is not known."""
        return self._memberships.get(room_id, {})

    def visibility(self, room_id: RoomId) -> str:
        """Return who may read what was said before they came (spec: room history visibility)."""
        return self._visibility.get(room_id, "shared")

    def predecessor(self, room_id: RoomId) -> RoomId | None:
        """Return the room that this one replaces, None where either of them does not say so.

        Anybody can make a room that says so alone, or point to one that does not.
        """
        before = predecessor(self._create.get(room_id, {}))
        return before if before and self._replaced.get(before) == room_id else None

    def _inherit(self, room_id: RoomId) -> None:
        """Let what replaces a direct message be one with the same person."""
        before = self.predecessor(room_id)
        person = self._people.get(before) if before else None
        if person is not None:
            self.note_direct(person, room_id)

    def forget(self, room_id: RoomId) -> None:
        """Forget the state of a room that the bot has left."""
        facts = self._rules, self._members, self._create, self._levels
        for of_rooms in (*facts, self._memberships, self._visibility, self._heroes):
            of_rooms.pop(room_id, None)
        self._replaced.pop(room_id, None)

    def note_direct(self, user_id: UserId, room_id: RoomId) -> None:
        """List the room as a direct message with the person.

        Nothing is taken off the list: an echo of the account data may be older than a joining.
        """
        self._people[room_id] = user_id
        rooms = self.direct.setdefault(user_id, [])
        if room_id not in rooms:
            rooms.append(room_id)

    def _count_members(self, room_id: RoomId, summary: nio.RoomSummary | None) -> None:
        """Take in the counts that changed (spec: sync room summary)."""
        joined, invited = self._members.get(room_id, (0, 0))
        if summary is not None and summary.joined_member_count is not None:
            joined = summary.joined_member_count
        if summary is not None and summary.invited_member_count is not None:
            invited = summary.invited_member_count
        self._members[room_id] = (joined, invited)
        heroes = None if summary is None else summary.heroes  # None: they have not changed
        if joined + invited != _DIRECT_MEMBERS:
            self._heroes.pop(room_id, None)  # of a room that has a name, nothing is told
        elif heroes:
            self._heroes[room_id] = UserId(heroes[0])

    def _hear_state(self, room_id: RoomId, source: Json) -> None:
        if source.get("state_key") != "":
            return
        kind, content = text(source, "type"), mapping(source.get("content"))
        if kind == "im.vector.room.access_rules" and text(content, "rule"):
            self._rules[room_id] = text(content, "rule")
        elif kind == "m.room.history_visibility":
            self._visibility[room_id] = text(content, "history_visibility") or "shared"
        elif kind == "m.room.create":
            self._create[room_id] = source
            self._inherit(room_id)
        elif kind == "m.room.power_levels":
            self._levels[room_id] = content
        elif kind == "m.room.tombstone" and identifier(content, "replacement_room"):
            replacement = RoomId(identifier(content, "replacement_room"))
            self._replaced[room_id] = replacement
            self._inherit(replacement)

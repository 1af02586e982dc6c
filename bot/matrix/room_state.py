"""The state of each room, as the homeserver's syncs show it."""

import math

import nio

from bot.core.events import Room, RoomId, UserId
from bot.matrix.json_fields import Json, identifier, mapping, text, whole
from bot.matrix.state_events import FOLLOWING, is_admin_rooms, is_space, predecessor

_DIRECT_MEMBERS = 2
_STATE_LEVEL = 50  # default level for state events
_CREATOR_LEVEL = 100  # the creator's level in a room without power levels
# room versions in which creators have a finite power level
_NUMBERED_CREATORS = {"", *map(str, range(1, 12))}


class RoomState:
    """The state of the rooms. Decrypted events never count as state.

    Attributes:
        direct: the content of the account's `m.direct`.
    """

    def __init__(self, me: UserId) -> None:
        self.me = me
        self._rules: dict[RoomId, str] = {}
        self._members: dict[RoomId, tuple[int, int]] = {}  # numbers of joined and invited members
        self._heroes: dict[RoomId, UserId] = {}  # the other member, in rooms with one
        self._create: dict[RoomId, Json] = {}  # the m.room.create event
        self._visibility: dict[RoomId, str] = {}
        self._levels: dict[RoomId, Json] = {}  # content of m.room.power_levels
        self._memberships: dict[RoomId, Json] = {}  # the bot's own m.room.member event
        self._replaced: dict[RoomId, RoomId] = {}  # the replacement of an upgraded room
        self.direct: dict[UserId, list[RoomId]] = {}
        self._people: dict[RoomId, UserId] = {}  # the person of each room in `direct`

    def room(self, room_id: RoomId) -> Room:
        """Return the room's properties: whether it is a direct message, and open to the bot.

        Tchap's `im.vector.room.access_rules` decides; without it, `m.direct` does. A room with
        three or more members is a salon in any case.
        """
        rule = self._rules.get(room_id)
        person = self._people.get(room_id) or self._heroes.get(room_id)
        direct = rule == "direct" or (rule is None and room_id in self._people)
        direct = direct and sum(self._members.get(room_id, ())) <= _DIRECT_MEMBERS
        space, stray = is_space(self._create.get(room_id, {})), self.is_stray(room_id)
        gone = room_id not in self._members or room_id in self._replaced
        return Room(
            room_id=room_id,
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
        """Return whether the bot created the room for its admins; nobody else can."""
        return is_admin_rooms(self._create.get(room_id, {}), self.me)

    def knows(self, room_id: RoomId) -> bool:
        """Return whether a sync has shown that the bot is in the room."""
        return room_id in self._members

    def power_level(self, room_id: RoomId, user_id: UserId) -> float:
        """Return the user's power level in the room (spec: m.room.power_levels).

        Creators of a room of version 12 or later are above every number. A user who has left has a
        level, too: ask only for the sender of an event that the homeserver accepted.
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
        """Return whether the user may upgrade the room to another (spec: room upgrades)."""
        levels = mapping(self._levels.get(room_id))
        default = levels.get("state_default", _STATE_LEVEL)
        needed = mapping(levels.get("events")).get("m.room.tombstone", default)
        # If it is no number, the homeserver's reading is unknown.
        return isinstance(needed, int) and self.power_level(room_id, user_id) >= needed

    def is_stray(self, room_id: RoomId) -> bool:
        """Return whether the bot has come here from a room that this one does not replace.

        The reason of the bot's join names that room, so the answer survives a restart.
        """
        joining = mapping(self._memberships.get(room_id, {}).get("content"))
        old = text(joining, "reason")
        created = self._create.get(room_id, {})
        return old.startswith(FOLLOWING) and old[len(FOLLOWING) :] != predecessor(created)

    def inviter(self, room_id: RoomId) -> UserId | None:
        """Return the bot's inviter; None if it joined without invitation (spec: unsigned)."""
        unsigned = mapping(self.membership(room_id).get("unsigned"))
        invited = text(mapping(unsigned.get("prev_content")), "membership") == "invite"
        return UserId(text(unsigned, "prev_sender")) if invited else None

    def membership(self, room_id: RoomId) -> Json:
        """Return the bot's own `m.room.member` event; {} if the room is not known."""
        return self._memberships.get(room_id, {})

    def visibility(self, room_id: RoomId) -> str:
        """Return the room's history visibility (spec: room history visibility)."""
        return self._visibility.get(room_id, "shared")

    def predecessor(self, room_id: RoomId) -> RoomId | None:
        """Return the room that this one replaces; None unless both rooms say so.

        Anybody can create a room that names another one, or a tombstone that points to any room.
        """
        before = predecessor(self._create.get(room_id, {}))
        return before if before and self._replaced.get(before) == room_id else None

    def _inherit(self, room_id: RoomId) -> None:
        """Mark the replacement of a direct message as a direct message with the same person."""
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
        """Record the room as a direct message with the person.

        Nothing is removed: an echo of the account data may be older than a join.
        """
        self._people[room_id] = user_id
        rooms = self.direct.setdefault(user_id, [])
        if room_id not in rooms:
            rooms.append(room_id)

    def _count_members(self, room_id: RoomId, summary: nio.RoomSummary | None) -> None:
        """Update the member counts that the summary contains (spec: sync room summary)."""
        joined, invited = self._members.get(room_id, (0, 0))
        if summary is not None and summary.joined_member_count is not None:
            joined = summary.joined_member_count
        if summary is not None and summary.invited_member_count is not None:
            invited = summary.invited_member_count
        self._members[room_id] = (joined, invited)
        heroes = None if summary is None else summary.heroes  # None if they have not changed
        if joined + invited != _DIRECT_MEMBERS:
            # the homeserver sends no heroes for a room with a name
            self._heroes.pop(room_id, None)
        elif heroes:
            self._heroes[room_id] = UserId(heroes[0])

    def _read_state(self, room_id: RoomId, source: Json) -> None:
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

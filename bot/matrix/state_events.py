"""Readers of state events: membership, and the fields of `m.room.create`."""

from dataclasses import dataclass

from bot.core.events import EventId, RoomId, UserId
from bot.matrix.json_fields import Json, identifier, mapping, text

ROOM_MARKER, ADMIN = "fr.gouv.assistant.room", "admin"  # marker in the content of m.room.create
# reason of the bot's join to a replacement, followed by the id of the old room
FOLLOWING = "m.room.tombstone "


@dataclass(frozen=True, slots=True)
class Membership:
    """A member event of the homeserver's state: a user's present and previous membership."""

    event_id: EventId
    user_id: UserId
    now: str
    before: str


def parse_membership(source: Json) -> Membership | None:
    """Read one `m.room.member` state event."""
    event_id, user_id = identifier(source, "event_id"), identifier(source, "state_key")
    now = text(mapping(source.get("content")), "membership")
    if text(source, "type") != "m.room.member" or not (event_id and user_id and now):
        return None
    before = text(mapping(mapping(source.get("unsigned")).get("prev_content")), "membership")
    return Membership(EventId(event_id), UserId(user_id), now, before)


def is_admin_rooms(create: Json, me: str) -> bool:
    """Return whether a state event is the `m.room.create` of an admin room of the bot."""
    marked = text(mapping(create.get("content")), ROOM_MARKER) == ADMIN
    mine = identifier(create, "sender") == me
    return marked and mine and text(create, "type") == "m.room.create"


def is_space(create: Json) -> bool:
    """Return whether a state event is the `m.room.create` of a space (spec: m.space)."""
    made = text(create, "type") == "m.room.create"
    return made and text(mapping(create.get("content")), "type") == "m.space"


def predecessor(create: Json) -> RoomId | None:
    """Return the room that an `m.room.create` names as its predecessor; None for none."""
    content = mapping(create.get("content"))
    return RoomId(identifier(mapping(content.get("predecessor")), "room_id")) or None

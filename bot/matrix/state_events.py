"""Reading of state events: membership, and what `m.room.create` says of a room."""

from dataclasses import dataclass

from bot.core.events import (
    EventId,
    RoomId,
    UserId,
)
from bot.matrix.json_fields import Json, identifier, mapping, text

ROOM_MARKER, ADMIN = "fr.gouv.assistant.room", "admin"  # in the room's m.room.create
FOLLOWING = "m.room.tombstone "  # and the room that points there: the reason of a joining


@dataclass(frozen=True, slots=True)
class Membership:
    """A member event from the homeserver's own state: who is what, and was before."""

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
    """Tell whether a state event is the `m.room.create` of an admin room that the bot has made."""
    marked = text(mapping(create.get("content")), ROOM_MARKER) == ADMIN
    mine = identifier(create, "sender") == me
    return marked and mine and text(create, "type") == "m.room.create"


def is_space(create: Json) -> bool:
    """Tell whether a state event is the `m.room.create` of a space (spec: m.space)."""
    made = text(create, "type") == "m.room.create"
    return made and text(mapping(create.get("content")), "type") == "m.space"


def predecessor(create: Json) -> RoomId | None:
    """Return the room that an `m.room.create` says to replace, None for none."""
    content = mapping(create.get("content"))
    return RoomId(identifier(mapping(content.get("predecessor")), "room_id")) or None

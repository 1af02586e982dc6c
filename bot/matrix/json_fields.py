"""Typed access to fields of untrusted JSON. A field of the wrong type counts as empty."""

from collections.abc import Mapping
from typing import TypeGuard, cast

_LONGEST_ID = 255  # spec: appendices, identifiers
# largest integer of canonical JSON (spec: appendices); fits a column of the ledger
_LARGEST = 2**53 - 1

Json = Mapping[str, object]


def mapping(value: object) -> Json:
    """Return the value if it is a JSON object, an empty object otherwise."""
    return cast("Json", value) if isinstance(value, dict) else {}


def text(source: Json, key: str) -> str:
    """Return the string under a key; "" if there is none that UTF-8 can encode."""
    value = source.get(key)
    return value if isinstance(value, str) and is_text(value) else ""


def identifier(source: Json, key: str) -> str:
    """Return the id under a key; "" if there is none that can be stored.

    The sender of an event chooses some ids. PostgreSQL accepts neither NUL nor long index values.
    """
    value = text(source, key)
    return value if can_be_id(value) else ""


def can_be_id(value: object) -> TypeGuard[str]:
    """Return whether the value is a string that can be stored as an id."""
    if not isinstance(value, str) or len(value) > _LONGEST_ID or "\0" in value:
        return False
    return is_text(value)


def is_text(value: str) -> bool:
    """Return whether UTF-8 can encode the string. JSON can escape half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_room_id(room_id: object) -> bool:
    """Return whether the value can be a room id (spec: appendices; at most 255 bytes)."""
    return (
        isinstance(room_id, str)
        and room_id.startswith("!")
        and len(room_id.encode(errors="replace")) <= _LONGEST_ID
        and room_id.isprintable()
        and not any(one.isspace() for one in room_id)
    )


def whole(value: object) -> int:
    """Return the value if it is an integer of canonical JSON, 0 otherwise."""
    return value if type(value) is int and -_LARGEST <= value <= _LARGEST else 0


def timestamp(source: Json) -> int:
    """Return the event's `origin_server_ts` in milliseconds; 0 if it has no valid one."""
    return max(whole(source.get("origin_server_ts")), 0)

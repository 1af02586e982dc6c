"""Typed reading of fields of untrusted JSON: a field of another shape reads as empty."""

from collections.abc import Mapping
from typing import TypeGuard, cast

_LONGEST_ID = 255  # spec: appendices, identifiers
_LARGEST = 2**53 - 1  # of canonical JSON (spec: appendices); the ledger holds it

Json = Mapping[str, object]


def mapping(value: object) -> Json:
    """Return `value` where it is a JSON object, an empty one otherwise."""
    return cast("Json", value) if isinstance(value, dict) else {}


def text(source: Json, key: str) -> str:
    """Return the string under `key`, "" where there is none that UTF-8 can hold."""
    value = source.get(key)
    return value if isinstance(value, str) and is_text(value) else ""


def identifier(source: Json, key: str) -> str:
    """Return the id under `key`, "" where there is none: whoever writes an event chooses some.

    PostgreSQL takes no NUL, and no long value into an index.
    """
    value = text(source, key)
    return value if can_be_id(value) else ""


def can_be_id(value: object) -> TypeGuard[str]:
    """Return whether a value is a string that can be stored as an id."""
    if not isinstance(value, str) or len(value) > _LONGEST_ID or "\0" in value:
        return False
    return is_text(value)


def is_text(value: str) -> bool:
    """Tell whether UTF-8 can hold the string: JSON can escape half a character."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_room_id(room_id: object) -> bool:
    """Tell whether it may be a room's id (spec: appendices, room ids; 255 bytes at most)."""
    return (
        isinstance(room_id, str)
        and room_id.startswith("!")
        and len(room_id.encode(errors="replace")) <= _LONGEST_ID
        and room_id.isprintable()
        and not any(one.isspace() for one in room_id)
    )


def whole(value: object) -> int:
    """Return a whole number as canonical JSON can have it, 0 where it is none."""
    return value if type(value) is int and -_LARGEST <= value <= _LARGEST else 0


def timestamp(source: Json) -> int:
    """Return the event's `origin_server_ts` in milliseconds, 0 where it has none that can be."""
    return max(whole(source.get("origin_server_ts")), 0)

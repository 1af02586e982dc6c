"""From a Matrix event's JSON to our values; whatever has another shape is None, never an error."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import nio
import vodozemac

from bot.core.events import EventId, Message, RoomId, Undecryptable, UserId

MARKER = (
    "fr.gouv.assistant.generated"  # on everything the model wrote: product.md, EU AI Act 50(2)
)

_NEVER = 2**53  # milliseconds; canonical JSON has no larger numbers (spec: appendices)

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Revision:
    """An edit (`m.replace`) of an earlier message: its new body."""

    event_id: EventId
    target: EventId
    sender: UserId
    body: str
    timestamp: int


@dataclass(frozen=True, slots=True)
class Membership:
    """A member event from the homeserver's own state: who is what, and was before."""

    event_id: EventId
    user_id: UserId
    now: str
    before: str


def parse_event(event: object, room_id: RoomId) -> "Message | Revision | Undecryptable | None":
    """Read one of nio's events, decrypted where that could be done."""
    source = mapping(getattr(event, "source", None))
    if isinstance(event, nio.MegolmEvent | nio.UnknownEncryptedEvent):
        return parse_undecryptable(source, room_id)
    message = parse_message(source, room_id)
    if isinstance(message, Message):
        return replace(message, fingerprint=getattr(event, "fingerprint", None))
    return message


def fingerprint(sender: str, session_id: str, ciphertext: str) -> str | None:
    """Return what the same Megolm message has in common however often it is sent; None for none.

    Its index says which message of the session it is (spec: Megolm, replay attacks).
    """
    try:
        index = vodozemac.MegolmMessage.from_base64(ciphertext).message_index()
    except ValueError:
        return None
    return hashlib.sha256(f"{sender}\0{session_id}\0{index}".encode()).hexdigest()[:32]


def mapping(value: object) -> Json:
    """Return `value` where it is a JSON object, an empty one otherwise."""
    return cast("Json", value) if isinstance(value, dict) else {}


def text(source: Json, key: str) -> str:
    """Return the string under `key`, "" where there is none that UTF-8 can hold."""
    value = source.get(key)
    return value if isinstance(value, str) and is_text(value) else ""


def is_text(value: str) -> bool:
    """Tell whether UTF-8 can hold the string: JSON can escape half a character."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_message(source: Json, room_id: RoomId) -> Message | Revision | None:
    """Read one `m.room.message` (spec: room messages, threads, event replacements)."""
    content = mapping(source.get("content"))
    event_id, sender = text(source, "event_id"), text(source, "sender")
    if text(source, "type") != "m.room.message" or not (event_id and sender and content):
        return None
    if not isinstance(content.get("msgtype"), str) or not isinstance(content.get("body"), str):
        return None
    relation = mapping(content.get("m.relates_to"))
    target = text(relation, "event_id")
    timestamp = _timestamp(source)
    if text(relation, "rel_type") == "m.replace":
        new = mapping(content.get("m.new_content"))
        if not target or not isinstance(new.get("body"), str):
            return None
        return Revision(EventId(event_id), EventId(target), UserId(sender), _said(new), timestamp)
    in_thread = text(relation, "rel_type") == "m.thread" and target
    return Message(
        event_id=EventId(event_id),
        room_id=room_id,
        sender=UserId(sender),
        msgtype=text(content, "msgtype"),
        body=_said(content),
        timestamp=timestamp,
        thread_root=EventId(target) if in_thread else None,
    )


def parse_undecryptable(source: Json, room_id: RoomId) -> Undecryptable | None:
    """Read what an encrypted message says in clear; None where its relation makes it no prompt.

    Edits, votes, reactions and verifications relate to another event (spec: m.relates_to stays
    outside the ciphertext), prompts at the most to a thread.
    """
    content = mapping(source.get("content"))
    event_id, sender = text(source, "event_id"), text(source, "sender")
    relation = mapping(content.get("m.relates_to"))
    kind = text(relation, "rel_type")
    if text(source, "type") != "m.room.encrypted" or not (event_id and sender):
        return None
    if kind not in {"", "m.thread"}:
        return None
    root = text(relation, "event_id") if kind else ""
    return Undecryptable(
        event_id=EventId(event_id),
        room_id=room_id,
        sender=UserId(sender),
        session_id=text(content, "session_id"),
        timestamp=_timestamp(source),
        thread_root=EventId(root) if root else None,
        fingerprint=fingerprint(sender, text(content, "session_id"), text(content, "ciphertext")),
    )


def parse_membership(source: Json) -> Membership | None:
    """Read one `m.room.member` state event."""
    event_id, user_id = text(source, "event_id"), text(source, "state_key")
    now = text(mapping(source.get("content")), "membership")
    if text(source, "type") != "m.room.member" or not (event_id and user_id and now):
        return None
    before = text(mapping(mapping(source.get("unsigned")).get("prev_content")), "membership")
    return Membership(EventId(event_id), UserId(user_id), now, before)


def _timestamp(source: Json) -> int:
    timestamp = source.get("origin_server_ts")
    return timestamp if isinstance(timestamp, int) and 0 <= timestamp < _NEVER else 0


def _said(content: Json) -> str:
    """Return the body without the lines that the bot added to the model's text."""
    added = mapping(content.get(MARKER)).get("added")
    lines = (
        set(added) if isinstance(added, list) and all(isinstance(x, str) for x in added) else ()
    )
    body = text(content, "body")
    if not lines:
        return body
    return "\n".join(line for line in body.split("\n") if line not in lines).strip()

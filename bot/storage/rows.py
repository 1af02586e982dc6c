"""Conversion between rows of the ledger and core values."""

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import RowMapping

from bot.core.events import (
    Event,
    EventId,
    Invite,
    Joined,
    Left,
    Message,
    Pending,
    RoomId,
    Undecryptable,
    UserId,
    Vote,
)
from bot.core.outgoing import OutboxMessage, PreparedEvent
from bot.ports.ledger import UndecryptedEvent
from bot.runtime.encryption import Seal

_LATEST = 4_000_000_000.0  # seconds since the epoch; an event's sender may give it any date

Unfinished = Invite | Joined | Left | Pending | UndecryptedEvent


def event_row(event: Event, position: int, heard_at: float) -> dict[str, Any]:
    """Return the row of the inbox for an event."""
    row: dict[str, Any] = {
        "event_id": event.event_id,
        "position": position,
        "kind": type(event).__name__.lower(),
        "room_id": event.room_id,
        "admitted_at": date(heard_at),
    }
    if isinstance(event, Invite):
        row |= {"sender": event.sender, "direct": event.direct, "finished_at": None}
    elif isinstance(event, Message | Undecryptable):
        row |= {"fingerprint": event.fingerprint, "thread_root": event.thread_root}
    elif isinstance(event, Vote):
        row["fingerprint"] = event.fingerprint
    if isinstance(event, Undecryptable):
        row |= {
            "sender": event.sender,
            "session_id": event.session_id,
            "timestamp": event.timestamp,
            "refers_to": event.refers_to,
        }
    return row


def unfinished(row: RowMapping) -> Unfinished:
    """Return the unfinished event that a row of the inbox holds."""
    event_id, room_id = EventId(row["event_id"]), RoomId(row["room_id"])
    match row["kind"]:
        case "invite":
            return Invite(
                event_id=event_id,
                room_id=room_id,
                sender=UserId(row["sender"]),
                direct=row["direct"],
            )
        case "left":
            return Left(event_id, room_id, alone=True)  # only such departures are admitted
        case "joined":
            return Joined(event_id, room_id)
        case "undecryptable" if not (row["claims"] or row["joined_to"]):
            return _awaited(row)
        case _:
            joined_to = EventId(row["joined_to"]) if row["joined_to"] else None
            return Pending(event_id, room_id, begun=row["claims"] > 0, joined_to=joined_to)


def _awaited(row: RowMapping) -> UndecryptedEvent:
    root, poll = row["thread_root"], row["refers_to"]
    message = Undecryptable(
        event_id=EventId(row["event_id"]),
        room_id=RoomId(row["room_id"]),
        sender=UserId(row["sender"]),
        session_id=row["session_id"],
        timestamp=row["timestamp"],
        thread_root=None if root is None else EventId(root),
        fingerprint=row["fingerprint"],
        refers_to=None if poll is None else EventId(poll),
    )
    return UndecryptedEvent(message, seconds(row["admitted_at"]))


def outbox_row(prompt: EventId, message: OutboxMessage, seal: Seal) -> dict[str, Any]:
    """Return the row of the outbox for one message."""
    wire = json.dumps({"type": message.wire.type, "content": message.wire.content})
    return {
        "prompt_event_id": prompt,
        "part": message.part,
        "device_id": message.device_id,
        "transaction_id": message.transaction_id,
        "replaces": message.replaces,
        "answers": json.dumps(message.answers),
        "wire": seal.close(wire.encode(), message.transaction_id),
    }


def outbox_message(row: RowMapping, seal: Seal) -> OutboxMessage:
    """Return the message that a row of the outbox holds.

    Raises:
        ValueError: it was encrypted with another key.
    """
    wire = json.loads(seal.open(row["wire"], row["transaction_id"]))
    return OutboxMessage(
        part=row["part"],
        device_id=row["device_id"],
        transaction_id=row["transaction_id"],
        replaces=EventId(row["replaces"]) if row["replaces"] else None,
        answers=tuple(map(EventId, json.loads(row["answers"]))),
        wire=PreparedEvent(wire["type"], wire["content"]),
    )


def date(at: float) -> datetime:
    """Return seconds since the epoch as a column's date: in UTC, without a time zone."""
    return datetime.fromtimestamp(min(max(at, 0.0), _LATEST), UTC).replace(tzinfo=None)


def seconds(at: datetime) -> float:
    """Return a column's date as seconds since the epoch."""
    return at.replace(tzinfo=UTC).timestamp()

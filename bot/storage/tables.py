"""The ledger's tables: ids, states and counters, and no word of a conversation but sealed."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    func,
)

metadata = MetaData()


def _where(condition: Any) -> dict[str, Any]:  # noqa: ANN401  # SQLAlchemy's own type is generic
    """Return the arguments of an index over some rows, for both databases."""
    return {"sqlite_where": condition, "postgresql_where": condition}


account = Table(
    "account",
    metadata,
    Column("user_id", String, primary_key=True),
    Column("sync_token", String, nullable=True),
)

inbox = Table(
    "inbox",
    metadata,
    Column("event_id", String, primary_key=True),
    Column("position", Integer, nullable=False, index=True),  # in order of arrival
    Column("kind", String, nullable=False),  # the event's class, in lower case
    Column("room_id", String, nullable=False),
    Column("sender", String, nullable=True),  # of an invitation, of what is undecryptable
    Column("direct", Boolean, nullable=True),  # of an invitation
    Column("claims", Integer, nullable=False, server_default="0"),
    Column("admitted_at", DateTime, nullable=False, server_default=func.now()),
    Column("finished_at", DateTime, nullable=True),
    Column("thread_root", String, nullable=True),
    Column(
        "joined_to", String, nullable=True
    ),  # the first message of the prompt that it belongs to
    Column("session_id", String, nullable=True),  # of what is undecryptable, as the next two
    Column("timestamp", BigInteger, nullable=True),  # the homeserver's, in milliseconds
    Column("noticed_at", DateTime, nullable=True),
    Column("fingerprint", String, nullable=True),  # of what was encrypted
)
Index("ix_inbox_unfinished", inbox.c.position, **_where(inbox.c.finished_at.is_(None)))
Index(
    "ix_inbox_noticed",
    inbox.c.sender,
    inbox.c.room_id,
    inbox.c.noticed_at,
    **_where(inbox.c.noticed_at.is_not(None)),
)

Index("ix_inbox_fingerprint", inbox.c.fingerprint, unique=True)

for _column in (inbox.c.joined_to, inbox.c.thread_root):
    Index(f"ix_inbox_{_column.name}", _column, **_where(_column.is_not(None)))

replies = Table(
    "replies",
    metadata,
    Column("prompt_event_id", ForeignKey("inbox.event_id"), primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("event_id", String, nullable=False, unique=True),
)

# Messages of final versions on their way: each the same bytes under the same id until the
# homeserver has acknowledged all of its reply.
outbox = Table(
    "outbox",
    metadata,
    Column("prompt_event_id", ForeignKey("inbox.event_id"), primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("device_id", String, nullable=False),  # whose transaction ids the homeserver keeps
    Column("transaction_id", String, nullable=False),
    Column("replaces", String, nullable=True),  # of an edit, the event that it edits
    Column("answers", String, nullable=False),  # the prompt's messages, as JSON
    Column("wire", LargeBinary, nullable=False),  # type and content, sealed
)

choices = Table(
    "choices",
    metadata,
    Column("room_id", String, primary_key=True),
    Column("thread_root", String, primary_key=True),  # "" for all of the room
    Column("model", String, nullable=True),  # as the backend knows it
    Column("language", String, nullable=True),
)

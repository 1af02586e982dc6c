"""The ledger's tables: ids, states and counters, never a word of a conversation."""

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    func,
)

metadata = MetaData()

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
    Column("timestamp", Integer, nullable=True),  # the homeserver's, in milliseconds
    Column("noticed_at", DateTime, nullable=True),
    Column("fingerprint", String, nullable=True),  # of what was encrypted
)
Index("ix_inbox_unfinished", inbox.c.position, sqlite_where=inbox.c.finished_at.is_(None))
Index(
    "ix_inbox_noticed",
    inbox.c.sender,
    inbox.c.room_id,
    inbox.c.noticed_at,
    sqlite_where=inbox.c.noticed_at.is_not(None),
)

Index("ix_inbox_fingerprint", inbox.c.fingerprint, unique=True)

for _column in (inbox.c.joined_to, inbox.c.thread_root):
    Index(f"ix_inbox_{_column.name}", _column, sqlite_where=_column.is_not(None))

replies = Table(
    "replies",
    metadata,
    Column("prompt_event_id", ForeignKey("inbox.event_id"), primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("event_id", String, nullable=False, unique=True),
)

choices = Table(
    "choices",
    metadata,
    Column("room_id", String, primary_key=True),
    Column("thread_root", String, primary_key=True),  # "" for all of the room
    Column("model", String, nullable=True),  # as the backend knows it
    Column("language", String, nullable=True),
)

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
    Column("kind", String, nullable=False),  # invite, joined, message
    Column("room_id", String, nullable=False),
    Column("sender", String, nullable=True),  # of an invitation
    Column("direct", Boolean, nullable=True),  # of an invitation
    Column("claims", Integer, nullable=False, server_default="0"),
    Column("admitted_at", DateTime, nullable=False, server_default=func.now()),
    Column("finished_at", DateTime, nullable=True),
)
Index("ix_inbox_unfinished", inbox.c.position, sqlite_where=inbox.c.finished_at.is_(None))

replies = Table(
    "replies",
    metadata,
    Column("prompt_event_id", ForeignKey("inbox.event_id"), primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("event_id", String, nullable=False, unique=True),
)

"""The ledger's tables: ids, states and counters; any text of a conversation is encrypted."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    and_,
    false,
    func,
)

from bot.core.statistics import FIGURES, PUBLIC_FIGURES, Group, Step

metadata = MetaData()


def _where(condition: Any) -> dict[str, Any]:  # noqa: ANN401  # SQLAlchemy's own type is generic
    """Return the arguments that limit an index to some rows, for both databases."""
    return {"sqlite_where": condition, "postgresql_where": condition}


def _edit_id() -> Column[str]:
    """Return the column for the edit that a row's text is from: its redaction deletes the row."""
    return Column("edit_id", String, nullable=True)


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
    # Only for invitations, undecryptable messages, and events whose sender was sent a notice.
    Column("sender", String, nullable=True),
    Column("direct", Boolean, nullable=True),  # only for invitations
    Column("claims", Integer, nullable=False, server_default="0"),
    Column("admitted_at", DateTime, nullable=False, server_default=func.now()),
    Column("finished_at", DateTime, nullable=True),
    Column("thread_root", String, nullable=True),
    Column("joined_to", String, nullable=True),  # the first message of its prompt
    Column("session_id", String, nullable=True),  # only for undecryptable messages
    Column("timestamp", BigInteger, nullable=True),  # the same; the homeserver's, in milliseconds
    Column("noticed_at", DateTime, nullable=True),
    Column("fingerprint", String, nullable=True),  # only for encrypted events
    Column("refers_to", String, nullable=True),  # the poll of an undecryptable vote
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

# Messages of final versions, kept to be sent again as the same bytes under the same id, until the
# homeserver has acknowledged all messages of the reply.
outbox = Table(
    "outbox",
    metadata,
    Column("prompt_event_id", ForeignKey("inbox.event_id"), primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("device_id", String, nullable=False),  # the device that the transaction id is of
    Column("transaction_id", String, nullable=False),
    Column("replaces", String, nullable=True),  # the event that it edits, if it is an edit
    Column("answers", String, nullable=False),  # the prompt's messages, as JSON
    Column("wire", LargeBinary, nullable=False),  # type and content, encrypted
)

choices = Table(
    "choices",
    metadata,
    Column("room_id", String, primary_key=True),
    Column("thread_root", String, primary_key=True),  # "" for the whole room
    Column("model", String, nullable=True),  # the backend's id
    Column("language", String, nullable=True),
    Column("polls", Boolean, nullable=True),  # False in a room that wants no polls
)

# Feedback. People are stored as pseudonyms only.

people = Table(
    "people",
    metadata,
    Column("person", String, primary_key=True),
    Column("polls", Boolean, nullable=True),  # False for a person who wants no polls
)


def _context() -> list[Column[Any]]:
    """Return the columns that describe how a reply was made."""
    return [
        Column("answered_at", DateTime, nullable=True),
        Column("domain", String, nullable=True),  # server name of the person who asked
        Column("direct", Boolean, nullable=True),
        Column("model", String, nullable=True),
        Column("prompt_version", String, nullable=True),
        Column("tools", String, nullable=True),  # their names, separated by commas
        Column("first_words", Float, nullable=True),  # seconds
        Column("seconds", Float, nullable=True),
        Column("prompt_tokens", Integer, nullable=True),
        Column("completion_tokens", Integer, nullable=True),
        Column("characters", Integer, nullable=True),
    ]


CONTEXT = tuple(column.name for column in _context())

circumstances = Table(
    "circumstances",
    metadata,
    Column("prompt_event_id", ForeignKey("inbox.event_id"), primary_key=True),
    Column("room_id", String, nullable=False),
    Column("thread_root", String, nullable=False),  # "" for the main timeline
    Column("person", String, nullable=False),  # the person who asked the bot
    *_context(),
)
Index(
    "ix_circumstances_conversation",
    circumstances.c.room_id,
    circumstances.c.thread_root,
    circumstances.c.answered_at,
)

polls = Table(
    "polls",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("prompt_event_id", ForeignKey("inbox.event_id"), nullable=False),
    Column("question", String, nullable=False),
    Column("room_id", String, nullable=False),
    Column("thread_root", String, nullable=False),  # "" for the main timeline
    Column("person", String, nullable=False),  # the person whom the poll asks
    Column("due_at", DateTime, nullable=False),
    Column("event_id", String, nullable=True, unique=True),  # None until it is sent
    Column("sent_at", DateTime, nullable=True),
    Column("closes_at", DateTime, nullable=True),
    Column("thanked", Boolean, nullable=False, server_default=false()),
    Column("planned_at", DateTime, nullable=False),  # first value of due_at
    Column("begun", Boolean, nullable=False, server_default=false()),  # it may have been sent
    sqlite_autoincrement=True,  # so that the number of a deleted poll is never used again
)
Index("ix_polls_question", polls.c.prompt_event_id, polls.c.question, unique=True)
Index("ix_polls_person", polls.c.person, polls.c.sent_at)
Index("ix_polls_due", polls.c.due_at, **_where(polls.c.event_id.is_(None)))

# Every vote and every rating, so that an earlier one counts again if a later one is taken back.
opinions = Table(
    "opinions",
    metadata,
    Column("event_id", String, primary_key=True),
    Column("prompt_event_id", String, nullable=False),
    Column("person", String, nullable=False),
    Column("question", String, nullable=False),
    Column("answer", String, nullable=True),
    Column("timestamp", BigInteger, nullable=False),  # the homeserver's, in milliseconds
    Column("poll_id", ForeignKey("polls.id"), nullable=True),  # None if it is no vote
    Column("counts", Boolean, nullable=False),  # False if late, or by somebody who was not asked
    _edit_id(),
)
Index("ix_opinions_reply", opinions.c.prompt_event_id, opinions.c.person)

# The opinion that counts: one row for each person and reply, with how the reply was made.
ratings = Table(
    "ratings",
    metadata,
    Column("prompt_event_id", String, primary_key=True),
    Column("person", String, primary_key=True),
    Column("asker", Boolean, nullable=False),  # whether the person is the one who asked the bot
    Column("source", String, nullable=False),  # "poll", or "reaction" for any other rating
    Column("answer", String, nullable=False),
    Column("reason", String, nullable=True),
    Column("rated_at", DateTime, nullable=False),
    *_context(),
)

# Prompts and replies that people have handed over, each by a command.
shared = Table(
    "shared",
    metadata,
    Column("event_id", String, primary_key=True),  # the command
    Column("prompt_event_id", String, nullable=False, index=True),
    Column("person", String, nullable=False),
    Column("shared_at", DateTime, nullable=False),
    Column("prompt", LargeBinary, nullable=False),  # encrypted
    Column("reply", LargeBinary, nullable=False),  # encrypted
)

# Campaigns: questions or announcements to many rooms.

campaigns = Table(
    "campaigns",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("definition", LargeBinary, nullable=False),  # YAML, encrypted
    Column("state", String, nullable=False),  # draft, running, closing, closed
    Column("created_at", DateTime, nullable=False),
    Column("ends_at", DateTime, nullable=True),
    Column("closed_at", DateTime, nullable=True),
    # The last milestone that was reported to the admins, in percent; more than 100 for closed.
    Column("told", Integer, nullable=False, server_default="0"),
)

recipients = Table(
    "recipients",
    metadata,
    Column("campaign_id", ForeignKey("campaigns.id"), primary_key=True),
    Column("room_id", String, primary_key=True),
    Column("person", String, nullable=True),  # the other member of a direct message
    Column("step", Integer, nullable=False),  # the next step
    Column("due_at", DateTime, nullable=True),  # None while waiting for an answer, and at the end
    Column("remind_at", DateTime, nullable=True),
    Column("reached_at", DateTime, nullable=True),
    Column("declined", Boolean, nullable=False, server_default=false()),
    Column("completed_at", DateTime, nullable=True),
    Column("thread_root", String, nullable=True),  # in a salon, the campaign's first message
    Column("event_id", String, nullable=True),  # the last message
    Column("begun", Boolean, nullable=False, server_default=false()),  # it may have been sent
)
Index(
    "ix_recipients_due",
    recipients.c.campaign_id,
    recipients.c.step,
    recipients.c.due_at,
    recipients.c.room_id,  # as many rows are due at the same time
    **_where(recipients.c.due_at.is_not(None)),
)
Index(
    "ix_recipients_remind",
    recipients.c.campaign_id,
    recipients.c.remind_at,
    **_where(recipients.c.remind_at.is_not(None)),
)
Index("ix_recipients_begun", recipients.c.campaign_id, **_where(recipients.c.begun))
Index("ix_recipients_room", recipients.c.room_id)
Index("ix_recipients_person", recipients.c.person, **_where(recipients.c.person.is_not(None)))

asks = Table(
    "asks",
    metadata,
    Column("campaign_id", ForeignKey("campaigns.id"), primary_key=True),
    Column("room_id", String, primary_key=True),
    Column("question", String, primary_key=True),
    Column("event_id", String, nullable=False, unique=True),
    Column("sent_at", DateTime, nullable=False),
    Column("poll", Boolean, nullable=False),
    Column("ended", Boolean, nullable=False, server_default=false()),
)
Index("ix_asks_room", asks.c.room_id, asks.c.sent_at)
Index(
    "ix_asks_open",
    asks.c.campaign_id,
    asks.c.sent_at,
    asks.c.event_id,
    **_where(and_(asks.c.poll, asks.c.ended.is_(False))),
)

answers = Table(
    "answers",
    metadata,
    Column("event_id", String, primary_key=True),
    Column("campaign_id", ForeignKey("campaigns.id"), nullable=False),
    Column("room_id", String, nullable=False),
    Column("question", String, nullable=False),
    Column("person", String, nullable=False),
    Column("answer", String, nullable=True),  # of a vote; None if it takes one back
    Column("text", LargeBinary, nullable=True),  # encrypted
    Column("timestamp", BigInteger, nullable=False),
    Column("counts", Boolean, nullable=False),
    _edit_id(),
)
Index("ix_answers_room", answers.c.campaign_id, answers.c.room_id)

comments = Table(
    "comments",
    metadata,
    Column("event_id", String, primary_key=True),
    Column("prompt_event_id", String, nullable=True),
    Column("person", String, nullable=False),
    Column("written_at", DateTime, nullable=False),
    Column("comment", LargeBinary, nullable=False),  # encrypted
    _edit_id(),
)
Index("ix_comments_written", comments.c.written_at)
for _column in (opinions.c.edit_id, answers.c.edit_id, comments.c.edit_id):
    Index(f"ix_{_column.table.name}_edit", _column, **_where(_column.is_not(None)))


def _tallies(name: str) -> Table:
    """Return a table that counts replies and ratings by kind."""
    return Table(
        name,
        metadata,
        Column("first", Date, primary_key=True),  # first UTC day of the day or week of the reply
        *(Column(name, String, primary_key=True) for name in Group._fields),  # "" for unknown
        *(Column(name, Integer, nullable=False, server_default="0") for name in FIGURES),
    )


# Updated in the transactions that change replies and ratings: for a page over a million of them,
# counting them would take too long, and so would adding up the days of a year.
TALLIES: dict[Step, Table] = {"day": _tallies("daily"), "week": _tallies("weekly")}

# Public figures of past weeks, fixed when they were first shown: sums by a single property of the
# groups, each of at least LEAST ratings. The row with the part "" is the total of a week and of
# the weeks before it that waited for it; a week with that row is published. If they have too few
# ratings together, that row is all zeros, there is no other row, and they wait for the next week.
published = Table(
    "published",
    metadata,
    Column("first", Date, primary_key=True),
    Column("part", String, primary_key=True),  # "model", "domain" or "place"; "" for the total
    Column("name", String, primary_key=True),  # "" if unknown, and for the total; or OTHERS
    *(Column(name, Integer, nullable=False) for name in PUBLIC_FIGURES),
)

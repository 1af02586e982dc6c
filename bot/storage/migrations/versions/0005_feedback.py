import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def _context() -> list[sa.Column[object]]:
    return [
        sa.Column("answered_at", sa.DateTime, nullable=True),
        sa.Column("domain", sa.String, nullable=True),
        sa.Column("direct", sa.Boolean, nullable=True),
        sa.Column("model", sa.String, nullable=True),
        sa.Column("prompt_version", sa.String, nullable=True),
        sa.Column("tools", sa.String, nullable=True),
        sa.Column("first_words", sa.Float, nullable=True),
        sa.Column("seconds", sa.Float, nullable=True),
        sa.Column("prompt_tokens", sa.Integer, nullable=True),
        sa.Column("completion_tokens", sa.Integer, nullable=True),
        sa.Column("characters", sa.Integer, nullable=True),
    ]


def upgrade() -> None:
    op.add_column("inbox", sa.Column("refers_to", sa.String, nullable=True))
    op.add_column("choices", sa.Column("polls", sa.Boolean, nullable=True))
    op.create_table(
        "people",
        sa.Column("person", sa.String, primary_key=True),
        sa.Column("polls", sa.Boolean, nullable=True),
    )
    op.create_table(
        "circumstances",
        sa.Column("prompt_event_id", sa.String, sa.ForeignKey("inbox.event_id"), primary_key=True),
        sa.Column("room_id", sa.String, nullable=False),
        sa.Column("thread_root", sa.String, nullable=False),
        sa.Column("person", sa.String, nullable=False),
        *_context(),
    )
    op.create_index(
        "ix_circumstances_conversation",
        "circumstances",
        ["room_id", "thread_root", "answered_at"],
    )
    op.create_table(
        "polls",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("prompt_event_id", sa.String, sa.ForeignKey("inbox.event_id"), nullable=False),
        sa.Column("question", sa.String, nullable=False),
        sa.Column("room_id", sa.String, nullable=False),
        sa.Column("thread_root", sa.String, nullable=False),
        sa.Column("person", sa.String, nullable=False),
        sa.Column("due_at", sa.DateTime, nullable=False),
        sa.Column("event_id", sa.String, nullable=True, unique=True),
        sa.Column("sent_at", sa.DateTime, nullable=True),
        sa.Column("closes_at", sa.DateTime, nullable=True),
        sa.Column("thanked", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("planned_at", sa.DateTime, nullable=False),
        sa.Column("begun", sa.Boolean, nullable=False, server_default=sa.false()),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_polls_question", "polls", ["prompt_event_id", "question"], unique=True)
    op.create_index("ix_polls_person", "polls", ["person", "sent_at"])
    op.create_index(
        "ix_polls_due",
        "polls",
        ["due_at"],
        sqlite_where=sa.text("event_id IS NULL"),
        postgresql_where=sa.text("event_id IS NULL"),
    )
    op.create_table(
        "opinions",
        sa.Column("event_id", sa.String, primary_key=True),
        sa.Column("prompt_event_id", sa.String, nullable=False),
        sa.Column("person", sa.String, nullable=False),
        sa.Column("question", sa.String, nullable=False),
        sa.Column("answer", sa.String, nullable=True),
        sa.Column("timestamp", sa.BigInteger, nullable=False),
        sa.Column("poll_id", sa.Integer, sa.ForeignKey("polls.id"), nullable=True),
        sa.Column("counts", sa.Boolean, nullable=False),
    )
    op.create_index("ix_opinions_reply", "opinions", ["prompt_event_id", "person"])
    op.create_table(
        "ratings",
        sa.Column("prompt_event_id", sa.String, primary_key=True),
        sa.Column("person", sa.String, primary_key=True),
        sa.Column("asker", sa.Boolean, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("answer", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=True),
        sa.Column("rated_at", sa.DateTime, nullable=False),
        *_context(),
    )
    op.create_table(
        "comments",
        sa.Column("event_id", sa.String, primary_key=True),
        sa.Column("prompt_event_id", sa.String, nullable=True),
        sa.Column("person", sa.String, nullable=False),
        sa.Column("written_at", sa.DateTime, nullable=False),
        sa.Column("comment", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    for table in ("comments", "ratings", "opinions", "polls", "circumstances", "people"):
        op.drop_table(table)
    op.drop_column("choices", "polls")
    op.drop_column("inbox", "refers_to")

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def _index(table: str, column: str) -> None:
    condition = sa.text(f"{column} IS NOT NULL")
    name = f"ix_{table}_{column.removesuffix('_at')}"
    op.create_index(name, table, [column], sqlite_where=condition, postgresql_where=condition)


def upgrade() -> None:
    # Who has invited the bot is of no use once it has joined.
    op.execute("UPDATE inbox SET sender = NULL WHERE kind = 'invite' AND finished_at IS NOT NULL")
    op.create_table(
        "shared",
        sa.Column("event_id", sa.String, primary_key=True),
        sa.Column("prompt_event_id", sa.String, nullable=False),
        sa.Column("person", sa.String, nullable=False),
        sa.Column("shared_at", sa.DateTime, nullable=False),
        sa.Column("prompt", sa.LargeBinary, nullable=False),
        sa.Column("reply", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_shared_prompt_event_id", "shared", ["prompt_event_id"])
    op.create_table(
        "campaigns",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("definition", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("ends_at", sa.DateTime, nullable=True),
        sa.Column("closed_at", sa.DateTime, nullable=True),
    )
    op.create_table(
        "recipients",
        sa.Column("campaign_id", sa.Integer, sa.ForeignKey("campaigns.id"), primary_key=True),
        sa.Column("room_id", sa.String, primary_key=True),
        sa.Column("person", sa.String, nullable=True),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("due_at", sa.DateTime, nullable=True),
        sa.Column("remind_at", sa.DateTime, nullable=True),
        sa.Column("reached_at", sa.DateTime, nullable=True),
        sa.Column("declined", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("completed_at", sa.DateTime, nullable=True),
        sa.Column("thread_root", sa.String, nullable=True),
        sa.Column("event_id", sa.String, nullable=True),
        sa.Column("begun", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    op.create_index(
        "ix_recipients_due",
        "recipients",
        ["campaign_id", "step", "due_at", "room_id"],
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    _index("recipients", "remind_at")
    _index("recipients", "person")
    op.create_index("ix_recipients_room", "recipients", ["room_id"])
    op.create_table(
        "asks",
        sa.Column("campaign_id", sa.Integer, sa.ForeignKey("campaigns.id"), primary_key=True),
        sa.Column("room_id", sa.String, primary_key=True),
        sa.Column("question", sa.String, primary_key=True),
        sa.Column("event_id", sa.String, nullable=False, unique=True),
        sa.Column("sent_at", sa.DateTime, nullable=False),
        sa.Column("poll", sa.Boolean, nullable=False),
        sa.Column("ended", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    op.create_index("ix_asks_room", "asks", ["room_id", "sent_at"])
    op.create_table(
        "answers",
        sa.Column("event_id", sa.String, primary_key=True),
        sa.Column("campaign_id", sa.Integer, sa.ForeignKey("campaigns.id"), nullable=False),
        sa.Column("room_id", sa.String, nullable=False),
        sa.Column("question", sa.String, nullable=False),
        sa.Column("person", sa.String, nullable=False),
        sa.Column("answer", sa.String, nullable=True),
        sa.Column("text", sa.LargeBinary, nullable=True),
        sa.Column("timestamp", sa.BigInteger, nullable=False),
        sa.Column("counts", sa.Boolean, nullable=False),
    )
    op.create_index("ix_answers_campaign_id", "answers", ["campaign_id"])


def downgrade() -> None:
    for table in ("answers", "asks", "recipients", "campaigns", "shared"):
        op.drop_table(table)

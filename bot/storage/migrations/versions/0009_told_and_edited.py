import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("campaigns", sa.Column("told", sa.Integer, nullable=False, server_default="0"))
    op.execute("UPDATE campaigns SET told = 101 WHERE state = 'closed'")  # nobody waits for it
    op.drop_index("ix_answers_campaign_id", "answers")
    op.create_index("ix_answers_room", "answers", ["campaign_id", "room_id"])
    # As the queries say it: SQLite takes an index for these words alone.
    op.create_index(
        "ix_asks_open",
        "asks",
        ["campaign_id", "sent_at", "event_id"],
        sqlite_where=sa.text("poll = 1 AND ended IS 0"),
        postgresql_where=sa.text("poll AND ended IS false"),
    )
    op.create_index(
        "ix_recipients_begun",
        "recipients",
        ["campaign_id"],
        sqlite_where=sa.text("begun = 1"),
        postgresql_where=sa.text("begun"),
    )
    op.drop_index("ix_recipients_remind", "recipients")
    _index_reminders(["campaign_id", "remind_at"])
    for table in ("comments", "opinions", "answers"):
        op.add_column(table, sa.Column("edit_id", sa.String, nullable=True))
        op.create_index(
            f"ix_{table}_edit",
            table,
            ["edit_id"],
            sqlite_where=sa.text("edit_id IS NOT NULL"),
            postgresql_where=sa.text("edit_id IS NOT NULL"),
        )


def _index_reminders(columns: list[str]) -> None:
    condition = sa.text("remind_at IS NOT NULL")
    op.create_index(
        "ix_recipients_remind",
        "recipients",
        columns,
        sqlite_where=condition,
        postgresql_where=condition,
    )


def downgrade() -> None:
    for table in ("comments", "opinions", "answers"):
        op.drop_index(f"ix_{table}_edit", table)
        op.drop_column(table, "edit_id")
    op.drop_index("ix_recipients_begun", "recipients")
    op.drop_index("ix_recipients_remind", "recipients")
    _index_reminders(["remind_at"])
    op.drop_index("ix_asks_open", "asks")
    op.drop_index("ix_answers_room", "answers")
    op.create_index("ix_answers_campaign_id", "answers", ["campaign_id"])
    op.drop_column("campaigns", "told")

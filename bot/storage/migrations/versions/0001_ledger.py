import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "account",
        sa.Column("user_id", sa.String, primary_key=True),
        sa.Column("sync_token", sa.String, nullable=True),
    )
    op.create_table(
        "inbox",
        sa.Column("event_id", sa.String, primary_key=True),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("room_id", sa.String, nullable=False),
        sa.Column("sender", sa.String, nullable=True),
        sa.Column("direct", sa.Boolean, nullable=True),
        sa.Column("claims", sa.Integer, nullable=False, server_default="0"),
        sa.Column("admitted_at", sa.DateTime, nullable=False, server_default=sa.func.now()),
        sa.Column("finished_at", sa.DateTime, nullable=True),
    )
    op.create_index("ix_inbox_position", "inbox", ["position"])
    op.create_index(
        "ix_inbox_unfinished",
        "inbox",
        ["position"],
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_table(
        "replies",
        sa.Column("prompt_event_id", sa.String, sa.ForeignKey("inbox.event_id"), primary_key=True),
        sa.Column("part", sa.Integer, primary_key=True),
        sa.Column("event_id", sa.String, nullable=False, unique=True),
    )


def downgrade() -> None:
    op.drop_table("replies")
    op.drop_table("inbox")
    op.drop_table("account")

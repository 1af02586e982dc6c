import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("inbox", sa.Column("session_id", sa.String, nullable=True))
    op.add_column("inbox", sa.Column("thread_root", sa.String, nullable=True))
    op.add_column("inbox", sa.Column("timestamp", sa.BigInteger, nullable=True))
    op.add_column("inbox", sa.Column("noticed_at", sa.DateTime, nullable=True))
    op.add_column("inbox", sa.Column("fingerprint", sa.String, nullable=True))
    op.create_index("ix_inbox_fingerprint", "inbox", ["fingerprint"], unique=True)
    op.create_index(
        "ix_inbox_noticed",
        "inbox",
        ["sender", "room_id", "noticed_at"],
        sqlite_where=sa.text("noticed_at IS NOT NULL"),
        postgresql_where=sa.text("noticed_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_inbox_noticed", "inbox")
    op.drop_index("ix_inbox_fingerprint", "inbox")
    for column in ("fingerprint", "noticed_at", "timestamp", "thread_root", "session_id"):
        op.drop_column("inbox", column)

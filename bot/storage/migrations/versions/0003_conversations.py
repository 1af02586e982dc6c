import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("inbox", sa.Column("joined_to", sa.String, nullable=True))
    for column in ("joined_to", "thread_root"):
        op.create_index(
            f"ix_inbox_{column}",
            "inbox",
            [column],
            sqlite_where=sa.text(f"{column} IS NOT NULL"),
            postgresql_where=sa.text(f"{column} IS NOT NULL"),
        )
    op.create_table(
        "choices",
        sa.Column("room_id", sa.String, primary_key=True),
        sa.Column("thread_root", sa.String, primary_key=True),
        sa.Column("model", sa.String, nullable=True),
        sa.Column("language", sa.String, nullable=True),
    )


def downgrade() -> None:
    op.drop_table("choices")
    for column in ("thread_root", "joined_to"):
        op.drop_index(f"ix_inbox_{column}", "inbox")
    op.drop_column("inbox", "joined_to")

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "outbox",
        sa.Column("prompt_event_id", sa.String, sa.ForeignKey("inbox.event_id"), primary_key=True),
        sa.Column("part", sa.Integer, primary_key=True),
        sa.Column("device_id", sa.String, nullable=False),
        sa.Column("transaction_id", sa.String, nullable=False),
        sa.Column("replaces", sa.String, nullable=True),
        sa.Column("answers", sa.String, nullable=False),
        sa.Column("wire", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("outbox")

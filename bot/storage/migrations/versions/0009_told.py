import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("campaigns", sa.Column("told", sa.Integer, nullable=False, server_default="0"))
    op.drop_index("ix_answers_campaign_id", "answers")
    op.create_index("ix_answers_room", "answers", ["campaign_id", "room_id"])
    op.create_index(
        "ix_asks_open",
        "asks",
        ["campaign_id", "sent_at", "event_id"],
        sqlite_where=sa.text("poll AND ended IS 0"),
        postgresql_where=sa.text("poll AND ended IS false"),
    )


def downgrade() -> None:
    op.drop_index("ix_asks_open", "asks")
    op.drop_index("ix_answers_room", "answers")
    op.create_index("ix_answers_campaign_id", "answers", ["campaign_id"])
    op.drop_column("campaigns", "told")

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

FIGURES = (
    *("replies", "polls", "votes", "yes", "partly", "no"),
    *(f"seconds_{number}" for number in range(19)),
)


def upgrade() -> None:
    op.create_table(
        "published",
        sa.Column("first", sa.Date, primary_key=True),
        sa.Column("part", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        *(sa.Column(name, sa.Integer, nullable=False) for name in FIGURES),
    )


def downgrade() -> None:
    op.drop_table("published")

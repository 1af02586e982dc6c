import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

ANSWERS = ("yes", "partly", "no")
REASONS = ("inaccurate", "incomplete", "off_topic", "too_long", "sources", "other")
SPANS = ("first_words", "seconds")
BOUNDS = (
    *(0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0),
    *(15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0),
)
GROUP = ("model", "domain", "place", "tools", "prompt_version")
FIGURES = (
    *("replies", "polls", "votes"),
    *ANSWERS,
    *(f"others_{answer}" for answer in ANSWERS),
    *(f"why_{reason}" for reason in REASONS),
    *(f"{span}_{number}" for span in SPANS for number in range(len(BOUNDS) + 1)),
)


def upgrade() -> None:
    for table in ("daily", "weekly"):
        op.create_table(
            table,
            sa.Column("first", sa.Date, primary_key=True),
            *(sa.Column(name, sa.String, primary_key=True) for name in GROUP),
            *(sa.Column(name, sa.Integer, nullable=False, server_default="0") for name in FIGURES),
        )
    op.create_index("ix_comments_written", "comments", ["written_at"])
    for statement in fill(op.get_bind().dialect.name):
        op.execute(statement)


def downgrade() -> None:
    op.drop_index("ix_comments_written", "comments")
    op.drop_table("weekly")
    op.drop_table("daily")


def fill(dialect: str) -> tuple[str, str]:
    """Return the statements that count what is there, by days and by weeks."""
    counted = " UNION ALL ".join(
        f"SELECT {', '.join(row)} FROM {source}"  # noqa: S608  # all words are this file's
        for row, source in (_replies(), _ratings())
    )
    monday = {
        # Six days back from the next Sunday, or from this one.
        "sqlite": "date(first, 'weekday 0', '-6 days')",
        "postgresql": "date(date_trunc('week', first))",
    }
    return (
        _summed("daily", "first", f"({counted}) AS counted"),
        _summed("weekly", monday[dialect], "daily"),
    )


def _summed(table: str, first: str, source: str) -> str:
    groups, sums = ", ".join(GROUP), ", ".join(f"sum({name})" for name in FIGURES)
    return (
        f"INSERT INTO {table} (first, {groups}, {', '.join(FIGURES)})"  # noqa: S608  # the same
        f" SELECT {first}, {groups}, {sums} FROM {source} GROUP BY {first}, {groups}"
    )


def _replies() -> tuple[list[str], str]:
    figures = {"replies": "1", "polls": "CASE WHEN polls.id IS NULL THEN 0 ELSE 1 END"}
    for span in SPANS:
        below = "-1"
        for number, bound in enumerate((*BOUNDS, 1e9)):
            within = f"{span} > {below} AND {span} <= {bound}"
            figures[f"{span}_{number}"] = _one_where(within)
            below = str(bound)
    source = (
        "circumstances LEFT JOIN polls ON polls.prompt_event_id = circumstances.prompt_event_id"
        " AND polls.question = 'helped' AND polls.event_id IS NOT NULL"
        " WHERE answered_at IS NOT NULL"
    )
    return _row("answered_at", figures), source


def _ratings() -> tuple[list[str], str]:
    figures = {"votes": _one_where("asker AND source = 'poll'")}
    for answer in ANSWERS:
        figures[answer] = _one_where(f"asker AND answer = '{answer}'")
        figures[f"others_{answer}"] = _one_where(f"NOT asker AND answer = '{answer}'")
    for reason in REASONS:
        figures[f"why_{reason}"] = _one_where(f"asker AND reason = '{reason}'")
    return _row("coalesce(answered_at, rated_at)", figures), "ratings"


def _one_where(condition: str) -> str:
    return f"CASE WHEN {condition} THEN 1 ELSE 0 END"


def _row(moment: str, figures: dict[str, str]) -> list[str]:
    place = "CASE WHEN direct IS NULL THEN '' WHEN direct THEN 'direct' ELSE 'salon' END"
    group = (f"coalesce({name}, '')" for name in GROUP if name != "place")
    model, domain, tools, version = group
    key = [f"date({moment})", model, domain, place, tools, version]
    columns = [f"{text} AS {name}" for text, name in zip(key, ("first", *GROUP), strict=True)]
    return columns + [f"{figures.get(name, '0')} AS {name}" for name in FIGURES]

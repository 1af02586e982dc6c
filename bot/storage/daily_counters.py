"""Daily and weekly figures, updated together with the replies and ratings that they count."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from typing import Any

from sqlalchemy import RowMapping, Table, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from bot.core.statistics import SPANS, Figures, Group, first_of, time_class
from bot.storage.tables import TALLIES, circumstances, polls, ratings

_PLACES = {True: "direct", False: "salon", None: ""}

Shares = dict[tuple[date, Group], Figures]


@asynccontextmanager
async def reply_counted(connection: AsyncConnection, prompt: str) -> AsyncIterator[None]:
    """Update the figures by what the block changes about the reply to a prompt."""
    before = await _reply(connection, prompt)
    yield
    await _shift(connection, before, await _reply(connection, prompt))


@asynccontextmanager
async def rating_counted(
    connection: AsyncConnection, prompt: str, person: str
) -> AsyncIterator[None]:
    """Update the figures by what the block changes about a person's rating of a reply."""
    before = await _rating(connection, prompt, person)
    yield
    await _shift(connection, before, await _rating(connection, prompt, person))


async def _reply(connection: AsyncConnection, prompt: str) -> Shares:
    """Return the figures that the reply to a prompt adds."""
    found = await connection.execute(
        select(circumstances).where(circumstances.c.prompt_event_id == prompt)
    )
    row = found.mappings().one_or_none()
    if row is None or row["answered_at"] is None:
        return {}
    sent = select(polls.c.id).where(
        polls.c.prompt_event_id == prompt,
        polls.c.question == "helped",
        polls.c.event_id.is_not(None),
    )
    figures = Counter(replies=1, polls=int(await connection.scalar(sent) is not None))
    for span in SPANS:
        if row[span] is not None:
            figures[f"{span}_{time_class(row[span])}"] += 1
    return {(row["answered_at"].date(), _group(row)): figures}


async def _rating(connection: AsyncConnection, prompt: str, person: str) -> Shares:
    """Return the figures that a person's rating of a reply adds."""
    found = await connection.execute(
        select(ratings).where(ratings.c.prompt_event_id == prompt, ratings.c.person == person)
    )
    row = found.mappings().one_or_none()
    if row is None:
        return {}
    day = (row["answered_at"] or row["rated_at"]).date()
    if not row["asker"]:
        return {(day, _group(row)): Counter([f"others_{row['answer']}"])}
    figures = Counter([row["answer"]])
    if row["reason"]:
        figures[f"why_{row['reason']}"] += 1
    if row["source"] == "poll":
        figures["votes"] += 1
    return {(day, _group(row)): figures}


def _group(row: RowMapping) -> Group:
    return Group(
        row["model"] or "",
        row["domain"] or "",
        _PLACES[row["direct"]],
        row["tools"] or "",
        row["prompt_version"] or "",
    )


async def _shift(connection: AsyncConnection, before: Shares, after: Shares) -> None:
    """Add the differences between two states to the figures."""
    for day, group in sorted(before.keys() | after.keys()):
        change = Counter(after.get((day, group)))
        change.subtract(before.get((day, group), Counter()))
        figures = {name: number for name, number in change.items() if number}
        for step, table in TALLIES.items() if figures else ():
            key = {"first": first_of(step, day), **group._asdict()}
            await _add(connection, table, key, figures)


async def _add(
    connection: AsyncConnection, table: Table, key: dict[str, Any], figures: dict[str, int]
) -> None:
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = insert(table).values(key | figures)
    added = {name: table.c[name] + statement.excluded[name] for name in figures}
    await connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=added))

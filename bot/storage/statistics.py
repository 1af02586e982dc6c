"""Figures of replies and ratings, read beside the assistant that makes them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Self

from sqlalchemy import ColumnElement, RowMapping, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from bot.core.statistics import FIGURES, Figures, Group, Only, Remark
from bot.health import Health
from bot.storage.database import Database
from bot.storage.reading import open_beside
from bot.storage.rows import seconds
from bot.storage.seal import Seal
from bot.storage.tables import circumstances, comments, daily, ratings

_SUMS = [func.sum(daily.c[name]).label(name) for name in FIGURES]
_GROUP = [daily.c[name] for name in Group._fields]


class SqlStatistics:
    """The `Statistics` port, on connections of its own that only read."""

    def __init__(self, database: Database, secret: str) -> None:
        """Take a database to read, and the operator's secret."""
        self._database = database
        self._seal = Seal(secret)

    @classmethod
    async def open(cls, place: Path | str, secret: str, health: Health) -> Self:
        """Open the ledger that an assistant may be using.

        Args:
            place: a SQLite file, or the libpq URL of a PostgreSQL database.
            secret: the operator's.
            health: is told of failures to read.

        Raises:
            StoreError: it cannot be read, or is no ledger of this version.
        """
        return cls(await open_beside(place, health), secret)

    async def close(self) -> None:
        """Close the connections."""
        await self._database.close()

    async def by_day(self, first: date, last: date, only: Only) -> Mapping[date, Figures]:
        """Return the figures of each day that has any, the first one and the last included."""
        wanted: list[ColumnElement[bool]] = [daily.c.day.between(first, last)]
        if only.model is not None:
            wanted.append(daily.c.model == only.model)
        if only.domain is not None:
            wanted.append(daily.c.domain == only.domain)
        rows = await self._sums([daily.c.day], wanted)
        return {row["day"]: figures for row in rows if (figures := _figures(row))}

    async def by_group(self, first: date, last: date) -> Mapping[Group, Figures]:
        """Return the figures of each group that has any in these days."""
        rows = await self._sums(_GROUP, [daily.c.day.between(first, last)])
        groups = {Group(*(row[name] for name in Group._fields)): _figures(row) for row in rows}
        return {group: figures for group, figures in groups.items() if figures}

    async def remarks(self, only: Only, most: int) -> Sequence[Remark]:
        """Return the latest comments, opened, the last one first."""
        query = (
            select(comments, ratings.c.answer)
            .outerjoin(
                ratings,
                (ratings.c.prompt_event_id == comments.c.prompt_event_id)
                & (ratings.c.person == comments.c.person),
            )
            .outerjoin(
                circumstances, circumstances.c.prompt_event_id == comments.c.prompt_event_id
            )
            .order_by(comments.c.written_at.desc())
            .limit(most)
        )
        if only.model is not None:
            query = query.where(func.coalesce(circumstances.c.model, "") == only.model)
        if only.domain is not None:
            query = query.where(func.coalesce(circumstances.c.domain, "") == only.domain)

        async def work(connection: AsyncConnection) -> list[Remark]:
            found = (await connection.execute(query)).mappings().all()
            return [remark for row in found if (remark := self._remark(row))]

        return await self._database.run("remarks", work)

    def _remark(self, row: RowMapping) -> Remark | None:
        """Return the comment; None where it was sealed with another key."""
        try:
            comment = self._seal.open(row["comment"], row["event_id"]).decode()
        except ValueError:
            return None
        return Remark(seconds(row["written_at"]), comment, row["answer"])

    async def _sums(
        self, columns: Sequence[ColumnElement[Any]], wanted: Sequence[ColumnElement[bool]]
    ) -> Sequence[RowMapping]:
        query = select(*columns, *_SUMS).where(*wanted).group_by(*columns).order_by(*columns)

        async def work(connection: AsyncConnection) -> Sequence[RowMapping]:
            return (await connection.execute(query)).mappings().all()

        return await self._database.run("statistics", work)


def _figures(row: RowMapping) -> Figures:
    return Counter({name: int(row[name]) for name in FIGURES if row[name]})

"""Figures of replies and ratings, read beside the assistant that makes them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Self

from sqlalchemy import ColumnElement, RowMapping, Table, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from bot.core.statistics import FIGURES, Figures, Group, Only, Remark, Step, Survey
from bot.health import Health
from bot.storage.database import Database
from bot.storage.reading import open_beside
from bot.storage.rows import seconds
from bot.storage.seal import Seal
from bot.storage.tables import (
    TALLIES,
    answers,
    campaigns,
    circumstances,
    comments,
    ratings,
    recipients,
)


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

    async def by_step(
        self, step: Step, first: date, last: date, only: Only
    ) -> Mapping[date, Figures]:
        """Return the figures of each day or week that has any and begins in these days."""
        table = TALLIES[step]
        narrowed = {"model": only.model, "domain": only.domain}
        wanted = [table.c[name] == value for name, value in narrowed.items() if value is not None]
        wanted.append(table.c.first.between(first, last))
        rows = await self._sums(table, ("first",), *wanted)
        return {row["first"]: figures for row in rows if (figures := _figures(row))}

    async def by_group(self, step: Step, first: date, last: date) -> Mapping[Group, Figures]:
        """Return the figures of each group that has any in the days or weeks that begin then."""
        table = TALLIES[step]
        rows = await self._sums(table, Group._fields, table.c.first.between(first, last))
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

    async def surveys(self, most: int) -> Sequence[Survey]:
        """Return the latest campaigns that were launched, the last one first."""
        there = recipients.c.campaign_id == campaigns.c.id
        said = answers.c.campaign_id == campaigns.c.id, answers.c.counts
        answered = select(func.count(answers.c.room_id.distinct())).where(*said)
        query = (
            select(
                campaigns.c.name,
                campaigns.c.state,
                select(func.count()).where(there).scalar_subquery(),
                select(func.count(recipients.c.reached_at)).where(there).scalar_subquery(),
                answered.scalar_subquery(),
            )
            .where(campaigns.c.state != "draft")
            .order_by(campaigns.c.id.desc())
            .limit(most)
        )

        async def work(connection: AsyncConnection) -> list[Survey]:
            return [Survey(*row) for row in await connection.execute(query)]

        return await self._database.run("surveys", work)

    def _remark(self, row: RowMapping) -> Remark | None:
        """Return the comment; None where it was sealed with another key."""
        try:
            comment = self._seal.open(row["comment"], row["event_id"]).decode()
        except ValueError:
            return None
        return Remark(seconds(row["written_at"]), comment, row["answer"])

    async def _sums(
        self, table: Table, names: Sequence[str], *wanted: ColumnElement[bool]
    ) -> Sequence[RowMapping]:
        columns = [table.c[name] for name in names]
        sums = [func.sum(table.c[name]).label(name) for name in FIGURES]
        query = select(*columns, *sums).where(*wanted).group_by(*columns).order_by(*columns)

        async def work(connection: AsyncConnection) -> Sequence[RowMapping]:
            return (await connection.execute(query)).mappings().all()

        return await self._database.run("statistics", work)


def _figures(row: RowMapping) -> Figures:
    return Counter({name: int(row[name]) for name in FIGURES if row[name]})

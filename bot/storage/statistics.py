"""The `Statistics` port on SQLAlchemy: figures of replies, ratings and campaigns."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Self

from sqlalchemy import ColumnElement, RowMapping, Table, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from bot.core.statistics import (
    FIGURES,
    PUBLIC_FIGURES,
    PUBLIC_PARTS,
    CampaignFigures,
    FeedbackComment,
    FigureFilter,
    Figures,
    Group,
    Part,
    Published,
    Step,
    chunk,
)
from bot.monitoring.health import Health
from bot.runtime.encryption import Seal
from bot.storage.database import Database
from bot.storage.rows import seconds
from bot.storage.second_connection import open_beside
from bot.storage.tables import (
    TALLIES,
    answers,
    campaigns,
    circumstances,
    comments,
    published,
    ratings,
    recipients,
)

_WEEK = timedelta(weeks=1)
_LOOKED_AT = 5_000  # latest comments in which those of one model or domain are searched


class SqlStatistics:
    """The `Statistics` port, which reads on connections of its own.

    Published figures are written on the assistant's connections, as SQLite has one writer.
    """

    def __init__(self, ledger: Database, secret: str, beside: Database | None = None) -> None:
        """Use the databases, and the operator's secret.

        Args:
            ledger: the assistant's connections, to write on.
            secret: the secret that decrypts comments.
            beside: further connections to the same database, to read without delaying the
                assistant; None to read on the assistant's.
        """
        self._ledger_database = ledger
        self._database = beside or ledger
        self._seal = Seal(secret)
        self._publishing = asyncio.Lock()

    @classmethod
    async def open(
        cls, location: Path | str, secret: str, health: Health, ledger: Database
    ) -> Self:
        """Open further connections to the ledger that the assistant is using.

        Args:
            location: a SQLite file, or the libpq URL of a PostgreSQL database.
            secret: the operator's secret.
            health: receives failures to read.
            ledger: the assistant's connections to the same database.

        Raises:
            StoreError: the database cannot be read, or is no ledger of this version.
        """
        return cls(ledger, secret, await open_beside(location, health))

    async def close(self) -> None:
        """Close the connections for reading."""
        await self._database.close()

    async def by_step(
        self, step: Step, first: date, last: date, only: FigureFilter
    ) -> Mapping[date, Figures]:
        """Return the figures of each day or week that has any and begins in the period."""
        table = TALLIES[step]
        narrowed = {"model": only.model, "domain": only.domain}
        wanted = [table.c[name] == value for name, value in narrowed.items() if value is not None]
        wanted.append(table.c.first.between(first, last))
        rows = await self._sums(table, ("first",), *wanted)
        return {row["first"]: figures for row in rows if (figures := _figures(row))}

    async def by_group(self, step: Step, first: date, last: date) -> Mapping[Group, Figures]:
        """Return the figures of each group that has any in the period."""
        table = TALLIES[step]
        rows = await self._sums(table, Group._fields, table.c.first.between(first, last))
        groups = {Group(*(row[name] for name in Group._fields)): _figures(row) for row in rows}
        return {group: figures for group, figures in groups.items() if figures}

    async def published(self, first: date, last: date) -> Published:
        """Return the figures of past weeks, as they were when first asked for.

        Args:
            first: the first Monday; weeks before it are forgotten when a week is published.
            last: the day by which the last week begins.
        """
        mondays = [first + _WEEK * number for number in range((last - first) // _WEEK + 1)]
        within, is_whole = published.c.first.between(first, last), published.c.part == ""
        # One call at a time: so that only one tries while nothing can be written, and no week is
        # forgotten between the two queries.
        async with self._publishing:
            wholes = await self._sums(published, ("first",), within, is_whole)
            if missing := sorted({*mondays} - {row["first"] for row in wholes}):
                await self._publish(missing, first)
                wholes = await self._sums(published, ("first",), within, is_whole)
            rows = await self._sums(published, ("part", "name"), within, ~is_whole)
        groups: dict[Part, dict[str, Figures]] = {part: {} for part in PUBLIC_PARTS}
        for row in rows:
            groups[row["part"]][row["name"]] = _figures(row)
        weeks = {row["first"]: figures for row in wholes if (figures := _figures(row))}
        return Published(weeks, groups)

    async def _publish(self, mondays: Sequence[date], first: date) -> None:
        """Publish the figures of weeks, and forget weeks before the first one.

        The transaction is durable: else a week could be published again after a power cut.
        """

        async def work(connection: AsyncConnection) -> None:
            for monday in mondays:
                await _publish_week(connection, monday, first)
            await connection.execute(delete(published).where(published.c.first < first))

        await self._ledger_database.run("publish", work, durable=True)

    async def remarks(self, only: FigureFilter, most: int) -> Sequence[FeedbackComment]:
        """Return the latest comments, decrypted, newest first.

        Those of one model or domain are searched in the latest _LOOKED_AT comments only.
        """
        among = most if only == FigureFilter() else _LOOKED_AT
        last = comments.c.written_at.desc()
        latest = select(comments).order_by(last).limit(among).subquery()
        query = (
            select(latest, ratings.c.answer)
            .outerjoin(
                ratings,
                (ratings.c.prompt_event_id == latest.c.prompt_event_id)
                & (ratings.c.person == latest.c.person),
            )
            .outerjoin(circumstances, circumstances.c.prompt_event_id == latest.c.prompt_event_id)
            .order_by(latest.c.written_at.desc())
            .limit(most)
        )
        if only.model is not None:
            query = query.where(func.coalesce(circumstances.c.model, "") == only.model)
        if only.domain is not None:
            query = query.where(func.coalesce(circumstances.c.domain, "") == only.domain)

        async def work(connection: AsyncConnection) -> list[FeedbackComment]:
            found = (await connection.execute(query)).mappings().all()
            return [remark for row in found if (remark := self._remark(row))]

        return await self._database.run("remarks", work)

    async def campaigns(self, most: int) -> Sequence[CampaignFigures]:
        """Return the latest campaigns that were launched, newest first."""
        of_it = recipients.c.campaign_id == campaigns.c.id
        given = answers.c.campaign_id == campaigns.c.id, answers.c.counts
        answered = select(func.count(answers.c.room_id.distinct())).where(*given)
        query = (
            select(
                campaigns.c.name,
                campaigns.c.state,
                select(func.count()).where(of_it).scalar_subquery(),
                select(func.count(recipients.c.reached_at)).where(of_it).scalar_subquery(),
                answered.scalar_subquery(),
            )
            .where(campaigns.c.state != "draft")
            .order_by(campaigns.c.id.desc())
            .limit(most)
        )

        async def work(connection: AsyncConnection) -> list[CampaignFigures]:
            found = await connection.execute(query)
            return [
                CampaignFigures(
                    name=name, state=state, rooms=rooms, reached=reached, answered=answered
                )
                for name, state, rooms, reached, answered in found
            ]

        return await self._database.run("surveys", work)

    def _remark(self, row: RowMapping) -> FeedbackComment | None:
        """Return the comment; None if it was encrypted with another key."""
        try:
            comment = self._seal.open(row["comment"], row["event_id"]).decode()
        except ValueError:
            return None
        return FeedbackComment(seconds(row["written_at"]), comment, row["answer"])

    async def _sums(
        self, table: Table, names: Sequence[str], *wanted: ColumnElement[bool]
    ) -> Sequence[RowMapping]:
        columns = [table.c[name] for name in names]
        sums = [func.sum(table.c[name]).label(name) for name in FIGURES if name in table.c]
        query = select(*columns, *sums).where(*wanted).group_by(*columns).order_by(*columns)

        async def work(connection: AsyncConnection) -> Sequence[RowMapping]:
            return (await connection.execute(query)).mappings().all()

        return await self._database.run("statistics", work)


async def _publish_week(connection: AsyncConnection, monday: date, first: date) -> None:
    """Publish a week, together with the weeks from `first` on that have waited for it.

    A week that is published already does not change: it has the row of the total, which is
    written first.
    """
    chunks = published.c.part != "", published.c.first < monday
    last = (await connection.execute(select(func.max(published.c.first)).where(*chunks))).scalar()
    since = first if last is None else max(first, last + _WEEK)
    weekly = TALLIES["week"]
    names = [weekly.c[part] for part in PUBLIC_PARTS]
    sums = [func.sum(weekly.c[name]).label(name) for name in PUBLIC_FIGURES]
    query = select(*names, *sums).where(weekly.c.first.between(since, monday)).group_by(*names)
    found = (await connection.execute(query)).mappings()
    unused = {"tools": "", "prompt_version": ""}
    rows = chunk(
        {
            Group(**{part: row[part] for part in PUBLIC_PARTS}, **unused): _figures(row)
            for row in found
        }
    )
    whole = _row(monday, "", "", rows.pop(("", ""), Counter()))
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = insert(published).values(whole).on_conflict_do_nothing()
    if (await connection.execute(statement)).rowcount and rows:
        parts = [_row(monday, *key, figures) for key, figures in rows.items()]
        await connection.execute(insert(published), parts)


def _row(monday: date, part: str, name: str, figures: Figures) -> dict[str, object]:
    counts = {figure: figures[figure] for figure in PUBLIC_FIGURES}
    return {"first": monday, "part": part, "name": name, **counts}


def _figures(row: RowMapping) -> Figures:
    return Counter({name: int(row[name]) for name in FIGURES if row.get(name)})

"""The ledger as it is used beside the assistant whose it is."""

import asyncio
from pathlib import Path

from sqlalchemy import inspect
from sqlalchemy.ext.asyncio import AsyncConnection

from bot.errors import StoreError
from bot.health import Health
from bot.storage.database import Database
from bot.storage.tables import TALLIES


async def open_beside(place: Path | str, health: Health, *, writes: bool = False) -> Database:
    """Open the ledger that an assistant may be using.

    Args:
        place: a SQLite file, or the libpq URL of a PostgreSQL database.
        health: is told of failures.
        writes: else nothing can be written to a file.

    Raises:
        StoreError: it cannot be read, or is no ledger of this version.
    """
    if isinstance(place, Path) and not await asyncio.to_thread(place.exists):
        raise StoreError(f"there is no ledger at {place}: the assistant has not run yet")
    database = (
        Database.on_sqlite(place, health, alone=writes)
        if isinstance(place, Path)
        else Database.on_postgresql(place, health, alone=False)
    )
    try:
        await database.open(_check)
    except StoreError:
        await database.close()
        raise
    return database


async def _check(connection: AsyncConnection) -> None:
    """Raise StoreError where the tables are not there."""
    latest = TALLIES["week"].name
    if not await connection.run_sync(lambda sync: inspect(sync).has_table(latest)):
        raise StoreError("the ledger was written by an older version: start the assistant once")

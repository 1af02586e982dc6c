"""A second connection to a ledger that an assistant may have open."""

import asyncio
from pathlib import Path

from bot.errors import BotError, StoreError
from bot.monitoring.health import Health
from bot.storage.database import Database
from bot.storage.schema_version import check


async def open_beside(location: Path | str, health: Health, *, writes: bool = False) -> Database:
    """Open a ledger that an assistant may be using.

    Args:
        location: a SQLite file, or the libpq URL of a PostgreSQL database.
        health: receives failures.
        writes: whether a SQLite file can be written to; PostgreSQL always can.

    Raises:
        StoreError: the database cannot be read, or is no ledger of this version.
    """
    if isinstance(location, Path) and not await asyncio.to_thread(location.exists):
        raise StoreError(f"there is no ledger at {location}: the assistant has not run yet")
    database = (
        Database.on_sqlite(location, health, alone=writes)
        if isinstance(location, Path)
        else Database.on_postgresql(location, health, alone=False)
    )
    try:
        await database.open(lambda connection: connection.run_sync(check))
    except BotError:
        await database.close()
        raise
    return database

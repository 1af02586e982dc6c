"""The ledger as it is used beside the assistant whose it is."""

import asyncio
from pathlib import Path

from bot.errors import BotError, StoreError
from bot.monitoring.health import Health
from bot.storage.database import Database
from bot.storage.schema_version import check


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
        await database.open(lambda connection: connection.run_sync(check))
    except BotError:
        await database.close()
        raise
    return database

"""Ledgers for tests: copies of one that the migrations have made, once per test process."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import asyncpg
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from bot.core.events import UserId
from bot.monitoring.health import Health
from bot.storage.ledger import SqlStore
from bot.storage.schema_version import upgrade
from tests.fakes.clock import FakeClock
from tests.harness.postgres import Postgres
from tests.make import BOT

KEY = "k" * 32
_TEMPLATE = "migrated"


async def open_store(place: Path | str, user_id: UserId = BOT, key: str = KEY) -> SqlStore:
    """Open a ledger as the bot does: it makes and migrates what is not there."""
    return await SqlStore.open(place, user_id, key, Health(clock=FakeClock()))


def migrated_file(path: Path) -> Path:
    """Write a SQLite file that has the tables and no rows; return its path."""
    path.touch(mode=0o600)
    path.write_bytes(_migrated_bytes())
    return path


@cache
def _migrated_bytes() -> bytes:
    with TemporaryDirectory(prefix="ledger-") as directory:
        path = Path(directory, "ledger.db")
        engine = create_engine(f"sqlite:///{path}")
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        with engine.begin() as connection:
            upgrade(connection)
        engine.dispose()  # the last connection to close writes all into the file
        return path.read_bytes()


async def empty_database(server: Postgres) -> str:
    """Make a database without tables; return its URL."""
    return await _create(server, f"ledger_{uuid4().hex}")


async def migrated_database(server: Postgres) -> str:
    """Make a database that has the tables and no rows; return its URL."""
    if _TEMPLATE not in await _names(server):
        url = await _create(server, _TEMPLATE)
        engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url)
        )
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
        await engine.dispose()  # PostgreSQL copies no database that somebody is connected to
    return await _create(server, f"ledger_{uuid4().hex}", template=_TEMPLATE)


async def _names(server: Postgres) -> set[str]:
    connection = await asyncpg.connect(server.url)
    rows = await connection.fetch("SELECT datname FROM pg_database")
    await connection.close()
    return {row["datname"] for row in rows}


async def _create(server: Postgres, name: str, template: str = "template1") -> str:
    connection = await asyncpg.connect(server.url)
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    await connection.close()
    return server.url.replace("/postgres?", f"/{name}?")

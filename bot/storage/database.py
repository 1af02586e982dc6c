"""The ledger's database: connections, and transactions that are repeated until they succeed."""

import asyncio
import hashlib
import math
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg
import structlog
from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from bot.errors import ConfigError, StoreError
from bot.monitoring.health import Health
from bot.runtime.failpoints import armed
from bot.runtime.private_files import private_file
from bot.runtime.retry import backoff
from bot.runtime.uncancellable import run_uncancelled

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]

_BUSY_SECONDS: Final = 5  # wait for another program's write lock on the SQLite file
_CONNECT_SECONDS: Final = 10
_COMMAND_SECONDS: Final = 30  # for one statement, as a database that hangs reports no error
_LONGEST_WAIT: Final = 5.0  # seconds between two tries of one transaction
_LOCK: Final = int.from_bytes(hashlib.sha256(b"assistant-tchap").digest()[:8], signed=True)
_LOST_SECONDS: Final = 90.0  # of tries before a ledger that another process has taken is lost
_GHOST_SECONDS: Final = 5.0  # until PostgreSQL has noticed that a killed process is gone
# SQLITE_BUSY, LOCKED, NOMEM, READONLY, IOERR, FULL, CANTOPEN, PROTOCOL: another try may succeed.
_PASSING: Final = frozenset({5, 6, 7, 8, 10, 13, 14, 15})
# SQLSTATE classes: connection, transaction rollback, resources, operator intervention, system
# error; and a server that is read-only for now.
_PASSING_CLASSES: Final = ("08", "40", "53", "57", "58", "25006")

# Settings of each connection. With these the server ends a connection and frees its lock one
# minute after the client has stopped answering; by default it first checks after two hours.
_SETTINGS: Final = {
    "timezone": "UTC",
    "application_name": "assistant-tchap",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}

_DISCONNECTED: Final = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_FAILURES: Final = (SQLAlchemyError, asyncpg.PostgresError, *_DISCONNECTED)

log = structlog.get_logger()


class Taken(StoreError):
    """Another process holds the ledger."""


class Unusable(StoreError):
    """The driver cannot use the database's URL."""


class Database:
    """A SQLite or PostgreSQL database, which one process at a time holds.

    A durable transaction is on the disk when it returns (SQLite's `synchronous=FULL`, PostgreSQL's
    `synchronous_commit`); any other is on the disk with the next durable one. Both survive the end
    of the process.
    """

    def __init__(self, name: str, engines: dict[bool, AsyncEngine], health: Health) -> None:
        """Use the engines, by durability."""
        self.name = name
        self._engines = engines
        self._health = health
        # SQLite has one writer at a time, and lets other ones sleep until their next try.
        self._transaction_lock = asyncio.Lock()

    @classmethod
    def on_sqlite(cls, path: Path, health: Health, *, alone: bool = True) -> "Database":
        """Use a SQLite file, with one connection for durable transactions and one for others.

        Args:
            path: the file.
            health: receives failures.
            alone: whether to write; else the file is only read, next to the process that writes,
                which never waits for it.
        """
        engines = {
            durable: _sqlite(path, durable=durable, writes=alone) for durable in (True, False)
        }
        return cls(f"the ledger {path}", engines, health)

    @classmethod
    def on_postgresql(cls, url: str, health: Health, *, alone: bool = True) -> "Database":
        """Use a PostgreSQL database, with one connection that holds a lock on it.

        Args:
            url: the database's libpq URL.
            health: receives failures.
            alone: whether to take the lock; else the database is used next to the process that
                holds it.
        """

        async def connect() -> Any:  # noqa: ANN401  # the driver's own type
            try:
                connection = await asyncpg.connect(
                    url,
                    timeout=_CONNECT_SECONDS,
                    command_timeout=_COMMAND_SECONDS,
                    server_settings=_SETTINGS,
                )
            except ValueError as error:  # its message may quote the URL, and so is not shown
                raise Unusable(
                    "storage.database cannot be used: check its host and port, and what stands"
                    f" behind the question mark ({type(error).__name__})"
                ) from None
            if alone and not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
                await connection.close()
                raise Taken("the ledger is in use: another assistant runs on this database")
            return connection

        engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=connect, pool_size=1, max_overflow=0
        )
        return cls("the ledger on storage.database", dict.fromkeys((True, False), engine), health)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is SQLite; else it is PostgreSQL."""
        return self._engines[True].dialect.name == "sqlite"

    async def open(self, prepare: Work[None]) -> None:
        """Run the first transaction, without repeating it if it fails.

        Raises:
            ConfigError: the URL cannot be used.
            StoreError: the database cannot be used, or another process uses it.
        """
        end = asyncio.get_running_loop().time() + _GHOST_SECONDS
        while True:
            try:
                await self._once("prepare", prepare, durable=True)
            except Unusable as error:
                raise ConfigError(str(error)) from None
            except Taken:
                if asyncio.get_running_loop().time() > end:
                    raise
                await asyncio.sleep(_GHOST_SECONDS / 20)
            except _FAILURES as error:
                raise self._failure(error) from None
            else:
                return

    async def close(self) -> None:
        """Close every connection."""
        for engine in set(self._engines.values()):
            await engine.dispose()

    async def run(self, name: str, work: Work[T], *, durable: bool = False) -> T:
        """Run `work` in one transaction, which the caller's cancellation does not interrupt.

        It is repeated while the database is unavailable, locked, full or read-only. A try that
        seems to have failed may have been committed, so the work must be safe to repeat.

        Args:
            name: name of the transaction, for its failpoints and in the metrics.
            work: the statements.
            durable: whether it must be on the disk when this returns.

        Raises:
            StoreError: a failure that another try would not change.
            ValueError, OverflowError: the work writes a value that its column cannot hold.
        """
        failures, now = 0, asyncio.get_running_loop().time
        given_up_at = math.inf
        while True:
            try:
                result = await run_uncancelled(self._once(name, work, durable=durable))
            except (*_FAILURES, Taken, Unusable) as error:
                if _is_no_value(error):  # a bug of this work alone
                    raise ValueError(f"{name}: a value that the ledger cannot hold") from None
                # The lock may be that of our own broken connection, until the server notices.
                taken = isinstance(error, Taken)
                given_up_at = min(given_up_at, now() + _LOST_SECONDS) if taken else math.inf
                if not _passes(error) or now() >= given_up_at:
                    raise self._failure(error) from None
                await self._pause(error, failures)
                failures += 1
            else:
                self._health.committed(name)
                self._health.ledger_worked()
                if failures:
                    log.warning("ledger back", work=name, tries=failures + 1)
                return result

    async def _once(self, name: str, work: Work[T], *, durable: bool) -> T:
        armed.reach(f"{name}.before")
        async with self._transaction_lock, self._engines[durable].begin() as connection:
            if not (durable or self.is_sqlite):
                await connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
            result = await work(connection)
            armed.reach(f"{name}.within")
        armed.reach(f"{name}.after")
        return result

    async def _pause(self, error: Exception, failures: int) -> None:
        """Report that the ledger does not work, close its connections, and wait."""
        wait = min(backoff(failures), _LONGEST_WAIT)
        self._health.ledger_failed()
        self._health.beat()  # the sync loop may be waiting for the ledger, and is alive
        log.error("ledger away", reason=_reason(error), retry_in=round(wait, 1))
        async with self._transaction_lock:  # a connection in use would survive and keep the lock
            await run_uncancelled(self.close())
        await asyncio.sleep(wait)

    def _failure(self, error: Exception) -> StoreError:
        return StoreError(f"{self.name}: {_reason(error)}")


def probe(path: Path) -> None:
    """Open a SQLite file once; create it if it is missing, readable by the bot's account only.

    If aiosqlite fails to open a file, its thread may outlive the event loop and print a traceback.
    So a file that cannot be opened must be found before.
    """
    private_file(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA schema_version")


def _sqlite(path: Path, *, durable: bool, writes: bool) -> AsyncEngine:
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{path}", connect_args={"timeout": _BUSY_SECONDS}
    )
    synchronous = "FULL" if durable else "NORMAL"
    # Temporary tables stay in memory: only the file's own directory needs to be writable, and no
    # ids are left elsewhere.
    pragmas = ["temp_store=MEMORY", "journal_mode=WAL", f"synchronous={synchronous}"]
    pragmas.append("foreign_keys=ON")
    # A transaction that reads and then writes must not lose updates; one that only reads must not
    # hold up a writer.
    begin = "BEGIN IMMEDIATE" if writes else "BEGIN"
    pragmas += [] if writes else ["query_only=ON"]

    @event.listens_for(engine.sync_engine, "connect")
    def _connect(dbapi: Any, _record: object) -> None:  # noqa: ANN401  # the driver's own type
        dbapi.isolation_level = None  # else the driver begins transactions itself, and too late
        cursor = dbapi.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _passes(error: Exception) -> bool:
    """Return whether another try may succeed although nothing but time has passed."""
    if isinstance(error, (*_DISCONNECTED, Taken, Unusable)):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _PASSING
    cause = getattr(cause, "__cause__", None) or cause  # SQLAlchemy wraps the driver's error
    state = getattr(cause, "sqlstate", None) or ""
    return state.startswith(_PASSING_CLASSES) or isinstance(cause, _DISCONNECTED)


def _is_no_value(error: Exception) -> bool:
    """Return whether the error is about a value to be written, and not about the ledger."""
    cause = getattr(error, "orig", None) or error
    cause = getattr(cause, "__cause__", None) or cause
    refused = (getattr(cause, "sqlstate", None) or "").startswith("22")  # data exception
    return refused or isinstance(cause, ValueError)  # asyncpg checks values before the server does


def _reason(error: Exception) -> str:
    """Return the driver's message, without the statement and its values."""
    cause = getattr(error, "orig", None) or error
    return str(getattr(cause, "__cause__", None) or cause) or type(cause).__name__

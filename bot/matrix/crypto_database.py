"""The SQLite file of the crypto store: its tables, upgrades and transactions."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bot.errors import StoreError
from bot.runtime.private_files import private_file

_VERSION = 2
# In memory, because temporary files would need another writable directory.
_PRAGMAS = ("temp_store=MEMORY", "journal_mode=WAL", "synchronous=FULL", "secure_delete=ON")
_SCHEMA = """
CREATE TABLE account (user_id TEXT, device_id TEXT, shared INTEGER, pickle TEXT);
CREATE TABLE olm_sessions (
    session_id TEXT PRIMARY KEY, sender_key TEXT, created TEXT, used TEXT, pickle TEXT
) WITHOUT ROWID;
CREATE INDEX olm_sessions_of ON olm_sessions (sender_key);
CREATE TABLE devices (
    user_id TEXT, device_id TEXT, ed25519 TEXT, curve25519 TEXT, display_name TEXT,
    deleted INTEGER, PRIMARY KEY (user_id, device_id)
) WITHOUT ROWID;
CREATE TABLE room_keys (
    room_id TEXT, session_id TEXT, sender_key TEXT, sender TEXT, ed25519 TEXT, used INTEGER,
    pickle TEXT, PRIMARY KEY (room_id, session_id, sender_key)
) WITHOUT ROWID;
CREATE INDEX room_keys_used ON room_keys (used);
CREATE TABLE encrypted_rooms (room_id TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_IDENTITY_SCHEMA = """
CREATE TABLE identity (sealed BLOB);
ALTER TABLE room_keys ADD COLUMN backed_up INTEGER NOT NULL DEFAULT 0;
CREATE INDEX room_keys_to_back_up ON room_keys (room_id, session_id) WHERE backed_up = 0;
CREATE TABLE backup_removals (room_id TEXT, session_id TEXT, PRIMARY KEY (room_id, session_id))
WITHOUT ROWID;
"""
# The statements from each schema version to the next.
_UPGRADES = (_SCHEMA, _IDENTITY_SCHEMA)


class CryptoDatabase:
    """One connection to the crypto store's file.

    `synchronous=FULL`: a one-time key that reappears after a power cut, or an Olm session that
    goes back one step, would lose every message that follows.
    """

    def __init__(self, path: Path, user_id: str, device_id: str, key: str) -> None:
        """Open the file, and create its tables if it is new.

        Raises:
            StoreError: the file is damaged, is no crypto store, or belongs to another device or
                another version.
        """
        self._path = path
        self._owner = user_id, device_id
        self._key = key
        self._db = self._open()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all that the block writes, or nothing; a nested one joins the outer one."""
        if self._db.in_transaction:
            yield
            return
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            self._db.rollback()  # no error if a full disk has ended the transaction already
            raise

    def _open(self) -> sqlite3.Connection:
        db = None
        try:
            private_file(self._path)
            db = sqlite3.connect(self._path, isolation_level=None)
            self._check(db)
            for pragma in _PRAGMAS:
                db.execute(f"PRAGMA {pragma}")
        except (sqlite3.Error, OSError, StoreError) as error:
            if db is not None:
                db.close()
            raise StoreError(
                f"the crypto store {self._path} cannot be used: {error}; restore it and"
                " session.json from the same backup"
            ) from error
        return db

    def _check(self, db: sqlite3.Connection) -> None:
        """Create the tables of a new file. Refuse a damaged file, or one of another device."""
        [[result]] = db.execute("PRAGMA quick_check(1)")
        if result != "ok":
            raise StoreError(f"it is damaged ({result.splitlines()[-1]})")
        [[version]] = db.execute("PRAGMA user_version")
        [[tables]] = db.execute("SELECT count(*) FROM sqlite_schema")
        if (version == 0) == (tables == 0) and 0 <= version < _VERSION:
            steps = "".join(_UPGRADES[version:])
            db.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {_VERSION}; COMMIT")
        elif version != _VERSION:
            raise StoreError(f"it is no store of this version of the assistant ({version})")
        owner = db.execute("SELECT user_id, device_id FROM account").fetchone()
        if owner not in {None, self._owner}:
            raise StoreError(f"it belongs to {owner[0]}'s device {owner[1]}")

    @contextmanager
    def _decrypting(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:  # raised by vodozemac
            raise StoreError(
                f"storage.key does not open the crypto store {self._path}: give the one that it"
                " was made with"
            ) from error

    def _row(self, statement: str, *values: object) -> Any:  # noqa: ANN401  # a row of any columns
        return self._execute(statement, *values).fetchone()

    def _rows(self, statement: str, *values: object) -> list[Any]:
        return self._execute(statement, *values).fetchall()

    def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise StoreError(f"the crypto store {self._path}: {error}") from error

    def _execute_many(self, statement: str, rows: list[Any]) -> None:
        if not rows:
            return
        with self.transaction():
            try:
                self._db.executemany(statement, rows)
            except sqlite3.Error as error:
                raise StoreError(f"the crypto store {self._path}: {error}") from error

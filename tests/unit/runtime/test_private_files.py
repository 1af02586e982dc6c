"""Files and directories for the bot's account alone."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from stat import S_IMODE

import pytest
from structlog.testing import capture_logs

from bot.matrix.crypto_store import CryptoStore
from bot.runtime.private_files import private_directory, private_file
from bot.storage.database import probe


@pytest.fixture(autouse=True)
def _nobody_hides_files() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(directory: Path) -> dict[str, int]:
    return {one.name: S_IMODE(one.stat().st_mode) for one in directory.iterdir()}


def test_a_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    with capture_logs() as lines:
        assert private_directory(tmp_path / "a" / "b") == tmp_path / "a" / "b"

    assert modes(tmp_path / "a") == {"b": 0o700}
    assert lines == []


@pytest.mark.parametrize(("mode", "times"), [(0o700, 0), (0o2770, 0), (0o755, 1), (0o701, 1)])
def test_a_directory_that_is_there_is_left_as_it_is_and_said_where_everyone_may_enter(
    tmp_path: Path, mode: int, times: int
) -> None:
    tmp_path.chmod(mode)
    with capture_logs() as lines:
        private_directory(tmp_path)

    assert S_IMODE(tmp_path.stat().st_mode) == mode
    said = [line for line in lines if "storage.directory is open to everyone" in line["event"]]
    assert len(said) == len(lines) == times


def test_a_file_that_is_there_and_what_is_beside_it_is_taken_from_others(tmp_path: Path) -> None:
    for name in ("x.db", "x.db-wal", "x.db-shm", "other"):
        (tmp_path / name).write_text("kept")
        (tmp_path / name).chmod(0o666)

    private_file(tmp_path / "x.db")

    alone = dict.fromkeys(("x.db", "x.db-wal", "x.db-shm"), 0o600)
    assert modes(tmp_path) == alone | {"other": 0o666}
    assert (tmp_path / "x.db").read_text() == "kept"


def test_a_ledger_and_what_sqlite_keeps_beside_it_are_for_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    probe(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE a (b)")

        assert modes(tmp_path) == dict.fromkeys(
            ("ledger.db", "ledger.db-wal", "ledger.db-shm"), 0o600
        )


def test_a_crypto_store_is_for_nobody_else_and_puts_nothing_elsewhere(tmp_path: Path) -> None:
    with closing(CryptoStore(tmp_path / "crypto.db", "@a:b.test", "D", "k")) as store:
        assert set(modes(tmp_path).values()) == {0o600}
        assert store._row("PRAGMA temp_store") == (2,)  # memory

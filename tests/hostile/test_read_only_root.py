"""The container as documented: the root is read-only, and nothing else writable but one volume."""

import asyncio
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from stat import S_IMODE

import pytest
import yaml
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from tests.harness.read_only import confined

REPLIES = 60_000
USER_ID = "@starter:stand.test"
REPOSITORY = Path(__file__).parents[2]


def write_older_ledger(path: Path) -> None:
    """Write what a version without tallies left behind: the upgrade has all replies to sort."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", "bot.storage:migrations")
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "0005")
        connection.exec_driver_sql("INSERT INTO account (user_id) VALUES (?)", (USER_ID,))
        connection.exec_driver_sql(
            "INSERT INTO circumstances (prompt_event_id, room_id, thread_root, person, model,"
            " domain, answered_at, seconds) VALUES (?, ?, '', ?, 'm', 'stand.test', ?, 3)",
            [
                (f"${number:043}", f"!{number % 5000:043}", f"{number:032}", day(number))
                for number in range(REPLIES)
            ],
        )
    engine.dispose()
    path.chmod(0o644)


def day(number: int) -> str:
    return f"2026-{number % 12 + 1:02}-{number % 28 + 1:02} 10:00:00.000000"


def modes_of_files(directory: Path) -> dict[str, int]:
    files = [one for one in directory.rglob("*") if one.is_file()]
    return {one.name: S_IMODE(one.stat().st_mode) for one in files}


async def run(*arguments: str, volume: Path) -> tuple[int, str]:
    """Run a command on the read-only root; return its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *confined(volume, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    made = tmp_path / "volume"
    made.mkdir(mode=0o700)
    return made


async def test_the_root_is_read_only_here_and_the_volume_is_not(volume: Path) -> None:
    for place in (volume.parent, Path("/tmp"), Path("/var/tmp"), Path("/")):  # noqa: S108  # tried
        code, _ = await run("touch", str(place / "assistant-tchap-test"), volume=volume)
        assert code, place
    assert await run("touch", str(volume / "x"), volume=volume) == (0, "")


async def test_an_upgrade_that_sorts_all_replies_needs_no_other_place(volume: Path) -> None:
    ledger = volume / "ledger.db"
    write_older_ledger(ledger)
    config = volume.parent / "config.yaml"
    sections = {
        "matrix": {"homeserver": "http://127.0.0.1:9", "user_id": USER_ID, "password": "secret"}
        | {"recovery_key_file": str(volume / "recovery.key")},
        "model": {"base_url": "http://127.0.0.1:9/v1", "name": "scripted"},
        "storage": {"directory": str(volume), "key": "s" * 32},
    }
    config.write_text(yaml.safe_dump(sections))

    code, printed = await run(
        *(sys.executable, "-m", "bot", "run", "--config", str(config)), volume=volume
    )

    assert (code, "disk I/O error" in printed) == (1, False), printed
    assert "http://127.0.0.1:9 cannot be used" in printed
    with closing(sqlite3.connect(ledger)) as connection:
        [[counted]] = connection.execute("SELECT sum(replies) FROM daily")
    assert counted == REPLIES
    modes = modes_of_files(volume)
    assert {"ledger.db", "crypto.db", "session.json", "lock"} <= modes.keys()
    assert set(modes.values()) == {0o600}, modes

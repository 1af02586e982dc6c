"""Proves the PostgreSQL of the test harness."""

import asyncio
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil
import pytest
import pytest_asyncio

from tests.harness.postgres import Postgres, programs

pytestmark = [
    pytest.mark.integration,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(programs() is None, reason="there is no PostgreSQL on this machine"),
]

REPOSITORY = Path(__file__).parents[2]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def postgres() -> AsyncIterator[Postgres]:
    async with Postgres() as running:
        yield running


async def write(postgres: Postgres, word: str) -> None:
    connection = await asyncpg.connect(postgres.url)
    await connection.execute("CREATE TABLE IF NOT EXISTS words (word text)")
    await connection.execute("INSERT INTO words VALUES ($1)", word)
    await connection.close()


async def words(postgres: Postgres) -> set[str]:
    connection = await asyncpg.connect(postgres.url)
    found = await connection.fetch("SELECT word FROM words")
    await connection.close()
    return {row["word"] for row in found}


async def test_what_is_committed_is_there_after_a_restart_and_after_a_kill(
    postgres: Postgres,
) -> None:
    await write(postgres, "restarted")
    await postgres.restart()
    await write(postgres, "killed")
    await postgres.kill()
    await postgres.start()

    assert await words(postgres) >= {"restarted", "killed"}


async def test_connections_are_broken_and_new_ones_are_taken(postgres: Postgres) -> None:
    ended: asyncio.Queue[object] = asyncio.Queue()
    connections = [await asyncpg.connect(postgres.url) for _ in range(3)]
    for connection in connections:
        connection.add_termination_listener(ended.put_nowait)

    assert await postgres.terminate_connections() >= 3  # some that were closed may not be gone

    async with asyncio.timeout(10):
        for connection in connections:
            await ended.get()
            connection.terminate()
    await write(postgres, "anew")


async def test_a_server_that_cannot_start_says_why(postgres: Postgres) -> None:
    await postgres.stop()
    version = postgres._data / "PG_VERSION"
    right = version.read_text()
    version.write_text("9")
    with pytest.raises(RuntimeError, match="incompatible with server"):
        await postgres.start()
    version.write_text(right)
    await postgres.start()


async def test_the_server_ends_when_its_parent_is_killed() -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PARENT), cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout
    pid, directory = (await parent.stdout.readline()).decode().split()
    server = psutil.Process(int(pid))
    parent.send_signal(signal.SIGKILL)
    await parent.wait()

    ended, _ = await asyncio.to_thread(psutil.wait_procs, [server], timeout=10)

    shutil.rmtree(directory)
    assert ended == [server]


_PARENT = """
import asyncio
from tests.harness.postgres import Postgres

async def main():
    async with Postgres() as postgres:
        print(postgres.pid, postgres.directory, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""

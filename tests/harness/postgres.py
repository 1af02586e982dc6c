"""A real PostgreSQL server for tests, on a Unix socket that no other user can open."""

import asyncio
import os
import pwd
import shutil
import signal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import asyncpg
import psutil

_START_SECONDS = 30.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.02
_OWNER = "assistant"
_LOG_LINES_SHOWN = 20
_DEBIAN = Path("/usr/lib/postgresql")  # Debian leaves the server's programs out of PATH

# Tests end processes, never the machine, so data is safe once the kernel has it. To have it on
# disk as well, the server would sync some 300 files per database when it stops or recovers.
_SETTINGS = {
    "fsync": "off",
    "listen_addresses": "",
    "max_connections": "20",
    "shared_buffers": "16MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


def programs() -> Path | None:
    """Return the newest folder of the server's programs; None if there is none."""
    found = shutil.which("postgres")
    if found:
        return Path(found).resolve().parent
    versions = sorted(_DEBIAN.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return versions[-1].parent if versions else None


class Postgres:
    """A server that keeps its address and data over `stop`, `kill` and `restart`.

    If we are root, it runs as another user, because PostgreSQL refuses to run as root.

    Attributes:
        url: the libpq URL of its first database, as in the bot's `storage.database`.
        directory: the folder of the data, the socket and the log.
        log: the server's log file.
    """

    def __init__(self) -> None:
        """Make an empty directory.

        Raises:
            FileNotFoundError: there is no PostgreSQL on this machine.
        """
        found = programs()
        if found is None:
            raise FileNotFoundError("PostgreSQL: neither on PATH nor in /usr/lib/postgresql")
        self._programs = found
        self._place = TemporaryDirectory(prefix="postgres-")  # short: it holds a socket
        self.directory = Path(self._place.name)
        self._data = self.directory / "data"
        self._user = _somebody()
        if self._user is not None:
            os.chown(self.directory, self._user.pw_uid, self._user.pw_gid)
        self.log = self.directory / "postgres.log"
        self.url = f"postgresql://{_OWNER}@/postgres?host={self.directory}"
        self._process: asyncio.subprocess.Process | None = None
        self._guard: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        self._place.cleanup()

    @property
    def pid(self) -> int | None:
        """The server's process id, None while it does not run."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the server and wait until it answers; RuntimeError with its log if it ends."""
        if not self._data.exists():
            await self._make_data()
        settings = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
        self._process = await self._run("postgres", f"-k{self.directory}", *settings)
        # It minds no stdin: somebody else's closes when we end, however we end, and ends it then.
        self._guard = await asyncio.create_subprocess_exec(
            *("sh", "-c", 'cat; kill -QUIT "$0"', str(self._process.pid)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._wait_until_it_answers(self._process)
        except BaseException:
            await self.kill()
            raise

    async def stop(self) -> None:
        """Stop the server and its connections in order, if it runs."""
        await self._end(signal.SIGINT)  # "fast": SIGTERM would wait for the clients

    async def kill(self) -> None:
        """Kill the server, as a crash does."""
        await self._end(signal.SIGKILL)

    async def restart(self) -> None:
        """Stop in order and start again, with the same address and data."""
        await self.stop()
        await self.start()

    async def terminate_connections(self) -> int:
        """Break every client's connection, and return the number of connections."""
        connection = await asyncpg.connect(self.url)
        try:
            ended = await connection.fetch(_TERMINATE)
        finally:
            await connection.close()
        return len(ended)

    async def _make_data(self) -> None:
        making = await self._run("initdb", f"-U{_OWNER}", "-Atrust", "-EUTF8", "--locale=C", "-N")
        if await making.wait():
            raise RuntimeError(f"initdb:\n{self._tail()}")

    async def _run(self, program: str, *arguments: str) -> asyncio.subprocess.Process:
        """Start one of the server's programs on the data, as the user who may run it."""
        user: dict[str, Any] = {}
        if self._user is not None:
            user = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(str(self._programs / program), f"-D{self._data}", *arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,  # a terminal's Ctrl-C is for us, who then stop it in order
                **user,
            )

    async def _wait_until_it_answers(self, process: asyncio.subprocess.Process) -> None:
        while True:
            if process.returncode is not None:
                raise RuntimeError(f"PostgreSQL did not start:\n{self._tail()}")
            try:
                connection = await asyncpg.connect(self.url)
            except (OSError, asyncpg.PostgresError):
                await asyncio.sleep(_POLL_SECONDS)
            else:
                await connection.close()
                return

    async def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()
            await guard.wait()
        if process is None:
            return
        if process.returncode is None:
            parts = psutil.Process(process.pid).children()
            process.send_signal(number)
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
            # They end by themselves; until then no other server may have the data.
            await asyncio.to_thread(psutil.wait_procs, parts, timeout=_STOP_SECONDS)

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:])


_TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


def _somebody() -> pwd.struct_passwd | None:
    """Return the user who runs the server, None for our own."""
    if os.geteuid() != 0:
        return None
    names = {user.pw_name: user for user in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]

"""The bot as an operator runs it: a configuration file and one `assistant-tchap` process."""

import asyncio
import copy
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, Self

import yaml

from bot.core.events import UserId
from tests.harness import canaries

# Test persons send faster than people do, so there are no limits; a test of a limit sets it.
ASKS_ALWAYS: dict[str, object] = {  # polls wait for no silence, and no reply is too short
    "ask": "reply",
    "one_in": 1,
    "per_day": 1000,
    "salons": "poll",
    "least_characters": 0,
}
UNLIMITED = {
    "prompts_per_hour": 0,
    "regenerations_per_hour": 0,
    "comments_per_hour": 0,
    "prompts_per_minute": 0,
    "quick_exchanges": 0,
}

_START_SECONDS = 60.0
_STOP_SECONDS = 35.0  # seconds; longer than the bot's drain
_POLL_SECONDS = 0.02

# `python -m bot` with a pipe from this process. The pipe closes at any end of this process, and
# then the bot ends as well; in production the bot ignores stdin. The log also reports the imports.
_BOT_THAT_ENDS_WITH_US = """
import json, os, runpy, threading
from datetime import datetime, timezone
def end_with_parent():
    os.read(0, 1)
    os._exit(1)
threading.Thread(target=end_with_parent, daemon=True).start()
import bot.app
at = datetime.now(timezone.utc).isoformat()
imported = {"event": "imported", "level": "debug", "timestamp": at}
os.write(2, json.dumps(imported).encode() + b"\\n")
runpy.run_module("bot", run_name="__main__", alter_sys=True)
"""


class ChildProcess(Protocol):
    """A child process of asyncio or of the fork server."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def send_signal(self, signal: int) -> None: ...

    async def wait(self) -> int: ...


# Starts the bot with a configuration, a log file, and additional environment variables.
Launch = Callable[[Path, Path, Mapping[str, str]], Awaitable[ChildProcess]]


async def launch_cold(
    config: Path,
    log: Path,
    environment: Mapping[str, str],
    *,
    options: Sequence[str] = (),
    prefix: Sequence[str] = (),
) -> ChildProcess:
    """Start an ordinary process, which does all its imports.

    Args:
        config: the configuration file.
        log: the file for its output.
        environment: environment variables, in addition to those of this process.
        options: options of the command line, in addition to the configuration.
        prefix: a command that runs this one.
    """
    # The first start may write the bytecode that makes the next ones fast.
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with log.open("ab") as file:
        return await asyncio.create_subprocess_exec(
            *(*prefix, sys.executable, "-c", _BOT_THAT_ENDS_WITH_US),
            *("run", "--config", str(config), *options),
            stdin=asyncio.subprocess.PIPE,
            stdout=file,
            stderr=file,
            env={**inherited, "PYTHONUNBUFFERED": "1", **environment},
            start_new_session=True,  # no Ctrl-C of a terminal: this process stops it in order
        )


class Bot:
    """One bot that keeps its files over `stop`, `kill` and `restart`.

    In an `async with` block, each of these raises Leaked if a file contains a text of a
    conversation.

    Attributes:
        user_id: the bot's account.
        log: the structured log, one JSON object per line.
        launch: the function that starts the process; a fork server's `launch` is quicker.
        key: `storage.key`, unless the sections have another.
        recovery_key: the file of the account's recovery key, unless the sections name another.
        port: port of the dashboard; None for no dashboard.
    """

    def __init__(
        self,
        directory: Path,
        user_id: UserId,
        launch: Launch = launch_cold,
        **sections: dict[str, Any],
    ) -> None:
        """Write the configuration; `sections` are those of config.example.yaml.

        Without a section for limits, there are no limits.
        """
        self.user_id = user_id
        self.launch = launch
        self.directory = directory
        self.log = directory / "bot.log"
        self.config = directory / "config.yaml"
        self.key = "s" * 32
        self.recovery_key = directory / "recovery.key"
        sections.setdefault("limits", dict(UNLIMITED))
        sections.setdefault("storage", {"directory": str(directory / "data"), "key": self.key})
        matrix = {"recovery_key_file": str(self.recovery_key), **sections.get("matrix", {})}
        sections["matrix"] = matrix
        self.port: int | None = sections.get("dashboard", {}).get("port")
        self.config.write_text(yaml.safe_dump(sections))
        self._storage = Path(sections["storage"]["directory"])
        self._watched = False
        self._process: ChildProcess | None = None
        self._begins = 0  # offset of the process's first line in the log

    async def __aenter__(self) -> Self:
        # The demo only starts and stops it: typed words may also be names of the database schema.
        self._watched = True
        await self.start()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        code, log = await self.stop(), self.log.read_text()
        if kind is None and (code or '"event": "bug"' in log or "Traceback" in log):
            raise RuntimeError(f"the bot ended with {code}, or had met a bug:\n{log}")

    @property
    def pid(self) -> int | None:
        """The process id, None while it does not run."""
        return self._process.pid if self._process else None

    @property
    def runs(self) -> bool:
        """Return whether the process runs."""
        return self._process is not None and self._process.returncode is None

    def beside(self) -> "Bot":
        """Return another bot with the same configuration and its own log."""
        other = copy.copy(self)
        other.log, other._process = self.log.with_name("beside.log"), None
        return other

    async def start(self, **environment: str) -> None:
        """Start the process and wait for its login; RuntimeError with its log if it ends."""
        await self.begin(**environment)
        await self.started()

    async def started(self) -> None:
        """Wait until the process is logged in; RuntimeError if it ends."""
        async with asyncio.timeout(_START_SECONDS):
            while self.told("started") is None:
                if not self.runs:
                    raise RuntimeError(f"the bot ended at its start:\n{self.log.read_text()}")
                await asyncio.sleep(_POLL_SECONDS)

    async def begin(self, **environment: str) -> None:
        """Start the process with additional environment variables, without waiting."""
        self.log.touch()
        self._begins = self.log.stat().st_size
        self._process = await self.launch(self.config, self.log, environment)

    def told(self, event: str) -> datetime | None:
        """Return when the last process first logged that event; None if it has not."""
        with self.log.open("rb") as log:
            log.seek(self._begins)
            for line in log:
                if f'"event": "{event}"'.encode() in line and line.endswith(b"}\n"):
                    return datetime.fromisoformat(json.loads(line)["timestamp"])
        return None

    async def stop(self) -> int:
        """Stop the process in order (SIGTERM); return its exit code, 0 if it does not run."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """Kill the process (SIGKILL), as a crash does."""
        await self._end(signal.SIGKILL)

    async def restart(self) -> None:
        """Stop the process in order, and start it again."""
        await self.stop()
        await self.start()

    def said(self, event: str) -> int:
        """Return the number of log lines of one event."""
        return self.log.read_text().count(f'"event": "{event}"') if self.log.exists() else 0

    async def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.returncode is None:
            process.send_signal(number)
        async with asyncio.timeout(_STOP_SECONDS):
            code = await process.wait()
        if self._watched:
            canaries.search(self.log, self._storage)
        return code

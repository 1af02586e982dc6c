"""Owns the bot as an operator runs it: a configuration file and one `assistant-tchap` process."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any, Self

import yaml

from bot.core.events import UserId
from tests.stand import canaries

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.02

# `python -m bot`, but for the pipe from us: it closes when we end, however we end, and with it
# ends the bot, which itself, in production, minds no stdin.
_BOT_THAT_ENDS_WITH_US = """
import os, runpy, threading
def end_with_parent():
    os.read(0, 1)
    os._exit(1)
threading.Thread(target=end_with_parent, daemon=True).start()
runpy.run_module("bot", run_name="__main__", alter_sys=True)
"""


def _environment() -> dict[str, str]:
    """Return ours, but let the first start write the bytecode that makes the next ones fast."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return inherited | {"PYTHONUNBUFFERED": "1"}


class Bot:
    """One bot whose files outlive `stop`, `kill` and `restart`.

    In an `async with` block each of these raises Leaked where a file holds a text that was said.

    Attributes:
        user_id: its account.
        log: its structured log, one JSON object a line.
    """

    def __init__(self, directory: Path, user_id: UserId, **sections: dict[str, Any]) -> None:
        """Write the configuration; `sections` are those of config.example.yaml."""
        self.user_id = user_id
        self.directory = directory
        self.log = directory / "bot.log"
        self.config = directory / "config.yaml"
        sections.setdefault("storage", {"directory": str(directory / "data"), "key": "s" * 32})
        self.config.write_text(yaml.safe_dump(sections))
        self._storage = Path(sections["storage"]["directory"])
        self._watched = False
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        # The demo only starts and stops it: a word typed there may well be one of the schema's.
        self._watched = True
        await self.start()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        code, log = await self.stop(), self.log.read_text()
        if kind is None and (code or '"event": "bug"' in log or "Traceback" in log):
            raise RuntimeError(f"the bot ended with {code}, or had met a bug:\n{log}")

    @property
    def pid(self) -> int | None:
        """The process's id, None while there is none."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the process, return once it is logged in; RuntimeError with its log if it dies."""
        before = self.said("started")
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _BOT_THAT_ENDS_WITH_US,
                "run",
                "--config",
                str(self.config),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_environment(),
                start_new_session=True,  # a terminal's Ctrl-C is for us, who then stop it in order
            )
        async with asyncio.timeout(_START_SECONDS):
            while self.said("started") == before:
                if self._process.returncode is not None:
                    raise RuntimeError(f"the bot ended at its start:\n{self.log.read_text()}")
                await asyncio.sleep(_POLL_SECONDS)

    async def stop(self) -> int:
        """End the process in order (SIGTERM) and return its exit code, 0 where there is none."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """End the process at once (SIGKILL), as a crash does."""
        await self._end(signal.SIGKILL)

    async def restart(self) -> None:
        """Stop in order and start again."""
        await self.stop()
        await self.start()

    def said(self, event: str) -> int:
        """Count the log's lines of one kind."""
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

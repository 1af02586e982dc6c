"""A process that has imported all that the bot needs, and forks one child per start."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

_START_SECONDS = 60.0
TIMINGS = "HARNESS_TIMINGS"  # environment variable with fields of `bot.app.Timings`, as JSON

# It reads one order a line from stdin, and tells on stdout when a child begins and ends. It has
# no thread and no event loop, so a child begins as a fresh process does. The lifeline is a pipe
# that nobody writes to: it closes when we end, however we end, and then the children end.
_PARENT = """
import functools, importlib, json, os, select, signal, sys, threading
from datetime import datetime, timezone
import bot.__main__, bot.app
from bot.process import freeze_garbage_collector
from bot.runtime.failpoints import VARIABLE, Failpoints, armed

for name in (  # what is imported on first use
    "aiosqlite", "encodings.utf_8_sig", "httpcore2", "jiter", "openai.resources.chat.completions",
    "truststore", "Crypto.Cipher.AES",
):
    importlib.import_module(name)

lifeline, orders, TIMINGS = int(sys.argv[1]), b"", sys.argv[2]
ended, wakes = os.pipe()
os.set_blocking(ended, False)
os.set_blocking(wakes, False)
signal.signal(signal.SIGCHLD, lambda *_: None)
signal.set_wakeup_fd(wakes)

def tell(what):
    os.write(1, json.dumps(what).encode() + b"\\n")

def end_with_parent():
    os.read(lifeline, 1)
    os._exit(1)

def run(order):
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()  # a terminal's Ctrl-C is not for us
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for here, there in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(here, there)
    for one in (nothing, log, ended, wakes):
        os.close(one)
    os.environ.update(order["environment"])
    vars(armed).update(vars(Failpoints(os.environ.get(VARIABLE, ""))))
    threading.Thread(target=end_with_parent, daemon=True).start()
    at = datetime.now(timezone.utc).isoformat()
    tell({"event": "imported", "level": "debug", "timestamp": at})
    timings = bot.app.Timings(**json.loads(os.environ.get(TIMINGS, "{}")))
    bot.app.run = functools.partial(bot.app.run, timings=timings)
    sys.argv[:] = ["assistant-tchap", "run", "--config", order["config"], *order["options"]]
    bot.__main__.main()

def reap():
    try:
        os.read(ended, 65536)
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            tell({"ended": found[0], "code": os.waitstatus_to_exitcode(found[1])})
    except (BlockingIOError, ChildProcessError):
        pass

freeze_garbage_collector()
assert threading.active_count() == 1
tell({})
while True:
    ready, _, _ = select.select([0, ended], [], [])
    if 0 in ready:
        heard = os.read(0, 65536)
        if not heard:
            break
        *lines, orders = (orders + heard).split(b"\\n")
        for line in lines:
            pid = os.fork()
            if pid == 0:
                run(json.loads(line))
                sys.exit()
            tell({"began": pid})
    reap()
"""


class Forked:
    """A child of the fork server."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.Event()

    def send_signal(self, signal: int) -> None:
        """Send a signal, unless the child has ended."""
        if self.returncode is None:
            os.kill(self.pid, signal)

    async def wait(self) -> int:
        """Wait for the end of the child, and return its exit code."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def end(self, code: int) -> None:
        """Record that the child has ended."""
        self.returncode = code
        self._ended.set()


class ForkServer:
    """Starts bots without the time of their imports; they end when it does."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._lifeline = -1
        self._running: dict[int, Forked] = {}
        self._begun: asyncio.Queue[Forked] = asyncio.Queue()
        self._listening: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        theirs, self._lifeline = os.pipe()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _PARENT, str(theirs), TIMINGS),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment | {"PYTHONUNBUFFERED": "1"},
            pass_fds=[theirs],
            start_new_session=True,
        )
        os.close(theirs)
        assert self._process.stdout
        async with asyncio.timeout(_START_SECONDS):
            if not await self._process.stdout.readline():
                raise RuntimeError("the fork server ended at its start")
        self._listening = asyncio.get_running_loop().create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        os.close(self._lifeline)
        assert self._process
        assert self._process.stdin
        self._process.stdin.close()
        await self._process.wait()
        assert self._listening
        await self._listening

    @property
    def pid(self) -> int | None:
        """The process id of the server; None while there is none."""
        return self._process.pid if self._process else None

    async def launch(
        self,
        config: Path,
        log: Path,
        environment: Mapping[str, str],
        *,
        options: Sequence[str] = (),
    ) -> Forked:
        """Start the bot like `assistant-tchap run --config`.

        Args:
            config: the configuration file.
            log: the file for its output.
            environment: environment variables, in addition to those of this process.
            options: options of the command line, in addition to the configuration.
        """
        order = {
            "config": str(config),
            "log": str(log),
            "environment": dict(environment),
            "options": list(options),
        }
        assert self._process
        assert self._process.stdin
        async with self._turn, asyncio.timeout(_START_SECONDS):
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            return await self._begun.get()

    async def _listen(self) -> None:
        assert self._process
        assert self._process.stdout
        while line := await self._process.stdout.readline():
            told = json.loads(line)
            if "began" in told:
                child = self._running[told["began"]] = Forked(told["began"])
                self._begun.put_nowait(child)
            else:
                self._running.pop(told["ended"]).end(told["code"])
        for child in self._running.values():  # they end with the server, which cannot report it
            child.end(-signal.SIGKILL)

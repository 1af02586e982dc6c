"""The parts of the demo: homeserver, model, bot and agent; started, watched and ended together."""

import asyncio
import json
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import psutil
from rich.progress import Progress

from bot.config.settings import load
from bot.identity import rows
from bot.matrix.own_devices import status
from bot.matrix.session import Session
from bot.monitoring.health import Health
from bot.runtime.clock import SystemClock
from bot.startup import account_of, vault_of
from bot.storage.ledger import SqlStore
from tests.harness import demo_model
from tests.harness.bot import ASKS_ALWAYS, Bot
from tests.harness.client_view import JSON, Seen
from tests.harness.dialogue import Agent, Dialogue
from tests.harness.model import ScriptedAnswer, ScriptedModel
from tests.harness.network import free_port
from tests.harness.person import Refused
from tests.harness.sample import Sample, fill
from tests.harness.synapse import Synapse

_WATCH_SECONDS = 0.2
_START_SECONDS = 60.0
_LOG_LINES_SHOWN = 20
_SAMPLE = 5_000  # replies
_SETTINGS: JSON = {
    "temperature": 0,
    "max_tokens": 200,
    "system_prompt": "You answer in English, in two or three short sentences.",
}
_FORESEEN = (RuntimeError, TimeoutError, Refused, aiohttp.ClientError)


class Failed(Exception):
    """The demo cannot go on; the message says why."""


@asynccontextmanager
async def playing(progress: Progress, *, sample: bool = False) -> AsyncIterator[Dialogue]:
    """Start all parts, yield the conversation, and end all parts in order.

    Args:
        progress: the display of the start.
        sample: whether the ledger gets invented ratings.

    Raises:
        Failed: a part did not start or has ended on its own, or a reply did not come.
    """
    try:
        async with AsyncExitStack() as parts, asyncio.TaskGroup() as tasks:
            directory = Path(parts.enter_context(TemporaryDirectory(prefix="assistant-demo-")))
            ensemble = _Ensemble(directory, parts, progress, sample=sample)
            watching = tasks.create_task(ensemble.watch())
            with progress:
                dialogue = await ensemble.begin(tasks)
            with _explained(dialogue.bot):
                yield dialogue
            watching.cancel()
    except ExceptionGroup as group:
        raise group.exceptions[0] from group  # the error that ended the other tasks
    except TimeoutError as error:
        raise Failed(
            "A part did not end in time: it was left to end with this program."
        ) from error


class _Ensemble:
    """The parts, each with its folder, its line of progress and its end."""

    def __init__(
        self, directory: Path, parts: AsyncExitStack, progress: Progress, *, sample: bool
    ) -> None:
        self._directory = directory
        self._sample = sample
        self._parts = parts
        self._progress = progress
        self._running: dict[str, tuple[psutil.Process, Path]] = {}

    async def watch(self) -> None:
        """Raise Failed when a process has ended that should run."""
        while True:
            for name, (process, log) in self._running.items():
                if not process.is_running():
                    raise Failed(f"{name} has ended on its own. Its log:\n{_tail(log)}")
            await asyncio.sleep(_WATCH_SECONDS)

    async def begin(self, tasks: asyncio.TaskGroup) -> Dialogue:
        """Start the parts, in parallel where possible; let the agent meet the bot."""
        homeserver = tasks.create_task(self._start_homeserver())
        model = tasks.create_task(self._start_model())
        synapse, backend = await homeserver, await model
        starting = tasks.create_task(self._start_bot(synapse, backend))
        agent = await self._start_agent(synapse)
        bot = await starting
        with self._step("Encrypted conversation between signed devices"):
            await agent.exclude_unsigned(bot.user_id)
            room_id = await agent.open_direct_message(bot.user_id)

            def by_the_bot(seen: Seen) -> bool:
                return seen.sender == bot.user_id and bool(seen.body)

            welcome = await agent.wait_for_message(room_id, by_the_bot, within=_START_SECONDS)
            identity = await _identity(bot)
        return Dialogue(agent, bot, room_id, welcome.body, identity)

    async def _start_homeserver(self) -> Synapse:
        with self._step("Homeserver (Synapse)"):
            synapse = Synapse(self._folder("synapse"))
            await self._parts.enter_async_context(synapse)
            self._running["Synapse"] = psutil.Process(synapse.pid), synapse.log
        return synapse

    async def _start_model(self) -> JSON:
        """Start the model, and return the `model` section of the bot's configuration."""
        if demo_model.available():
            with self._step("Small model (SmolLM2)"):
                return await self._start_small_model()
        with self._step("Scripted model"):
            slow = ScriptedAnswer(tokens_per_second=4)
            scripted = await self._parts.enter_async_context(ScriptedModel(default=slow))
        return {"base_url": scripted.url, "name": "scripted"}

    async def _start_small_model(self) -> JSON:
        path = self._directory / "model.log"
        with path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                demo_model.__name__,
                stdin=asyncio.subprocess.PIPE,  # it ends when this closes
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # no Ctrl-C of a terminal: this process stops it in order
            )
        self._parts.push_async_callback(_end, process)
        assert process.stdout
        async with asyncio.timeout(_START_SECONDS):
            line = await process.stdout.readline()
        if not line:
            raise Failed(f"The model did not start. Its log:\n{_tail(path)}")
        self._running["The model"] = psutil.Process(process.pid), path
        address = json.loads(line)
        return {"base_url": address["url"], "name": address["model"]}

    async def _start_agent(self, synapse: Synapse) -> Agent:
        with self._step("Agent's Matrix client"):
            password = secrets.token_urlsafe(9)
            user_id = await synapse.register("agent", password, displayname="Agent")
            agent = Agent(synapse.url, user_id, password, self._folder("agent"))
            await self._parts.enter_async_context(agent)
        return agent

    async def _start_bot(self, synapse: Synapse, backend: JSON) -> Bot:
        with self._step("Bot"):
            password = secrets.token_urlsafe()
            user_id = await synapse.register("assistant", password, displayname="Assistant IA")
            account = {"homeserver": synapse.url, "user_id": user_id, "password": password}
            sections: JSON = {
                "matrix": account,
                "model": _SETTINGS | backend,
                "feedback": ASKS_ALWAYS,
                "dashboard": {"port": free_port(), "public": True},
                "language": "en",
            }
            bot = Bot(self._folder("bot"), user_id, **sections)
            if self._sample:
                await _fill(bot)
            self._parts.push_async_callback(bot.stop)  # also if its start is interrupted
            await bot.start()
            self._running["The bot"] = psutil.Process(bot.pid), bot.log
        return bot

    def _folder(self, name: str) -> Path:
        folder = self._directory / name
        folder.mkdir()
        return folder

    @contextmanager
    def _step(self, description: str) -> Iterator[None]:
        """Show the block as one step, which fails if the block does."""
        task = self._progress.add_task(description, total=1)
        try:
            yield
        except _FORESEEN as error:
            raise Failed(f"{description}: {error or 'not done in time'}") from error
        self._progress.update(task, completed=1)
        self._progress.stop_task(task)


@contextmanager
def _explained(bot: Bot) -> Iterator[None]:
    """Turn errors of a conversation into Failed, with the bot's own message."""
    try:
        yield
    except _FORESEEN as error:
        raise Failed(f"{error}\nThe bot's log:\n{_tail(bot.log)}") from error


async def _identity(bot: Bot) -> dict[str, str]:
    """Return the lines of `assistant-tchap identity status`."""
    config = load(bot.config)
    session = Session(account_of(config), vault_of(config))
    try:
        return dict(rows(await status(session)))
    finally:
        await session.close()


async def _fill(bot: Bot) -> None:
    """Create a ledger with invented ratings, before the bot opens it."""
    path = bot.directory / "data" / "ledger.db"
    path.parent.mkdir(mode=0o700)
    store = await SqlStore.open(path, bot.user_id, bot.key, Health(clock=SystemClock()))
    await store.close()
    now = datetime.now(UTC)
    await asyncio.to_thread(fill, path, bot.key, Sample(_SAMPLE, end=now))


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()  # it has nothing to lose
    await process.wait()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:])

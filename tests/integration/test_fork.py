"""Proves the fork server: its bots are as good as ordinary processes, and sooner there."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from bot.runtime.failpoints import VARIABLE
from tests.harness.bot import Bot
from tests.harness.expectations import reply, talk, until
from tests.harness.fork import Forked, ForkServer
from tests.harness.model import ScriptedModel
from tests.harness.nio_person import NioPerson
from tests.harness.synapse import Synapse

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

REPOSITORY = Path(__file__).parents[2]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[ForkServer]:
    async with ForkServer() as running:
        yield running


async def test_a_forked_bot_is_started_killed_failed_and_stopped_like_any_other(
    server: ForkServer, tmp_path: Path
) -> None:
    async with Synapse(tmp_path) as synapse, ScriptedModel() as model:
        me = await synapse.register("assistant", "secret")
        account = {"homeserver": synapse.url, "user_id": me, "password": "secret"}
        bot = Bot(tmp_path, me, matrix=account, model={"base_url": model.url, "name": "scripted"})
        bot.launch = server.launch
        agent = await synapse.register("nia", "secret")
        async with bot, NioPerson(synapse.url, agent, "secret", tmp_path) as nia:
            room_id = await talk(nia, me)
            first = bot.pid
            await bot.kill()
            await bot.start(**{VARIABLE: "admit.before:kill"})
            prompt = await nia.write(room_id, "Vous revenez ?")
            await until(lambda: not bot.runs)
            assert await bot.stop() == -signal.SIGKILL
            await bot.start()
            await reply(nia, room_id, prompt, "You said: Vous revenez ?.")
            assert bot.pid != first
            assert await bot.stop() == 0

    assert bot.said("imported") == bot.said("started") == 3


async def test_what_a_start_has_to_say_is_in_its_log(server: ForkServer, tmp_path: Path) -> None:
    child = await server.launch(tmp_path / "missing.yaml", tmp_path / "bot.log", {})

    assert await child.wait() == 2
    told, said = (tmp_path / "bot.log").read_text().splitlines()
    assert json.loads(told)["event"] == "imported"
    assert "missing.yaml" in said


async def test_no_bot_outlives_us(tmp_path: Path) -> None:
    config, log = str(tmp_path / "fifo"), str(tmp_path / "bot.log")
    os.mkfifo(config)  # a start that never ends
    us = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _US, config, log), cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE
    )
    assert us.stdout
    children = [psutil.Process(int(pid)) for pid in (await us.stdout.readline()).split()]
    us.kill()
    await us.wait()

    ended, alive = await asyncio.to_thread(psutil.wait_procs, children, timeout=10)

    assert (len(ended), alive) == (2, [])


async def test_a_child_that_has_ended_gets_no_signal() -> None:
    child = Forked(os.getpid())
    child.end(0)

    child.send_signal(signal.SIGKILL)

    assert await child.wait() == 0


_US = """
import asyncio, sys
from pathlib import Path
from tests.harness.fork import ForkServer

async def main():
    async with ForkServer() as server:
        child = await server.launch(Path(sys.argv[1]), Path(sys.argv[2]), {})
        print(server.pid, child.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""

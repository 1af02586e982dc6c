"""Proves the demo as one starts it: its answers, and that nothing of it stays behind."""

import asyncio
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from bot.core.events import UserId
from tests.harness import demo_model
from tests.harness.js_person import JsPerson

pytestmark = pytest.mark.timeout(120)  # on a busy machine a start takes half a minute

REPOSITORY = Path(__file__).parents[2]
ALL = 3 if demo_model.available() else 2  # the scripted model is no process of its own


@asynccontextmanager
async def demo(directory: Path, **variables: str) -> AsyncIterator[Process]:
    """Start the demo; its temporary files go to `directory`."""
    environment = os.environ | {"ASK": "", "JSON": "", "TMPDIR": str(directory)} | variables
    command = [sys.executable, "-m", "tests.harness.demo"]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=REPOSITORY, env=environment, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    try:
        async with asyncio.timeout(100):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def children(process: Process, count: int) -> list[psutil.Process]:
    """Return the processes that the demo has started, oldest first, once there are so many."""
    while True:
        found = psutil.Process(process.pid).children()
        if len(found) >= count:
            return sorted(found, key=psutil.Process.create_time)
        await asyncio.sleep(0.02)


async def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, timeout=5)
    assert alive == []


def assert_empty(directory: Path) -> None:
    assert list(directory.iterdir()) == []


async def said(process: Process) -> str:
    """Return what the demo says besides the conversation, once it has ended."""
    _, errors = await process.communicate()
    return errors.decode()


async def test_one_question_prints_each_step_of_its_answer(tmp_path: Path) -> None:
    async with demo(tmp_path, ASK="Who are you?", JSON="1") as process:
        out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    steps = [json.loads(line) for line in out.splitlines()]
    assert all(step.keys() == {"t", "kind", "text"} for step in steps)
    edits = ["edit"] * (len(steps) - 2)
    assert [step["kind"] for step in steps] == ["first", *edits, "final"]
    times = [step["t"] for step in steps]
    assert times[0] > 0
    assert times == sorted(times)
    assert steps[-1]["text"] == steps[-2]["text"] != ""
    assert_empty(tmp_path)


async def test_every_line_that_is_piped_in_is_asked_in_turn_and_a_poll_answered_by_numbers(
    tmp_path: Path,
) -> None:
    async with demo(tmp_path) as process:
        out, errors = await process.communicate(b"Two and two?\n9\n2\n4\n1\n\n!help\nThen?")
    assert process.returncode == 0, errors.decode()
    credentials, two, other, vote, reason, after, empty, helped, then, end = out.decode().split(
        "\n> "
    )
    assert "@agent:stand.test, password " in credentials
    assert "signed by the account's identity" in credentials
    assert two.startswith("Two and two?\n")
    assert "final, " in two
    assert "1. Yes" in two
    assert "final, " in other  # there is no such answer: it is a prompt
    assert "1. It is inaccurate" in vote
    assert "Thank you" in reason
    assert "final, " in after
    assert empty == ""
    assert helped.startswith("!help\n")
    assert "not the model's words" in helped
    assert then.startswith("Then?\n")
    assert "final, " in then
    assert end == "\n"


async def test_a_strict_client_that_joins_is_answered(tmp_path: Path) -> None:
    async with demo(tmp_path) as process:
        assert process.stdout
        shown = (await process.stdout.readuntil(b"\n> ")).decode()
        url = re.search(r"Homeserver +(\S+)", shown)
        password = re.search(r"@agent:stand.test, password (\S+)", shown)
        bot = re.search(r"Assistant IA +(@\S+)", shown)
        assert url
        assert password
        assert bot
        async with JsPerson(url[1], UserId("@agent:stand.test"), password[1]) as agent:
            await agent.bootstrap_cross_signing()
            await agent.isolate(on=True)
            room_id = await agent.open_direct_message(UserId(bot[1]))
            await agent.send(room_id, "!help")
            helped = await agent.wait_for_message(
                room_id, lambda seen: "!help" in seen.body and seen.sender == bot[1]
            )
            assert await agent.shield(room_id, helped.event_id) == {
                "colour": "NONE",
                "reason": None,
            }
        _, errors = await process.communicate(b"/quit\n")
    assert process.returncode == 0, errors.decode()


async def test_json_without_a_question_is_refused(tmp_path: Path) -> None:
    async with demo(tmp_path, JSON="1") as process:
        assert "ASK" in await said(process)
    assert process.returncode == 1


async def test_ctrl_c_while_it_starts_leaves_nothing_behind(tmp_path: Path) -> None:
    async with demo(tmp_path) as process:
        started = await children(process, 1)
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in await said(process)
    assert process.returncode == 130
    await assert_gone(started)
    assert_empty(tmp_path)


async def test_ctrl_c_at_the_prompt_leaves_nothing_behind(tmp_path: Path) -> None:
    async with demo(tmp_path) as process:
        assert process.stdout
        await process.stdout.readuntil(b"\n> ")
        started = await children(process, ALL)
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in await said(process)
    assert process.returncode == 130
    await assert_gone(started)
    assert_empty(tmp_path)


async def test_nothing_outlives_a_killed_demo(tmp_path: Path) -> None:
    async with demo(tmp_path) as process:
        started = await children(process, ALL)
        process.kill()
        await process.wait()
    await assert_gone(started)


async def test_a_bot_that_dies_ends_the_demo_with_a_sentence(tmp_path: Path) -> None:
    async with demo(tmp_path) as process:
        *others, bot = await children(process, ALL)
        bot.kill()
        errors = await said(process)
    assert process.returncode == 1
    assert "the bot ended at its start" in errors
    assert "Traceback" not in errors
    await assert_gone(others)

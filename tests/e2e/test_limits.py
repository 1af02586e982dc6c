"""A homeserver with rate limits: ten events, then one every five seconds, or four a second."""

import asyncio
from pathlib import Path

import pytest

from bot.core.events import RoomId
from bot.core.markdown import render
from bot.matrix.parse import MARKER
from tests.harness.bot import Bot, Launch
from tests.harness.model import ScriptedAnswer, ScriptedModel
from tests.harness.nio_person import NioPerson
from tests.harness.synapse import Limits, Synapse

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONVERSATIONS = 8
TEXT = "The sky is blue. " + "So it goes on, word by word. " * 12 + "The end."


@pytest.mark.parametrize(
    "limits",
    ["quick", pytest.param("default", marks=[pytest.mark.soak, pytest.mark.timeout(300)])],
)
async def test_eight_at_once_each_get_their_whole_reply(
    tmp_path: Path, model: ScriptedModel, launch: Launch, limits: Limits
) -> None:
    model.when("slowly", ScriptedAnswer(text=TEXT, tokens_per_second=40))
    for name in ("synapse", "bot", "person"):
        (tmp_path / name).mkdir()
    async with Synapse(tmp_path / "synapse", limits=limits) as synapse:
        assistant = await synapse.register("assistant", "secret")
        agent = await synapse.register("agent", "secret")
        matrix = {"homeserver": synapse.url, "user_id": assistant, "password": "secret"}
        async with (
            Bot(
                tmp_path / "bot",
                assistant,
                launch,
                matrix=matrix,
                model={"base_url": model.url, "name": "scripted"},
            ) as bot,
            NioPerson(synapse.url, agent, "secret", tmp_path / "person") as person,
        ):

            async def ask() -> RoomId:
                room_id = await person.open_direct_message(assistant, first_prompt="slowly")
                await person.wait_for_message(
                    room_id, lambda seen: seen.body == render(TEXT).body, within=200
                )
                return room_id

            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(ask()) for _ in range(CONVERSATIONS)]
            rooms = [task.result() for task in asked]
            log = bot.log.read_text()

    for room_id in rooms:
        assert [MARKER in seen.content for seen in person.messages(room_id)].count(True) == 1
    assert "M_LIMIT_EXCEEDED" in log

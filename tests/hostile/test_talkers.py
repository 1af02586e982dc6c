"""Those who write without end: another assistant, an echo, a person with many threads."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bot.core.events import EventId, RoomId, UserId
from tests.harness.bot import UNLIMITED, Bot, Launch
from tests.harness.client_view import Seen
from tests.harness.expectations import notice, reply, said, spoken, until
from tests.harness.fork import ForkServer
from tests.harness.model import ScriptedAnswer, ScriptedModel
from tests.harness.nio_person import NioPerson
from tests.harness.synapse import Synapse

pytestmark = pytest.mark.timeout(300)

LOUD = ScriptedAnswer(text="The first sentence of an answer. And here is another one of it.")


@pytest.fixture(autouse=True)
def _untraced(untraced: None) -> None:
    """Measure no coverage: the code under test runs in other processes."""


@dataclass
class TalkersSetup:
    """A homeserver, a model, and the bots and persons that a test adds."""

    synapse: Synapse
    model: ScriptedModel
    launch: Launch
    folder: Path
    parts: AsyncExitStack

    async def bot(self, name: str, **sections: dict[str, Any]) -> Bot:
        user_id = await self.synapse.register(name, "secret", displayname=name)
        bot = Bot(
            self._folder(name),
            user_id,
            self.launch,
            matrix={"homeserver": self.synapse.url, "user_id": user_id, "password": "secret"},
            model={"base_url": self.model.url, "name": "scripted"},
            log={"level": "debug"},
            **sections,
        )
        return await self.parts.enter_async_context(bot)

    async def person(self, name: str) -> NioPerson:
        user_id = await self.synapse.register(name, "secret")
        person = NioPerson(self.synapse.url, user_id, "secret", self._folder(name))
        return await self.parts.enter_async_context(person)

    def _folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        return folder


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[TalkersSetup]:
    (folder / "synapse").mkdir()
    async with AsyncExitStack() as parts:
        synapse = await parts.enter_async_context(Synapse(folder / "synapse"))
        model = await parts.enter_async_context(ScriptedModel(default=LOUD))
        server = await parts.enter_async_context(ForkServer())
        yield TalkersSetup(synapse, model, server.launch, folder, parts)


def told(bot: Bot, event: str, **values: str) -> int:
    """Count the log's lines of one kind that hold these values."""
    lines = [json.loads(line) for line in bot.log.read_text().splitlines() if line[:1] == "{"]
    return sum(values.items() <= line.items() for line in lines if line["event"] == event)


async def test_two_assistants_left_alone_in_a_direct_message_fall_silent(tmp_path: Path) -> None:
    """Neither knows the other as a bot; only the marker tells them, for all limits are off."""
    async with stage(tmp_path) as on:
        one = await on.bot("one", limits=dict(UNLIMITED))
        other = await on.bot("other", limits=dict(UNLIMITED))
        person, gate = await on.person("person"), asyncio.Event()
        on.model.when("leave you two", ScriptedAnswer(text=LOUD.text, gate=gate))
        on.model.when(
            "first sentence of an answer", ScriptedAnswer(text="An answer to an answer. Not more.")
        )
        room_id = await person.open_direct_message(one.user_id, encrypted=False)
        await notice(person, room_id, "welcome")
        await person.send(room_id, "Now I leave you two alone.")
        await on.model.asked()
        await person.invite(room_id, other.user_id)
        await person.wait_joined(room_id, other.user_id)
        await person.leave(room_id)
        gate.set()

        # The other one takes it for forwarded, and answers it, anew where its last words come
        # late; nobody answers that.
        await until(lambda: told(one, "ignored", reason="another bot") > 0)
        await until(lambda: told(other, "reply sent") == 1)

        assert told(one, "reply sent") == 1
        prompts = [exchange.prompt for exchange in on.model.exchanges]
        assert any("first sentence of an answer" in prompt for prompt in prompts)
        assert not any("An answer to an answer" in prompt for prompt in prompts)


@pytest.mark.parametrize("encrypted", [True, False], ids=["encrypted", "in clear"])
async def test_a_bot_that_echoes_all_is_answered_a_few_times(
    tmp_path: Path, *, encrypted: bool
) -> None:
    async with stage(tmp_path) as on:
        bot = await on.bot("assistant", limits={})
        echo = await on.person("echo")
        room_id = await echo.open_direct_message(bot.user_id, encrypted=encrypted)
        await notice(echo, room_id, "welcome")
        heard = set[EventId]()

        def unheard(seen: Seen) -> bool:
            return seen.sender == bot.user_id and bool(seen.body) and seen.event_id not in heard

        while not told(bot, "conversation paused"):
            seen = await echo.wait_for_message(room_id, unheard)
            heard.add(seen.event_id)
            await echo.send(room_id, f"Echo {len(heard)}: {seen.body}")
        await notice(echo, room_id, "paused")
        last = await echo.send(room_id, "Echo of a pause")
        await until(lambda: told(bot, "decided", event_id=last, intent="Ignore") == 1)

        assert len(on.model.exchanges) <= 7
        assert told(bot, "conversation paused") == 1
        sentences = [seen.body for seen in spoken(echo, room_id, bot.user_id)]
        assert sentences.count(said("paused")) == 1


async def test_one_person_s_long_answers_keep_nobody_waiting(tmp_path: Path) -> None:
    async with stage(tmp_path) as on:
        bot = await on.bot("assistant")
        people = [await on.person(name) for name in ("flood", "ada", "bob")]
        rooms = [await open_talk(person, bot.user_id) for person in people]
        gate = asyncio.Event()
        on.model.when("without end", ScriptedAnswer(text=LOUD.text, after=6, gate=gate))
        flood, *honest = zip(people, rooms, strict=True)
        roots = [await flood[0].send(flood[1], f"Thread {number}") for number in range(25)]
        await until(lambda: told(bot, "reply sent") >= 1)
        for root in roots:
            await flood[0].write(flood[1], "One without end.", thread=root)
        await until(lambda: asked_without_end(on.model) == 10)

        for person, room_id in honest:
            prompt = await person.send(room_id, "Who am I?")
            await reply(person, room_id, prompt, str(LOUD.text))

        assert asked_without_end(on.model) == 10
        gate.set()
        await until(lambda: asked_without_end(on.model) == 25, within=60)


def asked_without_end(model: ScriptedModel) -> int:
    return sum("without end" in one.prompt for one in model.exchanges)


async def open_talk(person: NioPerson, bot: UserId) -> RoomId:
    room_id = await person.open_direct_message(bot, encrypted=False)
    await notice(person, room_id, "welcome")
    return room_id

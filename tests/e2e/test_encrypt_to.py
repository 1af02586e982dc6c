"""`matrix.encrypt_to: signed`: who reads the bot, who is told that they cannot."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from bot.core.events import RoomId
from tests.harness.bot import Bot, Launch
from tests.harness.client_view import Seen
from tests.harness.expectations import said, until
from tests.harness.js_person import JsPerson
from tests.harness.model import ScriptedModel
from tests.harness.nio_person import NioPerson
from tests.harness.person import Person
from tests.harness.synapse import Synapse

pytestmark = pytest.mark.asyncio(loop_scope="session")

WITHHELD = "MEGOLM_KEY_WITHHELD_FOR_UNVERIFIED_DEVICE"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def careful_bot(
    synapse: Synapse,
    model: ScriptedModel,
    launch: Launch,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Bot]:
    user_id = await synapse.register("careful-assistant", "secret")
    matrix = {"homeserver": synapse.url, "user_id": user_id, "password": "secret"}
    async with Bot(
        tmp_path_factory.mktemp("careful"),
        user_id,
        launch,
        matrix={**matrix, "encrypt_to": "signed"},
        model={"base_url": model.url, "name": "scripted"},
        log={"level": "debug"},
    ) as running:
        yield running


async def answered(person: Person, room_id: RoomId, bot: Bot, text: str) -> Seen:
    await person.send(room_id, text)
    return await person.wait_for_message(
        room_id, lambda seen: seen.sender == bot.user_id and text in seen.body
    )


async def test_a_device_that_is_not_signed_is_told_that_the_key_is_withheld_until_it_is(
    synapse: Synapse, careful_bot: Bot
) -> None:
    user_id = await synapse.register("unsigned-erin", "secret")
    async with JsPerson(synapse.url, user_id, "secret") as erin:
        room_id = await erin.open_direct_message(careful_bot.user_id)
        unread = await erin.wait_for_message(
            room_id, lambda seen: seen.sender == careful_bot.user_id and bool(seen.failure)
        )
        await until(lambda: unread.failure == WITHHELD)

        await erin.bootstrap_cross_signing()
        reply = await answered(erin, room_id, careful_bot, "Can I read this now")

        assert reply.failure is None
        lines = map(json.loads, careful_bot.log.read_text().splitlines())
        told = [line for line in lines if line["event"] == "devices left out"]
        assert user_id not in [line["user_id"] for line in told]  # who could not read it


async def test_who_has_a_signed_device_is_told_once_that_another_is_left_out(
    synapse: Synapse, careful_bot: Bot, tmp_path: Path
) -> None:
    user_id = await synapse.register("half-signed-frank", "secret")
    async with (
        JsPerson(synapse.url, user_id, "secret") as frank,
        NioPerson(synapse.url, user_id, "secret", tmp_path) as phone,
    ):
        await frank.bootstrap_cross_signing()
        room_id = await frank.open_direct_message(careful_bot.user_id)
        await frank.wait_for_message(
            room_id, lambda seen: seen.body == said("devices left out"), within=30
        )
        await answered(frank, room_id, careful_bot, "Which one is it")
        reply = await answered(frank, room_id, careful_bot, "And again")

        sentences = [seen.body for seen in frank.messages(room_id)]
        assert sentences.count(said("devices left out")) == 1
        await until(lambda: bool(seen_by(phone, room_id, reply)))
        assert seen_by(phone, room_id, reply)[0].failure


def seen_by(person: Person, room_id: RoomId, seen: Seen) -> list[Seen]:
    return [one for one in person.messages(room_id) if one.event_id == seen.event_id]

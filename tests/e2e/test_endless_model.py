"""A model that does not end: what people see of it, and that they can stop it."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from bot.matrix.parse import MARKER
from tests.harness.bot import Bot, Launch
from tests.harness.expectations import begun, replies_to, said, talk
from tests.harness.person import Person
from tests.harness.synapse import Synapse
from tests.hostile.backends import ENDLESS, misbehaving

pytestmark = pytest.mark.asyncio(loop_scope="session")

_MAX_TOKENS = 30_000
_PARTS = 8 * _MAX_TOKENS // 6_000


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def bot(
    synapse: Synapse, launch: Launch, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bot]:
    """A bot whose model says what is 40 messages long at once, and goes on."""
    user_id = await synapse.register("endless", "secret", displayname="Assistant IA")
    async with (
        misbehaving(ENDLESS["words"]) as url,
        Bot(
            tmp_path_factory.mktemp("endless"),
            user_id,
            launch,
            matrix={"homeserver": synapse.url, "user_id": user_id, "password": "secret"},
            model={
                "base_url": url,
                "name": "endless",
                "max_tokens": _MAX_TOKENS,
                "context_length": 3 * _MAX_TOKENS,
            },
            log={"level": "debug"},
        ) as running,
    ):
        yield running


@pytest.mark.parametrize("way", ["🛑", "!stop"])
async def test_an_answer_of_forty_messages_is_stopped_between_two_of_them(
    nia: Person, bot: Bot, way: str
) -> None:
    room_id = await talk(nia, bot.user_id)
    prompt = await nia.write(room_id, "Racontez tout")
    told = await begun(nia, room_id, prompt)

    if way == "!stop":
        await nia.write(room_id, way)
    else:
        await nia.react(room_id, told.event_id, way)
    stopped = await begun(
        nia, room_id, prompt, lambda seen: said("stopped direct") in seen.content[MARKER]["added"]
    )

    found = replies_to(nia, room_id, prompt)
    assert found[-1] == stopped
    assert len(found) < _PARTS // 2


async def test_an_answer_without_an_end_is_cut_and_says_so(nia: Person, bot: Bot) -> None:
    room_id = await talk(nia, bot.user_id)
    prompt = await nia.write(room_id, "Racontez tout, et le reste")
    remark = said("cut by length")
    await begun(nia, room_id, prompt, lambda seen: seen.body.endswith(remark), within=50)

    assert abs(len(replies_to(nia, room_id, prompt)) - _PARTS) <= 2

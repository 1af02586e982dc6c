"""The admin room, as the bot makes it on a real homeserver."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from bot.core.events import RoomId
from tests.stand.bot import Bot, Launch
from tests.stand.model import ScriptedModel
from tests.stand.person import Person
from tests.stand.synapse import Synapse
from tests.stand.talk import notice, spoken, until

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def administered(
    synapse: Synapse,
    model: ScriptedModel,
    launch: Launch,
    nia: Person,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Bot]:
    """A bot whose only admin is Nia."""
    user_id = await synapse.register("administered", "secret", displayname="Assistant IA")
    account = {"homeserver": synapse.url, "user_id": user_id, "password": "secret"}
    async with Bot(
        tmp_path_factory.mktemp("administered"),
        user_id,
        launch,
        matrix=account | {"admins": [nia.user_id]},
        model={"base_url": model.url, "name": "scripted"},
        log={"level": "debug"},
    ) as running:
        yield running


def rooms_with(person: Person, other: str) -> list[RoomId]:
    """Return the rooms in which a person sees somebody."""
    state = person.observed.state.items()
    return [room for (room, kind, key), _ in state if (kind, key) == ("m.room.member", other)]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def room_id(administered: Bot, nia: Person) -> RoomId:
    """The admin room, once Nia is in it and has read the welcome."""
    await until(lambda: administered.said("admin invited") > 0)
    [there] = await nia.invitations(administered.user_id)
    await nia.join(there)
    return there


async def test_it_is_private_and_encrypted_and_answers_commands_alone(
    nia: Person, administered: Bot, room_id: RoomId
) -> None:
    state = nia.observed.state
    assert state[room_id, "m.room.join_rules", ""]["join_rule"] == "invite"
    assert state[room_id, "m.room.encryption", ""]["algorithm"] == "m.megolm.v1.aes-sha2"
    assert state[room_id, "im.vector.room.access_rules", ""]["rule"] == "restricted"
    levels = state[room_id, "m.room.power_levels", ""]
    assert levels.get("users", {}).get(nia.user_id, levels.get("users_default", 0)) == 0

    helped = await nia.write(room_id, "!aide")
    await notice(nia, room_id, "help admin", helped)
    asked = len(spoken(nia, room_id, administered.user_id))
    await nia.write(room_id, "Bonjour", mentioning=administered.user_id)
    again = await nia.write(room_id, "!help")
    await notice(nia, room_id, "help admin", again)
    assert len(spoken(nia, room_id, administered.user_id)) == asked + 1


async def test_it_is_made_once_however_often_the_bot_starts(
    nia: Person, administered: Bot, room_id: RoomId
) -> None:
    await administered.restart()
    helped = await nia.write(room_id, "!aide")
    await notice(nia, room_id, "help admin", helped)

    assert rooms_with(nia, administered.user_id) == [room_id]
    assert administered.said("admin invited") == 1

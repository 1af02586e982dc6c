"""Announcements and campaigns, in rooms of their own: what notifies people, and what ends."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from bot.core.events import RoomId
from tests.e2e.test_admin_room import CAMPAIGN, asks, told
from tests.harness.bot import Bot, Launch
from tests.harness.expectations import answers, begun, meet, request, spoken, talk, until
from tests.harness.js_person import JsPerson
from tests.harness.model import ScriptedModel
from tests.harness.person import Person
from tests.harness.synapse import Synapse

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def announcer(
    synapse: Synapse,
    model: ScriptedModel,
    launch: Launch,
    nia: Person,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Bot]:
    """A bot whose only admin is Nia: who has just read of one campaign is asked by no other."""
    user_id = await synapse.register("announcer", "secret", displayname="Assistant IA")
    account = {"homeserver": synapse.url, "user_id": user_id, "password": "secret"}
    async with Bot(
        tmp_path_factory.mktemp("announcer"),
        user_id,
        launch,
        matrix=account | {"admins": [nia.user_id]},
        model={"base_url": model.url, "name": "scripted"},
        log={"level": "debug"},
    ) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def admin_room(announcer: Bot, nia: Person) -> RoomId:
    await until(lambda: announcer.said("admin invited") > 0)
    [there] = await nia.invitations(announcer.user_id)
    await nia.join(there)
    return there


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def direct(announcer: Bot, jason: JsPerson) -> RoomId:
    return await talk(jason, announcer.user_id)


ANNOUNCEMENT = """\
name: {name}
message: Une nouvelle version est là ({name}).
audience: {{rooms: all}}
quiet:
"""


@pytest.mark.parametrize("notifies", [True, False])
async def test_an_announcement_notifies_and_takes_part_in_no_conversation(
    nia: Person,
    jason: JsPerson,
    announcer: Bot,
    admin_room: RoomId,
    direct: RoomId,
    model: ScriptedModel,
    *,
    notifies: bool,
) -> None:
    name = f"version-{notifies}".lower()
    salon = await meet(jason, announcer.user_id)
    written = ANNOUNCEMENT.format(name=name) + ("" if notifies else "notify: false\n")
    await told(nia, admin_room, f"!annonce creer\n{written}", f"La campagne {name} est prête")
    await told(nia, admin_room, f"!annonce lancer {name}", f"La campagne {name} est lancée")

    announced = await asks(jason, salon, f"Une nouvelle version est là ({name})")
    for place in (direct, salon):
        announced = await asks(jason, place, f"Une nouvelle version est là ({name})")
        assert announced.content["msgtype"] == ("m.text" if notifies else "m.notice")
        assert announced.content["m.mentions"] == {}
        heard = await jason.notifies(place, announced.event_id)
        assert heard == {"notify": notifies, "highlight": False}
        read = await jason.page_back(place)
        assert announced.event_id in {seen.event_id for seen in read.main}

    await jason.write(salon, "Qui l'a vue ?", thread=announced.event_id)
    prompt = await jason.write(direct, f"Quoi de neuf ({notifies})")
    await begun(jason, direct, prompt)
    asked = request(model, f"Quoi de neuf ({notifies})")
    assert "nouvelle version" not in str(asked.body)
    assert all("Qui l'a vue" not in one.prompt for one in model.exchanges)
    assert [one.body for one in spoken(jason, salon, announcer.user_id)][1:] == [announced.body]


async def test_a_poll_that_nobody_has_answered_gets_no_end(
    nia: Person, jason: JsPerson, announcer: Bot, admin_room: RoomId
) -> None:
    salon, name = await meet(jason, announcer.user_id), "sans-reponse"
    made = CAMPAIGN.format(name=name) + "audience: {rooms: salons}\n"
    await told(nia, admin_room, f"!sondage creer\n{made}", f"La campagne {name} est prête")
    await told(nia, admin_room, f"!sondage lancer {name}", f"La campagne {name} est lancée")
    await asks(jason, salon, "Que vous manque-t-il")
    await told(nia, admin_room, f"!sondage cloturer {name}", f"La campagne {name} prend fin")
    await nia.wait_for_message(admin_room, lambda seen: f"Campagne {name}, terminée" in seen.body)

    await jason.write(salon, "Bonjour", mentioning=announcer.user_id)
    await jason.wait_for_message(salon, lambda seen: bool(answers(seen)))
    kinds = [seen.type for seen in jason.messages(salon) if seen.sender == announcer.user_id]
    assert "org.matrix.msc3381.poll.end" not in kinds

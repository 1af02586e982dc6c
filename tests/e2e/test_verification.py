"""The bot's device verified by emoji, in a room and by to-device, against Element's own crypto."""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pytest
import pytest_asyncio

from bot.core.events import RoomId
from bot.notices.verification import EMOJI
from tests.harness.bot import Bot, Launch
from tests.harness.expectations import said, until
from tests.harness.js_person import JsPerson
from tests.harness.model import ScriptedModel
from tests.harness.synapse import Synapse

pytestmark = pytest.mark.asyncio(loop_scope="session")

Way = Literal["in a room", "to-device"]
WAYS: Sequence[Way] = ("in a room", "to-device")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def admin(synapse: Synapse) -> AsyncIterator[JsPerson]:
    user_id = await synapse.register("verifying-admin", "secret")
    async with JsPerson(synapse.url, user_id, "secret") as person:
        await person.bootstrap_cross_signing()
        yield person


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def bot_of_admin(
    synapse: Synapse,
    model: ScriptedModel,
    launch: Launch,
    admin: JsPerson,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Bot]:
    user_id = await synapse.register("verified-assistant", "secret")
    matrix = {"homeserver": synapse.url, "user_id": user_id, "password": "secret"}
    async with Bot(
        tmp_path_factory.mktemp("verified"),
        user_id,
        launch,
        matrix={**matrix, "admins": [admin.user_id]},
        model={"base_url": model.url, "name": "scripted"},
        log={"level": "debug"},
    ) as running:
        yield running


@dataclass
class AdminConversation:
    """An admin, a bot, and the rooms that they share."""

    person: JsPerson
    bot: Bot
    room_id: RoomId
    admin_room: RoomId

    async def request(self, way: Way) -> None:
        if way == "in a room":
            await self.person.request_verification(self.bot.user_id, room_id=self.room_id)
        else:
            device_id = started(self.bot)
            await self.person.request_verification(self.bot.user_id, device_id=device_id)

    async def phase(self, phase: str) -> None:
        async def reached() -> bool:
            return bool((await self.person.verification())["phase"] == phase)

        await until(reached)

    async def shown(self) -> list[str]:
        """Return the emoji that the person's client shows."""

        async def there() -> bool:
            return (await self.person.verification())["emoji"] is not None

        await until(there)
        return [one.rstrip("\ufe0f") for one in (await self.person.verification())["emoji"]]

    def told(self, key: str) -> int:
        sentence = said(key, sender=self.person.user_id, emoji="").strip()
        return sum(
            sentence in seen.body for seen in self.person.messages(self.admin_room) if seen.body
        )


def started(bot: Bot) -> str:
    lines = map(json.loads, bot.log.read_text().splitlines())
    return [str(line["device_id"]) for line in lines if line["event"] == "started"][-1]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def meeting(admin: JsPerson, bot_of_admin: Bot) -> AdminConversation:
    room_id = await admin.open_direct_message(bot_of_admin.user_id)
    await admin.wait_for_message(room_id, lambda seen: seen.body == said("welcome"))

    async def invited() -> bool:
        return bool(await admin.invitations(bot_of_admin.user_id))

    await until(invited)
    [admin_room] = await admin.invitations(bot_of_admin.user_id)
    await admin.join(admin_room)
    return AdminConversation(admin, bot_of_admin, room_id, admin_room)


@pytest_asyncio.fixture(loop_scope="session")
async def talk(meeting: AdminConversation) -> AdminConversation:
    if meeting.bot.pid is None:
        await meeting.bot.start()
    return meeting


@pytest.mark.parametrize("way", WAYS)
async def test_verification_by_emoji_makes_the_admins_client_trust_the_bot(
    talk: AdminConversation, way: Way
) -> None:
    told = talk.told("verification done")

    await talk.request(way)
    await talk.phase("Ready")
    await talk.person.start_verification()
    shown = await talk.shown()
    notice = await talk.person.wait_for_message(
        talk.admin_room, lambda seen: " · ".join(shown_names(shown)) in seen.body
    )
    await talk.person.compare_emoji(same=True)
    await talk.phase("Done")

    async def trusted() -> bool:
        status = await talk.person.status(talk.bot.user_id, started(talk.bot))
        both = status["cross_signing_verified"], status["device"]["cross_signing_verified"]
        return both == (True, True)

    await until(trusted)
    assert talk.person.user_id in notice.body
    await until(lambda: talk.told("verification done") == told + 1)
    assert " · ".join(shown_names(shown)) in compared(talk.bot)


def compared(bot: Bot) -> list[str]:
    """Return what the bot's log says is to be compared."""
    lines = map(json.loads, bot.log.read_text().splitlines())
    return [line["emoji"] for line in lines if line["event"] == "verification to compare"]


def shown_names(shown: list[str]) -> list[str]:
    names = said("emoji names").split(", ")
    return [f"{one} {names[EMOJI.index(one)]}" for one in shown]


STEPS = ("request", "ready", "start", "emoji", "compared")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("way", WAYS)
async def test_verification_that_the_person_cancels_at_any_step_is_over_for_the_bot(
    talk: AdminConversation, way: Way, step: str
) -> None:
    cancelled = talk.bot.said("verification cancelled")

    await talk.request(way)
    if step != "request":
        await talk.phase("Ready")
    if step in {"start", "emoji", "compared"}:
        await talk.person.start_verification()
    if step in {"emoji", "compared"}:
        await talk.shown()
    if step == "compared":
        await talk.person.compare_emoji(same=False)
    else:
        await talk.person.cancel_verification()

    await talk.phase("Cancelled")
    await until(lambda: talk.bot.said("verification cancelled") == cancelled + 1)


@pytest.mark.parametrize("step", ["ready", "emoji"])
@pytest.mark.parametrize("way", WAYS)
async def test_verification_that_a_stopping_bot_cancels_is_over_for_the_person(
    talk: AdminConversation, way: Way, step: str
) -> None:
    await talk.request(way)
    await talk.phase("Ready")
    if step == "emoji":
        await talk.person.start_verification()
        await talk.shown()

    await talk.bot.stop()

    await talk.phase("Cancelled")
    assert (await talk.person.verification())["code"] == "m.user"


@pytest.mark.parametrize("way", WAYS)
async def test_verification_by_anybody_else_is_refused_with_one_polite_sentence(
    talk: AdminConversation, synapse: Synapse, way: Way
) -> None:
    user_id = await synapse.register(f"curious-{way.replace(' ', '-')}", "secret")
    async with JsPerson(synapse.url, user_id, "secret") as other:
        await other.bootstrap_cross_signing()
        room_id = await other.open_direct_message(talk.bot.user_id)
        await other.wait_for_message(room_id, lambda seen: seen.body == said("welcome"))
        theirs = AdminConversation(other, talk.bot, room_id, talk.admin_room)

        await theirs.request(way)
        await theirs.phase("Cancelled")
        await other.wait_for_message(
            room_id, lambda seen: seen.body == said("verification refused")
        )

        sentences = [seen.body for seen in other.messages(room_id)]
        assert sentences.count(said("verification refused")) == 1
        assert said("unreadable message") not in sentences

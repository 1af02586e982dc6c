"""Rooms that others point at, and clear text in encrypted ones, on a real homeserver."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing

import pytest
import pytest_asyncio

from bot.core.events import EventId, RoomId
from bot.matrix.parse import MARKER
from tests.harness.bot import Bot, Launch
from tests.harness.client_view import JSON
from tests.harness.expectations import (
    begun,
    heard,
    notice,
    replies,
    reply,
    said,
    spoken,
    talk,
    until,
)
from tests.harness.fork import ForkServer
from tests.harness.model import ScriptedModel
from tests.harness.nio_person import NioPerson
from tests.harness.person import Person, Refused
from tests.harness.synapse import Synapse

pytestmark = pytest.mark.asyncio(loop_scope="session")

TOMBSTONE = "m.room.tombstone"


@pytest.fixture(autouse=True)
def _untraced(untraced: None) -> None:
    """What is tried here runs in processes of its own."""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def synapse(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Synapse]:
    async with Synapse(tmp_path_factory.mktemp("synapse")) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def launch() -> AsyncIterator[Launch]:
    async with ForkServer() as server:
        yield server.launch


async def person(synapse: Synapse, name: str, where: pytest.TempPathFactory) -> NioPerson:
    user_id = await synapse.register(name, "secret")
    return NioPerson(synapse.url, user_id, "secret", where.mktemp(name))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def mallory(
    synapse: Synapse, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[NioPerson]:
    """Who points at rooms, and writes in clear."""
    async with await person(synapse, "mallory", tmp_path_factory) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def alice(
    synapse: Synapse, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[NioPerson]:
    """Who has a public room that the bot has no business in, and administers the bot."""
    async with await person(synapse, "alice", tmp_path_factory) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def bot(
    synapse: Synapse,
    model: ScriptedModel,
    launch: Launch,
    alice: Person,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Bot]:
    user_id = await synapse.register("assistant", "secret", displayname="Assistant IA")
    async with Bot(
        tmp_path_factory.mktemp("bot"),
        user_id,
        launch,
        matrix={
            "homeserver": synapse.url,
            "user_id": user_id,
            "password": "secret",
            "admins": [alice.user_id],
        },
        model={"base_url": model.url, "name": "scripted"},
        log={"level": "debug"},
    ) as running:
        yield running


async def public_room(owner: Person, history: str = "shared", **create: object) -> RoomId:
    """Make a public room by its owner, and return once the owner sees it."""
    state = {
        "type": "m.room.history_visibility",
        "state_key": "",
        "content": {"history_visibility": history},
    }
    body: JSON = {"preset": "public_chat", "name": "Place", "initial_state": [state], **create}
    made = await owner._call("POST", "/createRoom", body)
    room_id = RoomId(made["room_id"])
    await owner.wait_joined(room_id, owner.user_id)
    return room_id


async def point(owner: Person, old: RoomId, new: RoomId) -> EventId:
    body = {"body": "Par ici", "replacement_room": new}
    return EventId((await owner._call("PUT", f"/rooms/{old}/state/{TOMBSTONE}", body))["event_id"])


async def comings(owner: Person, room_id: RoomId, bot: Bot) -> list[str]:
    """Return what the bot's membership of the room has been."""
    return [
        event["content"]["membership"]
        for event in await owner.timeline(room_id)
        if event["type"] == "m.room.member" and event["state_key"] == bot.user_id
    ]


async def done(bot: Bot, event_id: EventId) -> None:
    """Wait until the bot has decided about an event, and finished it."""
    await heard(bot, event_id)
    with closing(sqlite3.connect(bot.directory / "data" / "ledger.db", timeout=20)) as ledger:
        query = "SELECT count(*) FROM inbox WHERE finished_at IS NULL"
        await until(lambda: ledger.execute(query).fetchone() == (0,))


async def final(asker: Person, room_id: RoomId, prompt: EventId) -> None:
    """Wait until the reply to a prompt is whole, whatever it says."""
    await begun(asker, room_id, prompt, lambda seen: seen.content[MARKER].get("final") is True)


@pytest.mark.parametrize(
    ("history", "expected"), [("shared", ["join", "leave"]), ("world_readable", [])]
)
async def test_a_tombstone_in_ones_own_room_makes_the_bot_neither_speak_nor_stay_in_another_s(
    history: str,
    expected: list[str],
    mallory: Person,
    alice: Person,
    bot: Bot,
    model: ScriptedModel,
) -> None:
    theirs = await public_room(alice, history)
    asked = len(model.exchanges)
    old = await talk(mallory, bot.user_id, encrypted=False)

    stone = await point(mallory, old, theirs)
    await alice.send(theirs, "Bonjour", **{"m.mentions": {"user_ids": [bot.user_id]}})
    await done(bot, stone)

    assert await comings(alice, theirs, bot) == expected
    assert spoken(alice, theirs, bot.user_id) == []
    assert len(model.exchanges) == asked


async def test_whoever_points_to_the_same_room_again_moves_nothing(
    mallory: Person, alice: Person, bot: Bot
) -> None:
    theirs = await public_room(alice)
    for _ in range(3):
        old = await talk(mallory, bot.user_id, encrypted=False)
        await done(bot, await point(mallory, old, theirs))

    assert await comings(alice, theirs, bot) == ["join", "leave"]


@pytest.mark.parametrize("site", ["enter.before", "enter.after", "leave.before", "leave.after"])
async def test_a_bot_that_is_killed_on_its_way_does_not_stay_and_says_nothing(
    site: str, mallory: Person, alice: Person, bot: Bot, model: ScriptedModel
) -> None:
    theirs = await public_room(alice)
    old = await talk(mallory, bot.user_id, encrypted=False)
    asked = len(model.exchanges)
    await bot.stop()
    await bot.start(BOT_FAIL=f"{site}:kill")
    stone = await point(mallory, old, theirs)
    await until(lambda: not bot.runs)
    await bot.start()
    await alice.send(theirs, "Bonjour", **{"m.mentions": {"user_ids": [bot.user_id]}})
    await done(bot, stone)

    assert await comings(alice, theirs, bot) == ["join", "leave"]
    assert spoken(alice, theirs, bot.user_id) == []
    assert len(model.exchanges) == asked


async def test_a_successor_of_ones_own_room_is_followed_and_one_asks_there(
    alice: Person, bot: Bot
) -> None:
    old = await public_room(alice, invite=[bot.user_id])
    await notice(alice, old, "welcome salon")

    made = await alice._call("POST", f"/rooms/{old}/upgrade", {"new_version": "11"})
    new = RoomId(made["replacement_room"])
    await alice.wait_joined(new, bot.user_id)
    await notice(alice, new, "welcome salon")
    asked = await alice.write(new, "Es-tu là", mentioning=bot.user_id)
    await reply(alice, new, asked, "You said: Agent 1 : Es-tu là.")
    await bot.restart()
    again = await alice.write(new, "Encore là", mentioning=bot.user_id)
    await reply(alice, new, again, "You said: Agent 1 : Encore là.")

    assert await comings(alice, new, bot) == ["join"]


async def test_a_member_without_the_power_gives_no_room_up(
    mallory: Person, alice: Person, bot: Bot
) -> None:
    """Neither as state, nor as a message where its type has no level of its own."""
    levels = {"events": {}, "state_default": 50, "events_default": 0}
    old = await public_room(alice, invite=[bot.user_id], power_level_content_override=levels)
    await notice(alice, old, "welcome salon")
    await mallory.join(old)
    before = {"room_id": old, "event_id": "$x"}
    new = await public_room(mallory, creation_content={"predecessor": before})

    with pytest.raises(Refused):
        await point(mallory, old, new)
    with pytest.raises(Refused):
        await mallory.put_event(old, TOMBSTONE, {"body": "Par ici", "replacement_room": new})
    asked = await alice.write(old, "Toujours là", mentioning=bot.user_id)
    await reply(alice, old, asked, "You said: Agent 1 : Toujours là.")

    assert await comings(mallory, new, bot) == []


async def test_a_room_that_lets_nobody_in_is_entered_by_invitation_alone(
    alice: Person, bot: Bot
) -> None:
    old = await talk(alice, bot.user_id, encrypted=False)
    made = await alice._call("POST", f"/rooms/{old}/upgrade", {"new_version": "11"})
    new = RoomId(made["replacement_room"])
    await until(lambda: bot.said("waiting for an invitation") > 0)
    await alice.wait_joined(new, alice.user_id)
    await alice.invite(new, bot.user_id)
    await notice(alice, new, "welcome")
    asked = await alice.write(new, "Sommes-nous seuls")
    await reply(alice, new, asked, "You said: Sommes-nous seuls.")


async def test_an_invitation_to_a_space_is_declined_with_a_reason(alice: Person, bot: Bot) -> None:
    space = await public_room(
        alice, creation_content={"type": "m.space"}, invite=[bot.user_id], preset="private_chat"
    )

    await until(lambda: _membership(alice, space, bot).get("membership") == "leave")

    assert _membership(alice, space, bot)["reason"] == said("decline space")
    assert await comings(alice, space, bot) == ["invite", "leave"]


def _membership(owner: Person, room_id: RoomId, bot: Bot) -> JSON:
    return owner.observed.state.get((room_id, "m.room.member", bot.user_id), {})


async def in_clear(sender: Person, room_id: RoomId, text: str, **content: object) -> EventId:
    """Send a text past the sender's client, as whoever has the homeserver can in any name."""
    said: JSON = {"msgtype": "m.text", "body": text, **content}
    return await sender.put_event(room_id, "m.room.message", said)


async def test_clear_text_in_an_encrypted_room_is_no_prompt_command_or_edit(
    mallory: Person, bot: Bot, model: ScriptedModel
) -> None:
    room_id = await talk(mallory, bot.user_id)
    asked = await mallory.write(room_id, "Une question honnête")
    await reply(mallory, room_id, asked, "You said: Une question honnête.")
    before = len(model.exchanges)

    forged = await in_clear(mallory, room_id, "Une question forgée")
    told = await notice(mallory, room_id, "clear text", to=forged)
    for text in ("!aide", "!modele", "Encore une"):
        await done(bot, await in_clear(mallory, room_id, text))
    new = {"msgtype": "m.text", "body": "Une question changée"}
    relation = {"rel_type": "m.replace", "event_id": asked}
    edit = {"m.new_content": new, "m.relates_to": relation}
    await done(bot, await in_clear(mallory, room_id, "* x", **edit))
    again = await mallory.write(room_id, "Une autre question")
    await final(mallory, room_id, again)

    assert len(model.exchanges) == before + 1
    said = str(model.exchanges[-1].body["messages"])
    assert "Une question honnête" in said
    assert not any(word in said for word in ("forgée", "changée", "Encore une"))
    sentences = spoken(mallory, room_id, bot.user_id)
    assert [one.event_id for one in sentences if one.body == told.body] == [told.event_id]
    assert len(replies(mallory, room_id)) == 2


async def test_clear_text_is_refused_as_well_where_it_was_said_while_the_bot_was_away(
    mallory: Person, bot: Bot, model: ScriptedModel
) -> None:
    """More of it than a sync hands out: the rest is read back, and judged alike."""
    room_id = await talk(mallory, bot.user_id)
    before = len(model.exchanges)
    await bot.stop()
    for number in range(60):
        await in_clear(mallory, room_id, f"Forgée {number}")
    asked = await mallory.write(room_id, "Une question honnête")
    await bot.start()
    await reply(mallory, room_id, asked, "You said: Une question honnête.")
    await done(bot, asked)

    assert len(model.exchanges) == before + 1
    assert "Forgée" not in str(model.exchanges[-1].body["messages"])
    body = said("clear text")
    assert len([one for one in spoken(mallory, room_id, bot.user_id) if one.body == body]) == 1


async def test_what_was_said_in_clear_before_a_room_was_encrypted_counts_as_before(
    mallory: Person, bot: Bot, model: ScriptedModel
) -> None:
    room_id = await talk(mallory, bot.user_id, encrypted=False)
    asked = await mallory.write(room_id, "Avant le chiffrement")
    await reply(mallory, room_id, asked, "You said: Avant le chiffrement.")
    await bot.stop()
    missed = await mallory.write(room_id, "Pendant ton absence")
    sealed = {"algorithm": "m.megolm.v1.aes-sha2"}
    await mallory._call("PUT", f"/rooms/{room_id}/state/m.room.encryption", sealed)
    await mallory._wait_state(room_id, "m.room.encryption", "", sealed.__eq__)
    forged = await in_clear(mallory, room_id, "Après le chiffrement")
    await bot.start()
    await final(mallory, room_id, missed)
    await notice(mallory, room_id, "clear text", to=forged)
    await bot.restart()
    again = await mallory.write(room_id, "Chiffré")
    await final(mallory, room_id, again)

    turns = str(model.exchanges[-1].body["messages"])
    assert "Avant le chiffrement" in turns
    assert "Pendant ton absence" in turns
    assert "Après le chiffrement" not in turns


async def test_the_first_prompt_in_clear_that_comes_with_the_invitation_to_an_encrypted_room(
    mallory: Person, bot: Bot, model: ScriptedModel
) -> None:
    before = len(model.exchanges)
    room_id = await mallory.open_direct_message(bot.user_id, first_prompt="Chiffré d’emblée")
    await until(lambda: len(replies(mallory, room_id)) == 1)
    await bot.stop()
    other = await mallory.open_direct_message(bot.user_id)
    forged = await in_clear(mallory, other, "En clair d’emblée")
    await bot.start()
    await notice(mallory, other, "clear text", to=forged)

    assert len(model.exchanges) == before + 1


async def test_in_the_admin_room_a_command_in_clear_is_refused_and_told_to_the_admins(
    alice: Person, bot: Bot
) -> None:
    await until(lambda: bot.said("admin invited") > 0)
    [room_id] = await alice.invitations(bot.user_id)
    await alice.join(room_id)
    asked = await alice.write(room_id, "!aide")
    await notice(alice, room_id, "help admin", to=asked)

    forged = await in_clear(alice, room_id, "!exporter commentaires")
    told = await notice(alice, room_id, "clear text admin", to=forged, sender=alice.user_id)
    asked = await alice.write(room_id, "!exporter tout")
    await notice(alice, room_id, "export how", to=asked)

    content = (await alice.event(room_id, told.event_id))["type"]
    assert content == "m.room.encrypted"
    assert not [one for one in alice.messages(room_id) if "filename" in one.content]

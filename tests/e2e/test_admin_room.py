"""The admin room, as the bot makes it on a real homeserver, and what is done from it."""

import csv
import io
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio

from bot.core.events import RoomId, UserId
from bot.core.markdown import render
from bot.matrix.parse import TEXT
from tests.harness.bot import Bot, Launch
from tests.harness.client_view import Seen
from tests.harness.expectations import TEXTS, notice, related, spoken, talk, until
from tests.harness.js_person import JsPerson
from tests.harness.model import ScriptedModel
from tests.harness.person import Person
from tests.harness.synapse import Synapse

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


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def direct(administered: Bot, jason: JsPerson) -> RoomId:
    """Jason's one direct message with the bot: a campaign goes to one of each person's."""
    return await talk(jason, administered.user_id)


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


async def welcomed(nia: Person, synapse: Synapse, bot: UserId) -> RoomId:
    """Return the room that a bot has made, once it has greeted and helped Nia there."""
    await until(lambda: bool(synapse.said_by(bot)))
    [(there, _)] = synapse.said_by(bot)
    await until(lambda: (there, "m.room.member", nia.user_id) in nia.observed.state)
    await nia.join(there)
    helped = await nia.write(there, "!aide")
    await notice(nia, there, "help admin", helped)
    return there


@pytest.mark.parametrize("number", range(5))
async def test_a_welcome_to_an_admin_room_is_encrypted_though_the_sync_tells_of_half_a_room(
    number: int,
    synapse: Synapse,
    model: ScriptedModel,
    launch: Launch,
    nia: Person,
    tmp_path: Path,
) -> None:
    """A waiting sync tells of the bot's own joining while the homeserver still makes the room."""
    user_id = await synapse.register(f"welcoming-{number}", "secret")
    account = {"homeserver": synapse.url, "user_id": user_id, "password": "secret"}
    async with Bot(
        tmp_path,
        user_id,
        launch,
        matrix=account | {"admins": [nia.user_id]},
        model={"base_url": model.url, "name": "scripted"},
        log={"level": "debug"},
    ):
        there = await welcomed(nia, synapse, user_id)

    assert synapse.said_by(user_id) == [(there, "m.room.encrypted")] * 2


@pytest.mark.parametrize("failing", ["create.after", "notice.before", "notice.after"])
async def test_a_welcome_to_an_admin_room_is_said_once_though_the_bot_is_killed(
    failing: str,
    synapse: Synapse,
    model: ScriptedModel,
    launch: Launch,
    nia: Person,
    tmp_path: Path,
) -> None:
    user_id = await synapse.register(f"killed-{failing}", "secret")
    account = {"homeserver": synapse.url, "user_id": user_id, "password": "secret"}
    killed = Bot(
        tmp_path,
        user_id,
        launch,
        matrix=account | {"admins": [nia.user_id]},
        model={"base_url": model.url, "name": "scripted"},
        log={"level": "debug"},
    )
    await killed.begin(BOT_FAIL=f"{failing}:kill")
    await until(lambda: not killed.runs)
    async with killed:
        there = await welcomed(nia, synapse, user_id)

    assert synapse.said_by(user_id) == [(there, "m.room.encrypted")] * 2


async def test_it_is_made_once_however_often_the_bot_starts(
    nia: Person, administered: Bot, room_id: RoomId
) -> None:
    await administered.restart()
    helped = await nia.write(room_id, "!aide")
    await notice(nia, room_id, "help admin", helped)

    assert rooms_with(nia, administered.user_id) == [room_id]
    assert administered.said("admin invited") == 1


async def test_statistics_are_said_before_their_picture_and_not_in_its_caption(
    nia: Person, administered: Bot, room_id: RoomId
) -> None:
    asked = await nia.write(room_id, "!stats")
    shown = await nia.wait_for_message(
        room_id, lambda seen: seen.content.get("filename") == "satisfaction.png"
    )

    said = [one for one in nia.messages(room_id) if asked in related(one)]
    assert [one.content["msgtype"] for one in said] == ["m.notice", "m.image"]
    assert said[0].body.startswith("Du ")
    assert said[1] == shown
    assert shown.sender == administered.user_id
    assert shown.content["msgtype"] == "m.image"
    assert shown.body.startswith("Courbe de la part de")
    assert "url" not in shown.content
    picture = await nia.download(shown.content["file"])
    assert picture.startswith(b"\x89PNG")
    width, height = int.from_bytes(picture[16:20]), int.from_bytes(picture[20:24])
    assert shown.content["info"] == {
        "mimetype": "image/png",
        "size": len(picture),
        "w": width,
        "h": height,
    }


async def exported(nia: Person, room_id: RoomId, typed: str, suffix: str) -> Seen:
    """Export something, and wait for the file, and the notice that names it."""
    asked = await nia.write(room_id, f"!exporter {typed}")
    file = await nia.wait_for_message(
        room_id, lambda seen: str(seen.content.get("filename")).endswith(suffix)
    )
    await nia.wait_for_message(
        room_id, lambda seen: asked in related(seen) and file.body in seen.body
    )
    return file


async def test_what_is_exported_is_an_encrypted_file_with_all_rows_and_no_caption(
    nia: Person, jason: JsPerson, administered: Bot, room_id: RoomId, direct: RoomId
) -> None:
    said = ["=1+1 ; « à revoir », dit-il", "Deux mots"]
    for comment in said:
        typed = await jason.write(direct, f"!avis {comment}")
        await notice(jason, direct, "feedback kept", typed)
    with closing(sqlite3.connect(administered.directory / "data" / "ledger.db")) as ledger:
        [(kept,)] = ledger.execute("SELECT count(*) FROM comments").fetchall()

    table = await exported(nia, room_id, "commentaires", ".csv")
    objects = await exported(nia, room_id, "commentaires jsonl", ".jsonl")
    empty = await nia.write(room_id, "!exporter partages")
    await notice(nia, room_id, "export empty", empty)
    wrong = await nia.write(room_id, "!exporter tout")
    await notice(nia, room_id, "export how", wrong)

    for shown in (table, objects):
        assert (shown.sender, shown.content["msgtype"]) == (administered.user_id, "m.file")
        assert shown.body == shown.content["filename"]
        assert shown.body.startswith("commentaires-20")
        words = TEXTS("exported", n=kept, what="commentaires", file=shown.body)
        assert render(words).body in {one.body for one in nia.messages(room_id)}
        assert "url" not in shown.content
    data = await nia.download(table.content["file"])
    assert table.content["info"] == {"mimetype": "text/csv", "size": len(data)}
    rows = [*csv.DictReader(io.StringIO(data.decode(), newline=""))]
    assert len(rows) == kept
    assert {f"'{said[0]}", said[1]} <= {row["comment"] for row in rows}
    data = await nia.download(objects.content["file"])
    assert objects.content["info"] == {"mimetype": "application/x-ndjson", "size": len(data)}
    assert {*said} <= {json.loads(line)["comment"] for line in data.splitlines()}
    assert "dit-il" not in administered.log.read_text("utf-8")


CAMPAIGN = """\
name: {name}
message: Deux questions pour vous.
questions:
- question: "Cet outil vous est-il utile ?"
  answers: [Tous les jours, Parfois]
- question: "Que vous manque-t-il ?"
  type: text
quiet:
"""


async def told(nia: Person, room_id: RoomId, command: str, begins: str) -> Seen:
    """Type a command in the admin room, and wait for a notice that begins so."""
    typed = await nia.write(room_id, command)
    return await nia.wait_for_message(
        room_id, lambda seen: typed in related(seen) and seen.body.startswith(begins)
    )


async def asks(person: Person, room_id: RoomId, begins: str) -> Seen:
    """Wait for the bot's poll or question that begins so."""
    return await person.wait_for_message(
        room_id,
        lambda seen: str(seen.content.get(TEXT) or seen.body).startswith(begins),
    )


async def test_a_campaign_is_asked_answered_counted_and_ended_though_the_bot_is_killed(
    nia: Person, jason: JsPerson, administered: Bot, room_id: RoomId, direct: RoomId
) -> None:
    name = "utile"
    made = f"La campagne {name} est prête\u00a0: 2 questions"
    await told(nia, room_id, f"!sondage creer\n{CAMPAIGN.format(name=name)}", made)
    await administered.stop()
    await administered.start(BOT_FAIL="campaign.after:kill@2")
    await nia.write(room_id, f"!sondage lancer {name}")
    await until(lambda: not administered.runs)
    await administered.start()

    await asks(jason, direct, "Deux questions")
    useful = await asks(jason, direct, "Cet outil vous est-il utile ?\n1. Tous les jours")
    await jason.vote(direct, useful.event_id, "2")
    missing = await asks(jason, direct, "Que vous manque-t-il ?")
    await jason.write(direct, "Des sources officielles", replying_to=missing.event_id)
    await notice(jason, direct, "thanks")
    await told(nia, room_id, f"!sondage resultats {name}", f"Campagne {name}, en cours")
    shown = await nia.wait_for_message(
        room_id, lambda seen: seen.content.get("filename") == "question-1.png"
    )
    useful_words = "Parfois\u00a0: 1 (100\u202f%)"
    await nia.wait_for_message(room_id, lambda seen: useful_words in seen.body)
    assert "Parfois\u00a0: 1" in shown.body
    assert (await nia.download(shown.content["file"])).startswith(b"\x89PNG")
    await nia.wait_for_message(room_id, lambda seen: "réponses écrites\u00a0: 1" in seen.body)

    await told(nia, room_id, f"!sondage cloturer {name}", f"La campagne {name} prend fin")
    ended = await jason.wait_for_message(
        direct, lambda seen: seen.type == "org.matrix.msc3381.poll.end"
    )
    assert ended.content["m.relates_to"]["event_id"] == useful.event_id
    assert ended.content[TEXT].endswith("Parfois\u00a0: 1")
    await nia.wait_for_message(room_id, lambda seen: f"Campagne {name}, terminée" in seen.body)
    assert await jason.tally(direct, useful.event_id) == {"2": 1}
    sent = [one for one in jason.messages(direct) if one.sender == administered.user_id]
    assert len([one for one in sent if TEXT in one.content and one.type != ended.type]) == 1

"""One answer after whatever has ended: on a real homeserver, by a bot of this file's own."""

import asyncio
import os
import resource
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from http import HTTPStatus
from pathlib import Path

import pytest
import pytest_asyncio

from bot.core.events import EventId, RoomId
from bot.runtime.failpoints import VARIABLE
from tests.harness.bot import Bot, Launch
from tests.harness.client_view import JSON
from tests.harness.expectations import (
    TEXTS,
    begun,
    replies_to,
    reply,
    request,
    so_far,
    talk,
    until,
)
from tests.harness.fault_proxy import FaultProxy
from tests.harness.model import ScriptedAnswer, ScriptedModel
from tests.harness.person import Person
from tests.harness.synapse import Synapse

pytestmark = pytest.mark.asyncio(loop_scope="session")

TALE = "Il y avait un phare. " + "La mer le battait. " * 12 + "Il tient encore."
LIMITED = {"errcode": "M_LIMIT_EXCEEDED", "error": "Too Many Requests", "retry_after_ms": 300}
TOO_LARGE = {"errcode": "M_TOO_LARGE", "error": "event too large"}
PAGE = "<html><body><h1>413 Request Entity Too Large</h1></body></html>"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def fault_proxy(synapse: Synapse) -> AsyncIterator[FaultProxy]:
    """What stands between this file's bot and the homeserver."""
    async with FaultProxy(synapse.url) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def robust(
    synapse: Synapse,
    fault_proxy: FaultProxy,
    model: ScriptedModel,
    launch: Launch,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Bot]:
    user_id = await synapse.register("robust", "secret", displayname="Assistant IA")
    async with Bot(
        tmp_path_factory.mktemp("robust"),
        user_id,
        launch,
        matrix={"homeserver": fault_proxy.url, "user_id": user_id, "password": "secret"},
        model={"base_url": model.url, "name": "scripted"},
        reply={"edit_interval": 1, "drain_seconds": 1},
        log={"level": "debug"},
    ) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def bot(robust: Bot) -> Bot:
    """It runs whatever the story before did."""
    if robust.pid is None:
        await robust.start()
    return robust


@pytest.fixture
def gate(model: ScriptedModel) -> asyncio.Event:
    """What the model waits for in the middle of its tale."""
    waits = asyncio.Event()
    model.when("un phare", ScriptedAnswer(text=TALE, after=20, tokens_per_second=40, gate=waits))
    return waits


async def start_to_fail(bot: Bot, failpoint: str) -> None:
    """Start the bot anew, so that it fails there at what comes next."""
    await until(lambda: not unfinished(bot))
    await bot.stop()
    await bot.start(**{VARIABLE: failpoint})


async def start_after_the_end(bot: Bot) -> None:
    """Wait until the bot has ended by itself, and start it again."""
    await until(lambda: not bot.runs)
    await bot.kill()
    await bot.start()


async def only_reply(person: Person, room_id: RoomId, prompt: EventId, text: str) -> None:
    """Wait for the text in the one message that answers."""
    await reply(person, room_id, prompt, text)
    assert len(replies_to(person, room_id, prompt)) == 1


def asked(model: ScriptedModel, words: str) -> int:
    return sum(words in one.prompt for one in model.exchanges)


def ledger(bot: Bot) -> Path:
    return bot.directory / "data" / "ledger.db"


def unfinished(bot: Bot) -> int:
    """Return how many events the bot has still to deal with."""
    with closing(sqlite3.connect(ledger(bot), timeout=20)) as connection:
        rows = connection.execute("SELECT count(*) FROM inbox WHERE finished_at IS NULL")
        return int(rows.fetchone()[0])


def forget_transactions(synapse: Synapse) -> None:
    """Do what the homeserver does a day later."""
    with closing(sqlite3.connect(synapse.database, timeout=20)) as connection:
        connection.execute("DELETE FROM event_txn_id_device_id")
        connection.commit()


@pytest.mark.parametrize("site", ["first.after", "sent.before", "edit.after", "sent.after"])
async def test_the_same_message_goes_on_though_the_homeserver_has_forgotten_every_id(
    nia: Person,
    bot: Bot,
    synapse: Synapse,
    gate: asyncio.Event,
    site: str,
) -> None:
    room_id = await talk(nia, bot.user_id)
    await start_to_fail(bot, f"{site}:kill")
    prompt = await nia.write(room_id, f"Contez un phare, {site}")
    told = await begun(nia, room_id, prompt)

    await until(lambda: not bot.runs)
    forget_transactions(synapse)
    gate.set()
    await start_after_the_end(bot)

    await only_reply(nia, room_id, prompt, TALE)
    assert replies_to(nia, room_id, prompt)[0].event_id == told.event_id


@pytest.mark.parametrize("site", ["freeze.after", "final.before", "final.after", "finish.before"])
async def test_a_final_version_is_sent_as_it_was_and_nobody_is_asked_again(
    nia: Person,
    bot: Bot,
    model: ScriptedModel,
    gate: asyncio.Event,
    site: str,
) -> None:
    words = f"Contez un phare, {site}"
    room_id = await talk(nia, bot.user_id)
    await start_to_fail(bot, f"{site}:kill")
    prompt = await nia.write(room_id, words)
    await begun(nia, room_id, prompt)
    gate.set()

    await start_after_the_end(bot)

    await only_reply(nia, room_id, prompt, TALE)
    assert asked(model, words) == 1


async def test_after_a_backup_of_the_ledger_nothing_is_answered_again(
    nia: Person, bot: Bot, model: ScriptedModel, gate: asyncio.Event, tmp_path: Path
) -> None:
    room_id = await talk(nia, bot.user_id)
    await bot.stop()
    shutil.copytree(ledger(bot).parent, tmp_path / "backup")
    await bot.start()
    gate.set()
    first = await nia.write(room_id, "Contez un phare avant la panne")
    await reply(nia, room_id, first, TALE)

    await bot.stop()
    for one in ledger(bot).parent.glob("ledger.db*"):
        one.unlink()
    for one in (tmp_path / "backup").glob("ledger.db*"):
        shutil.copy(one, ledger(bot).parent)
    await bot.start()
    second = await nia.write(room_id, "Après la panne")

    await begun(nia, room_id, second)
    assert asked(model, "Après la panne") == 1
    assert asked(model, "avant la panne") == 1
    assert len(replies_to(nia, room_id, first)) == 1


async def test_a_refused_sync_token_loses_nothing_and_repeats_nothing(
    nia: Person, bot: Bot, model: ScriptedModel
) -> None:
    room_id = await talk(nia, bot.user_id)
    before = await nia.write(room_id, "Avant le refus")
    await reply(nia, room_id, before, "You said: Avant le refus.")
    await bot.stop()
    with closing(sqlite3.connect(ledger(bot))) as connection:
        connection.execute("UPDATE account SET sync_token = 's_of_another_homeserver'")
        connection.commit()
    missed = await nia.write(room_id, "Pendant le refus")
    await bot.start()

    await begun(nia, room_id, missed)
    assert asked(model, "Avant le refus") == 1
    assert [len(replies_to(nia, room_id, one)) for one in (before, missed)] == [1, 1]
    after = await nia.write(room_id, "Après le refus")
    await begun(nia, room_id, after)


@pytest.mark.parametrize(
    "events", [300, pytest.param(1500, marks=[pytest.mark.soak, pytest.mark.timeout(180)])]
)
async def test_a_gap_of_many_pages_hides_no_prompt(
    nia: Person, bot: Bot, model: ScriptedModel, events: int
) -> None:
    room_id = await talk(nia, bot.user_id, encrypted=False)
    await bot.stop()
    first = await nia.write(room_id, "Avant la foule")
    remark = {"msgtype": "m.notice", "body": "…"}
    for _ in range(events // 20):
        sends = [nia.send_event(room_id, "m.room.message", remark) for _ in range(20)]
        await asyncio.gather(*sends)
    last = await nia.write(room_id, "Après la foule")
    await bot.start()

    for one in (first, last):
        await begun(nia, room_id, one, within=60)
        assert len(replies_to(nia, room_id, one)) == 1
    assert asked(model, "Après la foule") == 1


@pytest.mark.parametrize("which", ["first", "final"])
async def test_a_send_whose_answer_is_lost_makes_one_event(
    nia: Person, bot: Bot, fault_proxy: FaultProxy, gate: asyncio.Event, which: str
) -> None:
    room_id = await talk(nia, bot.user_id)
    words = f"Contez un phare, {which} sans réponse"
    if which == "first":
        with fault_proxy.rule("PUT", "/send/", "cut", times=1) as lost:
            prompt = await nia.write(room_id, words)
            await lost.met()
        await begun(nia, room_id, prompt)
        gate.set()
    else:
        prompt = await nia.write(room_id, words)
        told = await begun(nia, room_id, prompt, lambda seen: len(seen.versions) > 1)
        with fault_proxy.rule("PUT", "/send/", "cut", times=2) as lost:
            gate.set()
            await lost.met(2)
        assert told.event_id == (await reply(nia, room_id, prompt, TALE)).event_id

    await only_reply(nia, room_id, prompt, TALE)


async def test_a_homeserver_that_is_killed_with_its_answer_on_the_way_has_one_event(
    nia: Person, bot: Bot, synapse: Synapse, fault_proxy: FaultProxy, gate: asyncio.Event
) -> None:
    room_id = await talk(nia, bot.user_id)
    prompt = await nia.write(room_id, "Contez un phare foudroyé")
    told = await begun(nia, room_id, prompt, lambda seen: len(seen.versions) > 1)

    with fault_proxy.rule("PUT", "/send/", "cut", times=1) as lost:
        gate.set()
        await lost.met()
        await synapse.kill()
    await synapse.start()

    await only_reply(nia, room_id, prompt, TALE)
    assert replies_to(nia, room_id, prompt)[0].event_id == told.event_id


@pytest.mark.parametrize("body", [TOO_LARGE, PAGE], ids=["the homeserver", "a proxy"])
async def test_what_stands_says_that_it_is_not_complete_where_the_final_version_is_refused(
    nia: Person, bot: Bot, model: ScriptedModel, fault_proxy: FaultProxy, body: JSON | str
) -> None:
    gate, cut = asyncio.Event(), TALE.removesuffix(" encore.")
    model.when("un long phare", ScriptedAnswer(text=TALE, after=len(cut.split()), gate=gate))
    room_id = await talk(nia, bot.user_id)
    asking = f"Contez un long phare à {'un serveur' if body is TOO_LARGE else 'un relais'}"
    prompt = await nia.write(room_id, asking)
    await begun(nia, room_id, prompt, lambda seen: so_far(seen) == cut)

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    with fault_proxy.rule("PUT", "/send/", "answer", times=1, status=status, body=body) as refused:
        gate.set()
        await refused.met()

    await only_reply(nia, room_id, prompt, f"{cut}\n\n{TEXTS('model truncated')}")
    await bot.restart()
    after = await nia.write(room_id, "Et après ?")
    await begun(nia, room_id, after)
    assert asked(model, asking) == 1


@pytest.mark.parametrize(
    "answers",
    [
        {"status": HTTPStatus.TOO_MANY_REQUESTS, "body": LIMITED, "times": 5},
        {"status": HTTPStatus.BAD_GATEWAY, "body": "<html><body>502</body></html>", "times": 2},
        {"status": HTTPStatus.OK, "body": "<html><body>Bienvenue</body></html>", "times": 2},
        {"status": HTTPStatus.OK, "body": "", "times": 2},
    ],
    ids=["429", "502", "html", "nothing"],
)
async def test_a_final_version_comes_whole_through_a_storm(
    nia: Person,
    bot: Bot,
    fault_proxy: FaultProxy,
    gate: asyncio.Event,
    answers: JSON,
) -> None:
    room_id = await talk(nia, bot.user_id)
    prompt = await nia.write(room_id, "Contez un phare dans la tempête")
    await begun(nia, room_id, prompt)

    with fault_proxy.rule("PUT", "/send/", "answer", **answers) as storm:
        gate.set()
        await storm.met(answers["times"])

    await only_reply(nia, room_id, prompt, TALE)


async def test_a_final_version_that_the_homeserver_does_not_show_is_sent_again(
    nia: Person, bot: Bot, fault_proxy: FaultProxy, gate: asyncio.Event
) -> None:
    room_id = await talk(nia, bot.user_id)
    prompt = await nia.write(room_id, "Contez un phare qui ment")
    told = await begun(nia, room_id, prompt)
    wrong = bot.said("another text stands")
    await until(lambda: len(replies_to(nia, room_id, prompt)[0].versions) > 1)

    # As where a transaction id was used before: the homeserver takes nothing, and says it has.
    body = {"event_id": told.event_id}
    with fault_proxy.rule("PUT", "/send/", "answer", status=HTTPStatus.OK, body=body):
        gate.set()
        await until(lambda: bot.said("another text stands") > wrong)

    await only_reply(nia, room_id, prompt, TALE)


async def test_a_process_that_was_held_up_goes_on(
    nia: Person, bot: Bot, model: ScriptedModel, gate: asyncio.Event
) -> None:
    room_id = await talk(nia, bot.user_id)
    prompt = await nia.write(room_id, "Contez un phare endormi")
    await begun(nia, room_id, prompt)

    assert bot.pid
    os.kill(bot.pid, signal.SIGSTOP)
    gate.set()
    exchange = request(model, "un phare endormi")
    await until(lambda: exchange.done is not None)
    later = await nia.write(room_id, "Vous dormiez ?")
    os.kill(bot.pid, signal.SIGCONT)

    await only_reply(nia, room_id, prompt, TALE)
    await begun(nia, room_id, later)
    assert asked(model, "un phare endormi") == 1


async def test_a_reply_that_outlasts_the_stop_goes_on_in_its_message(
    nia: Person, bot: Bot, gate: asyncio.Event
) -> None:
    room_id = await talk(nia, bot.user_id)
    prompt = await nia.write(room_id, "Contez un phare interminable")
    told = await begun(nia, room_id, prompt)

    assert await bot.stop() == 0
    await bot.start()
    gate.set()

    await only_reply(nia, room_id, prompt, TALE)
    assert replies_to(nia, room_id, prompt)[0].event_id == told.event_id


async def test_a_process_without_a_file_to_open_goes_on_when_it_may_again(
    nia: Person, bot: Bot, gate: asyncio.Event
) -> None:
    room_id = await talk(nia, bot.user_id)
    prompt = await nia.write(room_id, "Contez un phare à court")
    await begun(nia, room_id, prompt)

    assert bot.pid
    before = resource.prlimit(bot.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(bot.pid, resource.RLIMIT_NOFILE, (3, before[1]))
    retried = bot.said("asking again")
    waiting = await nia.write(room_id, "Et moi ?")
    gate.set()
    await until(lambda: bot.said("asking again") > retried)
    resource.prlimit(bot.pid, resource.RLIMIT_NOFILE, before)

    await only_reply(nia, room_id, prompt, TALE)
    await begun(nia, room_id, waiting)


async def test_a_second_process_on_the_same_device_is_refused(bot: Bot) -> None:
    second = bot.beside()

    with pytest.raises(RuntimeError, match="another assistant runs on it"):
        await second.start()

    assert bot.runs

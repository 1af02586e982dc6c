"""A backend that counts and writes nonsense, and a bot whose other answers go on."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from http import HTTPStatus

import pytest
import pytest_asyncio

from tests.harness.bot import Bot
from tests.harness.expectations import begun, notice, replies_to, reply, talk, until
from tests.harness.fork import ForkServer
from tests.harness.model import ScriptedAnswer, ScriptedModel
from tests.harness.nio_person import NioPerson
from tests.harness.synapse import Synapse

pytestmark = pytest.mark.asyncio(loop_scope="module")

COUNTS = [18446744073709551615, 2**31, 1e300, -1, "many"]
HEADERS = {"Retry-After": "9" * 400}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def synapse(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Synapse]:
    async with Synapse(tmp_path_factory.mktemp("synapse")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bot(
    synapse: Synapse, model: ScriptedModel, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bot]:
    user_id = await synapse.register("assistant", "secret", displayname="Assistant IA")
    async with (
        ForkServer() as server,
        Bot(
            tmp_path_factory.mktemp("bot"),
            user_id,
            server.launch,
            matrix={"homeserver": synapse.url, "user_id": user_id, "password": "secret"},
            model={"base_url": model.url, "name": "scripted"},
        ) as running,
    ):
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nia(
    synapse: Synapse, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[NioPerson]:
    user_id = await synapse.register("nia", "secret")
    async with NioPerson(synapse.url, user_id, "secret", tmp_path_factory.mktemp("nia")) as person:
        yield person


@pytest.mark.parametrize("count", COUNTS)
async def test_a_count_of_tokens_that_is_none_costs_nobody_an_answer(
    nia: NioPerson, bot: Bot, model: ScriptedModel, count: object
) -> None:
    gate, pid = asyncio.Event(), bot.pid
    words = f"jetons {count}"
    usage = {"prompt_tokens": count, "completion_tokens": count}
    model.when(
        f"un conte en {words}", ScriptedAnswer(text="Il était une fois un phare.", gate=gate)
    )
    model.when(f"combien de {words}", ScriptedAnswer(text="Bien trop.", usage=usage))
    tale = await talk(nia, bot.user_id)
    other = await talk(nia, bot.user_id)
    running = await nia.write(tale, f"Dites un conte en {words}")
    prompt = await nia.write(other, f"Dites combien de {words}")

    await reply(nia, other, prompt, "Bien trop.")
    gate.set()
    await reply(nia, tale, running, "Il était une fois un phare.")

    def noted() -> bool:
        with closing(sqlite3.connect(bot.directory / "data" / "ledger.db")) as ledger:
            ledger.execute("PRAGMA busy_timeout=5000")
            rows = ledger.execute(
                "SELECT count(*) FROM circumstances WHERE prompt_event_id IN (?, ?)",
                (prompt, running),
            )
            return bool(rows.fetchone()[0] == len({prompt, running}))

    await until(noted)
    assert bot.pid == pid


async def test_a_wait_of_ages_is_told_and_not_waited_for(
    nia: NioPerson, bot: Bot, model: ScriptedModel
) -> None:
    status = HTTPStatus.SERVICE_UNAVAILABLE
    refusal = ScriptedAnswer(mode="verbatim", status=status, headers=HEADERS, body=b"{}")
    model.when("dans mille ans", refusal)
    room_id = await talk(nia, bot.user_id)

    prompt = await nia.write(room_id, "Revenez dans mille ans")

    await notice(nia, room_id, "model busy", prompt)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("```python\n\n", "model unreadable"),
        ("---\n\n" * 30, "model unreadable"),
        ("\u200b\u2060", "model unreadable"),
        (" \n\t\n", "model empty"),
    ],
    ids=["a fence", "rules", "invisible", "white space"],
)
async def test_nothing_that_cannot_be_read_ever_stands(
    nia: NioPerson, bot: Bot, model: ScriptedModel, text: str, key: str
) -> None:
    gate = asyncio.Event()
    asks = f"rien {ascii(text)[:20]}"
    model.when(asks, ScriptedAnswer(text=text, gate=gate, after=len(text)))
    room_id = await talk(nia, bot.user_id)

    prompt = await nia.write(room_id, f"Dites {asks}")
    await until(lambda: any(asks in one.prompt for one in model.exchanges))
    gate.set()

    await notice(nia, room_id, key, prompt)
    assert replies_to(nia, room_id, prompt) == []
    after = await nia.write(room_id, "Et maintenant ?")
    await begun(nia, room_id, after)

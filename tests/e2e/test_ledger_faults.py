"""A ledger that fails for a while: hearing stops, the probe turns red, and nothing is lost."""

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import aiohttp
import pytest

from tests.harness.bot import Bot, Launch
from tests.harness.expectations import begun, replies_to, reply, talk, until
from tests.harness.model import ScriptedAnswer, ScriptedModel
from tests.harness.network import free_port
from tests.harness.person import Person
from tests.harness.postgres import Postgres, programs
from tests.harness.synapse import Synapse

pytestmark = pytest.mark.asyncio(loop_scope="session")

with_postgresql = pytest.mark.skipif(
    programs() is None, reason="there is no PostgreSQL on this machine"
)
TALE = "Il y avait un moulin. " + "Le vent le tournait. " * 12 + "Il tourne encore."


async def new_bot(
    directory: Path,
    name: str,
    synapse: Synapse,
    model: ScriptedModel,
    launch: Launch,
    **sections: object,
) -> tuple[Bot, int]:
    """Return a bot of its own that was not started, and the port of its probes."""
    user_id = await synapse.register(name, "secret", displayname="Assistant IA")
    port = free_port()
    bot = Bot(
        directory,
        user_id,
        launch,
        matrix={"homeserver": synapse.url, "user_id": user_id, "password": "secret"},
        model={"base_url": model.url, "name": "scripted"},
        health={"port": port},
        **sections,  # type: ignore[arg-type]  # each is a mapping, as the two above
    )
    return bot, port


async def ready(port: int) -> tuple[int, list[str]]:
    """Return what `/readyz` says."""
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{port}/readyz") as answer,
    ):
        return answer.status, (await answer.json()).get("failed", [])


@contextmanager
def full_disk(bot: Bot) -> Iterator[None]:
    """Let no file of the bot's take a byte within the block: ledger, crypto store, nor log."""
    assert bot.pid
    pid, kind = bot.pid, resource.RLIMIT_FSIZE
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (0, before[1]))
    try:
        yield
    finally:
        if bot.runs:
            resource.prlimit(pid, kind, before)


async def test_files_that_take_nothing_are_waited_for(
    nia: Person, synapse: Synapse, model: ScriptedModel, launch: Launch, tmp_path: Path
) -> None:
    gate = asyncio.Event()
    model.when("un moulin plein", ScriptedAnswer(text=TALE, after=20, gate=gate))
    bot, port = await new_bot(tmp_path, "crowded", synapse, model, launch)
    async with bot:
        room_id = await talk(nia, bot.user_id, encrypted=False)
        prompt = await nia.write(room_id, "Contez un moulin plein")
        told = await begun(nia, room_id, prompt)

        async def red() -> bool:
            return await ready(port) == (HTTPStatus.SERVICE_UNAVAILABLE, ["ledger"])

        with full_disk(bot):
            gate.set()
            await until(red)
            waiting = await nia.write(room_id, "Pendant ce temps")

        assert (await reply(nia, room_id, prompt, TALE)).event_id == told.event_id
        await begun(nia, room_id, waiting)
        for one in (prompt, waiting):
            assert len(replies_to(nia, room_id, one)) == 1
        assert bot.said("log was cut") == 1
        assert (await ready(port))[0] == HTTPStatus.OK


async def test_a_crypto_store_that_takes_nothing_ends_the_process_and_loses_nothing(
    nia: Person, synapse: Synapse, model: ScriptedModel, launch: Launch, tmp_path: Path
) -> None:
    bot, _ = await new_bot(tmp_path, "sealed", synapse, model, launch)
    async with bot:
        room_id = await talk(nia, bot.user_id)
        with full_disk(bot):
            prompt = await nia.write(room_id, "Le coffre est plein")
            await until(lambda: not bot.runs)
        assert await bot.stop() == 1
        await bot.start()

        await reply(nia, room_id, prompt, "You said: Le coffre est plein.")
        assert len(replies_to(nia, room_id, prompt)) == 1


@with_postgresql
async def test_on_postgresql_a_restart_of_the_database_in_the_middle_loses_nothing(
    nia: Person, synapse: Synapse, model: ScriptedModel, launch: Launch, tmp_path: Path
) -> None:
    gate = asyncio.Event()
    model.when("un moulin", ScriptedAnswer(text=TALE, after=20, tokens_per_second=40, gate=gate))
    async with Postgres() as postgres:
        storage = {
            "directory": str(tmp_path / "data"),
            "key": "s" * 32,
            "database": postgres.url,
        }
        bot, port = await new_bot(tmp_path, "miller", synapse, model, launch, storage=storage)
        async with bot:
            room_id = await talk(nia, bot.user_id)
            prompt = await nia.write(room_id, "Contez un moulin")
            told = await begun(nia, room_id, prompt)

            await postgres.terminate_connections()
            second = await nia.write(room_id, "Pendant la coupure")
            await postgres.kill()
            gate.set()
            await until(lambda: bot.said("ledger away") > 0)
            assert await ready(port) == (HTTPStatus.SERVICE_UNAVAILABLE, ["ledger"])
            third = await nia.write(room_id, "Sans base de données")
            await postgres.start()

            whole = await reply(nia, room_id, prompt, TALE)
            assert whole.event_id == told.event_id
            for one in (second, third):
                await begun(nia, room_id, one)
            await until(lambda: bot.said("ledger back") > 0)
            assert (await ready(port))[0] == HTTPStatus.OK
            await bot.kill()
            await bot.start()
            last = await nia.write(room_id, "Après un arrêt")
            await begun(nia, room_id, last)
            for one in (prompt, second, third, last):
                assert len(replies_to(nia, room_id, one)) == 1

"""A ledger that fails for a while: hearing stops, the probe turns red, and nothing is lost."""

import asyncio
import socket
from http import HTTPStatus
from pathlib import Path

import aiohttp
import pytest

from bot.failpoints import VARIABLE
from tests.stand.bot import Bot
from tests.stand.model import Answer, ScriptedModel
from tests.stand.person import Person
from tests.stand.postgres import Postgres, programs
from tests.stand.synapse import Synapse
from tests.stand.talk import begun, replies_to, reply, talk, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

with_postgresql = pytest.mark.skipif(
    programs() is None, reason="there is no PostgreSQL on this machine"
)
TALE = "Il y avait un moulin. " + "Le vent le tournait. " * 12 + "Il tourne encore."


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def new_bot(
    directory: Path, name: str, synapse: Synapse, model: ScriptedModel, **sections: object
) -> tuple[Bot, int]:
    """Return a bot of its own that was not started, and the port of its probes."""
    user_id = await synapse.register(name, "secret", displayname="Assistant IA")
    port = free_port()
    bot = Bot(
        directory,
        user_id,
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


async def test_a_full_disk_is_waited_for(
    nia: Person,
    synapse: Synapse,
    model: ScriptedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bot, port = await new_bot(tmp_path, "full", synapse, model)
    async with bot:
        room_id = await talk(nia, bot.user_id)
        await bot.stop()
        monkeypatch.setenv(VARIABLE, ",".join(f"sent.within:enospc@{n}" for n in (1, 2, 3)))
        await bot.start()

        prompt = await nia.write(room_id, "Le disque est plein")
        await until(lambda: bot.said("ledger away") > 0)
        assert await ready(port) == (HTTPStatus.SERVICE_UNAVAILABLE, ["ledger"])

        await reply(nia, room_id, prompt, "You said: Le disque est plein.")
        await until(lambda: bot.said("ledger back") > 0)
        assert len(replies_to(nia, room_id, prompt)) == 1
        assert (await ready(port))[0] == HTTPStatus.OK


@with_postgresql
async def test_on_postgresql_a_restart_of_the_database_in_the_middle_loses_nothing(
    nia: Person, synapse: Synapse, model: ScriptedModel, tmp_path: Path
) -> None:
    gate = asyncio.Event()
    model.when("un moulin", Answer(text=TALE, after=20, tokens_per_second=40, gate=gate))
    async with Postgres() as postgres:
        storage = {
            "directory": str(tmp_path / "data"),
            "key": "s" * 32,
            "database": postgres.url,
        }
        bot, port = await new_bot(tmp_path, "miller", synapse, model, storage=storage)
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
            assert [len(replies_to(nia, room_id, one)) for one in (prompt, second, last)] == [
                1
            ] * 3

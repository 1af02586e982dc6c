"""The dashboard of a bot that runs: what a person has just said of a reply stands in it."""

from pathlib import Path

import aiohttp
import pytest

from tests.e2e.test_feedback import rows
from tests.harness.bot import Bot, Launch
from tests.harness.expectations import begun, talk, until
from tests.harness.model import ScriptedModel
from tests.harness.network import free_port
from tests.harness.person import Person
from tests.harness.synapse import Synapse

pytestmark = pytest.mark.asyncio(loop_scope="session")

TOKEN = "t" * 32


async def test_what_a_person_says_of_a_reply_stands_in_the_dashboard(
    tmp_path: Path, synapse: Synapse, model: ScriptedModel, launch: Launch, nia: Person
) -> None:
    user_id, port = await synapse.register("shown", "secret"), free_port()
    bot = Bot(
        tmp_path,
        user_id,
        launch,
        matrix={"homeserver": synapse.url, "user_id": user_id, "password": "secret"},
        model={"base_url": model.url, "name": "scripted"},
        dashboard={"port": port, "token": TOKEN, "public": True},
        feedback={"ask": "never"},
    )
    url = f"http://127.0.0.1:{port}"
    async with bot, aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        async with http.get(f"{url}/statistiques") as response:
            assert response.status == 200
            assert "aucun chiffre n" in await response.text()
        room_id = await talk(nia, user_id)
        prompt = await nia.write(room_id, "Quel temps fait-il ?")
        reply = await begun(nia, room_id, prompt)
        await nia.react(room_id, reply.event_id, "👎")
        query = "SELECT 1 FROM ratings WHERE prompt_event_id = ?"
        await until(lambda: bool(rows(bot, query, prompt)))

        async with http.post(f"{url}/connexion", data={"jeton": TOKEN}) as response:
            assert (response.status, response.url.path) == (200, "/")
            page = await response.text()
        assert "0 en partie, 1 non" in page
        assert "scripted" in page
        assert "Message direct" in page
        assert "Quel temps" not in page

"""One homeserver, one model, one running bot and two people, shared by all stories."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.stand.bot import Bot
from tests.stand.js_person import JsPerson
from tests.stand.model import ScriptedModel
from tests.stand.nio_person import NioPerson
from tests.stand.person import Person
from tests.stand.synapse import Synapse


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def synapse(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Synapse]:
    async with Synapse(tmp_path_factory.mktemp("synapse")) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def bot(
    synapse: Synapse, model: ScriptedModel, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bot]:
    user_id = await synapse.register("assistant", "secret")
    async with Bot(
        tmp_path_factory.mktemp("bot"),
        user_id,
        matrix={"homeserver": synapse.url, "user_id": user_id, "password": "secret"},
        model={"base_url": model.url, "name": "scripted", "stall_timeout": 2},
        log={"level": "debug"},
    ) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def nia(synapse: Synapse, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Person]:
    user_id = await synapse.register("nia", "secret")
    async with NioPerson(synapse.url, user_id, "secret", tmp_path_factory.mktemp("nia")) as person:
        yield person


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def jason(synapse: Synapse) -> AsyncIterator[Person]:
    user_id = await synapse.register("jason", "secret")
    async with JsPerson(synapse.url, user_id, "secret") as person:
        yield person


@pytest.fixture(params=["nio", "js"])
def person(request: pytest.FixtureRequest, nia: Person, jason: Person) -> Person:
    """Each story is told twice: on matrix-nio, and on Element's own crypto."""
    return nia if request.param == "nio" else jason

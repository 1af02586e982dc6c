"""The homeserver, the model, the bots and the people that all stories share."""

from collections.abc import AsyncIterator, Generator
from datetime import UTC, datetime

import pytest
import pytest_asyncio

from tests.harness.bot import ASKS_ALWAYS, Bot, Launch
from tests.harness.fault_proxy import FaultProxy
from tests.harness.fork import ForkServer
from tests.harness.js_person import JsPerson
from tests.harness.model import ScriptedModel
from tests.harness.nio_person import NioPerson
from tests.harness.person import Person
from tests.harness.synapse import Synapse

IDLE_SECONDS = 0.6  # of silence, after which the peculiar bot begins a new conversation
_LAST_LINES = 80  # of a bot's log that are shown with a story that failed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of each bot's log, and the time of the failure, if a story failed."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        ended = datetime.fromtimestamp(call.stop, UTC).isoformat()
        for name, value in item.funcargs.items():
            if isinstance(value, Bot) and value.log.exists():
                lines = value.log.read_text().splitlines()[-_LAST_LINES:]
                report.sections.append((f"log of {name}, read at {ended}", "\n".join(lines)))
    return report


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the clients at which a story's person is."""
    if "person" in metafunc.fixturenames:
        both = metafunc.definition.get_closest_marker("both_clients")
        metafunc.parametrize("person", ["nio", "js"] if both else ["js"], indirect=True)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def synapse(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Synapse]:
    async with Synapse(tmp_path_factory.mktemp("synapse")) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def fork_server() -> AsyncIterator[ForkServer]:
    """A parent that has done the bot's imports, which take most of the time of a start."""
    async with ForkServer() as server:
        yield server


@pytest.fixture(scope="session")
def launch(fork_server: ForkServer) -> Launch:
    return fork_server.launch


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def bot(
    synapse: Synapse,
    model: ScriptedModel,
    launch: Launch,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Bot]:
    user_id = await synapse.register("assistant", "secret", displayname="Assistant IA")
    async with Bot(
        tmp_path_factory.mktemp("bot"),
        user_id,
        launch,
        matrix={"homeserver": synapse.url, "user_id": user_id, "password": "secret"},
        model={
            "base_url": model.url,
            "name": "scripted",
            "stall_timeout": 2,
            "queue_timeout": 2,
        },
        log={"level": "debug"},
    ) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def curious(
    synapse: Synapse,
    model: ScriptedModel,
    launch: Launch,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Bot]:
    """A bot that asks for feedback on every reply, without delay."""
    user_id = await synapse.register("curious", "secret", displayname="Assistant IA")
    async with Bot(
        tmp_path_factory.mktemp("curious"),
        user_id,
        launch,
        matrix={"homeserver": synapse.url, "user_id": user_id, "password": "secret"},
        model={"base_url": model.url, "name": "scripted"},
        feedback=ASKS_ALWAYS,
        log={"level": "debug"},
    ) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def steady(
    synapse: Synapse,
    model: ScriptedModel,
    launch: Launch,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Bot]:
    user_id = await synapse.register("steady", "secret", displayname="Assistant IA")
    other = {"name": "other", "label": "Autre modèle"}
    async with Bot(
        tmp_path_factory.mktemp("steady"),
        user_id,
        launch,
        matrix={"homeserver": synapse.url, "user_id": user_id, "password": "secret"},
        model={"base_url": model.url, "name": "scripted", "choices": {"autre": other}},
        reply={"edit_interval": 1, "drain_seconds": 1},
        service={"contact": "assistance@stand.test"},
        log={"level": "debug"},
    ) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def assistant(steady: Bot) -> Bot:
    """A bot with two models and no short time limits; it runs, whatever the last story did."""
    if steady.pid is None:
        await steady.start()
    return steady


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def between(synapse: Synapse) -> AsyncIterator[FaultProxy]:
    """A proxy between the peculiar bot and the homeserver, which can inject faults."""
    async with FaultProxy(synapse.url) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def peculiar(
    synapse: Synapse,
    between: FaultProxy,
    model: ScriptedModel,
    launch: Launch,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Bot]:
    """A bot with one answer at a time, short conversations, and no threads in salons."""
    user_id = await synapse.register("peculiar", "secret", displayname="Assistant IA")
    async with Bot(
        tmp_path_factory.mktemp("peculiar"),
        user_id,
        launch,
        matrix={"homeserver": between.url, "user_id": user_id, "password": "secret"},
        model={"base_url": model.url, "name": "scripted"},
        conversation={"idle_minutes": IDLE_SECONDS / 60, "salon_replies": "inline"},
        reply={"at_once": 1, "line_after": 1, "drain_seconds": 1},
        log={"level": "debug"},
    ) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def nia(synapse: Synapse, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Person]:
    user_id = await synapse.register("nia", "secret")
    async with NioPerson(synapse.url, user_id, "secret", tmp_path_factory.mktemp("nia")) as person:
        yield person


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def jason(synapse: Synapse) -> AsyncIterator[JsPerson]:
    user_id = await synapse.register("jason", "secret")
    async with JsPerson(synapse.url, user_id, "secret") as person:
        yield person


@pytest.fixture(autouse=True)
def _untraced(untraced: None) -> None:
    """Measure no coverage: the code under test runs in other processes."""


@pytest.fixture
def colleague(person: Person, nia: Person, jason: Person) -> Person:
    """A second person, at the other client."""
    return jason if person is nia else nia


@pytest.fixture(params=[True, False], ids=["encrypted", "in clear"])
def encrypted(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def person(request: pytest.FixtureRequest, nia: Person, jason: Person) -> Person:
    """A person at Element's own crypto; a story of `both_clients` is told on matrix-nio, too."""
    return nia if request.param == "nio" else jason

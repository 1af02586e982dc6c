"""Everything that can be wrong at the start: a sentence that says what to do, and an exit code."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from stat import S_IMODE
from typing import Any, Protocol
from uuid import uuid4

import aiohttp
import pytest
import yaml

from bot.core.events import UserId
from tests.harness.bot import Bot, ChildProcess, Launch, launch_cold
from tests.harness.expectations import reply, talk, until
from tests.harness.fork import ForkServer
from tests.harness.model import ScriptedModel
from tests.harness.network import free_port
from tests.harness.person import Person
from tests.harness.postgres import Postgres, programs
from tests.harness.read_only import confined
from tests.harness.synapse import Synapse

UNKNOWN_ADMIN = "the homeserver knows no such admin: check matrix.admins"

pytestmark = pytest.mark.asyncio(loop_scope="session")


Sections = dict[str, dict[str, Any]]


class RunBot(Protocol):
    """Runs the bot on a configuration; returns its exit code and all it has printed."""

    async def __call__(self, *options: str, **sections: dict[str, Any]) -> tuple[int, str]: ...


@pytest.fixture
def run(fork_server: ForkServer, tmp_path: Path) -> RunBot:
    async def run(*options: str, **sections: dict[str, Any]) -> tuple[int, str]:
        config, log = tmp_path / "config.yaml", tmp_path / f"run-{uuid4().hex}.log"
        config.write_text(yaml.safe_dump(sections))  # a test may wait for its disk
        process = await fork_server.launch(config, log, {}, options=options)
        async with asyncio.timeout(50):
            code = await process.wait()
        _, _, printed = log.read_text().partition("\n")  # the first line is the fork server's
        return code, printed

    return run


def sections(directory: Path, synapse: Synapse, model: ScriptedModel) -> Sections:
    """Return a configuration that would do."""
    return {
        "matrix": {
            "homeserver": synapse.url,
            "user_id": "@starter:stand.test",
            "password": "canary-right",
            "recovery_key_file": str(directory / "recovery.key"),
        },
        "model": {"base_url": model.url, "name": "scripted"},
        "storage": {"directory": str(directory / "data"), "key": "s" * 32},
    }


@pytest.fixture
def given(tmp_path: Path, synapse: Synapse, model: ScriptedModel) -> Sections:
    return sections(tmp_path, synapse, model)


async def test_an_invalid_configuration_is_named_by_its_keys(
    tmp_path: Path, given: Sections
) -> None:
    given["matrix"]["pasword"] = "canary-7431"
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(given))

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bot", "run", "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ,
    )
    async with asyncio.timeout(50):
        output, _ = await process.communicate()
    printed = output.decode()

    assert process.returncode == 2
    assert "matrix.pasword" in printed
    assert "matrix.password" in printed
    assert "Traceback" not in printed
    assert "canary" not in printed


async def test_a_wrong_password_is_said_without_the_password(
    synapse: Synapse, given: Sections, run: RunBot
) -> None:
    await synapse.register("starter", "another")

    code, printed = await run(**given)

    assert code == 2
    assert "check matrix.user_id and matrix.password" in printed
    assert "Traceback" not in printed
    assert "canary" not in printed


async def test_a_homeserver_that_does_not_answer_is_said(given: Sections, run: RunBot) -> None:
    given["matrix"]["homeserver"] = "http://127.0.0.1:9"

    code, printed = await run(**given)

    assert code == 1
    assert "http://127.0.0.1:9" in printed
    assert "matrix.homeserver" in printed
    assert "Traceback" not in printed


async def test_a_server_that_is_no_homeserver_is_said(
    model: ScriptedModel, given: Sections, run: RunBot
) -> None:
    given["matrix"]["homeserver"] = model.url.removesuffix("/v1")

    code, printed = await run(**given)

    assert code == 2
    assert "is no Matrix homeserver: check matrix.homeserver" in printed
    assert "Traceback" not in printed


async def test_a_token_that_nobody_knows_is_said(given: Sections, run: RunBot) -> None:
    given["matrix"].pop("password")
    given["matrix"]["access_token"] = "canary-7431"

    code, printed = await run(**given)

    assert code == 2
    assert "matrix.access_token" in printed
    assert "Traceback" not in printed
    assert "canary" not in printed


async def test_a_store_that_cannot_be_written_is_said(given: Sections, run: RunBot) -> None:
    given["storage"]["directory"] = "/proc/assistant"

    code, printed = await run(**given)

    assert code == 1
    assert "storage.directory /proc/assistant" in printed
    assert "Traceback" not in printed


async def test_a_model_that_does_not_answer_is_said_and_the_assistant_tells_people(
    tmp_path: Path, synapse: Synapse, given: Sections, launch: Launch
) -> None:
    user_id = await synapse.register("patient", "secret")
    given["matrix"] |= {"user_id": user_id, "password": "secret"}
    given["model"]["base_url"] = "http://127.0.0.1:9/v1"

    async with Bot(tmp_path, user_id, launch, **given) as bot:
        lines = [json.loads(line) for line in bot.log.read_text().splitlines()]

    [said] = [line for line in lines if "check model.base_url" in line["event"]]
    assert said["level"] == "warning"


async def test_a_lost_crypto_store_stops_the_start_and_makes_no_new_device(
    tmp_path: Path, synapse: Synapse, given: Sections, run: RunBot, launch: Launch
) -> None:
    user_id = await synapse.register("forgetful", "secret")
    given["matrix"] |= {"user_id": user_id, "password": "secret"}
    async with Bot(tmp_path, user_id, launch, **given):
        pass
    (tmp_path / "data" / "matrix" / "crypto.db").unlink()

    code, printed = await run(**given)

    assert code == 1
    assert "crypto.db is missing" in printed
    assert "from the same backup" in printed
    assert "Traceback" not in printed


def remove(directory: Path, names: str) -> None:
    for one in directory.glob(names):
        one.unlink()


def modes_of_files(directory: Path) -> dict[str, int]:
    files = [one for one in directory.rglob("*") if one.is_file()]
    return {one.name: S_IMODE(one.stat().st_mode) for one in files}


async def test_a_lost_ledger_stops_the_start_until_a_new_one_is_meant(
    tmp_path: Path, synapse: Synapse, given: Sections, run: RunBot, fork_server: ForkServer
) -> None:
    user_id = await synapse.register("careless", "secret")
    given["matrix"] |= {"user_id": user_id, "password": "secret"}
    ledger = tmp_path / "data" / "ledger.db"
    async with Bot(tmp_path, user_id, fork_server.launch, **given):
        pass
    remove(tmp_path / "data", "ledger.db*")

    gone = await run(**given)
    made = ledger.exists()
    ledger.touch()
    empty = await run(**given)

    assert not made
    for code, printed in (gone, empty):
        assert code == 1
        assert "--new-ledger" in printed
        assert "from the same backup" in printed
        assert "Traceback" not in printed
    async with Bot(
        tmp_path, user_id, partial(fork_server.launch, options=["--new-ledger"]), **given
    ) as bot:
        assert bot.told("nothing is lost: leave out --new-ledger and --new-device") is None
    async with Bot(tmp_path, user_id, fork_server.launch, **given):
        pass


async def test_a_lost_device_beside_its_ledger_stops_the_start_until_a_new_one_is_meant(
    tmp_path: Path, synapse: Synapse, given: Sections, run: RunBot, fork_server: ForkServer
) -> None:
    user_id, port = await synapse.register("scattered", "secret"), free_port()
    given["matrix"] |= {"user_id": user_id, "password": "secret"}
    given["health"] = {"port": port}
    async with Bot(tmp_path, user_id, fork_server.launch, **given):
        await probed(port, [])  # the ledger has a token of a sync
    (tmp_path / "data" / "matrix").rename(tmp_path / "elsewhere")

    code, printed = await run(**given)

    assert code == 1
    assert "holds no device" in printed
    assert "--new-device" in printed
    assert "Traceback" not in printed
    async with Bot(
        tmp_path, user_id, partial(fork_server.launch, options=["--new-device"]), **given
    ):
        await probed(port, [])


@pytest.mark.skipif(programs() is None, reason="there is no PostgreSQL on this machine")
async def test_an_empty_database_beside_a_device_stops_the_start(
    tmp_path: Path, synapse: Synapse, given: Sections, run: RunBot, fork_server: ForkServer
) -> None:
    user_id = await synapse.register("moved", "secret")
    given["matrix"] |= {"user_id": user_id, "password": "secret"}
    async with Bot(tmp_path, user_id, fork_server.launch, **given):
        pass
    async with Postgres() as postgres:
        given["storage"]["database"] = postgres.url

        for _ in range(2):  # the first has left nothing behind
            code, printed = await run(**given)

            assert code == 1
            assert "the ledger is empty" in printed
            assert "--new-ledger" in printed
        async with Bot(
            tmp_path, user_id, partial(fork_server.launch, options=["--new-ledger"]), **given
        ):
            pass


async def test_a_second_bot_on_a_directory_is_said_before_all_else(
    tmp_path: Path, synapse: Synapse, given: Sections, run: RunBot, launch: Launch
) -> None:
    user_id = await synapse.register("twin", "secret")
    given["matrix"] |= {"user_id": user_id, "password": "secret"}
    given["health"] = {"port": free_port()}
    async with Bot(tmp_path, user_id, launch, **given):
        code, printed = await run(**given)

    assert code == 1
    assert "is in use: another assistant runs on it" in printed
    assert "health.port" not in printed


async def test_what_looks_wrong_is_said_at_the_start(
    tmp_path: Path,
    synapse: Synapse,
    model: ScriptedModel,
    given: Sections,
    launch: Launch,
) -> None:
    user_id = await synapse.register("odd", "secret")
    nobody = "@nobody-at-all:stand.test"
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o755)
    given["matrix"] |= {"user_id": user_id, "password": "secret", "admins": [nobody, user_id]}
    given["matrix"]["allowed_servers"] = ["*.elsewhere.test"]
    given["model"]["base_url"] = model.url.removesuffix("/v1")
    async with Bot(tmp_path, user_id, launch, **given) as bot:
        await until(lambda: bot.said(UNKNOWN_ADMIN) > 0)
    lines = [json.loads(line) for line in bot.log.read_text().splitlines()]

    warned = {line["event"]: line for line in lines if line["level"] == "warning"}
    [servers] = [line for event, line in warned.items() if "matrix.allowed_servers" in event]
    [url] = [line for event, line in warned.items() if "ends in /v1" in event]
    [directory] = [line for event, line in warned.items() if "chmod 700" in event]
    assert servers["allowed_servers"] == ["*.elsewhere.test"]
    assert url["base_url"] == given["model"]["base_url"]
    assert directory["mode"] == "0755"
    unknown = [line["user_id"] for line in lines if line["event"] == UNKNOWN_ADMIN]
    assert unknown == [nobody]


@pytest.mark.parametrize("kind", ["mute", "mute behind TLS", "https on a port of http"])
async def test_a_homeserver_that_is_waited_for_is_named_soon(
    tmp_path: Path, synapse: Synapse, given: Sections, kind: str, launch: Launch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        url = {
            "mute": f"http://127.0.0.1:{port}",
            "mute behind TLS": f"https://127.0.0.1:{port}",
            "https on a port of http": synapse.url.replace("http://", "https://"),
        }[kind]
        given["matrix"]["homeserver"] = url
        bot = Bot(tmp_path, UserId("@starter:stand.test"), launch, **given)
        await bot.begin()
        await until(lambda: bot.told("waiting") is not None)
        assert await bot.stop() == 0
    imported, waiting = bot.told("imported"), bot.told("waiting")
    lines = [json.loads(line) for line in bot.log.read_text().splitlines()]

    assert imported
    assert waiting
    assert (waiting - imported).total_seconds() < 10  # three where the machine is idle
    [said] = [line for line in lines if line["event"] == "waiting"]
    assert (said["on"], said["url"]) == ("the homeserver: see matrix.homeserver", url)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("matrix", "access_token", "canary-7431\n"),
        ("model", "api_key", "canary-7431\r\nX-Other: 1"),
        ("model", "api_key", "canary-7431-é"),
        ("storage", "key", f"canary-7431-{'k' * 40}\n"),
        ("matrix", "proxy", "https://canary-7431:3128"),
        ("storage", "database", "postgresql://u:canary-7431@127.0.0.1:9/d?sslmode=canary-7431"),
        ("storage", "database", "postgresql://u@/d?host=127.0.0.1&port=canary-7431"),
        ("reply", "drain_seconds", "1e300"),
    ],
)
async def test_a_value_that_nothing_can_be_done_with_is_named_by_its_key_alone(
    given: Sections, section: str, key: str, value: str, run: RunBot
) -> None:
    if key == "access_token":
        del given["matrix"]["password"]
    given.setdefault(section, {})[key] = value

    code, printed = await run(**given)

    assert code == 2
    assert f"{section}.{key}" in printed
    assert "canary" not in printed
    assert "bug" not in printed


async def test_a_taken_port_is_named_by_its_key(given: Sections, run: RunBot) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, printed = await run(**given, health={"port": port})

    assert code == 2
    assert f"health.port {port} of health.host 127.0.0.1 cannot be listened on" in printed
    assert "Traceback" not in printed


async def probed(port: int, failed: list[str]) -> str:
    """Wait until /readyz names just that, and return what /livez and /metrics say."""
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http, asyncio.timeout(30):
        while True:
            try:
                async with http.get("/readyz") as response:
                    if await response.json() == {"failed": failed}:
                        assert response.status == (503 if failed else 200)
                        break
            except aiohttp.ClientConnectionError:  # not yet
                pass
            await asyncio.sleep(0.05)
        said = ""
        for path in ("/livez", "/metrics"):
            async with http.get(path) as response:
                assert response.status == 200
                said += await response.text()
        return said


async def test_the_probes_answer_while_the_login_waits(
    tmp_path: Path, given: Sections, launch: Launch
) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        given["matrix"]["homeserver"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        bot = Bot(
            tmp_path,
            UserId("@starter:stand.test"),
            launch,
            **given,
            health={"port": port},
        )
        starting = asyncio.get_running_loop().create_task(bot.start())
        await probed(port, ["starting"])
        starting.cancel()
        await asyncio.wait([starting])
        assert await bot.stop() == 0


async def test_a_bot_that_has_synced_is_ready(
    tmp_path: Path, synapse: Synapse, given: Sections, launch: Launch
) -> None:
    user_id, port = await synapse.register("watched", "secret"), free_port()
    given["matrix"] |= {"user_id": user_id, "password": "secret"}
    async with Bot(tmp_path, user_id, launch, **given, health={"port": port}):
        said = await probed(port, [])

    assert "process_resident_memory_bytes" in said
    assert "assistant_ledger_up 1.0" in said
    assert "watched" not in said


async def test_on_a_read_only_root_a_prompt_is_answered_and_a_chart_drawn(
    tmp_path: Path,
    synapse: Synapse,
    given: Sections,
    nia: Person,
) -> None:
    volume, port = tmp_path / "data", free_port()
    volume.mkdir(mode=0o700)
    user_id = await synapse.register("contained", "secret")
    given["matrix"] |= {"user_id": user_id, "password": "secret"}
    given["matrix"]["recovery_key_file"] = str(volume / "recovery.key")
    given["dashboard"] = {"port": port}

    async def launch(config: Path, log: Path, more: Mapping[str, str]) -> ChildProcess:
        return await launch_cold(config, log, more, prefix=confined(volume))

    async with Bot(tmp_path, user_id, launch, **given):
        room_id = await talk(nia, user_id)
        prompt = await nia.send(room_id, "Bonjour")
        await reply(nia, room_id, prompt, "You said: Bonjour.")
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
            http.get("/graphiques/satisfaction-clair.svg") as chart,
        ):
            assert chart.status == 200
        modes = modes_of_files(volume)

    assert {"ledger.db", "ledger.db-wal", "crypto.db"} <= modes.keys()
    assert set(modes.values()) == {0o600}

"""Everything that can be wrong at the start: a sentence that says what to do, and an exit code."""

import asyncio
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from bot.core.events import UserId
from tests.stand.bot import Bot, launch_cold
from tests.stand.model import ScriptedModel
from tests.stand.network import free_port
from tests.stand.synapse import Synapse

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def run(directory: Path, **sections: dict[str, Any]) -> tuple[int, str]:
    """Run the command line on a configuration; return its exit code and all it printed."""
    config = directory / "config.yaml"
    config.write_text(yaml.safe_dump(sections))  # a test may wait for its disk
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bot", "run", "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ,
    )
    async with asyncio.timeout(50):
        printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()


def sections(directory: Path, synapse: Synapse, model: ScriptedModel) -> dict[str, dict[str, Any]]:
    """Return a configuration that would do."""
    return {
        "matrix": {
            "homeserver": synapse.url,
            "user_id": "@starter:stand.test",
            "password": "canary-right",
        },
        "model": {"base_url": model.url, "name": "scripted"},
        "storage": {"directory": str(directory / "data"), "key": "s" * 32},
    }


@pytest.fixture
def given(tmp_path: Path, synapse: Synapse, model: ScriptedModel) -> dict[str, dict[str, Any]]:
    return sections(tmp_path, synapse, model)


async def test_an_invalid_configuration_is_named_by_its_keys(
    tmp_path: Path, given: dict[str, dict[str, Any]]
) -> None:
    given["matrix"]["pasword"] = "canary-7431"

    code, printed = await run(tmp_path, **given)

    assert code == 2
    assert "matrix.pasword" in printed
    assert "matrix.password" in printed
    assert "Traceback" not in printed
    assert "canary" not in printed


async def test_a_wrong_password_is_said_without_the_password(
    tmp_path: Path, synapse: Synapse, given: dict[str, dict[str, Any]]
) -> None:
    await synapse.register("starter", "another")

    code, printed = await run(tmp_path, **given)

    assert code == 2
    assert "check matrix.user_id and matrix.password" in printed
    assert "Traceback" not in printed
    assert "canary" not in printed


async def test_a_homeserver_that_does_not_answer_is_said(
    tmp_path: Path, given: dict[str, dict[str, Any]]
) -> None:
    given["matrix"]["homeserver"] = "http://127.0.0.1:9"

    code, printed = await run(tmp_path, **given)

    assert code == 1
    assert "http://127.0.0.1:9" in printed
    assert "matrix.homeserver" in printed
    assert "Traceback" not in printed


async def test_a_server_that_is_no_homeserver_is_said(
    tmp_path: Path, model: ScriptedModel, given: dict[str, dict[str, Any]]
) -> None:
    given["matrix"]["homeserver"] = model.url.removesuffix("/v1")

    code, printed = await run(tmp_path, **given)

    assert code == 2
    assert "is no Matrix homeserver: check matrix.homeserver" in printed
    assert "Traceback" not in printed


async def test_a_token_that_nobody_knows_is_said(
    tmp_path: Path, given: dict[str, dict[str, Any]]
) -> None:
    given["matrix"].pop("password")
    given["matrix"]["access_token"] = "canary-7431"

    code, printed = await run(tmp_path, **given)

    assert code == 2
    assert "matrix.access_token" in printed
    assert "Traceback" not in printed
    assert "canary" not in printed


async def test_a_store_that_cannot_be_written_is_said(
    tmp_path: Path, given: dict[str, dict[str, Any]]
) -> None:
    given["storage"]["directory"] = "/proc/assistant"

    code, printed = await run(tmp_path, **given)

    assert code == 1
    assert "storage.directory /proc/assistant" in printed
    assert "Traceback" not in printed


async def test_a_model_that_does_not_answer_is_said_and_the_assistant_tells_people(
    tmp_path: Path, synapse: Synapse, given: dict[str, dict[str, Any]]
) -> None:
    user_id = await synapse.register("patient", "secret")
    given["matrix"] |= {"user_id": user_id, "password": "secret"}
    given["model"]["base_url"] = "http://127.0.0.1:9/v1"

    async with Bot(tmp_path, user_id, launch_cold, **given) as bot:
        lines = [json.loads(line) for line in bot.log.read_text().splitlines()]

    [said] = [line for line in lines if "check model.base_url" in line["event"]]
    assert said["level"] == "warning"


async def test_a_lost_crypto_store_stops_the_start_and_makes_no_new_device(
    tmp_path: Path, synapse: Synapse, given: dict[str, dict[str, Any]]
) -> None:
    user_id = await synapse.register("forgetful", "secret")
    given["matrix"] |= {"user_id": user_id, "password": "secret"}
    async with Bot(tmp_path, user_id, launch_cold, **given):
        pass
    (tmp_path / "data" / "matrix" / "crypto.db").unlink()

    code, printed = await run(tmp_path, **given)

    assert code == 1
    assert "crypto.db is missing" in printed
    assert "from the same backup" in printed
    assert "Traceback" not in printed


async def test_a_taken_port_is_named_by_its_key(
    tmp_path: Path, given: dict[str, dict[str, Any]]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, printed = await run(tmp_path, **given, health={"port": port})

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
    tmp_path: Path, given: dict[str, dict[str, Any]]
) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        given["matrix"]["homeserver"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        bot = Bot(
            tmp_path, UserId("@starter:stand.test"), launch_cold, **given, health={"port": port}
        )
        starting = asyncio.get_running_loop().create_task(bot.start())
        await probed(port, ["starting"])
        starting.cancel()
        await asyncio.wait([starting])
        assert await bot.stop() == 0


async def test_a_bot_that_has_synced_is_ready(
    tmp_path: Path, synapse: Synapse, given: dict[str, dict[str, Any]]
) -> None:
    user_id, port = await synapse.register("watched", "secret"), free_port()
    given["matrix"] |= {"user_id": user_id, "password": "secret"}
    async with Bot(tmp_path, user_id, launch_cold, **given, health={"port": port}):
        said = await probed(port, [])

    assert "process_resident_memory_bytes" in said
    assert "assistant_ledger_up 1.0" in said
    assert "watched" not in said

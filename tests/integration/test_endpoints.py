"""Probes and figures as a client reads them, over HTTP, and as their page describes them."""

import asyncio
import json
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
import yaml
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request
from prometheus_client.parser import text_string_to_metric_families

from bot.errors import ConfigError
from bot.monitoring.health import RECENT_SECONDS, STALLED_SECONDS, Health
from bot.monitoring.http import application, serve
from tests.fakes.clock import FakeClock
from tests.fakes.story import Story
from tests.harness.network import free_port
from tests.make import message

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")

Client = TestClient[Request, Application]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def health(clock: FakeClock) -> Health:
    return Health(clock=clock, version="1.2.3")


@pytest_asyncio.fixture
async def client(health: Health) -> AsyncIterator[Client]:
    async with TestClient(TestServer(application(health))) as running:
        yield running


async def probe(client: Client, path: str) -> tuple[int, list[str]]:
    """Return the status, and what the body names."""
    async with client.get(path) as response:
        body = await response.json()
        assert list(body) == ["failed"]
        return response.status, body["failed"]


async def scrape(client: Client) -> str:
    async with client.get("/metrics") as response:
        assert response.status == 200
        assert response.content_type == "text/plain"
        return await response.text()


async def test_the_bot_lives_while_its_sync_loop_turns(
    client: Client, clock: FakeClock, health: Health
) -> None:
    assert await probe(client, "/livez") == (200, [])

    clock.time += STALLED_SECONDS + 1
    assert await probe(client, "/livez") == (503, ["stalled"])

    health.beat()
    assert await probe(client, "/livez") == (200, [])


async def test_the_bot_is_not_ready_while_it_starts(client: Client, health: Health) -> None:
    assert await probe(client, "/readyz") == (503, ["starting"])

    health.synced()

    assert await probe(client, "/readyz") == (200, [])


@pytest.mark.parametrize(
    ("breaks", "mends", "named"),
    [
        (Health.ledger_failed, Health.ledger_worked, "ledger"),
        (lambda health: age(health, RECENT_SECONDS + 1), Health.synced, "sync"),
    ],
)
async def test_each_check_turns_red_by_its_cause_and_green_again(
    client: Client,
    health: Health,
    breaks: Callable[[Health], None],
    mends: Callable[[Health], None],
    named: str,
) -> None:
    health.synced()
    assert await probe(client, "/readyz") == (200, [])

    breaks(health)
    assert await probe(client, "/readyz") == (503, [named])
    assert await probe(client, "/livez") == (200, [])

    mends(health)
    assert await probe(client, "/readyz") == (200, [])


def age(health: Health, seconds: float) -> None:
    """Let time pass without an answer to a sync."""
    assert isinstance(health.clock, FakeClock)
    health.clock.time += seconds


async def test_all_that_fails_is_named(client: Client, health: Health) -> None:
    health.synced()
    health.ledger_failed()
    age(health, RECENT_SECONDS + 1)

    assert await probe(client, "/readyz") == (503, ["sync", "ledger"])


async def test_nothing_else_is_answered(client: Client) -> None:
    async with client.get("/") as response:
        assert response.status == 404
    async with client.post("/livez") as response:
        assert response.status == 405


async def test_the_figures_are_those_of_their_page(client: Client) -> None:
    described = set(re.findall(r"(?m)^\| `(assistant_\w+)` \| (\w+)", PAGE))
    served = {
        (f"{one.name}_total" if one.type == "counter" else one.name, one.type)
        for one in text_string_to_metric_families(await scrape(client))
    }

    assert served == described


async def test_the_page_names_no_figure_that_is_not_served(client: Client, health: Health) -> None:
    health.synced()
    text = await scrape(client)
    for name in re.findall(r"assistant_[a-z_]+[a-z]", PAGE):
        assert f"{name}" in text, name
    for block in re.findall(r"(?s)```yaml\n(.+?)```", PAGE):
        assert yaml.safe_load(block)


async def test_a_figure_is_read_as_it_was_told(
    client: Client, clock: FakeClock, health: Health
) -> None:
    health.synced()
    clock.time += 7
    health.spent("openai/gpt-oss-120b", 120, 40)

    families = text_string_to_metric_families(await scrape(client))
    read = {(one.name, *one.labels.values()): one.value for f in families for one in f.samples}

    assert read["assistant_sync_age_seconds",] == 7
    assert read["assistant_prompt_tokens_total", "openai/gpt-oss-120b"] == 120
    assert read["assistant_completion_tokens_total", "openai/gpt-oss-120b"] == 40
    assert read["assistant_build_info", "1.2.3"] == 1


async def test_a_conversation_leaves_no_id_and_no_word_in_the_figures() -> None:
    story = Story()
    assistant = story.assistant()
    health = assistant._health
    asked = message("Le canari chante-t-il ?", event_id="$canary:tchap.test")
    task = asyncio.get_running_loop().create_task(assistant.run())
    story.matrix.hear(asked)
    await story.until(lambda: story.done(asked.event_id))
    task.cancel()
    await asyncio.wait([task])

    async with TestClient(TestServer(application(health))) as client:
        text = await scrape(client)

    assert health.figure("assistant_reply_seconds_count") == 1
    assert not re.search(r"canar|chante|[@!$]", text)
    labels = {label for line in text.splitlines() for label in re.findall(r'(\w+)="', line)}
    assert labels <= {"kind", "le", "model", "version", "work"}


async def test_it_answers_while_the_block_runs_and_no_longer(health: Health) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/livez"
    async with aiohttp.ClientSession() as http:
        async with serve(health, "127.0.0.1", port), http.get(url) as response:
            assert response.status == 200
        with pytest.raises(aiohttp.ClientConnectionError):
            await http.get(url)


async def test_without_a_port_nobody_is_answered(health: Health) -> None:
    async with serve(health, "no such host", None):
        pass


async def test_a_taken_port_is_named_by_its_key(health: Health) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as raised:
            async with serve(health, "127.0.0.1", port):
                pass

    assert str(raised.value) == (
        f"health.port {port} of health.host 127.0.0.1 cannot be listened on:"
        " Address already in use; give another one, or null for no port at all"
    )


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("192.0.2.1", "Cannot assign requested address"),  # RFC 5737: nobody's
        ("1.2.3.4.5", "no such host"),
        ("x" * 64, "no such host"),
        ("x\0", "no such host"),
    ],
)
async def test_a_host_that_is_not_ours_is_named_by_its_key(
    health: Health, host: str, reason: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        async with serve(health, host, 9464):
            pass

    assert f"health.host {host} cannot be listened on: {reason}; " in str(raised.value)


async def test_the_image_asks_whether_the_bot_lives(
    client: Client, clock: FakeClock, tmp_path: Path
) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", "")
    [command] = re.findall(r"(?m)^HEALTHCHECK .*CMD (\[.+\])$", dockerfile)
    _, *arguments = json.loads(command)

    async def ask(**address: str) -> int | None:
        given = {f"ASSISTANT_HEALTH__{name}": value for name, value in address.items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            cwd=tmp_path,
            env=os.environ | {"ASSISTANT_HEALTH__PORT": str(client.port)} | given,
            stderr=asyncio.subprocess.DEVNULL,
        )
        return await process.wait()

    assert await ask() == 0
    assert await ask(HOST="localhost") == 0
    assert await ask(HOST="127.0.0.2") == 1
    assert await ask(PORT="null") == 0  # turned off
    clock.time += STALLED_SECONDS + 1
    assert await ask() == 1

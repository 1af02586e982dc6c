"""A proxy to the homeserver that fails: at the start that is said, in a reply it is waited out."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
import yaml

from bot.core.events import UserId
from bot.errors import HomeserverUnreachable
from bot.matrix import session
from bot.matrix.session import Account, Session
from tests.harness.bot import Bot
from tests.harness.expectations import begun, replies_to, reply, talk, until
from tests.harness.fork import ForkServer
from tests.harness.model import ScriptedAnswer, ScriptedModel
from tests.harness.network import FailingProxy, Fault, free_port, listening
from tests.harness.nio_person import NioPerson
from tests.harness.synapse import Synapse
from tests.harness.vault import vault

pytestmark = pytest.mark.asyncio(loop_scope="module")

TALE = "Il y avait un phare. " + "La mer le battait. " * 12 + "Il tient encore."
SENTENCES: dict[Fault, str] = {
    "refused": "matrix.proxy cannot be reached: Connect",
    "407": "matrix.proxy refuses the connection: 407",
    "cut": "matrix.proxy does not answer as a proxy does",
    "noise": "matrix.proxy does not answer as a proxy does",
    "mute": "the homeserver does not answer: ",
}


def account(proxy: str) -> Account:
    return Account(
        homeserver="http://homeserver.invalid",
        user_id=UserId("@a:b.test"),
        device_name="Bot",
        password="secret",
        proxy=proxy,
    )


async def why_not_open(proxy: str, directory: Path) -> str:
    """Return in which sentence the start ends."""
    opening = Session(account(proxy), vault(directory))
    with pytest.raises(HomeserverUnreachable) as raised:
        await opening.open()
    await opening.close()
    return str(raised.value)


@pytest.mark.parametrize("fault", SENTENCES)
async def test_a_proxy_that_fails_at_the_start_is_said_and_never_quoted(
    fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_REQUEST_SECONDS", 1)
    async with FailingProxy() as proxy:
        await proxy.fail(fault)
        sentence = await why_not_open(proxy.url, tmp_path)

    assert SENTENCES[fault] in sentence
    assert "check matrix.homeserver (https or http, host and port), matrix.proxy" in sentence
    assert "canary" not in sentence


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="closed"),
        pytest.param(b"\x05\xff", id="no way to log in"),
        pytest.param(b"\x05\x00\x05\x05\x00\x01\x7f\x00\x00\x01\x00\x00", id="refused there"),
        pytest.param(b"\x05\x00\x05", id="cut"),
        pytest.param(b"\x04\x00", id="another protocol"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="HTTP"),
    ],
)
async def test_a_socks_proxy_that_fails_is_no_bug_either(answer: bytes, tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(3)
        writer.write(answer)
        writer.write_eof()
        await reader.read()
        writer.close()

    async with listening(serve) as url:
        sentence = await why_not_open(url.replace("http:", "socks5:"), tmp_path)

    assert "matrix.proxy" in sentence


async def test_a_start_through_a_proxy_that_is_away_ends_with_one_sentence_and_code_1(
    tmp_path: Path,
) -> None:
    proxy = f"http://127.0.0.1:{free_port()}"
    homeserver, data = "http://homeserver.invalid", {"directory": str(tmp_path), "key": "s" * 32}
    sections = {
        "matrix": {"homeserver": homeserver, "user_id": "@a:b.test", "password": "canary-1"}
        | {"proxy": proxy.replace("//", "//user:canary-2@")}
        | {"recovery_key_file": str(tmp_path / "recovery.key")},
        "model": {"base_url": "http://127.0.0.1:9/v1", "name": "scripted"},
        "storage": data,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(sections))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bot", "run", "--config", str(tmp_path / "config.yaml")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate()

    assert process.returncode == 1
    assert b"matrix.proxy cannot be reached: Connect" in printed
    assert b"bug" not in printed
    assert b"canary" not in printed


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def synapse(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Synapse]:
    async with Synapse(tmp_path_factory.mktemp("synapse")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxy() -> AsyncIterator[FailingProxy]:
    async with FailingProxy() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def port() -> int:
    """Where the bot tells its figures."""
    return free_port()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bot(
    synapse: Synapse,
    model: ScriptedModel,
    proxy: FailingProxy,
    port: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Bot]:
    user_id = await synapse.register("assistant", "secret", displayname="Assistant IA")
    async with (
        ForkServer() as server,
        Bot(
            tmp_path_factory.mktemp("bot"),
            user_id,
            server.launch,
            matrix={"homeserver": synapse.url, "user_id": user_id, "password": "secret"}
            | {"proxy": proxy.url},
            model={"base_url": model.url, "name": "scripted"},
            reply={"edit_interval": 1},
            health={"port": port},
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


@pytest.mark.parametrize("fault", ["refused", "407", "cut", "noise", "mute"])
async def test_an_answer_comes_whole_though_the_proxy_is_away_in_the_middle_of_it(
    fault: Fault, nia: NioPerson, bot: Bot, model: ScriptedModel, proxy: FailingProxy, port: int
) -> None:
    gate = asyncio.Event()
    model.when(
        f"phare {fault}", ScriptedAnswer(text=TALE, after=20, tokens_per_second=40, gate=gate)
    )
    room_id = await talk(nia, bot.user_id)
    prompt = await nia.write(room_id, f"Contez un phare {fault}")
    await begun(nia, room_id, prompt)

    before, met = bot.said("homeserver away"), proxy.met
    await proxy.fail(fault)
    gate.set()  # and the answer goes on to its end
    if fault == "mute":
        await until(lambda: proxy.met > met + 1)
    else:
        await until(lambda: bot.said("homeserver away") > before + 1)
    await proxy.recover()

    await reply(nia, room_id, prompt, TALE)
    assert len(replies_to(nia, room_id, prompt)) == 1
    async with aiohttp.request("GET", f"http://127.0.0.1:{port}/metrics") as response:
        assert "assistant_bugs_total 0.0" in (await response.text()).splitlines()

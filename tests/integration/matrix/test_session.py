"""The login against a real Synapse: one device over restarts, and everything that can end it."""

import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from bot.core.events import UserId
from bot.errors import ConfigError, HomeserverUnreachable, LoggedOut, StoreError
from bot.matrix.session import Account, Session
from tests.harness.network import behind_tls, make_authority, proxying
from tests.harness.synapse import Synapse
from tests.harness.vault import vault

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def synapse(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Synapse]:
    async with Synapse(tmp_path_factory.mktemp("synapse")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def account(synapse: Synapse) -> Account:
    user_id = await synapse.register(f"bot-{os.urandom(4).hex()}", "secret")
    return Account(
        homeserver=synapse.url, user_id=user_id, device_name="Assistant IA", password="secret"
    )


async def opened(account: Account, directory: Path) -> Session:
    session = Session(account, vault(directory))
    try:
        await session.open()
    except BaseException:
        await session.close()
        raise
    return session


async def device_after(account: Account, directory: Path) -> tuple[str, str]:
    """Open and close a session; return its device id and token."""
    session = await opened(account, directory)
    device = str(session.client.device_id), session.client.access_token
    await session.close()
    return device


async def api(synapse: Synapse, token: str, method: str, path: str) -> int:
    async with aiohttp.request(
        method,
        f"{synapse.url}/_matrix/client/v3/{path}",
        headers={"Authorization": f"Bearer {token}"},
        json={},
    ) as response:
        return response.status


async def test_a_restart_is_the_same_device_with_the_same_token(
    account: Account, tmp_path: Path
) -> None:
    first = await device_after(account, tmp_path)

    assert await device_after(account, tmp_path) == first
    assert (tmp_path / "session.json").stat().st_mode & 0o777 == 0o600


async def test_a_login_cut_off_before_its_answer_is_taken_up_on_the_same_device(
    account: Account, tmp_path: Path
) -> None:
    device_id, _ = await device_after(account, tmp_path)
    record = json.loads((tmp_path / "session.json").read_text())
    (tmp_path / "session.json").write_text(
        json.dumps(record | {"access_token": None, "complete": False})
    )

    assert (await device_after(account, tmp_path))[0] == device_id


async def test_an_access_token_brings_its_own_device(account: Account, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    device = await device_after(account, tmp_path / "a")
    by_token = replace(account, password=None, access_token=device[1])

    assert await device_after(by_token, tmp_path / "b") == device
    assert device[1] not in (tmp_path / "b" / "session.json").read_text()


async def test_the_token_of_another_device_is_refused(account: Account, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    await device_after(account, tmp_path / "a")
    _, other = await device_after(account, tmp_path / "b")

    with pytest.raises(ConfigError, match="the first device's token"):
        await opened(replace(account, password=None, access_token=other), tmp_path / "a")


async def test_another_accounts_directory_is_refused(account: Account, tmp_path: Path) -> None:
    await device_after(account, tmp_path)

    with pytest.raises(ConfigError, match=r"storage\.directory of its own"):
        await opened(replace(account, user_id=UserId("@other:stand.test")), tmp_path)


@pytest.mark.parametrize("lost", ["session.json", "crypto.db"])
async def test_half_of_the_pair_stops_the_start(
    account: Account, tmp_path: Path, lost: str
) -> None:
    await device_after(account, tmp_path)
    (tmp_path / lost).unlink()

    with pytest.raises(StoreError, match=rf"{lost} is missing beside .*same backup"):
        await opened(account, tmp_path)
    assert not (tmp_path / lost).exists()


async def test_a_device_that_was_logged_out_is_not_replaced(
    account: Account, tmp_path: Path, synapse: Synapse
) -> None:
    _, token = await device_after(account, tmp_path)
    assert await api(synapse, token, "POST", "logout") == 200

    with pytest.raises(LoggedOut):
        await opened(account, tmp_path)


async def test_a_token_that_was_taken_away_is_renewed_on_the_same_device(
    account: Account, tmp_path: Path
) -> None:
    session = await opened(account, tmp_path)
    device_id = session.client.device_id
    session.client.access_token = ""  # what nio does at a soft logout

    await session.renew()

    assert session.client.access_token
    assert session.client.device_id == device_id
    token = session.client.access_token
    await session.close()
    assert (await device_after(account, tmp_path))[1] == token


async def test_an_ended_access_token_cannot_be_renewed(account: Account, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    _, token = await device_after(account, tmp_path / "a")
    session = await opened(replace(account, password=None, access_token=token), tmp_path / "b")
    session.client.access_token = ""

    with pytest.raises(LoggedOut):
        await session.renew()
    await session.close()


async def test_a_wrong_password_is_the_configurations_fault(
    account: Account, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"matrix\.password"):
        await opened(replace(account, password="wrong"), tmp_path)


async def test_the_operators_authority_and_proxy_lead_to_the_homeserver(
    account: Account, tmp_path: Path
) -> None:
    context = make_authority(tmp_path / "authority.pem")
    async with proxying() as (proxy, heads), behind_tls(account.homeserver, context) as url:
        there = replace(account, homeserver=url, ca_bundle=tmp_path / "authority.pem", proxy=proxy)
        await device_after(there, tmp_path)

    assert heads
    assert all(head.startswith(b"CONNECT 127.0.0.1:") for head in heads)


async def test_an_unknown_authority_is_named(account: Account, tmp_path: Path) -> None:
    context = make_authority(tmp_path / "authority.pem")
    async with behind_tls(account.homeserver, context) as url:
        with pytest.raises(HomeserverUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
            await opened(replace(account, homeserver=url), tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no keys"),
        (b"no database at all, but long enough to be one" * 99, "file is not a database"),
    ],
)
async def test_a_crypto_store_that_is_none_is_named_and_kept(
    account: Account, tmp_path: Path, content: bytes, reason: str
) -> None:
    await device_after(account, tmp_path)
    (tmp_path / "crypto.db").write_bytes(content)
    record = (tmp_path / "session.json").read_text()

    with pytest.raises(StoreError, match=rf"crypto\.db .*{reason}.*from the same backup"):
        await opened(account, tmp_path)
    assert (tmp_path / "session.json").read_text() == record


async def test_a_damaged_crypto_store_is_named(account: Account, tmp_path: Path) -> None:
    await device_after(account, tmp_path)
    pages = bytearray((tmp_path / "crypto.db").read_bytes())
    pages[4096:] = os.urandom(len(pages) - 4096)
    (tmp_path / "crypto.db").write_bytes(pages)

    with pytest.raises(StoreError, match=r"crypto\.db cannot be used: .*from the same backup"):
        await opened(account, tmp_path)


async def test_the_crypto_store_of_another_device_is_refused(
    account: Account, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    other, _ = await device_after(account, tmp_path / "a")
    await device_after(account, tmp_path / "b")
    (tmp_path / "a" / "crypto.db").replace(tmp_path / "b" / "crypto.db")

    with pytest.raises(StoreError, match=rf"belongs to {account.user_id}'s device {other}"):
        await opened(account, tmp_path / "b")


async def test_another_key_opens_no_crypto_store(account: Account, tmp_path: Path) -> None:
    await device_after(account, tmp_path)
    before = (tmp_path / "crypto.db").read_bytes()
    session = Session(account, replace(vault(tmp_path), key="x" * 32))

    with pytest.raises(StoreError, match=r"storage\.key does not open .*crypto\.db"):
        await session.open()
    await session.close()
    assert (tmp_path / "crypto.db").read_bytes() == before


async def test_a_second_process_on_the_same_directory_says_so_and_changes_nothing(
    account: Account, tmp_path: Path
) -> None:
    first = await opened(account, tmp_path)
    record = (tmp_path / "session.json").read_text()

    with pytest.raises(StoreError, match="another assistant runs on it"):
        await opened(account, tmp_path)

    assert (tmp_path / "session.json").read_text() == record
    await first.close()
    assert (await device_after(account, tmp_path))[0] == json.loads(record)["device_id"]

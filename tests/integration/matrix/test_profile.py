"""The account's avatar and name on a real Synapse: given where there is none, never twice."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from bot.core.events import UserId
from bot.matrix import profile
from bot.matrix.profile import check_profile
from bot.matrix.session import Account, Session
from bot.reporting.charts import avatar
from tests.harness.fault_proxy import FaultProxy
from tests.harness.synapse import Synapse
from tests.harness.vault import vault

pytestmark = pytest.mark.asyncio(loop_scope="module")

UPLOAD = ("POST", "/media/.*/upload$")
SET = ("PUT", "/profile/.*/avatar_url$")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def synapse(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Synapse]:
    async with Synapse(tmp_path_factory.mktemp("synapse")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def between(synapse: Synapse) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(synapse.url) as running:
        yield running


@dataclass
class ProfileAccount:
    """One account, behind a proxy that can meddle."""

    user_id: UserId
    session: Session

    async def start(self, draw: Callable[[], Awaitable[bytes]] | None = avatar) -> list[str]:
        """Do what a start does of it, and return what the log then says."""
        with capture_logs() as logs:
            await check_profile(self.session.client, self.user_id, draw)
        return [one["event"] for one in logs]

    async def shown(self) -> object:
        return (await self.session.client.ask("GET", ["profile", self.user_id])).get("avatar_url")


@asynccontextmanager
async def opened(
    synapse: Synapse, url: str, directory: Path, name: str = "Assistant IA"
) -> AsyncIterator[ProfileAccount]:
    localpart = f"face-{directory.name.replace('_', '-').lower()}"[:200]
    user_id = await synapse.register(localpart, "secret", displayname=name)
    session = Session(
        Account(homeserver=url, user_id=user_id, device_name="Test", password="secret"),
        vault(directory),
    )
    async with AsyncExitStack() as parts:
        parts.push_async_callback(session.close)
        await session.open()
        yield ProfileAccount(user_id, session)


@pytest_asyncio.fixture(loop_scope="module")
async def stage(
    synapse: Synapse, between: FaultProxy, tmp_path: Path
) -> AsyncIterator[ProfileAccount]:
    async with opened(synapse, between.url, tmp_path) as made:
        yield made


async def test_an_account_without_an_avatar_gets_the_mark_once(
    stage: ProfileAccount, between: FaultProxy
) -> None:
    with between.rule(*UPLOAD, "count", times=None) as uploads:
        first = await stage.start()
        again = await stage.start()

    assert (first, again) == (["avatar set"], [])
    assert len(uploads.requests) == 1
    url = str(await stage.shown())
    picture = await stage.session.client.download_media(url, 1 << 20)
    assert picture == await avatar()
    assert picture.startswith(b"\x89PNG\r\n")


async def test_an_avatar_that_somebody_has_chosen_stays(stage: ProfileAccount) -> None:
    path = ["profile", stage.user_id, "avatar_url"]
    await stage.session.client.ask("PUT", path, {"avatar_url": "mxc://stand.test/own"})

    assert await stage.start() == []
    assert await stage.shown() == "mxc://stand.test/own"


async def test_an_operator_who_keeps_the_profile_gets_nothing(
    stage: ProfileAccount, between: FaultProxy
) -> None:
    with between.rule(*UPLOAD, "count", times=None) as uploads:
        assert await stage.start(None) == []

    assert uploads.requests == []
    assert await stage.shown() is None


@pytest.mark.parametrize(
    "capabilities",
    [
        {"m.set_avatar_url": {"enabled": False}},
        {"m.profile_fields": {"enabled": False}},
        {"m.profile_fields": {"enabled": True, "allowed": ["displayname"]}},
        {"m.profile_fields": {"enabled": True, "disallowed": ["avatar_url"]}},
    ],
)
async def test_where_nobody_may_change_an_avatar_nothing_is_uploaded(
    stage: ProfileAccount, between: FaultProxy, capabilities: dict[str, object]
) -> None:
    with (
        between.rule(
            "GET", "/capabilities$", "answer", status=200, body={"capabilities": capabilities}
        ),
        between.rule(*UPLOAD, "count", times=None) as uploads,
    ):
        said = await stage.start()

    assert said == ["the homeserver lets nobody change an avatar"]
    assert uploads.requests == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        (*UPLOAD, 403),
        (*UPLOAD, 413),
        (*UPLOAD, 429),
        (*UPLOAD, 502),
        (*SET, 403),
        ("GET", "/profile/", 403),
        ("GET", "/profile/", 502),
        ("GET", "/capabilities$", 500),
        ("GET", "/account_data/", 502),
        ("PUT", "/account_data/", 403),
    ],
)
async def test_what_is_refused_is_said_in_the_log_and_costs_no_start(
    stage: ProfileAccount, between: FaultProxy, method: str, path: str, status: int
) -> None:
    with (
        between.rule(method, path, "answer", times=1, status=status),
        between.rule(*UPLOAD, "count", times=None) as uploads,
    ):
        async with asyncio.timeout(30):
            [said] = await stage.start()

    assert "matrix.avatar" in said
    assert len(uploads.requests) <= 1
    assert await stage.shown() is None


async def test_a_picture_is_uploaded_once_however_often_the_profile_refuses_it(
    stage: ProfileAccount, between: FaultProxy
) -> None:
    with (
        between.rule(*SET, "answer", times=3, status=403),
        between.rule(*UPLOAD, "count", times=None) as uploads,
    ):
        for _ in range(3):
            [said] = await stage.start()
            assert "matrix.avatar" in said
        assert await stage.start() == ["avatar set"]

    assert len(uploads.requests) == 1


@pytest.mark.parametrize("status", [404, 403])
async def test_a_homeserver_that_names_no_capabilities_lets_people_change_their_avatars(
    stage: ProfileAccount, between: FaultProxy, status: int
) -> None:
    body = {"errcode": "M_UNRECOGNIZED", "error": "unknown"}
    with between.rule("GET", "/capabilities$", "answer", times=1, status=status, body=body):
        assert await stage.start() == ["avatar set"]


async def test_a_homeserver_that_does_not_answer_holds_up_no_start(
    stage: ProfileAccount, between: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "_PATIENCE", 0.3)
    with between.rule(*UPLOAD, "hold", times=1):
        [said] = await stage.start()

    assert "matrix.avatar" in said


async def test_a_picture_that_cannot_be_drawn_costs_no_start(stage: ProfileAccount) -> None:
    async def fail() -> bytes:
        raise ValueError("no picture")

    assert await stage.start(fail) == ["bug"]


async def test_a_profile_that_was_never_written_gets_one(
    stage: ProfileAccount, between: FaultProxy
) -> None:
    missing = {"errcode": "M_NOT_FOUND", "error": "no profile"}
    with between.rule("GET", "/profile/", "answer", times=1, status=404, body=missing):
        said = await stage.start()

    assert "avatar set" in said


@pytest.mark.parametrize(
    ("name", "told"),
    [("Albert", True), ("assistant ia [Dinum]", False), ("🤖 Assistant IA 🇫🇷", False)],
)
async def test_a_name_that_people_would_not_look_for_is_named_in_the_log(
    synapse: Synapse, tmp_path: Path, name: str, *, told: bool
) -> None:
    async with opened(synapse, synapse.url, tmp_path, name) as stage:
        with capture_logs() as logs:
            await check_profile(stage.session.client, stage.user_id, None)

    names = [one.get("display_name") for one in logs if one["log_level"] == "warning"]
    assert names == ([name] if told else [])

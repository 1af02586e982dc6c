"""The sync loop against a homeserver that fails on purpose."""

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import nio
import pytest
from aiohttp import web

from bot.core.events import UserId
from bot.errors import AccountExpired, LoggedOut
from bot.matrix.rooms import Rooms
from bot.matrix.session import Account, Session
from bot.matrix.sync import batches

ME = UserId("@bot:stand.test")
HTML = (502, "<html>bad gateway</html>")


@dataclass
class Homeserver:
    """Answers each `/sync` with the next of `answers`, then with an empty batch for ever."""

    url: str = ""
    answers: list[tuple[int, Any]] = field(default_factory=list)
    asked: list[Mapping[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    logins: list[dict[str, Any]] = field(default_factory=list)
    refused_logins: list[tuple[int, Any]] = field(default_factory=list)

    async def sync(self, request: web.Request) -> web.Response:
        self.asked.append(dict(request.query))
        self.times.append(time.monotonic())
        status, body = self.answers.pop(0) if self.answers else (200, None)
        if isinstance(body, str):
            return web.Response(status=status, text=body, content_type="text/html")
        default = {"next_batch": f"s{len(self.asked)}", "device_one_time_keys_count": {}}
        return web.json_response(body or default | {"rooms": {}}, status=status)

    async def login(self, request: web.Request) -> web.Response:
        if self.refused_logins:
            status, body = self.refused_logins.pop()
            return web.json_response(body, status=status)
        self.logins.append(await request.json())
        device_id = self.logins[-1]["device_id"]
        return web.json_response(
            {"user_id": ME, "device_id": device_id, "access_token": f"t{len(self.logins)}"}
        )

    async def upload(self, _: web.Request) -> web.Response:
        return web.json_response({"one_time_key_counts": {"signed_curve25519": 50}})


@pytest.fixture
async def homeserver() -> AsyncIterator[Homeserver]:
    server, app = Homeserver(), web.Application()
    app.router.add_get("/_matrix/client/v3/sync", server.sync)
    app.router.add_post("/_matrix/client/v3/login", server.login)
    app.router.add_post("/_matrix/client/v3/keys/upload", server.upload)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture
async def session(homeserver: Homeserver, tmp_path: Path) -> AsyncIterator[Session]:
    session = Session(Account(homeserver.url, ME, "bot", "secret"), tmp_path)
    await session.open()
    yield session
    await session.close()


async def test_a_failing_homeserver_is_asked_less_often_and_from_the_same_place(
    homeserver: Homeserver, session: Session
) -> None:
    homeserver.answers = [HTML, (200, "no json"), (500, {"errcode": "M_UNKNOWN", "error": "x"})]

    first = await anext(batches(session, Rooms(ME), "s_saved"))

    assert first.next_batch == "s4"
    assert [asked["since"] for asked in homeserver.asked] == ["s_saved"] * 4
    assert [asked["full_state"] for asked in homeserver.asked] == ["true"] * 4
    waits = [later - before for before, later in pairwise(homeserver.times)]
    assert waits[0] >= 0.5
    assert waits[1] >= 1.0
    assert waits[2] >= 2.0


async def test_the_wait_that_a_homeserver_asks_for_is_kept(
    homeserver: Homeserver, session: Session
) -> None:
    limited = {"errcode": "M_LIMIT_EXCEEDED", "error": "x", "retry_after_ms": 1200}
    homeserver.answers = [(429, limited)]

    await anext(batches(session, Rooms(ME), None))

    assert homeserver.times[1] - homeserver.times[0] >= 1.2


async def test_later_syncs_go_on_from_the_last_batch_and_wait_for_news(
    homeserver: Homeserver, session: Session
) -> None:
    loop = batches(session, Rooms(ME), None)
    await anext(loop)
    await anext(loop)

    assert homeserver.asked[1]["since"] == "s1"
    assert "full_state" not in homeserver.asked[1]
    assert homeserver.asked[1]["timeout"] == "30000"
    assert "lazy_load_members" in homeserver.asked[0]["filter"]


async def test_a_soft_logout_is_followed_by_a_login_on_the_same_device(
    homeserver: Homeserver, session: Session
) -> None:
    ended = {"errcode": "M_UNKNOWN_TOKEN", "error": "x", "soft_logout": True}
    homeserver.answers = [(401, ended)]

    await anext(batches(session, Rooms(ME), "s_saved"))

    first, second = homeserver.logins
    assert first["device_id"] == second["device_id"] == session.client.device_id
    assert session.client.access_token == "t2"
    assert [asked["since"] for asked in homeserver.asked] == ["s_saved"] * 2


@pytest.mark.parametrize(
    ("status", "errcode", "error"),
    [
        (401, "M_UNKNOWN_TOKEN", LoggedOut),
        (403, "ORG_MATRIX_EXPIRED_ACCOUNT", AccountExpired),
    ],
)
async def test_what_no_retry_can_mend_ends_the_loop(
    homeserver: Homeserver, session: Session, status: int, errcode: str, error: type[Exception]
) -> None:
    homeserver.answers = [(status, {"errcode": errcode, "error": "x"})]

    with pytest.raises(error):
        await anext(batches(session, Rooms(ME), None))


async def test_without_a_password_a_soft_logout_is_the_end(
    homeserver: Homeserver, session: Session
) -> None:
    session._account = replace(session._account, password=None, access_token="t1")
    ended = {"errcode": "M_UNKNOWN_TOKEN", "error": "x", "soft_logout": True}
    homeserver.answers = [(401, ended)]

    with pytest.raises(LoggedOut) as caught:
        await anext(batches(session, Rooms(ME), None))
    assert not caught.value.soft


async def test_a_response_that_cannot_be_taken_in_is_given_up_and_the_next_one_heard(
    homeserver: Homeserver, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned = {"next_batch": "s_poison", "device_one_time_keys_count": {}, "rooms": {}}
    homeserver.answers = [(200, poisoned)] * 3
    handle = session.client._handle_to_device

    async def fail_at_poison(response: nio.SyncResponse) -> None:
        if response.next_batch == "s_poison":
            raise RuntimeError("nobody expected this")
        await handle(response)

    monkeypatch.setattr(session.client, "_handle_to_device", fail_at_poison)

    batch = await anext(batches(session, Rooms(ME), "s_saved"))

    assert batch.next_batch == "s4"
    asked = [one["since"] for one in homeserver.asked]
    assert asked == ["s_saved"] * 3 + ["s_poison"]


async def test_a_homeserver_that_ends_every_login_is_not_asked_all_the_time(
    homeserver: Homeserver, session: Session
) -> None:
    ended = {"errcode": "M_UNKNOWN_TOKEN", "error": "x", "soft_logout": True}
    homeserver.answers = [(401, ended)] * 2

    await anext(batches(session, Rooms(ME), None))

    assert homeserver.times[2] - homeserver.times[0] >= 1.5


async def test_too_many_logins_are_waited_out(homeserver: Homeserver, tmp_path: Path) -> None:
    limited = {"errcode": "M_LIMIT_EXCEEDED", "error": "x", "retry_after_ms": 0}
    homeserver.refused_logins = [(429, limited)]
    (tmp_path / "new").mkdir()
    session = Session(Account(homeserver.url, ME, "bot", "secret"), tmp_path / "new")

    await session.open()

    assert session.client.access_token
    await session.close()

"""Whom the bot follows from a room given up, on a homeserver that says what it is told to."""

import json
from typing import Any
from urllib.parse import unquote

import nio
import pytest
from typing_extensions import override

from bot.core.events import EventId, RoomId, Upgraded, UserId
from bot.errors import Forbidden, HomeserverUnreachable
from bot.matrix import response_repair, successors
from bot.matrix.history import Histories
from bot.matrix.nio_client import SafeClient
from bot.matrix.room_events import Rooms
from bot.matrix.state_events import FOLLOWING
from bot.matrix.successors import Successors
from tests.harness.vault import health
from tests.make import AGENT, BOT, COLLEAGUE, ROOM

NEW = RoomId("!new:x")
UPGRADED = Upgraded(EventId("$t"), ROOM, AGENT, NEW)
FORBIDDEN = {"errcode": "M_FORBIDDEN", "error": "no"}
REPLACES = {"predecessor": {"room_id": ROOM, "event_id": "$t"}}


class SuccessorClient(SafeClient):
    """Has one room besides, which members may read; `readable`: others, too."""

    def __init__(self, create: dict[str, Any], *, readable: bool, public: bool) -> None:
        super().__init__("http://x", BOT, "BOT")
        self.restore_login(BOT, "BOT", "token")
        self.create, self.readable, self.public = create, readable, public
        self.inside = False
        self.done: list[str] = []
        self.reasons: list[str] = []
        self.silent: list[str] = []  # what is done and not answered, once

    @override
    async def _send(
        self,
        response_class: type[nio.Response],
        method: str,
        path: str,
        data: Any = None,
        *_: Any,
        **__: Any,
    ) -> Any:
        body = self._answer(method, unquote(path), data)
        if self.done and self.done[-1] in self.silent:
            self.silent.remove(self.done[-1])
            raise TimeoutError
        return response_repair.read(response_class, json.dumps(body).encode(), ())

    def _answer(self, method: str, path: str, data: str | None) -> dict[str, Any]:
        if method == "GET":
            assert path.endswith(f"rooms/{NEW}/state/m.room.create?format=event")
            made = {"type": "m.room.create", "state_key": "", "content": self.create}
            return made if self.inside or self.readable else FORBIDDEN
        if path.endswith(f"/join/{NEW}"):
            if not self.public:
                return FORBIDDEN
            self.inside = True
            self.done.append("join")
            self.reasons.append(json.loads(data or "{}")["reason"])
            return {"room_id": NEW}
        assert path.endswith(f"/rooms/{NEW}/leave")
        self.inside = False
        self.done.append("leave")
        return {}


class There(Rooms):
    """Rooms in which the agent has the power to give the old one up."""

    def __init__(self, client: SafeClient) -> None:
        super().__init__(BOT, health(), Histories(client, BOT))
        self.here: set[RoomId] = set()
        self.stray: set[RoomId] = set()

    @override
    def may_upgrade(self, room_id: RoomId, user_id: UserId) -> bool:
        return user_id == AGENT

    @override
    def knows(self, room_id: RoomId) -> bool:
        return room_id in self.here

    @override
    def is_stray(self, room_id: RoomId) -> bool:
        return room_id in self.stray


def meet(
    create: dict[str, Any], *, readable: bool = False, public: bool = True
) -> tuple[SuccessorClient, There, Successors]:
    client = SuccessorClient(create, readable=readable, public=public)
    rooms = There(client)
    return client, rooms, Successors(client, rooms)


@pytest.mark.parametrize("readable", [True, False])
@pytest.mark.parametrize(
    ("create", "right"),
    [
        (REPLACES, True),
        ({}, False),
        ({"predecessor": {"room_id": "!other:x", "event_id": "$t"}}, False),
        ({"predecessor": ROOM}, False),
        (REPLACES | {"type": "m.space"}, False),
    ],
)
async def test_the_bot_stays_where_the_room_replaces_the_old_one_alone(
    create: dict[str, Any], *, right: bool, readable: bool
) -> None:
    client, _, followed = meet(create, readable=readable)

    if right:
        await followed.follow(UPGRADED)
    else:
        with pytest.raises(Forbidden):
            await followed.follow(UPGRADED)

    looked = ["join", "leave"] if not readable else []
    assert client.done == (["join"] if right else looked)
    assert {*client.reasons} <= {f"{FOLLOWING}{ROOM}"}
    assert client.inside is right


async def test_nobody_without_the_power_leads_the_bot_anywhere() -> None:
    client, _, followed = meet(REPLACES)

    with pytest.raises(Forbidden):
        await followed.follow(Upgraded(EventId("$t"), ROOM, COLLEAGUE, NEW))

    assert client.done == []


async def test_a_room_that_lets_nobody_in_is_not_left_either() -> None:
    client, _, followed = meet(REPLACES, public=False)

    with pytest.raises(Forbidden):
        await followed.follow(UPGRADED)
    client.public = True
    await followed.follow(UPGRADED)

    assert client.done == ["join"]


async def test_a_room_that_turned_out_wrong_is_not_entered_again() -> None:
    client, _, followed = meet({})
    for _ in range(3):
        with pytest.raises(Forbidden):
            await followed.follow(UPGRADED)

    assert client.done == ["join", "leave"]


async def test_what_is_remembered_of_wrong_rooms_has_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(successors, "_REMEMBERED", 1)
    _, _, followed = meet({})
    followed._replaces[RoomId("!earlier:x")] = None

    with pytest.raises(Forbidden):
        await followed.follow(UPGRADED)

    assert [*followed._replaces] == [NEW]


async def test_a_room_in_which_the_bot_is_already_is_not_left_as_somebody_points_to_it() -> None:
    client, rooms, followed = meet({})
    rooms.here.add(NEW)
    client.inside = True

    await followed.follow(UPGRADED)

    assert client.done == []
    assert client.inside


@pytest.mark.parametrize("lost", ["join", "leave"])
async def test_a_wrong_room_is_left_though_an_answer_was_lost(lost: str) -> None:
    client, _, followed = meet({})
    client.silent = [lost]

    with pytest.raises(HomeserverUnreachable):
        await followed.follow(UPGRADED)
    with pytest.raises(Forbidden):
        await followed.follow(UPGRADED)

    assert not client.inside


@pytest.mark.parametrize("create", [{}, REPLACES])
async def test_a_process_that_comes_after_a_crash_goes_on_from_where_the_bot_is(
    create: dict[str, Any],
) -> None:
    client, rooms, followed = meet(create)
    rooms.here.add(NEW)
    client.inside = True
    if not create:
        rooms.stray.add(NEW)
        with pytest.raises(Forbidden):
            await followed.follow(UPGRADED)
    else:
        await followed.follow(UPGRADED)

    assert client.inside is bool(create)

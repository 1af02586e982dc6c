"""Keys of what was said before, as matrix-js-sdk shares them with who is invited (MSC4268)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bot.core.events import Invite, Joined, Message, RoomId, Undecryptable
from bot.matrix.adapter import NioMatrix
from bot.matrix.session import Account
from tests.harness.expectations import until
from tests.harness.js_person import JsPerson
from tests.harness.synapse import Synapse
from tests.harness.vault import health, vault

pytestmark = pytest.mark.asyncio(loop_scope="session")

BEFORE = "Le budget est de 4711 euros."


class Guest:
    """The bot's account, which joins what it is invited to."""

    def __init__(self, matrix: NioMatrix) -> None:
        self.matrix = matrix
        self.joined = asyncio.Queue[RoomId]()

    async def listen(self) -> None:
        async for batch in self.matrix.batches(None):
            for event in batch.events:
                if isinstance(event, Invite):
                    await self.matrix.join(event)
                elif isinstance(event, Joined):
                    self.joined.put_nowait(event.room_id)


@asynccontextmanager
async def guest(
    synapse: Synapse, name: str, directory: Path, *, wanted: bool
) -> AsyncIterator[Guest]:
    account = Account(
        homeserver=synapse.url,
        user_id=await synapse.register(name, "secret"),
        device_name="bot",
        password="secret",
    )
    place = replace(vault(directory), history_on_invite=wanted)
    matrix = NioMatrix(account, place, health())
    await matrix.open()
    one = Guest(matrix)
    listening = asyncio.get_running_loop().create_task(one.listen())
    try:
        yield one
    finally:
        listening.cancel()
        await asyncio.wait([listening])
        await matrix.close()


@pytest.mark.parametrize(
    ("wanted", "signed", "readable"),
    [(True, True, True), (False, True, False), (True, False, False)],
    ids=["wanted", "by default", "from an unsigned device"],
)
async def test_what_was_said_before_is_readable_where_a_trusted_inviter_shares_its_key(
    synapse: Synapse, tmp_path: Path, *, wanted: bool, signed: bool, readable: bool
) -> None:
    kind = f"{wanted}-{signed}".lower()
    user_id = await synapse.register(f"sharing-greta-{kind}", "secret")
    async with (
        JsPerson(synapse.url, user_id, "secret") as greta,
        guest(synapse, f"guest-{kind}", tmp_path, wanted=wanted) as bot,
    ):
        if signed:
            await greta.bootstrap_cross_signing()
        room_id = await greta.create_room("Budget", [], history="shared")
        before = await greta.send(room_id, BEFORE)

        await greta.invite_with_history(room_id, bot.matrix.user_id)
        assert await bot.joined.get() == room_id
        # What comes after it in the same order of to-device messages is there: so is the bundle.
        after = await greta.send(room_id, "Après")

        async def can_read() -> bool:
            return isinstance(await bot.matrix.fetch(room_id, after), Message)

        await until(can_read)
        await until(lambda: not bot.matrix._client.machine.bundles)
        heard = await bot.matrix.fetch(room_id, before)

    assert isinstance(heard, Message if readable else Undecryptable)
    assert not isinstance(heard, Message) or heard.body == BEFORE

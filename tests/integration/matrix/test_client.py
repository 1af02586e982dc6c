"""What the port does to rooms of a real Synapse, where others would see it."""

from pathlib import Path
from urllib.parse import quote

import pytest

from bot.core.events import Invite
from bot.matrix.client import NioMatrix
from bot.matrix.session import Account
from tests.stand.nio_person import NioPerson
from tests.stand.synapse import Synapse


async def test_an_invitation_is_declined_with_a_reason_that_the_inviter_sees(
    tmp_path: Path,
) -> None:
    for name in ("synapse", "bot", "agent"):
        (tmp_path / name).mkdir()
    async with Synapse(tmp_path / "synapse") as synapse:
        bot = await synapse.register("bot", "secret")
        agent = await synapse.register("agent", "secret")
        matrix = NioMatrix(Account(synapse.url, bot, "bot", "secret"), tmp_path / "bot")
        async with NioPerson(synapse.url, agent, "secret", tmp_path / "agent") as person:
            await matrix.open()
            room_id = await person.open_direct_message(bot)
            batch = await anext(matrix.batches(None))
            [invitation] = batch.events
            assert isinstance(invitation, Invite)
            assert invitation.sender == agent

            await matrix.leave(room_id, "Pas ouvert à votre serveur.")
            await matrix.leave(room_id, "Twice is once.")

            path = f"/rooms/{room_id}/state/m.room.member/{quote(bot)}"
            member = await person._call("GET", path, {})
            await matrix.close()
    assert member == {"membership": "leave", "reason": "Pas ouvert à votre serveur."} | {
        key: member[key] for key in member.keys() & {"displayname", "avatar_url"}
    }


@pytest.mark.parametrize("direct", [True, False])
async def test_joining_a_direct_message_lists_it_in_the_account_data(
    tmp_path: Path, *, direct: bool
) -> None:
    for name in ("synapse", "bot", "agent"):
        (tmp_path / name).mkdir()
    async with Synapse(tmp_path / "synapse") as synapse:
        bot = await synapse.register("bot", "secret")
        agent = await synapse.register("agent", "secret")
        matrix = NioMatrix(Account(synapse.url, bot, "bot", "secret"), tmp_path / "bot")
        async with NioPerson(synapse.url, agent, "secret", tmp_path / "agent") as person:
            await matrix.open()
            opening = (
                person.open_direct_message(bot) if direct else person.create_room("Bureau", [bot])
            )
            room_id = await opening
            batches = matrix.batches(None)
            [invitation] = (await anext(batches)).events
            assert isinstance(invitation, Invite)
            await matrix.join(invitation)
            await person.wait_joined(room_id, bot)
            while not matrix._rooms.direct and direct:
                await anext(batches)
            await matrix.close()
    assert matrix._rooms.direct == ({agent: [room_id]} if direct else {})

"""What the port does to rooms of a real Synapse, where others would see it."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast
from urllib.parse import quote

import nio
import pytest

from bot.core.events import Batch, Invite, Message, Prompt, RoomId
from bot.core.outgoing import Attachment, Notice, PreparedEvent
from bot.errors import HomeserverUnreachable, NotEncrypted, TooLarge
from bot.matrix import nio_client
from bot.matrix.adapter import NioMatrix
from bot.matrix.history import Histories
from bot.matrix.json_fields import identifier
from bot.matrix.room_events import Rooms
from bot.matrix.session import Account
from bot.matrix.state_events import ADMIN, ROOM_MARKER
from tests.harness.nio_person import NioPerson
from tests.harness.synapse import Synapse
from tests.harness.vault import health, vault
from tests.make import prompt
from tests.sending import send


@asynccontextmanager
async def meeting(
    directory: Path, *, uploads: str = "50M"
) -> AsyncIterator[tuple[NioMatrix, NioPerson]]:
    """Bring a bot and a person together on a homeserver of their own."""
    for name in ("synapse", "bot", "agent"):
        (directory / name).mkdir()
    async with Synapse(directory / "synapse", uploads=uploads) as synapse:
        bot = await synapse.register("bot", "secret")
        agent = await synapse.register("agent", "secret")
        matrix = NioMatrix(
            Account(homeserver=synapse.url, user_id=bot, device_name="bot", password="secret"),
            vault(directory / "bot"),
            health(),
        )
        await matrix.open()
        async with NioPerson(synapse.url, agent, "secret", directory / "agent") as person:
            yield matrix, person
            await matrix.close()


async def invitation(batches: AsyncIterator[Batch]) -> Invite:
    """Return the next batch's one event."""
    [event] = (await anext(batches)).events
    assert isinstance(event, Invite)
    return event


async def ask(matrix: NioMatrix, person: NioPerson, batches: AsyncIterator[Batch]) -> Prompt:
    """Open a direct message with the bot and ask it something."""
    room_id = await person.open_direct_message(matrix.user_id)
    await matrix.join(await invitation(batches))
    await person.wait_joined(room_id, matrix.user_id)
    event_id = await person.send(room_id, "Tu es là ?")
    return prompt(
        Message(
            event_id=event_id,
            room_id=room_id,
            sender=person.user_id,
            msgtype="m.text",
            body="Tu es là ?",
            timestamp=0,
        )
    )


async def test_an_invitation_is_declined_with_a_reason_that_the_inviter_sees(
    tmp_path: Path,
) -> None:
    async with meeting(tmp_path) as (matrix, person):
        room_id = await person.open_direct_message(matrix.user_id)
        assert (await invitation(matrix.batches(None))).sender == person.user_id

        await matrix.leave(room_id, "Pas ouvert à votre serveur.")
        await matrix.leave(room_id, "Twice is once.")

        path = f"/rooms/{room_id}/state/m.room.member/{quote(matrix.user_id)}"
        member = await person._call("GET", path, {})
    assert member["membership"] == "leave"
    assert member["reason"] == "Pas ouvert à votre serveur."


@pytest.mark.parametrize("direct", [True, False])
async def test_joining_a_direct_message_lists_it_in_the_account_data(
    tmp_path: Path, *, direct: bool
) -> None:
    async with meeting(tmp_path) as (matrix, person):
        bot = matrix.user_id
        opening = person.open_direct_message(bot) if direct else person.create_room("x", [bot])
        room_id = await opening
        invited = await invitation(matrix.batches(None))
        await matrix.join(invited)
        await person.wait_joined(room_id, bot)

        listed = Rooms(bot, health(), Histories(matrix._client, bot))
        response = await matrix._client.sync(full_state=True)
        heard = listed.read_response(cast("nio.SyncResponse", response), first=True, fresh=False)
        assert any(heard)
    assert listed.direct == ({person.user_id: [room_id]} if direct else {})


async def test_the_person_sees_that_the_message_is_read_and_an_answer_being_written(
    tmp_path: Path,
) -> None:
    async with meeting(tmp_path) as (matrix, person):
        asked = await ask(matrix, person, matrix.batches(None))
        room_id, event_id = asked.room_id, asked.event_id
        limits = itertools.count(1)

        async def shown() -> tuple[bool, bool]:
            """Tell whether the receipt and the typing notice are there."""
            unlike = quote(f'{{"room": {{"timeline": {{"limit": {next(limits)}}}}}}}')  # no cache
            answer = await person._call("GET", f"/sync?filter={unlike}", {})
            room = answer["rooms"]["join"][room_id]
            events = {event["type"]: event["content"] for event in room["ephemeral"]["events"]}
            readers = events.get("m.receipt", {}).get(event_id, {}).get("m.read", {})
            return matrix.user_id in readers, matrix.user_id in events.get("m.typing", {}).get(
                "user_ids", []
            )

        async def until(expected: tuple[bool, bool]) -> None:
            async with asyncio.timeout(10):
                while await shown() != expected:  # noqa: ASYNC110  # the homeserver tells on asking
                    await asyncio.sleep(0.05)

        async with matrix.attention(asked):
            async with matrix.attention(asked):
                await until((True, True))
            await until((True, True))  # one answer is done, the other goes on
        await until((True, False))


async def test_an_admin_room_is_made_once_though_no_sync_has_told_of_it(tmp_path: Path) -> None:
    async with meeting(tmp_path) as (matrix, person):
        marker = {"creation_content": {ROOM_MARKER: ADMIN}, "invite": [matrix.user_id]}
        forged = (await person._call("POST", "/createRoom", marker))["room_id"]
        batches = matrix.batches(None)
        await matrix.join(await invitation(batches))
        await person.wait_joined(forged, matrix.user_id)

        made = [await matrix.open_admin_room("Administration") for _ in range(2)]

        assert made[0] == made[1] != forged
        while not any(one.admin for one in matrix.rooms()):
            await anext(batches)
        assert await matrix.open_admin_room("Administration") == made[0]


@pytest.mark.parametrize(
    "said",
    [
        Notice(text="Campagne terminée."),
        Attachment(name="a.csv", mimetype="text/csv", data=b"x"),
        Attachment(
            name="a.png", mimetype="image/png", data=b"x", alternative="Un point.", size=(1, 1)
        ),
    ],
    ids=["a notice", "a file", "a picture"],
)
async def test_what_is_said_in_an_admin_room_that_is_still_being_made_is_encrypted(
    tmp_path: Path, said: Notice | Attachment
) -> None:
    async with meeting(tmp_path) as (matrix, _):
        batches = matrix.batches(None)
        await anext(batches)  # so that the next one waits, and tells of the room at once
        making = asyncio.get_running_loop().create_task(matrix.open_admin_room("Administration"))
        while not (there := [one for one in matrix.rooms() if one.admin]):
            await anext(batches)
        room_id = there[0].room_id

        event_id = await send(matrix, room_id, said, "at-once")

        assert await making == room_id
        shown = await matrix.shown(room_id, event_id)
        assert shown is not None
        assert shown.type == "m.room.encrypted"
        assert {"url", "body", "filename"}.isdisjoint(shown.content)


async def test_nothing_is_said_in_an_admin_room_that_was_never_made_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with meeting(tmp_path) as (matrix, _):
        batches = matrix.batches(None)
        body = {"preset": "private_chat", "creation_content": {ROOM_MARKER: ADMIN}}
        room_id = RoomId(
            identifier(await matrix._client.ask("POST", ["createRoom"], body), "room_id")
        )
        while not matrix.room(room_id).admin:
            await anext(batches)
        with pytest.raises(HomeserverUnreachable):
            await matrix.prepare(room_id, Notice(text="Bonjour."))

        monkeypatch.setattr(nio_client, "_CREATION_SECONDS", 0.0)
        with pytest.raises(NotEncrypted):
            await matrix.prepare(room_id, Notice(text="Bonjour."))
        with pytest.raises(NotEncrypted):
            await matrix.put(
                room_id, PreparedEvent("m.room.message", {"body": "Bonjour."}), "late"
            )
        with pytest.raises(NotEncrypted):
            await matrix.open_admin_room("Administration")


async def test_a_file_is_as_large_as_the_homeserver_takes_and_no_larger(tmp_path: Path) -> None:
    async with meeting(tmp_path, uploads="300K") as (matrix, person):
        batches = matrix.batches(None)
        asked = await ask(matrix, person, batches)
        while asked.room_id not in matrix._client.rooms:
            await anext(batches)
        limit = await matrix.upload_limit()
        assert limit == 300 * 1024
        whole, more = (
            Attachment(name="a.csv", mimetype="text/csv", data=b"x" * size)
            for size in (limit, limit + 1)
        )

        await send(matrix, asked.room_id, whole, "file")
        seen = await person.wait_for_message(asked.room_id, lambda one: one.body == "a.csv")
        with pytest.raises(TooLarge):
            await matrix.prepare(asked.room_id, more)

        assert await person.download(seen.content["file"]) == whole.data


async def test_the_rooms_key_is_with_the_person_before_there_is_anything_to_send(
    tmp_path: Path,
) -> None:
    async with meeting(tmp_path) as (matrix, person):
        batches = matrix.batches(None)
        asked = await ask(matrix, person, batches)
        room_id = asked.room_id
        keys = matrix._client.machine.outbound_group_sessions
        while room_id not in matrix._client.rooms:
            await anext(batches)
        assert room_id not in keys

        async with matrix.attention(asked):
            pass

        assert keys[room_id].users_shared_with == {(person.user_id, person.device_id)}
        assert keys[room_id].message_count == 0

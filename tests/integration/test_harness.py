"""Proves the test harness itself: its Synapse, its people on matrix-nio and on matrix-js-sdk."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from bot.core.events import RoomId, UserId
from tests.harness.client_view import JSON, ClientView
from tests.harness.js_person import JsPerson
from tests.harness.nio_person import NioPerson
from tests.harness.person import Person, Refused
from tests.harness.synapse import Synapse

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

REPOSITORY = Path(__file__).parents[2]
ROOM = RoomId("!room")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def synapse(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Synapse]:
    async with Synapse(tmp_path_factory.mktemp("synapse")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nia(synapse: Synapse, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Person]:
    user_id = await synapse.register("nia", "secret")
    store = tmp_path_factory.mktemp("nia")
    async with NioPerson(synapse.url, user_id, "secret", store) as person:
        yield person


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def jason(synapse: Synapse) -> AsyncIterator[JsPerson]:
    user_id = await synapse.register("jason", "secret")
    async with JsPerson(synapse.url, user_id, "secret") as person:
        yield person


@pytest.fixture(params=["nio opens", "js opens"])
def pair(request: pytest.FixtureRequest, nia: Person, jason: Person) -> tuple[Person, Person]:
    return (nia, jason) if request.param == "nio opens" else (jason, nia)


async def meet(opener: Person, other: Person, *, encrypted: bool = True) -> RoomId:
    room_id = await opener.open_direct_message(other.user_id, encrypted=encrypted)
    await other.join(room_id)
    await opener.wait_joined(room_id, other.user_id)
    return room_id


async def test_people_on_both_clients_read_each_other(pair: tuple[Person, Person]) -> None:
    opener, other = pair
    room_id = await meet(opener, other)
    await opener.send(room_id, "Bonjour")
    await other.wait_for_message(room_id, lambda seen: seen.body == "Bonjour")
    await other.send(room_id, "Bonjour à vous")
    answer = await opener.wait_for_message(room_id, lambda seen: seen.body == "Bonjour à vous")
    assert answer.sender == other.user_id
    assert [seen.body for seen in opener.messages(room_id)] == ["Bonjour", "Bonjour à vous"]


async def test_a_message_sent_before_the_other_joined_is_readable_afterwards(
    pair: tuple[Person, Person],
) -> None:
    opener, other = pair
    room_id = await opener.open_direct_message(other.user_id, first_prompt="Vous êtes là ?")
    await other.join(room_id)
    prompt = await other.wait_for_message(room_id, lambda seen: seen.sender == opener.user_id)
    assert prompt.body == "Vous êtes là ?"


async def test_edits_are_seen_as_versions(pair: tuple[Person, Person]) -> None:
    opener, other = pair
    room_id = await meet(opener, other)
    event_id = await opener.send(room_id, "Un")
    await opener.edit(room_id, event_id, "Un deux")
    await opener.edit(room_id, event_id, "Un deux trois")
    await other.wait_for_message(room_id, lambda seen: seen.body == "Un deux trois")
    versions = other.versions(room_id, event_id)
    assert [version.content["body"] for version in versions] == ["Un", "Un deux", "Un deux trois"]
    assert [version.at for version in versions] == sorted(version.at for version in versions)
    assert len(other.messages(room_id)) == 1


async def test_a_message_is_watched_as_it_grows(nia: Person, jason: Person) -> None:
    room_id = await meet(nia, jason)
    changes = jason.changes(room_id)
    event_id = await nia.send(room_id, "Un")
    await nia.edit(room_id, event_id, "Un deux")
    assert [(await anext(changes)).body for _ in range(2)] == ["Un", "Un deux"]


async def test_the_room_a_person_opens_is_what_tchap_opens(nia: Person, jason: Person) -> None:
    room_id = await meet(nia, jason)
    state = jason.observed.state
    assert state[room_id, "im.vector.room.access_rules", ""] == {"rule": "direct"}
    assert state[room_id, "m.room.encryption", ""]["algorithm"] == "m.megolm.v1.aes-sha2"
    assert state[room_id, "m.room.member", jason.user_id]["membership"] == "join"


async def test_a_salon_without_encryption_carries_messages_in_clear(
    nia: Person, jason: JsPerson
) -> None:
    room_id = await nia.create_room("Cuisine", [jason.user_id], encrypted=False)
    await jason.join(room_id)
    await nia.send(room_id, "Bonjour")
    message = await jason.wait_for_message(room_id, lambda seen: seen.body == "Bonjour")
    assert await jason.shield(room_id, message.event_id) is None


async def test_a_redacted_edit_leaves_the_wording_before_it(
    pair: tuple[Person, Person],
) -> None:
    opener, other = pair
    room_id = await meet(opener, other)
    event_id = await opener.send(room_id, "Bon")
    edit_id = await opener.edit(room_id, event_id, "Mauvais")
    await other.wait_for_message(room_id, lambda seen: seen.body == "Mauvais")
    await opener.redact(room_id, edit_id)
    await other.wait_for_message(room_id, lambda seen: seen.body == "Bon")
    await opener.redact(room_id, event_id)
    message = await other.wait_for_message(room_id, lambda seen: seen.redacted)
    assert message.content == {}


async def test_isolation_excludes_a_device_that_its_owner_did_not_sign(
    synapse: Synapse, nia: Person
) -> None:
    user_id = await synapse.register("isolde", "secret")
    async with JsPerson(synapse.url, user_id, "secret") as isolde:
        assert await isolde.bootstrap_cross_signing()
        room_id = await meet(isolde, nia)
        shown = await nia.send(room_id, "Bonjour")
        await isolde.wait_for_message(room_id, lambda seen: seen.body == "Bonjour")
        assert await isolde.shield(room_id, shown) == {
            "colour": "RED",
            "reason": "UNSIGNED_DEVICE",
        }
        await isolde.isolate(on=True)
        await nia.send(room_id, "Toujours là ?")
        hidden = await isolde.wait_for_message(room_id, lambda seen: bool(seen.failure))
        assert hidden.failure == "UNSIGNED_SENDER_DEVICE"
        status = await isolde.status(nia.user_id, nia.device_id)
        assert status["device"] == {"signed_by_owner": False, "cross_signing_verified": False}


async def test_what_a_client_refuses_reaches_the_test(jason: JsPerson) -> None:
    with pytest.raises(Refused, match="sigil"):
        await jason.status(UserId("nobody"))


async def test_a_wait_in_vain_says_what_was_there_instead(nia: Person, jason: Person) -> None:
    room_id = await meet(nia, jason)
    await nia.send(room_id, "Bonjour")
    await nia.wait_for_message(room_id, lambda seen: seen.body == "Bonjour")
    with pytest.raises(TimeoutError, match="Bonjour"):
        await nia.wait_for_message(room_id, lambda seen: seen.body == "Bonsoir", within=0.01)


async def test_a_restart_keeps_the_port_and_the_data_and_a_kill_leaves_no_process(
    tmp_path: Path,
) -> None:
    async with Synapse(tmp_path) as synapse:
        user_id = await synapse.register("nia", "secret")
        async with NioPerson(synapse.url, user_id, "secret", tmp_path) as nia:
            room_id = await nia.create_room("Cuisine", [])
            url, process = synapse.url, psutil.Process(synapse.pid)
            await synapse.restart()
            assert synapse.url == url
            assert not process.is_running()
            await nia.send(room_id, "Encore là")
            await nia.wait_for_message(room_id, lambda seen: seen.body == "Encore là")
        process = psutil.Process(synapse.pid)
        await synapse.kill()
        assert not process.is_running()


async def test_default_limits_bite_until_they_are_lifted(tmp_path: Path) -> None:
    # At 10 messages and then one in 5 s, these take 30 s, however fast the machine is.
    async def send_messages(person: Person, room_id: RoomId, *, within: float) -> None:
        async with asyncio.timeout(within):
            for number in range(16):
                await person.send(room_id, str(number))

    async with Synapse(tmp_path, limits="default") as synapse:
        user_id = await synapse.register("nia", "secret")
        async with NioPerson(synapse.url, user_id, "secret", tmp_path) as nia:
            room_id = await nia.create_room("Cuisine", [], encrypted=False)
            with pytest.raises(TimeoutError):
                await send_messages(nia, room_id, within=2)
            await synapse.lift_limits(user_id)
            await send_messages(nia, room_id, within=20)


async def test_a_synapse_that_cannot_start_says_why(tmp_path: Path) -> None:
    synapse = Synapse(tmp_path)
    (tmp_path / "homeserver.yaml").write_text("{}")
    with pytest.raises(RuntimeError, match="server_name"):
        await synapse.start()
    assert synapse.pid is None


async def test_nothing_outlives_a_killed_parent(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _PARENT,
        str(tmp_path),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout
    children = [psutil.Process(int(pid)) for pid in (await parent.stdout.readline()).split()]
    parent.send_signal(signal.SIGKILL)
    await parent.wait()
    ended, alive = await asyncio.to_thread(psutil.wait_procs, children, timeout=5)
    assert (len(ended), alive) == (2, [])


_PARENT = """
import asyncio, sys
from pathlib import Path
from tests.harness.js_person import JsPerson
from tests.harness.synapse import Synapse

async def main():
    async with Synapse(Path(sys.argv[1])) as synapse:
        user_id = await synapse.register("jason", "secret")
        async with JsPerson(synapse.url, user_id, "secret") as jason:
            print(synapse.pid, jason.pid, flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""


def event(event_id: str, content: JSON, at: int = 0) -> JSON:
    sent = {"event_id": event_id, "sender": "@nia:stand.test", "origin_server_ts": at}
    return {**sent, "type": "m.room.message", "content": content}


async def test_a_message_can_be_read_once_its_key_has_come() -> None:
    observed = ClientView()
    observed.see(ROOM, event("$1", {}), failure="no key")
    assert [seen.failure for seen in observed.messages(ROOM)] == ["no key"]
    observed.see(ROOM, event("$1", {"body": "Bonjour"}))
    assert [(seen.body, seen.failure) for seen in observed.messages(ROOM)] == [("Bonjour", None)]


async def test_of_edits_that_can_be_read_late_the_last_sent_stands() -> None:
    observed = ClientView()
    replaces = {"m.relates_to": {"rel_type": "m.replace", "event_id": "$1"}}
    observed.see(ROOM, event("$1", {"body": "Un"}, at=1))
    observed.see(ROOM, event("$2", replaces, at=2), failure="no key")
    observed.see(ROOM, event("$3", {**replaces, "m.new_content": {"body": "Un deux trois"}}, at=3))
    assert [seen.event_id for seen in observed.messages(ROOM)] == ["$1", "$2"]
    observed.see(ROOM, event("$2", {**replaces, "m.new_content": {"body": "Un deux"}}, at=2))
    [seen] = observed.messages(ROOM)
    assert seen.body == "Un deux trois"
    assert [version.event_id for version in seen.versions] == ["$1", "$3", "$2"]


async def test_nobody_waits_for_a_client_that_has_failed() -> None:
    observed = ClientView()
    observed.fail(ValueError("the sync loop broke"))
    with pytest.raises(RuntimeError) as raised:
        await anext(observed.changes(ROOM))
    assert str(raised.value.__cause__) == "the sync loop broke"

"""One class over the Matrix port: what FakeMatrix promises, matrix-nio on Synapse keeps."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from bot.core.events import Batch, Event, EventId, Invite, Joined, Message, RoomId
from bot.core.markdown import Part, render
from bot.core.replies import Edit, Notice, Reply
from bot.matrix.client import NioMatrix
from bot.matrix.session import Account
from bot.ports import Matrix
from tests.fakes import FakeMatrix
from tests.make import ROOM, invite, message
from tests.stand.nio_person import NioPerson
from tests.stand.synapse import Synapse
from tests.stand.vault import health, vault

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Meeting:
    """The port under test in an encrypted direct message with a person, just joined."""

    matrix: Matrix
    batches: AsyncIterator[Batch]
    room_id: RoomId
    say: Callable[[str], Awaitable[EventId]]
    standing: Callable[[EventId, str], Awaitable[bool]]

    async def heard(self, kind: type[Event]) -> Event:
        """Return the next event of that kind."""
        async for batch in self.batches:
            for event in batch.events:
                if isinstance(event, kind):
                    return event
        raise AssertionError("the sync ended")

    async def prompt(self, body: str) -> Message:
        """Let the person say `body`, and return it as the bot hears it."""
        event_id = await self.say(body)
        event = await self.heard(Message)
        assert isinstance(event, Message)
        assert event.event_id == event_id
        return event


async def fake() -> Meeting:
    matrix = FakeMatrix()
    matrix.hear(invite())
    matrix.hear(Joined(EventId("$join"), ROOM))

    async def say(body: str) -> EventId:
        event = message(body, event_id=f"$said{len(matrix.messages)}")
        matrix.hear(event)
        return event.event_id

    async def standing(event_id: EventId, body: str) -> bool:
        return matrix.standing()[event_id] == body

    return Meeting(matrix, matrix.batches(None), ROOM, say, standing)


async def real(matrix: NioMatrix, person: NioPerson) -> Meeting:
    await matrix.open()
    batches = matrix.batches(None)
    await anext(batches)  # a first sync hears nothing old
    room_id = await person.open_direct_message(matrix.user_id)

    async def say(body: str) -> EventId:
        return await person.send(room_id, body)

    async def standing(event_id: EventId, body: str) -> bool:
        seen = await person.wait_for_message(
            room_id, lambda seen: seen.event_id == event_id and seen.body == body
        )
        return seen.failure is None

    return Meeting(matrix, batches, room_id, say, standing)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["fake", "nio"])
async def meeting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Meeting]:
    if request.param == "fake":
        yield await fake()
        return
    folder: Callable[[str], Path] = tmp_path_factory.mktemp
    async with Synapse(folder("synapse")) as synapse:
        bot = await synapse.register("bot", "secret")
        agent = await synapse.register("agent", "secret")
        matrix = NioMatrix(
            Account(synapse.url, bot, "bot", "secret"), vault(folder("bot")), health()
        )
        async with NioPerson(synapse.url, agent, "secret", folder("agent")) as person:
            yield await real(matrix, person)
            await matrix.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def joined(meeting: Meeting) -> Meeting:
    """The bot is invited, joins, and hears that it has."""
    invitation = await meeting.heard(Invite)
    assert isinstance(invitation, Invite)
    assert invitation.direct
    await meeting.matrix.join(invitation)
    await meeting.heard(Joined)
    return meeting


class TestMatrix:
    async def test_a_direct_message_is_known_as_one(self, joined: Meeting) -> None:
        assert joined.matrix.room(joined.room_id).direct

    async def test_a_message_is_heard_and_can_be_fetched_again(self, joined: Meeting) -> None:
        prompt = await joined.prompt("Bonjour")

        assert prompt.body == "Bonjour"
        assert await joined.matrix.fetch(prompt.room_id, prompt.event_id) == prompt

    async def test_what_is_not_there_is_fetched_as_none(self, joined: Meeting) -> None:
        gone = EventId("$gCD12ZQrv_0S1Ed5nIaSV6qbjEDTMSnEbV0Xdm5EBqA")

        assert await joined.matrix.fetch(joined.room_id, gone) is None

    async def test_a_reply_stands_and_its_edit_takes_its_place(self, joined: Meeting) -> None:
        prompt = await joined.prompt("Le ciel ?")
        reply = Reply(prompt, Part("Le ciel est"), "small")
        first = await joined.matrix.send(joined.room_id, reply, "reply-first")
        assert await joined.standing(first, "Le ciel est")

        whole = Reply(prompt, Part("Le ciel est **bleu**."), "small")
        await joined.matrix.send(joined.room_id, Edit(first, whole), "reply-final")

        assert await joined.standing(first, render("Le ciel est **bleu**.").body)

    async def test_t10_the_same_transaction_makes_one_event(self, joined: Meeting) -> None:
        notice = Notice("Une seule fois.")

        first = await joined.matrix.send(joined.room_id, notice, "notice-1")

        assert await joined.matrix.send(joined.room_id, notice, "notice-1") == first
        assert await joined.matrix.send(joined.room_id, notice, "notice-2") != first

    async def test_attention_passes_without_a_word(self, joined: Meeting) -> None:
        prompt = await joined.prompt("Tu es là ?")

        async with joined.matrix.attention(prompt):
            assert await joined.matrix.fetch(prompt.room_id, prompt.event_id) == prompt

"""One class over the Matrix port: what FakeMatrix promises, matrix-nio on Synapse keeps."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import pytest_asyncio

from bot.core.events import (
    Batch,
    Edit,
    Event,
    EventId,
    Invite,
    Joined,
    Message,
    Prompt,
    Redaction,
    RoomId,
)
from bot.core.markdown import Part, render
from bot.core.outgoing import Notice, OutgoingEdit, Reply, SentReply
from bot.matrix.adapter import NioMatrix
from bot.matrix.session import Account
from bot.ports.matrix import Matrix
from tests.fakes.matrix import FakeMatrix
from tests.harness.nio_person import NioPerson
from tests.harness.synapse import Synapse
from tests.harness.vault import health, vault
from tests.make import ROOM, edit_event, invite, message, prompt, redaction
from tests.sending import send

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Meeting:
    """The port under test in an encrypted direct message with a person, just joined."""

    matrix: Matrix
    batches: AsyncIterator[Batch]
    room_id: RoomId
    say: Callable[[str], Awaitable[EventId]]
    edit: Callable[[EventId, str], Awaitable[EventId]]
    take_back: Callable[[EventId], Awaitable[EventId]]
    standing: Callable[[EventId, str], Awaitable[bool]]
    waiting: list[Event] = field(default_factory=list)  # of the last batch

    async def heard(self, kind: type[Event]) -> Event:
        """Return the next event of that kind."""
        while True:
            while self.waiting:
                event = self.waiting.pop(0)
                if isinstance(event, kind):
                    return event
            self.waiting += (await anext(self.batches)).events

    async def prompt(self, body: str) -> Prompt:
        """Let the person say `body`, and return it as the bot hears it."""
        event_id = await self.say(body)
        event = await self.heard(Message)
        assert isinstance(event, Message)
        assert event.event_id == event_id
        return prompt(event)

    async def own_since(self, asked: Prompt) -> list[SentReply]:
        """Return what is about a prompt, where that is all there is to know."""
        since = await self.matrix.own_since(asked.room_id, asked.event_ids)
        assert (since.unreadable, since.whole) == ((), True)
        return list(since.about)

    async def last(self, asked: Prompt, number: int) -> list[tuple[str, bool]]:
        """Return the last messages of the conversation, and whether they are the bot's."""
        history = await self.matrix.history(asked, lambda _: False)
        return [(one.body, one.mine) for one in history.messages[-number:]]


def reply(asked: Prompt, text: str) -> Reply:
    return Reply(prompt=asked, part=Part(text), model="small")


async def fake() -> Meeting:
    matrix = FakeMatrix()
    matrix.hear(invite())
    matrix.hear(Joined(EventId("$join"), ROOM))

    async def say(body: str) -> EventId:
        event = message(body, event_id=f"$said{len(matrix.messages)}")
        matrix.hear(event)
        return event.event_id

    async def edit(event_id: EventId, body: str) -> EventId:
        one = edit_event(body, target=event_id, event_id=f"$said{len(matrix.messages)}")
        matrix.hear(one)
        return one.event_id

    async def take_back(event_id: EventId) -> EventId:
        one = redaction(event_id, event_id=f"$said{len(matrix.messages)}")
        matrix.hear(one)
        return one.event_id

    async def standing(event_id: EventId, body: str) -> bool:
        return matrix.standing()[event_id] == body

    return Meeting(matrix, matrix.batches(None), ROOM, say, edit, take_back, standing)


async def real(matrix: NioMatrix, person: NioPerson) -> Meeting:
    await matrix.open()
    batches = matrix.batches(None)
    await anext(batches)  # a first sync hears nothing old
    room_id = await person.open_direct_message(matrix.user_id)

    async def say(body: str) -> EventId:
        return await person.send(room_id, body)

    async def edit(event_id: EventId, body: str) -> EventId:
        return await person.edit(room_id, event_id, body)

    async def take_back(event_id: EventId) -> EventId:
        return await person.redact(room_id, event_id)

    async def standing(event_id: EventId, body: str) -> bool:
        seen = await person.wait_for_message(
            room_id, lambda seen: seen.event_id == event_id and seen.body == body
        )
        return seen.failure is None

    return Meeting(matrix, batches, room_id, say, edit, take_back, standing)


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
            Account(homeserver=synapse.url, user_id=bot, device_name="bot", password="secret"),
            vault(folder("bot")),
            health(),
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
        asked = await joined.prompt("Bonjour")

        assert asked.body == "Bonjour"
        assert await joined.matrix.fetch(asked.room_id, asked.event_id) == asked.messages[0]

    async def test_who_sent_a_message_is_known_once_it_is_heard(self, joined: Meeting) -> None:
        asked = await joined.prompt("Qui ?")
        sent = await send(joined.matrix, joined.room_id, reply(asked, "Toi."), "known")

        known = [joined.matrix.known[one] for one in (asked.event_id, sent)]

        assert [one and one.sender for one in known] == [asked.sender, joined.matrix.user_id]

    async def test_an_edited_message_is_fetched_in_its_last_version(self, joined: Meeting) -> None:
        asked = await joined.prompt("premier")
        await joined.edit(asked.event_id, "deuxième")
        await joined.edit(asked.event_id, "troisième")
        heard = [await joined.heard(Edit) for _ in range(2)]

        found = await joined.matrix.fetch(joined.room_id, asked.event_id)

        assert [(type(one), getattr(one, "target", "")) for one in heard] == [
            (Edit, asked.event_id)
        ] * 2
        assert found == replace(asked.messages[0], body="troisième")

    async def test_what_was_heard_can_be_fetched_again_whatever_it_is(
        self, joined: Meeting
    ) -> None:
        asked = await joined.prompt("Un mot")
        await joined.edit(asked.event_id, "Deux mots")
        edited = await joined.heard(Edit)
        await joined.take_back(asked.event_id)
        withdrawn = await joined.heard(Redaction)

        assert await joined.matrix.fetch(joined.room_id, withdrawn.event_id) == withdrawn
        assert await joined.matrix.fetch(joined.room_id, asked.event_id) is None
        assert joined.matrix.known[asked.event_id] is None
        assert edited.room_id == joined.room_id

    async def test_the_conversation_holds_prompts_and_replies_as_they_stand(
        self, joined: Meeting
    ) -> None:
        first = await joined.prompt("Le ciel ?")
        sent = await send(joined.matrix, joined.room_id, reply(first, "Ble"), "history-1")
        second = await joined.prompt("Et la mer ?")
        await send(joined.matrix, joined.room_id, Notice(text="Patience.", to=second), "history-n")
        await send(
            joined.matrix, joined.room_id, OutgoingEdit(sent, reply(first, "Bleu.")), "history-2"
        )

        history = await joined.matrix.history(second, lambda _: False)

        assert await joined.last(second, 3) == [
            *(("Le ciel ?", False), ("Bleu.", True)),
            ("Et la mer ?", False),
        ]
        assert history.messages[-2].answers == (first.event_id,)
        assert (history.chain, history.lost) == ([], 0)

    async def test_the_conversation_follows_edits_and_redactions(self, joined: Meeting) -> None:
        first, second = [await joined.prompt(one) for one in ("un", "deux")]
        await joined.edit(second.event_id, "trois")
        await joined.heard(Edit)
        assert await joined.last(second, 2) == [("un", False), ("trois", False)]

        await joined.take_back(first.event_id)
        await joined.heard(Redaction)

        assert ("un", False) not in await joined.last(second, 2)
        assert await joined.last(second, 1) == [("trois", False)]

    async def test_a_reply_can_be_taken_away_with_all_its_edits(self, joined: Meeting) -> None:
        asked = await joined.prompt("Un secret ?")
        matrix, room_id = joined.matrix, joined.room_id
        first = await send(matrix, room_id, reply(asked, "Ou"), "away-1")
        edits = [
            await send(matrix, room_id, OutgoingEdit(first, reply(asked, body)), f"away-{body}")
            for body in ("Oui", "Oui.")
        ]
        assert sorted(await matrix.edits(room_id, first)) == sorted(edits)

        for one in (*edits, first, first):
            await matrix.redact(room_id, one, f"redact-{one}")

        assert await matrix.edits(room_id, first) == []
        assert await matrix.fetch(room_id, first) is None
        assert await joined.last(asked, 1) == [("Un secret ?", False)]

    async def test_what_is_not_there_is_fetched_as_none(self, joined: Meeting) -> None:
        gone = EventId("$gCD12ZQrv_0S1Ed5nIaSV6qbjEDTMSnEbV0Xdm5EBqA")

        assert await joined.matrix.fetch(joined.room_id, gone) is None

    async def test_a_reply_stands_and_its_edit_takes_its_place(self, joined: Meeting) -> None:
        asked = await joined.prompt("Le ciel ?")
        beginning = reply(asked, "Le ciel est")
        first = await send(joined.matrix, joined.room_id, beginning, "reply-first")
        assert await joined.standing(first, "Le ciel est")

        whole = reply(asked, "Le ciel est **bleu**.")
        await send(joined.matrix, joined.room_id, OutgoingEdit(first, whole), "reply-final")

        assert await joined.standing(first, render("Le ciel est **bleu**.").body)

    async def test_what_is_frozen_makes_one_event_however_often_it_is_put(
        self, joined: Meeting
    ) -> None:
        asked, matrix, room_id = await joined.prompt("Gelé ?"), joined.matrix, joined.room_id
        wire = await matrix.prepare(room_id, reply(asked, "Gelé."))

        first = await matrix.put(room_id, wire, "frozen-1")

        assert await matrix.put(room_id, wire, "frozen-1") == first
        assert await joined.standing(first, "Gelé.")
        assert await joined.last(asked, 2) == [("Gelé ?", False), ("Gelé.", True)]

    async def test_the_homeserver_shows_what_was_put_last(self, joined: Meeting) -> None:
        asked, matrix, room_id = await joined.prompt("Quoi ?"), joined.matrix, joined.room_id
        beginning = await matrix.prepare(room_id, reply(asked, "Rien"))
        first = await matrix.put(room_id, beginning, "shown-1")
        assert await matrix.shown(room_id, first) == beginning

        end = await matrix.prepare(room_id, OutgoingEdit(first, reply(asked, "Rien.")))
        await matrix.put(room_id, end, "shown-2")

        shown = await matrix.shown(room_id, first)
        assert shown is not None
        assert end.is_shown_as(shown)
        assert not beginning.is_shown_as(shown)
        await matrix.redact(room_id, first, "shown-redact")
        assert await matrix.shown(room_id, first) is None

    async def test_what_is_not_there_is_not_shown(self, joined: Meeting) -> None:
        gone = EventId("$gCD12ZQrv_0S1Ed5nIaSV6qbjEDTMSnEbV0Xdm5EBqA")

        assert await joined.matrix.shown(joined.room_id, gone) is None

    async def test_an_id_that_was_used_before_brings_back_the_old_text(
        self, joined: Meeting
    ) -> None:
        asked, matrix, room_id = await joined.prompt("Neuf ?"), joined.matrix, joined.room_id
        first = await send(matrix, room_id, reply(asked, "Vieux."), "collision")
        wire = await matrix.prepare(room_id, reply(asked, "Neuf."))

        assert await matrix.put(room_id, wire, "collision") == first

        shown = await matrix.shown(room_id, first)
        assert shown is not None
        assert not wire.is_shown_as(shown)

    @pytest.mark.parametrize("in_thread", [False, True])
    async def test_what_was_said_to_a_prompt_is_found_as_it_stands(
        self, joined: Meeting, *, in_thread: bool
    ) -> None:
        asked, matrix, room_id = await joined.prompt("Retrouvé ?"), joined.matrix, joined.room_id
        asked = replace(asked, thread_root=asked.event_id if in_thread else None)
        assert await joined.own_since(asked) == []
        name = f"found-{in_thread}"
        notice = await send(matrix, room_id, Notice(text="Un *instant*.", to=asked), f"{name}-n")
        first = await send(matrix, room_id, reply(asked, "Un"), f"{name}-1")
        second = await send(matrix, room_id, reply(asked, "Trois"), f"{name}-2")
        await send(matrix, room_id, OutgoingEdit(first, reply(asked, "Deux")), f"{name}-3")
        line = replace(reply(asked, ""), above=("*Je prépare.*",))
        third = await send(matrix, room_id, line, f"{name}-line")
        said = SentReply(event_id=notice, body=render("Un *instant*.").body)
        ids = asked.event_ids
        begun = [
            SentReply(event_id=first, answers=ids, body="Deux"),
            SentReply(event_id=second, answers=ids, body="Trois"),
            SentReply(event_id=third, answers=ids),
        ]
        assert await joined.own_since(asked) == [said, *begun]

        whole = replace(reply(asked, "Trois."), claim=2, final=True)
        await send(matrix, room_id, OutgoingEdit(second, whole), f"{name}-4")

        begun[1] = replace(begun[1], claim=2, final=True, body="Trois.")
        assert await joined.own_since(asked) == [said, *begun]
        found = await matrix.fetch(room_id, second)
        assert isinstance(found, Message)
        assert (found.body, found.claim, found.final) == ("Trois.", 2, True)
        await matrix.redact(room_id, first, f"{name}-redact")
        assert await joined.own_since(asked) == [said, *begun[1:]]

    async def test_what_was_sent_to_other_prompts_and_to_nobody_is_not_found(
        self, joined: Meeting
    ) -> None:
        first, second = [await joined.prompt(one) for one in ("Un ?", "Deux ?")]
        matrix, room_id = joined.matrix, joined.room_id
        await send(matrix, room_id, Notice(text="Bonjour."), "other-n")
        await send(matrix, room_id, reply(first, "Un."), "other-1")
        ours = await send(matrix, room_id, reply(second, "Deux."), "other-2")

        assert [one.event_id for one in await joined.own_since(second)] == [ours]

    async def test_what_answers_a_redacted_prompt_is_found_in_the_timeline(
        self, joined: Meeting
    ) -> None:
        asked, matrix, room_id = await joined.prompt("Perdu ?"), joined.matrix, joined.room_id
        first = await send(matrix, room_id, reply(asked, "Un"), "trace-1")
        await send(matrix, room_id, OutgoingEdit(first, reply(asked, "Deux")), "trace-2")
        second = await send(matrix, room_id, reply(asked, "Trois"), "trace-3")
        await joined.take_back(asked.event_id)
        await joined.heard(Redaction)

        assert [one.event_id for one in await joined.own_since(asked)] == [first, second]

    async def test_t10_the_same_transaction_makes_one_event(self, joined: Meeting) -> None:
        notice = Notice(text="Une seule fois.")

        first = await send(joined.matrix, joined.room_id, notice, "notice-1")

        assert await send(joined.matrix, joined.room_id, notice, "notice-1") == first
        assert await send(joined.matrix, joined.room_id, notice, "notice-2") != first

    async def test_attention_passes_without_a_word(self, joined: Meeting) -> None:
        asked = await joined.prompt("Tu es là ?")

        async with joined.matrix.attention(asked):
            assert await joined.matrix.fetch(asked.room_id, asked.event_id) == asked.messages[0]

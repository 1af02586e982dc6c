"""Conversations as a real Synapse hands them out, and as the bot's memory keeps them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from bot.core.events import (
    Batch,
    Conversation,
    Edit,
    Event,
    EventId,
    Invite,
    Message,
    Prompt,
    Redaction,
    RoomId,
)
from bot.core.markdown import Part
from bot.core.outgoing import OutgoingEdit, Reply
from bot.core.prompt_context import History
from bot.matrix.adapter import NioMatrix
from bot.matrix.session import Account
from tests.harness.nio_person import NioPerson
from tests.harness.synapse import Synapse
from tests.harness.vault import health, vault
from tests.make import prompt
from tests.sending import send

pytestmark = pytest.mark.asyncio(loop_scope="module")


def salon_prompt(asked: Prompt) -> Prompt:
    """Return the prompt as one of a salon: it opens a thread."""
    return Prompt(asked.messages, Conversation(asked.room_id, asked.event_id), asked.event_id)


@dataclass
class ListeningBot:
    """The port under test, and what it hears."""

    matrix: NioMatrix
    batches: AsyncIterator[Batch]
    heard: dict[EventId, Event] = field(default_factory=dict)

    async def hears(self, *event_ids: EventId) -> None:
        """Sync until the events are heard."""
        while not self.heard.keys() >= set(event_ids):
            await self._sync()

    async def joins(self, room_id: RoomId) -> None:
        """Sync until the bot is in the room, and not only invited."""
        while room_id not in self.matrix._client.rooms:
            await self._sync()

    async def _sync(self) -> None:
        for event in (await anext(self.batches)).events:
            self.heard[event.event_id] = event
            if isinstance(event, Invite):
                await self.matrix.join(event)

    async def asked(self, *event_ids: EventId) -> Prompt:
        """Return these messages as a prompt, once they are heard."""
        await self.hears(*event_ids)
        messages = [self.heard[one] for one in event_ids]
        return prompt(*(one for one in messages if isinstance(one, Message)))

    async def history(self, event_id: EventId) -> History:
        """Return the conversation of the message."""
        return await self.matrix.history(await self.asked(event_id), lambda _: False)

    async def opening(self, event_id: EventId) -> History:
        """Return the conversation that the message opens in a salon."""
        asked = salon_prompt(await self.asked(event_id))
        return await self.matrix.history(asked, lambda _: False)

    async def told(self, event_id: EventId) -> list[str]:
        """Return what is said in the conversation of the message."""
        return [one.body for one in (await self.history(event_id)).messages]

    async def cold(self, event_id: EventId) -> list[str]:
        """Return what a process that has heard nothing yet makes of the conversation."""
        await self.hears(event_id)
        self.matrix._histories.forget()
        return await self.told(event_id)


@dataclass
class Stand:
    bot: ListeningBot
    agent: NioPerson
    colleague: NioPerson


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stand(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    folder: Callable[[str], Path] = tmp_path_factory.mktemp
    async with Synapse(folder("synapse")) as synapse:
        names = "bot", "agent", "colleague"
        ids = [await synapse.register(name, "secret") for name in names]
        account = Account(
            homeserver=synapse.url, user_id=ids[0], device_name="bot", password="secret"
        )
        matrix = NioMatrix(account, vault(folder("bot")), health())
        await matrix.open()
        batches = matrix.batches(None)
        await anext(batches)
        async with (
            NioPerson(synapse.url, ids[1], "secret", folder("agent")) as agent,
            NioPerson(synapse.url, ids[2], "secret", folder("colleague")) as colleague,
        ):
            yield Stand(ListeningBot(matrix, batches), agent, colleague)
            await matrix.close()


async def direct(stand: Stand, *, encrypted: bool = True) -> RoomId:
    bot = stand.bot.matrix.user_id
    room_id = await stand.agent.open_direct_message(bot, encrypted=encrypted)
    await stand.bot.joins(room_id)
    await stand.agent.wait_joined(room_id, bot)
    return room_id


async def salon(stand: Stand, *, encrypted: bool = True, before: tuple[str, ...] = ()) -> RoomId:
    """Open a salon with a colleague and the bot, who is invited after `before` was said."""
    others = [stand.colleague.user_id]
    room_id = await stand.agent.create_room("salon", others, encrypted=encrypted, history="shared")
    await stand.colleague.join(room_id)
    await stand.agent.wait_joined(room_id, stand.colleague.user_id)
    for body in before:
        await stand.agent.send(room_id, body)
    await let_in(stand, room_id)
    return room_id


async def let_in(stand: Stand, room_id: RoomId) -> None:
    await stand.agent.invite(room_id, stand.bot.matrix.user_id)
    await stand.bot.joins(room_id)
    await stand.agent.wait_joined(room_id, stand.bot.matrix.user_id)


def quoting(event_id: EventId) -> dict[str, object]:
    return {"m.relates_to": {"m.in_reply_to": {"event_id": event_id}}}


def threaded(root: EventId) -> dict[str, object]:
    relation = {"rel_type": "m.thread", "event_id": root, "is_falling_back": True}
    return {"m.relates_to": relation | {"m.in_reply_to": {"event_id": root}}}


async def reply(stand: Stand, asked: EventId, text: str, *versions: str) -> EventId:
    """Let the bot reply, in a thread of its own where the room is a salon, and edit the reply."""
    question = await stand.bot.asked(asked)
    if not stand.bot.matrix.room(question.room_id).direct:
        question = salon_prompt(question)
    to = Reply(prompt=question, part=Part(text), model="small")
    first = await send(stand.bot.matrix, question.room_id, to, uuid4().hex)
    for version in versions:
        newer = OutgoingEdit(first, Reply(prompt=question, part=Part(version), model="small"))
        await send(stand.bot.matrix, question.room_id, newer, uuid4().hex)
    return first


@pytest.mark.parametrize("encrypted", [True, False])
async def test_a_direct_message_is_told_the_same_whether_it_was_heard_or_is_read(
    stand: Stand, *, encrypted: bool
) -> None:
    room_id = await direct(stand, encrypted=encrypted)
    say = stand.agent.send
    first = await say(room_id, "un")
    await reply(stand, first, "U", "Un", "Un.")
    gone = await say(room_id, "oublie")
    root = await say(room_id, "racine")
    await say(room_id, "dans le fil", **threaded(root))
    edit = await stand.agent.edit(room_id, first, "UN")
    redaction = await stand.agent.redact(room_id, gone)
    last = await say(room_id, "deux")
    expected = ["UN", "Un.", "racine", "deux"]

    await stand.bot.hears(edit, redaction, last)
    assert isinstance(stand.bot.heard[edit], Edit)
    assert isinstance(stand.bot.heard[redaction], Redaction)
    assert await stand.bot.told(last) == expected
    assert await stand.bot.cold(last) == expected
    assert await stand.bot.told(last) == expected


@pytest.mark.parametrize("encrypted", [True, False])
async def test_a_long_thread_is_told_whole_and_nothing_of_the_room_around_it(
    stand: Stand, *, encrypted: bool
) -> None:
    room_id = await salon(stand, encrypted=encrypted)
    mention = {"m.mentions": {"user_ids": [stand.bot.matrix.user_id]}}
    root = await stand.agent.send(room_id, "ma question", **mention)
    other = await stand.agent.send(room_id, "autre question", **mention)
    await reply(stand, root, "R", "Réponse")
    ids = [await stand.agent.send(room_id, f"{number}", **threaded(root)) for number in range(120)]
    await stand.colleague.send(room_id, "autre fil", **threaded(other))
    await stand.colleague.send(room_id, "à côté")
    edits = [
        await stand.agent.edit(room_id, root, "Question"),
        await stand.agent.edit(room_id, ids[7], "sept"),
    ]
    redacted = await stand.agent.redact(room_id, ids[8])
    numbers = [f"{number}" for number in range(120)]
    expected = ["Question", "Réponse", *numbers[:7], "sept", *numbers[9:]]

    await stand.bot.hears(*edits, redacted)
    assert await stand.bot.told(ids[-1]) == expected
    assert await stand.bot.cold(ids[-1]) == expected


async def test_nothing_from_before_the_bots_invitation_is_in_a_thread(stand: Stand) -> None:
    room_id = await stand.agent.create_room("salon", [], history="shared")
    root = await stand.agent.send(room_id, "secret")
    await stand.agent.send(room_id, "autre secret", **threaded(root))
    await let_in(stand, room_id)

    asked = await stand.agent.send(room_id, "et ?", **threaded(root))

    assert await stand.bot.cold(asked) == ["et ?"]
    quoted = await stand.agent.send(room_id, "et ça ?", **quoting(root))
    found = await stand.bot.opening(quoted)
    assert (found.chain, found.lost) == ([], 0)


async def test_a_bot_that_comes_back_knows_nothing_from_before(stand: Stand) -> None:
    room_id = await salon(stand, encrypted=False)
    bot = stand.bot.matrix.user_id
    root = await stand.agent.send(room_id, "avant", **{"m.mentions": {"user_ids": [bot]}})
    before = await stand.agent.send(room_id, "suite", **threaded(root))
    assert await stand.bot.told(before) == ["avant", "suite"]

    await stand.agent.kick(room_id, bot)
    while room_id in stand.bot.matrix._client.rooms:
        await anext(stand.bot.batches)
    await stand.agent.send(room_id, "pendant", **threaded(root))
    await let_in(stand, room_id)
    asked = await stand.agent.send(room_id, "après", **threaded(root))

    assert await stand.bot.told(asked) == ["après"]
    assert await stand.bot.cold(asked) == ["après"]


async def test_a_new_display_name_does_not_make_the_bot_a_newcomer(stand: Stand) -> None:
    room_id = await salon(stand, encrypted=False, before=("secret",))
    root = await stand.agent.send(room_id, "avant")
    asked = await stand.agent.send(room_id, "après", **threaded(root))
    await stand.bot.hears(asked)

    for _ in range(2):
        before = stand.bot.matrix._rooms.membership(room_id)["event_id"]
        await stand.bot.matrix._client.set_displayname(f"Assistant {uuid4().hex}")
        while stand.bot.matrix._rooms.membership(room_id)["event_id"] == before:
            await anext(stand.bot.batches)

    assert await stand.bot.cold(asked) == ["avant", "après"]


async def test_a_chain_of_replies_comes_from_wherever_it_is_in_the_room(stand: Stand) -> None:
    room_id = await salon(stand)

    gone = await stand.agent.send(room_id, "effacé")
    first = await stand.agent.send(room_id, "un", **quoting(gone))
    second = await stand.colleague.send(room_id, "deux", **quoting(first))
    edit = await stand.agent.edit(room_id, first, "UN")
    redaction = await stand.agent.redact(room_id, gone)
    mention = {"m.mentions": {"user_ids": [stand.bot.matrix.user_id]}}
    asked = await stand.agent.send(room_id, "trois", **quoting(second), **mention)
    await stand.bot.hears(edit, redaction)

    found = await stand.bot.opening(asked)

    assert [one.body for one in found.messages] == ["trois"]
    assert [one.body for one in found.chain] == ["UN", "deux"]
    assert found.lost == 1


async def test_s7_no_room_and_no_thread_tells_anything_of_another(stand: Stand) -> None:
    rooms = [await salon(stand), await salon(stand), await direct(stand)]
    asked: dict[EventId, list[str]] = {}
    for number, room_id in enumerate(rooms):
        for fil in range(2):
            name = f"salon {number} fil {fil}"
            root = await stand.agent.send(room_id, f"racine {name}")
            last = await stand.agent.send(room_id, f"suite {name}", **threaded(root))
            asked[last] = [f"racine {name}", f"suite {name}"]

    for event_id, expected in asked.items():
        assert await stand.bot.cold(event_id) == expected
    warm = [await stand.bot.told(event_id) for event_id in asked]
    assert warm == list(asked.values())


async def test_the_edits_of_a_message_are_listed_until_it_is_redacted(stand: Stand) -> None:
    room_id = await direct(stand)
    asked = await stand.agent.send(room_id, "ma question")
    first = await reply(stand, asked, "a", *(f"a{number}" for number in range(120)))

    edits = await stand.bot.matrix.edits(room_id, first)
    assert len(set(edits)) == 120
    assert await stand.bot.cold(asked) == ["ma question", "a119"]

    await stand.bot.matrix.redact(room_id, first, "r")
    assert stand.bot.matrix.known[first] is None
    assert await stand.bot.matrix.edits(room_id, first) == []
    assert await stand.bot.told(asked) == ["ma question"]
    assert await stand.bot.cold(asked) == ["ma question"]


async def test_only_the_bots_own_edits_of_its_reply_are_listed(stand: Stand) -> None:
    room_id = await direct(stand)
    asked = await stand.agent.send(room_id, "ma question")
    first = await reply(stand, asked, "a", "b")
    forged = await stand.agent.edit(room_id, first, "c")
    await stand.bot.hears(forged)

    edits = await stand.bot.matrix.edits(room_id, first)

    assert len(edits) == 1
    assert forged not in edits
    for number, one in enumerate([*edits, first]):
        await stand.bot.matrix.redact(room_id, one, f"taken {number}")
    assert await stand.bot.cold(asked) == ["ma question"]


# What a room hides from those who come later.


async def hiding(stand: Stand, visibility: str) -> RoomId:
    """Open a salon that hides from newcomers what was said before, with the bot."""
    room_id = await stand.agent.create_room("salon", [], encrypted=False, history="invited")
    content = {"history_visibility": visibility}
    path = f"/rooms/{room_id}/state/m.room.history_visibility"
    await stand.agent._call("PUT", path, content)
    await let_in(stand, room_id)
    return room_id


async def rename(stand: Stand, room_id: RoomId) -> None:
    """Give the colleague a new name, of which the room is told."""
    path = f"/profile/{stand.colleague.user_id}/displayname"
    name = f"Camille {uuid4().hex}"
    await stand.colleague._call("PUT", path, {"displayname": name})
    member = f"/rooms/{room_id}/state/m.room.member/{stand.colleague.user_id}"

    async def shown() -> object:
        return (await stand.agent._call("GET", member, {})).get("displayname")

    async with asyncio.timeout(10):
        while await shown() != name:  # noqa: ASYNC110  # the homeserver tells on asking
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("visibility", "expected"),
    [
        ("shared", ["ma question", "Réponse", "secret", "entre-temps", "bienvenue"]),
        ("invited", ["entre-temps", "bienvenue"]),
        ("joined", ["bienvenue"]),
    ],
)
async def test_s8_a_newcomer_is_told_only_what_the_room_shows_them(
    stand: Stand, visibility: str, expected: list[str]
) -> None:
    room_id = await hiding(stand, visibility)
    mention = {"m.mentions": {"user_ids": [stand.bot.matrix.user_id]}}
    root = await stand.agent.send(room_id, "ma question", **mention)
    answer = await reply(stand, root, "Réponse")
    await stand.agent.send(room_id, "secret", **threaded(root))
    await stand.agent.invite(room_id, stand.colleague.user_id)
    await stand.agent.send(room_id, "entre-temps", **threaded(root))
    await stand.colleague.join(room_id)
    await rename(stand, room_id)
    await stand.agent.send(room_id, "bienvenue", **threaded(root))
    await rename(stand, room_id)

    asked = await stand.colleague.send(room_id, "alors ?", **threaded(root), **mention)
    assert await stand.bot.told(asked) == [*expected, "alors ?"]
    assert await stand.bot.cold(asked) == [*expected, "alors ?"]
    quoted = await stand.colleague.send(room_id, "et ça ?", **quoting(answer), **mention)
    found = await stand.bot.opening(quoted)
    shown = ["ma question", "Réponse"] if visibility == "shared" else []
    assert ([one.body for one in found.chain], found.lost) == (shown, 0)

    by_agent = await stand.agent.send(room_id, "et moi ?", **threaded(root))
    told = await stand.bot.told(by_agent)
    assert told[:3] == ["ma question", "Réponse", "secret"]


async def test_s8_who_comes_back_is_a_newcomer_again(stand: Stand) -> None:
    room_id = await hiding(stand, "joined")
    await stand.agent.invite(room_id, stand.colleague.user_id)
    await stand.colleague.join(room_id)
    root = await stand.colleague.send(room_id, "avant")
    asked = await stand.colleague.send(room_id, "suite", **threaded(root))
    assert await stand.bot.told(asked) == ["avant", "suite"]

    await stand.colleague.leave(room_id)
    await stand.agent.send(room_id, "pendant", **threaded(root))
    await stand.agent.invite(room_id, stand.colleague.user_id)
    await stand.colleague.join(room_id)
    asked = await stand.colleague.send(room_id, "après", **threaded(root))

    assert await stand.bot.told(asked) == ["après"]

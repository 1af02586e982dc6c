"""What a client still shows once it is reloaded, and reads a conversation backwards."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
import pytest_asyncio

from bot.core.events import EventId, RoomId, UserId
from bot.core.message_split import PART_LIMIT
from bot.core.polls import POLL
from tests.harness.bot import ASKS_ALWAYS, Bot, Launch
from tests.harness.client_view import JSON, Seen
from tests.harness.expectations import begun, meet, notice, replies_to, spoken, talk, until
from tests.harness.js_person import JsPerson, Read
from tests.harness.model import ScriptedAnswer, ScriptedModel
from tests.harness.synapse import Synapse

pytestmark = pytest.mark.asyncio(loop_scope="session")

TURNS = 30
PER_THREAD = 5  # turns of a salon that stand in one thread
END = "Voilà tout."
SHORT = f"Bien sûr. {END}"
STREAMED = "Des mots qui viennent un à un. " * 15 + END
LONG = "\n\n".join(["Un paragraphe de quelques mots, puis un autre. " * 10] * 30 + [END])
FAILED = ScriptedAnswer(mode="verbatim", status=401, body=b"{}")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def lasting(
    synapse: Synapse,
    model: ScriptedModel,
    launch: Launch,
    jason: JsPerson,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Bot]:
    """A bot that edits often and asks about every other reply, at once; Jason is its admin."""
    user_id = await synapse.register("lasting", "secret", displayname="Assistant IA")
    account = {"homeserver": synapse.url, "user_id": user_id, "password": "secret"}
    async with Bot(
        tmp_path_factory.mktemp("lasting"),
        user_id,
        launch,
        matrix=account | {"admins": [jason.user_id]},
        model={"base_url": model.url, "name": "scripted"},
        reply={"edit_interval": 1, "first_after": 0.2},
        feedback=ASKS_ALWAYS,
        log={"level": "debug"},
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def _script(model: ScriptedModel) -> None:
    model.when("Et encore", ScriptedAnswer(text=SHORT))
    model.when("mot à mot", ScriptedAnswer(text=STREAMED, tokens_per_second=50))
    model.when("en détail", ScriptedAnswer(text=LONG))
    model.when("en panne", FAILED)


@dataclass
class LongConversation:
    """A conversation of many turns, each of which ends once its answer stands.

    Attributes:
        thread: the one that turns are written in, None for the main timeline.
    """

    person: JsPerson
    bot: UserId
    room_id: RoomId
    salon: bool
    thread: EventId | None = None

    async def hold(self) -> None:
        """Say all that there is to say; in a salon, some of it in each of several threads."""
        turns: dict[int, Callable[[], Awaitable[EventId]]] = {
            1: self.streamed,
            2: self.long,
            3: self.help,
            6: self.unknown,
            7: self.unreadable,
            8: self.failing,
            15: self.help,
            17: self.streamed,
        }
        for number in range(TURNS):
            if number % PER_THREAD == 0:
                self.thread = None
            asked = await turns.get(number, self.short)()
            if self.salon and self.thread is None:
                self.thread = asked
        await self.person.wait_for_message(
            self.room_id, lambda seen: seen.type == POLL and seen.sender == self.bot
        )

    async def short(self) -> EventId:
        """Get a reply in one version."""
        return await self._ask("Et encore ?")

    async def streamed(self) -> EventId:
        """Get a reply that grows."""
        prompt = await self._ask("Racontez mot à mot")
        [grown] = replies_to(self.person, self.room_id, prompt)
        assert len(grown.versions) > 2
        return prompt

    async def long(self) -> EventId:
        """Get a reply in several messages."""
        prompt = await self._ask("Racontez en détail")
        parts = replies_to(self.person, self.room_id, prompt)
        assert len(parts) > len(LONG) // PART_LIMIT > 1
        return prompt

    async def help(self) -> EventId:
        """Get the answer to a command."""
        return await self._be_told("!aide")

    async def unknown(self) -> EventId:
        """Get the notice about a command that does not exist."""
        return await self._be_told("!nouvau")

    async def failing(self) -> EventId:
        """Get the notice in the place of a reply."""
        return await self._be_told("Êtes-vous en panne ?")

    async def unreadable(self) -> EventId:
        """Get the notice about a message that the bot cannot read."""
        picture: JSON = {"msgtype": "m.image", "body": "a.png", "url": "mxc://stand.test/x"}
        if self.thread is not None:
            picture["m.relates_to"] = {"rel_type": "m.thread", "event_id": self.thread}
        sent = await self.person.send_event(self.room_id, "m.room.message", picture)
        return await self._told_about(sent)

    async def _ask(self, text: str) -> EventId:
        prompt = await self._write(text)
        await begun(self.person, self.room_id, prompt, lambda seen: seen.body.endswith(END))
        return prompt

    async def _be_told(self, text: str) -> EventId:
        return await self._told_about(await self._write(text))

    async def _told_about(self, event_id: EventId) -> EventId:
        await until(lambda: any(self._is_notice(seen) for seen in self._since(event_id)))
        return event_id

    def _since(self, event_id: EventId) -> list[Seen]:
        messages = self.person.messages(self.room_id)
        ids = [seen.event_id for seen in messages]
        return messages[ids.index(event_id) :] if event_id in ids else []

    def _is_notice(self, seen: Seen) -> bool:
        return seen.sender == self.bot and seen.content.get("msgtype") == "m.notice"

    async def _write(self, text: str) -> EventId:
        mentioning = self.bot if self.salon and self.thread is None else None
        return await self.person.write(
            self.room_id, text, mentioning=mentioning, thread=self.thread
        )


def relation(event: JSON) -> JSON:
    """Return what an event says in clear of others that it relates to."""
    found: JSON = event["content"].get("m.relates_to", {})
    return found


async def standing(person: JsPerson, room_id: RoomId, sender: UserId) -> list[JSON]:
    """Return what a client has to show of somebody, by the homeserver's own account."""
    said = [
        event
        for event in await person.timeline(room_id)
        if event["sender"] == sender
        and "state_key" not in event
        and relation(event).get("rel_type") != "m.replace"
    ]

    def live() -> dict[EventId, Seen]:
        return {seen.event_id: seen for seen in person.messages(room_id)}

    await until(lambda: {event["event_id"] for event in said} <= live().keys())
    shown = {
        event_id for event_id, seen in live().items() if seen.type in {"m.room.message", POLL}
    }
    return [event for event in said if event["event_id"] in shown]


def words(seen: Seen) -> JSON:
    """Return what a message says; where it belongs is asked elsewhere."""
    return {key: seen.content[key] for key in seen.content if key != "m.relates_to"}


def timeline_of(event: JSON, read: Read) -> list[Seen]:
    """Return the timeline in which a client has to show the event."""
    if relation(event).get("rel_type") == "m.thread":
        return read.threads.get(relation(event)["event_id"], [])
    return read.main


async def assert_all_is_there(person: JsPerson, room_id: RoomId, bot: UserId) -> Read:
    """Read the room backwards, and hold it against what this person has seen live."""
    events = await standing(person, room_id, bot)
    read = await person.page_back(room_id)
    live = {seen.event_id: seen for seen in person.messages(room_id)}
    gone = [
        live[event["event_id"]].content.get("body", POLL)[:40]
        for event in events
        if event["event_id"] not in {seen.event_id for seen in timeline_of(event, read)}
    ]
    assert not gone, f"{len(gone)} of {len(events)} messages of the bot are gone: {gone}"
    for timeline in (read.main, *read.threads.values()):
        ids = [event["event_id"] for event in events if timeline_of(event, read) is timeline]
        shown = [seen for seen in timeline if seen.event_id in ids]
        assert [seen.event_id for seen in shown] == ids
        assert [words(seen) for seen in shown] == [words(live[one]) for one in ids]
    return read


@pytest.mark.timeout(120)
async def test_a_direct_message_of_thirty_turns_is_all_there_when_it_is_read_backwards(
    jason: JsPerson, lasting: Bot, *, encrypted: bool
) -> None:
    room_id = await talk(jason, lasting.user_id, encrypted=encrypted)
    await LongConversation(jason, lasting.user_id, room_id, salon=False).hold()

    await assert_all_is_there(jason, room_id, lasting.user_id)


@pytest.mark.timeout(120)
async def test_a_salon_of_thirty_turns_is_all_there_when_it_is_read_backwards(
    jason: JsPerson, lasting: Bot, *, encrypted: bool
) -> None:
    room_id = await meet(jason, lasting.user_id, encrypted=encrypted)
    await LongConversation(jason, lasting.user_id, room_id, salon=True).hold()

    read = await assert_all_is_there(jason, room_id, lasting.user_id)

    assert len(read.threads) == TURNS // PER_THREAD


async def test_a_salon_that_is_answered_inline_is_all_there_when_it_is_read_backwards(
    jason: JsPerson, peculiar: Bot
) -> None:
    room_id = await meet(jason, peculiar.user_id)
    inline = LongConversation(jason, peculiar.user_id, room_id, salon=True)
    for turn in (inline.short, inline.long, inline.help, inline.failing, inline.short):
        await turn()

    await assert_all_is_there(jason, room_id, peculiar.user_id)


async def test_what_admins_were_told_and_shown_is_there_when_it_is_read_backwards(
    jason: JsPerson, lasting: Bot
) -> None:
    await until(lambda: lasting.said("admin invited") > 0)
    [room_id] = await jason.invitations(lasting.user_id)
    await jason.join(room_id)
    await jason.write(room_id, "!aide tout")
    await notice(jason, room_id, "help admin")
    await jason.write(room_id, "!stats")
    picture = await jason.wait_for_message(
        room_id, lambda seen: seen.content.get("msgtype") == "m.image"
    )
    await jason.write(room_id, "!nouvau")
    await until(lambda: len(spoken(jason, room_id, lasting.user_id)) == 3)

    read = await assert_all_is_there(jason, room_id, lasting.user_id)

    assert read.messages[picture.event_id].content["file"] == picture.content["file"]


async def test_a_client_that_reads_backwards_drops_bare_references_and_keeps_quotes(
    jason: JsPerson,
) -> None:
    """Show why the stories above hold, and that what a client drops is seen to be dropped.

    Should a later matrix-js-sdk show what is gone here, this fails: it has become safe to send.
    """
    room_id = await jason.create_room("Essai", [], encrypted=False)

    async def say(**relation: object) -> EventId:
        content = {"msgtype": "m.text", "body": "Un mot"}
        related = {"m.relates_to": relation} if relation else {}
        return await jason.put_event(room_id, "m.room.message", content | related)

    parent, root = await say(), await say()
    quote = {"m.in_reply_to": {"event_id": parent}}
    plain = [await say() for _ in range(25)]
    quotes = [
        await say(**quote),
        await say(rel_type="m.reference", event_id=parent, **quote),
        await say(rel_type="org.example.answer", event_id=parent, **quote),
    ]
    inside = await say(rel_type="m.thread", event_id=root)
    gone = [
        await say(rel_type="m.reference", event_id=parent),
        await say(rel_type="org.example.answer", event_id=parent),
        await say(rel_type="m.reference", event_id=quotes[-1]),
        await say(**{"m.in_reply_to": {"event_id": inside}}),  # taken for a part of that thread
    ]
    last = await say()
    gone.append(await say(rel_type="m.reference", event_id=last))  # though the first sync tells it

    read = await jason.page_back(room_id)

    assert [seen.event_id for seen in read.main] == [parent, root, *plain, *quotes, last]
    assert [seen.event_id for seen in read.threads.pop(root)] == [root, inside]
    assert read.threads == {}
    assert not read.messages.keys() & set(gone)

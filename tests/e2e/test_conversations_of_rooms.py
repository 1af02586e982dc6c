"""Rooms that end, begin again, or give way to others, and their conversations with them."""

import asyncio
from collections.abc import Iterator

import pytest

from bot.core.events import RoomId
from bot.matrix.parse import MARKER
from tests.harness.bot import Bot
from tests.harness.expectations import (
    begun,
    meet,
    notice,
    replies,
    replies_to,
    reply,
    request,
    said,
    so_far,
    spoken,
    talk,
    turns,
    until,
)
from tests.harness.model import ScriptedAnswer, ScriptedModel
from tests.harness.person import Person

pytestmark = pytest.mark.asyncio(loop_scope="session")

FLOOD = "La crue monte. " + "L'eau couvre les prés et les chemins. " * 20 + "Elle se retire."


@pytest.fixture
def gate(model: ScriptedModel) -> Iterator[asyncio.Event]:
    """Holds the model back in the middle of its words on the flood."""
    opened = asyncio.Event()
    model.when("la crue", ScriptedAnswer(text=FLOOD, after=15, gate=opened))
    yield opened
    opened.set()


@pytest.fixture(params=[True, False], ids=["direct message", "salon"])
def direct(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_a_bot_that_is_put_out_in_the_middle_says_no_more_and_forgets_all(
    person: Person,
    colleague: Person,
    assistant: Bot,
    model: ScriptedModel,
    gate: asyncio.Event,
    *,
    encrypted: bool,
) -> None:
    me = assistant.user_id
    room_id = await meet(person, me, colleague, encrypted=encrypted)
    before = await person.write(room_id, "Un souvenir", mentioning=me)
    await begun(person, room_id, before)
    prompt = await person.write(room_id, "Contez la crue", mentioning=me)
    told = await begun(person, room_id, prompt)

    await person.kick(room_id, me)
    await asyncio.wait_for(request(model, "Contez la crue").over.wait(), 10)
    assert not gate.is_set()
    gate.set()
    await person.invite(room_id, me)
    await until(lambda: len(welcomes(person, room_id, assistant)) == 2)
    again = await person.write(room_id, "Vous revoilà", mentioning=me)
    await begun(person, room_id, again)
    quoting = await person.write(
        room_id, "Que disiez-vous", mentioning=me, replying_to=told.event_id
    )
    await begun(person, room_id, quoting)

    [cut] = replies_to(person, room_id, prompt)
    assert FLOOD.startswith(so_far(cut))
    assert len(so_far(cut).split()) <= 15
    assert cut.content[MARKER]["added"] == []
    assert len(replies(person, room_id)) == 4
    for words in ("Vous revoilà", "Que disiez-vous"):
        assert not {"souvenir", "crue"} & set(str(turns(request(model, words))).split())


def welcomes(person: Person, room_id: RoomId, bot: Bot) -> list[str]:
    """Return with what words the bot has said who it is."""
    sentences = {said("welcome"), said("welcome salon")}
    return [seen.body for seen in spoken(person, room_id, bot.user_id) if seen.body in sentences]


async def test_a_conversation_goes_on_in_the_room_that_replaces_its_own_with_its_model(
    person: Person, colleague: Person, assistant: Bot, model: ScriptedModel, *, direct: bool
) -> None:
    me = assistant.user_id
    room_id = await (talk(person, me) if direct else meet(person, me, colleague))
    choice = await person.write(room_id, "!modele autre", mentioning=me)
    await notice(person, room_id, "model chosen", to=choice, label="Autre modèle")

    new = await person.upgrade(room_id)
    await notice(person, new, "welcome" if direct else "welcome salon")
    if direct:
        prompt = await person.write(new, "Sommes-nous seuls")
    else:
        await colleague.join(new)
        prompt = await colleague.write(new, "Sommes-nous seuls", mentioning=me)
    await begun(person, new, prompt)

    assert request(model, "Sommes-nous seuls").body["model"] == "other"
    assert len(welcomes(person, new, assistant)) == 1


async def test_a_reply_that_is_being_written_ends_with_its_room(
    person: Person, assistant: Bot, model: ScriptedModel, gate: asyncio.Event
) -> None:
    room_id = await talk(person, assistant.user_id)
    prompt = await person.write(room_id, "Contez la crue")
    await begun(person, room_id, prompt)

    new = await person.upgrade(room_id)
    await asyncio.wait_for(request(model, "Contez la crue").over.wait(), 10)
    assert not gate.is_set()

    await notice(person, new, "welcome")
    again = await person.write(new, "Contez la décrue")
    await reply(person, new, again, "You said: Contez la décrue.")


@pytest.mark.both_clients
async def test_a_direct_message_with_a_third_member_is_a_salon(
    person: Person, colleague: Person, assistant: Bot
) -> None:
    room_id = await person.open_direct_message(assistant.user_id, encrypted=False)
    await notice(person, room_id, "welcome")
    await person.invite(room_id, colleague.user_id)
    await colleague.join(room_id)

    await person.write(room_id, "Entre nous deux")
    prompt = await person.write(room_id, "À vous", mentioning=assistant.user_id)
    await reply(person, room_id, prompt, "You said: Agent 1 : À vous.")

    assert len(replies(person, room_id)) == 1

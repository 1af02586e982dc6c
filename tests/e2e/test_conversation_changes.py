"""Changes of mind in a conversation: prompts edited or redacted, replies stopped or redone."""

import asyncio
from collections.abc import Iterator

import pytest

from bot.core.events import EventId, RoomId
from bot.matrix.parse import MARKER
from tests.harness.bot import Bot
from tests.harness.client_view import Seen
from tests.harness.expectations import (
    answers,
    asked,
    begun,
    heard,
    meet,
    notice,
    replies,
    replies_to,
    reply,
    request,
    said,
    talk,
    turns,
)
from tests.harness.fault_proxy import FaultProxy
from tests.harness.model import ScriptedAnswer, ScriptedModel
from tests.harness.person import Person

pytestmark = pytest.mark.asyncio(loop_scope="session")

STORM = "L'orage vient. " + "La pluie tombe sur la ville entière. " * 20 + "Il passe."


@pytest.fixture
def gate(model: ScriptedModel) -> Iterator[asyncio.Event]:
    """Holds the model back in the middle of its words on the storm."""
    opened = asyncio.Event()
    model.when("l'orage", ScriptedAnswer(text=STORM, after=15, gate=opened))
    yield opened
    opened.set()


async def gone(person: Person, room_id: RoomId, event_id: EventId) -> Seen:
    """Wait until a message is redacted."""
    return await person.wait_for_message(
        room_id, lambda seen: seen.event_id == event_id and seen.redacted
    )


async def is_gone_with_its_edits(person: Person, room_id: RoomId, told: Seen) -> None:
    """Check with the homeserver that not a word of a reply is left, in whatever version."""
    for version in told.versions:
        assert (await person.event(room_id, version.event_id))["content"] == {}
    left = [
        event["event_id"]
        for event in await person.timeline(room_id)
        if event["sender"] == told.sender and event["content"].get("m.relates_to")
    ]
    assert left == []


@pytest.mark.parametrize("late", [False, True], ids=["during generation", "afterwards"])
async def test_an_edited_prompt_is_answered_anew_in_the_same_reply(
    person: Person, assistant: Bot, model: ScriptedModel, gate: asyncio.Event, *, late: bool
) -> None:
    room_id = await talk(person, assistant.user_id)
    prompt = await person.write(room_id, "Décrivez l'orage")
    first = await begun(person, room_id, prompt)
    if late:
        gate.set()
        await reply(person, room_id, prompt, STORM)

    await person.edit(room_id, prompt, "Décrivez le soleil")
    answer = await reply(person, room_id, prompt, "You said: Décrivez le soleil.")
    await person.write(room_id, "Et la lune")
    await asked(model, "Et la lune")

    assert answer.event_id == first.event_id
    assert turns(request(model, "Décrivez le soleil")) == [("user", "Décrivez le soleil")]
    assert turns(request(model, "Et la lune")) == [
        ("user", "Décrivez le soleil"),
        ("assistant", "You said: Décrivez le soleil."),
        ("user", "Et la lune"),
    ]


@pytest.mark.both_clients
async def test_an_edited_mention_is_answered_anew_in_the_thread(
    person: Person, colleague: Person, assistant: Bot, gate: asyncio.Event
) -> None:
    room_id = await meet(person, assistant.user_id, colleague, encrypted=False)
    prompt = await person.write(room_id, "Décrivez l'orage", mentioning=assistant.user_id)
    first = await begun(person, room_id, prompt)

    await person.edit(room_id, prompt, "Décrivez la neige", mentioning=assistant.user_id)
    answer = await reply(person, room_id, prompt, "You said: Agent 1 : Décrivez la neige.")

    assert answer.event_id == first.event_id
    assert not gate.is_set()


async def test_an_edit_of_an_earlier_prompt_and_one_by_somebody_else_change_no_reply(
    person: Person, colleague: Person, assistant: Bot, model: ScriptedModel
) -> None:
    room_id = await meet(person, assistant.user_id, colleague)
    prompt = await person.write(room_id, "Première demande", mentioning=assistant.user_id)
    await begun(colleague, room_id, prompt)
    second = await person.write(room_id, "Deuxième demande", thread=prompt)
    text = "You said: Agent 1 : Deuxième demande. Before that: Agent 1 : Première demande."
    await reply(colleague, room_id, second, text)
    standing = [await reply(person, room_id, second, text)]

    await heard(assistant, await colleague.edit(room_id, second, "Demande détournée"))
    await heard(assistant, await person.edit(room_id, prompt, "Première demande corrigée"))
    third = await person.write(room_id, "Troisième demande", thread=prompt)
    await begun(person, room_id, third)

    assert replies_to(person, room_id, second) == standing
    assert [len(one.versions) for one in replies_to(person, room_id, prompt)] == [1]
    assert [words for role, words in turns(request(model, "Troisième")) if role == "user"] == [
        "Agent 1 : Première demande corrigée",
        "Agent 1 : Deuxième demande",
        "Agent 1 : Troisième demande",
    ]


@pytest.mark.parametrize("late", [False, True], ids=["during generation", "afterwards"])
async def test_a_redacted_prompt_takes_its_reply_along_with_every_edit(
    person: Person,
    assistant: Bot,
    model: ScriptedModel,
    gate: asyncio.Event,
    *,
    encrypted: bool,
    late: bool,
) -> None:
    room_id = await talk(person, assistant.user_id, encrypted=encrypted)
    prompt = await person.write(room_id, "Racontez l'orage")
    told = await begun(person, room_id, prompt)
    generation = request(model, "Racontez l'orage")
    if late:
        gate.set()
        told = await reply(person, room_id, prompt, STORM)
        assert len(told.versions) > 1

    await person.redact(room_id, prompt)
    await gone(person, room_id, told.event_id)
    await asyncio.wait_for(generation.over.wait(), 10)
    after = await person.write(room_id, "Que reste-t-il")
    await begun(person, room_id, after)

    assert turns(request(model, "Que reste-t-il")) == [("user", "Que reste-t-il")]
    [last] = replies(person, room_id)
    assert answers(last) == [after]
    await person.redact(room_id, after)
    await gone(person, room_id, last.event_id)
    await is_gone_with_its_edits(person, room_id, told)


async def test_a_reply_that_a_moderator_redacts_stops_and_is_not_sent_again(
    person: Person, colleague: Person, assistant: Bot, model: ScriptedModel, gate: asyncio.Event
) -> None:
    room_id = await meet(person, assistant.user_id, colleague)
    prompt = await colleague.write(room_id, "Décrivez l'orage", mentioning=assistant.user_id)
    told = await begun(person, room_id, prompt)

    await person.redact(room_id, told.event_id)
    await asyncio.wait_for(request(model, "Décrivez l'orage").over.wait(), 10)
    gate.set()
    after = await colleague.write(room_id, "Et ensuite", thread=prompt)
    await begun(person, room_id, after)

    assert replies_to(person, room_id, prompt) == []
    assert turns(request(model, "Et ensuite")) == [
        ("user", "Agent 1 : Décrivez l'orage\n\nAgent 1 : Et ensuite")
    ]


async def test_a_thread_root_that_a_moderator_redacts_ends_what_is_said_in_the_thread(
    person: Person, colleague: Person, assistant: Bot, model: ScriptedModel, gate: asyncio.Event
) -> None:
    room_id = await meet(person, assistant.user_id, colleague)
    root = await colleague.write(room_id, "Un fil de pêche", mentioning=assistant.user_id)
    first = await begun(person, room_id, root)
    follow_up = await colleague.write(room_id, "Et sous l'orage", thread=root)
    await begun(person, room_id, follow_up)

    await person.redact(room_id, root)
    await gone(person, room_id, first.event_id)
    await asyncio.wait_for(request(model, "Et sous l'orage").over.wait(), 10)
    gate.set()
    new = await colleague.write(room_id, "Un autre fil", mentioning=assistant.user_id)
    await begun(person, room_id, new)

    [cut] = replies_to(person, room_id, follow_up)
    words, _, mark = cut.body.partition("\n\n")
    assert STORM.startswith(words)
    assert len(words.split()) <= 15
    assert mark == said("thread gone")
    assert turns(request(model, "Un autre fil")) == [("user", "Agent 1 : Un autre fil")]


@pytest.mark.parametrize("way", ["🛑", "⏹️", "⏹", "!stop"])
async def test_a_stopped_reply_keeps_its_words_and_says_so(
    person: Person, assistant: Bot, model: ScriptedModel, gate: asyncio.Event, way: str
) -> None:
    room_id = await talk(person, assistant.user_id)
    prompt = await person.write(room_id, "Décrivez l'orage")
    told = await begun(person, room_id, prompt)

    if way == "!stop":
        await person.write(room_id, way)
    else:
        await person.react(room_id, told.event_id, way)
    remark = said("stopped direct")
    stopped = await begun(person, room_id, prompt, lambda seen: seen.body.endswith(remark))
    await person.write(room_id, "Et après l'éclair")
    await asked(model, "Et après l'éclair")

    assert request(model, "Décrivez l'orage").done is None
    assert not gate.is_set()
    assert [stopped] == replies_to(person, room_id, prompt)
    assert stopped.content[MARKER]["added"] == [remark]
    kept = stopped.body.removesuffix(remark).strip()
    assert STORM.startswith(kept)
    assert kept.startswith("L'orage vient.")
    assert turns(request(model, "Et après l'éclair"))[1] == ("assistant", kept)


async def test_a_reply_that_is_stopped_before_its_first_word_is_one_notice(
    person: Person, assistant: Bot, model: ScriptedModel
) -> None:
    model.when("le silence", ScriptedAnswer(gate=(held := asyncio.Event())))
    room_id = await talk(person, assistant.user_id)
    prompt = await person.write(room_id, "Décrivez le silence")
    await asked(model, "Décrivez le silence")

    await person.react(room_id, prompt, "🛑")
    await notice(person, room_id, "stopped direct", to=prompt)

    assert replies(person, room_id) == []
    assert not held.is_set()


@pytest.mark.parametrize("way", ["🔄", "🔄\ufe0f", "!refaire", "!redo in a reply"])
async def test_a_reply_is_redone_in_its_place(
    person: Person, assistant: Bot, model: ScriptedModel, way: str
) -> None:
    room_id = await talk(person, assistant.user_id)
    model.when("Un nombre au hasard", ScriptedAnswer(text="Sept. " + STORM))
    prompt = await person.write(room_id, "Un nombre au hasard")
    first = await reply(person, room_id, prompt, "Sept. " + STORM)
    model.when("Un nombre au hasard", ScriptedAnswer(text="Douze."))

    if way == "!refaire":
        await person.write(room_id, way)
    elif way.startswith("!"):
        await person.write(room_id, "!redo", replying_to=first.event_id)
    else:
        await person.react(room_id, first.event_id, way)
    second = await reply(person, room_id, prompt, "Douze.")

    assert second.event_id == first.event_id
    assert turns(request(model, "Un nombre au hasard")) == [("user", "Un nombre au hasard")]


async def test_controls_by_somebody_who_has_not_asked_change_nothing(
    person: Person, colleague: Person, assistant: Bot, model: ScriptedModel, gate: asyncio.Event
) -> None:
    room_id = await meet(person, assistant.user_id, colleague)
    prompt = await person.write(room_id, "Décrivez l'orage", mentioning=assistant.user_id)
    told = await begun(colleague, room_id, prompt)

    for key in ("🛑", "⏹️", "🔄"):
        await heard(assistant, await colleague.react(room_id, told.event_id, key))
    stop = await colleague.write(room_id, "!stop", thread=prompt)
    await notice(colleague, room_id, "not yours to stop", to=stop)
    redo = await colleague.write(room_id, "!refaire", thread=prompt, replying_to=told.event_id)
    await notice(colleague, room_id, "not yours to redo", to=redo)
    gate.set()

    whole = await reply(person, room_id, prompt, STORM)
    assert whole.event_id == told.event_id
    assert whole.content[MARKER]["added"] == []
    assert request(model, "Décrivez l'orage").done


async def test_an_edit_that_comes_while_the_bot_is_killed_is_answered_in_the_same_reply(
    nia: Person, assistant: Bot, gate: asyncio.Event
) -> None:
    room_id = await talk(nia, assistant.user_id)
    prompt = await nia.write(room_id, "Contez l'orage")
    told = await begun(nia, room_id, prompt)

    await assistant.kill()
    await nia.edit(room_id, prompt, "Contez la mer")
    await assistant.start()

    answer = await reply(nia, room_id, prompt, "You said: Contez la mer.")
    assert answer.event_id == told.event_id
    assert not gate.is_set()


@pytest.mark.parametrize("late", [False, True], ids=["during generation", "afterwards"])
async def test_a_redaction_that_comes_while_the_bot_is_killed_takes_the_reply_along(
    nia: Person, assistant: Bot, model: ScriptedModel, *, late: bool
) -> None:
    gate = asyncio.Event()
    text = "Le vent se lève. " + "Il souffle encore. " * 10 + "Il tombe."
    model.when("le vent", ScriptedAnswer(text=text, after=30, tokens_per_second=20, gate=gate))
    room_id = await talk(nia, assistant.user_id)
    prompt = await nia.write(room_id, "Contez le vent")
    told = await begun(nia, room_id, prompt, lambda seen: len(seen.versions) > 1)
    if late:
        gate.set()
        told = await reply(nia, room_id, prompt, text)

    await assistant.kill()
    await nia.redact(room_id, prompt)
    await assistant.start()

    await gone(nia, room_id, told.event_id)
    await is_gone_with_its_edits(nia, room_id, told)


async def test_a_bot_killed_while_it_redacts_a_reply_redacts_the_rest_after_its_start(
    nia: Person, peculiar: Bot, between: FaultProxy, gate: asyncio.Event
) -> None:
    room_id = await talk(nia, peculiar.user_id)
    prompt = await nia.write(room_id, "Contez l'orage")
    await begun(nia, room_id, prompt)
    gate.set()
    told = await reply(nia, room_id, prompt, STORM)
    assert len(told.versions) > 1

    with between.rule("PUT", "/redact/", "withhold") as first:
        await nia.redact(room_id, prompt)
        await first.met()
        await peculiar.kill()
    await peculiar.start()

    await gone(nia, room_id, told.event_id)
    await is_gone_with_its_edits(nia, room_id, told)


async def test_messages_that_were_joined_when_the_bot_was_killed_get_one_reply(
    nia: Person, assistant: Bot, model: ScriptedModel
) -> None:
    held = asyncio.Event()
    model.when("un tocsin", ScriptedAnswer(gate=held))
    room_id = await talk(nia, assistant.user_id)
    first = await nia.write(room_id, "Sonnez un tocsin")
    await asked(model, "Sonnez un tocsin")
    second = await nia.write(room_id, "deux tocsins")
    await asked(model, "Sonnez un tocsin\n\ndeux tocsins")

    await assistant.kill()
    held.set()
    await assistant.start()

    answer = await reply(nia, room_id, first, "You said: Sonnez un tocsin\n\ndeux tocsins.")
    assert answers(answer) == [first, second]
    assert replies(nia, room_id) == [answer]

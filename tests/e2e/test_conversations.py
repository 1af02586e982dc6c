"""Conversations in direct messages: what is a prompt, where its reply goes, what it knows."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from bot.core.events import EventId, RoomId
from bot.core.markdown import render
from tests.e2e.conftest import IDLE_SECONDS
from tests.harness.bot import Bot
from tests.harness.client_view import JSON
from tests.harness.expectations import (
    answers,
    asked,
    begun,
    heard,
    meet,
    notice,
    related,
    replies,
    replies_to,
    reply,
    request,
    said,
    talk,
    turns,
    until,
)
from tests.harness.model import ScriptedAnswer, ScriptedModel
from tests.harness.person import Person

pytestmark = pytest.mark.asyncio(loop_scope="session")

LONG = "Le fleuve monte. " + "Puis il descend jusqu'à la mer. " * 20 + "Voilà tout."


@dataclass(frozen=True, slots=True)
class Line:
    """A direct message whose prompt waits for its turn; `place` is the message that says so."""

    room_id: RoomId
    prompt: EventId
    place: EventId
    gate: asyncio.Event


MESSAGE, PLACE = "m.room.message", "mxc://stand.test/x"
UNREADABLE: list[tuple[str, JSON]] = [
    (MESSAGE, {"msgtype": "m.image", "body": "plan.png", "url": PLACE}),
    (MESSAGE, {"msgtype": "m.video", "body": "film.mp4", "url": PLACE}),
    (MESSAGE, {"msgtype": "m.file", "body": "note.odt", "url": PLACE}),
    (MESSAGE, {"msgtype": "m.audio", "body": "voix.ogg", "url": PLACE}),
    (MESSAGE, {"msgtype": "m.location", "body": "Ici", "geo_uri": "geo:48.4,-4.5"}),
    ("m.sticker", {"body": "pouce", "url": PLACE, "info": {}}),
]


async def test_a_prompt_is_answered_in_the_main_timeline_with_what_was_said_before(
    person: Person, assistant: Bot, model: ScriptedModel, *, encrypted: bool
) -> None:
    room_id = await talk(person, assistant.user_id, encrypted=encrypted)
    first = await person.write(room_id, "Je viens de Brest")
    await reply(person, room_id, first, "You said: Je viens de Brest.")

    second = await person.write(room_id, "Où suis-je né")
    answer = await reply(
        person, room_id, second, "You said: Où suis-je né. Before that: Je viens de Brest."
    )

    first_content = answer.versions[0].content
    assert "m.relates_to" not in first_content
    assert turns(request(model, "Où suis-je né")) == [
        ("user", "Je viens de Brest"),
        ("assistant", "You said: Je viens de Brest."),
        ("user", "Où suis-je né"),
    ]


async def test_a_thread_that_is_begun_on_an_answer_goes_on_from_it(
    person: Person, assistant: Bot, model: ScriptedModel, *, encrypted: bool
) -> None:
    room_id = await talk(person, assistant.user_id, encrypted=encrypted)
    first = await person.write(room_id, "Que mange un renne")
    answer = await reply(person, room_id, first, "You said: Que mange un renne.")

    inside = await person.write(room_id, "Et en hiver", thread=answer.event_id)
    second = await begun(person, room_id, inside)

    relation = second.versions[0].content["m.relates_to"]
    assert (relation["rel_type"], relation["event_id"]) == ("m.thread", answer.event_id)
    assert turns(request(model, "Et en hiver")) == [
        ("user", "Que mange un renne"),
        ("assistant", "You said: Que mange un renne."),
        ("user", "Et en hiver"),
    ]


async def test_an_answer_quotes_its_prompt_where_other_messages_came_between(
    person: Person, assistant: Bot, model: ScriptedModel, *, encrypted: bool
) -> None:
    room_id = await talk(person, assistant.user_id, encrypted=encrypted)
    gate = asyncio.Event()
    model.when("Un poème", ScriptedAnswer(text="Voici un poème entier.", after=0, gate=gate))
    first = await person.write(room_id, "Un poème")
    await asked(model, "Un poème")
    command = await person.write(room_id, "!apropos")
    told = await person.wait_for_message(room_id, lambda seen: command in related(seen))
    gate.set()

    answer = await reply(person, room_id, first, "Voici un poème entier.")

    assert "m.relates_to" not in told.versions[0].content
    assert answer.versions[0].content["m.relates_to"] == {"m.in_reply_to": {"event_id": first}}


async def test_a_prompt_without_an_answer_is_in_no_later_context(
    person: Person, assistant: Bot, model: ScriptedModel, *, encrypted: bool
) -> None:
    room_id = await talk(person, assistant.user_id, encrypted=encrypted)
    model.when("mille pages", ScriptedAnswer(mode="verbatim", status=401, body=b"{}"))
    failed = await person.write(room_id, "Résumez ces mille pages")
    await notice(person, room_id, "model refused", to=failed)
    model.when("mille pages", ScriptedAnswer())

    shorter = await person.write(room_id, "Que dit la loi")
    await begun(person, room_id, shorter)
    again = await person.write(room_id, "Et alors", replying_to=failed)
    await begun(person, room_id, again)

    assert turns(request(model, "Que dit la loi")) == [("user", "Que dit la loi")]
    role, words = turns(request(model, "Et alors"))[0]
    assert role == "user"
    assert words.startswith("Résumez ces mille pages")


async def test_an_answer_in_place_of_a_notice_is_known_after_a_restart(
    nia: Person, assistant: Bot, model: ScriptedModel
) -> None:
    room_id = await talk(nia, assistant.user_id)
    model.when("capitale du Bhoutan", ScriptedAnswer(mode="verbatim", status=401, body=b"{}"))
    failed = await nia.write(room_id, "La capitale du Bhoutan")
    await notice(nia, room_id, "model refused", to=failed)
    model.when("capitale du Bhoutan", ScriptedAnswer(text="C'est Thimphou, au nord-ouest."))
    await nia.write(room_id, "!refaire")
    await begun(nia, room_id, failed)
    await assistant.restart()

    after = await nia.write(room_id, "Et sa population")
    await begun(nia, room_id, after)

    assert turns(request(model, "Et sa population")) == [
        ("user", "La capitale du Bhoutan"),
        ("assistant", "C'est Thimphou, au nord-ouest."),
        ("user", "Et sa population"),
    ]


async def test_a_prompt_in_a_thread_is_answered_there_with_the_thread_and_its_root(
    person: Person, assistant: Bot, model: ScriptedModel, *, encrypted: bool
) -> None:
    room_id = await talk(person, assistant.user_id, encrypted=encrypted)
    root = await person.write(room_id, "Parlons du budget")
    await reply(person, room_id, root, "You said: Parlons du budget.")

    inside = await person.write(room_id, "Combien en tout", thread=root)
    answer = await begun(person, room_id, inside)
    again = await person.write(room_id, "Et par an", thread=root)
    await begun(person, room_id, again)
    outside = await person.write(room_id, "De quoi parlions-nous")
    await begun(person, room_id, outside)

    assert answer.versions[0].content["m.relates_to"] == {
        "rel_type": "m.thread",
        "event_id": root,
        "is_falling_back": True,
        "m.in_reply_to": {"event_id": inside},
    }
    assert turns(request(model, "Et par an")) == [
        ("user", "Parlons du budget\n\nCombien en tout"),
        ("assistant", "You said: Parlons du budget\n\nCombien en tout."),
        ("user", "Et par an"),
    ]
    assert turns(request(model, "De quoi parlions-nous")) == [
        ("user", "Parlons du budget"),
        ("assistant", "You said: Parlons du budget."),
        ("user", "De quoi parlions-nous"),
    ]


async def test_the_context_begins_behind_the_command_for_a_new_conversation(
    person: Person, assistant: Bot, model: ScriptedModel
) -> None:
    room_id = await talk(person, assistant.user_id)
    old = await person.write(room_id, "Je suis postier")
    await begun(person, room_id, old)

    await person.write(room_id, "!nouveau")
    await notice(person, room_id, "new conversation")
    prompt = await person.write(room_id, "Quel est mon métier")

    await reply(person, room_id, prompt, "You said: Quel est mon métier.")
    assert turns(request(model, "Quel est mon métier")) == [("user", "Quel est mon métier")]


async def test_a_long_silence_is_said_above_the_reply_and_a_reply_to_what_was_before_ends_it(
    person: Person, peculiar: Bot, model: ScriptedModel
) -> None:
    room_id = await talk(person, peculiar.user_id)
    old = await person.write(room_id, "Mon train part de Rennes")
    before = await reply(person, room_id, old, "You said: Mon train part de Rennes.")
    await silence()

    prompt = await person.write(room_id, "D'où part mon train")
    line = said("idle", n=1)
    answer = await begun(person, room_id, prompt, lambda seen: seen.body.endswith("train."))
    forgetful = turns(request(model, "D'où part mon train"))
    await silence()
    back = await person.write(room_id, "Et à quelle heure", replying_to=before.event_id)
    remembered = await begun(person, room_id, back)

    assert answer.body == f"{line}\n\nYou said: D'où part mon train."
    assert forgetful == [("user", "D'où part mon train")]
    assert line not in remembered.body
    assert turns(request(model, "Et à quelle heure")) == [
        ("user", "Mon train part de Rennes"),
        ("assistant", "You said: Mon train part de Rennes."),
        ("user", "Et à quelle heure"),
    ]


async def silence() -> None:
    """Wait until the peculiar bot's idle limit has passed."""
    over = time.monotonic() + 2 * IDLE_SECONDS
    await until(lambda: time.monotonic() > over)


async def test_messages_in_a_row_get_one_reply_and_the_next_conversation_turn_waits(
    person: Person, assistant: Bot, model: ScriptedModel
) -> None:
    held, rest = asyncio.Event(), asyncio.Event()
    model.when("deux canaux", ScriptedAnswer(text=LONG, after=15, gate=rest))
    model.when("Un canal", ScriptedAnswer(gate=held))
    room_id = await talk(person, assistant.user_id)

    first = await person.write(room_id, "Un canal")
    await asked(model, "Un canal")
    second = await person.write(room_id, "deux canaux")
    await asked(model, "Un canal\n\ndeux canaux")
    await begun(person, room_id, first)
    third = await person.write(room_id, "trois canaux")
    await heard(assistant, third)
    rest.set()
    await begun(person, room_id, third)
    whole = await reply(person, room_id, first, LONG)

    later, earlier = request(model, "trois canaux"), request(model, "deux canaux")
    assert answers(whole) == [first, second]
    assert len(replies(person, room_id)) == 2
    assert earlier.done
    assert later.arrived > earlier.done
    assert turns(later) == [
        ("user", "Un canal\n\ndeux canaux"),
        ("assistant", whole.body),
        ("user", "trois canaux"),
    ]


async def test_edited_messages_count_in_their_last_version_and_redacted_ones_leave_the_context(
    person: Person, assistant: Bot, model: ScriptedModel, *, encrypted: bool
) -> None:
    room_id = await talk(person, assistant.user_id, encrypted=encrypted)
    texts = ["Le chat dort", "Le chien mange", "Le coq chante"]
    prompts = []
    for text in texts:
        prompts.append(await person.write(room_id, text))
        await begun(person, room_id, prompts[-1])
    [gone] = replies_to(person, room_id, prompts[1])

    await person.edit(room_id, prompts[0], "Le chat court")
    await person.edit(room_id, prompts[0], "Le chat saute")
    await person.redact(room_id, prompts[1])
    await person.wait_for_message(
        room_id, lambda seen: seen.event_id == gone.event_id and seen.redacted
    )
    last = await person.write(room_id, "Qui saute ici")
    await begun(person, room_id, last)

    roles, words = zip(*turns(request(model, "Qui saute ici")), strict=True)
    assert roles == ("user", "assistant", "user", "assistant", "user")
    assert words[::2] == ("Le chat saute", "Le coq chante", "Qui saute ici")
    assert words[1] == "You said: Le chat dort."


async def test_each_message_that_is_no_text_gets_one_notice_and_enters_no_context(
    person: Person, assistant: Bot, model: ScriptedModel
) -> None:
    room_id = await talk(person, assistant.user_id)

    sent = [await person.send_event(room_id, *event) for event in UNREADABLE]
    for event_id in sent:
        await notice(person, room_id, "unreadable message", to=event_id)
    prompt = await person.write(room_id, "Qu'avez-vous vu")
    await begun(person, room_id, prompt)

    told = [seen for seen in person.messages(room_id) if seen.body == said("unreadable message")]
    assert sorted(map(related, told), key=min) == sorted(({one} for one in sent), key=min)
    assert turns(request(model, "Qu'avez-vous vu")) == [("user", "Qu'avez-vous vu")]


async def test_a_notice_is_no_prompt_and_enters_no_context(person: Person, assistant: Bot) -> None:
    room_id = await talk(person, assistant.user_id)
    told = await person.send(room_id, "Un robot a dit cela", msgtype="m.notice")

    prompt = await person.write(room_id, "Qui a parlé ici")
    await reply(person, room_id, prompt, "You said: Qui a parlé ici.")

    assert replies_to(person, room_id, told) == []
    assert len(replies(person, room_id)) == 1


async def test_a_message_that_is_redacted_before_anything_is_visible_is_asked_no_more(
    person: Person, assistant: Bot, model: ScriptedModel
) -> None:
    held = asyncio.Event()
    model.when("un phare", ScriptedAnswer(gate=held))
    room_id = await talk(person, assistant.user_id)
    first = await person.write(room_id, "Décrivez un phare")
    await asked(model, "Décrivez un phare")
    second = await person.write(room_id, "puis deux phares")
    await asked(model, "Décrivez un phare\n\npuis deux phares")

    await person.redact(room_id, first)
    answer = await reply(person, room_id, second, "You said: puis deux phares.")

    assert not held.is_set()
    assert answers(answer) == [second]
    assert replies(person, room_id) == [answer]


async def test_a_conversation_is_read_after_a_restart_as_it_was_kept_before(
    nia: Person, jason: Person, assistant: Bot, model: ScriptedModel
) -> None:
    me = assistant.user_id
    model.when("la marée", ScriptedAnswer(text=LONG, after=15, gate=(gate := asyncio.Event())))
    places: list[tuple[RoomId, EventId | None]] = []
    for encrypted in (True, False):
        for room_id in (
            await talk(nia, me, encrypted=encrypted),
            await meet(nia, me, jason, encrypted=encrypted),
        ):
            gate.clear()
            root = await nia.write(room_id, "Expliquez la marée", mentioning=me)
            await begun(nia, room_id, root)
            gate.set()
            await reply(nia, room_id, root, LONG)
            places.append((room_id, None if len(places) % 2 == 0 else root))
            await live(nia, *places[-1])
    warm, cold = "Et alors, à chaud", "Et alors, à froid"

    before = [await context(nia, model, place, warm) for place in places]
    await assistant.restart()
    after = [await context(nia, model, place, cold) for place in places]

    for place, kept, read in zip(places, before, after, strict=True):
        name = "" if place[1] is None else "Agent 1 : "
        assert read[: len(kept)] == kept
        assert kept[0] == ("user", f"{name}Expliquez la marée")
        assert kept[1] == ("assistant", render(LONG).body)
        assert [words for role, words in kept[2:] if role == "user"] == [
            f"{name}Une demande corrigée",
            f"{name}Et alors, à chaud",
        ]


async def live(person: Person, room_id: RoomId, thread: EventId | None) -> None:
    """Say, edit, redact, and type what is no prompt, in one conversation."""
    edited = await person.write(room_id, "Une demande", thread=thread)
    await begun(person, room_id, edited)
    await person.edit(room_id, edited, "Une demande corrigée")
    await begun(person, room_id, edited, lambda seen: "corrigée." in seen.body)
    redacted = await person.write(room_id, "À oublier bien vite", thread=thread)
    told = await begun(person, room_id, redacted)
    await person.redact(room_id, redacted)
    await person.wait_for_message(
        room_id, lambda seen: seen.event_id == told.event_id and seen.redacted
    )
    command = await person.write(room_id, "!sources", thread=thread)
    await notice(person, room_id, "no sources", to=command)


async def context(
    person: Person, model: ScriptedModel, place: tuple[RoomId, EventId | None], words: str
) -> list[tuple[str, str]]:
    """Ask with these words and return what the model was asked with."""
    room_id, thread = place
    prompt = await person.write(room_id, words, thread=thread)
    await begun(person, room_id, prompt)
    return turns(request(model, words))


@pytest_asyncio.fixture(loop_scope="session")
async def line(
    nia: Person, jason: Person, peculiar: Bot, model: ScriptedModel
) -> AsyncIterator[Line]:
    """Jason waits behind Nia, and reads so."""
    gate = asyncio.Event()
    model.when("la source", ScriptedAnswer(text=LONG, after=15, gate=gate))
    here, there = await talk(nia, peculiar.user_id), await talk(jason, peculiar.user_id)
    first = await nia.write(here, "Décrivez la source")
    await begun(nia, here, first)
    second = await jason.write(there, "Et le ruisseau")
    place = said("queued", place=1)
    waiting = await begun(jason, there, second, lambda seen: seen.body == place)
    yield Line(there, second, waiting.event_id, gate)
    gate.set()
    await reply(nia, here, first, LONG)


async def test_who_waits_for_another_conversation_reads_the_answer_where_the_place_stood(
    jason: Person, line: Line
) -> None:
    line.gate.set()
    answer = await reply(jason, line.room_id, line.prompt, "You said: Et le ruisseau.")

    assert answer.event_id == line.place


async def test_who_stops_while_waiting_in_line_is_not_answered(
    jason: Person, line: Line, model: ScriptedModel
) -> None:
    since = len(model.exchanges)
    await jason.react(line.room_id, line.place, "🛑")
    stopped = await begun(
        jason, line.room_id, line.prompt, lambda seen: seen.body == said("stopped direct")
    )

    assert stopped.event_id == line.place
    assert len(model.exchanges) == since


async def test_a_prompt_that_is_edited_in_line_is_asked_in_its_last_version_alone(
    jason: Person, line: Line, peculiar: Bot, model: ScriptedModel
) -> None:
    since = len(model.exchanges)
    await heard(peculiar, await jason.edit(line.room_id, line.prompt, "Et le torrent"))
    line.gate.set()
    answer = await reply(jason, line.room_id, line.prompt, "You said: Et le torrent.")

    assert answer.event_id == line.place
    assert [one.prompt for one in model.exchanges[since:]] == ["Et le torrent"]


async def test_a_prompt_that_is_redacted_in_line_takes_its_place_along(
    jason: Person, line: Line, model: ScriptedModel
) -> None:
    since = len(model.exchanges)
    await jason.redact(line.room_id, line.prompt)
    await jason.wait_for_message(
        line.room_id, lambda seen: seen.event_id == line.place and seen.redacted
    )

    assert len(model.exchanges) == since


async def test_who_waits_in_line_when_the_bot_is_killed_is_answered_where_the_place_stood(
    jason: Person, line: Line, peculiar: Bot
) -> None:
    await peculiar.kill()
    line.gate.set()
    await peculiar.start()
    answer = await reply(jason, line.room_id, line.prompt, "You said: Et le ruisseau.")

    assert answer.event_id == line.place


async def test_a_reply_to_a_message_before_the_command_for_a_new_conversation_brings_it_back(
    person: Person, assistant: Bot, model: ScriptedModel
) -> None:
    room_id = await talk(person, assistant.user_id)
    old = await person.write(room_id, "Je vends des pommes")
    before = await begun(person, room_id, old)
    await person.write(room_id, "!nouveau")
    await notice(person, room_id, "new conversation")
    new = await person.write(room_id, "Parlons de poires")
    await begun(person, room_id, new)

    prompt = await person.write(room_id, "Et que vendais-je", replying_to=before.event_id)
    await begun(person, room_id, prompt)

    assert turns(request(model, "Et que vendais-je")) == [
        ("user", "Je vends des pommes"),
        ("assistant", "You said: Je vends des pommes."),
        ("user", "Parlons de poires"),
        ("assistant", "You said: Parlons de poires."),
        ("user", "Et que vendais-je"),
    ]

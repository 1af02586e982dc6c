"""Conversations in salons: who is answered there, in what thread, and with what context."""

import asyncio
import json

import pytest

from bot.core.events import EventId, RoomId
from tests.harness.bot import Bot
from tests.harness.expectations import (
    answers,
    asked,
    begun,
    meet,
    notice,
    related,
    replies,
    reply,
    request,
    said,
    spoken,
    talk,
    turns,
)
from tests.harness.model import ScriptedAnswer, ScriptedModel
from tests.harness.person import Person
from tests.harness.synapse import Synapse

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.both_clients]

CANARIES = ("la Loire", "la Seine", "le Rhône")
REMARKS = 200


async def answered(person: Person, room_id: RoomId) -> list[EventId]:
    """Return what has been answered in the room."""
    return [event_id for seen in replies(person, room_id) for event_id in answers(seen)]


async def test_a_mention_is_answered_in_a_thread_rooted_at_the_prompt(
    person: Person, colleague: Person, assistant: Bot, model: ScriptedModel, *, encrypted: bool
) -> None:
    room_id = await meet(person, assistant.user_id, colleague, encrypted=encrypted)

    prompt = await person.write(room_id, "Que dit la loi", mentioning=assistant.user_id)
    answer = await reply(person, room_id, prompt, "You said: Agent 1 : Que dit la loi.")
    await reply(colleague, room_id, prompt, "You said: Agent 1 : Que dit la loi.")

    assert answer.versions[0].content["m.relates_to"] == {
        "rel_type": "m.thread",
        "event_id": prompt,
        "is_falling_back": True,
        "m.in_reply_to": {"event_id": prompt},
    }
    assert turns(request(model, "Que dit la loi")) == [("user", "Agent 1 : Que dit la loi")]


async def test_in_a_thread_its_author_needs_no_mention_and_colleagues_do(
    person: Person, colleague: Person, assistant: Bot, model: ScriptedModel, *, encrypted: bool
) -> None:
    me = assistant.user_id
    room_id = await meet(person, me, colleague, encrypted=encrypted)
    root = await person.write(room_id, "Combien de jours", mentioning=me)
    await begun(person, room_id, root)

    follow_up = await person.write(room_id, "Et par mois", thread=root)
    await begun(person, room_id, follow_up)
    await colleague.write(room_id, "Deux jours", thread=root)
    await person.write(room_id, "Tu crois", thread=root, mentioning=colleague.user_id)
    mention = await colleague.write(room_id, "Qui a raison", thread=root, mentioning=me)
    answer = await begun(colleague, room_id, mention)
    response = await colleague.write(
        room_id, "Pourquoi donc", thread=root, replying_to=answer.event_id
    )
    last = await begun(colleague, room_id, response)

    assert await answered(colleague, room_id) == [root, follow_up, mention, response]
    assert last.versions[0].content["m.relates_to"]["event_id"] == root
    their_name, my_name = (name(person, room_id, one) for one in (colleague, person))
    asked = request(model, "Qui a raison")
    assert turns(asked) == [
        ("user", "Agent 1 : Combien de jours"),
        ("assistant", "You said: Agent 1 : Combien de jours."),
        ("user", "Agent 1 : Et par mois"),
        (
            "assistant",
            "You said: Agent 1 : Et par mois. Before that: Agent 1 : Combien de jours.",
        ),
        (
            "user",
            f"Agent 2 : Deux jours\n\nAgent 1 : {their_name} : Tu crois\n\nAgent 2 : Qui a raison",
        ),
    ]
    words = json.dumps(turns(asked))
    assert not [one for one in (my_name, person.user_id, colleague.user_id) if one in words]


def name(person: Person, room_id: RoomId, of: Person) -> str:
    """Return somebody's display name, as this person's client shows it."""
    return str(person.observed.state[room_id, "m.room.member", of.user_id]["displayname"])


async def test_a_reply_to_a_colleague_brings_that_message_into_the_context(
    person: Person, colleague: Person, assistant: Bot, model: ScriptedModel, *, encrypted: bool
) -> None:
    room_id = await meet(person, assistant.user_id, colleague, encrypted=encrypted)
    before = await colleague.write(room_id, "Le budget est de trois millions")
    await person.wait_for_message(room_id, lambda seen: seen.event_id == before)
    await colleague.write(room_id, "Il fait beau")

    prompt = await person.write(
        room_id, "Est-ce bien exact", mentioning=assistant.user_id, replying_to=before
    )
    await begun(person, room_id, prompt)

    assert turns(request(model, "Est-ce bien exact")) == [
        ("user", "Agent 2 : Le budget est de trois millions\n\nAgent 1 : Est-ce bien exact")
    ]


async def test_a_reply_to_a_message_of_the_assistant_needs_no_mention(
    person: Person, colleague: Person, assistant: Bot, model: ScriptedModel
) -> None:
    room_id = await meet(person, assistant.user_id, colleague)
    prompt = await person.write(room_id, "Un pays nordique", mentioning=assistant.user_id)
    answer = await begun(colleague, room_id, prompt)

    question = await colleague.write(room_id, "Et sa capitale", replying_to=answer.event_id)
    new = await begun(colleague, room_id, question)

    assert new.versions[0].content["m.relates_to"]["event_id"] == question
    assert turns(request(model, "Et sa capitale")) == [
        ("user", "Agent 2 : Un pays nordique"),
        ("assistant", "You said: Agent 1 : Un pays nordique."),
        ("user", "Agent 1 : Et sa capitale"),
    ]


async def test_what_is_not_for_the_assistant_is_left_alone(
    person: Person, colleague: Person, assistant: Bot
) -> None:
    room_id = await meet(person, assistant.user_id, colleague)
    plain = await person.write(room_id, "Bonjour à tous")
    await colleague.wait_for_message(room_id, lambda seen: seen.event_id == plain)
    await person.write(room_id, "Tu viens", mentioning=colleague.user_id)
    await colleague.write(room_id, "Oui, bonjour", replying_to=plain)
    await colleague.write(room_id, "!meteo Paris")
    await colleague.write(room_id, "Un fil à nous", thread=plain)
    await person.write(room_id, "> @Assistant IA a répondu\n\nJ'ai lu")
    await person.write(room_id, "Écris `@Assistant IA` dans ton message")
    await person.send_event(room_id, "m.room.message", {"msgtype": "m.image", "body": "a.png"})

    prompt = await person.write(room_id, "Et vous", mentioning=assistant.user_id)
    await begun(person, room_id, prompt)

    welcome, answer = spoken(person, room_id, assistant.user_id)
    assert answers(welcome) == []
    assert answers(answer) == [prompt]


async def test_who_types_the_name_alone_is_told_once_how_to_mention(
    person: Person, colleague: Person, assistant: Bot, model: ScriptedModel
) -> None:
    room_id = await meet(person, assistant.user_id, colleague)
    asked = len(model.exchanges)
    typed = await person.write(room_id, "@Assistant IA quel temps fait-il")
    told = await notice(person, room_id, "how to mention", to=typed, name="Assistant IA")
    await person.write(room_id, "Demandons à @assistant ia")
    await person.write(room_id, f"{assistant.user_id} êtes-vous là")
    other = await colleague.write(room_id, "Bonjour @Assistant\u00a0IA !")
    await notice(colleague, room_id, "how to mention", to=other, name="Assistant IA")

    prompt = await person.write(room_id, "Et vous", mentioning=assistant.user_id)
    await begun(person, room_id, prompt)

    hint = said("how to mention", name="Assistant IA")
    hints = [seen for seen in spoken(person, room_id, assistant.user_id) if seen.body == hint]
    assert [related(seen) for seen in hints] == [{typed}, {other}]
    assert told.content["m.relates_to"]["event_id"] == typed
    assert len(model.exchanges) == asked + 1


async def test_the_pill_of_an_older_client_is_a_mention(
    person: Person, assistant: Bot, colleague: Person
) -> None:
    room_id = await meet(person, assistant.user_id, colleague)

    prompt = await person.write(room_id, "Que sait-on", mentioning=assistant.user_id, listed=False)

    await reply(person, room_id, prompt, "You said: Agent 1 : Que sait-on.")


async def test_nothing_from_before_the_invitation_enters_the_context(
    person: Person, colleague: Person, assistant: Bot, model: ScriptedModel
) -> None:
    room_id = await person.create_room(
        "Agora", [colleague.user_id], encrypted=False, public=True, history="shared"
    )
    await colleague.join(room_id)
    root = await person.write(room_id, "Un secret de famille")
    await person.write(room_id, "Il reste entre nous", thread=root)
    await colleague.wait_for_message(room_id, lambda seen: seen.body == "Il reste entre nous")
    await person.invite(room_id, assistant.user_id)
    await notice(person, room_id, "welcome salon")

    inside = await person.write(
        room_id, "Que savez-vous de lui", thread=root, mentioning=assistant.user_id
    )
    await begun(person, room_id, inside)
    replying = await colleague.write(
        room_id, "Et de celui-ci", replying_to=root, mentioning=assistant.user_id
    )
    await begun(person, room_id, replying)

    assert turns(request(model, "Que savez-vous de lui")) == [
        ("user", "Agent 1 : Que savez-vous de lui")
    ]
    assert [words.partition(" : ")[2] for _, words in turns(request(model, "Et de celui-ci"))] == [
        "Et de celui-ci"
    ]


async def test_where_salons_are_answered_inline_the_reply_stands_in_the_main_timeline(
    person: Person, colleague: Person, peculiar: Bot, model: ScriptedModel
) -> None:
    room_id = await meet(person, peculiar.user_id, colleague)
    prompt = await person.write(room_id, "Une ville du sud", mentioning=peculiar.user_id)
    answer = await begun(person, room_id, prompt)
    again = await person.write(room_id, "Et son port", replying_to=answer.event_id)
    await begun(person, room_id, again)

    assert "m.relates_to" not in answer.versions[0].content
    assert turns(request(model, "Et son port")) == [
        ("user", "Agent 1 : Une ville du sud"),
        ("assistant", "You said: Agent 1 : Une ville du sud."),
        ("user", "Agent 1 : Et son port"),
    ]


async def test_what_is_said_in_one_conversation_never_enters_another(
    person: Person, colleague: Person, assistant: Bot, model: ScriptedModel
) -> None:
    me = assistant.user_id
    first, second = [await meet(person, me, colleague) for _ in range(2)]
    rooms = dict(zip(CANARIES, (first, second, await talk(person, me)), strict=True))
    since = len(model.exchanges)

    for question in ("Où coule {}", "Et où finit {}", "Qui a vu {}"):
        prompts = {
            canary: await person.write(
                room_id,
                question.format(canary),
                mentioning=me if room_id != rooms["le Rhône"] else None,
            )
            for canary, room_id in rooms.items()
        }
        for canary, room_id in rooms.items():
            await begun(person, room_id, prompts[canary], lambda seen: seen.body.endswith("."))

    requests = [json.dumps(turns(one), ensure_ascii=False) for one in model.exchanges[since:]]
    assert len(requests) == 9
    assert all(sum(canary in one for canary in CANARIES) == 1 for one in requests)


async def test_a_thread_of_many_messages_is_the_same_context_before_and_after_a_restart(
    nia: Person, jason: Person, assistant: Bot, model: ScriptedModel
) -> None:
    me = assistant.user_id
    room_id = await meet(jason, me, nia)
    root = await jason.write(room_id, "Résumons la réunion", mentioning=me)
    await begun(nia, room_id, root)
    model.when("Et alors, à chaud", ScriptedAnswer(text="Rien."))
    remarks = [f"Remarque {number} sur le plan" for number in range(REMARKS)]
    for remark in remarks:
        last = await nia.write(room_id, remark, thread=root)
    await jason.wait_for_message(room_id, lambda seen: seen.event_id == last)

    warm = await jason.write(room_id, "Et alors, à chaud", thread=root)
    await reply(jason, room_id, warm, "Rien.")
    await assistant.restart()
    cold = await jason.write(room_id, "Et alors, à froid", thread=root)
    await begun(jason, room_id, cold)

    before, after = (turns(request(model, f"Et alors, à {state}")) for state in ("chaud", "froid"))
    *_, (role, words) = before
    assert role == "user"
    assert words.split("\n\n")[:-1] == [f"Agent 2 : {remark}" for remark in remarks]
    assert after[: len(before)] == before


async def test_a_prompt_that_was_heard_before_a_restart_is_asked_with_its_thread(
    nia: Person, jason: Person, assistant: Bot, model: ScriptedModel
) -> None:
    held = asyncio.Event()
    model.when("Et son altitude", ScriptedAnswer(gate=held))
    room_id = await meet(nia, assistant.user_id, jason)
    root = await nia.write(room_id, "Un sommet", mentioning=assistant.user_id)
    await begun(nia, room_id, root)
    follow_up = await nia.write(room_id, "Et son altitude", thread=root)
    before = await asked(model, "Et son altitude")

    await assistant.restart()  # the homeserver has told this device of its membership before
    held.set()
    await begun(nia, room_id, follow_up)

    after = request(model, "Et son altitude")
    assert after is not before
    assert turns(after) == turns(before)
    assert len(turns(after)) == 3


@pytest.mark.parametrize(
    "members", [60, pytest.param(300, marks=[pytest.mark.soak, pytest.mark.timeout(120)])]
)
async def test_in_a_crowded_salon_a_mention_is_answered(
    jason: Person, nia: Person, assistant: Bot, synapse: Synapse, members: int
) -> None:
    room_id = await synapse.crowded_room(members - 3)
    await nia.join(room_id)
    await jason.join(room_id)
    await jason.invite(room_id, assistant.user_id)
    await notice(jason, room_id, "welcome salon")

    prompt = await jason.write(room_id, "Combien sommes-nous", mentioning=assistant.user_id)

    text = "You said: Agent 1 : Combien sommes-nous."
    await reply(jason, room_id, prompt, text)
    await reply(nia, room_id, prompt, text)
    assert len(await synapse.members(room_id)) == members

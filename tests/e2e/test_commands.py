"""Commands, each as a person types it and reads its answer."""

import pytest

from bot.core.events import RoomId
from bot.core.markdown import render
from bot.i18n.texts import Texts
from tests.harness.bot import Bot
from tests.harness.client_view import Seen
from tests.harness.expectations import (
    TEXTS,
    begun,
    meet,
    notice,
    related,
    replies,
    request,
    said,
    spoken,
    talk,
)
from tests.harness.model import ScriptedModel
from tests.harness.person import Person

pytestmark = pytest.mark.asyncio(loop_scope="session")

ITEMS = [
    TEXTS("models"),
    "",
    TEXTS("model item chosen", number=1, label="scripted", key="scripted"),
    TEXTS("model item", number=2, label="Autre modèle", key="autre"),
]
UNKNOWN = TEXTS("model not known", name="autres", nearest="`!modele autre`")
TYPO = TEXTS("command unknown", name="nouvau")
NEAREST = TEXTS("command nearest", commands="`!nouveau`")


def body(text: str) -> str:
    """Return Markdown as it stands in a room."""
    return render(text).body


async def told(person: Person, room_id: RoomId, command: str, text: str) -> Seen:
    """Type a command and wait for its answer, a notice to it that is exactly `text`."""
    event_id = await person.write(room_id, command)
    answer = await person.wait_for_message(
        room_id, lambda seen: event_id in related(seen) and seen.body == text
    )
    assert answer.content["msgtype"] == "m.notice"
    return answer


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("!aide", said("help")),
        ("!help", said("help")),
        ("!Aide  tout", said("help all")),
        ("!nouveau", said("new conversation")),
        ("!stop", said("nothing to stop")),
        ("!refaire", said("nothing to redo")),
        ("!modele", body("\n".join(ITEMS))),
        (
            "!modèle autres",
            body(TEXTS("model not known", name="autres", nearest="`!modele autre`")),
        ),
        ("!langue klingon", said("language not known")),
        ("!sources", said("no sources")),
        ("!nouvau", body(f"{TYPO} {NEAREST}")),
    ],
)
async def test_a_command_is_answered_with_a_notice_and_never_reaches_the_model(
    nia: Person, assistant: Bot, model: ScriptedModel, command: str, text: str
) -> None:
    room_id = await talk(nia, assistant.user_id)
    asked = len(model.exchanges)

    await told(nia, room_id, command, text)

    assert len(spoken(nia, room_id, assistant.user_id)) == 2
    assert len(model.exchanges) == asked


async def test_about_tells_the_version_the_model_and_whom_to_ask(
    person: Person, assistant: Bot
) -> None:
    room_id = await talk(person, assistant.user_id)

    await person.write(room_id, "!apropos")
    about = await person.wait_for_message(
        room_id, lambda seen: "assistance@stand.test" in seen.body
    )

    assert "version 0." in about.body
    assert "scripted" in about.body


async def test_the_model_that_is_chosen_answers_and_still_does_after_a_restart(
    person: Person, assistant: Bot, model: ScriptedModel
) -> None:
    room_id = await talk(person, assistant.user_id)
    await told(person, room_id, "!modele 2", said("model chosen", label="Autre modèle"))
    first = await person.write(room_id, "Qui me répond")
    await begun(person, room_id, first)
    await assistant.restart()
    second = await person.write(room_id, "Et maintenant, qui")
    answer = await begun(person, room_id, second)

    assert request(model, "Qui me répond").body["model"] == "other"
    assert request(model, "Et maintenant, qui").body["model"] == "other"
    assert answer.content["fr.gouv.assistant.generated"]["model"] == "other"


async def test_the_language_that_is_chosen_is_the_bots_own(person: Person, assistant: Bot) -> None:
    room_id = await talk(person, assistant.user_id)
    english = Texts("en")

    await told(person, room_id, "!langue en", body(english("language chosen")))
    await told(person, room_id, "!sources", body(english("no sources")))
    await told(person, room_id, "!language français", said("language chosen"))


@pytest.mark.both_clients
async def test_in_a_salon_a_command_mentions_the_bot_or_stands_in_its_thread(
    person: Person, colleague: Person, assistant: Bot, *, encrypted: bool
) -> None:
    room_id = await meet(person, assistant.user_id, colleague, encrypted=encrypted)
    await person.write(room_id, "!aide")

    mentioned = await person.write(room_id, "!aide", mentioning=assistant.user_id)
    answer = await notice(person, room_id, "help", to=mentioned)
    prompt = await person.write(room_id, "Un conseil", mentioning=assistant.user_id)
    await begun(person, room_id, prompt)
    inside = await colleague.write(room_id, "!sources", thread=prompt)
    await notice(person, room_id, "no sources", to=inside)

    assert mentioned in related(answer)
    assert len(spoken(person, room_id, assistant.user_id)) == 4


@pytest.mark.both_clients
async def test_who_is_no_moderator_chooses_for_a_thread_and_a_moderator_for_the_salon(
    person: Person, colleague: Person, assistant: Bot, model: ScriptedModel
) -> None:
    me = assistant.user_id
    room_id = await meet(person, me, colleague)
    refused = await colleague.write(room_id, "!modele autre", mentioning=me)
    await notice(colleague, room_id, "moderators only", to=refused)
    root = await colleague.write(room_id, "Un avis", mentioning=me)
    await begun(colleague, room_id, root)
    inside = await colleague.write(room_id, "!modele autre", thread=root)
    await notice(colleague, room_id, "model chosen", to=inside, label="Autre modèle")
    await begun(colleague, room_id, await colleague.write(room_id, "Un autre avis", thread=root))
    await begun(person, room_id, await person.write(room_id, "Le mien", mentioning=me))

    assert request(model, "Un autre avis").body["model"] == "other"
    assert request(model, "Le mien").body["model"] == "scripted"

    await person.empower(room_id, colleague.user_id, 50)
    allowed = await colleague.write(room_id, "!modele autre", mentioning=me)
    await notice(colleague, room_id, "model chosen", to=allowed, label="Autre modèle")
    await begun(person, room_id, await person.write(room_id, "Le tien", mentioning=me))

    assert request(model, "Le tien").body["model"] == "other"
    assert len(replies(person, room_id)) == 4

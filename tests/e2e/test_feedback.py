"""What people think of replies: polls, votes, thumbs and comments, from client to ledger."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest

from bot.core.events import EventId, RoomId
from bot.core.polls import POLL
from bot.i18n.texts import Texts
from tests.harness.bot import Bot
from tests.harness.client_view import Seen
from tests.harness.expectations import TEXTS, begun, meet, notice, said, spoken, talk, until
from tests.harness.js_person import JsPerson
from tests.harness.model import ScriptedAnswer, ScriptedModel
from tests.harness.person import Person

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.both_clients]

TEXT = "org.matrix.msc1767.text"


def words(poll: Seen) -> str:
    """Return what a client shows of a poll that knows none."""
    return str(poll.content.get(TEXT))


def shown(question: str, *answers: str, texts: Texts = TEXTS) -> str:
    lines = [f"{number}. {texts(key)}" for number, key in enumerate(answers, 1)]
    return "\n".join([question, *lines])


HELPED = shown(TEXTS("poll helped"), "poll helped yes", "poll helped partly", "poll helped no")


async def poll(person: Person, room_id: RoomId, begins: str) -> Seen:
    """Wait for the bot's poll that asks this."""
    return await person.wait_for_message(
        room_id, lambda seen: seen.type == POLL and words(seen).startswith(begins)
    )


async def ask(person: Person, room_id: RoomId, bot: Bot) -> tuple[EventId, Seen]:
    """Let something be answered, and return the prompt and the poll about it."""
    mentioned = bot.user_id if (room_id, "m.room.name", "") in person.observed.state else None
    prompt = await person.write(room_id, "Quel temps fait-il ?", mentioning=mentioned)
    return prompt, await poll(person, room_id, "")


def rows(bot: Bot, query: str, *values: str) -> Sequence[Any]:
    with closing(sqlite3.connect(bot.directory / "data" / "ledger.db")) as ledger:
        return ledger.execute(query, values).fetchall()


def rating(bot: Bot, prompt: EventId) -> list[tuple[Any, ...]]:
    """Return what counts of a reply, as the ledger has it."""
    return [
        *rows(
            bot,
            "SELECT answer, reason, source, asker FROM ratings WHERE prompt_event_id = ?",
            prompt,
        )
    ]


async def test_a_person_votes_is_asked_why_and_thanked(person: Person, curious: Bot) -> None:
    room_id = await talk(person, curious.user_id)
    prompt, helped = await ask(person, room_id, curious)
    assert words(helped) == HELPED

    await person.vote(room_id, helped.event_id, "partly")
    why = await poll(person, room_id, TEXTS("poll why"))
    await person.vote(room_id, why.event_id, "sources", stable=True)
    await notice(person, room_id, "thanks")

    assert rating(curious, prompt) == [("partly", "sources", "poll", 1)]
    [(domain, direct, model, seconds)] = rows(
        curious,
        "SELECT domain, direct, model, seconds FROM ratings WHERE prompt_event_id = ?",
        prompt,
    )
    assert (domain, direct, model) == (person.user_id.partition(":")[2], 1, "scripted")
    assert seconds > 0


async def test_the_ledger_counts_what_element_shows(jason: JsPerson, curious: Bot) -> None:
    room_id = await talk(jason, curious.user_id)
    prompt, helped = await ask(jason, room_id, curious)

    async def agree(expected: dict[str, int]) -> None:
        async def both() -> bool:
            counted = {answer: 1 for answer, *_ in rating(curious, prompt)}
            return await jason.tally(room_id, helped.event_id) == counted == expected

        await until(both)

    await jason.vote(room_id, helped.event_id, "yes")
    await agree({"yes": 1})
    await jason.vote(room_id, helped.event_id, "yes", "no")
    await agree({"yes": 1})
    await jason.vote(room_id, helped.event_id)
    await agree({})
    await jason.vote(room_id, helped.event_id, "yes")
    await agree({"yes": 1})
    await jason.vote(room_id, helped.event_id, "maybe")
    await agree({})


async def test_a_vote_that_is_cast_while_the_bot_is_down_counts(nia: Person, curious: Bot) -> None:
    room_id = await talk(nia, curious.user_id)
    prompt, helped = await ask(nia, room_id, curious)

    await curious.stop()
    await nia.vote(room_id, helped.event_id, "yes")
    await curious.start()

    await notice(nia, room_id, "thanks")
    assert rating(curious, prompt) == [("yes", None, "poll", 1)]


@pytest.mark.parametrize("site", ["poll.before", "poll.after", "asked.within", "asked.after"])
async def test_a_bot_that_is_killed_as_it_asks_asks_once(
    nia: Person, curious: Bot, site: str
) -> None:
    room_id = await talk(nia, curious.user_id)
    await curious.stop()
    await curious.start(BOT_FAIL=f"{site}:kill@1")
    prompt = await nia.write(room_id, "Quel temps fait-il ?")
    await until(lambda: not curious.runs)

    await curious.start()
    helped = await poll(nia, room_id, "")
    await nia.vote(room_id, helped.event_id, "yes")
    await notice(nia, room_id, "thanks")

    polls = [one for one in nia.messages(room_id) if one.type == POLL]
    assert [one.event_id for one in polls] == [helped.event_id]
    assert rating(curious, prompt) == [("yes", None, "poll", 1)]


async def test_in_a_salon_the_asker_alone_counts(
    nia: Person, jason: JsPerson, curious: Bot
) -> None:
    room_id = await meet(nia, curious.user_id, jason)
    prompt, helped = await ask(nia, room_id, curious)

    question = TEXTS("poll in salon", name="nia", question=TEXTS("poll helped"))
    assert words(helped).startswith(question)
    assert helped.content["m.mentions"] == {"user_ids": [nia.user_id]}
    assert helped.content["m.relates_to"]["event_id"] == prompt
    assert helped.content[POLL]["kind"] == "org.matrix.msc3381.poll.undisclosed"
    theirs = await jason.vote(room_id, helped.event_id, "no")
    await until(lambda: bool(rows(curious, "SELECT 1 FROM opinions WHERE event_id = ?", theirs)))
    await nia.vote(room_id, helped.event_id, "yes")
    await notice(nia, room_id, "thanks", prompt)

    assert rating(curious, prompt) == [("yes", None, "poll", 1)]
    assert len([one for one in nia.messages(room_id) if one.type == POLL]) == 1


async def test_a_poll_in_a_salon_is_told_of_to_whom_it_asks_alone(
    jason: JsPerson, nia: Person, curious: Bot
) -> None:
    salon, direct = await meet(jason, curious.user_id), await talk(jason, curious.user_id)
    _, mentions = await ask(jason, salon, curious)
    _, plain = await ask(jason, direct, curious)
    shared = await meet(nia, curious.user_id, jason)
    _, of_another = await ask(nia, shared, curious)
    await jason.wait_for_message(shared, lambda seen: seen.event_id == of_another.event_id)

    assert (await jason.notifies(salon, mentions.event_id))["notify"]
    assert not (await jason.notifies(direct, plain.event_id))["notify"]
    assert not (await jason.notifies(shared, of_another.event_id))["highlight"]


async def test_a_salon_is_asked_by_thumbs_that_its_welcome_names_once(
    nia: Person, assistant: Bot
) -> None:
    room_id = await meet(nia, assistant.user_id)
    prompt = await nia.write(room_id, "Que dit la météo", mentioning=assistant.user_id)
    reply = await begun(nia, room_id, prompt)

    await nia.react(room_id, reply.event_id, "👍")
    await until(lambda: rating(assistant, prompt) == [("yes", None, "reaction", 1)])

    thumbs = [seen for seen in spoken(nia, room_id, assistant.user_id) if "👍" in seen.body]
    assert [seen.body for seen in thumbs] == [said("welcome salon")]
    assert rows(assistant, "SELECT 1 FROM polls WHERE room_id = ?", room_id) == []


async def test_thumbs_count_while_they_stand(nia: Person, curious: Bot) -> None:
    room_id = await talk(nia, curious.user_id)
    prompt, _ = await ask(nia, room_id, curious)
    reply = await begun(nia, room_id, prompt)

    up = await nia.react(room_id, reply.event_id, "👍🏽")
    await until(lambda: rating(curious, prompt) == [("yes", None, "reaction", 1)])
    down = await nia.react(room_id, reply.event_id, "👎\ufe0f")
    await until(lambda: rating(curious, prompt) == [("no", None, "reaction", 1)])
    await nia.redact(room_id, down)
    await until(lambda: rating(curious, prompt) == [("yes", None, "reaction", 1)])
    await nia.redact(room_id, up)
    await until(lambda: rating(curious, prompt) == [])


async def test_a_reply_to_a_poll_is_kept_sealed_and_gone_once_it_is_redacted(
    nia: Person, curious: Bot
) -> None:
    room_id = await talk(nia, curious.user_id)
    prompt, helped = await ask(nia, room_id, curious)

    said = await nia.write(room_id, "Réponse trop longue, merci", replying_to=helped.event_id)
    await notice(nia, room_id, "feedback kept", said)
    [(about, sealed)] = rows(
        curious, "SELECT prompt_event_id, comment FROM comments WHERE event_id = ?", said
    )
    assert about == prompt
    assert b"longue" not in sealed
    await nia.redact(room_id, said)

    await until(lambda: not rows(curious, "SELECT 1 FROM comments WHERE event_id = ?", said))


async def test_where_the_last_prompt_got_no_answer_sharing_says_so_and_stores_nothing(
    person: Person, curious: Bot, model: ScriptedModel
) -> None:
    room_id = await talk(person, curious.user_id)
    none = await person.write(room_id, "!avis partager oui")
    await notice(person, room_id, "nothing to share", none)
    answered = await person.write(room_id, "Quel temps fait-il ?")
    shareable = await begun(person, room_id, answered)
    model.when("Et demain", ScriptedAnswer(mode="verbatim", status=403, body=b"{}"))
    refused = await person.write(room_id, "Et demain ?")
    await notice(person, room_id, "model refused", refused)

    for typed in ("!avis partager", "!avis partager oui"):
        asked = await person.write(room_id, typed)
        await notice(person, room_id, "nothing to share", asked)
    assert shared(curious, room_id) == []

    handed = await person.write(room_id, "!avis partager oui", replying_to=shareable.event_id)
    await notice(person, room_id, "shared", handed)
    assert shared(curious, room_id) == [(handed, answered)]


def shared(bot: Bot, room_id: RoomId) -> Sequence[Any]:
    """Return what was handed over in a room, or kept of a reply there as a comment."""
    in_room = "IN (SELECT event_id FROM inbox WHERE room_id = ?)"
    kept = "SELECT event_id, prompt_event_id FROM"
    query = (
        f"{kept} shared WHERE event_id {in_room} UNION {kept} comments WHERE event_id {in_room}"
    )
    return rows(bot, query, room_id, room_id)


async def test_who_refuses_polls_gets_none(nia: Person, curious: Bot) -> None:
    room_id = await talk(nia, curious.user_id)
    refused = await nia.write(room_id, "!sondages non")
    await notice(nia, room_id, "polls off here", refused)
    prompt = await nia.write(room_id, "Quel temps fait-il ?")
    await begun(nia, room_id, prompt)
    word = await nia.write(room_id, "!avis en partie")
    await notice(nia, room_id, "thanks", word)
    assert rating(curious, prompt) == [("partly", None, "reaction", 1)]

    wanted = await nia.write(room_id, "!sondages oui")
    await notice(nia, room_id, "polls on here", wanted)
    await ask(nia, room_id, curious)
    polls = [one for one in nia.messages(room_id) if one.type == POLL]
    assert len(polls) == 1

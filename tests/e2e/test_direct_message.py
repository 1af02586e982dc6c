"""Encrypted direct messages with the running bot, from the person's side of the screen."""

import asyncio
import os
import signal

import pytest

from bot.core.events import RoomId
from bot.core.markdown import UNFINISHED, render
from bot.matrix.parse import MARKER
from tests.harness.bot import Bot
from tests.harness.client_view import Seen
from tests.harness.expectations import begun, notice, related, replies_to, reply, said, talk, until
from tests.harness.js_person import JsPerson
from tests.harness.model import CUT_UTF8, ScriptedAnswer, ScriptedModel
from tests.harness.person import Person
from tests.harness.synapse import Synapse

pytestmark = pytest.mark.asyncio(loop_scope="session")

SKY = (
    "The sky is **blue**. Sunlight meets the air, and its short waves scatter most. "
    + "So blue comes from everywhere. " * 20
    + "That is all."
)


@pytest.mark.both_clients
async def test_the_first_prompt_sent_with_the_invitation_is_answered_after_the_welcome(
    person: Person, bot: Bot, model: ScriptedModel
) -> None:
    prompt = f"Hello from {person.user_id}"
    room_id = await person.open_direct_message(bot.user_id, first_prompt=prompt)
    welcome = await notice(person, room_id, "welcome")
    answer = await person.wait_for_message(room_id, lambda seen: MARKER in seen.content)

    order = [seen.event_id for seen in person.messages(room_id) if seen.sender == bot.user_id]
    assert order == [welcome.event_id, answer.event_id]
    assert answer.body == f"You said: {prompt}."
    assert welcome.content["msgtype"] == "m.notice"
    assert len(welcome.body.splitlines()) <= 6
    assert [one.prompt for one in model.exchanges].count(prompt) == 1


async def test_a_reply_grows_before_the_persons_eyes_and_ends_whole(
    person: Person, bot: Bot, model: ScriptedModel
) -> None:
    room_id = await talk(person, bot.user_id)
    model.when("why is the sky blue", ScriptedAnswer(text=SKY, tokens_per_second=40))

    prompt = await person.send(room_id, "Tell me why is the sky blue")
    answer = await reply(person, room_id, prompt, SKY)

    bodies = [str(version.content["body"]) for version in answer.versions]
    final = render(SKY).body
    assert len(bodies) >= 2
    assert all(final.startswith(body.removesuffix(UNFINISHED)) for body in bodies)
    assert [body.endswith(UNFINISHED) for body in bodies] == [True] * (len(bodies) - 1) + [False]
    assert bodies == sorted(bodies, key=len)
    assert answer.failure is None
    assert answer.content["msgtype"] == "m.text"
    assert answer.content["formatted_body"] == render(SKY).formatted_body
    assert answer.content["m.mentions"] == {}
    expected = {"model": "scripted", "prompt": prompt, "added": [], "claim": 1, "final": True}
    assert answer.content[MARKER] == expected
    first = answer.versions[0].content
    assert "m.relates_to" not in first


async def test_the_bot_types_from_the_prompt_until_its_reply_is_whole(
    jason: JsPerson, bot: Bot, model: ScriptedModel
) -> None:
    room_id = await talk(jason, bot.user_id)
    thought, written = asyncio.Event(), asyncio.Event()
    model.when("think first", ScriptedAnswer(text=SKY, gate=thought))
    model.when(
        "write slowly", ScriptedAnswer(text=SKY, gate=written, after=80, tokens_per_second=40)
    )
    typing = jason.observed.typing[room_id, bot.user_id]

    prompt = await jason.send(room_id, "Please think first")
    await until(lambda: typing == [True])
    thought.set()
    await reply(jason, room_id, prompt, SKY)
    await until(lambda: typing == [True, False])

    prompt = await jason.send(room_id, "Please write slowly")
    await begun(jason, room_id, prompt, lambda seen: len(seen.versions) > 1)
    assert typing == [
        True,
        False,
        True,
    ]  # had the first version ended it, that would have been told before the second
    written.set()
    await reply(jason, room_id, prompt, SKY)
    await until(lambda: typing == [True, False, True, False])


async def test_a_follow_up_is_asked_together_with_the_turns_before_it(
    person: Person, bot: Bot, model: ScriptedModel
) -> None:
    room_id = await talk(person, bot.user_id)
    first = await person.send(room_id, "My name is Ada")
    await reply(person, room_id, first, "You said: My name is Ada.")

    second = await person.send(room_id, "Who am I?")
    await reply(person, room_id, second, "You said: Who am I?. Before that: My name is Ada.")

    turns = model.exchanges[-1].body["messages"]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[2]["content"] == "You said: My name is Ada."


async def test_what_the_bot_cannot_read_is_said(person: Person, bot: Bot) -> None:
    room_id = await talk(person, bot.user_id)

    content = {"msgtype": "m.image", "body": "photo.png", "url": "mxc://stand.test/x"}
    picture = await person.send_event(room_id, "m.room.message", content)
    explained = await notice(person, room_id, "unreadable message")

    assert related(explained) == {picture}


async def test_the_help_that_the_welcome_names_is_there(person: Person, bot: Bot) -> None:
    room_id = await talk(person, bot.user_id)

    await person.send(room_id, "!aide")

    assert (await notice(person, room_id, "help")).content["msgtype"] == "m.notice"


async def test_twenty_conversations_at_once_each_get_their_own_whole_reply(
    nia: Person, bot: Bot, model: ScriptedModel
) -> None:
    rooms = [await nia.open_direct_message(bot.user_id) for _ in range(20)]
    for room_id in rooms:
        await notice(nia, room_id, "welcome")
    texts = {f"question {number:02}": f"Answer {number}. {SKY}" for number in range(20)}
    for question, text in texts.items():
        model.when(question, ScriptedAnswer(text=text, tokens_per_second=40))

    async def ask(room_id: RoomId, question: str) -> Seen:
        prompt = await nia.send(room_id, question)
        return await reply(nia, room_id, prompt, texts[question])

    async with asyncio.TaskGroup() as tasks:
        asked = [
            tasks.create_task(ask(room_id, question))
            for room_id, question in zip(rooms, texts, strict=True)
        ]

    assert all(len(one.result().versions) >= 2 for one in asked)


@pytest.mark.parametrize(
    ("fault", "key"),
    [
        (ScriptedAnswer(mode="verbatim", status=503, body=b"{}"), "model busy"),
        (ScriptedAnswer(mode="verbatim", status=500, body=b"oops"), "model failed"),
        (ScriptedAnswer(mode="verbatim", status=401, body=b"{}"), "model refused"),
        (ScriptedAnswer(mode="stall"), "model timeout"),
    ],
)
async def test_a_model_that_fails_before_its_first_word_is_one_notice(
    nia: Person, bot: Bot, model: ScriptedModel, fault: ScriptedAnswer, key: str
) -> None:
    room_id = await talk(nia, bot.user_id)
    model.when("will it work", fault)

    prompt = await nia.send(room_id, "will it work")
    told = await notice(nia, room_id, key)

    assert related(told) == {prompt}
    assert replies_to(nia, room_id, prompt) == []


async def test_a_quota_that_stays_used_up_is_one_notice_until_it_is_there_again(
    nia: Person, bot: Bot, model: ScriptedModel
) -> None:
    room_id = await talk(nia, bot.user_id)
    later = {"Retry-After": "1"}
    limited = ScriptedAnswer(
        mode="verbatim", status=429, headers=later, body=b'{"detail": "10 requests"}'
    )
    model.when("how many left", limited)

    prompt = await nia.send(room_id, "how many left")
    await notice(nia, room_id, "model limited", to=prompt)
    model.when("how many left", ScriptedAnswer(text="Seven."))
    again = await nia.send(room_id, "how many left now")
    await reply(nia, room_id, again, "Seven.")

    assert replies_to(nia, room_id, prompt) == []


@pytest.mark.parametrize(
    ("fault", "key"),
    [
        (ScriptedAnswer(text=SKY, mode="reset", after=12), "model truncated"),
        (ScriptedAnswer(text=SKY, mode="close", after=12), "model truncated"),
        (ScriptedAnswer(text=SKY, mode="end", after=12, tail=CUT_UTF8), "model truncated"),
        (ScriptedAnswer(text=SKY, mode="stall", after=12), "model stalled"),
        (ScriptedAnswer(text=SKY, finish_reason="length"), "cut by length"),
    ],
)
async def test_a_reply_that_breaks_off_keeps_its_words_and_says_so(
    person: Person, bot: Bot, model: ScriptedModel, fault: ScriptedAnswer, key: str
) -> None:
    room_id = await talk(person, bot.user_id)
    model.when("will it last", fault)

    prompt = await person.send(room_id, "will it last")
    remark = said(key)
    broken = await person.wait_for_message(room_id, lambda seen: seen.body.endswith(remark))

    assert [broken] == replies_to(person, room_id, prompt)
    assert broken.body.startswith("The sky is blue.")
    assert broken.content[MARKER]["added"] == [remark]
    model.when("will it last", ScriptedAnswer())
    again = await person.send(room_id, "was it whole")
    await begun(person, room_id, again)
    turns = model.exchanges[-1].body["messages"]
    assert turns[-1]["content"] == "was it whole"
    assert not any(remark in turn["content"] for turn in turns)


async def test_a_homeserver_that_restarts_during_a_reply_loses_nothing(
    person: Person, bot: Bot, model: ScriptedModel, synapse: Synapse
) -> None:
    room_id = await talk(person, bot.user_id)
    model.when("stay with me", ScriptedAnswer(text=SKY, tokens_per_second=25))

    prompt = await person.send(room_id, "stay with me")
    await person.wait_for_message(room_id, lambda seen: MARKER in seen.content)
    refused = bot.said("edit refused")
    await synapse.stop()
    async with asyncio.timeout(10):
        while bot.said("edit refused") == refused:  # noqa: ASYNC110  # the log is a file
            await asyncio.sleep(0.05)
    await synapse.start()

    await reply(person, room_id, prompt, SKY)


async def test_a_bot_that_restarts_between_two_messages_remembers_the_first(
    person: Person, bot: Bot
) -> None:
    room_id = await talk(person, bot.user_id)
    first = await person.send(room_id, "I come from Brest")
    await reply(person, room_id, first, "You said: I come from Brest.")

    await bot.stop()
    second = await person.send(room_id, "Where do I come from?")
    await bot.start()

    text = "You said: Where do I come from?. Before that: I come from Brest."
    await reply(person, room_id, second, text)


@pytest.mark.parametrize("killed", [False, True])
async def test_a_bot_that_ends_in_the_middle_goes_on_in_the_same_message(
    nia: Person, bot: Bot, model: ScriptedModel, *, killed: bool
) -> None:
    room_id = await talk(nia, bot.user_id)
    model.when("stop and go", ScriptedAnswer(text=SKY, after=15, gate=asyncio.Event()))
    prompt = await nia.send(room_id, "stop and go")
    cut = await begun(nia, room_id, prompt)

    if killed:
        await bot.kill()
    else:
        assert bot.pid
        stopping = bot.said("stopping")
        os.kill(bot.pid, signal.SIGTERM)
        await until(lambda: bot.said("stopping") > stopping)
        assert await bot.stop() == 0  # a second signal: it does not wait for the reply
    model.when("stop and go", ScriptedAnswer(text=SKY))
    await bot.start()

    assert (await reply(nia, room_id, prompt, SKY)).event_id == cut.event_id


async def test_a_bot_that_is_stopped_lets_a_reply_come_to_its_end(
    nia: Person, bot: Bot, model: ScriptedModel
) -> None:
    room_id, gate = await talk(nia, bot.user_id), asyncio.Event()
    model.when("stop and end", ScriptedAnswer(text=SKY, after=15, gate=gate))
    prompt = await nia.send(room_id, "stop and end")
    cut = await begun(nia, room_id, prompt)

    stopping = bot.said("stopping")
    stopped = asyncio.get_running_loop().create_task(bot.stop())
    await until(lambda: bot.said("stopping") > stopping)
    waiting = await nia.send(room_id, "And then?")
    gate.set()

    assert await stopped == 0
    assert (await reply(nia, room_id, prompt, SKY)).event_id == cut.event_id
    assert not any("And then?" in one.prompt for one in model.exchanges)
    await bot.start()
    await begun(nia, room_id, waiting)


async def test_the_bot_leaves_a_room_in_which_it_is_alone(
    nia: Person, bot: Bot, synapse: Synapse
) -> None:
    room_id = await talk(nia, bot.user_id)

    await nia.leave(room_id)

    async with asyncio.timeout(10):
        while bot.user_id in await synapse.members(room_id):  # noqa: ASYNC110  # it tells on asking
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"msgtype": 7, "body": "x"},
        {"msgtype": "m.text", "body": None},
        {"msgtype": "m.text", "body": "x", "m.relates_to": "nothing"},
        {"msgtype": "m.text", "body": "x", "m.relates_to": {"rel_type": "m.replace"}},
    ],
)
async def test_a_malformed_message_stops_nothing(
    nia: Person, bot: Bot, content: dict[str, object]
) -> None:
    room_id = await talk(nia, bot.user_id)
    await nia.send_event(room_id, "m.room.message", content)

    prompt = await nia.send(room_id, "Still there?")

    await begun(nia, room_id, prompt, lambda seen: "Still there?." in seen.body)


async def test_no_word_of_a_conversation_is_in_the_log_or_in_the_files(
    nia: Person, bot: Bot, model: ScriptedModel
) -> None:
    model.when(
        "canari-1789", ScriptedAnswer(text="Réponse canari-1848. " * 9, mode="reset", after=8)
    )
    room_id = await talk(nia, bot.user_id)

    await nia.send(room_id, "canari-1789")
    remark = said("model truncated")
    await nia.wait_for_message(room_id, lambda seen: seen.body.endswith(remark))
    quoting = b'{"error": {"message": "not safe: canari-1789", "type": "canari 1789"}}'
    model.when("canari-1789", ScriptedAnswer(mode="verbatim", status=400, body=quoting))
    await nia.send(room_id, "canari-1789 again")
    await notice(nia, room_id, "model refused")

    files = [path for path in bot.directory.rglob("*") if path.is_file()]
    assert {"bot.log", "ledger.db", "crypto.db"} <= {path.name for path in files}
    assert not [path.name for path in files if b"canari" in path.read_bytes()]

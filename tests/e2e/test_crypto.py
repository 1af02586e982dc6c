"""What every client that encrypts is held to: nothing lost, nothing read by the wrong one."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from bot.core.events import EventId, RoomId, UserId
from bot.core.markdown import render
from bot.i18n.texts import Texts
from bot.matrix.parse import MARKER
from tests.harness.bot import Bot, Launch
from tests.harness.client_view import JSON, Seen
from tests.harness.expectations import answers, begun, related, replies_to, said, until
from tests.harness.fault_proxy import Deed, FaultProxy
from tests.harness.fork import TIMINGS
from tests.harness.js_person import JsPerson
from tests.harness.model import ScriptedAnswer, ScriptedModel
from tests.harness.nio_person import NioPerson
from tests.harness.person import Person, Refused
from tests.harness.synapse import Synapse

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.both_clients]

TEXTS = Texts("fr")
MEGOLM: JSON = {"algorithm": "m.megolm.v1.aes-sha2"}
SHARE = ("PUT", "/sendToDevice/m.room.encrypted/")
UPLOAD = ("POST", "/keys/upload$")
ONE_TIME_KEYS = 50
WINDOW = 50  # events of a room's timeline that the bot asks for in one sync


def make_bot(
    directory: Path, user_id: UserId, homeserver: str, model: ScriptedModel, launch: Launch
) -> Bot:
    return Bot(
        directory,
        user_id,
        launch,
        matrix={"homeserver": homeserver, "user_id": user_id, "password": "secret"},
        model={"base_url": model.url, "name": "scripted"},
        log={"level": "debug"},
    )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def fault_proxy(synapse: Synapse) -> AsyncIterator[FaultProxy]:
    """What stands between this file's bot and the homeserver."""
    async with FaultProxy(synapse.url) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def patient(
    synapse: Synapse,
    fault_proxy: FaultProxy,
    model: ScriptedModel,
    launch: Launch,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Bot]:
    user_id = await synapse.register("patient-assistant", "secret")
    directory = tmp_path_factory.mktemp("patient")
    async with make_bot(directory, user_id, fault_proxy.url, model, launch) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def bot(patient: Bot) -> Bot:
    """The bot of this file, which runs whatever became of the story before."""
    if patient.pid is None:
        await patient.start()
    return patient


@pytest_asyncio.fixture(loop_scope="session")
async def impatient(bot: Bot) -> AsyncIterator[Bot]:
    """The bot of this file, which tells of a missing key after two seconds."""
    await bot.stop()
    await bot.start(**{TIMINGS: json.dumps({"key_notice": 2.0})})
    yield bot
    await bot.restart()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def distance(synapse: Synapse) -> AsyncIterator[FaultProxy]:
    """What stands between Desmond and the homeserver."""
    async with FaultProxy(synapse.url) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def desmond(synapse: Synapse, distance: FaultProxy) -> AsyncIterator[Person]:
    user_id = await synapse.register("desmond", "secret")
    async with JsPerson(distance.url, user_id, "secret") as person:
        yield person


async def answered(
    person: Person, room_id: RoomId, text: str, prompt: EventId | None = None
) -> Seen:
    """Wait until the prompt that says `text` has its reply, its only one; send it if need be.

    What is sent in a row may have one reply together.
    """
    event_id = prompt or await person.send(room_id, text)
    await begun(
        person,
        room_id,
        event_id,
        lambda seen: text in seen.body.partition("Before that")[0],
        within=30,
    )
    [only] = replies_to(person, room_id, event_id)
    return only


async def talk(person: Person, bot: Bot, *, encryption: JSON = MEGOLM) -> RoomId:
    """Open an encrypted direct message with the bot, and wait for its welcome."""
    room_id = await person.open_direct_message(bot.user_id, encrypted=encryption)
    await person.wait_for_message(room_id, lambda seen: seen.body == said("welcome"))
    return room_id


def notices(person: Person, room_id: RoomId, about: EventId) -> list[Seen]:
    """Return the notices that relate to the event."""
    return [
        seen
        for seen in person.messages(room_id)
        if seen.content.get("msgtype") == "m.notice" and about in related(seen)
    ]


def device_ids(bot: Bot) -> list[str]:
    """Return the device of each of the bot's starts."""
    lines = map(json.loads, bot.log.read_text().splitlines())
    return [line["device_id"] for line in lines if line["event"] == "started"]


async def wire(person: Person, room_id: RoomId, sender: UserId) -> list[JSON]:
    """Return what somebody has sent into the room, as the homeserver has it, oldest first."""
    events = await person.timeline(room_id)
    return [event for event in events if event["sender"] == sender and "state_key" not in event]


async def sessions(person: Person, room_id: RoomId, sender: UserId) -> list[str]:
    """Return the Megolm session of each event that somebody has sent into the room."""
    sent = await wire(person, room_id, sender)
    return [event["content"]["session_id"] for event in sent]


async def sealed(person: Person, room_id: RoomId, event_id: EventId) -> JSON:
    """Return an event's content as the homeserver has it."""
    events = await person.timeline(room_id)
    [content] = [event["content"] for event in events if event["event_id"] == event_id]
    assert content["ciphertext"]
    return dict(content)


def devices(requests: list[JSON]) -> set[tuple[str, str]]:
    """Return the user and device of each addressee of to-device messages."""
    return {
        (user_id, device_id)
        for request in requests
        for user_id, messages in request["messages"].items()
        for device_id in messages
    }


async def claim(person: Person, bot: Bot) -> JSON:
    """Claim one key of the bot's device; return it as `{key id: key}`, {} where none is left."""
    device_id = device_ids(bot)[-1]
    wanted = {bot.user_id: {device_id: "signed_curve25519"}}
    answer = await person._call("POST", "/keys/claim", {"one_time_keys": wanted})
    keys: JSON = answer["one_time_keys"].get(bot.user_id, {}).get(device_id, {})
    return keys


async def exhaust(person: Person, bot: Bot) -> tuple[int, str]:
    """Claim until the fallback key comes; return how many came before, and its id, "" for none."""
    count = 0
    while True:
        keys = await claim(person, bot)
        if any(key.get("fallback") for key in keys.values()) or not keys:
            return count, next(iter(keys), "")
        count += 1


async def test_a_crash_before_the_answer_to_the_first_key_upload_leaves_a_device_to_talk_to(
    synapse: Synapse, model: ScriptedModel, launch: Launch, jason: Person, tmp_path: Path
) -> None:
    user_id = await synapse.register("crashing-assistant", "secret")
    async with FaultProxy(synapse.url) as between:
        with between.rule(*UPLOAD, "withhold") as first:
            bot = make_bot(tmp_path, user_id, between.url, model, launch)
            await bot.begin()
            await first.met()
            await bot.kill()
        with between.rule(*UPLOAD, "count") as later:
            async with bot:
                room_id = await talk(jason, bot)
                await answered(jason, room_id, "Did you survive it")

    assert first.statuses == [200]
    assert "device_keys" in first.requests[0]
    assert set(later.statuses) == {200}
    [after] = device_ids(bot)
    assert first.requests[0]["device_keys"]["device_id"] == after


@pytest.mark.parametrize("end", ["stopped", "killed", "killed before it reads the sync"])
async def test_a_room_key_that_comes_while_the_bot_is_away_is_not_lost(
    jason: Person, bot: Bot, fault_proxy: FaultProxy, end: str
) -> None:
    room_id = await talk(jason, bot)
    prompt: EventId | None = None

    if end == "killed before it reads the sync":
        with fault_proxy.rule("GET", "/sync$", "withhold") as syncs:
            prompt = await jason.send(room_id, "Were you away")
            await syncs.met()
            await bot.kill()
    elif end == "killed":
        await bot.kill()
    else:
        await bot.stop()
    prompt = prompt or await jason.send(room_id, "Were you away")
    await bot.start()

    await answered(jason, room_id, "Were you away", prompt)


async def test_keys_and_messages_of_many_sessions_are_taken_in_in_their_order(
    jason: Person, nia: Person, bot: Bot
) -> None:
    own_key_each = {**MEGOLM, "rotation_period_msgs": 1}
    rooms = [
        (jason, await talk(jason, bot, encryption=own_key_each)),
        (jason, await talk(jason, bot)),
        (nia, await talk(nia, bot)),
    ]
    await bot.stop()
    prompts = [
        (person, room_id, text, await person.send(room_id, text))
        for text in ("First of three", "Second of three", "Third of three")
        for person, room_id in rooms
    ]
    await bot.start()

    for person, room_id, text, prompt in prompts:
        await answered(person, room_id, text, prompt)

    assert len(set(await sessions(jason, rooms[0][1], jason.user_id))) == 3
    for person, room_id in rooms:
        order = [event_id for _, room, _, event_id in prompts if room == room_id]
        found = [event_id for seen in person.messages(room_id) for event_id in answers(seen)]
        assert found == order


@pytest.mark.parametrize("fault", ["answer", "cut"])
async def test_a_key_request_that_fails_is_made_again_and_the_reply_can_be_read(
    synapse: Synapse, nia: Person, bot: Bot, fault_proxy: FaultProxy, fault: Deed
) -> None:
    user_id = await synapse.register(f"newcomer-{fault}", "secret")
    async with JsPerson(synapse.url, user_id, "secret") as newcomer:
        with (
            fault_proxy.rule("POST", "/keys/query$", fault, times=1) as query,
            fault_proxy.rule("POST", "/keys/claim$", fault, times=1) as claimed,
            fault_proxy.rule(*UPLOAD, fault, times=1) as upload,
            fault_proxy.rule(*UPLOAD, "count") as uploaded,
            fault_proxy.rule(*SHARE, fault, times=1) as share,
        ):
            assert await claim(nia, bot)  # so that there is one to upload
            room_id = await newcomer.open_direct_message(bot.user_id)
            await newcomer.wait_for_message(
                room_id, lambda seen: seen.body == said("welcome"), within=30
            )
            await answered(newcomer, room_id, "Can this be read")
            if fault == "answer":  # what was cut had reached the homeserver
                await uploaded.met()

    assert [len(rule.requests) for rule in (query, claimed, upload, share)] == [1, 1, 1, 1]
    assert not [seen for seen in newcomer.messages(room_id) if seen.failure]


async def test_a_device_that_gets_only_the_fallback_key_is_answered_and_all_keys_are_renewed(
    synapse: Synapse, nia: Person, bot: Bot, fault_proxy: FaultProxy
) -> None:
    await talk(nia, bot)  # its first keys are uploaded
    await bot.stop()
    _, fallback = await exhaust(nia, bot)
    assert fallback

    user_id = await synapse.register("latecomer", "secret")
    async with JsPerson(synapse.url, user_id, "secret") as latecomer:
        room_id = await latecomer.open_direct_message(
            bot.user_id, first_prompt="Is there a key left"
        )
        with fault_proxy.rule(*UPLOAD, "count") as uploads:
            await bot.start()
            await uploads.met()
        [prompt] = [
            seen.event_id
            for seen in latecomer.messages(room_id)
            if seen.body == "Is there a key left"
        ]
        await answered(latecomer, room_id, "Is there a key left", prompt)

    count, fresh = await exhaust(nia, bot)
    assert count == ONE_TIME_KEYS
    assert fresh not in {"", fallback}


async def test_the_bots_key_is_replaced_after_as_many_messages_as_the_room_says(
    jason: Person, bot: Bot
) -> None:
    room_id = await talk(jason, bot, encryption={**MEGOLM, "rotation_period_msgs": 3})

    for text in ("How are you", "And how is he", "And how is she"):
        await answered(jason, room_id, text)

    used = Counter(await sessions(jason, room_id, bot.user_id))
    assert used.total() >= 4
    assert max(used.values()) <= 3


async def test_the_bots_key_is_replaced_after_a_member_has_left(
    jason: Person, nia: Person, bot: Bot, fault_proxy: FaultProxy
) -> None:
    room_id = await jason.open_direct_message(nia.user_id)
    await nia.join(room_id)
    with fault_proxy.rule(*SHARE, "count") as before:
        await jason.invite(room_id, bot.user_id)
        for person in (jason, nia):
            await person.wait_for_message(room_id, lambda seen: seen.body == said("welcome salon"))
    assert (nia.user_id, nia.device_id) in devices(before.requests)

    await nia.leave(room_id)
    with fault_proxy.rule(*SHARE, "count") as after:
        await answered(jason, room_id, "Is she gone")

    assert {user_id for user_id, _ in devices(after.requests)} == {jason.user_id}
    first, *others = await sessions(jason, room_id, bot.user_id)
    assert others
    assert first not in others


async def test_the_bots_key_is_replaced_after_a_members_device_has_logged_out(
    synapse: Synapse, bot: Bot, fault_proxy: FaultProxy, tmp_path: Path
) -> None:
    user_id = await synapse.register("paula", "secret")
    async with (
        JsPerson(synapse.url, user_id, "secret") as paula,
        NioPerson(synapse.url, user_id, "secret", tmp_path) as phone,
    ):
        with fault_proxy.rule(*SHARE, "count") as before:
            room_id = await talk(paula, bot)
            await phone.wait_for_message(room_id, lambda seen: seen.body == said("welcome"))
        both = {(user_id, paula.device_id), (user_id, phone.device_id)}
        assert both <= devices(before.requests)

        await phone.log_out()
        with fault_proxy.rule(*SHARE, "count") as after:
            await answered(paula, room_id, "Where is my phone")

        hers = {one for one in devices(after.requests) if one[0] == user_id}
        assert hers == {(user_id, paula.device_id)}
        first, *others = await sessions(paula, room_id, bot.user_id)
        assert others
        assert first not in others


async def test_what_one_person_has_encrypted_is_not_answered_under_the_name_of_another(
    desmond: Person, distance: FaultProxy, nia: Person, bot: Bot, model: ScriptedModel
) -> None:
    room_id = await desmond.open_direct_message(nia.user_id)
    await nia.join(room_id)
    await desmond.invite(room_id, bot.user_id)
    await desmond.wait_for_message(room_id, lambda seen: seen.body == said("welcome salon"))
    with (
        distance.rule("PUT", "/send/m.room.encrypted/", "answer", status=403) as stolen,
        pytest.raises(Refused),  # its key is with the bot all the same
    ):
        await desmond.send(room_id, "Only Desmond may ask this")
    await desmond.leave(room_id)

    spoofed = await nia.put_event(room_id, "m.room.encrypted", stolen.requests[0])
    await answered(nia, room_id, "Only Nia may ask that")

    assert replies_to(nia, room_id, spoofed) == []
    assert "Only Desmond may ask this" not in [one.prompt for one in model.exchanges]
    turns = [turn["content"] for turn in model.exchanges[-1].body["messages"]]
    assert turns[1:] == ["Only Nia may ask that"]


@pytest.mark.parametrize("restart", ["none", "before", "after"])
async def test_a_message_that_is_sent_again_is_not_answered_again(
    jason: Person, bot: Bot, model: ScriptedModel, restart: str
) -> None:
    once = f"Answer me once, restart or not: {restart}"
    room_id = await talk(jason, bot)
    prompt = await jason.send(room_id, once)
    await answered(jason, room_id, once, prompt)
    content = await sealed(jason, room_id, prompt)

    if restart == "before":
        await answered(jason, room_id, "Is that one done")  # its end is in the ledger by now
        await bot.restart()
    replayed = await jason.put_event(room_id, "m.room.encrypted", content)
    last = await answered(jason, room_id, "And now for something new")
    if restart == "after":
        await bot.restart()
        last = await answered(jason, room_id, "And what is new now")

    assert last.body.startswith("You said: And ")  # and nothing of a message that cannot be read
    assert replies_to(jason, room_id, replayed) == []
    assert [exchange.prompt for exchange in model.exchanges].count(once) == 1
    turns = [turn["content"] for turn in model.exchanges[-1].body["messages"]]
    assert turns.count(once) == 1


async def test_a_room_key_behind_hundreds_of_to_device_messages_is_found(
    jason: Person, bot: Bot
) -> None:
    room_id = await talk(jason, bot)
    await bot.stop()
    noise = {"messages": {bot.user_id: {device_ids(bot)[-1]: {"much": "ado"}}}}
    for number in range(250):
        await jason._call("PUT", f"/sendToDevice/test.noise/{room_id}-{number}", noise)
    prompt = await jason.send(room_id, "Do you find the key")
    unreadable = bot.said("undecryptable")
    await bot.start()

    await answered(jason, room_id, "Do you find the key", prompt)
    assert bot.said("undecryptable") == unreadable


async def test_a_late_key_is_waited_for(desmond: Person, distance: FaultProxy, bot: Bot) -> None:
    room_id, unreadable = await talk(desmond, bot), bot.said("undecryptable")
    with distance.rule(*SHARE, "postpone", times=1) as late:
        prompt = await desmond.send(room_id, "My key comes soon")
        await late.met()
        await until(lambda: bot.said("undecryptable") > unreadable)
        assert replies_to(desmond, room_id, prompt) == []
        late.release()
        await answered(desmond, room_id, "My key comes soon", prompt)

    assert notices(desmond, room_id, prompt) == []


async def test_a_missing_key_gets_one_notice_until_it_comes(
    desmond: Person, distance: FaultProxy, impatient: Bot
) -> None:
    room_id = await talk(desmond, impatient)
    with distance.rule(*SHARE, "postpone") as missing:
        prompt = await desmond.send(room_id, "My key comes last")
        await missing.met()
        await desmond.wait_for_message(
            room_id, lambda seen: seen in notices(desmond, room_id, prompt)
        )
        assert replies_to(desmond, room_id, prompt) == []
    await answered(desmond, room_id, "My key comes last", prompt)

    assert len(notices(desmond, room_id, prompt)) == 1


async def test_who_keeps_keys_from_unverified_devices_is_told_so(
    synapse: Synapse, impatient: Bot
) -> None:
    user_id = await synapse.register("careful", "secret")
    async with JsPerson(synapse.url, user_id, "secret") as careful:
        room_id = await talk(careful, impatient)
        await careful.exclude_unverified()
        prompt = await careful.send(room_id, "You cannot read this")
        await until(lambda: bool(reasons(impatient, prompt)))

    assert reasons(impatient, prompt) == ["key unverified"]


def reasons(bot: Bot, prompt: EventId) -> list[str]:
    """Return what the bot has told the person of the missing key, by the text's key."""
    lines = map(json.loads, bot.log.read_text().splitlines())
    return [
        line["reason"]
        for line in lines
        if line["event"] == "key missing" and line["event_id"] == prompt
    ]


async def test_of_a_whole_conversation_nothing_is_sent_in_clear(
    person: Person, bot: Bot, model: ScriptedModel
) -> None:
    model.when("in clear", ScriptedAnswer(text="Never in clear. " * 40, tokens_per_second=60))
    model.when("that fails", ScriptedAnswer(mode="verbatim", status=500, body=b"oops"))

    room_id = await talk(person, bot)
    prompt = await person.send(room_id, "Say nothing in clear")
    whole = render("Never in clear. " * 40).body
    reply = await person.wait_for_message(room_id, lambda seen: seen.body == whole)
    await person.send(room_id, "Now one that fails")
    await person.wait_for_message(room_id, lambda seen: seen.body == said("model failed"))
    await person.send(room_id, "!aide")
    await person.wait_for_message(room_id, lambda seen: seen.body == said("help"))

    assert [reply] == replies_to(person, room_id, prompt)
    sent = await wire(person, room_id, bot.user_id)
    assert len(sent) >= 3 + len(reply.versions)
    assert {event["type"] for event in sent} == {"m.room.encrypted"}
    assert not [event for event in sent if "body" in event["content"]]


@pytest.mark.parametrize(
    "encryption",
    [
        {},
        {"algorithm": 7},
        {"algorithm": "m.megolm.v9"},
        {**MEGOLM, "rotation_period_msgs": "few", "rotation_period_ms": None, "extra": [{}]},
    ],
)
async def test_a_room_whose_encryption_is_oddly_described_hears_nothing_in_clear(
    nia: Person, bot: Bot, encryption: JSON
) -> None:
    room_id = await nia.open_direct_message(bot.user_id, encrypted=encryption)
    await nia.wait_for_message(room_id, lambda seen: seen.sender == bot.user_id)
    prompt = {"msgtype": "m.text", "body": "!aide"}
    await nia.put_event(room_id, "m.room.message", prompt)
    await nia.observed.until(
        lambda: len([s for s in nia.messages(room_id) if s.sender == bot.user_id]) > 1 or None,
        within=20,
        missing=lambda: f"no second message among {nia.messages(room_id)}",
    )

    sent = await wire(nia, room_id, bot.user_id)
    assert {event["type"] for event in sent} == {"m.room.encrypted"}


async def test_a_reply_in_clear_goes_on_encrypted_once_the_room_has_become_so(
    jason: Person, bot: Bot, model: ScriptedModel
) -> None:
    gate, text = asyncio.Event(), "One half of it. " * 20
    model.when("by halves", ScriptedAnswer(text=text, after=20, gate=gate))
    elsewhere = await talk(jason, bot)
    room_id = await jason.open_direct_message(bot.user_id, encrypted=False)
    await jason.wait_for_message(room_id, lambda seen: seen.body == said("welcome"))
    await jason.send(room_id, "Say it by halves")
    await jason.wait_for_message(room_id, lambda seen: MARKER in seen.content)

    await jason._call("PUT", f"/rooms/{room_id}/state/m.room.encryption", MEGOLM)
    await answered(jason, elsewhere, "Have you heard")  # in a sync that is no older
    gate.set()
    await jason.wait_for_message(room_id, lambda seen: seen.body == render(text).body)

    kinds = [
        event["type"]
        for event in await jason.timeline(room_id)
        if event["sender"] == bot.user_id or event["type"] == "m.room.encryption"
    ]
    change = kinds.index("m.room.encryption")
    assert "m.room.message" in kinds[:change]
    assert set(kinds[change + 1 :]) == {"m.room.encrypted"}


@pytest.mark.parametrize(("version", "colons"), [("10", 1), ("12", 0)])
async def test_rooms_with_and_without_a_server_in_their_ids_are_rooms_alike(
    person: Person, bot: Bot, version: str, colons: int
) -> None:
    room_id = await person.open_direct_message(bot.user_id, version=version)
    assert room_id.count(":") == colons
    await person.wait_for_message(room_id, lambda seen: seen.body == said("welcome"))

    await answered(person, room_id, "Which version is it")


async def test_prompts_that_fall_out_of_the_timeline_are_answered_once_and_in_order(
    jason: Person, bot: Bot
) -> None:
    room_id = await talk(jason, bot)
    await bot.stop()
    prompts: dict[str, EventId] = {}
    for number in range(WINDOW + 30):
        if number in {0, 10, 20, 75}:
            text = f"Prompt at place {number}"
            prompts[text] = await jason.send(room_id, text)
        else:
            await jason.send(room_id, f"Remark at place {number}", msgtype="m.notice")
    await bot.start()

    for text, prompt in prompts.items():
        await answered(jason, room_id, text, prompt)

    order = [event_id for seen in jason.messages(room_id) for event_id in answers(seen)]
    assert order == list(prompts.values())

"""What people see while the model's backend is away, refuses, has no quota left, or breaks off."""

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Literal

import pytest
import pytest_asyncio

from bot.core.events import EventId, RoomId
from bot.core.markdown import render
from bot.matrix.parse import MARKER
from tests.harness.bot import Bot, Launch
from tests.harness.expectations import TEXTS, begun, replies_to, reply, said, spoken, talk, until
from tests.harness.model import ModelExchange, ScriptedAnswer, ScriptedModel
from tests.harness.nio_person import NioPerson
from tests.harness.person import Person
from tests.harness.synapse import Synapse

pytestmark = pytest.mark.asyncio(loop_scope="session")

TALE = "Il y avait un phare. La mer le battait. Il tient encore."
DETAIL = b'{"detail": "10 requests for scripted per minute exceeded (remaining: 0)."}'
LIMITED = ScriptedAnswer(mode="verbatim", status=429, body=DETAIL)
REFUSED = ScriptedAnswer(mode="verbatim", status=403, body=b'{"detail": "Invalid API key."}')


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def backend() -> AsyncIterator[ScriptedModel]:
    """A backend of this file's own, which may go down."""
    async with ScriptedModel() as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def bot(
    synapse: Synapse,
    backend: ScriptedModel,
    launch: Launch,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Bot]:
    user_id = await synapse.register("hardy", "secret", displayname="Assistant IA")
    other = {"name": "other", "label": "Modèle de secours"}
    model = {"base_url": backend.url, "name": "scripted", "label": "Modèle habituel"}
    async with Bot(
        tmp_path_factory.mktemp("hardy"),
        user_id,
        launch,
        matrix={"homeserver": synapse.url, "user_id": user_id, "password": "secret"},
        model=model | {"choices": {"secours": other}, "fallback": "secours"},
        reply={"edit_interval": 1, "line_after": 1},
        log={"level": "debug"},
    ) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def lea(synapse: Synapse, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Person]:
    user_id = await synapse.register("lea", "secret")
    async with NioPerson(synapse.url, user_id, "secret", tmp_path_factory.mktemp("lea")) as person:
        yield person


async def test_a_model_that_is_down_and_back_answers_in_one_message(
    person: Person, bot: Bot, backend: ScriptedModel
) -> None:
    room_id = await talk(person, bot.user_id)
    tries, asked = bot.said("asking again"), len(backend.exchanges)
    await backend.stop()

    prompt = await person.write(room_id, "Le phare est-il allumé")
    await until(lambda: bot.said("asking again") > tries)
    await backend.start()
    answer = await reply(person, room_id, prompt, "You said: Le phare est-il allumé.")

    assert answer.content[MARKER]["model"] == "scripted"
    assert len(spoken(person, room_id, bot.user_id)) == 2  # the welcome is the other
    assert len(backend.exchanges) == asked + 1


@pytest.mark.timeout(120)
async def test_people_who_wait_for_a_quota_know_their_place_and_are_all_answered(
    nia: Person, jason: Person, lea: Person, bot: Bot, backend: ScriptedModel
) -> None:
    people = {person: await talk(person, bot.user_id) for person in (nia, jason, lea)}
    backend.when("marée", LIMITED)
    prompts: dict[Person, EventId] = {}

    for place, (person, room_id) in enumerate(people.items(), 1):
        prompts[person] = await person.write(room_id, f"La marée, pour {place}")
        await shown(person, room_id, prompts[person], TEXTS("in demand", place=place))
    refused = len(calls(backend))
    backend.when("marée", ScriptedAnswer())
    for place, (person, room_id) in enumerate(people.items(), 1):
        await shown(person, room_id, prompts[person], f"You said: La marée, pour {place}.")

    times = [one.arrived for one in calls(backend)]
    assert [one.prompt for one in calls(backend)][-3:] == [
        f"La marée, pour {place}" for place in (1, 2, 3)
    ]
    assert refused <= len(times) - 3 <= refused + 1
    assert all(later - earlier >= 4 for earlier, later in pairwise(times[:-2]))
    for person, room_id in people.items():
        assert len(spoken(person, room_id, bot.user_id)) == 2


def calls(backend: ScriptedModel) -> list[ModelExchange]:
    """Return the requests of that story, in order."""
    return [one for one in backend.exchanges if "marée" in one.prompt]


async def shown(person: Person, room_id: RoomId, prompt: EventId, text: str) -> None:
    """Wait for the one message that answers the prompt to say so; the line may take a while."""
    body = render(text).body
    await begun(person, room_id, prompt, lambda seen: seen.body == body, within=60)
    assert len(replies_to(person, room_id, prompt)) == 1


async def test_another_model_answers_in_place_of_one_that_refuses_and_says_so(
    person: Person, bot: Bot, backend: ScriptedModel
) -> None:
    room_id = await talk(person, bot.user_id)
    backend.next(REFUSED)

    prompt = await person.write(room_id, "Qui répond ici")
    line = said("fallback", label="Modèle de secours", missing="Modèle habituel")
    answer = await begun(
        person, room_id, prompt, lambda seen: seen.body == f"You said: Qui répond ici.\n\n{line}"
    )

    assert answer.content[MARKER]["model"] == "other"
    assert [one.body["model"] for one in backend.exchanges][-2:] == ["scripted", "other"]
    assert len(replies_to(person, room_id, prompt)) == 1


@pytest.mark.parametrize("mode", ["close", "end"])
async def test_an_answer_that_breaks_off_keeps_its_words_and_says_so(
    nia: Person, bot: Bot, backend: ScriptedModel, mode: Literal["close", "end"]
) -> None:
    room_id = await talk(nia, bot.user_id)
    backend.next(ScriptedAnswer(text=TALE, after=9, tokens_per_second=20, mode=mode))

    prompt = await nia.write(room_id, f"Racontez le phare ({mode})")
    kept = f"Il y avait un phare. La mer le battait.\n\n{said('model truncated')}"
    await begun(nia, room_id, prompt, lambda seen: seen.body == kept)

    assert len(replies_to(nia, room_id, prompt)) == 1
    assert len([one for one in backend.exchanges if f"({mode})" in one.prompt]) == 1

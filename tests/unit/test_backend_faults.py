"""What people see of the backend's faults, and how a change of mind ends a wait for it."""

import asyncio
from dataclasses import replace

import pytest

from bot.core.chat import FinishDelta, TextDelta
from bot.core.outgoing import OutgoingEdit, Reply
from bot.errors import CompletionError, ModelLimited, ModelRefused, ModelUnreachable, Truncated
from bot.i18n.texts import speak
from tests.fakes.clock import HeldClock
from tests.fakes.model import LARGE, SMALL, FakeModel, FakeModels
from tests.fakes.story import Story
from tests.make import AGENT, COLLEAGUE, ROOM, edit_event, message, reaction, redaction

TEXTS = speak("fr")
END = FinishDelta("stop")
FIRST = message("Un", event_id="$1", sender=COLLEAGUE, thread_root="$a")


class Demand(Story):
    """A model whose quota is used up: the colleague's prompt has met the 429, the agent waits."""

    def __init__(self) -> None:
        self.clock: HeldClock = HeldClock()
        super().__init__(self.clock)
        self.model: FakeModel = FakeModels([ModelLimited("429")])
        self.pace = replace(self.pace, line_after=0.05)

    async def begin(self) -> None:
        self.matrix.hear(FIRST)
        await self.until(lambda: bool(self.model.requests))
        self.matrix.hear(message())
        await self.until(lambda: len(self.matrix.attended) == 2)
        await self.clock.pass_time(0)

    async def show_lines(self) -> None:
        """Let both see their place."""
        self.clock.time += 1
        lines = {TEXTS("in demand", place=place) for place in (1, 2)}
        await self.until(lambda: lines <= set(self.shown))

    async def open(self, *event_ids: str) -> None:
        """Let the quota be there again, and all be answered."""
        for _ in range(10):
            await self.clock.pass_time(1)
        await self.until(lambda: self.done(*event_ids))

    @property
    def asked(self) -> list[str]:
        return [turns[-1].text for turns in self.model.requests]


@pytest.fixture
def demand() -> Demand:
    return Demand()


@pytest.fixture
def story() -> Story:
    return Story()


# The line while a quota is used up.


async def test_each_person_is_told_their_place_and_answered_in_the_same_message(
    demand: Demand,
) -> None:
    async with demand.run():
        await demand.begin()
        assert demand.shown == []
        await demand.show_lines()
        await demand.open("$1", "$prompt")

    assert demand.shown == ["Bonjour."] * 2
    assert demand.asked == ["Un", "Un", "Bonjour"]


async def test_who_stops_in_the_line_is_asked_no_more(demand: Demand) -> None:
    async with demand.run():
        await demand.begin()
        demand.matrix.hear(reaction(target="$prompt"))
        await demand.until(lambda: demand.done("$prompt"))
        await demand.open("$1")

    assert demand.asked == ["Un", "Un"]
    assert sorted(demand.shown) == sorted(["Bonjour.", TEXTS("stopped direct")])
    assert demand.clock._sleepers == {}


async def test_who_withdraws_their_question_in_the_line_gets_nothing(demand: Demand) -> None:
    async with demand.run():
        await demand.begin()
        await demand.show_lines()
        demand.matrix.hear(redaction())
        await demand.until(lambda: demand.done("$prompt", "$redaction"))
        await demand.open("$1")

    assert demand.asked == ["Un", "Un"]
    assert demand.shown == ["Bonjour."]


async def test_who_edits_their_question_in_the_line_is_answered_as_it_is_now(
    demand: Demand,
) -> None:
    async with demand.run():
        await demand.begin()
        demand.matrix.hear(edit_event("Bonsoir"))
        await demand.until(lambda: "$edit" in demand.store.events)
        await demand.open("$1", "$prompt")

    assert demand.asked == ["Un", "Un", "Bonsoir"]
    assert demand.shown == ["Bonjour."] * 2


async def test_a_room_that_closes_leaves_nobody_in_the_line(demand: Demand) -> None:
    async with demand.run():
        await demand.begin()
        demand.matrix.hear(closed=[ROOM])
        await demand.until(lambda: demand.done("$1", "$prompt"))
        await demand.clock.pass_time(60)

    assert demand.asked == ["Un"]
    assert demand.matrix.sent == []


async def test_a_quota_of_the_day_is_told_in_the_end(story: Story) -> None:
    story.model.script = (ModelLimited("429"),)
    async with story.run():
        story.matrix.hear(message())
        await story.until(lambda: story.done("$prompt"))

    assert story.shown == [TEXTS("model limited")]
    assert len(story.model.requests) <= 6


# The fallback.


async def test_a_fallbacks_answer_names_it_to_people_and_programs(story: Story) -> None:
    story.model, story.fallback = FakeModels([ModelRefused("403")]), LARGE
    async with story.run():
        story.matrix.hear(message())
        await story.until(lambda: story.done("$prompt"))

    line = TEXTS("fallback", label="Grand modèle", missing="Petit modèle")
    assert story.shown == [f"Bonjour.\n\n{line}"]
    [(_, reply)] = story.matrix.sent
    assert isinstance(reply, Reply)
    assert reply.model == LARGE.id


async def test_a_fallbacks_answer_that_breaks_off_says_both(story: Story) -> None:
    cut = TextDelta("Le ciel"), Truncated("cut")
    story.model, story.fallback = FakeModels([ModelRefused("403")], other=[cut]), LARGE
    async with story.run():
        story.matrix.hear(message())
        await story.until(lambda: story.done("$prompt"))

    line = TEXTS("fallback", label=LARGE.label, missing=SMALL.label)
    assert story.shown == ["\n\n".join(["Le ciel", line, TEXTS("model truncated")])]


async def test_a_fallback_that_says_nothing_is_not_named(story: Story) -> None:
    story.fallback = LARGE
    story.model = FakeModels([ModelRefused("403")], other=[[ModelRefused("403")]])
    async with story.run():
        story.matrix.hear(message())
        await story.until(lambda: story.done("$prompt"))

    assert story.shown == [TEXTS("model refused")]


async def test_an_answer_made_anew_is_the_chosen_models_again(story: Story) -> None:
    story.fallback = LARGE
    held = asyncio.Event()
    story.model = FakeModels([ModelRefused("403")], other=[[TextDelta("Un. "), held, END]])
    async with story.run():
        story.matrix.hear(message())
        await story.until(lambda: bool(story.matrix.sent))
        story.matrix.hear(edit_event("Bonsoir"))
        await story.until(lambda: story.done("$prompt", "$edit"))

    assert story.shown == ["Bonjour."]
    _, last = story.matrix.sent[-1]
    assert isinstance(last, OutgoingEdit)
    assert last.reply.model == SMALL.id


# The end.


@pytest.mark.parametrize("kind", [ModelUnreachable, Truncated])
async def test_a_backend_that_stays_away_is_told_once(
    story: Story, kind: type[CompletionError]
) -> None:
    story.model.script = (kind("no"),)
    async with story.run():
        story.matrix.hear(message(sender=AGENT))
        await story.until(lambda: story.done("$prompt"))

    assert story.shown == [TEXTS(kind.key)]
    assert len(story.model.requests) == 3

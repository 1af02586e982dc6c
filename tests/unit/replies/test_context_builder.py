from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from typing_extensions import override

from bot.core.chat import FinishDelta, TextDelta, Usage, UsageDelta
from bot.core.events import EventId, Prompt
from bot.core.model_catalog import Catalogue
from bot.core.outgoing import Notice, OutgoingEdit, Reply
from bot.core.prompt_context import Context, History
from bot.core.transcript import TranscriptMessage
from bot.errors import Forbidden, HomeserverUnreachable
from bot.i18n.texts import speak
from bot.monitoring.health import Health
from bot.ports.ledger import Choices
from bot.replies.completion import Completions, FallbackPolicy
from bot.replies.context_builder import Contexts, ContextSettings
from tests.fakes.clock import FakeClock
from tests.fakes.ledger import FakeStore
from tests.fakes.matrix import FakeMatrix
from tests.fakes.model import LARGE, SMALL, FakeModel
from tests.fakes.story import Story
from tests.make import AGENT, BOT, COLLEAGUE, edit_event, message, prompt

FR, EN = speak("fr"), speak("en")
NOW = message().timestamp
HOUR = 3_600_000  # milliseconds


def said(
    body: str, *, ago: int = 0, mine: bool = False, readable: bool = True
) -> TranscriptMessage:
    """Return what was said some milliseconds before the prompt."""
    sender = BOT if mine else AGENT
    event_id = EventId(f"${body}")
    return TranscriptMessage(
        event_id=event_id,
        sender=sender,
        body=body,
        timestamp=NOW - ago,
        mine=mine,
        readable=readable,
    )


@pytest.fixture
def story() -> Story:
    return Story()


async def ask(story: Story, body: str = "Et alors ?", event_id: str = "$prompt") -> str:
    """Ask, and return what then stands last."""
    async with story.run():
        await hear(story, body, event_id)
    return story.shown[-1]


async def hear(story: Story, body: str, event_id: str) -> None:
    story.matrix.hear(message(body, event_id=event_id))
    await story.until(lambda: story.done(event_id))


def contents(story: Story) -> list[str]:
    return [turn.text for turn in story.model.requests[-1]]


async def test_a_long_silence_is_said_above_the_first_reply_after_it_alone(story: Story) -> None:
    story.matrix.said = [said("Jadis", ago=HOUR + 1)]
    idle = FR("idle", n=60)

    assert await ask(story, event_id="$1") == f"{idle}\n\nBonjour."
    assert contents(story) == ["Sobre.", "Et alors ?"]
    assert await ask(story, event_id="$2") == "Bonjour."
    assert contents(story) == ["Sobre.", "Et alors ?", "Bonjour.", "Et alors ?"]


async def test_a_short_silence_is_none(story: Story) -> None:
    story.matrix.said = [said("Naguère", ago=HOUR)]

    assert await ask(story) == "Bonjour."
    assert contents(story) == ["Sobre.", "Naguère\n\nEt alors ?"]


async def test_a_thread_has_no_silence(story: Story) -> None:
    story.matrix.said = [said("Jadis", ago=100 * HOUR)]
    async with story.run():
        story.matrix.hear(message("Et alors ?", thread_root="$root"))
        await story.until(lambda: story.done("$prompt"))

    assert story.shown == ["Bonjour."]
    assert contents(story) == ["Sobre.", "Jadis\n\nEt alors ?"]


async def test_earlier_messages_that_cannot_be_read_are_counted_once(story: Story) -> None:
    story.matrix.said = [
        said("a", readable=False),
        said("Bonjour", ago=1),
        said("b", readable=False),
    ]

    assert await ask(story, event_id="$1") == f"{FR('unreadable earlier', n=2)}\n\nBonjour."
    assert await ask(story, event_id="$2") == "Bonjour."


async def test_what_the_prompt_replies_to_counts_in_spite_of_a_silence(story: Story) -> None:
    story.matrix.said = [said("Jadis", ago=100 * HOUR)]
    story.matrix.chain = [said("Jadis", ago=100 * HOUR)]
    story.matrix.lost = 1

    assert await ask(story) == f"{FR('unreadable earlier', n=1)}\n\nBonjour."
    assert contents(story) == ["Sobre.", "Jadis\n\nEt alors ?"]


async def test_the_bot_s_own_lines_never_enter_a_context(story: Story) -> None:
    story.matrix.said = [said("Jadis", ago=HOUR + 1)]
    story.model.script = (TextDelta("Un"), FinishDelta("length"))
    await ask(story, event_id="$1")
    await ask(story, event_id="$2")

    assert contents(story) == ["Sobre.", "Et alors ?", "Un", "Et alors ?"]


async def test_commands_and_notices_never_enter_a_context(story: Story) -> None:
    await ask(story, "!aide", event_id="$1")
    await ask(story, event_id="$2")

    assert contents(story) == ["Sobre.", "Et alors ?"]


async def test_an_edited_message_counts_in_its_last_version(story: Story) -> None:
    await ask(story, "Un", event_id="$1")
    await ask(story, "Deux", event_id="$2")
    async with story.run():
        story.matrix.hear(
            edit_event("Trois", target="$1", event_id="$a"),
            edit_event("Quatre", target="$1", event_id="$b", timestamp=NOW + 1),
        )
        await story.until(lambda: story.done("$a", "$b"))
    await ask(story, "Fin", event_id="$3")

    assert contents(story) == ["Sobre.", "Quatre", "Bonjour.", "Deux", "Bonjour.", "Fin"]


async def test_in_a_salon_each_speaks_by_a_number(story: Story) -> None:
    story.matrix.direct = False
    async with story.run():
        root = replace(message("Un", event_id="$1"), mentions=frozenset({BOT}))
        story.matrix.hear(root)
        await story.until(lambda: story.done("$1"))
        story.matrix.hear(
            message("Entre nous", event_id="$2", sender=COLLEAGUE, thread_root="$1"),
            message("Deux", event_id="$3", thread_root="$1"),
        )
        await story.until(lambda: story.done("$3"))

    assert contents(story) == [
        "Sobre.",
        "Agent 1 : Un",
        "Bonjour.",
        "Agent 2 : Entre nous\n\nAgent 1 : Deux",
    ]


async def test_the_oldest_turns_leave_where_the_model_takes_no_more(story: Story) -> None:
    story.model.length = SMALL.max_tokens + 128 + 100  # tokens: room for 300 characters
    story.matrix.said = [
        said(f"{number} ".ljust(40, "x"), mine=number % 2 == 1) for number in range(30)
    ]
    await ask(story)

    first, *kept, last = contents(story)
    assert (first, last) == ("Sobre.", "Et alors ?")
    assert kept == [one.body for one in story.matrix.said[-len(kept) :]]
    assert 0 < len(kept) < 30


async def test_a_prompt_that_is_too_long_by_itself_is_told_by_how_much(story: Story) -> None:
    story.model.length = 2 * (128 + 100)  # half of it is the completion's
    taken = len("Sobre.") + 2 * 16 + 1000  # what the template puts around each counts

    assert await ask(story, "x" * 1000) == FR("prompt too long", n=taken - 300)
    assert story.model.requests == []
    [(_, sent)] = story.matrix.sent
    assert isinstance(sent, Notice)


async def test_what_the_backend_counts_leaves_room_for_more(story: Story) -> None:
    story.model.length = SMALL.max_tokens + 128 + 1000
    story.model.script = (TextDelta("Oui."), UsageDelta(Usage(500, 1)), FinishDelta("stop"))
    async with story.run():
        for number in range(2):
            await hear(story, "x" * 2500, f"${number}")
        await hear(story, "y" * 3300, "$2")

    assert story.shown == ["Oui."] * 3  # the last would have been too long before the others


# What a context is made from, without the rest of the assistant.


class Patient(FakeMatrix):
    """A homeserver that tells what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.enough: list[bool] = []

    @override
    async def history(
        self, prompt: Prompt, enough: Callable[[Sequence[TranscriptMessage]], bool]
    ) -> History:
        self.enough = [enough([said("x" * length), _own(prompt)]) for length in (1000, 10_000)]
        return await super().history(prompt, enough)


def _own(asked: Prompt) -> TranscriptMessage:
    return TranscriptMessage(
        event_id=asked.event_id, sender=asked.sender, body=asked.body, timestamp=NOW
    )


class Parts:
    def __init__(self) -> None:
        self.matrix, self.store, self.clock = Patient(), FakeStore(), FakeClock()
        self.model = FakeModel()

    def contexts(self) -> Contexts:
        settings = ContextSettings(
            system_prompt="Sobre.",
            catalogue=Catalogue([SMALL, LARGE]),
            language="fr",
            idle_limit=3600,
        )
        health, policy = Health(clock=self.clock), FallbackPolicy()
        completions = Completions(self.model, self.clock, health, policy)
        return Contexts(self.matrix, self.store, self.clock, completions, settings)


@pytest.fixture
def parts() -> Parts:
    return Parts()


async def test_a_conversation_is_read_until_twice_of_what_the_model_takes_is_there(
    parts: Parts,
) -> None:
    parts.model.length = SMALL.max_tokens + 128 + 1000  # room for 3,000 characters

    await parts.contexts().of(prompt(), SMALL)

    assert parts.matrix.enough == [False, True]


async def test_a_homeserver_that_is_away_is_asked_again_for_ten_minutes(parts: Parts) -> None:
    parts.matrix.history_failure = HomeserverUnreachable("502")

    with pytest.raises(HomeserverUnreachable):
        await parts.contexts().of(prompt(), SMALL)

    assert 300 < sum(parts.clock.slept) <= 600


async def test_a_homeserver_that_refuses_is_asked_once(parts: Parts) -> None:
    parts.matrix.history_failure = Forbidden("not a member")

    with pytest.raises(Forbidden):
        await parts.contexts().of(prompt(), SMALL)

    assert parts.clock.slept == []


@pytest.mark.parametrize(
    ("choices", "card", "texts"),
    [
        (Choices(), SMALL, FR),
        (Choices(model="vendor/large"), LARGE, FR),
        (Choices(language="en"), SMALL, EN),
        (Choices(model="gone", language="fr"), SMALL, FR),
    ],
)
async def test_what_people_have_chosen_holds_and_else_what_the_operator_has(
    parts: Parts, choices: Choices, card: object, texts: object
) -> None:
    await parts.store.choose(prompt().conversation, choices)

    chosen = await parts.contexts().chosen(prompt().conversation)

    assert (chosen.card, chosen.texts) == (card, texts)


@pytest.mark.parametrize(
    ("silent", "unreadable", "lines"),
    [
        (False, 0, []),
        (True, 0, [EN("idle", n=60)]),
        (False, 1, [EN("unreadable earlier", n=1)]),
        (True, 3, [EN("idle", n=60), EN("unreadable earlier", n=3)]),
    ],
)
def test_the_person_is_told_what_they_must_know_of_the_context(
    parts: Parts,
    silent: bool,  # noqa: FBT001  # a table's column
    unreadable: int,
    lines: list[str],
) -> None:
    context = Context((), silent=silent, unreadable=unreadable)

    assert parts.contexts().remarks(context, EN) == lines


async def test_the_line_stays_above_while_the_reply_grows(story: Story) -> None:
    story.matrix.said = [said("Jadis", ago=HOUR + 1)]
    story.pace = replace(story.pace, edit_interval=0.0)
    story.model.script = (TextDelta("Un. "), TextDelta("Deux. "), FinishDelta("stop"))
    await ask(story)

    replies = [
        sent.reply if isinstance(sent, OutgoingEdit) else sent for _, sent in story.matrix.sent
    ]
    assert {one.above for one in replies if isinstance(one, Reply)} == {(FR("idle", n=60),)}

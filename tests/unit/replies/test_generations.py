import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from bot.core.chat import FinishDelta, TextDelta
from bot.core.events import MOST_MESSAGES, EventId, UserId
from bot.core.outgoing import Notice, OutgoingEdit, Reply
from bot.errors import Forbidden, HomeserverUnreachable, ModelRefused, RateLimited
from bot.i18n.texts import Language, speak
from tests.fakes.clock import HeldClock
from tests.fakes.story import Story
from tests.make import AGENT, COLLEAGUE, ROOM, edit_event, message, reaction, redaction

TEXTS = speak("fr")
END = FinishDelta("stop")
THIRD = UserId("@third:tchap.test")


@pytest.fixture
def story() -> Story:
    return Story()


def answered(story: Story) -> list[tuple[EventId, ...]]:
    """Return the prompt of each reply, by its messages, in the order in which they came."""
    return [sent.prompt.event_ids for _, sent in story.matrix.sent if isinstance(sent, Reply)]


def asked(story: Story) -> list[str]:
    """Return what was asked each time, as the model reads it."""
    return [turns[-1].text for turns in story.model.requests]


async def until_asked(story: Story, times: int) -> None:
    await story.until(lambda: len(story.model.requests) == times)


async def ask_and_wait(story: Story, *bodies: str) -> asyncio.Event:
    """Let prompts come one by one, each while the model is silent about those before it."""
    gate = asyncio.Event()
    story.model.script = (gate, TextDelta("Bonjour."), END)
    for number, body in enumerate(bodies, 1):
        story.matrix.hear(message(body, event_id=f"${number}"))
        await until_asked(story, number)
    return gate


async def test_what_a_person_sends_in_a_row_is_one_prompt_with_one_reply(story: Story) -> None:
    async with story.run():
        gate = await ask_and_wait(story, "Bonjour", "Une question :", "quelle heure est-il ?")
        gate.set()
        await story.until(lambda: story.done("$1", "$2", "$3"))

    assert asked(story)[-1] == "Bonjour\n\nUne question :\n\nquelle heure est-il ?"
    assert answered(story) == [("$1", "$2", "$3")]
    assert story.shown == ["Bonjour."]
    assert story.store.joined == {EventId("$2"): "$1", EventId("$3"): "$1"}
    assert story.matrix.attended == ["$1", "$2", "$3"]
    assert story.matrix.attending == 0


@pytest.mark.parametrize(
    ("said_at", "prompts"),
    [
        ([0, 60], [("$0", "$1")]),
        ([0, 60.001], [("$0",), ("$1",)]),
        ([0, 50, 100, 150], [("$0", "$1", "$2", "$3")]),  # each follows the one before
        ([0, 50, 111, 112], [("$0", "$1"), ("$2", "$3")]),
        ([0, -5], [("$0", "$1")]),  # two homeservers' clocks
        ([600, 0], [("$0",), ("$1",)]),  # a late key
        ([0, 180, 360], [("$0",), ("$1",), ("$2",)]),
    ],
)
@pytest.mark.parametrize("missed", [False, True])
async def test_messages_that_follow_each_other_soon_are_one_prompt_whenever_they_are_heard(
    story: Story, said_at: list[float], prompts: list[tuple[EventId, ...]], *, missed: bool
) -> None:
    """Those said minutes apart are answered one by one, in order, be the bot away or busy."""
    said = [
        replace(message(event_id=f"${number}"), timestamp=1_700_000_000_000 + round(at * 1000))
        for number, at in enumerate(said_at)
    ]

    async with story.run():
        story.matrix.hear(*said, missed=missed)
        await story.until(lambda: story.done(*(one.event_id for one in said)))

    assert answered(story) == prompts


async def in_doubt(story: Story) -> asyncio.Event:
    """Let a prompt wait for its turn that an earlier process may have answered."""
    gate = asyncio.Event()
    story.model.script = (gate, TextDelta("Bonjour."), END)
    story.matrix.hear(message("Un fil", event_id="$thread", thread_root="$root"))
    await until_asked(story, 1)
    story.matrix.bounded = True
    story.matrix.hear(message("Bonjour", event_id="$1"), missed=True)
    await story.until(lambda: "$1" in story.matrix.attended)
    return gate


async def test_who_asks_again_behind_a_prompt_in_doubt_is_answered(story: Story) -> None:
    story.at_once = 1
    async with story.run():
        gate = await in_doubt(story)
        story.matrix.hear(message("Alors ?", event_id="$2"))
        await story.until(lambda: "$2" in story.matrix.attended)
        gate.set()
        await story.until(lambda: story.done("$1", "$2"))

    assert story.shown == ["Bonjour.", TEXTS("perhaps answered"), "Bonjour."]
    assert answered(story)[-1] == ("$2",)


async def test_what_joined_a_prompt_in_doubt_before_that_was_known_is_looked_for_by_itself(
    story: Story,
) -> None:
    story.matrix.bounded = True
    async with story.run():
        story.matrix.hear(message(event_id="$1"), message("Et ?", event_id="$2"), missed=True)
        await story.until(lambda: story.done("$1", "$2"))

    assert story.shown == [TEXTS("perhaps answered")] * 2
    assert asked(story) == []


async def test_an_edit_of_a_prompt_in_doubt_asks_for_an_answer(story: Story) -> None:
    story.at_once = 1
    async with story.run():
        gate = await in_doubt(story)
        story.matrix.hear(edit_event("Bonsoir", target="$1"))
        await story.until(lambda: EventId("$edit") in story.store.events)
        gate.set()
        await story.until(lambda: story.done("$1", "$edit"))

    assert story.shown == ["Bonjour."] * 2
    assert asked(story)[-1] == "Bonsoir"


async def test_who_watches_is_told_how_many_wait_and_since_when() -> None:
    clock = HeldClock()
    story, gate = Story(clock), asyncio.Event()
    story.at_once = 1
    story.model.script = (gate, TextDelta("Bonjour."), END)
    assistant = story.assistant()
    health = assistant._health
    task = asyncio.get_running_loop().create_task(assistant.run())
    seen = []
    for number, sender in enumerate([AGENT, COLLEAGUE, THIRD]):
        story.matrix.hear(message(event_id=f"${number}", sender=sender))
        await clock.pass_time(2)
        seen.append(
            (
                health.figure("assistant_replies_running"),
                health.figure("assistant_prompts_waiting"),
                health.figure("assistant_prompts_oldest_wait_seconds"),
            )
        )
    gate.set()
    await story.until(lambda: story.done("$0", "$1", "$2"))
    task.cancel()
    await asyncio.wait([task])

    assert seen == [(1, 0, 0), (1, 1, 2), (1, 2, 4)]
    assert health.figure("assistant_replies_running") == 0
    assert health.figure("assistant_prompts_waiting") == 0


async def test_what_comes_together_is_asked_once(story: Story) -> None:
    async with story.run():
        story.matrix.hear(message("Un", event_id="$1"), message("Deux", event_id="$2"))
        await story.until(lambda: story.done("$1", "$2"))

    assert asked(story) == ["Un\n\nDeux"]
    assert answered(story) == [("$1", "$2")]


async def test_what_comes_in_a_row_without_end_is_not_one_prompt(story: Story) -> None:
    ids = [f"${number}" for number in range(MOST_MESSAGES + 1)]
    async with story.run():
        story.matrix.hear(*(message(event_id=one) for one in ids))
        await story.until(lambda: story.done(*ids))

    assert answered(story) == [tuple(ids[:-1]), tuple(ids[-1:])]


async def test_what_comes_once_something_is_visible_has_a_reply_of_its_own(story: Story) -> None:
    gate = asyncio.Event()
    story.model.script = (TextDelta("Un. "), gate, TextDelta("Fin."), END)
    async with story.run():
        story.matrix.hear(message("Un", event_id="$1"))
        await story.until(lambda: bool(story.matrix.sent))
        story.matrix.hear(message("Deux", event_id="$2"))
        await story.until(lambda: story.matrix.attended == ["$1", "$2"])
        gate.set()
        await story.until(lambda: story.done("$1", "$2"))

    assert answered(story) == [("$1",), ("$2",)]
    assert asked(story) == ["Un", "Deux"]


async def test_what_comes_once_the_line_is_visible_has_a_reply_of_its_own(story: Story) -> None:
    story.pace = replace(story.pace, line_after=0.01)
    gate = asyncio.Event()
    story.model.script = (gate, TextDelta("Bonjour."), END)
    async with story.run():
        story.matrix.hear(message("Un", event_id="$1"))
        await story.until(lambda: len(story.model.requests) == 1)
        story.clock.time += 1
        await story.until(lambda: story.shown == [TEXTS("working")])
        story.matrix.hear(message("Deux", event_id="$2"))
        await story.until(lambda: story.matrix.attended == ["$1", "$2"])
        gate.set()
        await story.until(lambda: story.done("$1", "$2"))

    assert answered(story) == [("$1",), ("$2",)]
    assert story.shown == ["Bonjour."] * 2


@pytest.mark.parametrize(
    ("sender", "root"), [(COLLEAGUE, None), (COLLEAGUE, "$root"), (None, "$root")]
)
async def test_what_another_says_or_is_said_elsewhere_is_not_joined(
    story: Story, sender: UserId | None, root: str | None
) -> None:
    first = message("Un", event_id="$1", thread_root=root if sender else None)
    second = message("Deux", event_id="$2", sender=sender or first.sender, thread_root=root)
    async with story.run():
        story.matrix.hear(first, second)
        await story.until(lambda: story.done("$1", "$2"))

    assert answered(story) == [("$1",), ("$2",)]
    assert asked(story) == ["Un", "Deux"]


async def test_what_a_person_says_after_another_is_not_joined_to_what_they_said_before(
    story: Story,
) -> None:
    story.matrix.hear(
        message("Un", event_id="$1"),
        message("Deux", event_id="$2", sender=COLLEAGUE),
        message("Trois", event_id="$3"),
    )
    async with story.run():
        await story.until(lambda: story.done("$1", "$2", "$3"))

    assert answered(story) == [("$1",), ("$2",), ("$3",)]


async def test_what_comes_after_a_command_is_not_joined_to_what_came_before(
    story: Story,
) -> None:
    story.matrix.hear(
        message("Un", event_id="$1"),
        message("!nouveau", event_id="$2"),
        message("Deux", event_id="$3"),
    )
    async with story.run():
        await story.until(lambda: story.done("$1", "$2", "$3"))

    assert answered(story) == [("$1",), ("$3",)]
    assert asked(story) == ["Un", "Deux"]


async def test_what_comes_while_a_failure_is_being_told_is_not_lost(story: Story) -> None:
    story.clock = held = HeldClock()
    story.model.script = (ModelRefused("403"),)
    story.matrix.failures = [RateLimited("429", 30)]
    async with story.run():
        story.matrix.hear(message("Un", event_id="$1"))
        await story.until(lambda: not story.matrix.failures)
        story.model.script = (TextDelta("Bonjour."), END)
        story.matrix.hear(message("Deux", event_id="$2"))
        await story.until(lambda: story.matrix.attended == ["$1", "$2"])
        await held.pass_time(30)
        await story.until(lambda: story.done("$1", "$2"))

    assert story.shown == [TEXTS("model refused"), "Bonjour."]


async def test_what_comes_while_the_bot_apologises_is_not_lost(story: Story) -> None:
    story.clock = held = HeldClock()
    story.matrix.history_failure = Forbidden("not now")
    story.matrix.failures = [RateLimited("429", 30)]
    async with story.run():
        story.matrix.hear(message("Un", event_id="$1"))
        await story.until(lambda: not story.matrix.failures)
        story.matrix.history_failure = None
        story.matrix.hear(message("Deux", event_id="$2"))
        await story.until(lambda: story.matrix.attended == ["$1", "$2"])
        await held.pass_time(30)
        await story.until(lambda: story.done("$1", "$2"))

    assert sorted(story.shown) == sorted([TEXTS("bug"), "Bonjour."])


async def test_what_comes_as_the_answer_is_stopped_has_a_reply_of_its_own(story: Story) -> None:
    async with story.run():
        await ask_and_wait(story, "Un")
        story.model.script = (TextDelta("Bonjour."), END)
        story.matrix.hear(reaction(target="$1"), message("Deux", event_id="$2"))
        await story.until(lambda: story.done("$1", "$2"))

    assert sorted(story.shown) == sorted([TEXTS("stopped direct"), "Bonjour."])
    assert answered(story)[-1] == ("$2",)


async def test_what_was_joined_before_a_crash_is_answered_once(story: Story) -> None:
    async with story.run():
        await ask_and_wait(story, "Un", "Deux")
    story.model.script = (TextDelta("Bonjour."), END)

    async with story.run():
        story.matrix.hear(message("Trois", event_id="$3", thread_root="$root"))
        await story.until(lambda: story.done("$1", "$2", "$3"))

    assert sorted(answered(story)) == [("$1", "$2"), ("$3",)]
    assert story.shown == ["Bonjour."] * 2


async def test_what_was_joined_and_begun_before_a_crash_goes_on_in_the_same_message(
    story: Story,
) -> None:
    async with story.run():
        gate = await ask_and_wait(story, "Un")
        story.model.script = (TextDelta("Un. "), asyncio.Event())
        story.matrix.hear(message("Deux", event_id="$2"))
        await story.until(lambda: story.shown == ["Un."])
    gate.set()
    story.model.script = (TextDelta("Un, deux."), END)
    story.model.requests.clear()

    async with story.run():
        story.matrix.hear(message("Trois", event_id="$3"))
        await story.until(lambda: story.done("$1", "$2", "$3"))

    assert asked(story) == ["Un\n\nDeux", "Trois"]
    assert story.shown == ["Un, deux."] * 2
    assert answered(story) == [("$1", "$2"), ("$3",)]
    [edit] = [sent for _, sent in story.matrix.sent if isinstance(sent, OutgoingEdit)]
    assert edit.reply.prompt.event_ids == ("$1", "$2")


async def test_what_was_joined_to_a_message_that_is_gone_after_a_crash_is_answered(
    story: Story,
) -> None:
    async with story.run():
        await ask_and_wait(story, "Un", "Deux")
    del story.matrix.messages[EventId("$1")]
    story.model.script = (TextDelta("Bonjour."), END)

    async with story.run():
        story.matrix.hear()
        await story.until(lambda: story.done("$1", "$2"))

    assert asked(story)[-1] == "Deux"
    assert answered(story) == [("$2",)]


async def test_what_was_joined_and_begun_before_a_crash_is_answered_though_the_first_is_gone(
    story: Story,
) -> None:
    """The reply to both still stands as the second looks for one: it is about to be redacted."""
    async with story.run():
        gate = await ask_and_wait(story, "Un")
        story.model.script = (TextDelta("Un. "), asyncio.Event())
        story.matrix.hear(message("Deux", event_id="$2"))
        await story.until(lambda: story.shown == ["Un."])
    gate.set()
    del story.matrix.messages[EventId("$1")]
    story.model.script = (TextDelta("Bonjour."), END)

    async with story.run():
        story.matrix.hear()
        await story.until(lambda: story.done("$1", "$2"))

    assert asked(story)[-1] == "Deux"
    assert story.shown == ["Bonjour."]


async def test_two_that_were_begun_apart_before_a_crash_stay_apart(story: Story) -> None:
    story.model.script = (TextDelta("Un. "), asyncio.Event())
    async with story.run():
        story.matrix.hear(message("Un", event_id="$1", sender=COLLEAGUE))
        await story.until(lambda: len(story.shown) == 1)
        story.matrix.hear(message("Deux", event_id="$2"))
        await story.until(lambda: story.store.claims.keys() == {"$1", "$2"})
        story.matrix.hear(message("Trois", event_id="$3", sender=COLLEAGUE))
        await story.until(lambda: story.store.claims.keys() == {"$1", "$2", "$3"})
    story.store.finished.add(EventId("$2"))
    story.store.claims.pop(EventId("$1"))  # as if only the later one had been taken up
    story.store.replies.clear()
    story.model.script = (TextDelta("Fin."), END)

    async with story.run():
        story.matrix.hear()
        await story.until(lambda: story.done("$1", "$3"))

    assert answered(story)[-2:] == [("$1",), ("$3",)]


async def test_so_many_are_answered_at_once(story: Story) -> None:
    story.at_once, story.share = 2, 1.0
    gates = [asyncio.Event() for _ in range(4)]
    async with story.run():
        for number, gate in enumerate(gates):
            story.model.script = (gate, TextDelta("Bonjour."), END)
            root = f"$root{number}"
            story.matrix.hear(message(event_id=f"${number}", thread_root=root))
            await until_asked(story, min(number + 1, 2))
        await story.until(lambda: len(story.matrix.attended) == 4)
        assert len(story.model.requests) == 2
        gates[0].set()
        await story.until(lambda: len(story.model.requests) == 3)
        for gate in gates:
            gate.set()
        await story.until(lambda: story.done("$0", "$1", "$2", "$3"))

    assert story.shown == ["Bonjour."] * 4


LANGUAGES: tuple[Language, ...] = ("fr", "en")


class WaitingAnswer:
    """One answer that is being written, and one that waits for its turn."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.gate = asyncio.Event()
        story.at_once = 1
        story.pace = replace(story.pace, line_after=0.05)
        story.model.script = (self.gate, TextDelta("Bonjour."), END)

    async def begin(self) -> None:
        self.story.matrix.hear(message(event_id="$1", sender=THIRD, thread_root="$a"))
        await self.story.until(lambda: len(self.story.model.requests) == 1)
        self.story.matrix.hear(message("Alors ?", event_id="$2"))
        await self.story.until(lambda: len(self.story.matrix.attended) == 2)

    async def show_line(self) -> None:
        self.story.clock.time += 10
        lines = {speak(language)("queued", place=1) for language in LANGUAGES}
        await self.story.until(lambda: not lines.isdisjoint(self.story.shown))

    async def end(self, *event_ids: str) -> None:
        self.gate.set()
        await self.story.until(lambda: self.story.done(*event_ids))


@pytest.fixture
def queue(story: Story) -> WaitingAnswer:
    return WaitingAnswer(story)


async def test_the_place_in_the_line_is_told_after_a_while_and_the_answer_takes_its_place(
    story: Story, queue: WaitingAnswer
) -> None:
    async with story.run():
        await queue.begin()
        assert story.matrix.sent == []
        await queue.show_line()
        assert TEXTS("queued", place=1) in story.shown
        await queue.end("$1", "$2")

    assert story.shown == ["Bonjour."] * 2
    assert not any(isinstance(sent, Notice) for _, sent in story.matrix.sent)


async def test_the_place_in_the_line_is_told_in_the_language_chosen(
    story: Story, queue: WaitingAnswer
) -> None:
    async with story.run():
        story.matrix.hear(message("!langue en", event_id="$0"))
        await story.until(lambda: story.done("$0"))
        await queue.begin()
        await queue.show_line()
        assert speak("en")("queued", place=1) in story.shown
        await queue.end("$1", "$2")


@pytest.mark.parametrize("line", [True, False])
async def test_an_answer_that_is_stopped_in_the_line_gives_its_place_up(
    story: Story,
    queue: WaitingAnswer,
    line: bool,  # noqa: FBT001  # a table's column
) -> None:
    async with story.run():
        await queue.begin()
        if line:
            await queue.show_line()
        story.matrix.hear(reaction(target="$2"))
        await story.until(lambda: story.done("$2"))
        assert TEXTS("stopped direct") in story.shown
        assert TEXTS("queued", place=1) not in story.shown
        assert len(story.model.requests) == 1
        await queue.end("$1")

    assert "Alors ?" not in asked(story)


@pytest.mark.parametrize("line", [True, False])
async def test_a_question_that_is_withdrawn_in_the_line_leaves_nothing(
    story: Story,
    queue: WaitingAnswer,
    line: bool,  # noqa: FBT001  # a table's column
) -> None:
    async with story.run():
        await queue.begin()
        if line:
            await queue.show_line()
        story.matrix.hear(redaction("$2"))
        await story.until(lambda: story.done("$2", "$redaction"))
        await queue.end("$1")

    assert "Alors ?" not in asked(story)
    assert ("$2",) not in [
        sent.prompt.event_ids
        for key, sent in story.matrix.sent
        if isinstance(sent, Reply) and key not in story.matrix.redacted
    ]


@pytest.mark.parametrize("first", [True, False])
async def test_of_a_prompt_that_waits_one_message_can_be_withdrawn(
    story: Story,
    queue: WaitingAnswer,
    first: bool,  # noqa: FBT001  # a table's column
) -> None:
    gone, kept = ("$2", "$3") if first else ("$3", "$2")
    async with story.run():
        await queue.begin()
        story.matrix.hear(message("Et puis ?", event_id="$3"))
        await story.until(lambda: story.matrix.attended[-1] == "$3")
        story.matrix.hear(redaction(gone))
        await story.until(lambda: story.done("$redaction"))
        await queue.show_line()
        await queue.end("$1", "$2", "$3")

    assert {*answered(story)} == {("$1",), (kept,)}
    assert asked(story)[1] in {"Alors ?", "Et puis ?"}
    assert len(story.shown) == 2


@pytest.mark.parametrize("gone", ["$2", "$3"])
async def test_of_a_prompt_in_the_line_that_is_visible_each_message_takes_the_line_along(
    story: Story, queue: WaitingAnswer, gone: str
) -> None:
    async with story.run():
        await queue.begin()
        story.matrix.hear(message("Et puis ?", event_id="$3"))
        await story.until(lambda: story.matrix.attended[-1] == "$3")
        await queue.show_line()
        story.matrix.hear(redaction(gone))
        await story.until(lambda: story.done("$2", "$3", "$redaction"))
        assert TEXTS("queued", place=1) not in story.shown
        await queue.end("$1")

    assert {*asked(story)} == {"Bonjour"}


async def test_a_room_that_is_closed_silences_who_waits_in_the_line(
    story: Story, queue: WaitingAnswer
) -> None:
    async with story.run():
        await queue.begin()
        story.matrix.hear(closed=[ROOM])
        await story.until(lambda: story.done("$1", "$2"))

    assert story.matrix.sent == []


@pytest.mark.parametrize(
    "failures", [[Forbidden("kicked")], [HomeserverUnreachable("502"), Forbidden("kicked")]]
)
async def test_an_answer_that_fails_gives_its_turn_to_the_next(
    story: Story, queue: WaitingAnswer, failures: Sequence[Forbidden]
) -> None:
    async with story.run():
        await queue.begin()
        story.matrix.failures = [*failures, Forbidden("kicked")]  # the apology as well
        await queue.end("$1", "$2")

    assert story.shown == ["Bonjour."]
    assert answered(story) == [("$2",)]

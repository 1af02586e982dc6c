"""What one person gets, and a pause where only bots write that fast: stories on fakes."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from bot.core.chat import FinishDelta, TextDelta
from bot.core.events import Change, EventId, Message, RoomId, UserId
from bot.core.limits import PAUSE, Limits
from bot.core.outgoing import Notice, Reply
from bot.core.polls import POLL
from bot.i18n.texts import speak
from tests.fakes.clock import HeldClock
from tests.fakes.story import Story
from tests.make import AGENT, BOT, COLLEAGUE, ROOM, edit_event, message, reaction

TEXTS = speak("fr")
END = FinishDelta("stop")
NONE = Limits(prompts=0, regenerations=0, comments=0, per_minute=0, quick=0)
BOB = UserId("@bob:tchap.test")


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
def story(clock: HeldClock) -> Story:
    return Story(clock)


def said(story: Story) -> Counter[str]:
    """Return the bot's own sentences, and how often each was said."""
    return Counter(one.text for _, one in story.matrix.sent if isinstance(one, Notice))


def replies(story: Story) -> list[Reply]:
    return [one for _, one in story.matrix.sent if isinstance(one, Reply)]


async def ask(story: Story, number: int, **values: str) -> None:
    event_id = f"${number}"
    story.matrix.hear(message(event_id=event_id, **values))  # type: ignore[arg-type]  # any of its arguments
    await story.until(lambda: story.done(event_id))


async def test_a_bot_that_answers_at_once_is_answered_five_times(
    story: Story, clock: HeldClock
) -> None:
    with capture_logs() as logs:
        async with story.run():
            for number in range(30):
                await ask(story, number)
                clock.time += 1.0

    assert len(story.model.requests) == 6  # the first is no answer to anything
    assert said(story) == {TEXTS("paused"): 1}
    (line,) = [one for one in logs if one["event"] == "conversation paused"]
    assert line["event_id"] == "$6"
    assert line["sender"] == AGENT
    assert line["log_level"] == "warning"


async def test_a_bot_that_answers_the_first_words_is_one_too(
    story: Story, clock: HeldClock
) -> None:
    """It does not wait for the end of an answer that takes ten seconds."""
    story.pace = replace(story.pace, line_after=3600.0)
    gate = asyncio.Event()
    async with story.run():
        for number in range(7):
            before, gate = gate, asyncio.Event()
            story.model.script = (TextDelta("Une phrase. "), gate, TextDelta("Fin."), END)
            story.matrix.hear(message(event_id=f"${number}"))
            await story.until(lambda: f"${number}" in story.store.events)  # noqa: B023  # it ends before the next round
            before.set()
            clock.time += 10.0
            shown = min(number + 1, 6)
            await story.until(lambda: len(replies(story)) == shown)  # noqa: B023  # it ends before the next round
            clock.time += 0.5
        await story.until(lambda: story.done("$6"))

    assert len(story.model.requests) == 6
    assert said(story) == {TEXTS("paused"): 1}


async def test_a_person_is_never_paused_who_reads_before_they_write(
    story: Story, clock: HeldClock
) -> None:
    async with story.run():
        for number in range(30):
            await ask(story, number)
            clock.time += 3.1

    assert len(story.model.requests) == 30
    assert not said(story)


async def test_a_pause_ends_after_ten_minutes(story: Story, clock: HeldClock) -> None:
    story.limits = replace(NONE, per_minute=2)
    async with story.run():
        for number in range(4):
            await ask(story, number)
        assert len(story.model.requests) == 2
        clock.time += PAUSE - 1
        await ask(story, 5)
        clock.time += 1
        await ask(story, 6)

    assert len(story.model.requests) == 3
    assert said(story) == {TEXTS("paused"): 1}


async def test_a_pause_is_for_one_conversation_and_told_in_one(story: Story) -> None:
    """The next conversation of the same sender is paused for the same reason, without a word."""
    story.limits = replace(NONE, per_minute=2)
    async with story.run():
        for number in range(6):
            await ask(story, number, thread_root=f"$root{number}")
        await ask(story, 7, sender=COLLEAGUE, thread_root="$root1")

    assert len(story.model.requests) == 3
    assert said(story) == {TEXTS("paused"): 1}


async def test_what_is_said_in_place_of_an_answer_is_answered_no_more_often(
    story: Story, clock: HeldClock
) -> None:
    """A bot may answer every notice with a picture, or with a command that nobody knows."""
    async with story.run():
        for number in range(30):
            kind = {"msgtype": "m.image"} if number % 2 else {"body": "!bip"}
            await ask(story, number, **kind)
            clock.time += 1.0

    assert said(story).total() == 7
    assert said(story)[TEXTS("paused")] == 1


async def test_what_runs_can_be_stopped_in_a_pause(story: Story) -> None:
    story.limits = replace(NONE, per_minute=1)
    story.model.script = (TextDelta("Une phrase. "), asyncio.Event())
    async with story.run():
        story.matrix.hear(message(event_id="$1"))
        await story.until(lambda: len(replies(story)) == 1)
        await ask(story, 2)
        await ask(story, 3, body="!stop")
        await story.until(lambda: story.done("$1"))

    assert said(story) == {TEXTS("paused"): 1}
    assert TEXTS("stopped direct") in story.shown[0]


async def test_messages_of_one_prompt_are_one_prompt_in_a_minute(story: Story) -> None:
    story.limits, gate = replace(NONE, per_minute=2), asyncio.Event()
    story.model.script = (gate, TextDelta("Bonjour."), END)
    async with story.run():
        for number in range(10):
            story.matrix.hear(message(event_id=f"${number}"))
        await story.until(lambda: len(story.matrix.attended) == 10)
        gate.set()
        await story.until(lambda: story.done(*(f"${number}" for number in range(10))))

    assert not said(story)


async def test_so_many_messages_of_a_person_are_answered_in_an_hour(
    story: Story, clock: HeldClock
) -> None:
    story.limits = replace(NONE, prompts=3)
    with capture_logs() as logs:
        async with story.run():
            for number in range(10):
                await ask(story, number, thread_root=f"$root{number}")
            await ask(story, 11, sender=COLLEAGUE)
            await ask(story, 12, body="!apropos")
            assert len(story.model.requests) == 4
            clock.time += 3600
            await ask(story, 13)

    assert len(story.model.requests) == 5
    assert said(story)[TEXTS("too many prompts")] == 1
    reached = [one for one in logs if one["event"] == "ceiling reached"]
    assert [(one["of"], one["sender"]) for one in reached] == [("prompts", AGENT)]


async def test_each_message_that_joins_a_prompt_asks_the_model_anew_and_counts(
    story: Story,
) -> None:
    story.limits = replace(NONE, prompts=3)
    story.model.script = (asyncio.Event(),)
    async with story.run():
        for number in range(10):
            story.matrix.hear(message(event_id=f"${number}"))
        await story.until(lambda: story.done("$9"))

    assert len(story.model.requests) <= 3
    assert said(story) == {TEXTS("too many prompts"): 1}


async def test_what_a_killed_process_had_begun_is_brought_to_its_end(story: Story) -> None:
    story.model.script = (TextDelta("Une phrase. "), asyncio.Event())
    async with story.run():
        for number in range(3):
            story.matrix.hear(message(event_id=f"${number}", thread_root=f"$root{number}"))
        await story.until(lambda: len(replies(story)) == 3)
    story.limits = replace(NONE, prompts=1, per_minute=1)
    story.model.script = (TextDelta("Une phrase. "), TextDelta("Fin."), END)

    async with story.run():
        story.matrix.hear()
        await story.until(lambda: story.done("$0", "$1", "$2"))

    assert story.shown == ["Une phrase. Fin."] * 3


async def test_what_was_said_in_a_downtime_pauses_nothing(story: Story) -> None:
    story.limits = replace(NONE, per_minute=2)
    async with story.run():
        threads = [message(event_id=f"${n}", thread_root=f"$root{n}") for n in range(9)]
        story.matrix.hear(*threads, missed=True)
        await story.until(lambda: story.done(*(f"${number}" for number in range(9))))

    assert len(story.model.requests) == 9


@pytest.mark.parametrize("how", ["reaction", "command", "edit", "edit while it is answered"])
async def test_so_many_answers_are_made_anew_for_a_person_in_an_hour(
    story: Story, how: str
) -> None:
    story.limits = replace(NONE, regenerations=3)
    async with story.run():
        await ask(story, 0)
        if how == "edit while it is answered":
            story.model.script = (TextDelta("Une phrase. "), asyncio.Event())
            story.matrix.hear(message(event_id="$1"))
            await story.until(lambda: len(replies(story)) == 2)
        expected = 0
        for number in range(8):
            if how == "reaction":
                target = story.matrix.sent[0][0]
                heard: Message | Change = reaction("🔄", target=target, event_id=f"$e{number}")
            elif how == "command":
                heard = message("!refaire", event_id=f"$e{number}")
            else:
                edited = "$0" if how == "edit" else "$1"
                heard = edit_event(f"v{number}", target=edited, event_id=f"$e{number}")
            story.matrix.hear(heard)
            expected = min(number + 1, 3) + 1 + (how == "edit while it is answered")
            await story.until(lambda: len(story.model.requests) == expected)  # noqa: B023  # it ends before the next round
            if how != "edit while it is answered" or number > 2:
                await story.until(lambda: story.done(heard.event_id))  # noqa: B023  # it ends before the next round
        count = len(story.model.requests)

    assert count == expected
    assert said(story) == {TEXTS("too many regenerations"): 1}


async def test_edits_of_what_asks_nothing_use_nothing_up(story: Story) -> None:
    story.limits = replace(NONE, regenerations=1)
    async with story.run():
        await ask(story, 0)
        await ask(story, 1)
        for number in range(5):  # the last prompt is another one
            story.matrix.hear(edit_event(target="$0", event_id=f"$e{number}"))
            await story.until(lambda: story.done(f"$e{number}"))  # noqa: B023  # it ends before the next round
        story.matrix.hear(edit_event(target="$1", event_id="$last"))
        await story.until(lambda: story.done("$last"))

    assert len(story.model.requests) == 3
    assert not said(story)


@pytest.mark.parametrize("how", ["reply to a poll", "command"])
async def test_so_many_comments_of_a_person_are_kept_in_an_hour(story: Story, how: str) -> None:
    story.limits = replace(NONE, comments=3)
    async with story.run():
        await ask(story, 0)
        for number in range(8):
            if how == "command":
                await ask(story, number + 1, body=f"!avis texte {number}")
                continue
            poll = message("Utile ?", event_id="$poll", sender=BOT, msgtype="poll")
            story.matrix.known[EventId("$poll")] = replace(poll, msgtype=POLL)
            answer = message(f"texte {number}", event_id=f"${number + 1}")
            story.matrix.hear(replace(answer, replies_to=EventId("$poll")))
            await story.until(lambda: story.done(f"${number + 1}"))  # noqa: B023  # it ends before the next round

    assert said(story)[TEXTS("too many comments")] == 1
    assert said(story).total() == 4


async def test_the_admin_room_knows_no_limits(story: Story) -> None:
    story.limits = Limits(prompts=1, regenerations=1, comments=1, per_minute=1, quick=1)
    story.policy = replace(story.policy, admins=frozenset({AGENT}))
    story.matrix.admin_room = ROOM
    async with story.run():
        for number in range(5):
            await ask(story, number, body="!apropos")

    assert TEXTS("paused") not in said(story)
    assert said(story).total() >= 5


async def test_without_limits_nothing_is_held(story: Story) -> None:
    story.limits = NONE
    async with story.run():
        for number in range(130):
            await ask(story, number)

    assert len(story.model.requests) == 130


async def test_long_answers_of_one_person_leave_room_for_others(story: Story) -> None:
    """Twenty-five threads that never end: who comes next is answered at once."""
    story.model.script = (TextDelta("Une phrase. "), asyncio.Event())
    story.limits = NONE
    async with story.run():
        flood = [message(event_id=f"$f{n}", thread_root=f"$r{n}") for n in range(25)]
        story.matrix.hear(*flood)
        await story.until(lambda: len(replies(story)) == 10)
        story.model.script = (TextDelta("Bonjour."), END)
        for number, sender in enumerate((COLLEAGUE, BOB)):
            elsewhere = RoomId(f"!elsewhere{number}:tchap.test")
            story.matrix.others[elsewhere] = replace(story.matrix.room(ROOM), room_id=elsewhere)
            asked = message(event_id=f"$honest{number}", sender=sender)
            story.matrix.hear(replace(asked, room_id=elsewhere))
            await story.until(lambda: story.done(f"$honest{number}"))  # noqa: B023  # it ends before the next round

    assert len(story.model.requests) == 12

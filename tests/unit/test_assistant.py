import asyncio
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from bot.core.chat import FinishDelta, TextDelta, text_turn
from bot.core.events import EventId, Joined, Left, Room, RoomId, Upgraded
from bot.core.feedback import AskPolicy
from bot.core.outgoing import Notice, OutgoingEdit, Reply
from bot.core.transcript import TranscriptMessage
from bot.errors import (
    Forbidden,
    HomeserverUnreachable,
    LoggedOut,
    MatrixError,
    SoftLogout,
    StoreError,
)
from bot.i18n.texts import speak
from bot.ports.ledger import Store
from tests.fakes.clock import HeldClock
from tests.fakes.story import Story
from tests.make import AGENT, BOT, COLLEAGUE, MIDNIGHT, ROOM, invite, message

TEXTS = speak("fr")
SALON_WELCOME = f"{TEXTS('welcome salon')}  \n{TEXTS('welcome thumbs')}"
JOINED = Joined(EventId("$join"), ROOM)


@pytest.fixture
def story() -> Story:
    return Story()


async def test_a_prompt_is_answered_with_what_was_said_before(story: Story) -> None:
    story.matrix.said = [
        TranscriptMessage(
            event_id=EventId("$0"),
            sender=AGENT,
            body="Je m'appelle Ada.",
            timestamp=message().timestamp,
        ),
        TranscriptMessage(
            event_id=EventId("$1"),
            sender=BOT,
            body="Enchanté.",
            timestamp=message().timestamp,
            mine=True,
        ),
    ]
    async with story.run():
        story.matrix.hear(message("Qui suis-je ?"))
        await story.until(lambda: story.done("$prompt"))

    assert story.model.requests == [
        [
            text_turn("system", "Sobre."),
            text_turn("user", "Je m'appelle Ada."),
            text_turn("assistant", "Enchanté."),
            text_turn("user", "Qui suis-je ?"),
        ]
    ]
    assert story.matrix.standing() == {EventId("$sent0"): "Bonjour."}
    assert story.matrix.attended == ["$prompt"]
    assert story.matrix.attending == 0


async def test_an_invitation_is_accepted_then_the_welcome_comes_before_the_first_answer(
    story: Story,
) -> None:
    async with story.run():
        story.matrix.hear(invite())
        await story.until(lambda: story.matrix.joined == [ROOM])
        story.matrix.hear(JOINED, message())
        await story.until(lambda: story.done("$join", "$prompt"))

    (_, welcome), (_, answer) = story.matrix.sent
    assert welcome == Notice(text=TEXTS("welcome"))
    assert isinstance(answer, Reply)


async def test_a_stranger_s_invitation_is_declined_with_a_reason(story: Story) -> None:
    with capture_logs() as lines:
        async with story.run():
            story.matrix.hear(invite("@a:evil.test"))
            await story.until(lambda: bool(story.matrix.left))

    [told] = [line for line in lines if line["event"] == "invitation declined"]
    assert (told["server"], told["reason"]) == ("evil.test", "not in matrix.allowed_servers")
    assert story.matrix.left == [(ROOM, TEXTS("decline"))]
    assert story.matrix.joined == []


async def test_the_bot_leaves_when_it_is_alone(story: Story) -> None:
    async with story.run():
        story.matrix.hear(Left(EventId("$left"), ROOM, alone=True))
        await story.until(lambda: bool(story.matrix.left))

    assert story.matrix.left == [(ROOM, None)]


async def test_two_prompts_of_a_conversation_are_answered_one_after_the_other(
    story: Story,
) -> None:
    gate = asyncio.Event()
    story.model.script = (TextDelta("Un. "), gate, TextDelta("Fin."), FinishDelta("stop"))
    async with story.run():
        story.matrix.hear(message(event_id="$1"), message(event_id="$2", sender=COLLEAGUE))
        await story.until(lambda: len(story.matrix.sent) == 1)
        assert story.matrix.attended == ["$1", "$2"]  # both are seen at once
        gate.set()
        await story.until(lambda: story.done("$1", "$2"))

    prompts = [
        (sent.reply if isinstance(sent, OutgoingEdit) else sent).prompt.event_id
        for _, sent in story.matrix.sent
        if isinstance(sent, Reply | OutgoingEdit)
    ]
    assert prompts == sorted(prompts)
    assert set(prompts) == {"$1", "$2"}


async def test_another_conversation_does_not_wait(story: Story) -> None:
    story.model.script = (TextDelta("Un. "), asyncio.Event())
    async with story.run():
        story.matrix.hear(message(event_id="$1"), message(event_id="$2", thread_root="$root"))
        await story.until(lambda: len(story.matrix.sent) == 2)

    assert not story.store.finished


async def test_what_a_killed_process_left_is_answered_in_the_same_message(story: Story) -> None:
    story.model.script = (TextDelta("Un. "), asyncio.Event())
    async with story.run():
        story.matrix.hear(JOINED, message())
        await story.until(lambda: len(story.matrix.sent) == 2)
    story.model.script = (TextDelta("Un. Deux."), FinishDelta("stop"))

    async with story.run():
        story.matrix.hear()
        await story.until(lambda: story.done("$join", "$prompt"))

    assert list(story.matrix.standing().values())[1:] == ["Un. Deux."]


async def test_a_message_that_is_gone_after_a_restart_is_let_go(story: Story) -> None:
    story.model.script = (TextDelta("Un. "), asyncio.Event())
    async with story.run():
        story.matrix.hear(message())
        await story.until(lambda: len(story.matrix.sent) == 1)
    story.matrix.messages.clear()

    async with story.run():
        story.matrix.hear()
        await story.until(lambda: story.done("$prompt"))

    assert len(story.model.requests) == 1


async def test_a_bug_costs_one_answer_and_says_so(story: Story) -> None:
    story.model.script = (ZeroDivisionError("secret words"),)
    async with story.run():
        story.matrix.hear(message(event_id="$1"))
        await story.until(lambda: story.done("$1"))
        story.model.script = (TextDelta("Bonjour."), FinishDelta("stop"))
        story.matrix.hear(message(event_id="$2"))
        await story.until(lambda: story.done("$2"))

    assert list(story.matrix.standing().values()) == [TEXTS("bug"), "Bonjour."]


async def test_a_bug_in_the_middle_of_an_answer_does_not_let_it_look_whole(story: Story) -> None:
    story.model.script = (TextDelta("Un. "), ZeroDivisionError("secret words"))
    async with story.run():
        story.matrix.hear(message())
        await story.until(lambda: story.done("$prompt"))

    assert story.shown == [f"Un.\n\n{TEXTS('bug')}"]


async def test_a_homeserver_that_is_away_is_waited_for(story: Story) -> None:
    story.matrix.failures = [HomeserverUnreachable("502"), HomeserverUnreachable("502")]
    async with story.run():
        story.matrix.hear(invite())
        await story.until(lambda: story.matrix.joined == [ROOM])

    assert len(story.clock.slept) == 2


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_clock_that_is_set_in_the_middle_of_an_answer_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, hours: float
) -> None:
    clock, gate = HeldClock(), asyncio.Event()
    story = Story(clock)
    story.model.script = (TextDelta("Un. "), gate, TextDelta("Deux."), FinishDelta("stop"))
    async with story.run():
        story.matrix.hear(message(event_id="$1"))
        await clock.pass_time(5)
        assert story.shown == ["Un."]
        monkeypatch.setattr(clock, "now", lambda: MIDNIGHT + clock.time + hours * 3600)
        gate.set()
        await clock.pass_time(5)
        await story.until(lambda: story.done("$1"))
        story.matrix.hear(message(event_id="$2"))
        await clock.pass_time(5)
        await story.until(lambda: story.done("$2"))

    assert list(story.matrix.standing().values()) == ["Un. Deux.", "Un. Deux."]


@pytest.mark.parametrize("error", [LoggedOut("gone")])
async def test_a_login_that_is_over_ends_the_process(story: Story, error: LoggedOut) -> None:
    story.matrix.batch_queue.put_nowait(error)

    with pytest.RaisesGroup(LoggedOut):
        await story.assistant().run()


async def test_a_ledger_that_fails_ends_the_process_and_keeps_the_token(story: Story) -> None:
    story.store.broken = True
    story.matrix.hear(message())

    with pytest.RaisesGroup(StoreError):
        await story.assistant().run()

    store: Store = story.store
    assert await store.sync_token() is None


async def test_what_was_left_is_answered_before_what_is_new_and_in_order(story: Story) -> None:
    story.model.script = (asyncio.Event(),)
    async with story.run():
        story.matrix.hear(
            message("Un", event_id="$1"), message("Deux", event_id="$2", sender=COLLEAGUE)
        )
        await story.until(lambda: len(story.model.requests) == 1)
    story.model.script = (TextDelta("Bonjour."), FinishDelta("stop"))
    story.model.requests.clear()

    async with story.run():
        story.matrix.hear(message("Trois", event_id="$3"))
        await story.until(lambda: story.done("$1", "$2", "$3"))

    assert [turns[-1].text for turns in story.model.requests] == ["Un", "Deux", "Trois"]


async def test_a_message_that_cannot_be_read_now_waits_for_the_next_start(story: Story) -> None:
    story.model.script = (asyncio.Event(),)
    async with story.run():
        story.matrix.hear(message())
        await story.until(lambda: len(story.model.requests) == 1)
    story.model.script = (TextDelta("Bonjour."), FinishDelta("stop"))
    story.matrix.fetch_failure = Forbidden("not now")
    async with story.run():
        story.matrix.hear(message(event_id="$new"))
        await story.until(lambda: story.done("$new"))
    assert not story.done("$prompt")
    story.matrix.fetch_failure = None

    async with story.run():
        story.matrix.hear()
        await story.until(lambda: story.done("$prompt"))


@pytest.mark.parametrize("failure", [HomeserverUnreachable("500"), SoftLogout("gone")])
async def test_many_messages_that_cannot_be_read_now_hold_up_what_is_new_once(
    failure: MatrixError,
) -> None:
    clock = HeldClock()
    story = Story(clock)
    story.model.script = (asyncio.Event(),)
    left = [message(event_id=f"${number}") for number in range(50)]
    async with story.run():
        story.matrix.hear(*left)
        await story.until(lambda: bool(story.model.requests))
    story.model.script = (TextDelta("Bonjour."), FinishDelta("stop"))
    story.matrix.fetch_failure = failure

    async with story.run():
        story.matrix.hear(message(event_id="$new"))
        await clock.pass_time(60)
        await story.until(lambda: story.done("$new"))
        assert not story.done("$0")
        story.matrix.fetch_failure = None  # and those that were left need no other start
        await clock.pass_time(600)
        await story.until(lambda: story.done(*(one.event_id for one in left)))


async def test_a_bug_in_a_room_that_has_thrown_the_bot_out_costs_nothing_else(
    story: Story,
) -> None:
    story.model.script = (ZeroDivisionError("secret words"),)
    async with story.run():
        story.matrix.failures = [Forbidden("kicked")] * 2  # the apology as well
        story.matrix.hear(message(event_id="$1"))
        await story.until(lambda: story.done("$1"))
        story.model.script = (TextDelta("Bonjour."), FinishDelta("stop"))
        story.matrix.hear(message(event_id="$2"))
        await story.until(lambda: story.done("$2"))

    assert list(story.matrix.standing().values()) == ["Bonjour."]


async def test_a_history_that_stays_out_of_reach_is_said(story: Story) -> None:
    story.matrix.history_failure = HomeserverUnreachable("500")
    async with story.run():
        story.matrix.hear(message())
        await story.until(lambda: story.done("$prompt"))

    assert list(story.matrix.standing().values()) == [TEXTS("bug")]
    assert sum(story.clock.slept) <= 600


@pytest.mark.parametrize("direct", [True, False])
async def test_the_welcome_is_that_of_the_room(story: Story, direct: bool) -> None:  # noqa: FBT001  # a table's column
    story.matrix.direct, story.feedback = direct, AskPolicy()
    async with story.run():
        story.matrix.hear(JOINED)
        await story.until(lambda: story.done("$join"))

    assert story.shown == [TEXTS("welcome") if direct else SALON_WELCOME]


@pytest.mark.parametrize(
    "policy",
    [
        AskPolicy(when="silence", salons="never"),
        AskPolicy(when="silence", salons="poll"),
        AskPolicy(when="never", salons="reactions"),
    ],
)
async def test_the_welcome_names_thumbs_where_they_are_all_that_is_asked_for(
    story: Story, policy: AskPolicy
) -> None:
    story.matrix.direct, story.feedback = False, policy
    async with story.run():
        story.matrix.hear(JOINED)
        await story.until(lambda: story.done("$join"))

    assert story.shown == [TEXTS("welcome salon")]


async def test_a_prompt_that_is_too_old_gets_one_notice_and_no_answer(story: Story) -> None:
    story.policy = replace(story.policy, age_limit=7200.0)
    old = replace(message(), timestamp=int(MIDNIGHT * 1000) - 7_200_000)
    async with story.run():
        story.matrix.hear(old)
        await story.until(lambda: story.done("$prompt"))
    story.store.finished.clear()  # as if the process had died before it noted that all is done

    async with story.run():
        story.matrix.hear()
        await story.until(lambda: story.done("$prompt"))

    assert [sent for _, sent in story.matrix.sent if isinstance(sent, Notice)]
    assert story.shown == [TEXTS("expired", hours=2)]
    assert story.model.requests == []


async def test_an_answer_that_was_begun_in_time_is_given_however_late(story: Story) -> None:
    story.policy = replace(story.policy, age_limit=86_400.0)
    story.model.script = (TextDelta("Un. "), asyncio.Event())
    async with story.run():
        story.matrix.hear(message())
        await story.until(lambda: bool(story.shown))
    story.model.script = (TextDelta("Deux."), FinishDelta("stop"))
    story.clock.time += 7 * 86_400

    async with story.run():
        story.matrix.hear()
        await story.until(lambda: story.done("$prompt"))

    assert story.shown == ["Deux."]


async def test_who_is_asked_to_stop_ends_what_is_being_written_and_begins_nothing(
    story: Story,
) -> None:
    story.model.script = (TextDelta("Un. "), gate := asyncio.Event(), TextDelta("Deux."))
    async with story.run() as running:
        story.matrix.hear(message())
        await story.until(lambda: story.shown == ["Un."])
        story.matrix.hear(message("Et puis ?", event_id="$2"))
        await story.until(lambda: "$2" in story.matrix.attended)
        story.stopping.set()
        gate.set()
        await story.until(running.done)

    assert story.shown == ["Un. Deux."]
    assert story.done("$prompt")
    assert story.store.events.keys() - story.store.finished == {"$2"}


@pytest.mark.parametrize(("direct", "shown"), [(True, [TEXTS("unreadable message")]), (False, [])])
async def test_what_the_bot_cannot_read_is_said_where_it_was_meant(
    story: Story,
    direct: bool,  # noqa: FBT001  # a table's column
    shown: list[str],
) -> None:
    story.matrix.direct = direct
    async with story.run():
        story.matrix.hear(message(event_id="$1", msgtype="m.image"), JOINED)
        await story.until(lambda: story.done("$join"))
        await story.until(lambda: story.store.finished >= story.store.events.keys())

    welcomes = {TEXTS("welcome"), TEXTS("welcome salon")}
    assert [text for text in story.shown if text not in welcomes] == shown


NEW = RoomId("!new:tchap.test")
UPGRADED = Upgraded(EventId("$tombstone"), ROOM, AGENT, NEW)


async def test_the_room_that_replaces_another_is_joined(story: Story) -> None:
    story.matrix.failures = [HomeserverUnreachable("502")]
    async with story.run():
        story.matrix.hear(UPGRADED)
        await story.until(lambda: story.done("$tombstone"))

    assert story.matrix.followed == [NEW]


async def test_an_invitation_to_a_space_is_declined_with_a_reason(story: Story) -> None:
    async with story.run():
        story.matrix.hear(replace(invite(), space=True))
        await story.until(lambda: bool(story.matrix.left))

    assert story.matrix.left == [(ROOM, TEXTS("decline space"))]
    assert story.matrix.joined == []


async def test_a_room_that_the_bot_was_led_to_is_left_without_a_word(story: Story) -> None:
    story.matrix.others[ROOM] = Room(room_id=ROOM, direct=False, closed=True, stray=True)
    story.matrix.closed.add(ROOM)
    async with story.run():
        story.matrix.hear(JOINED, message())
        await story.until(lambda: story.done("$join"))

    assert story.matrix.left == [(ROOM, None)]
    assert story.matrix.sent == []
    assert story.model.requests == []


async def test_a_room_that_lets_nobody_in_is_waited_for(story: Story) -> None:
    story.matrix.failures = [Forbidden("invitation only")]
    async with story.run():
        story.matrix.hear(UPGRADED)
        await story.until(lambda: story.done("$tombstone"))

    assert story.matrix.followed == []
    assert story.matrix.sent == []

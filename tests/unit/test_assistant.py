import asyncio

import pytest

from bot.core.events import Delta, EventId, Joined, Left, Turn
from bot.core.replies import Edit, Notice, Reply
from bot.core.turns import Said
from bot.errors import Forbidden, HomeserverUnreachable, LoggedOut, StoreError
from bot.ports import Store
from bot.texts import Texts
from tests.fakes import Story
from tests.make import ROOM, invite, message

TEXTS = Texts("fr")
JOINED = Joined(EventId("$join"), ROOM)


@pytest.fixture
def story() -> Story:
    return Story()


async def test_a_prompt_is_answered_with_what_was_said_before(story: Story) -> None:
    story.matrix.said = [Said(EventId("$0"), "Je m'appelle Ada.", mine=False)]
    async with story.run():
        story.matrix.hear(message("Qui suis-je ?"))
        await story.until(lambda: story.done("$prompt"))

    assert story.model.requests == [
        [
            Turn("system", "Sobre."),
            Turn("user", "Je m'appelle Ada."),
            Turn("user", "Qui suis-je ?"),
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
    assert welcome == Notice(TEXTS("welcome"))
    assert isinstance(answer, Reply)


async def test_a_stranger_s_invitation_is_declined_with_a_reason(story: Story) -> None:
    async with story.run():
        story.matrix.hear(invite("@a:evil.test"))
        await story.until(lambda: bool(story.matrix.left))

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
    story.model.script = (Delta("Un. "), gate, Delta("Fin."), Delta(finish_reason="stop"))
    async with story.run():
        story.matrix.hear(message(event_id="$1"), message(event_id="$2"))
        await story.until(lambda: len(story.matrix.sent) == 1)
        assert story.matrix.attended == ["$1", "$2"]  # both are seen at once
        gate.set()
        await story.until(lambda: story.done("$1", "$2"))

    prompts = [
        (sent.reply if isinstance(sent, Edit) else sent).prompt.event_id
        for _, sent in story.matrix.sent
        if isinstance(sent, Reply | Edit)
    ]
    assert prompts == sorted(prompts)


async def test_another_conversation_does_not_wait(story: Story) -> None:
    story.model.script = (Delta("Un. "), asyncio.Event())
    async with story.run():
        story.matrix.hear(message(event_id="$1"), message(event_id="$2", thread_root="$root"))
        await story.until(lambda: len(story.matrix.sent) == 2)

    assert not story.store.finished


async def test_what_a_killed_process_left_is_answered_in_the_same_message(story: Story) -> None:
    story.model.script = (Delta("Un. "), asyncio.Event())
    async with story.run():
        story.matrix.hear(JOINED, message())
        await story.until(lambda: len(story.matrix.sent) == 2)
    story.model.script = (Delta("Un. Deux."), Delta(finish_reason="stop"))

    async with story.run():
        story.matrix.hear()
        await story.until(lambda: story.done("$join", "$prompt"))

    assert list(story.matrix.standing().values())[1:] == ["Un. Deux."]


async def test_a_message_that_is_gone_after_a_restart_is_let_go(story: Story) -> None:
    story.model.script = (Delta("Un. "), asyncio.Event())
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
        story.model.script = (Delta("Bonjour."), Delta(finish_reason="stop"))
        story.matrix.hear(message(event_id="$2"))
        await story.until(lambda: story.done("$2"))

    assert list(story.matrix.standing().values()) == [TEXTS("bug"), "Bonjour."]


async def test_a_homeserver_that_is_away_is_waited_for(story: Story) -> None:
    story.matrix.failures = [HomeserverUnreachable("502"), HomeserverUnreachable("502")]
    async with story.run():
        story.matrix.hear(invite())
        await story.until(lambda: story.matrix.joined == [ROOM])

    assert len(story.clock.slept) == 2


@pytest.mark.parametrize("error", [LoggedOut("gone", soft=False)])
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
        story.matrix.hear(message("Un", event_id="$1"), message("Deux", event_id="$2"))
        await story.until(lambda: len(story.model.requests) == 1)
    story.model.script = (Delta("Bonjour."), Delta(finish_reason="stop"))
    story.model.requests.clear()

    async with story.run():
        story.matrix.hear(message("Trois", event_id="$3"))
        await story.until(lambda: story.done("$1", "$2", "$3"))

    assert [turns[-1].content for turns in story.model.requests] == ["Un", "Deux", "Trois"]


async def test_a_message_that_cannot_be_read_now_waits_for_the_next_start(story: Story) -> None:
    story.model.script = (asyncio.Event(),)
    async with story.run():
        story.matrix.hear(message())
        await story.until(lambda: len(story.model.requests) == 1)
    story.model.script = (Delta("Bonjour."), Delta(finish_reason="stop"))
    story.matrix.fetch_failure = Forbidden("not now")
    async with story.run():
        story.matrix.hear(message(event_id="$new"))
        await story.until(lambda: story.done("$new"))
    assert not story.done("$prompt")
    story.matrix.fetch_failure = None

    async with story.run():
        story.matrix.hear()
        await story.until(lambda: story.done("$prompt"))


async def test_many_messages_that_cannot_be_read_now_hold_up_what_is_new_once(
    story: Story,
) -> None:
    story.model.script = (asyncio.Event(),)
    left = [message(event_id=f"${number}") for number in range(50)]
    async with story.run():
        story.matrix.hear(*left)
        await story.until(lambda: bool(story.model.requests))
    story.model.script = (Delta("Bonjour."), Delta(finish_reason="stop"))
    story.matrix.fetch_failure = HomeserverUnreachable("500")
    begun = story.clock.time

    async with story.run():
        story.matrix.hear(message(event_id="$new"))
        await story.until(lambda: story.done("$new"))

    assert story.clock.time - begun < 60


async def test_a_bug_in_a_room_that_has_thrown_the_bot_out_costs_nothing_else(
    story: Story,
) -> None:
    story.model.script = (ZeroDivisionError("secret words"),)
    async with story.run():
        story.matrix.failures = [Forbidden("kicked")]
        story.matrix.hear(message(event_id="$1"))
        await story.until(lambda: story.done("$1"))
        story.model.script = (Delta("Bonjour."), Delta(finish_reason="stop"))
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

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from bot.core.chat import FinishDelta, TextDelta
from bot.core.events import Event, EventId, Message, Pending
from bot.core.intents import Answer, AwaitKey, HandleRedaction, Ignore, NeedsLookup
from bot.core.outgoing import Reply
from bot.core.routing import Policy, decide
from bot.dispatch import intent_resolver
from bot.dispatch.intent_resolver import IntentResolver
from bot.errors import Forbidden, HomeserverUnreachable, MatrixError, RateLimited
from tests.fakes.clock import FakeClock, HeldClock
from tests.fakes.matrix import FakeMatrix
from tests.fakes.story import Story
from tests.make import BOT, COLLEAGUE, MIDNIGHT, ROOM, message, prompt, redaction, undecryptable

QUESTION = replace(message("Et alors ?"), replies_to=EventId("$quoted"))
MINE = message("Voilà.", event_id="$quoted", sender=BOT)
THEIRS = message("Voilà.", event_id="$quoted", sender=COLLEAGUE)
OPENER = replace(message("Bonjour", event_id="$root"), mentions=frozenset({BOT}))


class UnknownSalon:
    """A salon of which the bot knows nothing yet."""

    def __init__(self) -> None:
        self.matrix, self.clock = FakeMatrix(direct=False), FakeClock()
        policy = Policy(me=BOT, allowed_servers=("tchap.test",), age_limit=3600.0)
        self.clock.time = QUESTION.timestamp / 1000 - MIDNIGHT
        self.intent_resolver = IntentResolver(self.matrix, self.clock, policy)

    def has(self, *events: Message) -> None:
        """Let the homeserver have messages that the bot has not heard of."""
        self.matrix.messages |= {event.event_id: event for event in events}


@pytest.fixture
def salon() -> UnknownSalon:
    return UnknownSalon()


def test_what_needs_no_look_up_is_decided_at_once(salon: UnknownSalon) -> None:
    salon.matrix.direct = True

    assert salon.intent_resolver.decide(message()) == Answer(prompt(message()))
    assert salon.intent_resolver.decide(undecryptable()) == AwaitKey(undecryptable())
    assert salon.intent_resolver.decide(redaction()) == HandleRedaction(redaction())
    salon.matrix.known[EventId("$quoted")] = message(event_id="$quoted")
    assert salon.intent_resolver.decide(QUESTION) == Answer(prompt(QUESTION))
    assert salon.matrix.fetched == []


@pytest.mark.parametrize(("quoted", "intent"), [(MINE, Answer), (THEIRS, Ignore), (None, Ignore)])
async def test_what_a_message_replies_to_is_looked_up_once(
    salon: UnknownSalon, quoted: Message | None, intent: type
) -> None:
    salon.has(*([quoted] if quoted else []))

    assert salon.intent_resolver.decide(QUESTION) == NeedsLookup(EventId("$quoted"))
    assert isinstance(await salon.intent_resolver.resolve(QUESTION), intent)
    assert isinstance(salon.intent_resolver.decide(QUESTION), intent)
    assert salon.matrix.fetched == ["$quoted"]


async def test_all_that_is_needed_is_looked_up_one_after_the_other(salon: UnknownSalon) -> None:
    salon.has(replace(message(event_id="$root"), replies_to=EventId("$quoted")), MINE)
    asked = message("Et alors ?", thread_root="$root")

    assert isinstance(await salon.intent_resolver.resolve(asked), Answer)
    assert salon.matrix.fetched == ["$root", "$quoted"]


async def test_a_homeserver_that_is_away_is_asked_until_it_answers(salon: UnknownSalon) -> None:
    salon.has(MINE)
    salon.matrix.fetch_failure = HomeserverUnreachable("502")
    async with asyncio.TaskGroup() as tasks:
        resolving = tasks.create_task(salon.intent_resolver.resolve(QUESTION))
        while sum(salon.clock.slept) < 900:  # noqa: ASYNC110  # the clock tells nobody
            await asyncio.sleep(0)
        salon.matrix.fetch_failure = None

    assert isinstance(resolving.result(), Answer)


async def test_what_is_not_there_is_asked_for_once_in_its_room(salon: UnknownSalon) -> None:
    again = replace(QUESTION, event_id=EventId("$again"))

    assert list(await salon.intent_resolver.relevant([QUESTION, again])) == []
    assert salon.matrix.fetched == ["$quoted"]


@pytest.mark.parametrize(
    ("left", "begun"),
    [
        (None, False),
        (Pending(EventId("$prompt"), ROOM), False),
        (Pending(EventId("$prompt"), ROOM, begun=True), True),
        (Pending(EventId("$prompt"), ROOM, joined_to=EventId("$0")), True),
    ],
)
def test_only_what_was_not_begun_in_time_is_too_old(
    salon: UnknownSalon,
    left: Pending | None,
    begun: bool,  # noqa: FBT001  # a table's column
) -> None:
    salon.matrix.direct = True
    salon.clock.time += 3601

    assert isinstance(salon.intent_resolver.decide(message(), left), Answer) == begun


async def test_a_bug_in_a_decision_costs_one_event(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(event: Event, *rest: Any) -> Any:  # noqa: ANN401  # as the function's
        if event.event_id == "$1":
            raise ZeroDivisionError("secret words")
        return decide(event, *rest)

    monkeypatch.setattr(intent_resolver, "decide", fail)
    with capture_logs() as lines:
        async with story.run():
            story.matrix.hear(follow_up("Un", "$1"), follow_up("Deux", "$2"))
            await story.until(lambda: story.done("$2"))

    assert [line["kind"] for line in lines if line["event"] == "bug"] == ["ZeroDivisionError"]
    assert len(story.matrix.standing()) == 1


async def test_what_asks_for_nothing_is_left_out_and_the_rest_stays_in_order(
    salon: UnknownSalon,
) -> None:
    salon.has(OPENER, MINE)
    events: list[Event] = [
        message("Bavardage", event_id="$1"),
        message("Deux", event_id="$2", thread_root="$root"),
        message("Ailleurs", event_id="$3", thread_root="$theirs"),
        QUESTION,
        undecryptable("$4"),
        message("Cinq", event_id="$5", thread_root="$root"),
        message("De moi", event_id="$6", sender=BOT),
        redaction(),
    ]

    relevant = await salon.intent_resolver.relevant(events)

    assert [one.event_id for one in relevant] == ["$2", "$prompt", "$4", "$5", "$redaction"]
    assert salon.matrix.fetched == ["$root", "$theirs", "$quoted"]


@pytest.mark.parametrize(
    "failure", [HomeserverUnreachable("502"), RateLimited("429", 30), Forbidden("not now")]
)
async def test_what_cannot_be_looked_up_now_is_admitted_and_holds_up_the_rest_once(
    salon: UnknownSalon, failure: MatrixError
) -> None:
    salon.matrix.fetch_failure = failure
    events = [message(event_id=f"${number}", thread_root=f"$root{number}") for number in range(50)]

    with capture_logs() as logs:
        relevant = await salon.intent_resolver.relevant(
            [*events, message("Bavardage", event_id="$last")]
        )

    assert relevant == events
    assert sum(salon.clock.slept) <= 2
    told = next(line for line in logs if "event_id" in line)
    assert (told["event"], told["event_id"]) == (
        "message not looked up",
        "$0",
    )


@pytest.fixture
def story() -> Story:
    story = Story(HeldClock())
    story.matrix.direct = False
    story.matrix.messages[OPENER.event_id] = OPENER
    return story


def follow_up(body: str, event_id: str) -> Message:
    return message(body, event_id=event_id, thread_root="$root")


async def pass_time(story: Story, seconds: float) -> None:
    assert isinstance(story.clock, HeldClock)
    await story.clock.pass_time(seconds)


async def test_a_message_that_could_not_be_looked_up_is_answered_later(story: Story) -> None:
    story.matrix.fetch_failure = HomeserverUnreachable("502")
    async with story.run():
        story.matrix.hear(follow_up("Un", "$1"))
        await pass_time(story, 5)
        assert set(story.store.events) == {"$1"}
        assert story.model.requests == []
        story.matrix.fetch_failure = None
        await pass_time(story, 60)
        await story.until(lambda: story.done("$1"))

    assert story.shown == ["Bonjour."]


async def test_a_message_that_could_not_be_looked_up_and_asks_for_nothing_is_let_go(
    story: Story,
) -> None:
    story.matrix.messages[OPENER.event_id] = replace(OPENER, mentions=frozenset())
    story.matrix.fetch_failure = HomeserverUnreachable("502")
    async with story.run():
        story.matrix.hear(follow_up("Un", "$1"))
        await pass_time(story, 5)
        story.matrix.fetch_failure = None
        await pass_time(story, 60)
        await story.until(lambda: story.done("$1"))

    assert story.matrix.sent == []


async def test_a_message_that_is_redacted_before_it_was_looked_up_gets_nothing(
    story: Story,
) -> None:
    story.matrix.fetch_failure = HomeserverUnreachable("502")
    async with story.run():
        story.matrix.hear(follow_up("Un", "$1"))
        await pass_time(story, 5)
        story.matrix.hear(redaction("$1"))
        await story.until(lambda: story.done("$redaction"))
        story.matrix.fetch_failure = None
        await pass_time(story, 60)
        await story.until(lambda: story.done("$1"))

    assert story.model.requests == []
    assert story.matrix.sent == []


async def test_a_message_that_cannot_be_looked_up_for_long_is_waited_for(
    story: Story,
) -> None:
    story.matrix.unreadable = {OPENER.event_id}
    async with story.run():
        story.matrix.hear(follow_up("Un", "$1"))
        await pass_time(story, 10_000)
        assert not story.store.finished
        story.matrix.unreadable.clear()
        await pass_time(story, 100)
        await story.until(lambda: story.done("$1"))

    assert story.shown == ["Bonjour."]


async def test_a_message_that_is_still_waited_for_is_taken_up_at_the_next_start(
    story: Story,
) -> None:
    story.matrix.unreadable = {OPENER.event_id}
    async with story.run():
        story.matrix.hear(follow_up("Un", "$1"))
        await pass_time(story, 1000)
    assert not story.store.finished
    story.matrix.unreadable.clear()

    async with story.run():
        story.matrix.hear()
        await story.until(lambda: story.done("$1"))

    assert story.shown == ["Bonjour."]


async def test_one_message_that_cannot_be_looked_up_holds_up_no_other(story: Story) -> None:
    story.matrix.unreadable = {EventId("$broken")}
    async with story.run():
        story.matrix.hear(
            message("Un", event_id="$1", thread_root="$broken"),
            follow_up("Deux", "$2"),
            replace(message("Trois", event_id="$3"), mentions=frozenset({BOT})),
        )
        await pass_time(story, 10)
        await story.until(lambda: story.done("$2", "$3"))

    assert not story.done("$1")
    assert story.shown == ["Bonjour."] * 2


async def test_the_messages_of_a_thread_that_is_looked_up_are_answered_in_order(
    story: Story,
) -> None:
    async with story.run():
        story.matrix.hear(
            follow_up("Un", "$1"),
            replace(follow_up("Deux", "$2"), sender=COLLEAGUE, mentions=frozenset({BOT})),
            follow_up("Trois", "$3"),
        )
        await story.until(lambda: story.done("$1", "$2", "$3"))

    asked = [turns[-1].text for turns in story.model.requests]
    assert [words.split(" : ")[-1] for words in asked] == ["Un", "Deux", "Trois"]


async def test_the_messages_of_a_thread_stay_in_order_though_they_are_looked_up_late(
    story: Story,
) -> None:
    story.model.script = (asyncio.Event(),)
    left = [follow_up(letter, f"${letter}") for letter in "abcde"]
    async with story.run():
        story.matrix.hear(*left)
        await story.until(lambda: bool(story.model.requests))
    story.matrix.known.clear()
    story.matrix.unreadable = {OPENER.event_id}
    story.store.joined.clear()
    story.store.claims.clear()
    story.model.script = (TextDelta("Bonjour."), FinishDelta("stop"))
    story.model.requests.clear()

    async with story.run():
        story.matrix.hear()
        await pass_time(story, 20)
        assert story.model.requests == []
        story.matrix.unreadable.clear()
        await pass_time(story, 60)
        await story.until(lambda: story.done(*(event.event_id for event in left)))

    [sent] = [sent for _, sent in story.matrix.sent if isinstance(sent, Reply)]
    assert sent.prompt.event_ids == tuple(event.event_id for event in left)

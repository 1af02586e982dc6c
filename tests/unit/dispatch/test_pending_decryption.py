import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from bot.core.chat import FinishDelta, TextDelta
from bot.core.events import EventId, Prompt, RoomId, UserId
from bot.core.outgoing import Notice, OutgoingEdit, Reply
from bot.dispatch.pending_decryption import PendingDecryption
from bot.errors import (
    Forbidden,
    HomeserverUnreachable,
    LoggedOut,
    MatrixError,
    RateLimited,
    SoftLogout,
)
from bot.i18n.texts import Texts
from bot.ports.ledger import Choices
from tests.fakes.clock import HeldClock
from tests.fakes.ledger import FakeStore
from tests.fakes.matrix import FakeMatrix
from tests.fakes.story import Story, make_notifier
from tests.make import (
    AGENT,
    BOT,
    COLLEAGUE,
    ROOM,
    key_news,
    message,
    pending,
    prompt,
    undecryptable,
)

FR, EN = Texts("fr"), Texts("en")
MINUTE, HOUR, DAY = 60, 3600, 86_400
CODES = {
    "m.blacklisted": "key blacklisted",
    "m.no_olm": "key without olm",
    "m.unauthorised": "key unauthorised",
    "m.unavailable": "key unavailable",
    "m.unverified": "key unverified",
    "m.invented": "key missing",
    None: "key missing",
}
OTHER = UserId("@other:tchap.test")
IN_THREAD = undecryptable(thread_root="$root")
END = FinishDelta("stop")


class LateStory(Story):
    """A direct message in which a key may come late, on a clock that the story moves."""

    def __init__(self) -> None:
        self.held = HeldClock()
        super().__init__(self.held)

    def key_comes(self, body: str = "Bonjour", *, event_id: str = "$prompt") -> None:
        """Make the message readable, and tell that its key has come."""
        event = message(body, event_id=event_id)
        self.matrix.messages[event.event_id] = event
        self.matrix.hear(keys=[key_news()])

    async def hear(self, *event_ids: str) -> None:
        """Let messages come without their key, and the bot take them in."""
        ids = event_ids or ("$prompt",)
        self.matrix.hear(*(undecryptable(one) for one in ids))
        await self.until(lambda: {EventId(one) for one in ids} <= self.store.events.keys())

    @property
    def notices(self) -> list[Notice]:
        return [sent for _, sent in self.matrix.sent if isinstance(sent, Notice)]


@pytest.fixture
def story() -> LateStory:
    return LateStory()


@pytest.fixture
async def running(story: LateStory) -> AsyncIterator[LateStory]:
    async with story.run():
        yield story


async def test_a_key_five_seconds_late_goes_unnoticed(running: LateStory) -> None:
    await running.hear()
    await running.held.pass_time(5)
    running.key_comes()
    await running.until(lambda: running.done("$prompt"))
    await running.held.pass_time(2 * DAY)

    assert running.shown == ["Bonjour."]
    assert running.notices == []


async def test_a_key_five_minutes_late_is_explained_then_the_message_is_answered(
    running: LateStory,
) -> None:
    await running.hear()
    await running.held.pass_time(29)
    assert running.notices == []
    await running.held.pass_time(5 * MINUTE)
    running.key_comes()
    await running.until(lambda: running.done("$prompt"))

    assert running.notices == [Notice(text=FR("key missing"), to=undecryptable())]
    assert running.shown == [FR("key missing"), "Bonjour."]


async def test_an_answer_after_ten_minutes_says_that_its_key_was_late(running: LateStory) -> None:
    await running.hear()
    await running.held.pass_time(20 * MINUTE)
    running.key_comes()
    await running.until(lambda: running.done("$prompt"))

    assert running.shown == [FR("key missing"), f"Bonjour.\n\n{FR('key late')}"]
    replies = [sent for _, sent in running.matrix.sent if isinstance(sent, Reply)]
    assert [reply.added for reply in replies] == [(FR("key late"),)]


async def test_messages_whose_key_comes_at_last_are_all_answered_at_once(
    story: LateStory,
) -> None:
    """That many come from no bot: they were written one by one, an hour ago."""
    story.limits = replace(story.limits, per_minute=2)
    async with story.run():
        places = [(f"${number}", f"$root{number}") for number in range(5)]
        story.matrix.hear(*(undecryptable(one, thread_root=root) for one, root in places))
        await story.until(lambda: len(story.store.events) == 5)
        await story.held.pass_time(HOUR)
        for one, root in places:
            story.matrix.messages[EventId(one)] = message(event_id=one, thread_root=root)
        story.matrix.hear(keys=[key_news()])
        await story.until(lambda: story.done(*(one for one, _ in places)))

    assert len(story.model.requests) == 5


async def test_a_message_whose_key_never_comes_is_given_up_after_a_day(running: LateStory) -> None:
    await running.hear()
    await running.held.pass_time(DAY - 1)
    assert not running.done("$prompt")
    await running.held.pass_time(1)
    assert running.done("$prompt")
    running.key_comes()
    await running.held.pass_time(DAY)

    assert running.shown == [FR("key missing")]
    assert running.model.requests == []


async def test_a_person_is_told_once_a_day_however_many_messages_wait(running: LateStory) -> None:
    await running.hear("$1", "$2")
    await running.held.pass_time(HOUR)
    await running.hear("$3")
    await running.held.pass_time(HOUR)
    assert [notice.to for notice in running.notices] == [undecryptable("$1")]

    await running.held.pass_time(22 * HOUR)  # past midnight
    await running.hear("$4", "$5")
    await running.held.pass_time(HOUR)
    assert [notice.to for notice in running.notices] == [undecryptable("$1"), undecryptable("$4")]


async def test_each_person_is_told(running: LateStory) -> None:
    running.matrix.hear(undecryptable("$1"), undecryptable("$2", sender=OTHER))
    await running.held.pass_time(MINUTE)

    assert len(running.notices) == 2


@pytest.mark.parametrize(("before", "after"), [(10, 20), (10, HOUR), (MINUTE, HOUR)])
async def test_a_restart_before_or_after_the_notice_makes_it_neither_two_nor_none(
    story: LateStory, before: int, after: int
) -> None:
    async with story.run():
        await story.hear()
        await story.held.pass_time(before)
    story.held.time += after

    async with story.run():
        story.matrix.hear()
        await story.held.pass_time(MINUTE)

    assert len(story.notices) == 1


async def test_a_clock_set_back_between_two_processes_holds_up_nothing(
    story: LateStory,
) -> None:
    async with story.run():
        await story.hear()
    story.store.heard_at[EventId("$prompt")] += HOUR

    async with story.run():
        story.matrix.hear()
        await story.held.pass_time(MINUTE)
        assert len(story.notices) == 1
        await story.held.pass_time(DAY)

    assert story.done("$prompt")


async def test_a_notice_whose_record_was_lost_in_a_crash_is_not_sent_again(
    story: LateStory,
) -> None:
    async with story.run():
        await story.hear()
        await story.held.pass_time(MINUTE)
    story.store.notices.clear()

    async with story.run():
        story.matrix.hear()
        await story.held.pass_time(MINUTE)

    assert len(story.notices) == 1


async def test_what_was_told_yesterday_is_not_told_again_by_a_start(story: LateStory) -> None:
    async with story.run():
        await story.hear("$1", "$2")
        await story.held.pass_time(23 * HOUR + 50 * MINUTE)  # past midnight, and not yet given up

    async with story.run():
        story.matrix.hear()
        await story.held.pass_time(MINUTE)

    assert not story.done("$1")
    assert [notice.to for notice in story.notices] == [undecryptable("$1")]


async def test_a_key_that_came_just_before_the_end_is_found_at_the_start(
    story: LateStory,
) -> None:
    async with story.run():
        await story.hear()
    story.matrix.messages[EventId("$prompt")] = message()

    async with story.run():
        story.matrix.hear()
        await story.until(lambda: story.done("$prompt"))

    assert story.shown == ["Bonjour."]


@pytest.mark.parametrize("direct", [True, False])
async def test_what_is_older_than_a_day_at_the_start_is_told_so_and_not_answered(
    story: LateStory, *, direct: bool
) -> None:
    story.matrix.direct, story.policy = direct, replace(story.policy, age_limit=DAY)
    async with story.run():
        await story.hear()
    readable = replace(message(), mentions=frozenset({BOT}))
    story.matrix.messages[EventId("$prompt")] = readable
    story.held.time += 2 * DAY

    async with story.run():
        story.matrix.hear()
        await story.until(lambda: story.done("$prompt"))

    assert [type(one.to) for one in story.notices] == [Prompt]
    assert story.shown == [FR("expired", hours=24)]


async def test_a_late_answer_that_was_cut_off_goes_on_in_the_same_message(
    story: LateStory,
) -> None:
    story.model.script = (TextDelta("Un. "), asyncio.Event())
    async with story.run():
        await story.hear()
        story.key_comes()
        await story.until(lambda: len(story.matrix.sent) == 1)
    story.model.script = (TextDelta("Un. Deux."), END)
    story.held.time += 2 * DAY

    async with story.run():
        story.matrix.hear()
        await story.until(lambda: story.done("$prompt"))

    assert story.shown == ["Un. Deux."]


async def test_a_message_redacted_meanwhile_is_let_go(running: LateStory) -> None:
    await running.hear()
    del running.matrix.messages[EventId("$prompt")]
    running.matrix.hear(keys=[key_news()])
    await running.until(lambda: running.done("$prompt"))
    await running.held.pass_time(DAY)

    assert running.matrix.sent == []


async def test_a_message_redacted_before_the_notice_gets_none(running: LateStory) -> None:
    await running.hear()
    del running.matrix.messages[EventId("$prompt")]
    await running.held.pass_time(MINUTE)

    assert running.done("$prompt")
    assert running.matrix.sent == []


async def test_a_message_that_its_key_does_not_open_goes_on_waiting(running: LateStory) -> None:
    await running.hear()
    running.matrix.hear(keys=[key_news()])
    await running.until(lambda: running.matrix.fetched == ["$prompt"])
    assert not running.done("$prompt")
    running.key_comes()
    await running.until(lambda: running.done("$prompt"))

    assert running.shown == ["Bonjour."]


@pytest.mark.parametrize(("withheld", "key"), CODES.items())
async def test_the_notice_names_the_cause(
    running: LateStory, withheld: str | None, key: str
) -> None:
    await running.hear()
    if withheld == "m.no_olm":  # of the device, not of a session
        running.matrix.hear(keys=[key_news(withheld, room_id=RoomId(""), session_id="")])
    elif withheld is not None:
        running.matrix.hear(keys=[key_news(withheld)])
    await running.held.pass_time(MINUTE)

    assert [notice.text for notice in running.notices] == [FR(key)]


async def test_only_the_sender_says_why_the_key_is_withheld(running: LateStory) -> None:
    running.matrix.hear(
        keys=[
            key_news("m.unverified", sender=OTHER),
            key_news("m.no_olm", sender=OTHER, room_id=RoomId(""), session_id=""),
            key_news("m.blacklisted", session_id="another"),
        ]
    )
    await running.hear()
    await running.held.pass_time(MINUTE)

    assert [notice.text for notice in running.notices] == [FR("key missing")]


async def test_a_device_that_sends_a_key_is_no_longer_out_of_reach(running: LateStory) -> None:
    running.matrix.hear(keys=[key_news("m.no_olm", room_id=RoomId(""), session_id="")])
    running.matrix.hear(keys=[key_news(session_id="another")])
    await running.hear()
    await running.held.pass_time(MINUTE)

    assert [notice.text for notice in running.notices] == [FR("key missing")]


@pytest.mark.parametrize("texts", [FR, EN])
def test_every_cause_has_a_sentence_of_its_own_that_promises_the_answer(texts: Texts) -> None:
    sentences = {texts(key) for key in CODES.values()}

    assert len(sentences) == len(set(CODES.values()))
    assert all("24" in sentence and sentence.count(". ") == 2 for sentence in sentences)


@pytest.mark.parametrize("direct_at_last", [True, False])
async def test_in_a_salon_routing_decides_once_the_message_can_be_read(
    running: LateStory,
    direct_at_last: bool,  # noqa: FBT001  # a table's column
) -> None:
    running.matrix.direct = False
    await running.hear()
    await running.held.pass_time(MINUTE)
    assert running.notices == []
    assert running.matrix.fetched == []
    running.matrix.direct = direct_at_last
    running.key_comes()
    await running.until(lambda: running.done("$prompt"))

    assert running.shown == (["Bonjour."] if direct_at_last else [])


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    ("opener", "mentions", "told"),
    [(AGENT, {BOT}, True), (AGENT, {COLLEAGUE}, False), (COLLEAGUE, {BOT}, False)],
)
async def test_in_a_salon_who_has_opened_a_thread_with_the_bot_is_told_there(
    story: LateStory,
    opener: UserId,
    mentions: set[UserId],
    told: bool,  # noqa: FBT001  # a table's column
    restart: bool,  # noqa: FBT001  # a table's column
) -> None:
    story.matrix.direct = False
    root = message(event_id="$root", sender=opener)
    story.matrix.messages[root.event_id] = replace(root, mentions=frozenset(mentions))
    async with story.run():
        story.matrix.hear(IN_THREAD)
        await story.until(lambda: "$prompt" in story.store.events)
        await story.held.pass_time(0 if restart else MINUTE)
    if restart:
        story.matrix.known.clear()
        async with story.run():
            story.matrix.hear()
            await story.held.pass_time(MINUTE)

    assert story.notices == ([Notice(text=FR("key missing"), to=IN_THREAD)] if told else [])


async def test_a_thread_that_cannot_be_looked_up_now_delays_the_notice_alone(
    running: LateStory,
) -> None:
    running.matrix.direct = False
    root = replace(message(event_id="$root"), mentions=frozenset({BOT}))
    running.matrix.messages[root.event_id] = root
    running.matrix.fetch_failure = HomeserverUnreachable("502")
    running.matrix.hear(IN_THREAD)
    await running.held.pass_time(MINUTE)
    running.matrix.fetch_failure = None
    await running.held.pass_time(10 * MINUTE)

    assert running.notices == [Notice(text=FR("key missing"), to=IN_THREAD)]


async def test_who_was_never_told_is_told_when_the_message_is_given_up(
    running: LateStory,
) -> None:
    running.matrix.failures = [Forbidden("not now")]
    await running.hear()
    await running.held.pass_time(DAY)

    assert running.done("$prompt")
    assert running.shown == [FR("expired", hours=24)]


@pytest.mark.parametrize(
    ("failures", "shown"),
    [
        ([Forbidden("kicked")] * 2, []),
        ([Forbidden("not now"), *[HomeserverUnreachable("502")] * 9], [FR("expired", hours=24)]),
    ],
)
async def test_a_message_is_given_up_whether_that_can_be_told_or_not(
    running: LateStory, failures: list[MatrixError], shown: list[str]
) -> None:
    running.matrix.failures = [*failures]
    await running.hear()
    await running.held.pass_time(DAY + HOUR)

    assert running.done("$prompt")
    assert running.shown == shown


async def test_nobody_is_told_of_a_key_in_a_room_that_was_closed(running: LateStory) -> None:
    await running.hear()
    running.matrix.hear(closed=[ROOM])
    await running.held.pass_time(DAY + HOUR)

    assert running.done("$prompt")
    assert running.shown == []


async def test_each_conversation_is_told_in_its_language(running: LateStory) -> None:
    thread = replace(prompt().conversation, thread_root=EventId("$root"))
    running.store.chosen[thread] = Choices(language="en")
    running.matrix.hear(undecryptable("$1"), replace(IN_THREAD, sender=OTHER))
    await running.held.pass_time(20 * MINUTE)
    late = message(thread_root="$root", sender=OTHER)
    running.matrix.messages[late.event_id] = late
    running.matrix.hear(keys=[key_news(sender=OTHER)])
    await running.until(lambda: running.done("$prompt"))

    assert running.shown == [FR("key missing"), EN("key missing"), f"Bonjour.\n\n{EN('key late')}"]


async def test_messages_that_were_late_together_have_one_answer_that_says_so_once(
    running: LateStory,
) -> None:
    await running.hear("$1", "$2")
    await running.held.pass_time(20 * MINUTE)
    for event_id in ("$1", "$2"):
        running.matrix.messages[EventId(event_id)] = message(event_id, event_id=event_id)
    running.matrix.hear(keys=[key_news()])
    await running.until(lambda: running.done("$1", "$2"))

    assert running.shown == [FR("key missing"), f"Bonjour.\n\n{FR('key late')}"]


async def test_messages_that_were_late_together_stay_together_after_a_crash(
    story: LateStory,
) -> None:
    async with story.run():
        await story.hear("$1", "$2")
        await story.held.pass_time(20 * MINUTE)
        story.model.script = (TextDelta("Un. "), asyncio.Event())
        for event_id in ("$1", "$2"):
            event = message(event_id, event_id=event_id)
            story.matrix.messages[event.event_id] = event
        story.matrix.hear(keys=[key_news()])
        await story.until(lambda: len(story.shown) == 2)
    story.model.script = (TextDelta("Deux."), END)

    async with story.run():  # what was joined stays joined
        story.matrix.hear()
        await story.until(lambda: story.done("$1", "$2"))

    assert {turns[-1].text for turns in story.model.requests} == {"$1\n\n$2"}
    assert story.shown[1:] == ["Deux."]


@pytest.mark.parametrize("together", [True, False])
async def test_a_key_that_came_before_its_message_counts(
    running: LateStory,
    together: bool,  # noqa: FBT001  # a table's column
) -> None:
    running.matrix.hear(*([undecryptable()] if together else []), keys=[key_news()])
    if not together:
        running.matrix.hear(undecryptable())
    running.matrix.messages[EventId("$prompt")] = message()
    await running.until(lambda: running.done("$prompt"))

    assert running.shown == ["Bonjour."]


async def test_a_key_whose_news_was_missed_is_found_before_the_notice(running: LateStory) -> None:
    await running.hear()
    running.matrix.messages[EventId("$prompt")] = message()
    await running.held.pass_time(MINUTE)
    await running.until(lambda: running.done("$prompt"))

    assert running.shown == ["Bonjour."]


async def test_a_notice_on_its_way_again_and_again_stops_when_the_key_comes(
    running: LateStory,
) -> None:
    running.matrix.failures = [HomeserverUnreachable("502")]
    await running.hear()
    await running.held.pass_time(30.5)
    running.key_comes()
    await running.until(lambda: running.done("$prompt"))
    await running.held.pass_time(HOUR)

    assert running.shown == ["Bonjour."]


async def test_a_stranger_s_message_is_not_waited_for(running: LateStory) -> None:
    running.matrix.hear(
        undecryptable("$1", sender=UserId("@a:evil.test")),
        undecryptable("$2", sender=running.matrix.user_id),
        undecryptable("$3"),
    )
    await running.held.pass_time(MINUTE)

    assert set(running.store.events) == {"$3"}
    assert len(running.notices) == 1


async def test_a_command_that_was_late_is_answered_although_it_had_a_notice(
    running: LateStory,
) -> None:
    await running.hear()
    await running.held.pass_time(MINUTE)
    running.key_comes("!aide")
    await running.until(lambda: running.done("$prompt"))

    assert running.shown == [FR("key missing"), FR("help")]


async def test_a_late_prompt_waits_its_turn_in_its_conversation(running: LateStory) -> None:
    gate = asyncio.Event()
    running.model.script = (TextDelta("Un. "), gate, TextDelta("Fin."), END)
    await running.hear()
    running.matrix.hear(message(event_id="$new"))
    await running.until(lambda: len(running.matrix.sent) == 1)
    running.key_comes()
    await running.until(lambda: running.matrix.attended == ["$new", "$prompt"])
    assert len(running.model.requests) == 1
    gate.set()
    await running.until(lambda: running.done("$prompt", "$new"))

    prompts = [
        (sent.reply if isinstance(sent, OutgoingEdit) else sent).prompt.event_id
        for _, sent in running.matrix.sent
        if isinstance(sent, Reply | OutgoingEdit)
    ]
    assert prompts == sorted(prompts)


async def test_late_prompts_of_a_session_are_asked_in_the_order_in_which_they_came(
    running: LateStory,
) -> None:
    await running.hear("$c", "$a", "$b")
    for event_id in ("$b", "$c", "$a"):
        running.matrix.messages[EventId(event_id)] = message(event_id, event_id=event_id)
    running.matrix.hear(keys=[key_news()])
    await running.until(lambda: running.done("$a", "$b", "$c"))

    assert [turns[-1].text for turns in running.model.requests] == ["$c\n\n$a\n\n$b"]
    assert running.shown == ["Bonjour."]


async def test_a_key_reads_the_messages_of_its_session_alone(running: LateStory) -> None:
    running.matrix.hear(
        undecryptable("$a", session_id="a"),
        undecryptable("$b", session_id="b"),
        keys=[key_news("m.unverified", session_id="a"), key_news(session_id="b")],
    )
    running.matrix.hear(undecryptable("$c", session_id="c"))
    await running.held.pass_time(5)
    assert running.matrix.fetched == ["$b"]
    await running.held.pass_time(MINUTE)

    assert running.notices == [
        Notice(text=FR("key unverified"), to=undecryptable("$a", session_id="a"))
    ]


async def test_a_message_read_twice_at_once_is_answered_once(running: LateStory) -> None:
    running.matrix.fetch_gate.clear()
    await running.hear()
    await running.held.pass_time(MINUTE)  # it is read before the notice
    running.key_comes()
    await running.until(lambda: running.matrix.fetched == ["$prompt", "$prompt"])
    running.matrix.fetch_gate.set()
    await running.until(lambda: running.done("$prompt"))
    await running.held.pass_time(MINUTE)

    assert running.matrix.attended == ["$prompt"]
    assert running.notices == []


async def test_a_key_sent_again_and_again_costs_no_read_each(running: LateStory) -> None:
    running.matrix.fetch_gate.clear()
    await running.hear()
    running.matrix.hear(keys=[key_news()])
    await running.until(lambda: running.matrix.fetched == ["$prompt"])
    for _ in range(100):
        running.matrix.hear(keys=[key_news()])
    await running.until(running.matrix.batch_queue.empty)
    running.matrix.fetch_gate.set()
    await running.held.pass_time(0)

    assert running.matrix.fetched == ["$prompt"] * 2


@pytest.mark.parametrize(
    "failure",
    [
        HomeserverUnreachable("502"),
        RateLimited("429", retry_after=20 * MINUTE),
        SoftLogout("renewed soon"),
    ],
)
async def test_an_outage_when_the_key_comes_only_delays_the_answer(
    running: LateStory, failure: MatrixError
) -> None:
    running.matrix.fetch_failure = failure
    await running.hear()
    running.key_comes()
    await running.held.pass_time(30 * MINUTE)
    running.matrix.fetch_failure = None
    await running.held.pass_time(20 * MINUTE)
    await running.until(lambda: running.done("$prompt"))

    assert running.shown == [f"Bonjour.\n\n{FR('key late')}"]
    assert len(running.matrix.fetched) < 120  # no hot loop: each pause is of many seconds


async def test_a_login_that_is_over_ends_the_process(story: LateStory) -> None:
    story.matrix.fetch_failure = LoggedOut("gone")
    story.matrix.hear(undecryptable(), keys=[key_news()])

    with pytest.RaisesGroup(pytest.RaisesGroup(LoggedOut)):
        await asyncio.wait_for(story.assistant().run(), 5)


async def test_one_message_that_cannot_be_fetched_holds_up_no_other(running: LateStory) -> None:
    running.matrix.unreadable.add(EventId("$broken"))
    await running.hear("$broken", "$prompt")
    running.key_comes()
    await running.held.pass_time(10)

    await running.until(lambda: running.done("$prompt"))
    assert running.shown == [f"{FR('unreadable earlier', n=1)}\n\nBonjour."]
    fetched = len(running.matrix.fetched)
    await running.held.pass_time(10 * MINUTE)
    assert fetched < len(running.matrix.fetched) < fetched + 60  # tried again, now and then


async def test_a_refused_notice_costs_nothing_else(running: LateStory) -> None:
    running.matrix.failures = [Forbidden("not now")]
    await running.hear()
    with capture_logs() as logs:
        await running.held.pass_time(MINUTE)
    assert [line["event"] for line in logs] == ["refused by the homeserver"]
    running.key_comes()
    await running.until(lambda: running.done("$prompt"))

    assert running.shown == ["Bonjour."]


async def test_a_bug_costs_one_message_and_not_the_bot(running: LateStory) -> None:
    texts = running.texts.forms
    sentence = texts.pop("key missing")
    await running.hear("$1")
    await running.held.pass_time(MINUTE)
    texts["key missing"] = sentence
    await running.hear("$2")
    await running.held.pass_time(MINUTE)

    assert [notice.to for notice in running.notices] == [undecryptable("$2")]


async def test_a_message_that_became_unreadable_waits_for_its_key(story: LateStory) -> None:
    story.model.script = (asyncio.Event(),)
    async with story.run():
        story.matrix.hear(message())
        await story.until(lambda: len(story.model.requests) == 1)
    story.model.script = (TextDelta("Bonjour."), END)
    story.matrix.messages[EventId("$prompt")] = undecryptable()

    async with story.run():
        story.matrix.hear()
        await story.held.pass_time(MINUTE)
        assert story.shown == [FR("key missing")]
        assert await story.store.unfinished() == [replace(pending(), begun=True)]
        story.key_comes()
        await story.until(lambda: story.done("$prompt"))

    assert story.shown == [FR("key missing"), "Bonjour."]


@pytest.mark.usefixtures("untraced")
async def test_a_flood_costs_no_task_and_one_notice(running: LateStory) -> None:
    await running.held.pass_time(0)
    tasks = len(asyncio.all_tasks())
    await running.hear(*(f"${number}" for number in range(2_000)))
    assert len(asyncio.all_tasks()) == tasks
    await running.held.pass_time(MINUTE)
    assert len(asyncio.all_tasks()) == tasks
    assert len(running.notices) == 1
    await running.held.pass_time(DAY)
    async with asyncio.timeout(100):
        while len(running.store.finished) < 2_000:  # noqa: ASYNC110  # each takes some turns
            await asyncio.sleep(0)

    assert len(asyncio.all_tasks()) == tasks


async def test_news_of_keys_are_kept_in_bounded_memory() -> None:
    matrix, store, clock = FakeMatrix(), FakeStore(), HeldClock()
    pending_decryption = PendingDecryption(
        matrix=matrix,
        store=store,
        clock=clock,
        notifier=make_notifier(matrix, store, clock),
        texts=FR,
    )
    for number in [*range(9_000), 0, *range(9_000, 18_000)]:
        pending_decryption.hear([key_news("m.unverified", session_id=f"{number}")])
    pending_decryption.hear([key_news("m." + "x" * 1000), key_news(session_id="x" * 1000)])

    assert len(pending_decryption._news) == 10_000
    assert all(len(word) < 256 for words in pending_decryption._news for word in words)
    assert pending_decryption._news[AGENT, ROOM, "0"] == "key unverified"

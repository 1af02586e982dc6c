import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Literal

import pytest

from bot.core.chat import Delta, FinishDelta, TextDelta
from bot.core.events import Edit, EventId, Message, Redaction, UserId, Vote
from bot.core.feedback import AskPolicy
from bot.core.outgoing import Anchor, Notice, Reply
from bot.core.polls import Poll, PollAnswer
from bot.errors import (
    Forbidden,
    HomeserverUnreachable,
    ModelRefused,
    ModelTimeout,
    ModelUnreachable,
)
from bot.i18n.texts import speak
from tests.fakes.clock import HeldClock
from tests.fakes.feedback import FakeOpinions
from tests.fakes.story import Story
from tests.make import (
    AGENT,
    BOT,
    COLLEAGUE,
    MIDNIGHT,
    ROOM,
    edit_event,
    message,
    reaction,
    redaction,
    vote,
)

FR = speak("fr")
END = FinishDelta("stop")
ALWAYS = AskPolicy(
    when="reply", one_in=1, per_day=10, window=3600.0, salons="poll", least_characters=0
)
SILENT = replace(ALWAYS, when="silence", silence=300.0)
HELPED = tuple(PollAnswer(one, FR(f"poll helped {one}")) for one in ("yes", "partly", "no"))
ASKED = Poll(question=FR("poll helped"), answers=HELPED, latest=EventId("$prompt"))


class FeedbackStory(Story):
    """A room in which people are asked about replies, on a clock that the story moves."""

    def __init__(self) -> None:
        self.held = HeldClock()
        super().__init__(self.held)
        self.feedback = ALWAYS

    @property
    def asked_of(self) -> FakeOpinions:
        return self.store.opinions

    @property
    def polls(self) -> list[tuple[EventId, Poll]]:
        """The polls that stand in the room, in order."""
        return [(key, one) for key, one in self.matrix.sent if isinstance(one, Poll)]

    @property
    def notices(self) -> list[Notice]:
        return [one for _, one in self.matrix.sent if isinstance(one, Notice)]

    async def hear(self, *events: Message | Vote | Edit) -> None:
        """Let events come, and the bot be done with them."""
        self.matrix.hear(*events)
        ids = [one.event_id for one in events]
        await self.until(lambda: {*ids} <= self.store.finished)
        await self.settle()

    def hold_comments(self) -> asyncio.Event:
        """Keep no comment before the event is set."""
        keep, gate = self.asked_of.comment, asyncio.Event()

        async def slowly(said: Message, prompt: EventId | None, at: float) -> None:
            await gate.wait()
            await keep(said, prompt, at)

        self.asked_of.comment = slowly  # type: ignore[method-assign]  # for one story
        return gate

    async def settle(self) -> None:
        """Let what is due be done."""
        await self.held.pass_time(0.0)

    async def ask(self, *events: Message) -> EventId:
        """Let a prompt be answered, and return the poll about it."""
        await self.hear(*(events or (message(),)))
        return self.polls[-1][0]

    async def cast(self, *answers: str, poll: EventId, number: int = 1) -> None:
        at = int(self.clock.now() * 1000) + number
        await self.hear(vote(*answers, target=poll, event_id=f"$vote{number}", timestamp=at))

    def rating(self) -> tuple[str | None, str | None] | None:
        return self.asked_of.ratings.get((EventId("$prompt"), AGENT))


@pytest.fixture
def story() -> FeedbackStory:
    return FeedbackStory()


def mention(
    body: str = "Bonjour", *, sender: UserId = AGENT, event_id: str = "$prompt"
) -> Message:
    heard = message(body, sender=sender, event_id=event_id)
    return replace(heard, mentions=frozenset({BOT}))


async def test_a_vote_in_clear_where_the_room_is_encrypted_is_not_counted(
    story: FeedbackStory,
) -> None:
    async with story.run():
        poll = await story.ask()
        await story.hear(replace(vote("no", target=poll), exposed=True))

    assert story.rating() is None
    assert [one.text for one in story.notices] == [story.texts("clear text")]


async def test_behind_a_reply_the_person_is_asked_whether_it_has_helped(
    story: FeedbackStory,
) -> None:
    async with story.run():
        await story.ask()

    sent = [one for _, one in story.matrix.sent]
    assert isinstance(sent[0], Reply)
    assert sent[1:] == [ASKED]


async def test_a_poll_waits_until_the_conversation_has_fallen_silent(story: FeedbackStory) -> None:
    story.feedback = SILENT
    async with story.run():
        await story.hear(message())
        await story.held.pass_time(200.0)
        await story.hear(message("Et demain ?", event_id="$second"))
        await story.held.pass_time(299.0)
        assert story.polls == []
        await story.held.pass_time(1.0)

    [(_, poll)] = story.polls
    assert poll == replace(ASKED, latest=EventId("$second"))


async def test_a_poll_waits_while_the_next_answer_is_being_written(story: FeedbackStory) -> None:
    story.feedback, gate = SILENT, asyncio.Event()
    async with story.run():
        await story.hear(message())
        await story.held.pass_time(290.0)
        story.model.script = (gate, TextDelta("Demain."), END)
        story.matrix.hear(message("Et demain ?", event_id="$second"))
        await story.held.pass_time(60.0)
        assert story.polls == []
        gate.set()
        await story.until(lambda: story.done("$second"))
        await story.held.pass_time(300.0)

    assert [poll.latest for _, poll in story.polls] == ["$second"]


async def test_a_person_is_thanked_once_however_often_the_vote_changes(
    story: FeedbackStory,
) -> None:
    async with story.run():
        poll = await story.ask()
        await story.cast("yes", poll=poll)
        await story.cast(poll=poll, number=2)
        await story.cast("yes", poll=poll, number=3)

    assert story.notices == [Notice(text=FR("thanks"))]
    assert story.rating() == ("yes", None)


async def test_who_is_not_content_is_asked_why_and_then_thanked(story: FeedbackStory) -> None:
    async with story.run():
        poll = await story.ask()
        await story.cast("no", poll=poll)
        [_, (why, asked)] = story.polls
        assert asked.question == FR("poll why")
        assert story.notices == []
        await story.cast("too_long", poll=why, number=2)

    assert story.rating() == ("no", "too_long")
    assert story.notices == [Notice(text=FR("thanks"))]
    assert len(story.polls) == 2


async def test_in_a_salon_the_asker_alone_is_asked_and_nobody_sees_the_results(
    story: FeedbackStory,
) -> None:
    story.matrix.direct = False
    story.matrix.names[AGENT] = "Ada Lovelace [Dinum]"
    async with story.run():
        poll = await story.ask(mention())
        await story.hear(vote("no", target=poll, sender=COLLEAGUE, timestamp=int(MIDNIGHT)))
        await story.cast("yes", poll=poll)

    [(_, asked)] = story.polls
    assert asked == replace(
        ASKED,
        question=FR("poll in salon", name="Ada Lovelace [Dinum]", question=FR("poll helped")),
        disclosed=False,
        thread_root=EventId("$prompt"),
        asks=AGENT,
    )
    assert story.asked_of.ratings == {("$prompt", AGENT): ("yes", None)}
    assert story.notices == [
        Notice(text=FR("thanks"), to=Anchor(EventId("$prompt"), EventId("$prompt")))
    ]


async def test_a_salon_without_threads_is_not_asked(story: FeedbackStory) -> None:
    story.matrix.direct = False
    story.policy = replace(story.policy, inline=True)
    async with story.run():
        await story.hear(mention())

    assert story.polls == []


@pytest.mark.parametrize("salons", ["never", "reactions"])
async def test_a_salon_gets_no_poll_unless_the_operator_wants_it(
    story: FeedbackStory, salons: Literal["never", "reactions"]
) -> None:
    story.matrix.direct, story.feedback = False, replace(ALWAYS, salons=salons)
    async with story.run():
        await story.hear(mention())
        await story.held.pass_time(3600.0)

    assert story.polls == []


async def test_a_short_reply_gets_no_poll_also_where_one_about_a_long_one_waits(
    story: FeedbackStory,
) -> None:
    story.feedback = replace(SILENT, least_characters=300)
    story.model.script = (TextDelta("Bref. " * 60), END)
    async with story.run():
        await story.hear(message())
        story.model.script = (TextDelta("Bref. "), END)
        await story.hear(message(event_id="$second"))
        await story.held.pass_time(600.0)

    assert story.polls == []


async def test_a_poll_that_was_planned_is_not_sent_once_a_colleague_has_come_in(
    story: FeedbackStory,
) -> None:
    story.feedback = SILENT
    async with story.run():
        await story.hear(message())
        story.matrix.direct = False
        await story.held.pass_time(600.0)

    assert story.polls == []


async def test_a_poll_that_was_planned_is_not_sent_once_the_operator_wants_none(
    story: FeedbackStory,
) -> None:
    story.matrix.direct, story.feedback = False, SILENT
    async with story.run():
        await story.hear(mention())
    story.feedback = replace(SILENT, salons="reactions")
    async with story.run():
        await story.held.pass_time(600.0)

    assert story.polls == []


async def test_who_has_asked_is_looked_up_where_an_earlier_process_has_heard_it(
    story: FeedbackStory,
) -> None:
    story.matrix.direct, story.feedback = False, replace(SILENT)
    async with story.run():
        await story.hear(mention())
        del story.matrix.known[EventId("$prompt")]
        await story.held.pass_time(300.0)

    assert [one.asks for _, one in story.polls] == [AGENT]


async def test_no_poll_is_about_a_prompt_of_a_salon_that_is_gone(story: FeedbackStory) -> None:
    story.matrix.direct, story.feedback = False, replace(SILENT)
    async with story.run():
        await story.hear(mention())
        story.matrix.known[EventId("$prompt")] = None
        del story.matrix.messages[EventId("$prompt")]
        await story.held.pass_time(300.0)

    assert story.polls == []


async def test_a_vote_that_comes_too_late_gets_no_word(story: FeedbackStory) -> None:
    async with story.run():
        poll = await story.ask()
        await story.held.pass_time(3600.0)
        await story.cast("no", poll=poll)

    assert story.rating() is None
    assert len(story.matrix.sent) == 2


async def test_nobody_is_asked_about_what_has_gone_wrong(story: FeedbackStory) -> None:
    story.model.script = (TextDelta("Le ciel"), ModelRefused("no"))
    async with story.run():
        await story.hear(message())
        story.model.script = (ModelRefused("no"),)
        await story.hear(message("Et demain ?", event_id="$second"))

    assert story.polls == []


async def test_nobody_is_asked_twice_in_a_row(story: FeedbackStory) -> None:
    async with story.run():
        for number in range(5):
            await story.hear(message(event_id=f"${number}"))

    assert [poll.latest for _, poll in story.polls] == ["$0", "$2", "$4"]


@pytest.mark.parametrize(
    ("key", "rating"), [("👍", ("yes", None)), ("👎", ("no", None)), ("🎉", None)]
)
async def test_a_thumb_on_a_reply_is_a_rating(
    story: FeedbackStory, key: str, rating: tuple[str, None] | None
) -> None:
    story.feedback = AskPolicy(when="never")
    async with story.run():
        await story.hear(message())
        [(reply, _)] = story.matrix.sent
        story.matrix.hear(reaction(key, target=reply))
        await story.settle()

    assert story.rating() == rating
    assert len(story.matrix.sent) == 1


async def test_a_thumb_on_a_prompt_is_none_and_one_that_is_taken_back_neither(
    story: FeedbackStory,
) -> None:
    story.feedback = AskPolicy(when="never")
    async with story.run():
        await story.hear(message())
        [(reply, _)] = story.matrix.sent
        story.matrix.hear(reaction("👍", target="$prompt", event_id="$1"))
        await story.settle()
        assert story.rating() is None
        story.matrix.hear(reaction("👍", target=reply, event_id="$2"))
        await story.settle()
        assert story.rating() == ("yes", None)
        story.matrix.hear(redaction("$2"))
        await story.settle()

    assert story.rating() is None


async def test_what_is_written_in_reply_to_a_poll_is_a_comment(story: FeedbackStory) -> None:
    async with story.run():
        poll = await story.ask()
        said = replace(message("Trop long.", event_id="$said"), replies_to=poll)
        await story.hear(said)
        assert story.asked_of.comments == {"$said": ("$prompt", AGENT, "Trop long.")}
        story.matrix.hear(edit_event("Trop court.", target="$said"))
        await story.settle()
        assert story.asked_of.comments == {"$said": ("$prompt", AGENT, "Trop court.")}
        story.matrix.hear(redaction("$said"))
        await story.settle()

    assert story.asked_of.comments == {}
    assert [one.text for one in story.notices] == [FR("feedback kept")]
    assert len(story.model.requests) == 1


async def test_a_poll_that_the_ledger_does_not_know_keeps_no_comment(story: FeedbackStory) -> None:
    async with story.run():
        poll = await story.ask()
        story.asked_of.sent.clear()
        await story.hear(replace(message("Bien.", event_id="$said"), replies_to=poll))

    assert story.asked_of.comments == {}
    assert story.notices[-1].text == FR("poll unknown")


@pytest.mark.parametrize(
    ("typed", "rating"),
    [
        ("!avis oui", ("yes", None)),
        ("!avis En partie.", ("partly", None)),
        ("!avis non", ("no", None)),
        ("!avis 👍", ("yes", None)),
        ("!feedback partly", ("partly", None)),
    ],
)
async def test_a_reply_may_be_rated_by_a_word(
    story: FeedbackStory, typed: str, rating: tuple[str, None]
) -> None:
    story.feedback = AskPolicy(when="never")
    async with story.run():
        await story.hear(message())
        await story.hear(message(typed, event_id="$typed"))

    assert story.rating() == rating
    assert story.shown[-1] == FR("thanks")


@pytest.mark.parametrize(
    ("first", "edit", "rating", "comment"),
    [
        ("!avis oui", "!avis non", ("no", None), None),
        ("!avis oui", "!avis Trop long.", None, "Trop long."),
        ("!avis Trop court.", "!avis Trop long.", None, "Trop long."),
        ("!avis Trop court.", "!feedback yes", ("yes", None), None),
        ("!avis Trop court.", "!avis", None, None),
        ("!avis Trop court.", "!aide", None, None),
        ("!avis Trop court.", "Quel est le salaire de Nia ?", None, None),
        ("!avis oui", "oui", None, None),
        ("!avis Trop court.", "!avis partager oui", None, None),
        ("!avis Trop court.", "!avis " + "x" * 4_001, None, None),
    ],
)
async def test_an_edit_of_the_command_says_something_else(
    story: FeedbackStory,
    first: str,
    edit: str,
    rating: tuple[str, None] | None,
    comment: str | None,
) -> None:
    story.feedback = AskPolicy(when="never")
    async with story.run():
        await story.hear(message())
        await story.hear(message(first, event_id="$typed"))
        await story.hear(edit_event(edit, target="$typed"))

    assert story.asked_of.ratings.get((EventId("$prompt"), AGENT)) == rating
    kept = story.asked_of.comments.get(EventId("$typed"))
    assert kept == (None if comment is None else ("$prompt", AGENT, comment))


@pytest.mark.parametrize(
    ("change", "comments"),
    [
        (redaction("$typed"), []),
        (edit_event("!avis Trop court.", target="$typed"), ["Trop court."]),
    ],
    ids=["redacted", "edited"],
)
async def test_a_change_of_mind_that_comes_at_once_finds_what_it_changes(
    story: FeedbackStory, change: Redaction | Edit, comments: list[str]
) -> None:
    story.feedback = AskPolicy(when="never")
    gate = story.hold_comments()
    async with story.run():
        await story.hear(message())
        story.matrix.hear(message("!avis Trop long.", event_id="$typed"), change)
        await story.settle()
        gate.set()
        await story.until(lambda: story.done("$typed", change.event_id))

    assert [text for _, _, text in story.asked_of.comments.values()] == comments


async def test_a_redaction_of_an_edit_that_waits_takes_its_words_along(
    story: FeedbackStory,
) -> None:
    story.feedback = AskPolicy(when="never")
    gate = story.hold_comments()
    async with story.run():
        await story.hear(message())
        edit = edit_event("!avis Un secret.", target="$typed")
        story.matrix.hear(message("!avis Bien.", event_id="$typed"), edit, redaction("$edit"))
        await story.settle()
        gate.set()
        await story.until(lambda: story.done("$typed", "$edit", "$redaction"))

    assert story.asked_of.comments == {}


@pytest.mark.parametrize("known", [True, False])
async def test_an_edited_reply_to_a_poll_is_a_comment_after_a_restart_too(
    story: FeedbackStory, *, known: bool
) -> None:
    async with story.run():
        poll = await story.ask()
        await story.hear(replace(message("Bien.", event_id="$said"), replies_to=poll))
        if not known:
            story.matrix.known.clear()
        await story.hear(edit_event("Trop long.", target="$said"))

    assert [text for _, _, text in story.asked_of.comments.values()] == ["Trop long."]


async def test_an_outage_costs_no_edit_of_a_prompt(story: FeedbackStory) -> None:
    story.feedback = AskPolicy(when="never")
    async with story.run():
        await story.hear(message())
        story.matrix.known.clear()
        story.matrix.fetch_failure = HomeserverUnreachable("away")
        story.matrix.hear(edit_event("Bonsoir", target="$prompt"))
        await story.held.pass_time(200.0)
        story.matrix.fetch_failure = None
        await story.held.pass_time(100.0)
        await story.until(lambda: story.done("$edit"))

    assert len(story.model.requests) == 2


async def test_a_command_keeps_a_comment_on_the_reply_that_it_is_about(
    story: FeedbackStory,
) -> None:
    story.feedback = AskPolicy(when="never")
    async with story.run():
        await story.hear(message())
        [(reply, _)] = story.matrix.sent
        await story.hear(message("Et demain ?", event_id="$second"))
        await story.hear(message("!avis Clair.", event_id="$a"))
        about = replace(message("!avis Trop long.", event_id="$b"), replies_to=reply)
        await story.hear(about)
        await story.hear(replace(about, body="!avis ?", event_id=EventId("$c"), replies_to=None))

    kept = story.asked_of.comments
    assert kept[EventId("$a")] == ("$second", AGENT, "Clair.")
    assert kept[EventId("$b")] == ("$prompt", AGENT, "Trop long.")
    assert story.shown[-1] == FR("feedback kept")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("!avis", FR("feedback how")),
        ("!avis oui", FR("nothing to rate")),
        ("!avis " + "x" * 4_001, FR("feedback too long", n=4_000)),
        ("!sondages", FR("polls how")),
        ("!sondages peut-être", FR("polls how")),
    ],
)
async def test_a_word_that_says_nothing_is_told_how(
    story: FeedbackStory, typed: str, said: str
) -> None:
    async with story.run():
        await story.hear(message(typed))

    assert story.shown == [said]
    assert story.asked_of.comments == {}


async def test_an_exchange_is_handed_over_in_a_second_step_by_who_has_asked(
    story: FeedbackStory,
) -> None:
    story.feedback = AskPolicy(when="never")
    async with story.run():
        await story.hear(message("Quelle heure ?"))
        await story.hear(message("!avis partager", event_id="$1"))
        assert story.shown[-1] == FR("share how")
        assert story.asked_of.shared == {}
        await story.hear(message("!avis partager oui", event_id="$2", sender=COLLEAGUE))
        assert story.shown[-1] == FR("not shared")
        await story.hear(message("!avis partager oui", event_id="$3"))
        assert story.shown[-1] == FR("shared")
        kept = ("$prompt", AGENT, "Quelle heure ?", "Bonjour.")
        assert story.asked_of.shared == {EventId("$3"): kept}
        story.matrix.hear(redaction("$3"))
        await story.settle()

    assert story.asked_of.shared == {}


async def test_where_nothing_was_answered_nothing_can_be_handed_over(story: FeedbackStory) -> None:
    async with story.run():
        await story.hear(message("!avis partager oui"))

    assert story.shown == [FR("nothing to share")]
    assert story.asked_of.shared == {}


async def answer_of(story: FeedbackStory, *script: Delta | Exception | asyncio.Event) -> None:
    """Let a first prompt be answered, and a second one get what the model makes of it."""
    await story.hear(message("Quelle heure ?"))
    story.model.script = script
    story.matrix.hear(message("Et demain ?", event_id="$second"))


REFUSED = [
    pytest.param([ModelUnreachable("away")], id="the model is away"),
    pytest.param([ModelTimeout("too slow")], id="it is too slow"),
    pytest.param([ModelRefused("403")], id="it is refused"),
    pytest.param([TextDelta(" "), END], id="it says nothing"),
    pytest.param([ValueError("bug")], id="a bug"),
]


@pytest.mark.parametrize("lined", [False, True], ids=["a notice", "a line of the bot's own"])
@pytest.mark.parametrize("script", REFUSED)
@pytest.mark.parametrize("typed", ["!avis partager", "!avis partager oui"])
async def test_where_the_last_prompt_got_no_answer_the_one_before_is_not_handed_over(
    story: FeedbackStory, script: Sequence[Delta | Exception], typed: str, *, lined: bool
) -> None:
    story.feedback, gate = AskPolicy(when="never"), asyncio.Event()
    story.pace = replace(story.pace, line_after=0.01 if lined else 10.0)
    second = EventId("$second")
    async with story.run():
        await answer_of(story, gate, *script)
        if lined:
            await story.until(lambda: len(story.model.requests) == 2)
            story.clock.time += 1.0
            await story.until(lambda: second in story.store.replies)
        gate.set()
        while not story.done(second):
            await story.held.pass_time(5.0)  # it may be asked again
        replied = second in story.store.replies
        await story.hear(message(typed, event_id="$share"))

    assert replied is lined
    assert story.shown[-1] == FR("nothing to share")
    assert story.asked_of.shared == {}
    assert story.asked_of.comments == {}


async def test_what_was_stopped_before_its_first_word_is_not_handed_over(
    story: FeedbackStory,
) -> None:
    story.feedback = AskPolicy(when="never")
    async with story.run():
        await answer_of(story, asyncio.Event())
        await story.until(lambda: len(story.model.requests) == 2)
        await story.hear(message("!avis partager oui", event_id="$early"))
        assert story.shown[-1] == FR("nothing to share")
        await story.hear(message("!stop", event_id="$stop"))
        await story.until(lambda: story.done("$second"))
        await story.hear(message("!avis partager oui", event_id="$share"))

    assert story.shown[-1] == FR("nothing to share")
    assert story.asked_of.shared == {}


async def test_an_answer_that_is_being_written_is_handed_over_once_it_is_whole(
    story: FeedbackStory,
) -> None:
    story.feedback, gate = AskPolicy(when="never"), asyncio.Event()
    async with story.run():
        await answer_of(story, TextDelta("Il fera beau demain. "), gate, TextDelta("Oui."), END)
        await story.until(lambda: EventId("$second") in story.store.replies)
        story.matrix.hear(message("!avis partager oui", event_id="$share"))
        await story.settle()
        assert story.asked_of.shared == {}
        gate.set()
        await story.until(lambda: story.done("$share"))

    kept = ("$second", AGENT, "Et demain ?", "Il fera beau demain. Oui.")
    assert story.asked_of.shared == {EventId("$share"): kept}
    assert story.shown[-1] == FR("shared")


@pytest.mark.parametrize("quoting", [True, False])
async def test_an_answer_that_was_redacted_is_not_handed_over(
    story: FeedbackStory, *, quoting: bool
) -> None:
    story.feedback = AskPolicy(when="never")
    async with story.run():
        await story.hear(message("Quelle heure ?"))
        [(reply, _)] = story.matrix.sent
        story.matrix.hear(redaction(reply, event_id="$gone", sender=COLLEAGUE))
        await story.until(lambda: story.done("$gone"))
        share = message("!avis partager oui", event_id="$share")
        await story.hear(replace(share, replies_to=reply if quoting else None))

    assert story.shown[-1] == FR("nothing to share")
    assert story.asked_of.shared == {}


async def test_a_notice_that_is_replied_to_is_not_handed_over_and_a_poll_stands_for_its_reply(
    story: FeedbackStory,
) -> None:
    async with story.run():
        poll = await story.ask(message("Quelle heure ?"))
        await story.hear(message("!modele", event_id="$typed"))
        notice = story.matrix.sent[-1][0]
        share = message("!avis partager oui", event_id="$1")
        await story.hear(replace(share, replies_to=notice))
        assert story.shown[-1] == FR("nothing to share")
        assert story.asked_of.shared == {}
        await story.hear(replace(share, event_id=EventId("$2"), replies_to=poll))

    kept = ("$prompt", AGENT, "Quelle heure ?", "Bonjour.")
    assert story.asked_of.shared == {EventId("$2"): kept}


async def test_an_older_answer_is_handed_over_where_it_is_replied_to(story: FeedbackStory) -> None:
    story.feedback = AskPolicy(when="never")
    async with story.run():
        await answer_of(story, ModelRefused("403"))
        await story.until(lambda: story.done("$second"))
        reply = story.matrix.sent[0][0]
        share = message("!avis partager oui", event_id="$share")
        await story.hear(replace(share, replies_to=reply))

    kept = ("$prompt", AGENT, "Quelle heure ?", "Bonjour.")
    assert story.asked_of.shared == {EventId("$share"): kept}


async def test_a_person_who_wants_no_polls_gets_none_until_they_do(story: FeedbackStory) -> None:
    async with story.run():
        await story.hear(message("!sondages non", event_id="$1"))
        await story.hear(message(event_id="$2"))
        assert story.polls == []
        await story.hear(message("!sondages oui", event_id="$3"))
        await story.hear(message(event_id="$4"))

    assert [one.text for one in story.notices] == [FR("polls off here"), FR("polls on here")]
    assert [poll.latest for _, poll in story.polls] == ["$4"]


async def test_who_refuses_while_a_poll_waits_does_not_get_it(story: FeedbackStory) -> None:
    story.feedback = SILENT
    async with story.run():
        await story.hear(message())
        await story.hear(message("!sondages non", event_id="$no"))
        await story.held.pass_time(600.0)

    assert story.polls == []


async def test_in_a_salon_its_moderators_switch_polls(story: FeedbackStory) -> None:
    story.matrix.direct = False
    async with story.run():
        await story.hear(mention("!sondages non", event_id="$1"))
        assert story.shown[-1] == FR("moderators only")
        story.matrix.levels[AGENT] = 50
        await story.hear(mention("!sondages non", event_id="$2"))
        assert story.shown[-1] == FR("polls off in salon")
        await story.hear(mention(sender=COLLEAGUE, event_id="$3"))
        assert story.polls == []
        await story.hear(mention("!sondages oui", event_id="$4"))
        await story.hear(mention(sender=COLLEAGUE, event_id="$5"))

    assert [poll.thread_root for _, poll in story.polls] == ["$5"]


Change = Callable[[FeedbackStory], Awaitable[None]]


async def withdraw(story: FeedbackStory) -> None:
    story.matrix.hear(redaction())
    await story.settle()


async def leave(story: FeedbackStory) -> None:
    story.matrix.hear(closed=[ROOM])
    await story.settle()


@pytest.mark.parametrize("change", [withdraw, leave])
async def test_nobody_is_asked_about_what_is_gone(story: FeedbackStory, change: Change) -> None:
    story.feedback = SILENT
    async with story.run():
        await story.hear(message())
        await change(story)
        await story.held.pass_time(600.0)

    assert story.polls == []
    assert story.asked_of.asks == {}


async def test_a_poll_that_the_homeserver_refuses_is_given_up(story: FeedbackStory) -> None:
    story.feedback = SILENT
    async with story.run():
        await story.hear(message())
        story.matrix.failures = [Forbidden("no")]
        await story.held.pass_time(600.0)

    assert (story.polls, story.asked_of.asks) == ([], {})


async def test_a_poll_is_sent_once_the_homeserver_is_there_again(story: FeedbackStory) -> None:
    story.feedback = SILENT
    async with story.run():
        await story.hear(message())
        story.matrix.failures = [HomeserverUnreachable("away")] * 20
        await story.held.pass_time(900.0)

    assert len(story.polls) == 1


async def test_after_an_hour_it_is_too_late_to_ask(story: FeedbackStory) -> None:
    story.feedback = SILENT
    async with story.run():
        await story.hear(message())
    story.clock.time += 300 + 3601
    async with story.run():
        story.matrix.hear()
        await story.settle()

    assert (story.polls, story.asked_of.asks) == ([], {})


async def test_what_a_process_has_planned_the_next_one_sends(story: FeedbackStory) -> None:
    story.feedback = SILENT
    async with story.run():
        await story.hear(message())
    async with story.run():
        await story.held.pass_time(301.0)
        assert story.polls == []  # it is not known yet where the bot may speak
        story.matrix.hear()
        await story.settle()

    assert len(story.polls) == 1


_STEPS: Sequence[tuple[str, str]] = [
    ("matrix", "prepare"),
    ("matrix", "put"),
    ("opinions", "answered"),
    ("opinions", "due"),
    ("opinions", "begin"),
    ("opinions", "poll_sent"),
    ("opinions", "count"),
    ("store", "finish"),
]


class InterruptedFeedback(FeedbackStory):
    """A person who answers every poll, and a process that ends at one step."""

    def __init__(self) -> None:
        super().__init__()
        self.over = asyncio.Event()
        self.heard: list[Vote] = []

    def end_at(self, port: str, name: str, passage: int, *, after: bool) -> None:
        """Let the process end before or after it does this for the `passage`th time."""
        target = self.asked_of if port == "opinions" else getattr(self, port)
        operation, passed = getattr(target, name), itertools.count(1)

        async def breaking(*arguments: object, **more: object) -> object:
            here = next(passed) == passage
            result = None if here and not after else await operation(*arguments, **more)
            if here:
                self.over.set()
                await asyncio.Event().wait()
            return result

        setattr(target, name, breaking)

    async def live(self) -> None:
        """Run one process until it ends, or the person has answered both polls."""
        self.over.clear()
        known = self.store.events.keys()
        self.matrix.hear(*(one for one in self.heard if one.event_id not in known), missed=True)
        async with self.run():
            while not (self.over.is_set() or self.done("$prompt", "$vote0", "$vote1")):
                await self.settle()
                self.vote()

    def vote(self) -> None:
        """Answer the polls that are new."""
        for poll, asked in self.polls[len(self.heard) :]:
            answer = "no" if asked.question == FR("poll helped") else "other"
            number, at = len(self.heard), int(self.clock.now() * 1000)
            one = vote(answer, target=poll, event_id=f"$vote{number}", timestamp=at)
            self.heard.append(one)
            self.matrix.hear(one)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("passage", [1, 2, 3, 4])
@pytest.mark.parametrize(("port", "name"), _STEPS)
async def test_wherever_a_process_ends_there_is_one_poll_of_each_kind_and_the_vote_counts(
    port: str, name: str, passage: int, *, after: bool
) -> None:
    """The process ends at one step of a prompt, its poll, a vote, and the poll about that."""
    story = InterruptedFeedback()
    story.end_at(port, name, passage, after=after)
    story.matrix.hear(message())

    await story.live()
    if story.over.is_set():
        await story.live()

    assert [poll.question for _, poll in story.polls] == [FR("poll helped"), FR("poll why")]
    assert story.rating() == ("no", "other")
    assert len(story.notices) <= 1

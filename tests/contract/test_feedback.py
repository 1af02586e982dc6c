"""One class over every ledger of opinions: what the fake promises, the real one keeps."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio

from bot.core.events import Batch, Conversation, EventId, Prompt, UserId, Vote
from bot.core.feedback import Ask, AskHistory, ReplyMetadata
from bot.ports.feedback import Opinions
from bot.ports.ledger import Store, UndecryptedEvent
from bot.storage.feedback import SqlFeedback
from tests.fakes.feedback import FakeOpinions
from tests.fakes.ledger import FakeStore
from tests.harness.ledgers import KEY, open_store
from tests.make import (
    AGENT,
    COLLEAGUE,
    MIDNIGHT,
    ROOM,
    edit_event,
    message,
    prompt,
    reaction,
    undecryptable,
    vote,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

HOW = ReplyMetadata(sender=AGENT, direct=True, model="small", prompt_version="1234", seconds=3.5)
DAY, WINDOW = 86_400.0, 3_600.0
POLLED = EventId("$poll")
VOTED_AT = int(MIDNIGHT + 10) * 1000  # within the window, in milliseconds
MAIN = Conversation(ROOM, None)


@dataclass
class FeedbackStores:
    """A ledger of both kinds, in which prompts are answered."""

    store: Store
    opinions: Opinions

    async def answer(
        self,
        event_id: str = "$prompt",
        *,
        wait: float | None = None,
        how: ReplyMetadata = HOW,
        thread: str | None = None,
        at: float = MIDNIGHT,
    ) -> AskHistory:
        """Let a reply stand; ask about it after `wait` seconds. Return what is known then."""
        known: list[AskHistory] = []

        def after(past: AskHistory) -> float | None:
            known.append(past)
            return wait

        asked = self.asked(event_id, thread)
        await self.store.admit(Batch(events=asked.messages, next_batch=event_id), at)
        due_at = await self.opinions.answered(asked, how, after, at)
        assert due_at == (None if wait is None else at + wait)
        return known[0]

    @staticmethod
    def asked(event_id: str, thread: str | None = None) -> Prompt:
        return prompt(message(event_id=event_id, thread_root=thread))

    async def ask(self, event_id: str = "$prompt", poll: EventId = POLLED) -> Ask:
        """Let a reply stand, and a poll about it be sent at once."""
        await self.answer(event_id, wait=0.0)
        [ask], _ = await self.opinions.due(MIDNIGHT)
        await self.opinions.poll_sent(ask, poll, MIDNIGHT, MIDNIGHT + WINDOW)
        return ask

    async def ratings(self) -> dict[tuple[str, str], tuple[str | None, str | None]]:
        """Return the answers and reasons that count, by prompt and person."""
        if isinstance(self.opinions, FakeOpinions):
            return {(about, who): one for (about, who), one in self.opinions.ratings.items()}
        assert isinstance(self.opinions, SqlFeedback)
        people = {self.opinions.pseudonym(one): one for one in (AGENT, COLLEAGUE)}
        return {
            (row["prompt_event_id"], people[row["person"]]): (row["answer"], row["reason"])
            async for page in self.opinions.ratings(at_once=1)
            for row in page
        }

    async def shared(self) -> list[tuple[str, str]]:
        """Return the words of prompts and replies that were handed over."""
        if isinstance(self.opinions, FakeOpinions):
            return [one[2:] for one in self.opinions.shared.values()]
        assert isinstance(self.opinions, SqlFeedback)
        return [
            (row["prompt"], row["reply_text"])
            async for page in self.opinions.shared(at_once=1)
            for row in page
        ]

    async def comments(self) -> dict[str, tuple[str | None, str]]:
        """Return what was written, by the event that says it, with the prompt."""
        if isinstance(self.opinions, FakeOpinions):
            kept = self.opinions.comments.items()
            return {key: (about, text) for key, (about, _, text) in kept}
        assert isinstance(self.opinions, SqlFeedback)
        return {
            row["event_id"]: (row["prompt_event_id"], row["comment"])
            async for page in self.opinions.comments(at_once=1)
            for row in page
        }


@pytest_asyncio.fixture(loop_scope="session", params=["fake", "sqlite", "postgresql"])
async def ledger(
    request: pytest.FixtureRequest, migrated_ledger: Callable[[str], Awaitable[Path | str]]
) -> AsyncIterator[FeedbackStores]:
    if request.param == "fake":
        fake = FakeStore()
        yield FeedbackStores(fake, fake.opinions)
        return
    place = await migrated_ledger(request.param)
    real = await open_store(place)
    yield FeedbackStores(real, SqlFeedback(real.database, KEY))
    await real.close()


def cast(
    *answers: str,
    event_id: str = "$vote",
    at: int = VOTED_AT,
    sender: UserId = AGENT,
    target: str = POLLED,
) -> Vote:
    return vote(*answers, event_id=event_id, timestamp=at, sender=sender, target=target)


class TestOpinions:
    async def test_nothing_is_due_in_a_new_ledger(self, ledger: FeedbackStores) -> None:
        assert await ledger.opinions.due(MIDNIGHT) == ([], None)
        assert await ledger.opinions.last_answered(MAIN) is None
        assert await ledger.opinions.poll(ROOM, POLLED) is None

    async def test_a_number_that_no_column_holds_costs_its_own_work_alone(
        self, ledger: FeedbackStores
    ) -> None:
        with pytest.raises((ValueError, OverflowError)):  # a bug, and no ledger that is away
            await ledger.answer(how=replace(HOW, completion_tokens=2**64 - 1))

        await ledger.answer(event_id="$next")

    async def test_a_poll_is_due_once_its_time_has_come_and_until_it_is_sent(
        self, ledger: FeedbackStores
    ) -> None:
        await ledger.answer(wait=300.0)

        assert await ledger.opinions.due(MIDNIGHT + 299) == ([], MIDNIGHT + 300)
        [ask], later = await ledger.opinions.due(MIDNIGHT + 300)
        assert later is None
        assert ask == Ask(
            number=ask.number,
            prompt=EventId("$prompt"),
            question="helped",
            room_id=ROOM,
            thread_root=None,
            due_at=MIDNIGHT + 300,
            planned_at=MIDNIGHT + 300,
        )
        await ledger.opinions.put_off(ask, MIDNIGHT + 400)
        assert await ledger.opinions.due(MIDNIGHT + 300) == ([], MIDNIGHT + 400)
        await ledger.opinions.poll_sent(ask, POLLED, MIDNIGHT + 400, MIDNIGHT + 500)
        assert await ledger.opinions.due(MIDNIGHT + 400) == ([], None)
        assert await ledger.opinions.poll(ROOM, POLLED) == replace(ask, due_at=MIDNIGHT + 400)

    async def test_a_poll_that_is_dropped_is_never_due_again_unless_it_was_sent(
        self, ledger: FeedbackStores
    ) -> None:
        await ledger.answer("$1", wait=0.0)
        [first], _ = await ledger.opinions.due(MIDNIGHT)
        await ledger.opinions.drop(first)
        second = await ledger.ask("$2")
        await ledger.opinions.drop(second)

        assert await ledger.opinions.due(MIDNIGHT + DAY) == ([], None)
        assert await ledger.opinions.poll(ROOM, POLLED) == second

    async def test_a_poll_that_waits_gives_way_to_one_about_a_later_reply(
        self, ledger: FeedbackStores
    ) -> None:
        await ledger.answer("$1", wait=300.0)
        past = await ledger.answer("$2", wait=300.0, at=MIDNIGHT + 60)

        assert past == AskHistory(waiting=True)
        [ask], later = await ledger.opinions.due(MIDNIGHT + 360)
        assert (ask.prompt, later) == (EventId("$2"), None)

        await ledger.answer("$3", at=MIDNIGHT + 120)
        assert await ledger.opinions.due(MIDNIGHT + DAY) == ([], None)

    async def test_nobody_is_asked_twice_in_a_row_in_one_conversation(
        self, ledger: FeedbackStores
    ) -> None:
        assert await ledger.answer("$0") == AskHistory()
        await ledger.ask("$1")

        assert await ledger.answer("$1") == AskHistory(asked=1, last_asked=True)  # once more
        assert await ledger.answer("$2") == AskHistory(asked=1, last_asked=True)
        assert await ledger.answer("$3") == AskHistory(asked=1)
        assert await ledger.answer("$4", thread="$root") == AskHistory(asked=1)

    async def test_polls_are_counted_by_person_for_a_day(self, ledger: FeedbackStores) -> None:
        await ledger.ask("$1")
        await ledger.answer("$2", thread="$root", wait=DAY)  # planned counts, too

        assert (await ledger.answer("$3", thread="$other")).asked == 2
        assert (await ledger.answer("$4", how=replace(HOW, sender=COLLEAGUE))).asked == 0
        later = await ledger.answer("$5", thread="$other", at=MIDNIGHT + DAY + 1)
        assert later.asked == 1

    async def test_a_person_may_refuse_polls_and_a_room(self, ledger: FeedbackStores) -> None:
        await ledger.opinions.want_polls(AGENT, wanted=False)
        assert (await ledger.answer("$1")).refused
        assert not (await ledger.answer("$2", how=replace(HOW, sender=COLLEAGUE))).refused

        await ledger.opinions.want_polls(AGENT, wanted=True)
        assert not (await ledger.answer("$3")).refused

        await ledger.opinions.want_polls(ROOM, wanted=False)
        assert (await ledger.answer("$4")).refused
        assert (await ledger.answer("$5", thread="$root")).refused
        await ledger.opinions.want_polls(ROOM, wanted=True)
        assert not (await ledger.answer("$6")).refused

    async def test_the_last_reply_of_each_conversation_is_known(
        self, ledger: FeedbackStores
    ) -> None:
        await ledger.answer("$1")
        await ledger.answer("$2", at=MIDNIGHT + 1)
        await ledger.answer("$3", thread="$root", at=MIDNIGHT + 2)

        assert await ledger.opinions.last_answered(MAIN) == "$2"
        in_thread = Conversation(ROOM, EventId("$root"))
        assert await ledger.opinions.last_answered(in_thread) == "$3"

    async def test_a_vote_rates_the_reply_and_the_last_one_counts(
        self, ledger: FeedbackStores
    ) -> None:
        ask = await ledger.ask()

        counted = await ledger.opinions.count(cast("yes"), MIDNIGHT)

        assert counted is not None
        assert (counted.ask, counted.answer, counted.thanks) == (ask, "yes", True)
        assert not counted.goes_on
        assert await ledger.ratings() == {("$prompt", AGENT): ("yes", None)}

        again = await ledger.opinions.count(cast("yes", "no", event_id="$2"), MIDNIGHT)
        assert again is not None
        assert not again.thanks
        earlier = cast("no", event_id="$3", at=VOTED_AT - 1)
        assert await ledger.opinions.count(earlier, MIDNIGHT) is not None
        assert await ledger.ratings() == {("$prompt", AGENT): ("yes", None)}

    async def test_who_is_not_content_is_asked_why_once(self, ledger: FeedbackStores) -> None:
        await ledger.ask()

        counted = await ledger.opinions.count(cast("partly"), MIDNIGHT)

        assert counted is not None
        assert (counted.goes_on, counted.thanks) == (True, False)
        [why], _ = await ledger.opinions.due(MIDNIGHT)
        assert (why.prompt, why.question) == ("$prompt", "why")
        worse = await ledger.opinions.count(cast("no", event_id="$2", at=VOTED_AT + 1), MIDNIGHT)
        assert worse is not None
        assert not worse.goes_on

        await ledger.opinions.poll_sent(why, EventId("$why"), MIDNIGHT, MIDNIGHT + WINDOW)
        reason = cast("sources", event_id="$3", target="$why", at=VOTED_AT + 2)
        told = await ledger.opinions.count(reason, MIDNIGHT)
        assert told is not None
        assert (told.answer, told.thanks, told.goes_on) == ("sources", True, False)
        assert await ledger.ratings() == {("$prompt", AGENT): ("no", "sources")}

        await ledger.opinions.count(cast("yes", event_id="$4", at=VOTED_AT + 3), MIDNIGHT)
        assert await ledger.ratings() == {("$prompt", AGENT): ("yes", None)}
        await ledger.opinions.count(cast("partly", event_id="$5", at=VOTED_AT + 4), MIDNIGHT)
        assert await ledger.ratings() == {("$prompt", AGENT): ("partly", None)}
        await ledger.opinions.count(cast("no", event_id="$6", at=VOTED_AT + 5), MIDNIGHT)
        assert await ledger.ratings() == {("$prompt", AGENT): ("no", "sources")}

    async def test_an_empty_or_spoilt_vote_takes_the_one_before_back(
        self, ledger: FeedbackStores
    ) -> None:
        await ledger.ask()
        await ledger.opinions.count(cast("yes"), MIDNIGHT)

        counted = await ledger.opinions.count(cast(event_id="$2", at=VOTED_AT + 1), MIDNIGHT)

        assert counted is not None
        assert (counted.answer, counted.thanks) == (None, False)
        assert await ledger.ratings() == {}
        spoilt = cast("yes", "maybe", event_id="$3", at=VOTED_AT + 2)
        assert await ledger.opinions.count(spoilt, MIDNIGHT) is not None
        assert await ledger.ratings() == {}

    @pytest.mark.parametrize(
        "odd",
        [
            cast("yes", target="$unknown"),
            cast("yes", at=int((MIDNIGHT + WINDOW) * 1000) + 1),
            cast("yes", sender=COLLEAGUE),
        ],
        ids=["of no poll of ours", "too late", "of somebody who was not asked"],
    )
    async def test_a_vote_that_does_not_count_changes_nothing(
        self, ledger: FeedbackStores, odd: Vote
    ) -> None:
        await ledger.ask()

        assert await ledger.opinions.count(odd, MIDNIGHT + DAY) is None
        assert await ledger.ratings() == {}
        assert await ledger.opinions.due(MIDNIGHT + DAY) == ([], None)

    async def test_a_vote_that_was_cast_in_time_counts_whenever_it_is_heard(
        self, ledger: FeedbackStores
    ) -> None:
        await ledger.ask()

        assert await ledger.opinions.count(cast("yes"), MIDNIGHT + 30 * DAY) is not None
        assert await ledger.ratings() == {("$prompt", AGENT): ("yes", None)}

    async def test_a_vote_that_is_told_twice_counts_once(self, ledger: FeedbackStores) -> None:
        await ledger.ask()
        first = await ledger.opinions.count(cast("no"), MIDNIGHT)
        again = await ledger.opinions.count(cast("no"), MIDNIGHT)

        assert first is not None
        assert again is not None
        assert (first.goes_on, again.goes_on) == (True, False)
        assert await ledger.ratings() == {("$prompt", AGENT): ("no", None)}
        await ledger.opinions.withdraw(EventId("$vote"))
        assert await ledger.ratings() == {}

    async def test_of_thumbs_the_last_that_stands_counts_for_each_person(
        self, ledger: FeedbackStores
    ) -> None:
        await ledger.answer()
        up = reaction("👍", event_id="$up", timestamp=VOTED_AT)
        down = reaction("👎", event_id="$down", timestamp=VOTED_AT + 1)
        theirs = reaction("👍", event_id="$theirs", sender=COLLEAGUE)
        await ledger.opinions.rate(up, EventId("$prompt"), "yes", MIDNIGHT)
        await ledger.opinions.rate(down, EventId("$prompt"), "no", MIDNIGHT)
        await ledger.opinions.rate(theirs, EventId("$prompt"), "yes", MIDNIGHT)

        of_colleague = ("$prompt", COLLEAGUE), ("yes", None)
        assert await ledger.ratings() == dict([(("$prompt", AGENT), ("no", None)), of_colleague])
        await ledger.opinions.withdraw(EventId("$down"))
        assert await ledger.ratings() == dict([(("$prompt", AGENT), ("yes", None)), of_colleague])
        await ledger.opinions.withdraw(EventId("$up"))
        assert await ledger.ratings() == dict([of_colleague])

    async def test_a_comment_says_what_it_last_said_until_it_is_withdrawn(
        self, ledger: FeedbackStores
    ) -> None:
        await ledger.answer()
        said = message("Trop long.", event_id="$said")
        await ledger.opinions.comment(said, EventId("$prompt"), MIDNIGHT)
        await ledger.opinions.comment(message("Bien.", event_id="$2"), None, MIDNIGHT)

        await ledger.opinions.amend(edit_event("Trop court.", target="$said"), None, MIDNIGHT)
        forged = edit_event("Parfait !", target="$said", sender=COLLEAGUE)
        await ledger.opinions.amend(forged, None, MIDNIGHT)
        await ledger.opinions.amend(edit_event("Rien.", target="$other"), None, MIDNIGHT)
        await ledger.opinions.amend(edit_event("oui", target="$2"), "yes", MIDNIGHT)
        kept = {"$said": ("$prompt", "Trop court."), "$2": (None, "oui")}
        assert await ledger.comments() == kept
        await ledger.opinions.amend(edit_event("Bien.", target="$2"), None, MIDNIGHT)

        kept = {"$said": ("$prompt", "Trop court."), "$2": (None, "Bien.")}
        assert await ledger.comments() == kept
        await ledger.opinions.withdraw(EventId("$said"))
        assert await ledger.comments() == {"$2": (None, "Bien.")}

    async def test_a_word_that_rates_becomes_a_comment_by_its_edit_and_a_comment_such_a_word(
        self, ledger: FeedbackStores
    ) -> None:
        await ledger.answer()
        said, about = message("!avis oui", event_id="$said"), EventId("$prompt")
        await ledger.opinions.rate(said, about, "yes", MIDNIGHT)

        for _ in range(2):
            no = edit_event("non", event_id="$e1", target="$said", timestamp=2)
            await ledger.opinions.amend(no, "no", MIDNIGHT)
        assert await ledger.ratings() == {("$prompt", AGENT): ("no", None)}
        forged = edit_event("oui", target="$said", sender=COLLEAGUE, timestamp=3)
        await ledger.opinions.amend(forged, "yes", MIDNIGHT)
        assert await ledger.ratings() == {("$prompt", AGENT): ("no", None)}
        words = edit_event("Trop long.", event_id="$e2", target="$said", timestamp=4)
        await ledger.opinions.amend(words, None, MIDNIGHT)
        assert await ledger.ratings() == {}
        assert await ledger.comments() == {"$said": ("$prompt", "Trop long.")}
        yes = edit_event("oui", event_id="$e3", target="$said", timestamp=5)
        await ledger.opinions.amend(yes, "yes", MIDNIGHT)
        assert await ledger.comments() == {}
        assert await ledger.ratings() == {("$prompt", AGENT): ("yes", None)}

    async def test_an_edit_that_says_nothing_or_is_redacted_takes_all_along(
        self, ledger: FeedbackStores
    ) -> None:
        await ledger.answer()
        about = EventId("$prompt")
        for number in range(2):
            said = message("Trop long.", event_id=f"$c{number}")
            await ledger.opinions.comment(said, about, MIDNIGHT)
            rated = message("!avis oui", event_id=f"$r{number}")
            await ledger.opinions.rate(rated, about, "yes", MIDNIGHT)

        known = [
            await ledger.opinions.is_opinion(EventId(one)) for one in ("$c0", "$r0", "$other")
        ]
        assert known == [True, True, False]
        for target in ("$c0", "$r0"):
            nothing = edit_event("", event_id="$e0", target=target)
            await ledger.opinions.amend(nothing, None, MIDNIGHT)
        secret = edit_event("Un secret.", event_id="$e1", target="$c1")
        await ledger.opinions.amend(secret, None, MIDNIGHT)
        await ledger.opinions.amend(
            edit_event("non", event_id="$e2", target="$r1"), "no", MIDNIGHT
        )
        assert await ledger.comments() == {"$c1": ("$prompt", "Un secret.")}
        assert await ledger.ratings() == {("$prompt", AGENT): ("no", None)}
        for edit in ("$e1", "$e2"):
            await ledger.opinions.withdraw(EventId(edit))

        assert await ledger.comments() == {}
        assert await ledger.ratings() == {}

    async def test_no_edit_changes_a_vote(self, ledger: FeedbackStores) -> None:
        await ledger.ask()
        await ledger.opinions.count(cast("yes"), MIDNIGHT + 1)

        await ledger.opinions.amend(edit_event("non", target="$vote"), "no", MIDNIGHT + 2)

        assert await ledger.ratings() == {("$prompt", AGENT): ("yes", None)}

    @pytest.mark.parametrize("gone", ["$command", "$prompt"])
    async def test_what_is_handed_over_goes_with_its_prompt_or_with_the_command(
        self, ledger: FeedbackStores, gone: str
    ) -> None:
        await ledger.answer()
        command = message("!avis partager oui", event_id="$command")
        for _ in range(2):
            both = "Quelle heure ?", "Midi."
            await ledger.opinions.share(command, EventId("$prompt"), both, MIDNIGHT)

        assert await ledger.shared() == [("Quelle heure ?", "Midi.")]
        await ledger.opinions.withdraw(EventId("$other"))
        assert len(await ledger.shared()) == 1
        await ledger.opinions.withdraw(EventId(gone))
        assert await ledger.shared() == []

    async def test_nobody_is_asked_about_a_prompt_that_is_withdrawn(
        self, ledger: FeedbackStores
    ) -> None:
        await ledger.answer(wait=300.0)
        await ledger.opinions.withdraw(EventId("$prompt"))

        assert await ledger.opinions.due(MIDNIGHT + DAY) == ([], None)

    async def test_only_votes_in_polls_of_ours_are_admitted(self, ledger: FeedbackStores) -> None:
        await ledger.ask()
        mine, other = cast("yes"), cast("yes", event_id="$other", target="$unknown")
        sealed = replace(undecryptable("$sealed"), refers_to=POLLED)
        stray = replace(undecryptable("$stray"), refers_to=EventId("$unknown"))

        heard = (mine, other, sealed, stray)
        assert await ledger.store.admit(Batch(events=heard, next_batch="s2"), MIDNIGHT) == [
            mine,
            sealed,
        ]
        await ledger.answer("$2", wait=0.0)
        assert (
            await ledger.store.admit(Batch(events=(other, stray), next_batch="s3"), MIDNIGHT) == []
        )
        [ask], _ = await ledger.opinions.due(MIDNIGHT)
        await ledger.opinions.begin(ask)  # where it is not known yet, each may be one
        assert await ledger.store.admit(
            Batch(events=(other, stray), next_batch="s4"), MIDNIGHT
        ) == [other, stray]
        await ledger.store.finish(EventId("$2"), other.event_id, stray.event_id)
        left = await ledger.store.unfinished()
        assert UndecryptedEvent(sealed, MIDNIGHT) in left
        assert [one.event_id for one in left if not isinstance(one, UndecryptedEvent)][1:] == [
            "$vote"
        ]

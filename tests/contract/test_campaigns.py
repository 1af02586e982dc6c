"""One class over every ledger of campaigns: what the fake promises, the real one keeps."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio

from bot.core.campaigns import (
    CLOSED,
    AskedQuestion,
    CampaignResults,
    DeliveryProgress,
    DueMessage,
    Recipient,
    RecipientRoom,
)
from bot.core.events import Batch, EventId, Room, RoomId, UserId, Vote
from bot.core.feedback import ReplyMetadata
from bot.ports.campaigns import CampaignLedger
from bot.ports.feedback import Opinions
from bot.ports.ledger import Store
from bot.storage.campaigns import SqlCampaigns
from bot.storage.feedback import SqlFeedback
from tests.fakes.ledger import FakeStore
from tests.harness.ledgers import KEY, open_store
from tests.make import AGENT, COLLEAGUE, MIDNIGHT, ROOM, edit_event, message, prompt, vote

pytestmark = pytest.mark.asyncio(loop_scope="session")

SALON = RoomId("!salon:tchap.test")
DAY = 86_400.0
ENDS = MIDNIGHT + DAY
TO = (Recipient(ROOM, AGENT), Recipient(SALON))
HERE, THERE = RecipientRoom(ROOM), RecipientRoom(SALON, direct=False)
FIRST, SECOND = EventId("$first"), EventId("$second")
VOTED_AT = int(MIDNIGHT + 10) * 1000
ASKED = AskedQuestion("n", "1", HERE)
ROOMS = (Room(room_id=ROOM, direct=True, person=AGENT), Room(room_id=SALON, direct=False))
TO_HERE, TO_THERE = (
    DueMessage(campaign="n", recipient=place, kind="step", step=0, due_at=MIDNIGHT)
    for place in (HERE, THERE)
)


@dataclass
class CampaignStores:
    store: Store
    opinions: Opinions
    campaigns: CampaignLedger

    async def launch(self, name: str = "n", *, to: tuple[Recipient, ...] = TO) -> None:
        await self.campaigns.draft(name, "name: n", MIDNIGHT)
        assert await self.campaigns.launch(name, to, MIDNIGHT, ENDS)

    async def ask(
        self, one: DueMessage, event_id: EventId, key: str = "1", *, next_due: float | None = None
    ) -> None:
        await self.campaigns.sent(
            one, event_id, MIDNIGHT, question=(key, True), next_due=next_due, remind_at=None
        )

    async def first(self, now: float = MIDNIGHT, name: str = "n") -> DueMessage | None:
        """Return what a campaign that goes on is to send first."""
        found = await self.campaigns.due(name, now)
        assert found is not None
        return found[0]

    async def answer(self, said: Vote, answer: str | None, asked: AskedQuestion = ASKED) -> str:
        step = int(asked.question) - 1
        return await self.campaigns.answer(
            said, asked, answer, step=step, steps=2, at=MIDNIGHT + 20
        )


@pytest_asyncio.fixture(loop_scope="session", params=["fake", "sqlite", "postgresql"])
async def ledger(
    request: pytest.FixtureRequest, migrated_ledger: Callable[[str], Awaitable[Path | str]]
) -> AsyncIterator[CampaignStores]:
    if request.param == "fake":
        fake = FakeStore()
        yield CampaignStores(fake, fake.opinions, fake.campaigns)
        return
    place = await migrated_ledger(request.param)
    real = await open_store(place)
    opinions, campaigns = SqlFeedback(real.database, KEY), SqlCampaigns(real.database, KEY)
    yield CampaignStores(real, opinions, campaigns)
    await real.close()


def cast(
    *, sender: UserId = AGENT, event_id: str = "$vote", at: int = VOTED_AT, target: str = FIRST
) -> Vote:
    return vote("1", sender=sender, event_id=event_id, timestamp=at, target=target)


class TestCampaigns:
    async def test_a_draft_may_be_written_anew_until_it_is_launched(
        self, ledger: CampaignStores
    ) -> None:
        assert await ledger.campaigns.definition("n") is None
        assert await ledger.campaigns.draft("n", "one", MIDNIGHT)
        assert await ledger.campaigns.draft("n", "two", MIDNIGHT)
        assert await ledger.campaigns.definition("n") == "two"
        assert await ledger.campaigns.names() == [("n", "draft")]
        assert await ledger.campaigns.running() == []

        assert await ledger.campaigns.launch("n", TO, MIDNIGHT, None)
        assert not await ledger.campaigns.draft("n", "three", MIDNIGHT)
        assert not await ledger.campaigns.launch("n", TO, MIDNIGHT, None)
        assert await ledger.campaigns.definition("n") == "two"
        assert await ledger.campaigns.running() == ["n"]

    async def test_each_room_is_due_from_the_beginning_on(self, ledger: CampaignStores) -> None:
        await ledger.launch()

        assert await ledger.campaigns.due("n", MIDNIGHT - 1) == (None, MIDNIGHT)
        assert await ledger.campaigns.due("n", MIDNIGHT) == (TO_HERE, ENDS)
        assert not await ledger.campaigns.is_begun(ROOM)
        begun = await ledger.campaigns.begin(TO_HERE, ROOMS[0], MIDNIGHT, asks=True)
        assert begun == MIDNIGHT
        assert await ledger.campaigns.is_begun(ROOM)
        assert not await ledger.campaigns.is_begun(SALON)
        await ledger.ask(TO_HERE, FIRST)
        assert not await ledger.campaigns.is_begun(ROOM)
        assert await ledger.first() == TO_THERE

    async def test_a_question_waits_for_its_answer_and_the_next_one_is_due_then(
        self, ledger: CampaignStores
    ) -> None:
        await ledger.launch()
        await ledger.ask(TO_HERE, FIRST)

        assert await ledger.first() == TO_THERE
        assert await ledger.campaigns.question_at(ROOM, FIRST) == ASKED
        assert await ledger.campaigns.question_at(SALON, FIRST) is None
        assert await ledger.answer(cast(), "1") == "goes on"
        again = await ledger.first(MIDNIGHT + 20)
        assert again == DueMessage(
            campaign="n", recipient=HERE, kind="step", step=1, due_at=MIDNIGHT + 20, event_id=FIRST
        )
        await ledger.ask(again, SECOND, "2")
        last = AskedQuestion("n", "2", HERE)
        assert await ledger.answer(cast(event_id="$2", target=SECOND), "2", last) == "thanks"
        once_more = cast(event_id="$3", at=VOTED_AT + 1, target=SECOND)
        assert await ledger.answer(once_more, "1", last) == "counts"

        progress = await ledger.campaigns.results("n")
        answers = {"1": {"1": 1}, "2": {"1": 1}}
        assert progress == CampaignResults(
            state="running",
            rooms=2,
            reached=1,
            declined=0,
            answered=1,
            completed=1,
            answers=answers,
        )

    async def test_an_answer_that_is_told_twice_counts_once(self, ledger: CampaignStores) -> None:
        await ledger.launch()
        await ledger.ask(TO_HERE, FIRST)

        assert [await ledger.answer(cast(), "1") for _ in range(2)] == ["goes on", "goes on"]
        progress = await ledger.campaigns.results("n")
        assert progress is not None
        assert progress.answers == {"1": {"1": 1}}

    async def test_the_last_vote_counts_and_an_empty_one_takes_it_back(
        self, ledger: CampaignStores
    ) -> None:
        await ledger.launch()
        await ledger.ask(TO_HERE, FIRST)

        async def counts() -> object:
            progress = await ledger.campaigns.results("n")
            assert progress is not None
            return progress.answers.get("1", {})

        await ledger.answer(cast(), "1")
        await ledger.answer(cast(event_id="$2", at=VOTED_AT + 2), "2")
        await ledger.answer(cast(event_id="$3", at=VOTED_AT + 1), "1")
        assert await counts() == {"2": 1}
        await ledger.answer(cast(event_id="$4", at=VOTED_AT + 3), None)
        assert await counts() == {}

    async def test_who_was_not_asked_and_who_is_late_do_not_count(
        self, ledger: CampaignStores
    ) -> None:
        await ledger.launch()
        await ledger.ask(TO_HERE, FIRST)

        assert await ledger.answer(cast(sender=COLLEAGUE), "1") == "late"
        await ledger.campaigns.close("n", MIDNIGHT + 100)
        end = await ledger.first()
        assert end is not None
        await ledger.campaigns.ended(end)
        late = cast(event_id="$2", at=int(MIDNIGHT + 101) * 1000)
        assert await ledger.answer(late, "1") == "late"
        assert await ledger.campaigns.results("n") == CampaignResults(
            state="closed", rooms=2, reached=1
        )

    async def test_in_a_salon_everybody_counts_once(self, ledger: CampaignStores) -> None:
        await ledger.launch()
        await ledger.ask(TO_THERE, FIRST, next_due=MIDNIGHT + 2)
        place = replace(THERE, thread_root=FIRST)

        following = await ledger.first(MIDNIGHT + 2)
        assert following == DueMessage(
            campaign="n", recipient=place, kind="step", step=1, due_at=MIDNIGHT + 2, event_id=FIRST
        )
        asked = await ledger.campaigns.question_at(SALON, FIRST)
        assert asked == AskedQuestion("n", "1", place)
        votes = [
            cast(),
            cast(sender=COLLEAGUE, event_id="$2"),
            cast(event_id="$3", at=VOTED_AT + 1),
        ]
        assert [await ledger.answer(one, "1", asked) for one in votes] == ["counts"] * 3
        progress = await ledger.campaigns.results("n")
        assert progress is not None
        assert (progress.answers, progress.answered) == ({"1": {"1": 2}}, 1)

    async def test_what_is_written_is_an_answer_too(self, ledger: CampaignStores) -> None:
        await ledger.launch()
        await ledger.ask(TO_HERE, FIRST)
        said = replace(message("Des sources.", event_id="$said"), timestamp=VOTED_AT)

        async def write() -> str:
            return await ledger.campaigns.answer(said, ASKED, None, step=0, steps=1, at=MIDNIGHT)

        # A crash may have come before the thanks, which have an id of their own.
        assert [await write() for _ in range(2)] == ["thanks", "thanks"]
        progress = await ledger.campaigns.results("n")
        assert progress == CampaignResults(
            state="running",
            rooms=2,
            reached=1,
            declined=0,
            answered=1,
            completed=1,
            answers={},
            texts={"1": 1},
        )

    async def test_an_answer_that_is_withdrawn_counts_no_more(
        self, ledger: CampaignStores
    ) -> None:
        await ledger.launch()
        await ledger.ask(TO_HERE, FIRST)
        await ledger.answer(cast(), "1")
        await ledger.answer(cast(event_id="$2", at=VOTED_AT + 1), "2")

        await ledger.campaigns.withdraw(EventId("$2"))
        await ledger.campaigns.withdraw(EventId("$other"))

        progress = await ledger.campaigns.results("n")
        assert progress is not None
        assert progress.answers == {"1": {"1": 1}}

    async def test_what_is_sent_as_a_campaign_closes_is_ended_as_well(
        self, ledger: CampaignStores
    ) -> None:
        await ledger.launch(to=TO[:1])
        await ledger.campaigns.close("n", MIDNIGHT)
        assert await ledger.campaigns.due("n", MIDNIGHT) is None
        await ledger.ask(TO_HERE, FIRST, next_due=MIDNIGHT + 1)

        end = await ledger.first(MIDNIGHT + 10)
        assert end is not None
        assert (end.kind, end.event_id) == ("end", FIRST)
        await ledger.campaigns.ended(end)
        assert await ledger.campaigns.due("n", MIDNIGHT + 10) is None

    async def test_what_may_stand_already_is_sent_once_more_before_a_campaign_is_closed(
        self, ledger: CampaignStores
    ) -> None:
        await ledger.launch()
        await ledger.campaigns.begin(TO_THERE, ROOMS[1], MIDNIGHT, asks=True)

        await ledger.campaigns.close("n", MIDNIGHT)
        again = await ledger.first()
        assert again == replace(TO_THERE, begun=True)
        await ledger.opinions.want_polls(SALON, wanted=False)
        assert await ledger.campaigns.begin(again, ROOMS[1], MIDNIGHT, asks=True) == MIDNIGHT
        await ledger.ask(again, FIRST, next_due=MIDNIGHT + 2)
        assert not await ledger.campaigns.is_begun(SALON)
        end = await ledger.first()
        assert end is not None
        assert (end.kind, end.event_id) == ("end", FIRST)
        await ledger.campaigns.ended(end)
        assert await ledger.campaigns.due("n", MIDNIGHT) is None

    @pytest.mark.parametrize("poll", [True, False])
    async def test_what_may_stand_keeps_a_campaign_open_until_it_is_known(
        self, ledger: CampaignStores, *, poll: bool
    ) -> None:
        await ledger.launch()
        await ledger.campaigns.begin(TO_HERE, ROOMS[0], MIDNIGHT, asks=True)
        await ledger.campaigns.close("n", MIDNIGHT)
        assert await ledger.campaigns.names() == [("n", "closing")]

        if poll:
            await ledger.campaigns.decline(TO_HERE)
        else:
            await ledger.campaigns.sent(
                TO_HERE, FIRST, MIDNIGHT, question=None, next_due=None, remind_at=None
            )
        assert await ledger.campaigns.names() == [("n", "closed")]

    async def test_nothing_begins_once_a_campaign_is_closed(self, ledger: CampaignStores) -> None:
        await ledger.launch()
        await ledger.campaigns.close("n", MIDNIGHT)

        begun = await ledger.campaigns.begin(TO_HERE, ROOMS[0], MIDNIGHT, asks=False)
        assert begun is None
        assert not await ledger.campaigns.is_begun(ROOM)

    async def test_what_may_stand_already_comes_first(self, ledger: CampaignStores) -> None:
        await ledger.launch()
        await ledger.campaigns.begin(TO_THERE, ROOMS[1], MIDNIGHT, asks=True)

        assert await ledger.first() == replace(TO_THERE, begun=True)

    async def test_a_campaign_whose_time_is_over_says_so(self, ledger: CampaignStores) -> None:
        await ledger.launch()

        assert await ledger.campaigns.due("n", ENDS) == (None, ENDS)

    async def test_the_end_of_a_poll_that_was_put_off_is_due_later(
        self, ledger: CampaignStores
    ) -> None:
        await ledger.launch()
        await ledger.ask(TO_HERE, FIRST)
        await ledger.campaigns.close("n", MIDNIGHT)
        end = await ledger.first()
        assert end is not None
        await ledger.campaigns.put_off(end, MIDNIGHT + 300)

        assert await ledger.campaigns.due("n", MIDNIGHT) == (None, MIDNIGHT + 300)
        assert await ledger.first(MIDNIGHT + 300) == replace(end, due_at=MIDNIGHT + 300)

    async def test_a_redacted_edit_takes_its_words_along(self, ledger: CampaignStores) -> None:
        await ledger.launch()
        await ledger.ask(TO_HERE, FIRST)
        said = replace(message("Rien.", event_id="$said"), timestamp=VOTED_AT)
        await ledger.campaigns.answer(said, ASKED, None, step=0, steps=1, at=MIDNIGHT)
        await ledger.campaigns.amend(edit_event("Un secret.", event_id="$edit", target="$said"))

        await ledger.campaigns.withdraw(EventId("$edit"))

        progress = await ledger.campaigns.results("n")
        assert progress is not None
        assert progress.texts == {}

    async def test_a_person_is_reminded_once_unless_they_have_answered(
        self, ledger: CampaignStores
    ) -> None:
        await ledger.launch()
        await ledger.campaigns.decline(TO_THERE)
        await ledger.campaigns.sent(
            TO_HERE, FIRST, MIDNIGHT, question=("1", True), next_due=None, remind_at=MIDNIGHT + 60
        )

        assert await ledger.campaigns.due("n", MIDNIGHT) == (None, MIDNIGHT + 60)
        remind = await ledger.first(MIDNIGHT + 60)
        assert remind == DueMessage(
            campaign="n",
            recipient=HERE,
            kind="remind",
            step=1,
            due_at=MIDNIGHT + 60,
            event_id=FIRST,
        )
        await ledger.campaigns.reminded(remind)
        assert await ledger.campaigns.due("n", MIDNIGHT + 60) == (None, ENDS)

    async def test_an_answer_makes_a_reminder_needless(self, ledger: CampaignStores) -> None:
        await ledger.launch(to=TO[:1])
        await ledger.campaigns.sent(
            TO_HERE, FIRST, MIDNIGHT, question=("1", True), next_due=None, remind_at=MIDNIGHT + 60
        )
        await ledger.answer(cast(), "1")

        step = await ledger.first(MIDNIGHT + 60)
        assert step is not None
        assert step.kind == "step"

    async def test_what_is_put_off_is_due_later_and_what_is_declined_never(
        self, ledger: CampaignStores
    ) -> None:
        await ledger.launch()
        await ledger.campaigns.put_off(TO_HERE, MIDNIGHT + 300)
        await ledger.campaigns.decline(TO_THERE)

        assert await ledger.campaigns.due("n", MIDNIGHT) == (None, MIDNIGHT + 300)
        assert await ledger.first(MIDNIGHT + 300) == replace(TO_HERE, due_at=MIDNIGHT + 300)
        assert await ledger.campaigns.results("n") == CampaignResults(
            state="running", rooms=2, reached=0, declined=1
        )

    async def test_a_closed_campaign_ends_its_polls_one_by_one(
        self, ledger: CampaignStores
    ) -> None:
        await ledger.launch()
        await ledger.ask(TO_HERE, FIRST)
        await ledger.ask(TO_THERE, SECOND, next_due=MIDNIGHT + 2)

        assert await ledger.campaigns.close("n", MIDNIGHT + 100)
        assert not await ledger.campaigns.close("n", MIDNIGHT + 100)
        # As clients count: until the poll itself has ended.
        assert await ledger.answer(cast(at=int(MIDNIGHT + 101) * 1000), "1") != "late"
        ends = []
        while (found := await ledger.campaigns.due("n", MIDNIGHT + 200)) is not None:
            assert found[0] is not None
            assert found[0].kind == "end"
            ends.append(found[0].event_id)
            await ledger.campaigns.ended(found[0])
        assert ends == [FIRST, SECOND]
        assert await ledger.campaigns.names() == [("n", "closed")]

    async def test_what_a_poll_has_come_to_is_of_its_room(self, ledger: CampaignStores) -> None:
        await ledger.launch()
        await ledger.ask(TO_HERE, FIRST)
        await ledger.ask(TO_THERE, SECOND)
        salon = AskedQuestion("n", "1", replace(THERE, thread_root=SECOND))
        await ledger.answer(cast(), "2")
        await ledger.answer(cast(sender=COLLEAGUE, event_id="$2"), "1")  # was not asked
        for number, person in enumerate((AGENT, COLLEAGUE)):
            said = cast(sender=person, event_id=f"$there{number}", target=SECOND)
            await ledger.answer(said, "1", salon)

        assert await ledger.campaigns.poll_result(ROOM, FIRST) == ("1", {"2": 1})
        assert await ledger.campaigns.poll_result(SALON, SECOND) == ("1", {"1": 2})
        assert await ledger.campaigns.poll_result(ROOM, EventId("$other")) is None

    async def test_the_admins_are_told_once_how_far_it_is(self, ledger: CampaignStores) -> None:
        await ledger.launch()
        assert await ledger.campaigns.delivery_progress("n") == DeliveryProgress(
            2, 0, closed=False, reported=0
        )
        await ledger.ask(TO_HERE, FIRST)
        await ledger.campaigns.decline(TO_THERE)
        await ledger.campaigns.milestone_reported("n", 100)
        assert await ledger.campaigns.delivery_progress("n") == DeliveryProgress(
            2, 2, closed=False, reported=100
        )

        await ledger.campaigns.close("n", MIDNIGHT)
        end = await ledger.first()
        assert end is not None
        await ledger.campaigns.ended(end)
        assert await ledger.campaigns.running() == ["n"]
        await ledger.campaigns.milestone_reported("n", CLOSED)
        assert await ledger.campaigns.running() == []

    async def test_a_campaign_without_polls_closes_at_once(self, ledger: CampaignStores) -> None:
        await ledger.launch()
        await ledger.campaigns.close("n", MIDNIGHT)

        assert await ledger.campaigns.names() == [("n", "closed")]

    async def test_nobody_is_asked_by_two_campaigns_within_a_day(
        self, ledger: CampaignStores
    ) -> None:
        room = ROOMS[0]
        await ledger.launch()
        await ledger.launch("m")
        assert await ledger.campaigns.wanted(room, "m", MIDNIGHT) == MIDNIGHT
        await ledger.ask(TO_HERE, FIRST)

        assert await ledger.campaigns.wanted(room, "n", MIDNIGHT) == MIDNIGHT
        assert await ledger.campaigns.wanted(room, "m", MIDNIGHT + 60) == MIDNIGHT + DAY
        assert await ledger.campaigns.wanted(room, "m", MIDNIGHT + 2 * DAY) == MIDNIGHT + 2 * DAY
        await ledger.campaigns.begin(TO_THERE, ROOMS[1], MIDNIGHT, asks=True)
        assert await ledger.campaigns.wanted(ROOMS[1], "m", MIDNIGHT) == MIDNIGHT + 300
        other, now = replace(TO_HERE, campaign="m"), MIDNIGHT + 60
        assert await ledger.campaigns.begin(other, room, now, asks=True) == MIDNIGHT + DAY
        assert not await ledger.campaigns.is_begun(ROOM)
        assert await ledger.campaigns.begin(other, room, now, asks=False) == now
        assert await ledger.campaigns.is_begun(ROOM)

    async def test_what_has_begun_goes_on_whatever_another_campaign_asks(
        self, ledger: CampaignStores
    ) -> None:
        await ledger.launch()
        await ledger.launch("m")
        await ledger.ask(TO_HERE, FIRST, next_due=MIDNIGHT)
        await ledger.ask(replace(TO_HERE, campaign="m"), SECOND)

        second = await ledger.first()
        assert second is not None
        assert second.step == 1
        assert await ledger.campaigns.begin(second, ROOMS[0], MIDNIGHT, asks=True) == MIDNIGHT

    @pytest.mark.parametrize("whose", [AGENT, ROOM])
    async def test_who_wants_no_polls_is_asked_by_none(
        self, ledger: CampaignStores, whose: UserId | RoomId
    ) -> None:
        await ledger.launch()
        await ledger.opinions.want_polls(whose, wanted=False)

        assert await ledger.campaigns.wanted(ROOMS[0], "n", MIDNIGHT) is None
        assert await ledger.campaigns.begin(TO_HERE, ROOMS[0], MIDNIGHT, asks=True) is None
        assert not await ledger.campaigns.is_begun(ROOM)
        assert await ledger.campaigns.wanted(ROOMS[1], "n", MIDNIGHT) == MIDNIGHT

    async def test_votes_in_its_polls_are_admitted(self, ledger: CampaignStores) -> None:
        await ledger.launch(to=TO[:1])
        early, known = cast(target="$unknown"), cast(event_id="$2")
        await ledger.campaigns.begin(TO_HERE, ROOMS[0], MIDNIGHT, asks=True)
        assert await ledger.store.admit(Batch(events=(early,), next_batch="s1"), MIDNIGHT) == [
            early
        ]
        await ledger.ask(TO_HERE, FIRST)

        stray = cast(event_id="$3", target="$unknown")
        assert await ledger.store.admit(
            Batch(events=(known, stray), next_batch="s2"), MIDNIGHT
        ) == [known]

    async def test_a_room_is_active_that_was_answered(self, ledger: CampaignStores) -> None:
        await ledger.store.admit(Batch(events=(message(),), next_batch="s1"), MIDNIGHT)
        how = ReplyMetadata(sender=AGENT, direct=True)
        await ledger.opinions.answered(prompt(), how, lambda _: None, MIDNIGHT)

        assert await ledger.campaigns.active() == {ROOM: MIDNIGHT}

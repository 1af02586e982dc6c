"""One class over every ledger of campaigns: what the fake promises, the real one keeps."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio

from bot.core.campaigns import Asked, Place, Progress, Recipient, Sending
from bot.core.events import Batch, EventId, Room, RoomId, UserId, Vote
from bot.core.feedback import Circumstances
from bot.ports import CampaignLedger, Opinions, Store
from bot.storage.campaigns import SqlCampaigns
from bot.storage.opinions import SqlOpinions
from tests.contract.test_store import KEY, new_database, open_store, server
from tests.fakes import FakeStore
from tests.make import AGENT, COLLEAGUE, MIDNIGHT, ROOM, message, prompt, vote
from tests.stand.postgres import Postgres

__all__ = ["server"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

SALON = RoomId("!salon:tchap.test")
DAY = 86_400.0
ENDS = MIDNIGHT + DAY
TO = (Recipient(ROOM, AGENT), Recipient(SALON))
HERE, THERE = Place(ROOM), Place(SALON, direct=False)
FIRST, SECOND = EventId("$first"), EventId("$second")
VOTED_AT = int(MIDNIGHT + 10) * 1000
ASKED = Asked("n", "1", HERE)


@dataclass
class Ledger:
    store: Store
    opinions: Opinions
    campaigns: CampaignLedger

    async def launch(self, name: str = "n", *, to: tuple[Recipient, ...] = TO) -> None:
        await self.campaigns.draft(name, "name: n", MIDNIGHT)
        assert await self.campaigns.launch(name, to, MIDNIGHT, ENDS)

    async def ask(
        self, one: Sending, event_id: EventId, key: str = "1", *, next_due: float | None = None
    ) -> None:
        await self.campaigns.sent(
            one, event_id, MIDNIGHT, question=(key, True), next_due=next_due, remind_at=None
        )

    async def due(self, now: float = MIDNIGHT, name: str = "n") -> list[Sending]:
        return [*(await self.campaigns.due(name, now))[0]]

    async def answer(self, said: Vote, answer: str | None, asked: Asked = ASKED) -> str:
        step = int(asked.question) - 1
        return await self.campaigns.answer(
            said, asked, answer, step=step, steps=2, at=MIDNIGHT + 20
        )


@pytest_asyncio.fixture(loop_scope="module", params=["fake", "sqlite", "postgresql"])
async def ledger(
    request: pytest.FixtureRequest, server: Postgres | None, tmp_path: Path
) -> AsyncIterator[Ledger]:
    if request.param == "fake":
        fake = FakeStore()
        yield Ledger(fake, fake.opinions, fake.campaigns)
        return
    if request.param == "postgresql" and server is None:
        pytest.skip("there is no PostgreSQL on this machine")
    place: Path | str = tmp_path / "ledger.db"
    if request.param == "postgresql":
        assert server is not None
        place = await new_database(server)
    real = await open_store(place)
    opinions, campaigns = SqlOpinions(real.database, KEY), SqlCampaigns(real.database, KEY)
    yield Ledger(real, opinions, campaigns)
    await real.close()


def cast(
    *, sender: UserId = AGENT, event_id: str = "$vote", at: int = VOTED_AT, target: str = FIRST
) -> Vote:
    return vote("1", sender=sender, event_id=event_id, timestamp=at, target=target)


class TestCampaigns:
    async def test_a_draft_may_be_written_anew_until_it_is_launched(self, ledger: Ledger) -> None:
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

    async def test_each_room_is_due_from_the_beginning_on(self, ledger: Ledger) -> None:
        await ledger.launch()

        assert await ledger.campaigns.due("n", MIDNIGHT - 1) == ([], MIDNIGHT)
        due, later = await ledger.campaigns.due("n", MIDNIGHT)
        assert due == [
            Sending("n", HERE, "step", 0, MIDNIGHT),
            Sending("n", THERE, "step", 0, MIDNIGHT),
        ]
        assert later == ENDS
        assert not await ledger.campaigns.is_begun(ROOM)
        await ledger.campaigns.begin(due[0])
        assert await ledger.campaigns.is_begun(ROOM)
        assert not await ledger.campaigns.is_begun(SALON)
        await ledger.ask(due[0], FIRST)
        assert not await ledger.campaigns.is_begun(ROOM)

    async def test_a_question_waits_for_its_answer_and_the_next_one_is_due_then(
        self, ledger: Ledger
    ) -> None:
        await ledger.launch()
        [here, _] = await ledger.due()
        await ledger.ask(here, FIRST)

        assert [one.recipient for one in await ledger.due()] == [THERE]
        assert await ledger.campaigns.asked(ROOM, FIRST) == ASKED
        assert await ledger.campaigns.asked(SALON, FIRST) is None
        assert await ledger.answer(cast(), "1") == "goes on"
        [again, _] = await ledger.due(MIDNIGHT + 20)
        assert again == Sending("n", HERE, "step", 1, MIDNIGHT + 20, FIRST)
        await ledger.ask(again, SECOND, "2")
        last = Asked("n", "2", HERE)
        assert await ledger.answer(cast(event_id="$2", target=SECOND), "2", last) == "thanks"
        once_more = cast(event_id="$3", at=VOTED_AT + 1, target=SECOND)
        assert await ledger.answer(once_more, "1", last) == "counts"

        progress = await ledger.campaigns.progress("n")
        answers = {"1": {"1": 1}, "2": {"1": 1}}
        assert progress == Progress("running", 2, 1, 0, 1, 1, answers)

    async def test_an_answer_that_is_told_twice_counts_once(self, ledger: Ledger) -> None:
        await ledger.launch()
        [here, _] = await ledger.due()
        await ledger.ask(here, FIRST)

        assert [await ledger.answer(cast(), "1") for _ in range(2)] == ["goes on", "goes on"]
        progress = await ledger.campaigns.progress("n")
        assert progress is not None
        assert progress.answers == {"1": {"1": 1}}

    async def test_the_last_vote_counts_and_an_empty_one_takes_it_back(
        self, ledger: Ledger
    ) -> None:
        await ledger.launch()
        [here, _] = await ledger.due()
        await ledger.ask(here, FIRST)

        async def counts() -> object:
            progress = await ledger.campaigns.progress("n")
            assert progress is not None
            return progress.answers.get("1", {})

        await ledger.answer(cast(), "1")
        await ledger.answer(cast(event_id="$2", at=VOTED_AT + 2), "2")
        await ledger.answer(cast(event_id="$3", at=VOTED_AT + 1), "1")
        assert await counts() == {"2": 1}
        await ledger.answer(cast(event_id="$4", at=VOTED_AT + 3), None)
        assert await counts() == {}

    async def test_who_was_not_asked_and_who_is_late_do_not_count(self, ledger: Ledger) -> None:
        await ledger.launch()
        [here, _] = await ledger.due()
        await ledger.ask(here, FIRST)

        stranger = cast(sender=COLLEAGUE)
        late = cast(event_id="$2", at=int(ENDS * 1000) + 1)
        assert [await ledger.answer(one, "1") for one in (stranger, late)] == ["late", "late"]
        assert await ledger.campaigns.progress("n") == Progress("running", 2, 1)

    async def test_in_a_salon_everybody_counts_once(self, ledger: Ledger) -> None:
        await ledger.launch()
        [_, there] = await ledger.due()
        await ledger.ask(there, FIRST, next_due=MIDNIGHT + 2)
        place = replace(THERE, thread_root=FIRST)

        [following, _] = await ledger.due(MIDNIGHT + 2)
        assert following == Sending("n", place, "step", 1, MIDNIGHT + 2, FIRST)
        asked = await ledger.campaigns.asked(SALON, FIRST)
        assert asked == Asked("n", "1", place)
        votes = [
            cast(),
            cast(sender=COLLEAGUE, event_id="$2"),
            cast(event_id="$3", at=VOTED_AT + 1),
        ]
        assert [await ledger.answer(one, "1", asked) for one in votes] == ["counts"] * 3
        progress = await ledger.campaigns.progress("n")
        assert progress is not None
        assert (progress.answers, progress.answered) == ({"1": {"1": 2}}, 1)

    async def test_what_is_written_is_an_answer_too(self, ledger: Ledger) -> None:
        await ledger.launch()
        [here, _] = await ledger.due()
        await ledger.ask(here, FIRST)
        said = replace(message("Des sources.", event_id="$said"), timestamp=VOTED_AT)

        async def write() -> str:
            return await ledger.campaigns.answer(said, ASKED, None, step=0, steps=1, at=MIDNIGHT)

        assert await write() == "thanks"
        progress = await ledger.campaigns.progress("n")
        assert progress == Progress("running", 2, 1, 0, 1, 1, {}, {"1": 1})

    async def test_an_answer_that_is_withdrawn_counts_no_more(self, ledger: Ledger) -> None:
        await ledger.launch()
        [here, _] = await ledger.due()
        await ledger.ask(here, FIRST)
        await ledger.answer(cast(), "1")
        await ledger.answer(cast(event_id="$2", at=VOTED_AT + 1), "2")

        await ledger.campaigns.withdraw(EventId("$2"))
        await ledger.campaigns.withdraw(EventId("$other"))

        progress = await ledger.campaigns.progress("n")
        assert progress is not None
        assert progress.answers == {"1": {"1": 1}}

    async def test_what_is_sent_as_a_campaign_closes_is_ended_as_well(
        self, ledger: Ledger
    ) -> None:
        await ledger.launch(to=TO[:1])
        [here] = await ledger.due()
        await ledger.campaigns.close("n", MIDNIGHT)
        assert await ledger.campaigns.running() == []
        await ledger.ask(here, FIRST, next_due=MIDNIGHT + 1)

        assert await ledger.campaigns.running() == ["n"]
        [end] = await ledger.due(MIDNIGHT + 10)
        assert (end.deed, end.event_id) == ("end", FIRST)
        await ledger.campaigns.ended(end)
        assert await ledger.campaigns.running() == []

    async def test_a_person_is_reminded_once_unless_they_have_answered(
        self, ledger: Ledger
    ) -> None:
        await ledger.launch()
        [here, _] = await ledger.due()
        await ledger.campaigns.sent(
            here, FIRST, MIDNIGHT, question=("1", True), next_due=None, remind_at=MIDNIGHT + 60
        )

        [_, remind] = await ledger.due(MIDNIGHT + 60)
        assert remind == Sending("n", HERE, "remind", 1, MIDNIGHT + 60, FIRST)
        await ledger.campaigns.reminded(remind)
        assert [one.recipient for one in await ledger.due(MIDNIGHT + 60)] == [THERE]

    async def test_an_answer_makes_a_reminder_needless(self, ledger: Ledger) -> None:
        await ledger.launch(to=TO[:1])
        [here] = await ledger.due()
        await ledger.campaigns.sent(
            here, FIRST, MIDNIGHT, question=("1", True), next_due=None, remind_at=MIDNIGHT + 60
        )
        await ledger.answer(cast(), "1")

        assert [one.deed for one in await ledger.due(MIDNIGHT + 60)] == ["step"]

    async def test_what_is_put_off_is_due_later_and_what_is_declined_never(
        self, ledger: Ledger
    ) -> None:
        await ledger.launch()
        [here, there] = await ledger.due()
        await ledger.campaigns.put_off(here, MIDNIGHT + 300)
        await ledger.campaigns.decline(there)

        assert await ledger.campaigns.due("n", MIDNIGHT) == ([], MIDNIGHT + 300)
        [again] = await ledger.due(MIDNIGHT + 300)
        assert again == replace(here, due_at=MIDNIGHT + 300)
        assert await ledger.campaigns.progress("n") == Progress("running", 2, 0, 1)

    async def test_a_closed_campaign_ends_its_polls_one_by_one(self, ledger: Ledger) -> None:
        await ledger.launch()
        [here, there] = await ledger.due()
        await ledger.ask(here, FIRST)
        await ledger.ask(there, SECOND, next_due=MIDNIGHT + 2)

        assert await ledger.campaigns.close("n", MIDNIGHT + 100)
        assert not await ledger.campaigns.close("n", MIDNIGHT + 100)
        ends = await ledger.due(MIDNIGHT + 100)
        assert {(one.deed, one.event_id) for one in ends} == {("end", FIRST), ("end", SECOND)}
        assert await ledger.answer(cast(at=int(MIDNIGHT + 101) * 1000), "1") == "late"
        assert await ledger.answer(cast(event_id="$2"), "1") != "late"
        for one in ends:
            assert await ledger.campaigns.running() == ["n"]
            await ledger.campaigns.ended(one)
        assert await ledger.campaigns.running() == []
        assert await ledger.campaigns.names() == [("n", "closed")]

    async def test_a_campaign_without_polls_closes_at_once(self, ledger: Ledger) -> None:
        await ledger.launch()
        await ledger.campaigns.close("n", MIDNIGHT)

        assert await ledger.campaigns.names() == [("n", "closed")]

    async def test_nobody_is_asked_by_two_campaigns_within_a_day(self, ledger: Ledger) -> None:
        room = Room(ROOM, direct=True, person=AGENT)
        await ledger.launch()
        await ledger.launch("m")
        assert await ledger.campaigns.wanted(room, "m", MIDNIGHT) == MIDNIGHT
        [here, _] = await ledger.due()
        await ledger.ask(here, FIRST)

        assert await ledger.campaigns.wanted(room, "n", MIDNIGHT) == MIDNIGHT
        assert await ledger.campaigns.wanted(room, "m", MIDNIGHT + 60) == MIDNIGHT + DAY
        assert await ledger.campaigns.wanted(room, "m", MIDNIGHT + 2 * DAY) == MIDNIGHT + 2 * DAY

    @pytest.mark.parametrize("whose", [AGENT, ROOM])
    async def test_who_wants_no_polls_is_asked_by_none(
        self, ledger: Ledger, whose: UserId | RoomId
    ) -> None:
        await ledger.launch()
        await ledger.opinions.want_polls(whose, wanted=False)

        room = Room(ROOM, direct=True, person=AGENT)
        assert await ledger.campaigns.wanted(room, "n", MIDNIGHT) is None
        other = Room(SALON, direct=False)
        assert await ledger.campaigns.wanted(other, "n", MIDNIGHT) == MIDNIGHT

    async def test_votes_in_its_polls_are_admitted(self, ledger: Ledger) -> None:
        await ledger.launch(to=TO[:1])
        early, known = cast(target="$unknown"), cast(event_id="$2")
        [here] = await ledger.due()
        await ledger.campaigns.begin(here)
        assert await ledger.store.admit(Batch((early,), "s1"), MIDNIGHT) == [early]
        await ledger.ask(here, FIRST)

        stray = cast(event_id="$3", target="$unknown")
        assert await ledger.store.admit(Batch((known, stray), "s2"), MIDNIGHT) == [known]

    async def test_a_room_is_active_that_was_answered(self, ledger: Ledger) -> None:
        await ledger.store.admit(Batch((message(),), "s1"), MIDNIGHT)
        how = Circumstances(AGENT, direct=True)
        await ledger.opinions.answered(prompt(), how, lambda _: None, MIDNIGHT)

        assert await ledger.campaigns.active() == {ROOM: MIDNIGHT}

"""The ledger of campaigns, in memory."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bot.core.campaigns import (
    CLOSED,
    AskedQuestion,
    CampaignResults,
    DeliveryProgress,
    DueMessage,
    Recipient,
    RecipientRoom,
)
from bot.core.events import Edit, EventId, Message, Room, RoomId, UserId, Vote
from tests.fakes.feedback import FakeOpinions


@dataclass
class _To:
    person: UserId | None
    step: int = 0
    due_at: float | None = None
    remind_at: float | None = None
    reached: bool = False
    declined: bool = False
    completed: bool = False
    root: EventId | None = None
    event_id: EventId | None = None
    begun: bool = False
    reached_at: float | None = None


@dataclass
class _One:
    definition: str
    state: str = "draft"
    ends_at: float | None = None
    closed_at: float | None = None
    told: int = 0
    to: dict[RoomId, _To] = field(default_factory=dict)


class FakeCampaigns:
    """A ledger of campaigns in memory, which stores people under their own ids.

    Attributes:
        asks: by the event at which a question stands: campaign, room, question, when, whether it
            is a poll that has not ended.
        said: by event: campaign, room, question, who, the answer, the words, when, whether it
            counts.
    """

    def __init__(self, opinions: FakeOpinions) -> None:
        self.all: dict[str, _One] = {}
        self.asks: dict[EventId, tuple[str, RoomId, str, float, bool]] = {}
        self.said: dict[
            EventId, tuple[str, RoomId, str, UserId, str | None, str | None, int, bool]
        ] = {}
        self.edits: dict[EventId, EventId] = {}  # by what they edit
        self._opinions = opinions

    async def draft(self, name: str, definition: str, at: float) -> bool:  # noqa: ARG002  # the port
        if name in self.all and self.all[name].state != "draft":
            return False
        self.all[name] = _One(definition)
        return True

    async def definition(self, name: str) -> str | None:
        return self.all[name].definition if name in self.all else None

    async def names(self) -> Sequence[tuple[str, str]]:
        return [(name, one.state) for name, one in reversed(self.all.items())]

    async def active(self) -> Mapping[RoomId, float]:
        return self._opinions.active

    async def launch(
        self, name: str, to: Sequence[Recipient], begins_at: float, ends_at: float | None
    ) -> bool:
        one = self.all.get(name)
        if one is None or one.state != "draft":
            return False
        one.state, one.ends_at = "running", ends_at
        one.to = {each.room_id: _To(each.person, due_at=begins_at) for each in to}
        return True

    async def close(self, name: str, at: float) -> bool:
        one = self.all.get(name)
        if one is None or one.state != "running":
            return False
        one.state, one.closed_at = "closing", at
        for each in one.to.values():
            each.due_at, each.remind_at = each.due_at if each.begun else None, None
        self._close_if_done(name)
        return True

    def _close_if_done(self, name: str) -> None:
        one = self.all[name]
        left = any(poll and of == name for of, _, _, _, poll in self.asks.values())
        if one.state == "closing" and not left and not any(to.begun for to in one.to.values()):
            one.state = "closed"

    async def running(self) -> Sequence[str]:
        return [
            name
            for name, one in self.all.items()
            if one.state in {"running", "closing"} or (one.state == "closed" and one.told < CLOSED)
        ]

    async def due(self, name: str, now: float) -> tuple[DueMessage | None, float | None] | None:
        one = self.all[name]
        if one.state not in {"running", "closing"}:
            return None
        if one.state == "running" and one.ends_at is not None and one.ends_at <= now:
            return None, one.ends_at
        found = []
        for room_id, to in one.to.items():
            place = RecipientRoom(room_id, to.person is not None, to.root)
            if to.due_at is not None and (to.begun or one.state == "running"):
                found.append(
                    DueMessage(
                        campaign=name,
                        recipient=place,
                        kind="step",
                        step=to.step,
                        due_at=to.due_at,
                        event_id=to.event_id,
                        begun=to.begun,
                    )
                )
            if to.remind_at is not None:
                found.append(
                    DueMessage(
                        campaign=name,
                        recipient=place,
                        kind="remind",
                        step=to.step,
                        due_at=to.remind_at,
                        event_id=to.event_id,
                    )
                )
        found.sort(
            key=lambda one: (
                *(one.kind == "remind", not one.begun, one.step == 0, one.due_at),
                one.recipient.room_id,
            )
        )
        found += self._ends(name) if one.state == "closing" else []
        ready = [sending for sending in found if sending.due_at <= now]
        rest = [sending.due_at for sending in found if sending.due_at > now]
        rest += [one.ends_at] if one.ends_at is not None and one.state == "running" else []
        return next(iter(ready), None), min(rest, default=None)

    def _ends(self, name: str) -> list[DueMessage]:
        found = []
        for event_id, (of, room_id, _, at, poll) in self.asks.items():
            if of == name and poll:
                to = self.all[name].to[room_id]
                place = RecipientRoom(room_id, to.person is not None, to.root)
                found.append(
                    DueMessage(
                        campaign=name,
                        recipient=place,
                        kind="end",
                        step=to.step,
                        due_at=at,
                        event_id=event_id,
                    )
                )
        return sorted(found, key=lambda one: one.due_at)

    async def sent(
        self,
        one: DueMessage,
        event_id: EventId,
        at: float,
        *,
        question: tuple[str, bool] | None,
        next_due: float | None,
        remind_at: float | None,
    ) -> None:
        room_id = one.recipient.room_id
        to = self.all[one.campaign].to[room_id]
        if to.step == one.step:
            to.step, to.due_at, to.remind_at = one.step + 1, next_due, remind_at
            to.reached, to.event_id, to.begun = True, event_id, False
            to.reached_at = to.reached_at or at
            if self.all[one.campaign].state != "running":
                to.due_at = to.remind_at = None
                if question is not None and question[1]:
                    self.all[one.campaign].state = "closing"
            if not one.recipient.direct:
                to.root = to.root or event_id
        if question is not None:
            key, poll = question
            self.asks.setdefault(event_id, (one.campaign, room_id, key, at, poll))
        self._close_if_done(one.campaign)

    async def reminded(self, one: DueMessage) -> None:
        self.all[one.campaign].to[one.recipient.room_id].remind_at = None

    async def ended(self, one: DueMessage) -> None:
        assert one.event_id is not None
        self.asks[one.event_id] = (*self.asks[one.event_id][:4], False)
        self._close_if_done(one.campaign)

    async def put_off(self, one: DueMessage, due_at: float) -> None:
        to = self.all[one.campaign].to[one.recipient.room_id]
        if one.kind == "end" and one.event_id is not None:
            of, room_id, key, _, poll = self.asks[one.event_id]
            self.asks[one.event_id] = of, room_id, key, due_at, poll
        elif one.kind == "remind":
            to.remind_at = due_at
        elif to.step == one.step:
            to.due_at = due_at

    async def decline(self, one: DueMessage) -> None:
        to = self.all[one.campaign].to[one.recipient.room_id]
        to.declined, to.due_at, to.remind_at, to.begun = True, None, None, False
        self._close_if_done(one.campaign)

    async def wanted(self, room: Room, campaign: str, now: float) -> float | None:
        if not self._opinions.unwanted.isdisjoint({room.person or "", room.room_id}):
            return None
        others = [
            to.reached_at
            for name, one in self.all.items()
            for room_id, to in one.to.items()
            if name != campaign
            and to.reached_at is not None
            and (room_id == room.room_id or room.person in {to.person} - {None})
        ]
        theirs = [
            to.begun
            for name, one in self.all.items()
            for room_id, to in one.to.items()
            if name != campaign
            and (room_id == room.room_id or room.person in {to.person} - {None})
        ]
        return max([now + 300.0 * any(theirs), *(at + 86_400 for at in others)])

    async def question_at(self, room_id: RoomId, event_id: EventId) -> AskedQuestion | None:
        found = self.asks.get(event_id)
        if found is None or found[1] != room_id:
            return None
        to = self.all[found[0]].to[room_id]
        return AskedQuestion(
            found[0], found[2], RecipientRoom(room_id, to.person is not None, to.root)
        )

    async def begin(self, one: DueMessage, room: Room, now: float, *, asks: bool) -> float | None:
        to = self.all[one.campaign].to[one.recipient.room_id]
        if one.begun:
            return now
        if self.all[one.campaign].state != "running":
            return None
        since = await self.wanted(room, one.campaign, now) if asks else now
        if since is not None and one.step > 0:
            since = now
        if since is not None and since <= now:
            to.begun = to.begun or to.step == one.step
        return since

    async def is_begun(self, room_id: RoomId) -> bool:
        return any(one.to[room_id].begun for one in self.all.values() if room_id in one.to)

    async def withdraw(self, event_id: EventId) -> None:
        for said, edit in self.edits.items():
            if edit == event_id:
                self.said.pop(said, None)
        self.said.pop(event_id, None)

    async def amend(self, edit: Edit) -> None:
        found = self.said.get(edit.target)
        if found is not None and found[3] == edit.sender and found[5] is not None:
            self.said[edit.target] = (*found[:5], edit.body, *found[6:])
            self.edits[edit.target] = edit.event_id

    def may_know(self, room_id: RoomId, event_id: EventId) -> bool:
        """Return whether the event is a question of the bot, recorded or just being sent."""
        found = self.asks.get(event_id)
        begun = [one.to[room_id].begun for one in self.all.values() if room_id in one.to]
        return (found is not None and found[1] == room_id) or any(begun)

    async def answer(
        self,
        said: Vote | Message,
        asked: AskedQuestion,
        answer: str | None,
        *,
        step: int,
        steps: int,
        at: float,
    ) -> Literal["goes on", "thanks", "counts", "late"]:
        one, room_id = self.all[asked.campaign], asked.recipient.room_id
        to = one.to[room_id]
        closed = one.closed_at if one.closed_at is not None else one.ends_at
        stands = any(
            of[:3] == (asked.campaign, room_id, asked.question) and of[4]
            for of in self.asks.values()
        )
        in_time = stands or closed is None or said.timestamp / 1000 <= closed
        counts = in_time and to.person in {None, said.sender}
        text = said.body if isinstance(said, Message) else None
        row = (asked.question, said.sender, answer, text, said.timestamp, counts)
        again = said.event_id in self.said
        self.said.setdefault(said.event_id, (asked.campaign, room_id, *row))
        if not counts:
            return "late"
        if to.person is None or (answer is None and text is None) or to.step != step + 1:
            return "counts"
        more, done = step + 1 < steps, to.completed
        to.due_at, to.remind_at = (at if more else None), None
        to.completed = not more
        if more:
            return "goes on"
        return "counts" if done and not again else "thanks"

    async def delivery_progress(self, name: str) -> DeliveryProgress:
        one = self.all[name]
        done = sum(each.reached or each.declined for each in one.to.values())
        return DeliveryProgress(len(one.to), done, one.state == "closed", one.told)

    async def milestone_reported(self, name: str, milestone: int) -> None:
        self.all[name].told = milestone

    async def poll_result(
        self, room_id: RoomId, event_id: EventId
    ) -> tuple[str, Mapping[str, int]] | None:
        if event_id not in self.asks:
            return None
        name, _, question, _, _ = self.asks[event_id]
        here = [each for each in self.said.values() if each[:3] == (name, room_id, question)]
        counts, _ = self._tally(here)
        return question, counts.get(question, {})

    async def results(self, name: str) -> CampaignResults | None:
        one = self.all.get(name)
        if one is None:
            return None
        said = [each for each in self.said.values() if each[0] == name and each[7]]
        counts, texts = self._tally(said)
        to = one.to.values()
        return CampaignResults(
            state=one.state,
            rooms=len(to),
            reached=sum(each.reached for each in to),
            declined=sum(each.declined and not each.reached for each in to),
            answered=len({each[1] for each in said}),
            completed=sum(each.completed for each in to),
            answers=counts,
            texts=texts,
        )

    @staticmethod
    def _tally(
        said: Sequence[tuple[str, RoomId, str, UserId, str | None, str | None, int, bool]],
    ) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
        last: dict[tuple[str, UserId], tuple[int, str | None]] = {}
        for _, _, question, who, answer, text, at, counts_too in said:
            if counts_too and text is None and at > last.get((question, who), (-1, None))[0]:
                last[question, who] = at, answer
        counts: dict[str, dict[str, int]] = {}
        for (question, _), (_, answer) in last.items():
            if answer is not None:
                of_question = counts.setdefault(question, {})
                of_question[answer] = of_question.get(answer, 0) + 1
        written = {(each[2], each[3]) for each in said if each[5] is not None}
        return counts, dict(Counter(question for question, _ in written))

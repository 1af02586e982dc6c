"""The ledger of opinions, in memory."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

from bot.core.events import (
    Conversation,
    Edit,
    EventId,
    Message,
    Prompt,
    Reaction,
    RoomId,
    UserId,
    Vote,
)
from bot.core.feedback import (
    ANSWERS,
    Ask,
    AskHistory,
    Opinion,
    Question,
    Rating,
    ReplyMetadata,
    VoteOutcome,
    answer_of,
    asks_why,
    reason_of,
)
from bot.core.polls import chosen


class FakeOpinions:
    """A ledger of opinions in memory, which stores people under their own ids.

    Attributes:
        asks: every poll that was planned and not dropped, by number.
        sent: of those, the events at which they stand, and until when votes count.
        ratings: what counts, by prompt and person: the answer and the reason.
    """

    def __init__(self) -> None:
        self.asks: dict[int, Ask] = {}
        self.sent: dict[int, tuple[EventId, float, float]] = {}
        self.people: dict[int, UserId] = {}
        self.thanked: set[EventId] = set()
        self.said: dict[EventId, tuple[EventId, UserId, Opinion, bool]] = {}
        self.ratings: dict[tuple[EventId, UserId], tuple[str | None, str | None]] = {}
        self.comments: dict[EventId, tuple[EventId | None, UserId, str]] = {}
        self.edits: dict[EventId, EventId] = {}  # by what they edit
        self.how: dict[EventId, ReplyMetadata] = {}
        self.shared: dict[EventId, tuple[EventId, UserId, str, str]] = {}
        self.unwanted: set[str] = set()
        self.active: dict[RoomId, float] = {}
        self._order: list[tuple[Conversation, UserId, EventId]] = []
        self._numbers = itertools.count(1)

    async def answered(
        self,
        prompt: Prompt,
        how: ReplyMetadata,
        after: Callable[[AskHistory], float | None],
        at: float,
    ) -> float | None:
        if max(how.prompt_tokens or 0, how.completion_tokens or 0) >= 2**63:
            raise OverflowError("SQLite has no such integer")
        place, person, event_id = prompt.conversation, how.sender, prompt.event_id
        past = self._past(prompt, person, at)
        self.how[event_id] = how if how.model or event_id not in self.how else self.how[event_id]
        self._order = [one for one in self._order if one[2] != event_id]
        self._order.append((place, person, event_id))
        self.active[place.room_id] = at
        wait = after(past)
        for number in self._waiting(place):
            del self.asks[number]
        if wait is None:
            return None
        self._plan(event_id, "helped", place, person, at + wait)
        return at + wait

    def _past(self, prompt: Prompt, person: UserId, at: float) -> AskHistory:
        place = prompt.conversation
        waiting = self._waiting(place)
        asked = [
            number
            for number, ask in self.asks.items()
            if ask.question == "helped"
            and self.people[number] == person
            and number not in waiting
            and (number not in self.sent or self.sent[number][1] > at - 86_400)
        ]
        before = [one for where, who, one in self._order if (where, who) == (place, person)]
        last = {prompt.event_id, *[one for one in before if one != prompt.event_id][-1:]}
        return AskHistory(
            refused=not self.unwanted.isdisjoint({person, place.room_id}),
            asked=len(asked),
            last_asked=any(
                one.prompt in last and (one.begun or number in self.sent)
                for number, one in self.asks.items()
            ),
            waiting=bool(waiting),
        )

    def _waiting(self, place: Conversation) -> list[int]:
        return [
            number
            for number, ask in self.asks.items()
            if number not in self.sent
            and not ask.begun
            and ask.question == "helped"
            and Conversation(ask.room_id, ask.thread_root) == place
        ]

    def _plan(
        self,
        prompt: EventId,
        question: Question,
        place: Conversation,
        person: UserId,
        due_at: float,
    ) -> bool:
        if any((one.prompt, one.question) == (prompt, question) for one in self.asks.values()):
            return False
        number = next(self._numbers)
        self.asks[number] = Ask(
            number=number,
            prompt=prompt,
            question=question,
            room_id=place.room_id,
            thread_root=place.thread_root,
            due_at=due_at,
            planned_at=due_at,
        )
        self.people[number] = person
        return True

    async def due(self, now: float) -> tuple[Sequence[Ask], float | None]:
        unsent = [one for number, one in self.asks.items() if number not in self.sent]
        unsent.sort(key=lambda one: one.due_at)
        ready = [one for one in unsent if one.due_at <= now]
        return ready, next((one.due_at for one in unsent if one.due_at > now), None)

    async def begin(self, ask: Ask) -> bool:
        if ask.number in self.asks:
            self.asks[ask.number] = replace(self.asks[ask.number], begun=True)
        return ask.number in self.asks

    async def is_begun(self, room_id: RoomId) -> bool:
        begun = {key for key, one in self.asks.items() if one.begun and one.room_id == room_id}
        return bool(begun - self.sent.keys())

    async def poll_sent(self, ask: Ask, event_id: EventId, at: float, closes_at: float) -> None:
        self.sent[ask.number] = event_id, at, closes_at

    async def put_off(self, ask: Ask, due_at: float) -> None:
        if ask.number in self.asks:
            self.asks[ask.number] = replace(self.asks[ask.number], due_at=due_at)

    async def drop(self, ask: Ask) -> None:
        if ask.number not in self.sent:
            self.asks.pop(ask.number, None)

    def knows(self, room_id: RoomId, event_id: EventId) -> Ask | None:
        """Return the poll that was sent as an event of the room."""
        for number, (sent, _, _) in self.sent.items():
            if sent == event_id and self.asks[number].room_id == room_id:
                return self.asks[number]
        return None

    def may_know(self, room_id: RoomId, event_id: EventId) -> bool:
        """Return whether the event is a poll of the bot, recorded or just being sent."""
        unsent = [one for number, one in self.asks.items() if number not in self.sent]
        here = any(one.room_id == room_id and one.begun for one in unsent)
        return here or self.knows(room_id, event_id) is not None

    async def poll(self, room_id: RoomId, event_id: EventId) -> Ask | None:
        return self.knows(room_id, event_id)

    async def count(self, vote: Vote, at: float) -> VoteOutcome | None:
        ask = self.knows(vote.room_id, vote.target)
        if ask is None:
            return None
        person = self.people[ask.number]
        answer = chosen(vote.answers, ANSWERS[ask.question])
        in_time = vote.timestamp / 1000 <= self.sent[ask.number][2]
        counts = in_time and person == vote.sender
        said = Opinion(ask.question, answer, vote.timestamp, ask.number)
        self.said.setdefault(vote.event_id, (ask.prompt, vote.sender, said, counts))
        if not counts:
            return None
        self._rate_anew(ask.prompt, person)
        goes_on = ask.question == "helped" and asks_why(answer)
        place = Conversation(ask.room_id, ask.thread_root)
        goes_on = goes_on and self._plan(ask.prompt, "why", place, person, at)
        thanks = answer is not None and not asks_why(answer) and ask.prompt not in self.thanked
        if thanks:
            self.thanked.add(ask.prompt)
        return VoteOutcome(ask, answer, thanks=thanks, goes_on=goes_on)

    async def rate(
        self,
        said: Reaction | Message,
        prompt: EventId,
        answer: Rating,
        at: float,  # noqa: ARG002  # the port
    ) -> None:
        opinion = Opinion("helped", answer, said.timestamp)
        self.said.setdefault(said.event_id, (prompt, said.sender, opinion, True))
        self._rate_anew(prompt, said.sender)

    def _rate_anew(self, prompt: EventId, person: UserId) -> None:
        said = [
            opinion
            for about, who, opinion, counts in self.said.values()
            if (about, who) == (prompt, person) and counts
        ]
        helped = answer_of(said, "helped")
        if helped is None:
            self.ratings.pop((prompt, person), None)
            return
        self.ratings[prompt, person] = helped.answer, reason_of(said)

    async def comment(
        self,
        said: Message,
        prompt: EventId | None,
        at: float,  # noqa: ARG002  # the port
    ) -> None:
        self.comments[said.event_id] = prompt, said.sender, said.body

    async def is_opinion(self, event_id: EventId) -> bool:
        said = self.said.get(event_id)
        return event_id in self.comments or (said is not None and said[2].poll is None)

    async def amend(
        self,
        edit: Edit,
        rating: Rating | None,
        at: float,  # noqa: ARG002  # the port
    ) -> None:
        event_id, person = edit.target, edit.sender
        comment, said = self.comments.get(event_id), self.said.get(event_id)
        if comment is not None and comment[1] == person:
            prompt = comment[0]
            del self.comments[event_id]
        elif said is not None and said[1] == person and said[2].poll is None:
            prompt = said[0]
            del self.said[event_id]
        else:
            return
        self.edits[event_id] = edit.event_id
        if rating is not None and prompt is not None:
            opinion = Opinion("helped", rating, edit.timestamp)
            self.said[event_id] = prompt, person, opinion, True
        elif edit.body:
            self.comments[event_id] = prompt, person, edit.body
        if prompt is not None:
            self._rate_anew(prompt, person)

    async def share(
        self,
        said: Message,
        prompt: EventId,
        exchange: tuple[str, str],
        at: float,  # noqa: ARG002  # the port
    ) -> None:
        self.shared.setdefault(said.event_id, (prompt, said.sender, *exchange))

    async def withdraw(self, event_id: EventId) -> None:
        for said, edit in list(self.edits.items()):
            if edit == event_id:
                del self.edits[said]
                await self.withdraw(said)
        self.comments.pop(event_id, None)
        kept = self.shared.items()
        self.shared = {key: one for key, one in kept if event_id not in {key, one[0]}}
        unsent = [one for number, one in self.asks.items() if number not in self.sent]
        for ask in unsent:
            if ask.prompt == event_id:
                del self.asks[ask.number]
        gone = self.said.pop(event_id, None)
        if gone is not None:
            self._rate_anew(gone[0], gone[1])

    async def last_answered(self, conversation: Conversation) -> EventId | None:
        here = [one for where, _, one in self._order if where == conversation]
        return here[-1] if here else None

    async def want_polls(self, whose: UserId | RoomId, *, wanted: bool) -> None:
        (self.unwanted.discard if wanted else self.unwanted.add)(whose)
        for number, ask in list(self.asks.items()):
            theirs = whose in {self.people[number], ask.room_id}
            if not (wanted or ask.begun or number in self.sent) and theirs:
                del self.asks[number]

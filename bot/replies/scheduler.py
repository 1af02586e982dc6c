"""Whose prompt comes next: each conversation in order, N at once, rooms and people in fairness."""

import asyncio
from collections import Counter
from types import TracebackType
from typing import Final

from bot.core.events import Conversation, RoomId, UserId

_PATIENCE: Final = 100  # rounds of N answers for which fairness to others may pass a person over

_Sharer = RoomId | UserId | tuple[RoomId, UserId]


class Slot:
    """A place in the line: `async with` waits for the turn, and holds it while its block runs.

    Leaving the block frees the turn; a wait that is cancelled frees the place.

    Attributes:
        sharers: whom its turn is counted for.
        since: the number of the turn from which its wait counts.
        free: it needs the conversation's order, but none of the N.
        turn: set when its turn has come, or its place was given up.
    """

    def __init__(
        self,
        lanes: "FairScheduler",
        conversation: Conversation,
        person: UserId,
        since: int,
        *,
        free: bool,
    ) -> None:
        self._lanes = lanes
        self.conversation = conversation
        self.room_id = conversation.room_id
        self.person = person
        self.sharers = (self.room_id, person, (self.room_id, person))
        self.since = since
        self.free = free
        self.turn = asyncio.Event()

    @property
    def place(self) -> int | None:
        """1 for the next to be served; None while it has its turn, and after that.

        An estimate: the order if nobody came or left any more, and answers took equally long.
        """
        return self._lanes.place(self)

    def drop(self) -> None:
        """Give the place up, or the turn where it was never used; twice is as good as once.

        Who already waits for the turn gets a RuntimeError.
        """
        self._lanes.leave(self)

    async def __aenter__(self) -> None:
        try:
            await self.turn.wait()
        except BaseException:  # cancelled; the turn may have come in the very same moment
            self.drop()
            raise
        if not self._lanes.holds(self):
            raise RuntimeError("the place was given up")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.drop()


class FairScheduler:
    """Every ticket that waits or has its turn. Nothing here awaits, so nothing comes between.

    Of the first ticket of each conversation that nobody has the turn of, the next is the one with
    the fewest answers running in its room or of its person, whichever are more; then the one
    whose room or person, whichever was later, was last served longest ago. So neither a person in
    fifty rooms nor a room of fifty people has more than the others. Who comes new counts as served
    one round (N turns) before: ahead of those that have just had a turn, behind those that wait
    for longer. As a busy room and a busy person could so keep each other waiting for ever,
    patience ends: who has been passed over in a room for a hundred rounds is the next.

    Order alone does not help who comes while one person's long answers hold all turns. So a room
    or person that has its share of the N already gets another turn only while fewer than half of
    all are taken: the rest is kept for who comes.
    """

    def __init__(self, at_once: int, share: float = 1.0) -> None:
        """Serve `at_once` tickets at a time, not counting free ones.

        Args:
            at_once: N.
            share: the part of it that is one person's, or one room's; one turn at least.
        """
        self._at_once = at_once
        self._share = max(1, int(at_once * share))
        self._waiting: dict[Slot, None] = {}  # a set in the order of arrival
        self._turns: dict[Conversation, Slot] = {}
        self._given = 0  # turns so far: the clock of fairness
        self._served: Counter[_Sharer] = Counter()  # the number of the last turn of each
        self._places: dict[Slot, int] = {}  # made when asked for, until anything changes
        self._closed = False

    def queue(self, conversation: Conversation, person: UserId, *, free: bool = False) -> Slot:
        """Return a ticket that has its place at once: the order is that of the calls."""
        since = self._given - self._at_once
        ticket = Slot(self, conversation, person, since, free=free)
        self._waiting[ticket] = None
        self._serve()
        return ticket

    def close(self) -> None:
        """Give out no turn any more."""
        self._closed = True

    def place(self, ticket: Slot) -> int | None:
        """Return the ticket's rank among all that wait, None where it does not wait."""
        if ticket not in self._waiting:
            return None
        self._places = self._places or self._rank()
        return self._places[ticket]

    def holds(self, ticket: Slot) -> bool:
        """Tell whether the ticket has its turn."""
        return self._turns.get(ticket.conversation) is ticket

    def leave(self, ticket: Slot) -> None:
        """Take the ticket out, wherever it is; what it held goes to the next."""
        if ticket in self._waiting:
            del self._waiting[ticket]
        elif self.holds(ticket):
            del self._turns[ticket.conversation]
        else:
            return
        ticket.turn.set()
        self._serve()

    def _serve(self) -> None:
        """Give out every turn that can be given."""
        while (ticket := self._next()) is not None:
            del self._waiting[ticket]
            self._turns[ticket.conversation] = ticket
            ticket.turn.set()
            if not ticket.free:
                self._given += 1
                for sharer in ticket.sharers:
                    self._served[sharer] = self._given
        if not self._waiting:  # whom a newcomer would pass by anyway need not be remembered
            recent = self._given - self._at_once
            self._served = Counter({who: at for who, at in self._served.items() if at > recent})
        self._places = {}

    def _next(self) -> Slot | None:
        """Return who is to be served now, None where nobody can be."""
        if self._closed:
            return None
        rooms, people = self._running()
        taken = rooms.total()
        full = taken >= self._at_once
        if full and not any(ticket.free for ticket in self._waiting):
            return None  # a thousand that wait shall cost who comes next to nothing
        first: dict[Conversation, Slot] = {}
        for ticket in self._waiting:
            if ticket.conversation not in self._turns:
                first.setdefault(ticket.conversation, ticket)
        half_free = taken * 2 < self._at_once
        ready = (
            ticket
            for ticket in first.values()
            if ticket.free
            or (not full and (half_free or self._is_due_more(ticket, rooms, people)))
        )
        return min(
            ready, key=lambda one: self._claim(one, rooms, people, self._served), default=None
        )

    def _is_due_more(self, ticket: Slot, rooms: Counter[RoomId], people: Counter[UserId]) -> bool:
        """Tell whether neither its room nor its person has its share, or patience has ended."""
        has = max(rooms[ticket.room_id], people[ticket.person])
        return has < self._share or self._is_passed_over(ticket, self._served)

    def _running(self) -> tuple[Counter[RoomId], Counter[UserId]]:
        """Count the answers that run in each room, and for each person."""
        running = [ticket for ticket in self._turns.values() if not ticket.free]
        return (
            Counter(ticket.room_id for ticket in running),
            Counter(ticket.person for ticket in running),
        )

    def _claim(
        self,
        ticket: Slot,
        rooms: Counter[RoomId],
        people: Counter[UserId],
        served: Counter[_Sharer],
    ) -> tuple[int, ...]:
        """Return what the next has the least of; among equals the order of arrival decides.

        Args:
            ticket: one that waits.
            rooms: how many answers are ahead of it in each room.
            people: the same of each person.
            served: the number of the last turn of each.
        """
        if ticket.free:
            return ()
        room, person, since = ticket.room_id, ticket.person, ticket.since
        if self._is_passed_over(ticket, served):
            return (0, max(served[room, person], since))
        ahead = sorted((rooms[room], people[person]), reverse=True)
        return (1, *ahead, max(served[room], served[person], since), max(served[person], since))

    def _is_passed_over(self, ticket: Slot, served: Counter[_Sharer]) -> bool:
        last = max(served[ticket.room_id, ticket.person], ticket.since)
        return self._given - last > _PATIENCE * self._at_once

    def _rank(self) -> dict[Slot, int]:
        """Estimate everybody's place, without going through the turns one by one.

        Each ticket has ahead of it, in its room and of its person, those that run and those that
        are before it when the people in each room take turns.
        """
        rooms, people = self._running()
        pairs: Counter[tuple[RoomId, UserId]] = Counter()
        rounds: dict[Slot, tuple[int, ...]] = {}
        for ticket in self._waiting:
            pair = ticket.room_id, ticket.person
            rounds[ticket] = (pairs[pair], *self._claim(ticket, rooms, people, self._served))
            pairs[pair] += 1
        served, claims = self._served.copy(), {}
        for turn, ticket in enumerate(sorted(rounds, key=rounds.__getitem__), self._given + 1):
            claims[ticket] = self._claim(ticket, rooms, people, served)
            rooms[ticket.room_id] += 1
            people[ticket.person] += 1
            for sharer in ticket.sharers:
                served[sharer] = turn
        # Whatever the claims, a conversation's own tickets stay in order.
        lines: dict[Conversation, list[Slot]] = {}
        for ticket in reversed(self._waiting):
            lines.setdefault(ticket.conversation, []).append(ticket)
        ranked = sorted(claims, key=claims.__getitem__)
        return {lines[one.conversation].pop(): place for place, one in enumerate(ranked, start=1)}

"""Fair scheduling of replies: in order per conversation, N at once, fair to rooms and people."""

import asyncio
from collections import Counter
from types import TracebackType
from typing import Final

from bot.core.events import Conversation, RoomId, UserId

_PATIENCE: Final = 100  # rounds of N slots for which fairness to others may pass a person over

_Sharer = RoomId | UserId | tuple[RoomId, UserId]


class Slot:
    """One of N slots, or the wait for it: `async with` waits, and holds the slot for its block.

    The slot is released at the end of the block, and when the wait is cancelled.

    Attributes:
        sharers: the room, the person, and both together, to which the slot is counted.
        since: number of granted slots from which the wait counts.
        free: whether it keeps the conversation's order, but is none of the N.
        granted: set when the slot is granted, or was given up.
    """

    def __init__(
        self,
        scheduler: "FairScheduler",
        conversation: Conversation,
        person: UserId,
        since: int,
        *,
        free: bool,
    ) -> None:
        self._scheduler = scheduler
        self.conversation = conversation
        self.room_id = conversation.room_id
        self.person = person
        self.sharers = (self.room_id, person, (self.room_id, person))
        self.since = since
        self.free = free
        self.granted = asyncio.Event()

    @property
    def rank(self) -> int | None:
        """1 for the next to be granted; None once it was granted or given up.

        It is an estimate: the order if nobody came or left, and all replies took equally long.
        """
        return self._scheduler.rank(self)

    def drop(self) -> None:
        """Give the slot up, granted or not; a second call does nothing.

        A task that waits for the slot gets a RuntimeError.
        """
        self._scheduler.release(self)

    async def __aenter__(self) -> None:
        try:
            await self.granted.wait()
        except BaseException:  # cancelled; the slot may have been granted at the same moment
            self.drop()
            raise
        if not self._scheduler.holds(self):
            raise RuntimeError("the slot was given up")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.drop()


class FairScheduler:
    """All slots that are waited for or granted. No method awaits, so each is atomic.

    A conversation has one granted slot at a time, and its slots are granted in order. Among the
    first ones of all other conversations, the next is the one with the fewest running replies in
    its room or for its person, whichever are more; then the one whose room or person, whichever
    was later, was served longest ago. So neither a person in fifty rooms nor a room of fifty
    people gets more than others. A newcomer counts as served one round (N slots) ago: ahead of
    those that were just served, behind those that have waited longer. A busy room and a busy
    person could so keep each other waiting for ever; so a person who has been passed over in a
    room for a hundred rounds is next.

    Order alone does not help newcomers while one person's long replies hold all slots. So a room
    or person that has its share of the N already gets another slot only while fewer than half of
    the N are granted: the rest is kept for newcomers.
    """

    def __init__(self, at_once: int, share: float = 1.0) -> None:
        """Begin with no slot.

        Args:
            at_once: N, the number of slots that are granted at a time, not counting free ones.
            share: the part of N that one person or one room may have; one slot at least.
        """
        self._at_once = at_once
        self._share = max(1, int(at_once * share))
        self._waiting: dict[Slot, None] = {}  # a set in the order of arrival
        self._granted: dict[Conversation, Slot] = {}
        self._count = 0  # slots granted so far: the clock of fairness
        self._served: Counter[_Sharer] = Counter()  # `_count` at the last slot of each
        self._ranks: dict[Slot, int] = {}  # computed when asked for, until anything changes
        self._closed = False

    def queue(self, conversation: Conversation, person: UserId, *, free: bool = False) -> Slot:
        """Queue for a slot: the order in a conversation is that of the calls.

        Args:
            conversation: the conversation whose order is kept.
            person: the person to whom the slot is counted.
            free: whether the slot is none of the N.
        """
        since = self._count - self._at_once
        slot = Slot(self, conversation, person, since, free=free)
        self._waiting[slot] = None
        self._serve()
        return slot

    def close(self) -> None:
        """Grant no slot any more."""
        self._closed = True

    def rank(self, slot: Slot) -> int | None:
        """Return the slot's rank among all that are waited for, None if it is not one of them."""
        if slot not in self._waiting:
            return None
        self._ranks = self._ranks or self._estimate_ranks()
        return self._ranks[slot]

    def holds(self, slot: Slot) -> bool:
        """Return whether the slot is granted, and not released yet."""
        return self._granted.get(slot.conversation) is slot

    def release(self, slot: Slot) -> None:
        """Remove the slot, granted or not, and grant the next."""
        if slot in self._waiting:
            del self._waiting[slot]
        elif self.holds(slot):
            del self._granted[slot.conversation]
        else:
            return
        slot.granted.set()
        self._serve()

    def _serve(self) -> None:
        """Grant every slot that can be granted."""
        while (slot := self._next()) is not None:
            del self._waiting[slot]
            self._granted[slot.conversation] = slot
            slot.granted.set()
            if not slot.free:
                self._count += 1
                for sharer in slot.sharers:
                    self._served[sharer] = self._count
        if not self._waiting:  # those that a newcomer would pass anyway need not be remembered
            recent = self._count - self._at_once
            self._served = Counter({who: at for who, at in self._served.items() if at > recent})
        self._ranks = {}

    def _next(self) -> Slot | None:
        """Return the slot to grant now, None if none can be granted."""
        if self._closed:
            return None
        rooms, people = self._running()
        taken = rooms.total()
        full = taken >= self._at_once
        if full and not any(slot.free for slot in self._waiting):
            return None  # so a newcomer costs next to nothing, even if a thousand wait
        first: dict[Conversation, Slot] = {}
        for slot in self._waiting:
            if slot.conversation not in self._granted:
                first.setdefault(slot.conversation, slot)
        half_free = taken * 2 < self._at_once
        ready = (
            slot
            for slot in first.values()
            if slot.free or (not full and (half_free or self._is_due_more(slot, rooms, people)))
        )
        return min(
            ready, key=lambda one: self._sort_key(one, rooms, people, self._served), default=None
        )

    def _is_due_more(self, slot: Slot, rooms: Counter[RoomId], people: Counter[UserId]) -> bool:
        """Return whether its room and person have less than their share, or patience has ended."""
        has = max(rooms[slot.room_id], people[slot.person])
        return has < self._share or self._is_passed_over(slot, self._served)

    def _running(self) -> tuple[Counter[RoomId], Counter[UserId]]:
        """Count the running replies in each room, and for each person."""
        running = [slot for slot in self._granted.values() if not slot.free]
        return (
            Counter(slot.room_id for slot in running),
            Counter(slot.person for slot in running),
        )

    def _sort_key(
        self,
        slot: Slot,
        rooms: Counter[RoomId],
        people: Counter[UserId],
        served: Counter[_Sharer],
    ) -> tuple[int, ...]:
        """Return the key by which the next slot is the least; equal ones keep their order.

        Args:
            slot: a slot that is waited for.
            rooms: number of replies ahead of it in each room.
            people: number of replies ahead of it for each person.
            served: `_count` at the last slot of each.
        """
        if slot.free:
            return ()
        room, person, since = slot.room_id, slot.person, slot.since
        if self._is_passed_over(slot, served):
            return (0, max(served[room, person], since))
        ahead = sorted((rooms[room], people[person]), reverse=True)
        return (1, *ahead, max(served[room], served[person], since), max(served[person], since))

    def _is_passed_over(self, slot: Slot, served: Counter[_Sharer]) -> bool:
        last = max(served[slot.room_id, slot.person], slot.since)
        return self._count - last > _PATIENCE * self._at_once

    def _estimate_ranks(self) -> dict[Slot, int]:
        """Estimate all ranks, without simulating one grant after the other.

        Ahead of each slot, in its room and for its person, are the running replies, and the slots
        before it if the people in each room are served alternately.
        """
        rooms, people = self._running()
        pairs: Counter[tuple[RoomId, UserId]] = Counter()
        rounds: dict[Slot, tuple[int, ...]] = {}
        for slot in self._waiting:
            pair = slot.room_id, slot.person
            rounds[slot] = (pairs[pair], *self._sort_key(slot, rooms, people, self._served))
            pairs[pair] += 1
        served, keys = self._served.copy(), {}
        for count, slot in enumerate(sorted(rounds, key=rounds.__getitem__), self._count + 1):
            keys[slot] = self._sort_key(slot, rooms, people, served)
            rooms[slot.room_id] += 1
            people[slot.person] += 1
            for sharer in slot.sharers:
                served[sharer] = count
        # Whatever the keys, the slots of one conversation stay in order.
        queues: dict[Conversation, list[Slot]] = {}
        for slot in reversed(self._waiting):
            queues.setdefault(slot.conversation, []).append(slot)
        ranked = sorted(keys, key=keys.__getitem__)
        return {queues[one.conversation].pop(): rank for rank, one in enumerate(ranked, start=1)}

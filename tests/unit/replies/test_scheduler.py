import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from typing_extensions import override

from bot.core.events import Conversation, EventId, RoomId, UserId
from bot.replies.scheduler import FairScheduler, Slot


def main(room: str) -> Conversation:
    return Conversation(RoomId(room), None)


def thread(room: str, root: object) -> Conversation:
    return Conversation(RoomId(room), EventId(f"${root}"))


def queue(scheduler: FairScheduler, person: str, *conversations: Conversation) -> list[Slot]:
    return [scheduler.queue(one, UserId(person)) for one in conversations]


def turns(slots: Sequence[Slot]) -> list[Slot]:
    """Return those that have their turn, in the order of arrival."""
    return [slot for slot in slots if slot.granted.is_set() and slot.rank is None]


def served(slots: Sequence[Slot]) -> list[str]:
    """Let every answer end, the oldest first; return the people in the order of their turns."""
    running = deque(turns(slots))
    left = [slot for slot in slots if slot not in running]
    order = [slot.person for slot in running]
    while running:
        running.popleft().drop()
        new = turns(left)
        left = [slot for slot in left if slot not in new]
        running.extend(new)
        order += [slot.person for slot in new]
    assert not left
    return [str(person) for person in order]


async def answer(slot: Slot, until: asyncio.Event) -> None:
    async with slot:
        await until.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_conversation_answers_one_prompt_at_a_time_in_the_order_in_which_they_came() -> None:
    scheduler = FairScheduler(5)
    slots = queue(scheduler, "ann", main("x"), main("x"))
    slots += queue(scheduler, "bob", main("x"))

    assert turns(slots) == slots[:1]
    assert served(slots) == ["ann", "ann", "bob"]


def test_two_conversations_of_one_room_do_not_wait_for_each_other() -> None:
    slots = queue(FairScheduler(2), "ann", thread("x", 1), thread("x", 2))

    assert turns(slots) == slots


def test_at_most_so_many_are_answered_at_once() -> None:
    slots = queue(FairScheduler(2), "ann", main("x"), main("y"), main("z"))

    assert turns(slots) == slots[:2]
    slots[1].drop()
    assert turns(slots[2:]) == slots[2:]


def test_a_notice_waits_for_its_conversation_alone() -> None:
    scheduler = FairScheduler(1)
    (busy,) = queue(scheduler, "ann", main("x"))
    elsewhere = scheduler.queue(main("y"), UserId("bob"), free=True)
    here = scheduler.queue(main("x"), UserId("bob"), free=True)

    assert turns([elsewhere, here]) == [elsewhere]
    (behind,) = queue(scheduler, "bob", main("y"))
    busy.drop()
    assert turns([here, behind]) == [here]
    elsewhere.drop()
    assert turns([behind]) == [behind]


@pytest.mark.parametrize("at_once", [1, 2, 7])
@pytest.mark.parametrize(
    "flood",
    [
        [main("x")] * 50,
        [thread("x", number) for number in range(50)],
        [main(f"x{number}") for number in range(50)],
    ],
)
def test_fifty_prompts_of_one_person_do_not_delay_another_room(
    at_once: int, flood: list[Conversation]
) -> None:
    scheduler = FairScheduler(at_once)
    slots = queue(scheduler, "ann", *flood) + queue(
        scheduler, "bob", thread("y", 1), thread("y", 2)
    )

    order = served(slots)

    assert [place for place, person in enumerate(order) if person == "bob"][-1] <= at_once + 2


@pytest.mark.parametrize("at_once", [1, 2, 7])
def test_fifty_threads_of_one_person_delay_nobody_in_the_same_room(at_once: int) -> None:
    scheduler = FairScheduler(at_once)
    flood = queue(scheduler, "ann", *(thread("x", number) for number in range(50)))
    asked = queue(scheduler, "bob", *(thread("x", f"bob{number}") for number in range(3)))

    assert served([*flood, *asked])[: at_once + 5].count("bob") == 3


def test_a_room_of_many_people_does_not_delay_another_room() -> None:
    scheduler = FairScheduler(2)
    crowd = [queue(scheduler, f"one{n}", thread("x", n))[0] for n in range(50)]
    asked = queue(scheduler, "bob", *[thread("y", n) for n in range(3)])

    assert served([*crowd, *asked])[2:7:2] == ["bob"] * 3


def test_people_of_many_rooms_take_turns() -> None:
    scheduler = FairScheduler(1)
    (now,) = queue(scheduler, "eve", main("e"))
    slots = [
        *queue(scheduler, "ann", main("a"), main("a"), thread("x", 1)),
        *queue(scheduler, "bob", main("b"), main("b")),
        *queue(scheduler, "cat", thread("x", 2)),
    ]

    assert served([now, *slots]) == ["eve", "ann", "bob", "cat", "ann", "bob", "ann"]


def test_newcomers_do_not_pass_by_who_waits_for_longer() -> None:
    scheduler = FairScheduler(1)
    (running,) = queue(scheduler, "ann", main("a"))
    (waiting,) = queue(scheduler, "ann", main("a"))
    for number in range(5):
        queue(scheduler, f"new{number}", main(str(number)))

    passed_by = 0
    running.drop()
    while not turns([waiting]):
        passed_by += 1
        queue(scheduler, f"newer{passed_by}", main(f"newer{passed_by}"))
        next(iter(scheduler._granted.values())).drop()

    assert passed_by <= 6


def test_a_busy_room_and_a_busy_person_do_not_keep_each_other_waiting_for_ever() -> None:
    scheduler = FairScheduler(2)
    running = deque(
        queue(scheduler, "ann", main("ann")) + queue(scheduler, "bob", thread("x", "bob"))
    )
    (both,) = queue(scheduler, "ann", thread("x", "ann"))
    waiting = queue(scheduler, "ann", main("ann")) + queue(scheduler, "cat", thread("x", "cat"))

    rounds = 0
    while not turns([both]):
        rounds += 1
        ended = running.popleft()
        ended.drop()
        waiting += queue(scheduler, ended.person, ended.conversation)  # there is always another
        for slot in turns(waiting):
            waiting.remove(slot)
            running.append(slot)

    assert 10 < rounds <= 201


ANN, ANN_X = ("ann", None), ("ann", "x")  # who asks, and in which room; None for one of its own


@pytest.mark.parametrize(
    ("at_once", "share", "asked", "running"),
    [
        # Alone, one has more than a share, as long as half is left to who comes.
        (20, 0.25, [(ANN, 25)], {"ann": 10}),
        (20, 0.25, [(ANN_X, 25)], {"ann": 10}),
        (20, 0.25, [(ANN, 4)], {"ann": 4}),
        # Who comes next is served at once, up to a share.
        (20, 0.25, [(ANN, 25), (("bob", None), 1), (("cat", None), 1)], {"bob": 1, "cat": 1}),
        (20, 0.25, [(ANN, 25), (("bob", None), 25)], {"ann": 10, "bob": 5}),
        (20, 0.25, [(ANN, 25), (("bob", None), 25), (("cat", None), 25)], {"cat": 5}),
        # A room of many people has no more than one person.
        (20, 0.25, [((f"p{n}", "x"), 1) for n in range(25)] + [(("bob", None), 5)], {"bob": 5}),
        (20, 0.25, [((f"p{n}", "x"), 1) for n in range(25)], {f"p{n}": n < 10 for n in range(25)}),
        # Many people in many rooms have all.
        (20, 0.25, [((f"p{n}", None), 1) for n in range(25)], {"p19": 1, "p20": 0}),
        # One turn is everybody's share, however few there are.
        (1, 0.25, [(ANN, 2)], {"ann": 1}),
        (2, 0.25, [(ANN, 2)], {"ann": 1}),
        (2, 0.25, [(ANN, 2), (("bob", None), 2)], {"ann": 1, "bob": 1}),
        (4, 0.25, [(ANN, 9), (("bob", None), 9)], {"ann": 2, "bob": 1}),
        (20, 0.5, [(ANN, 25), (("bob", None), 25)], {"ann": 10, "bob": 10}),
        (20, 1.0, [(ANN, 25), (("bob", None), 1)], {"ann": 20, "bob": 0}),
    ],
)
def test_one_person_or_room_has_a_share_of_all_turns(
    at_once: int,
    share: float,
    asked: Sequence[tuple[tuple[str, str | None], int]],
    running: Mapping[str, int],
) -> None:
    scheduler = FairScheduler(at_once, share)
    rooms = itertools.count()
    slots = [
        slot
        for (person, room), times in asked
        for _ in range(times)
        for slot in queue(scheduler, person, thread(room or f"own{next(rooms)}", next(rooms)))
    ]

    found = Counter(str(slot.person) for slot in turns(slots))

    assert {person: found[person] for person in running} == running


def test_who_holds_more_than_a_share_gets_no_further_turn_while_half_is_taken() -> None:
    scheduler = FairScheduler(20, 0.25)
    flood = queue(scheduler, "ann", *(thread("x", number) for number in range(40)))
    others = [queue(scheduler, f"p{n}", main(f"p{n}"))[0] for n in range(12)]

    for slot in turns(flood):
        slot.drop()
        assert len(turns(others)) >= 10  # the first ten at once, the others when one ends
    assert turns(others) == others
    assert sum(scheduler.holds(one) for one in flood) == 5


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_whoever_exceeds_a_share_is_served_in_the_end(share: float) -> None:
    scheduler = FairScheduler(4, share)
    flood = queue(scheduler, "ann", *(thread("x", number) for number in range(30)))

    assert served([*flood, *queue(scheduler, "bob", main("y"))]).count("ann") == 30


def test_places_are_told_by_the_rule_by_which_turns_are_given() -> None:
    scheduler = FairScheduler(1)
    slots = [
        *queue(scheduler, "ann", main("a"), main("a"), main("a")),
        *queue(scheduler, "bob", main("b"), thread("b", 1)),
        *queue(scheduler, "cat", main("c")),
    ]

    assert [slot.rank for slot in slots] == [None, 3, 5, 1, 4, 2]
    slots[0].drop()
    assert [slot.rank for slot in slots] == [None, 2, 4, None, 3, 1]
    slots[3].drop()
    assert [slot.rank for slot in slots] == [None, 1, 3, None, 2, None]


def test_the_place_told_to_one_person_counts_a_flood_of_another_once() -> None:
    scheduler = FairScheduler(1)
    queue(scheduler, "ann", *(thread("x", number) for number in range(50)))
    (asked,) = queue(scheduler, "bob", thread("x", "bob"))

    assert asked.rank == 1


async def test_a_turn_lasts_as_long_as_its_block_even_if_that_fails() -> None:
    scheduler = FairScheduler(1)
    first, second = queue(scheduler, "ann", main("x"), main("x"))

    async def fail() -> None:
        async with first:
            assert turns([second]) == []
            raise ValueError("bug")

    with pytest.raises(ValueError, match="bug"):
        await fail()
    async with asyncio.timeout(5), second:
        assert scheduler.holds(second)
    assert not scheduler.holds(second)


async def test_whoever_is_cancelled_while_holding_or_waiting_makes_way() -> None:
    scheduler, never = FairScheduler(1), asyncio.Event()
    slots = queue(scheduler, "ann", main("x"), main("x"), main("x"))
    holding, waiting, _ = [
        asyncio.get_running_loop().create_task(answer(one, never)) for one in slots
    ]
    await settle()

    waiting.cancel()
    await settle()
    assert [one.rank for one in slots] == [None, None, 1]
    holding.cancel()
    await settle()
    assert scheduler.holds(slots[2])


async def test_whoever_is_cancelled_just_as_the_turn_comes_does_not_swallow_it() -> None:
    scheduler, never = FairScheduler(1), asyncio.Event()
    first, second, third = queue(scheduler, "ann", main("x"), main("y"), main("z"))
    waiting = asyncio.get_running_loop().create_task(answer(second, never))
    await settle()

    first.drop()
    assert scheduler.holds(second)
    waiting.cancel()
    await settle()

    assert waiting.cancelled()
    assert turns([third]) == [third]


async def test_a_place_is_given_up_once_whether_its_turn_has_come_or_not() -> None:
    scheduler = FairScheduler(1)
    first, second, third, fourth = queue(scheduler, "ann", *(main(room) for room in "abcd"))

    second.drop()
    second.drop()
    assert third.rank == 1
    first.drop()
    first.drop()
    assert scheduler.holds(third)
    assert fourth.rank == 1
    with pytest.raises(RuntimeError):
        await second.__aenter__()


async def test_whoever_waits_for_a_place_that_is_given_up_is_told() -> None:
    scheduler, never = FairScheduler(1), asyncio.Event()
    _, second = queue(scheduler, "ann", main("a"), main("b"))
    waiting = asyncio.get_running_loop().create_task(answer(second, never))
    await settle()

    second.drop()

    with pytest.raises(RuntimeError, match="given up"):
        await waiting


def test_nothing_is_remembered_of_those_who_are_long_gone() -> None:
    scheduler = FairScheduler(2)
    for number in range(100):
        served(queue(scheduler, f"one{number}", main(str(number))))

    assert len(scheduler._served) <= 6


class AnyLanes(RuleBasedStateMachine):
    """Whatever is asked, ended and given up, in whatever order."""

    at_once, share = 2, 1.0
    asked = Bundle[Slot]("asked")

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = FairScheduler(self.at_once, self.share)
        self.all: list[Slot] = []

    @rule(
        target=asked,
        room=st.sampled_from("xyz"),
        root=st.sampled_from([None, EventId("$1"), EventId("$2")]),
        person=st.sampled_from(["ann", "bob", "cat"]),
        free=st.integers(0, 5).map(lambda number: number == 0),
    )
    def ask(self, room: str, root: EventId | None, person: str, free: bool) -> Slot:  # noqa: FBT001  # drawn
        slot = self.scheduler.queue(Conversation(RoomId(room), root), UserId(person), free=free)
        self.all.append(slot)
        return slot

    @rule(slot=consumes(asked))
    def give_up_or_end(self, slot: Slot) -> None:
        slot.drop()
        self.all = [one for one in self.all if one is not slot]

    @rule()
    def end_the_oldest(self) -> None:
        for slot in turns(self.all)[:1]:
            slot.drop()
            self.all.remove(slot)

    @invariant()
    def so_many_run_at_most_and_never_two_in_one_conversation(self) -> None:
        running = turns(self.all)
        assert sum(not slot.free for slot in running) <= self.at_once
        assert max(Counter(one.conversation for one in running).values(), default=0) <= 1

    @invariant()
    def nobody_waits_who_need_not(self) -> None:
        running = turns(self.all)
        taken = sum(not slot.free for slot in running)
        busy = {slot.conversation for slot in running}
        waiting = [one for one in self.all if one not in running]
        assert all(
            one.conversation in busy
            or (not one.free and (taken == self.at_once or self.has_its_share(one, taken)))
            for one in first(waiting)
        )

    def has_its_share(self, slot: Slot, taken: int) -> bool:
        running = [one for one in turns(self.all) if not one.free]
        has = max(
            sum(one.room_id == slot.room_id for one in running),
            sum(one.person == slot.person for one in running),
        )
        return has >= max(1, int(self.at_once * self.share)) and taken * 2 >= self.at_once

    @invariant()
    def conversations_are_served_in_order(self) -> None:
        running = turns(self.all)
        waiting = [one for one in self.all if one not in running]
        assert all(
            self.all.index(one) < self.all.index(other)
            for one in running
            for other in waiting
            if one.conversation == other.conversation
        )

    @invariant()
    def places_count_from_one_and_follow_the_order_of_each_conversation(self) -> None:
        waiting = [one for one in self.all if one not in turns(self.all)]
        ranks = [one.rank for one in waiting]
        assert {*ranks} == {*range(1, len(waiting) + 1)}
        for conversation in {one.conversation for one in waiting}:
            own = [one.rank or 0 for one in waiting if one.conversation == conversation]
            assert own == sorted(own)

    @override
    def teardown(self) -> None:
        served(self.all)  # everyone has a turn in the end


def first(waiting: Sequence[Slot]) -> list[Slot]:
    """Return the first slot of each conversation."""
    return list({one.conversation: one for one in reversed(waiting)}.values())


class AnyLanesInShares(AnyLanes):
    """The same where a person, and a room, have a share."""

    at_once, share = 4, 0.5


TestAnyLanes = AnyLanes.TestCase
TestAnyLanesInShares = AnyLanesInShares.TestCase

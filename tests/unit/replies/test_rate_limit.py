"""The limiter of one model: who may ask it after a 429, when, and in what order."""

import asyncio
from collections.abc import AsyncIterator
from math import inf

import pytest

from bot.replies.rate_limit import ModelRateLimiter, Requester
from tests.fakes.clock import HeldClock


class Crowd:
    """Completions at one limiter: each asks as soon as it may, then does as the story says."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.clock = HeldClock()
        self.limiter = ModelRateLimiter(self.clock, "small")
        self.went: list[str] = []
        self.vain: list[str] = []
        self.waiting: dict[str, asyncio.Task[None]] = {}
        self._tasks = tasks

    async def come(self, *names: str, patience: float = inf) -> None:
        """Let each come to the limiter, one after the other."""
        for name in names:
            await self.wait(name, self.limiter.add(), patience)

    async def wait(self, name: str, requester: Requester, patience: float = inf) -> None:
        self.waiting[name] = self._tasks.create_task(self._wait(name, requester, patience))
        await self.clock.pass_time(0)

    async def _wait(self, name: str, requester: Requester, patience: float) -> None:
        try:
            if await requester.acquire(self.clock.time + patience):
                self.went.append(name)
                await asyncio.Event().wait()  # it has asked, and no word has come
            else:
                self.vain.append(name)
        finally:
            requester.leave()

    async def leave(self, *names: str) -> None:
        for name in names:
            self.waiting.pop(name).cancel()
        await self.clock.pass_time(0)

    def end(self) -> None:
        for task in self.waiting.values():
            task.cancel()


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        made = Crowd(tasks)
        yield made
        made.end()


def passed(limiter: ModelRateLimiter) -> Requester:
    """Return a requester that has asked."""
    requester = limiter.add()
    assert limiter.try_acquire(requester)
    return requester


async def test_without_a_limit_everybody_may_ask_at_once(crowd: Crowd) -> None:
    await crowd.come("Anne", "Bruno", "Chloé")

    assert crowd.went == ["Anne", "Bruno", "Chloé"]


async def test_nobody_goes_before_the_pause_is_over_and_then_one_alone(crowd: Crowd) -> None:
    passed(crowd.limiter).limited(None)
    await crowd.come("Anne", "Bruno")

    await crowd.clock.pass_time(3.9)
    assert crowd.went == []
    await crowd.clock.pass_time(2.2)
    assert crowd.went == ["Anne"]
    await crowd.clock.pass_time(7)
    assert crowd.went == ["Anne"]


async def test_who_goes_alone_and_is_not_refused_for_ten_seconds_was_let_in(
    crowd: Crowd,
) -> None:
    passed(crowd.limiter).limited(0.0)
    await crowd.come("Anne", "Bruno", "Chloé")

    await crowd.clock.pass_time(10.9)
    assert crowd.went == ["Anne"]
    await crowd.clock.pass_time(0.2)
    assert crowd.went == ["Anne", "Bruno"]
    await crowd.clock.pass_time(1)
    await crowd.come("David")
    assert crowd.went == ["Anne", "Bruno", "Chloé", "David"]


async def test_who_is_refused_alone_for_more_than_a_minute_lets_the_others_try_first(
    crowd: Crowd,
) -> None:
    greedy = passed(crowd.limiter)
    greedy.limited(None)
    begun = crowd.clock.time
    await crowd.come("modest")
    for _ in range(4):
        while not crowd.limiter.try_acquire(greedy):
            assert greedy.position == 1
            await crowd.clock.pass_time(0.5)
        greedy.limited(None)

    assert crowd.clock.time - begun >= 60
    assert not crowd.limiter.try_acquire(greedy)
    assert greedy.position == 2
    await crowd.clock.pass_time(6)
    assert crowd.went == ["modest"]


async def test_a_word_lets_the_others_go_in_order_and_then_anybody(crowd: Crowd) -> None:
    passed(crowd.limiter).limited(None)
    first = crowd.limiter.add()
    assert not crowd.limiter.try_acquire(first)
    await crowd.come("Anne", "Bruno")
    await crowd.clock.pass_time(6)
    assert crowd.limiter.try_acquire(first)

    first.answered()
    await crowd.clock.pass_time(0)
    assert crowd.went == ["Anne"]
    await crowd.come("Chloé")
    await crowd.clock.pass_time(1)  # Anne still has had no word, and no 429 either
    assert crowd.went == ["Anne", "Bruno"]
    await crowd.clock.pass_time(1)
    await crowd.come("David", "Emma")
    assert crowd.went == ["Anne", "Bruno", "Chloé", "David", "Emma"]


async def test_who_has_a_word_within_the_second_lets_the_next_go_at_once(crowd: Crowd) -> None:
    passed(crowd.limiter).limited(0.0)
    requesters = [crowd.limiter.add() for _ in range(5)]
    assert not any(crowd.limiter.try_acquire(requester) for requester in requesters)
    await crowd.clock.pass_time(1)

    for requester in requesters:
        assert crowd.limiter.try_acquire(requester)
        requester.answered()

    assert crowd.limiter.try_acquire(crowd.limiter.add())


async def test_each_429_in_a_row_makes_the_pause_longer_up_to_a_minute(crowd: Crowd) -> None:
    limiter, clock, pauses = crowd.limiter, crowd.clock, list[float]()
    requester = passed(limiter)
    for _ in range(8):
        requester.limited(None)
        requester = limiter.add()
        begun = clock.time
        while not limiter.try_acquire(requester):
            await clock.pass_time(0.1)
        pauses.append(clock.time - begun)

    bounds = [(4, 6.1), (8, 12.1), (16, 24.1), (32, 48.1), *[(59.9, 60.1)] * 4]
    assert all(low <= one <= high for one, (low, high) in zip(pauses, bounds, strict=True))


async def test_a_word_makes_the_next_pause_short_again(crowd: Crowd) -> None:
    requester = passed(crowd.limiter)
    for _ in range(3):
        requester.limited(None)
        await crowd.clock.pass_time(60)
        assert crowd.limiter.try_acquire(requester)
    requester.answered()

    passed(crowd.limiter).limited(None)
    await crowd.clock.pass_time(6)

    assert crowd.limiter.try_acquire(requester)


@pytest.mark.parametrize(("asked", "pause"), [(0.0, 1), (7.0, 7), (90.0, 90), (86_400.0, 600)])
async def test_the_backend_may_say_how_long_the_pause_is(
    crowd: Crowd, asked: float, pause: float
) -> None:
    passed(crowd.limiter).limited(asked)
    await crowd.come("Anne")

    await crowd.clock.pass_time(pause - 0.1)
    assert crowd.went == []
    await crowd.clock.pass_time(0.1)
    assert crowd.went == ["Anne"]


async def test_many_429_of_one_moment_are_one_pause(crowd: Crowd) -> None:
    requesters = [passed(crowd.limiter) for _ in range(20)]
    for requester in requesters:
        requester.limited(None)
    await crowd.clock.pass_time(6)

    assert [crowd.limiter.try_acquire(requester) for requester in requesters] == [
        True,
        *[False] * 19,
    ]


async def test_who_came_first_goes_first_whoever_was_told_first(crowd: Crowd) -> None:
    early, late = passed(crowd.limiter), passed(crowd.limiter)
    late.limited(None)
    await crowd.wait("late", late)
    await crowd.come("newcomer")
    assert late.position == 1
    early.limited(None)
    await crowd.wait("early", early)

    assert (early.position, late.position) == (1, 2)
    await crowd.clock.pass_time(6)
    assert crowd.went == ["early"]


async def test_who_goes_alone_and_gives_up_lets_the_next_try(crowd: Crowd) -> None:
    passed(crowd.limiter).limited(None)
    await crowd.come("Anne", "Bruno", "Chloé")
    await crowd.clock.pass_time(6)

    await crowd.leave("Anne")
    await crowd.clock.pass_time(9)

    assert crowd.went == ["Anne", "Bruno"]


async def test_another_failure_lets_the_next_try_and_keeps_the_position(crowd: Crowd) -> None:
    passed(crowd.limiter).limited(None)
    first = crowd.limiter.add()
    assert not crowd.limiter.try_acquire(first)
    await crowd.come("Anne", "Bruno")
    await crowd.clock.pass_time(6)
    assert crowd.limiter.try_acquire(first)

    first.failed()
    await crowd.clock.pass_time(0)

    assert crowd.went == ["Anne"]
    assert not crowd.limiter.try_acquire(first)
    assert first.position == 1


async def test_positions_follow_from_who_leaves_and_nobody_stays_behind(crowd: Crowd) -> None:
    passed(crowd.limiter).limited(None)
    await crowd.come("Anne", "Bruno")
    last = crowd.limiter.add()
    assert not crowd.limiter.try_acquire(last)
    positions = [last.position]

    await crowd.leave("Anne")
    positions.append(last.position)
    await crowd.leave("Bruno")
    positions.append(last.position)
    last.leave()
    positions.append(last.position)

    assert positions == [3, 2, 1, None]
    assert crowd.limiter._queue == []
    await crowd.clock.pass_time(6)
    assert crowd.limiter.try_acquire(crowd.limiter.add())


async def test_patience_ends(crowd: Crowd) -> None:
    requester = passed(crowd.limiter)
    requester.limited(None)
    assert not crowd.limiter.try_acquire(requester)
    await crowd.come("Anne", patience=15)
    await crowd.clock.pass_time(6)
    assert crowd.limiter.try_acquire(requester)  # and has no answer for long

    await crowd.clock.pass_time(8.9)
    assert crowd.vain == []
    await crowd.clock.pass_time(0.1)
    assert crowd.vain == ["Anne"]


async def test_who_would_wait_in_vain_is_told_at_once(crowd: Crowd) -> None:
    passed(crowd.limiter).limited(300.0)

    await crowd.come("Anne", patience=299)
    await crowd.come("Bruno", patience=301)

    assert crowd.vain == ["Anne"]

"""Values that are made once, however many ask for them."""

import asyncio

import pytest

from bot.dashboard.kept import Kept
from tests.fakes.clock import FakeClock


class Making:
    """Makes numbers, one for each time it is asked, when the test lets it."""

    def __init__(self) -> None:
        self.made = 0
        self.goes_on = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.made += 1
        number = self.made
        await self.goes_on.wait()
        if self.error:
            raise self.error
        return number


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def values(clock: FakeClock) -> Kept[int]:
    return Kept(clock, seconds=60, most=3)


@pytest.fixture
def making() -> Making:
    return Making()


async def asked(values: Kept[int], making: Making, count: int) -> list[asyncio.Task[int]]:
    """Let so many ask at the same time, and begin to wait."""
    asks = [asyncio.ensure_future(values.get("x", making)) for _ in range(count)]
    await asyncio.sleep(0)
    return asks


async def test_who_asks_meanwhile_waits_for_the_same_one(
    values: Kept[int], making: Making
) -> None:
    asks = await asked(values, making, 100)
    making.goes_on.set()
    assert {await one for one in asks} == {1}
    assert await values.get("x", making) == 1


@pytest.mark.parametrize(("passed", "value"), [(0, 1), (59.9, 1), (60, 2), (1e6, 2)])
async def test_it_is_kept_for_a_while(
    values: Kept[int], making: Making, clock: FakeClock, passed: float, value: int
) -> None:
    making.goes_on.set()
    await values.get("x", making)
    clock.time += passed
    assert await values.get("x", making) == value


async def test_a_failure_is_told_all_who_wait_and_is_not_kept(
    values: Kept[int], making: Making
) -> None:
    making.error = OSError("away")
    asks = await asked(values, making, 3)
    making.goes_on.set()
    for one in asks:
        with pytest.raises(OSError, match="away"):
            await one
    making.error = None
    assert await values.get("x", making) == 2


async def test_who_gives_up_making_it_leaves_nobody_waiting(
    values: Kept[int], making: Making
) -> None:
    maker, *others = await asked(values, making, 3)
    maker.cancel()
    for one in others:
        with pytest.raises(TimeoutError):
            await one
    making.goes_on.set()
    assert await values.get("x", making) == 2


async def test_who_gives_up_waiting_disturbs_nobody(values: Kept[int], making: Making) -> None:
    maker, leaves, stays = await asked(values, making, 3)
    leaves.cancel()
    making.goes_on.set()
    assert (await maker, await stays) == (1, 1)


async def test_the_oldest_ones_make_room(values: Kept[int], making: Making) -> None:
    making.goes_on.set()
    assert [await values.get(key, making) for key in "abcd"] == [1, 2, 3, 4]
    assert [await values.get(key, making) for key in "dcba"] == [4, 3, 2, 5]


async def test_one_that_is_made_when_it_had_to_make_room_is_not_kept_twice(
    values: Kept[int], making: Making
) -> None:
    (first,) = await asked(values, making, 1)
    making.goes_on.set()
    for key in "abc":
        await values.get(key, making)
    assert await first == 1
    assert await values.get("x", making) == 5

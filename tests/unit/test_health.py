"""The process's signs of life."""

import asyncio

from bot.health import STALLED_SECONDS, Health
from tests.fakes import FakeClock


async def test_the_watch_ends_when_the_sync_loop_stands_still() -> None:
    clock = FakeClock()
    health = Health(clock)

    await asyncio.wait_for(health.watch(), 5)

    assert health.stalled
    assert STALLED_SECONDS < clock.time - 1000 <= STALLED_SECONDS + 120


async def test_a_loop_that_turns_is_not_stalled_however_long_the_homeserver_is_away() -> None:
    clock = FakeClock()
    health = Health(clock)
    for _ in range(100):
        clock.time += STALLED_SECONDS - 1
        assert not health.stalled
        health.beat()

    assert health.sync_age == 100 * (STALLED_SECONDS - 1)
    health.synced()
    assert health.sync_age == 0

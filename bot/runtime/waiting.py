"""Waits that end with what is told, or with the time."""

import asyncio

from bot.ports.clock import Clock


async def wait_for_event(clock: Clock, told: asyncio.Event, seconds: float | None) -> None:
    """Wait until `told` is set, but for no more than `seconds` by the clock; None for ever."""
    if seconds is None:
        await told.wait()
        return
    loop = asyncio.get_running_loop()
    hears = loop.create_task(told.wait())
    sleeps = loop.create_task(clock.sleep(max(seconds, 0.0)))
    try:
        await asyncio.wait([hears, sleeps], return_when=asyncio.FIRST_COMPLETED)
    finally:
        hears.cancel()
        sleeps.cancel()

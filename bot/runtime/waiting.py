"""Waiting for an event, at most for a given time."""

import asyncio

from bot.ports.clock import Clock


async def wait_for_event(clock: Clock, event: asyncio.Event, seconds: float | None) -> None:
    """Wait until `event` is set, at most for `seconds` by the clock; None for ever."""
    if seconds is None:
        await event.wait()
        return
    loop = asyncio.get_running_loop()
    waiting = loop.create_task(event.wait())
    sleeping = loop.create_task(clock.sleep(max(seconds, 0.0)))
    try:
        await asyncio.wait([waiting, sleeping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        sleeping.cancel()

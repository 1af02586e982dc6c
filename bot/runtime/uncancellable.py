"""Work that must not stop half-way, whoever stops waiting for it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def run_uncancelled(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` in a task of its own; when cancelled, let it end first.

    A send that is cancelled may have reached the homeserver without our knowing its event, and a
    cancelled transaction leaves SQLite's file locked: both run here.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise asyncio.CancelledError from error  # its cause stays readable
        raise

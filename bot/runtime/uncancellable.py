"""Work that the cancellation of its caller must not interrupt."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def run_uncancelled(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` in a task of its own; when cancelled, wait for its end, then raise.

    Sends and transactions need this: a cancelled send may have reached the homeserver, but its
    event id would be lost; a cancelled transaction leaves SQLite's file locked.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise asyncio.CancelledError from error  # so that the work's error is not lost
        raise

"""The process: signals, a drain of running generations, and a check of the sync loop."""

import asyncio
import gc
import signal
from collections.abc import Callable, Coroutine

import structlog

from bot.errors import Stalled
from bot.monitoring.health import Health

_LAST_SECONDS = 3.0  # seconds for sends and transactions that are running at the end

log = structlog.get_logger()


class Signals:
    """The signals to end the process.

    Attributes:
        stop: set by the first signal: end the process.
        at_once: set by the second signal: end it without waiting.
        drains: set when the assistant watches `stop`; before, there is nothing to wait for.
    """

    def __init__(self) -> None:
        self.stop, self.at_once, self.drains = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def take(self) -> None:
        """Handle one signal."""
        (self.at_once if self.stop.is_set() else self.stop).set()


def _wait(event: asyncio.Event) -> asyncio.Task[bool]:
    return asyncio.get_running_loop().create_task(event.wait())


def freeze_garbage_collector() -> None:
    """Exclude the permanent objects from garbage collections: modules, classes, schemas.

    A collection that visits them blocks the event loop for 100 ms.
    """
    gc.collect()
    gc.freeze()


async def run_until_signalled(
    work: Callable[[Signals], Coroutine[None, None, None]],
    health: Health,
    drain_seconds: float,
) -> None:
    """Run the work until it ends, SIGTERM or SIGINT comes, or the sync loop stands still.

    Args:
        work: the work, which gets the signals and ends by itself after the first one.
        health: the check of the sync loop.
        drain_seconds: seconds that the work has to end; a second signal ends this wait.

    Raises:
        Stalled: the sync loop stood still.
        BotError: the error that ended the work.
    """
    loop, signals = asyncio.get_running_loop(), Signals()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.take)
    running, signalled = loop.create_task(work(signals)), _wait(signals.stop)
    watch = loop.create_task(health.watch())
    await asyncio.wait([running, signalled, watch], return_when=asyncio.FIRST_COMPLETED)
    if watch.done():
        log.error("sync stalled", sync_age=round(health.sync_age))
    elif not running.done():
        log.info("stopping", drains=signals.drains.is_set())
        patience = drain_seconds if signals.drains.is_set() else 0.0
        at_once = _wait(signals.at_once)
        await asyncio.wait(
            [running, at_once, watch], timeout=patience, return_when=asyncio.FIRST_COMPLETED
        )
        at_once.cancel()
    if not running.done():
        running.cancel()
        await asyncio.wait([running], timeout=_LAST_SECONDS)
    drained = running.done() and not running.cancelled() and running.exception() is None
    log.info("stopped", drained=drained)
    signalled.cancel()
    watch.cancel()
    if health.stalled:
        raise Stalled("the sync loop stood still; started anew, the assistant goes on")
    if running.done() and not running.cancelled():
        running.result()

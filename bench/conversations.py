"""The cost of many and of long conversations: contexts, the queue, many at once."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from rich.table import Table

from bench import contexts, crowd, waiting
from bench.cold import Cold
from bench.loop_timer import LoopTimer
from bench.rig import exchanges
from bench.rows import Row, table
from bot.process import freeze_garbage_collector
from tests.harness.synapse import Synapse

_ALONE = ("ms", "n", "bot", "goal")
_CROWD = ("ms", "at once", "n", *crowd.SIDES, "- F", "/ F", "goal")
_LOADS = (
    "at once",
    "events a second",
    "homeserver busy",
    "homeserver: CPU ms a reply",
    "process busy",
    "process: CPU ms a reply",
)


@dataclass(frozen=True, slots=True)
class Found:
    """The results.

    Attributes:
        warm: contexts of warm conversations, compared with writing the same request as JSON.
        cold: contexts of cold ones, compared with a client that only makes the same requests.
        lanes: the queue of waiting prompts.
        capacity: events per second that the homeserver accepts while nobody answers.
        crowd: many conversations at once.
        loads: CPU time of the homeserver and of each side.
    """

    warm: Sequence[Row]
    cold: Sequence[Row]
    lanes: Sequence[Row]
    capacity: float
    crowd: Sequence[crowd.Figure]
    loads: Sequence[Sequence[str]]

    def tables(self) -> Iterator[Table]:
        """Yield the tables, in the order of docs/performance.md."""
        yield _compared("its JSON", self.warm)
        yield _compared("homeserver", self.cold)
        cells = [row.cells() for row in self.lanes]
        yield table(_ALONE, ([*first, bot, goal] for *first, _, bot, _, _, goal in cells))
        yield table(_CROWD, (figure.cells() for figure in self.crowd))
        yield table(_LOADS, self.loads)

    def faults(self) -> list[str]:
        """Return the missed goals, and the figures that are not publishable."""
        of_rows = [row.faults() for row in (*self.warm, *self.cold, *self.lanes)]
        of_crowds = [figure.faults() for figure in self.crowd]
        return [fault for faults in (*of_rows, *of_crowds) for fault in faults]


def _compared(beside: str, rows: Sequence[Row]) -> Table:
    headings = ("ms", "n", beside, "bot", f"- {beside}", f"/ {beside}", "goal")
    return table(headings, (row.cells() for row in rows))


def bench(directory: Path) -> Found:
    """Measure in an empty directory; AssertionError if a reply is not the expected one."""
    logging.getLogger("nio").setLevel(logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    loop_timer = LoopTimer()
    freeze_garbage_collector()  # as at the bot's start
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(loop_timer)) as runner:
        return runner.run(_bench(directory, loop_timer))


async def _bench(directory: Path, loop_timer: LoopTimer) -> Found:
    warm = await contexts.warm()
    lanes = waiting.lanes()
    folders = [directory / name for name in ("synapse", "cold", "crowd")]
    for folder in folders:
        folder.mkdir()
    async with Synapse(folders[0]) as synapse:
        cold = await Cold(synapse, folders[1], loop_timer).rows()
        async with crowd.start(synapse, folders[2]) as (many, model):
            capacity = await many.capacity()
            runs = await many.run()
            log = await exchanges(model)
    return Found(warm, cold, lanes, capacity, crowd.figures(runs, log), crowd.loads(runs))

"""What many conversations, and long ones, cost: their contexts, their line, many at once."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from rich.table import Table

from bench import contexts, crowd, waiting
from bench.cold import Cold
from bench.rig import exchanges
from bench.rows import Row, table
from bench.turns import Turns
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
    """What was measured.

    Attributes:
        warm: contexts of warm conversations, beside writing the same request as JSON.
        cold: those of cold ones, beside a client that only asks the homeserver the same.
        lanes: the line of those who wait.
        capacity: events a second that the homeserver takes while nobody is answering.
        crowd: many conversations at once.
        loads: what they ask of the machine.
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
        """Return which goals are missed, and what is not publishable."""
        of_rows = [row.faults() for row in (*self.warm, *self.cold, *self.lanes)]
        of_crowds = [figure.faults() for figure in self.crowd]
        return [fault for faults in (*of_rows, *of_crowds) for fault in faults]


def _compared(beside: str, rows: Sequence[Row]) -> Table:
    headings = ("ms", "n", beside, "bot", f"- {beside}", f"/ {beside}", "goal")
    return table(headings, (row.cells() for row in rows))


def bench(directory: Path) -> Found:
    """Measure in an empty directory; AssertionError where an answer is not what was measured."""
    logging.getLogger("nio").setLevel(logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    turns = Turns()
    freeze_garbage_collector()  # as the bot does at its start
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(turns)) as runner:
        return runner.run(_bench(directory, turns))


async def _bench(directory: Path, turns: Turns) -> Found:
    warm = await contexts.warm()
    lanes = waiting.lanes()
    folders = [directory / name for name in ("synapse", "cold", "crowd")]
    for folder in folders:
        folder.mkdir()
    async with Synapse(folders[0]) as synapse:
        cold = await Cold(synapse, folders[1], turns).rows()
        async with crowd.start(synapse, folders[2]) as (many, model):
            capacity = await many.capacity()
            runs = await many.run()
            log = await exchanges(model)
    return Found(warm, cold, lanes, capacity, crowd.figures(runs, log), crowd.loads(runs))

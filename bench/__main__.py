"""`make bench`: latency, CPU and events per reply of the bot and of the floor F in one run."""

import argparse
import asyncio
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from bench.figures import DRIFT_LIMIT, figures, table_of_figures, table_of_requests
from bench.rig import start

_WARM_UP = 2
_FEWEST = 5
_PAUSE_SECONDS = 0.3
_WIDTH = 180
_PACKAGES = ("matrix-nio", "openai", "aiohttp", "matrix-synapse")


async def bench(rounds: int, streamed_rounds: int) -> None:
    """Measure and print; AssertionError where a reply is not whole and right."""
    console = Console(width=_WIDTH)
    before = os.getloadavg()
    with tempfile.TemporaryDirectory() as directory:
        async with start(Path(directory)) as rig:
            await rig.ask("short", _WARM_UP, _PAUSE_SECONDS)
            streamed = await rig.ask("streamed", streamed_rounds, _PAUSE_SECONDS)
            short = await rig.ask("short", rounds, _PAUSE_SECONDS)
    after = os.getloadavg()
    versions = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    console.print(
        f"{os.cpu_count()} cores, load average {before[0]:.1f} before, {after[0]:.1f} after;"
        f" Python {platform.python_version()}, {versions}"
    )
    said = [2 * _WARM_UP, 2 * (_WARM_UP + streamed_rounds + rounds)]
    console.print(
        "F and the bot answer in clear direct messages; the encrypted one is beside F's clear one."
        f" Streamed replies come first: each conversation grows from {said[0]} messages to"
        f" {said[1]}. Figures are medians (p90; where n < 10, smallest-largest)."
    )
    found = figures(short, streamed)
    console.print(table_of_figures(found))
    console.print(table_of_requests(short, streamed))
    for figure in found:
        if figure.drift > DRIFT_LIMIT:
            console.print(f"not publishable: F drifted {figure.drift:.0%} ({figure.label})")


def main() -> None:
    """Run it with as many rounds as asked for."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="short replies of each client")
    parser.add_argument("--streamed", type=int, default=10, help="streamed replies of each client")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.streamed) < _FEWEST:
        parser.error(f"fewer than {_FEWEST} rounds make no figure")
    asyncio.run(bench(arguments.rounds, arguments.streamed))


if __name__ == "__main__":
    main()

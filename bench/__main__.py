"""`make bench`: measure replies against the floor F, and encryption against stock matrix-nio."""

import argparse
import asyncio
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from bench import campaign, conversations, crowd, crypto, dashboard, share
from bench.figures import figures, table_of_figures, table_of_requests
from bench.rig import start
from bench.rows import DRIFT_LIMIT

_WARM_UP = 2
_FEWEST = 5
_PAUSE_SECONDS = 0.3
_WIDTH = 180
_PACKAGES = ("matrix-nio", "vodozemac", "openai", "aiohttp", "matrix-synapse")
_PARTS = "replies", "crypto", "conversations", "campaign", "dashboard", "share"


@contextmanager
def _conditions(console: Console) -> Iterator[Path]:
    """Yield an empty directory; then print the machine's load before and after, and versions."""
    before = os.getloadavg()
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)
    after = os.getloadavg()
    versions = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    console.print(
        f"{os.cpu_count()} cores, load average {before[0]:.1f} before, {after[0]:.1f} after;"
        f" Python {platform.python_version()}, {versions}"
    )


async def replies(console: Console, rounds: int, streamed_rounds: int) -> None:
    """Measure single replies, and print; AssertionError if one is incomplete or wrong."""
    with _conditions(console) as directory:
        async with start(directory) as rig:
            await rig.ask("short", _WARM_UP, _PAUSE_SECONDS)
            streamed = await rig.ask("streamed", streamed_rounds, _PAUSE_SECONDS)
            short = await rig.ask("short", rounds, _PAUSE_SECONDS)
    messages = [2 * _WARM_UP, 2 * (_WARM_UP + streamed_rounds + rounds)]
    console.print(
        "F and the bot answer in clear direct messages; the encrypted one is beside F's clear one."
        f" Streamed replies come first: each conversation grows from {messages[0]} messages to"
        f" {messages[1]}. Figures are medians (p90; where n < 10, smallest-largest)."
    )
    found = figures(short, streamed)
    console.print(table_of_figures(found))
    console.print(table_of_requests(short, streamed))
    for figure in found:
        if figure.drift > DRIFT_LIMIT:
            console.print(f"not publishable: F drifted {figure.drift:.0%} ({figure.label})")


def encryption(console: Console) -> None:
    """Measure the crypto layer, and print; AssertionError if a side fails to do its work."""
    with _conditions(console) as directory:
        rows = crypto.bench(directory)
    console.print(
        "Medians (smallest-largest); n is stock's / the bot's; a piece is the longest time when"
        " nobody else could run on the event loop."
    )
    console.print(crypto.table(rows))
    for row in rows:
        if row.missed:
            console.print(f"goal missed: {row.label}")


def talk(console: Console) -> None:
    """Measure many and long conversations, and print; AssertionError if a reply is wrong."""
    with _conditions(console) as directory:
        found = conversations.bench(directory)
    console.print(
        'Medians (smallest-largest; of many at once, p90 and largest). "its JSON" is the request'
        ' written as JSON; "homeserver" a client that does nothing but ask it the same; F shows'
        f" completions and does nothing else. A reply is edited after {crowd.EDIT_INTERVAL:.0f} s"
        " at the soonest, so only at its end. The homeserver alone took"
        f" {found.capacity:.0f} events a second."
    )
    for table in found.tables():
        console.print(table)
    for fault in found.faults():
        console.print(fault)


def ratings(console: Console) -> None:
    """Measure the dashboard, and print; AssertionError if a page is wrong."""
    with _conditions(console) as directory:
        rows = dashboard.bench(directory)
    console.print(
        f"{dashboard.RATINGS:,} rated replies of a year, {dashboard.DOMAINS} domains, 3 models,"
        " SQLite; each page is made anew, and read over HTTP by the same process."
    )
    console.print(dashboard.table_of(rows))
    for row in rows:
        if row.missed:
            console.print(f"goal missed: {row.label}")


def flood(console: Console) -> None:
    """Measure the waits during a flood, and print; AssertionError if the flood was too short."""
    with _conditions(console) as directory:
        found = asyncio.run(share.bench(directory))
    console.print(f"Of the flood, {found.left} replies were not whole when all others were done.")
    console.print(found.table())
    if found.missed:
        console.print("goal missed: what others wait in a flood")


def main() -> None:
    """Run all measurements or one part."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("part", nargs="?", choices=_PARTS, help="what to measure; all of it")
    parser.add_argument("--rounds", type=int, default=30, help="short replies of each client")
    parser.add_argument("--streamed", type=int, default=10, help="streamed replies of each client")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.streamed) < _FEWEST:
        parser.error(f"fewer than {_FEWEST} rounds make no figure")
    console = Console(width=_WIDTH)
    parts = [arguments.part] if arguments.part else _PARTS
    if "replies" in parts:
        asyncio.run(replies(console, arguments.rounds, arguments.streamed))
    if "crypto" in parts:
        encryption(console)
    if "conversations" in parts:
        talk(console)
    if "campaign" in parts:
        with _conditions(console) as directory:
            found = campaign.bench(directory)
        console.print(campaign.table(found))
    if "dashboard" in parts:
        ratings(console)
    if "share" in parts:
        flood(console)


if __name__ == "__main__":
    main()

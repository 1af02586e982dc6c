"""`make chaos`: kill the bot during replies, and check that each prompt gets exactly one."""

import argparse
import asyncio
import logging
import secrets
import shutil
import sys
from pathlib import Path
from tempfile import mkdtemp

from tests.chaos.run import run


def main() -> int:
    """Run once; return the exit code: 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000))
    parser.add_argument("--postgresql", action="store_true", help="keep the ledger there")
    parser.add_argument("--verbose", action="store_true", help="a line for each kill")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # nio logs every session that it creates
    directory = Path(mkdtemp(prefix="chaos-"))
    print(f"seed {arguments.seed}, {directory}", file=sys.stderr, flush=True)  # noqa: T201  # a command speaks
    options = (arguments.kills, arguments.seed)
    report = asyncio.run(run(directory, *options, postgresql=arguments.postgresql))
    lines = [*report.kills()] if arguments.verbose else []
    print(*lines, *report.faults(), *report.figures(), report.conclusion, sep="\n")  # noqa: T201  # the report
    if report.fine:
        shutil.rmtree(directory)
        return 0
    print(f"the logs are in {directory}", file=sys.stderr)  # noqa: T201  # where to look
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""Ratings and comments as files: one row for each, for a spreadsheet or a program."""

import csv
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from bot.app import SystemClock
from bot.config import Config
from bot.health import Health
from bot.storage.opinions import COMMENT_COLUMNS, RATING_COLUMNS, SqlOpinions

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what makes a cell one (OWASP: CSV injection)


What = Literal["ratings", "comments"]
Format = Literal["csv", "jsonl"]  # RFC 4180 with a line of names; one JSON object a line


async def export(config: Config, what: What, form: Format, file: TextIO) -> int:
    """Write all that the ledger has, and return how many rows; the assistant may run meanwhile.

    Raises:
        StoreError: the ledger cannot be read.
    """
    columns = RATING_COLUMNS if what == "ratings" else COMMENT_COLUMNS
    write = _csv(file, columns) if form == "csv" else _jsonl(file)
    number = 0
    async for row in _rows(config, what):
        write({name: _plain(row[name]) for name in columns})
        number += 1
    return number


async def _rows(config: Config, what: What) -> AsyncIterator[Mapping[str, Any]]:
    key = config.storage.key.get_secret_value()
    url = config.storage.database
    place = url.get_secret_value() if url else config.storage.directory / "ledger.db"
    async with AsyncExitStack() as parts:
        opinions = await SqlOpinions.open_to_read(place, key, Health(SystemClock()))
        parts.push_async_callback(opinions.close)
        pages = opinions.ratings() if what == "ratings" else opinions.comments()
        async for page in pages:
            for row in page:
                yield row


def _plain(value: object) -> object:
    """Return a value as both formats can hold it: dates by RFC 3339."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z")
    return value


def _csv(file: TextIO, columns: tuple[str, ...]) -> Callable[[Mapping[str, object]], None]:
    writer = csv.DictWriter(file, columns)
    writer.writeheader()

    def write(row: Mapping[str, object]) -> None:
        writer.writerow({name: _cell(value) for name, value in row.items()})

    return write


def _cell(value: object) -> object:
    """Return a value as a spreadsheet reads it, and never as a formula."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _jsonl(file: TextIO) -> Callable[[Mapping[str, object]], None]:
    def write(row: Mapping[str, object]) -> None:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")

    return write

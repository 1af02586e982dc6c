"""What an operator does with the ledger beside the assistant: files out, campaigns in."""

import csv
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO

from bot.app import SystemClock
from bot.campaign_file import Malformed, read
from bot.config import Config
from bot.core.campaigns import Campaign
from bot.errors import ConfigError
from bot.health import Health
from bot.storage.campaigns import ANSWER_COLUMNS, SqlCampaigns
from bot.storage.opinions import COMMENT_COLUMNS, RATING_COLUMNS, SHARED_COLUMNS, SqlOpinions
from bot.storage.reading import open_beside

_COLUMNS = {
    "ratings": RATING_COLUMNS,
    "comments": COMMENT_COLUMNS,
    "answers": ANSWER_COLUMNS,
    "shared": SHARED_COLUMNS,
}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what makes a cell one (OWASP: CSV injection)


What = Literal["ratings", "comments", "answers", "shared"]
Format = Literal["csv", "jsonl"]  # RFC 4180 with a line of names; one JSON object a line


async def export(config: Config, what: What, form: Format, file: TextIO) -> int:
    """Write all that the ledger has, and return how many rows; the assistant may run meanwhile.

    Raises:
        StoreError: the ledger cannot be read.
    """
    columns = _COLUMNS[what]
    write = _csv(file, columns) if form == "csv" else _jsonl(file)
    number = 0
    async for row in _rows(config, what):
        write({name: _plain(row[name]) for name in columns})
        number += 1
    return number


async def draft(config: Config, text: str) -> Campaign | None:
    """Keep a campaign as a draft, to be launched from the admin room; None where it is launched.

    Raises:
        ConfigError: it cannot be read; each fault by its line and field.
        StoreError: the ledger cannot be written.
    """
    try:
        campaign = read(text)
    except Malformed as error:
        faults = [
            f"line {line}: {field or 'the file'}: {kind}" for line, field, kind in error.faults
        ]
        raise ConfigError("\n".join(["this is no campaign:", *faults])) from error
    place, key = _place(config)
    database = await open_beside(place, Health(SystemClock()), writes=True)
    try:
        kept = await SqlCampaigns(database, key).draft(campaign.name, text, SystemClock().now())
    finally:
        await database.close()
    return campaign if kept else None


def _place(config: Config) -> tuple[Path | str, str]:
    """Return where the ledger is, and the operator's secret."""
    url = config.storage.database
    place = url.get_secret_value() if url else config.storage.directory / "ledger.db"
    return place, config.storage.key.get_secret_value()


@asynccontextmanager
async def _opened(config: Config) -> AsyncIterator[tuple[SqlOpinions, SqlCampaigns]]:
    place, key = _place(config)
    opinions = await SqlOpinions.open_to_read(place, key, Health(SystemClock()))
    try:
        yield opinions, SqlCampaigns(opinions.database, key)
    finally:
        await opinions.close()


async def _rows(config: Config, what: What) -> AsyncIterator[Mapping[str, Any]]:
    async with _opened(config) as (opinions, campaigns):
        pages = {
            "ratings": opinions.ratings,
            "comments": opinions.comments,
            "answers": campaigns.answers,
            "shared": opinions.shared,
        }
        async for page in pages[what]():
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

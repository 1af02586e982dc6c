"""Offline commands on the ledger, beside a running bot: export tables, draft campaigns."""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Final, TextIO

from bot.campaigns.definition import Malformed, read
from bot.config.settings import Config
from bot.core.campaigns import Campaign
from bot.core.export_format import ExportName, Format, head, line
from bot.errors import ConfigError
from bot.monitoring.health import Health
from bot.ports.statistics import Export
from bot.runtime.clock import SystemClock
from bot.startup import ledger_location
from bot.storage.campaigns import SqlCampaigns
from bot.storage.exports import exports
from bot.storage.feedback import SqlFeedback
from bot.storage.second_connection import open_beside

_AT_ONCE: Final = 10_000  # rows


async def export(config: Config, name: ExportName, form: Format, file: TextIO) -> int:
    """Write a table of the ledger to a file, and return the number of rows; the bot may run.

    Raises:
        StoreError: the ledger cannot be read.
    """
    number = 0
    async with _opened(config) as tables:
        table = tables[name]
        file.write(head(table.columns, form))
        async with aclosing(table.pages(_AT_ONCE)) as pages:
            async for page in pages:
                file.writelines(line(row, table.columns, form) for row in page)
                number += len(page)
    return number


async def draft(config: Config, text: str) -> Campaign | None:
    """Store a campaign as a draft; return None if one of that name was launched before.

    Raises:
        ConfigError: the text has faults; the message lists them by line and field.
        StoreError: the ledger cannot be written.
    """
    try:
        campaign = read(text)
    except Malformed as error:
        faults = [
            f"line {line}: {field or 'the file'}: {kind}" for line, field, kind in error.faults
        ]
        raise ConfigError("\n".join(["this is no campaign:", *faults])) from error
    key = config.storage.key.get_secret_value()
    database = await open_beside(ledger_location(config), Health(clock=SystemClock()), writes=True)
    try:
        stored = await SqlCampaigns(database, key).draft(campaign.name, text, SystemClock().now())
    finally:
        await database.close()
    return campaign if stored else None


@asynccontextmanager
async def _opened(config: Config) -> AsyncIterator[Mapping[ExportName, Export]]:
    key = config.storage.key.get_secret_value()
    opinions = await SqlFeedback.open_to_read(
        ledger_location(config), key, Health(clock=SystemClock())
    )
    try:
        yield exports(opinions, SqlCampaigns(opinions.database, key))
    finally:
        await opinions.close()

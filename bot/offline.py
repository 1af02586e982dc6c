"""What an operator does with the ledger beside the assistant: files out, campaigns in."""

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
from bot.startup import ledger_place
from bot.storage.campaigns import SqlCampaigns
from bot.storage.exports import exports
from bot.storage.feedback import SqlFeedback
from bot.storage.second_connection import open_beside

_AT_ONCE: Final = 10_000  # rows


async def export(config: Config, what: ExportName, form: Format, file: TextIO) -> int:
    """Write all that the ledger has, and return how many rows; the assistant may run meanwhile.

    Raises:
        StoreError: the ledger cannot be read.
    """
    number = 0
    async with _opened(config) as tables:
        table = tables[what]
        file.write(head(table.columns, form))
        async with aclosing(table.pages(_AT_ONCE)) as pages:
            async for page in pages:
                file.writelines(line(row, table.columns, form) for row in page)
                number += len(page)
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
    key = config.storage.key.get_secret_value()
    database = await open_beside(ledger_place(config), Health(SystemClock()), writes=True)
    try:
        kept = await SqlCampaigns(database, key).draft(campaign.name, text, SystemClock().now())
    finally:
        await database.close()
    return campaign if kept else None


@asynccontextmanager
async def _opened(config: Config) -> AsyncIterator[Mapping[ExportName, Export]]:
    key = config.storage.key.get_secret_value()
    opinions = await SqlFeedback.open_to_read(ledger_place(config), key, Health(SystemClock()))
    try:
        yield exports(opinions, SqlCampaigns(opinions.database, key))
    finally:
        await opinions.close()

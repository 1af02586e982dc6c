"""`!exporter`: what the ledger has of opinions and answers, as a file in the admin room."""

import io
from contextlib import aclosing
from datetime import UTC, datetime

import structlog

from bot.commands.registry import UPLOADING, CommandContext, command
from bot.core.export_format import TYPES, ExportName, Format, head, line
from bot.core.outgoing import Attachment
from bot.errors import TooLarge
from bot.i18n.texts import Language
from bot.ports.statistics import Export
from bot.runtime.retry import retry_until_accepted

_WORDS: dict[str, ExportName] = {
    **dict.fromkeys(("avis", "ratings"), "ratings"),
    **dict.fromkeys(("commentaires", "comments"), "comments"),
    **dict.fromkeys(("reponses", "réponses", "answers"), "answers"),
    **dict.fromkeys(("partages", "partagés", "shared"), "shared"),
}
_NAMES: dict[Language, dict[ExportName, str]] = {  # of the files
    "fr": {
        "ratings": "avis",
        "comments": "commentaires",
        "answers": "reponses",
        "shared": "partages",
    },
    "en": {name: name for name in _WORDS.values()},
}
_FORMATS: dict[str, Format] = {name: name for name in TYPES}
_AT_ONCE = 50  # rows: to open and write them holds the loop up for some 10 ms
_LARGEST = 50_000_000  # bytes, as the file is in memory until it is sent

log = structlog.get_logger()


@command("exporter", "export", admin=True)
async def export(context: CommandContext) -> str:
    """Send a table as a file to the room in which it was asked for."""
    word, *more = context.argument.lower().split() or [""]
    what = _WORDS.get(word)
    form = _FORMATS.get(" ".join(more) or "csv")
    if what is None or form is None:
        return context.texts("export how")
    async with context.exporting:
        return await _send(context, what, form)


async def _send(context: CommandContext, what: ExportName, form: Format) -> str:
    # Some homeservers break the connection off where they are sent too much: so they are asked.
    limit = await retry_until_accepted(
        context.clock, context.matrix.upload_limit, within=UPLOADING
    )
    most = _LARGEST if limit is None else min(limit, _LARGEST)
    word = _NAMES[context.texts.language][what]
    name = f"{word}-{datetime.fromtimestamp(context.clock.now(), UTC):%Y-%m-%d}.{form}"
    try:
        data, rows = await _written(context.exports[what], form, most)
        if rows == 0:
            return context.texts("export empty")
        await context.attach(Attachment(name, TYPES[form], data))
    except TooLarge:
        return context.texts("export too large", what=what, form=form, file=name)
    log.info("exported", what=what, rows=rows)
    return context.texts("exported", n=rows, what=word, file=name)


async def _written(table: Export, form: Format, most: int) -> tuple[bytes, int]:
    """Return a file and the number of its rows.

    Raises:
        TooLarge: it would have more than so many bytes.
    """
    file, rows = io.BytesIO(), 0
    file.write(head(table.columns, form).encode())
    async with aclosing(table.pages(_AT_ONCE)) as pages:
        async for page in pages:
            for row in page:
                file.write(line(row, table.columns, form).encode())
                if file.tell() > most:
                    raise TooLarge(f"more than {most} bytes")
            rows += len(page)
    return file.getvalue(), rows

"""`!exporter`: send a table of feedback or campaign answers as a file to the admin room."""

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
_NAMES: dict[Language, dict[ExportName, str]] = {  # file names
    "fr": {
        "ratings": "avis",
        "comments": "commentaires",
        "answers": "reponses",
        "shared": "partages",
    },
    "en": {name: name for name in _WORDS.values()},
}
_FORMATS: dict[str, Format] = {name: name for name in TYPES}
_AT_ONCE = 50  # rows; decrypting and writing them blocks the event loop for about 10 ms
_LARGEST = 50_000_000  # bytes; the file is in memory until it is sent

log = structlog.get_logger()


@command("exporter", "export", admin=True)
async def export(context: CommandContext) -> str:
    """Send a table as a file to the room of the command."""
    word, *more = context.argument.lower().split() or [""]
    export_name = _WORDS.get(word)
    form = _FORMATS.get(" ".join(more) or "csv")
    if export_name is None or form is None:
        return context.texts("export how")
    async with context.exporting:
        return await _send(context, export_name, form)


async def _send(context: CommandContext, export_name: ExportName, form: Format) -> str:
    # Some homeservers close the connection on a too large upload, so the limit is requested first.
    limit = await retry_until_accepted(
        context.clock, context.matrix.upload_limit, within=UPLOADING
    )
    most = _LARGEST if limit is None else min(limit, _LARGEST)
    word = _NAMES[context.texts.language][export_name]
    name = f"{word}-{datetime.fromtimestamp(context.clock.now(), UTC):%Y-%m-%d}.{form}"
    try:
        data, rows = await _build(context.exports[export_name], form, most)
        if rows == 0:
            return context.texts("export empty")
        await context.attach(Attachment(name=name, mimetype=TYPES[form], data=data))
    except TooLarge:
        return context.texts("export too large", what=export_name, form=form, file=name)
    log.info("exported", what=export_name, rows=rows)
    return context.texts("exported", n=rows, what=word, file=name)


async def _build(table: Export, form: Format, most: int) -> tuple[bytes, int]:
    """Return the file's content and the number of its rows.

    Raises:
        TooLarge: the file would have more than `most` bytes.
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

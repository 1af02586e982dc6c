"""What leaves the ledger as a file: a table, in one of two formats, line by line."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Literal

What = Literal["ratings", "comments", "answers", "shared"]
Format = Literal["csv", "jsonl"]  # RFC 4180 with a line of names; one JSON object a line

TYPES: Final[dict[Format, str]] = {
    "csv": "text/csv",
    "jsonl": "application/x-ndjson",  # nothing is registered for it; most say this
}

# What makes a cell a formula (OWASP: CSV injection). A spreadsheet that parts cells by another
# character than ours, as a French one does, finds cells inside a text.
_SIGNS: Final = "=+\\-@＝＋－＠"  # noqa: RUF001  # full width, as these are meant
_FORMULA: Final = re.compile(rf"^(?=[ \"']*[{_SIGNS}\t\r\n])|(?<=[;,\t\r\n])(?=[ \"']*[{_SIGNS}])")


def head(columns: Sequence[str], form: Format) -> str:
    """Return what stands above the first row: the line of names, or nothing."""
    return _csv(columns) if form == "csv" else ""


def line(row: Mapping[str, object], columns: Sequence[str], form: Format) -> str:
    """Return one row with its end of line; of what it has, these columns alone."""
    values = {name: _plain(row[name]) for name in columns}
    if form == "csv":
        return _csv(map(_cell, values.values()))
    return json.dumps(values, ensure_ascii=False) + "\n"


def _plain(value: object) -> object:
    """Return a value as both formats can hold it: dates by RFC 3339."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z")
    return value


def _csv(cells: Iterable[object]) -> str:
    file = io.StringIO(newline="")
    csv.writer(file).writerow(cells)
    return file.getvalue()


def _cell(value: object) -> object:
    """Return a value as a spreadsheet reads it, and never as a formula."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return _FORMULA.sub("'", value) if isinstance(value, str) else value

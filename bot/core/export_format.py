"""The formats of exported tables, CSV and JSON Lines, written line by line."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Literal

ExportName = Literal["ratings", "comments", "answers", "shared"]
Format = Literal["csv", "jsonl"]  # RFC 4180 with a header line; one JSON object a line

TYPES: Final[dict[Format, str]] = {
    "csv": "text/csv",
    "jsonl": "application/x-ndjson",  # not registered with IANA, but the usual one
}

# The beginning of a cell that a spreadsheet reads as a formula (OWASP: CSV injection). A
# spreadsheet with another separator than ours, as a French one, finds cells inside a text.
_SIGNS: Final = "=+\\-@＝＋－＠"  # noqa: RUF001  # the full-width characters are meant
_FORMULA: Final = re.compile(rf"^(?=[ \"']*[{_SIGNS}\t\r\n])|(?<=[;,\t\r\n])(?=[ \"']*[{_SIGNS}])")


def head(columns: Sequence[str], form: Format) -> str:
    """Return the header line of the format; "" if it has none."""
    return _csv(columns) if form == "csv" else ""


def line(row: Mapping[str, object], columns: Sequence[str], form: Format) -> str:
    """Return one row with its line end, narrowed to these columns."""
    values = {name: _plain(row[name]) for name in columns}
    if form == "csv":
        return _csv(map(_cell, values.values()))
    return json.dumps(values, ensure_ascii=False) + "\n"


def _plain(value: object) -> object:
    """Return a value in a form that both formats can hold: a date as RFC 3339."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z")
    return value


def _csv(cells: Iterable[object]) -> str:
    file = io.StringIO(newline="")
    csv.writer(file).writerow(cells)
    return file.getvalue()


def _cell(value: object) -> object:
    """Return a value for a spreadsheet, so that it is never read as a formula."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return _FORMULA.sub("'", value) if isinstance(value, str) else value

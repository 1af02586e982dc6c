"""Tables as lists, which every client lays out: an item for each row, its cells under their names.

French punctuation, whatever the language of the table.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, takewhile

from markdown_it.token import Token

from bot.core.plain_text import text, words

_REPEATED_NAMES = 5_000  # characters of column names that the rows of one table may repeat
_COLON = "\u00a0: "  # the no-break space keeps the sign on the line of its word
_SEMICOLON = "\u00a0; "
_EMPTY = "–"  # the dash is meant

_Inline = list[Token]  # tokens of a cell, or of what is written of several
_Row = list[_Inline]


def as_lists(tokens: Iterable[Token]) -> Iterator[Token]:
    """Replace tables by lists: Tchap's mobile clients do not lay tables out."""
    stream = iter(tokens)
    for token in stream:
        if token.type == "table_open":
            yield from _table(takewhile(lambda inner: inner.type != "table_close", stream))
        else:
            yield token


def _table(tokens: Iterable[Token]) -> Iterator[Token]:
    """Write a table: a line that tells what its items are, and an item for each row with words.

    Of two columns, an item is "name : value", and the line above names both. Of more, the first
    cell is the item's head, named by the line above; the others follow, each on a line behind the
    name of its column, but empty ones: a dash tells of a column without any value. Where there
    are no such names, or too many to repeat, a row is one line.
    """
    names, *rows = _rows(tokens)
    rows = [row for row in rows if any(map(_says, row))]
    if len(names) == 1:
        caption, items = _captioned(names), [row[0] for row in rows]
    elif len(names) == 2:  # noqa: PLR2004  # a name and its value
        caption, items = _captioned(names), list(map(_pair, rows))
    elif 0 < len(rows) * sum(len(words(name)) for name in names[1:]) <= _REPEATED_NAMES:
        caption, items = _captioned(names[:1]), list(_records(names, rows))
    else:
        caption, items = _joined(filter(_says, names)), list(map(_joined, rows))
    if caption:
        yield Token("paragraph_open", "p", 1, block=True)
        yield Token("inline", "", 0, children=_strong(caption))
        yield Token("paragraph_close", "p", -1, block=True)
    if items:
        yield Token("bullet_list_open", "ul", 1, block=True)
        yield from chain.from_iterable(map(_item, items))
        yield Token("bullet_list_close", "ul", -1, block=True)


def _rows(tokens: Iterable[Token]) -> list[_Row]:
    rows: list[_Row] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            rows[-1].append(token.children or [])
    return rows


def _captioned(names: _Row) -> _Inline:
    """Return "Name :" or "Name : value", for the line above the items."""
    said = list(filter(_says, names))
    if len(said) == 1:
        return [*said[0], text(_sign(said[0]).rstrip(" "))]
    return _pair(said, bold=False) if said else []


def _pair(row: _Row, *, bold: bool = True) -> _Inline:
    """Return "name : value"; the name alone where its value is empty or not written yet."""
    name, value = row
    said = (_strong(name) if bold else name) if _says(name) else [text(_EMPTY)]
    return [*said, text(_sign(name)), *value] if _says(value) else said


def _records(names: _Row, rows: list[_Row]) -> Iterator[_Inline]:
    """Yield for each row its first cell, and each other on a line of its own behind its name."""
    vacant = [not any(map(_says, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        lines = [_strong(row[0])] if _says(row[0]) else []
        for name, cell, never in zip(names[1:], row[1:], vacant[1:], strict=True):
            if _says(cell):
                lines.append([*name, text(_sign(name)), *cell] if _says(name) else cell)
            elif never and _says(name):
                lines.append([*name, text(_sign(name) + _EMPTY)])
        yield _between(lines, Token("hardbreak", "br", 0))


def _joined(cells: Iterable[_Inline]) -> _Inline:
    """Return the cells in one line; a dash keeps the place of an empty one."""
    return _between([cell if _says(cell) else [text(_EMPTY)] for cell in cells], text(_SEMICOLON))


def _between(pieces: Iterable[_Inline], token: Token) -> _Inline:
    return list(chain.from_iterable([token, *piece] for piece in pieces))[1:]


def _item(children: _Inline) -> Iterator[Token]:
    yield Token("list_item_open", "li", 1, block=True)
    yield Token("paragraph_open", "p", 1, hidden=True, block=True)
    yield Token("inline", "", 0, children=children)
    yield Token("paragraph_close", "p", -1, hidden=True, block=True)
    yield Token("list_item_close", "li", -1, block=True)


def _says(cell: _Inline) -> bool:
    return bool(words(cell).strip())


def _sign(name: _Inline) -> str:
    """Return the colon behind a name; a space where it has a sign of its own, as "Prix :"."""
    return " " if words(name).rstrip().endswith((":", "?", "!")) else _COLON


def _strong(inside: _Inline) -> _Inline:
    if any(token.type == "strong_open" for token in inside):
        return inside
    return [Token("strong_open", "strong", 1), *inside, Token("strong_close", "strong", -1)]

"""Tables rewritten as lists, which every client can lay out: one item for each row.

The punctuation is French, whatever the language of the table.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, takewhile

from markdown_it.token import Token

from bot.core.plain_text import text, words

_REPEATED_NAMES = 5_000  # characters of column names that the rows of one table may repeat
_COLON = "\u00a0: "  # the no-break space keeps the colon on the line of its word
_SEMICOLON = "\u00a0; "
_EMPTY = "–"  # an en dash

_Inline = list[Token]  # tokens of a cell, or of a line written from several cells
_Row = list[_Inline]


def as_lists(tokens: Iterable[Token]) -> Iterator[Token]:
    """Replace tables by lists, as Tchap's mobile clients do not lay tables out."""
    stream = iter(tokens)
    for token in stream:
        if token.type == "table_open":
            yield from _table(takewhile(lambda inner: inner.type != "table_close", stream))
        else:
            yield token


def _table(tokens: Iterable[Token]) -> Iterator[Token]:
    """Write a table as a caption and a list with an item for each row that is not empty.

    - One column: the caption is its name, and an item is a cell.
    - Two columns: the caption is both names, and an item is "name : value".
    - More columns: the caption is the first column's name. An item begins with its first cell;
      each other cell follows on its own line, after the name of its column. Empty cells are left
      out, but a column without any value gets a dash.
    - More columns without names, or with names too long to repeat: a row is one line.
    """
    names, *rows = _rows(tokens)
    rows = [row for row in rows if any(map(_has_words, row))]
    if len(names) == 1:
        caption, items = _captioned(names), [row[0] for row in rows]
    elif len(names) == 2:  # noqa: PLR2004  # a name and its value
        caption, items = _captioned(names), list(map(_pair, rows))
    elif 0 < len(rows) * sum(len(words(name)) for name in names[1:]) <= _REPEATED_NAMES:
        caption, items = _captioned(names[:1]), list(_records(names, rows))
    else:
        caption, items = _joined(filter(_has_words, names)), list(map(_joined, rows))
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
    """Return the caption: "Name :" or "Name : value"."""
    written = [name for name in names if _has_words(name)]
    if len(written) == 1:
        return [*written[0], text(_colon(written[0]).rstrip(" "))]
    return _pair(written, bold=False) if written else []


def _pair(row: _Row, *, bold: bool = True) -> _Inline:
    """Return "name : value"; only the name if its value is empty or not written yet."""
    name, value = row
    shown = (_strong(name) if bold else name) if _has_words(name) else [text(_EMPTY)]
    return [*shown, text(_colon(name)), *value] if _has_words(value) else shown


def _records(names: _Row, rows: list[_Row]) -> Iterator[_Inline]:
    """Yield for each row its first cell, then each other cell on its own line after its name."""
    vacant = [not any(map(_has_words, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        lines = [_strong(row[0])] if _has_words(row[0]) else []
        for name, cell, is_vacant in zip(names[1:], row[1:], vacant[1:], strict=True):
            if _has_words(cell):
                lines.append([*name, text(_colon(name)), *cell] if _has_words(name) else cell)
            elif is_vacant and _has_words(name):
                lines.append([*name, text(_colon(name) + _EMPTY)])
        yield _between(lines, Token("hardbreak", "br", 0))


def _joined(cells: Iterable[_Inline]) -> _Inline:
    """Return the cells in one line, with a dash for an empty one."""
    shown = [cell if _has_words(cell) else [text(_EMPTY)] for cell in cells]
    return _between(shown, text(_SEMICOLON))


def _between(pieces: Iterable[_Inline], token: Token) -> _Inline:
    return list(chain.from_iterable([token, *piece] for piece in pieces))[1:]


def _item(children: _Inline) -> Iterator[Token]:
    yield Token("list_item_open", "li", 1, block=True)
    yield Token("paragraph_open", "p", 1, hidden=True, block=True)
    yield Token("inline", "", 0, children=children)
    yield Token("paragraph_close", "p", -1, hidden=True, block=True)
    yield Token("list_item_close", "li", -1, block=True)


def _has_words(cell: _Inline) -> bool:
    return bool(words(cell).strip())


def _colon(name: _Inline) -> str:
    """Return the colon after a name; a space if it ends with punctuation, as in "Prix :"."""
    return " " if words(name).rstrip().endswith((":", "?", "!")) else _COLON


def _strong(inside: _Inline) -> _Inline:
    if any(token.type == "strong_open" for token in inside):
        return inside
    return [Token("strong_open", "strong", 1), *inside, Token("strong_close", "strong", -1)]

"""The first version of a growing reply: the one that notifications show.

An edit notifies nobody, so the first version must be worth reading: a whole sentence or block.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from markdown_it.token import Token

from bot.core.invisible_text import LINE_END
from bot.core.markdown import blocks, is_closed, open_marks, without_open
from bot.core.readable import visible_length
from bot.core.sentences import is_abbreviation, sentence_ends

LEAST: Final = 20  # visible characters of the first version
_LONGEST = 2_000  # characters that are searched for an end
_CANDIDATES = 20  # ends that are tried, from the last one back
_DROPPED = 4  # meaningless words, or blocks, that are dropped from the end at most

_EMPTY_ITEM = re.compile(r"(?:\A|\n)[\s>]*(?:[-+*•#>]+|\d{1,9}[.)])\Z")
_WHOLE_LAST_WORD = re.compile(r"\s[^\W\d_]{2,}[.!?…]\Z")
_WORD = re.compile(r"\S+(?:[\u00a0\u202f ][!?…:;»]+(?!\S))?")
_MARKS = "*_`~\"'«»“”’()[]"
_NUMBER = re.compile(r"[\d.,:;/°%€$+\u00a0\u202f-]+\Z")
_WORDLIKE = re.compile(r"[^\W_]")
_LETTER = re.compile(r"[^\W\d_]")
# A row of a table whose second row may not have come yet.
_ROW = re.compile(r"^(?:[^\S\n]*[>+*-]?[^\S\n]*\||[^\n|]*[^\s|][^\S\n]\|[^\S\n])", re.MULTILINE)
_UNSPACED = 60  # characters without a space, as some scripts have none


def whole(text: str, least: int = LEAST) -> str:
    """Return the text up to the end of its last whole sentence or block.

    No sentence ends within open Markdown (emphasis, code, a link, a table). A text of more than
    `_LONGEST` characters is worth reading without an end.

    Args:
        text: the text so far.
        least: visible characters below which the result is "".
    """
    if len(text) > _LONGEST:
        return text if visible_length(text[:_LONGEST]) >= max(least, 1) else ""
    layout = _Layout(text)
    ends = dict.fromkeys(layout.block_ends())
    sentences = {end: start for end, start in layout.sentence_ends() if end not in ends}
    candidates = sorted({**sentences, **ends}.items(), reverse=True)[:_CANDIDATES]
    for end, start in candidates:
        found = text[:end].rstrip()
        if _EMPTY_ITEM.search(found) or not (start is None or is_closed(text[start:end])):
            continue
        return found if visible_length(found) >= least else ""
    return ""


def begun(text: str, least: int = LEAST) -> str:
    """Return the text up to its last whole word, with its open Markdown closed.

    The result never ends with a word that means nothing alone: a sign, an abbreviation, a number
    that may go on.

    Args:
        text: the text so far.
        least: visible characters below which the result is "".
    """
    text = text[:_LONGEST]
    words = text if _WHOLE_LAST_WORD.search(text) else _whole_words(text)
    found = _without_last(words.rstrip(), whole_line="\n" in text[len(words.rstrip()) :])
    length = visible_length(found)
    says = length >= LEAST or any(
        _LETTER.search(word) and not is_abbreviation(word.strip(_MARKS)) for word in found.split()
    )
    return found if says and length >= max(least, 1) else ""


def _whole_words(text: str) -> str:
    """Return the text without its last word, which may go on.

    A very long last word is kept: some scripts have no spaces.
    """
    end = max(text.rfind(space) for space in " \n\t\u00a0\u202f")
    last = text[end + 1 :]
    return text if len(last) > _UNSPACED and not last.isascii() else text[: end + 1]


def _without_last(text: str, *, whole_line: bool) -> str:
    """Return the text without a meaningless end, and with its open Markdown closed.

    Args:
        text: a text of whole words.
        whole_line: whether its last line is whole, too.
    """
    for _ in range(_DROPPED):
        layout = _Layout(text)
        last = layout.last
        if last is None or not last.map:
            return ""
        start, end = layout.span(last)
        if last.type != "inline":
            kept = _shown(last, text[start:end], whole_line=whole_line)
        else:
            kept = _closed(text[start:])
        if kept:
            return text[:start] + kept
        text, whole_line = text[:start].rstrip(), True
    return ""


def _closed(share: str) -> str:
    """Return a paragraph without meaningless last words, and with its open Markdown closed."""
    shown = share[: row.start()] if (row := _ROW.search(share)) else share
    shown = without_open(shown).rstrip()
    words = list(_WORD.finditer(shown))
    for _ in range(_DROPPED):
        if not words or not _says_nothing(words[-1][0], shown):
            break
        shown = shown[: words.pop().start()].rstrip()
    return shown + open_marks(shown) if words else ""


def _shown(block: Token, lines: str, *, whole_line: bool) -> str:
    """Return the part of a last code block or table that can be shown: no row that is cut."""
    if block.type != "table":
        return lines if block.content.strip() else ""
    rows = lines.rstrip().splitlines()[: None if whole_line else -1]
    if not rows:
        return ""
    head, *data = rows
    delimiter = "|" + "---|" * (head.strip().strip("|").count("|") + 1)
    return "\n".join([head, delimiter, *data[1:]])


def _says_nothing(word: str, text: str) -> bool:
    """Return whether the last word of a text means nothing until more text follows."""
    plain = word.strip(_MARKS + "\u00a0\u202f :;!?")
    return (
        not _WORDLIKE.search(plain)
        or _NUMBER.fullmatch(plain) is not None
        or _EMPTY_ITEM.search(text[-len(word) - 12 :]) is not None
        or is_abbreviation(plain)
    )


class _Layout:
    """A text with its Markdown blocks and their lines."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._starts = [0, *(line.end() for line in LINE_END.finditer(text)), len(text)]
        self._tokens = list(_without_rows(blocks(text)))

    @property
    def last(self) -> Token | None:
        """The last block with words, of type "inline", "fence", "code_block" or "table"."""
        return next((one for one in reversed(self._tokens) if one.type in _WORDED), None)

    def span(self, block: Token) -> tuple[int, int]:
        """Return the indices at which a block begins and ends."""
        first, end = block.map or (0, 0)
        return self._starts[first], self._starts[end]

    def block_ends(self) -> Iterator[int]:
        """Yield the indices at which a block or a list item ends for certain.

        Another one begins behind it, or an empty line, which ends no code.
        """
        inside = self._code_lines()
        for token in self._tokens:
            if token.map and token.nesting >= 0 and token.type != "inline":
                yield self._starts[token.map[0]]
        for number, (start, end) in enumerate(pairwise(self._starts)):
            line = self.text[start:end]
            if line and not line.strip() and LINE_END.search(line) and number not in inside:
                yield start

    def _code_lines(self) -> set[int]:
        """Return the numbers of lines within code; an open fence reaches to the end."""
        inside = set[int]()
        for token in self._tokens:
            if token.type in {"fence", "code_block"} and token.map:
                first, end = token.map
                last = self.text[self._starts[first] : self._starts[end]].rstrip().splitlines()
                is_open = token.type == "fence" and not (
                    len(last) > 1 and last[-1].strip(" \t>").startswith(token.markup)
                )
                inside.update(range(first + 1, len(self._starts) if is_open else end))
        return inside

    def sentence_ends(self) -> Iterator[tuple[int, int]]:
        """Yield the index at which each sentence ends, and that at which its paragraph begins."""
        for token in self._tokens:
            if token.type != "inline" or not token.map:
                continue
            start, end = self.span(token)
            share = self.text[start:end]
            if row := _ROW.search(share):
                share = share[: row.start()]
            yield from ((start + one, start) for one in sentence_ends(share))


_WORDED = {"inline", "fence", "code_block", "table"}


def _without_rows(tokens: list[Token]) -> Iterator[Token]:
    """Yield the block tokens, and one token for each table."""
    stream = iter(tokens)
    for token in stream:
        if token.type == "table_open":
            for inner in stream:
                if inner.type == "table_close":
                    break
            yield Token("table", "", 0, map=token.map)
        elif token.type == "inline" and token.content.startswith("|"):
            yield Token("table", "", 0, map=token.map)
        else:
            yield token

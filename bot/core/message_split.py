"""Division of a long reply into messages, and the Markdown that each message repeats."""

import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from unicodedata import category

from markdown_it.token import Token

from bot.core.invisible_text import LINE_END
from bot.core.markdown import Part, blocks, is_closed, verbatim
from bot.core.sentences import sentence_ends

PART_LIMIT = 6_000  # characters of the model's Markdown

# Bytes that a part may take verbatim; the rest of markdown.SIZE_LIMIT is for its markup. Only a
# text that is mostly not in Latin letters reaches this limit before PART_LIMIT.
_SIZE = 36_000
_HEADS = {"fence": 1, "table_open": 2}  # lines at the head of a block, by its token
_HEAD_LIMIT = 400  # characters of a head that are repeated at most

_CONTAINERS = re.compile(r"(?:\s|>|(?:[-+*]|\d{1,9}[.)])(?=\s))*")  # signs of lists and quotes
_MARKS = {"Mn", "Mc", "Me", "Cf", "Cs", "Sk"}  # Unicode categories that continue a grapheme
# White space between sentences of one paragraph. What follows must not look like the sign of a
# list at the beginning of a part.
_BETWEEN = re.compile(r"[ \n]+(?=\S)(?!(?:\d+[.)]|[-+*>#]+)\s)")
_CANDIDATES = 20  # ends of sentences that are tried, from the last one back
_INK = re.compile(r"\S")
_GRAPHEME = 16  # characters of the longest grapheme that no cut divides


def split(source: str, limit: int = PART_LIMIT) -> tuple[Part, ...]:
    """Cut Markdown into parts of at most `limit` characters, each of which fits one event.

    The concatenated sources of the parts are the source. White space at its end makes no part of
    its own.
    """
    cuts = Cuts(limit)
    return (*cuts.more(source), cuts.rest(source))


class Cuts:
    """The cuts of a source that grows.

    Each cut is made once, and a growing source never moves it: a cut depends on the longest text
    that the part before it could hold, and on one character more.

    Attributes:
        full: the parts before the last cut, which never change.
    """

    def __init__(self, limit: int = PART_LIMIT) -> None:
        self.full: list[Part] = []
        self._limit = limit
        self._start = 0  # index of the last cut
        self._opening = ""

    def more(self, source: str) -> Iterator[Part]:
        """Make the new cuts; yield the part before each, which takes milliseconds.

        Args:
            source: the whole source; it begins with the source of the previous call.
        """
        while True:
            window = source[self._start : self._start + self._limit + 1]
            capacity = _capacity(window, self._opening, self._limit)
            if _INK.search(source, self._start + capacity) is None:
                return
            cut, repeated = _cut(window[: capacity + 1], self._opening)
            self.full.append(Part(window[:cut], self._opening))
            self._start += cut
            self._opening = f"({len(self.full) + 1})\n\n{repeated}"
            yield self.full[-1]

    def rest(self, source: str) -> Part:
        """Return the part behind the last cut."""
        return Part(source[self._start :], self._opening)


def _capacity(rest: str, opening: str, limit: int) -> int:
    """Return the number of characters of the rest that one part can hold, at least one."""

    def size(length: int) -> int:
        return verbatim(opening + rest[:length]).size

    longest = min(limit, len(rest))
    if size(longest) <= _SIZE:
        return longest
    return max(1, bisect_right(range(longest), _SIZE, key=size) - 1)


def _cut(text: str, opening: str) -> tuple[int, str]:
    """Return the index of the cut, before the last character, and what the next part repeats.

    The best cut is between blocks or list items. Only if that leaves less than a quarter of the
    part, a paragraph is cut: between two sentences, else between lines, else at a space.
    """
    whole = opening + text
    tokens = blocks(whole)
    starts = [0, *(line.end() for line in LINE_END.finditer(whole))]
    lines = [whole[start:end] for start, end in pairwise([*starts, len(whole)])]
    least, last = len(opening) + len(text) // 4, len(whole) - 1
    *blocks_and_items, any_line = _lines_to_cut_at(tokens, lines)
    for numbers in blocks_and_items:
        if fitting := [number for number in numbers if least < starts[number] <= last]:
            number = max(fitting)
            return starts[number] - len(opening), _repeated(tokens, lines, number)
    sentences = [one for one in _sentences(whole, tokens, starts) if least < one[0] <= last]
    closed = (one for one, share in sentences[: -_CANDIDATES - 1 : -1] if is_closed(share))
    cut = next(closed, 0)
    fitting = [number for number in any_line if least < starts[number] <= last]
    if not cut and fitting:
        number = max(fitting)
        return starts[number] - len(opening), _repeated(tokens, lines, number)
    cut = cut or whole.rfind(" ", least, last) + 1 or _between_graphemes(whole, len(opening), last)
    number = bisect_right(starts, cut) - 1
    fences = [token for token in tokens if token.type == "fence"]
    return cut - len(opening), _repeated(fences, lines, number)


def _lines_to_cut_at(tokens: list[Token], lines: list[str]) -> Iterator[list[int]]:
    """Yield the numbers of lines before which to cut, the best kind of line first.

    The kinds are: the first line of a block, but not away from its heading; that of a list item;
    that of an item of a nested list; any other line. Empty lines are left out, because the next
    line's indentation counts behind them, and so are lines of fence signs alone.
    """
    yield [
        token.map[0]
        for before, token in pairwise(tokens)
        if token.map and token.level == 0 and before.type != "heading_close"
    ]
    for level in (1, 3):
        yield [
            token.map[0]
            for token in tokens
            if token.map and token.level == level and token.type == "list_item_open"
        ]
    yield [number for number, line in enumerate(lines) if line.strip("`~> \t\r\n")]


def _sentences(text: str, tokens: list[Token], starts: list[int]) -> Iterator[tuple[int, str]]:
    """Yield the index of each sentence but a paragraph's first, and the paragraph up to there."""
    in_table = 0
    for token in tokens:
        in_table += (token.type == "table_open") - (token.type == "table_close")
        if token.type != "inline" or not token.map or in_table:
            continue
        first, end = (starts[line] if line < len(starts) else len(text) for line in token.map)
        share = text[first:end]
        for sentence in sentence_ends(share):
            between = _BETWEEN.match(share, sentence)
            if between is not None:
                yield first + between.end(), share[:sentence]


def _between_graphemes(text: str, start: int, cut: int) -> int:
    """Return the last index after `start`, up to `cut`, that divides no grapheme."""
    for index in range(cut, max(cut - _GRAPHEME, start), -1):
        if text[index - 1] not in "\u200d\r" and category(text[index]) not in _MARKS:
            return index
    return cut


def _repeated(tokens: list[Token], lines: list[str], number: int) -> str:
    """Return the Markdown that a line needs before it to keep its meaning in a new part.

    That is the head of its fence or table. For a line of a list that is indented so far that it
    would be read as code, it is empty list items.
    """
    listed = False
    for token in tokens:
        if not token.map or not token.map[0] < number < token.map[1]:
            continue
        if token.type in _HEADS:
            start = token.map[0]
            head = lines[start : min(start + _HEADS[token.type], number)]
            repeated = _outdented(head[0]) + "".join(head[1:])
            return repeated if len(repeated) <= _HEAD_LIMIT else ""
        listed = listed or token.type == "list_item_open"
    items = _items(len(lines[number]) - len(lines[number].lstrip()))
    return f"{items}\n" if listed and items else ""


def _outdented(line: str) -> str:
    """Return the line with list items that fit its indentation, in place of its own signs."""
    signs = _CONTAINERS.match(line)
    before = signs[0] if signs else ""
    after = line[len(before) :]
    if ">" in before:
        return re.sub(r"[^\s>]", " ", before) + after
    width = len(before.expandtabs(4))
    return _items(width).ljust(width) + after


def _items(width: int) -> str:
    """Return as many nested list items as keep a line of that indentation from being code.

    An item holds lines that are two to five columns further in; "+" is the sign of a list alone.
    """
    return "+ " * ((width - 2) // 2)

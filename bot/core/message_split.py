"""Where a long reply is cut into the messages that carry it, and what each repeats of the last."""

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

# What a part may take verbatim; the rest of markdown.SIZE_LIMIT is for its markup. Only what is
# mostly not written in Latin letters gets there before it gets to PART_LIMIT.
_SIZE = 36_000
_HEADS = {"fence": 1, "table_open": 2}  # lines without which what follows is another block
_HEAD_LIMIT = 400  # characters of such lines that are worth repeating

_CONTAINERS = re.compile(r"(?:\s|>|(?:[-+*]|\d{1,9}[.)])(?=\s))*")  # signs of lists and quotes
_MARKS = {"Mn", "Mc", "Me", "Cf", "Cs", "Sk"}  # Unicode categories of what continues a grapheme
# Between sentences of one paragraph: white space, and nothing behind it that would be a list's
# sign at the beginning of a part.
_BETWEEN = re.compile(r"[ \n]+(?=\S)(?!(?:\d+[.)]|[-+*>#]+)\s)")
_CANDIDATES = 20  # ends of sentences that are looked at, the last ones
_INK = re.compile(r"\S")
_GRAPHEME = 16  # characters of one grapheme that a cut within a word spares


def split(source: str, limit: int = PART_LIMIT) -> tuple[Part, ...]:
    """Cut Markdown into parts of at most `limit` characters, each of which fits one event.

    The parts' sources, concatenated, are the source. White space at the end makes no part of its
    own.
    """
    cuts = Cuts(limit)
    return (*cuts.more(source), cuts.rest(source))


class Cuts:
    """The cuts of a source that grows, each made once: a newer version costs what is new in it.

    A growing source never moves a cut: a cut depends on what the part before it could hold, and
    on one character more.

    Attributes:
        full: the parts before the last cut; nothing changes them any more.
    """

    def __init__(self, limit: int = PART_LIMIT) -> None:
        self.full: list[Part] = []
        self._limit = limit
        self._start = 0  # of what stands behind the last cut
        self._opening = ""

    def more(self, source: str) -> Iterator[Part]:
        """Make the cuts that are new; yield the part before each, which takes milliseconds.

        Args:
            source: it begins with the one of the call before.
        """
        while True:
            window = source[self._start : self._start + self._limit + 1]
            room = _room(window, self._opening, self._limit)
            if _INK.search(source, self._start + room) is None:
                return
            cut, repeated = _cut(window[: room + 1], self._opening)
            self.full.append(Part(window[:cut], self._opening))
            self._start += cut
            self._opening = f"({len(self.full) + 1})\n\n{repeated}"
            yield self.full[-1]

    def rest(self, source: str) -> Part:
        """Return the part behind the last cut."""
        return Part(source[self._start :], self._opening)


def _room(rest: str, opening: str, limit: int) -> int:
    """Return how many characters of the rest one part can hold, at least one."""

    def size(length: int) -> int:
        return verbatim(opening + rest[:length]).size

    longest = min(limit, len(rest))
    if size(longest) <= _SIZE:
        return longest
    return max(1, bisect_right(range(longest), _SIZE, key=size) - 1)


def _cut(text: str, opening: str) -> tuple[int, str]:
    """Return where to cut, before the text's last character, and what the next part repeats.

    A paragraph is cut only where no cut between blocks or items leaves a quarter of the part:
    between two sentences, else between lines, else at a space if there is one.
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
    """Yield line numbers, the best kind of place first.

    A block, but not away from its heading; a list's item; an item of a list in a list; any line
    but an empty one, behind which the next one's indentation counts, and one of fence signs.
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
    """Yield where sentences begin behind others of the same paragraph, and that up to there."""
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
    """Return the last place after `start`, up to `cut`, that divides nothing seen as one."""
    for place in range(cut, max(cut - _GRAPHEME, start), -1):
        if text[place - 1] not in "\u200d\r" and category(text[place]) not in _MARKS:
            return place
    return cut


def _repeated(tokens: list[Token], lines: list[str], number: int) -> str:
    """Return what the line needs before it to be read as it was in its place.

    That is the head of its fence or table, or lists to hold it, where it is indented so far that
    it would be read as code.
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
    """Return the line in a place that its indentation fits, without its lists' own signs."""
    signs = _CONTAINERS.match(line)
    before = signs[0] if signs else ""
    after = line[len(before) :]
    if ">" in before:
        return re.sub(r"[^\s>]", " ", before) + after
    width = len(before.expandtabs(4))
    return _items(width).ljust(width) + after


def _items(width: int) -> str:
    """Return as many list items as let a line of that indentation be more than code.

    An item holds what is two to five columns further in; "+" is a list's sign and no other's.
    """
    return "+ " * ((width - 2) // 2)

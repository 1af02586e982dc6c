"""What a growing reply shows first: the one version that notifications show, for ever.

Edits notify nobody, so the first version must be worth reading: a whole sentence or block.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from markdown_it.token import Token

from bot.core.markdown import blocks, open_marks, render
from bot.core.sentences import is_abbreviation, sentence_ends
from bot.core.visible import LINE_END

LEAST: Final = 20  # visible characters of the first version
_LONGEST = 4_000  # characters that are searched for its end

_LIST_SIGN = re.compile(r"^[^\S\n]*(?:[-+*>•]|\d{1,9}[.)])(?:[^\S\n]+|$)", re.MULTILINE)
_EMPTY_ITEM = re.compile(r"(?:\A|\n)[\s>]*(?:[-+*•#>]+|\d{1,9}[.)])\Z")
_WHOLE_WORDS = re.compile(r".*\s[^\W\d_]{2,}[.!?…]\Z|.*(?=\s)", re.DOTALL)
_LAST_WORD = re.compile(r"[^\S\n]*(\S+)(?:[^\S\n][.!?…:;,»)]+)?\Z")
_MARKS = "*_`~\"'«»“”\u2019()[]"
_NUMBER = re.compile(r"[\d.,:/°%€$+\u00a0\u202f-]+\Z")
_WORDLIKE = re.compile(r"[^\W_]")
_LETTER = re.compile(r"[^\W\d_]")

_OPEN_LINK = re.compile(r"!?\[([^\[\]]*)(?:\]\([^()]*)?\Z")
_OPEN_OTHER = re.compile(  # an address in angle brackets, maths
    r"(?:<[a-z][^<>\s]*|\\\((?:(?!\\\)).)*|\\\[(?:(?!\\\]).)*|\$\$(?:(?!\$\$).)*)\Z",
    re.DOTALL | re.IGNORECASE,
)
_ROW = re.compile(r"[^\S\n]*\|")  # of a table that may still begin


def whole(text: str, least: int = LEAST) -> str:
    """Return the text up to its last whole sentence or block, "" where that is too short.

    Within open Markdown (emphasis, code, a link, a table) no sentence ends. A text as long as
    that needs no end to be worth reading.
    """
    if len(text) > _LONGEST:
        return text if visible_length(text[:_LONGEST]) >= least else ""
    layout = _Layout(text)
    for end in sorted({*layout.block_ends(), *layout.sentence_ends()}, reverse=True):
        found = layout.text[:end].rstrip()
        if not _EMPTY_ITEM.search(found):
            return found if visible_length(found) >= least else ""
    return ""


def begun(text: str, least: int = LEAST) -> str:
    """Return the text up to its last whole word, Markdown closed, "" where that is too short.

    It never ends with what says nothing alone: a sign, an abbreviation, a number that may go on.
    """
    cut = _WHOLE_WORDS.match(text)
    if cut is None:
        return ""
    words = cut[0].rstrip()
    found = _without_last(words, whole_line="\n" in text[len(words) : cut.end() + 1])
    says = any(
        _LETTER.search(word) and not is_abbreviation(word.strip(_MARKS)) for word in found.split()
    )
    return found if says and visible_length(found) >= least else ""


def visible_length(text: str) -> int:
    """Return how many characters of the text can be read: no Markdown, no signs of lists."""
    body = _LIST_SIGN.sub("", render(text).body)
    return len(" ".join(body.split()))


def _without_last(text: str, *, whole_line: bool) -> str:
    """Return the text without what cannot stand at its end, and with its Markdown closed.

    Args:
        text: whole words.
        whole_line: whether the last line is whole, too.
    """
    while text:
        layout = _Layout(text)
        last = layout.last
        if last is None or not last.map:
            return ""
        start, end = layout.place(last)
        if last.type != "inline":
            kept = _shown(last, text[start:end], whole_line=whole_line)
            if kept:
                return text[:start] + kept
            text, whole_line = text[:start].rstrip(), True
            continue
        closed = _OPEN_OTHER.sub("", _OPEN_LINK.sub(r"\1", text[start:])).rstrip()
        word = _LAST_WORD.search(closed)
        if word is not None and _says_nothing(word[1], closed):
            closed = closed[: word.start()]
        shorter = (text[:start] + closed).rstrip()
        if shorter == text:
            return text + open_marks(last.content)
        text = shorter
    return ""


def _shown(block: Token, lines: str, *, whole_line: bool) -> str:
    """Return what of a code block or a table at the end can be shown: no row that is cut."""
    if block.type != "table":
        return lines if block.content.strip() else ""
    rows = lines.rstrip().splitlines()[: None if whole_line else -1]
    if not rows:
        return ""
    head, *data = rows
    delimiter = "|" + "---|" * (head.strip().strip("|").count("|") + 1)
    return "\n".join([head, delimiter, *data[1:]])


def _says_nothing(word: str, text: str) -> bool:
    """Tell whether a text does better without its last word, until more of it is there."""
    plain = word.strip(_MARKS)
    return (
        not _WORDLIKE.search(plain)
        or _NUMBER.fullmatch(plain) is not None
        or _EMPTY_ITEM.search(text) is not None
        or is_abbreviation(plain)
    )


class _Layout:
    """A text with its Markdown blocks, which know their lines."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._starts = [0, *(line.end() for line in LINE_END.finditer(text)), len(text)]
        self._tokens = list(_without_rows(blocks(text)))

    @property
    def last(self) -> Token | None:
        """The last block with words: "inline", "fence", "code_block" or "table"."""
        return next((one for one in reversed(self._tokens) if one.type in _WORDED), None)

    def place(self, block: Token) -> tuple[int, int]:
        """Return where a block begins and ends."""
        first, end = block.map or (0, 0)
        return self._starts[first], self._starts[end]

    def block_ends(self) -> Iterator[int]:
        """Yield where a block or a list's item ends for sure.

        Another one begins behind it, or an empty line, which ends no code.
        """
        code = [one for one in self._tokens if one.type in {"fence", "code_block"}]
        inside = {line for one in code if one.map for line in range(one.map[0] + 1, one.map[1])}
        for token in self._tokens:
            if token.map and token.nesting >= 0 and token.type != "inline":
                yield self._starts[token.map[0]]
        for number, (start, end) in enumerate(pairwise(self._starts)):
            if end > start and not self.text[start:end].strip() and number not in inside:
                yield start

    def sentence_ends(self) -> Iterator[int]:
        """Yield where sentences end in paragraphs, also of lists and quotations."""
        for token in self._tokens:
            if token.type != "inline" or not token.map:
                continue
            start, end = self.place(token)
            share = self.text[start:end]
            yield from (start + one for one in sentence_ends(share) if _is_closed(share[:one]))


_WORDED = {"inline", "fence", "code_block", "table"}


def _is_closed(share: str) -> bool:
    """Tell whether nothing of a paragraph's Markdown is open at its end."""
    if _OPEN_LINK.search(share) or _OPEN_OTHER.search(share):
        return False
    return not open_marks(share)


def _without_rows(tokens: list[Token]) -> Iterator[Token]:
    """Yield block tokens, each table as one."""
    stream = iter(tokens)
    for token in stream:
        if token.type == "table_open":
            for inner in stream:
                if inner.type == "table_close":
                    break
            yield Token("table", "", 0, map=token.map)
        elif token.type == "inline" and _ROW.match(token.content):
            yield Token("table", "", 0, map=token.map)
        else:
            yield token

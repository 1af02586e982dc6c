"""The readable part of a Markdown text: without markup, list markers and white space."""

import re
from collections.abc import Sequence

from bot.core.markdown import Part, render

_LIST_MARKER = re.compile(r"^[^\S\n]*(?:[-+*>•]|\d{1,9}[.)])(?:[^\S\n]+|$)", re.MULTILINE)
# A character that is no syntax of Markdown, LaTeX or HTML. Excluded as well: the Braille blank,
# which Unicode does not count as white space, and combining marks, which follow a letter.
_WORDLIKE = re.compile(r"[^\s*_`~#>|=\-+\\<\[\](){}$\u2800\u0300-\u036f]")
_CODE = re.compile(r"<code[^>]*>\s*[^\s<]")  # any character in code is meant to be read
_PLAIN = re.compile(r"^[^\W\d_][^\n`\[\]<|]*[^\W_]{2}", re.MULTILINE)  # a line of plain words
_NUMBER = re.compile(r"\A\(\d+\)\n\n")  # the number of a part, at the start of its opening
_BEGINNING = 4_000  # characters that are tried first, as they nearly always suffice


def visible_length(text: str) -> int:
    """Return how many characters of a Markdown text can be read; 0 if it is only markup."""
    rendered = render(text)
    words = " ".join(_LIST_MARKER.sub("", rendered.body).split())
    readable = _WORDLIKE.search(words) or _CODE.search(rendered.formatted_body)
    return max(len(words), 1) if readable else 0


def is_readable(text: str) -> bool:
    """Return whether anything of a Markdown text can be read."""
    if _PLAIN.search(text):  # nearly always, and cheaper than rendering
        return True
    return visible_length(text[:_BEGINNING]) > 0 or (
        len(text) > _BEGINNING and visible_length(text) > 0
    )


def readable_parts(parts: Sequence[Part]) -> list[Part]:
    """Return the parts of a text in which something can be read."""
    return [part for part in parts if _has_words(part)]


def _has_words(part: Part) -> bool:
    """Return whether a part, together with its opening, has something to read."""
    if not part.source.strip():
        return False
    return is_readable(_NUMBER.sub("", part.opening) + part.source)

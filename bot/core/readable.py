"""What of a text can be read: neither its markup, nor signs of lists, nor white space."""

import re
from collections.abc import Sequence

from bot.core.markdown import Part, render

_LIST_SIGN = re.compile(r"^[^\S\n]*(?:[-+*>•]|\d{1,9}[.)])(?:[^\S\n]+|$)", re.MULTILINE)
# Not one of Markdown's, LaTeX's or HTML's own signs; nor a blank of Braille, which is no white
# space to Unicode. Marks of a letter stand behind one.
_WORDLIKE = re.compile(r"[^\s*_`~#>|=\-+\\<\[\](){}$\u2800\u0300-\u036f]")
_CODE = re.compile(r"<code[^>]*>\s*[^\s<]")  # signs in code are meant as they are
_PLAIN = re.compile(r"^[^\W\d_][^\n`\[\]<|]*[^\W_]{2}", re.MULTILINE)  # a line of mere words
_NUMBER = re.compile(r"\A\(\d+\)\n\n")  # of a part, before what it repeats
_BEGINNING = 4_000  # characters, of which mostly something can be read


def visible_length(text: str) -> int:
    """Return how many characters of a Markdown text can be read; 0 for markup alone."""
    rendered = render(text)
    words = " ".join(_LIST_SIGN.sub("", rendered.body).split())
    reads = _WORDLIKE.search(words) or _CODE.search(rendered.formatted_body)
    return max(len(words), 1) if reads else 0


def is_readable(text: str) -> bool:
    """Tell whether anything of a Markdown text can be read."""
    if _PLAIN.search(text):  # as nearly always: it need not be rendered for that
        return True
    return visible_length(text[:_BEGINNING]) > 0 or (
        len(text) > _BEGINNING and visible_length(text) > 0
    )


def readable_parts(parts: Sequence[Part]) -> list[Part]:
    """Return the parts of a text in which anything can be read."""
    return [part for part in parts if _has_words(part)]


def _has_words(part: Part) -> bool:
    """Tell whether a part says anything, read behind the head of its fence or table."""
    if not part.source.strip():
        return False
    return is_readable(_NUMBER.sub("", part.opening) + part.source)

"""Mentions in the text of a message: pills in its HTML, and names that are merely typed."""

import html
import itertools
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

from bot.core.events import UserId

# In steps that never look at a character twice: whoever writes the HTML must not hold up the loop.
# A mention in it (spec: user mentions in `formatted_body`), by whatever host, Tchap's or others'.
_LINK: Final = re.compile(r"<a\s([^<>]{1,1000})>", re.IGNORECASE)
_LINK_END: Final = re.compile(r"</a>", re.IGNORECASE)
_PERSON: Final = re.compile(
    r"""(?:^|\s)href=["']https?://[^"'/]{1,200}/\#/(?:user/)?(?:@|%40)([^"'?]{1,255})""",
    re.IGNORECASE,
)
_LONGEST_NAME: Final = 300  # as HTML
_QUOTATION: Final = re.compile(r"<(/?)(?:mx-reply|blockquote)\b[^>]{0,200}>", re.IGNORECASE)
_NOT_SAID: Final = re.compile(
    r"<(/?)(?:mx-reply|blockquote|q|code|tt|pre)\b[^>]{0,200}>", re.IGNORECASE
)
_BREAK: Final = re.compile(
    r"<(?:br|/?p|/?div|/?li|/?h[1-6]|/?t[dhr])\b[^<>]{0,200}>", re.IGNORECASE
)
_TAG: Final = re.compile(r"<[^<>]{0,1000}>")

# Of a reply, as clients wrote it until 2024. It names whom; a quotation of one's own does not.
_FALLBACK: Final = re.compile(r"> (?:\* )?<@.*\n(?:> .*\n)*\n")
# In Markdown: a fenced block, code within a line, a line that is quoted or indented as code.
_FENCED: Final = re.compile(r"^ {0,3}(```|~~~)[^\0]*?(?:^ {0,3}\1|\Z)", re.MULTILINE)
_CODE: Final = re.compile(r"(?<!`)(`++)[^`\n]+(?:\n[^`\n]+)*\1")
_QUOTED_LINE: Final = re.compile(r" {0,3}>| {4}|\t")

_TYPED_AT: Final = re.compile(r"(?<![\w@.+/-])@(?=[^\s@])([^@\n]{1,120})")
_IN_QUOTES: Final = re.compile(r"[«“„\"][^\S\n]?\Z")  # no apostrophe: it elides, in French
_MOST_TYPED: Final = 10


def pills(formatted: str) -> Iterator[tuple[UserId, str]]:
    """Yield whom the HTML mentions, and by what words; quotations do not count."""
    said = _outside(formatted, _QUOTATION)
    for link in _LINK.finditer(said):
        person = _PERSON.search(link[1])
        end = _LINK_END.search(said, link.end(), link.end() + _LONGEST_NAME)
        if person and end:
            words = re.sub(r"<[^<>]*>", "", said[link.end() : end.start()])
            yield UserId(f"@{unquote(person[1])}"), html.unescape(words)


def without_fallback(body: str) -> str:
    """Return the body of a reply without the message that it quotes (spec: reply fallbacks)."""
    fallback = _FALLBACK.match(body)
    return body[fallback.end() :] if fallback else body


def typed_in_html(formatted: str) -> tuple[str, ...]:
    """Return the beginning of what stands behind each "@" in HTML that is no link.

    What is quoted, or code, is somebody else's, or no words.
    """
    said = _without_links(_outside(formatted, _NOT_SAID))
    return _typed(html.unescape(_TAG.sub("", _BREAK.sub("\n", said))))


def typed_in_text(body: str) -> tuple[str, ...]:
    """Return the same of Markdown, as people type it."""
    said = _CODE.sub(" ", _FENCED.sub("\n", body))
    return _typed("\n".join(line for line in said.split("\n") if not _QUOTED_LINE.match(line)))


def _typed(said: str) -> tuple[str, ...]:
    found = itertools.islice(_TYPED_AT.finditer(said), _MOST_TYPED)
    return tuple(one[1] for one in found if not _IN_QUOTES.search(said[: one.start()][-2:]))


def _outside(formatted: str, elements: re.Pattern[str]) -> str:
    """Return the HTML without these elements, whose opening and closing tags the pattern finds."""
    kept, depth, start = [], 0, 0
    for tag in elements.finditer(formatted):
        if depth == 0:
            kept.append(formatted[start : tag.start()])
        depth = max(depth + (-1 if tag[1] else 1), 0)
        start = tag.end()
    return "".join([*kept, formatted[start:] if depth == 0 else ""])


def _without_links(formatted: str) -> str:
    """Return the HTML without its links: a mention is one."""
    kept, start = [], 0
    for link in _LINK.finditer(formatted):
        if link.start() >= start:
            end = _LINK_END.search(formatted, link.end(), link.end() + _LONGEST_NAME)
            kept.append(formatted[start : link.start()])
            start = end.end() if end else link.end()
    return "".join([*kept, formatted[start:]])

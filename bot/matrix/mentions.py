"""Mentions in a message: pills in its HTML, and names that are only typed."""

import html
import itertools
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

from bot.core.events import UserId

# The patterns read no character twice, because whoever writes the HTML must not block the loop. A
# pill links to a user (spec: user mentions in `formatted_body`) on any host, Tchap's or others'.
_LINK: Final = re.compile(r"<a\s([^<>]{1,1000})>", re.IGNORECASE)
_LINK_END: Final = re.compile(r"</a>", re.IGNORECASE)
_PERSON: Final = re.compile(
    r"""(?:^|\s)href=["']https?://[^"'/]{1,200}/\#/(?:user/)?(?:@|%40)([^"'?]{1,255})""",
    re.IGNORECASE,
)
_LONGEST_NAME: Final = 300  # characters of HTML
_QUOTATION: Final = re.compile(r"<(/?)(?:mx-reply|blockquote)\b[^>]{0,200}>", re.IGNORECASE)
_NOT_SAID: Final = re.compile(
    r"<(/?)(?:mx-reply|blockquote|q|code|tt|pre)\b[^>]{0,200}>", re.IGNORECASE
)
_BREAK: Final = re.compile(
    r"<(?:br|/?p|/?div|/?li|/?h[1-6]|/?t[dhr])\b[^<>]{0,200}>", re.IGNORECASE
)
_TAG: Final = re.compile(r"<[^<>]{0,1000}>")

# The fallback of a reply, as clients wrote it until 2024. It names the quoted person; a person's
# own quotation does not.
_FALLBACK: Final = re.compile(r"> (?:\* )?<@.*\n(?:> .*\n)*\n")
# In Markdown: a fenced block, inline code, and a line that is quoted or indented as code.
_FENCED: Final = re.compile(r"^ {0,3}(```|~~~)[^\0]*?(?:^ {0,3}\1|\Z)", re.MULTILINE)
_CODE: Final = re.compile(r"(?<!`)(`++)[^`\n]+(?:\n[^`\n]+)*\1")
_QUOTED_LINE: Final = re.compile(r" {0,3}>| {4}|\t")

_TYPED_AT: Final = re.compile(r"(?<![\w@.+/-])@(?=[^\s@])([^@\n]{1,120})")
# no apostrophe, which marks elision in French
_IN_QUOTES: Final = re.compile(r"[«“„\"][^\S\n]?\Z")
_MOST_TYPED: Final = 10


def pills(formatted: str) -> Iterator[tuple[UserId, str]]:
    """Yield the mentioned users, and the text of each link. Quotations do not count."""
    written = _outside(formatted, _QUOTATION)
    for link in _LINK.finditer(written):
        person = _PERSON.search(link[1])
        end = _LINK_END.search(written, link.end(), link.end() + _LONGEST_NAME)
        if person and end:
            words = re.sub(r"<[^<>]*>", "", written[link.end() : end.start()])
            yield UserId(f"@{unquote(person[1])}"), html.unescape(words)


def without_fallback(body: str) -> str:
    """Return the body of a reply without the quoted message (spec: reply fallbacks)."""
    fallback = _FALLBACK.match(body)
    return body[fallback.end() :] if fallback else body


def typed_in_html(formatted: str) -> tuple[str, ...]:
    """Return the text after each "@" in HTML outside links.

    Quotations and code are left out: they are no words of the sender.
    """
    written = _without_links(_outside(formatted, _NOT_SAID))
    return _typed(html.unescape(_TAG.sub("", _BREAK.sub("\n", written))))


def typed_in_text(body: str) -> tuple[str, ...]:
    """Return the text after each "@" in Markdown, as people type it."""
    written = _CODE.sub(" ", _FENCED.sub("\n", body))
    return _typed("\n".join(line for line in written.split("\n") if not _QUOTED_LINE.match(line)))


def _typed(written: str) -> tuple[str, ...]:
    found = itertools.islice(_TYPED_AT.finditer(written), _MOST_TYPED)
    return tuple(one[1] for one in found if not _IN_QUOTES.search(written[: one.start()][-2:]))


def _outside(formatted: str, elements: re.Pattern[str]) -> str:
    """Return the HTML without these elements. The pattern finds their opening and closing tags."""
    kept, depth, start = [], 0, 0
    for tag in elements.finditer(formatted):
        if depth == 0:
            kept.append(formatted[start : tag.start()])
        depth = max(depth + (-1 if tag[1] else 1), 0)
        start = tag.end()
    return "".join([*kept, formatted[start:] if depth == 0 else ""])


def _without_links(formatted: str) -> str:
    """Return the HTML without its links, because a mention is a link."""
    kept, start = [], 0
    for link in _LINK.finditer(formatted):
        if link.start() >= start:
            end = _LINK_END.search(formatted, link.end(), link.end() + _LONGEST_NAME)
            kept.append(formatted[start : link.start()])
            start = end.end() if end else link.end()
    return "".join([*kept, formatted[start:]])

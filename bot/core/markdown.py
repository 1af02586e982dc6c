"""The model's Markdown rendered for Matrix clients, as safe HTML and as equivalent plain text.

Whatever the model writes, the result has no image, no link that hides its host, no mention and no
invisible character.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate, takewhile
from typing import Literal

import nh3
from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from bot.core.invisible_text import visible
from bot.core.links import destination, names_site
from bot.core.maths import read_formulas
from bot.core.plain_text import text, words, write
from bot.core.tables import as_lists

# Largest size of body and formatted_body as JSON, in bytes: three quarters (base64) of an event's
# limit of 65,536 bytes, less 5 KB for relations, the marker, an edit's fallback line and so on.
SIZE_LIMIT = 44_000

_NESTING = 16  # enough for seven nested lists; markdown-it drops deeper blocks
_BOX = re.compile(r"\[([ xX])\][ \t]+(?=\S|$)")
_CELL_BOX = re.compile(r"\[([ xX])\]")
_BOXES = {" ": "☐", "x": "☑", "X": "☑"}
_TICKS = re.compile(r"\\.|`+", re.DOTALL)  # an escaped character opens nothing
_OPEN_LINK = re.compile(r"(?<!\\)!?\[([^\[\]]*)(?:\]\([^()]*)?\Z")
_OPEN_OTHER = re.compile(  # an address in angle brackets, maths
    r"(?:<[a-z][^<>\s]*|\\\((?:(?!\\\)).)*|\\\[(?:(?!\\\]).)*|\$\$(?:(?!\$\$).)*"
    r"|(?<!\$)\$(?=[^\s$])[^$\n]*\\[^$\n]*)\Z",
    re.DOTALL | re.IGNORECASE,
)
_CLOSING = {ord("~"): "~~"}  # markdown-it counts the two characters as one delimiter
UNFINISHED = " …"  # ends a version that is not final; it never comes from the model

# The closing tags of a formatted body that ends in a paragraph, a heading or an item.
_TAIL = re.compile(r"(?:</(?:p|h[1-6]|li|ul|ol|blockquote)>\s*)+\Z")
_BREAK = re.compile(r"<br ?/?>", re.IGNORECASE)


def _line_break(state: StateInline, silent: bool) -> bool:  # noqa: FBT001  # markdown-it's type
    """Read `<br>`, the one HTML tag that models need: Markdown has no line break in a cell."""
    found = _BREAK.match(state.src, state.pos)
    if not found:
        return False
    if not silent:
        state.push("hardbreak", "br", 0)
    state.pos = found.end()
    return True


def _check_boxes(state: StateCore) -> None:
    """Read "[x]" and "[ ]" as boxes: at the start of a list item, or alone in a table cell.

    It runs before escaped brackets and entities become text, as those are no boxes.
    """
    tokens = state.tokens
    for before, opening, inline in zip(tokens, tokens[1:], tokens[2:], strict=False):
        in_item = (before.type, opening.type) == ("list_item_open", "paragraph_open")
        if not in_item and opening.type != "td_open":
            continue
        first = next(iter(inline.children or ()), None)
        if first is None or first.type != "text":
            continue
        if in_item and (box := _BOX.match(first.content)):
            first.content = f"{_BOXES[box[1]]} {first.content[box.end() :]}"
        elif not in_item and (box := _CELL_BOX.fullmatch(inline.content)):
            first.content = _BOXES[box[1]]


_MARKDOWN = MarkdownIt("commonmark", {"html": False, "maxNesting": _NESTING})
_MARKDOWN.enable(["table", "strikethrough"]).inline.ruler.before("autolink", "br", _line_break)
read_formulas(_MARKDOWN)
_MARKDOWN.core.ruler.before("text_join", "check_boxes", _check_boxes)
_MARKDOWN.validateLink = bool  # type: ignore[method-assign,assignment]  # bot.core.links decides

_TAGS = {
    *("p", "br", "hr", "h3", "h4", "ul", "ol", "li", "blockquote"),
    *("pre", "code", "strong", "em", "del", "a"),
}
Tables = Literal["list", "table"]  # how formatted_body shows tables; the body always has lists


def _cleaner(*more_tags: str) -> nh3.Cleaner:
    """Return a sanitiser for these tags and attributes, all of which the spec allows."""
    return nh3.Cleaner(
        tags={*_TAGS, *more_tags},
        attributes={"a": {"href"}, "code": {"class"}, "ol": {"start"}},
        link_rel=None,
        url_schemes={"http", "https", "mailto"},
        url_relative="deny",
    )


_CLEANERS: dict[Tables, nh3.Cleaner] = {
    "list": _cleaner(),
    "table": _cleaner("table", "thead", "tbody", "tr", "th", "td"),
}


@dataclass(frozen=True, slots=True)
class Part:
    """The part of a reply that one message holds.

    Attributes:
        source: Markdown of this part; the sources of all parts together are the model's text.
        opening: Markdown to put before it: the part's number, and the opening fence or table head
            if the text was cut inside one.
    """

    source: str
    opening: str = ""


@dataclass(frozen=True, slots=True)
class Rendered:
    """`body` and `formatted_body` of an `m.room.message` (format `org.matrix.custom.html`)."""

    body: str
    formatted_body: str

    @property
    def size(self) -> int:
        """The size of both as JSON, in bytes, escaped to ASCII as nio does before encryption."""
        return len(json.dumps([self.body, self.formatted_body]))


def blocks(source: str) -> list[Token]:
    """Return markdown-it's block tokens; their `map` counts lines as LINE_END separates them."""
    return _MARKDOWN.block.parse(visible(source), _MARKDOWN, {}, []) or []


def open_marks(paragraph: str) -> str:
    """Return the delimiters that close what a paragraph leaves open: code, emphasis, strikes."""
    code = _open_code(paragraph)
    ticks = "" if code is None else code[0]
    before = visible(paragraph if code is None else paragraph[: code.start()])
    state = StateInline(before, _MARKDOWN, {}, [])
    _MARKDOWN.inline.tokenize(state)
    for rule in _MARKDOWN.inline.ruler2.getRules(""):
        rule(state)
    opened = [one for one in state.delimiters if one.open and not one.close and one.end < 0]
    return ticks + "".join(_CLOSING.get(one.marker, chr(one.marker)) for one in reversed(opened))


def is_closed(paragraph: str) -> bool:
    """Return whether a paragraph leaves nothing open: emphasis, code, a link, maths."""
    opens = paragraph.count("[") - paragraph.count("]")
    if opens > 0 or without_open(paragraph) != paragraph:
        return False
    return not open_marks(paragraph)


def without_open(paragraph: str) -> str:
    """Return a paragraph with only the text of an open link, and without open maths."""
    return _OPEN_LINK.sub(r"\1", _OPEN_OTHER.sub("", paragraph))


def _open_code(paragraph: str) -> re.Match[str] | None:
    """Return the backticks that open a code span without an end; None for none."""
    position = 0
    while ticks := _TICKS.search(paragraph, position):
        end = None
        if ticks[0][0] == "`":
            end = re.compile(rf"(?<!`){ticks[0]}(?!`)").search(paragraph, ticks.end())
            if end is None:
                return ticks
        position = end.end() if end else ticks.end()
    return None


def verbatim(source: str) -> Rendered:
    """Return the Markdown source as the text to show; its size depends on the source only."""
    body = visible(source).strip()
    return Rendered(body, f"<p>{escape(body, quote=False)}</p>".replace("\n", "<br>"))


def render(part: Part | str, *, tables: Tables = "list") -> Rendered:
    """Render Markdown (CommonMark, tables, strikethrough), complete or not.

    It is shown verbatim if its rendering would not fit one event, or nests too deeply.

    Args:
        part: the Markdown.
        tables: whether formatted_body shows tables as lists or as tables.
    """
    source = visible(part if isinstance(part, str) else part.opening + part.source)
    fallback = verbatim(source)
    if fallback.size > SIZE_LIMIT:
        return fallback
    tokens = _MARKDOWN.parse(source)
    if _too_deep(tokens):
        return fallback
    tokens = list(_safe(tokens))
    listed = list(as_lists(tokens))
    shown = listed if tables == "list" else tokens
    html = _CLEANERS[tables].clean(_MARKDOWN.renderer.render(shown, _MARKDOWN.options, {}))
    # Remove invisible characters again: an entity such as &#x202e; has become its character.
    rendered = Rendered(visible(write(listed)).strip(), visible(html).strip())
    return rendered if rendered.size <= SIZE_LIMIT else fallback


def unfinished(rendered: Rendered) -> Rendered:
    """Return a text with UNFINISHED after its last words, to show that more is to come."""
    html = rendered.formatted_body
    tail = _TAIL.search(html)
    if tail is None:
        return Rendered(rendered.body + UNFINISHED, f"{html}<p>{UNFINISHED.strip()}</p>")
    words, tags = html[: tail.start()].rstrip(), tail[0]
    return Rendered(rendered.body + UNFINISHED, words + UNFINISHED + tags)


def _too_deep(tokens: Iterable[Token]) -> bool:
    """Return whether markdown-it may have dropped a block, or emphasis nests too deeply."""
    return any(
        (token.nesting > 0 and token.level >= _NESTING - 1)
        or max(accumulate(child.nesting for child in token.children or ()), default=0) > _NESTING
        for token in tokens
    )


def _safe(tokens: Iterable[Token]) -> Iterator[Token]:
    after, hidden = "", False
    for token in tokens:
        if token.type == "inline":
            token.children = list(_safe_inline(token.children or ()))
        elif token.type == "paragraph_open":
            # In an item of a tight list, a second paragraph is a formula, or follows one.
            hidden = token.hidden = token.hidden and after != "paragraph_close"
        elif token.type == "paragraph_close":
            token.hidden = hidden
        elif token.type in {"heading_open", "heading_close"}:
            token.tag = "h3" if token.tag in {"h1", "h2"} else "h4"
        after = token.type
        yield token


def _safe_inline(tokens: Iterable[Token]) -> Iterator[Token]:
    """Replace images by their text, and links by links that show their destination."""
    stream = iter(tokens)
    for token in stream:
        if token.type == "image":
            yield text(words([token]))
        elif token.type == "link_open":
            inside = takewhile(lambda inner: inner.type != "link_close", stream)
            yield from _link(token, list(_safe_inline(inside)))
        else:
            token.tag = "del" if token.tag == "s" else token.tag
            yield token


def _link(opening: Token, inside: list[Token]) -> Sequence[Token]:
    """Return a link that shows its host, or only its text if the link is not allowed.

    The host is appended unless the text names it. It is inside the link, as clients would turn
    a host next to it into a link of their own, to another address. The body, where nothing can be
    clicked, has the whole address instead.
    """
    target = destination(str(opening.attrs["href"]))
    if target is None:
        return inside
    href, site = target
    opening.attrs = {"href": href}
    closing = Token("link_close", "a", -1)
    address = href.removeprefix("mailto:")
    label = visible(words(inside)).strip()
    if not label:
        return [opening, text(site, plain=address), closing]
    names_host = names_site(label, site)
    is_address = names_host and _MARKDOWN.normalizeLink(label) in {href, address}
    shown = text("" if names_host else f" ({site})", plain="" if is_address else f" ({address})")
    return [opening, *inside, shown, closing]

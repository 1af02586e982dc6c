"""Plain text from markdown-it's tokens, for the `body` next to a `formatted_body`."""

from collections.abc import Iterable, Iterator
from itertools import takewhile
from textwrap import indent

from markdown_it.token import Token


def text(content: str, plain: str | None = None) -> Token:
    """Return a text token; `plain` replaces its content in the body."""
    return Token("text", "", 0, content=content, meta={} if plain is None else {"plain": plain})


def words(tokens: Iterable[Token]) -> str:
    """Return the text of inline tokens, without markup.

    The text of a token is that of its children, or its `meta["plain"]`, or its content.
    """
    return "".join(map(_word, tokens))


def write(tokens: Iterable[Token]) -> str:
    """Return the text of block tokens: bullets as "- ", quotes as "> ", code unchanged."""
    return _container(iter(tokens))[0]


def _word(token: Token) -> str:
    if token.children:
        return words(token.children)
    return "\n" if token.tag == "br" else str(token.meta.get("plain", token.content))


def _container(tokens: Iterator[Token]) -> tuple[str, bool]:
    """Write the blocks up to the container's end; return whether a list around it is tight."""
    texts, tight = [], False
    for token in tokens:
        if token.nesting < 0:
            break
        tight = tight or token.hidden
        texts.append(_block(token, tokens))
    return ("\n" if tight else "\n\n").join(filter(None, texts)), tight


def _block(token: Token, tokens: Iterator[Token]) -> str:
    """Write the block that `token` opens, and consume its tokens."""
    match token.type:
        case "paragraph_open" | "heading_open":
            inline, _ = next(tokens), next(tokens)
            return words(inline.children or ())
        case "bullet_list_open" | "ordered_list_open":
            return _list(token, tokens)
        case "blockquote_open":
            return "> " + _container(tokens)[0].replace("\n", "\n> ")
        case "hr":
            return "---"
        case _:
            return token.content.rstrip("\n")


def _list(token: Token, tokens: Iterator[Token]) -> str:
    texts, loose = [], False
    first = int(token.attrs.get("start", 1))
    for number, _ in enumerate(takewhile(lambda item: item.nesting > 0, tokens), first):
        marker = "- " if token.tag == "ul" else f"{number}. "
        text, tight = _container(tokens)
        loose = loose or not tight
        texts.append(marker + indent(text, " " * len(marker)).removeprefix(" " * len(marker)))
    return ("\n\n" if loose else "\n").join(texts)

r"""Formulas in Markdown, between $ or $$, or in \(…\) or \[…\], rendered as Unicode text.

Prices, shell variables and escaped brackets are no formulas. Formulas are read by rules of the
Markdown parser itself, before underscores become emphasis and backslashes escapes.
"""
# ruff: noqa: RUF001  # mathematical characters look like others

import re

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

from bot.core.latex import LENGTH, to_text

# Pandoc's rule: no space inside the dollars, no digit after them. Our addition: no character of a
# word, an address or a variable before or after them.
_DOLLARS = re.compile(
    rf"(?<![\w$\\/&?=#%@.])\$(?![\s$])((?:\\.|[^$\\\n]){{1,{LENGTH}}})(?<!\s)\$(?![\w$({{/])"
)
_ENDS = {"$$": "$$", r"\(": r"\)", r"\[": r"\]"}
_DISPLAYED = ("$$", r"\[")

_NO_FORMULA = re.compile(r"`|\]\(|://|(?<!\\)\\[(\[]")  # code, links, another formula's start
_COMMAND = re.compile(r"\\[A-Za-z{,;%]")
_SCRIPT = re.compile(r"[\^_](?:\{[^{}]*\}|[^\s{}])")
_FUNCTION = re.compile(r"(?:arc)?(?:sin|cos|tan)h?|exp|log|lim|max|min|mod|[A-Z]+")
_WORD = re.compile(r"[^\W\d_]{3,}")
_LETTER = re.compile(r"[^\W\d_]")
_SHORT_WORD = re.compile(r"(?<=\s)[^\W\d_]{2,}(?=\s)")
_OPERATION = re.compile(r"[\w)\]}|!'′%]\s*[=+\-−*/<>≤≥≠≈×·÷±→∈]+\s*[\w(\[{|+\-−√∑∫]")
_SYMBOL = re.compile(
    r"\d*[^\W\d_]{1,2}['′]*!?|[^\W\d_]{1,2}['′]*\([\w, +−-]{1,20}\)"  # 2n, f'(x)
    r"|[\[\](][\w,;. +−-]{1,20}[\[\])]|\|[\w +−-]{1,20}\|"  # [0, 1[, |x|
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")


def read_formulas(markdown: MarkdownIt) -> None:
    """Add the rules for formulas to the parser."""
    markdown.inline.ruler.before("escape", "formula", _inline)
    markdown.block.ruler.before(
        "table", "formula", _block, {"alt": ["paragraph", "reference", "blockquote", "list"]}
    )


def _inline(state: StateInline, silent: bool) -> bool:  # noqa: FBT001  # markdown-it's type
    """Read a formula as its Unicode text, or unchanged if there is none for it."""
    found = _formula(state.src, state.pos, state.posMax)
    if found is None:
        return False
    end, latex = found
    if not silent:
        text = to_text(latex) or state.src[state.pos : end]
        for number, line in enumerate(text.split("\n")):
            if number:
                state.push("hardbreak", "br", 0)
            state.push("text", "", 0).content = line
    state.pos = end
    return True


def _block(state: StateBlock, start: int, end: int, silent: bool) -> bool:  # noqa: FBT001  # markdown-it's type
    """Read lines that are one formula as a paragraph, so that none begins a list or a quote."""
    if state.is_code_block(start):
        return False
    lines: list[str] = []
    for number in range(start, end):
        line = state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]]
        if not line or state.sCount[number] < state.blkIndent or len(lines) > LENGTH:
            return False
        if line.startswith(_DISPLAYED if number == start else r"\[") != (number == start):
            return False  # not the start of a formula, or the start of another one
        lines.append(line)
        closing = _ENDS[lines[0][:2]]
        if (line[2:] if number == start else line).rstrip().endswith(closing):
            break
    content = "\n".join(lines).rstrip()
    found = _formula(content, 0, len(content)) if lines else None
    if found is None or found[0] != len(content):
        return False
    if not silent:
        state.line = start + len(lines)
        state.push("paragraph_open", "p", 1).map = [start, state.line]
        inline = state.push("inline", "", 0)
        inline.content, inline.map, inline.children = content, [start, state.line], []
        state.push("paragraph_close", "p", -1)
    return True


def _formula(source: str, start: int, stop: int) -> tuple[int, str] | None:
    """Return the end and the LaTeX of the formula that begins at `start`; None for no formula."""
    opening = source[start : start + 2]
    if opening in _ENDS:
        end = source.find(_ENDS[opening], start + 2, min(stop, start + LENGTH + 4))
        latex, end = source[start + 2 : end], end + 2
        if end < start + 2:
            return None
    elif found := _DOLLARS.match(source, start, stop):
        opening, latex, end = "$", found[1], found.end()
    else:
        return None
    before = source[start - 1 : start]
    return (end, latex) if _is_maths(latex.strip(), opening, before) else None


def _is_maths(latex: str, opening: str, before: str) -> bool:
    """Return whether a text between delimiters is maths, and no price, name or sentence.

    Args:
        latex: the text.
        opening: the delimiter before it.
        before: the character before the delimiter.
    """
    if not latex or _NO_FORMULA.search(latex):
        return False
    if _COMMAND.search(latex):
        return True
    if _SYMBOL.fullmatch(latex):  # "fichier\(s\)" and "\[x\]" are escaped brackets
        return opening != r"\[" and not (opening == r"\(" and before.isalnum())
    if _NUMBER.fullmatch(latex):
        return opening in {"$", "$$"}
    plain = _SCRIPT.sub(" ", latex)
    sentence = any(not _FUNCTION.fullmatch(word) for word in _WORD.findall(plain))
    return not sentence and (plain != latex or _calculates(latex, priced=opening == "$"))


def _calculates(latex: str, *, priced: bool) -> bool:
    """Return whether there is an operation on symbols; between dollars, exclude that of prices."""
    if not _OPERATION.search(latex):
        return False
    if not priced or "=" in latex:
        return True
    return bool(_LETTER.search(latex)) and not _SHORT_WORD.search(latex)

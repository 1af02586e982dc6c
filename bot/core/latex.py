"""Conversion of one LaTeX formula to Unicode text: "x²", "∑ᵢ₌₁ⁿ xᵢ", "(a + b)/c"."""
# ruff: noqa: RUF001  # mathematical characters look like others

import re
from collections.abc import Callable, Iterable, Iterator

from pylatexenc.latex2text import get_default_latex_context_db
from pylatexenc.latexwalker import (
    LatexCharsNode,
    LatexEnvironmentNode,
    LatexGroupNode,
    LatexMacroNode,
    LatexNode,
    LatexWalker,
    LatexWalkerError,
)
from pylatexenc.macrospec import LatexContextDb, std_macro

LENGTH = 1_000  # largest number of characters of a formula
_DEPTH = 10  # largest nesting of groups, options and environments: the parser is recursive
_NESTS = re.compile(r"\\begin|\\end|(?<!\\)[{}\[\]]")

# Internal markers that never reach the result: around words and fractions, which get a space
# where they would touch their neighbours; between the cells and the rows of an environment.
_WORD, _FRACTION, _CELL, _ROW = "\x01", "\x02", "\x03", "\x04"
_ENDS = re.compile(r"(?<=[\w)%°])[\x01\x02]+(?=[\w√∑∏∫∂])|(?<=[\w)%°])\x01*\x02[\x01\x02]*(?=\()")

_SUPERSCRIPTS = str.maketrans(
    "0123456789+-=()abcdefghijklmnoprstuvwxyzABDEGHIJKLMNOPRTUVWβγδθφχ",
    "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻᴬᴮᴰᴱᴳᴴᴵᴶᴷᴸᴹᴺᴼᴾᴿᵀᵁⱽᵂᵝᵞᵟᶿᵠᵡ",
)
_SUBSCRIPTS = str.maketrans(
    "0123456789+-=()aehijklmnoprstuvxβγρφχ", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓᵦᵧᵨᵩᵪ"
)
_SCRIPTS = {"^": _SUPERSCRIPTS, "_": _SUBSCRIPTS}
_RAISED = {"∘": "°", "°": "°", "′": "′", "″": "″", "*": "*", "∗": "*"}
_BLACKBOARD = str.maketrans("CHNPQRZ", "ℂℍℕℙℚℝℤ")

_PROSE = {"text", "textrm", "textbf", "textit", "textsf", "texttt", "textnormal", "mbox", "emph"}
_STYLES = {"mathrm", "mathbf", "mathit", "mathsf", "mathtt", "mathcal", "mathscr", "mathfrak"}
_STYLES |= {"mathbb", "boldsymbol", "bm", "boxed", "operatorname", "underline"}
_ACCENTS = {"bar": "\u0304", "overline": "\u0305", "vec": "\u20d7", "overrightarrow": "\u20d7"}
_ACCENTS |= {"hat": "\u0302", "widehat": "\u0302", "tilde": "\u0303", "widetilde": "\u0303"}
_ACCENTS |= {"dot": "\u0307", "ddot": "\u0308"}
_FRACTIONS = {"frac", "dfrac", "tfrac", "cfrac"}
_ARGUMENTS = dict.fromkeys([*_PROSE, *_STYLES, *_ACCENTS, "pmod"], "{")
_ARGUMENTS |= dict.fromkeys([*_FRACTIONS, "binom"], "{{") | {"sqrt": "[{"}

_FUNCTIONS = ["det", "dim", "ker", "gcd", "deg", "arg", "Pr", "cot", "sec", "csc", "bmod", "ln"]
_SYMBOLS = dict.fromkeys(["displaystyle", "textstyle", "limits", "nolimits", "nonumber", "!"], "")
_SYMBOLS |= {"\\": _ROW, ",": "\u202f", ";": " ", ":": " ", " ": " ", "quad": " ", "qquad": " "}
_SYMBOLS |= {"{": "{", "}": "}", "%": "%", "|": "‖", "ne": "≠", "lt": "<", "gt": ">", "gets": "←"}
_SYMBOLS |= {"iff": "⇔", "implies": "⇒", "land": "∧", "lor": "∨", "lnot": "¬", "neg": "¬"}
_SYMBOLS |= {"leqslant": "≤", "geqslant": "≥", "epsilon": "ε", "phi": "φ", "degree": "°"}
_SYMBOLS |= {
    "euro": "€",
    "prime": "′",
    "mid": " | ",
    "cdot": "·",
    "top": "T",
    "lbrace": "{",
    "rbrace": "}",
}
_SPACED = set("×÷±∓·⋆≤≥≠≈≡∼≃≅∝→←↔⇒⇐⇔↦∈∉⊂⊆⊃⊇∪∩∧∨≪≫⊥<>")
_SIGNS = str.maketrans({"'": "′", "~": "\u00a0", "&": _CELL})

_ALIGNED = {"aligned", "align", "align*", "gather", "gather*", "gathered", "split"}
_FENCED = {"matrix": "[]", "pmatrix": "()", "bmatrix": "[]", "vmatrix": "||", "cases": "{}"}

_SIZES = re.compile(r"\\(?:(?:left|right) *\.|(?:left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z]))")
_ROW_HEIGHT = re.compile(r"(?<=\\\\) *\[[\d. ]*(?:pt|em|ex|mm|cm)\]")
_PERCENT = re.compile(r"(?<!\\)%")  # would begin a comment
_AROUND_SCRIPT = re.compile(r"(?<!\\) *([\^_]) *")
_BASE = re.compile(r"(?:[\w\u0300-\u036f\u20d7]*|.)[⁰-₟²³¹ᵃ-ᵿ′]*|[\w√∑∏∫]*[_^]?\([^()]*\)")
_TOP = re.compile(r"-?[\w.,%°′]+|[\w√]*\([^()]*\)")
_BOTTOM = re.compile(r"\d+(?:[.,]\d+)?|[^\W\d_][²³¹⁰-₟ᵃ-ᵿ′]*|[^\W\d_]{3,}|[\w√]?\([^()]*\)")


class _Unreadable(Exception):
    """The formula holds something that this module cannot write as text."""


def to_text(latex: str) -> str | None:
    """Return a formula as text, with a line for each of its rows; None if it cannot be read.

    Nothing is ever left out: one unknown command makes the whole formula unreadable.
    """
    if len(latex) > LENGTH or _nesting(latex) > _DEPTH:
        return None
    latex = _PERCENT.sub(r"\\%", _ROW_HEIGHT.sub("", _SIZES.sub("", latex)))
    walker = LatexWalker(
        _AROUND_SCRIPT.sub(r"\1", latex), latex_context=_CONTEXT, tolerant_parsing=False
    )
    try:
        text = _tidy(_write(walker.get_latex_nodes()[0]))
    except (_Unreadable, LatexWalkerError):
        return None
    lines = "\n".join(filter(None, (line.strip() for line in text.split(_ROW))))
    return None if _CELL in lines else lines or None


def _nesting(latex: str) -> int:
    depth = deepest = 0
    for bracket in _NESTS.findall(latex):
        depth += 1 if bracket in {"{", "[", r"\begin"} else -1
        deepest = max(deepest, depth)
    return deepest


def _known() -> dict[str, str]:
    """Return the text of each command without arguments: pylatexenc's, overridden by ours."""
    known: dict[str, str] = {}
    for spec in get_default_latex_context_db().iter_macro_specs():
        text = spec.simplify_repl
        if isinstance(text, str) and len(text) == 1:
            known.setdefault(spec.macroname, f" {text} " if text in _SPACED else text)
        elif isinstance(text, str) and text.replace(" ", "") == spec.macroname:  # "sin", "lim sup"
            known.setdefault(spec.macroname, f"{_WORD}{text}{_WORD}")
    known |= {name: f"{_WORD}{name.removeprefix('b')}{_WORD}" for name in _FUNCTIONS}
    return known | {
        name: f" {text} " if text in _SPACED else text for name, text in _SYMBOLS.items()
    }


_KNOWN = _known()
_CONTEXT = LatexContextDb()
_CONTEXT.add_context_category(
    "formulas", macros=[std_macro(name, arguments) for name, arguments in _ARGUMENTS.items()]
)


def _write(nodes: Iterable[LatexNode], *, prose: bool = False) -> str:
    """Write a sequence of nodes; in prose, "^" and "_" have no meaning."""
    written: list[str] = []
    script = ""
    for piece in _pieces(nodes, prose=prose):
        if script and piece not in _SCRIPTS:
            written.append(_scripted(written.pop() if written else "", script, piece))
            script = ""
        elif piece in _SCRIPTS and not prose:
            if script:
                raise _Unreadable
            script = piece
        else:
            written.append(piece)
    if script:
        raise _Unreadable
    return "".join(written)


def _pieces(nodes: Iterable[LatexNode], *, prose: bool) -> Iterator[str]:
    """Yield the pieces that can carry a script: a character, a group, a command with arguments."""
    for node in nodes:
        if isinstance(node, LatexCharsNode):
            yield from node.chars if prose else node.chars.translate(_SIGNS)
        elif isinstance(node, LatexGroupNode):
            yield _write(node.nodelist, prose=prose)
        elif isinstance(node, LatexMacroNode):
            yield _KNOWN[node.macroname] if node.macroname in _KNOWN else _command(node)
        elif isinstance(node, LatexEnvironmentNode):
            yield _environment(node)
        else:
            raise _Unreadable


def _command(node: LatexMacroNode) -> str:
    """Write a command that has arguments."""
    name = node.macroname
    if name not in _ARGUMENTS:
        raise _Unreadable
    given = node.nodeargd.argnlist if node.nodeargd else []
    inside = [
        _within_line(_write([one], prose=name in _PROSE)) for one in given if one is not None
    ]
    if not inside:
        raise _Unreadable
    if name in _ACCENTS:
        return _accented(_tidy(inside[0]), name)
    return _WRITERS[name](*map(_tidy, inside)) if name in _WRITERS else inside[0]


def _within_line(text: str) -> str:
    if _ROW in text or _CELL in text:
        raise _Unreadable
    return text


def _fraction(top: str, bottom: str) -> str:
    top = top if _TOP.fullmatch(top) else f"({top})"
    bottom = bottom if _BOTTOM.fullmatch(bottom) else f"({bottom})"
    return f"{_FRACTION}{top}/{bottom}{_FRACTION}"


def _root(*degree_and_radicand: str) -> str:
    *degree, radicand = degree_and_radicand
    return f"{_scripted('', '^', degree[0]) if degree else ''}√({radicand})"


_WRITERS: dict[str, Callable[..., str]] = {
    **dict.fromkeys(_FRACTIONS, _fraction),
    "sqrt": _root,
    "binom": "C({}, {})".format,
    "pmod": " (mod {})".format,
    "operatorname": f"{_WORD}{{}}{_WORD}".format,
    "mathbb": lambda letters: letters.translate(_BLACKBOARD),
}


def _scripted(base: str, operator: str, script: str) -> str:
    """Add a script to its base, in Unicode's script characters if they exist for all of it."""
    end = _WORD if base.endswith(_WORD) else ""
    base = base.removesuffix(_WORD)
    if not _BASE.fullmatch(base.strip(f" {_WORD}")):
        base = f"({_tidy(base)})"
    script = _tidy(_within_line(script))
    dense = script.replace(" ", "")
    if operator == "^" and dense in _RAISED:
        script = _RAISED[dense]
    elif dense and all(ord(character) in _SCRIPTS[operator] for character in dense):
        script = dense.translate(_SCRIPTS[operator])
    else:
        script = f"{operator}{script}" if len(script) == 1 else f"{operator}({script})"
    return f"{base}{script}{end}"


def _accented(text: str, name: str) -> str:
    """Put a line over a whole text, an arrow after it, any other accent over a single letter."""
    if name in {"bar", "overline"}:
        return "".join(character + _ACCENTS[name] for character in text)
    if len(text) != 1 and name not in {"vec", "overrightarrow"}:
        raise _Unreadable
    return text + _ACCENTS[name]


def _environment(node: LatexEnvironmentNode) -> str:
    inside, name = _write(node.nodelist), node.environmentname
    if name in _ALIGNED:
        return f"{_ROW}{inside.replace(_CELL, '')}{_ROW}"
    if name not in _FENCED:
        raise _Unreadable
    between = ", " if name == "cases" else " "
    rows = [
        between.join(filter(None, (_tidy(cell).rstrip(",") for cell in row.split(_CELL))))
        for row in inside.split(_ROW)
    ]
    text = " ; ".join(filter(None, rows))
    opening, closing = _FENCED[name][:1], _FENCED[name][1:]
    return f"{opening} {text} {closing}" if name == "cases" else f"{opening}{text}{closing}"


def _tidy(text: str) -> str:
    """Put spaces where a word or a fraction would touch its neighbour; never two in a row."""
    text = _ENDS.sub(" ", text).replace(_WORD, "").replace(_FRACTION, "").replace("′′", "″")
    text = re.sub(r"[ \t\n]+", " ", text)
    text = re.sub(r"(?<=[(\[]) | (?=[)\]])", "", text)
    return re.sub(r"(?<=[^ (\[])(?=[=+<>-] )", " ", text).strip(" ")

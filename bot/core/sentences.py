"""Sentence ends in French and English text: not at abbreviations, numbers or list markers."""

import re
from collections.abc import Iterator

# Abbreviations that are written with a dot, in lower case without it; single letters are others.
_WORDS = """
al ann approx arr art av bd bibl boul bull cf ch chap cie circ col coll comm conf cons déc dec
décr dép dept dir dr éd ed env etc étym ex fam fasc féd févr fig fr gal gén gouv hab ibid id inf
int inv jan janv juill jur lég lib lieut liv loc ltd max mgr min mlle mm mme mrs ms mr mus n° nb
no nos nov obs oct op p.ex pag pp prof ps pt qq ref réf req rev rubr sec sect sept seq ss st ste
suiv sup suppl sv tab tél tel tit trad univ vol vs
"""
ABBREVIATIONS = frozenset(_WORDS.split())
_UNDOTTED = frozenset({"art", "cf", "m", "mlle", "mm", "mme", "mmes", "n°", "nº"})

_END = re.compile(
    r"(?<![.!?…])(?P<sign>[.!?…]{1,8})"
    r"(?:[\"'»”’)\]*_~]|[\u00a0\u202f ]»){0,8}"  # the end of a quotation or of emphasis
    r"(?=\s)"
    r"|(?P<wide>[。！？]+[」』”]?)"  # scripts without spaces
)
_WORD = re.compile(r"[^\s\"«»“”(\[*_~\u2019']+\Z")
_NUMBER = re.compile(r"\d[\d.,/\u00a0\u202f-]*\Z|[IVXLCDM]+\Z")
_DOTTED = re.compile(r"[^\W\d_]{1,2}\.[.-]*(?:[^\W\d_]{1,2}[.-]+)*[^\W\d_]{1,3}\Z")  # "c.-à-d"
_NEXT = re.compile(r"\s*(\S?)")
_LONGEST = 60  # characters before a dot that decide what it is
_LONGEST_ITEM = 3  # digits of a number that may be a list item's, even within a line
_LINE_START = re.compile(r"(?:\A|\n)[\s>*_+-]*\Z")


def sentence_ends(text: str) -> Iterator[int]:
    """Yield the offsets right after complete sentences, in order.

    A sentence is complete once white space follows its last punctuation mark. A dot that may
    belong to an abbreviation, a number or a list marker ends none, and neither does a mark after
    which the text goes on in lower case.
    """
    for found in _END.finditer(text):
        if found["wide"]:
            yield found.end()
            continue
        following = _NEXT.match(text, found.end())
        letter = following[1] if following else ""
        if not letter.islower() and not _goes_on(text, found, letter):
            yield found.end()


def is_abbreviation(word: str) -> bool:
    """Return whether a word is an abbreviation or an initial, with its dot if it needs one."""
    plain = word.lower().removesuffix(".")
    if not word.endswith("."):
        return plain.rpartition("’")[2] in _UNDOTTED
    short = plain.rpartition("\u2019")[2].rpartition("'")[2]
    return (
        (len(short) == 1 and short.isalpha())
        or short in ABBREVIATIONS
        or plain in ABBREVIATIONS
        or _DOTTED.match(plain) is not None
    )


def _goes_on(text: str, found: re.Match[str], following: str) -> bool:
    """Return whether a dot does not end a sentence, as far as the text has arrived."""
    if found["sign"] != "." or found.start() == 0:
        return False
    before = text[max(found.start() - _LONGEST, 0) : found.start()]
    word = _WORD.search(before)
    if word is None:
        return False
    if is_abbreviation(f"{word[0]}."):
        return True
    if _NUMBER.match(word[0]):  # a list marker, or a number whose rest is still to come
        at_start = _LINE_START.search(before[: word.start()]) is not None
        short = word[0].isdigit() and len(word[0]) <= _LONGEST_ITEM
        return short or at_start or not following or following.isdigit()
    return following.isdigit()

"""Removal of invisible characters, so that no hidden text goes to the model or comes from it."""

import re

LINE_END = re.compile(r"\r\n?|[\n\v\f\x85\u2028\u2029]")

_INVISIBLE = (
    r"[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    r"\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    r"\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# An emoji with its variation selector; ZWJ joins several into one.
_EMOJI = (
    r"(?:[\xa9\xae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u23ff\u24c2\u25a0-\u27bf"
    r"\u2900-\u297f\u2b00-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff][\ufe0e\ufe0f]?)"
)
# Scripts written from right to left, and those of India and South-East Asia, need one ZWNJ, ZWJ,
# LRM, RLM or ALM after a letter. More than one could only carry a hidden message.
_LETTER = r"[\u0590-\u0dff\u1000-\u109f\u1780-\u17ff\u1820-\u18af\ufb1d-\ufdff\ufe70-\ufefc]"

_ANY_INVISIBLE = re.compile(_INVISIBLE)
_NEEDED_OR_INVISIBLE = re.compile(
    rf"({_EMOJI}(?:\u200d{_EMOJI})*|[#*0-9]\ufe0f(?=\u20e3)|{_LETTER}[\u200c-\u200f\u061c])"
    rf"|{_INVISIBLE}"
)


def visible(text: str) -> str:
    r"""Return the text without invisible characters, with "\n" as line end, valid as UTF-8.

    The joiners and selectors that emoji and scripts need are kept. The number of lines does not
    change.
    """
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = LINE_END.sub("\n", text)
    return _NEEDED_OR_INVISIBLE.sub(r"\1", text) if _ANY_INVISIBLE.search(text) else text

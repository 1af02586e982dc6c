"""Display names: how to show one safely, and how to find one in a typed text."""

import re
import unicodedata
from typing import Final

ASSISTANT: Final = "Assistant IA"  # the name people use for the bot, whatever its profile says

_LONGEST: Final = 60  # characters
_JOINER: Final = "\N{ZERO WIDTH JOINER}"  # joins emoji
_RIGHT_TO_LEFT: Final = {"R", "AL", "AN"}  # Unicode's bidirectional classes (UAX #9)
_GOES_ON: Final = re.compile(r"\w|-\w")  # follows a text that only begins another, longer name
_ID_GOES_ON: Final = re.compile(r"\w|[-.:/=+]\w")  # the same for an id (spec: user identifiers)
_ENDS: Final = re.compile(r"\s*(?:[,;!?:.](?:\s|\Z)|\Z)")
_ENTITY: Final = re.compile(r"\s*\[[^\]]*\]\s*\Z")  # the person's organisation, as Tchap shows it
_ISOLATE: Final = "\N{FIRST STRONG ISOLATE}"
_END: Final = "\N{POP DIRECTIONAL ISOLATE}"


def plain_name(name: str) -> str:
    """Return a display name on one line, without invisible characters; "" if nothing is left.

    A name in a script that runs from right to left is isolated, so that it does not change the
    direction of the text around it (UAX #9, 2.7).
    """
    seen = "".join(one for one in name if one == _JOINER or _is_seen(one))
    words = " ".join(seen.split())
    if len(words) > _LONGEST:
        words = words[: _LONGEST - 1].rstrip(f" {_JOINER}") + "…"
    if any(unicodedata.bidirectional(one) in _RIGHT_TO_LEFT for one in words):
        return f"{_ISOLATE}{words}{_END}"
    return words.strip(_JOINER)


def _is_seen(one: str) -> bool:
    """Return whether a character is visible or separates words; direction controls are neither."""
    return one.isspace() or unicodedata.category(one) not in {"Cc", "Cf", "Cs", "Cn", "Co"}


def begins_with_name(typed: str, name: str) -> bool:
    """Return whether a text begins with a name, as people type it.

    Case, kinds of white space, invisible characters, emoji around the name and an organisation in
    brackets after it make no difference.
    """
    words, full = _folded(typed), _folded(name)
    short = "".join(one for one in _ENTITY.sub("", full) if unicodedata.category(one)[0] != "S")
    return any(
        one and words.startswith(one) and not _GOES_ON.match(words[len(one) :])
        for one in {full, " ".join(short.split())}
    )


def begins_with_id(typed: str, user_id: str) -> bool:
    """Return whether a text begins with a Matrix id, without its "@".

    The local part alone is often an ordinary word, so it must be followed by punctuation and
    white space, or by nothing.
    """
    words, full = _folded(typed), _folded(user_id)
    if words.startswith(full):
        return not _ID_GOES_ON.match(words[len(full) :])
    local = full.partition(":")[0]
    return words.startswith(local) and bool(local and _ENDS.match(words[len(local) :]))


def _folded(words: str) -> str:
    """Return words in a form to compare (Unicode: NFKC, case folding)."""
    folded = unicodedata.normalize("NFKC", words).casefold()
    return " ".join("".join(one for one in folded if _is_seen(one)).split())

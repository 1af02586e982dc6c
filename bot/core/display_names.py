"""Display names, as people write them into their profile."""

import re
import unicodedata
from typing import Final

ASSISTANT: Final = "Assistant IA"  # what people call the bot, whatever its profile says

_LONGEST: Final = 60  # characters
_JOINER: Final = "\N{ZERO WIDTH JOINER}"  # of emoji
_TO_THE_LEFT: Final = {"R", "AL", "AN"}  # Unicode's bidirectional classes (UAX #9)
_GOES_ON: Final = re.compile(r"\w|-\w")  # behind what is the beginning of another name
_ID_GOES_ON: Final = re.compile(r"\w|[-.:/=+]\w")  # the same, of an id (spec: user identifiers)
_ENDS: Final = re.compile(r"\s*(?:[,;!?:.](?:\s|\Z)|\Z)")
_ENTITY: Final = re.compile(r"\s*\[[^\]]*\]\s*\Z")  # whose somebody is, as Tchap shows it
_ISOLATE: Final = "\N{FIRST STRONG ISOLATE}"
_END: Final = "\N{POP DIRECTIONAL ISOLATE}"


def plain_name(name: str) -> str:
    """Return a display name on one line, without signs that nobody sees; "" where nothing is left.

    A name in letters that run from right to left is kept apart, so that it turns nothing around it
    (UAX #9, 2.7).
    """
    seen = "".join(one for one in name if one == _JOINER or _is_seen(one))
    words = " ".join(seen.split())
    if len(words) > _LONGEST:
        words = words[: _LONGEST - 1].rstrip(f" {_JOINER}") + "…"
    if any(unicodedata.bidirectional(one) in _TO_THE_LEFT for one in words):
        return f"{_ISOLATE}{words}{_END}"
    return words.strip(_JOINER)


def _is_seen(one: str) -> bool:
    """Tell whether a character is shown, or parts words; controls of direction are neither."""
    return one.isspace() or unicodedata.category(one) not in {"Cc", "Cf", "Cs", "Cn", "Co"}


def begins_with_name(typed: str, name: str) -> bool:
    """Tell whether a text begins with a name, as people type it.

    Case, kinds of white space, invisible signs, emoji around the name and an entity in brackets
    behind it make no difference.
    """
    words, full = _folded(typed), _folded(name)
    short = "".join(one for one in _ENTITY.sub("", full) if unicodedata.category(one)[0] != "S")
    return any(
        one and words.startswith(one) and not _GOES_ON.match(words[len(one) :])
        for one in {full, " ".join(short.split())}
    )


def begins_with_id(typed: str, user_id: str) -> bool:
    """Tell whether a text begins with a Matrix id, without its "@".

    Its local part alone is often a word of its own: something must part it from what follows.
    """
    words, full = _folded(typed), _folded(user_id)
    if words.startswith(full):
        return not _ID_GOES_ON.match(words[len(full) :])
    local = full.partition(":")[0]
    return words.startswith(local) and bool(local and _ENDS.match(words[len(local) :]))


def _folded(words: str) -> str:
    """Return words as they compare (Unicode: NFKC, case folding)."""
    folded = unicodedata.normalize("NFKC", words).casefold()
    return " ".join("".join(one for one in folded if _is_seen(one)).split())

"""Remembers what people and models have said in the test harness, and searches files for it.

One memory for the whole suite: no file of any bot may hold a text that anybody has said.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_SHORTEST = 8  # characters: what is shorter stands in files by chance
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|\n+")

_said: set[str] = set()


class Leaked(Exception):
    """A text of a conversation is in a file; the message says which, and not what it says."""


def remember(text: str) -> None:
    """Take `text` as said, sentence by sentence: a reply on its way is logged in part, if at all.

    Sentences of fewer than eight characters are left out, and the star before an edit's text.
    """
    sentences = map(str.strip, _SENTENCE_END.split(text.removeprefix("* ")))
    _said.update(sentence for sentence in sentences if len(sentence) >= _SHORTEST)


@contextmanager
def apart() -> Iterator[None]:
    """Remember what is said within the block there alone, and nothing from outside."""
    before = _said.copy()
    _said.clear()
    try:
        yield
    finally:
        _said.clear()
        _said.update(before)


def search(*places: Path) -> None:
    """Search files, and all files in directories, for what was said, as it is and as JSON has it.

    Raises:
        Leaked: with each file, the offset in bytes, and the start of the text's SHA-256.
    """
    found = [
        f"{path} at byte {at}: {hashlib.sha256(sentence.encode()).hexdigest()[:12]}"
        for path in _files(places)
        for sentence, at in _hits(path.read_bytes())
    ]
    if found:
        raise Leaked("what was said in a room is in files of the bot:\n" + "\n".join(found))


def _files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        inside = [place, *place.rglob("*")] if place.is_dir() else [place]
        yield from (path for path in inside if path.is_file())


def _hits(content: bytes) -> Iterator[tuple[str, int]]:
    """Yield each sentence that `content` holds, and where it first stands."""
    for sentence in sorted(_said):
        places = [content.find(form) for form in _forms(sentence)]
        if max(places) >= 0:
            yield sentence, min(place for place in places if place >= 0)


def _forms(sentence: str) -> set[bytes]:
    """Return the sentence in UTF-8: as it is, and inside a JSON string, in ASCII alone or not."""
    escaped = (json.dumps(sentence, ensure_ascii=pure)[1:-1] for pure in (True, False))
    return {form.encode() for form in (sentence, *escaped)}

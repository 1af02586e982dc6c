"""The canaries: the texts of people and models in the test harness, to be searched in files.

There is one memory for the whole suite: no file of any bot may contain a text of a conversation.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_SHORTEST = 8  # characters; shorter texts are in files by chance
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|\n+")

_said: set[str] = set()


class Leaked(Exception):
    """A text of a conversation is in a file; the message names the file without the text."""


def remember(text: str) -> None:
    """Remember a text by its sentences, since a log may contain only a part of a reply.

    Sentences of fewer than eight characters are left out, and the star before an edit's text.
    """
    sentences = map(str.strip, _SENTENCE_END.split(text.removeprefix("* ")))
    _said.update(sentence for sentence in sentences if len(sentence) >= _SHORTEST)


@contextmanager
def apart() -> Iterator[None]:
    """Use a separate memory within the block."""
    before = _said.copy()
    _said.clear()
    try:
        yield
    finally:
        _said.clear()
        _said.update(before)


def search(*paths: Path) -> None:
    """Search files, and all files in directories, for the texts, plain and as JSON strings.

    Raises:
        Leaked: a text was found; the message has each file, the offset in bytes, and the start of
            the text's SHA-256.
    """
    found = [
        f"{path} at byte {at}: {hashlib.sha256(sentence.encode()).hexdigest()[:12]}"
        for path in _files(paths)
        for sentence, at in _hits(path.read_bytes())
    ]
    if found:
        raise Leaked("what was said in a room is in files of the bot:\n" + "\n".join(found))


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        inside = [path, *path.rglob("*")] if path.is_dir() else [path]
        yield from (path for path in inside if path.is_file())


def _hits(content: bytes) -> Iterator[tuple[str, int]]:
    """Yield each sentence that `content` contains, and its first offset."""
    for sentence in sorted(_said):
        offsets = [content.find(form) for form in _forms(sentence)]
        if max(offsets) >= 0:
            yield sentence, min(offset for offset in offsets if offset >= 0)


def _forms(sentence: str) -> set[bytes]:
    """Return the sentence in UTF-8: plain, and as in a JSON string, with and without escapes."""
    escaped = (json.dumps(sentence, ensure_ascii=pure)[1:-1] for pure in (True, False))
    return {form.encode() for form in (sentence, *escaped)}

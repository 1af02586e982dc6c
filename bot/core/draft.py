"""One reply while it grows: its text, and when what stands should be shown next."""

import re

# The end of a sentence, as far as one can tell so early.
_SENTENCE = re.compile(r"[.!?…][\"'»)\]*_]*\s|\S\s*\n")


class Draft:
    """The text so far, and the pace at which a person gets to see it.

    The first words are due at the first whole sentence or `first_after` seconds after the first
    token; later versions `edit_interval` seconds after the one before was acknowledged.
    """

    def __init__(self, *, first_after: float, edit_interval: float) -> None:
        self._pieces: list[str] = []
        self._length = 0
        self._first_after = first_after
        self._edit_interval = edit_interval
        self._started: float | None = None
        self._shown_at: float | None = None
        self._shown_length = 0

    @property
    def text(self) -> str:
        """The text so far, from its first visible character on."""
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]

    def add(self, text: str, now: float) -> None:
        """Append `text`, which came at `now` (monotonic seconds)."""
        if self._started is None:
            text = text.lstrip()
            if not text:
                return
            self._started = now
        self._pieces.append(text)
        self._length += len(text)

    def shown(self, text: str, now: float) -> None:
        """Note that `text` stands in the room since `now` (monotonic seconds)."""
        self._shown_length = len(text)
        self._shown_at = now

    def postpone(self, until: float) -> None:
        """Let nothing be due before `until` (monotonic seconds): the homeserver asked to wait."""
        self._shown_at = until - self._edit_interval

    def due_at(self) -> float | None:
        """Return the monotonic time at which to show the text, None where nothing is new."""
        if self._started is None or self._length == self._shown_length:
            return None
        if self._shown_at is not None:
            return self._shown_at + self._edit_interval
        if _SENTENCE.search(self.text):
            return self._started
        return self._started + self._first_after

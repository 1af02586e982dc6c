"""One reply while it grows: its text, and when what stands should be shown next."""

from bot.core.first_words import LEAST, begun, whole


class Draft:
    """The text so far, and the pace at which a person gets to see it.

    The first words are due at the first whole sentence or block; where none comes within
    `first_after` seconds of the first token, as whole words of at least `least` visible
    characters; within twice that time, as whatever whole words there are. Later versions are due
    `edit_interval` seconds after the one before was acknowledged, and hold the newest text.
    """

    def __init__(self, *, first_after: float, edit_interval: float, least: int = LEAST) -> None:
        self._pieces: list[str] = []
        self._length = self._visible_length = 0  # the latter without white space at the end
        self._first_after = first_after
        self._edit_interval = edit_interval
        self._least = least
        self._started: float | None = None
        self._shown_at: float | None = None
        self._shown_length = 0
        self._steps: tuple[int, list[tuple[float, str]]] = (0, [])  # of a text of that length

    @property
    def text(self) -> str:
        """The text so far, from its first visible character on."""
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]

    @property
    def is_shown(self) -> bool:
        """Tell whether anything of this text stands in the room."""
        return self._shown_length > 0

    def add(self, text: str, now: float) -> None:
        """Append `text`, which came at `now` (monotonic seconds)."""
        if self._started is None:
            text = text.lstrip()
            if not text:
                return
            self._started = now
        self._pieces.append(text)
        if text.strip():
            self._visible_length = self._length + len(text.rstrip())
        self._length += len(text)

    def version(self, now: float) -> str:
        """Return what is to be shown at `now` (monotonic seconds), "" where that is nothing yet.

        The first words may have their Markdown closed; later versions are the text as it stands.
        """
        if self.is_shown:
            return self.text
        return next((words for at, words in self._first_words() if at <= now), "")

    def shown(self, text: str, now: float) -> None:
        """Note that `text` stands in the room since `now` (monotonic seconds)."""
        self._shown_length = len(text.rstrip())
        self._shown_at = now

    def postpone(self, until: float) -> None:
        """Let nothing be due before `until` (monotonic seconds): the homeserver asked to wait."""
        self._shown_at = until - self._edit_interval

    def due_at(self) -> float | None:
        """Return the monotonic time at which to show a version, None where none is to be shown."""
        if self._started is None or self._visible_length == self._shown_length:
            return None
        allowed = self._started
        if self._shown_at is not None:
            allowed = self._shown_at + self._edit_interval
        if self.is_shown:
            return allowed
        first = next(iter(self._first_words()), None)
        return None if first is None else max(first[0], allowed)

    def _first_words(self) -> list[tuple[float, str]]:
        """Return what may be shown first and from when on, the best and earliest first."""
        if self._started is None:
            return []
        if self._steps[0] != self._length:
            text, least = self.text, self._least
            later, last = self._started + self._first_after, self._started + 2 * self._first_after
            steps = [
                (self._started, whole(text, least)),
                (later, begun(text, least)),
                (last, begun(text, 1)),
            ]
            self._steps = self._length, [(at, words) for at, words in steps if words]
        return self._steps[1]

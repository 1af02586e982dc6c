"""One reply while it grows: its text, and when what stands should be shown next."""

from bot.core.first_words import LEAST, begun, whole
from bot.core.message_split import Cuts

_WHOLE = -1  # in place of how few whole words: a sentence or block


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
        self._cuts = Cuts()
        self._found: dict[int, str] = {}  # in a text of `_found_of` characters, by `least`
        self._found_of = 0

    @property
    def text(self) -> str:
        """The text so far, from its first visible character on."""
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]

    @property
    def is_shown(self) -> bool:
        """Tell whether anything of this text stands in the room."""
        return self._shown_length != 0

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
        if self._started is None:
            return ""
        due = [least for at, least in self._steps(self._started) if at <= now]
        return next(filter(None, map(self._search, (_WHOLE, *due))), "")

    def cuts(self, version: str) -> Cuts:
        """Return the cuts of a version: where it is the whole text, those made so far."""
        return self._cuts if version == self.text else Cuts()

    def shown(self, text: str, now: float) -> None:
        """Note that `text` stands in the room since `now` (monotonic seconds)."""
        # First words with their Markdown closed are no beginning of the text: more is to be shown.
        self._shown_length = len(text.rstrip()) if self.text.startswith(text) else -1
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
        if self.is_shown or self._search(_WHOLE):
            return allowed
        steps = (at for at, least in self._steps(self._started) if self._found.get(least) != "")
        at = next(steps, None)
        return None if at is None else max(at, allowed)

    def _steps(self, started: float) -> list[tuple[float, int]]:
        """Return from when on how few whole words may be shown."""
        later, last = started + self._first_after, started + 2 * self._first_after
        return [(later, self._least), (last, 1)]

    def _search(self, least: int) -> str:
        """Look for first words once in each text; for such as have only begun, when it is time."""
        if self._found_of != self._length:
            self._found, self._found_of = {}, self._length
        if least not in self._found:
            wanted = whole(self.text, self._least) if least == _WHOLE else begun(self.text, least)
            self._found[least] = wanted
        return self._found[least]

"""The text of a reply while it grows, and when its next version is due."""

from bot.core.first_words import LEAST, begun, whole
from bot.core.message_split import Cuts

_WHOLE = -1  # in place of a number of characters: a whole sentence or block


class Draft:
    """The text so far, and the pace at which people see it.

    The first version is due at the first whole sentence or block. If none comes within
    `first_after` seconds of the first token, whole words of at least `least` visible characters
    are due; after twice that time, any whole words. Each later version is due `edit_interval`
    seconds after the one before was acknowledged, and holds the newest text.
    """

    def __init__(self, *, first_after: float, edit_interval: float, least: int = LEAST) -> None:
        """Begin with an empty text.

        Args:
            first_after: seconds, see above.
            edit_interval: seconds, see above.
            least: visible characters, see above.
        """
        self._pieces: list[str] = []
        self._length = self._visible_length = 0  # the latter without white space at the end
        self._first_after = first_after
        self._edit_interval = edit_interval
        self._least = least
        self._started: float | None = None
        self._shown_at: float | None = None
        self._shown_length = 0
        self._cuts = Cuts()
        self._found: dict[int, str] = {}  # first words in `_found_of` characters, by `least`
        self._found_of = 0

    @property
    def text(self) -> str:
        """The text so far, from its first character that is no white space."""
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]

    @property
    def is_shown(self) -> bool:
        """Whether a version of this text stands in the room."""
        return self._shown_length != 0

    def add(self, text: str, now: float) -> None:
        """Append `text`, which came at `now` (in monotonic seconds)."""
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
        """Return the version that is due at `now` (in monotonic seconds), "" for none yet.

        The first version may have its open Markdown closed; later versions are the text as it is.
        """
        if self.is_shown:
            return self.text
        if self._started is None:
            return ""
        due = [least for at, least in self._steps(self._started) if at <= now]
        return next(filter(None, map(self._search, (_WHOLE, *due))), "")

    def cuts(self, version: str) -> Cuts:
        """Return the cuts of a version; of the whole text, those that were made before."""
        return self._cuts if version == self.text else Cuts()

    def shown(self, text: str, now: float) -> None:
        """Record that the version `text` stands in the room since `now` (in monotonic seconds)."""
        # A version whose Markdown was closed is no beginning of the text: another one is due.
        self._shown_length = len(text.rstrip()) if self.text.startswith(text) else -1
        self._shown_at = now

    def postpone(self, until: float) -> None:
        """Let no version be due before `until` (in monotonic seconds)."""
        self._shown_at = until - self._edit_interval

    def due_at(self) -> float | None:
        """Return when the next version is due, in monotonic seconds; None if none is."""
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
        """Return times from which a first version may be shorter, with its least length."""
        later, last = started + self._first_after, started + 2 * self._first_after
        return [(later, self._least), (last, 1)]

    def _search(self, least: int) -> str:
        """Return the first version with at least `least` visible characters, "" for none.

        Each text is searched once for each `least`.
        """
        if self._found_of != self._length:
            self._found, self._found_of = {}, self._length
        if least not in self._found:
            wanted = whole(self.text, self._least) if least == _WHOLE else begun(self.text, least)
            self._found[least] = wanted
        return self._found[least]

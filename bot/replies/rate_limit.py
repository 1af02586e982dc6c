"""One model's quota: while the backend answers 429, who waits, in what order, and who tries."""

import asyncio
from bisect import insort
from typing import Final, Self

import structlog

from bot.ports.clock import Clock
from bot.runtime.retry import backoff
from bot.runtime.waiting import wait_for_event

_FIRST_PAUSE: Final = 2  # of `backoff`: 4 to 6 seconds
_LONGEST_PAUSE: Final = 60.0  # seconds, where the backend does not say how long
_SHORTEST_ASKED: Final = 1.0  # seconds, where it does: a hurried backend is no reason to hurry
_LONGEST_ASKED: Final = 600.0
_STEP: Final = 1.0  # seconds from one of the line to the next: a 429 comes sooner than a word
_ALONE: Final = 10.0  # seconds after which who went alone counts as let in: models think for long
_REFUSALS: Final = 4  # of who went alone, in a minute or more: a minute's quota is new by then

log = structlog.get_logger()


class Place:
    """One answer at the gate; `with` keeps its place in the order of arrival, try after try."""

    def __init__(self, gate: "ModelRateLimiter", number: int) -> None:
        self.number = number
        self.closings = 0  # of the gate, when it went through last
        self.refusals = 0  # when it went alone
        self._gate = gate

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._gate.leave(self)

    @property
    def rank(self) -> int | None:
        """1 for the next to go; None for who does not wait."""
        return self._gate.rank(self)

    async def turn(self, end: float) -> bool:
        """Wait until the model may be asked; False where that is not before `end` (monotonic)."""
        while not self._gate.lets(self):
            if not self._gate.hopes(end):
                return False
            await self._gate.change(self, end)
        return True

    def answered(self) -> None:
        """Tell that the model has given its first word."""
        self._gate.answered(self)

    def limited(self, retry_after: float | None) -> None:
        """Tell that it was 429, with the seconds to wait where the backend has said so."""
        self._gate.close(self, retry_after)

    def failed(self) -> None:
        """Tell that something else went wrong, which says nothing of the quota."""
        self._gate.give_way(self)


class ModelRateLimiter:
    """Lets answers ask one model: all at once, until the backend answers 429; then nobody does.

    Albert counts requests and tokens of the minute and the day, and says neither which of them are
    used up nor when to come back. So there is a pause, and after it the first of the line goes
    alone. A 429 again begins a longer pause; a word of the model lets the others go, in the order
    of their arrival: one each second, or sooner where the one before has its first word sooner.
    The gate is open to all again once nobody waits. Who is refused alone for more than a minute
    goes to the end of the line: its request may hold more tokens than a minute has.
    """

    def __init__(self, clock: Clock, model_id: str) -> None:
        self._clock = clock
        self._model_id = model_id
        self._arrivals = 0
        self._line: list[Place] = []  # who waits, in the order of arrival
        self._shut = False
        self._closings = 0
        self._pauses = 0  # in a row
        self._until = 0.0  # monotonic seconds: when the next may go
        self._proven = False  # who went alone was let in
        self._last: Place | None = None  # who went last, and has had no word yet
        self._changed = asyncio.Event()

    def place(self) -> Place:
        """Return the place of one more answer."""
        self._arrivals += 1
        return Place(self, self._arrivals)

    def rank(self, place: Place) -> int | None:
        """Return where in the line it is, from 1 on; None where it is not."""
        return self._line.index(place) + 1 if place in self._line else None

    def lets(self, place: Place) -> bool:
        """Let it through, or into the line; tell whether it may go."""
        if self._shut and not self._calls(place):
            return False
        place.closings = self._closings
        return True

    def _calls(self, place: Place) -> bool:
        """Tell whether it is the one of the line to go now, which it then has left."""
        if place not in self._line:
            insort(self._line, place, key=lambda one: one.number)
        now = self._clock.monotonic()
        if self._line[0] is not place or now < self._until:
            return False
        self._line.remove(place)
        self._proven = self._proven or self._last is not None
        self._last, self._until = place, now + (_STEP if self._proven else _ALONE)
        self._shut = bool(self._line) or not self._proven
        self._tell()
        return True

    def hopes(self, end: float) -> bool:
        """Tell whether the model may be asked before `end` (monotonic seconds)."""
        paused = self._until if self._last is None else 0.0
        return max(self._clock.monotonic(), paused) < end

    async def change(self, place: Place, end: float) -> None:
        """Wait until it is worth asking again whether the place may go."""
        due = min(end, self._until) if self._line[0] is place else end
        await wait_for_event(self._clock, self._changed, due - self._clock.monotonic())

    def answered(self, place: Place) -> None:
        """Let the next go, if this was the last to go."""
        if place is self._last:
            self._proven, self._pauses = True, 0
            self._shut = bool(self._line)
            self.give_way(place)

    def close(self, place: Place, retry_after: float | None) -> None:
        """Let nobody through for a while, unless the place had asked before the last pause."""
        if place.closings < self._closings:
            return
        pauses = 0 if self._steps_back(place) else self._pauses
        if retry_after is None:
            pause = min(backoff(_FIRST_PAUSE + pauses), _LONGEST_PAUSE)
        else:
            pause = min(max(retry_after, _SHORTEST_ASKED), _LONGEST_ASKED)
        log.warning("quota used up", model=self._model_id, retry_in=round(pause, 1))
        self._closings += 1
        self._pauses += 1
        self._shut, self._proven, self._last = True, False, None
        self._until = self._clock.monotonic() + pause
        self._tell()

    def _steps_back(self, place: Place) -> bool:
        """Tell whether the place is behind all others from now on."""
        if place is not self._last or self._proven:
            return False
        place.refusals += 1
        if place.refusals < _REFUSALS:
            return False
        self._arrivals += 1
        place.number, place.refusals = self._arrivals, 0
        return True

    def give_way(self, place: Place) -> None:
        """Let the next go, if this was the last to go."""
        if place is self._last:
            self._last, self._until = None, self._clock.monotonic()
            self._tell()

    def leave(self, place: Place) -> None:
        """Forget it, wherever it is."""
        if place in self._line:
            self._line.remove(place)
            self._tell()
        self.give_way(place)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

"""Rate limit of one model: after a 429, one queue decides which completion asks next, and when."""

from bisect import insort
from typing import Final

import structlog

from bot.ports.clock import Clock
from bot.runtime.broadcast import Broadcast
from bot.runtime.retry import backoff
from bot.runtime.waiting import wait_for_event

_FIRST_PAUSE: Final = 2  # failures for `backoff`: 4 to 6 seconds
_LONGEST_PAUSE: Final = 60.0  # seconds, if the backend names no time
_SHORTEST_ASKED: Final = 1.0  # seconds, if it does: requests in quick succession help nobody
_LONGEST_ASKED: Final = 600.0
_INTERVAL: Final = 1.0  # seconds between two requests of the queue: a 429 comes sooner than a word
_PROBE_TIME: Final = 10.0  # seconds after which a probe counts as accepted: models think for long
_MOST_REFUSALS: Final = 4  # of one completion's probes, within some 60 s: a minute's quota is new

log = structlog.get_logger()


class Requester:
    """One completion at a rate limiter; it keeps its order of arrival through all its attempts.

    Attributes:
        number: its order of arrival.
        pauses_seen: how many pauses the limiter had begun when it was last allowed to ask.
        refusals: how many of its probes were refused.
    """

    def __init__(self, limiter: "ModelRateLimiter", number: int) -> None:
        self.number = number
        self.pauses_seen = 0
        self.refusals = 0
        self._limiter = limiter

    @property
    def position(self) -> int | None:
        """Its position in the queue, from 1 on; None if it does not wait."""
        return self._limiter.position(self)

    async def acquire(self, deadline: float) -> bool:
        """Wait until it may ask; False if that is not before `deadline` (monotonic seconds)."""
        while not self._limiter.try_acquire(self):
            if not self._limiter.may_acquire_before(deadline):
                return False
            await self._limiter.wait_for_change(self, deadline)
        return True

    def answered(self) -> None:
        """Report the model's first word, or its end without one."""
        self._limiter.answered(self)

    def limited(self, retry_after: float | None) -> None:
        """Report a 429, with the seconds to wait if the backend has named them."""
        self._limiter.pause(self, retry_after)

    def failed(self) -> None:
        """Report another failure, which says nothing about the quota."""
        self._limiter.release(self)

    def leave(self) -> None:
        """Leave the limiter; the completion asks no more."""
        self._limiter.remove(self)


class ModelRateLimiter:
    """Decides when completions may ask one model: at any time, until the backend answers 429.

    Albert counts requests and tokens per minute and per day. Its 429 names neither the quota that
    is used up nor the time to come back. So nobody asks for a while, and then the first of the
    queue asks alone, as a probe. Another 429 begins a longer pause. Once the probe is accepted,
    the others follow in their order of arrival: one each second, or as soon as the one before has
    its first word. When the queue is empty, anybody may ask again. If one completion's probes are
    refused for more than a minute, it goes to the end of the queue: its request may hold more
    tokens than one minute allows.
    """

    def __init__(self, clock: Clock, model_id: str) -> None:
        self._clock = clock
        self._model_id = model_id
        self._arrivals = 0
        self._queue: list[Requester] = []  # those that wait, in order of arrival
        self._limited = False  # only the queue's first may ask
        self._pauses = 0  # begun so far
        self._pauses_in_row = 0
        self._next_at = 0.0  # monotonic seconds: when the queue's first may ask
        self._accepted = False  # the probe was
        self._last: Requester | None = None  # the last one to ask, while it has no answer
        self._changes = Broadcast()

    def add(self) -> Requester:
        """Return the requester of one more completion."""
        self._arrivals += 1
        return Requester(self, self._arrivals)

    def position(self, requester: Requester) -> int | None:
        """Return its position in the queue, from 1 on; None if it is not there."""
        return self._queue.index(requester) + 1 if requester in self._queue else None

    def try_acquire(self, requester: Requester) -> bool:
        """Return whether it may ask now; if not, it is in the queue."""
        if self._limited and not self._take_from_queue(requester):
            return False
        requester.pauses_seen = self._pauses
        return True

    def _take_from_queue(self, requester: Requester) -> bool:
        """Take it from the queue if it is next and its time has come; else it is put there."""
        if requester not in self._queue:
            insort(self._queue, requester, key=lambda one: one.number)
        now = self._clock.monotonic()
        if self._queue[0] is not requester or now < self._next_at:
            return False
        self._queue.remove(requester)
        self._accepted = self._accepted or self._last is not None
        self._last = requester
        self._next_at = now + (_INTERVAL if self._accepted else _PROBE_TIME)
        self._limited = bool(self._queue) or not self._accepted
        self._changes.send()
        return True

    def may_acquire_before(self, deadline: float) -> bool:
        """Return whether anybody may ask before `deadline` (monotonic seconds)."""
        paused_until = self._next_at if self._last is None else 0.0
        return max(self._clock.monotonic(), paused_until) < deadline

    async def wait_for_change(self, requester: Requester, deadline: float) -> None:
        """Wait until `try_acquire` may have another result."""
        due = min(deadline, self._next_at) if self._queue[0] is requester else deadline
        await wait_for_event(self._clock, self._changes.current, due - self._clock.monotonic())

    def answered(self, requester: Requester) -> None:
        """Let the next one ask, if this was the last one to ask: the quota has room again."""
        if requester is self._last:
            self._accepted, self._pauses_in_row = True, 0
            self._limited = bool(self._queue)
            self.release(requester)

    def pause(self, requester: Requester, retry_after: float | None) -> None:
        """Let nobody ask for a while, unless the refused request is older than the last pause."""
        if requester.pauses_seen < self._pauses:
            return
        earlier = 0 if self._put_last(requester) else self._pauses_in_row
        if retry_after is None:
            seconds = min(backoff(_FIRST_PAUSE + earlier), _LONGEST_PAUSE)
        else:
            seconds = min(max(retry_after, _SHORTEST_ASKED), _LONGEST_ASKED)
        log.warning("quota used up", model=self._model_id, retry_in=round(seconds, 1))
        self._pauses += 1
        self._pauses_in_row += 1
        self._limited, self._accepted, self._last = True, False, None
        self._next_at = self._clock.monotonic() + seconds
        self._changes.send()

    def _put_last(self, requester: Requester) -> bool:
        """Put it behind all others if its probes were refused too often; return whether it was."""
        if requester is not self._last or self._accepted:
            return False
        requester.refusals += 1
        if requester.refusals < _MOST_REFUSALS:
            return False
        self._arrivals += 1
        requester.number, requester.refusals = self._arrivals, 0
        return True

    def release(self, requester: Requester) -> None:
        """Let the next one ask at once, if this was the last one to ask."""
        if requester is self._last:
            self._last, self._next_at = None, self._clock.monotonic()
            self._changes.send()

    def remove(self, requester: Requester) -> None:
        """Forget it, whether it waits or has asked."""
        if requester in self._queue:
            self._queue.remove(requester)
            self._changes.send()
        self.release(requester)

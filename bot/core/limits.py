"""Limits: allowances for each person, and a breaker for conversations between bots."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Literal

from bot.core.bounded import BoundedDict
from bot.core.events import Conversation, EventId, UserId

Costs = Literal["prompts", "regenerations", "comments"]  # the uses that have a limit

HOUR: Final = 3600.0
PAUSE: Final = 600.0  # seconds
MINUTE: Final = 60.0
QUICK: Final = 2.0  # seconds in which no person can read a reply and write an answer

_REMEMBERED = 10_000  # entries that each of the dictionaries below keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits for one person; 0 for no limit.

    Attributes:
        prompts: messages in an hour that are answered.
        regenerations: replies in an hour that are generated again, on request or after an edit.
        comments: comments on replies in an hour that are kept.
        per_minute: prompts in a minute; a sender of more is taken for a bot.
        quick: prompts in a row within QUICK seconds after the previous reply; their sender is
            taken for a bot as well.
    """

    prompts: int = 120
    regenerations: int = 60
    comments: int = 30
    per_minute: int = 20
    quick: int = 6

    def of(self, what: Costs) -> int:
        """Return the limit in an hour."""
        most: dict[Costs, int] = {
            "prompts": self.prompts,
            "regenerations": self.regenerations,
            "comments": self.comments,
        }
        return most[what]


class Allowance:
    """An amount that each owner may use in a sliding window of time.

    An owner is anything with an allowance of its own: a person, a domain, the whole service. The
    amount may be a number of events, or any other measure.
    """

    def __init__(self, most: float, seconds: float = HOUR) -> None:
        """Allow each owner `most` in any window of so many seconds; 0 for no limit."""
        self._most = most
        self._seconds = seconds
        # By owner and cause: time and amount of the use.
        self._used = BoundedDict[Hashable, dict[Hashable, tuple[float, float]]](_REMEMBERED)

    def take(self, whose: Hashable, cause: Hashable, now: float, much: float = 1.0) -> bool:
        """Use an amount, once for each cause; return False if less than it is left.

        Args:
            whose: the owner.
            cause: the event that uses it; repeated, it uses nothing more.
            now: the current time, in seconds by a clock that never goes back.
            much: the amount.
        """
        if not self._most:
            return True
        used = self._used.pop(whose, {})
        while used and next(iter(used.values()))[0] <= now - self._seconds:
            del used[next(iter(used))]
        if cause in used:
            fits = True
        elif fits := sum(one for _, one in used.values()) + much <= self._most:
            used[cause] = now, much
        self._used[whose] = used
        return fits


@dataclass(slots=True)
class _Exchanges:
    """The exchanges of one sender with the bot in one conversation.

    Attributes:
        spoken: time of the bot's last words, by the monotonic clock.
        quick: number of prompts in a row within QUICK seconds after the bot's words.
    """

    spoken: float | None = None
    quick: int = 0


class Breaker:
    """Pauses conversations in which only a bot can write: too many prompts, or too fast ones.

    Times are in seconds by a clock that never goes back.
    """

    def __init__(self, limits: Limits) -> None:
        self._quick = limits.quick
        self._minutes = Allowance(limits.per_minute, MINUTE)
        self._exchanges = BoundedDict[tuple[Conversation, UserId], _Exchanges](_REMEMBERED)
        self._paused = BoundedDict[Conversation, float](_REMEMBERED)  # the end of the pause
        self._told = Allowance(1, PAUSE)

    def spoke(self, conversation: Conversation, sender: UserId, now: float) -> None:
        """Record that the first or the last words of a reply to the sender became visible."""
        exchanges = self._of(conversation, sender)
        exchanges.spoken = max(now, exchanges.spoken or now)

    def is_paused(self, conversation: Conversation, now: float) -> bool:
        """Return whether the conversation is paused, so that nothing is answered there."""
        return now < self._paused.get(conversation, now)

    def trips(
        self,
        conversation: Conversation,
        sender: UserId,
        event_id: EventId,
        now: float,
        *,
        busy: bool = False,
        late: bool = False,
    ) -> str | None:
        """Pause the conversation if a bot seems to write there; return the reason, or None.

        Args:
            conversation: a conversation that is not paused.
            sender: the message's sender.
            event_id: the message.
            now: the current time.
            busy: whether a reply to the sender is being written there.
            late: whether the bot could not receive or read the message when it was sent; such
                messages arrive many at once.
        """
        exchanges = self._of(conversation, sender)
        if exchanges.spoken is not None and now - exchanges.spoken <= QUICK:
            exchanges.quick += 1
        elif not busy:
            exchanges.quick = 0
        why = None
        if not (late or self._minutes.take(sender, event_id, now)):
            why = "too many prompts in a minute"
        elif self._quick and exchanges.quick >= self._quick:
            why = "answers come faster than people write"
        if why is not None:
            exchanges.quick = 0
            self._paused[conversation] = now + PAUSE
        return why

    def tells(self, sender: UserId, event_id: EventId, now: float) -> bool:
        """Return whether to tell the sender of a pause: once for all their conversations."""
        return self._told.take(sender, event_id, now)

    def _of(self, conversation: Conversation, sender: UserId) -> _Exchanges:
        key = conversation, sender
        found = self._exchanges.get(key) or _Exchanges()
        self._exchanges[key] = found
        return found

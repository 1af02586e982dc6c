"""How much one person gets in an hour, and when people write faster than people can."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from bot.core.events import Conversation, EventId, UserId

Costs = Literal["prompts", "regenerations", "comments"]

HOUR: Final = 3600.0
PAUSE: Final = 600.0  # seconds
MINUTE: Final = 60.0
QUICK: Final = 2.0  # seconds in which nobody has read what was said and written an answer

_REMEMBERED = 10_000  # people, and conversations

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one person may ask for; 0 for as much as they like.

    Attributes:
        prompts: messages in an hour that are answered.
        regenerations: answers in an hour that are made anew: asked for, or after an edit.
        comments: comments on replies in an hour that are kept.
        per_minute: prompts in a minute after which their sender is taken for a bot.
        quick: prompts in a row, each right after the answer before, of which that is true, too.
    """

    prompts: int = 120
    regenerations: int = 60
    comments: int = 30
    per_minute: int = 20
    quick: int = 6

    def of(self, what: Costs) -> int:
        """Return how often in an hour."""
        most: dict[Costs, int] = {
            "prompts": self.prompts,
            "regenerations": self.regenerations,
            "comments": self.comments,
        }
        return most[what]


class Allowance:
    """How much is left of what there is for each in any one span of time.

    Each is whoever, or whatever, has an allowance of its own: a person, or as well a domain or the
    whole service. It may be counted in events, or in any other measure.
    """

    def __init__(self, most: float, seconds: float = HOUR) -> None:
        """Give each `most` in so many seconds, whenever they begin; 0 for without end."""
        self._most = most
        self._seconds = seconds
        # Of each, by cause: when, and how much.
        self._used: dict[Hashable, dict[Hashable, tuple[float, float]]] = {}

    def take(self, whose: Hashable, cause: Hashable, now: float, much: float = 1.0) -> bool:
        """Use up so much, once for each cause; False where there is not so much left.

        Args:
            whose: what the allowance is for.
            cause: what it is used for.
            now: in seconds, by a clock that never goes back.
            much: how much.
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
        _remember(self._used, whose, used)
        return fits


@dataclass(slots=True)
class _Exchanges:
    """What one sender and the bot say to each other in one conversation."""

    spoken: float | None = None  # when the bot's last words stood
    quick: int = 0  # prompts in a row that came right after that


class Breaker:
    """Ends what only bots do: they answer each other without end, or faster than people write."""

    def __init__(self, limits: Limits) -> None:
        self._quick = limits.quick
        self._minutes = Allowance(limits.per_minute, MINUTE)
        self._exchanges: dict[tuple[Conversation, UserId], _Exchanges] = {}
        self._paused: dict[Conversation, float] = {}  # until when
        self._told = Allowance(1, PAUSE)

    def spoke(self, conversation: Conversation, sender: UserId, now: float) -> None:
        """Note that the bot's first words to the sender, or the last, stand since then."""
        exchanges = self._of(conversation, sender)
        exchanges.spoken = max(now, exchanges.spoken or now)

    def is_paused(self, conversation: Conversation, now: float) -> bool:
        """Tell whether nothing is answered there."""
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
        """Return why the conversation is paused from this message on, None where it is not.

        Args:
            conversation: one that is not paused.
            sender: who writes there.
            event_id: the message.
            now: in seconds, by a clock that never goes back.
            busy: an answer to the sender is being written there.
            late: it was said while the bot could not hear or read it: such come all at once.
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
            _remember(self._paused, conversation, now + PAUSE)
        return why

    def tells(self, sender: UserId, event_id: EventId, now: float) -> bool:
        """Return whether to say so: once to each sender, in however many conversations."""
        return self._told.take(sender, event_id, now)

    def _of(self, conversation: Conversation, sender: UserId) -> _Exchanges:
        key = conversation, sender
        found = self._exchanges.get(key) or _Exchanges()
        _remember(self._exchanges, key, found)
        return found


def _remember(where: dict[K, V], key: K, value: V) -> None:
    """Note the newest; the oldest is forgotten, where there are too many."""
    where.pop(key, None)
    where[key] = value
    if len(where) > _REMEMBERED:
        del where[next(iter(where))]

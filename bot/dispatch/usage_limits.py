"""The limits at work: prompts, commands and comments that are held, and who is told why."""

import structlog

from bot.core.events import Pending, Prompt, UserId
from bot.core.feedback import COMMAND
from bot.core.intents import Answer, Comment, Ignore, Intent, Run, SendNotice
from bot.core.limits import Allowance, Breaker, Costs, Limits
from bot.ports.clock import Clock
from bot.ports.matrix import Matrix
from bot.replies.generations import ActiveGenerations

_ALWAYS = {"stop"}  # the command that ends what costs

_KEYS: dict[Costs, str] = {
    "prompts": "too many prompts",
    "regenerations": "too many regenerations",
    "comments": "too many comments",
}

log = structlog.get_logger()


class UsageLimits:
    """What each person has asked for lately, in this process."""

    def __init__(
        self, *, matrix: Matrix, clock: Clock, generations: ActiveGenerations, limits: Limits
    ) -> None:
        self._matrix = matrix
        self._clock = clock
        self._generations = generations
        self._breaker = Breaker(limits)
        self._left = {what: Allowance(limits.of(what)) for what in _KEYS}
        self._told = Allowance(1)

    def admit(self, intent: Intent, left: Pending | None, *, late: bool = False) -> Intent:
        """Return what to do: what the event asks for, a sentence that says why not, or nothing.

        Args:
            intent: what the event asks for.
            left: what an earlier process did about it; what was begun comes to its end.
            late: it was heard long ago, and can be read only now.
        """
        prompt = _prompt(intent)
        if prompt is None or self._matrix.room(prompt.room_id).admin:
            return intent
        if left is not None and (left.begun or left.joined_to is not None):
            return intent
        if isinstance(intent, Run) and intent.name in _ALWAYS:
            return intent
        held = self._pace(prompt, late=late or left is not None)
        if held is None and (what := _costs(intent)) is not None:
            held = self._charge(prompt, what)
        return held or intent

    def spoke(self, intent: Intent) -> None:
        """Note that what the bot says about an event stands."""
        if (prompt := _prompt(intent)) is not None:
            now = self._clock.monotonic()
            self._breaker.spoke(prompt.conversation, prompt.sender, now)

    def allows(self, what: Costs, prompt: Prompt, cause: str) -> bool:
        """Tell whether the sender of the prompt may have one more, and count it for that cause."""
        return self._left[what].take(prompt.sender, cause, self._clock.monotonic())

    def sentence(self, what: Costs, sender: UserId, cause: str) -> str | None:
        """Return what to tell who has had all, by its key; None where they know."""
        if not self._told.take((what, sender), cause, self._clock.monotonic()):
            return None
        log.warning("ceiling reached", of=what, sender=sender)
        return _KEYS[what]

    def _pace(self, prompt: Prompt, *, late: bool) -> Intent | None:
        """Hold what comes in a conversation in which only bots write as fast as that."""
        conversation, sender, now = prompt.conversation, prompt.sender, self._clock.monotonic()
        if self._breaker.is_paused(conversation, now):
            return Ignore("the conversation is paused")
        if self._generations.joinable(prompt) is not None:
            return None  # it is no prompt of its own
        running = self._generations.last_to(conversation, sender)
        if running is not None and running.reply.first_words_at is not None:
            self._breaker.spoke(conversation, sender, running.reply.first_words_at)
        why = self._breaker.trips(
            *(conversation, sender, prompt.event_id, now), busy=running is not None, late=late
        )
        if why is None:
            return None
        ids = {"event_id": prompt.event_id, "room_id": prompt.room_id, "sender": sender}
        log.warning("conversation paused", reason=why, **ids)
        if self._breaker.tells(sender, prompt.event_id, now):
            return SendNotice(prompt, "paused")
        return Ignore("the conversation is paused")

    def _charge(self, prompt: Prompt, what: Costs) -> Intent | None:
        if self.allows(what, prompt, prompt.event_id):
            return None
        key = self.sentence(what, prompt.sender, prompt.event_id)
        return Ignore(f"too many {what}") if key is None else SendNotice(prompt, key)


def _prompt(intent: Intent) -> Prompt | None:
    """Return what the bot would say something about, None where it would not."""
    return intent.prompt if isinstance(intent, Answer | Run | SendNotice | Comment) else None


def _costs(intent: Intent) -> Costs | None:
    match intent:
        case Answer():
            return "prompts"
        case Comment():
            return "comments"
        case Run(name=name, argument=argument) if name in COMMAND and argument.strip():
            return "comments"
    return None

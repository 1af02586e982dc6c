"""Usage limits: refuse prompts, commands and comments above them, and tell the person why."""

import structlog

from bot.core.events import Pending, Prompt, UserId
from bot.core.feedback import COMMAND
from bot.core.intents import Answer, Comment, Ignore, Intent, Run, SendNotice
from bot.core.limits import Allowance, Breaker, Costs, Limits
from bot.ports.clock import Clock
from bot.ports.matrix import Matrix
from bot.replies.generations import ActiveGenerations

_ALWAYS = {"stop"}  # this command ends a generation, which saves cost

_KEYS: dict[Costs, str] = {
    "prompts": "too many prompts",
    "regenerations": "too many regenerations",
    "comments": "too many comments",
}

log = structlog.get_logger()


class UsageLimits:
    """The recent usage of each person in this process, and the decision whether it may go on."""

    def __init__(
        self, *, matrix: Matrix, clock: Clock, generations: ActiveGenerations, limits: Limits
    ) -> None:
        self._matrix = matrix
        self._clock = clock
        self._generations = generations
        self._breaker = Breaker(limits)
        self._allowances = {cost: Allowance(limits.of(cost)) for cost in _KEYS}
        self._notices = Allowance(1)

    def admit(self, intent: Intent, pending: Pending | None, *, late: bool = False) -> Intent:
        """Return the intent if the limits allow it; else a notice with the reason, or `Ignore`.

        Args:
            intent: the intent of the event.
            pending: the event as an earlier process left it; an answer that was begun is finished
                without a check.
            late: whether the event was received long ago, and can be read only now.
        """
        prompt = _prompt(intent)
        if prompt is None or self._matrix.room(prompt.room_id).admin:
            return intent
        if pending is not None and (pending.begun or pending.joined_to is not None):
            return intent
        if isinstance(intent, Run) and intent.name in _ALWAYS:
            return intent
        refusal = self._check_pace(prompt, late=late or pending is not None)
        if refusal is None and (cost := _cost_of(intent)) is not None:
            refusal = self._charge(prompt, cost)
        return refusal or intent

    def spoke(self, intent: Intent) -> None:
        """Record that the bot has sent its message about an event."""
        if (prompt := _prompt(intent)) is not None:
            now = self._clock.monotonic()
            self._breaker.spoke(prompt.conversation, prompt.sender, now)

    def allows(self, cost: Costs, prompt: Prompt, cause: str) -> bool:
        """Return whether the prompt's sender may have one more, and count it for the cause."""
        return self._allowances[cost].take(prompt.sender, cause, self._clock.monotonic())

    def sentence(self, cost: Costs, sender: UserId, cause: str) -> str | None:
        """Return the key of the sentence about a used up limit; None if the person was told."""
        if not self._notices.take((cost, sender), cause, self._clock.monotonic()):
            return None
        log.warning("ceiling reached", of=cost, sender=sender)
        return _KEYS[cost]

    def _check_pace(self, prompt: Prompt, *, late: bool) -> Intent | None:
        """Refuse a prompt if its conversation is so fast that only bots can write in it."""
        conversation, sender, now = prompt.conversation, prompt.sender, self._clock.monotonic()
        if self._breaker.is_paused(conversation, now):
            return Ignore("the conversation is paused")
        if self._generations.joinable(prompt) is not None:
            return None  # it joins an earlier prompt
        running = self._generations.last_to(conversation, sender)
        if running is not None and running.reply.first_words_at is not None:
            self._breaker.spoke(conversation, sender, running.reply.first_words_at)
        reason = self._breaker.trips(
            *(conversation, sender, prompt.event_id, now), busy=running is not None, late=late
        )
        if reason is None:
            return None
        ids = {"event_id": prompt.event_id, "room_id": prompt.room_id, "sender": sender}
        log.warning("conversation paused", reason=reason, **ids)
        if self._breaker.tells(sender, prompt.event_id, now):
            return SendNotice(prompt, "paused")
        return Ignore("the conversation is paused")

    def _charge(self, prompt: Prompt, cost: Costs) -> Intent | None:
        if self.allows(cost, prompt, prompt.event_id):
            return None
        key = self.sentence(cost, prompt.sender, prompt.event_id)
        return Ignore(f"too many {cost}") if key is None else SendNotice(prompt, key)


def _prompt(intent: Intent) -> Prompt | None:
    """Return the prompt that the bot would send a message about; None if it would send none."""
    return intent.prompt if isinstance(intent, Answer | Run | SendNotice | Comment) else None


def _cost_of(intent: Intent) -> Costs | None:
    match intent:
        case Answer():
            return "prompts"
        case Comment():
            return "comments"
        case Run(name=name, argument=argument) if name in COMMAND and argument.strip():
            return "comments"
    return None

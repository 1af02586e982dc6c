"""The health of the process and its figures, for probes, metrics and the log."""

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from prometheus_client import CollectorRegistry

from bot.monitoring.metrics import Metrics
from bot.ports.clock import Clock

_LOOK_SECONDS = 60.0  # between two checks of the sync loop
_LOG_SECONDS = 600.0  # between two lines about health in the log
STALLED_SECONDS = 900.0  # longer than any single request of the sync loop may take
RECENT_SECONDS = 120.0  # enough for a long poll, a request that times out, and a pause after it

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Queue:
    """The prompts that are not answered yet.

    Attributes:
        waiting: number of prompts that wait for a slot.
        oldest_wait: seconds for which the first of them has waited.
        running: number of prompts that have a slot.
    """

    waiting: int = 0
    oldest_wait: float = 0.0
    running: int = 0


_LABELS = {"Edit": "Revision"}  # a label of the metric stays, whatever the class is called


@dataclass(kw_only=True)
class Health:
    """The bot's health: other parts report events to it; probes and metrics read from it.

    Attributes:
        registry: registry of the figures.
        version: the bot's version, which is one of the figures.
        ledger_works: whether no transaction has failed and waits for another try.
    """

    clock: Clock
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    version: str = "unknown"
    _queue: Callable[[], Queue] = field(default=Queue, init=False)
    _starting: bool = field(default=True, init=False)
    ledger_works: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        self._beat = self._synced = self.clock.monotonic()
        self._metrics = Metrics(self.registry, self.version)
        self._metrics.sync_age.set_function(lambda: self.sync_age)
        self._metrics.ledger_up.set_function(lambda: self.ledger_works)
        self._metrics.waiting.set_function(lambda: self._queue().waiting)
        self._metrics.oldest_wait.set_function(lambda: self._queue().oldest_wait)
        self._metrics.running.set_function(lambda: self._queue().running)

    # State of the bot.

    @property
    def sync_age(self) -> float:
        """Seconds since the homeserver's last answer to a sync."""
        return self.clock.monotonic() - self._synced

    @property
    def stalled(self) -> bool:
        """Whether the sync loop has stopped, which a failing homeserver does not make it do."""
        return self.clock.monotonic() - self._beat > STALLED_SECONDS

    @property
    def failing(self) -> list[str]:
        """The conditions that keep prompts from being answered; empty if the bot is ready.

        "starting" until the homeserver has answered the first sync, "sync" once the last answer is
        older than RECENT_SECONDS, "ledger" while a transaction fails.
        """
        checks = {
            "starting": self._starting,
            "sync": not self._starting and self.sync_age > RECENT_SECONDS,
            "ledger": not self.ledger_works,
        }
        return [word for word, fails in checks.items() if fails]

    def figure(self, name: str, **labels: str) -> float:
        """Return the current value of a figure, by its full name; 0 if nothing was counted."""
        return self.registry.get_sample_value(name, labels) or 0.0

    async def watch(self) -> None:
        """Log the health regularly; return once the sync loop has stalled."""
        logged_at = self.clock.monotonic()
        while not self.stalled:
            await self.clock.sleep(_LOOK_SECONDS)
            if self.clock.monotonic() - logged_at >= _LOG_SECONDS:
                logged_at = self.clock.monotonic()
                self._log()

    def _log(self) -> None:
        queue = self._queue()
        log.info(
            "health",
            failing=self.failing,
            sync_age=round(self.sync_age, 1),
            decrypted=int(self.figure("assistant_messages_decrypted_total")),
            undecryptable=int(self.figure("assistant_messages_undecryptable_total")),
            limited=int(self.figure("assistant_homeserver_rate_limited_total")),
            replies=int(self.figure("assistant_reply_seconds_count")),
            waiting=queue.waiting,
            oldest_wait=round(queue.oldest_wait, 1),
            running=queue.running,
        )

    # The homeserver.

    def beat(self) -> None:
        """Record that the sync loop is alive."""
        self._beat = self.clock.monotonic()

    def synced(self) -> None:
        """Record that the homeserver has answered a sync."""
        self._synced = self.clock.monotonic()
        self._starting = False

    def limited(self) -> None:
        """Count a request that the homeserver answered with 429."""
        self._metrics.limited.inc()

    def decrypted(self) -> None:
        """Count an encrypted message that could be decrypted."""
        self._metrics.decrypted.inc()

    def undecryptable(self) -> None:
        """Count an encrypted message that could not be decrypted when it came."""
        self._metrics.undecryptable.inc()

    # Prompts and replies.

    def watch_queue(self, queue: Callable[[], Queue]) -> None:
        """Call `queue` whenever the figures of the queue are wanted."""
        self._queue = queue

    def admitted(self, kind: str) -> None:
        """Count an event that was new to the ledger, by the name of its class."""
        self._metrics.admitted.labels(_LABELS.get(kind, kind)).inc()

    def first_words(self, seconds: float) -> None:
        """Record the seconds from a prompt's arrival to the first visible words of its reply."""
        self._metrics.first_words.observe(seconds)

    def replied(self, seconds: float, edits: int, events: int) -> None:
        """Record a complete reply.

        Args:
            seconds: seconds from the prompt's arrival to the complete reply.
            edits: number of its edits before the final ones.
            events: number of all events sent for it.
        """
        self._metrics.reply.observe(seconds)
        self._metrics.reply_edits.observe(edits)
        self._metrics.reply_events.observe(events)

    def repaired(self) -> None:
        """Count a final version that is sent again, as the room shows another text."""
        self._metrics.repairs.inc()

    def poll_sent(self, question: str) -> None:
        """Count a feedback poll that was sent, by its question."""
        self._metrics.polls.labels(question).inc()

    def opinion_given(self, kind: str) -> None:
        """Count an opinion on a reply, by kind: "vote", "thumb", "word" or "comment"."""
        self._metrics.opinions.labels(kind).inc()

    # The model's backend.

    def spent(self, model: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Count the tokens of one completion.

        Args:
            model: the model's id in the configuration.
            prompt_tokens: tokens of the request, as the backend counts.
            completion_tokens: tokens of the completion, as the backend counts.
        """
        self._metrics.prompt_tokens.labels(model).inc(prompt_tokens)
        self._metrics.completion_tokens.labels(model).inc(completion_tokens)

    def backend_failed(self, kind: str) -> None:
        """Count a failed completion, by the name of the error's class."""
        self._metrics.backend_errors.labels(kind).inc()

    def backend_retried(self, kind: str) -> None:
        """Count a retry of a completion, with this or another model, by the error's class."""
        self._metrics.backend_retries.labels(kind).inc()

    # The ledger.

    def committed(self, work: str) -> None:
        """Count a transaction of the ledger, by its name."""
        self._metrics.ledger_transactions.labels(work).inc()

    def ledger_failed(self) -> None:
        """Record that a transaction has failed and will be repeated."""
        self._metrics.ledger_failures.inc()
        self.ledger_works = False

    def ledger_worked(self) -> None:
        """Record that a transaction has succeeded."""
        self.ledger_works = True

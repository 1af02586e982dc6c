"""The figures for Prometheus: name, kind, labels and buckets of each.

No label holds an id, a person's name or a text. Labels are names in the code (a class, a
transaction), the configured id of a model, and the version. docs/operations.md lists all figures.
"""

from collections.abc import Iterator
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from bot.errors import CompletionError

_WAITS: Final = (0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600)  # seconds
_COUNTS: Final = (0, 1, 2, 3, 5, 10, 20, 50, 100)

# A global of the process, as a bug may occur where no `Metrics` is available.
BUGS: Final = Counter("assistant_bugs", "Errors that nobody expected.", registry=None)


class Metrics:
    """All figures of the bot, in one registry."""

    def __init__(self, registry: CollectorRegistry, version: str) -> None:
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        waits = partial(Histogram, buckets=_WAITS, registry=registry)
        counts = partial(Histogram, buckets=_COUNTS, registry=registry)

        self.first_words = waits(
            "assistant_first_words_seconds", "From the prompt to the reply's first visible words."
        )
        self.reply = waits("assistant_reply_seconds", "From the prompt to the whole reply.")
        self.reply_edits = counts("assistant_reply_edits", "Edits of one reply on its way.")
        self.reply_events = counts("assistant_reply_events", "Events sent for one reply.")
        self.repairs = counter("assistant_final_repairs_total", "Final versions sent once more.")

        self.waiting = gauge("assistant_prompts_waiting", "Prompts that wait for their turn.")
        self.oldest_wait = gauge(
            "assistant_prompts_oldest_wait_seconds", "How long the first of them has waited."
        )
        self.running = gauge("assistant_replies_running", "Replies being written.")

        self.admitted = counter("assistant_events_admitted_total", "Events admitted.", ["kind"])
        self.decrypted = counter(
            "assistant_messages_decrypted_total", "Encrypted messages that could be read."
        )
        self.undecryptable = counter(
            "assistant_messages_undecryptable_total", "Those that could not when they came."
        )
        self.limited = counter(
            "assistant_homeserver_rate_limited_total", "Requests the homeserver answered 429."
        )
        self.sync_age = gauge("assistant_sync_age_seconds", "Since the last answer to a sync.")

        self.polls = counter("assistant_polls_total", "Feedback polls sent.", ["question"])
        self.opinions = counter("assistant_opinions_total", "What people said.", ["kind"])

        self.backend_errors = counter(
            "assistant_backend_errors_total", "Completions that failed.", ["kind"]
        )
        self.backend_retries = counter(
            "assistant_backend_retries_total", "Completions asked for once more.", ["kind"]
        )
        for kind in _names(CompletionError):  # begin at 0, so that the first error is an increase
            self.backend_errors.labels(kind)
            self.backend_retries.labels(kind)
        self.prompt_tokens = counter("assistant_prompt_tokens_total", "Tokens sent.", ["model"])
        self.completion_tokens = counter(
            "assistant_completion_tokens_total", "Tokens received.", ["model"]
        )

        registry.register(BUGS)
        self.ledger_up = gauge("assistant_ledger_up", "1 while the ledger works, else 0.")
        self.ledger_transactions = counter(
            "assistant_ledger_transactions_total", "Transactions committed.", ["work"]
        )
        self.ledger_failures = counter(
            "assistant_ledger_failures_total", "Transactions that failed and are tried again."
        )
        Info("assistant_build", "The version.", registry=registry).info({"version": version})


def _names(error: type[CompletionError]) -> Iterator[str]:
    yield error.__name__
    for kind in error.__subclasses__():
        yield from _names(kind)

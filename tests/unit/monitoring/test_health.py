"""The process's signs of life."""

import asyncio
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from bot.errors import ModelLimited
from bot.monitoring.health import RECENT_SECONDS, STALLED_SECONDS, Health, Queue
from tests.fakes.clock import FakeClock

MODEL = "openai/gpt-oss-120b"


async def test_the_watch_ends_when_the_sync_loop_stands_still() -> None:
    clock = FakeClock()
    health = Health(clock=clock)

    await asyncio.wait_for(health.watch(), 5)

    assert health.stalled
    assert STALLED_SECONDS < clock.time - 1000 <= STALLED_SECONDS + 120


async def test_a_loop_that_turns_is_not_stalled_however_long_the_homeserver_is_away() -> None:
    clock = FakeClock()
    health = Health(clock=clock)
    for _ in range(100):
        clock.time += STALLED_SECONDS - 1
        assert not health.stalled
        health.beat()

    assert health.sync_age == 100 * (STALLED_SECONDS - 1)
    health.synced()
    assert health.sync_age == 0


async def test_the_log_is_told_how_things_stand_every_ten_minutes() -> None:
    clock = FakeClock()
    health = Health(clock=clock)
    health.decrypted()
    health.watch_queue(lambda: Queue(waiting=2, oldest_wait=7.04, running=1))

    with capture_logs() as logs:
        await asyncio.wait_for(health.watch(), 5)

    assert logs == [
        {
            "event": "health",
            "log_level": "info",
            "failing": ["starting"],
            "sync_age": 600.0,
            "decrypted": 1,
            "undecryptable": 0,
            "limited": 0,
            "replies": 0,
            "waiting": 2,
            "oldest_wait": 7.0,
            "running": 1,
        }
    ]


def test_the_start_is_over_once_the_homeserver_has_answered_a_sync() -> None:
    clock = FakeClock()
    health = Health(clock=clock)
    clock.time += 2 * RECENT_SECONDS
    assert health.failing == ["starting"]

    health.synced()

    assert health.failing == []


def test_an_old_sync_fails_until_the_homeserver_answers_again() -> None:
    clock = FakeClock()
    health = Health(clock=clock)
    health.synced()
    clock.time += RECENT_SECONDS
    assert health.failing == []
    clock.time += 1
    assert health.failing == ["sync"]

    health.synced()

    assert health.failing == []


def test_a_ledger_that_failed_fails_until_that_transaction_stands() -> None:
    health = Health(clock=FakeClock())
    health.synced()

    health.ledger_failed()
    health.committed("token")  # another one, which did not need what is missing
    assert health.failing == ["ledger"]
    assert health.figure("assistant_ledger_up") == 0

    health.ledger_worked()
    assert health.failing == []
    assert health.figure("assistant_ledger_up") == 1


@pytest.mark.parametrize(
    ("tell", "name", "labels"),
    [
        (Health.limited, "assistant_homeserver_rate_limited_total", {}),
        (Health.decrypted, "assistant_messages_decrypted_total", {}),
        (Health.undecryptable, "assistant_messages_undecryptable_total", {}),
        (Health.repaired, "assistant_final_repairs_total", {}),
        (Health.ledger_failed, "assistant_ledger_failures_total", {}),
        (
            lambda health: health.committed("admit"),
            "assistant_ledger_transactions_total",
            {"work": "admit"},
        ),
        (
            lambda health: health.admitted("Message"),
            "assistant_events_admitted_total",
            {"kind": "Message"},
        ),
        (
            lambda health: health.backend_failed("Truncated"),
            "assistant_backend_errors_total",
            {"kind": "Truncated"},
        ),
        (
            lambda health: health.backend_retried("ModelBusy"),
            "assistant_backend_retries_total",
            {"kind": "ModelBusy"},
        ),
        (lambda health: health.first_words(3), "assistant_first_words_seconds_count", {}),
        (lambda health: health.replied(3, 2, 4), "assistant_reply_seconds_count", {}),
        (
            lambda health: health.spent(MODEL, 1, 0),
            "assistant_prompt_tokens_total",
            {"model": MODEL},
        ),
        (
            lambda health: health.spent(MODEL, 0, 1),
            "assistant_completion_tokens_total",
            {"model": MODEL},
        ),
    ],
)
def test_what_happens_is_counted(
    tell: Callable[[Health], None], name: str, labels: dict[str, str]
) -> None:
    health = Health(clock=FakeClock())
    assert health.figure(name, **labels) == 0

    tell(health)
    tell(health)

    assert health.figure(name, **labels) == 2


def test_a_reply_is_measured_in_seconds_edits_and_events() -> None:
    health = Health(clock=FakeClock())

    health.first_words(0.9)
    health.replied(12.5, edits=4, events=7)

    assert health.figure("assistant_first_words_seconds_sum") == 0.9
    assert health.figure("assistant_first_words_seconds_bucket", le="0.5") == 0
    assert health.figure("assistant_first_words_seconds_bucket", le="1.0") == 1
    assert health.figure("assistant_reply_seconds_sum") == 12.5
    assert health.figure("assistant_reply_edits_sum") == 4
    assert health.figure("assistant_reply_events_sum") == 7


def test_how_many_wait_is_asked_when_somebody_wants_to_know() -> None:
    health, queues = Health(clock=FakeClock()), [Queue(), Queue(3, 40.5, 20)]
    health.watch_queue(lambda: queues[-1])

    assert health.figure("assistant_prompts_waiting") == 3
    assert health.figure("assistant_prompts_oldest_wait_seconds") == 40.5
    assert health.figure("assistant_replies_running") == 20

    queues.pop()

    assert health.figure("assistant_prompts_waiting") == 0


def test_every_kind_of_failure_is_there_before_the_first_happens() -> None:
    registry = Health(clock=FakeClock()).registry
    kind = {"kind": ModelLimited.__name__}

    assert registry.get_sample_value("assistant_backend_errors_total", kind) == 0

"""One class over every ledger: what the fake promises, the real one keeps."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from bot.core.events import (
    Batch,
    Conversation,
    Event,
    EventId,
    Joined,
    Left,
    Message,
    Pending,
    RoomId,
    Undecryptable,
    Upgraded,
)
from bot.core.outgoing import OutboxMessage, PreparedEvent
from bot.errors import StoreError
from bot.monitoring.health import Health
from bot.ports.ledger import Choices, Claim, Exchange, Store, UndecryptedEvent
from bot.runtime.failpoints import Failpoints
from bot.storage import database as storage_database
from bot.storage.database import Work
from bot.storage.ledger import SqlStore
from bot.storage.tables import metadata
from tests.fakes.clock import FakeClock
from tests.fakes.ledger import FakeStore
from tests.harness.ledgers import (
    KEY,
    empty_database,
    migrated_database,
    migrated_file,
    open_store,
)
from tests.harness.postgres import Postgres, programs
from tests.make import (
    AGENT,
    BOT,
    MIDNIGHT,
    ROOM,
    edit_event,
    invite,
    message,
    pending,
    prompt,
    reaction,
    redaction,
    undecryptable,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

FULL = 2  # SQLite's number for it
PROMPT = message()
ASKED = prompt(PROMPT)
TWO, THREE = message(event_id="$2"), message(event_id="$3")
ALL = prompt(PROMPT, TWO, THREE)
ELSEWHERE = RoomId("!other:tchap.test")
THREAD = Conversation(ROOM, EventId("$root"))
MAIN = Conversation(ROOM, None)
BEGUN = replace(pending(), begun=True)
EXCHANGE = Exchange(ALL.event_ids, (EventId("$reply"),))
FROZEN = OutboxMessage(
    part=0,
    device_id="DEVICE",
    transaction_id="t1",
    replaces=EventId("$reply"),
    answers=(PROMPT.event_id,),
    wire=PreparedEvent("m.room.message", {"body": "canari-8264"}),
)
SECOND_PART = replace(
    FROZEN, part=1, transaction_id="t2", replaces=None, wire=PreparedEvent("m.room.encrypted", {})
)
UPGRADED = Upgraded(EventId("$t"), ROOM, AGENT, RoomId("!new:tchap.test"))
JOINED = Joined(EventId("$join"), ROOM)


def _write_older_ledger(path: Path, version: str) -> None:
    """Write a ledger as an earlier version of the assistant left it."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", "bot.storage:migrations")
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, version)
        connection.exec_driver_sql("INSERT INTO account VALUES (?, 's7')", (BOT,))
        connection.exec_driver_sql(
            "INSERT INTO inbox (event_id, position, kind, room_id, sender, direct, claims,"
            " finished_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                ("$old", 1, "message", ROOM, None, None, 1, "2026-01-01 00:00:00"),
                (invite().event_id, 2, "invite", ROOM, AGENT, 1, 0, None),
                ("$prompt", 3, "message", ROOM, None, None, 1, None),
            ],
        )
        connection.exec_driver_sql("INSERT INTO replies VALUES ('$prompt', 0, '$reply')")
        if version > "0001":
            connection.exec_driver_sql(
                "INSERT INTO inbox (event_id, position, kind, room_id, sender, thread_root,"
                " session_id, timestamp, admitted_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *("$late", 4, "undecryptable", ROOM, AGENT, "$root", "session"),
                    *(1_700_000_000_000, "2023-11-14 00:00:00"),
                ),
            )
    engine.dispose()


def once(statement: str) -> Work[None]:
    """Return work that executes the statement at the first try alone."""
    left = [sql(statement)]

    async def work(connection: AsyncConnection) -> None:
        if left:
            await connection.execute(left.pop())

    return work


def joined(event_id: str, first: str = "$prompt") -> Pending:
    return replace(pending(event_id), joined_to=EventId(first))


@pytest_asyncio.fixture(loop_scope="session")
async def database(postgres: Postgres) -> str:
    return await migrated_database(postgres)


@pytest_asyncio.fixture(loop_scope="session", params=["fake", "sqlite", "postgresql"])
async def store(
    request: pytest.FixtureRequest, migrated_ledger: Callable[[str], Awaitable[Path | str]]
) -> AsyncIterator[Store]:
    if request.param == "fake":
        yield FakeStore()
        return
    real = await open_store(await migrated_ledger(request.param))
    yield real
    await real.close()


class TestStore:
    async def test_a_new_ledger_knows_no_token(self, store: Store) -> None:
        assert await store.sync_token() is None

    async def test_events_and_token_are_admitted_together(self, store: Store) -> None:
        events = await store.admit(Batch(events=(JOINED, PROMPT), next_batch="s1"), MIDNIGHT)

        assert list(events) == [JOINED, PROMPT]
        assert await store.sync_token() == "s1"
        assert await store.unfinished() == [JOINED, pending()]

    async def test_an_event_seen_twice_is_admitted_once(self, store: Store) -> None:
        await store.admit(Batch(events=(PROMPT,), next_batch="s1"), MIDNIGHT)

        again = await store.admit(
            Batch(events=(PROMPT, message(event_id="$new")), next_batch="s2"), MIDNIGHT
        )

        assert [event.event_id for event in again] == ["$new"]

    @pytest.mark.parametrize("first", [PROMPT, undecryptable()], ids=["message", "no key"])
    async def test_an_encrypted_message_sent_again_under_another_id_is_known(
        self, store: Store, first: Message | Undecryptable
    ) -> None:
        sealed = replace(first, fingerprint="f1")
        await store.admit(Batch(events=(sealed,), next_batch="s1"), MIDNIGHT)

        readable = replace(PROMPT, event_id=EventId("$again"), fingerprint="f1")
        unreadable = replace(undecryptable("$still again"), fingerprint="f1")
        assert (
            list(
                await store.admit(Batch(events=(readable, unreadable), next_batch="s2"), MIDNIGHT)
            )
            == []
        )

        other = replace(PROMPT, event_id=EventId("$other"), fingerprint="f2")
        assert list(await store.admit(Batch(events=(other,), next_batch="s3"), MIDNIGHT)) == [
            other
        ]

    async def test_messages_in_clear_are_told_apart_by_their_ids(self, store: Store) -> None:
        two = (PROMPT, message(event_id="$two"))

        assert list(await store.admit(Batch(events=two, next_batch="s1"), MIDNIGHT)) == list(two)

    async def test_a_finished_event_seen_again_stays_finished(self, store: Store) -> None:
        await store.admit(Batch(events=(PROMPT,), next_batch="s1"), MIDNIGHT)
        await store.finish(PROMPT.event_id)

        assert await store.admit(Batch(events=(PROMPT,), next_batch="s2"), MIDNIGHT) == []
        assert await store.unfinished() == []

    async def test_an_invitation_may_come_again(self, store: Store) -> None:
        await store.admit(Batch(events=(invite(direct=False),), next_batch="s1"), MIDNIGHT)
        await store.finish(invite().event_id)

        assert list(await store.admit(Batch(events=(invite(),), next_batch="s2"), MIDNIGHT)) == [
            invite()
        ]
        assert await store.unfinished() == [invite()]

    async def test_a_departure_is_remembered_until_it_is_acted_upon(self, store: Store) -> None:
        left = Left(EventId("$left"), ROOM, alone=True)

        assert list(await store.admit(Batch(events=(left,), next_batch="s1"), MIDNIGHT)) == [left]
        assert await store.unfinished() == [left]

    async def test_what_is_unfinished_comes_in_the_order_of_arrival(self, store: Store) -> None:
        ids = ["$c", "$a", "$b"]
        for number, event_id in enumerate(ids):
            await store.admit(
                Batch(events=(message(event_id=event_id),), next_batch=f"s{number}"), MIDNIGHT
            )

        assert await store.unfinished() == [pending(one) for one in ids]

    async def test_each_claim_counts_and_brings_the_messages_of_the_one_before(
        self, store: Store
    ) -> None:
        await store.admit(Batch(events=(PROMPT,), next_batch="s1"), MIDNIGHT)

        first = await store.claim(ASKED)
        await store.sent(PROMPT.event_id, 0, EventId("$reply"))
        await store.sent(PROMPT.event_id, 1, EventId("$reply2"))

        assert first == Claim(1, ())
        assert await store.claim(ASKED) == Claim(2, (EventId("$reply"), EventId("$reply2")))

    async def test_what_is_claimed_again_is_unfinished_again(self, store: Store) -> None:
        joined = message(event_id="$joined")
        await store.admit(Batch(events=(PROMPT, joined), next_batch="s1"), MIDNIGHT)
        both = prompt(PROMPT, joined)
        await store.claim(both)
        await store.finish(*both.event_ids)

        await store.claim(both)

        left = [one.event_id for one in await store.unfinished() if isinstance(one, Pending)]
        assert left == ["$prompt", "$joined"]

    async def test_only_what_was_admitted_can_be_claimed(self, store: Store) -> None:
        with pytest.raises(StoreError, match="before it was admitted"):
            await store.claim(prompt(message(event_id="$unknown")))

    @pytest.mark.parametrize("thread_root", [None, "$root"])
    async def test_what_cannot_be_read_is_remembered_by_its_ids(
        self, store: Store, thread_root: str | None
    ) -> None:
        heard = undecryptable(thread_root=thread_root)

        assert list(
            await store.admit(Batch(events=(heard,), next_batch="s1"), MIDNIGHT + 0.25)
        ) == [heard]
        assert await store.unfinished() == [UndecryptedEvent(heard, MIDNIGHT + 0.25)]

    async def test_a_message_waits_on_when_it_is_seen_again_and_can_be_read(
        self, store: Store
    ) -> None:
        await store.admit(Batch(events=(undecryptable(),), next_batch="s1"), MIDNIGHT)

        assert (
            list(await store.admit(Batch(events=(PROMPT,), next_batch="s2"), MIDNIGHT + 60)) == []
        )
        assert await store.unfinished() == [UndecryptedEvent(undecryptable(), MIDNIGHT)]

    async def test_what_is_claimed_could_be_read(self, store: Store) -> None:
        await store.admit(Batch(events=(undecryptable(),), next_batch="s1"), MIDNIGHT)

        assert await store.claim(ASKED) == Claim(1, ())
        assert await store.unfinished() == [BEGUN]

    async def test_the_last_notice_is_remembered_beyond_its_message(self, store: Store) -> None:
        first, second = undecryptable("$1"), undecryptable("$2")
        await store.admit(Batch(events=(first, second), next_batch="s1"), MIDNIGHT)
        await store.noticed(second, MIDNIGHT + 90.5)
        await store.noticed(first, MIDNIGHT + 30)

        assert await store.last_notice(AGENT, ROOM) == MIDNIGHT + 90.5
        for one in (first, second):
            await store.finish(one.event_id)
        assert await store.last_notice(AGENT, ROOM) == MIDNIGHT + 90.5

    async def test_who_was_never_told_has_no_last_notice(self, store: Store) -> None:
        await store.admit(Batch(events=(undecryptable(),), next_batch="s1"), MIDNIGHT)

        assert await store.last_notice(AGENT, ROOM) is None

    async def test_a_notice_is_of_one_person_in_one_room(self, store: Store) -> None:
        await store.admit(Batch(events=(undecryptable(),), next_batch="s1"), MIDNIGHT)
        await store.noticed(undecryptable(), MIDNIGHT + 30)

        assert await store.last_notice(AGENT, RoomId("!other:tchap.test")) is None
        assert await store.last_notice(BOT, ROOM) is None

    async def test_a_message_that_could_be_read_once_may_have_its_notice(
        self, store: Store
    ) -> None:
        await store.admit(Batch(events=(PROMPT,), next_batch="s1"), MIDNIGHT)
        await store.noticed(undecryptable(), MIDNIGHT + 30)

        assert await store.last_notice(AGENT, ROOM) == MIDNIGHT + 30

    async def test_the_messages_of_a_prompt_are_tied_to_its_first(self, store: Store) -> None:
        await store.admit(Batch(events=(PROMPT, TWO, THREE), next_batch="s1"), MIDNIGHT)

        assert await store.claim(ALL) == Claim(1, ())

        assert await store.unfinished() == [BEGUN, joined("$2"), joined("$3")]

    async def test_a_prompt_may_gain_and_lose_messages_from_claim_to_claim(
        self, store: Store
    ) -> None:
        await store.admit(Batch(events=(PROMPT, TWO, THREE), next_batch="s1"), MIDNIGHT)
        await store.claim(prompt(PROMPT, TWO))
        await store.sent(PROMPT.event_id, 0, EventId("$reply"))

        assert await store.claim(ALL) == Claim(2, (EventId("$reply"),))
        assert await store.exchange(ROOM, THREE.event_id) == EXCHANGE

    async def test_a_prompt_that_loses_its_first_message_is_a_prompt_of_its_own(
        self, store: Store
    ) -> None:
        await store.admit(Batch(events=(PROMPT, TWO, THREE), next_batch="s1"), MIDNIGHT)
        await store.claim(ALL)

        assert await store.claim(prompt(TWO, THREE)) == Claim(1, ())

        second = replace(pending("$2"), begun=True)
        assert await store.unfinished() == [BEGUN, second, joined("$3", "$2")]

    async def test_what_joined_a_prompt_could_be_read(self, store: Store) -> None:
        await store.admit(Batch(events=(PROMPT, undecryptable("$2")), next_batch="s1"), MIDNIGHT)

        await store.claim(prompt(PROMPT, TWO))

        assert await store.unfinished() == [BEGUN, joined("$2")]

    @pytest.mark.parametrize("event_id", ["$prompt", "$2", "$3", "$reply", "$reply2"])
    async def test_every_message_of_a_prompt_and_its_reply_leads_to_both(
        self, store: Store, event_id: str
    ) -> None:
        await store.admit(Batch(events=(PROMPT, TWO, THREE), next_batch="s1"), MIDNIGHT)
        await store.claim(ALL)
        await store.sent(PROMPT.event_id, 1, EventId("$reply2"))
        await store.sent(PROMPT.event_id, 0, EventId("$reply"))

        whole = replace(EXCHANGE, reply=(EventId("$reply"), EventId("$reply2")))
        assert await store.exchange(ROOM, EventId(event_id)) == whole
        assert await store.exchange(ELSEWHERE, EventId(event_id)) is None

    async def test_the_messages_of_a_prompt_come_in_the_order_of_arrival(
        self, store: Store
    ) -> None:
        await store.admit(Batch(events=(PROMPT, THREE, TWO), next_batch="s1"), MIDNIGHT)
        await store.claim(ALL)

        found = await store.exchange(ROOM, PROMPT.event_id)
        assert found is not None
        assert found.prompt == ("$prompt", "$3", "$2")

    async def test_an_unknown_event_leads_nowhere(self, store: Store) -> None:
        await store.admit(Batch(events=(PROMPT,), next_batch="s1"), MIDNIGHT)

        assert await store.exchange(ROOM, EventId("$unknown")) is None
        assert await store.exchange(ROOM, PROMPT.event_id) == Exchange((PROMPT.event_id,), ())

    async def test_what_is_finished_still_leads_to_its_reply(self, store: Store) -> None:
        await store.admit(Batch(events=(PROMPT, TWO, THREE), next_batch="s1"), MIDNIGHT)
        await store.claim(ALL)
        await store.sent(PROMPT.event_id, 0, EventId("$reply"))

        await store.finish(*ALL.event_ids)

        assert await store.unfinished() == []
        assert await store.exchange(ROOM, EventId("$reply")) == EXCHANGE

    async def test_many_are_finished_at_once_or_none(self, store: Store) -> None:
        await store.admit(Batch(events=(PROMPT, TWO, THREE), next_batch="s1"), MIDNIGHT)

        await store.finish()
        await store.finish(PROMPT.event_id, THREE.event_id, EventId("$unknown"))

        assert await store.unfinished() == [pending("$2")]

    @pytest.mark.parametrize("target", ["$prompt", "$2", "$reply", "$root", "$in thread"])
    async def test_what_changes_a_prompt_a_reply_or_a_thread_is_admitted(
        self, store: Store, target: str
    ) -> None:
        threaded = message(event_id="$in thread", thread_root="$root")
        await store.admit(Batch(events=(PROMPT, TWO, threaded), next_batch="s1"), MIDNIGHT)
        await store.claim(prompt(PROMPT, TWO))
        await store.sent(PROMPT.event_id, 0, EventId("$reply"))
        await store.finish(*ALL.event_ids, threaded.event_id)
        changes = edit_event(target=target), redaction(target), reaction(target=target)

        assert await store.admit(Batch(events=changes, next_batch="s2"), MIDNIGHT) == list(changes)

        ids = ["$edit", "$redaction", "$reaction"]
        assert await store.unfinished() == [pending(one) for one in ids]

    async def test_what_changes_nothing_of_the_bots_is_left_out(self, store: Store) -> None:
        await store.admit(Batch(events=(PROMPT,), next_batch="s1"), MIDNIGHT)
        changes: list[Event] = [
            *(edit_event(target="$x"), redaction("$x"), reaction(target="$x")),
            replace(redaction(), room_id=ELSEWHERE),
        ]

        assert await store.admit(Batch(events=(*changes, TWO), next_batch="s2"), MIDNIGHT) == [TWO]
        assert await store.unfinished() == [pending(), pending("$2")]

    async def test_a_prompt_and_its_change_may_come_in_one_batch(self, store: Store) -> None:
        both = (PROMPT, edit_event())

        assert await store.admit(Batch(events=both, next_batch="s1"), MIDNIGHT) == list(both)

    async def test_an_upgrade_is_remembered_until_it_is_acted_upon(self, store: Store) -> None:
        assert await store.admit(Batch(events=(UPGRADED,), next_batch="s1"), MIDNIGHT) == [
            UPGRADED
        ]
        assert await store.unfinished() == [pending("$t")]

    async def test_what_nobody_has_chosen_is_none(self, store: Store) -> None:
        await store.choose(THREAD, Choices())

        assert await store.choices(THREAD) == await store.choices(MAIN) == Choices()

    async def test_a_choice_in_a_thread_goes_before_that_of_its_room(self, store: Store) -> None:
        await store.choose(MAIN, Choices("small", "en"))
        await store.choose(THREAD, Choices("large"))

        assert await store.choices(MAIN) == Choices("small", "en")
        assert await store.choices(THREAD) == Choices("large", "en")
        assert await store.choices(Conversation(ROOM, EventId("$x"))) == Choices("small", "en")
        assert await store.choices(Conversation(ELSEWHERE, THREAD.thread_root)) == Choices()

    async def test_a_choice_in_a_thread_is_none_of_its_room(self, store: Store) -> None:
        await store.choose(THREAD, Choices("large", "en"))

        assert await store.choices(MAIN) == Choices()

    async def test_a_later_choice_replaces_what_it_names_and_nothing_else(
        self, store: Store
    ) -> None:
        await store.choose(MAIN, Choices("small", "en"))
        await store.choose(MAIN, Choices(language="fr"))
        await store.choose(MAIN, Choices())

        assert await store.choices(MAIN) == Choices("small", "fr")

    async def test_a_final_version_is_kept_until_its_prompt_is_finished(
        self, store: Store
    ) -> None:
        await store.admit(Batch(events=(PROMPT, TWO), next_batch="s1"), MIDNIGHT)
        await store.claim(ASKED)
        await store.keep_outbox(PROMPT.event_id, [FROZEN, SECOND_PART])

        claim = await store.claim(ASKED)

        assert claim == Claim(2, (), (FROZEN, SECOND_PART))
        assert [one.wire.content for one in claim.outbox] == [{"body": "canari-8264"}, {}]
        await store.finish(PROMPT.event_id)
        assert await store.claim(ASKED) == Claim(3, ())

    async def test_a_final_version_takes_the_place_of_an_older_one(self, store: Store) -> None:
        await store.admit(Batch(events=(PROMPT,), next_batch="s1"), MIDNIGHT)
        await store.keep_outbox(PROMPT.event_id, [FROZEN, SECOND_PART])
        other = replace(FROZEN, transaction_id="t3", replaces=None)

        await store.keep_outbox(PROMPT.event_id, [other])

        assert (await store.claim(ASKED)).outbox == (other,)
        await store.keep_outbox(PROMPT.event_id, [])
        assert (await store.claim(ASKED)).outbox == ()

    async def test_a_message_may_be_recorded_twice(self, store: Store) -> None:
        await store.admit(Batch(events=(PROMPT,), next_batch="s1"), MIDNIGHT)

        await store.sent(PROMPT.event_id, 0, EventId("$reply"))
        await store.sent(PROMPT.event_id, 0, EventId("$reply"))

        assert await store.claim(ASKED) == Claim(1, (EventId("$reply"),))


class TestSqlStore:
    async def test_everything_is_there_after_a_restart(self, tmp_path: Path) -> None:
        store = await open_store(migrated_file(tmp_path / "ledger.db"))
        late = undecryptable("$late", thread_root="$root")
        await store.admit(Batch(events=(PROMPT, TWO, THREE, late), next_batch="s1"), MIDNIGHT)
        await store.claim(ALL)
        await store.sent(PROMPT.event_id, 0, EventId("$reply"))
        await store.choose(THREAD, Choices("large"))
        await store.noticed(late, MIDNIGHT + 30)
        await store.close()

        again = await open_store(tmp_path / "ledger.db")

        assert await again.sync_token() == "s1"
        left = [BEGUN, joined("$2"), joined("$3"), UndecryptedEvent(late, MIDNIGHT)]
        assert await again.unfinished() == left
        assert await again.claim(ALL) == Claim(2, (EventId("$reply"),))
        assert await again.exchange(ROOM, THREE.event_id) == EXCHANGE
        assert await again.choices(THREAD) == Choices("large")
        assert await again.last_notice(AGENT, ROOM) == MIDNIGHT + 30
        await again.close()

    async def test_another_account_is_refused(self, tmp_path: Path) -> None:
        await (await open_store(tmp_path / "ledger.db")).close()

        with pytest.raises(StoreError, match="belongs to @assistant"):
            await open_store(tmp_path / "ledger.db", PROMPT.sender)

    @pytest.mark.parametrize("content", [b"no database at all, but long enough to be read" * 9])
    async def test_a_foreign_file_is_named(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "ledger.db").write_bytes(content)

        with pytest.raises(StoreError, match=r"ledger\.db: file is not a database"):
            await open_store(tmp_path / "ledger.db")

    async def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=r"missing/ledger\.db: No such file"):
            await open_store(tmp_path / "missing" / "ledger.db")

    async def test_cancelled_writers_leave_the_file_free_and_the_rows_whole(
        self, tmp_path: Path
    ) -> None:
        store = await open_store(migrated_file(tmp_path / "ledger.db"))
        loop = asyncio.get_running_loop()
        for number in range(30):
            batch = Batch(events=(message(event_id=f"${number}"),), next_batch=f"s{number}")
            task = loop.create_task(store.admit(batch, MIDNIGHT))
            for _ in range(number % 6):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

        await store.admit(Batch(events=(message(event_id="$last"),), next_batch="end"), MIDNIGHT)

        assert await store.sync_token() == "end"
        assert (await store.unfinished())[-1] == pending("$last")
        await store.close()

    async def test_no_word_of_a_conversation_is_in_the_file(self, tmp_path: Path) -> None:
        store = await open_store(migrated_file(tmp_path / "ledger.db"))
        await store.admit(Batch(events=(message("canari-7431"),), next_batch="s1"), MIDNIGHT)
        await store.keep_outbox(PROMPT.event_id, [FROZEN])
        await store.close()

        files = await asyncio.to_thread(lambda: [one.read_bytes() for one in tmp_path.iterdir()])
        assert files
        assert not any(b"canari" in content for content in files)

    async def test_what_was_sealed_with_another_key_is_let_go(self, tmp_path: Path) -> None:
        store = await open_store(migrated_file(tmp_path / "ledger.db"))
        await store.admit(Batch(events=(PROMPT,), next_batch="s1"), MIDNIGHT)
        await store.keep_outbox(PROMPT.event_id, [FROZEN])
        await store.close()

        again = await open_store(tmp_path / "ledger.db", key="another secret of 32 characters!")

        assert await again.claim(ASKED) == Claim(1, ())
        await again.close()

    @pytest.mark.parametrize("when", ["before", "within", "after"])
    async def test_what_is_admitted_at_a_second_try_is_new_whatever_the_first_has_done(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
    ) -> None:
        store = await open_store(migrated_file(tmp_path / "ledger.db"))
        await store.admit(Batch(events=(PROMPT,), next_batch="s1"), MIDNIGHT)
        failing = Failpoints(f"admit.{when}:enospc@1")
        monkeypatch.setattr(storage_database, "armed", failing)
        monkeypatch.setattr(storage_database, "backoff", lambda _: 0.0)

        new = await store.admit(Batch(events=(PROMPT, TWO, TWO, THREE), next_batch="s2"), MIDNIGHT)

        assert new == [TWO, THREE]
        assert await store.sync_token() == "s2"
        assert await store.unfinished() == [pending(), pending("$2"), pending("$3")]
        await store.close()

    async def test_a_ledger_that_is_locked_is_waited_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(storage_database, "_BUSY_SECONDS", 0)
        monkeypatch.setattr(storage_database, "backoff", lambda _: 0.01)
        health = Health(clock=FakeClock())
        store = await SqlStore.open(migrated_file(tmp_path / "ledger.db"), BOT, KEY, health)
        with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            admitting = asyncio.get_running_loop().create_task(
                store.admit(Batch(events=(PROMPT,), next_batch="s1"), MIDNIGHT)
            )
            while "ledger" not in health.failing:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0)
            assert not admitting.done()
            other.execute("ROLLBACK")

        assert await admitting == [PROMPT]
        assert "ledger" not in health.failing
        await store.close()

    async def test_who_waits_for_the_ledger_can_be_cancelled(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = await open_store(migrated_file(tmp_path / "ledger.db"))
        failing = Failpoints(",".join(f"admit.before:enospc@{n}" for n in range(1, 100)))
        monkeypatch.setattr(storage_database, "armed", failing)
        admitting = asyncio.get_running_loop().create_task(
            store.admit(Batch(events=(PROMPT,), next_batch="s1"), MIDNIGHT)
        )
        await asyncio.sleep(0)

        admitting.cancel()
        await asyncio.wait([admitting])

        assert admitting.cancelled()
        assert await store.sync_token() is None
        await store.close()

    async def test_a_ledger_works_again_though_who_found_it_locked_waits_no_more(
        self, tmp_path: Path
    ) -> None:
        health = Health(clock=FakeClock())
        store = await SqlStore.open(migrated_file(tmp_path / "ledger.db"), BOT, KEY, health)
        health.ledger_failed()  # and its next try was cancelled

        await store.sync_token()

        assert "ledger" not in health.failing
        await store.close()

    async def test_a_power_cut_takes_nothing_that_is_durable(self, tmp_path: Path) -> None:
        """As SQLite writes its WAL, a cut loses what came after the last sync, or a part of it."""
        path, wal = tmp_path / "ledger.db", tmp_path / "ledger.db-wal"
        store = await open_store(migrated_file(path))
        await store.admit(Batch(events=(PROMPT,), next_batch="s1"), MIDNIGHT)
        await store.claim(ASKED)
        await store.keep_outbox(PROMPT.event_id, [FROZEN])
        synced, database = len(wal.read_bytes()), path.read_bytes()
        await store.finish(PROMPT.event_id)
        written = wal.read_bytes()
        durable = store._database._engines[True]
        async with durable.connect() as connection:
            assert await connection.scalar(sql("PRAGMA synchronous")) == FULL
        await store.close()
        assert len(written) > synced

        for length in range(synced, len(written), 1000):
            after = tmp_path / f"cut at {length}"
            after.mkdir()
            (after / "ledger.db").write_bytes(database)
            (after / "ledger.db-wal").write_bytes(written[:length] + b"?" * 500)

            again = await open_store(after / "ledger.db")

            assert await again.sync_token() == "s1"
            assert await again.unfinished() == [BEGUN]
            assert await again.claim(ASKED) == Claim(2, (), (FROZEN,))
            await again.close()

    async def test_what_no_waiting_would_mend_is_an_error(self, tmp_path: Path) -> None:
        store = await open_store(migrated_file(tmp_path / "ledger.db"))
        await store.admit(Batch(events=(PROMPT,), next_batch="s1"), MIDNIGHT)
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as other:
            other.execute("DROP TABLE outbox")
            other.commit()

        with pytest.raises(StoreError, match="no such table"):
            await store.finish(PROMPT.event_id)
        await store.close()


class TestOnPostgresql:
    async def test_everything_is_there_after_a_restart(self, database: str) -> None:
        store = await open_store(database)
        await store.admit(
            Batch(events=(PROMPT, undecryptable("$late")), next_batch="s1"), MIDNIGHT + 0.25
        )
        await store.claim(ASKED)
        await store.keep_outbox(PROMPT.event_id, [FROZEN])
        await store.close()

        again = await open_store(database)

        assert await again.sync_token() == "s1"
        assert await again.unfinished() == [
            BEGUN,
            UndecryptedEvent(undecryptable("$late"), MIDNIGHT + 0.25),
        ]
        assert await again.claim(ASKED) == Claim(2, (), (FROZEN,))
        await again.close()

    async def test_another_process_is_refused(
        self, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(storage_database, "_GHOST_SECONDS", 0.5)
        store = await open_store(database)

        with pytest.raises(StoreError, match="another assistant runs on this database"):
            await open_store(database)

        assert await store.sync_token() is None
        await store.close()
        await (await open_store(database)).close()

    async def test_a_ledger_that_another_process_has_taken_is_given_up(
        self, postgres: Postgres, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(storage_database, "backoff", lambda _: 0.05)
        monkeypatch.setattr(storage_database, "_LOST_SECONDS", 0.5)
        store = await open_store(database)
        await postgres.terminate_connections()
        other = await open_store(database)

        with pytest.raises(StoreError, match="another assistant runs on this database"):
            await store.sync_token()

        assert await other.sync_token() is None
        await store.close()
        await other.close()

    @pytest.mark.skipif(programs() is None, reason="there is no PostgreSQL on this machine")
    async def test_a_broken_connection_and_a_restart_lose_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(storage_database, "backoff", lambda _: 0.05)
        async with Postgres() as server:  # nobody else loses theirs
            store = await open_store(await migrated_database(server))
            await store.admit(Batch(events=(PROMPT,), next_batch="s1"), MIDNIGHT)

            await server.terminate_connections()
            await store.admit(Batch(events=(TWO,), next_batch="s2"), MIDNIGHT)
            await server.kill()
            admitting = asyncio.get_running_loop().create_task(
                store.admit(Batch(events=(THREE,), next_batch="s3"), MIDNIGHT)
            )
            await server.start()

            assert await admitting == [THREE]
            assert await store.sync_token() == "s3"
            assert await store.unfinished() == [pending(), pending("$2"), pending("$3")]
            await store.close()

    async def test_a_connection_that_breaks_beside_another_keeps_no_lock(
        self, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(storage_database, "backoff", lambda _: 0.05)
        store = await open_store(database)
        breaks = once("SELECT pg_terminate_backend(pg_backend_pid())")

        async def lasts(connection: AsyncConnection) -> None:
            await connection.execute(sql("SELECT pg_sleep(0.5)"))

        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            tasks.create_task(store._database.run("claim", breaks))
            tasks.create_task(store._database.run("claim", lasts))
            tasks.create_task(store._database.run("claim", lasts))

        await store.close()
        await (await open_store(database)).close()

    async def test_a_database_that_hangs_is_noticed(
        self, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(storage_database, "backoff", lambda _: 0.05)
        monkeypatch.setattr(storage_database, "_COMMAND_SECONDS", 0.3)
        store = await open_store(database)
        async with asyncio.timeout(20):
            await store._database.run("claim", once("SELECT pg_sleep(60)"))

        await store.close()

    @pytest.mark.parametrize("url", ["postgresql://x@/nope?host={}", "postgresql://x@/x?host=/no"])
    async def test_a_database_that_cannot_be_used_is_said(
        self, postgres: Postgres, url: str
    ) -> None:
        with pytest.raises(StoreError, match=r"the ledger on storage\.database: "):
            await open_store(url.format(postgres.directory))

    async def test_the_migrations_make_the_tables_of_the_code(self, postgres: Postgres) -> None:
        database = await empty_database(postgres)
        await (await open_store(database)).close()
        engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(database)
        )
        async with engine.connect() as connection:
            differences = await connection.run_sync(
                lambda sync: compare_metadata(MigrationContext.configure(sync), metadata)
            )
        await engine.dispose()

        assert differences == []


class TestLedgersOfOtherVersions:
    @pytest.mark.parametrize("version", ["0001", "0002"])
    async def test_an_older_ledger_is_brought_up_to_date_with_what_is_in_it(
        self, tmp_path: Path, version: str
    ) -> None:
        path = tmp_path / "ledger.db"
        await asyncio.to_thread(_write_older_ledger, path, version)
        late = undecryptable("$late", thread_root="$root")
        waiting = [UndecryptedEvent(late, MIDNIGHT)] if version > "0001" else []

        store = await open_store(path)

        assert await store.sync_token() == "s7"
        assert await store.unfinished() == [invite(), BEGUN, *waiting]
        assert await store.claim(ASKED) == Claim(2, (EventId("$reply"),))
        found = await store.exchange(ROOM, EventId("$reply"))
        assert found == Exchange(ASKED.event_ids, (EventId("$reply"),))
        assert await store.choices(MAIN) == Choices()
        assert (
            await store.admit(Batch(events=(message(event_id="$old"),), next_batch="s8"), MIDNIGHT)
            == []
        )
        await store.admit(Batch(events=(undecryptable("$new"),), next_batch="s9"), MIDNIGHT)
        assert (await store.unfinished())[-1] == UndecryptedEvent(undecryptable("$new"), MIDNIGHT)
        await store.close()

    async def test_a_newer_ledger_is_named_and_left_as_it_is(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.db"
        await (await open_store(path)).close()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '0999'")
            connection.commit()

        with pytest.raises(StoreError, match="another version of the assistant"):
            await open_store(path)
        with closing(sqlite3.connect(path)) as connection:
            assert list(connection.execute("SELECT * FROM alembic_version")) == [("0999",)]

    async def test_the_migrations_make_the_tables_of_the_code(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.db"
        await (await open_store(path)).close()
        engine = create_engine(f"sqlite:///{path}")
        with engine.connect() as connection:
            context = MigrationContext.configure(connection)
            assert compare_metadata(context, metadata) == []
        engine.dispose()

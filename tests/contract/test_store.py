"""One class over every ledger: what the fake promises, the real one keeps."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from bot.core.events import Batch, EventId, Joined, Left
from bot.errors import StoreError
from bot.ports import Claim, Store
from bot.storage.store import SqlStore
from bot.storage.tables import metadata
from tests.fakes import FakeStore
from tests.make import BOT, ROOM, invite, message, pending

PROMPT = message()
JOINED = Joined(EventId("$join"), ROOM)


@pytest.fixture(params=["fake", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "fake":
        yield FakeStore()
    else:
        real = await SqlStore.open(tmp_path / "ledger.db", BOT)
        yield real
        await real.close()


class TestStore:
    async def test_a_new_ledger_knows_no_token(self, store: Store) -> None:
        assert await store.sync_token() is None

    async def test_events_and_token_are_admitted_together(self, store: Store) -> None:
        events = await store.admit(Batch((JOINED, PROMPT), "s1"))

        assert list(events) == [JOINED, PROMPT]
        assert await store.sync_token() == "s1"
        assert await store.unfinished() == [JOINED, pending()]

    async def test_an_event_seen_twice_is_admitted_once(self, store: Store) -> None:
        await store.admit(Batch((PROMPT,), "s1"))

        again = await store.admit(Batch((PROMPT, message(event_id="$new")), "s2"))

        assert [event.event_id for event in again] == ["$new"]

    async def test_a_finished_event_seen_again_stays_finished(self, store: Store) -> None:
        await store.admit(Batch((PROMPT,), "s1"))
        await store.finish(PROMPT.event_id)

        assert await store.admit(Batch((PROMPT,), "s2")) == []
        assert await store.unfinished() == []

    async def test_an_invitation_may_come_again(self, store: Store) -> None:
        await store.admit(Batch((invite(direct=False),), "s1"))
        await store.finish(invite().event_id)

        assert list(await store.admit(Batch((invite(),), "s2"))) == [invite()]
        assert await store.unfinished() == [invite()]

    async def test_a_departure_is_remembered_until_it_is_acted_upon(self, store: Store) -> None:
        left = Left(EventId("$left"), ROOM, alone=True)

        assert list(await store.admit(Batch((left,), "s1"))) == [left]
        assert await store.unfinished() == [left]

    async def test_what_is_unfinished_comes_in_the_order_of_arrival(self, store: Store) -> None:
        ids = ["$c", "$a", "$b"]
        for number, event_id in enumerate(ids):
            await store.admit(Batch((message(event_id=event_id),), f"s{number}"))

        assert [one.event_id for one in await store.unfinished()] == ids

    async def test_each_claim_counts_and_brings_the_messages_of_the_one_before(
        self, store: Store
    ) -> None:
        await store.admit(Batch((PROMPT,), "s1"))

        first = await store.claim(PROMPT.event_id)
        await store.sent(PROMPT.event_id, 0, EventId("$reply"))
        await store.sent(PROMPT.event_id, 1, EventId("$reply2"))

        assert first == Claim(1, ())
        assert await store.claim(PROMPT.event_id) == Claim(
            2, (EventId("$reply"), EventId("$reply2"))
        )

    async def test_only_what_was_admitted_can_be_claimed(self, store: Store) -> None:
        with pytest.raises(StoreError, match="before it was admitted"):
            await store.claim(EventId("$unknown"))


class TestSqlStore:
    async def test_everything_is_there_after_a_restart(self, tmp_path: Path) -> None:
        store = await SqlStore.open(tmp_path / "ledger.db", BOT)
        await store.admit(Batch((PROMPT,), "s1"))
        await store.close()

        again = await SqlStore.open(tmp_path / "ledger.db", BOT)

        assert await again.sync_token() == "s1"
        assert await again.unfinished() == [pending()]
        await again.close()

    async def test_another_account_is_refused(self, tmp_path: Path) -> None:
        await (await SqlStore.open(tmp_path / "ledger.db", BOT)).close()

        with pytest.raises(StoreError, match="belongs to @assistant"):
            await SqlStore.open(tmp_path / "ledger.db", PROMPT.sender)

    @pytest.mark.parametrize("content", [b"no database at all, but long enough to be read" * 9])
    async def test_a_foreign_file_is_named(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "ledger.db").write_bytes(content)

        with pytest.raises(StoreError, match=r"ledger\.db: file is not a database"):
            await SqlStore.open(tmp_path / "ledger.db", BOT)

    async def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=r"missing/ledger\.db: unable to open"):
            await SqlStore.open(tmp_path / "missing" / "ledger.db", BOT)

    async def test_cancelled_writers_leave_the_file_free_and_the_rows_whole(
        self, tmp_path: Path
    ) -> None:
        store = await SqlStore.open(tmp_path / "ledger.db", BOT)
        loop = asyncio.get_running_loop()
        for number in range(30):
            batch = Batch((message(event_id=f"${number}"),), f"s{number}")
            task = loop.create_task(store.admit(batch))
            for _ in range(number % 6):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

        await store.admit(Batch((message(event_id="$last"),), "end"))

        assert await store.sync_token() == "end"
        assert (await store.unfinished())[-1] == pending("$last")
        await store.close()

    async def test_no_word_of_a_message_is_in_the_file(self, tmp_path: Path) -> None:
        store = await SqlStore.open(tmp_path / "ledger.db", BOT)
        await store.admit(Batch((message("canari-7431"),), "s1"))
        await store.close()

        files = await asyncio.to_thread(lambda: [one.read_bytes() for one in tmp_path.iterdir()])
        assert files
        assert not any(b"canari-7431" in content for content in files)


class TestLedgersOfOtherVersions:
    async def test_a_newer_ledger_is_named_and_left_as_it_is(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.db"
        await (await SqlStore.open(path, BOT)).close()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '0999'")
            connection.commit()

        with pytest.raises(StoreError, match="another version of the assistant"):
            await SqlStore.open(path, BOT)
        with closing(sqlite3.connect(path)) as connection:
            assert list(connection.execute("SELECT * FROM alembic_version")) == [("0999",)]

    async def test_the_migrations_make_the_tables_of_the_code(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.db"
        await (await SqlStore.open(path, BOT)).close()
        engine = create_engine(f"sqlite:///{path}")
        with engine.connect() as connection:
            context = MigrationContext.configure(connection)
            assert compare_metadata(context, metadata) == []
        engine.dispose()

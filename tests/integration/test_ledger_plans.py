"""How SQLite finds what campaigns ask for: by an index, however many rooms there are."""

import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncConnection

from bot.core.campaigns import DueMessage, Recipient, RecipientRoom
from bot.core.events import EventId, Room
from bot.storage.campaigns import SqlCampaigns
from bot.storage.ledger import SqlStore
from tests.harness.ledgers import KEY, migrated_file, open_store
from tests.make import AGENT, MIDNIGHT, ROOM

pytestmark = pytest.mark.integration

ASKED = DueMessage(
    campaign="n", recipient=RecipientRoom(ROOM), kind="step", step=0, due_at=MIDNIGHT
)
HERE = Room(room_id=ROOM, direct=True, person=AGENT)
POLL = EventId("$poll")


async def plans(store: SqlStore, queries: list[tuple[str, Any]]) -> list[str]:
    """Return how SQLite would carry out each query."""

    async def work(connection: AsyncConnection) -> list[str]:
        found = []
        for query, parameters in queries:
            explained = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", parameters)
            found.append("; ".join(row[-1] for row in explained))
        return found

    return await store.database.run("explain", work)


async def test_nothing_that_is_asked_for_each_message_reads_all_rows(tmp_path: Path) -> None:
    store = await open_store(migrated_file(tmp_path / "ledger.db"))
    campaigns = SqlCampaigns(store.database, KEY)
    queries: list[tuple[str, Any]] = []

    def note(_: object, __: object, query: str, parameters: Any, *___: object) -> None:  # noqa: ANN401  # the driver's
        if query.startswith("SELECT"):
            queries.append((query, parameters))

    await campaigns.draft("n", "name: n", MIDNIGHT)
    await campaigns.launch("n", [Recipient(ROOM, AGENT)], MIDNIGHT, None)
    event.listen(Engine, "before_cursor_execute", note)
    await campaigns.due("n", MIDNIGHT)
    await campaigns.begin(ASKED, HERE, MIDNIGHT, asks=True)
    await campaigns.is_begun(ROOM)
    await campaigns.sent(
        ASKED, POLL, MIDNIGHT, question=("1", True), next_due=None, remind_at=None
    )
    await campaigns.question_at(ROOM, POLL)
    await campaigns.poll_result(ROOM, POLL)
    await campaigns.close("n", MIDNIGHT)
    await campaigns.due("n", MIDNIGHT)
    event.remove(Engine, "before_cursor_execute", note)

    found = await plans(store, queries)
    await store.close()

    assert len(found) > 10
    of_campaign = r"INDEX sqlite_autoindex_\w+ \(campaign_id=\?\)"
    all_rows = re.compile(rf"SCAN (recipients|asks|answers)|{of_campaign}")
    slow = [(query, plan) for (query, _), plan in zip(queries, found, strict=True)]
    assert [one for one in slow if all_rows.search(one[1])] == []
    for index in ("asks_open", "recipients_remind", "recipients_begun", "answers_room"):
        assert any(f"ix_{index}" in plan for plan in found), index

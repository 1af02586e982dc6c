"""How often one reply writes to the ledger, and how often that goes to the disk."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from bot.core.chat import FinishDelta, TextDelta
from bot.monitoring.health import Health
from bot.runtime.failpoints import COMMITS
from bot.storage.campaigns import SqlCampaigns
from bot.storage.database import Database
from bot.storage.feedback import SqlFeedback
from bot.storage.ledger import SqlStore
from tests.fakes.ledger import FakeStore
from tests.fakes.story import Story
from tests.harness.ledgers import migrated_file
from tests.make import BOT, message

END = FinishDelta("stop")


@pytest.mark.parametrize("streamed", [False, True], ids=["at once", "streamed"])
async def test_a_reply_has_six_transactions_at_most_three_of_them_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, streamed: bool
) -> None:
    written: list[tuple[str, bool]] = []
    once, finished = Database._once, asyncio.Event()

    async def noted(self: Database, name: str, work: Any, *, durable: bool) -> Any:  # noqa: ANN401  # as the method's
        result = await once(self, name, work, durable=durable)
        if name in COMMITS:
            written.append((name, durable))
        if name == "finish":
            finished.set()
        return result

    story, gate = Story(), asyncio.Event()
    store = await SqlStore.open(
        migrated_file(tmp_path / "ledger.db"), BOT, "k" * 32, Health(clock=story.clock)
    )
    story.store = cast("FakeStore", store)
    story.opinions = SqlFeedback(store.database, "k" * 32)
    story.campaigns = SqlCampaigns(store.database, "k" * 32)
    monkeypatch.setattr(Database, "_once", noted)
    begin = (TextDelta("Un. "), gate, TextDelta("Deux.")) if streamed else (TextDelta("Un."),)
    story.model.script = (*begin, END)
    story.matrix.hear(message())

    # Polling as `story.until` does would keep the interpreter from the ledger's own threads.
    async with story.run(), asyncio.timeout(10):
        await story.matrix.until(lambda: bool(story.matrix.sent))
        gate.set()
        await finished.wait()
    await store.close()

    sent = [("sent", True), ("freeze", True)] if streamed else [("freeze", True), ("sent", True)]
    around = [("admit", True), ("claim", False)], [("answered", False), ("finish", False)]
    assert written == [*around[0], *sent, *around[1]]
    assert sum(durable for _, durable in written) <= 3

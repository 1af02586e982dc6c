"""The command that writes out ratings and comments, as an operator runs it."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import pytest_asyncio
import yaml
from typer.testing import CliRunner, Result

from bot.__main__ import app
from bot.core.campaigns import DueMessage, Recipient, RecipientRoom
from bot.core.events import Batch, EventId
from bot.core.feedback import ReplyMetadata
from bot.monitoring.health import Health
from bot.storage.campaigns import SqlCampaigns
from bot.storage.feedback import SqlFeedback
from bot.storage.ledger import SqlStore
from tests.fakes.clock import FakeClock
from tests.make import AGENT, BOT, MIDNIGHT, ROOM, message, prompt, reaction, vote

KEY = "s" * 32
COMMENT = '=HYPERLINK("http://x";"Cliquez")\nÀ revoir : « trop long », dit-il'


def write_config(folder: Path, database: str | None = None) -> Path:
    storage = {"directory": str(folder), "key": KEY} | ({"database": database} if database else {})
    path = folder / "config.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "matrix": {"homeserver": "http://x", "user_id": BOT, "password": "secret"},
                "model": {"base_url": "http://y/v1", "name": "small"},
                "storage": storage,
            }
        )
    )
    return path


async def fill(place: Path | str) -> SqlStore:
    """Return an open ledger in which one reply is rated and commented on."""
    store = await SqlStore.open(place, BOT, KEY, Health(clock=FakeClock()))
    opinions = SqlFeedback(store.database, KEY)
    how = ReplyMetadata(sender=AGENT, direct=True, model="small", seconds=2.5, characters=120)
    await store.admit(Batch(events=(message(),), next_batch="s1"), MIDNIGHT)
    await opinions.answered(prompt(), how, lambda _: None, MIDNIGHT)
    await opinions.rate(reaction("👎"), EventId("$prompt"), "no", MIDNIGHT + 60)
    await opinions.comment(message(COMMENT, event_id="$c"), EventId("$prompt"), MIDNIGHT + 90)
    return store


def command(*arguments: str) -> Result:
    """Run a command about feedback in this process, whose imports are done.

    It runs in a thread, as it has an event loop of its own.
    """
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(CliRunner().invoke, app, ["feedback", *arguments]).result()


def export(config: Path, *options: str) -> Result:
    return command("export", "--config", str(config), *options)


def export_in_a_process(config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bot", "feedback", "export", "--config", str(config)]
    return subprocess.run(  # noqa: S603  # our own
        command, capture_output=True, text=True, encoding="utf-8", check=False
    )


@pytest_asyncio.fixture(params=["sqlite", "postgresql"])
async def ledger(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    migrated_ledger: Callable[[str], Awaitable[Path | str]],
) -> AsyncIterator[SqlStore]:
    """A ledger that an assistant has open."""
    place = await migrated_ledger(request.param)
    store = await fill(place)
    write_config(tmp_path, None if isinstance(place, Path) else place)
    yield store
    await store.close()


@pytest.fixture
def config(ledger: SqlStore, tmp_path: Path) -> Path:
    """Its configuration."""
    assert ledger
    return tmp_path / "config.yaml"


async def test_ratings_are_a_table_with_the_circumstances_of_each_reply(config: Path) -> None:
    done = export_in_a_process(config)

    assert (done.returncode, done.stderr) == (0, "ratings: 1\n")
    [row] = csv.DictReader(io.StringIO(done.stdout, newline=""))
    assert list(row)[:4] == ["reply", "person", "asker", "source"]
    assert len(row["person"]) == len(row["reply"]) == 32
    assert (row["asker"], row["source"], row["answer"], row["reason"]) == (
        *("true", "reaction", "no", ""),
    )
    assert row["rated_at"] == "2023-11-14T00:01:00Z"
    assert row["answered_at"] == "2023-11-14T00:00:00Z"
    assert (row["domain"], row["direct"], row["model"]) == ("tchap.test", "true", "small")
    assert (row["seconds"], row["characters"], row["first_words"]) == ("2.5", "120", "")
    assert AGENT not in done.stdout
    assert "$prompt" not in done.stdout


async def test_one_object_a_line_says_the_same(config: Path) -> None:
    done = export(config, "--format", "jsonl")

    [line] = done.stdout.splitlines()
    row = json.loads(line)
    assert (row["answer"], row["asker"], row["reason"], row["seconds"]) == ("no", True, None, 2.5)
    assert row["rated_at"] == "2023-11-14T00:01:00Z"


async def test_a_comment_is_opened_and_no_spreadsheet_takes_it_for_a_formula(
    config: Path,
) -> None:
    table = export(config, "--what", "comments")
    objects = export(config, "--what", "comments", "--format", "jsonl")

    [row] = csv.DictReader(io.StringIO(table.stdout, newline=""))
    assert row["comment"] == f"'{COMMENT}"
    assert json.loads(objects.stdout)["comment"] == COMMENT
    assert row["reply"] == json.loads(objects.stdout)["reply"]


async def test_a_file_is_written_for_its_owner_alone_and_never_over_another(
    config: Path, tmp_path: Path
) -> None:
    path = tmp_path / "ratings.csv"

    done = export(config, "--output", str(path))
    again = export(config, "--output", str(path))

    assert (done.exit_code, done.stdout) == (0, "")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text("utf-8").count("\n") == 2
    assert again.exit_code == 1
    assert again.stderr == f"assistant-tchap: {path} cannot be written: File exists\n"


CAMPAIGN = """\
name: utile
questions:
- question: "Utile ?"
  answers: [Oui, Non]
"""


def draft(config: Path, campaign: Path) -> Result:
    return command("campaign", str(campaign), "--config", str(config))


async def test_a_campaign_comes_from_a_file_and_its_answers_go_to_one(
    config: Path, tmp_path: Path, ledger: SqlStore
) -> None:
    file = tmp_path / "campaign.yaml"
    file.write_text(CAMPAIGN, "utf-8")
    campaigns = SqlCampaigns(ledger.database, KEY)

    made = draft(config, file)
    assert (made.exit_code, made.stderr) == (0, "")
    assert await campaigns.definition("utile") == CAMPAIGN
    assert await campaigns.launch("utile", [Recipient(ROOM, AGENT)], MIDNIGHT, None)
    again = draft(config, file)
    assert again.exit_code == 1
    assert "launched before" in again.stderr

    one = DueMessage(
        campaign="utile", recipient=RecipientRoom(ROOM), kind="step", step=0, due_at=MIDNIGHT
    )
    poll = EventId("$poll")
    await campaigns.sent(one, poll, MIDNIGHT, question=("1", True), next_due=None, remind_at=None)
    asked = await campaigns.question_at(ROOM, poll)
    assert asked is not None
    at = int(MIDNIGHT + 60) * 1000
    said = vote("1", target=poll, timestamp=at)
    await campaigns.answer(said, asked, "1", step=0, steps=1, at=MIDNIGHT + 60)

    [row] = csv.DictReader(io.StringIO(export(config, "--what", "answers").stdout, newline=""))
    assert (row["campaign"], row["question"], row["answer"]) == ("utile", "1", "1")
    assert (row["answered_at"], row["counts"], row["text"]) == (
        *("2023-11-14T00:01:00Z", "true", ""),
    )
    assert len(row["person"]) == 32


def test_a_file_that_is_no_campaign_is_told_by_line_and_field(tmp_path: Path) -> None:
    file = tmp_path / "campaign.yaml"
    file.write_text("name: x\nquestion: y\n", "utf-8")

    wrong = draft(write_config(tmp_path), file)
    missing = draft(write_config(tmp_path), tmp_path / "none.yaml")

    assert wrong.exit_code == 2
    assert "line 2: question: extra_forbidden" in wrong.stderr
    assert missing.exit_code == 1
    assert "none.yaml cannot be read: No such file" in missing.stderr


def test_what_cannot_be_exported_is_told(tmp_path: Path) -> None:
    config = write_config(tmp_path)

    missing = export(config)
    wrong = export(config, "--format", "xlsx")

    assert missing.exit_code == 1
    assert missing.stderr == (
        f"assistant-tchap: there is no ledger at {tmp_path}/ledger.db: the assistant has not run"
        " yet\n"
    )
    assert not (tmp_path / "ledger.db").exists()
    assert wrong.exit_code == 2
    assert "xlsx" in wrong.stderr

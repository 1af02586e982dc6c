"""`!exporter`, from what is typed in the admin room to the file that stands there."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from bot.commands import export
from bot.core.events import EventId
from bot.core.export_format import line
from bot.core.outgoing import Attachment, Notice
from bot.errors import TooLarge
from bot.i18n.texts import speak
from bot.ports.statistics import Export
from tests.fakes.statistics import exported
from tests.make import AGENT, COLLEAGUE, message
from tests.unit.campaigns.test_campaigns import ADMIN_ROOM, Office

FR, EN = speak("fr"), speak("en")
AT = datetime(2026, 11, 28, 9, 30, tzinfo=UTC).replace(tzinfo=None)
COMMENTS: tuple[dict[str, object], ...] = (
    {"reply": "r1", "written_at": AT, "comment": '=A1;"À revoir"'},
    {"reply": None, "written_at": AT, "comment": "deux\nlignes"},
)
TABLE = (
    "reply,written_at,comment\r\n"
    'r1,2026-11-28T09:30:00Z,"\'=A1;""À revoir"""\r\n'
    ',2026-11-28T09:30:00Z,"deux\nlignes"\r\n'
)
DAY = "2023-11-14"


@pytest.fixture
def story() -> Office:
    return Office()


def files(story: Office) -> list[Attachment]:
    """Everything that was sent as a file, which is in the admin room."""
    sent = [(key, one) for key, one in story.matrix.sent if isinstance(one, Attachment)]
    assert {story.matrix.places[key] for key, _ in sent} <= {ADMIN_ROOM}
    return [one for _, one in sent]


async def test_a_table_comes_as_a_file_without_a_caption_and_a_notice_names_it(
    story: Office,
) -> None:
    story.exports["comments"] = exported(*COMMENTS)
    async with story.run():
        told = await story.type("!exporter commentaires")

    name = f"commentaires-{DAY}.csv"
    assert [replace(one, to=None) for one in files(story)] == [
        Attachment(name=name, mimetype="text/csv", data=TABLE.encode())
    ]
    assert files(story)[0].body == name
    assert told == FR("exported", n=2, what="commentaires", file=name)
    assert name in told


@pytest.mark.parametrize(
    ("typed", "what", "name"),
    [
        ("!exporter avis", "ratings", "avis"),
        ("!Exporter  AVIS", "ratings", "avis"),
        ("!exporter commentaires", "comments", "commentaires"),
        ("!exporter reponses", "answers", "reponses"),
        ("!exporter réponses", "answers", "reponses"),
        ("!exporter partages", "shared", "partages"),
        ("!export ratings", "ratings", "avis"),
        ("!export comments", "comments", "commentaires"),
        ("!export answers", "answers", "reponses"),
        ("!export shared", "shared", "partages"),
    ],
)
async def test_each_table_has_its_words(story: Office, typed: str, what: str, name: str) -> None:
    story.exports = {one: exported({"table": one}) for one in story.exports}
    async with story.run():
        await story.type(typed)
        await story.type(f"{typed} jsonl")

    table, objects = files(story)
    assert (table.name, table.mimetype) == (f"{name}-{DAY}.csv", "text/csv")
    assert table.data.decode() == f"table\r\n{what}\r\n"
    assert (objects.name, objects.mimetype) == (f"{name}-{DAY}.jsonl", "application/x-ndjson")
    assert json.loads(objects.data) == {"table": what}


async def test_the_language_of_the_room_names_the_file(story: Office) -> None:
    story.exports["answers"] = exported({"x": True})
    story.matrix.levels[AGENT] = 50
    async with story.run():
        await story.type("!langue en")
        told = await story.type("!export answers csv")

    [file] = files(story)
    assert file.name == f"answers-{DAY}.csv"
    assert told == EN("exported", n=1, what="answers", file=file.name)
    assert file.data == b"x\r\ntrue\r\n"


async def test_it_stands_in_the_thread_in_which_it_was_asked_for(story: Office) -> None:
    story.exports["ratings"] = exported({"x": 1})
    asked = message("!exporter avis", event_id="$x", thread_root="$root")
    async with story.run():
        story.matrix.hear(replace(asked, room_id=ADMIN_ROOM))
        await story.until(lambda: story.done("$x"))

    assert [one.to and one.to.thread_root for one in files(story)] == [EventId("$root")]


async def test_all_pages_are_in_it(story: Office) -> None:
    story.exports["ratings"] = exported(*({"number": number} for number in range(450)))
    async with story.run():
        told = await story.type("!exporter avis")

    [file] = files(story)
    rows = csv.DictReader(io.StringIO(file.data.decode(), newline=""))
    assert [int(row["number"]) for row in rows] == [*range(450)]
    assert told == FR("exported", n=450, what="avis", file=file.name)


@pytest.mark.parametrize(
    "typed", ["!exporter", "!exporter tout", "!exporter avis xlsx", "!export ratings csv jsonl"]
)
async def test_who_types_something_else_is_told_how(story: Office, typed: str) -> None:
    async with story.run():
        assert await story.type(typed) == FR("export how")

    assert files(story) == []


async def test_where_there_is_nothing_no_file_is_sent(story: Office) -> None:
    async with story.run():
        assert await story.type("!exporter partages") == FR("export empty")

    assert files(story) == []


@pytest.mark.parametrize("short", [0, 1])
async def test_what_the_homeserver_would_not_take_is_left_to_the_command_line(
    story: Office, short: int
) -> None:
    story.exports["comments"] = exported(*COMMENTS)
    story.matrix.largest_upload = len(TABLE.encode()) - short
    async with story.run():
        told = await story.type("!exporter commentaires")

    name = f"commentaires-{DAY}.csv"
    large = FR("export too large", what="comments", form="csv", file=name)
    whole = FR("exported", n=2, what="commentaires", file=name)
    assert (told, len(files(story))) == ((large, 0) if short else (whole, 1))


async def test_so_is_what_it_does_not_take_though_it_did_not_say_so(story: Office) -> None:
    story.exports["ratings"] = exported({"x": 1})
    async with story.run():
        await story.type("!exporter")  # by then the room is open
        story.matrix.failures = [TooLarge("413")]
        told = await story.type("!exporter avis jsonl")

    name = f"avis-{DAY}.jsonl"
    assert told == FR("export too large", what="ratings", form="jsonl", file=name)
    assert files(story) == []


async def test_reading_ends_where_the_file_becomes_too_large(
    story: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_LARGEST", 200)
    read, closed = [0], asyncio.Event()

    async def pages(at_once: int) -> AsyncGenerator[Sequence[Mapping[str, object]], None]:
        try:
            while True:
                read[0] += at_once
                yield [{"x": "word"}] * at_once
        finally:
            closed.set()

    story.exports["ratings"] = Export(("x",), pages)
    async with story.run():
        told = await story.type("!exporter avis")

    assert told.startswith("Cet export est trop volumineux")
    assert (read, closed.is_set()) == ([50], True)


async def test_one_file_at_a_time_is_in_memory(story: Office) -> None:
    here, most = [0], [0]

    async def pages(at_once: int) -> AsyncGenerator[Sequence[Mapping[str, object]], None]:
        here[0] += 1
        most[0] = max(most[0], here[0])
        await asyncio.sleep(0)
        yield [{"x": at_once}]
        here[0] -= 1

    story.exports["ratings"] = Export(("x",), pages)
    async with story.run():
        for event_id in ("$1", "$2", "$3"):
            asked = message("!exporter avis", event_id=event_id)
            story.matrix.hear(replace(asked, room_id=ADMIN_ROOM))
        await story.until(lambda: story.done("$1", "$2", "$3"))

    assert len(files(story)) == 3
    assert most == [1]


async def test_a_crash_makes_no_second_file_or_notice(story: Office) -> None:
    story.exports["ratings"] = exported({"x": 1})
    async with story.run():
        await story.type("!exporter avis")
    story.store.finished.clear()
    story.exports["ratings"] = exported({"x": 1}, {"x": 2})
    async with story.run():
        story.matrix.hear()
        await story.until(lambda: story.done("$typed1"))

    assert [type(one) for one in story.said(ADMIN_ROOM)] == [Attachment, Notice]
    assert len([one for one in story.matrix.wires if isinstance(one, Attachment)]) == 2


async def test_nobody_else_gets_any(story: Office) -> None:
    story.exports["ratings"] = exported({"x": 1})
    async with story.run():
        heard = message("!exporter avis", event_id="$x", sender=COLLEAGUE)
        story.matrix.hear(replace(heard, room_id=ADMIN_ROOM))
        await story.hear(message("!exporter avis", event_id="$y"))

    assert files(story) == []
    assert story.said(ADMIN_ROOM) == []
    [told] = [one.text for one in story.said() if isinstance(one, Notice)]
    assert told.startswith(FR("command unknown", name="exporter"))


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("Merci ;=1+1\n+2", "Merci ;'=1+1\n'+2"),
        ("\uff1d1", "'\uff1d1"),
        ('" =1', "'\" =1"),
        ("\t=1", "'\t'=1"),
        ("Bonjour,\n\nMerci, 3-4 = -1", "Bonjour,\n\nMerci, 3-4 = -1"),
        ("a,\r\nb", "a,\r\nb"),
    ],
)
def test_no_text_makes_a_formula_whatever_parts_its_cells(text: str, cell: str) -> None:
    [[found]] = csv.reader(io.StringIO(line({"x": text}, ["x"], "csv"), newline=""))

    assert found == cell
    assert json.loads(line({"x": text}, ["x"], "jsonl")) == {"x": text}

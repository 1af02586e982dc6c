"""Invented ratings for the demo and for measurements; the same seed gives the same ratings."""

import importlib.util
import math
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import bot.storage
from bot.core.events import EventId
from bot.core.feedback import REASONS
from bot.runtime.encryption import Seal
from bot.storage.tables import circumstances, comments, inbox, polls, ratings

_MODELS = ("exemple/grand", "exemple/moyen", "exemple/petit")
_DOMAINS = tuple(
    f"exemple.{name}.test"
    for name in (
        *("dinum", "finances", "interieur", "culture"),
        *("education", "justice", "sante", "agriculture"),
    )
)
_COMMENTS = (
    "[exemple] Réponse claire, reprise telle quelle.",
    "[exemple] Il manque la référence du texte.",
    "[exemple] Un peu long pour une question simple.",
    "[exemple] Très utile pour préparer ma réunion.",
)
_ROOM = "!exemple:sample.test"
_AT_ONCE = 20_000  # replies whose rows are written together


def migration() -> ModuleType:
    """Return the migration that counts the existing rows of a ledger."""
    folder = Path(bot.storage.__file__).parent / "migrations" / "versions"
    spec = importlib.util.spec_from_file_location("tallies", folder / "0006_tallies.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, slots=True)
class Sample:
    """The size of a sample.

    Attributes:
        replies: number of replies.
        rated: percentage of the replies that their person has rated.
        days: number of days over which they are spread.
        end: time of the last reply.
        domains: the domains of the people; each further one has fewer people.
    """

    replies: int
    rated: int = 35
    days: int = 120
    end: datetime = datetime(2026, 11, 15, 18, tzinfo=UTC)
    domains: int = len(_DOMAINS)
    seed: int = 1


def fill(path: Path, key: str, sample: Sample) -> None:
    """Write replies and ratings into a ledger that no bot has open.

    Args:
        path: the SQLite file, which the bot has created.
        key: the key that encrypts the comments, which say that they are examples.
        sample: the size of the sample.
    """
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        for rows in _batches(sample, Seal(key)):
            for table, values in rows.items():
                if not values:
                    continue
                names = list(values[0])
                marks = ", ".join("?" * len(names))
                connection.executemany(
                    f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})",  # noqa: S608  # own names
                    [tuple(row.values()) for row in values],
                )
            connection.commit()
    count_anew(path)


def count_anew(path: Path) -> None:
    """Run the migration that counts all rows."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in ("DELETE FROM daily", "DELETE FROM weekly", *migration().fill("sqlite")):
            connection.execute(statement)
        connection.commit()


Rows = dict[str, list[dict[str, object]]]


def _batches(sample: Sample, seal: Seal) -> Iterator[Rows]:
    draw = random.Random(sample.seed)  # noqa: S311  # no secret
    tables = (inbox, circumstances, polls, ratings, comments)
    rows: Rows = {table.name: [] for table in tables}
    for number in range(sample.replies):
        _reply(number, sample, draw, rows, seal)
        if len(rows["inbox"]) == _AT_ONCE:
            yield rows
            rows = {table.name: [] for table in tables}
    yield rows


def _reply(number: int, sample: Sample, draw: random.Random, rows: Rows, seal: Seal) -> None:
    day = sample.days * draw.random() ** 1.3  # more in the last days
    at = sample.end - timedelta(days=day, hours=6 * draw.random())
    if at.weekday() > 4 and draw.random() < 0.85:  # Saturday, Sunday
        at -= timedelta(days=2)
    prompt = f"$exemple-{number}"
    person = f"{draw.randrange(900):032x}"
    context = _context(draw, at, sample.domains)
    rows["inbox"].append(
        {
            "event_id": prompt,
            "position": number + 1,
            "kind": "message",
            "room_id": _ROOM,
            "admitted_at": _text(at),
            "finished_at": _text(at),
        }
    )
    place = {"room_id": _ROOM, "thread_root": ""}
    rows["circumstances"].append({"prompt_event_id": prompt, **place, "person": person, **context})
    polled, rated = draw.random() < 0.33, draw.random() * 100 < sample.rated
    if polled:
        rows["polls"].append(
            {
                "prompt_event_id": prompt,
                "question": "helped",
                **place,
                "person": person,
                "due_at": _text(at),
                "planned_at": _text(at),
                "event_id": f"$sondage-{number}",
                "sent_at": _text(at),
            }
        )
    if rated:
        answer = _answer(draw, str(context["model"]), day / sample.days)
        why = draw.choice(REASONS) if answer != "yes" and draw.random() < 0.6 else None
        rows["ratings"].append(
            {
                "prompt_event_id": prompt,
                "person": person,
                "asker": 1,
                "source": "poll" if polled else "reaction",
                "answer": answer,
                "reason": why,
                "rated_at": _text(at),
                **context,
            }
        )
    if rated and draw.random() < 0.03:
        text = draw.choice(_COMMENTS).encode()
        about = EventId(f"$commentaire-{number}")
        rows["comments"].append(
            {
                "event_id": about,
                "prompt_event_id": prompt,
                "person": person,
                "written_at": _text(at),
                "comment": seal.close(text, about),
            }
        )


def _context(draw: random.Random, at: datetime, domains: int) -> dict[str, object]:
    further = draw.randrange(domains) - len(_DOMAINS)
    domain = draw.choices(_DOMAINS, (40, 24, 14, 9, 6, 4, 2, 0.3))[0]
    seconds = math.exp(draw.gauss(1.9, 0.6))
    return {
        "answered_at": _text(at),
        "domain": domain if further < 0 else f"agent.domaine-{further}.test",
        "direct": draw.random() < 0.8,
        "model": draw.choices(_MODELS, (70, 25, 5))[0],
        "prompt_version": draw.choices(("5f3c2a10", "9b1e77d4"), (80, 20))[0],
        "tools": "",
        "first_words": round(seconds * draw.uniform(0.15, 0.5), 3),
        "seconds": round(seconds, 3),
        "prompt_tokens": draw.randrange(200, 4000),
        "completion_tokens": draw.randrange(20, 900),
        "characters": draw.randrange(80, 3600),
    }


def _answer(draw: random.Random, model: str, age: float) -> str:
    """Return a rating; later ones, and those of larger models, are better."""
    yes = 0.74 - 0.16 * age - (0.1 if model == _MODELS[1] else 0)
    return draw.choices(("yes", "partly", "no"), (yes, (1 - yes) * 0.6, (1 - yes) * 0.4))[0]


def _text(at: datetime) -> str:
    """Return a date as SQLAlchemy writes it into SQLite."""
    return at.strftime("%Y-%m-%d %H:%M:%S.%f")

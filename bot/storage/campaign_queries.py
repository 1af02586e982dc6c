"""Queries about campaigns: due messages, and the answers to questions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    and_,
    exists,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from bot.core.campaigns import (
    AskedQuestion,
    DueMessage,
    RecipientRoom,
)
from bot.core.events import EventId, RoomId
from bot.storage.rows import seconds
from bot.storage.tables import answers, asks, campaigns, recipients


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """One answer of a person to a question, as it is stored."""

    person: str
    question: str
    answer: str | None
    text: bool
    timestamp: int


async def reopen(connection: AsyncConnection, number: int, *, poll: bool) -> bool:
    """Return whether a campaign still runs; if it is closed, reopen it to end a late poll."""
    state = await connection.scalar(select(campaigns.c.state).where(campaigns.c.id == number))
    if state == "closed" and poll:
        ends = update(campaigns).where(campaigns.c.id == number)
        await connection.execute(ends.values(state="closing"))
    return bool(state == "running")


def in_room(number: int, room_id: str) -> tuple[Any, Any]:
    """Return the SQL condition for one recipient of a campaign."""
    return recipients.c.campaign_id == number, recipients.c.room_id == room_id


def recipient_room(room_id: str, person: str | None, root: str | None) -> RecipientRoom:
    """Return a recipient from its columns."""
    return RecipientRoom(RoomId(room_id), person is not None, EventId(root) if root else None)


async def number_of(connection: AsyncConnection, name: str) -> int:
    """Return a campaign's number by its name."""
    found = await connection.execute(select(campaigns.c.id).where(campaigns.c.name == name))
    return int(found.scalar_one())


async def waiting(connection: AsyncConnection, number: int, name: str) -> list[DueMessage]:
    """Return the message of each kind that is due first.

    Messages that may have been sent come first, then next steps for rooms that have answered,
    then first steps for other rooms, then reminders.
    """
    of_it = recipients.c.campaign_id == number
    found: list[DueMessage] = []
    for which in (recipients.c.begun, recipients.c.step > 0, recipients.c.step == 0):
        rows = await connection.execute(due_first(number, which))
        found += [due_message_of(row, name, "step") for row in rows]
    rows = await connection.execute(
        select(recipients)
        .where(of_it, recipients.c.remind_at.is_not(None))
        .order_by(recipients.c.remind_at, recipients.c.room_id)
        .limit(1)
    )
    return found + [due_message_of(row, name, "remind") for row in rows]


def due_first(number: int, which: ColumnElement[bool]) -> Select[Any]:
    """Return the query for the step that is due first, among the rows of a condition."""
    return (
        select(recipients)
        .where(recipients.c.campaign_id == number, which, recipients.c.due_at.is_not(None))
        .order_by(recipients.c.due_at, recipients.c.room_id)
        .limit(1)
    )


def due_message_of(row: Row[Any], name: str, kind: Literal["step", "remind"]) -> DueMessage:
    """Return a row of a recipient as a message that is due."""
    at = row.due_at if kind == "step" else row.remind_at
    recipient = recipient_room(row.room_id, row.person, row.thread_root)
    event_id = EventId(row.event_id) if row.event_id else None
    begun = kind == "step" and row.begun
    return DueMessage(
        campaign=name,
        recipient=recipient,
        kind=kind,
        step=row.step,
        due_at=seconds(at),
        event_id=event_id,
        begun=begun,
    )


async def closing(connection: AsyncConnection, number: int, name: str) -> list[DueMessage]:
    """Return what a closing campaign still has to send, the first message of each kind.

    A step that may have been sent is sent again under its transaction id, to learn the event id
    of the poll to end.
    """
    query = due_first(number, recipients.c.begun)
    row = (await connection.execute(query)).one_or_none()
    ends = await unfinished_polls(connection, number, name)
    return ([] if row is None else [due_message_of(row, name, "step")]) + ends


async def unfinished_polls(
    connection: AsyncConnection, number: int, name: str
) -> list[DueMessage]:
    """Return the first poll to be ended, if there is one."""
    found = await connection.execute(
        select(asks.c.event_id, asks.c.sent_at, recipients)
        .join(
            recipients,
            and_(
                recipients.c.campaign_id == asks.c.campaign_id,
                recipients.c.room_id == asks.c.room_id,
            ),
        )
        .where(asks.c.campaign_id == number, asks.c.poll, asks.c.ended.is_(False))
        .order_by(asks.c.sent_at, asks.c.event_id)
        .limit(1)
    )
    return [
        DueMessage(
            campaign=name,
            recipient=recipient_room(row.room_id, row.person, row.thread_root),
            kind="end",
            step=row.step,
            due_at=seconds(row.sent_at),
            event_id=EventId(row[0]),
        )
        for row in found
    ]


async def is_in_time(
    connection: AsyncConnection, number: int, question: AskedQuestion, at: float
) -> bool:
    """Return whether an answer given at a time counts: until the poll was ended, as in clients."""
    query = select(campaigns.c.closed_at, campaigns.c.ends_at).where(campaigns.c.id == number)
    closed_at, ends_at = (await connection.execute(query)).one()
    closed = closed_at or ends_at
    if closed is None or at <= seconds(closed):
        return True
    is_open = exists().where(
        asks.c.campaign_id == number,
        asks.c.room_id == question.recipient.room_id,
        asks.c.question == question.question,
        asks.c.poll,
        asks.c.ended.is_(False),
    )
    return bool(await connection.scalar(select(is_open)))


async def close_if_done(connection: AsyncConnection, number: int) -> None:
    """Close a campaign that has no polls left to end."""
    opened = exists().where(asks.c.campaign_id == number, asks.c.poll, asks.c.ended.is_(False))
    begun = exists().where(recipients.c.campaign_id == number, recipients.c.begun)
    await connection.execute(
        update(campaigns)
        .where(campaigns.c.id == number, campaigns.c.state == "closing", ~opened, ~begun)
        .values(state="closed")
    )


async def answers_of(
    connection: AsyncConnection, number: int, *where: ColumnElement[bool]
) -> list[StoredAnswer]:
    """Return the answers that a campaign was given, of one question or of all."""
    query = select(
        answers.c.person,
        answers.c.question,
        answers.c.answer,
        answers.c.text.is_not(None).label("text"),
        answers.c.timestamp,
    ).where(answers.c.campaign_id == number, answers.c.counts, *where)
    found = await connection.execute(query.order_by(answers.c.timestamp, answers.c.event_id))
    return [StoredAnswer(**row) for row in found.mappings()]


def count_answers(
    given: Sequence[StoredAnswer],
) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Return how many people chose each answer (MSC3381), and how many answered in words."""
    last: dict[tuple[str, str], StoredAnswer] = {}
    written: set[tuple[str, str]] = set()
    for one in given:
        key = one.question, one.person
        if one.text:
            written.add(key)
        elif key not in last or one.timestamp > last[key].timestamp:
            last[key] = one
    counts: dict[str, dict[str, int]] = {}
    for (question, _), one in last.items():
        if one.answer is not None:
            of_question = counts.setdefault(question, {})
            of_question[one.answer] = of_question.get(one.answer, 0) + 1
    return counts, dict(Counter(question for question, _ in written))

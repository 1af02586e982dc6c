"""Queries about feedback: polls, opinions, and the history of who was asked."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from sqlalchemy import (
    RowMapping,
    Select,
    Table,
    and_,
    func,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from bot.core.events import (
    Conversation,
    EventId,
    Prompt,
    RoomId,
    server_name,
)
from bot.core.feedback import (
    Ask,
    AskHistory,
    Opinion,
    Question,
    ReplyMetadata,
)
from bot.storage.database import Work
from bot.storage.rows import date, seconds
from bot.storage.tables import (
    choices,
    circumstances,
    people,
    polls,
)

_DAY = 86_400.0

Page = Sequence[Mapping[str, Any]]


def page_of(
    table: Table, key: tuple[Any, ...], after: tuple[str, ...], most: int
) -> Work[list[dict[str, Any]]]:
    """Return the work that reads the rows after a key, in the key's order."""
    query = select(table).where(tuple_(*key) > after).order_by(*key).limit(most)

    async def work(connection: AsyncConnection) -> list[dict[str, Any]]:
        return [dict(row) for row in (await connection.execute(query)).mappings()]

    return work


def key_of(conversation: Conversation) -> dict[str, str]:
    """Return the columns of a conversation."""
    return {"room_id": conversation.room_id, "thread_root": conversation.thread_root or ""}


def matches(table: Any, key: dict[str, str]) -> list[Any]:  # noqa: ANN401  # any of the tables
    """Return the SQL conditions for these columns."""
    return [table.c[name] == value for name, value in key.items()]


def waits_in(conversation: dict[str, str]) -> Any:  # noqa: ANN401  # SQLAlchemy's type is generic
    """Return the SQL condition for the unsent "helped" polls of a conversation."""
    unsent = polls.c.event_id.is_(None), polls.c.begun.is_(False)
    return and_(*matches(polls, conversation), *unsent, polls.c.question == "helped")


def context_of(how: ReplyMetadata, at: float) -> dict[str, Any]:
    """Return the columns that describe how a reply was made."""
    return {
        "answered_at": date(at),
        "domain": server_name(how.sender),
        "direct": how.direct,
        "model": how.model,
        "prompt_version": how.prompt_version,
        "tools": "",
        "first_words": how.first_words,
        "seconds": how.seconds,
        "prompt_tokens": how.prompt_tokens,
        "completion_tokens": how.completion_tokens,
        "characters": how.characters,
    }


async def ask_history(
    connection: AsyncConnection, prompt: Prompt, person: str, at: float
) -> AskHistory:
    """Return the earlier polls of a person and of a prompt's conversation."""
    conversation = key_of(prompt.conversation)
    refuses = select(people.c.person).where(people.c.person == person, people.c.polls.is_(False))
    none_here = select(choices.c.room_id).where(
        *matches(choices, conversation | {"thread_root": ""}), choices.c.polls.is_(False)
    )
    recent = select(func.count()).where(
        polls.c.person == person,
        polls.c.question == "helped",
        or_(polls.c.sent_at > date(at - _DAY), polls.c.event_id.is_(None)),
        ~waits_in(conversation),
    )
    before = (
        select(circumstances.c.prompt_event_id)
        .where(
            *matches(circumstances, conversation | {"person": person}),
            circumstances.c.prompt_event_id != prompt.event_id,
        )
        .order_by(circumstances.c.answered_at.desc())
        .limit(1)
    )
    last = select(polls.c.id).where(
        or_(
            polls.c.prompt_event_id == before.scalar_subquery(),
            polls.c.prompt_event_id == prompt.event_id,
        ),
        or_(polls.c.event_id.is_not(None), polls.c.begun),
    )

    async def exist(query: Select[Any]) -> bool:
        return await connection.scalar(query.limit(1)) is not None

    return AskHistory(
        refused=await exist(refuses) or await exist(none_here),
        asked=await connection.scalar(recent) or 0,
        last_asked=await exist(last),
        waiting=await exist(select(polls.c.id).where(waits_in(conversation))),
    )


async def poll_at(
    connection: AsyncConnection, room_id: RoomId, event_id: EventId
) -> RowMapping | None:
    """Return the row of the poll that an event is; None if it is none."""
    found = await connection.execute(
        select(polls).where(polls.c.event_id == event_id, polls.c.room_id == room_id)
    )
    return found.mappings().one_or_none()


async def thank(connection: AsyncConnection, prompt: str) -> bool:
    """Record that the person is thanked; return False if that was recorded before."""
    thanked = await connection.execute(
        update(polls)
        .where(
            polls.c.prompt_event_id == prompt,
            polls.c.question == "helped",
            polls.c.thanked.is_(False),
        )
        .values(thanked=True)
    )
    return bool(thanked.rowcount)


def ask_of(row: RowMapping) -> Ask:
    """Return a row as a poll."""
    root = row["thread_root"]
    return Ask(
        number=row["id"],
        prompt=EventId(row["prompt_event_id"]),
        question=cast("Question", row["question"]),
        room_id=RoomId(row["room_id"]),
        thread_root=EventId(root) if root else None,
        due_at=seconds(row["due_at"]),
        planned_at=seconds(row["planned_at"]),
        begun=row["begun"],
    )


def opinion_of(row: RowMapping) -> Opinion:
    """Return a row as an opinion."""
    question = cast("Question", row["question"])
    return Opinion(question, row["answer"], row["timestamp"], row["poll_id"])

"""The ledger on SQLAlchemy: what was heard, what was answered, and the sync token between."""

import asyncio
import math
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.util import CommandError
from sqlalchemy import Connection, RowMapping, event, func, insert, or_, select, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from bot.core.events import (
    Batch,
    Change,
    Conversation,
    Event,
    EventId,
    Invite,
    Joined,
    Left,
    Message,
    Pending,
    Prompt,
    RoomId,
    Undecryptable,
    UserId,
)
from bot.errors import StoreError
from bot.ports import Awaited, Choices, Claim, Exchange
from bot.shield import to_the_end
from bot.storage.tables import account, choices, inbox, replies

T = TypeVar("T")
_Unfinished = Invite | Joined | Left | Pending | Awaited

_BUSY_SECONDS = 30  # how long a writer waits for another one
_TOKEN_SECONDS = 5.0  # how long the token of an empty batch may wait


def _engine(path: Path) -> AsyncEngine:
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{path}", connect_args={"timeout": _BUSY_SECONDS}
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _connect(dbapi: Any, _record: object) -> None:  # noqa: ANN401  # the driver's own type
        dbapi.isolation_level = None  # else the driver opens transactions of its own, too late
        cursor = dbapi.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # read-then-write must not lose updates

    return engine


def _probe(path: Path) -> None:
    """Open the file once, make it where it is missing.

    A connection that aiosqlite fails to open ends in a thread which may outlive the event loop
    and then prints a traceback: so what cannot be opened must not get that far.
    """
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA schema_version")


def _upgrade(connection: Connection) -> None:
    config = AlembicConfig()
    config.set_main_option("script_location", "bot.storage:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


class SqlStore:
    """The `Store` port on one SQLite file. `synchronous=FULL`: what is committed stays."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._turn = asyncio.Lock()  # SQLite has one writer; in it, the others would sleep in turn
        self._committed = -math.inf  # when the last token was, in the loop's time

    @classmethod
    async def open(cls, path: Path, user_id: UserId) -> Self:
        """Open or create the ledger of `user_id`, and bring its tables up to date.

        Raises:
            StoreError: the file cannot be written, is no ledger, or is another account's.
        """
        try:
            await to_the_end(asyncio.to_thread(_probe, path))
        except sqlite3.Error as error:
            raise StoreError(f"the ledger {path}: {error}") from error
        store = cls(_engine(path))
        try:
            await store._transaction(_prepare, user_id)
        except StoreError:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Close the file."""
        await self._engine.dispose()

    async def sync_token(self) -> str | None:
        """Return the token of the last batch admitted, None before the first."""

        async def work(connection: AsyncConnection) -> str | None:
            token: str | None = await connection.scalar(select(account.c.sync_token))
            return token

        return await self._transaction(work)

    async def admit(self, batch: Batch, heard_at: float) -> Sequence[Event]:
        """Commit the batch's events and token; return the events not known before.

        The token of a batch without such events may wait for one with, a few seconds at the most:
        who starts from an older token hears again what asks for nothing.
        """
        now = asyncio.get_running_loop().time()
        fresh = now - self._committed < _TOKEN_SECONDS
        if not batch.events and fresh:
            return ()

        async def work(connection: AsyncConnection) -> tuple[list[Event], bool]:
            last = await connection.scalar(select(func.max(inbox.c.position))) or 0
            new = [
                heard
                for position, heard in enumerate(batch.events, last + 1)
                if not (isinstance(heard, Change) and await _is_nobodys(connection, heard))
                and await _insert(connection, _row(heard, position, heard_at))
            ]
            if not new and fresh:
                return new, False
            await connection.execute(update(account).values(sync_token=batch.next_batch))
            return new, True

        new, committed = await self._transaction(work)
        if committed:
            self._committed = now
        return new

    async def unfinished(self) -> Sequence[_Unfinished]:
        """Return what was admitted and not finished, oldest first."""

        async def work(connection: AsyncConnection) -> list[_Unfinished]:
            rows = await connection.execute(
                select(inbox).where(inbox.c.finished_at.is_(None)).order_by(inbox.c.position)
            )
            return [_restore(row) for row in rows.mappings()]

        return await self._transaction(work)

    async def claim(self, prompt: Prompt) -> Claim:
        """Count a claim to the prompt, tie its messages, and return it with the reply's.

        A prompt that is answered once more is unfinished again: until then, half of a new answer
        may stand in place of the old one.
        """
        first, *joined = prompt.event_ids

        async def work(connection: AsyncConnection) -> Claim:
            number = await connection.scalar(
                update(inbox)
                .where(inbox.c.event_id == first)
                .values(claims=inbox.c.claims + 1, joined_to=None, finished_at=None)
                .returning(inbox.c.claims)
            )
            if number is None:
                raise StoreError(f"{first} was claimed before it was admitted")
            if joined:
                await connection.execute(
                    update(inbox)
                    .where(inbox.c.event_id.in_(joined))
                    .values(joined_to=first, finished_at=None)
                )
            return Claim(number, await _reply(connection, first))

        return await self._transaction(work)

    async def exchange(self, room_id: RoomId, event_id: EventId) -> Exchange | None:
        """Return the prompt and reply that an event of the room is one message of."""

        async def work(connection: AsyncConnection) -> Exchange | None:
            replied = select(replies.c.prompt_event_id).where(replies.c.event_id == event_id)
            first = await connection.scalar(
                select(func.coalesce(inbox.c.joined_to, inbox.c.event_id)).where(
                    inbox.c.room_id == room_id,
                    or_(
                        inbox.c.event_id == event_id, inbox.c.event_id == replied.scalar_subquery()
                    ),
                )
            )
            if first is None:
                return None
            joined = await connection.scalars(
                select(inbox.c.event_id)
                .where(inbox.c.joined_to == first)
                .order_by(inbox.c.position)
            )
            prompt = (EventId(first), *map(EventId, joined))
            return Exchange(prompt, await _reply(connection, first))

        return await self._transaction(work)

    async def sent(self, prompt: EventId, part: int, event_id: EventId) -> None:
        """Record that part number `part` of the reply to `prompt` stands at `event_id`."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                insert(replies).values(prompt_event_id=prompt, part=part, event_id=event_id)
            )

        await self._transaction(work)

    async def finish(self, *event_ids: EventId) -> None:
        """Record that nothing more is to be done about the events."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                update(inbox).where(inbox.c.event_id.in_(event_ids)).values(finished_at=func.now())
            )

        await self._transaction(work)

    async def choose(self, conversation: Conversation, chosen: Choices) -> None:
        """Record what was chosen for a conversation; what is None stays as it was."""
        named = {"model": chosen.model, "language": chosen.language}
        values = {name: value for name, value in named.items() if value is not None}
        if not values:
            return

        async def work(connection: AsyncConnection) -> None:
            key = {
                "room_id": conversation.room_id,
                "thread_root": conversation.thread_root or "",
            }
            statement = sqlite.insert(choices).values(key | values)
            await connection.execute(
                statement.on_conflict_do_update(index_elements=list(key), set_=values)
            )

        await self._transaction(work)

    async def choices(self, conversation: Conversation) -> Choices:
        """Return what was chosen for a conversation, else for all of its room."""
        root = conversation.thread_root or ""

        async def work(connection: AsyncConnection) -> Choices:
            rows = await connection.execute(
                select(choices.c.model, choices.c.language)
                .where(
                    choices.c.room_id == conversation.room_id,
                    choices.c.thread_root.in_({"", root}),
                )
                .order_by(choices.c.thread_root.desc())
            )
            found = rows.all()
            return Choices(
                next((row.model for row in found if row.model), None),
                next((row.language for row in found if row.language), None),
            )

        return await self._transaction(work)

    async def noticed(self, message: Undecryptable, at: float) -> None:
        """Record that the message's sender was told at `at` that it cannot be read."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                update(inbox)
                .where(inbox.c.event_id == message.event_id)
                .values(sender=message.sender, noticed_at=_date(at))
            )

        await self._transaction(work)

    async def last_notice(self, sender: UserId, room_id: RoomId) -> float | None:
        """Return when the person was last told so in the room, None for never."""

        async def work(connection: AsyncConnection) -> datetime | None:
            latest: datetime | None = await connection.scalar(
                select(func.max(inbox.c.noticed_at)).where(
                    inbox.c.sender == sender,
                    inbox.c.room_id == room_id,
                    inbox.c.noticed_at.is_not(None),
                )
            )
            return latest

        latest = await self._transaction(work)
        return None if latest is None else _seconds(latest)

    async def _transaction(self, work: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """Run `work` in one transaction that a cancelled caller cannot cut in two."""

        async def whole() -> T:
            try:
                async with self._turn, self._engine.begin() as connection:
                    return await work(connection, *arguments)
            except (SQLAlchemyError, OSError) as error:
                reason = getattr(error, "orig", None) or error
                raise StoreError(f"the ledger {self._engine.url.database}: {reason}") from None

        return await to_the_end(whole())


async def _prepare(connection: AsyncConnection, user_id: UserId) -> None:
    try:
        await connection.run_sync(_upgrade)
    except CommandError as error:
        raise StoreError(
            f"the ledger was written by another version of the assistant ({error}): run that"
            " version, or restore the ledger from a backup made before it"
        ) from error
    owner = await connection.scalar(select(account.c.user_id))
    if owner is None:
        await connection.execute(insert(account).values(user_id=user_id))
    elif owner != user_id:
        raise StoreError(
            f"the ledger belongs to {owner}, the configuration names {user_id}: "
            "give each account a storage.directory of its own"
        )


async def _reply(connection: AsyncConnection, prompt: str) -> tuple[EventId, ...]:
    """Return the messages of the reply to a prompt, in order."""
    found = await connection.scalars(
        select(replies.c.event_id)
        .where(replies.c.prompt_event_id == prompt)
        .order_by(replies.c.part)
    )
    return tuple(map(EventId, found))


async def _is_nobodys(connection: AsyncConnection, change: Change) -> bool:
    """Tell whether what changes is neither prompt nor reply, nor root of a thread of such."""
    mine = select(inbox.c.event_id).where(
        inbox.c.room_id == change.room_id,
        or_(inbox.c.event_id == change.target, inbox.c.thread_root == change.target),
    )
    reply = select(replies.c.event_id).where(replies.c.event_id == change.target)
    return await connection.scalar(mine.limit(1)) is None and (
        await connection.scalar(reply) is None
    )


async def _insert(connection: AsyncConnection, row: dict[str, Any]) -> bool:
    """Insert the row; tell whether its event was new.

    An invitation has no event id that every homeserver sends, so its room's id stands for it: it
    may come again after it was declined, and then counts as new.
    """
    statement = sqlite.insert(inbox).values(row)
    upsert = (
        statement.on_conflict_do_update(index_elements=["event_id"], set_=row)
        if row["kind"] == "invite"
        else statement.on_conflict_do_nothing()
    )
    return (await connection.execute(upsert)).rowcount == 1


def _row(heard: Event, position: int, heard_at: float) -> dict[str, Any]:
    row: dict[str, Any] = {
        "event_id": heard.event_id,
        "position": position,
        "kind": type(heard).__name__.lower(),
        "room_id": heard.room_id,
        "admitted_at": _date(heard_at),
    }
    if isinstance(heard, Invite):
        row |= {"sender": heard.sender, "direct": heard.direct, "finished_at": None}
    elif isinstance(heard, Message | Undecryptable):
        row |= {"fingerprint": heard.fingerprint, "thread_root": heard.thread_root}
    if isinstance(heard, Undecryptable):
        row |= {
            "sender": heard.sender,
            "session_id": heard.session_id,
            "timestamp": heard.timestamp,
        }
    return row


def _restore(row: RowMapping) -> _Unfinished:
    event_id, room_id = EventId(row["event_id"]), RoomId(row["room_id"])
    match row["kind"]:
        case "invite":
            return Invite(event_id, room_id, UserId(row["sender"]), direct=row["direct"])
        case "left":
            return Left(event_id, room_id, alone=True)  # no other is admitted
        case "joined":
            return Joined(event_id, room_id)
        case "undecryptable" if not (row["claims"] or row["joined_to"]):
            return _restore_awaited(row)
        case _:
            joined_to = EventId(row["joined_to"]) if row["joined_to"] else None
            return Pending(event_id, room_id, begun=row["claims"] > 0, joined_to=joined_to)


def _restore_awaited(row: RowMapping) -> Awaited:
    root = row["thread_root"]
    message = Undecryptable(
        EventId(row["event_id"]),
        RoomId(row["room_id"]),
        UserId(row["sender"]),
        row["session_id"],
        row["timestamp"],
        None if root is None else EventId(root),
        row["fingerprint"],
    )
    return Awaited(message, _seconds(row["admitted_at"]))


def _date(seconds: float) -> datetime:
    """Return seconds since the epoch as SQLite's DateTime holds them: UTC, without a zone."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


def _seconds(date: datetime) -> float:
    return date.replace(tzinfo=UTC).timestamp()

"""The `Store` port on SQLAlchemy: admitted events, claims, replies, choices, the sync token."""

import asyncio
import math
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import structlog
from alembic.util import CommandError
from sqlalchemy import and_, delete, exists, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from bot.core.events import (
    Batch,
    Change,
    Conversation,
    Event,
    EventId,
    Invite,
    Prompt,
    RoomId,
    UserId,
    Vote,
)
from bot.core.outgoing import OutboxMessage
from bot.errors import BotError, StoreError
from bot.monitoring.health import Health
from bot.ports.ledger import Choices, Claim, Exchange, Unheeded
from bot.runtime.encryption import Seal
from bot.runtime.uncancellable import run_uncancelled
from bot.storage import rows
from bot.storage.database import Database, probe
from bot.storage.rows import Unfinished, date, event_row, outbox_row, seconds
from bot.storage.schema_version import upgrade
from bot.storage.tables import (
    account,
    asks,
    choices,
    inbox,
    outbox,
    polls,
    recipients,
    replies,
)

log = structlog.get_logger()

_TOKEN_SECONDS = 5.0  # delay after which the token of an empty batch is committed as well
_LOST = (
    "storage.directory holds the Matrix device that belongs to it. Restore both from the same"
    " backup, or check storage.directory and storage.database. It knows who wants no polls, the"
    " ratings, the campaigns and what is answered: to begin without all that, start once with"
    " --new-ledger"
)


class SqlStore:
    """The `Store` port on SQLite or PostgreSQL.

    Transactions are durable if exactly-once replies depend on them: admission with its token, a
    reply's messages, its final version. A prompt's first claim is on the disk with the first of
    these that follows it. A later claim is durable itself, before anything is sent under its
    number.
    """

    def __init__(self, database: Database, seal: Seal) -> None:
        self._database = database
        self._seal = seal
        self._insert = sqlite.insert if database.is_sqlite else postgresql.insert
        self._committed = -math.inf  # time of the last committed token, by the loop's clock

    @classmethod
    async def open(
        cls, location: Path | str, user_id: UserId, key: str, health: Health, *, new: bool = True
    ) -> Self:
        """Open or create the ledger of `user_id`, and migrate its tables to this version.

        Args:
            location: a SQLite file, or the libpq URL of a PostgreSQL database.
            user_id: the account that the ledger belongs to.
            key: the secret that encrypts any text of conversations.
            health: receives failures.
            new: whether it may be created if it is missing.

        Raises:
            StoreError: it cannot be used, is no ledger, or belongs to another account; another
                process uses it; or it is missing and may not be created.
        """
        if isinstance(location, Path):
            if not new and not await asyncio.to_thread(location.exists):
                raise StoreError(f"the ledger {location} is missing: {_LOST}")
            try:
                await run_uncancelled(asyncio.to_thread(probe, location))
            except (sqlite3.Error, OSError) as error:
                reason = getattr(error, "strerror", None) or error
                raise StoreError(f"the ledger {location}: {reason}") from error
            database = Database.on_sqlite(location, health)
        else:
            database = Database.on_postgresql(location, health)
        store = cls(database, Seal(key))
        try:
            await database.open(lambda connection: _prepare(connection, user_id, new=new))
        except BotError:
            await store.close()
            raise
        return store

    @property
    def database(self) -> Database:
        """The database that holds the ledger."""
        return self._database

    async def close(self) -> None:
        """Close the connections."""
        await self._database.close()

    async def sync_token(self) -> str | None:
        """Return the sync token of the last admitted batch; None before the first."""

        async def work(connection: AsyncConnection) -> str | None:
            token: str | None = await connection.scalar(select(account.c.sync_token))
            return token

        return await self._database.run("token", work)

    async def admit(self, batch: Batch, heard_at: float) -> Sequence[Event]:
        """Commit the batch's events and token; return the events that were not known before.

        The token of a batch without new events is committed with the next one, or after a few
        seconds: a process that starts from the older token only receives such a batch again.
        """
        now = asyncio.get_running_loop().time()
        fresh = now - self._committed < _TOKEN_SECONDS
        if not batch.events and fresh:
            return ()
        before: int | None = None  # the last position, as the first try found it

        async def work(connection: AsyncConnection) -> tuple[list[Event], bool]:
            nonlocal before
            last = await connection.scalar(select(func.max(inbox.c.position))) or 0
            before = last if before is None else before
            new = dict[EventId, Event]()
            for position, one in enumerate(batch.events, last + 1):
                row = event_row(one, position, heard_at)
                if one.event_id not in new and await self._admit(connection, one, row, before):
                    new[one.event_id] = one
            if not new and fresh:
                return [], False
            await connection.execute(update(account).values(sync_token=batch.next_batch))
            return list(new.values()), True

        new, committed = await self._database.run("admit", work, durable=True)
        if committed:
            self._committed = now
        return new

    async def _admit(
        self, connection: AsyncConnection, event: Event, row: dict[str, Any], before: int
    ) -> bool:
        """Insert the row of an event; return whether the event is new and concerns the bot.

        Not every homeserver sends an event id with an invitation, so its room's id is used: a
        room may invite again after the bot declined, and that counts as new. A row that a try
        inserted although it seemed to fail, after position `before`, counts as new as well.
        """
        if await _is_irrelevant(connection, event):
            return False
        statement = self._insert(inbox).values(row)
        upsert = (
            statement.on_conflict_do_update(index_elements=["event_id"], set_=row)
            if isinstance(event, Invite)
            else statement.on_conflict_do_nothing()
        )
        if (await connection.execute(upsert)).rowcount == 1:
            return True
        known = select(inbox.c.position).where(inbox.c.event_id == event.event_id)
        return (await connection.scalar(known) or 0) > before

    async def unfinished(self) -> Sequence[Unfinished]:
        """Return the events that were admitted and not finished, oldest first."""

        async def work(connection: AsyncConnection) -> list[Unfinished]:
            found = await connection.execute(
                select(inbox).where(inbox.c.finished_at.is_(None)).order_by(inbox.c.position)
            )
            return [rows.unfinished(row) for row in found.mappings()]

        return await self._database.run("unfinished", work)

    async def claim(self, prompt: Prompt, *, again: bool = False) -> Claim:
        """Count a claim of the prompt, join its messages, and return the claim.

        A prompt that is answered again becomes unfinished again, as the room may show a part of
        the new answer in place of the old one until the new one is complete.
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
            return Claim(
                number, await _reply(connection, first), await self._outbox(connection, first)
            )

        return await self._database.run("claim", work, durable=again)

    async def exchange(self, room_id: RoomId, event_id: EventId) -> Exchange | None:
        """Return the prompt and reply of which an event of the room is a message."""

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

        return await self._database.run("exchange", work)

    async def sent(self, prompt: EventId, part: int, event_id: EventId) -> None:
        """Record that part number `part` of the reply to `prompt` is the event `event_id`."""

        async def work(connection: AsyncConnection) -> None:
            statement = self._insert(replies).values(
                prompt_event_id=prompt, part=part, event_id=event_id
            )
            key = ["prompt_event_id", "part"]
            await connection.execute(
                statement.on_conflict_do_update(index_elements=key, set_={"event_id": event_id})
            )

        await self._database.run("sent", work, durable=True)

    async def keep_outbox(self, prompt: EventId, messages: Sequence[OutboxMessage]) -> None:
        """Keep the messages of a final version until they are acknowledged; replace others."""
        new = [outbox_row(prompt, one, self._seal) for one in messages]

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(delete(outbox).where(outbox.c.prompt_event_id == prompt))
            if new:
                await connection.execute(insert(outbox), new)

        await self._database.run("freeze", work, durable=True)

    async def _outbox(self, connection: AsyncConnection, prompt: str) -> tuple[OutboxMessage, ...]:
        """Return the messages of the final version that may have been sent."""
        found = await connection.execute(
            select(outbox).where(outbox.c.prompt_event_id == prompt).order_by(outbox.c.part)
        )
        try:
            return tuple(rows.outbox_message(row, self._seal) for row in found.mappings())
        except ValueError:  # another storage.key: the answer is generated anew
            log.warning("outbox not opened", event_id=prompt)
            return ()

    async def finish(self, *event_ids: EventId) -> None:
        """Record that nothing is left to do for these events."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(delete(outbox).where(outbox.c.prompt_event_id.in_(event_ids)))
            await connection.execute(
                update(inbox).where(inbox.c.event_id.in_(event_ids)).values(finished_at=func.now())
            )
            invitations = [one for one in event_ids if one.startswith("invite:")]
            if invitations:  # the inviter's id is not needed any more
                await connection.execute(
                    update(inbox).where(inbox.c.event_id.in_(invitations)).values(sender=None)
                )

        await self._database.run("finish", work)

    async def choose(self, conversation: Conversation, chosen: Choices) -> None:
        """Record choices for a conversation; a choice of None leaves the recorded one."""
        named = {"model": chosen.model, "language": chosen.language}
        values = {name: value for name, value in named.items() if value is not None}
        if not values:
            return

        async def work(connection: AsyncConnection) -> None:
            key = {
                "room_id": conversation.room_id,
                "thread_root": conversation.thread_root or "",
            }
            statement = self._insert(choices).values(key | values)
            await connection.execute(
                statement.on_conflict_do_update(index_elements=list(key), set_=values)
            )

        await self._database.run("choose", work, durable=True)

    async def choices(self, conversation: Conversation) -> Choices:
        """Return the choices for a conversation, or else those for its whole room."""
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

        return await self._database.run("choices", work)

    async def noticed(self, message: Unheeded, at: float) -> None:
        """Record that the message's sender was told at `at` why the bot does not act on it."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                update(inbox)
                .where(inbox.c.event_id == message.event_id)
                .values(sender=message.sender, noticed_at=date(at))
            )

        await self._database.run("noticed", work)

    async def last_notice(self, sender: UserId, room_id: RoomId) -> float | None:
        """Return when the person was last told so in the room; None for never."""

        async def work(connection: AsyncConnection) -> datetime | None:
            latest: datetime | None = await connection.scalar(
                select(func.max(inbox.c.noticed_at)).where(
                    inbox.c.sender == sender,
                    inbox.c.room_id == room_id,
                    inbox.c.noticed_at.is_not(None),
                )
            )
            return latest

        latest = await self._database.run("last_notice", work)
        return None if latest is None else seconds(latest)


async def _prepare(connection: AsyncConnection, user_id: UserId, *, new: bool) -> None:
    try:
        await connection.run_sync(upgrade)
    except CommandError as error:
        raise StoreError(
            f"the ledger was written by another version of the assistant ({error}): run that"
            " version, or restore the ledger from a backup made before it"
        ) from error
    owner = await connection.scalar(select(account.c.user_id))
    if owner is None and not new:  # raising also rolls back the creation of the tables
        raise StoreError(f"the ledger is empty: {_LOST}")
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


async def _is_irrelevant(connection: AsyncConnection, event: Event) -> bool:
    """Return whether the event is about another one that does not concern the bot.

    A vote concerns the bot if it is in one of the bot's polls; any other change if it is of a
    prompt, a reply, a vote, or the root of a thread with one of these.
    """
    poll = event.target if isinstance(event, Vote) else getattr(event, "refers_to", None)
    if poll is not None:
        return not await _may_be_ours(connection, poll, event.room_id)
    return isinstance(event, Change) and await _is_no_part(connection, event)


async def _may_be_ours(connection: AsyncConnection, poll: EventId, room_id: RoomId) -> bool:
    """Return whether a poll is one of the bot's, or may be one that is not recorded yet."""
    feedback = exists().where(
        polls.c.room_id == room_id,
        or_(polls.c.event_id == poll, and_(polls.c.begun, polls.c.event_id.is_(None))),
    )
    campaign = exists().where(asks.c.room_id == room_id, asks.c.event_id == poll)
    begun = exists().where(recipients.c.room_id == room_id, recipients.c.begun)
    return bool(await connection.scalar(select(or_(feedback, campaign, begun))))


async def _is_no_part(connection: AsyncConnection, change: Change) -> bool:
    admitted = select(inbox.c.event_id).where(
        inbox.c.room_id == change.room_id,
        or_(inbox.c.event_id == change.target, inbox.c.thread_root == change.target),
    )
    reply = select(replies.c.event_id).where(replies.c.event_id == change.target)
    return await connection.scalar(admitted.limit(1)) is None and (
        await connection.scalar(reply) is None
    )

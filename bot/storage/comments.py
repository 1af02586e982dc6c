"""Ratings, comments and shared exchanges in the ledger's database, and their exported tables."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

from sqlalchemy import (
    delete,
    exists,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from bot.core.events import (
    Edit,
    EventId,
    Message,
    UserId,
)
from bot.core.feedback import (
    Opinion,
    Rating,
    answer_of,
    reason_of,
)
from bot.runtime.encryption import Pseudonyms, Seal
from bot.storage.daily_counters import rating_counted
from bot.storage.database import Database
from bot.storage.feedback_queries import Page, matches, opinion_of, page_of
from bot.storage.rows import date
from bot.storage.tables import (
    CONTEXT,
    circumstances,
    comments,
    opinions,
    polls,
    ratings,
    shared,
)

# The columns of the exported tables, in this order.
RATING_COLUMNS: Final = (
    *("reply", "person", "asker", "source", "answer", "reason", "rated_at"),
    *CONTEXT,
)
SHARED_COLUMNS: Final = ("reply", "person", "shared_at", "prompt", "reply_text")
COMMENT_COLUMNS: Final = ("reply", "person", "written_at", "comment")


class SqlComments:
    """The part of the `Opinions` port that is about comments and other text of people."""

    def __init__(self, database: Database, secret: str) -> None:
        """Use the ledger's database, and the operator's secret for encryption and pseudonyms."""
        self._database = database
        self._seal = Seal(secret)
        self._pseudonyms = Pseudonyms(secret)
        self._insert = sqlite.insert if database.is_sqlite else postgresql.insert

    @property
    def database(self) -> Database:
        """The database that holds the ledger."""
        return self._database

    async def _update_ratings(self, connection: AsyncConnection, prompt: str, at: float) -> None:
        """Update all ratings of a reply, as some may be older than its metadata."""
        query = select(opinions.c.person).where(opinions.c.prompt_event_id == prompt).distinct()
        for person in (await connection.scalars(query)).all():
            await self._update_rating(connection, prompt, person, at)

    async def _update_rating(
        self, connection: AsyncConnection, prompt: str, person: str, at: float
    ) -> None:
        """Derive a person's rating of a reply anew from their opinions."""
        key = {"prompt_event_id": prompt, "person": person}
        found = await connection.execute(
            select(opinions)
            .where(*matches(opinions, key), opinions.c.counts)
            .order_by(opinions.c.timestamp, opinions.c.event_id)
        )
        theirs = [opinion_of(row) for row in found.mappings()]
        helped = answer_of(theirs, "helped")
        if helped is None:
            async with rating_counted(connection, prompt, person):
                await connection.execute(delete(ratings).where(*matches(ratings, key)))
            return
        context = await connection.execute(
            select(circumstances).where(circumstances.c.prompt_event_id == prompt)
        )
        about = context.mappings().one_or_none()
        row = {
            "asker": about is not None and about["person"] == person,
            "source": "reaction" if helped.poll is None else "poll",
            "answer": helped.answer,
            "reason": reason_of(theirs),
            "rated_at": date(min(helped.timestamp / 1000 or at, at)),
            **{name: about[name] if about is not None else None for name in CONTEXT},
        }
        statement = self._insert(ratings).values(key | row)
        async with rating_counted(connection, prompt, person):
            await connection.execute(
                statement.on_conflict_do_update(index_elements=list(key), set_=row)
            )

    async def comment(self, message: Message, prompt: EventId | None, at: float) -> None:
        """Store a comment."""
        person = self._pseudonyms.of(message.sender)

        async def work(connection: AsyncConnection) -> None:
            await self._keep(connection, message.event_id, prompt, person, message.body, at)

        await self._database.run("comment", work, durable=True)

    async def _keep(
        self,
        connection: AsyncConnection,
        event_id: EventId,
        prompt: str | None,
        person: str,
        text: str,
        at: float,
    ) -> None:
        row = {
            "prompt_event_id": prompt,
            "person": person,
            "written_at": date(at),
            "comment": self._seal.close(text.encode(), event_id),
        }
        await connection.execute(
            self._insert(comments)
            .values(event_id=event_id, **row)
            .on_conflict_do_update(index_elements=["event_id"], set_=row)
        )

    async def is_opinion(self, event_id: EventId) -> bool:
        """Return whether a message is stored as a comment, or as a rating by one word."""
        rated = exists().where(opinions.c.event_id == event_id, opinions.c.poll_id.is_(None))
        written = exists().where(comments.c.event_id == event_id)

        async def work(connection: AsyncConnection) -> bool:
            return bool(await connection.scalar(select(or_(rated, written))))

        return await self._database.run("is_said", work)

    async def amend(self, edit: Edit, rating: Rating | None, at: float) -> None:
        """Replace a comment or a rating by one word with the text of its author's edit.

        Args:
            edit: the edit; a comment is deleted if its body is empty.
            rating: the rating that the new text is; None for a comment. If the message was not
                about a single reply, the text is a comment in any case.
            at: the current time, in seconds since the epoch.
        """
        key = {"event_id": edit.target, "person": self._pseudonyms.of(edit.sender)}
        rated = *matches(opinions, key), opinions.c.poll_id.is_(None)

        async def work(connection: AsyncConnection) -> None:
            for table, where in ((comments, matches(comments, key)), (opinions, rated)):
                prompt = select(table.c.prompt_event_id).where(*where)
                row = (await connection.execute(prompt)).one_or_none()
                if row is not None:
                    await connection.execute(delete(table).where(*where))
                    await self._replace(connection, edit, row[0], rating, at)
                    return

        await self._database.run("amend", work, durable=True)

    async def _replace(
        self,
        connection: AsyncConnection,
        edit: Edit,
        prompt: str | None,
        rating: Rating | None,
        at: float,
    ) -> None:
        person, event_id = self._pseudonyms.of(edit.sender), edit.target
        table = comments
        if rating is not None and prompt is not None:
            table, opinion = opinions, Opinion("helped", rating, edit.timestamp)
            await self._store(connection, event_id, EventId(prompt), person, opinion)
        elif edit.body:
            await self._keep(connection, event_id, prompt, person, edit.body, at)
        by_edit = update(table).where(table.c.event_id == event_id)
        await connection.execute(by_edit.values(edit_id=edit.event_id))
        if prompt is not None:
            await self._update_rating(connection, prompt, person, at)

    async def share(
        self, message: Message, prompt: EventId, exchange: tuple[str, str], at: float
    ) -> None:
        """Store the encrypted text of a prompt and its reply, until it is withdrawn."""
        prompt_text, reply_text = exchange
        key = {"event_id": message.event_id}
        row = {
            "prompt_event_id": prompt,
            "person": self._pseudonyms.of(message.sender),
            "shared_at": date(at),
            "prompt": self._seal.close(prompt_text.encode(), f"{message.event_id} prompt"),
            "reply": self._seal.close(reply_text.encode(), f"{message.event_id} reply_text"),
        }

        async def work(connection: AsyncConnection) -> None:
            statement = self._insert(shared).values(key | row)
            await connection.execute(statement.on_conflict_do_nothing())

        await self._database.run("share", work, durable=True)

    async def withdraw(self, event_id: EventId) -> None:
        """Delete what a redacted event has said or shared, and the planned poll about it."""

        async def work(connection: AsyncConnection) -> None:
            planned = polls.c.prompt_event_id == event_id, polls.c.event_id.is_(None)
            await connection.execute(delete(polls).where(*planned))
            written = or_(comments.c.event_id == event_id, comments.c.edit_id == event_id)
            await connection.execute(delete(comments).where(written))
            handed_over = or_(shared.c.event_id == event_id, shared.c.prompt_event_id == event_id)
            await connection.execute(delete(shared).where(handed_over))
            deleted = await connection.execute(
                delete(opinions)
                .where(or_(opinions.c.event_id == event_id, opinions.c.edit_id == event_id))
                .returning(opinions.c.prompt_event_id, opinions.c.person, opinions.c.timestamp)
            )
            for prompt, person, timestamp in deleted.all():
                await self._update_rating(connection, prompt, person, timestamp / 1000)

        await self._database.run("withdraw", work, durable=True)

    def pseudonym(self, user_id: UserId) -> str:
        """Return the pseudonym under which a person is stored."""
        return self._pseudonyms.of(user_id)

    async def ratings(self, at_once: int) -> AsyncGenerator[Page, None]:
        """Yield the ratings, one row for each person and reply, with RATING_COLUMNS."""
        key = ratings.c.prompt_event_id, ratings.c.person
        after: tuple[str, ...] = ("", "")
        while page := await self._database.run("ratings", page_of(ratings, key, after, at_once)):
            yield [self._named(row) for row in page]
            after = page[-1]["prompt_event_id"], page[-1]["person"]

    async def comments(self, at_once: int) -> AsyncGenerator[Page, None]:
        """Yield the comments, one row for each, with COMMENT_COLUMNS."""
        key, after = (comments.c.event_id,), ("",)
        while page := await self._database.run("comments", page_of(comments, key, after, at_once)):
            yield [self._named(row) | {"comment": self._open(row)} for row in page]
            after = (page[-1]["event_id"],)

    def _named(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row with a pseudonym for its reply, by which a reader cannot find the reply."""
        prompt = row["prompt_event_id"]
        return row | {"reply": self._pseudonyms.of(prompt) if prompt else None}

    async def shared(self, at_once: int) -> AsyncGenerator[Page, None]:
        """Yield the shared prompts and replies, one row for each pair, with SHARED_COLUMNS."""
        key, after = (shared.c.event_id,), ("",)
        while page := await self._database.run("shared", page_of(shared, key, after, at_once)):
            yield [
                self._named(row)
                | {name: self._open(row, name, f" {name}") for name in ("prompt", "reply_text")}
                for row in ({**row, "reply_text": row["reply"]} for row in page)
            ]
            after = (page[-1]["event_id"],)

    def _open(self, row: Mapping[str, Any], name: str = "comment", suffix: str = "") -> str | None:
        """Return the decrypted text of a column; None if it was encrypted with another key."""
        try:
            return self._seal.open(row[name], f"{row['event_id']}{suffix}").decode()
        except ValueError:
            return None

    async def _store(
        self,
        connection: AsyncConnection,
        event_id: EventId,
        prompt: EventId,
        person: str,
        opinion: Opinion,
        *,
        counts: bool = True,
    ) -> None:
        statement = self._insert(opinions).values(
            event_id=event_id,
            prompt_event_id=prompt,
            person=person,
            question=opinion.question,
            answer=opinion.answer,
            timestamp=opinion.timestamp,
            poll_id=opinion.poll,
            counts=counts,
        )
        await connection.execute(statement.on_conflict_do_nothing())

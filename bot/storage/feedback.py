"""The `Opinions` port on SQLAlchemy: polls about replies, votes, ratings and comments."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from sqlalchemy import (
    delete,
    func,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from bot.core.events import (
    Conversation,
    EventId,
    Message,
    Prompt,
    Reaction,
    RoomId,
    UserId,
    Vote,
)
from bot.core.feedback import (
    ANSWERS,
    Ask,
    AskHistory,
    Opinion,
    Question,
    Rating,
    ReplyMetadata,
    VoteOutcome,
    asks_why,
)
from bot.core.polls import chosen
from bot.monitoring.health import Health
from bot.storage.comments import SqlComments
from bot.storage.daily_counters import reply_counted
from bot.storage.feedback_queries import (
    ask_history,
    ask_of,
    context_of,
    key_of,
    matches,
    poll_at,
    thank,
    waits_in,
)
from bot.storage.rows import date, seconds
from bot.storage.second_connection import open_beside
from bot.storage.tables import (
    choices,
    circumstances,
    people,
    polls,
)

_AT_ONCE = 100  # largest number of due polls that are returned at once


class SqlFeedback(SqlComments):
    """The `Opinions` port, in the ledger's database."""

    @classmethod
    async def open_to_read(cls, location: Path | str, secret: str, health: Health) -> Self:
        """Open a ledger that an assistant may be using.

        Args:
            location: a SQLite file, or the libpq URL of a PostgreSQL database.
            secret: the operator's secret.
            health: receives failures.

        Raises:
            StoreError: the database cannot be read, or is no ledger of this version.
        """
        return cls(await open_beside(location, health), secret)

    async def close(self) -> None:
        """Close the connections."""
        await self._database.close()

    async def answered(
        self,
        prompt: Prompt,
        how: ReplyMetadata,
        after: Callable[[AskHistory], float | None],
        at: float,
    ) -> float | None:
        """Record how a reply was made, and plan the poll about it; return when that is due."""
        person = self._pseudonyms.of(how.sender)
        conversation = key_of(prompt.conversation)
        key = {"prompt_event_id": prompt.event_id}
        row = conversation | {"person": person} | context_of(how, at)

        async def work(connection: AsyncConnection) -> float | None:
            statement = self._insert(circumstances).values(key | row)
            known = {
                name: func.coalesce(statement.excluded[name], circumstances.c[name])
                for name in row
            }
            async with reply_counted(connection, prompt.event_id):
                await connection.execute(
                    statement.on_conflict_do_update(index_elements=list(key), set_=known)
                )
            await self._update_ratings(connection, prompt.event_id, at)
            past = await ask_history(connection, prompt, person, at)
            wait = after(past)
            if past.waiting:
                await connection.execute(delete(polls).where(waits_in(conversation)))
            if wait is None:
                return None
            due_at = at + wait
            await self._plan(connection, prompt.event_id, "helped", conversation, person, due_at)
            return due_at

        return await self._database.run("answered", work)

    async def _plan(
        self,
        connection: AsyncConnection,
        prompt: str,
        question: Question,
        conversation: dict[str, str],
        person: str,
        due_at: float,
    ) -> bool:
        """Insert a poll to be sent; return False if there is one for the question already."""
        subject = {"prompt_event_id": prompt, "question": question, "person": person}
        statement = self._insert(polls).values(
            subject | conversation | {"due_at": date(due_at), "planned_at": date(due_at)}
        )
        return bool((await connection.execute(statement.on_conflict_do_nothing())).rowcount)

    async def due(self, now: float) -> tuple[Sequence[Ask], float | None]:
        """Return the polls that are due by `now`, and when the next one is due."""
        waiting = select(polls).where(polls.c.event_id.is_(None)).order_by(polls.c.due_at)

        async def work(connection: AsyncConnection) -> tuple[list[Ask], float | None]:
            found = (await connection.execute(waiting.limit(_AT_ONCE + 1))).mappings()
            asks = [ask_of(row) for row in found]
            ready = [one for one in asks[:_AT_ONCE] if one.due_at <= now]
            rest = asks[len(ready) :]
            return ready, rest[0].due_at if rest else None

        return await self._database.run("due", work)

    async def poll_sent(self, ask: Ask, event_id: EventId, at: float, closes_at: float) -> None:
        """Record that a poll was sent, and until when votes count."""
        sent = {"event_id": event_id, "sent_at": date(at), "closes_at": date(closes_at)}

        async def work(connection: AsyncConnection) -> None:
            async with reply_counted(connection, ask.prompt):
                await connection.execute(
                    update(polls).where(polls.c.id == ask.number).values(sent)
                )

        await self._database.run("asked", work, durable=True)

    async def begin(self, ask: Ask) -> bool:
        """Record that a poll may be sent from now on; return whether it is still wanted."""

        async def work(connection: AsyncConnection) -> bool:
            begun = await connection.execute(
                update(polls).where(polls.c.id == ask.number).values(begun=True)
            )
            return bool(begun.rowcount)

        return await self._database.run("begin", work)

    async def is_begun(self, room_id: RoomId) -> bool:
        """Return whether the room may have a poll that is not recorded as sent yet."""

        async def work(connection: AsyncConnection) -> bool:
            here = polls.c.room_id == room_id, polls.c.begun, polls.c.event_id.is_(None)
            return await connection.scalar(select(polls.c.id).where(*here).limit(1)) is not None

        return await self._database.run("is_begun", work)

    async def put_off(self, ask: Ask, due_at: float) -> None:
        """Record that a poll will be sent later."""
        later = {"due_at": date(due_at)}

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(update(polls).where(polls.c.id == ask.number).values(later))

        await self._database.run("put_off", work)

    async def drop(self, ask: Ask) -> None:
        """Delete a poll that was not sent."""

        async def work(connection: AsyncConnection) -> None:
            unsent = polls.c.id == ask.number, polls.c.event_id.is_(None)
            await connection.execute(delete(polls).where(*unsent))

        await self._database.run("drop", work)

    async def poll(self, room_id: RoomId, event_id: EventId) -> Ask | None:
        """Return the poll that an event of the room is; None if it is none."""

        async def work(connection: AsyncConnection) -> Ask | None:
            row = await poll_at(connection, room_id, event_id)
            return None if row is None else ask_of(row)

        return await self._database.run("poll", work)

    async def count(self, vote: Vote, at: float) -> VoteOutcome | None:
        """Store a vote; plan the next question if there is one."""
        person = self._pseudonyms.of(vote.sender)

        async def work(connection: AsyncConnection) -> VoteOutcome | None:
            row = await poll_at(connection, vote.room_id, vote.target)
            if row is None:
                return None
            ask = ask_of(row)
            answer = chosen(vote.answers, ANSWERS[ask.question])
            in_time = vote.timestamp / 1000 <= seconds(row["closes_at"])
            counts = in_time and person == row["person"]
            opinion = Opinion(ask.question, answer, vote.timestamp, ask.number)
            await self._store(
                connection, vote.event_id, ask.prompt, person, opinion, counts=counts
            )
            if not counts:
                return None
            await self._update_rating(connection, ask.prompt, person, at)
            goes_on = ask.question == "helped" and asks_why(answer)
            if goes_on:
                conversation = {name: row[name] for name in ("room_id", "thread_root")}
                goes_on = await self._plan(connection, ask.prompt, "why", conversation, person, at)
            done = answer is not None and not asks_why(answer)
            thanks = done and await thank(connection, ask.prompt)
            return VoteOutcome(ask, answer, thanks=thanks, goes_on=goes_on)

        return await self._database.run("count", work, durable=True)

    async def rate(
        self, event: Reaction | Message, prompt: EventId, answer: Rating, at: float
    ) -> None:
        """Store a rating that was given without a poll."""
        person = self._pseudonyms.of(event.sender)
        opinion = Opinion("helped", answer, event.timestamp)

        async def work(connection: AsyncConnection) -> None:
            await self._store(connection, event.event_id, prompt, person, opinion)
            await self._update_rating(connection, prompt, person, at)

        await self._database.run("rate", work, durable=True)

    async def last_answered(self, conversation: Conversation) -> EventId | None:
        """Return the prompt of the last reply in a conversation."""

        async def work(connection: AsyncConnection) -> EventId | None:
            found = await connection.scalar(
                select(circumstances.c.prompt_event_id)
                .where(*matches(circumstances, key_of(conversation)))
                .order_by(circumstances.c.answered_at.desc())
                .limit(1)
            )
            return EventId(found) if found else None

        return await self._database.run("last_answered", work)

    async def want_polls(self, whose: UserId | RoomId, *, wanted: bool) -> None:
        """Record whether a person, or everybody in a room, may be sent polls at all."""
        if whose.startswith("@"):
            table, key = people, {"person": self._pseudonyms.of(UserId(whose))}
        else:
            table, key = choices, {"room_id": whose, "thread_root": ""}

        waiting = polls.c.person == key.get("person"), polls.c.event_id.is_(None)
        if "room_id" in key:
            waiting = polls.c.room_id == whose, polls.c.event_id.is_(None)

        async def work(connection: AsyncConnection) -> None:
            if not wanted:
                await connection.execute(delete(polls).where(*waiting, polls.c.begun.is_(False)))
            statement = self._insert(table).values(key | {"polls": wanted})
            await connection.execute(
                statement.on_conflict_do_update(index_elements=list(key), set_={"polls": wanted})
            )

        await self._database.run("want_polls", work, durable=True)

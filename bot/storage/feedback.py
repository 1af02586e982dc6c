"""The `Opinions` port on SQLAlchemy: polls about replies, votes, ratings and comments."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self, cast

from sqlalchemy import (
    RowMapping,
    Select,
    Table,
    and_,
    delete,
    exists,
    func,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from bot.core.events import (
    Conversation,
    Edit,
    EventId,
    Message,
    Prompt,
    Reaction,
    RoomId,
    UserId,
    Vote,
    server_name,
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
    answer_of,
    asks_why,
    reason_of,
)
from bot.core.polls import chosen
from bot.monitoring.health import Health
from bot.runtime.encryption import Pseudonyms, Seal
from bot.storage.daily_counters import rating_counted, reply_counted
from bot.storage.database import Database, Work
from bot.storage.rows import date, seconds
from bot.storage.second_connection import open_beside
from bot.storage.tables import (
    CONTEXT,
    choices,
    circumstances,
    comments,
    opinions,
    people,
    polls,
    ratings,
    shared,
)

Page = Sequence[Mapping[str, Any]]

_DAY = 86_400.0
_AT_ONCE = 100  # largest number of due polls that are returned at once

# The columns of the exported tables, in this order.
RATING_COLUMNS: Final = (
    *("reply", "person", "asker", "source", "answer", "reason", "rated_at"),
    *CONTEXT,
)
SHARED_COLUMNS: Final = ("reply", "person", "shared_at", "prompt", "reply_text")
COMMENT_COLUMNS: Final = ("reply", "person", "written_at", "comment")


class SqlFeedback:
    """The `Opinions` port, in the ledger's database."""

    def __init__(self, database: Database, secret: str) -> None:
        """Use the ledger's database, and the operator's secret for encryption and pseudonyms."""
        self._database = database
        self._seal = Seal(secret)
        self._pseudonyms = Pseudonyms(secret)
        self._insert = sqlite.insert if database.is_sqlite else postgresql.insert

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

    @property
    def database(self) -> Database:
        """The database that holds the ledger."""
        return self._database

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
        conversation = _key_of(prompt.conversation)
        key = {"prompt_event_id": prompt.event_id}
        row = conversation | {"person": person} | _context_of(how, at)

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
            past = await _ask_history(connection, prompt, person, at)
            wait = after(past)
            if past.waiting:
                await connection.execute(delete(polls).where(_waits_in(conversation)))
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
            asks = [_ask(row) for row in found]
            ready = [one for one in asks[:_AT_ONCE] if one.due_at <= now]
            rest = asks[len(ready) :]
            return ready, rest[0].due_at if rest else None

        return await self._database.run("due", work)

    async def asked(self, ask: Ask, event_id: EventId, at: float, closes_at: float) -> None:
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
            row = await _poll(connection, room_id, event_id)
            return None if row is None else _ask(row)

        return await self._database.run("poll", work)

    async def count(self, vote: Vote, at: float) -> VoteOutcome | None:
        """Store a vote; plan the next question if there is one."""
        person = self._pseudonyms.of(vote.sender)

        async def work(connection: AsyncConnection) -> VoteOutcome | None:
            row = await _poll(connection, vote.room_id, vote.target)
            if row is None:
                return None
            ask = _ask(row)
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
            thanks = done and await _thank(connection, ask.prompt)
            return VoteOutcome(ask, answer, thanks=thanks, goes_on=goes_on)

        return await self._database.run("count", work, durable=True)

    async def rate(
        self, said: Reaction | Message, prompt: EventId, answer: Rating, at: float
    ) -> None:
        """Store a rating that was given without a poll."""
        person = self._pseudonyms.of(said.sender)
        opinion = Opinion("helped", answer, said.timestamp)

        async def work(connection: AsyncConnection) -> None:
            await self._store(connection, said.event_id, prompt, person, opinion)
            await self._update_rating(connection, prompt, person, at)

        await self._database.run("rate", work, durable=True)

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
            .where(*_is(opinions, key), opinions.c.counts)
            .order_by(opinions.c.timestamp, opinions.c.event_id)
        )
        theirs = [_opinion(row) for row in found.mappings()]
        helped = answer_of(theirs, "helped")
        if helped is None:
            async with rating_counted(connection, prompt, person):
                await connection.execute(delete(ratings).where(*_is(ratings, key)))
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

    async def comment(self, said: Message, prompt: EventId | None, at: float) -> None:
        """Store a comment."""
        person = self._pseudonyms.of(said.sender)

        async def work(connection: AsyncConnection) -> None:
            await self._keep(connection, said.event_id, prompt, person, said.body, at)

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

    async def is_said(self, event_id: EventId) -> bool:
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
        rated = *_is(opinions, key), opinions.c.poll_id.is_(None)

        async def work(connection: AsyncConnection) -> None:
            for table, where in ((comments, _is(comments, key)), (opinions, rated)):
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
        self, said: Message, prompt: EventId, exchange: tuple[str, str], at: float
    ) -> None:
        """Store the encrypted text of a prompt and its reply, until it is withdrawn."""
        prompt_text, reply_text = exchange
        key = {"event_id": said.event_id}
        row = {
            "prompt_event_id": prompt,
            "person": self._pseudonyms.of(said.sender),
            "shared_at": date(at),
            "prompt": self._seal.close(prompt_text.encode(), f"{said.event_id} prompt"),
            "reply": self._seal.close(reply_text.encode(), f"{said.event_id} reply_text"),
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

    async def last_answered(self, conversation: Conversation) -> EventId | None:
        """Return the prompt of the last reply in a conversation."""

        async def work(connection: AsyncConnection) -> EventId | None:
            found = await connection.scalar(
                select(circumstances.c.prompt_event_id)
                .where(*_is(circumstances, _key_of(conversation)))
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

    def pseudonym(self, user_id: UserId) -> str:
        """Return the pseudonym under which a person is stored."""
        return self._pseudonyms.of(user_id)

    async def ratings(self, at_once: int) -> AsyncGenerator[Page, None]:
        """Yield the ratings, one row for each person and reply, with RATING_COLUMNS."""
        key = ratings.c.prompt_event_id, ratings.c.person
        after: tuple[str, ...] = ("", "")
        while page := await self._database.run("ratings", _page(ratings, key, after, at_once)):
            yield [self._named(row) for row in page]
            after = page[-1]["prompt_event_id"], page[-1]["person"]

    async def comments(self, at_once: int) -> AsyncGenerator[Page, None]:
        """Yield the comments, one row for each, with COMMENT_COLUMNS."""
        key, after = (comments.c.event_id,), ("",)
        while page := await self._database.run("comments", _page(comments, key, after, at_once)):
            yield [self._named(row) | {"comment": self._open(row)} for row in page]
            after = (page[-1]["event_id"],)

    def _named(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row with a pseudonym for its reply, by which a reader cannot find the reply."""
        prompt = row["prompt_event_id"]
        return row | {"reply": self._pseudonyms.of(prompt) if prompt else None}

    async def shared(self, at_once: int) -> AsyncGenerator[Page, None]:
        """Yield the shared prompts and replies, one row for each pair, with SHARED_COLUMNS."""
        key, after = (shared.c.event_id,), ("",)
        while page := await self._database.run("shared", _page(shared, key, after, at_once)):
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


def _page(
    table: Table, key: tuple[Any, ...], after: tuple[str, ...], most: int
) -> Work[list[dict[str, Any]]]:
    """Return the work that reads the rows after a key, in the key's order."""
    query = select(table).where(tuple_(*key) > after).order_by(*key).limit(most)

    async def work(connection: AsyncConnection) -> list[dict[str, Any]]:
        return [dict(row) for row in (await connection.execute(query)).mappings()]

    return work


def _key_of(conversation: Conversation) -> dict[str, str]:
    return {"room_id": conversation.room_id, "thread_root": conversation.thread_root or ""}


def _is(table: Any, key: dict[str, str]) -> list[Any]:  # noqa: ANN401  # any of the tables
    return [table.c[name] == value for name, value in key.items()]


def _waits_in(conversation: dict[str, str]) -> Any:  # noqa: ANN401  # SQLAlchemy's type is generic
    """Return the SQL condition for the unsent "helped" polls of a conversation."""
    unsent = polls.c.event_id.is_(None), polls.c.begun.is_(False)
    return and_(*_is(polls, conversation), *unsent, polls.c.question == "helped")


def _context_of(how: ReplyMetadata, at: float) -> dict[str, Any]:
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


async def _ask_history(
    connection: AsyncConnection, prompt: Prompt, person: str, at: float
) -> AskHistory:
    """Return the earlier polls of a person and of a prompt's conversation."""
    conversation = _key_of(prompt.conversation)
    refuses = select(people.c.person).where(people.c.person == person, people.c.polls.is_(False))
    none_here = select(choices.c.room_id).where(
        *_is(choices, conversation | {"thread_root": ""}), choices.c.polls.is_(False)
    )
    recent = select(func.count()).where(
        polls.c.person == person,
        polls.c.question == "helped",
        or_(polls.c.sent_at > date(at - _DAY), polls.c.event_id.is_(None)),
        ~_waits_in(conversation),
    )
    before = (
        select(circumstances.c.prompt_event_id)
        .where(
            *_is(circumstances, conversation | {"person": person}),
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
        waiting=await exist(select(polls.c.id).where(_waits_in(conversation))),
    )


async def _poll(
    connection: AsyncConnection, room_id: RoomId, event_id: EventId
) -> RowMapping | None:
    found = await connection.execute(
        select(polls).where(polls.c.event_id == event_id, polls.c.room_id == room_id)
    )
    return found.mappings().one_or_none()


async def _thank(connection: AsyncConnection, prompt: str) -> bool:
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


def _ask(row: RowMapping) -> Ask:
    root = row["thread_root"]
    return Ask(
        row["id"],
        EventId(row["prompt_event_id"]),
        cast("Question", row["question"]),
        RoomId(row["room_id"]),
        EventId(root) if root else None,
        seconds(row["due_at"]),
        seconds(row["planned_at"]),
        begun=row["begun"],
    )


def _opinion(row: RowMapping) -> Opinion:
    question = cast("Question", row["question"])
    return Opinion(question, row["answer"], row["timestamp"], row["poll_id"])

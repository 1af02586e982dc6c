"""The answers to campaigns, in the ledger's database."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final, Literal

from sqlalchemy import (
    and_,
    delete,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from bot.core.campaigns import (
    AskedQuestion,
    CampaignResults,
)
from bot.core.events import Edit, EventId, Message, RoomId, Vote
from bot.runtime.encryption import Pseudonyms, Seal
from bot.storage.campaign_queries import (
    answers_of,
    count_answers,
    in_room,
    is_in_time,
    number_of,
    recipient_room,
)
from bot.storage.database import Database
from bot.storage.rows import date
from bot.storage.tables import answers, asks, campaigns, recipients

# The columns of the exported table, in this order.
ANSWER_COLUMNS: Final = (
    *("campaign", "question", "person", "answer", "text", "answered_at", "counts"),
)


class SqlCampaignAnswers:
    """The part of the `CampaignLedger` port that is about answers."""

    def __init__(self, database: Database, secret: str) -> None:
        """Use the ledger's database, and the operator's secret for encryption and pseudonyms."""
        self._database = database
        self._seal = Seal(secret)
        self._pseudonyms = Pseudonyms(secret)
        self._insert = sqlite.insert if database.is_sqlite else postgresql.insert

    async def question_at(self, room_id: RoomId, event_id: EventId) -> AskedQuestion | None:
        """Return the campaign question that an event of the room is; None if it is none."""
        query = (
            select(
                campaigns.c.name, asks.c.question, recipients.c.person, recipients.c.thread_root
            )
            .join(campaigns, campaigns.c.id == asks.c.campaign_id)
            .join(
                recipients,
                and_(
                    recipients.c.campaign_id == asks.c.campaign_id,
                    recipients.c.room_id == asks.c.room_id,
                ),
            )
            .where(asks.c.event_id == event_id, asks.c.room_id == room_id)
        )

        async def work(connection: AsyncConnection) -> AskedQuestion | None:
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                return None
            return AskedQuestion(
                row.name, row.question, recipient_room(room_id, row.person, row.thread_root)
            )

        return await self._database.run("asked_by", work)

    async def withdraw(self, event_id: EventId) -> None:
        """Delete the answer that a redacted event gave."""

        async def work(connection: AsyncConnection) -> None:
            given = or_(answers.c.event_id == event_id, answers.c.edit_id == event_id)
            await connection.execute(delete(answers).where(given))

        await self._database.run("answer_withdrawn", work, durable=True)

    async def amend(self, edit: Edit) -> None:
        """Replace an answer in words with the text of its author's edit."""
        person = self._pseudonyms.of(edit.sender)
        sealed = self._seal.close(edit.body.encode(), edit.target)

        async def work(connection: AsyncConnection) -> None:
            theirs = answers.c.event_id == edit.target, answers.c.person == person
            written = update(answers).where(*theirs, answers.c.text.is_not(None))
            await connection.execute(written.values(text=sealed, edit_id=edit.event_id))

        await self._database.run("answer_amended", work, durable=True)

    async def answer(
        self,
        response: Vote | Message,
        question: AskedQuestion,
        answer: str | None,
        *,
        step: int,
        steps: int,
        at: float,
    ) -> Literal["goes on", "thanks", "counts", "late"]:
        """Store an answer, and make the next step due; safe to repeat.

        Args:
            response: the vote, or the message that answers in words.
            question: the question.
            answer: id of the chosen answer; None for words, or for a vote that is taken back.
            step: the question's step.
            steps: number of steps of the campaign.
            at: the current time, in seconds since the epoch.

        Returns:
            The consequence; "late" as well for somebody who was not asked.
        """
        person = self._pseudonyms.of(response.sender)
        text = response.body.encode() if isinstance(response, Message) else None
        row = {
            "event_id": response.event_id,
            "room_id": question.recipient.room_id,
            "question": question.question,
            "person": person,
            "answer": answer,
            "text": None if text is None else self._seal.close(text, response.event_id),
            "timestamp": response.timestamp,
        }

        async def work(
            connection: AsyncConnection,
        ) -> Literal["goes on", "thanks", "counts", "late"]:
            number = await number_of(connection, question.campaign)
            here = in_room(number, question.recipient.room_id)
            to = (await connection.execute(select(recipients).where(*here))).one()
            in_time = await is_in_time(connection, number, question, response.timestamp / 1000)
            counts = in_time and to.person in {None, person}
            statement = self._insert(answers).values(campaign_id=number, counts=counts, **row)
            stored = await connection.execute(statement.on_conflict_do_nothing())
            if not counts:
                return "late"
            if to.person is None or (answer is None and text is None) or to.step != step + 1:
                return "counts"
            more = step + 1 < steps
            await connection.execute(
                update(recipients)
                .where(*here)
                .values(
                    due_at=date(at) if more else None,
                    remind_at=None,
                    completed_at=None if more else func.coalesce(to.completed_at, date(at)),
                )
            )
            if more:
                return "goes on"
            is_repeated = not stored.rowcount  # the thanks may have been lost in a crash
            return "thanks" if is_repeated or to.completed_at is None else "counts"

        return await self._database.run("answer", work, durable=True)

    async def answers(self, at_once: int) -> AsyncGenerator[Sequence[Mapping[str, Any]], None]:
        """Yield all answers, one row for each vote or text, with ANSWER_COLUMNS."""
        after = ""
        while page := await self._answers_after(after, at_once):
            yield [self._opened(row) for row in page]
            after = page[-1]["event_id"]

    async def _answers_after(self, after: str, at_once: int) -> list[dict[str, Any]]:
        query = (
            select(answers, campaigns.c.name.label("campaign"))
            .join(campaigns, campaigns.c.id == answers.c.campaign_id)
            .where(answers.c.event_id > after)
            .order_by(answers.c.event_id)
            .limit(at_once)
        )

        async def work(connection: AsyncConnection) -> list[dict[str, Any]]:
            return [dict(row) for row in (await connection.execute(query)).mappings()]

        return await self._database.run("answers", work)

    def _opened(self, row: dict[str, Any]) -> dict[str, Any]:
        text, at = row["text"], row["timestamp"] / 1000
        try:
            words = None if text is None else self._seal.open(text, row["event_id"]).decode()
        except ValueError:  # another storage.key
            words = None
        return row | {"text": words, "answered_at": date(at)}

    async def results(self, name: str) -> CampaignResults | None:
        """Return a campaign's results so far; None if there is none of that name."""

        async def work(connection: AsyncConnection) -> CampaignResults | None:
            query = select(campaigns.c.id, campaigns.c.state).where(campaigns.c.name == name)
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                return None
            counted = await connection.execute(
                select(
                    func.count(),
                    func.count(recipients.c.reached_at),
                    func.count().filter(recipients.c.declined, recipients.c.reached_at.is_(None)),
                    func.count(recipients.c.completed_at),
                ).where(recipients.c.campaign_id == row.id)
            )
            rooms, reached, declined, completed = counted.one()
            counts, texts = count_answers(await answers_of(connection, row.id))
            answered = await connection.scalar(
                select(func.count(answers.c.room_id.distinct())).where(
                    answers.c.campaign_id == row.id, answers.c.counts
                )
            )
            return CampaignResults(
                state=row.state,
                rooms=rooms,
                reached=reached,
                declined=declined,
                answered=answered or 0,
                completed=completed,
                answers=counts,
                texts=texts,
            )

        return await self._database.run("progress", work)

    async def poll_result(
        self, room_id: RoomId, event_id: EventId
    ) -> tuple[str, Mapping[str, int]] | None:
        """Return a poll's question key, and how often each answer was chosen in the room."""
        query = select(asks.c.campaign_id, asks.c.question).where(asks.c.event_id == event_id)

        async def work(connection: AsyncConnection) -> tuple[str, Mapping[str, int]] | None:
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                return None
            here = answers.c.room_id == room_id, answers.c.question == row.question
            counts, _ = count_answers(await answers_of(connection, row.campaign_id, *here))
            return row.question, counts.get(row.question, {})

        return await self._database.run("result", work)

"""The `CampaignLedger` port on SQLAlchemy: due messages, sent questions, and their answers."""

import math
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import structlog
from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    and_,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from bot.core.campaigns import (
    CLOSED,
    Asked,
    CampaignResults,
    DeliveryProgress,
    Recipient,
    RecipientRoom,
    Sending,
)
from bot.core.events import Edit, EventId, Message, Room, RoomId, Vote
from bot.runtime.encryption import Pseudonyms, Seal
from bot.storage.database import Database
from bot.storage.rows import date, seconds
from bot.storage.tables import answers, asks, campaigns, choices, circumstances, people, recipients

log = structlog.get_logger()

_DAY: Final = 86_400.0
_SOON: Final = 300.0  # seconds until a step that another campaign has begun is surely recorded
_UNFINISHED: Final = ("running", "closing")
# The columns of the exported table, in this order.
ANSWER_COLUMNS: Final = (
    *("campaign", "question", "person", "answer", "text", "answered_at", "counts"),
)


@dataclass(frozen=True, slots=True)
class _Answer:
    person: str
    question: str
    answer: str | None
    text: bool
    timestamp: int


class SqlCampaigns:
    """The `CampaignLedger` port, in the ledger's database."""

    def __init__(self, database: Database, secret: str) -> None:
        """Use the ledger's database, and the operator's secret for encryption and pseudonyms."""
        self._database = database
        self._seal = Seal(secret)
        self._pseudonyms = Pseudonyms(secret)
        self._insert = sqlite.insert if database.is_sqlite else postgresql.insert

    async def draft(self, name: str, definition: str, at: float) -> bool:
        """Store a draft, in place of one of that name; False if a campaign of it was launched."""
        sealed = self._seal.close(definition.encode(), name)
        row = {"definition": sealed, "created_at": date(at)}

        async def work(connection: AsyncConnection) -> bool:
            statement = self._insert(campaigns).values(name=name, state="draft", **row)
            done = await connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["name"], set_=row, where=campaigns.c.state == "draft"
                )
            )
            return bool(done.rowcount)

        return await self._database.run("draft", work, durable=True)

    async def definition(self, name: str) -> str | None:
        """Return a campaign's definition; None if it is unknown or cannot be decrypted."""

        async def work(connection: AsyncConnection) -> bytes | None:
            found: bytes | None = await connection.scalar(
                select(campaigns.c.definition).where(campaigns.c.name == name)
            )
            return found

        sealed = await self._database.run("definition", work)
        try:
            return None if sealed is None else self._seal.open(sealed, name).decode()
        except ValueError:  # another storage.key
            log.error("campaign not opened", campaign=name)  # noqa: TRY400  # the traceback says no more
            return None

    async def names(self) -> Sequence[tuple[str, str]]:
        """Return each campaign's name and state, newest first."""

        async def work(connection: AsyncConnection) -> list[tuple[str, str]]:
            query = select(campaigns.c.name, campaigns.c.state).order_by(campaigns.c.id.desc())
            return [(name, state) for name, state in (await connection.execute(query)).all()]

        return await self._database.run("names", work)

    async def active(self) -> dict[RoomId, float]:
        """Return when the bot last answered a prompt in each room."""

        async def work(connection: AsyncConnection) -> dict[RoomId, float]:
            last = func.max(circumstances.c.answered_at)
            query = select(circumstances.c.room_id, last).group_by(circumstances.c.room_id)
            found = (await connection.execute(query)).all()
            return {RoomId(room_id): seconds(at) for room_id, at in found if at is not None}

        return await self._database.run("active", work)

    async def launch(
        self, name: str, to: Sequence[Recipient], begins_at: float, ends_at: float | None
    ) -> bool:
        """Start a draft for these rooms; False if there is no draft of that name."""

        async def work(connection: AsyncConnection) -> bool:
            number = await connection.scalar(
                update(campaigns)
                .where(campaigns.c.name == name, campaigns.c.state == "draft")
                .values(state="running", ends_at=None if ends_at is None else date(ends_at))
                .returning(campaigns.c.id)
            )
            if number is None:
                return False
            rows = [
                {
                    "campaign_id": number,
                    "room_id": one.room_id,
                    "person": self._pseudonyms.of(one.person) if one.person else None,
                    "step": 0,
                    "due_at": date(begins_at),
                }
                for one in to
            ]
            if rows:
                await connection.execute(insert(recipients), rows)
            return True

        return await self._database.run("launch", work, durable=True)

    async def running(self) -> Sequence[str]:
        """Return the campaigns that still have something to send, or to tell the admins."""
        unreported = and_(campaigns.c.state == "closed", campaigns.c.told < CLOSED)
        query = select(campaigns.c.name).where(or_(campaigns.c.state.in_(_UNFINISHED), unreported))

        async def work(connection: AsyncConnection) -> list[str]:
            return list(await connection.scalars(query.order_by(campaigns.c.id)))

        return await self._database.run("running", work)

    async def due(self, name: str, now: float) -> tuple[Sending | None, float | None] | None:
        """Return the first message that is due by `now`, and when the next one is due.

        None if the campaign has nothing left to send. If its end has passed, there is no message
        and the time is in the past: the campaign must be closed.
        """
        query = select(campaigns.c.id, campaigns.c.state, campaigns.c.ends_at).where(
            campaigns.c.name == name, campaigns.c.state.in_(_UNFINISHED)
        )

        async def work(connection: AsyncConnection) -> tuple[float | None, Sequence[Sending]]:
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                return None, ()
            if row.state == "closing":
                return math.inf, await _closing(connection, row.id, name)
            ends_at = math.inf if row.ends_at is None else seconds(row.ends_at)
            return ends_at, await _waiting(connection, row.id, name)

        ends_at, found = await self._database.run("due_of", work)
        if ends_at is None:
            return None
        if ends_at <= now:
            return None, ends_at
        ready = next((one for one in found if one.due_at <= now), None)
        next_at = min([ends_at, *(one.due_at for one in found if one.due_at > now)])
        return ready, None if next_at == math.inf else next_at

    async def sent(
        self,
        one: Sending,
        event_id: EventId,
        at: float,
        *,
        question: tuple[str, bool] | None,
        next_due: float | None,
        remind_at: float | None,
    ) -> None:
        """Record that a step was sent.

        Args:
            one: the step.
            event_id: its event.
            at: time of the sending, in seconds since the epoch.
            question: the question's key, and whether it is a poll; None for a plain message.
            next_due: time of the next step; None if it waits for an answer, or there is none.
            remind_at: time of the reminder; None for no reminder.
        """
        room_id, thread = one.recipient.room_id, one.recipient.thread_root
        root = thread if one.recipient.direct else thread or event_id
        row = {
            "step": one.step + 1,
            "due_at": None if next_due is None else date(next_due),
            "remind_at": None if remind_at is None else date(remind_at),
            "reached_at": func.coalesce(recipients.c.reached_at, date(at)),
            "thread_root": root,
            "event_id": event_id,
            "begun": False,
        }

        async def work(connection: AsyncConnection) -> None:
            number = await _number(connection, one.campaign)
            runs = await _reopen(connection, number, poll=question is not None and question[1])
            if not runs:
                row.update(due_at=None, remind_at=None)
            # If the step was answered before this is recorded, the next step is due already.
            here = *_at(number, room_id), recipients.c.step == one.step
            await connection.execute(update(recipients).where(*here).values(row))
            if question is not None:
                key, poll = question
                statement = self._insert(asks).values(
                    campaign_id=number,
                    room_id=room_id,
                    question=key,
                    event_id=event_id,
                    sent_at=date(at),
                    poll=poll,
                )
                await connection.execute(statement.on_conflict_do_nothing())
            if not runs:
                await _close_if_done(connection, number)

        await self._database.run("campaign_sent", work, durable=True)

    async def reminded(self, one: Sending) -> None:
        """Record that a reminder was sent, or is not needed."""

        async def work(connection: AsyncConnection) -> None:
            number = await _number(connection, one.campaign)
            here = _at(number, one.recipient.room_id)
            await connection.execute(update(recipients).where(*here).values(remind_at=None))

        await self._database.run("reminded", work, durable=True)

    async def ended(self, one: Sending) -> None:
        """Record that a poll was ended; a closing campaign is closed with its last poll."""

        async def work(connection: AsyncConnection) -> None:
            number = await _number(connection, one.campaign)
            await connection.execute(
                update(asks).where(asks.c.event_id == one.event_id).values(ended=True)
            )
            await _close_if_done(connection, number)

        await self._database.run("ended", work, durable=True)

    async def put_off(self, one: Sending, due_at: float) -> None:
        """Record that a message will be sent later."""
        later = date(due_at)

        async def work(connection: AsyncConnection) -> None:
            number = await _number(connection, one.campaign)
            here = _at(number, one.recipient.room_id)
            if one.kind == "end":  # so that other polls are ended first
                ended = update(asks).where(asks.c.event_id == one.event_id)
                await connection.execute(ended.values(sent_at=later))
            elif one.kind == "remind":
                reminded = update(recipients).where(*here)
                await connection.execute(reminded.values(remind_at=later))
            else:
                step = update(recipients).where(*here, recipients.c.step == one.step)
                await connection.execute(step.values(due_at=later))

        await self._database.run("campaign_put_off", work)

    async def decline(self, one: Sending) -> None:
        """Record that a room gets nothing more of its campaign."""

        async def work(connection: AsyncConnection) -> None:
            number = await _number(connection, one.campaign)
            await connection.execute(
                update(recipients)
                .where(*_at(number, one.recipient.room_id))
                .values(declined=True, due_at=None, remind_at=None, begun=False)
            )
            await _close_if_done(connection, number)

        await self._database.run("decline", work)

    async def wanted(self, room: Room, campaign: str, now: float) -> float | None:
        """Return the time from which a campaign may ask a room; None if polls are refused there.

        Nobody is asked by two campaigns within a day. While a message of another campaign is
        being sent, this is only known a little later.
        """

        async def work(connection: AsyncConnection) -> float | None:
            return await self._wanted(connection, room, await _number(connection, campaign), now)

        return await self._database.run("wanted", work)

    async def _wanted(
        self, connection: AsyncConnection, room: Room, number: int, now: float
    ) -> float | None:
        person = self._pseudonyms.of(room.person) if room.person else None
        refuses = exists().where(people.c.person == person, people.c.polls.is_(False))
        none_here = exists().where(
            choices.c.room_id == room.room_id,
            choices.c.thread_root == "",
            choices.c.polls.is_(False),
        )
        if await connection.scalar(select(or_(refuses, none_here))):
            return None
        theirs = or_(
            recipients.c.room_id == room.room_id,
            and_(recipients.c.person == person, recipients.c.person.is_not(None)),
        )
        others = select(
            func.max(recipients.c.reached_at), func.count().filter(recipients.c.begun)
        ).where(theirs, recipients.c.campaign_id != number)
        last, begun = (await connection.execute(others)).one()
        since = now + _SOON if begun else now
        return since if last is None else max(since, seconds(last) + _DAY)

    async def asked(self, room_id: RoomId, event_id: EventId) -> Asked | None:
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

        async def work(connection: AsyncConnection) -> Asked | None:
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                return None
            return Asked(
                row.name, row.question, _recipient_room(room_id, row.person, row.thread_root)
            )

        return await self._database.run("asked_by", work)

    async def begin(self, one: Sending, room: Room, now: float, *, asks: bool) -> float | None:
        """Record that a step may be sent from now on, if it may be sent by `now`.

        Args:
            one: the step.
            room: its room.
            now: the current time, in seconds since the epoch.
            asks: whether the campaign asks questions; an announcement goes to all rooms.

        Returns:
            The time from which it may be sent; None if the room refuses polls, or the campaign is
            over.
        """

        async def work(connection: AsyncConnection) -> float | None:
            if one.begun:
                return now  # it may have been sent: send it again to learn its event id
            query = select(campaigns.c.id, campaigns.c.state).where(
                campaigns.c.name == one.campaign
            )
            number, state = (await connection.execute(query)).one()
            if state != "running":  # it was closed after `due` returned this step
                return None
            since = await self._wanted(connection, room, number, now) if asks else now
            if since is not None and one.step > 0:
                since = now  # its first step was sent before the other campaign's
            if since is not None and since <= now:
                here = *_at(number, one.recipient.room_id), recipients.c.step == one.step
                await connection.execute(update(recipients).where(*here).values(begun=True))
            return since

        return await self._database.run("campaign_begin", work)

    async def is_begun(self, room_id: RoomId) -> bool:
        """Return whether the room may have a step that is not recorded as sent yet."""

        async def work(connection: AsyncConnection) -> bool:
            here = recipients.c.room_id == room_id, recipients.c.begun
            query = select(recipients.c.room_id).where(*here).limit(1)
            return await connection.scalar(query) is not None

        return await self._database.run("is_begun", work)

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
        said: Vote | Message,
        asked: Asked,
        answer: str | None,
        *,
        step: int,
        steps: int,
        at: float,
    ) -> Literal["goes on", "thanks", "counts", "late"]:
        """Store an answer, and make the next step due; safe to repeat.

        Args:
            said: the vote, or the message that answers in words.
            asked: the question.
            answer: id of the chosen answer; None for words, or for a vote that is taken back.
            step: the question's step.
            steps: number of steps of the campaign.
            at: the current time, in seconds since the epoch.

        Returns:
            The consequence; "late" as well for somebody who was not asked.
        """
        person = self._pseudonyms.of(said.sender)
        text = said.body.encode() if isinstance(said, Message) else None
        row = {
            "event_id": said.event_id,
            "room_id": asked.recipient.room_id,
            "question": asked.question,
            "person": person,
            "answer": answer,
            "text": None if text is None else self._seal.close(text, said.event_id),
            "timestamp": said.timestamp,
        }

        async def work(
            connection: AsyncConnection,
        ) -> Literal["goes on", "thanks", "counts", "late"]:
            number = await _number(connection, asked.campaign)
            here = _at(number, asked.recipient.room_id)
            to = (await connection.execute(select(recipients).where(*here))).one()
            in_time = await _is_in_time(connection, number, asked, said.timestamp / 1000)
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
            is_repeated = (
                not stored.rowcount
            )  # an earlier process may have crashed before thanking
            return "thanks" if is_repeated or to.completed_at is None else "counts"

        return await self._database.run("answer", work, durable=True)

    async def close(self, name: str, at: float) -> bool:
        """End a running campaign, so that its polls get ended; False if it is not running."""

        async def work(connection: AsyncConnection) -> bool:
            number = await connection.scalar(
                update(campaigns)
                .where(campaigns.c.name == name, campaigns.c.state == "running")
                .values(state="closing", closed_at=date(at))
                .returning(campaigns.c.id)
            )
            if number is None:
                return False
            of_it = update(recipients).where(recipients.c.campaign_id == number)
            await connection.execute(of_it.values(remind_at=None))
            await connection.execute(of_it.where(~recipients.c.begun).values(due_at=None))
            await _close_if_done(connection, number)
            return True

        return await self._database.run("close_campaign", work, durable=True)

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

    async def progress(self, name: str) -> CampaignResults | None:
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
            counts, texts = _count(await _answers(connection, row.id))
            answered = await connection.scalar(
                select(func.count(answers.c.room_id.distinct())).where(
                    answers.c.campaign_id == row.id, answers.c.counts
                )
            )
            return CampaignResults(
                *(row.state, rooms, reached, declined, answered or 0, completed), counts, texts
            )

        return await self._database.run("progress", work)

    async def headway(self, name: str) -> DeliveryProgress:
        """Return how many rooms of a launched campaign are done."""
        done = or_(recipients.c.reached_at.is_not(None), recipients.c.declined)

        async def work(connection: AsyncConnection) -> DeliveryProgress:
            query = select(campaigns.c.id, campaigns.c.state, campaigns.c.told)
            row = (await connection.execute(query.where(campaigns.c.name == name))).one()
            counted = select(func.count(), func.count().filter(done))
            of_it = counted.where(recipients.c.campaign_id == row.id)
            rooms, rooms_done = (await connection.execute(of_it)).one()
            return DeliveryProgress(rooms, rooms_done, row.state == "closed", row.told)

        return await self._database.run("headway", work)

    async def told(self, name: str, milestone: int) -> None:
        """Record the last milestone that was reported to the admins."""

        async def work(connection: AsyncConnection) -> None:
            of_it = update(campaigns).where(campaigns.c.name == name)
            await connection.execute(of_it.values(told=milestone))

        await self._database.run("campaign_told", work)

    async def result(
        self, room_id: RoomId, event_id: EventId
    ) -> tuple[str, Mapping[str, int]] | None:
        """Return a poll's question key, and how often each answer was chosen in the room."""
        query = select(asks.c.campaign_id, asks.c.question).where(asks.c.event_id == event_id)

        async def work(connection: AsyncConnection) -> tuple[str, Mapping[str, int]] | None:
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                return None
            here = answers.c.room_id == room_id, answers.c.question == row.question
            counts, _ = _count(await _answers(connection, row.campaign_id, *here))
            return row.question, counts.get(row.question, {})

        return await self._database.run("result", work)


async def _reopen(connection: AsyncConnection, number: int, *, poll: bool) -> bool:
    """Return whether a campaign still runs; if it is closed, reopen it to end a late poll."""
    state = await connection.scalar(select(campaigns.c.state).where(campaigns.c.id == number))
    if state == "closed" and poll:
        ends = update(campaigns).where(campaigns.c.id == number)
        await connection.execute(ends.values(state="closing"))
    return bool(state == "running")


def _at(number: int, room_id: str) -> tuple[Any, Any]:
    return recipients.c.campaign_id == number, recipients.c.room_id == room_id


def _recipient_room(room_id: str, person: str | None, root: str | None) -> RecipientRoom:
    return RecipientRoom(RoomId(room_id), person is not None, EventId(root) if root else None)


async def _number(connection: AsyncConnection, name: str) -> int:
    found = await connection.execute(select(campaigns.c.id).where(campaigns.c.name == name))
    return int(found.scalar_one())


async def _waiting(connection: AsyncConnection, number: int, name: str) -> list[Sending]:
    """Return the message of each kind that is due first.

    Messages that may have been sent come first, then next steps for rooms that have answered,
    then first steps for other rooms, then reminders.
    """
    of_it = recipients.c.campaign_id == number
    found: list[Sending] = []
    for which in (recipients.c.begun, recipients.c.step > 0, recipients.c.step == 0):
        rows = await connection.execute(_due_first(number, which))
        found += [_sending(row, name, "step") for row in rows]
    rows = await connection.execute(
        select(recipients)
        .where(of_it, recipients.c.remind_at.is_not(None))
        .order_by(recipients.c.remind_at, recipients.c.room_id)
        .limit(1)
    )
    return found + [_sending(row, name, "remind") for row in rows]


def _due_first(number: int, which: ColumnElement[bool]) -> Select[Any]:
    """Return the query for the step that is due first, among the rows of a condition."""
    return (
        select(recipients)
        .where(recipients.c.campaign_id == number, which, recipients.c.due_at.is_not(None))
        .order_by(recipients.c.due_at, recipients.c.room_id)
        .limit(1)
    )


def _sending(row: Row[Any], name: str, kind: Literal["step", "remind"]) -> Sending:
    at = row.due_at if kind == "step" else row.remind_at
    recipient = _recipient_room(row.room_id, row.person, row.thread_root)
    event_id = EventId(row.event_id) if row.event_id else None
    begun = kind == "step" and row.begun
    return Sending(name, recipient, kind, row.step, seconds(at), event_id, begun)


async def _closing(connection: AsyncConnection, number: int, name: str) -> list[Sending]:
    """Return what a closing campaign still has to send, the first message of each kind.

    A step that may have been sent is sent again under its transaction id, to learn the event id
    of the poll to end.
    """
    query = _due_first(number, recipients.c.begun)
    row = (await connection.execute(query)).one_or_none()
    ends = await _end(connection, number, name)
    return ([] if row is None else [_sending(row, name, "step")]) + ends


async def _end(connection: AsyncConnection, number: int, name: str) -> list[Sending]:
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
        Sending(
            name,
            _recipient_room(row.room_id, row.person, row.thread_root),
            "end",
            row.step,
            seconds(row.sent_at),
            EventId(row[0]),
        )
        for row in found
    ]


async def _is_in_time(connection: AsyncConnection, number: int, asked: Asked, at: float) -> bool:
    """Return whether an answer given at a time counts: until the poll was ended, as in clients."""
    query = select(campaigns.c.closed_at, campaigns.c.ends_at).where(campaigns.c.id == number)
    closed_at, ends_at = (await connection.execute(query)).one()
    closed = closed_at or ends_at
    if closed is None or at <= seconds(closed):
        return True
    is_open = exists().where(
        asks.c.campaign_id == number,
        asks.c.room_id == asked.recipient.room_id,
        asks.c.question == asked.question,
        asks.c.poll,
        asks.c.ended.is_(False),
    )
    return bool(await connection.scalar(select(is_open)))


async def _close_if_done(connection: AsyncConnection, number: int) -> None:
    opened = exists().where(asks.c.campaign_id == number, asks.c.poll, asks.c.ended.is_(False))
    begun = exists().where(recipients.c.campaign_id == number, recipients.c.begun)
    await connection.execute(
        update(campaigns)
        .where(campaigns.c.id == number, campaigns.c.state == "closing", ~opened, ~begun)
        .values(state="closed")
    )


async def _answers(
    connection: AsyncConnection, number: int, *where: ColumnElement[bool]
) -> list[_Answer]:
    query = select(
        answers.c.person,
        answers.c.question,
        answers.c.answer,
        answers.c.text.is_not(None),
        answers.c.timestamp,
    ).where(answers.c.campaign_id == number, answers.c.counts, *where)
    found = await connection.execute(query.order_by(answers.c.timestamp, answers.c.event_id))
    return [_Answer(*row) for row in found]


def _count(given: Sequence[_Answer]) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Return how many people chose each answer (MSC3381), and how many answered in words."""
    last: dict[tuple[str, str], _Answer] = {}
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

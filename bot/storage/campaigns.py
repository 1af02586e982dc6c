"""The `CampaignLedger` port on SQLAlchemy: due messages, sent questions, and their answers."""

import math
from collections.abc import Sequence
from typing import Final

import structlog
from sqlalchemy import (
    and_,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from bot.core.campaigns import (
    CLOSED,
    DeliveryProgress,
    DueMessage,
    Recipient,
)
from bot.core.events import EventId, Room, RoomId
from bot.storage.campaign_answers import SqlCampaignAnswers
from bot.storage.campaign_queries import (
    close_if_done,
    closing,
    in_room,
    number_of,
    reopen,
    waiting,
)
from bot.storage.rows import date, seconds
from bot.storage.tables import asks, campaigns, choices, circumstances, people, recipients

log = structlog.get_logger()

_DAY: Final = 86_400.0
_SOON: Final = 300.0  # seconds until a step that another campaign has begun is surely recorded
_UNFINISHED: Final = ("running", "closing")


class SqlCampaigns(SqlCampaignAnswers):
    """The `CampaignLedger` port, in the ledger's database."""

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

    async def due(self, name: str, now: float) -> tuple[DueMessage | None, float | None] | None:
        """Return the first message that is due by `now`, and when the next one is due.

        None if the campaign has nothing left to send. If its end has passed, there is no message
        and the time is in the past: the campaign must be closed.
        """
        query = select(campaigns.c.id, campaigns.c.state, campaigns.c.ends_at).where(
            campaigns.c.name == name, campaigns.c.state.in_(_UNFINISHED)
        )

        async def work(connection: AsyncConnection) -> tuple[float | None, Sequence[DueMessage]]:
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                return None, ()
            if row.state == "closing":
                return math.inf, await closing(connection, row.id, name)
            ends_at = math.inf if row.ends_at is None else seconds(row.ends_at)
            return ends_at, await waiting(connection, row.id, name)

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
        one: DueMessage,
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
            number = await number_of(connection, one.campaign)
            runs = await reopen(connection, number, poll=question is not None and question[1])
            if not runs:
                row.update(due_at=None, remind_at=None)
            # If the step was answered before this is recorded, the next step is due already.
            here = *in_room(number, room_id), recipients.c.step == one.step
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
                await close_if_done(connection, number)

        await self._database.run("campaign_sent", work, durable=True)

    async def reminded(self, one: DueMessage) -> None:
        """Record that a reminder was sent, or is not needed."""

        async def work(connection: AsyncConnection) -> None:
            number = await number_of(connection, one.campaign)
            here = in_room(number, one.recipient.room_id)
            await connection.execute(update(recipients).where(*here).values(remind_at=None))

        await self._database.run("reminded", work, durable=True)

    async def ended(self, one: DueMessage) -> None:
        """Record that a poll was ended; a closing campaign is closed with its last poll."""

        async def work(connection: AsyncConnection) -> None:
            number = await number_of(connection, one.campaign)
            await connection.execute(
                update(asks).where(asks.c.event_id == one.event_id).values(ended=True)
            )
            await close_if_done(connection, number)

        await self._database.run("ended", work, durable=True)

    async def put_off(self, one: DueMessage, due_at: float) -> None:
        """Record that a message will be sent later."""
        later = date(due_at)

        async def work(connection: AsyncConnection) -> None:
            number = await number_of(connection, one.campaign)
            here = in_room(number, one.recipient.room_id)
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

    async def decline(self, one: DueMessage) -> None:
        """Record that a room gets nothing more of its campaign."""

        async def work(connection: AsyncConnection) -> None:
            number = await number_of(connection, one.campaign)
            await connection.execute(
                update(recipients)
                .where(*in_room(number, one.recipient.room_id))
                .values(declined=True, due_at=None, remind_at=None, begun=False)
            )
            await close_if_done(connection, number)

        await self._database.run("decline", work)

    async def wanted(self, room: Room, campaign: str, now: float) -> float | None:
        """Return the time from which a campaign may ask a room; None if polls are refused there.

        Nobody is asked by two campaigns within a day. While a message of another campaign is
        being sent, this is only known a little later.
        """

        async def work(connection: AsyncConnection) -> float | None:
            return await self._wanted(connection, room, await number_of(connection, campaign), now)

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

    async def begin(self, one: DueMessage, room: Room, now: float, *, asks: bool) -> float | None:
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
                here = *in_room(number, one.recipient.room_id), recipients.c.step == one.step
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
            await close_if_done(connection, number)
            return True

        return await self._database.run("close_campaign", work, durable=True)

    async def delivery_progress(self, name: str) -> DeliveryProgress:
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

    async def milestone_reported(self, name: str, milestone: int) -> None:
        """Record the last milestone that was reported to the admins."""

        async def work(connection: AsyncConnection) -> None:
            of_it = update(campaigns).where(campaigns.c.name == name)
            await connection.execute(of_it.values(told=milestone))

        await self._database.run("campaign_told", work)

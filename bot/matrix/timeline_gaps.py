"""Gaps in timelines: events that a limited sync response left out are fetched and inserted."""

import itertools
from collections.abc import AsyncGenerator
from typing import Any

import nio
import structlog

from bot.core.events import UserId
from bot.errors import FatalError, Forbidden, MatrixError, RateLimited, SoftLogout
from bot.matrix.error_mapping import call
from bot.matrix.json_fields import identifier, mapping, timestamp
from bot.matrix.parse import POLL_RESPONSES, POLL_STARTS
from bot.matrix.state_events import parse_membership
from bot.monitoring.health import Health

_PAGE = 100
_DAY = 86_400.0  # seconds

FILTER = {
    "types": [
        "m.room.message",
        "m.sticker",
        "m.room.encrypted",
        "m.room.member",
        "m.room.redaction",
        "m.room.tombstone",
        "m.reaction",
        *POLL_STARTS,
        *POLL_RESPONSES,
        "im.vector.room.access_rules",
    ],
    "lazy_load_members": True,
}

log = structlog.get_logger()


async def fill(
    client: nio.AsyncClient,
    response: nio.SyncResponse,
    since: str | None,
    me: UserId,
    health: Health,
    *,
    insist: bool,
) -> None:
    """Insert the events between `since` and each limited timeline.

    A sync returns only the newest events of a room, and marks the timeline as limited (spec:
    limited timelines). The earlier events come from `/messages`: decrypted, in order, each once,
    none from before the bot's invitation. After a failure, the next call continues with the
    missing rooms.

    Args:
        client: the client that requests and decrypts.
        response: the response with the limited timelines.
        since: the token of the request; None for the messages of the last day.
        me: the bot.
        health: informed of each page.
        insist: whether a room that cannot be read is an error. Otherwise it is skipped if the
            homeserver answers at all, so that one broken room does not block the others for ever.

    Raises:
        MatrixError: the homeserver did not answer.
    """
    failure: MatrixError | None = None
    for room_id, info in response.rooms.join.items():
        if not info.timeline.limited or not info.timeline.prev_batch:
            continue
        try:
            await _fill_room(client, room_id, info.timeline, since, me, health)
        except (FatalError, SoftLogout, RateLimited):
            raise
        except MatrixError as error:
            failure = error
            if not insist:
                await call(nio.WhoamiResponse, client.whoami())
                log.warning("gap given up", room_id=room_id, reason=str(error))
                info.timeline.limited = False
    if failure is not None and insist:
        raise failure


async def _fill_room(
    client: nio.AsyncClient,
    room_id: str,
    timeline: nio.Timeline,
    since: str | None,
    me: UserId,
    health: Health,
) -> None:
    missing: list[Any] = []  # newest first
    oldest = 0.0 if since else (health.clock.now() - _DAY) * 1000
    try:
        async for events in _pages(client, room_id, timeline.prev_batch or "", since):
            health.beat()
            wanted = list(
                itertools.takewhile(
                    lambda event: not _invites(event, me) and _at(event) >= oldest, events
                )
            )
            missing += wanted
            if len(wanted) < len(events):
                break
    except Forbidden as error:  # the bot has left meanwhile
        log.warning("gap not filled", room_id=room_id, reason=str(error))
    there = {_id(event) for event in timeline.events}
    new = {_id(event): event for event in reversed(missing) if _id(event) not in there}
    timeline.events[:0] = new.values()
    timeline.limited = False
    log.info("gap filled", room_id=room_id, events=len(new))


async def _pages(
    client: nio.AsyncClient, room_id: str, start: str, since: str | None
) -> AsyncGenerator[list[Any], None]:
    """Yield the events from `start` back to `since`, newest first, one page at a time."""
    here, following = "", start
    while following and following != here:
        here = following
        page = await call(
            nio.RoomMessagesResponse,
            client.room_messages(
                room_id, start=here, end=since, limit=_PAGE, message_filter=FILTER
            ),
        )
        yield page.chunk
        following = page.end


def _invites(event: object, me: UserId) -> bool:
    source = mapping(getattr(event, "source", None))
    member = parse_membership(source) if "state_key" in source else None
    return member is not None and member.user_id == me and member.now == "invite"


def _at(event: object) -> int:
    return timestamp(mapping(getattr(event, "source", None)))


def _id(event: object) -> str:
    return identifier(mapping(getattr(event, "source", None)), "event_id")

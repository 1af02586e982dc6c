"""The room from which the bot is administered: made by the bot, for those it obeys there."""

import asyncio
from functools import partial

import structlog

from bot.core.events import RoomId, UserId
from bot.errors import FatalError, MatrixError
from bot.i18n.texts import Texts
from bot.replies.delivery import Replying
from bot.runtime.failpoints import armed
from bot.runtime.retry import retry_until_accepted

log = structlog.get_logger()


async def open_admin_room(
    to: Replying, admins: frozenset[UserId], texts: Texts, synced: asyncio.Event
) -> None:
    """Make the room where there is none, and invite who is missing.

    Args:
        to: what every reply needs.
        admins: whom.
        texts: in the bot's own language.
        synced: set once it is known which rooms there are.
    """
    await synced.wait()
    for user_id in sorted(admins):
        await _look_for(to, user_id)
    try:
        room_id = await retry_until_accepted(to.clock, partial(_open, to, texts("admin room")))
        missing = admins - await retry_until_accepted(
            to.clock, partial(to.matrix.members, room_id)
        )
    except FatalError:
        raise
    except MatrixError as error:
        log.error("no admin room", reason=str(error))  # noqa: TRY400  # no traceback: it is refused
        return
    for user_id in sorted(missing):
        try:
            await retry_until_accepted(to.clock, partial(_invite, to, room_id, user_id))
        except FatalError:
            raise
        except MatrixError as error:
            log.warning("admin not invited", user_id=user_id, reason=str(error))


async def _look_for(to: Replying, user_id: UserId) -> None:
    """Say so where an admin is nobody: an invitation to a mistyped id waits for ever."""
    try:
        exists = await retry_until_accepted(to.clock, partial(to.matrix.exists, user_id))
    except FatalError:
        raise
    except MatrixError as error:
        log.warning("admin not looked up", user_id=user_id, reason=str(error))
        return
    if not exists:
        log.warning("the homeserver knows no such admin: check matrix.admins", user_id=user_id)


async def _open(to: Replying, name: str) -> RoomId:
    with armed.around("create"):
        return await to.matrix.open_admin_room(name)


async def _invite(to: Replying, room_id: RoomId, user_id: UserId) -> None:
    with armed.around("invite"):
        await to.matrix.invite(room_id, user_id)
    log.info("admin invited", user_id=user_id, room_id=room_id)

"""The life of a room: invitation, welcome, upgrade, departure; and the admin room."""

import asyncio
from functools import partial

import structlog

from bot.core.events import Conversation, Invite, RoomId, Upgraded, UserId
from bot.core.intents import Decline, Welcome
from bot.core.outgoing import Notice
from bot.errors import FatalError, Forbidden, MatrixError
from bot.i18n.texts import Texts
from bot.monitoring.error_boundary import error_boundary
from bot.ports.clock import Clock
from bot.ports.ledger import Store
from bot.ports.matrix import Matrix
from bot.replies.context_builder import Contexts
from bot.replies.notices import Notifier
from bot.runtime.failpoints import armed
from bot.runtime.retry import retry_until_accepted

log = structlog.get_logger()


class Rooms:
    """Enters and leaves rooms, and introduces the assistant in them."""

    def __init__(
        self,
        *,
        matrix: Matrix,
        store: Store,
        clock: Clock,
        contexts: Contexts,
        notifier: Notifier,
        texts: Texts,
        admins: frozenset[UserId],
        names_thumbs: bool,
    ) -> None:
        """Store the parts.

        Args:
            matrix: the account's rooms.
            store: the choices of people.
            clock: the clock for the waits between tries.
            contexts: the language of each conversation.
            notifier: the sender of the welcome.
            texts: the sentences in the bot's own language.
            admins: the people who may give commands in the admin room.
            names_thumbs: whether a salon's welcome says that 👍 and 👎 rate a reply.
        """
        self._matrix = matrix
        self._store = store
        self._clock = clock
        self._contexts = contexts
        self._notifier = notifier
        self._texts = texts
        self._admins = admins
        self._names_thumbs = names_thumbs

    async def accept(self, invite: Invite) -> None:
        """Join the room of an invitation."""
        await retry_until_accepted(self._clock, partial(self._join, invite))

    async def _join(self, invite: Invite) -> None:
        with armed.around("join"):
            await self._matrix.join(invite)

    async def decline(self, declined: Decline) -> None:
        """Decline an invitation with a reason; the log names a homeserver that is not allowed."""
        key, server = declined.key, declined.server
        reason = key if server is None else "not in matrix.allowed_servers"
        log.info("invitation declined", room_id=declined.room_id, server=server, reason=reason)
        await self.leave(declined.room_id, self._texts(key))

    async def follow(self, upgraded: Upgraded) -> None:
        """Join the room that replaces another, or wait for an invitation where it needs one."""
        try:
            with armed.around("join"):
                await retry_until_accepted(self._clock, lambda: self._matrix.follow(upgraded))
        except Forbidden as error:
            log.info("waiting for an invitation", reason=str(error))

    async def leave(self, room_id: RoomId, reason: str | None = None) -> None:
        """Leave a room, or decline its invitation."""

        async def leave() -> None:
            with armed.around("leave"):
                await self._matrix.leave(room_id, reason)

        await retry_until_accepted(self._clock, leave)

    async def welcome(self, welcome: Welcome) -> None:
        """Introduce the assistant in a room that it has joined.

        The choices made in the room that this one replaces are copied.
        """
        room_id = welcome.room_id
        before = self._matrix.predecessor(room_id)
        if before is not None:
            chosen = await self._store.choices(Conversation(before, None))
            await self._store.choose(Conversation(room_id, None), chosen)
        current = await self._contexts.chosen(Conversation(room_id, None))
        sentences = current.texts(welcome.key)
        if welcome.key.startswith("welcome salon") and self._names_thumbs:
            sentences = f"{sentences}  \n{current.texts('welcome thumbs')}"
        await self._notifier.say(Notice(text=sentences), room_id, welcome.event_id)

    async def open_admin_room(self, synced: asyncio.Event) -> None:
        """Create the admin room if there is none, and invite the admins who are not in it.

        Args:
            synced: set when the account's rooms are known.
        """
        if not self._admins:
            return
        await synced.wait()
        for user_id in sorted(self._admins):
            async with error_boundary("admin not looked up", user_id=user_id):
                await self._look_up(user_id)
        try:
            room_id = await retry_until_accepted(self._clock, self._open)
            members = await retry_until_accepted(
                self._clock, partial(self._matrix.members, room_id)
            )
        except FatalError:
            raise
        except MatrixError as error:
            log.error("no admin room", reason=str(error))  # noqa: TRY400  # a refusal needs no traceback
            return
        for user_id in sorted(self._admins - members):
            async with error_boundary("admin not invited", user_id=user_id):
                await retry_until_accepted(self._clock, partial(self._invite, room_id, user_id))

    async def _look_up(self, user_id: UserId) -> None:
        """Log a warning if an admin does not exist: nobody would accept the invitation."""
        exists = partial(self._matrix.exists, user_id)
        if not await retry_until_accepted(self._clock, exists):
            log.warning("the homeserver knows no such admin: check matrix.admins", user_id=user_id)

    async def _open(self) -> RoomId:
        with armed.around("create"):
            return await self._matrix.open_admin_room(self._texts("admin room"))

    async def _invite(self, room_id: RoomId, user_id: UserId) -> None:
        with armed.around("invite"):
            await self._matrix.invite(room_id, user_id)
        log.info("admin invited", user_id=user_id, room_id=room_id)

"""The sender of notices, polls and files: each has one transaction id in any process."""

from collections.abc import Callable
from dataclasses import replace

import structlog

from bot.core.events import EventId, Prompt, RoomId
from bot.core.markdown import render
from bot.core.outgoing import Notice, Outgoing, transaction_id
from bot.ports.clock import Clock
from bot.ports.ledger import Store
from bot.ports.matrix import Matrix
from bot.replies.context_builder import Contexts
from bot.replies.prior_reply import hidden_messages
from bot.runtime.failpoints import armed
from bot.runtime.retry import retry_until_accepted

log = structlog.get_logger()


class Notifier:
    """Sends notices, polls and files, each under a transaction id that all processes share.

    Attributes:
        doubtful: events that an earlier process may have handled; `EventHandler` fills it.
        unanswered: those events whose reply does not count, since it was marked incomplete.
    """

    def __init__(self, *, matrix: Matrix, store: Store, clock: Clock, contexts: Contexts) -> None:
        self.doubtful: set[EventId] = set()
        self.unanswered: set[EventId] = set()
        self._matrix = matrix
        self._store = store
        self._clock = clock
        self._contexts = contexts

    async def send_once(
        self,
        room_id: RoomId,
        outgoing: Outgoing,
        cause: EventId,
        stage: str,
        *,
        failpoint: str = "notice",
        within: float | None = None,
    ) -> EventId | None:
        """Send one message; every try sends the same bytes under the same transaction id.

        Args:
            room_id: the room.
            outgoing: the message.
            cause: the id of the event, or of another cause, that it is sent for.
            stage: the name that distinguishes it from others of that cause; see `transaction_id`.
            failpoint: the name of the failpoints around the request.
            within: seconds for which preparing and sending are each tried; None for ever.

        Returns:
            The event's id; None if the bot can no longer speak in the room.

        Raises:
            MatrixError: as `retry_until_accepted`.
        """
        transaction = transaction_id(self._matrix.device_id, cause, stage, part=0, claim=0)
        return await self.send_as(
            room_id, outgoing, transaction, failpoint=failpoint, within=within
        )

    async def send_as(
        self,
        room_id: RoomId,
        outgoing: Outgoing,
        transaction: str,
        *,
        failpoint: str = "notice",
        within: float | None = None,
        is_due: Callable[[], bool] = lambda: True,
    ) -> EventId | None:
        """Send one message like `send_once`, but under the caller's transaction id.

        Args:
            room_id: the room.
            outgoing: the message.
            transaction: the transaction id, which must be the same in all processes.
            failpoint: as in `send_once`.
            within: as in `send_once`.
            is_due: called before each try; if it returns False, nothing is sent.
        """

        async def put() -> EventId | None:
            if self._matrix.room(room_id).closed:
                log.info("not said", reason="the bot can no longer speak here")
                return None
            if not is_due():
                return None
            with armed.around(failpoint):
                return await self._matrix.put(room_id, prepared, transaction)

        prepared = await retry_until_accepted(
            self._clock, lambda: self._matrix.prepare(room_id, outgoing), within=within
        )
        return await retry_until_accepted(self._clock, put, within=within)

    async def say(self, notice: Notice, room_id: RoomId, cause: EventId) -> None:
        """Send the notice for an event, unless an earlier process has sent it."""
        prompt = notice.to
        if cause in self.doubtful and isinstance(prompt, Prompt):
            unsent = await self._unsent(notice, prompt, answered=cause not in self.unanswered)
            if unsent is None:
                log.info("said before")
                return
            notice = unsent
        await self.send_once(room_id, notice, cause, "notice")

    async def _unsent(self, notice: Notice, prompt: Prompt, *, answered: bool) -> Notice | None:
        """Return the notice that is still to send; None if an earlier process has sent it.

        Transaction ids are no proof, since the homeserver knows them only for a day, and the
        ledger may come from a backup. If an unreadable message may be the notice, a notice about
        this doubt takes its place.

        Args:
            notice: the notice that is due.
            prompt: the prompt that it is about.
            answered: whether a complete reply to the prompt makes the notice needless.
        """
        since = await retry_until_accepted(
            self._clock, lambda: self._matrix.own_since(prompt.room_id, prompt.event_ids)
        )
        body = render(notice.text).body
        if any((one.final and answered) or one.body == body for one in since.about):
            return None
        unreadable = await hidden_messages(self._store, prompt, since)
        if since.whole and not unreadable:
            return notice
        log.error("notice perhaps sent", unreadable=unreadable, all_read=since.whole)
        texts = (await self._contexts.chosen(prompt.conversation)).texts
        doubt = replace(notice, text=texts("perhaps answered"))
        return None if any(one.body == render(doubt.text).body for one in since.about) else doubt

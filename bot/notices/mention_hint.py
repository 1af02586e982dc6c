"""A hint how to mention the bot, once a day, for people who type its name in a salon."""

from bot.core.display_names import ASSISTANT, plain_name
from bot.core.events import EventId, Prompt, RoomId, UserId
from bot.core.outgoing import Notice
from bot.errors import MatrixError
from bot.ports.clock import Clock
from bot.ports.matrix import Matrix
from bot.replies.context_builder import Contexts
from bot.replies.notices import Notifier
from bot.runtime.once_a_day import OnceADay, day_of

_PATIENCE = 60.0  # seconds for which one notice is tried


class MentionHint:
    """Explains how to mention the bot: at most one notice per person, salon and day of UTC.

    The transaction id contains these three, so that another process sends no second notice.
    """

    def __init__(
        self, *, matrix: Matrix, clock: Clock, contexts: Contexts, notifier: Notifier
    ) -> None:
        self._matrix = matrix
        self._clock = clock
        self._contexts = contexts
        self._notifier = notifier
        self._notified: OnceADay[tuple[UserId, RoomId]] = OnceADay()

    async def give(self, prompt: Prompt) -> None:
        """Send the hint as a reply to a message, unless the person has got one that day.

        Raises:
            MatrixError: the notice cannot be sent.
        """
        message = prompt.messages[0]
        # The homeserver's clock may be ahead; a day that has not begun must not count.
        at = min(message.timestamp / 1000, self._clock.now())
        key = message.sender, prompt.room_id
        if not self._notified.is_due(key, at):
            return
        texts = (await self._contexts.chosen(prompt.conversation)).texts
        name = plain_name(self._matrix.room(prompt.room_id).called) or ASSISTANT
        notice = Notice(text=texts("how to mention", name=name), to=prompt)
        cause = EventId(f"{prompt.room_id} {message.sender} {day_of(at):.0f}")
        try:
            await self._notifier.send_once(
                prompt.room_id, notice, cause, "mention hint", within=_PATIENCE
            )
        except MatrixError:
            self._notified.forget(key)
            raise

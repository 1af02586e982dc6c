"""People of salons who type the bot's name without mentioning it: told once a day how to."""

from bot.core.display_names import ASSISTANT, plain_name
from bot.core.events import EventId, Prompt, RoomId, UserId
from bot.core.outgoing import Notice
from bot.errors import MatrixError
from bot.ports.clock import Clock
from bot.ports.matrix import Matrix
from bot.replies.context_builder import Contexts
from bot.replies.notices import Notifier
from bot.runtime.once_a_day import OnceADay, day_of

_PATIENCE = 60.0  # seconds for one sentence


class MentionHint:
    """Says how one mentions the bot: one notice for each person, salon and day of UTC.

    The transaction id holds the three, so that a second process sends none on the same day.
    """

    def __init__(
        self, *, matrix: Matrix, clock: Clock, contexts: Contexts, notifier: Notifier
    ) -> None:
        self._matrix = matrix
        self._clock = clock
        self._contexts = contexts
        self._notifier = notifier
        self._told: OnceADay[tuple[UserId, RoomId]] = OnceADay()

    async def give(self, prompt: Prompt) -> None:
        """Say it in reply to a message that was meant as a prompt, unless it was said that day.

        Raises:
            MatrixError: the homeserver takes no notice.
        """
        message = prompt.messages[0]
        # A homeserver's clock may be ahead: no day is told of before it has begun.
        at = min(message.timestamp / 1000, self._clock.now())
        who = message.sender, prompt.room_id
        if not self._told.is_due(who, at):
            return
        texts = (await self._contexts.chosen(prompt.conversation)).texts
        name = plain_name(self._matrix.room(prompt.room_id).called) or ASSISTANT
        notice = Notice(texts("how to mention", name=name), prompt)
        told = EventId(f"{prompt.room_id} {message.sender} {day_of(at):.0f}")
        try:
            await self._notifier.send_once(
                prompt.room_id, notice, told, "mention hint", within=_PATIENCE
            )
        except MatrixError:
            self._told.forget(who)
            raise

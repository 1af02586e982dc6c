"""Notices that explain something in place of an answer, or beside one."""

import structlog

from bot.core.events import Conversation, Prompt
from bot.core.intents import Answer, Intent, Refuse, Run, SendNotice
from bot.core.outgoing import Notice
from bot.core.routing import parse_command
from bot.errors import FatalError
from bot.notices.clear_text import ClearText
from bot.ports.clock import Clock
from bot.ports.ledger import Store
from bot.replies.context_builder import Contexts
from bot.replies.notices import Notifier

log = structlog.get_logger()


class Explanations:
    """Sends explanations in the language of the conversation."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        contexts: Contexts,
        notifier: Notifier,
        clear_text: ClearText,
        age_limit: float,
    ) -> None:
        """Store the parts; `age_limit` is in seconds."""
        self._store = store
        self._clock = clock
        self._contexts = contexts
        self._notifier = notifier
        self._clear_text = clear_text
        self._age_limit = age_limit

    async def explain(self, prompt: Prompt, key: str, *, unanswered: bool = True) -> None:
        """Send the sentence named `key`, in place of an answer to the prompt or beside one."""
        chosen = await self._contexts.chosen(prompt.conversation)
        sentence = chosen.texts(key, hours=round(self._age_limit / 3600))
        asks = unanswered and parse_command(prompt.body) is None  # a command needs no other answer
        notice = Notice(text=sentence, to=prompt, unanswered=asks)
        await self._notifier.say(notice, prompt.room_id, prompt.event_id)

    async def refuse(self, refused: Refuse) -> None:
        """Explain, once a day, why the bot ignores an event that came in clear."""
        event, prompt = refused.event, refused.prompt
        if not await self._clear_text.is_due(event):
            return
        conversation = Conversation(event.room_id, None) if prompt is None else prompt.conversation
        texts = (await self._contexts.chosen(conversation)).texts
        sentence = texts(refused.key, sender=event.sender)
        notice = Notice(text=sentence, to=prompt, unanswered=prompt is not None)
        await self._notifier.say(notice, event.room_id, event.event_id)
        await self._store.noticed(event, self._clock.now())

    async def apologise(self, intent: Intent) -> None:
        """Tell the person that there is no answer, if the room still takes a message."""
        if not isinstance(intent, Answer | SendNotice | Run):
            return
        try:
            await self.explain(intent.prompt, "bug")
        except FatalError:
            raise
        except Exception as error:  # noqa: BLE001  # the cause of the failure may be the same here
            log.warning("no apology", kind=type(error).__name__)

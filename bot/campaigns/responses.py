"""What people answer to campaigns: votes, texts, and their changes."""

import structlog

from bot.campaigns.definition import find
from bot.campaigns.messages import send
from bot.core.campaigns import (
    AskedQuestion,
    Campaign,
    offered,
)
from bot.core.events import Conversation, Edit, EventId, Message, RoomId, Vote
from bot.core.intents import Comment
from bot.core.outgoing import Notice
from bot.core.polls import chosen
from bot.ports.campaigns import CampaignLedger
from bot.ports.clock import Clock
from bot.replies.context_builder import Contexts
from bot.replies.notices import Notifier
from bot.runtime.broadcast import Broadcast

_NEVER = -2  # no step
# What to say after a text; the next question says the rest.
_SAID = {"late": "campaign late", "goes on": None, "thanks": None}

log = structlog.get_logger()


class CampaignResponses:
    """Stores what people answer to campaigns."""

    def __init__(
        self,
        *,
        clock: Clock,
        ledger: CampaignLedger,
        contexts: Contexts,
        notifier: Notifier,
        changes: Broadcast,
    ) -> None:
        """Keep what answers need; `changes` tells the others that the ledger has changed."""
        self._clock = clock
        self._ledger = ledger
        self._contexts = contexts
        self._notifier = notifier
        self._changes = changes

    async def count(self, vote: Vote) -> bool:
        """Take in a vote; False where it is in no poll of a campaign."""
        asked = await self._asked(vote.room_id, vote.target)
        if asked is None:
            return False
        campaign = await find(self._ledger, asked.campaign)
        question = campaign.asked(asked.question) if campaign else None
        if campaign is not None and question is not None:
            answers = {one.id for one in offered(question)}
            await self._answer(campaign, vote, asked, chosen(vote.answers, answers))
        return True

    async def comment(self, comment: Comment) -> str | None:
        """Take in what is written in reply to a question; return what to say, by its key."""
        said = comment.prompt.messages[0]
        asked = await self._asked(said.room_id, comment.poll)
        if asked is None:
            return "poll unknown"
        campaign = await find(self._ledger, asked.campaign)
        if campaign is None:  # nobody can say any more what it asks
            return _SAID["late"]
        question = campaign.asked(asked.question)
        text = question is not None and question.kind == "text"
        follows = await self._answer(campaign, said, asked, None, moves=text)
        return _SAID.get(follows, "feedback kept")

    async def withdraw(self, event_id: EventId) -> None:
        """Take back the vote or the text that was redacted."""
        await self._ledger.withdraw(event_id)

    async def amend(self, edit: Edit) -> None:
        """Let an answer say what its edit says."""
        await self._ledger.amend(edit)

    async def _asked(self, room_id: RoomId, event_id: EventId) -> AskedQuestion | None:
        """Return the question that stands at an event; it may just have been sent."""
        while True:
            changed = self._changes.current
            asked = await self._ledger.asked(room_id, event_id)
            if asked or not await self._ledger.is_begun(room_id):
                return asked or await self._ledger.asked(room_id, event_id)
            await changed.wait()

    async def _answer(
        self,
        campaign: Campaign,
        said: Vote | Message,
        asked: AskedQuestion,
        answer: str | None,
        *,
        moves: bool = True,
    ) -> str:
        """Take in an answer, and return what follows.

        Args:
            campaign: which asks.
            said: a vote, or a text.
            asked: what it answers.
            answer: which answer a vote chooses.
            moves: the next question comes with it; else it is a comment on a poll.
        """
        follows = await self._ledger.answer(
            said,
            asked,
            answer,
            step=campaign.step_of(asked.question) if moves else _NEVER,
            steps=campaign.steps,
            at=self._clock.now(),
        )
        log.info("campaign answer", campaign=asked.campaign, follows=follows)
        self._changes.send()
        if follows == "thanks":
            place = Conversation(said.room_id, asked.recipient.thread_root)
            texts = (await self._contexts.chosen(place)).texts
            cause = EventId(f"{asked.campaign} {said.room_id}")
            await send(self._notifier, said.room_id, Notice(texts("thanks")), cause, "thanks")
        return follows

"""Answers to campaigns: votes and texts, their edits and redactions."""

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
# The sentence to send after a text; None where the next message is enough.
_SENTENCES = {"late": "campaign late", "goes on": None, "thanks": None}

log = structlog.get_logger()


class CampaignResponses:
    """Stores the answers of people to campaigns."""

    def __init__(
        self,
        *,
        clock: Clock,
        ledger: CampaignLedger,
        contexts: Contexts,
        notifier: Notifier,
        changes: Broadcast,
    ) -> None:
        """Store the parts; `changes` signals that the ledger has changed."""
        self._clock = clock
        self._ledger = ledger
        self._contexts = contexts
        self._notifier = notifier
        self._changes = changes

    async def count(self, vote: Vote) -> bool:
        """Store a vote; return False if it belongs to no poll of a campaign."""
        asked_question = await self._find_question(vote.room_id, vote.target)
        if asked_question is None:
            return False
        campaign = await find(self._ledger, asked_question.campaign)
        question = campaign.by_key(asked_question.question) if campaign else None
        if campaign is not None and question is not None:
            answers = {one.id for one in offered(question)}
            await self._store_answer(campaign, vote, asked_question, chosen(vote.answers, answers))
        return True

    async def comment(self, comment: Comment) -> str | None:
        """Store a text that replies to a question; return the key of the sentence to send."""
        source = comment.prompt.messages[0]
        asked_question = await self._find_question(source.room_id, comment.poll)
        if asked_question is None:
            return "poll unknown"
        campaign = await find(self._ledger, asked_question.campaign)
        if campaign is None:  # its questions are unknown
            return _SENTENCES["late"]
        question = campaign.by_key(asked_question.question)
        text = question is not None and question.kind == "text"
        follows = await self._store_answer(campaign, source, asked_question, None, advances=text)
        return _SENTENCES.get(follows, "feedback kept")

    async def withdraw(self, event_id: EventId) -> None:
        """Delete the answer of a redacted event."""
        await self._ledger.withdraw(event_id)

    async def amend(self, edit: Edit) -> None:
        """Replace the text of an answer with the text of its edit."""
        await self._ledger.amend(edit)

    async def _find_question(self, room_id: RoomId, event_id: EventId) -> AskedQuestion | None:
        """Return the question that an event asks; None if it asks none.

        The event may come before the homeserver acknowledges the question. So this waits while
        the room has a question that may have been sent.
        """
        while True:
            changed = self._changes.current
            asked_question = await self._ledger.question_at(room_id, event_id)
            if asked_question or not await self._ledger.is_begun(room_id):
                return asked_question or await self._ledger.question_at(room_id, event_id)
            await changed.wait()

    async def _store_answer(
        self,
        campaign: Campaign,
        source: Vote | Message,
        asked_question: AskedQuestion,
        answer: str | None,
        *,
        advances: bool = True,
    ) -> str:
        """Store an answer, and return what follows: "late", "goes on", "thanks" or "counts".

        Args:
            campaign: the campaign.
            source: the vote or the text.
            asked_question: the question.
            answer: the id of the answer that a vote chooses; None for a text.
            advances: whether it leads to the next question; else it is a comment on a poll.
        """
        follows = await self._ledger.answer(
            source,
            asked_question,
            answer,
            step=campaign.step_of(asked_question.question) if advances else _NEVER,
            steps=campaign.steps,
            at=self._clock.now(),
        )
        log.info("campaign answer", campaign=asked_question.campaign, follows=follows)
        self._changes.send()
        if follows == "thanks":
            conversation = Conversation(source.room_id, asked_question.recipient.thread_root)
            texts = (await self._contexts.chosen(conversation)).texts
            cause = EventId(f"{asked_question.campaign} {source.room_id}")
            await send(
                self._notifier, source.room_id, Notice(text=texts("thanks")), cause, "thanks"
            )
        return follows

"""Campaigns as the admins handle them: drafts, previews, launches, ends."""

from collections.abc import Sequence

import structlog

from bot.campaigns.definition import find, read
from bot.campaigns.messages import message_of, send
from bot.core.campaigns import (
    Campaign,
    CampaignResults,
    Recipient,
    choose,
)
from bot.core.events import Conversation, EventId, RoomId
from bot.core.routing import Policy
from bot.ports.campaigns import CampaignLedger
from bot.ports.clock import Clock
from bot.ports.matrix import Matrix
from bot.replies.context_builder import Contexts
from bot.replies.notices import Notifier
from bot.runtime.broadcast import Broadcast

log = structlog.get_logger()


class CampaignAdmin:
    """What the admin room does with campaigns."""

    def __init__(
        self,
        *,
        matrix: Matrix,
        clock: Clock,
        ledger: CampaignLedger,
        contexts: Contexts,
        notifier: Notifier,
        policy: Policy,
        changes: Broadcast,
        launches: Broadcast,
    ) -> None:
        """Keep what campaigns need; `changes` and `launches` are those of the sender."""
        self._matrix = matrix
        self._clock = clock
        self._ledger = ledger
        self._contexts = contexts
        self._notifier = notifier
        self._policy = policy
        self._changes = changes
        self._launches = launches

    async def draft(self, definition: str) -> Campaign | None:
        """Keep a campaign as a draft; None where one of that name was launched.

        Raises:
            Malformed: it cannot be read.
        """
        campaign = read(definition)
        kept = await self._ledger.draft(campaign.name, definition, self._clock.now())
        return campaign if kept else None

    async def find(self, name: str) -> Campaign | None:
        """Return a campaign, None where there is none of that name."""
        return await find(self._ledger, name)

    async def names(self) -> Sequence[tuple[str, str]]:
        """Return every campaign with its state, the newest first."""
        return await self._ledger.names()

    async def reach(self, campaign: Campaign) -> int:
        """Return to how many rooms a campaign would go now."""
        return len(await self._choose(campaign))

    async def _choose(self, campaign: Campaign) -> list[Recipient]:
        active = await self._ledger.active()
        rooms, heeds = self._matrix.rooms(), self._policy.heeds
        return choose(campaign, rooms, active, heeds, self._clock.now())

    async def launch(self, campaign: Campaign) -> int | None:
        """Let a draft begin; return to how many rooms it goes, None where it is no draft."""
        to, now = await self._choose(campaign), self._clock.now()
        if not to:
            return 0
        begins_at = max(campaign.begins_at or now, now)
        if not await self._ledger.launch(campaign.name, to, begins_at, campaign.ends_at):
            return None
        log.info("campaign launched", campaign=campaign.name, rooms=len(to))
        self._launches.send()
        self._changes.send()
        return len(to)

    async def close(self, name: str) -> bool:
        """End a running campaign now; False where it is not running."""
        closed = await self._ledger.close(name, self._clock.now())
        self._launches.send()
        self._changes.send()
        return closed

    async def progress(self, name: str) -> CampaignResults | None:
        """Return how far a campaign has come."""
        return await self._ledger.progress(name)

    async def preview(self, campaign: Campaign, room_id: RoomId, cause: EventId) -> None:
        """Show in a room what the campaign would send; nobody's vote there counts."""
        place = Conversation(room_id, None)
        texts = (await self._contexts.chosen(place)).texts
        for step in range(campaign.steps):
            outgoing = message_of(campaign, step, texts, None)
            await send(self._notifier, room_id, outgoing, cause, f"preview {step}")

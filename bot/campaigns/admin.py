"""The admins' actions on campaigns: draft, preview, launch, close."""

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
    """Runs the campaign commands of the admin room."""

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
        """Store the parts; `changes` and `launches` are shared with the sender."""
        self._matrix = matrix
        self._clock = clock
        self._ledger = ledger
        self._contexts = contexts
        self._notifier = notifier
        self._policy = policy
        self._changes = changes
        self._launches = launches

    async def draft(self, definition: str) -> Campaign | None:
        """Store a campaign as a draft; None if a campaign of that name was launched before.

        Raises:
            Malformed: the definition has faults.
        """
        campaign = read(definition)
        kept = await self._ledger.draft(campaign.name, definition, self._clock.now())
        return campaign if kept else None

    async def find(self, name: str) -> Campaign | None:
        """Return the campaign of that name; None if there is none."""
        return await find(self._ledger, name)

    async def names(self) -> Sequence[tuple[str, str]]:
        """Return the names and states of all campaigns, newest first."""
        return await self._ledger.names()

    async def reach(self, campaign: Campaign) -> int:
        """Return the number of rooms that a campaign would go to now."""
        return len(await self._recipients(campaign))

    async def _recipients(self, campaign: Campaign) -> list[Recipient]:
        active = await self._ledger.active()
        rooms, heeds = self._matrix.rooms(), self._policy.heeds
        return choose(campaign, rooms, active, heeds, self._clock.now())

    async def launch(self, campaign: Campaign) -> int | None:
        """Start a draft; return the number of its rooms, or None if it is no draft."""
        recipients, now = await self._recipients(campaign), self._clock.now()
        if not recipients:
            return 0
        begins_at = max(campaign.begins_at or now, now)
        if not await self._ledger.launch(campaign.name, recipients, begins_at, campaign.ends_at):
            return None
        log.info("campaign launched", campaign=campaign.name, rooms=len(recipients))
        self._launches.send()
        self._changes.send()
        return len(recipients)

    async def close(self, name: str) -> bool:
        """End a running campaign now; return False if it is not running."""
        closed = await self._ledger.close(name, self._clock.now())
        self._launches.send()
        self._changes.send()
        return closed

    async def results(self, name: str) -> CampaignResults | None:
        """Return the results of a campaign so far; None if there is none of that name."""
        return await self._ledger.results(name)

    async def preview(self, campaign: Campaign, room_id: RoomId, cause: EventId) -> None:
        """Send the messages of a campaign to one room as a preview; votes there do not count."""
        conversation = Conversation(room_id, None)
        texts = (await self._contexts.chosen(conversation)).texts
        for step in range(campaign.steps):
            outgoing = message_of(campaign, step, texts, None)
            await send(self._notifier, room_id, outgoing, cause, f"preview {step}")

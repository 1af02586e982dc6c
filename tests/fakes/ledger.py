"""The ledger of events and replies, in memory."""

from collections.abc import Sequence

from bot.core.events import (
    Batch,
    Change,
    Conversation,
    Event,
    EventId,
    Invite,
    Joined,
    Left,
    Pending,
    Prompt,
    RoomId,
    Undecryptable,
    UserId,
    Vote,
)
from bot.core.outgoing import OutboxMessage
from bot.errors import StoreError
from bot.ports.ledger import Choices, Claim, Exchange, UndecryptedEvent, Unheeded
from tests.fakes.campaigns import FakeCampaigns
from tests.fakes.feedback import FakeOpinions


def _fingerprint(event: Event) -> object:
    """Return the value by which repeated events are recognised, by default the event id."""
    return getattr(event, "fingerprint", None) or event.event_id


class FakeStore:
    """A ledger in memory."""

    def __init__(self) -> None:
        self.token: str | None = None
        self.events: dict[EventId, Event] = {}
        self.heard_at: dict[EventId, float] = {}
        self.notices: dict[EventId, float] = {}
        self.senders: dict[EventId, UserId] = {}
        self.finished: set[EventId] = set()
        self.claims: dict[EventId, int] = {}
        self.replies: dict[EventId, dict[int, EventId]] = {}
        self.outbox: dict[EventId, tuple[OutboxMessage, ...]] = {}
        self.joined: dict[EventId, EventId] = {}
        self.chosen: dict[Conversation, Choices] = {}
        self.broken = False
        self.opinions = FakeOpinions()
        self.campaigns = FakeCampaigns(self.opinions)
        self.askers = (self.opinions, self.campaigns)

    async def sync_token(self) -> str | None:
        return self.token

    async def admit(self, batch: Batch, heard_at: float) -> Sequence[Event]:
        if self.broken:
            raise StoreError("the disk is full")
        new: list[Event] = []
        for event in batch.events:
            again = isinstance(event, Invite)
            known = event.event_id in self.events or _fingerprint(event) in map(
                _fingerprint, self.events.values()
            )
            if self._is_nobodys(event):
                continue
            if not known or again:
                self.events[event.event_id] = event
                self.heard_at[event.event_id] = heard_at
                self.finished.discard(event.event_id)
                new.append(event)
        self.token = batch.next_batch
        return new

    async def unfinished(self) -> Sequence[Invite | Joined | Left | Pending | UndecryptedEvent]:
        return [self._left(one) for key, one in self.events.items() if key not in self.finished]

    def _left(self, event: Event) -> Invite | Joined | Left | Pending | UndecryptedEvent:
        key = event.event_id
        if isinstance(event, Invite | Joined | Left):
            return event
        if isinstance(event, Undecryptable) and key not in {*self.claims, *self.joined}:
            return UndecryptedEvent(event, self.heard_at[key])
        return Pending(key, event.room_id, key in self.claims, self.joined.get(key))

    def _is_nobodys(self, event: Event) -> bool:
        poll = event.target if isinstance(event, Vote) else getattr(event, "refers_to", None)
        if poll is not None:
            return not any(one.may_know(event.room_id, poll) for one in self.askers)
        return isinstance(event, Change) and self._is_no_part(event)

    def _is_no_part(self, change: Change) -> bool:
        here = [one for one in self.events.values() if one.room_id == change.room_id]
        ids = {
            *(one.event_id for one in here),
            *(getattr(one, "thread_root", None) for one in here),
            *(one for parts in self.replies.values() for one in parts.values()),
        }
        return change.target not in ids

    async def claim(self, prompt: Prompt, *, again: bool = False) -> Claim:  # noqa: ARG002  # the port
        first, *joined = prompt.event_ids
        if first not in self.events:
            raise StoreError(f"{first} was claimed before it was admitted")
        self.claims[first] = self.claims.get(first, 0) + 1
        self.joined.pop(first, None)
        self.joined |= dict.fromkeys(joined, first)
        self.finished.difference_update(prompt.event_ids)
        return Claim(self.claims[first], self._reply(first), self.outbox.get(first, ()))

    def _reply(self, prompt: EventId) -> tuple[EventId, ...]:
        parts = self.replies.get(prompt, {})
        return tuple(parts[part] for part in sorted(parts))

    async def exchange(self, room_id: RoomId, event_id: EventId) -> Exchange | None:
        replied = [key for key, parts in self.replies.items() if event_id in parts.values()]
        [message] = replied or [event_id]
        first = self.joined.get(message, message)
        if first not in self.events or self.events[first].room_id != room_id:
            return None
        joined = [key for key in self.events if self.joined.get(key) == first]
        return Exchange((first, *joined), self._reply(first))

    async def choose(self, conversation: Conversation, chosen: Choices) -> None:
        before = self.chosen.get(conversation, Choices())
        self.chosen[conversation] = Choices(
            chosen.model or before.model, chosen.language or before.language
        )

    async def choices(self, conversation: Conversation) -> Choices:
        here = self.chosen.get(conversation, Choices())
        room = self.chosen.get(Conversation(conversation.room_id, None), Choices())
        return Choices(here.model or room.model, here.language or room.language)

    async def sent(self, prompt: EventId, part: int, event_id: EventId) -> None:
        for key, parts in self.replies.items():
            for number, known in parts.items():
                if known == event_id and (key, number) != (prompt, part):
                    raise StoreError("each event is one part of one reply")
        self.replies.setdefault(prompt, {})[part] = event_id

    async def keep_outbox(self, prompt: EventId, messages: Sequence[OutboxMessage]) -> None:
        self.outbox[prompt] = tuple(messages)

    async def finish(self, *event_ids: EventId) -> None:
        self.finished.update(event_ids)
        for event_id in event_ids:
            self.outbox.pop(event_id, None)

    async def noticed(self, message: Unheeded, at: float) -> None:
        if message.event_id in self.events:
            self.senders[message.event_id] = message.sender
            self.notices[message.event_id] = at

    async def last_notice(self, sender: UserId, room_id: RoomId) -> float | None:
        told = [
            at
            for key, at in self.notices.items()
            if self.senders[key] == sender and self.events[key].room_id == room_id
        ]
        return max(told, default=None)

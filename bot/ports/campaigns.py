"""The campaign port: announcements and polls to many rooms."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from bot.core.campaigns import Asked, CampaignResults, DeliveryProgress, Recipient, Sending
from bot.core.events import (
    Edit,
    EventId,
    Message,
    Room,
    RoomId,
    Vote,
)


class CampaignLedger(Protocol):
    """Campaigns and how far they have come; a part of the ledger.

    Times are in seconds since the epoch, steps count from 0 on. It waits and raises as `Store`.

    `draft` keeps what a campaign says, False where one of that name is launched; `definition`
    returns it, `names` every campaign with its state. `active` returns when something was last
    answered in each room. `launch` lets a draft begin, `close` ends it; False where it cannot be.
    `running` are those that have anything left to be sent or told; `due` returns what one is to
    send first by `now`, and when to look again (in the past: its time is over), None where it has
    nothing left. `sent`, `reminded`,
    `ended`, `put_off` and `decline` record what became of it.
    `wanted` returns from when on a room may be asked, None where it wants no polls. `begin` does
    so too, and where a step `asks` nothing or is wanted by `now`, records that it may be sent from
    now on: `is_begun` holds for its room till `sent`.
    `headway` tells how many rooms are dealt with, and `told` records of which milestone the admins
    were told. `result` returns to which question a poll belongs, and how often each answer was
    chosen there.
    `asked` returns the question that stands at an event, and `answer` takes in what somebody says
    to it, until `withdraw`; `amend` lets a text say what its edit says.
    `progress` returns how far a campaign has come, None where there is none of that name.
    """

    async def draft(self, name: str, definition: str, at: float) -> bool: ...

    async def definition(self, name: str) -> str | None: ...

    async def names(self) -> Sequence[tuple[str, str]]: ...

    async def active(self) -> Mapping[RoomId, float]: ...

    async def launch(
        self, name: str, to: Sequence[Recipient], begins_at: float, ends_at: float | None
    ) -> bool: ...

    async def close(self, name: str, at: float) -> bool: ...

    async def running(self) -> Sequence[str]: ...

    async def due(self, name: str, now: float) -> tuple[Sending | None, float | None] | None: ...

    async def sent(
        self,
        one: Sending,
        event_id: EventId,
        at: float,
        *,
        question: tuple[str, bool] | None,
        next_due: float | None,
        remind_at: float | None,
    ) -> None: ...

    async def reminded(self, one: Sending) -> None: ...

    async def ended(self, one: Sending) -> None: ...

    async def put_off(self, one: Sending, due_at: float) -> None: ...

    async def decline(self, one: Sending) -> None: ...

    async def wanted(self, room: Room, campaign: str, now: float) -> float | None: ...

    async def asked(self, room_id: RoomId, event_id: EventId) -> Asked | None: ...

    async def begin(self, one: Sending, room: Room, now: float, *, asks: bool) -> float | None: ...

    async def is_begun(self, room_id: RoomId) -> bool: ...

    async def withdraw(self, event_id: EventId) -> None: ...

    async def amend(self, edit: Edit) -> None: ...

    async def answer(
        self,
        said: Vote | Message,
        asked: Asked,
        answer: str | None,
        *,
        step: int,
        steps: int,
        at: float,
    ) -> Literal["goes on", "thanks", "counts", "late"]: ...

    async def progress(self, name: str) -> CampaignResults | None: ...

    async def headway(self, name: str) -> DeliveryProgress: ...

    async def told(self, name: str, milestone: int) -> None: ...

    async def result(
        self, room_id: RoomId, event_id: EventId
    ) -> tuple[str, Mapping[str, int]] | None: ...

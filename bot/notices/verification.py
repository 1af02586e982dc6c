"""Verifications of the bot's device: by emoji with admins, refused with a notice to others."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final

import structlog

from bot.core.events import RoomId, UserId, VerificationEvent
from bot.core.outgoing import Notice
from bot.core.routing import Policy
from bot.core.verification import (
    EmojiShown,
    VerificationCancelled,
    VerificationDone,
    VerificationRefused,
    VerificationStep,
)
from bot.i18n.texts import Texts
from bot.monitoring.error_boundary import error_boundary
from bot.ports.clock import Clock
from bot.ports.matrix import Matrix
from bot.replies.notices import Notifier
from bot.runtime.once_a_day import OnceADay
from bot.runtime.retry import retry_until_accepted

# The spec's emoji in its order (SAS method, emoji); their names are in the catalogues.
EMOJI: Final = (
    *"🐶🐱🦁🐎🦄🐷🐘🐰🐼🐓🐧🐢🐟🐙🦋🌷🌳🌵🍄🌏🌙☁🔥🍌🍎🍓🌽🍕🎂❤😀🤖🎩👓🔧🎅👍☂⌛⏰🎁💡📕✏📎✂🔒🔑🔨☎🏁🚂🚲✈🚀🏆⚽🎸🎺🔔⚓🎧📁📌",
)

_PATIENCE = 60.0  # seconds for which one step is tried, while the person waits at a dialog
_LONGEST_QUEUE = 200
_REFUSALS_A_DAY = 20  # per person, who might send requests for ever

_Queue = asyncio.Queue[VerificationEvent]

log = structlog.get_logger()


class Verifications:
    """Runs the steps of verifications in order, and shows admins the emoji to compare.

    Events of admins and of others have a queue each, so that an admin waits for nobody else.
    """

    def __init__(
        self, *, matrix: Matrix, clock: Clock, notifier: Notifier, policy: Policy, texts: Texts
    ) -> None:
        self._matrix = matrix
        self._clock = clock
        self._notifier = notifier
        self._policy = policy
        self._texts = texts
        self._of_admins = _Queue(_LONGEST_QUEUE)
        self._of_others = _Queue(_LONGEST_QUEUE)
        self._notified: OnceADay[UserId] = OnceADay()
        self._refused: OnceADay[tuple[UserId, int]] = OnceADay()

    def hear(self, events: Iterable[VerificationEvent]) -> None:
        """Queue the verification events of a sync, of people whom the policy allows."""
        for event in events:
            trusted = event.sender in self._policy.admins
            if self._policy.heeds(event.sender) and (trusted or event.kind == "request"):
                queue = self._of_admins if trusted else self._of_others
                try:
                    queue.put_nowait(event)
                except asyncio.QueueFull:
                    log.warning("verification passed over", sender=event.sender)

    async def run(self) -> None:
        """Run the queued steps, for ever; an error ends only its own step."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._run(self._of_admins, self._verify))
            tasks.create_task(self._run(self._of_others, self._refuse))

    async def _run(
        self, queue: _Queue, step: Callable[[VerificationEvent], Awaitable[None]]
    ) -> None:
        while True:
            event = await queue.get()
            try:
                async with error_boundary("verification failed", sender=event.sender):
                    await step(event)
            finally:
                queue.task_done()

    async def _verify(self, event: VerificationEvent) -> None:
        step = await self._step(event, trusted=True)
        if step is not None:
            await self._tell(event, step)

    async def _refuse(self, event: VerificationEvent) -> None:
        """Cancel a request of somebody who is no admin; explain why, once a day.

        Requests above a daily number per person are ignored.
        """
        now = self._clock.now()
        keys = ((event.sender, number) for number in range(_REFUSALS_A_DAY))
        if not any(self._refused.is_due(key, now) for key in keys):
            return
        step = await self._step(event, trusted=False)
        if step is not None and self._notified.is_due(event.sender, now):
            await self._tell(event, step)

    async def _step(self, event: VerificationEvent, *, trusted: bool) -> VerificationStep | None:
        verify = partial(self._matrix.verify, event, trusted=trusted)
        return await retry_until_accepted(self._clock, verify, within=_PATIENCE)

    async def _tell(self, event: VerificationEvent, step: VerificationStep) -> None:
        match step:
            case EmojiShown(numbers):
                emoji = self._emoji_names(numbers)
                log.info("verification to compare", sender=event.sender, emoji=emoji)
                await self._tell_admins(event, "verification emoji", emoji=emoji)
            case VerificationDone():
                log.info("verification done", sender=event.sender)
                await self._tell_admins(event, "verification done")
            case VerificationCancelled(code):
                log.warning("verification cancelled", sender=event.sender, code=code)
                await self._tell_admins(event, "verification cancelled")
            case VerificationRefused(room_id):
                log.info("verification refused", sender=event.sender)
                if room_id is not None:
                    await self._say(room_id, event, "verification refused")

    def _emoji_names(self, numbers: Iterable[int]) -> str:
        names = self._texts("emoji names").split(", ")
        return " · ".join(f"{EMOJI[number]} {names[number]}" for number in numbers)

    async def _tell_admins(self, event: VerificationEvent, key: str, **values: object) -> None:
        rooms = (room.room_id for room in self._matrix.rooms() if room.admin)
        if (room_id := next(rooms, None)) is not None:
            await self._say(room_id, event, key, sender=event.sender, **values)

    async def _say(
        self, room_id: RoomId, event: VerificationEvent, key: str, **values: object
    ) -> None:
        notice = Notice(text=self._texts(key, **values))
        transaction = f"{key} {event.transaction_id}".replace(" ", "-")
        await self._notifier.send_as(room_id, notice, transaction, within=_PATIENCE)

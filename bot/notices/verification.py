"""Verifications of the bot's device: with its admins, by emoji; others are told politely."""

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

_PATIENCE = 60.0  # seconds for one step; the person waits before a window
_LONGEST_LINE = 200
_REFUSALS_A_DAY = 20  # of one person's; they might go on for ever

_Line = asyncio.Queue[VerificationEvent]

log = structlog.get_logger()


class Verifications:
    """Takes each step of each verification in its turn, and says what people are to compare.

    Admins' and others' have a line each, so that nobody else keeps an admin waiting.
    """

    def __init__(
        self, *, matrix: Matrix, clock: Clock, notifier: Notifier, policy: Policy, texts: Texts
    ) -> None:
        self._matrix = matrix
        self._clock = clock
        self._notifier = notifier
        self._policy = policy
        self._texts = texts
        self._of_admins = _Line(_LONGEST_LINE)
        self._of_others = _Line(_LONGEST_LINE)
        self._told: OnceADay[UserId] = OnceADay()
        self._refused: OnceADay[tuple[UserId, int]] = OnceADay()

    def hear(self, events: Iterable[VerificationEvent]) -> None:
        """Take in what a sync has told, of people whom the bot heeds."""
        for event in events:
            trusted = event.sender in self._policy.admins
            if self._policy.heeds(event.sender) and (trusted or event.kind == "request"):
                line = self._of_admins if trusted else self._of_others
                try:
                    line.put_nowait(event)
                except asyncio.QueueFull:
                    log.warning("verification passed over", sender=event.sender)

    async def run(self) -> None:
        """Take step after step, for ever; what goes wrong with one costs that one alone."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._run(self._of_admins, self._verify))
            tasks.create_task(self._run(self._of_others, self._refuse))

    async def _run(
        self, line: _Line, step: Callable[[VerificationEvent], Awaitable[None]]
    ) -> None:
        while True:
            event = await line.get()
            try:
                async with error_boundary("verification failed", sender=event.sender):
                    await step(event)
            finally:
                line.task_done()

    async def _verify(self, event: VerificationEvent) -> None:
        step = await self._step(event, trusted=True)
        if step is not None:
            await self._tell(event, step)

    async def _refuse(self, event: VerificationEvent) -> None:
        """Cancel what somebody else asks for, a few times a day, and say why once a day."""
        now = self._clock.now()
        places = ((event.sender, number) for number in range(_REFUSALS_A_DAY))
        if not any(self._refused.is_due(place, now) for place in places):
            return
        step = await self._step(event, trusted=False)
        if step is not None and self._told.is_due(event.sender, now):
            await self._tell(event, step)

    async def _step(self, event: VerificationEvent, *, trusted: bool) -> VerificationStep | None:
        verify = partial(self._matrix.verify, event, trusted=trusted)
        return await retry_until_accepted(self._clock, verify, within=_PATIENCE)

    async def _tell(self, event: VerificationEvent, step: VerificationStep) -> None:
        match step:
            case EmojiShown(numbers):
                shown = self._named(numbers)
                log.info("verification to compare", sender=event.sender, emoji=shown)
                await self._tell_admins(event, "verification emoji", emoji=shown)
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

    def _named(self, numbers: Iterable[int]) -> str:
        names = self._texts("emoji names").split(", ")
        return " · ".join(f"{EMOJI[number]} {names[number]}" for number in numbers)

    async def _tell_admins(self, event: VerificationEvent, key: str, **values: object) -> None:
        rooms = (room.room_id for room in self._matrix.rooms() if room.admin)
        if (room_id := next(rooms, None)) is not None:
            await self._say(room_id, event, key, sender=event.sender, **values)

    async def _say(
        self, room_id: RoomId, event: VerificationEvent, key: str, **values: object
    ) -> None:
        notice = Notice(self._texts(key, **values))
        transaction = f"{key} {event.transaction_id}".replace(" ", "-")
        await self._notifier.send_as(room_id, notice, transaction, within=_PATIENCE)

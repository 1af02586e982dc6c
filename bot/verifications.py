"""Verifications of the bot's device: with its admins, by emoji; others are told politely."""

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Final

import structlog

from bot.core.events import RoomId, UserId, VerificationEvent
from bot.core.replies import Notice
from bot.core.routing import Policy
from bot.core.verification import (
    EmojiShown,
    VerificationCancelled,
    VerificationDone,
    VerificationRefused,
    VerificationStep,
)
from bot.delivery import Replying
from bot.errors import ENDING, MatrixError
from bot.insist import insist, post
from bot.logs import costing_nothing
from bot.once_a_day import OnceADay
from bot.texts import Texts

# The spec's emoji in its order (SAS method, emoji); their names are in the catalogues.
EMOJI: Final = (
    *"🐶🐱🦁🐎🦄🐷🐘🐰🐼🐓🐧🐢🐟🐙🦋🌷🌳🌵🍄🌏🌙☁🔥🍌🍎🍓🌽🍕🎂❤😀🤖🎩👓🔧🎅👍☂⌛⏰🎁💡📕✏📎✂🔒🔑🔨☎🏁🚂🚲✈🚀🏆⚽🎸🎺🔔⚓🎧📁📌",
)

_PATIENCE = 60.0  # seconds for one step; the person waits before a window

log = structlog.get_logger()


class Verifications:
    """Takes each step of each verification in its turn, and says what people are to compare."""

    def __init__(self, to: Replying, policy: Policy, texts: Texts) -> None:
        self._to = to
        self._policy = policy
        self._texts = texts
        self._heard: asyncio.Queue[VerificationEvent] = asyncio.Queue()
        self._refused: OnceADay[UserId] = OnceADay()

    def hear(self, events: Iterable[VerificationEvent]) -> None:
        """Take in what a sync has told, of people whom the bot heeds."""
        for event in events:
            if self._policy.heeds(event.sender):
                self._heard.put_nowait(event)

    async def run(self) -> None:
        """Take step after step, for ever; what goes wrong with one costs that one alone."""
        while True:
            event = await self._heard.get()
            with costing_nothing():
                try:
                    await self._take(event)
                except ENDING:
                    raise
                except MatrixError as error:
                    log.warning("verification failed", sender=event.sender, reason=str(error))
                finally:
                    self._heard.task_done()

    async def _take(self, event: VerificationEvent) -> None:
        trusted = event.sender in self._policy.admins
        if not trusted:  # is refused once a day, and else passed over
            now = self._to.clock.now()
            if event.kind != "request" or not self._refused.is_due(event.sender, now):
                return
        step = await insist(
            self._to.clock,
            partial(self._to.matrix.verify, event, trusted=trusted),
            within=_PATIENCE,
        )
        if step is not None:
            await self._tell(event, step)

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
        rooms = (room.room_id for room in self._to.matrix.rooms() if room.admin)
        if (room_id := next(rooms, None)) is not None:
            await self._say(room_id, event, key, sender=event.sender, **values)

    async def _say(
        self, room_id: RoomId, event: VerificationEvent, key: str, **values: object
    ) -> None:
        notice = Notice(self._texts(key, **values))
        transaction = f"{key} {event.transaction_id}".replace(" ", "-")
        await post(self._to, room_id, notice, transaction, name="notice", within=_PATIENCE)

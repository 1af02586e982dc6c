"""Whose devices cannot all read the bot is told so in the direct message, once a day."""

import asyncio

import pytest

from bot.core.events import UserId
from bot.core.outgoing import Notice
from bot.errors import MatrixError
from bot.i18n.texts import Texts
from bot.notices.unsigned_devices import UnsignedDeviceNotices
from tests.fakes.clock import FakeClock
from tests.fakes.ledger import FakeStore
from tests.fakes.matrix import FakeMatrix
from tests.fakes.story import make_notifier
from tests.make import ROOM

PERSON, OTHER = UserId("@person:tchap.test"), UserId("@other:tchap.test")
TEXTS = Texts("fr")


class UnsignedDeviceSetup:
    def __init__(self, *, direct: bool = True) -> None:
        self.matrix, self.clock = FakeMatrix(direct=direct), FakeClock()
        self._notices = UnsignedDeviceNotices(
            matrix=self.matrix,
            clock=self.clock,
            notifier=make_notifier(self.matrix, FakeStore(), self.clock),
            texts=TEXTS,
        )

    async def hear(self, *people: UserId) -> None:
        running = asyncio.get_running_loop().create_task(self._notices.run())
        self._notices.hear([(ROOM, user_id) for user_id in people])
        await self._notices._queue.join()
        running.cancel()
        await asyncio.wait([running])

    @property
    def said(self) -> list[str]:
        return [one.text for _, one in self.matrix.sent if isinstance(one, Notice)]


async def test_each_person_is_told_once_a_day() -> None:
    desk = UnsignedDeviceSetup()

    await desk.hear(PERSON, PERSON, OTHER)
    await desk.hear(PERSON)
    assert desk.said == [TEXTS("devices left out")] * 2

    desk.clock.time += 86_400
    await desk.hear(PERSON)
    assert len(desk.said) == 3


async def test_in_a_salon_nobody_is_told() -> None:
    desk = UnsignedDeviceSetup(direct=False)

    await desk.hear(PERSON)

    assert desk.said == []


@pytest.mark.parametrize("failures", [1, 2])
async def test_what_is_refused_costs_nobody_else_the_sentence(failures: int) -> None:
    desk = UnsignedDeviceSetup()
    desk.matrix.failures = [MatrixError("refused")] * failures

    await desk.hear(PERSON, UserId("@third:tchap.test"), OTHER)

    assert len(desk.said) == 3 - failures

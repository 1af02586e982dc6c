"""Who may verify the bot's device, and what is said of it in which room."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

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
from bot.errors import HomeserverUnreachable, MatrixError
from bot.i18n.texts import Texts
from bot.notices.verification import EMOJI, Verifications
from tests.fakes.clock import FakeClock
from tests.fakes.ledger import FakeStore
from tests.fakes.matrix import FakeMatrix
from tests.fakes.story import make_notifier
from tests.make import BOT, ROOM

ADMIN, PERSON = UserId("@admin:example.org"), UserId("@person:example.org")
STRANGER = UserId("@stranger:elsewhere.org")
ADMIN_ROOM = RoomId("!admins:example.org")
TEXTS = Texts("fr")


def event(sender: UserId = ADMIN, kind: str = "request", number: int = 1) -> VerificationEvent:
    return VerificationEvent(
        sender=sender, kind=kind, transaction_id=f"$request{number}", content={}, room_id=ROOM
    )


class VerificationSetup:
    def __init__(self, *, admin_room: bool = True) -> None:
        self.matrix, self.clock = FakeMatrix(), FakeClock()
        if admin_room:
            self.matrix.admin_room = ADMIN_ROOM
        policy = Policy(me=BOT, allowed_servers=("example.org",), admins=frozenset({ADMIN}))
        self.verifications = Verifications(
            matrix=self.matrix,
            clock=self.clock,
            notifier=make_notifier(self.matrix, FakeStore(), self.clock),
            policy=policy,
            texts=TEXTS,
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        running = asyncio.get_running_loop().create_task(self.verifications.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def hear(self, *events: VerificationEvent, steps: list[VerificationStep | None]) -> None:
        """Let events be heard that lead to these steps, and wait until all is said."""
        self.matrix.verifying.steps += steps
        async with self.open():
            self.verifications.hear(events)
            await self.verifications._of_admins.join()
            await self.verifications._of_others.join()

    @property
    def said(self) -> list[tuple[RoomId, str]]:
        return [
            (self.matrix.places[event_id], outgoing.text)
            for event_id, outgoing in self.matrix.sent
            if isinstance(outgoing, Notice)
        ]


def test_there_are_64_emoji_with_names_in_each_language() -> None:
    assert len(EMOJI) == len(set(EMOJI)) == 64
    for language in ("fr", "en"):
        names = Texts(language)("emoji names").split(", ")
        assert len(names) == len(set(names)) == 64


@pytest.mark.parametrize(
    ("step", "key"),
    [
        (EmojiShown((0, 1, 2, 3, 4, 5, 63)), "verification emoji"),
        (VerificationDone(), "verification done"),
        (VerificationCancelled("m.mismatched_sas"), "verification cancelled"),
    ],
)
async def test_the_admin_room_is_told_how_it_goes(step: VerificationStep, key: str) -> None:
    desk = VerificationSetup()

    await desk.hear(event(), steps=[step])

    emoji = "🐶 Chien · 🐱 Chat · 🦁 Lion · 🐎 Cheval · 🦄 Licorne · 🐷 Cochon · 📌 Punaise"
    assert desk.said == [(ADMIN_ROOM, TEXTS(key, sender=ADMIN, emoji=emoji))]
    assert desk.matrix.verifying.taken == [(event(), True)]


async def test_without_admin_room_nothing_is_said() -> None:
    desk = VerificationSetup(admin_room=False)

    await desk.hear(event(), steps=[VerificationDone()])

    assert desk.said == []


async def test_anybody_else_is_refused_each_time_and_told_why_once_a_day() -> None:
    desk = VerificationSetup()
    again = [event(PERSON, number=number) for number in range(3)]

    await desk.hear(*again, steps=[VerificationRefused(ROOM)] * 3)
    assert desk.said == [(ROOM, TEXTS("verification refused"))]
    assert desk.matrix.verifying.taken == [(one, False) for one in again]

    desk.clock.time += 86_400
    await desk.hear(event(PERSON, number=4), steps=[VerificationRefused(None)])
    assert len(desk.said) == 1
    assert len(desk.matrix.verifying.taken) == 4


async def test_who_asks_without_end_is_refused_some_times_a_day() -> None:
    desk = VerificationSetup()

    await desk.hear(*(event(PERSON, number=number) for number in range(100)), steps=[])

    assert len(desk.matrix.verifying.taken) == 20


async def test_more_than_can_be_looked_at_is_passed_over() -> None:
    desk = VerificationSetup()

    desk.verifications.hear(event(PERSON, number=number) for number in range(1000))

    assert desk.verifications._of_others.qsize() == 200
    assert desk.verifications._of_admins.empty()


@pytest.mark.parametrize("kind", ["start", "key", "mac", "done", "cancel"])
async def test_of_anybody_else_only_a_request_is_heard(kind: str) -> None:
    desk = VerificationSetup()

    await desk.hear(event(PERSON, kind), steps=[])

    assert desk.matrix.verifying.taken == []


async def test_whom_the_bot_does_not_heed_it_does_not_answer() -> None:
    desk = VerificationSetup()

    await desk.hear(event(STRANGER), event(UserId(BOT)), steps=[])

    assert [one.sender for one, _ in desk.matrix.verifying.taken] == []


@pytest.mark.parametrize("failure", [HomeserverUnreachable("away"), MatrixError("refused")])
async def test_what_fails_costs_no_other_verification(failure: MatrixError) -> None:
    desk = VerificationSetup()
    desk.matrix.failures = [failure]

    await desk.hear(event(), event(number=2), steps=[VerificationDone(), VerificationDone()])

    expected = 2 if isinstance(failure, HomeserverUnreachable) else 1
    assert len(desk.said) == expected

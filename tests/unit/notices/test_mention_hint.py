"""Who types the bot's name in a salon, and does not mention it, is told once a day how to."""

from dataclasses import replace

import pytest

from bot.core.events import Conversation, Message, Prompt, UserId
from bot.core.outgoing import Notice
from bot.errors import Forbidden
from bot.i18n.texts import speak
from tests.fakes.story import Story
from tests.make import AGENT, BOT, COLLEAGUE, ROOM, message

FR = speak("fr")
HINT = FR("how to mention", name="Assistant IA")


class SalonStory(Story):
    def __init__(self) -> None:
        super().__init__()
        self.matrix.direct = False
        self.number = 0

    async def type(self, *, sender: UserId = AGENT, days: float = 0, at: str = "") -> Message:
        self.number += 1
        heard = message(f"@{at or 'Assistant IA'} bonjour", event_id=f"${self.number}")
        heard = replace(
            heard,
            sender=sender,
            typed_at=(f"{at or 'Assistant IA'} bonjour",),
            timestamp=heard.timestamp + int(days * 86_400_000),
        )
        self.matrix.hear(heard)
        await self.until(lambda: self.done(heard.event_id))
        return heard

    @staticmethod
    def at(*, days: float) -> float:
        """Return when a message of that day is said, in seconds since the epoch."""
        return message().timestamp / 1000 + days * 86_400

    @property
    def notices(self) -> list[Notice]:
        return [one for _, one in self.matrix.sent if isinstance(one, Notice)]


@pytest.fixture
def salon() -> SalonStory:
    return SalonStory()


async def test_each_person_is_told_once_a_day_in_reply_to_what_was_meant(
    salon: SalonStory,
) -> None:
    async with salon.run():
        salon.clock.time += salon.at(days=3) - salon.clock.now()
        first = await salon.type()
        await salon.type()
        other = await salon.type(sender=COLLEAGUE)
        later = await salon.type(days=1)
        await salon.type(days=1.00001)

    expected = [
        Prompt((one,), Conversation(ROOM, one.event_id), one.event_id)
        for one in (first, other, later)
    ]
    assert salon.notices == [Notice(text=HINT, to=one) for one in expected]
    assert salon.model.requests == []


async def test_a_second_process_tells_nobody_twice_on_one_day(salon: SalonStory) -> None:
    async with salon.run():
        await salon.type()
    async with salon.run():
        await salon.type()

    assert len(salon.notices) == 1


async def test_what_could_not_be_said_is_said_the_next_time(salon: SalonStory) -> None:
    salon.matrix.failures = [Forbidden("M_FORBIDDEN")]
    async with salon.run():
        await salon.type()
        assert salon.notices == []
        second = await salon.type()

    assert [one.to and one.to.event_id for one in salon.notices] == [second.event_id]


async def test_a_day_that_has_not_begun_is_today(salon: SalonStory) -> None:
    salon.clock.time = salon.at(days=0) - salon.clock.now() + salon.clock.time
    async with salon.run():
        await salon.type(days=0)
        await salon.type(days=1)
        await salon.type(days=2)

    assert len(salon.notices) == 1


async def test_the_name_that_the_bot_has_there_is_the_one_to_look_for(salon: SalonStory) -> None:
    salon.matrix.names[BOT] = "🤖 Albert"
    async with salon.run():
        await salon.type(at="albert")

    assert [one.text for one in salon.notices] == [FR("how to mention", name="🤖 Albert")]


async def test_in_a_direct_message_all_is_a_prompt_anyway(salon: SalonStory) -> None:
    salon.matrix.direct = True
    async with salon.run():
        await salon.type()

    assert salon.notices == []
    assert len(salon.model.requests) == 1
    assert ROOM in salon.matrix.places.values()

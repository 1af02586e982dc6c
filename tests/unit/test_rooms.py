from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from bot.core.events import RoomId, UserId
from bot.errors import Forbidden, RateLimited
from bot.i18n.texts import speak
from tests.fakes.story import Story
from tests.make import AGENT, BOT, COLLEAGUE, message

FR = speak("fr")
ADMIN_ROOM = RoomId("!admin:tchap.test")


@pytest.fixture
def story() -> Story:
    made = Story()
    made.policy = replace(made.policy, admins=frozenset({AGENT, COLLEAGUE}))
    return made


def people(story: Story) -> set[UserId]:
    return story.matrix.people.get(ADMIN_ROOM, set())


async def test_a_room_is_made_and_the_admins_are_invited_once(story: Story) -> None:
    for _ in range(2):
        async with story.run():
            story.matrix.hear()
            await story.until(lambda: people(story) == {BOT, AGENT, COLLEAGUE})

    assert story.matrix.admin_room == ADMIN_ROOM


async def test_without_admins_there_is_no_room(story: Story) -> None:
    story.policy = replace(story.policy, admins=frozenset())
    async with story.run():
        story.matrix.hear()
        await story.until(lambda: story.store.token is not None)

    assert story.matrix.admin_room is None


async def test_an_admin_who_cannot_be_invited_keeps_out_no_other(story: Story) -> None:
    story.matrix.admin_room = ADMIN_ROOM
    story.matrix.people[ADMIN_ROOM] = {BOT}
    story.matrix.failures = []
    invite = story.matrix.invite

    async def refuse(room_id: RoomId, user_id: UserId) -> None:
        if user_id == AGENT:
            raise Forbidden("no")
        await invite(room_id, user_id)

    story.matrix.invite = refuse  # type: ignore[method-assign]  # for one story
    async with story.run():
        story.matrix.hear()
        await story.until(lambda: people(story) == {BOT, COLLEAGUE})


async def test_an_admin_who_is_nobody_is_said_and_keeps_out_no_other(story: Story) -> None:
    story.matrix.unknown = {AGENT}
    with capture_logs() as lines:
        async with story.run():
            story.matrix.hear()
            await story.until(lambda: COLLEAGUE in people(story))

    said = [line["user_id"] for line in lines if "matrix.admins" in line["event"]]
    assert said == [AGENT]


async def test_a_busy_homeserver_only_delays_it(story: Story) -> None:
    story.matrix.failures = [RateLimited("429", 1.0)] * 3
    async with story.run():
        story.matrix.hear()
        await story.until(lambda: people(story) == {BOT, AGENT, COLLEAGUE})


async def test_commands_of_the_admin_room_are_known_nowhere_else(story: Story) -> None:
    async with story.run():
        story.matrix.hear(message("!aide"))
        await story.until(lambda: story.done("$prompt"))
        here = replace(message("!aide", event_id="$2"), room_id=ADMIN_ROOM)
        story.matrix.admin_room = ADMIN_ROOM
        story.matrix.hear(here)
        await story.until(lambda: story.done("$2"))

    assert story.shown == [FR("help"), FR("help admin")]

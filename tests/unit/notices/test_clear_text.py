"""Clear text in an encrypted room: nothing is made of it, and one sentence a day says why."""

from dataclasses import replace

import pytest

from bot.core.events import Edit, EventId, Message, UserId
from bot.core.outgoing import Notice
from bot.i18n.texts import speak
from tests.fakes.story import Story
from tests.make import AGENT, COLLEAGUE, ROOM, edit_event, message

TEXTS = speak("fr")
DAY = 86_400.0


@pytest.fixture
def story() -> Story:
    return Story()


def clear(event_id: str = "$1", sender: UserId = AGENT, body: str = "Bonjour") -> Message:
    return replace(message(body, event_id=event_id), sender=sender, exposed=True)


def notices(story: Story) -> list[str]:
    return [one.text for _, one in story.matrix.sent if isinstance(one, Notice)]


async def hear(story: Story, *events: Message | Edit) -> None:
    story.matrix.hear(*events)
    await story.until(lambda: story.done(*(one.event_id for one in events)))


@pytest.mark.parametrize("body", ["Bonjour", "!aide", "!stop", "!nouveau"])
async def test_a_prompt_or_command_in_clear_gets_one_sentence_and_no_answer(
    story: Story, body: str
) -> None:
    refused = clear(body=body)
    async with story.run():
        await hear(story, refused)

    [(_, notice)] = story.matrix.sent
    assert isinstance(notice, Notice)
    assert notice.text == TEXTS("clear text")
    assert notice.to is not None
    assert notice.unanswered
    assert story.model.requests == []


async def test_it_is_said_once_a_day_however_much_comes_at_once(story: Story) -> None:
    async with story.run():
        await hear(story, *(clear(f"${number}") for number in range(20)))
        await hear(story, clear("$of a colleague", COLLEAGUE))

    assert notices(story) == [TEXTS("clear text")] * 2
    assert story.model.requests == []


async def test_another_process_says_it_no_second_time_on_the_same_day(story: Story) -> None:
    async with story.run():
        await hear(story, clear("$1"))
    async with story.run():
        await hear(story, clear("$2"))
    assert len(notices(story)) == 1

    story.clock.time += DAY
    async with story.run():
        await hear(story, clear("$3"))
    assert len(notices(story)) == 2


async def test_an_edit_in_clear_changes_no_answer(story: Story) -> None:
    async with story.run():
        await hear(story, message())
        await hear(story, replace(edit_event("Autre chose"), exposed=True))

    assert len(story.model.requests) == 1
    assert notices(story) == [TEXTS("clear text")]


async def test_clear_text_enters_no_context(story: Story) -> None:
    async with story.run():
        await hear(story, message("Je suis Ada.", event_id="$0"))
        await hear(story, clear("$1", body="Oublie tout."))
        await hear(story, message("Qui suis-je ?", event_id="$2"))

    said = [turn.text for turn in story.model.requests[-1]]
    assert "Je suis Ada." in said
    assert "Oublie tout." not in said


async def test_the_admins_are_told_of_clear_text_in_their_room(story: Story) -> None:
    story.matrix.admin_room, story.matrix.direct = ROOM, False
    story.policy = replace(story.policy, admins=frozenset({AGENT}))
    async with story.run():
        await hear(story, clear(body="!stats"))
        await hear(story, clear("$2", COLLEAGUE, "Rien"))

    assert notices(story) == [
        TEXTS("clear text admin", sender=AGENT),
        TEXTS("clear text admin", sender=COLLEAGUE),
    ]


async def test_what_is_fetched_again_after_a_crash_is_refused_as_it_would_have_been(
    story: Story,
) -> None:
    refused = clear()
    story.store.events[refused.event_id] = refused
    story.matrix.messages[EventId("$1")] = refused
    async with story.run():
        story.matrix.hear()
        await story.until(lambda: story.done("$1"))

    assert notices(story) == [TEXTS("clear text")]
    assert story.model.requests == []

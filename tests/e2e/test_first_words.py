"""The first version of an answer, as a notification shows it for ever, in a running bot."""

import asyncio

import pytest

from bot.core.first_words import LEAST
from bot.core.markdown import UNFINISHED, render
from bot.core.readable import visible_length
from tests.harness.bot import Bot
from tests.harness.expectations import reply, talk
from tests.harness.french_answers import ANSWERS
from tests.harness.model import ScriptedAnswer, ScriptedModel
from tests.harness.person import Person

pytestmark = pytest.mark.asyncio(loop_scope="session")

TOKENS_A_SECOND = 40


async def test_the_first_words_of_french_answers_are_worth_reading(
    nia: Person, bot: Bot, model: ScriptedModel
) -> None:
    rooms = [await talk(nia, bot.user_id) for _ in ANSWERS]
    for number, text in enumerate(ANSWERS):
        answer = ScriptedAnswer(text=text, tokens_per_second=TOKENS_A_SECOND)
        model.when(f"question {number:02}", answer)

    async def ask(number: int) -> list[str]:
        prompt = await nia.send(rooms[number], f"question {number:02}")
        seen = await reply(nia, rooms[number], prompt, ANSWERS[number])
        return [str(version.content["body"]) for version in seen.versions]

    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(ask(number)) for number in range(len(ANSWERS))]

    for text, task in zip(ANSWERS, asked, strict=True):
        *growing, final = task.result()
        assert final == render(text).body
        assert UNFINISHED not in final
        assert all(one.endswith(UNFINISHED) for one in growing)
        for first in growing[:1]:
            assert visible_length(first.removesuffix(UNFINISHED)) >= LEAST

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest
from typing_extensions import override

from bot.core.chat import Delta, FinishDelta, TextDelta, Turn, Usage, UsageDelta, text_turn
from bot.core.model_catalog import ModelCard
from bot.core.token_budget import size
from bot.errors import PromptTooLong, PromptTooLongForModel, Truncated
from bot.monitoring.health import Health
from bot.replies.completion import Completions, FallbackPolicy
from tests.fakes.clock import FakeClock
from tests.fakes.model import LARGE, SMALL, FakeModel

SYSTEM = text_turn("system", "Sobre.")
END = FinishDelta("stop")


def talk(turns: int, characters: int = 50) -> list[Turn]:
    """Return a conversation that the assistant was the last to answer, and a prompt."""
    said = [
        text_turn("assistant" if number % 2 else "user", f"{number} ".ljust(characters, "x"))
        for number in range(turns)
    ]
    return [SYSTEM, *said, text_turn("user", "Et alors ?")]


def made(model: FakeModel) -> Completions:
    clock = FakeClock()
    return Completions(model, clock, Health(clock=clock), FallbackPolicy())


async def ask(completions: Completions, turns: Sequence[Turn]) -> list[Delta]:
    async with aclosing(completions.begin(turns, SMALL).stream()) as deltas:
        return [delta async for delta in deltas]


async def test_what_the_model_says_comes_through_as_it_comes() -> None:
    model = FakeModel(TextDelta("Un. "), TextDelta("Deux."), UsageDelta(Usage(9, 2)), END)

    deltas = await ask(made(model), talk(2))

    assert deltas == list(model.script)
    assert model.asked == ["small"]
    assert model.requests == [talk(2)]


async def test_turns_of_one_role_are_asked_as_one() -> None:
    model = FakeModel()

    await ask(made(model), [SYSTEM, text_turn("user", "Un"), text_turn("user", "Deux")])

    assert model.requests == [[SYSTEM, text_turn("user", "Un\n\nDeux")]]


async def test_the_oldest_turns_leave_where_all_are_too_many() -> None:
    model = FakeModel()
    completions = made(model)
    model.length = 2 * (128 + 400)  # tokens, half the completion's: room for 1,200 characters

    await ask(completions, talk(40))

    [(first, *kept, last)] = model.requests
    assert (first, last) == (SYSTEM, talk(40)[-1])
    assert kept == talk(40)[-1 - len(kept) : -1]
    assert 0 < len(kept) < 40
    assert kept[0].role == "user"
    assert size(model.requests[0]) <= completions.longest_request(SMALL) == 1200


async def test_a_prompt_that_is_too_long_by_itself_is_not_asked() -> None:
    model = FakeModel()
    completions = made(model)
    prompt = text_turn("user", "x" * 200_000)

    with pytest.raises(PromptTooLong) as told:
        await ask(completions, [SYSTEM, *talk(4), prompt])

    assert told.value.values == {"n": size([SYSTEM, prompt]) - completions.longest_request(SMALL)}
    assert model.requests == []


@pytest.mark.parametrize(
    ("characters", "tokens", "ratio"),
    [
        (8000, 2000, 3.75),
        (8000, 4000, 2.0),
        (8000, 2600, 3.0),  # about what is reckoned with
        (8000, 0, 3.0),  # a backend that does not count
        (100, 100, 3.0),  # too short to say anything
    ],
)
async def test_what_the_backend_counts_teaches_how_much_it_takes(
    characters: int, tokens: int, ratio: float
) -> None:
    model = FakeModel(TextDelta("Oui."), UsageDelta(Usage(tokens, 1)), END)
    completions = made(model)
    model.length = 10_000 + SMALL.max_tokens + 128
    other = completions.longest_request(LARGE)

    turns = [text_turn("user", "x" * (characters - size([text_turn("user", "")])))]
    for _ in range(30):
        await ask(completions, turns)

    assert completions.longest_request(SMALL) == 10_000 * ratio
    assert completions.longest_request(LARGE) == other


class Refusing(FakeModel):
    """A backend that finds what is longer than so many characters too long."""

    def __init__(self, takes: int, *script: Delta | Exception) -> None:
        super().__init__(*script)
        self.takes = takes

    @override
    async def stream(self, turns: Sequence[Turn], card: ModelCard) -> AsyncGenerator[Delta, None]:
        if size(turns) > self.takes:
            self.requests.append(turns)
            raise TOO_LONG
        async with aclosing(super().stream(turns, card)) as deltas:
            async for delta in deltas:
                yield delta


TOO_LONG = PromptTooLongForModel("the backend answered 400")


@pytest.mark.parametrize(
    "turns",
    [
        500,  # fills its room, which is smaller now
        100,  # does not
    ],
)
async def test_a_request_that_the_backend_finds_too_long_is_made_once_more_with_less(
    turns: int,
) -> None:
    model = Refusing(10**6)
    completions = made(model)
    model.length = 5000 + SMALL.max_tokens + 128
    room = completions.longest_request(SMALL)
    await ask(completions, talk(turns))
    model.takes = size(model.requests.pop()) - 1

    assert await ask(completions, talk(turns)) == list(model.script)

    refused, answered = model.requests
    assert answered[0] == SYSTEM
    assert answered[1:] == refused[-len(answered) + 1 :]
    assert completions.longest_request(SMALL) == room * 3 // 4


async def test_a_second_refusal_is_told() -> None:
    model = Refusing(100)
    completions = made(model)
    room = completions.longest_request(SMALL)

    with pytest.raises(PromptTooLongForModel):
        await ask(completions, talk(100))

    assert len(model.requests) == 2
    assert completions.longest_request(SMALL) == room * 3 // 4


async def test_a_refusal_is_told_at_once_where_nothing_can_leave() -> None:
    model = Refusing(1)

    with pytest.raises(PromptTooLongForModel) as told:
        await ask(made(model), talk(0))

    assert told.value is TOO_LONG
    assert len(model.requests) == 1


async def test_nothing_is_asked_once_more_after_a_word() -> None:
    model = FakeModel(TextDelta("Un"), TOO_LONG)

    with pytest.raises(PromptTooLongForModel):
        await ask(made(model), talk(100))

    assert len(model.requests) == 1


async def test_refusals_at_the_same_time_teach_once() -> None:
    gate = asyncio.Event()
    model = FakeModel(gate, TOO_LONG)
    completions = made(model)
    room = completions.longest_request(SMALL)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(fail(completions))
        asyncio.get_running_loop().call_soon(gate.set)

    assert len(model.requests) == 3
    assert completions.longest_request(SMALL) == room * 3 // 4


async def fail(completions: Completions) -> None:
    with pytest.raises(PromptTooLongForModel):
        await ask(completions, talk(0))


async def test_a_stream_that_fails_does_so_here_too() -> None:
    model = FakeModel(TextDelta("Un"), Truncated("cut"))

    with pytest.raises(Truncated):
        await ask(made(model), talk(0))


async def test_who_stops_listening_closes_the_stream() -> None:
    model = FakeModel(TextDelta("Un"), TextDelta("Deux"), END)
    stream = made(model).begin(talk(0), SMALL).stream()

    assert await anext(stream) == TextDelta("Un")
    await stream.aclose()

    with pytest.raises(StopAsyncIteration):
        await anext(stream)

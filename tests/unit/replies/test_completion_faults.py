"""What the backend's faults cost an answer: further attempts, the queue, the fallback."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from itertools import pairwise

import pytest
from typing_extensions import override

from bot.core.chat import (
    Delta,
    FallbackDelta,
    FinishDelta,
    TextDelta,
    Turn,
    Usage,
    UsageDelta,
    text_turn,
)
from bot.core.model_catalog import ModelCard
from bot.errors import (
    CompletionError,
    ModelBusy,
    ModelFailed,
    ModelLimited,
    ModelRefused,
    ModelRejected,
    ModelStalled,
    ModelTimeout,
    ModelUnknown,
    ModelUnreachable,
    ModelWordless,
    PromptTooLong,
    PromptTooLongForModel,
    Truncated,
)
from bot.i18n.texts import speak
from bot.replies.completion import CompletionRunner, Completions, FallbackPolicy
from tests.deltas import text_of
from tests.fakes.clock import FakeClock, HeldClock
from tests.fakes.model import LARGE, SMALL, FakeModel, FakeModels, Script

TEXTS = speak("fr")
END = FinishDelta("stop")
ANSWER = (TextDelta("Bonjour."), END)
PROMPT = [text_turn("user", "Et alors ?")]
MINUTE = 60.0

PASSING = [ModelUnreachable, ModelTimeout, ModelBusy, ModelFailed, Truncated]
LASTING = [ModelRefused, ModelUnknown, ModelRejected, ModelWordless, PromptTooLongForModel]


class Counts:
    """The failures and retries that were counted."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.retried: list[str] = []

    def backend_failed(self, kind: str) -> None:
        self.failed.append(kind)

    def backend_retried(self, kind: str) -> None:
        self.retried.append(kind)


class Quota(FakeModel):
    """Answers so many requests in any sixty seconds and refuses the others, as Albert does."""

    def __init__(self, clock: FakeClock, limit: int) -> None:
        super().__init__(*ANSWER)
        self.clock, self.limit = clock, limit
        self.taken: list[float] = []
        self.refused: list[float] = []

    @override
    async def stream(self, turns: Sequence[Turn], card: ModelCard) -> AsyncGenerator[Delta, None]:
        now = self.clock.time
        if sum(now - MINUTE < at for at in self.taken) >= self.limit:
            self.refused.append(now)
            raise ModelLimited("the backend answered 429")
        self.taken.append(now)
        await self.clock.sleep(0.5)
        async with aclosing(super().stream(turns, card)) as deltas:
            async for delta in deltas:
                yield delta


class Waiters:
    """Completions of one backend, which may all run at once."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.clock, self.counts = HeldClock(), Counts()
        self.done: list[int] = []
        self.failed: dict[int, CompletionError] = {}
        self.tasks = tasks
        self.running: list[asyncio.Task[None]] = []

    def completions(self, model: FakeModel, patience: float = 120.0) -> Completions:
        return Completions(model, self.clock, self.counts, FallbackPolicy(patience=patience))

    def begin(self, completions: Completions, count: int = 1) -> list[CompletionRunner]:
        """Begin to ask so many times, in order."""
        begun = [completions.begin(PROMPT, SMALL) for _ in range(count)]
        for number, runner in enumerate(begun, len(self.running)):
            self.running.append(self.tasks.create_task(self._ask(number, runner)))
        return begun

    async def _ask(self, number: int, runner: CompletionRunner) -> None:
        try:
            await read(runner)
        except CompletionError as error:
            self.failed[number] = error
        else:
            self.done.append(number)


@pytest.fixture
async def waiters() -> AsyncIterator[Waiters]:
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        made = Waiters(tasks)
        yield made
        for task in made.running:
            task.cancel()


async def read(runner: CompletionRunner) -> list[Delta]:
    async with aclosing(runner.stream()) as deltas:
        return [delta async for delta in deltas]


class Quick:
    """One answer where every wait is over at once."""

    def __init__(
        self, *scripts: Script, other: Sequence[Script] = (), fallback: ModelCard | None = None
    ) -> None:
        self.clock, self.counts = FakeClock(), Counts()
        self.model = FakeModels(*scripts, other=other)
        policy = FallbackPolicy(fallback)
        self.completions = Completions(self.model, self.clock, self.counts, policy)
        self.words = ""

    async def ask(self, card: ModelCard = SMALL, turns: Sequence[Turn] = PROMPT) -> list[Delta]:
        deltas = []
        async with aclosing(self.completions.begin(turns, card).stream()) as stream:
            async for delta in stream:
                deltas.append(delta)
                self.words += text_of([delta])
        return deltas


# Attempts.


@pytest.mark.parametrize("kind", PASSING)
async def test_what_may_pass_is_tried_again_before_the_first_word(
    kind: type[CompletionError],
) -> None:
    quick = Quick([kind("1")], [UsageDelta(Usage(9, 0)), kind("2")])

    assert (await quick.ask())[-2:] == list(ANSWER)
    assert quick.words == "Bonjour."
    assert quick.counts.failed == quick.counts.retried == [kind.__name__] * 2


@pytest.mark.parametrize("kind", PASSING)
async def test_there_are_two_more_tries(kind: type[CompletionError]) -> None:
    last = kind("3")
    quick = Quick([kind("1")], [kind("2")], [last])

    with pytest.raises(kind) as told:
        await quick.ask()

    assert told.value is last
    assert len(quick.model.requests) == 3
    assert (len(quick.counts.failed), len(quick.counts.retried)) == (3, 2)


@pytest.mark.parametrize("kind", [*PASSING, ModelStalled, ModelLimited])
async def test_nothing_is_tried_again_after_the_first_word(kind: type[CompletionError]) -> None:
    quick = Quick([TextDelta("Bon"), kind("cut")], fallback=LARGE)

    with pytest.raises(kind):
        await quick.ask()

    assert quick.words == "Bon"
    assert len(quick.model.requests) == 1
    assert quick.counts.retried == []


@pytest.mark.parametrize("kind", LASTING)
async def test_what_does_not_pass_is_not_tried_again(kind: type[CompletionError]) -> None:
    quick = Quick([kind("no")])

    with pytest.raises(kind):
        await quick.ask()

    assert len(quick.model.requests) == 1
    assert quick.clock.slept == []


async def test_tries_are_a_second_and_two_apart_and_never_in_step() -> None:
    waits: list[tuple[float, ...]] = []
    for _ in range(50):
        quick = Quick([ModelBusy("503")], [ModelBusy("503")])
        await quick.ask()
        waits.append(tuple(quick.clock.slept))

    assert all(1 <= first <= 1.5 and 2 <= second <= 3 for first, second in waits)
    assert len(set(waits)) == 50


async def test_the_wait_that_the_backend_asks_for_is_kept_and_spread() -> None:
    quick = Quick([ModelBusy("503", 10.0)], [ModelFailed("500", 0.0)])

    await quick.ask()

    first, second = quick.clock.slept
    assert 11 <= first <= 11.5
    assert 2 <= second <= 3


async def test_a_longer_wait_than_half_a_minute_is_not_waited_for() -> None:
    quick = Quick([ModelBusy("503", 31.0)])

    with pytest.raises(ModelBusy):
        await quick.ask()

    assert quick.clock.slept == []


async def test_an_empty_completion_is_an_answer() -> None:
    quick = Quick([END])

    assert await quick.ask() == [END]


async def test_a_person_who_waits_is_told_that_there_is_another_try(waiters: Waiters) -> None:
    gate = asyncio.Event()
    model = FakeModels([ModelUnreachable("refused")], [gate, *ANSWER])
    [runner] = waiters.begin(waiters.completions(model))

    assert runner.status(TEXTS) == TEXTS("working")
    await waiters.clock.pass_time(0.9)
    assert runner.status(TEXTS) == TEXTS("trying again")
    await waiters.clock.pass_time(1)
    assert runner.status(TEXTS) == TEXTS("trying again")
    gate.set()
    await waiters.clock.pass_time(0)
    assert waiters.done == [0]


# The queue.


async def test_a_429_holds_everybody_back_and_each_knows_their_place(waiters: Waiters) -> None:
    model = FakeModels([ModelLimited("429")])
    completions = waiters.completions(model)
    runners = waiters.begin(completions)
    await waiters.clock.pass_time(0)
    runners += waiters.begin(completions, 2)
    await waiters.clock.pass_time(3.9)

    assert [one.status(TEXTS) for one in runners] == [
        TEXTS("in demand", place=place) for place in (1, 2, 3)
    ]
    assert len(model.requests) == 1
    await waiters.clock.pass_time(2.2)
    assert waiters.done == [0, 1, 2]
    assert (waiters.counts.failed, waiters.counts.retried) == (["ModelLimited"], ["ModelLimited"])


async def test_all_are_answered_in_order_and_few_requests_are_refused(waiters: Waiters) -> None:
    model = Quota(waiters.clock, limit=10)
    completions = waiters.completions(model, patience=600)
    waiters.begin(completions, 15)
    for _ in range(300):
        await waiters.clock.pass_time(1)
        if len(waiters.running) < 30:
            waiters.begin(completions)

    assert sorted(waiters.done) == list(range(30))
    assert waiters.done[:10] == list(range(10))
    assert waiters.done[10:] == sorted(waiters.done[10:])
    for calls, most in ((model.taken, 10), (model.refused, 17)):
        assert max(Counter(int(at // MINUTE) for at in calls).values()) <= most
    late = [at for at in model.refused if at > model.refused[0]]
    assert all(later - earlier >= 4 for earlier, later in pairwise(late))


async def test_a_quota_of_the_day_is_told_once_patience_ends(waiters: Waiters) -> None:
    model = Quota(waiters.clock, limit=0)
    waiters.begin(waiters.completions(model, patience=60), 5)

    await waiters.clock.pass_time(30)
    refused = len(model.refused)
    await waiters.clock.pass_time(30)

    assert {type(error) for error in waiters.failed.values()} == {ModelLimited}
    assert len(waiters.failed) == 5
    assert refused <= 5 + 3
    await waiters.clock.pass_time(1000)
    assert len(model.refused) <= 5 + 4


async def test_who_is_cancelled_in_the_line_leaves_nobody_behind(waiters: Waiters) -> None:
    model = FakeModels([ModelLimited("429")])
    completions = waiters.completions(model)
    waiters.begin(completions)
    await waiters.clock.pass_time(0)
    _, last = waiters.begin(completions, 2)
    await waiters.clock.pass_time(0)

    waiters.running[0].cancel()
    waiters.running[1].cancel()
    await waiters.clock.pass_time(0)
    assert last.status(TEXTS) == TEXTS("in demand", place=1)
    await waiters.clock.pass_time(6)

    assert waiters.done == [2]
    assert len(model.requests) == 2
    assert completions.limiter(SMALL)._queue == []
    assert waiters.clock._sleepers == {}


async def test_one_models_quota_holds_nobody_back_from_another(waiters: Waiters) -> None:
    model = FakeModels([ModelLimited("429")])
    completions = waiters.completions(model)
    waiters.begin(completions)
    await waiters.clock.pass_time(0)

    assert await read(completions.begin(PROMPT, LARGE)) == list(ANSWER)


async def test_a_503_holds_nobody_back(waiters: Waiters) -> None:
    model = FakeModels([ModelBusy("503", 10.0)])
    completions = waiters.completions(model)
    waiters.begin(completions)
    await waiters.clock.pass_time(0)
    waiters.begin(completions)
    await waiters.clock.pass_time(0)

    assert waiters.done == [1]


# The fallback.


@pytest.mark.parametrize("kind", [*PASSING, *LASTING[:4], ModelLimited])
async def test_the_fallback_answers_where_the_model_cannot_and_says_so(
    kind: type[CompletionError],
) -> None:
    error = kind("no", 3600.0)
    quick = Quick([error], fallback=LARGE, other=[[UsageDelta(Usage(9, 2)), *ANSWER]])

    deltas = await quick.ask()

    assert deltas == [UsageDelta(Usage(9, 2)), FallbackDelta(LARGE, SMALL), *ANSWER]
    assert quick.model.asked == [SMALL.id, LARGE.id]
    assert quick.counts.retried == [kind.__name__]


async def test_the_fallback_comes_after_the_other_tries_and_has_its_own() -> None:
    down = [ModelUnreachable("refused")]
    quick = Quick(down, down, down, fallback=LARGE, other=[down, down])

    await quick.ask()

    assert quick.words == "Bonjour."
    assert quick.model.asked == [SMALL.id] * 3 + [LARGE.id] * 3


async def test_the_fallback_comes_once_patience_with_a_quota_ends() -> None:
    quick = Quick(*[[ModelLimited("429")]] * 50, fallback=LARGE)

    await quick.ask()

    assert quick.words == "Bonjour."
    assert sum(quick.clock.slept) >= 50
    assert 3 <= quick.model.asked.count(SMALL.id) <= 6


async def test_the_fallback_is_asked_with_as_much_as_it_takes() -> None:
    quick = Quick(fallback=SMALL, other=[[ModelRefused("403")]])
    turns = [text_turn("user", f"{number} ".ljust(2000, "x")) for number in range(100)]
    turns = [turn for said in turns for turn in (said, text_turn("assistant", "Oui."))]

    await quick.ask(LARGE, [*turns, *PROMPT])

    large, small = quick.model.requests
    assert len(small) < len(large)
    assert small[-1] == large[-1] == PROMPT[0]


async def test_what_the_first_model_met_is_told_where_the_fallback_fails_too() -> None:
    first = ModelRefused("403")
    quick = Quick([first], fallback=LARGE, other=[[ModelUnknown("404")]])

    with pytest.raises(ModelRefused) as told:
        await quick.ask()

    assert told.value is first
    assert quick.counts.failed == ["ModelRefused", "ModelUnknown"]


async def test_a_fallback_that_breaks_off_tells_its_own_failure() -> None:
    quick = Quick(
        [ModelRefused("403")], fallback=LARGE, other=[[TextDelta("Bon"), Truncated("cut")]]
    )

    with pytest.raises(Truncated):
        await quick.ask()

    assert quick.words == "Bon"


async def test_the_fallback_has_none_itself() -> None:
    quick = Quick(fallback=LARGE, other=[[ModelRefused("403")]])

    with pytest.raises(ModelRefused):
        await quick.ask(LARGE)

    assert quick.model.asked == [LARGE.id]


@pytest.mark.parametrize("characters", [10, 10**6])
async def test_a_prompt_that_is_too_long_is_the_persons_to_shorten(characters: int) -> None:
    refusal = [PromptTooLongForModel("413")]
    quick = Quick(refusal, refusal, fallback=LARGE)

    with pytest.raises(PromptTooLong):
        await quick.ask(turns=[text_turn("user", "x" * characters)])

    assert LARGE.id not in quick.model.asked

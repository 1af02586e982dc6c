import asyncio
from collections.abc import Sequence

import pytest

from bot.core.events import Batch, Delta, EventId
from bot.core.markdown import render
from bot.core.replies import Edit, Notice, Reply
from bot.errors import (
    CompletionError,
    Forbidden,
    HomeserverUnreachable,
    LoggedOut,
    MatrixError,
    ModelBusy,
    ModelTimeout,
    RateLimited,
    Truncated,
)
from bot.replying import Pace, Replying
from bot.texts import Texts
from tests.fakes import FakeClock, FakeMatrix, FakeModel, FakeStore
from tests.make import MIDNIGHT, message

PROMPT = message()
END = Delta(finish_reason="stop")
TEXTS = Texts("fr")


class Stage:
    """One reply being made: its ports, and a clock that moves only when told to."""

    def __init__(self) -> None:
        self.matrix, self.store, self.clock = FakeMatrix(), FakeStore(), FakeClock()
        self.replying = Replying(
            self.matrix, self.store, self.clock, TEXTS, Pace(0.8, 2.0), "small-model"
        )

    async def stream(
        self, *script: Delta | Exception | asyncio.Event, remarks: Sequence[str] = ()
    ) -> None:
        await self.store.admit(Batch((PROMPT,), "s1"), MIDNIGHT)
        await self.replying.stream(PROMPT, FakeModel(*script).stream([]), remarks)

    @property
    def shown(self) -> list[str]:
        return list(self.matrix.standing().values())


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_a_short_completion_is_one_message_and_no_edit(stage: Stage) -> None:
    await stage.stream(Delta("Bonjour."), END)

    [(_, sent)] = stage.matrix.sent
    assert isinstance(sent, Reply)
    assert stage.shown == ["Bonjour."]


async def test_the_first_sentence_is_shown_while_the_model_goes_on(stage: Stage) -> None:
    gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(
            stage.stream(Delta("Le ciel est bleu. Par"), gate, Delta("ce que."), END)
        )
        await stage.matrix.until(lambda: stage.shown == ["Le ciel est bleu. Par"])
        gate.set()

    assert stage.shown == ["Le ciel est bleu. Parce que."]
    assert isinstance(stage.matrix.sent[-1][1], Edit)


async def test_a_version_that_is_due_shows_the_newest_text(stage: Stage) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    script: list[Delta | asyncio.Event] = [Delta("Un. "), first, Delta("Deux. ")]
    script += [Delta("Trois. "), second, Delta("Fin."), END]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(stage.stream(*script))
        await stage.matrix.until(lambda: stage.shown == ["Un."])
        stage.clock.time += 2.0
        first.set()
        await stage.matrix.until(lambda: stage.shown == ["Un. Deux. Trois."])
        second.set()

    assert stage.shown == ["Un. Deux. Trois. Fin."]
    assert len(stage.matrix.sent) == 3


async def test_an_edit_refused_for_its_rate_gives_way_to_a_newer_one(stage: Stage) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    script: list[Delta | asyncio.Event] = [Delta("Un. "), first, Delta("Deux. ")]
    script += [second, Delta("Trois."), END]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(stage.stream(*script))
        await stage.matrix.until(lambda: stage.shown == ["Un."])
        stage.matrix.failures = [RateLimited("slow down", 30.0)]
        stage.clock.time += 2.0
        first.set()
        while stage.matrix.failures:  # noqa: ASYNC110  # the refused send tells nobody
            await asyncio.sleep(0)
        second.set()

    assert stage.shown == ["Un. Deux. Trois."]
    assert len(stage.matrix.sent) == 2  # nobody ever saw "Un. Deux."


@pytest.mark.parametrize(
    ("failure", "waited"),
    [
        (RateLimited("429", 7.5), 7.5),
        (HomeserverUnreachable("502"), pytest.approx(1.25, abs=0.26)),
    ],
)
async def test_first_and_final_get_through_whatever_it_takes(
    stage: Stage, failure: RateLimited | HomeserverUnreachable, waited: float
) -> None:
    stage.matrix.failures = [failure]

    await stage.stream(Delta("Bonjour."), END)

    assert stage.shown == ["Bonjour."]
    assert stage.clock.slept == [waited]


@pytest.mark.parametrize("error", [Truncated("cut"), ModelTimeout("stalled"), ModelBusy("503")])
async def test_an_unfinished_completion_is_never_shown_as_whole(
    stage: Stage, error: CompletionError
) -> None:
    await stage.stream(Delta("Le ciel est"), error)

    [text] = stage.shown
    assert text == f"Le ciel est\n\n{TEXTS(error.key)}"


async def test_a_failure_before_the_first_word_is_one_notice(stage: Stage) -> None:
    await stage.stream(ModelBusy("429"))

    assert [sent for _, sent in stage.matrix.sent] == [Notice(TEXTS("model busy"), PROMPT)]


async def test_a_model_that_says_nothing_is_said(stage: Stage) -> None:
    await stage.stream(Delta(" \n"), END)

    assert [sent for _, sent in stage.matrix.sent] == [Notice(TEXTS("model empty"), PROMPT)]


@pytest.mark.parametrize(
    ("reason", "key"), [("length", "cut by length"), ("content_filter", "cut by filter")]
)
async def test_a_completion_that_was_cut_says_so(stage: Stage, reason: str, key: str) -> None:
    await stage.stream(Delta("Le ciel"), Delta(finish_reason=reason))

    assert stage.shown == [f"Le ciel\n\n{TEXTS(key)}"]


async def test_remarks_stand_below_the_text_and_before_what_went_wrong(stage: Stage) -> None:
    await stage.stream(Delta("Le ciel"), Truncated("cut"), remarks=["*Tard.*"])

    assert stage.shown == [f"Le ciel\n\n*Tard.*\n\n{TEXTS('model truncated')}"]


async def test_remarks_of_a_reply_without_a_word_are_in_its_notice(stage: Stage) -> None:
    await stage.stream(ModelBusy("429"), remarks=["*Tard.*"])

    assert stage.shown == [f"*Tard.*\n\n{TEXTS('model busy')}"]


async def test_a_room_that_refuses_ends_the_reading_of_the_model(stage: Stage) -> None:
    never = asyncio.Event()
    stage.matrix.failures = [Forbidden("kicked")]

    with pytest.raises(Forbidden):
        await asyncio.wait_for(stage.stream(Delta("Un. "), *[Delta("x")] * 50, never), 5)


async def test_a_process_that_comes_after_a_crash_goes_on_in_the_same_message(
    stage: Stage,
) -> None:
    killed = asyncio.get_running_loop().create_task(
        stage.stream(Delta("Le ciel est bleu. "), asyncio.Event())
    )
    await stage.matrix.until(lambda: stage.shown == ["Le ciel est bleu."])
    killed.cancel()
    await asyncio.wait([killed])

    await stage.replying.stream(PROMPT, FakeModel(Delta("Le ciel est gris."), END).stream([]))

    assert stage.shown == ["Le ciel est gris."]


async def test_a_first_message_whose_answer_was_lost_is_found_again(stage: Stage) -> None:
    await stage.stream(Delta("Le ciel est bleu."), END)
    stage.store.replies.clear()  # as if the process had died between the send and its record

    await stage.replying.stream(PROMPT, FakeModel(Delta("Le ciel est gris."), END).stream([]))

    assert stage.shown == ["Le ciel est gris."]
    assert stage.store.replies[PROMPT.event_id] == {0: EventId("$sent0")}


async def test_a_long_completion_goes_on_in_further_messages_and_loses_nothing(
    stage: Stage,
) -> None:
    text = "".join(f"Paragraphe {number} : {'mot ' * 100}\n\n" for number in range(200))

    await stage.stream(*[Delta(text[at : at + 997]) for at in range(0, len(text), 997)], END)

    parts = [
        sent.reply.part if isinstance(sent, Edit) else sent.part
        for sent in {
            (sent.event_id if isinstance(sent, Edit) else key): sent
            for key, sent in stage.matrix.sent
            if isinstance(sent, Reply | Edit)
        }.values()
    ]
    assert len(parts) > 1
    assert "".join(part.source for part in parts) == text
    assert stage.shown == [render(part).body for part in parts]


@pytest.mark.parametrize(
    "hiccup", [HomeserverUnreachable("502"), LoggedOut("renewed soon", soft=True)]
)
async def test_an_edit_that_the_homeserver_misses_gives_way_to_a_newer_one(
    stage: Stage, hiccup: MatrixError
) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    script: list[Delta | asyncio.Event] = [Delta("Un. "), first, Delta("Deux. ")]
    script += [second, Delta("Trois."), END]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(stage.stream(*script))
        await stage.matrix.until(lambda: stage.shown == ["Un."])
        stage.matrix.failures = [hiccup]
        stage.clock.time += 2.0
        first.set()
        while stage.matrix.failures:  # noqa: ASYNC110  # the refused send tells nobody
            await asyncio.sleep(0)
        second.set()

    assert stage.shown == ["Un. Deux. Trois."]


async def test_a_shorter_second_try_leaves_no_part_of_the_first_standing(stage: Stage) -> None:
    long = "".join(f"Paragraphe {number} : {'mot ' * 100}\n\n" for number in range(40))
    killed = asyncio.get_running_loop().create_task(stage.stream(Delta(long), asyncio.Event()))
    await stage.matrix.until(lambda: len(stage.shown) >= 3)
    killed.cancel()
    await asyncio.wait([killed])

    await stage.replying.stream(PROMPT, FakeModel(Delta("Court."), END).stream([]))

    first, *others = stage.shown
    assert first == "Court."
    assert set(others) == {TEXTS("void")}

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from bot.core.chat import Delta, FinishDelta, TextDelta, Usage, UsageDelta
from bot.core.events import Batch, EventId
from bot.core.markdown import Part, render
from bot.core.message_split import split
from bot.core.outgoing import Attachment, Notice, OutgoingEdit, PreparedEvent, Reply
from bot.core.polls import Poll, PollEnd
from bot.core.readable import visible_length
from bot.core.reply_state import PriorState
from bot.errors import (
    CompletionError,
    Forbidden,
    HomeserverUnreachable,
    MatrixError,
    ModelBusy,
    ModelTimeout,
    PromptTooLong,
    RateLimited,
    SoftLogout,
    Truncated,
)
from bot.i18n.texts import speak
from bot.monitoring.health import Health
from bot.replies.reply_text import Pace
from bot.replies.streaming_reply import StreamingReply
from tests.fakes.clock import FakeClock, HeldClock
from tests.fakes.ledger import FakeStore
from tests.fakes.matrix import FakeMatrix
from tests.fakes.model import SMALL, FakeModel
from tests.make import MIDNIGHT, message, prompt
from tests.sending import send

FIRST, SECOND = message(), message("Et la mer ?", event_id="$second")
PROMPT, BOTH = prompt(FIRST), prompt(FIRST, SECOND)
END = FinishDelta("stop")
TEXTS, ENGLISH = speak("fr"), speak("en")
LONG = "".join(f"Paragraphe {number} : {'mot ' * 100}\n\n" for number in range(40))
OTHER = "".join(f"Alinéa {number} : {'terme ' * 100}\n\n" for number in range(40))

Script = Sequence[Delta | Exception | asyncio.Event]


class StreamingSetup:
    """One reply being made: its ports, and a clock that moves only when told to."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.matrix, self.store, self.clock = FakeMatrix(), FakeStore(), clock or FakeClock()
        self.pace, self.health = Pace(0.8, 2.0, 10.0, least=1), Health(clock=self.clock)
        self.asked = PROMPT
        self.above: list[str] = []
        self.below: list[str] = []

    def reply(self, before: PriorState = PriorState.NOTHING) -> StreamingReply:
        return StreamingReply(
            matrix=self.matrix,
            store=self.store,
            clock=self.clock,
            pace=self.pace,
            health=self.health,
            prompt=PROMPT,
            texts=TEXTS,
            before=before,
        )

    async def answer(self, reply: StreamingReply, *scripts: Script) -> None:
        """Ask with the first script, and with the next as often as something else is asked."""
        await self.store.admit(Batch(events=(FIRST, SECOND), next_batch="s1"), MIDNIGHT)
        async with reply.shown():
            for script in scripts:
                if await reply.settled():
                    break
                reply.restarted()
                await reply.begin(self.asked, "small-model", self.above, self.below)
                await reply.read(FakeModel(*script).stream([], SMALL))
                if not reply.restarted():
                    break

    async def stream(self, *script: Delta | Exception | asyncio.Event) -> None:
        await self.answer(self.reply(), script)

    async def stream_then_die(self, *script: Delta | Exception, parts: int = 1) -> None:
        """Show what the script says, and die before the model is done."""
        task = asyncio.get_running_loop().create_task(self.stream(*script, asyncio.Event()))
        await self.matrix.until(lambda: len(self.shown) >= parts)
        task.cancel()
        await asyncio.wait([task])

    @property
    def shown(self) -> list[str]:
        return list(self.matrix.standing().values())

    @property
    def said(self) -> list[str]:
        """Every version of every message, as it was sent."""
        replies = [
            sent.reply if isinstance(sent, OutgoingEdit) else sent for _, sent in self.matrix.sent
        ]
        told = [one for one in replies if not isinstance(one, Poll | PollEnd | Attachment)]
        return [one.text if isinstance(one, Notice) else FakeMatrix._text(one) for one in told]

    @property
    def notices(self) -> list[Notice]:
        return [sent for _, sent in self.matrix.sent if isinstance(sent, Notice)]


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def heard(reply: StreamingReply, text: str) -> None:
    """Wait until the model has said so much."""
    while reply._text.draft.text != text:  # noqa: ASYNC110  # it tells nobody
        await asyncio.sleep(0)


def rendered(text: str) -> list[str]:
    """Return what stands in the room when all of the text does."""
    return [render(part).body for part in split(text)]


@pytest.fixture
def stage() -> StreamingSetup:
    return StreamingSetup()


@pytest.fixture
async def tasks() -> AsyncIterator[asyncio.TaskGroup]:
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        yield group


async def test_a_short_completion_is_one_message_and_no_edit(stage: StreamingSetup) -> None:
    await stage.stream(TextDelta("Bonjour."), END)

    [(_, sent)] = stage.matrix.sent
    assert isinstance(sent, Reply)
    assert (sent.prompt, sent.model) == (PROMPT, "small-model")
    assert stage.shown == ["Bonjour."]


async def test_the_first_sentence_is_shown_while_the_model_goes_on(stage: StreamingSetup) -> None:
    gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(
            stage.stream(TextDelta("Le ciel est bleu. Par"), gate, TextDelta("ce que."), END)
        )
        await stage.matrix.until(lambda: stage.shown == ["Le ciel est bleu."])
        gate.set()

    assert stage.shown == ["Le ciel est bleu. Parce que."]
    assert isinstance(stage.matrix.sent[-1][1], OutgoingEdit)


async def test_every_version_but_the_last_says_that_more_is_to_come(stage: StreamingSetup) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(stage.stream(TextDelta("Un. "), first, TextDelta("Deux. "), second, END))
        await stage.matrix.until(lambda: stage.shown == ["Un."])
        stage.clock.time += 2.0
        first.set()
        await stage.matrix.until(lambda: stage.shown == ["Un. Deux."])
        second.set()

    sent = [one.reply if isinstance(one, OutgoingEdit) else one for _, one in stage.matrix.sent]
    assert [one.unfinished for one in sent if isinstance(one, Reply)] == [True, True, False]


async def test_the_line_of_who_waits_stays_until_there_are_first_words(
    stage: StreamingSetup, tasks: asyncio.TaskGroup
) -> None:
    """A sign or two of the model are nothing to read."""
    stage.pace = replace(stage.pace, least=20)
    reply, more = stage.reply(), asyncio.Event()
    script: Script = [
        TextDelta("1. "),
        more,
        TextDelta("Un bilan du trimestre. Puis"),
        asyncio.Event(),
    ]
    tasks.create_task(stage.answer(reply, script))
    await settle()
    stage.clock.time += 10.0
    reply.say(lambda: "*Je prépare.*")
    await stage.matrix.until(lambda: stage.shown == ["*Je prépare.*"])
    stage.clock.time += 2.0
    more.set()

    await stage.matrix.until(lambda: stage.shown == ["1. Un bilan du trimestre."])
    reply.silence()


async def test_what_stands_is_kept_until_the_new_answer_has_first_words(
    stage: StreamingSetup, tasks: asyncio.TaskGroup
) -> None:
    stage.pace = replace(stage.pace, least=20)
    await stage.stream(TextDelta("Le ciel est bleu."), END)
    stage.clock.time += 10.0
    more = asyncio.Event()
    script: Script = [
        TextDelta("Le ciel"),
        more,
        TextDelta(" est gris aujourd’hui. Il"),
        asyncio.Event(),
    ]
    reply = stage.reply(PriorState.WHOLE)
    tasks.create_task(stage.answer(reply, script))
    await settle()
    assert stage.shown == ["Le ciel est bleu."]
    more.set()

    await stage.matrix.until(lambda: stage.shown == ["Le ciel est gris aujourd’hui."])
    reply.silence()


async def test_a_version_that_is_due_shows_the_newest_text(stage: StreamingSetup) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    script: list[Delta | asyncio.Event] = [TextDelta("Un. "), first, TextDelta("Deux. ")]
    script += [TextDelta("Trois. "), second, TextDelta("Fin."), END]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(stage.stream(*script))
        await stage.matrix.until(lambda: stage.shown == ["Un."])
        stage.clock.time += 2.0
        first.set()
        await stage.matrix.until(lambda: stage.shown == ["Un. Deux. Trois."])
        second.set()

    assert stage.shown == ["Un. Deux. Trois. Fin."]
    assert len(stage.matrix.sent) == 3


async def test_a_final_version_behind_an_edit_with_the_same_words_is_read_back(
    stage: StreamingSetup,
) -> None:
    """The last edit says all, and that more is to come; the homeserver shows another."""
    first, second = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(stage.stream(TextDelta("Un. "), first, TextDelta("Deux. "), second, END))
        await stage.matrix.until(lambda: stage.shown == ["Un."])
        stage.clock.time += 2.0
        first.set()
        await stage.matrix.until(lambda: stage.shown == ["Un. Deux."])
        stage.matrix.shadows[EventId("$sent0")] = PreparedEvent("m.room.message", {"number": 0})
        second.set()

    assert stage.said == ["Un.", *["Un. Deux."] * 3]
    assert not stage.matrix.shadows


async def test_an_edit_refused_for_its_rate_gives_way_to_a_newer_one(
    stage: StreamingSetup,
) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    script: list[Delta | asyncio.Event] = [TextDelta("Un. "), first, TextDelta("Deux. ")]
    script += [second, TextDelta("Trois."), END]
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
    stage: StreamingSetup, failure: RateLimited | HomeserverUnreachable, waited: float
) -> None:
    stage.matrix.failures = [failure]

    await stage.stream(TextDelta("Bonjour."), END)

    assert stage.shown == ["Bonjour."]
    assert stage.clock.slept == [waited]


@pytest.mark.parametrize("error", [Truncated("cut"), ModelTimeout("stalled"), ModelBusy("503")])
async def test_an_unfinished_completion_is_never_shown_as_whole(
    stage: StreamingSetup, error: CompletionError
) -> None:
    await stage.stream(TextDelta("Le ciel est"), error)

    [text] = stage.shown
    assert text == f"Le ciel est\n\n{TEXTS(error.key)}"


async def test_a_failure_before_the_first_word_is_one_notice(stage: StreamingSetup) -> None:
    await stage.stream(ModelBusy("429"))

    assert [sent for _, sent in stage.matrix.sent] == [
        Notice(text=TEXTS("model busy"), to=PROMPT, unanswered=True)
    ]


async def test_a_failure_is_told_with_its_figures(stage: StreamingSetup) -> None:
    await stage.stream(PromptTooLong("too long", n=321))

    assert stage.shown == [TEXTS("prompt too long", n=321)]


async def test_a_model_that_says_nothing_is_said(stage: StreamingSetup) -> None:
    await stage.stream(TextDelta(" \n"), END)

    assert [sent for _, sent in stage.matrix.sent] == [
        Notice(text=TEXTS("model empty"), to=PROMPT, unanswered=True)
    ]


UNREADABLE = [
    *("```", "```python\n", "~~~\n~~~", "```\n \n```", "` `"),
    *("**", "****", "__", "* * *", "---\n\n" * 30, "# ", "> > >", "- \n- ", "1. ", "+"),
    *("|", "||\n|-|", "[]()", "![](http://x.test)", "[a]: http://x.test", "<br>", "&nbsp;"),
    *("\u200b", "\u2060", "\u00ad", "\u2800", "\u3164", "\u0301", "\x00", "$$ $$"),
    "```\n" + "\n" * 20_000,
]


@pytest.mark.parametrize("text", UNREADABLE)
async def test_of_markup_alone_nothing_is_sent_but_that_it_is_all(
    stage: StreamingSetup, text: str
) -> None:
    deltas = [TextDelta(text[at : at + 2_000]) for at in range(0, len(text), 2_000)]

    await stage.stream(*deltas, END)

    assert [sent for _, sent in stage.matrix.sent] == [
        Notice(text=TEXTS("model unreadable"), to=PROMPT, unanswered=True)
    ]


@pytest.mark.parametrize(
    "text", ["42", "?", "👍", "…", "Non", "`*`", "```\n}\n```", "$x$", ":-)", "é", "«", "—", "漢"]
)
async def test_an_answer_of_one_sign_is_one(stage: StreamingSetup, text: str) -> None:
    await stage.stream(TextDelta(text), END)

    assert stage.shown == [render(text).body]


@given(
    st.lists(
        st.sampled_from(
            [
                *("```", "```py\n", "\n\n", "---\n", "[a]: b\n", "mot ", "| a |\n|---|\n"),
                *("&nbsp;", "<br>", "x" * 400, "\n" * 400, "* " * 200),
                *"`~*_#>-+|[]()\n $1a.:é",
            ]
        ),
        max_size=12,
    )
)
@settings(max_examples=25)
async def test_no_version_of_any_message_is_empty(pieces: list[str]) -> None:
    stage = StreamingSetup()
    stage.pace = Pace(0.0, 1.0, 10.0, least=1)

    await stage.stream(*map(TextDelta, pieces), END)

    for _, sent in stage.matrix.sent:
        reply = sent.reply if isinstance(sent, OutgoingEdit) else sent
        if isinstance(reply, Reply):
            own = [*reply.above, *reply.added]
            assert own or visible_length(reply.part.opening[4:] + reply.part.source)
        elif isinstance(reply, Notice):
            assert reply.text.strip()


async def test_words_that_turn_into_markup_leave_the_sentence_that_there_are_none(
    stage: StreamingSetup,
) -> None:
    gate = asyncio.Event()
    reply = stage.reply()
    script: Script = [
        TextDelta("[une note de bas "),
        gate,
        TextDelta("de page]: http://x.test"),
        END,
    ]
    async with asyncio.TaskGroup() as group:
        group.create_task(stage.answer(reply, script))
        await heard(reply, "[une note de bas ")
        stage.clock.time += 2
        reply.say(lambda: "")  # which makes it look what is due
        await stage.matrix.until(lambda: stage.shown == ["une note de bas"])
        gate.set()

    assert stage.shown == [TEXTS("model unreadable")]
    assert reply.outcome is not None
    assert not reply.outcome.whole


async def test_a_long_answer_with_an_open_fence_at_its_end_has_no_part_without_words(
    stage: StreamingSetup,
) -> None:
    words = "mot " * 1_496 + "fin.\n"

    await stage.stream(TextDelta(words), TextDelta("\n```python\n\n```\n"), END)

    assert [len(one) > 20 for one in stage.shown] == [True]


async def test_of_an_answer_that_is_cut_before_its_first_word_both_is_said(
    stage: StreamingSetup,
) -> None:
    await stage.stream(TextDelta("```"), FinishDelta("length"))

    assert stage.shown == [f"{TEXTS('cut by length')}\n\n{TEXTS('model unreadable')}"]


@pytest.mark.parametrize(
    ("reason", "key"), [("length", "cut by length"), ("content_filter", "cut by filter")]
)
async def test_a_completion_that_was_cut_says_so(
    stage: StreamingSetup, reason: str, key: str
) -> None:
    await stage.stream(TextDelta("Le ciel"), FinishDelta(reason))

    assert stage.shown == [f"Le ciel\n\n{TEXTS(key)}"]


async def test_a_completion_that_ends_for_an_unknown_reason_is_not_shown_as_whole(
    stage: StreamingSetup,
) -> None:
    await stage.stream(TextDelta("Bonjour."), FinishDelta("abort"))

    assert stage.shown == [f"Bonjour.\n\n{TEXTS('model truncated')}"]


@pytest.mark.parametrize(
    ("reason", "told"), [("length", "length"), ("abort", "abort"), ("le-patient", "unknown")]
)
async def test_only_known_words_of_a_backend_are_in_the_log(
    stage: StreamingSetup, reason: str, told: str
) -> None:
    with capture_logs() as logs:
        await stage.stream(TextDelta("Bonjour."), FinishDelta(reason))

    [cut] = [line for line in logs if line["event"] == "completion cut"]
    assert cut["finish_reason"] == told
    assert told == reason or reason not in str(logs)


async def test_the_usage_that_the_backend_counts_is_kept(stage: StreamingSetup) -> None:
    reply = stage.reply()

    await stage.answer(reply, [TextDelta("Bonjour."), UsageDelta(Usage(12, 3)), END])

    assert reply.usage == Usage(12, 3)


async def test_what_a_completion_has_cost_counts_though_it_breaks_off(
    stage: StreamingSetup,
) -> None:
    reply = stage.reply()

    await stage.answer(reply, [TextDelta("Bon"), UsageDelta(Usage(12, 3)), CompletionError("cut")])

    assert reply.usage == Usage(12, 3)
    spent = stage.health.registry.get_sample_value
    assert spent("assistant_prompt_tokens_total", {"model": "small-model"}) == 12


async def test_lines_stand_above_from_the_first_words_on_and_below_the_final(
    stage: StreamingSetup,
) -> None:
    stage.above, stage.below = ["*Après un silence.*"], ["*Tard.*"]

    await stage.stream(TextDelta("Le ciel. "), *[TextDelta("Bleu. ")] * 2, END)

    assert {one.split("\n\n")[0] for one in stage.said} == {"*Après un silence.*"}
    assert stage.said[-1].endswith("\n\n*Tard.*")
    assert len([one for one in stage.said if "Tard" in one]) == 1


async def test_lines_stand_above_the_first_part_and_below_the_last_alone(
    stage: StreamingSetup,
) -> None:
    stage.above, stage.below = ["*Après un silence.*"], ["*Tard.*"]

    await stage.stream(TextDelta(LONG), END)

    assert len(stage.shown) > 2
    assert [text.startswith("*Après") for text in stage.shown][:2] == [True, False]
    assert [text.endswith("*Tard.*") for text in stage.shown][-2:] == [False, True]
    assert sum("*Après" in text for text in stage.shown) == 1


async def test_lines_below_stand_before_what_went_wrong(stage: StreamingSetup) -> None:
    stage.below = ["*Tard.*"]

    await stage.stream(TextDelta("Le ciel"), Truncated("cut"))

    assert stage.shown == [f"Le ciel\n\n*Tard.*\n\n{TEXTS('model truncated')}"]


async def test_the_lines_of_a_reply_without_a_word_are_in_its_notice(
    stage: StreamingSetup,
) -> None:
    stage.above, stage.below = ["*Après un silence.*"], ["*Tard.*"]

    await stage.stream(ModelBusy("429"))

    assert stage.shown == [f"*Après un silence.*\n\n*Tard.*\n\n{TEXTS('model busy')}"]


async def test_the_bot_speaks_in_the_words_it_was_told_last(stage: StreamingSetup) -> None:
    reply = stage.reply()
    reply.speak(ENGLISH)

    await stage.answer(reply, [TextDelta("Le ciel"), Truncated("cut")])

    assert stage.shown == [f"Le ciel\n\n{ENGLISH('model truncated')}"]


async def test_a_room_that_refuses_ends_the_reading_of_the_model(stage: StreamingSetup) -> None:
    never = asyncio.Event()
    stage.matrix.failures = [Forbidden("kicked")]

    with pytest.raises(Forbidden):
        await asyncio.wait_for(stage.stream(TextDelta("Un. "), *[TextDelta("X")] * 50, never), 5)


async def test_a_final_that_is_refused_leaves_nothing_that_looks_whole(
    stage: StreamingSetup,
) -> None:
    gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(stage.stream(TextDelta("Un. "), gate, TextDelta("Deux."), END))
        await stage.matrix.until(lambda: stage.shown == ["Un."])
        stage.matrix.failures = [Forbidden("M_TOO_LARGE")]
        gate.set()

    assert stage.shown == [f"Un.\n\n{TEXTS('model truncated')}"]


async def test_an_edit_that_is_refused_for_good_ends_the_reply_with_what_stands(
    stage: StreamingSetup,
) -> None:
    gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(
            stage.stream(TextDelta("Un. "), gate, TextDelta("Deux. "), asyncio.Event())
        )
        await stage.matrix.until(lambda: stage.shown == ["Un."])
        stage.matrix.failures = [Forbidden("M_TOO_LARGE")]
        stage.clock.time += 2.0
        gate.set()

    assert stage.shown == [f"Un.\n\n{TEXTS('model truncated')}"]
    assert stage.notices == []


async def test_a_line_is_not_what_a_refused_final_leaves(stage: StreamingSetup) -> None:
    gate, reply = asyncio.Event(), stage.reply()
    reply.say(lambda: "Je cherche…")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(stage.answer(reply, [gate, TextDelta("Un."), END]))
        await settle()
        stage.clock.time += 10.0
        reply.say(lambda: "Je cherche…")
        await stage.matrix.until(lambda: stage.shown == ["Je cherche…"])
        stage.matrix.failures = [Forbidden("M_TOO_LARGE")]
        gate.set()

    assert stage.shown == [TEXTS("model truncated")]


async def test_two_replies_that_stand_are_known_each_once(stage: StreamingSetup) -> None:
    """As a ledger from a backup may have made them, of which it knows the second."""
    await stage.stream(TextDelta("Un."), END)
    stage.store.replies.clear()
    stage.store.outbox.clear()
    stage.matrix.transactions.clear()
    await stage.stream(TextDelta("Deux."), END)
    assert stage.shown == ["Un.", "Deux."]
    stage.store.replies[PROMPT.event_id] = {0: EventId("$sent1")}

    reply = stage.reply(PriorState.BEGUN)
    await stage.answer(reply, [TextDelta("Trois."), END], [TextDelta("Trois."), END])

    assert reply.event_ids == ["$sent1", "$sent0"]
    assert stage.store.replies[PROMPT.event_id] == {0: "$sent1", 1: "$sent0"}


async def test_a_process_that_comes_after_a_crash_goes_on_in_the_same_message(
    stage: StreamingSetup,
) -> None:
    await stage.stream_then_die(TextDelta("Le ciel est bleu. "))

    await stage.answer(stage.reply(PriorState.BEGUN), [TextDelta("Le ciel est gris."), END])

    assert stage.shown == ["Le ciel est gris."]


def forget(stage: StreamingSetup) -> None:
    """Let the ledger know nothing of the reply, and the homeserver no transaction id any more."""
    stage.store.replies.clear()
    stage.store.outbox.clear()
    stage.matrix.transactions.clear()


@pytest.mark.parametrize("before", [PriorState.PERHAPS, PriorState.BEGUN])
@pytest.mark.parametrize("hidden", ["unreadable", "too far"])
async def test_a_prompt_is_marked_whose_reply_may_stand_and_cannot_be_found_in_the_history(
    stage: StreamingSetup, before: PriorState, hidden: str
) -> None:
    await stage.stream(TextDelta("Le ciel est bleu."), END)
    forget(stage)
    stage.matrix.undecryptable = {EventId("$sent0")}
    stage.matrix.bounded = hidden == "too far"

    with capture_logs() as logs:
        for _ in range(2):
            await stage.answer(stage.reply(before), [TextDelta("Le ciel est gris."), END])

    mark = Notice(text=TEXTS("perhaps answered"), to=PROMPT, unanswered=True)
    assert [sent for _, sent in stage.matrix.sent][1:] == [mark]
    assert [one["log_level"] for one in logs if one["event"] == "reply perhaps sent"][:1] == [
        "error"
    ]


async def test_what_the_ledger_knows_as_another_answer_is_no_reply_to_the_prompt(
    stage: StreamingSetup,
) -> None:
    await stage.store.admit(Batch(events=(FIRST, SECOND), next_batch="s1"), MIDNIGHT)
    other = prompt(SECOND)
    await stage.store.claim(other)
    sent = await send(
        stage.matrix, other.room_id, Reply(prompt=other, part=Part("La mer."), model="m"), "other"
    )
    await stage.store.sent(SECOND.event_id, 0, sent)
    stage.matrix.undecryptable = {sent}

    await stage.answer(stage.reply(PriorState.PERHAPS), [TextDelta("Le ciel est bleu."), END])

    assert stage.shown == ["La mer.", "Le ciel est bleu."]


async def test_who_asks_once_more_gets_an_answer_whatever_may_stand(stage: StreamingSetup) -> None:
    await stage.stream(TextDelta("Le ciel est bleu."), END)
    forget(stage)
    stage.matrix.undecryptable = {EventId("$sent0")}
    await stage.answer(stage.reply(PriorState.PERHAPS))

    await stage.answer(stage.reply(PriorState.WHOLE), [TextDelta("Le ciel est gris."), END])

    assert stage.shown[1:] == [TEXTS("perhaps answered"), "Le ciel est gris."]


async def test_an_unreadable_message_of_another_thread_is_no_reply_to_the_prompt(
    stage: StreamingSetup,
) -> None:
    elsewhere = prompt(message(event_id="$root", thread_root="$root"))
    sent = await send(
        stage.matrix,
        elsewhere.room_id,
        Reply(prompt=elsewhere, part=Part("Là."), model="m"),
        "there",
    )
    stage.matrix.undecryptable = {sent}

    await stage.answer(stage.reply(PriorState.PERHAPS), [TextDelta("Le ciel est bleu."), END])

    assert stage.shown == ["Là.", "Le ciel est bleu."]


@pytest.mark.parametrize(
    ("second", "shown"),
    [
        ([TextDelta("Le ciel est gris."), END], "Le ciel est gris."),
        ([ModelBusy("503")], TEXTS("model busy")),
    ],
)
async def test_a_first_message_whose_answer_was_lost_is_found_again(
    stage: StreamingSetup, second: Script, shown: str
) -> None:
    await stage.stream_then_die(TextDelta("Le ciel est bleu. "))
    stage.store.replies.clear()  # as if the process had died between the send and its record

    await stage.answer(stage.reply(PriorState.BEGUN), second)

    assert stage.shown == [shown]
    assert stage.store.replies[PROMPT.event_id] == {0: EventId("$sent0")}


async def test_a_long_completion_goes_on_in_further_messages_and_loses_nothing(
    stage: StreamingSetup,
) -> None:
    text = "".join(f"Paragraphe {number} : {'mot ' * 100}\n\n" for number in range(200))

    await stage.stream(*[TextDelta(text[at : at + 997]) for at in range(0, len(text), 997)], END)

    parts = [
        sent.reply.part if isinstance(sent, OutgoingEdit) else sent.part
        for sent in {
            (sent.event_id if isinstance(sent, OutgoingEdit) else key): sent
            for key, sent in stage.matrix.sent
            if isinstance(sent, Reply | OutgoingEdit)
        }.values()
    ]
    assert len(parts) > 1
    assert "".join(part.source for part in parts) == text
    assert stage.shown == [render(part).body for part in parts]


@pytest.mark.parametrize("hiccup", [HomeserverUnreachable("502"), SoftLogout("renewed soon")])
async def test_an_edit_that_the_homeserver_misses_gives_way_to_a_newer_one(
    stage: StreamingSetup, hiccup: MatrixError
) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    script: list[Delta | asyncio.Event] = [TextDelta("Un. "), first, TextDelta("Deux. ")]
    script += [second, TextDelta("Trois."), END]
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


async def test_a_shorter_second_try_leaves_no_part_of_the_first_standing(
    stage: StreamingSetup,
) -> None:
    await stage.stream_then_die(TextDelta(LONG), parts=3)

    await stage.answer(stage.reply(PriorState.BEGUN), [TextDelta("Court."), END])

    first, *others = stage.shown
    assert first == "Court."
    assert set(others) == {TEXTS("void")}


# The line that says why there is nothing to read yet.


async def test_the_line_is_shown_after_a_while_and_the_text_takes_its_place(
    stage: StreamingSetup, tasks: asyncio.TaskGroup
) -> None:
    reply, gate = stage.reply(), asyncio.Event()
    task = tasks.create_task(stage.answer(reply, [gate, TextDelta("Bonjour."), END]))
    reply.say(lambda: "*Un instant.*")
    stage.clock.time += 9.9
    reply.say(lambda: "*Je prépare.*")
    await settle()
    assert stage.matrix.sent == []
    stage.clock.time += 0.1
    reply.say(lambda: "*Je prépare encore.*")
    await stage.matrix.until(lambda: stage.shown == ["*Je prépare encore.*"])
    gate.set()
    await task

    assert stage.shown == ["Bonjour."]
    assert stage.notices == []


async def test_a_line_that_has_changed_is_shown_now_and_then(
    stage: StreamingSetup, tasks: asyncio.TaskGroup
) -> None:
    reply, gate = stage.reply(), asyncio.Event()
    task = tasks.create_task(stage.answer(reply, [gate, TextDelta("Bonjour."), END]))
    stage.clock.time += 10
    reply.say(lambda: "*Place 3.*")
    await stage.matrix.until(lambda: stage.shown == ["*Place 3.*"])
    stage.clock.time += 19
    reply.say(lambda: "*Place 2.*")
    await settle()
    assert stage.shown == ["*Place 3.*"]
    stage.clock.time += 1
    reply.say(lambda: "*Place 1.*")
    await stage.matrix.until(lambda: stage.shown == ["*Place 1.*"])
    stage.clock.time += 100
    reply.say(lambda: "*Place 1.*")
    await settle()
    assert len(stage.matrix.sent) == 2
    gate.set()
    await task

    assert stage.said == ["*Place 3.*", "*Place 1.*", "Bonjour."]
    assert len(stage.shown) == 1


async def test_a_line_that_is_refused_is_shown_later(
    stage: StreamingSetup, tasks: asyncio.TaskGroup
) -> None:
    reply, gate = stage.reply(), asyncio.Event()
    task = tasks.create_task(stage.answer(reply, [gate, TextDelta("Bonjour."), END]))
    stage.clock.time += 10
    reply.say(lambda: "*Place 3.*")
    await stage.matrix.until(lambda: bool(stage.shown))
    stage.matrix.failures = [RateLimited("429", 30)]
    stage.clock.time += 20
    reply.say(lambda: "*Place 2.*")
    await settle()
    stage.clock.time += 29
    reply.say(lambda: "*Place 1.*")
    await settle()
    assert stage.shown == ["*Place 3.*"]
    stage.clock.time += 1
    reply.say(lambda: "*Place 1.*")
    await stage.matrix.until(lambda: stage.shown == ["*Place 1.*"])
    gate.set()
    await task


@pytest.mark.parametrize("again", [True, False])
async def test_a_line_never_takes_the_place_of_an_earlier_text(
    stage: StreamingSetup,
    tasks: asyncio.TaskGroup,
    again: bool,  # noqa: FBT001  # a table's column
) -> None:
    await stage.stream_then_die(TextDelta("Le ciel est bleu. "))
    reply, gate = stage.reply(PriorState.WHOLE if again else PriorState.BEGUN), asyncio.Event()
    task = tasks.create_task(stage.answer(reply, [gate, TextDelta("Bonjour."), END]))
    stage.clock.time += 100
    reply.say(lambda: "*Je prépare.*")
    await settle()
    assert stage.shown == ["Le ciel est bleu."]
    gate.set()
    await task

    assert "*Je prépare.*" not in stage.said


async def test_a_line_does_not_follow_a_text_that_was_begun(
    stage: StreamingSetup, tasks: asyncio.TaskGroup
) -> None:
    reply, gate = stage.reply(), asyncio.Event()
    task = tasks.create_task(
        stage.answer(reply, [TextDelta("Un. "), asyncio.Event()], [gate, TextDelta("Deux."), END])
    )
    await stage.matrix.until(lambda: stage.shown == ["Un."])
    reply.restart()
    stage.clock.time += 100
    reply.say(lambda: "*Je prépare.*")
    await settle()
    assert stage.shown == ["Un."]
    gate.set()
    await task

    assert stage.said == ["Un.", "Deux."]


async def test_a_model_that_fails_after_the_line_says_so_in_its_place(
    stage: StreamingSetup, tasks: asyncio.TaskGroup
) -> None:
    reply, gate = stage.reply(), asyncio.Event()
    task = tasks.create_task(stage.answer(reply, [gate, ModelBusy("503")]))
    stage.clock.time += 10
    reply.say(lambda: "*Je prépare.*")
    await stage.matrix.until(lambda: bool(stage.shown))
    gate.set()
    await task

    assert stage.shown == [TEXTS("model busy")]


# What is asked changes.


async def test_a_restart_before_anything_is_visible_shows_the_new_text_alone(
    stage: StreamingSetup, tasks: asyncio.TaskGroup
) -> None:
    reply = stage.reply()
    task = tasks.create_task(
        stage.answer(reply, [TextDelta("Un"), asyncio.Event()], [TextDelta("Deux."), END])
    )
    await heard(reply, "Un")
    stage.asked = BOTH
    assert reply.restart(BOTH)
    stage.clock.time += 100  # what was said of the first question alone is due by now
    await task

    assert stage.said == ["Deux."]
    [(_, sent)] = stage.matrix.sent
    assert isinstance(sent, Reply)
    assert sent.prompt == BOTH
    assert stage.store.joined == {SECOND.event_id: FIRST.event_id}


async def test_a_restart_that_takes_its_time_shows_nothing_of_what_was_asked_before(
    stage: StreamingSetup, tasks: asyncio.TaskGroup
) -> None:
    reply, gate = stage.reply(), asyncio.Event()
    task = tasks.create_task(
        stage.answer(reply, [TextDelta("Un"), asyncio.Event()], [gate, TextDelta("Deux."), END])
    )
    await heard(reply, "Un")
    reply.restart()
    stage.clock.time += 100
    reply.say(lambda: "")  # something else stirs
    await settle()
    assert stage.matrix.sent == []
    gate.set()
    await task


async def test_what_is_shown_after_a_restart_belongs_to_what_is_asked_now(
    stage: StreamingSetup, tasks: asyncio.TaskGroup
) -> None:
    reply, gate = stage.reply(), asyncio.Event()
    await stage.store.admit(Batch(events=(FIRST, SECOND), next_batch="s1"), MIDNIGHT)

    async def ask() -> None:
        async with reply.shown():
            reply.restart(BOTH)
            await reply.begin(PROMPT, "small-model", (), ())  # that was on its way already
            await gate.wait()

    task = tasks.create_task(ask())
    await settle()
    stage.clock.time += 10
    reply.say(lambda: "*Je prépare.*")
    await stage.matrix.until(lambda: bool(stage.shown))
    reply.silence()
    gate.set()
    await task

    [(_, sent)] = stage.matrix.sent
    assert isinstance(sent, Reply)
    assert sent.prompt == BOTH
    assert stage.store.joined == {SECOND.event_id: FIRST.event_id}


async def test_a_restart_while_the_text_is_visible_goes_on_in_the_same_message(
    stage: StreamingSetup, tasks: asyncio.TaskGroup
) -> None:
    reply = stage.reply()
    script: Script = [TextDelta("Un. "), TextDelta("Un encore. "), asyncio.Event()]
    task = tasks.create_task(
        stage.answer(reply, script, [TextDelta("Deux. "), TextDelta("Deux encore."), END])
    )
    await stage.matrix.until(lambda: bool(stage.shown))
    assert reply.restart()
    await task

    assert stage.shown == ["Deux. Deux encore."]


async def test_a_restart_of_a_long_reply_leaves_nothing_of_the_first_one(
    stage: StreamingSetup, tasks: asyncio.TaskGroup
) -> None:
    reply = stage.reply()
    task = tasks.create_task(
        stage.answer(reply, [TextDelta(LONG), asyncio.Event()], [TextDelta(OTHER), END])
    )
    await stage.matrix.until(lambda: len(stage.shown) == len(split(LONG)))
    reply.restart()
    await task

    assert stage.shown[: len(split(OTHER))] == rendered(OTHER)
    assert set(stage.shown[len(split(OTHER)) :]) <= {TEXTS("void")}
    ids = list(stage.matrix.standing())
    assert stage.store.replies[FIRST.event_id] == dict(enumerate(ids))


async def test_a_restart_while_the_first_message_is_on_its_way_makes_no_second_one(
    tasks: asyncio.TaskGroup,
) -> None:
    stage = StreamingSetup(HeldClock())
    stage.matrix.failures = [RateLimited("429", 5)]
    reply = stage.reply()
    task = tasks.create_task(
        stage.answer(reply, [TextDelta("Un. "), asyncio.Event()], [TextDelta("Deux."), END])
    )
    while stage.matrix.failures:  # noqa: ASYNC110  # the refused send tells nobody
        await asyncio.sleep(0)
    reply.restart()
    assert isinstance(stage.clock, HeldClock)
    await stage.clock.pass_time(5)
    await task

    assert stage.shown == ["Deux."]
    assert stage.store.replies[FIRST.event_id] == {0: EventId("$sent0")}


async def test_a_reply_that_is_over_takes_nothing_in(stage: StreamingSetup) -> None:
    reply = stage.reply()
    await stage.answer(reply, [TextDelta("Bonjour."), END])

    assert not reply.restart()
    assert not reply.stop()
    assert stage.shown == ["Bonjour."]


async def test_a_process_that_comes_after_a_crash_in_a_restart_goes_on_in_the_same_message(
    stage: StreamingSetup,
) -> None:
    reply = stage.reply()
    task = asyncio.get_running_loop().create_task(
        stage.answer(
            reply,
            [TextDelta("Un. "), asyncio.Event()],
            [TextDelta("Deux. "), TextDelta("Deux. "), asyncio.Event()],
        )
    )
    await stage.matrix.until(lambda: stage.shown == ["Un."])
    stage.clock.time += 2
    reply.restart()
    await stage.matrix.until(lambda: stage.shown == ["Deux. Deux."])
    task.cancel()
    await asyncio.wait([task])

    await stage.answer(
        stage.reply(PriorState.BEGUN), [TextDelta("Trois. "), TextDelta("Fin."), END]
    )

    assert stage.shown == ["Trois. Fin."]


# Nobody wants it any more.


@pytest.mark.parametrize(("direct", "mark"), [(True, "stopped direct"), (False, "stopped")])
async def test_what_stands_when_it_is_stopped_stays_and_is_marked(
    stage: StreamingSetup, tasks: asyncio.TaskGroup, *, direct: bool, mark: str
) -> None:
    stage.matrix.direct = direct
    reply = stage.reply()
    task = tasks.create_task(stage.answer(reply, [TextDelta("Un. Deux"), asyncio.Event()]))
    await stage.matrix.until(lambda: bool(stage.shown))
    assert reply.stop()
    assert not reply.stop()
    await task

    assert stage.shown == [f"Un. Deux\n\n{TEXTS(mark)}"]


async def test_what_the_model_had_said_when_it_is_stopped_is_shown(
    stage: StreamingSetup, tasks: asyncio.TaskGroup
) -> None:
    reply = stage.reply()
    task = tasks.create_task(stage.answer(reply, [TextDelta("Un"), asyncio.Event()]))
    await heard(reply, "Un")
    reply.stop()
    await task

    assert stage.said == [f"Un\n\n{TEXTS('stopped direct')}"]


@pytest.mark.parametrize("end", [END, asyncio.Event()], ids=["over", "going on"])
async def test_a_stop_between_the_messages_of_a_long_text_shows_one_more_and_no_others(
    stage: StreamingSetup, tasks: asyncio.TaskGroup, end: Delta | asyncio.Event
) -> None:
    text, reply = LONG * 5, stage.reply()
    task = tasks.create_task(stage.answer(reply, [TextDelta(text), end]))
    await stage.matrix.until(lambda: len(stage.shown) == 2)
    assert reply.stop()
    sent = len(stage.shown)  # the next may be on its way
    await task

    *parts, last = stage.shown
    assert sent <= len(parts) <= sent + 1
    assert len(parts) + 1 < len(split(text))
    assert [*parts, last] == [
        *rendered(text)[: len(parts)],
        f"{rendered(text)[len(parts)]}\n\n{TEXTS('stopped direct')}",
    ]
    assert reply.outcome is not None
    assert not reply.outcome.whole
    assert [one.part for one in stage.store.outbox[FIRST.event_id]] == [len(parts)]


@pytest.mark.parametrize("stopped_at", range(3))
async def test_a_stop_while_a_final_version_is_sent_leaves_it_where_it_stands(
    stage: StreamingSetup, tasks: asyncio.TaskGroup, stopped_at: int
) -> None:
    reply, more = stage.reply(), asyncio.Event()
    task = tasks.create_task(
        stage.answer(reply, [TextDelta("Un. "), more, TextDelta(LONG * 2), END])
    )
    await stage.matrix.until(lambda: stage.shown == ["Un."])
    more.set()
    await stage.matrix.until(lambda: len(stage.matrix.sent) == stopped_at + 2)
    assert reply.stop()
    await task

    whole = rendered(f"Un. {LONG * 2}")
    *parts, last = stage.shown
    assert len(parts) < len(whole) - 1
    assert [*parts, last] == [
        *whole[: len(parts)],
        f"{whole[len(parts)]}\n\n{TEXTS('stopped direct')}",
    ]


@pytest.mark.parametrize("turns", range(60))
async def test_a_stop_is_obeyed_at_any_moment_while_several_messages_are_lacking(
    stage: StreamingSetup, tasks: asyncio.TaskGroup, turns: int
) -> None:
    text, reply, more = f"Un. {LONG * 2}", stage.reply(), asyncio.Event()
    task = tasks.create_task(
        stage.answer(reply, [TextDelta("Un. "), more, TextDelta(text[4:]), END])
    )
    await stage.matrix.until(lambda: stage.shown == ["Un."])
    more.set()
    for _ in range(turns):  # the text is taken in, cut, and sent
        await asyncio.sleep(0)
    shown = stage.shown
    obeyed = reply.stop()
    await task

    whole = rendered(text)
    assert obeyed == (shown[: len(whole) - 1] != whole[:-1])
    if obeyed:
        *parts, last = stage.shown
        assert parts == whole[: len(parts)]
        assert last.endswith(TEXTS("stopped direct"))
        assert len(parts) <= len(shown) + 1  # one was on its way
    else:
        assert stage.shown == whole


async def test_a_stop_is_too_late_once_the_last_message_is_on_its_way(
    stage: StreamingSetup, tasks: asyncio.TaskGroup
) -> None:
    reply, stopped = stage.reply(), list[bool]()
    task = tasks.create_task(stage.answer(reply, [TextDelta(LONG), END]))
    await stage.matrix.until(lambda: len(stage.matrix.sent) == len(split(LONG)))
    stopped.append(reply.stop())
    await task

    assert stopped == [False]
    assert stage.shown == rendered(LONG)


@pytest.mark.parametrize("line", [True, False])
async def test_a_reply_that_is_stopped_before_its_first_word_says_so_once(
    stage: StreamingSetup,
    tasks: asyncio.TaskGroup,
    line: bool,  # noqa: FBT001  # a table's column
) -> None:
    reply = stage.reply()
    task = tasks.create_task(stage.answer(reply, [asyncio.Event()]))
    if line:
        stage.clock.time += 10
        reply.say(lambda: "*Je prépare.*")
        await stage.matrix.until(lambda: bool(stage.shown))
    await settle()
    reply.stop()
    await task

    assert stage.shown == [TEXTS("stopped direct")]
    assert len(stage.notices) == (not line)


async def test_a_line_of_an_earlier_process_gives_way_when_the_answer_is_stopped(
    stage: StreamingSetup, tasks: asyncio.TaskGroup
) -> None:
    first = stage.reply()
    task = asyncio.get_running_loop().create_task(stage.answer(first, [asyncio.Event()]))
    stage.clock.time += 10
    first.say(lambda: "*Je prépare.*")
    await stage.matrix.until(lambda: bool(stage.shown))
    task.cancel()
    await asyncio.wait([task])
    reply = stage.reply(PriorState.BEGUN)
    task = tasks.create_task(stage.answer(reply, [asyncio.Event()]))
    await settle()
    reply.stop()
    await task

    assert stage.shown == [TEXTS("stopped direct")]


@pytest.mark.parametrize("text", ["Un. ", LONG])
async def test_what_stands_when_a_restart_is_stopped_stays_and_is_marked(
    stage: StreamingSetup, tasks: asyncio.TaskGroup, text: str
) -> None:
    reply, asked = stage.reply(), asyncio.Event()
    task = tasks.create_task(
        stage.answer(reply, [TextDelta(text), asyncio.Event()], [asked, TextDelta("Trois."), END])
    )
    await stage.matrix.until(lambda: len(stage.shown) == len(split(text)))
    reply.restart()
    await settle()
    reply.stop()
    await task

    *parts, last = rendered(text)
    assert stage.shown == [*parts, f"{last}\n\n{TEXTS('stopped direct')}"]


async def test_all_parts_stay_where_a_restart_of_what_was_edited_is_stopped(
    stage: StreamingSetup, tasks: asyncio.TaskGroup
) -> None:
    reply, more, asked = stage.reply(), asyncio.Event(), asyncio.Event()
    script: Script = [TextDelta("Un. "), more, TextDelta(LONG), asyncio.Event()]
    task = tasks.create_task(stage.answer(reply, script, [asked, TextDelta("Trois."), END]))
    await stage.matrix.until(lambda: stage.shown == ["Un."])
    stage.clock.time += 2.0
    more.set()
    await stage.matrix.until(lambda: len(stage.shown) == len(split(f"Un. {LONG}")))
    reply.restart()
    await settle()
    reply.stop()
    await task

    *parts, last = rendered(f"Un. {LONG}")
    assert stage.shown == [*parts, f"{last}\n\n{TEXTS('stopped direct')}"]


async def test_a_reply_that_is_stopped_as_what_is_asked_changes_ends(
    stage: StreamingSetup, tasks: asyncio.TaskGroup
) -> None:
    reply = stage.reply()
    task = tasks.create_task(stage.answer(reply, [asyncio.Event()], [TextDelta("Deux."), END]))
    await settle()
    reply.restart()
    assert reply.stop()
    assert not reply.restart()
    await task

    assert stage.shown == [TEXTS("stopped direct")]


async def test_a_reply_that_is_silenced_sends_nothing_more(
    stage: StreamingSetup, tasks: asyncio.TaskGroup
) -> None:
    reply = stage.reply()
    task = tasks.create_task(stage.answer(reply, [TextDelta("Un. "), asyncio.Event()]))
    await stage.matrix.until(lambda: bool(stage.shown))
    reply.silence()
    stage.clock.time += 100
    await task

    assert stage.said == ["Un."]
    assert reply.ended.is_set()
    assert not reply.stop()


@pytest.mark.parametrize("script", [[TextDelta("Un. "), asyncio.Event()], [TextDelta("Un."), END]])
async def test_a_first_message_that_was_refused_is_not_tried_again_once_silenced(
    tasks: asyncio.TaskGroup, script: Script
) -> None:
    stage = StreamingSetup(HeldClock())
    stage.matrix.failures = [RateLimited("429", 5)]
    reply = stage.reply()
    task = tasks.create_task(stage.answer(reply, script))
    while stage.matrix.failures:  # noqa: ASYNC110  # the refused send tells nobody
        await asyncio.sleep(0)
    reply.silence()
    assert isinstance(stage.clock, HeldClock)
    await stage.clock.pass_time(60)
    await task

    assert stage.matrix.sent == []
    assert stage.store.replies == {}


@pytest.mark.parametrize("turns", range(10))
async def test_a_process_that_ends_as_something_changes_does_end(
    stage: StreamingSetup, turns: int
) -> None:
    reply = stage.reply()
    task = asyncio.get_running_loop().create_task(stage.answer(reply, [asyncio.Event()]))
    reply.say(lambda: "*Place 2.*")
    await settle()
    task.cancel()
    for _ in range(turns):
        await asyncio.sleep(0)
    reply.say(lambda: "*Place 1.*")

    await asyncio.wait([task], timeout=5)
    assert task.cancelled()


async def test_a_reply_that_is_silenced_before_it_is_shown_shows_nothing(
    stage: StreamingSetup,
) -> None:
    reply = stage.reply()
    reply.silence()

    await stage.answer(reply, [TextDelta("Un."), END])

    assert stage.matrix.sent == []


# Answered once more.


@pytest.mark.parametrize("text", ["Le ciel est bleu.", LONG])
async def test_an_answer_made_anew_takes_the_place_of_the_old_one(
    stage: StreamingSetup, text: str
) -> None:
    await stage.stream(TextDelta(text), END)
    await stage.answer(stage.reply(PriorState.WHOLE), [TextDelta("Le ciel est gris."), END])
    await stage.answer(stage.reply(PriorState.WHOLE), [TextDelta(OTHER), END])

    assert stage.shown[: len(split(OTHER))] == rendered(OTHER)
    assert set(stage.shown[len(split(OTHER)) :]) <= {TEXTS("void")}


async def test_an_old_answer_stands_until_the_first_words_of_the_new_one(
    stage: StreamingSetup, tasks: asyncio.TaskGroup
) -> None:
    await stage.stream(TextDelta("Le ciel est bleu."), END)
    first, second = asyncio.Event(), asyncio.Event()
    script: Script = [first, TextDelta("Le ciel est gris. "), second, TextDelta("Oui."), END]
    task = tasks.create_task(stage.answer(stage.reply(PriorState.WHOLE), script))
    await settle()
    assert stage.shown == ["Le ciel est bleu."]
    first.set()
    await stage.matrix.until(lambda: stage.shown == ["Le ciel est gris."])
    second.set()
    await task

    assert stage.shown == ["Le ciel est gris. Oui."]


@pytest.mark.parametrize(
    ("script", "key"), [([ModelBusy("503")], "model busy"), ([END], "model empty")]
)
async def test_a_model_that_fails_once_more_leaves_the_old_answer_and_says_so(
    stage: StreamingSetup, script: Script, key: str
) -> None:
    await stage.stream(TextDelta("Le ciel est bleu."), END)
    await stage.answer(stage.reply(PriorState.WHOLE), script)
    await stage.answer(stage.reply(PriorState.WHOLE), script)

    assert stage.shown == ["Le ciel est bleu.", *[TEXTS(key)] * 2]
    assert stage.notices == [Notice(text=TEXTS(key), to=PROMPT, unanswered=True)] * 2
    assert stage.store.replies[FIRST.event_id] == {0: EventId("$sent0")}


async def test_a_model_that_fails_half_way_once_more_is_never_shown_as_whole(
    stage: StreamingSetup,
) -> None:
    await stage.stream(TextDelta("Le ciel est bleu."), END)
    await stage.answer(stage.reply(PriorState.WHOLE), [TextDelta("Le ciel"), Truncated("cut")])

    assert stage.shown == [f"Le ciel\n\n{TEXTS('model truncated')}"]


async def test_an_answer_made_anew_and_stopped_leaves_the_old_one(
    stage: StreamingSetup, tasks: asyncio.TaskGroup
) -> None:
    await stage.stream(TextDelta("Le ciel est bleu."), END)
    reply = stage.reply(PriorState.WHOLE)
    task = tasks.create_task(stage.answer(reply, [asyncio.Event()]))
    await settle()
    reply.stop()
    await task

    assert stage.shown == ["Le ciel est bleu.", TEXTS("stopped direct")]


async def test_a_notice_of_a_claim_that_the_ledger_lost_becomes_the_reply(
    stage: StreamingSetup,
) -> None:
    """The ledger comes from a backup; the first version's id returns the notice's event."""
    await stage.stream(ModelBusy("503"))
    assert stage.shown == [TEXTS("model busy")]
    stage.store = FakeStore()

    await stage.answer(stage.reply(PriorState.PERHAPS), [TextDelta("Bonjour."), END])

    assert stage.shown == ["Bonjour."]

"""A process ends at any step; the next one goes on, and the room shows one answer."""

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs
from typing_extensions import override

from bot.core.chat import FinishDelta, TextDelta, Usage, UsageDelta
from bot.core.events import Event, EventId, RoomId
from bot.core.markdown import render
from bot.core.message_split import split
from bot.core.outgoing import OutgoingEdit, PreparedEvent
from bot.errors import Forbidden, MatrixError, ModelRefused
from bot.i18n.texts import speak
from bot.monitoring.health import Health
from bot.monitoring.metrics import BUGS
from tests.fakes.matrix import FakeMatrix
from tests.fakes.story import Story
from tests.make import edit_event, message, reaction, redaction

TEXTS = speak("fr")
END = FinishDelta("stop")
SHORT = "Le ciel est bleu."
LONG = "".join(f"Paragraphe {number} : {'mot ' * 100}\n\n" for number in range(40))
REGISTRY = CollectorRegistry()
REGISTRY.register(BUGS)
OPERATIONS = 25  # more than any of the stories has

_STORE = ("admit", "claim", "sent", "keep_outbox", "finish")
_MATRIX = ("put", "prepare", "shown", "own_since", "redact", "edits", "fetch")


@dataclass
class Breaking:
    """Ends the process at its `at`th operation, before or after that is done."""

    at: int
    after: bool
    only: str = ""  # the operation that counts, where not every one does
    passed: int = 0
    broken: bool = False

    def wrap(
        self, name: str, operation: Callable[..., Awaitable[Any]], over: asyncio.Event
    ) -> Callable[..., Awaitable[Any]]:
        async def wrapped(*arguments: object, **more: object) -> object:
            self.passed += self.only in {"", name}
            here = self.passed == self.at and not self.broken and self.only in {"", name}
            if here and not self.after:
                await self._end(over)
            result = await operation(*arguments, **more)
            if here:
                await self._end(over)
            return result

        return wrapped

    async def _end(self, over: asyncio.Event) -> None:
        self.broken = True
        over.set()
        await asyncio.Event().wait()


class RecoveryStory(Story):
    """A direct message, over the ends of several processes."""

    breaking: Breaking | None = None

    def says(self, *texts: str) -> None:
        self.model.script = (*map(TextDelta, texts), END)

    async def live(self, *wanted: str) -> None:
        """Run one process until it ends or all that is wanted is finished."""
        over = asyncio.Event()
        ports: list[tuple[str, object, tuple[str, ...]]] = [
            ("store", self.store, _STORE),
            ("matrix", self.matrix, _MATRIX),
        ]
        if self.breaking is not None and not self.breaking.broken:
            for kind, port, names in ports:
                for name in names:
                    operation = getattr(port, name)
                    wrapped = self.breaking.wrap(f"{kind}.{name}", operation, over)
                    setattr(port, name, wrapped)
        async with self.run():
            await self.until(lambda: over.is_set() or self.done(*wanted))
        for _, port, names in ports:
            for name in names:
                vars(port).pop(name, None)

    @override
    def done(self, *event_ids: str) -> bool:
        return super().done(*event_ids) and set(map(EventId, event_ids)) <= {*self.store.events}

    async def survive(self, *events: Event, forgetful: bool) -> None:
        """Hear the events, end somewhere, and start again until nothing is left to do."""
        self.matrix.hear(*events)
        wanted = [event.event_id for event in events]
        for _ in range(2):
            await self.live(*wanted)
            if forgetful:
                self.matrix.transactions.clear()  # as the homeserver does after a day
            if not self.store.events.keys() >= set(wanted):
                self.matrix.hear(*events, missed=True)
            else:
                self.matrix.hear(missed=True)
        await self.live(*wanted)
        assert self.done(*wanted)
        assert (
            self.breaking is None or self.breaking.at < OPERATIONS - 1 or not self.breaking.broken
        )

    @property
    def replies(self) -> list[str]:
        return [text for key, text in self.matrix.standing().items() if key.startswith("$sent")]


def breakings() -> Iterator[Any]:
    for after in (False, True):
        for at in range(1, OPERATIONS):
            yield pytest.param(Breaking(at, after), id=f"{'after' if after else 'before'} {at}")


def count_bugs() -> float:
    return REGISTRY.get_sample_value("assistant_bugs_total") or 0.0


def rendered(text: str) -> list[str]:
    return [render(part).body for part in split(text)]


@pytest.fixture
def room() -> RecoveryStory:
    return RecoveryStory()


@pytest.mark.parametrize("forgetful", [False, True], ids=["", "a day later"])
@pytest.mark.parametrize("breaking", list(breakings()))
class TestAnyStep:
    @pytest.mark.parametrize("texts", [[SHORT], ["Le ciel. ", "Il est bleu."], [LONG]])
    async def test_a_prompt_has_one_answer(
        self, room: RecoveryStory, breaking: Breaking, *, forgetful: bool, texts: list[str]
    ) -> None:
        room.breaking = replace(breaking)
        room.says(*texts)

        await room.survive(message(), forgetful=forgetful)

        assert room.replies == rendered("".join(texts))
        assert len(room.model.requests) <= 1 + room.breaking.broken
        assert not room.store.outbox

    async def test_two_messages_in_a_row_have_one_answer(
        self, room: RecoveryStory, breaking: Breaking, *, forgetful: bool
    ) -> None:
        room.breaking = replace(breaking)
        room.says("Le ciel. ", "Il est bleu.")

        await room.survive(message(), message("Et la mer ?", event_id="$2"), forgetful=forgetful)

        assert room.replies == rendered("Le ciel. Il est bleu.")
        assert room.store.joined == {"$2": "$prompt"}

    async def test_an_edited_prompt_is_answered_as_it_is_now(
        self, room: RecoveryStory, breaking: Breaking, *, forgetful: bool
    ) -> None:
        room.breaking = replace(breaking)
        room.says(SHORT)

        await room.survive(message(), edit_event("Bonsoir"), forgetful=forgetful)

        assert room.replies == [SHORT]
        assert room.model.requests[-1][-1].text == "Bonsoir"

    async def test_a_withdrawn_prompt_leaves_nothing(
        self, room: RecoveryStory, breaking: Breaking, *, forgetful: bool
    ) -> None:
        room.breaking = replace(breaking)
        room.says("Un. ", "Deux.")

        await room.survive(message(), forgetful=forgetful)
        room.breaking = replace(breaking)
        await room.survive(redaction(), forgetful=forgetful)

        assert room.replies == []

    async def test_a_failure_is_said_once(
        self, room: RecoveryStory, breaking: Breaking, *, forgetful: bool
    ) -> None:
        room.breaking = replace(breaking)
        room.model.script = (ModelRefused("400"),)

        await room.survive(message(), forgetful=forgetful)

        assert room.replies == [TEXTS("model refused")]

    async def test_what_cannot_be_read_is_said_once(
        self, room: RecoveryStory, breaking: Breaking, *, forgetful: bool
    ) -> None:
        room.breaking = replace(breaking)

        await room.survive(message(msgtype="m.image"), forgetful=forgetful)

        assert room.replies == [TEXTS("unreadable message")]


@pytest.mark.parametrize("together", [False, True])
async def test_what_the_ledger_of_a_backup_has_forgotten_is_not_answered_again(
    room: RecoveryStory, *, together: bool
) -> None:
    room.says(SHORT)
    backup = copy.deepcopy(room.store)
    first, second = message(), message("Et la mer ?", event_id="$2")
    room.matrix.hear(first)
    await room.live("$prompt")
    room.matrix.hear(message(msgtype="m.image", event_id="$image"))
    await room.live("$image")
    room.store = backup
    room.matrix.transactions.clear()

    image = message(msgtype="m.image", event_id="$image")
    events = (first, second, image) if together else (first, image)
    room.matrix.hear(*events, missed=True)
    await room.live(*(event.event_id for event in events))
    room.matrix.hear(second)
    await room.live("$2")

    assert room.replies == [SHORT, TEXTS("unreadable message"), SHORT]
    assert len(room.model.requests) == 2


async def test_a_prompt_redacted_while_nobody_was_there_takes_an_unknown_reply_along(
    room: RecoveryStory,
) -> None:
    room.says("Un. ", "Deux.")
    room.breaking = Breaking(1, only="store.sent", after=False)
    room.matrix.hear(message())
    await room.live("$prompt")
    assert room.replies
    assert not room.store.replies

    room.matrix.hear(redaction(), missed=True)
    await room.live("$prompt", "$redaction")

    assert room.replies == []


async def test_who_is_asked_to_stop_does_not_wait_for_what_an_earlier_reply_leaves_out(
    room: RecoveryStory,
) -> None:
    room.breaking = Breaking(1, only="store.sent", after=True)
    room.model.script = (TextDelta("Un. "), asyncio.Event())
    backup = copy.deepcopy(room.store)
    room.matrix.hear(message())
    await room.live("$prompt")
    room.store = backup
    gate = asyncio.Event()
    room.model.script = (gate, TextDelta(SHORT), END)

    async with room.run() as running:
        room.matrix.hear(message(), message("Et la mer ?", event_id="$2"), missed=True)
        await room.until(lambda: bool(room.model.requests[1:]))
        room.stopping.set()
        gate.set()
        await room.until(running.done)
    assert room.store.events.keys() - room.store.finished == {"$2"}
    room.stopping.clear()
    room.matrix.hear(missed=True)
    await room.live("$2")

    assert room.replies == [SHORT, SHORT]


async def test_what_joins_as_a_known_answer_is_being_sent_is_asked_as_well(
    room: RecoveryStory,
) -> None:
    room.says(SHORT)
    room.breaking = Breaking(1, only="store.keep_outbox", after=True)
    room.matrix.hear(message())
    await room.live("$prompt")
    room.says("Le ciel et la mer.")
    put, gate = room.matrix.put, asyncio.Event()
    begun = asyncio.Event()

    async def slow(*arguments: Any) -> EventId:  # noqa: ANN401  # the port's
        begun.set()
        await gate.wait()
        return await put(*arguments)

    room.matrix.put = slow  # type: ignore[assignment,method-assign]  # in place of a slow homeserver
    async with room.run():
        room.matrix.hear(missed=True)
        await room.until(begun.is_set)
        room.matrix.hear(message("Et la mer ?", event_id="$2"))
        await room.until(lambda: "$2" in room.store.events)
        gate.set()
        await room.until(lambda: room.done("$prompt", "$2"))

    assert room.replies == ["Le ciel et la mer."]
    assert [turns[-1].text for turns in room.model.requests] == [
        "Bonjour",
        "Bonjour\n\nEt la mer ?",
    ]


async def test_a_half_reply_that_cannot_be_ended_after_a_crash_is_marked(
    room: RecoveryStory,
) -> None:
    room.breaking = Breaking(1, only="store.sent", after=True)
    room.model.script = (TextDelta("Un. "), asyncio.Event())
    room.matrix.hear(message())
    await room.live("$prompt")
    room.says("Deux.")
    room.matrix.failures = [Forbidden("too large")]

    room.matrix.hear(missed=True)
    await room.live("$prompt")

    assert room.replies == [f"Un.\n\n{TEXTS('model truncated')}"]


async def _begin_half(room: RecoveryStory) -> None:
    """Let a process end with half a reply in the room, and the model be silent from then on."""
    room.breaking = Breaking(1, only="store.sent", after=True)
    room.model.script = (TextDelta("Un. "), asyncio.Event())
    room.matrix.hear(message())
    await room.live("$prompt")
    assert room.replies == ["Un."]
    room.model.script = (asyncio.Event(),)


async def test_half_a_reply_is_marked_whose_prompt_has_become_a_command(
    room: RecoveryStory,
) -> None:
    await _begin_half(room)

    room.matrix.hear(edit_event("!apropos"), missed=True)
    await room.live("$prompt")

    assert room.replies[0] == f"Un.\n\n{TEXTS('model truncated')}"
    assert "1.2.3" in room.replies[1]
    assert len(room.replies) == 2
    assert len(room.model.requests) == 1


async def test_half_a_reply_is_marked_whose_prompt_is_for_nobody_any_more(
    room: RecoveryStory,
) -> None:
    await _begin_half(room)
    room.matrix.direct = False  # somebody else has come, and the bot is not mentioned

    room.matrix.hear(missed=True)
    await room.live("$prompt")

    assert room.replies == [f"Un.\n\n{TEXTS('model truncated')}"]
    assert len(room.model.requests) == 1


async def test_a_whole_reply_whose_prompt_is_for_nobody_any_more_gets_no_mark(
    room: RecoveryStory,
) -> None:
    room.breaking = Breaking(1, only="store.finish", after=False)
    begun = asyncio.Event()
    room.model.script = (TextDelta("Un. "), begun, TextDelta("Deux."), END)
    room.matrix.hear(message())

    async def begin() -> None:
        await room.until(lambda: bool(room.matrix.sent))
        begun.set()

    await asyncio.gather(room.live("$prompt"), begin())
    room.matrix.direct = False

    room.matrix.hear(missed=True)
    await room.live("$prompt")

    assert room.replies == ["Un. Deux."]


async def test_what_nothing_was_shown_of_gets_no_mark(room: RecoveryStory) -> None:
    room.breaking = Breaking(1, only="store.claim", after=True)
    room.matrix.hear(message())
    await room.live("$prompt")
    room.matrix.direct = False

    room.matrix.hear(missed=True)
    await room.live("$prompt")

    assert room.replies == []


async def test_half_a_reply_that_is_stopped_after_a_crash_stays_and_is_marked(
    room: RecoveryStory,
) -> None:
    await _begin_half(room)

    room.matrix.hear(reaction("🛑", target="$prompt"), missed=True)
    await room.live("$prompt")

    assert room.replies == [f"Un.\n\n{TEXTS('stopped direct')}"]


@pytest.mark.parametrize("failure", [Forbidden("403"), RuntimeError("bug")])
async def test_half_a_reply_does_not_look_whole_whose_conversation_cannot_be_read(
    room: RecoveryStory, failure: MatrixError
) -> None:
    await _begin_half(room)
    room.matrix.history_failure = failure

    room.matrix.hear(missed=True)
    await room.live("$prompt")

    refused = isinstance(failure, Forbidden)
    assert room.replies == [TEXTS("bug") if refused else f"Un.\n\n{TEXTS('model truncated')}"]


@pytest.mark.parametrize("failure", [Forbidden("403"), RuntimeError("bug")])
async def test_half_a_reply_is_marked_that_cannot_be_looked_for(
    room: RecoveryStory, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    await _begin_half(room)

    async def fail(*_: object) -> NoReturn:
        raise failure

    monkeypatch.setattr(FakeMatrix, "own_since", fail)
    room.matrix.hear(missed=True)
    await room.live("$prompt")

    assert room.replies == [f"Un.\n\n{TEXTS('model truncated')}"]


@pytest.mark.parametrize("failure", [Forbidden("403"), MatrixError("olm"), RuntimeError("bug")])
async def test_half_a_reply_is_marked_of_which_no_more_can_be_sent(
    room: RecoveryStory, failure: MatrixError
) -> None:
    gate = asyncio.Event()
    room.model.script = (TextDelta("Un. "), gate, TextDelta("Deux."), END)
    room.matrix.hear(message())

    async with room.run():
        await room.until(lambda: bool(room.replies))
        room.matrix.failures = [failure]
        gate.set()
        await room.until(lambda: room.done("$prompt"))

    assert room.replies == [f"Un.\n\n{TEXTS('model truncated')}"]


@pytest.mark.parametrize(
    ("broken", "then"),
    [
        # The mark is in the ledger by then, and goes out as it is.
        ("put", f"Un.\n\n{TEXTS('model truncated')}"),
        ("prepare", "Un. Deux."),
    ],
)
async def test_what_a_bug_leaves_unmarked_is_seen_to_by_the_next_process(
    room: RecoveryStory, monkeypatch: pytest.MonkeyPatch, broken: str, then: str
) -> None:
    gate, bugs = asyncio.Event(), count_bugs()
    room.model.script = (TextDelta("Un. "), gate, TextDelta("Deux."), END)
    room.matrix.hear(message())

    async def fail(*_: object) -> NoReturn:
        raise KeyError("a bug that stays")

    async with room.run():
        await room.until(lambda: bool(room.replies))
        with monkeypatch.context() as patching, capture_logs() as logs:
            patching.setattr(FakeMatrix, broken, fail)
            gate.set()
            await room.until(lambda: "no apology" in [one["event"] for one in logs])
        # Nothing of it was said, and others are answered meanwhile.
        assert room.replies == ["Un."]
        assert not room.done("$prompt")
        room.says("Trois.")
        room.matrix.hear(message("Et la mer ?", event_id="$other", thread_root="$root"))
        await room.until(lambda: room.done("$other"))
    assert count_bugs() == bugs + 2

    room.says("Un. ", "Deux.")
    room.matrix.hear(missed=True)
    await room.live("$prompt")

    assert set(room.replies) == {then, "Trois."}


@pytest.mark.parametrize("port", ["opinions.answered", "finish", "health.replied", "health.spent"])
async def test_a_bug_behind_an_answer_costs_neither_the_answer_nor_the_process(
    room: RecoveryStory, monkeypatch: pytest.MonkeyPatch, port: str
) -> None:
    bugs = count_bugs()

    def fail(*_: object, **_more: object) -> NoReturn:
        raise OverflowError("Python int too large to convert to SQLite INTEGER")

    where, _, name = port.rpartition(".")
    place: object = {"opinions": room.store.opinions, "health": Health}.get(where, room.store)
    room.model.script = (TextDelta("Un."), UsageDelta(Usage(5, 7)), END)
    room.matrix.hear(message())
    with monkeypatch.context() as patching:
        patching.setattr(place, name, fail)
        async with room.run() as running:
            await room.until(lambda: count_bugs() > bugs and room.replies == ["Un."])
            room.says("Deux.")
            room.matrix.hear(message("Et la mer ?", event_id="$other"))
            await room.until(lambda: room.replies == ["Un.", "Deux."])
            assert not running.done()

    room.matrix.hear(missed=True)
    await room.live("$prompt", "$other")
    assert room.replies == ["Un.", "Deux."]


@pytest.mark.parametrize("failure", [Forbidden("400"), RuntimeError("bug")])
async def test_a_reply_that_cannot_be_read_back_stands_without_a_word(
    room: RecoveryStory, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    gate = asyncio.Event()
    room.model.script = (TextDelta("Un. "), gate, TextDelta("Deux."), END)
    room.matrix.hear(message())

    async def fail(*_: object) -> NoReturn:
        raise failure

    monkeypatch.setattr(room.matrix, "shown", fail)
    async with room.run():
        await room.until(lambda: bool(room.replies))
        gate.set()
        await room.until(lambda: room.done("$prompt"))

    assert room.replies == ["Un. Deux."]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, OPERATIONS))
async def test_a_command_in_place_of_half_a_reply_is_answered_once_wherever_a_process_ends(
    room: RecoveryStory, at: int, *, after: bool
) -> None:
    await _begin_half(room)
    room.breaking = Breaking(at, after)

    for _ in range(3):
        room.matrix.hear(edit_event("!apropos"), missed=True)
        await room.live("$prompt")
        room.matrix.transactions.clear()

    assert room.replies[0] == f"Un.\n\n{TEXTS('model truncated')}"
    assert len(room.replies) == 2


async def test_of_half_a_long_reply_the_last_message_is_marked(room: RecoveryStory) -> None:
    parts = split(LONG)
    assert len(parts) > 2
    gate = asyncio.Event()
    room.model.script = (TextDelta(LONG), gate)
    room.matrix.hear(message())
    async with room.run():
        await room.until(lambda: len(room.replies) == len(parts))
    room.model.script = (asyncio.Event(),)

    room.matrix.hear(reaction("🛑", target="$prompt"), missed=True)
    await room.live("$prompt")

    *full, last = room.replies
    assert full == [render(part).body for part in parts[:-1]]
    assert last == f"{render(parts[-1]).body}\n\n{TEXTS('stopped direct')}"


async def test_nothing_joins_a_prompt_whose_reply_could_not_be_looked_up(
    room: RecoveryStory,
) -> None:
    asked, gate = list[object](), asyncio.Event()

    async def refuse(room_id: RoomId, prompt: Sequence[EventId]) -> NoReturn:
        asked.append((room_id, prompt))
        if len(asked) > 1:  # to see whether that was said before
            await gate.wait()
        raise Forbidden("not to be listed")

    room.matrix.own_since = refuse  # type: ignore[method-assign]  # in place of a room's
    room.says("Deux.")
    async with room.run():
        room.matrix.hear(message(), missed=True)
        await room.until(lambda: len(asked) > 1)
        room.matrix.hear(message("Et la mer ?", event_id="$2"))
        await room.until(lambda: "$2" in room.store.events)
        gate.set()
        await room.until(lambda: room.done("$prompt", "$2"))

    assert room.store.joined == {}
    assert "$2" in room.store.claims


async def test_a_joined_message_that_is_read_late_is_not_answered_again(
    room: RecoveryStory,
) -> None:
    async def begin() -> None:
        await room.until(lambda: bool(room.matrix.sent))
        begun.set()

    room.breaking = Breaking(1, only="store.finish", after=False)
    room.model.script = (TextDelta("Un. "), begun := asyncio.Event(), TextDelta("Deux."), END)
    room.matrix.hear(message(), message("Et la mer ?", event_id="$2"))
    await asyncio.gather(room.live("$prompt", "$2"), begin())
    assert room.store.joined == {"$2": "$prompt"}
    room.matrix.unreadable = {EventId("$2")}
    room.matrix.hear(missed=True)

    async with room.run():
        await room.until(lambda: "$prompt" in room.store.finished)
        room.matrix.unreadable.clear()
        await room.until(lambda: room.done("$prompt", "$2"))

    assert room.replies == ["Un. Deux."]
    assert len(room.model.requests) == 1


async def test_a_reply_that_a_moderator_has_redacted_is_not_gone_on_with(
    room: RecoveryStory,
) -> None:
    room.says("Un. ", "Deux.")
    room.breaking = Breaking(1, only="store.sent", after=True)
    room.matrix.hear(message())
    await room.live("$prompt")
    room.matrix.redacted.append(EventId("$sent0"))

    room.matrix.hear(missed=True)
    await room.live("$prompt")

    assert room.replies == []
    assert [one for one in room.matrix.sent if isinstance(one[1], OutgoingEdit)] == []


async def test_what_a_moderator_has_left_of_a_reply_goes_with_a_message_that_it_answers(
    room: RecoveryStory,
) -> None:
    room.says(LONG)
    room.breaking = Breaking(1, only="store.finish", after=False)
    room.matrix.hear(message(), message("Et la mer ?", event_id="$2"))
    await room.live("$prompt", "$2")
    assert room.store.joined == {"$2": "$prompt"}
    assert len(room.replies) > 2
    room.matrix.redacted.append(EventId("$sent0"))

    room.matrix.hear(redaction("$2"), missed=True)
    await room.live("$prompt", "$2", "$redaction")

    assert room.replies == []


async def test_what_another_device_has_frozen_is_not_sent(room: RecoveryStory) -> None:
    room.says(SHORT)
    room.breaking = Breaking(1, only="store.keep_outbox", after=True)
    room.matrix.hear(message())
    await room.live("$prompt")
    assert room.store.outbox
    room.matrix.device_id = "OTHER"
    room.says("Le ciel est gris.")

    room.matrix.hear(missed=True)
    await room.live("$prompt")

    assert room.replies == ["Le ciel est gris."]
    assert len(room.model.requests) == 2


@pytest.mark.parametrize("times", [1, 3])
async def test_a_final_version_that_the_homeserver_does_not_show_is_repaired(
    room: RecoveryStory, times: int
) -> None:
    shadows = [PreparedEvent("m.room.message", {"number": -1})] * times
    shown = room.matrix.shown

    async def other(*arguments: Any) -> PreparedEvent | None:  # noqa: ANN401  # the port's
        return shadows.pop() if shadows else await shown(*arguments)

    room.matrix.shown = other  # type: ignore[assignment,method-assign]  # in place of a homeserver's fault
    begun = asyncio.Event()
    room.model.script = (TextDelta("Le ciel. "), begun, TextDelta("Il est bleu."), END)
    room.matrix.hear(message())
    async with room.run():
        await room.until(lambda: bool(room.matrix.sent))
        begun.set()
        await room.until(lambda: room.done("$prompt"))

    assert room.replies == ["Le ciel. Il est bleu."]
    finals = [
        sent for _, sent in room.matrix.sent if isinstance(sent, OutgoingEdit) and sent.reply.final
    ]
    assert len(finals) == 1 + times

import asyncio
from dataclasses import replace

import pytest

from bot.core.chat import FinishDelta, TextDelta
from bot.core.events import Event, EventId, Message, Reaction, RoomId, Upgraded, UserId
from bot.core.message_split import split
from bot.core.outgoing import Notice, OutgoingEdit, Reply
from bot.core.transcript import TranscriptMessage
from bot.errors import Forbidden, HomeserverUnreachable, ModelRefused, RateLimited
from bot.i18n.texts import speak
from tests.fakes.clock import HeldClock
from tests.fakes.story import Story
from tests.make import (
    AGENT,
    BOT,
    COLLEAGUE,
    ROOM,
    edit_event,
    message,
    reaction,
    redaction,
)

TEXTS = speak("fr")
END = FinishDelta("stop")
LONG = "".join(f"Paragraphe {number} : {'mot ' * 100}\n\n" for number in range(40))
REPLY = "$sent0"


class ChangeStory(Story):
    """A direct message in which things are said, answered and changed."""

    def says(self, *text: str) -> None:
        """Let the model answer so from now on."""
        self.model.script = (*map(TextDelta, text), END)

    def begins(self, text: str) -> None:
        """Let the model say so from now on, and then nothing more."""
        self.model.script = (TextDelta(text), asyncio.Event())

    async def ask(self, body: str = "Bonjour", event_id: str = "$prompt", *, says: str) -> None:
        """Have a prompt answered."""
        self.says(says)
        self.matrix.hear(message(body, event_id=event_id))
        await self.until(lambda: self.done(event_id))

    async def begin_to_answer(self, says: str = "Un. ") -> None:
        """Have a prompt answered in part."""
        self.begins(says)
        self.matrix.hear(message())
        await self.until(lambda: bool(self.matrix.sent) or not says)
        await self.until(lambda: bool(self.model.requests))

    async def hear(self, event: Event) -> None:
        """Let something happen, and the bot do about it what it does."""
        self.matrix.hear(event)
        await self.until(lambda: event.event_id in self.store.finished)

    async def ignore(self, event: Event) -> None:
        """Let something happen about which the bot does nothing."""
        self.matrix.hear(event, message("!apropos", event_id="$after"))
        await self.until(lambda: self.done("$after"))

    @property
    def asked(self) -> list[str]:
        return [turns[-1].text for turns in self.model.requests]

    @property
    def replies(self) -> list[str]:
        """What stands of the model's, or in place of it."""
        notices = {key for key, sent in self.matrix.sent if isinstance(sent, Notice)}
        return [text for key, text in self.matrix.standing().items() if key not in notices]

    @property
    def notices(self) -> list[str]:
        return [sent.text for _, sent in self.matrix.sent if isinstance(sent, Notice)]


@pytest.fixture
def room() -> ChangeStory:
    return ChangeStory()


# A prompt in other words.


@pytest.mark.parametrize("says", ["Un. ", ""])
async def test_an_edit_while_the_answer_is_written_has_it_begin_again_in_place(
    room: ChangeStory, says: str
) -> None:
    async with room.run():
        await room.begin_to_answer(says)
        room.says("Deux.")
        await room.hear(edit_event("Bonsoir"))
        await room.until(lambda: room.done("$prompt"))

    assert room.asked == ["Bonjour", "Bonsoir"]
    assert room.shown == ["Deux."]


async def test_an_edit_while_the_prompt_waits_is_what_is_asked(room: ChangeStory) -> None:
    room.at_once = 1
    gate = asyncio.Event()
    room.model.script = (gate, TextDelta("Bonjour."), END)
    async with room.run():
        room.matrix.hear(message("Ailleurs", event_id="$0", thread_root="$root"))
        await room.until(lambda: len(room.asked) == 1)
        room.matrix.hear(message("Bonjour"), edit_event("Bonsoir"))
        await room.until(lambda: "$edit" in room.store.events)
        gate.set()
        await room.until(lambda: room.done("$0", "$prompt", "$edit"))

    assert room.asked == ["Ailleurs", "Bonsoir"]
    assert room.shown == ["Bonjour."] * 2


async def test_an_edit_that_is_no_prompt_any_more_leaves_what_is_being_written(
    room: ChangeStory,
) -> None:
    async with room.run():
        await room.begin_to_answer()
        await room.hear(edit_event("!apropos"))

    assert room.asked == ["Bonjour"]
    assert room.shown == ["Un."]


async def test_an_edit_that_a_crash_cut_off_is_answered_before_what_came_after(
    room: ChangeStory,
) -> None:
    async with room.run():
        await room.ask("Bonjour", says="Un.")
        room.begins("")
        room.matrix.hear(edit_event("Bonsoir"))
        await room.until(lambda: len(room.asked) == 2)
    room.says("Deux.")
    room.matrix.hear(message("Et toi ?", event_id="$2"))
    async with room.run():
        await room.until(lambda: room.done("$prompt", "$edit", "$2"))

    assert room.asked == ["Bonjour", "Bonsoir", "Bonsoir", "Et toi ?"]
    assert room.shown == ["Deux."] * 2


@pytest.mark.parametrize("again", ["Deux.", LONG])
async def test_an_edit_of_the_last_prompt_has_its_answer_made_anew_in_place(
    room: ChangeStory, again: str
) -> None:
    async with room.run():
        await room.ask("Ciel ?", "$0", says="Bleu.")
        await room.ask(says="Un.")
        room.says(again)
        await room.hear(edit_event("Bonsoir"))

    assert room.asked == ["Ciel ?", "Bonjour", "Bonsoir"]
    assert room.shown[:2] == ["Bleu.", *room.replies[1:2]]
    assert len(room.shown) == 1 + len(split(again))
    assert room.notices == []


async def test_an_edit_of_the_last_prompt_is_asked_with_what_came_before_it_alone(
    room: ChangeStory,
) -> None:
    async with room.run():
        await room.ask("Ciel ?", "$0", says="Bleu.")
        await room.ask(says="Un.")
        await room.hear(edit_event("Bonsoir"))

    assert [turn.text for turn in room.model.requests[-1]] == [
        "Sobre.",
        "Ciel ?",
        "Bleu.",
        "Bonsoir",
    ]


async def test_an_edit_of_an_earlier_prompt_changes_the_next_context_alone(
    room: ChangeStory,
) -> None:
    async with room.run():
        await room.ask(says="Un.")
        await room.ask("Et toi ?", "$2", says="Deux.")
        await room.hear(edit_event("Bonsoir"))
        assert room.shown == ["Un.", "Deux."]
        await room.ask("Fin ?", "$3", says="Trois.")

    assert [turn.text for turn in room.model.requests[-1]][1] == "Bonsoir"
    assert len(room.asked) == 3


async def test_an_edit_while_a_later_prompt_is_being_answered_changes_no_answer(
    room: ChangeStory,
) -> None:
    async with room.run():
        await room.ask(says="Un.")
        gate = asyncio.Event()
        room.model.script = (TextDelta("Deux. "), gate, END)
        room.matrix.hear(message("Et toi ?", event_id="$2"))
        await room.until(lambda: len(room.shown) == 2)
        await room.hear(edit_event("Bonsoir"))
        gate.set()
        await room.until(lambda: room.done("$2"))

    assert room.asked == ["Bonjour", "Et toi ?"]


async def test_an_edit_while_a_later_prompt_only_waits_changes_no_answer(
    room: ChangeStory,
) -> None:
    async with room.run():
        await room.ask(says="Un.")
        room.begins("")
        room.matrix.hear(message("Deux", event_id="$2"))
        await room.until(lambda: len(room.model.requests) == 2)
        await room.hear(edit_event("Autrement ?"))

    assert len(room.model.requests) == 2
    assert room.replies == ["Un."]


async def test_an_edit_of_a_joined_message_has_the_whole_prompt_asked_anew(
    room: ChangeStory,
) -> None:
    room.says("Un.")
    async with room.run():
        room.matrix.hear(message("Ciel ?"), message("Mer ?", event_id="$2"))
        await room.until(lambda: room.done("$prompt", "$2"))
        room.says("Deux.")
        await room.hear(edit_event("Terre ?", target="$2"))

    assert room.asked == ["Ciel ?\n\nMer ?", "Ciel ?\n\nTerre ?"]
    assert room.shown == ["Deux."]


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize(
    ("target", "sender"),
    [("$prompt", COLLEAGUE), (REPLY, AGENT), ("$prompt", UserId("@a:evil.test"))],
)
async def test_an_edit_by_somebody_else_changes_nothing(
    room: ChangeStory,
    running: bool,  # noqa: FBT001  # a table's column
    target: str,
    sender: UserId,
) -> None:
    async with room.run():
        await (room.begin_to_answer() if running else room.ask(says="Un."))
        await room.ignore(edit_event(target=target, sender=sender))
        await room.until(lambda: room.store.finished >= room.store.events.keys() - {"$prompt"})

    assert room.asked == ["Bonjour"]
    assert room.replies == ["Un."]


@pytest.mark.parametrize("event", [edit_event(), reaction("🔄", target="$prompt")])
async def test_what_comes_as_the_final_is_on_its_way_is_heeded_after_it(
    room: ChangeStory, event: Event
) -> None:
    room.clock = held = HeldClock()
    async with room.run():
        room.model.script = (TextDelta("Un. "), gate := asyncio.Event(), TextDelta("Deux."), END)
        room.matrix.hear(message())
        await room.until(lambda: room.shown == ["Un."])
        room.matrix.failures = [RateLimited("429", 30)]
        gate.set()
        await room.until(lambda: not room.matrix.failures)
        room.says("Trois.")
        room.matrix.hear(event)
        await held.pass_time(29)
        assert room.shown == ["Un."]
        await held.pass_time(1)
        await room.until(lambda: room.done("$prompt", event.event_id))

    assert len(room.asked) == 2
    assert room.shown == ["Trois."]


async def test_what_is_to_be_made_anew_twice_at_once_is_made_anew_in_one_answer(
    room: ChangeStory,
) -> None:
    async with room.run():
        await room.ask(says="Un.")
        room.says("Deux.")
        room.matrix.hear(
            reaction("🔄", target=REPLY, event_id="$a"),
            reaction("🔄", target="$prompt", event_id="$b"),
            message("!refaire", event_id="$c"),
        )
        await room.until(lambda: room.done("$a", "$b", "$c", "$prompt"))

    assert room.shown == ["Deux."]
    assert room.store.claims[EventId("$prompt")] == 2


async def test_an_edit_of_a_prompt_that_could_not_be_answered_has_it_answered(
    room: ChangeStory,
) -> None:
    async with room.run():
        room.model.script = (ModelRefused("403"),)
        room.matrix.hear(message())
        await room.until(lambda: room.done("$prompt"))
        room.says("Deux.")
        await room.hear(edit_event("Bonsoir"))

    assert room.shown == ["Deux."]  # in place of the notice


async def test_an_edit_of_a_prompt_of_last_week_has_its_answer_made_anew(
    room: ChangeStory,
) -> None:
    async with room.run():
        await room.ask(says="Un.")
    room.policy = replace(room.policy, age_limit=3600.0)
    room.clock.time += 7 * 86_400

    async with room.run():
        room.says("Deux.")
        await room.hear(edit_event("Bonsoir"))

    assert room.shown == ["Deux."]


@pytest.mark.parametrize("begun", [True, False])
async def test_an_edit_is_heeded_once_after_a_crash(
    room: ChangeStory,
    begun: bool,  # noqa: FBT001  # a table's column
) -> None:
    async with room.run():
        await (room.begin_to_answer() if begun else room.ask(says="Un."))
        room.begins("Deux. ")
        room.matrix.hear(edit_event("Bonsoir"))
        await room.until(lambda: len(room.asked) == 2)
    room.says("Trois.")

    async with room.run():
        room.matrix.hear()
        await room.until(lambda: room.done("$prompt", "$edit"))

    assert set(room.asked[1:]) == {"Bonsoir"}
    assert room.shown == ["Trois."]


# A prompt, a reply or a thread's root is redacted.


async def test_a_prompt_redacted_while_its_answer_is_written_takes_it_along(
    room: ChangeStory,
) -> None:
    async with room.run():
        await room.ask("Ciel ?", "$0", says="Bleu.")
        gate = asyncio.Event()
        room.model.script = (TextDelta("Un. "), gate, TextDelta("Deux. "), asyncio.Event())
        room.matrix.hear(message())
        await room.until(lambda: len(room.shown) == 2)
        room.clock.time += 2
        gate.set()
        await room.until(lambda: room.shown[1] == "Un. Deux.")
        await room.hear(redaction())
        await room.until(lambda: room.done("$prompt"))

    (reply, _), (edit, _) = room.matrix.sent[1:]
    assert room.matrix.redacted == [edit, reply]  # of a redacted event, no edits are listed
    assert room.shown == ["Bleu."]


@pytest.mark.parametrize("text", ["Un.", LONG])
async def test_a_prompt_redacted_after_its_answer_takes_every_part_along(
    room: ChangeStory, text: str
) -> None:
    async with room.run():
        await room.ask(says=text)
        await room.hear(redaction())
        await room.ask("Encore ?", "$2", says="Oui.")

    assert room.shown == ["Oui."]
    assert [turn.text for turn in room.model.requests[-1]] == ["Sobre.", "Encore ?"]


async def test_a_prompt_redacted_before_anything_is_visible_gets_nothing(
    room: ChangeStory,
) -> None:
    async with room.run():
        await room.begin_to_answer("")
        await room.hear(redaction())
        await room.until(lambda: room.done("$prompt"))

    assert room.matrix.sent == []
    assert room.matrix.redacted == []


async def test_a_prompt_that_comes_with_its_redaction_gets_nothing(room: ChangeStory) -> None:
    async with room.run():
        room.matrix.hear(message(), redaction())
        await room.until(lambda: room.done("$prompt", "$redaction"))

    assert room.matrix.sent == []


async def test_a_prompt_redacted_while_its_first_message_is_refused_gets_none(
    room: ChangeStory,
) -> None:
    room.clock = held = HeldClock()
    room.matrix.failures = [RateLimited("429", 30)]
    async with room.run():
        room.begins("Un. ")
        room.matrix.hear(message())
        await room.until(lambda: not room.matrix.failures)
        room.matrix.hear(redaction())
        await held.pass_time(60)
        await room.until(lambda: room.done("$prompt", "$redaction"))

    assert room.matrix.sent == []


@pytest.mark.parametrize(("gone", "kept"), [("$prompt", "$2"), ("$2", "$prompt")])
async def test_of_a_prompt_in_two_messages_the_other_is_answered_when_one_is_redacted_in_time(
    room: ChangeStory, gone: str, kept: str
) -> None:
    async with room.run():
        room.begins("Bientôt")
        room.matrix.hear(message())
        await room.until(lambda: len(room.asked) == 1)
        room.matrix.hear(message("Et toi ?", event_id="$2"))
        await room.until(lambda: len(room.asked) == 2)
        room.says("Deux.")
        await room.hear(redaction(gone))
        await room.until(lambda: room.done("$prompt", "$2"))

    [(_, sent)] = room.matrix.sent
    assert isinstance(sent, Reply)
    assert sent.prompt.event_ids == (kept,)
    assert room.asked[-1] in {"Bonjour", "Et toi ?"}
    assert room.shown == ["Deux."]


@pytest.mark.parametrize("gone", ["$prompt", "$2"])
async def test_of_a_prompt_in_two_messages_either_takes_the_visible_answer_along(
    room: ChangeStory, gone: str
) -> None:
    async with room.run():
        room.begins("Un. ")
        room.matrix.hear(message(), message("Et toi ?", event_id="$2"))
        await room.until(lambda: bool(room.shown))
        await room.hear(redaction(gone))
        await room.until(lambda: room.done("$prompt", "$2"))

    assert room.shown == []


async def test_an_outage_only_delays_the_redaction_of_an_answer(room: ChangeStory) -> None:
    async with room.run():
        await room.ask(says="Un.")
        room.matrix.failures = [HomeserverUnreachable("502"), RateLimited("429", 5)]
        await room.hear(redaction())

    assert room.matrix.redacted == [REPLY]


@pytest.mark.parametrize("running", [True, False])
async def test_nothing_more_is_written_to_an_answer_that_was_redacted(
    room: ChangeStory,
    running: bool,  # noqa: FBT001  # a table's column
) -> None:
    async with room.run():
        await (room.begin_to_answer() if running else room.ask(says="Un."))
        await room.hear(redaction(REPLY, sender=UserId("@moderator:elsewhere.test")))
        await room.until(lambda: room.done("$prompt"))
    async with room.run():
        await room.ignore(edit_event("Bonsoir"))
        await room.until(lambda: room.done("$edit"))
        room.matrix.hear(message("!refaire", event_id="$redo"))
        await room.until(lambda: room.done("$redo"))

    assert room.asked == ["Bonjour"]
    assert room.replies == []
    assert not any(isinstance(sent, OutgoingEdit) for _, sent in room.matrix.sent)


async def test_what_stands_in_a_thread_whose_root_is_redacted_is_no_whole_answer(
    room: ChangeStory,
) -> None:
    async with room.run():
        room.begins("Un. ")
        room.matrix.hear(message(thread_root="$root"))
        await room.until(lambda: bool(room.shown))
        await room.hear(redaction("$root", sender=COLLEAGUE))
        await room.until(lambda: room.done("$prompt"))

    assert room.shown == [f"Un.\n\n{TEXTS('thread gone')}"]


async def test_a_thread_whose_root_is_redacted_gets_no_new_answer(room: ChangeStory) -> None:
    room.begins("")
    async with room.run():
        room.matrix.hear(message(thread_root="$root"))
        await room.until(lambda: bool(room.asked))
        await room.hear(redaction("$root", sender=COLLEAGUE))
        await room.until(lambda: room.done("$prompt"))

    assert room.matrix.sent == []


async def test_a_prompt_that_opens_a_thread_takes_its_own_answer_along_alone(
    room: ChangeStory,
) -> None:
    room.matrix.direct = False
    async with room.run():
        room.says("Un.")
        room.matrix.hear(replace(message(), mentions=frozenset({BOT})))
        await room.until(lambda: room.done("$prompt"))
        room.begins("Deux. ")
        room.matrix.hear(message("Et toi ?", event_id="$2", thread_root="$prompt"))
        await room.until(lambda: len(room.shown) == 2)
        await room.hear(redaction())
        await room.until(lambda: room.done("$2"))

    assert room.matrix.redacted == [REPLY]
    assert room.shown == [f"Deux.\n\n{TEXTS('thread gone')}"]


@pytest.mark.parametrize("noticed", [True, False])
async def test_a_redaction_is_heeded_once_after_a_crash(
    room: ChangeStory,
    noticed: bool,  # noqa: FBT001  # a table's column
) -> None:
    room.clock = HeldClock()
    async with room.run():
        await room.begin_to_answer()
        room.matrix.failures = [RateLimited("429", 5)]  # of the first thing to be redacted
        if noticed:
            room.matrix.hear(redaction())
            await room.until(lambda: not room.matrix.failures)
    room.matrix.failures = []
    if noticed:
        assert room.done("$prompt")
        assert not room.done("$redaction")

    async with room.run():
        room.matrix.hear(*([] if noticed else [redaction()]))
        await room.until(lambda: room.done("$prompt", "$redaction"))

    assert room.matrix.redacted == [REPLY]
    assert room.asked == ["Bonjour"]


async def test_a_message_of_two_that_was_redacted_during_a_crash_takes_the_answer_along(
    room: ChangeStory,
) -> None:
    async with room.run():
        room.begins("Un. ")
        room.matrix.hear(message(), message("Et toi ?", event_id="$2"))
        await room.until(lambda: bool(room.shown))
    room.begins("Deux. ")

    async with room.run():
        room.matrix.hear(redaction("$2"))
        await room.until(lambda: room.done("$prompt", "$2", "$redaction"))

    assert room.shown == []


async def test_a_reply_redacted_as_the_bot_died_is_not_gone_on_with(room: ChangeStory) -> None:
    async with room.run():
        await room.begin_to_answer()
    room.says("Deux.")

    async with room.run():
        room.matrix.hear(redaction(REPLY, sender=COLLEAGUE))
        await room.until(lambda: room.done("$prompt", "$redaction"))

    assert len(room.matrix.sent) == 1


# The asker stops the answer.


@pytest.mark.parametrize("key", ["🛑", "⏹"])
@pytest.mark.parametrize("target", ["$prompt", REPLY])
async def test_the_asker_stops_the_answer_by_a_reaction(
    room: ChangeStory, key: str, target: str
) -> None:
    async with room.run():
        await room.begin_to_answer()
        await room.hear(reaction(key, target=target))
        await room.until(lambda: room.done("$prompt"))

    assert room.shown == [f"Un.\n\n{TEXTS('stopped direct')}"]


async def test_the_asker_stops_the_answer_by_a_command(room: ChangeStory) -> None:
    async with room.run():
        await room.begin_to_answer()
        await room.hear(message("!stop", event_id="$stop"))
        await room.until(lambda: room.done("$prompt"))

    assert room.shown == [f"Un.\n\n{TEXTS('stopped direct')}"]


@pytest.mark.parametrize(
    ("event", "notices"),
    [
        (reaction(target=REPLY, sender=COLLEAGUE), []),
        (reaction("👍", target=REPLY), []),
        (message("!stop", event_id="$reaction", sender=COLLEAGUE), [TEXTS("not yours to stop")]),
    ],
)
async def test_nobody_else_stops_it_and_nothing_else_does(
    room: ChangeStory, event: Event, notices: list[str]
) -> None:
    async with room.run():
        gate = asyncio.Event()
        room.model.script = (TextDelta("Un. "), gate, TextDelta("Deux."), END)
        room.matrix.hear(message())
        await room.until(lambda: bool(room.shown))
        await room.ignore(event)
        gate.set()
        await room.until(lambda: room.done("$prompt"))

    assert room.replies == ["Un. Deux."]
    assert room.notices[: len(notices)] == notices


async def test_there_is_nothing_to_stop_once_the_answer_is_whole(room: ChangeStory) -> None:
    async with room.run():
        await room.ask(says="Un.")
        await room.hear(reaction(target=REPLY))
        await room.hear(message("!stop", event_id="$stop"))

    assert room.shown == ["Un.", TEXTS("nothing to stop")]


async def test_a_command_in_the_main_timeline_stops_the_person_s_answer_in_a_thread(
    room: ChangeStory,
) -> None:
    async with room.run():
        room.begins("Un. ")
        room.matrix.hear(message(thread_root="$root"))
        await room.until(lambda: bool(room.shown))
        await room.hear(message("!stop", event_id="$stop"))

    assert room.shown == [f"Un.\n\n{TEXTS('stopped direct')}"]


async def test_a_stop_is_for_the_answer_that_is_written_not_for_what_waits_behind_it(
    room: ChangeStory,
) -> None:
    async with room.run():
        await room.begin_to_answer("Un. ")
        room.matrix.hear(message("Deux", event_id="$2"))
        await room.until(lambda: "$2" in room.matrix.attended)
        room.says("Deux.")
        await room.hear(message("!stop", event_id="$stop"))
        await room.until(lambda: room.done("$prompt", "$2"))

    assert room.replies == [f"Un.\n\n{TEXTS('stopped direct')}", "Deux."]


async def test_a_context_that_cannot_be_read_ends_a_begun_answer_in_its_place(
    room: ChangeStory,
) -> None:
    async with room.run():
        await room.begin_to_answer("Un demi. Mais")
        room.matrix.history_failure = HomeserverUnreachable("500")
        room.matrix.hear(edit_event("Autre chose ?"))
        await room.until(lambda: room.done("$prompt"))

    assert room.replies == [TEXTS("bug")]
    assert room.notices == []


@pytest.mark.parametrize(
    "event", [reaction(target=REPLY), reaction(target="$prompt"), message("!stop", event_id="$s")]
)
async def test_an_answer_that_was_stopped_stays_so_after_a_crash(
    room: ChangeStory, event: Event
) -> None:
    room.clock = HeldClock()
    async with room.run():
        await room.begin_to_answer()
        room.matrix.failures = [RateLimited("429", 30)]  # of the final
        room.matrix.hear(event)
        await room.until(lambda: not room.matrix.failures)
    room.says("Deux.")

    async with room.run():
        room.matrix.hear()
        await room.until(lambda: room.done("$prompt", event.event_id))

    stopped, *others = room.shown
    assert stopped == f"Un.\n\n{TEXTS('stopped direct')}"
    # A command is done once more: by then there is nothing left to stop.
    assert others == [TEXTS("nothing to stop")] * isinstance(event, Message)
    assert len(room.model.requests) == 1


# The asker has it answered once more.


def commands(target: str | None = None) -> list[Reaction | Message]:
    redo = message("!refaire", event_id="$redo")
    return [
        reaction("🔄", target=REPLY, event_id="$redo"),
        reaction("🔄", target="$prompt", event_id="$redo"),
        redo if target is None else replace(redo, replies_to=EventId(target)),
    ]


@pytest.mark.parametrize("event", commands())
async def test_the_asker_has_the_answer_made_anew(
    room: ChangeStory, event: Reaction | Message
) -> None:
    async with room.run():
        await room.ask(says="Un.")
        room.says("Deux.")
        await room.hear(event)

    assert room.asked == ["Bonjour"] * 2
    assert room.shown == ["Deux."]


@pytest.mark.parametrize("event", commands(REPLY))
async def test_an_earlier_answer_is_made_anew_with_what_came_before_it(
    room: ChangeStory, event: Reaction | Message
) -> None:
    async with room.run():
        await room.ask(says="Un.")
        await room.ask("Et toi ?", "$2", says="Deux.")
        room.says("Trois.")
        await room.hear(event)

    assert room.shown == ["Trois.", "Deux."]
    assert [turn.text for turn in room.model.requests[-1]] == ["Sobre.", "Bonjour"]


async def test_the_command_alone_has_the_last_answer_made_anew(room: ChangeStory) -> None:
    async with room.run():
        await room.ask(says="Un.")
        await room.ask("Et toi ?", "$2", says="Deux.")
        room.says("Trois.")
        await room.hear(message("!refaire", event_id="$redo"))

    assert room.shown == ["Un.", "Trois."]


@pytest.mark.parametrize("event", commands())
async def test_a_crash_does_not_have_another_answer_made_anew(
    room: ChangeStory, event: Reaction | Message
) -> None:
    async with room.run():
        await room.ask(says="Un.")
        room.begins("")
        room.matrix.hear(event)
        await room.until(lambda: len(room.asked) == 2)
    room.says("Deux.")
    room.matrix.hear(message("Et toi ?", event_id="$2"))
    async with room.run():
        await room.until(lambda: room.done("$prompt", "$redo", "$2"))

    assert sorted(room.asked) == [*["Bonjour"] * 3, "Et toi ?"]
    assert room.shown == ["Deux."] * 2


async def test_a_crash_does_not_have_a_later_answer_stopped(room: ChangeStory) -> None:
    async with room.run():
        await room.ask(says="Un.")
    room.says("Deux.")
    earlier, later = message("!stop", event_id="$stop"), message("Et toi ?", event_id="$2")
    room.matrix.hear(earlier, replace(later, timestamp=earlier.timestamp + 1))
    async with room.run():
        await room.until(lambda: room.done("$stop", "$2"))

    assert room.shown == ["Un.", TEXTS("nothing to stop"), "Deux."]


@pytest.mark.parametrize("event", commands())
async def test_an_answer_that_is_being_written_begins_again(
    room: ChangeStory, event: Reaction | Message
) -> None:
    async with room.run():
        await room.begin_to_answer()
        room.says("Deux.")
        await room.hear(event)
        await room.until(lambda: room.done("$prompt"))

    assert room.asked == ["Bonjour"] * 2
    assert room.shown == ["Deux."]


async def test_what_is_made_anew_is_the_whole_prompt_though_it_was_tied_since(
    room: ChangeStory,
) -> None:
    async with room.run():
        room.model.script = (TextDelta("Un. "), gate := asyncio.Event(), END)
        room.matrix.hear(message())
        await room.until(lambda: bool(room.shown))
        room.matrix.hear(message("Deux ?", event_id="$2"))
        await room.until(lambda: "$2" in room.store.claims)
        room.matrix.hear(message("Trois ?", event_id="$3"))
        room.matrix.fetch_gate.clear()
        room.matrix.hear(reaction("🔄", target="$3", event_id="$redo"))
        await room.until(lambda: room.matrix.fetched[-1:] == ["$3"])
        gate.set()
        await room.until(lambda: room.done("$prompt", "$2", "$3"))
        room.matrix.fetch_gate.set()
        await room.until(lambda: room.done("$redo"))

    assert room.asked == ["Bonjour", *["Deux ?\n\nTrois ?"] * 2]
    assert room.shown == ["Un.", "Un."]


async def test_what_cannot_be_made_anew_is_said_and_done_with(room: ChangeStory) -> None:
    async with room.run():
        await room.ask(says="Un.")
        room.says("Deux.")
        room.matrix.failures = [Forbidden("power level")]
        await room.hear(reaction("🔄", target=REPLY, event_id="$redo"))

    assert room.shown == ["Un.", TEXTS("bug")]
    assert room.done("$prompt")


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("event", commands())
async def test_nobody_else_has_it_made_anew(
    room: ChangeStory,
    event: Reaction | Message,
    running: bool,  # noqa: FBT001  # a table's column
) -> None:
    async with room.run():
        await (room.begin_to_answer() if running else room.ask(says="Un."))
        await room.hear(replace(event, sender=COLLEAGUE))

    assert room.asked == ["Bonjour"]
    assert room.shown[1:] in ([], [TEXTS("not yours to redo")])


async def test_a_prompt_that_could_not_be_answered_can_be_asked_anew(room: ChangeStory) -> None:
    async with room.run():
        await room.ask("Ciel ?", "$0", says="Bleu.")
        room.model.script = (ModelRefused("403"),)
        room.matrix.hear(message())
        await room.until(lambda: room.done("$prompt"))
        room.says("Deux.")
        await room.hear(message("!refaire", event_id="$redo"))

    assert room.asked == ["Ciel ?", "Bonjour", "Bonjour"]
    assert room.shown == ["Bleu.", "Deux."]


@pytest.mark.parametrize("event", commands())
async def test_an_answer_of_last_week_can_be_made_anew(
    room: ChangeStory, event: Reaction | Message
) -> None:
    async with room.run():
        await room.ask(says="Un.")
    room.policy = replace(room.policy, age_limit=3600.0)
    room.clock.time += 7 * 86_400

    async with room.run():
        room.says("Deux.")
        if isinstance(event, Message):
            event = replace(event, timestamp=int(room.clock.now() * 1000))
        await room.hear(event)

    assert room.shown == ["Deux."]


@pytest.mark.parametrize("event", [edit_event(), reaction("🔄", target="$prompt")])
async def test_what_is_made_anew_is_gone_on_with_after_a_crash_whatever_came_since(
    room: ChangeStory, event: Event
) -> None:
    async with room.run():
        await room.ask(says="Un.")
        room.begins("Deux. ")
        room.matrix.hear(event)
        await room.until(lambda: room.shown == ["Deux."])
    room.says("Trois.")

    async with room.run():
        room.matrix.hear(message("Et toi ?", event_id="$2"))
        await room.until(lambda: room.done("$prompt", event.event_id, "$2"))

    assert room.shown == ["Trois."] * 2


@pytest.mark.parametrize("event", [edit_event(), reaction("🔄", target="$prompt")])
async def test_what_is_redacted_while_it_is_to_be_made_anew_stays_away(
    room: ChangeStory, event: Event
) -> None:
    room.clock = held = HeldClock()
    async with room.run():
        room.model.script = (TextDelta("Un. "), gate := asyncio.Event(), TextDelta("Deux."), END)
        room.matrix.hear(message())
        await room.until(lambda: room.shown == ["Un."])
        room.matrix.failures = [RateLimited("429", 30)]
        gate.set()
        await room.until(lambda: not room.matrix.failures)
        room.matrix.hear(event)  # waits for the final
        await held.pass_time(1)
        room.matrix.hear(redaction())
        await held.pass_time(60)
        await room.until(lambda: room.done("$prompt", event.event_id, "$redaction"))

    assert room.shown == []
    assert room.asked == ["Bonjour"]


async def test_there_is_nothing_to_make_anew_before_the_first_answer(room: ChangeStory) -> None:
    async with room.run():
        await room.hear(message("!refaire", event_id="$redo"))

    assert room.shown == [TEXTS("nothing to redo")]


@pytest.mark.parametrize("event", commands())
async def test_what_is_made_anew_as_the_bot_dies_is_made_anew_once(
    room: ChangeStory, event: Reaction | Message
) -> None:
    async with room.run():
        await room.ask(says="Un.")
        room.begins("Deux. ")
        room.matrix.hear(event)
        await room.until(lambda: room.shown == ["Deux."])
    room.says("Trois.")

    async with room.run():
        room.matrix.hear()
        await room.until(lambda: room.done("$prompt", "$redo"))

    assert set(room.asked) == {"Bonjour"}
    assert room.shown == ["Trois."]
    assert room.store.replies[EventId("$prompt")] == {0: REPLY}


# The bot can no longer speak in the room.


UPGRADED = Upgraded(EventId("$tombstone"), ROOM, AGENT, RoomId("!new:tchap.test"))


@pytest.mark.parametrize("events", [[], [UPGRADED]])
async def test_a_room_that_is_closed_gets_nothing_more(
    room: ChangeStory, events: list[Event]
) -> None:
    async with room.run():
        room.model.script = (TextDelta("Un. "), gate := asyncio.Event(), TextDelta("Deux."), END)
        room.matrix.hear(message())
        await room.until(lambda: bool(room.shown))
        room.matrix.hear(*events, closed=[ROOM])
        await room.until(lambda: room.done("$prompt"))
        gate.set()
        await room.until(lambda: room.store.finished >= room.store.events.keys())

    assert room.shown == ["Un."]
    assert len(room.matrix.sent) == 1
    assert room.matrix.followed == [one.replacement for one in events if one is UPGRADED]


async def test_another_room_that_is_closed_changes_nothing(room: ChangeStory) -> None:
    async with room.run():
        room.model.script = (TextDelta("Un. "), gate := asyncio.Event(), TextDelta("Deux."), END)
        room.matrix.hear(message())
        await room.until(lambda: bool(room.shown))
        room.matrix.hear(closed=[RoomId("!other:tchap.test")])
        await room.until(room.matrix.batch_queue.empty)
        gate.set()
        await room.until(lambda: room.done("$prompt"))

    assert room.shown == ["Un. Deux."]


async def test_what_is_asked_as_the_room_closes_gets_nothing(room: ChangeStory) -> None:
    async with room.run():
        room.matrix.hear(message(), UPGRADED, closed=[ROOM])
        await room.until(lambda: bool(room.matrix.followed) and room.done("$tombstone"))

    assert room.matrix.sent == []


async def test_a_room_that_closed_as_the_bot_died_gets_nothing_more(room: ChangeStory) -> None:
    async with room.run():
        await room.begin_to_answer()
    room.says("Deux.")

    async with room.run():
        room.matrix.hear(closed=[ROOM])
        await room.until(lambda: room.done("$prompt"))

    assert len(room.matrix.sent) == 1


async def test_of_two_messages_the_other_is_answered_where_nothing_was_sent_after_all(
    room: ChangeStory,
) -> None:
    """One is redacted as the first message of the reply is refused, and tried again."""
    room.clock = held = HeldClock()
    async with room.run():
        room.begins("Un. ")
        room.matrix.failures = [RateLimited("429", 5.0)]
        room.matrix.hear(message(), message("Et ?", event_id="$2"))
        await room.until(lambda: bool(room.asked) and not room.matrix.failures)
        room.says("Deux.")
        room.matrix.hear(redaction(target="$2"))
        await held.pass_time(10)
        await room.until(lambda: room.done("$redaction"))

    assert room.shown == ["Deux."]
    assert room.asked == ["Bonjour\n\nEt ?", "Bonjour"]


async def test_a_redaction_that_a_crash_interrupts_takes_an_unknown_reply_along(
    room: ChangeStory,
) -> None:
    async with room.run():
        await room.begin_to_answer()
        room.store.replies.clear()
    room.store.finished.add(EventId("$prompt"))

    async with room.run():
        room.matrix.hear(redaction(), missed=True)
        await room.until(lambda: room.done("$redaction"))

    assert room.shown == []


async def test_a_part_that_the_ledger_does_not_know_goes_with_the_prompt(
    room: ChangeStory,
) -> None:
    """The process ended between the sending and the noting of it."""
    async with room.run():
        room.begins(LONG)
        room.matrix.hear(message())
        await room.until(lambda: len(room.replies) > 1)
    del room.store.replies[EventId("$prompt")][1]

    async with room.run():
        room.matrix.hear(redaction())
        await room.until(lambda: room.done("$prompt", "$redaction"))

    assert room.replies == []


async def test_a_message_that_an_answer_does_not_tell_of_leaves_it_alone(
    room: ChangeStory,
) -> None:
    """What was redacted in time is no part of the answer that a crash interrupts."""
    async with room.run():
        room.model.script = (asyncio.Event(),)
        room.matrix.hear(message(), message("Et ?", event_id="$2"))
        await room.until(lambda: bool(room.asked))
        room.begins("Un. ")
        room.matrix.hear(redaction(target="$2"))
        await room.until(lambda: room.shown == ["Un."])
    room.says("Deux.")
    room.store.finished.discard(EventId("$redaction"))

    async with room.run():
        room.matrix.hear()
        await room.until(lambda: room.done("$prompt", "$2", "$redaction"))

    assert room.shown == ["Deux."]


async def test_a_notice_that_is_refused_as_the_room_closes_is_not_tried_again(
    room: ChangeStory,
) -> None:
    room.clock = held = HeldClock()
    async with room.run():
        room.matrix.failures = [RateLimited("429", 5.0)]
        room.matrix.hear(message(msgtype="m.image"))
        await room.until(lambda: not room.matrix.failures)
        room.matrix.hear(closed=[ROOM])
        await room.until(room.matrix.batch_queue.empty)
        await held.pass_time(10)
        await room.until(lambda: room.done("$prompt"))

    assert room.matrix.sent == []


async def test_what_is_asked_in_a_closed_room_is_not_thought_about(room: ChangeStory) -> None:
    async with room.run():
        await room.ask(says="Un.")
        room.matrix.hear(closed=[ROOM])
        room.matrix.hear(
            message(event_id="$2"),
            message(event_id="$3", msgtype="m.image"),
            message("!aide", event_id="$4"),
            edit_event("Bonsoir"),
            reaction("🔄", target=REPLY, event_id="$redo"),
            UPGRADED,
        )
        await room.until(lambda: room.done("$tombstone"))

    assert room.shown == ["Un."]
    assert len(room.model.requests) == 1


@pytest.mark.parametrize(
    "event", [reaction("🔄", target=REPLY, event_id="$redo"), edit_event("Et ?")]
)
async def test_a_change_of_mind_that_the_closing_overtakes_changes_nothing(
    room: ChangeStory, event: Event
) -> None:
    async with room.run():
        await room.ask(says="Un.")
        room.matrix.fetch_gate.clear()
        room.matrix.hear(event)
        await room.until(lambda: room.matrix.fetched[-1:] == [REPLY])
        room.matrix.hear(closed=[ROOM])
        await room.until(room.matrix.batch_queue.empty)
        room.matrix.fetch_gate.set()
        await room.until(lambda: room.done("$prompt", event.event_id))

    assert room.shown == ["Un."]
    assert len(room.model.requests) == 1


async def test_what_was_said_long_ago_is_no_part_of_what_is_asked_anew(room: ChangeStory) -> None:
    room.matrix.said = [
        TranscriptMessage(event_id=EventId("$0"), sender=AGENT, body="Jadis", timestamp=0)
    ]
    async with room.run():
        await room.ask(says="Un.")
        await room.hear(reaction("🔄", target=REPLY, event_id="$redo"))

    assert [[turn.text for turn in turns] for turns in room.model.requests] == [
        ["Sobre.", "Bonjour"]
    ] * 2

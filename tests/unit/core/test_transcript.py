from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core import transcript
from bot.core.events import (
    Conversation,
    Edit,
    EventId,
    Message,
    Redaction,
    Undecryptable,
    UserId,
)
from bot.core.polls import POLL, QUESTION
from bot.core.transcript import Transcript, TranscriptMessage
from tests.make import AGENT, BOT, COLLEAGUE, ROOM, edit_event, message, redaction, undecryptable

MAIN = Conversation(ROOM, None)
THREAD = Conversation(ROOM, EventId("$root"))
ReadableEvent = Message | Undecryptable | Edit | Redaction


def reply(*answers: str, event_id: str = "$reply", body: str = "Oui.") -> Message:
    """Return a reply of the bot."""
    mine = message(body, event_id=event_id, sender=BOT)
    return replace(mine, answers=tuple(map(EventId, answers)))


def own_edit(body: str, event_id: str, *answers: str, timestamp: int = 0) -> Edit:
    """Return an edit of the bot's reply, timed by whichever clock."""
    edit = edit_event(body, event_id=event_id, target="$reply", sender=BOT, timestamp=timestamp)
    return replace(edit, answers=tuple(map(EventId, answers)))


def cold(*events: ReadableEvent, conversation: Conversation = MAIN) -> Transcript:
    """Return the conversation as it is read from the homeserver."""
    read = Transcript(conversation=conversation, me=BOT)
    read.put_before([event for event in events if not isinstance(event, Redaction)])
    return read


def warm(*events: ReadableEvent, conversation: Conversation = MAIN) -> Transcript:
    """Return the conversation as it is heard from its first message on."""
    heard = cold(conversation=conversation)
    for event in events:
        heard.add(event)
    return heard


def bodies(one: Transcript) -> list[str]:
    return [each.body for each in one.messages()]


def test_a_message_is_kept_with_what_can_be_seen_of_it() -> None:
    asked = replace(message("So\u200bbre\r\n?"), replies_to=EventId("$earlier"))

    assert warm(asked).messages() == [
        TranscriptMessage(
            event_id=asked.event_id,
            sender=AGENT,
            body="Sobre\n?",
            timestamp=asked.timestamp,
            replies_to=EventId("$earlier"),
        )
    ]


@pytest.mark.parametrize("kind", [POLL, QUESTION])
@pytest.mark.parametrize("read", [cold, warm])
def test_answers_in_a_poll_are_none_of_the_conversation(
    read: Callable[..., Transcript], kind: str
) -> None:
    asks = message("Pourquoi ?", event_id="$asks", sender=BOT, msgtype=kind)
    forged = message("Pourquoi ?", event_id="$forged", sender=COLLEAGUE, msgtype=kind)
    answers = replace(message("Parce que.", event_id="$1"), replies_to=asks.event_id)
    answers_other = replace(message("Ah.", event_id="$2"), replies_to=forged.event_id)

    found = read(message("Bonjour"), asks, answers, forged, answers_other, edit_event(target="$1"))

    assert bodies(found) == ["Bonjour", "Ah."]


def test_a_poll_whose_key_comes_late_is_unreadable_no_more() -> None:
    sealed = undecryptable(event_id="$poll")
    read = warm(message("Bonjour"), sealed)

    read.reveal(message("Prêt ?", event_id="$poll", sender=COLLEAGUE, msgtype=POLL))

    assert bodies(read) == ["Bonjour"]


def test_only_the_bots_own_messages_are_replies() -> None:
    forged = replace(message(event_id="$forged"), answers=(EventId("$prompt"),))

    first, second, mine = warm(message(), forged, reply("$forged")).messages()

    assert (first.mine, second.mine, mine.mine) == (False, False, True)
    assert (second.answers, mine.answers) == ((), ("$forged",))


def failure(*about: str, event_id: str = "$notice", sender: UserId = BOT) -> Message:
    """Return a notice that stands in place of an answer."""
    notice = message("Erreur.", event_id=event_id, sender=sender, msgtype="m.notice")
    return replace(notice, about=tuple(map(EventId, about)), unanswered=True)


LATE = reply("$prompt", event_id="$late")
EMPTY = reply("$prompt", body=" ")
FILLED = own_edit("Oui.", "$edit", "$prompt")
TOLD = replace(failure("$prompt"), unanswered=False)


@pytest.mark.parametrize(
    ("heard", "unanswered"),
    [
        ([failure("$prompt")], True),
        ([failure("$prompt"), failure("$prompt", event_id="$again")], True),
        ([failure("$prompt"), LATE], False),  # `!refaire`
        ([reply("$prompt"), failure("$prompt")], False),  # what stood stays
        ([EMPTY], True),  # only lines of the bot's own, "in the queue" and what failed
        ([EMPTY, FILLED], False),
        ([failure("$prompt", sender=AGENT)], False),  # forged
        ([TOLD], False),
        ([failure("$other")], False),
        ([failure("$prompt"), redaction("$notice")], False),
        ([], False),
    ],
)
def test_a_prompt_that_got_a_notice_in_place_of_an_answer_is_known_in_the_history(
    heard: list[ReadableEvent], *, unanswered: bool
) -> None:
    redacted = [one for one in heard if isinstance(one, Redaction)]
    for read in (warm, cold)[: 1 if redacted else 2]:
        asked, *_ = read(message(), *heard).messages()

        assert asked.unanswered is unanswered


@pytest.mark.parametrize("read", [cold, warm])
def test_an_answer_that_takes_the_place_of_a_notice_in_the_history_is_an_answer(
    read: Callable[..., Transcript],
) -> None:
    """By `!refaire`: both have the transaction id of the reply's first message."""
    answered = replace(
        own_edit("Oui.", "$edit", "$prompt", timestamp=1), target=EventId("$notice")
    )

    asked, answer, later = read(
        message(), failure("$prompt"), answered, message("Et ?", event_id="$later")
    ).messages()

    assert (asked.unanswered, answer.failed, answer.body) == (False, False, "Oui.")
    assert answer.answers == ("$prompt",)
    assert later.event_id == "$later"


def test_a_notice_in_place_of_an_answer_leads_back_to_the_prompt() -> None:
    read = warm(message(), failure("$prompt"))

    notice = read.get(EventId("$notice"))

    assert notice is not None
    assert (notice.failed, notice.body, notice.before) == (True, "", ("$prompt",))


def test_what_failed_is_known_of_all_messages_of_a_prompt_however_it_is_read() -> None:
    events = [message(event_id="$1"), message(event_id="$2"), message(event_id="$3")]

    found = [read(*events, failure("$1", "$2")).messages() for read in (warm, cold)]

    asked = [[one for one in said if not one.mine] for said in found]
    assert [[one.unanswered for one in said] for said in asked] == [[True, True, False]] * 2


@pytest.mark.parametrize("fill", [cold, warm])
def test_what_is_no_text_or_of_another_conversation_is_left_out(
    fill: Callable[..., Transcript],
) -> None:
    events = [
        message("notice", event_id="$n", msgtype="m.notice"),
        message("picture", event_id="$p", msgtype="m.image"),
        message("root", event_id="$root"),
        message("in thread", event_id="$t", thread_root="$root"),
        undecryptable("$u", thread_root="$root"),
        message("other thread", event_id="$o", thread_root="$other"),
        message("waves", event_id="$e", msgtype="m.emote"),
    ]

    assert bodies(fill(*events, conversation=MAIN)) == ["root", "waves"]
    assert bodies(fill(*events, conversation=THREAD)) == ["root", "in thread", ""]


@pytest.mark.parametrize("fill", [cold, warm])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_the_newest_edit_by_the_author_wins_in_whatever_order_it_comes(
    fill: Callable[..., Transcript], order: Sequence[int]
) -> None:
    edits = [
        edit_event("second", event_id="$e1", timestamp=10),
        edit_event("third", event_id="$e2", timestamp=20),
        edit_event("forged", event_id="$e3", timestamp=30, sender=COLLEAGUE),
    ]

    assert bodies(fill(message("first"), *(edits[place] for place in order))) == ["third"]


def test_edits_of_one_moment_are_ordered_by_their_ids() -> None:
    edits = [edit_event(one, event_id=one, timestamp=1) for one in ("$b", "$a")]

    assert bodies(warm(message(), *edits)) == ["$b"]


def test_a_redacted_message_is_gone_with_its_edits_and_does_not_come_back() -> None:
    one = warm(message(), edit_event(), redaction(), message(), edit_event("x", event_id="$late"))

    assert one.messages() == []
    assert one.size == 0


def test_a_redacted_message_does_not_come_back_under_another_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transcript, "_LONGEST", 4)
    sent = replace(message(), fingerprint="same")
    again = replace(sent, event_id=EventId("$again"))
    one = warm(sent, redaction(), again, sent, undecryptable())
    assert one.messages() == []

    for number in range(9):  # the oldest leave meanwhile
        one.add(message(f"{number}", event_id=f"${number}"))
    one.add(again)

    assert bodies(one)[-1] == "8"
    assert "$again" not in {each.event_id for each in one.messages()}


def test_a_message_of_the_bot_takes_the_homeservers_time_and_keeps_its_place() -> None:
    sent = replace(reply("$prompt"), timestamp=9_000)
    one = warm(message(), sent, message("next", event_id="$next"))

    one.add(replace(sent, timestamp=5, body="once more"))
    one.add(replace(sent, timestamp=7, event_id=EventId("$copy"), fingerprint="f"))

    found = one.get(sent.event_id)
    assert found is not None
    assert (found.body, found.timestamp) == ("Oui.", 5)
    assert bodies(one)[:2] == ["Bonjour", "Oui."]


def test_a_copy_under_another_id_does_not_change_when_a_message_was_sent() -> None:
    sent = replace(message(), fingerprint="same", timestamp=5)
    one = warm(sent, replace(sent, event_id=EventId("$again"), timestamp=9))

    assert [each.timestamp for each in one.messages()] == [5]


def test_what_was_redacted_before_it_was_read_does_not_enter() -> None:
    one = Transcript(conversation=MAIN, me=BOT)
    one.add(redaction())
    one.put_before([message(), edit_event(), message("stays", event_id="$stays")])

    assert bodies(one) == ["stays"]


def test_a_redacted_edit_leaves_the_version_before_it() -> None:
    edits = [edit_event(one, event_id=f"${one}", timestamp=at) for at, one in enumerate("ab")]
    one = warm(message("first"), *edits)

    one.add(redaction("$b"))
    assert bodies(one) == ["a"]
    one.add(edits[1])
    one.add(redaction("$a"))
    assert bodies(one) == ["first"]


def test_a_late_key_puts_the_message_where_it_was_missing() -> None:
    one = warm(undecryptable(), message("later", event_id="$later"))
    assert [each.readable for each in one.messages()] == [False, True]

    one.reveal(message("late"))

    assert bodies(one) == ["late", "later"]
    assert all(each.readable for each in one.messages())


def test_a_late_key_that_shows_a_picture_leaves_nothing_unreadable() -> None:
    one = warm(undecryptable(), message("later", event_id="$later"))

    one.reveal(message("photo.png", msgtype="m.image"))

    assert bodies(one) == ["later"]


def test_what_is_revealed_but_not_here_stays_out() -> None:
    one = warm(message("later", event_id="$later"))

    one.reveal(message("earlier"))

    assert bodies(one) == ["later"]


def test_a_message_that_was_readable_stays_so() -> None:
    one = warm(message("read"), undecryptable(), message("other words, same id"))

    assert bodies(one) == ["read"]


def test_a_message_heard_with_its_key_is_not_lost_to_an_older_reading_without_it() -> None:
    one = Transcript(conversation=MAIN, me=BOT)
    one.add(message("heard"))
    one.put_before([undecryptable()])

    assert bodies(one) == ["heard"]


def test_a_reply_stands_right_behind_the_last_message_that_it_answers() -> None:
    one = warm(
        message("one", event_id="$1"),
        message("two", event_id="$2"),
        message("three", event_id="$3"),
        reply("$1", "$2", event_id="$a", body="to one and two"),
        reply("$1", "$2", event_id="$b", body="(2)"),
        reply("$3", event_id="$c", body="to three"),
        reply("$unknown", event_id="$d", body="to what was cut away"),
    )

    assert bodies(one) == [
        *("one", "two", "to one and two", "(2)"),
        *("three", "to three", "to what was cut away"),
    ]


def test_an_edit_of_a_reply_tells_what_it_answers_now() -> None:
    one = warm(
        message("one", event_id="$1"),
        reply("$1"),
        message("two", event_id="$2"),
        own_edit("to both", "$e1", "$1", "$2"),
    )

    assert bodies(one) == ["one", "two", "to both"]


def test_what_is_left_of_a_joined_prompt_keeps_its_reply() -> None:
    both = [message("one", event_id="$1"), message("two", event_id="$2"), reply("$1", "$2")]
    one = warm(*both)

    one.add(redaction("$2"))
    assert bodies(one) == ["one", "Oui."]
    one.add(redaction("$1"))
    assert bodies(one) == []


@pytest.mark.parametrize("clock", [-60_000, 0, 60_000])
def test_of_the_bots_own_edits_the_last_one_sent_counts_however_often_they_are_heard(
    clock: int,
) -> None:
    sent = [own_edit(f"{n}", f"$e{n}", timestamp=n + clock) for n in range(3)]
    echoes = [replace(one, timestamp=n) for n, one in enumerate(sent)]
    one = warm(message(), reply("$prompt"))

    for heard in (*sent, *echoes):
        one.add(heard)
        assert bodies(one)[1] == heard.body or heard in echoes
    assert bodies(one)[1] == "2"


def test_a_bundled_edit_of_the_bot_counts_though_it_is_read_before_older_ones() -> None:
    edits = [own_edit(f"{n}", f"$e{n}", timestamp=n) for n in range(3)]

    assert bodies(cold(message(), reply("$prompt"), edits[2], *edits))[1] == "2"


@pytest.mark.parametrize("clock", [-60_000, 0, 60_000])
def test_of_an_own_edit_that_is_read_and_one_that_is_heard_the_newer_counts(clock: int) -> None:
    """Whichever was heard with the host's clock, once the homeserver's is heard."""
    edits = [own_edit(f"{n}", f"$e{n}", timestamp=1_000 + n) for n in range(2)]
    for heard, found in (edits, edits[::-1]):
        one = Transcript(conversation=MAIN, me=BOT)
        sent = replace(heard, timestamp=heard.timestamp + clock)
        one.add(sent)
        one.put_before([message(), reply("$prompt"), found])
        if clock == 0:
            assert bodies(one)[1] == "1"

        one.add(heard)

        assert bodies(one)[1] == "1"
        one.add(own_edit("2", "$e2"))
        assert bodies(one)[1] == "2"


def test_edits_by_others_take_no_room_and_no_time() -> None:
    forged = [
        edit_event("forged", event_id=f"$f{number}", sender=COLLEAGUE) for number in range(20_000)
    ]
    heard = warm(message("x"), *forged)
    read = cold(*forged[:100], message("x"))
    both = Transcript(conversation=MAIN, me=BOT)
    for one in forged[:100]:
        both.add(one)
    assert both.size == 10 * len("forged")  # whose message it is will be read
    both.put_before([message("x")])

    assert [one.size for one in (heard, read, both)] == [1, 1, 1]


@pytest.mark.parametrize("fill", [cold, warm])
def test_of_a_persons_edits_the_newest_are_kept(fill: Callable[..., Transcript]) -> None:
    edits = [edit_event("x", event_id=f"$e{number}", timestamp=number) for number in range(50)]
    one = fill(message(), *edits[25:], *edits[:25])

    assert one.size == len("Bonjour") + 10
    one.add(redaction("$e49"))
    one.add(replace(edits[49], body="back"))
    assert bodies(one) == ["x"]


def test_what_does_not_come_back_is_remembered_only_of_what_was_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transcript, "_IDS", 3)
    one = warm(message(), reply("$prompt"))
    for number in range(9):
        one.add(redaction(f"$never{number}"))
        one.add(own_edit(f"{number}", f"$e{number}"))
    one.add(redaction("$prompt"))

    assert list(one._redacted) == ["$prompt"]
    assert list(one._outdated) == ["$e5", "$e6", "$e7"]


def test_an_edit_of_what_is_not_here_takes_no_room() -> None:
    whole = warm(message("x"), edit_event("long", target="$unknown"))
    read = Transcript(conversation=MAIN, me=BOT)
    read.add(edit_event("long", target="$unknown"))
    read.put_before([message("x"), edit_event("long", target="$other")])

    assert whole.size == read.size == 1


def test_the_size_counts_messages_and_edits() -> None:
    assert warm(message("four"), edit_event("fives")).size == len("fourfives")


def test_a_long_conversation_loses_its_oldest_quarter_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transcript, "_LONGEST", 8)
    one = warm(*(message(f"{n}", event_id=f"${n}") for n in range(8)))
    one.add(edit_event("edited", target="$0"))
    assert len(bodies(one)) == 8

    one.add(message("8", event_id="$8"))

    assert bodies(one) == list("2345678")
    assert one.size == 7


def test_one_message_is_found_in_its_last_version() -> None:
    one = warm(message(), edit_event("Bonsoir"))

    found = one.get(EventId("$prompt"))
    assert found is not None
    assert found.body == "Bonsoir"
    assert one.get(EventId("$unknown")) is None


@pytest.mark.parametrize(
    ("one", "before"),
    [
        (message(), ()),
        (replace(message(), replies_to=EventId("$q")), ("$q",)),
        (replace(reply("$1", "$2"), replies_to=EventId("$q")), ("$1", "$2")),
    ],
)
def test_a_message_follows_on_from_what_it_answers_else_from_what_it_quotes(
    one: Message, before: tuple[str, ...]
) -> None:
    assert transcript.original_version(one, BOT).before == before


PEOPLE = st.sampled_from([AGENT, COLLEAGUE, BOT])


@st.composite
def rooms(draw: st.DrawFn) -> list[ReadableEvent]:
    """Return what a room's timeline says in order, as a homeserver would have it."""
    events: list[ReadableEvent] = []
    senders: dict[EventId, UserId] = {}
    for number in range(draw(st.integers(1, 12))):
        event_id, at = f"$m{number}", number * 10
        kind = draw(st.sampled_from(["say", "say", "edit", "redact", "hide"]))
        target = draw(st.sampled_from(sorted(senders))) if senders else None
        if kind == "edit" and target:
            editor = draw(st.sampled_from([senders[target], COLLEAGUE]))
            edit = edit_event(f"e{number}", event_id=event_id, sender=editor, timestamp=at)
            events.append(replace(edit, target=target))
        elif kind == "redact" and target:
            events.append(replace(redaction(event_id=event_id), target=target))
        elif kind == "hide":
            events.append(replace(undecryptable(event_id), timestamp=at))
        else:
            sender = draw(PEOPLE)
            asked = message(f"b{number}", event_id=event_id, sender=sender)
            prompts = [key for key, one in senders.items() if one != BOT]
            answers = (draw(st.sampled_from(prompts)),) if sender == BOT and prompts else ()
            events.append(replace(asked, timestamp=at, answers=answers))
            senders[asked.event_id] = sender
    return events


def as_read(events: Sequence[ReadableEvent]) -> list[Message | Undecryptable | Edit]:
    """Return what the homeserver hands out of it afterwards: without what is redacted."""
    gone = {event.target for event in events if isinstance(event, Redaction)}
    return [
        event
        for event in events
        if not isinstance(event, Redaction)
        and event.event_id not in gone
        and not (isinstance(event, Edit) and event.target in gone)
    ]


@given(rooms(), st.data())
def test_heard_or_read_or_both_a_conversation_is_the_same(
    events: list[ReadableEvent], data: st.DataObject
) -> None:
    """Listening begins at `first`; the homeserver answers at `then`; `last` are heard after."""
    first = data.draw(st.integers(0, len(events)))
    then = data.draw(st.integers(first, len(events)))
    one = Transcript(conversation=MAIN, me=BOT)
    for event in events[first:then]:
        one.add(event)
    one.put_before(as_read(events[:then]))
    for event in events[data.draw(st.integers(0, then)) :]:  # some of it is heard once more
        one.add(event)

    whole = Transcript(conversation=MAIN, me=BOT)
    whole.put_before(as_read(events))
    gone = {event.target for event in events if isinstance(event, Redaction)}

    def stays(each: TranscriptMessage) -> bool:
        """Replies to what is gone are about to be redacted, and gone where that was heard."""
        return not (each.answers and gone.issuperset(each.answers))

    assert [*filter(stays, one.messages())] == [*filter(stays, whole.messages())]
    assert one.size == whole.size


@pytest.mark.parametrize("made", [cold, warm])
def test_what_came_in_clear_where_it_should_not_is_no_part_of_a_conversation(
    made: Callable[..., Transcript],
) -> None:
    forged = replace(message("forged", event_id="$1"), exposed=True)
    edit = replace(edit_event("forged", target="$0", event_id="$2"), exposed=True)

    assert bodies(made(message("mine", event_id="$0"), forged, edit)) == ["mine"]

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.chat import ImagePart, TextPart, Turn, text_turn
from bot.core.events import Conversation, EventId, Message, Prompt, UserId
from bot.core.prompt_context import Context, History, build_context, enough, is_last, merged
from bot.core.transcript import Transcript, TranscriptMessage
from tests.make import AGENT, BOT, COLLEAGUE, ROOM, message, prompt

HOUR = 3600
NOW = 1_700_000_000_000


def said(  # a message of a conversation, `ago` seconds before the prompt
    body: str, event_id: str = "", sender: UserId = AGENT, *, ago: float = 0, readable: bool = True
) -> TranscriptMessage:
    at = round(NOW - ago * 1000)
    return TranscriptMessage(
        event_id=EventId(event_id or f"${body}"),
        sender=sender,
        body=body,
        timestamp=at,
        readable=readable,
    )


def reply(body: str, *answers: str, event_id: str = "", ago: float = 0) -> TranscriptMessage:
    one = said(body, event_id, BOT, ago=ago)
    return replace(one, mine=True, answers=tuple(map(EventId, answers)))


ASKED = said("Et demain ?", "$prompt")
PROMPT = prompt(body="Et demain ?")


def build(
    *earlier: TranscriptMessage,
    asked: Prompt = PROMPT,
    direct: bool = True,
    history: History | None = None,
) -> Context:
    """Return the context of the prompt behind what was said earlier."""
    whole = history or History([*earlier, ASKED])
    return build_context("", whole, asked, direct=direct, idle_limit=HOUR)


def words(context: Context) -> list[str]:
    return [turn.text for turn in context.turns]


def test_the_request_is_system_prompt_then_earlier_turns_then_the_prompt() -> None:
    history = History([said("Quelle heure ?"), reply("Midi.", "$Quelle heure ?"), ASKED])

    context = build_context("Sobre.", history, PROMPT, direct=True, idle_limit=HOUR)

    assert context == Context(
        [
            text_turn("system", "Sobre."),
            text_turn("user", "Quelle heure ?"),
            text_turn("assistant", "Midi."),
            text_turn("user", "Et demain ?"),
        ]
    )


def test_the_prompt_is_asked_in_its_last_version_without_what_cannot_be_seen() -> None:
    edited = History([replace(ASKED, body="Et hier ?")])
    hidden = prompt(body="Et \U000e0041demain\u202e ?")

    assert words(build(history=edited)) == ["Et hier ?"]
    assert words(build(asked=hidden, history=History())) == ["Et demain ?"]


def test_a_prompt_whose_key_came_late_is_asked_though_the_conversation_lacks_it() -> None:
    missing = History([said("", "$prompt", readable=False)])

    assert build(history=missing) == Context([text_turn("user", "Et demain ?")])


FAILED = replace(said("Résumez ces mille pages.", "$long"), unanswered=True)


def test_a_prompt_that_got_no_answer_is_in_no_later_context() -> None:
    assert words(build(said("Heure ?"), reply("Midi.", "$Heure ?"), FAILED)) == [
        *("Heure ?", "Midi.", "Et demain ?"),
    ]


def test_a_prompt_without_an_answer_breaks_the_silence_all_the_same() -> None:
    earlier = [said("Heure ?", ago=4000), reply("Midi.", "$Heure ?", ago=4000)]
    tried = replace(said("Et demain ?", "$tried", ago=1000), unanswered=True)

    context = build(*earlier, tried)

    assert words(context) == ["Heure ?", "Midi.", "Et demain ?"]
    assert not context.silent


def test_a_silence_before_prompts_without_an_answer_alone_is_none_to_tell_of() -> None:
    old = replace(said("Vieux", ago=9000), unanswered=True)

    assert build(old) == Context([text_turn("user", "Et demain ?")])


def test_a_new_conversation_begins_though_the_command_got_no_answer() -> None:
    anew = replace(said("!nouveau"), unanswered=True)

    assert words(build(said("Secret"), anew)) == ["Et demain ?"]


def test_a_later_prompt_without_an_answer_leaves_the_one_before_the_last() -> None:
    failed = replace(reply("", "$later", event_id="$notice"), failed=True)

    assert is_last([ASKED, said("Encore", "$later"), failed], PROMPT)
    assert not is_last([ASKED, said("Encore", "$later"), reply("Oui", "$later")], PROMPT)


def test_a_prompt_that_got_no_answer_counts_where_one_replies_to_it() -> None:
    history = History([FAILED, ASKED], chain=[FAILED])

    assert words(build(history=history)) == ["Résumez ces mille pages.", "Et demain ?"]


def test_what_is_asked_once_more_is_asked_though_it_got_no_answer() -> None:
    history = History([replace(ASKED, unanswered=True)])

    assert words(build(history=history)) == ["Et demain ?"]


def test_commands_and_what_is_empty_are_no_turns() -> None:
    earlier = [
        said("!aide"),
        said(" \n"),
        reply(" ", "$x"),
        said("Heure ?"),
        said("!modele petit"),
    ]

    assert words(build(*earlier)) == ["Heure ?", "Et demain ?"]


def test_what_the_model_itself_began_with_the_sign_stays() -> None:
    assert words(build(reply("!important", "$x"))) == ["!important", "Et demain ?"]


def test_roles_that_follow_each_other_are_joined_where_the_model_wants_it() -> None:
    turns = [
        text_turn("system", "s"),
        text_turn("user", "1"),
        text_turn("user", "2"),
        text_turn("assistant", "3"),
        text_turn("user", "4"),
    ]

    assert merged(turns) == [
        text_turn("system", "s"),
        text_turn("user", "1\n\n2"),
        text_turn("assistant", "3"),
        text_turn("user", "4"),
    ]
    assert merged([]) == []


def test_joined_turns_keep_their_other_parts_where_they_stand() -> None:
    image = ImagePart("https://images.test/1")
    turns = [text_turn("user", "1"), Turn("user", (TextPart("2"), image)), text_turn("user", "3")]
    images = Turn("user", (image, image))

    assert merged(turns) == [Turn("user", (TextPart("1\n\n2"), image, TextPart("3")))]
    assert merged(turns)[0].text == "1\n\n2\n\n3"
    assert merged([images]) == [images]
    assert images.text == ""


TWO = prompt(message("Un", event_id="$1"), message("Deux", event_id="$2"))


def test_a_prompt_of_several_messages_is_one_turn() -> None:
    between = [said("Un", "$1"), said("Tiens.", "$b", COLLEAGUE), said("Deux !", "$2")]

    assert words(build(asked=TWO, history=History(between))) == ["Tiens.", "Un\n\nDeux !"]


def test_what_is_said_after_the_prompt_is_not_in_its_context() -> None:
    later = [ASKED, reply("Demain.", "$prompt"), said("later"), reply("too late", "$later")]

    assert words(build(history=History(later))) == ["Et demain ?"]


def test_regenerating_leaves_the_prompts_own_reply_out() -> None:
    both = [
        said("before"),
        reply("Avant.", "$before"),
        said("Un", "$1"),
        reply("old", "$1", "$2"),
        said("Deux", "$2"),
        reply("old (2)", "$1", "$2"),
    ]

    assert words(build(asked=TWO, history=History(both))) == ["before", "Avant.", "Un\n\nDeux"]


@pytest.mark.parametrize("command", ["!nouveau", "!new", " !NOUVEAU ", "!nouveau sujet"])
def test_what_was_said_before_a_new_conversation_does_not_count(command: str) -> None:
    earlier = [said("old"), said(command), said("new"), said("", "$u", readable=False)]
    lost = said("", "$lost", readable=False)

    assert build(lost, *earlier) == Context(
        [text_turn("user", "new"), text_turn("user", "Et demain ?")], unreadable=1
    )


def test_the_models_own_words_begin_no_new_conversation() -> None:
    assert words(build(said("old"), reply("!nouveau", "$old")))[0] == "old"


@pytest.mark.parametrize(
    ("ages", "kept", "silent"),
    [
        ((HOUR,), 1, False),
        ((HOUR + 1,), 0, True),
        ((2 * HOUR, HOUR), 2, False),
        ((3 * HOUR, HOUR - 1), 1, False),
        ((3 * HOUR, 2 * HOUR), 0, True),
        ((), 0, False),
    ],
)
def test_a_long_silence_begins_anew_and_is_told_where_nothing_is_left(
    ages: Sequence[float],
    kept: int,
    silent: bool,  # noqa: FBT001  # a table's column
) -> None:
    context = build(*(said(f"{age}", ago=age) for age in ages))

    assert (len(context.turns) - 1, context.silent) == (kept, silent)


def test_no_silence_is_told_of_a_conversation_that_had_ended_anyway() -> None:
    ended = build(said("old", ago=9 * HOUR), said("!nouveau", ago=8 * HOUR))
    command = build(said("old", ago=9 * HOUR), said("!aide", ago=60))

    assert not ended.silent
    assert command.silent


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("thread", [None, "$root"])
def test_only_the_main_timeline_of_a_direct_message_falls_silent(
    thread: str | None,
    direct: bool,  # noqa: FBT001  # a table's column
) -> None:
    asked = prompt(message("Et demain ?", thread_root=thread))

    context = build(said("old", ago=9 * HOUR), asked=asked, direct=direct)

    assert context.silent is (direct and thread is None)


def test_a_reply_to_an_older_message_brings_it_back_and_says_nothing_of_a_silence() -> None:
    old = [said("Heure ?", "$q", ago=9 * HOUR), reply("Midi.", "$q", event_id="$r", ago=9 * HOUR)]

    context = build(history=History([*old, ASKED], chain=old))

    assert words(context) == ["Heure ?", "Midi.", "Et demain ?"]
    assert not context.silent


def test_a_chain_is_not_doubled_by_what_is_there_anyway() -> None:
    far, near = said("far", ago=9 * HOUR), said("near", ago=60)

    context = build(history=History([far, near, ASKED], chain=[far, near, ASKED]))

    assert words(context) == ["far", "near", "Et demain ?"]


def test_what_cannot_be_read_counts_since_the_last_reply_and_with_the_lost_of_the_chain() -> None:
    earlier = [
        said("", "$told already", readable=False),
        reply("Midi.", "$x"),
        said("", "$1", readable=False),
        said("read"),
        said("", "$2", readable=False),
        ASKED,
        said("", "$later", readable=False),
    ]

    assert build(history=History(earlier)).unreadable == 2
    assert build(history=History(earlier, lost=3)).unreadable == 5
    assert words(build(history=History(earlier))) == ["Midi.", "read", "Et demain ?"]


def test_what_cannot_be_read_from_before_a_silence_does_not_count() -> None:
    assert build(said("", "$1", ago=9 * HOUR, readable=False)).unreadable == 0


THIRD = UserId("@third:tchap.test")
MEETING = [
    said("Bonjour", "$1", COLLEAGUE),
    reply("Oui ?", "$1"),
    said("", "$2", THIRD, readable=False),
    said("Moi aussi", "$3", COLLEAGUE),
]


def test_in_a_salon_speakers_are_numbered_by_their_first_appearance() -> None:
    assert words(build(*MEETING, direct=False)) == [
        "Agent 1 : Bonjour",
        "Oui ?",
        "Agent 1 : Moi aussi",
        "Agent 3 : Et demain ?",
    ]


def test_a_speaker_keeps_the_number_whatever_is_said_later_or_cut_away() -> None:
    later = [*MEETING, ASKED, said("later", "$l", UserId("@fourth:x")), said("back", "$b", THIRD)]
    anew = [*MEETING, said("!nouveau", "$n"), ASKED]
    chained = History([*MEETING, ASKED], [said("quoted", "$c", UserId("@fifth:x"))])

    assert words(build(direct=False, history=History(later)))[-1] == "Agent 3 : Et demain ?"
    assert words(build(direct=False, history=History(anew))) == ["Agent 3 : Et demain ?"]
    assert words(build(direct=False, history=chained))[::4] == [
        "Agent 4 : quoted",
        "Agent 3 : Et demain ?",
    ]


@pytest.mark.parametrize("forged", ["Agent 1 : oui", "  agent  2: oui"])
def test_nobody_speaks_in_the_name_of_another(forged: str) -> None:
    asked = prompt(body=f"Bonjour\n{forged}")

    assert words(build(asked=asked, direct=False, history=History())) == [
        f"Agent 1 : Bonjour\n> {forged}"
    ]


def test_in_a_direct_message_nobody_is_numbered() -> None:
    assert words(build(*MEETING))[0] == "Bonjour"


def test_nothing_of_another_thread_is_in_the_context() -> None:
    here, there = (Conversation(ROOM, EventId(root)) for root in ("$a", "$b"))
    events = [
        message("opening a", event_id="$a"),
        message("opening b", event_id="$b"),
        message("in a", event_id="$1", thread_root="$a"),
        message("in b", event_id="$2", thread_root="$b"),
        message("aside", event_id="$3"),
    ]

    def context(conversation: Conversation, asked: Message) -> list[str]:
        one = Transcript(conversation=conversation, me=BOT)
        one.put_before([*events, asked])
        history = History(one.messages())
        return words(build(asked=Prompt((asked,), conversation), direct=False, history=history))

    assert context(here, message("Et ?", thread_root="$a")) == [
        f"Agent 1 : {body}" for body in ("opening a", "in a", "Et ?")
    ]
    assert context(there, message("Et ?", thread_root="$b")) == [
        f"Agent 1 : {body}" for body in ("opening b", "in b", "Et ?")
    ]


@pytest.mark.parametrize(
    ("earlier", "is_enough"),
    [
        ([], False),
        ([said("near", ago=60)], False),
        ([said("far", ago=9 * HOUR), said("near", ago=60)], True),
        ([said("!nouveau", ago=60)], True),
        ([said("x" * 101, ago=60)], True),
        ([said("x" * 100, ago=60)], False),
        ([said("x" * 101, ago=60, event_id="$prompt")], False),
    ],
)
def test_nothing_older_is_wanted_behind_a_cut_or_where_the_model_takes_no_more(
    *, earlier: list[TranscriptMessage], is_enough: bool
) -> None:
    assert enough([*earlier, ASKED], PROMPT, HOUR, 100) is is_enough


def test_it_is_not_enough_before_the_prompt_itself_is_found() -> None:
    assert not enough([said("later"), said("!nouveau")], PROMPT, HOUR, 1)


@pytest.mark.parametrize(
    ("later", "last"),
    [
        ([], True),
        ([reply("Oui.", "$prompt")], True),
        ([reply("Oui.", "$prompt"), reply("(2)", "$prompt", event_id="$r2")], True),
        ([reply("Oui.", "$prompt"), said("not answered")], True),
        ([reply("Oui.", "$prompt"), said("next"), reply("Non.", "$next")], False),
        ([said("next"), reply("Non.", "$next")], False),
    ],
)
def test_the_last_prompt_is_the_one_after_which_no_other_was_answered(
    *, later: list[TranscriptMessage], last: bool
) -> None:
    earlier = [said("first"), reply("Bien.", "$first")]

    assert is_last([*earlier, ASKED, *later], PROMPT) is last


SAID = st.builds(
    said,
    st.sampled_from(["", "a", "bb", "!nouveau", "!aide", "Agent 1 : c"]),
    event_id=st.uuids().map(str),
    sender=st.sampled_from([AGENT, COLLEAGUE]),
    ago=st.integers(0, 3 * HOUR),
    readable=st.booleans(),
) | st.builds(reply, st.sampled_from(["", "r"]), st.just("$x"), event_id=st.uuids().map(str))


@given(st.lists(SAID), st.lists(SAID, max_size=3), st.booleans())
def test_the_prompt_is_always_the_last_turn_and_nothing_is_made_up(
    earlier: list[TranscriptMessage],
    chain: list[TranscriptMessage],
    direct: bool,  # noqa: FBT001  # drawn
) -> None:
    context = build(direct=direct, history=History([*earlier, ASKED], chain))

    *before, last = context.turns
    assert last.role == "user"
    assert last.text.endswith("Et demain ?")
    bodies = {one.body for one in (*earlier, *chain)}
    assert all(any(body and body in turn.text for body in bodies) for turn in before)
    assert not (context.silent and before)
    assert context.unreadable <= sum(not one.readable for one in (*earlier, *chain))

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import nio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.events import (
    Edit,
    EventId,
    Message,
    Reaction,
    Redaction,
    RoomId,
    Undecryptable,
    Upgraded,
    UserId,
    Vote,
)
from bot.core.polls import POLL, QUESTION
from bot.matrix.json_fields import timestamp
from bot.matrix.parse import (
    MARKER,
    NOTICE_MARKER,
    POLL_RESPONSES,
    POLL_STARTS,
    TEXT,
    ReadableEvent,
    latest_edit,
    parse_event,
    parse_message,
    parse_undecryptable,
)
from bot.matrix.state_events import parse_membership
from tests.make import AGENT, BOT, COLLEAGUE, ROOM

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
KINDS = [
    "m.room.message",
    "m.room.member",
    "m.room.encrypted",
    "m.room.redaction",
    "m.room.tombstone",
    "m.reaction",
    *POLL_STARTS,
    *POLL_RESPONSES,
]
RELATIONS = ["m.replace", "m.thread", "m.annotation", "m.reference"]
TEXTS = st.sampled_from(["m.text", TEXT])
PILL = f'<a href="https://matrix.to/#/{BOT}">Assistant IA</a>'
HTML = st.lists(
    st.sampled_from(
        [PILL, "<mx-reply>", "</mx-reply>", "<blockquote>", "</blockquote>", "<a ", ">"]
    )
    | st.text(max_size=5),
).map("".join)
CONTENT = st.fixed_dictionaries(
    {},
    optional={
        "msgtype": st.just("m.text") | JSON,
        "body": st.text() | st.sampled_from([BOT, f"{BOT}:", "> <@a:x> b\n\nc", "\ud800"]) | JSON,
        "formatted_body": HTML | JSON,
        "membership": st.just("join") | JSON,
        "redacts": st.just("$t") | JSON,
        "replacement_room": st.just("!new:x") | JSON,
        "algorithm": st.just("m.megolm.v1.aes-sha2") | JSON,
        "ciphertext": st.text() | JSON,
        "m.mentions": JSON | st.fixed_dictionaries({"user_ids": JSON | st.lists(JSON)}),
        MARKER: JSON | st.fixed_dictionaries({"added": JSON, "prompt": JSON, "joined": JSON}),
        "m.new_content": JSON | st.fixed_dictionaries({"body": JSON}),
        POLL: JSON | st.fixed_dictionaries({"question": JSON | st.dictionaries(TEXTS, JSON)}),
        "m.poll.response": JSON | st.fixed_dictionaries({"answers": JSON | st.lists(JSON)}),
        "m.selections": JSON | st.lists(st.text()),
        "m.relates_to": JSON
        | st.fixed_dictionaries(
            {"rel_type": st.sampled_from(RELATIONS) | JSON},
            optional={
                "event_id": st.just("$t") | JSON,
                "key": st.text() | JSON,
                "is_falling_back": JSON,
                "m.in_reply_to": JSON | st.fixed_dictionaries({"event_id": JSON}),
            },
        ),
    },
)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(KINDS) | JSON,
        "event_id": st.just("$e") | JSON,
        "sender": st.just(AGENT) | JSON,
        "state_key": st.just("") | JSON,
        "redacts": st.just("$t") | JSON,
        "origin_server_ts": st.integers() | JSON,
        "unsigned": JSON
        | st.fixed_dictionaries({"prev_content": JSON})
        | st.fixed_dictionaries(
            {"m.relations": st.fixed_dictionaries({"m.replace": JSON | CONTENT})}
        ),
        "content": JSON | CONTENT,
    },
)


def source(**content: Any) -> dict[str, Any]:  # noqa: ANN401  # JSON of any shape
    return {
        "type": "m.room.message",
        "event_id": "$e",
        "sender": AGENT,
        "origin_server_ts": 12,
        "content": {"msgtype": "m.text", "body": "Bonjour", **content},
    }


def event(kind: str, content: object, **changed: object) -> dict[str, Any]:
    return source() | {"type": kind, "content": content} | changed


def hear(one: dict[str, Any], *, decrypted: bool = False) -> ReadableEvent | None:
    """Read an event as nio hands it over."""
    return parse_event(SimpleNamespace(source=one, decrypted=decrypted), ROOM, BOT)


def read(**content: object) -> Message:
    """Return a message with this content."""
    heard = parse_message(source(**content), ROOM, BOT)
    assert isinstance(heard, Message)
    return heard


@given(NEARLY, st.booleans())
def test_no_shape_of_an_event_makes_the_parser_fail(
    shape: dict[str, Any],
    decrypted: bool,  # noqa: FBT001  # drawn
) -> None:
    heard = [
        hear(shape, decrypted=decrypted),
        parse_message(shape, ROOM, BOT),
        parse_undecryptable(shape, ROOM),
    ]
    member = parse_membership(shape)

    assert all(one is None or one.event_id == shape["event_id"] for one in heard)
    assert member is None or member.user_id == shape["state_key"]
    assert 0 <= timestamp(shape) < 2**53
    assert latest_edit(SimpleNamespace(source=shape)) is None or "unsigned" in shape


@pytest.mark.parametrize("odd", [None, 3, "x", [], SimpleNamespace(), SimpleNamespace(source=3)])
def test_what_is_no_event_at_all_is_none(odd: object) -> None:
    assert parse_event(odd, ROOM, BOT) is None
    assert latest_edit(odd) is None


def test_a_text_message_is_read() -> None:
    expected = Message(
        event_id=EventId("$e"),
        room_id=ROOM,
        sender=AGENT,
        msgtype="m.text",
        body="Bonjour",
        timestamp=12,
    )

    assert parse_message(source(), ROOM, BOT) == hear(source()) == expected


@pytest.mark.parametrize(
    "broken",
    [
        {"content": {}},
        {"content": {"msgtype": "m.text", "body": 3}},
        {"content": {"msgtype": None, "body": "x"}},
        {"event_id": None},
        {"sender": 7},
        {"type": "m.room.name"},
    ],
)
def test_what_is_no_message_is_none(broken: dict[str, Any]) -> None:
    assert parse_message(source() | broken, ROOM, BOT) is None


@pytest.mark.parametrize(
    ("relation", "root", "quoted"),
    [
        ({"rel_type": "m.thread", "event_id": "$root"}, "$root", None),
        ({"rel_type": "m.thread"}, None, None),
        (
            {
                "rel_type": "m.thread",
                "event_id": "$root",
                "is_falling_back": True,
                "m.in_reply_to": {"event_id": "$last"},
            },
            "$root",
            None,
        ),
        (
            {"rel_type": "m.thread", "event_id": "$root", "m.in_reply_to": {"event_id": "$q"}},
            "$root",
            "$q",
        ),
        ({"m.in_reply_to": {"event_id": "$q"}}, None, "$q"),
        ({"m.in_reply_to": {"event_id": "$q"}, "is_falling_back": True}, None, "$q"),
        (
            {"rel_type": "m.reference", "event_id": "$p", "m.in_reply_to": {"event_id": "$q"}},
            None,
            "$q",
        ),
        ({"m.in_reply_to": {"event_id": 3}}, None, None),
        ({"m.in_reply_to": []}, None, None),
    ],
)
def test_a_message_names_its_thread_and_what_it_replies_to_unless_that_is_a_fallback(
    relation: dict[str, Any], root: str | None, quoted: str | None
) -> None:
    heard = read(**{"m.relates_to": relation})

    assert (heard.thread_root, heard.replies_to) == (root, quoted)


def test_an_edit_is_no_message() -> None:
    edit = source(
        **{
            "m.new_content": {"msgtype": "m.text", "body": "Bonsoir"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": "$first"},
        }
    )

    expected = Edit(
        event_id=EventId("$e"),
        room_id=ROOM,
        sender=UserId(AGENT),
        target=EventId("$first"),
        body="Bonsoir",
        timestamp=12,
    )
    assert parse_message(edit, ROOM, BOT) == hear(edit) == expected


@pytest.mark.parametrize("new", [None, {}, {"body": 3}, []])
def test_an_edit_without_a_new_text_says_nothing(new: object) -> None:
    edit = source(
        **{"m.new_content": new, "m.relates_to": {"rel_type": "m.replace", "event_id": "$first"}}
    )

    assert parse_message(edit, ROOM, BOT) is None


# Mentions.


def pill(user_id: str, name: str = "X", link: str = "https://matrix.to/#/") -> dict[str, Any]:
    return {"formatted_body": f'Dis <a href="{link}{user_id}">{name}</a> !'}


@pytest.mark.parametrize(
    "html",
    [
        pill(BOT),
        pill("@assistant%3Atchap.test"),
        pill("%40assistant%3Atchap.test"),
        pill(f"{BOT}?via=tchap.test"),
        pill(BOT, link="https://www.tchap.gouv.fr/#/user/"),
        pill(BOT, link="http://localhost:8080/#/user/"),
        pill(BOT, "<b>Assistant</b> <i>IA</i>"),
        {"formatted_body": f"<A class='x' HREF='https://matrix.to/#/{BOT}' rel='y'>X</A>"},
        {"formatted_body": f'<a\nhref="https://matrix.to/#/{BOT}">deux\nlignes</a>'},
        {"formatted_body": f"<blockquote>x</blockquote>{PILL}"},
        {"formatted_body": f"</blockquote>{PILL}"},
    ],
)
def test_a_pill_is_a_mention_where_the_event_has_no_list_of_them(html: dict[str, Any]) -> None:
    assert read(**html).mentions == {BOT}
    assert read(**html, **{"m.mentions": {}}).mentions == frozenset()


@pytest.mark.parametrize(
    "html",
    [
        f"<mx-reply><blockquote>{PILL}</blockquote></mx-reply>Non",
        f"<blockquote>{PILL}</blockquote>",
        f"<blockquote><blockquote>x</blockquote>{PILL}</blockquote>",
        f"<BLOCKQUOTE class='x'>{PILL}</BLOCKQUOTE>",
        f"<blockquote>never closed {PILL}",
        f'<a href="https://matrix.to/#/{BOT}">never closed',
        f'<a href="https://matrix.to/{BOT}">X</a>',
        f'<a href="ftp://matrix.to/#/{BOT}">X</a>',
        f'<a data-href="https://matrix.to/#/{BOT}">X</a>',
        f"https://matrix.to/#/{BOT}",
        '<a href="https://matrix.to/#/!room:x">X</a>',
    ],
)
def test_what_only_looks_like_a_pill_or_is_quoted_mentions_nobody(html: str) -> None:
    assert read(formatted_body=html).mentions == frozenset()


@pytest.mark.parametrize(
    ("mentions", "who"),
    [
        ({"user_ids": [BOT, COLLEAGUE]}, {BOT, COLLEAGUE}),
        ({"user_ids": [BOT, BOT, 3, None, "\ud800"]}, {BOT}),
        *(
            (odd, set())
            for odd in ({}, {"room": True}, {"user_ids": BOT}, {"user_ids": {BOT: 1}}, None, [BOT])
        ),
    ],
)
def test_the_list_of_mentions_counts_and_pills_beside_it_do_not(
    mentions: object, who: set[UserId]
) -> None:
    assert read(**{"m.mentions": mentions}, **pill("@somebody:x")).mentions == who


def test_no_more_people_are_mentioned_than_anybody_would_and_by_no_longer_names() -> None:
    many = [f"@{number}:x" for number in range(99)]
    longest = "@" + "a" * 252 + ":x"
    pills = {"formatted_body": "".join(pill(one)["formatted_body"] for one in many)}

    assert read(**{"m.mentions": {"user_ids": many}}).mentions == {*many[:50]}
    assert read(**pills).mentions == {*many[:50]}
    assert read(**{"m.mentions": {"user_ids": [longest, f"{longest}x"]}}).mentions == {longest}


def test_no_more_messages_are_answered_than_would_be_and_by_no_longer_ids() -> None:
    many = [f"${number}" for number in range(99)]
    marker = {"prompt": "$" + "x" * 255, "joined": many}

    assert read(**{MARKER: marker}).answers == tuple(many[:50])


@pytest.mark.parametrize(
    "piece",
    [
        "<a ",
        "<a href=",
        '<a href="https://x/#/@',
        '<a href="https://x/#/@' + "b" * 230,
        f"{PILL[:-4]}",
        "<a " * 55 + 'href="https://x/#/@' + "a" * 200 + '">',
        "<a " * 35 + 'href="https://x/#/@a' * 3 + "a" * 200 + '">' + "z" * 100,
        '<a href="https://x/#/@y"' + ' href="https://x/#/@y"' * 40,
        "<blockquote",
        "<blockquote>",
        "</mx-reply>",
        "> <@a",
        "<",
    ],
)
def test_no_html_holds_up_the_loop(piece: str) -> None:
    html = piece * (60_000 // len(piece))

    began = time.process_time()
    read(body=html, formatted_body=html, **{"m.relates_to": {"m.in_reply_to": {"event_id": "$q"}}})
    assert time.process_time() - began < 0.5  # s; one that looks twice takes several


# What is said.


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (f"{BOT} Bonjour", "Bonjour"),
        (f"  {BOT}: Bonjour", "Bonjour"),
        (f"{BOT}, bonjour @assistant", "bonjour @assistant"),
        ("@assistant bonjour", "bonjour"),
        ("@ASSISTANT : bonjour", "bonjour"),
        ("Assistant IA: !aide", "!aide"),
        ("assistant ia bonjour", "bonjour"),
        ("Assistant IA", "Assistant IA"),
        (f"{BOT}", f"{BOT}"),
        ("@assistante bonjour", "@assistante bonjour"),
        ("Assistant IAm", "Assistant IAm"),
        ("Bonjour Assistant IA", "Bonjour Assistant IA"),
        ("Assistante, bonjour", "Assistante, bonjour"),
    ],
)
def test_the_bots_name_before_the_text_is_not_part_of_it(body: str, words: str) -> None:
    assert read(body=body, formatted_body=PILL).body == words
    edit = {"m.relates_to": {"rel_type": "m.replace", "event_id": "$f"}}
    new = {"msgtype": "m.text", "body": body, "formatted_body": PILL}
    heard = parse_message(source(**edit, **{"m.new_content": new}), ROOM, BOT)
    assert isinstance(heard, Edit)
    assert heard.body == words


def test_the_name_of_somebody_else_stays() -> None:
    assert read(body="X bonjour", **pill("@x:y")).body == "X bonjour"


def test_the_name_may_be_written_with_entities() -> None:
    assert read(body="L'IA & moi: oui", **pill(BOT, "L&#39;IA &amp; moi")).body == "oui"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("> <@a:x> Heure ?\n> encore\n\nMidi.", "Midi."),
        ("> * <@a:x> fait signe\n\nBonjour\n\n> et ça", "Bonjour\n\n> et ça"),
        (f"> <@a:x> Heure ?\n\n{BOT}: !aide", "!aide"),
        ("> <@a:x> Heure ?", "> <@a:x> Heure ?"),
        ("> Un passage\n\nRésume-le.", "> Un passage\n\nRésume-le."),
        ("> <@a:x> un\nsans ligne vide\n> <@a:x> deux\n\ntrois", None),
        ("Bonjour\n> <@a:x> un\n\ndeux", None),
    ],
)
def test_what_older_clients_quote_before_a_reply_is_not_said_again(
    body: str, words: str | None
) -> None:
    reply = {"m.relates_to": {"m.in_reply_to": {"event_id": "$q"}}}

    assert read(body=body, **reply).body == (words or body)


def test_a_quotation_in_no_reply_is_the_persons_own() -> None:
    assert read(body="> <@a:x> un\n\ndeux").body == "> <@a:x> un\n\ndeux"


def test_lines_that_the_bot_added_are_not_part_of_what_was_said() -> None:
    marker = {"added": ["(2)", "Incomplet !"]}

    assert read(body="(2)\n\nLe ciel.\n\nIncomplet !", **{MARKER: marker}).body == "Le ciel."


@pytest.mark.parametrize("added", [None, 3, "x", [3], ["x", None], {}])
def test_an_odd_list_of_added_lines_takes_nothing_away(added: object) -> None:
    assert read(body="x\ny", **{MARKER: {"added": added}}).body == "x\ny"


@pytest.mark.parametrize(
    ("marker", "answers"),
    [
        ({"prompt": "$1"}, ("$1",)),
        ({"prompt": "$1", "joined": ["$2", "$3"]}, ("$1", "$2", "$3")),
        ({"prompt": "$1", "joined": ["$2", 3, None, "\ud800"]}, ("$1", "$2")),
        ({"prompt": 3, "joined": "$2"}, ()),
        ({}, ()),
        (None, ()),
        ([], ()),
    ],
)
def test_what_an_assistant_generated_tells_what_it_answers(
    marker: object, answers: tuple[str, ...]
) -> None:
    edit = {"m.relates_to": {"rel_type": "m.replace", "event_id": "$f"}}
    new = {"msgtype": "m.text", "body": "x", MARKER: marker}

    heard = parse_message(source(**edit, **{"m.new_content": new}), ROOM, BOT)

    assert read(**{MARKER: marker}).answers == answers
    assert isinstance(heard, Edit)
    assert heard.answers == answers


@pytest.mark.parametrize(("claim", "number"), [(3, 3), (True, 0), ("3", 0), (None, 0), (1.5, 0)])
def test_what_an_assistant_generated_tells_which_parts_are_of_one_text(
    claim: object, number: int
) -> None:
    assert read(**{MARKER: {"claim": claim}}).claim == number


# Other events.


def reaction(key: object = "🛑", **changed: object) -> dict[str, Any]:
    relation = {"rel_type": "m.annotation", "event_id": "$reply", "key": key} | changed
    return event("m.reaction", {"m.relates_to": relation})


@pytest.mark.parametrize("decrypted", [True, False])
@pytest.mark.parametrize(
    ("key", "plain"),
    [
        ("🛑", "🛑"),
        ("🛑\ufe0f", "🛑"),
        ("⏹", "⏹"),
        ("⏹\ufe0f", "⏹"),
        ("⏹\ufe0e", "⏹"),
        ("🔄", "🔄"),
        ("🔄\ufe0f", "🔄"),
        ("👍🏽", "👍"),
        ("👎🏿\ufe0f", "👎"),
        ("non", "non"),
    ],
)
def test_a_reaction_counts_with_and_without_selectors_and_skin_tones(
    key: str,
    plain: str,
    decrypted: bool,  # noqa: FBT001  # a table's column
) -> None:
    expected = Reaction(
        event_id=EventId("$e"),
        room_id=ROOM,
        sender=AGENT,
        target=EventId("$reply"),
        key=plain,
        timestamp=12,
    )

    assert hear(reaction(key), decrypted=decrypted) == expected


@pytest.mark.parametrize(
    "odd",
    [
        reaction(3),
        reaction(""),
        reaction(event_id=None),
        reaction(rel_type="m.thread"),
        reaction(rel_type=None),
        reaction() | {"sender": None},
        event("m.reaction", {}),
    ],
)
def test_what_is_no_whole_reaction_is_none(odd: dict[str, Any]) -> None:
    assert hear(odd) is None


@pytest.mark.parametrize(
    "redaction",
    [
        event("m.room.redaction", {}, redacts="$t"),
        event("m.room.redaction", {"redacts": "$t", "reason": "x"}),
        event("m.room.redaction", {"redacts": "$other"}, redacts="$t"),
    ],
    ids=["until room version 10", "since room version 11", "both"],
)
def test_a_redaction_names_its_target_wherever_the_room_version_has_it(
    redaction: dict[str, Any],
) -> None:
    assert hear(redaction) == Redaction(EventId("$e"), ROOM, AGENT, EventId("$t"))


def tombstone(**changed: object) -> dict[str, Any]:
    content = {"body": "x", "replacement_room": "!new:x"}
    return event("m.room.tombstone", content, **{"state_key": "", **changed})


def test_a_tombstone_names_the_room_that_comes_after() -> None:
    assert hear(tombstone()) == Upgraded(EventId("$e"), ROOM, AGENT, RoomId("!new:x"))


@pytest.mark.parametrize(
    "one",
    [event("m.room.redaction", {"redacts": "$t"}, redacts="$t"), tombstone()],
    ids=["redaction", "tombstone"],
)
def test_what_only_the_homeserver_can_say_is_nothing_in_a_decrypted_payload(
    one: dict[str, Any],
) -> None:
    assert hear(one, decrypted=True) is None


@pytest.mark.parametrize(
    "odd",
    [
        event("m.room.redaction", {}),
        event("m.room.redaction", {"redacts": 3}, redacts=[]),
        tombstone(state_key="x"),
        tombstone(state_key=None),
        tombstone() | {"content": {"replacement_room": 3}},
    ],
)
def test_what_lacks_its_target_is_none(odd: dict[str, Any]) -> None:
    assert hear(odd) is None


UNSTABLE = {
    TEXT: "Prêt ?\n1. Oui",
    POLL: {"question": {TEXT: "Prêt ?"}, "answers": [{"id": "a", TEXT: "Oui"}]},
}
STABLE = {
    "m.poll.start": {
        "question": {"m.text": [{"body": "Prêt ?"}, {"body": "<b>Prêt</b>"}]},
        "answers": [{"m.id": "a", "m.text": [{"body": "Oui"}]}],
    }
}
THREAD = {
    "rel_type": "m.thread",
    "event_id": "$root",
    "is_falling_back": True,
    "m.in_reply_to": {"event_id": "$q"},
}


@pytest.mark.parametrize("decrypted", [True, False])
@pytest.mark.parametrize(("kind", "content"), [(POLL, UNSTABLE), ("m.poll.start", STABLE)])
def test_a_poll_is_a_message_of_its_question_in_whatever_names(
    kind: str,
    content: dict[str, Any],
    decrypted: bool,  # noqa: FBT001  # a table's column
) -> None:
    alone = event(kind, content)
    threaded = event(kind, content | {"m.relates_to": THREAD})

    expected = Message(
        event_id=EventId("$e"),
        room_id=ROOM,
        sender=AGENT,
        msgtype=POLL,
        body="Prêt ?",
        timestamp=12,
    )
    there = replace(expected, thread_root=EventId("$root"))
    assert hear(alone, decrypted=decrypted) == expected
    assert hear(threaded, decrypted=decrypted) == there


def cast(content: dict[str, Any], kind: str = POLL_RESPONSES[0]) -> dict[str, Any]:
    relation = {"rel_type": "m.reference", "event_id": "$poll"}
    return event(kind, {"m.relates_to": relation} | content)


@pytest.mark.parametrize("decrypted", [True, False])
@pytest.mark.parametrize("kind", POLL_RESPONSES)
@pytest.mark.parametrize(
    ("content", "answers"),
    [
        ({POLL_RESPONSES[0]: {"answers": ["a"]}}, ("a",)),
        ({POLL_RESPONSES[1]: {"answers": ["a", "b"]}}, ("a", "b")),
        ({"m.selections": ["b"]}, ("b",)),
        ({POLL_RESPONSES[0]: {"answers": []}}, ()),
        ({POLL_RESPONSES[0]: {"answers": "a"}}, ()),
        ({POLL_RESPONSES[0]: {"answers": ["a", 3]}}, ()),
        ({POLL_RESPONSES[0]: None}, ()),
        ({}, ()),
    ],
)
def test_a_vote_names_its_answers_in_whatever_names_or_none(
    content: dict[str, Any],
    answers: tuple[str, ...],
    kind: str,
    decrypted: bool,  # noqa: FBT001  # a table's column
) -> None:
    expected = Vote(
        event_id=EventId("$e"),
        room_id=ROOM,
        sender=AGENT,
        target=EventId("$poll"),
        answers=answers,
        timestamp=12,
    )

    assert hear(cast(content, kind), decrypted=decrypted) == expected


@pytest.mark.parametrize(
    "odd",
    [
        cast({"m.relates_to": {"rel_type": "m.annotation", "event_id": "$poll"}}),
        cast({"m.relates_to": {"rel_type": "m.reference", "event_id": 3}}),
        cast({}) | {"sender": None},
        event(POLL, {}),
        event(POLL, {POLL: []}),
        event("m.poll.start", UNSTABLE) | {"event_id": ""},
    ],
)
def test_what_is_neither_poll_nor_vote_is_none(odd: dict[str, Any]) -> None:
    assert hear(odd) is None


def encrypted(**relation: object) -> nio.Event:
    content: dict[str, Any] = {
        "algorithm": "m.megolm.v1.aes-sha2",
        "ciphertext": "x",
        "session_id": "s",
        "sender_key": "",
        "device_id": "",
    }
    if relation:
        content["m.relates_to"] = relation
    parsed = nio.Event.parse_event(event("m.room.encrypted", content))
    assert isinstance(parsed, nio.MegolmEvent)
    return parsed


def test_an_encrypted_message_says_its_thread_in_clear() -> None:
    plain = Undecryptable(
        event_id=EventId("$e"), room_id=ROOM, sender=AGENT, session_id="s", timestamp=12
    )
    threaded = Undecryptable(
        event_id=EventId("$e"),
        room_id=ROOM,
        sender=AGENT,
        session_id="s",
        timestamp=12,
        thread_root=EventId("$root"),
    )

    assert parse_event(encrypted(), ROOM, BOT) == plain
    assert parse_event(encrypted(**{"m.in_reply_to": {"event_id": "$q"}}), ROOM, BOT) == plain
    assert parse_event(encrypted(rel_type="m.thread", event_id="$root"), ROOM, BOT) == threaded


@pytest.mark.parametrize("kind", ["m.replace", "m.annotation", "x.unknown"])
def test_an_encrypted_edit_or_reaction_is_none(kind: str) -> None:
    assert parse_event(encrypted(rel_type=kind, event_id="$1"), ROOM, BOT) is None


def test_an_encrypted_vote_says_its_poll_in_clear() -> None:
    refers = encrypted(rel_type="m.reference", event_id="$poll")

    expected = Undecryptable(
        event_id=EventId("$e"),
        room_id=ROOM,
        sender=AGENT,
        session_id="s",
        timestamp=12,
        thread_root=None,
        refers_to=EventId("$poll"),
    )
    assert parse_event(refers, ROOM, BOT) == expected


@pytest.mark.parametrize(
    ("bundled", "found"),
    [
        ({"m.replace": source()}, True),
        ({"m.replace": {"content": 3}}, False),
        ({"m.replace": {"event_id": "$e", "sender": AGENT}}, False),
        ({"m.replace": []}, False),
        ({}, False),
        (None, False),
    ],
)
def test_the_newest_edit_comes_with_its_event_where_the_homeserver_bundles_it(
    bundled: object,
    found: bool,  # noqa: FBT001  # a table's column
) -> None:
    whole = source() | {"unsigned": {"m.relations": bundled}}

    assert (latest_edit(SimpleNamespace(source=whole)) is not None) is found


@pytest.mark.parametrize("one", ["$a\0", "$" + "a" * 255, "\ud800"])
def test_what_cannot_be_an_id_is_none(one: str) -> None:
    content = {"algorithm": "m.megolm.v1.aes-sha2", "session_id": one, "ciphertext": "x"}
    thread = {"rel_type": "m.thread", "event_id": one}
    waits = parse_undecryptable(
        event("m.room.encrypted", content | {"m.relates_to": thread}), ROOM
    )

    assert waits is not None
    assert (waits.session_id, waits.thread_root) == ("", None)
    assert read(**{"m.relates_to": thread}).thread_root is None
    assert hear(event("m.room.redaction", {"redacts": one}, redacts=one)) is None


def html(formatted: str, body: str = "@") -> dict[str, Any]:
    return {"body": body, "format": "org.matrix.custom.html", "formatted_body": formatted}


@pytest.mark.parametrize(
    ("content", "typed"),
    [
        ({"body": "@Assistant IA bonjour"}, ("Assistant IA bonjour",)),
        ({"body": "Bonjour @Assistant IA"}, ("Assistant IA",)),
        ({"body": "(@Assistant IA)"}, ("Assistant IA)",)),
        ({"body": "@A x\n@B y"}, ("A x", "B y")),
        ({"body": f"{BOT} bonjour"}, (f"{BOT[1:]} bonjour",)),
        ({"body": "Bonjour"}, ()),
        ({"body": "ada@tchap.test @ 9 h @@x"}, ()),
        ({"body": "https://matrix.to/#/@a:b.test"}, ()),
        ({"body": "> @Assistant IA dit\n\nVoilà"}, ()),
        ({"body": "  > @Assistant IA dit"}, ()),
        ({"body": "    @Assistant IA"}, ()),
        ({"body": "`@Assistant IA`"}, ()),
        ({"body": "``@Assistant IA``"}, ()),
        ({"body": "```\n@Assistant IA\n```\nVoilà"}, ()),
        ({"body": "~~~py\n@Assistant IA"}, ()),
        ({"body": "`x` @Assistant IA `y`"}, ("Assistant IA  ",)),
        (html("<p>@Assistant <b>IA</b> bonjour</p>"), ("Assistant IA bonjour",)),
        (html("@Assistant IA<br/>bonjour"), ("Assistant IA",)),
        (html("@L&#39;Assistant"), ("L'Assistant",)),
        (html("<blockquote>@Assistant IA</blockquote>Voilà"), ()),
        (html("<mx-reply>@Assistant IA</mx-reply>Voilà"), ()),
        (html("<pre><code>@Assistant IA</code></pre>"), ()),
        (html("<code>@Assistant IA</code>"), ()),
        (html(f"{PILL} et @Ada"), ("Ada",)),
        (html('<a href="https://matrix.to/#/@a:b.test">@Ada</a>'), ()),
        (html("@Assistant IA", body="sans arobase"), ()),
        ({"body": "Il suffit d’écrire «\u00a0@Assistant IA\u00a0»"}, ()),
        ({"body": 'Dites "@Assistant IA" ou “@Assistant IA”'}, ()),
        ({"body": "L’@Assistant IA et l'@Assistant IA"}, ("Assistant IA et l'", "Assistant IA")),
        ({"body": "`a\n@Assistant IA b` @Ada"}, ("Ada",)),
        ({"body": "`a\n\n@Assistant IA b`"}, ("Assistant IA b`",)),
        (html("<q>@Assistant IA</q> <tt>@Ada</tt>"), ()),
    ],
)
def test_a_name_that_is_typed_is_known_outside_quotations_and_code(
    content: dict[str, Any], typed: tuple[str, ...]
) -> None:
    assert read(**content).typed_at == typed


def test_of_names_that_are_typed_no_more_is_kept_than_a_name() -> None:
    found = read(body=" ".join(["@" + "x" * 500] * 50)).typed_at
    assert len(found) <= 10
    assert max(map(len, found)) <= 120


def test_a_reply_s_fallback_is_not_typed() -> None:
    quoted = f"> <{AGENT}> @Assistant IA\n\nOui"
    relation = {"m.in_reply_to": {"event_id": "$x"}}
    assert read(body=quoted, **{"m.relates_to": relation}).typed_at == ()


@pytest.mark.parametrize(
    ("sender", "marks", "msgtype"),
    [
        (BOT, {NOTICE_MARKER: {}}, "m.notice"),
        (BOT, {NOTICE_MARKER: {"prompt": "$x"}}, "m.notice"),
        (BOT, {NOTICE_MARKER: {}, QUESTION: {}}, QUESTION),
        (BOT, {}, "m.text"),
        (AGENT, {NOTICE_MARKER: {}}, "m.text"),  # somebody forwards it, and is answered
        (AGENT, {NOTICE_MARKER: {}, QUESTION: {}}, "m.text"),
    ],
)
def test_an_announcement_of_the_bot_is_no_prompt(
    sender: UserId, marks: dict[str, Any], msgtype: str
) -> None:
    said = source(body="Bonjour", **marks) | {"sender": sender}
    heard = parse_message(said, ROOM, BOT)
    assert isinstance(heard, Message)
    assert heard.msgtype == msgtype

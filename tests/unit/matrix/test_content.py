from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.events import Edit, EventId, Message
from bot.core.markdown import Part, render
from bot.core.outgoing import Attachment, Notice, Outgoing, OutgoingEdit, Reply
from bot.core.polls import POLL, Poll, PollAnswer
from bot.matrix.content import build, event_type
from bot.matrix.parse import MARKER, NOTICE_MARKER, parse_clear, parse_message
from tests.make import BOT, ROOM, message, prompt, undecryptable

PROMPT = prompt()
IN_THREAD = prompt(message(thread_root="$root"))
UNREADABLE = undecryptable()
ASKED = Poll(question="Prêt ?", answers=(PollAnswer("a", "Oui"), PollAnswer("b", "Non")))


def test_a_reply_is_a_plain_message_that_names_its_prompt_in_its_marker() -> None:
    content = build(Reply(prompt=PROMPT, part=Part("Le **ciel**."), model="small"))

    assert content == {
        "msgtype": "m.text",
        "body": render("Le **ciel**.").body,
        "format": "org.matrix.custom.html",
        "formatted_body": render("Le **ciel**.").formatted_body,
        "m.mentions": {},
        MARKER: {"model": "small", "prompt": "$prompt", "added": []},
    }


@pytest.mark.parametrize(
    "outgoing",
    [Reply(prompt=PROMPT, part=Part("Oui."), model="m"), Notice(text="Non.", to=PROMPT)],
)
def test_what_answers_quotes_it_when_another_message_came_between(
    outgoing: Reply | Notice,
) -> None:
    content = build(outgoing, quoting=True)

    assert content["m.relates_to"] == {"m.in_reply_to": {"event_id": "$prompt"}}


@pytest.mark.parametrize("quoting", [False, True])
@pytest.mark.parametrize(
    "outgoing",
    [
        Reply(prompt=PROMPT, part=Part("Oui."), model="small"),
        Reply(prompt=PROMPT, part=Part("suite", "(2)\n\n"), model="small"),
        Notice(text="Non.", to=PROMPT),
        Notice(text="Bonjour."),
        Notice(text="Quoi ?", asks=True),
        Notice(text="Illisible.", to=UNREADABLE),
        ASKED,
        Attachment(
            name="a.png", mimetype="image/png", data=b"1", alternative="Du bleu.", size=(4, 3)
        ),
        Attachment(name="a.csv", mimetype="text/csv", data=b"1", alternative="Des chiffres."),
    ],
)
def test_nothing_in_a_main_timeline_has_a_relation_that_paging_back_would_drop(
    outgoing: Outgoing, *, quoting: bool
) -> None:
    relation = build(outgoing, quoting=quoting).get("m.relates_to", {})

    assert relation.keys() <= {"m.in_reply_to"}


def test_a_reply_in_a_thread_stays_in_it_and_falls_back_to_a_quotation() -> None:
    asked = prompt(message(thread_root="$root"))

    content = build(Reply(prompt=asked, part=Part("Oui."), model="small"), quoting=True)

    assert content["m.relates_to"] == {
        "rel_type": "m.thread",
        "event_id": "$root",
        "is_falling_back": True,
        "m.in_reply_to": {"event_id": "$prompt"},
    }


def test_an_edit_carries_the_new_text_once() -> None:
    reply = Reply(prompt=PROMPT, part=Part("Première ligne.\n\nSeconde **ligne**."), model="small")

    content = build(OutgoingEdit(EventId("$reply"), reply), quoting=True)

    assert content == {
        "msgtype": "m.text",
        "body": "* Première ligne.",
        "m.mentions": {},
        "m.new_content": build(reply),
        "m.relates_to": {"rel_type": "m.replace", "event_id": "$reply"},
    }


def test_the_bots_own_lines_stand_below_the_models_and_are_marked() -> None:
    content = build(Reply(prompt=PROMPT, part=Part("Le ciel"), model="small", added=("*Coupé.*",)))

    assert content["body"] == "Le ciel\n\nCoupé."
    assert content["formatted_body"].rstrip().endswith("<p><em>Coupé.</em></p>")
    assert content[MARKER]["added"] == ["Coupé."]


@pytest.mark.parametrize(
    ("source", "body", "html"),
    [
        ("Le ciel", "Le ciel …", "<p>Le ciel …</p>"),
        ("Le **ciel**", "Le ciel …", "<p>Le <strong>ciel</strong> …</p>"),
        ("- Un\n- Deux", "- Un\n- Deux …", "<ul>\n<li>Un</li>\n<li>Deux …</li>\n</ul>"),
        ("> Cité", "> Cité …", "<blockquote>\n<p>Cité …</p>\n</blockquote>"),
        ("### Titre", "Titre …", None),
        ("```\nx = 1\n```", "x = 1 …", "<pre><code>x = 1\n</code></pre><p>…</p>"),
        ("Un\n\n---", "Un\n\n--- …", "<p>Un</p>\n<hr><p>…</p>"),
        ("[a](https://exemple.test/a)", None, None),
    ],
)
def test_a_version_that_is_not_final_ends_in_a_sign_that_is_read_by_nobody_but_people(
    source: str, body: str | None, html: str | None
) -> None:
    growing = Reply(prompt=PROMPT, part=Part(source), model="small", unfinished=True)
    content = build(growing)

    assert content["body"].endswith(" …")
    assert body in {None, content["body"]}
    assert html in {None, content["formatted_body"].replace("<hr />", "<hr>")}
    assert "…" in content["formatted_body"]
    assert content[MARKER]["unfinished"] is True
    event = {"type": "m.room.message", "event_id": "$r", "sender": BOT}
    for one in (content, build(OutgoingEdit(EventId("$r"), growing))):
        heard = parse_message(event | {"content": one}, ROOM, BOT)
        assert isinstance(heard, Message | Edit)
        assert heard.body == render(source).body.strip()
    final = build(replace(growing, unfinished=False, final=True))
    assert "…" not in final["body"] + final["formatted_body"]


@given(st.text(max_size=200))
def test_whatever_the_model_writes_it_is_read_again_without_the_sign(source: str) -> None:
    growing = Reply(prompt=PROMPT, part=Part(source), model="small", unfinished=True)
    event = {"type": "m.room.message", "event_id": "$r", "sender": BOT, "content": build(growing)}

    heard = parse_message(event, ROOM, BOT)

    assert isinstance(heard, Message)
    assert heard.body.strip() == render(source).body.strip()


def test_an_ellipsis_of_the_model_stays() -> None:
    final = Reply(prompt=PROMPT, part=Part("Il attend …"), model="small", final=True)
    event = {"type": "m.room.message", "event_id": "$r", "sender": BOT, "content": build(final)}

    heard = parse_message(event, ROOM, BOT)

    assert isinstance(heard, Message)
    assert heard.body == "Il attend …"


def test_the_number_of_a_later_part_is_the_bots_own_line() -> None:
    content = build(Reply(prompt=PROMPT, part=Part("suite", "(2)\n\n"), model="small"))

    assert content["body"] == "(2)\n\nsuite"
    assert content[MARKER]["added"] == ["(2)"]


def test_a_table_is_shown_as_one_where_that_is_wanted() -> None:
    reply = Reply(
        prompt=PROMPT,
        part=Part("| a | b |\n|---|---|\n| 1 | 2 |"),
        model="small",
        added=("*Coupé.*",),
    )

    listed = build(reply)
    shown = build(reply, tables="table")
    edited = build(OutgoingEdit(EventId("$reply"), reply), tables="table")

    assert "<table>" not in listed["formatted_body"]
    assert "<td>1</td>" in shown["formatted_body"]
    assert shown["body"] == listed["body"]
    assert edited["m.new_content"]["formatted_body"] == shown["formatted_body"]


def test_a_notice_names_what_it_is_about_and_whether_it_stands_for_an_answer() -> None:
    asked = prompt(message(event_id="$1"), message(event_id="$2"))
    source = {"type": "m.room.message", "event_id": "$n", "sender": BOT}

    told, failed = [
        parse_message(source | {"content": build(one)}, ROOM, BOT)
        for one in (Notice(text="Non.", to=asked), Notice(text="Non.", to=asked, unanswered=True))
    ]

    assert isinstance(told, Message)
    assert isinstance(failed, Message)
    assert (told.about, told.unanswered, told.answers) == (("$1", "$2"), False, ())
    assert (failed.about, failed.unanswered) == (("$1", "$2"), True)
    assert NOTICE_MARKER not in build(Notice(text="Bonjour."))


def test_a_reply_names_the_claim_that_its_text_is_of() -> None:
    content = build(Reply(prompt=PROMPT, part=Part("Oui."), model="small", claim=3))

    assert content[MARKER]["claim"] == 3


def test_a_reply_to_several_messages_names_them_all_and_quotes_the_last() -> None:
    asked = prompt(message(event_id="$1"), message(event_id="$2"), message(event_id="$3"))
    reply = Reply(prompt=asked, part=Part("Oui."), model="small")

    content = build(reply, quoting=True)

    assert content[MARKER]["prompt"] == "$1"
    assert content[MARKER]["joined"] == ["$2", "$3"]
    assert content["m.relates_to"] == {"m.in_reply_to": {"event_id": "$3"}}


def test_a_reply_read_again_is_what_the_model_said_and_what_it_answers() -> None:
    asked = prompt(message(event_id="$1"), message(event_id="$2"))
    reply = Reply(
        prompt=asked,
        part=Part("Le ciel\n\nest *bleu*.", "(2)\n\n"),
        model="m",
        added=("*Bas.*",),
        above=("*Haut.*",),
    )
    source = {"type": "m.room.message", "event_id": "$r", "sender": BOT, "content": build(reply)}

    heard = parse_message(source, ROOM, BOT)

    assert isinstance(heard, Message)
    assert heard.body == render("Le ciel\n\nest *bleu*.").body
    assert heard.answers == ("$1", "$2")


def test_an_edit_read_again_is_the_same() -> None:
    reply = Reply(prompt=prompt(), part=Part("Le ciel"), model="m", added=("*Bas.*",))
    edit = build(OutgoingEdit(EventId("$r"), reply))
    source = {"type": "m.room.message", "event_id": "$e", "sender": BOT, "content": edit}

    heard = parse_message(source, ROOM, BOT)

    assert isinstance(heard, Edit)
    assert (heard.body, heard.answers, heard.target) == ("Le ciel", ("$prompt",), "$r")


def test_a_poll_is_sent_in_the_names_that_clients_show_and_as_text() -> None:
    assert event_type(ASKED) == "org.matrix.msc3381.poll.start"
    assert build(ASKED, quoting=True) == {
        "org.matrix.msc1767.text": "Prêt ?\n1. Oui\n2. Non",
        "org.matrix.msc3381.poll.start": {
            "question": {"org.matrix.msc1767.text": "Prêt ?"},
            "kind": "org.matrix.msc3381.poll.disclosed",
            "max_selections": 1,
            "answers": [
                {"id": "a", "org.matrix.msc1767.text": "Oui"},
                {"id": "b", "org.matrix.msc1767.text": "Non"},
            ],
        },
        "m.mentions": {},
    }


def test_a_poll_may_stand_in_a_thread_and_keep_its_results_to_itself() -> None:
    there = replace(ASKED, disclosed=False, thread_root=EventId("$root"), latest=EventId("$r"))

    content = build(there)

    assert content[POLL]["kind"] == "org.matrix.msc3381.poll.undisclosed"
    assert content["m.relates_to"] == {
        "rel_type": "m.thread",
        "event_id": "$root",
        "is_falling_back": True,
        "m.in_reply_to": {"event_id": "$r"},
    }


def test_a_poll_is_read_again_as_it_was_sent() -> None:
    source = {"type": POLL, "event_id": "$p", "sender": BOT, "content": build(ASKED)}

    heard = parse_clear(source, ROOM, BOT)

    assert isinstance(heard, Message)
    assert (heard.msgtype, heard.body) == (POLL, "Prêt ?")


def test_a_file_has_its_name_for_a_caption_and_a_picture_what_it_shows() -> None:
    place = {"url": "mxc://tchap.test/x"}
    file = Attachment(name="a.csv", mimetype="text/csv", data=b"1234")
    picture = Attachment(
        name="a.png",
        mimetype="image/png",
        data=b"1",
        alternative="Du bleu.",
        size=(4, 3),
        to=IN_THREAD,
    )

    assert build(file, media=place) == {
        "msgtype": "m.file",
        "body": "a.csv",
        "filename": "a.csv",
        "info": {"mimetype": "text/csv", "size": 4},
        "m.mentions": {},
        "url": "mxc://tchap.test/x",
    }
    shown = build(picture, media=place)
    assert (shown["body"], shown["filename"]) == ("Du bleu.", "a.png")
    assert (shown["msgtype"], shown["info"]) == (
        *("m.image", {"mimetype": "image/png", "size": 1, "w": 4, "h": 3}),
    )
    assert shown["m.relates_to"]["event_id"] == "$root"

from bot.core.events import EventId
from bot.core.markdown import Part, render
from bot.core.replies import Edit, Notice, Reply
from bot.matrix.content import build
from bot.matrix.parse import MARKER
from tests.make import message

PROMPT = message()


def test_a_reply_refers_to_its_prompt() -> None:
    content = build(Reply(PROMPT, Part("Le **ciel**."), "small"), PROMPT.event_id)

    assert content == {
        "msgtype": "m.text",
        "body": render("Le **ciel**.").body,
        "format": "org.matrix.custom.html",
        "formatted_body": render("Le **ciel**.").formatted_body,
        "m.mentions": {},
        MARKER: {"model": "small", "prompt": "$prompt", "added": []},
        "m.relates_to": {"rel_type": "m.reference", "event_id": "$prompt"},
    }


def test_a_reply_quotes_its_prompt_when_another_message_came_between() -> None:
    content = build(Reply(PROMPT, Part("Oui."), "small"), EventId("$later"))

    assert content["m.relates_to"] == {
        "rel_type": "m.reference",
        "event_id": "$prompt",
        "m.in_reply_to": {"event_id": "$prompt"},
    }


def test_a_reply_in_a_thread_stays_in_it_and_falls_back_to_a_quotation() -> None:
    asked = message(thread_root="$root")

    content = build(Reply(asked, Part("Oui."), "small"), EventId("$later"))

    assert content["m.relates_to"] == {
        "rel_type": "m.thread",
        "event_id": "$root",
        "is_falling_back": True,
        "m.in_reply_to": {"event_id": "$prompt"},
    }


def test_an_edit_carries_the_new_text_once() -> None:
    reply = Reply(PROMPT, Part("Première ligne.\n\nSeconde **ligne**."), "small")

    content = build(Edit(EventId("$reply"), reply), EventId("$later"))

    new = build(reply, PROMPT.event_id)
    del new["m.relates_to"]
    assert content == {
        "msgtype": "m.text",
        "body": "* Première ligne.",
        "m.mentions": {},
        "m.new_content": new,
        "m.relates_to": {"rel_type": "m.replace", "event_id": "$reply"},
    }


def test_the_bots_own_lines_stand_below_the_models_and_are_marked() -> None:
    content = build(Reply(PROMPT, Part("Le ciel"), "small", ("*Coupé.*",)), PROMPT.event_id)

    assert content["body"] == "Le ciel\n\nCoupé."
    assert content["formatted_body"].rstrip().endswith("<p><em>Coupé.</em></p>")
    assert content[MARKER]["added"] == ["Coupé."]


def test_the_number_of_a_later_part_is_the_bots_own_line() -> None:
    content = build(Reply(PROMPT, Part("suite", "(2)\n\n"), "small"), PROMPT.event_id)

    assert content["body"] == "(2)\n\nsuite"
    assert content[MARKER]["added"] == ["(2)"]


def test_a_notice_names_what_it_answers() -> None:
    content = build(Notice("Non.", PROMPT))

    assert content["msgtype"] == "m.notice"
    assert content["m.relates_to"] == {"rel_type": "m.reference", "event_id": "$prompt"}
    assert MARKER not in content
    assert "m.relates_to" not in build(Notice("Bonjour."))

from typing import Any

from bot.core.events import EventId
from bot.core.turns import Said
from bot.matrix.history import Reader
from tests.make import AGENT, BOT, message

PROMPT = message(event_id="$now")


def said(body: str, event_id: str, sender: str = AGENT, **content: Any) -> dict[str, Any]:  # noqa: ANN401  # JSON
    return {
        "type": "m.room.message",
        "event_id": event_id,
        "sender": sender,
        "origin_server_ts": 1,
        "content": {"msgtype": "m.text", "body": body, **content},
    }


def edit(body: str, event_id: str, *, sender: str = AGENT, at: int = 1) -> dict[str, Any]:
    """Return an edit of $1."""
    relation = {"rel_type": "m.replace", "event_id": "$1"}
    new = {"msgtype": "m.text", "body": body}
    one = said("* x", event_id, sender, **{"m.relates_to": relation, "m.new_content": new})
    return one | {"origin_server_ts": at}


def read(*newest_first: dict[str, Any], prompt: Any = PROMPT) -> list[Said]:  # noqa: ANN401  # a Message
    reader = Reader(prompt, BOT)
    reader.take(newest_first)
    return reader.result()


def test_what_came_before_the_prompt_is_read_oldest_first() -> None:
    assert read(
        said("later", "$3"), said("now", "$now"), said("Midi.", "$2", BOT), said("Heure ?", "$1")
    ) == [
        Said(EventId("$1"), "Heure ?", mine=False),
        Said(EventId("$2"), "Midi.", mine=True),
    ]


def test_a_message_counts_in_its_last_version_by_its_own_author() -> None:
    earlier = read(
        edit("third", "$e3", at=3),
        said("now", "$now"),
        edit("forged", "$e4", sender=BOT, at=9),
        edit("second", "$e2", at=2),
        said("first", "$1"),
    )

    assert [one.body for one in earlier] == ["third"]


def test_a_redacted_message_and_a_notice_are_not_part_of_the_conversation() -> None:
    redacted = said("", "$2") | {"content": {}}

    assert read(said("now", "$now"), redacted, said("x", "$1", msgtype="m.notice")) == []


def test_nothing_from_before_the_invitation_is_read() -> None:
    invitation = {"type": "m.room.member", "event_id": "$i", "state_key": BOT, "sender": AGENT}
    invitation |= {"content": {"membership": "invite"}}  # type: ignore[dict-item]  # JSON

    earlier = read(said("now", "$now"), said("first", "$2"), invitation, said("secret", "$1"))

    assert [one.body for one in earlier] == ["first"]


def test_a_thread_is_a_conversation_of_its_own_with_its_root() -> None:
    thread: dict[str, Any] = {"m.relates_to": {"rel_type": "m.thread", "event_id": "$root"}}
    asked = message(event_id="$now", thread_root="$root")
    timeline = [
        said("now", "$now", **thread),
        said("aside", "$2"),
        said("in thread", "$1", **thread),
        said("root", "$root"),
    ]

    assert [one.body for one in read(*timeline, prompt=asked)] == ["root", "in thread"]
    assert [one.body for one in read(said("x", "$now"), *timeline[1:])] == ["root", "aside"]

"""Checks the history of rooms: each prompt has exactly one reply, with the whole text.

The checker knows only the bot's promises: its markers, and the relations of its messages.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bot.core.events import EventId, UserId
from bot.core.markdown import render
from bot.matrix.parse import MARKER, NOTICE_MARKER
from tests.chaos.story import tell
from tests.harness.client_view import JSON

_SHOWN = 60  # characters to show of a wrong text


@dataclass(frozen=True, slots=True)
class Standing:
    """A message of the bot in its last version.

    Attributes:
        answers: the events that it answers.
        content: its content; {} if it cannot be decrypted.
    """

    event_id: EventId
    answers: tuple[EventId, ...]
    content: JSON


@dataclass(frozen=True, slots=True)
class WrongAnswer:
    """A prompt with a wrong answer, and the messages that are there instead."""

    number: int
    event_id: EventId
    found: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The faults: prompts without their whole reply, and prompts with too many replies.

    For a redacted prompt, any reply is one too many.
    """

    lost: Sequence[WrongAnswer]
    duplicated: Sequence[WrongAnswer]


def judge(
    events: Iterable[JSON],
    bot: UserId,
    asked: Mapping[EventId, int],
    withdrawn: Collection[EventId] = (),
) -> Verdict:
    """Check the bot's replies in rooms.

    Args:
        events: decrypted events of any rooms, in any order; an event that cannot be decrypted has
            its encrypted content.
        bot: the bot.
        asked: the number of the story that each prompt asks for.
        withdrawn: the redacted prompts.
    """
    messages = standing(events, bot)
    lost, duplicated = [], []
    for event_id, number in asked.items():
        replies = [one for one in messages if event_id in one.answers]
        gone = event_id in withdrawn
        if not gone and not any(_is_whole(one, asked) for one in replies):
            found = "; ".join(map(_words, replies)) or "no reply"
            lost.append(WrongAnswer(number, event_id, found))
        if len(replies) > (not gone):
            duplicated.append(WrongAnswer(number, event_id, "; ".join(map(_words, replies))))
    return Verdict(lost, duplicated)


def standing(events: Iterable[JSON], bot: UserId) -> list[Standing]:
    """Return the bot's messages in their last versions (spec: Event replacements).

    The newest edit of a message by `origin_server_ts` counts; in the same millisecond, the one
    with the greatest event id. Redacted events do not count.
    """
    messages = {one["event_id"]: one for one in events if _is_message(one, bot)}
    edits: dict[EventId, list[JSON]] = {}
    for one in messages.values():
        if _relation(one).get("rel_type") == "m.replace":
            edits.setdefault(_relation(one)["event_id"], []).append(one)
    edited = {edit["event_id"] for several in edits.values() for edit in several}
    return [
        _stand(one, edits.get(one["event_id"], []))
        for one in messages.values()
        if one["event_id"] not in edited
    ]


def _is_message(event: JSON, bot: UserId) -> bool:
    kinds = {"m.room.message", "m.room.encrypted"}
    redacted = "redacted_because" in event.get("unsigned", {})
    return event["sender"] == bot and event["type"] in kinds and not redacted


def _relation(event: JSON) -> JSON:
    relation: JSON = event["content"].get("m.relates_to") or {}
    return relation


def _stand(original: JSON, edits: Sequence[JSON]) -> Standing:
    newest = max(
        edits, key=lambda edit: (edit["origin_server_ts"], edit["event_id"]), default=None
    )
    content = newest["content"].get("m.new_content", {}) if newest else original["content"]
    readable = (newest or original)["type"] == "m.room.message"
    marker = (content.get(MARKER) or content.get(NOTICE_MARKER)) if readable else None
    if marker:
        answers = (EventId(marker["prompt"]), *map(EventId, marker.get("joined", [])))
    else:
        answers = _related(original)
    return Standing(original["event_id"], answers, content if readable else {})


def _related(event: JSON) -> tuple[EventId, ...]:
    """Return the events that a message without a marker answers; its thread does not count."""
    relation = _relation(event)
    quoted = relation.get("m.in_reply_to", {}).get("event_id")
    referred = relation.get("event_id") if relation.get("rel_type") == "m.reference" else None
    return tuple(EventId(one) for one in dict.fromkeys((referred, quoted)) if one)


def _is_whole(reply: Standing, asked: Mapping[EventId, int]) -> bool:
    """Return whether the reply is the model's whole answer to its prompts."""
    wanted = render(tell([asked[one] for one in reply.answers if one in asked]))
    shown = reply.content.get("body"), reply.content.get("formatted_body")
    return shown == (wanted.body, wanted.formatted_body)


def _words(reply: Standing) -> str:
    body = str(reply.content.get("body", "unreadable"))
    return f"{reply.event_id} {len(body)} characters, ending {body[-_SHOWN:]!r}"

"""The JSON of what the bot says: pure builders of `m.room.message` contents."""

from typing import Any

from bot.core.events import EventId, Message, Undecryptable
from bot.core.markdown import Rendered, render
from bot.core.replies import Edit, Notice, Outgoing, Reply
from bot.matrix.parse import MARKER

_FALLBACK_LENGTH = 100  # of an edit's own body, which clients that know edits never show


def build(outgoing: Outgoing, latest: EventId | None = None) -> dict[str, Any]:
    """Return the content to send.

    Args:
        outgoing: what the bot says.
        latest: the room's last message; where it is not the prompt, the reply also quotes it.
    """
    match outgoing:
        case Notice():
            return _notice(outgoing)
        case Reply():
            return _reply(outgoing) | {"m.relates_to": _relation(outgoing.prompt, latest)}
        case Edit():
            new = _reply(outgoing.reply)
            first_line = new["body"].split("\n", 1)[0][:_FALLBACK_LENGTH]
            return {
                "msgtype": new["msgtype"],
                "body": f"* {first_line}",
                "m.mentions": {},
                "m.new_content": new,
                "m.relates_to": {"rel_type": "m.replace", "event_id": outgoing.event_id},
            }


def _notice(notice: Notice) -> dict[str, Any]:
    content = _text("m.notice", render(notice.text))
    if notice.to is not None:
        content["m.relates_to"] = _relation(notice.to, notice.to.event_id)
    return content


def _reply(reply: Reply) -> dict[str, Any]:
    rendered = render(reply.part)
    added = reply.part.opening.split("\n")[:1] if reply.part.opening else []  # its number
    if reply.added:
        below = [render(line) for line in reply.added]
        rendered = Rendered(
            "\n\n".join([rendered.body, *(one.body for one in below)]).strip(),
            rendered.formatted_body + "".join(one.formatted_body for one in below),
        )
        added += [line for one in below for line in one.body.split("\n")]
    return _text("m.text", rendered) | {
        MARKER: {"model": reply.model, "prompt": reply.prompt.event_id, "added": added}
    }


def _text(msgtype: str, rendered: Rendered) -> dict[str, Any]:
    return {
        "msgtype": msgtype,
        "body": rendered.body,
        "format": "org.matrix.custom.html",
        "formatted_body": rendered.formatted_body,
        "m.mentions": {},
    }


def _relation(message: Message | Undecryptable, latest: EventId | None) -> dict[str, Any]:
    """Relate to `message`: in its thread, or by a reference that `/relations` can find."""
    quote = {"m.in_reply_to": {"event_id": message.event_id}}
    if message.thread_root is not None:
        return {
            "rel_type": "m.thread",
            "event_id": message.thread_root,
            "is_falling_back": True,
            **quote,
        }
    relation = {"rel_type": "m.reference", "event_id": message.event_id}
    return relation if latest in {None, message.event_id} else relation | quote

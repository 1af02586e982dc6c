"""The JSON of what the bot says: pure builders of event contents."""

from collections.abc import Sequence
from typing import Any

from bot.core.events import EventId, Prompt, Undecryptable
from bot.core.markdown import Rendered, Tables, render, unfinished
from bot.core.outgoing import Anchor, Attachment, Notice, Outgoing, OutgoingEdit, Reply
from bot.core.polls import POLL, POLL_END, QUESTION, Poll, PollEnd
from bot.matrix.parse import HTML, MARKER, MESSAGE, NOTICE_MARKER, TEXT

_FALLBACK_LENGTH = 100  # of an edit's own body, which clients that know edits never show


def event_type(outgoing: Outgoing) -> str:
    """Return the type of the event that says it."""
    match outgoing:
        case Poll():
            return POLL
        case PollEnd():
            return POLL_END
        case _:
            return MESSAGE


def build(
    outgoing: Outgoing,
    *,
    quoting: bool = False,
    media: dict[str, Any] | None = None,
    tables: Tables = "list",
) -> dict[str, Any]:
    """Return the content to send.

    Args:
        outgoing: what the bot says.
        quoting: whether a reply or notice in the main timeline shows what it answers.
        media: of an attachment, where its file is: `url`, or `file` with the keys to it (spec:
            sending encrypted attachments).
        tables: how the tables of a reply are shown.
    """
    match outgoing:
        case Notice():
            return _notice(outgoing) | _relation(outgoing.to, quoting=quoting)
        case Reply():
            return _reply(outgoing, tables) | _relation(outgoing.prompt, quoting=quoting)
        case OutgoingEdit():
            return _edit(outgoing, tables)
        case Poll():
            return _poll(outgoing)
        case Attachment():
            return _attachment(outgoing) | (media or {})
        case PollEnd():
            return {
                TEXT: outgoing.text,
                POLL_END: {},
                "m.relates_to": {"rel_type": "m.reference", "event_id": outgoing.event_id},
            }


def _edit(edit: OutgoingEdit, tables: Tables) -> dict[str, Any]:
    new = _reply(edit.reply, tables)
    first_line = new["body"].split("\n", 1)[0][:_FALLBACK_LENGTH]
    return {
        "msgtype": new["msgtype"],
        "body": f"* {first_line}",
        "m.mentions": {},
        "m.new_content": new,
        "m.relates_to": {"rel_type": "m.replace", "event_id": edit.event_id},
    }


def _poll(poll: Poll) -> dict[str, Any]:
    """Build a poll in the unstable names alone: clients show one in the stable names as empty.

    The text is for clients that know no polls.
    """
    numbered = (f"{number}. {one.text}" for number, one in enumerate(poll.answers, 1))
    content: dict[str, Any] = {
        TEXT: "\n".join([poll.question, *numbered]),
        POLL: {
            "question": {TEXT: poll.question},
            "kind": f"org.matrix.msc3381.poll.{'' if poll.disclosed else 'un'}disclosed",
            "max_selections": 1,
            "answers": [{"id": one.id, TEXT: one.text} for one in poll.answers],
        },
        "m.mentions": {} if poll.asks is None else {"user_ids": [poll.asks]},
    }
    if poll.thread_root is not None:
        content["m.relates_to"] = _in_thread(poll.thread_root, poll.latest or poll.thread_root)
    return content


def _notice(notice: Notice) -> dict[str, Any]:
    content = _text("m.text" if notice.notifies else "m.notice", render(notice.text))
    if notice.asks:
        content[QUESTION] = {}
    if notice.to is not None or notice.notifies:  # who reads it must not take it for a prompt
        content[NOTICE_MARKER] = {} if notice.to is None else _named(_ids(notice.to))
    if notice.unanswered:
        content[NOTICE_MARKER]["unanswered"] = True
    return content


def _reply(reply: Reply, tables: Tables) -> dict[str, Any]:
    above, below = [[render(line) for line in lines] for lines in (reply.above, reply.added)]
    text = render(reply.part, tables=tables)
    shown = [*above, unfinished(text) if reply.unfinished else text, *below]
    rendered = Rendered(
        "\n\n".join(one.body for one in shown if one.body),
        "".join(one.formatted_body for one in shown),
    )
    added = reply.part.opening.split("\n")[:1] if reply.part.opening else []  # its number
    added += [line for one in (*above, *below) for line in one.body.split("\n")]
    marker = {"model": reply.model} | _named(reply.prompt.event_ids)
    if reply.claim:
        marker["claim"] = reply.claim
    if reply.final:
        marker["final"] = True
    if reply.unfinished:
        marker["unfinished"] = True
    return _text("m.text", rendered) | {MARKER: marker | {"added": added}}


def _text(msgtype: str, rendered: Rendered) -> dict[str, Any]:
    return {
        "msgtype": msgtype,
        "body": rendered.body,
        "format": HTML,
        "formatted_body": rendered.formatted_body,
        "m.mentions": {},
    }


def _named(ids: Sequence[EventId]) -> dict[str, Any]:
    """Name a prompt, message by message, as both markers do."""
    first, *joined = ids
    return {"prompt": first} | ({"joined": joined} if joined else {})


def _ids(to: Prompt | Undecryptable | Anchor) -> tuple[EventId, ...]:
    return to.event_ids if isinstance(to, Prompt) else (to.event_id,)


def _relation(
    to: Prompt | Undecryptable | Anchor | None, *, quoting: bool
) -> dict[str, dict[str, Any]]:
    """Relate to what is answered in its thread; in the main timeline at most quote it.

    A message there must not have a `rel_type`: a client that pages back drops it while the event
    that it relates to is not loaded yet (matrix-js-sdk, `Room.eventShouldLiveIn`).
    """
    if to is not None and to.thread_root is not None:
        return {"m.relates_to": _in_thread(to.thread_root, _ids(to)[-1])}
    if to is not None and quoting:
        return {"m.relates_to": {"m.in_reply_to": {"event_id": _ids(to)[-1]}}}
    return {}


def _attachment(one: Attachment) -> dict[str, Any]:
    """Build an attachment without its file (spec: m.image and m.file).

    Its `info` is of the file before it is encrypted. Clients show a file, and save it, under its
    `body`, which is the name therefore; of a picture they read it out. None shows it as a caption.
    """
    info: dict[str, Any] = {"mimetype": one.mimetype, "size": len(one.data)}
    if one.size is not None:
        info["w"], info["h"] = one.size
    content: dict[str, Any] = {
        "msgtype": "m.file" if one.size is None else "m.image",
        "body": one.body,
        "filename": one.name,
        "info": info,
        "m.mentions": {},
    }
    if one.to is not None:
        content[NOTICE_MARKER] = _named(one.to.event_ids)
    return content | _relation(one.to, quoting=False)


def _in_thread(root: EventId, latest: EventId) -> dict[str, Any]:
    return {
        "rel_type": "m.thread",
        "event_id": root,
        "is_falling_back": True,
        "m.in_reply_to": {"event_id": latest},
    }

"""Builders of the JSON content of the bot's events, without input or output."""

from collections.abc import Sequence
from typing import Any

from bot.core.events import EventId, Prompt, Undecryptable
from bot.core.markdown import Rendered, Tables, render, unfinished
from bot.core.outgoing import Anchor, Attachment, Notice, Outgoing, OutgoingEdit, Reply
from bot.core.polls import POLL, POLL_END, QUESTION, Poll, PollEnd
from bot.matrix.parse import HTML, MARKER, MESSAGE, NOTICE_MARKER, TEXT

# characters of an edit's fallback body, which clients that know edits never show
_FALLBACK_LENGTH = 100


def event_type(outgoing: Outgoing) -> str:
    """Return the event type for an outgoing message."""
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
    """Return the event content for an outgoing message.

    Args:
        outgoing: the message to send.
        quoting: whether a reply or notice in the main timeline quotes the prompt.
        media: location of an attachment's file: `url`, or `file` with its keys (spec: sending
            encrypted attachments).
        tables: how tables in a reply are shown.
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
    """Build a poll with the unstable names only: clients show one with stable names as empty.

    The text is for clients that do not know polls. See MSC3381:
    https://github.com/matrix-org/matrix-spec-proposals/pull/3381.
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
    # the marker keeps readers from taking the notice for a prompt
    if notice.to is not None or notice.notifies:
        content[NOTICE_MARKER] = {} if notice.to is None else _prompt_ids(_event_ids(notice.to))
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
    added = reply.part.opening.split("\n")[:1] if reply.part.opening else []  # the part's number
    added += [line for one in (*above, *below) for line in one.body.split("\n")]
    marker = {"model": reply.model} | _prompt_ids(reply.prompt.event_ids)
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


def _prompt_ids(ids: Sequence[EventId]) -> dict[str, Any]:
    """Return the marker fields that name a prompt, message by message."""
    first, *joined = ids
    return {"prompt": first} | ({"joined": joined} if joined else {})


def _event_ids(to: Prompt | Undecryptable | Anchor) -> tuple[EventId, ...]:
    return to.event_ids if isinstance(to, Prompt) else (to.event_id,)


def _relation(
    to: Prompt | Undecryptable | Anchor | None, *, quoting: bool
) -> dict[str, dict[str, Any]]:
    """Relate a message to its prompt: in the prompt's thread, or by a quotation at most.

    A message in the main timeline must not have a `rel_type`. A client that pages back drops such
    an event for good if the event it relates to is not loaded yet:
    https://github.com/matrix-org/matrix-js-sdk/issues/3937.
    """
    if to is not None and to.thread_root is not None:
        return {"m.relates_to": _in_thread(to.thread_root, _event_ids(to)[-1])}
    if to is not None and quoting:
        return {"m.relates_to": {"m.in_reply_to": {"event_id": _event_ids(to)[-1]}}}
    return {}


def _attachment(one: Attachment) -> dict[str, Any]:
    """Build the content of an attachment without its file (spec: m.image and m.file).

    `info` describes the file before encryption. Clients show and save a file under its `body`, so
    `body` is the file's name. For a picture, clients read `body` aloud; none shows it as a
    caption.
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
        content[NOTICE_MARKER] = _prompt_ids(one.to.event_ids)
    return content | _relation(one.to, quoting=False)


def _in_thread(root: EventId, latest: EventId) -> dict[str, Any]:
    return {
        "rel_type": "m.thread",
        "event_id": root,
        "is_falling_back": True,
        "m.in_reply_to": {"event_id": latest},
    }

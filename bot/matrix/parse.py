"""Parsers from the JSON of Matrix events to core events. Malformed events become None."""

import hashlib
import itertools
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

import nio
import vodozemac

from bot.core.events import (
    MOST_MESSAGES,
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
from bot.core.markdown import UNFINISHED
from bot.core.polls import MOST_ANSWERS, POLL, QUESTION
from bot.matrix.json_fields import Json, can_be_id, identifier, mapping, text, timestamp, whole
from bot.matrix.mentions import pills, typed_in_html, typed_in_text, without_fallback

MESSAGE = "m.room.message"
TEXT = "org.matrix.msc1767.text"  # extensible events (MSC1767), used by polls
HTML = "org.matrix.custom.html"
# On all text of the model: docs/reliability.md, R13.
MARKER = "fr.gouv.assistant.generated"
NOTICE_MARKER = "fr.gouv.assistant.notice"  # on notices of the bot itself

# The name that clients send, and the name of the final MSC3381.
POLL_STARTS = (POLL, "m.poll.start")
POLL_RESPONSES = ("org.matrix.msc3381.poll.response", "m.poll.response")


VERIFICATION_REQUEST = "m.key.verification.request"

ReadableEvent = Message | Edit | Redaction | Reaction | Vote | Undecryptable | Upgraded

_AFTER_NAME = re.compile(r"[\s:,;]*")
_SELECTORS = re.compile("[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]")


def parse_event(
    event: object, room_id: RoomId, me: UserId, encrypted_since: float | None = None
) -> ReadableEvent | None:
    """Parse one of nio's events, decrypted if its key is known.

    Args:
        event: nio's event.
        room_id: the event's room.
        me: the bot.
        encrypted_since: when the room became encrypted, in the homeserver's milliseconds; None
            if it is not encrypted.
    """
    source = mapping(getattr(event, "source", None))
    if isinstance(event, nio.MegolmEvent | nio.UnknownEncryptedEvent):
        return parse_undecryptable(source, room_id)
    kind, in_clear = text(source, "type"), not getattr(event, "decrypted", False)
    if kind == "m.reaction":
        return _parse_reaction(source, room_id)
    if kind == "m.room.redaction" and in_clear:
        return _parse_redaction(source, room_id)
    if kind == "m.room.tombstone" and in_clear:
        return _parse_upgrade(source, room_id)
    parsed = parse_clear(source, room_id, me)
    if isinstance(parsed, Message | Vote):
        parsed = replace(parsed, fingerprint=getattr(event, "fingerprint", None))
    if parsed is None or not in_clear or encrypted_since is None:
        return parsed
    return replace(parsed, exposed=parsed.timestamp >= encrypted_since)


def latest_edit(event: object) -> Json | None:
    """Return the newest edit that the homeserver bundles with an event; it may be encrypted.

    Spec: event replacements, server-side aggregation.
    """
    unsigned = mapping(mapping(getattr(event, "source", None)).get("unsigned"))
    edit = mapping(mapping(unsigned.get("m.relations")).get("m.replace"))
    return edit if isinstance(edit.get("content"), dict) else None


def fingerprint(sender: str, session_id: str, ciphertext: str) -> str | None:
    """Return an id that all copies of one Megolm message share; None if it is malformed.

    The message index tells which message of the session it is (spec: Megolm, replay attacks).
    """
    try:
        index = vodozemac.MegolmMessage.from_base64(ciphertext).message_index()
    except ValueError:
        return None
    return hashlib.sha256(f"{sender}\0{session_id}\0{index}".encode()).hexdigest()[:32]


def parse_clear(source: Json, room_id: RoomId, me: UserId) -> Message | Edit | Vote | None:
    """Parse a message, an edit, a poll or a vote from its clear text."""
    kind = text(source, "type")
    if kind in POLL_STARTS:
        return _parse_poll(source, room_id)
    if kind in POLL_RESPONSES:
        return _parse_vote(source, room_id)
    return parse_message(source, room_id, me)


def parse_message(source: Json, room_id: RoomId, me: UserId) -> Message | Edit | None:
    """Parse one `m.room.message`, or one `m.sticker`, whose type serves as `msgtype`.

    Spec: room messages, sticker messages, threads, event replacements. The bot's own announcement
    is parsed as a notice, although it is sent as `m.text`.
    """
    content, kind = mapping(source.get("content")), text(source, "type")
    event_id, sender = identifier(source, "event_id"), identifier(source, "sender")
    if kind not in {MESSAGE, "m.sticker"} or not (event_id and sender and content):
        return None
    msgtype = kind if kind == "m.sticker" else content.get("msgtype")
    if msgtype == VERIFICATION_REQUEST:  # meant for clients, not for people
        return None
    # a copy forwarded by a person belongs to that person
    if sender == me and msgtype in {"m.notice", "m.text"}:
        msgtype = _own_type(msgtype, content)
    if not isinstance(msgtype, str) or not isinstance(content.get("body"), str):
        return None
    relation = mapping(content.get("m.relates_to"))
    target = identifier(relation, "event_id")
    if text(relation, "rel_type") == "m.replace":
        new = mapping(content.get("m.new_content"))
        if not target or not isinstance(new.get("body"), str):
            return None
        return Edit(
            event_id=EventId(event_id),
            room_id=room_id,
            sender=UserId(sender),
            target=EventId(target),
            body=_body(new, me),
            timestamp=timestamp(source),
            answers=_answers(new),
            claim=_claim(new),
            final=_is_final(new),
        )
    root, quoted = _thread_and_reply(relation)
    quotes = bool(mapping(relation.get("m.in_reply_to")))
    return Message(
        event_id=EventId(event_id),
        room_id=room_id,
        sender=UserId(sender),
        msgtype=msgtype,
        body=_body(content, me, quoting=quotes),
        timestamp=timestamp(source),
        thread_root=root,
        mentions=_mentions(content),
        replies_to=quoted,
        answers=_answers(content),
        claim=_claim(content),
        final=_is_final(content),
        about=_prompt_of(content, NOTICE_MARKER),
        unanswered=mapping(content.get(NOTICE_MARKER)).get("unanswered") is True,
        typed_at=_typed_at(content, quotes=quotes),
    )


def _thread_and_reply(relation: Json) -> tuple[EventId | None, EventId | None]:
    """Return the thread's root, and the event replied to, unless that is only a fallback."""
    target = identifier(relation, "event_id")
    in_thread = text(relation, "rel_type") == "m.thread" and bool(target)
    quoted = identifier(mapping(relation.get("m.in_reply_to")), "event_id")
    falls_back = in_thread and relation.get("is_falling_back") is True
    root = EventId(target) if in_thread else None
    return root, EventId(quoted) if quoted and not falls_back else None


def _parse_poll(source: Json, room_id: RoomId) -> Message | None:
    """Parse one poll as a message: its body is the question, its `msgtype` the event type.

    Both the unstable and the final names of MSC3381 are accepted.
    """
    event_id, sender = identifier(source, "event_id"), identifier(source, "sender")
    content = mapping(source.get("content"))
    poll = next((mapping(content[name]) for name in POLL_STARTS if name in content), {})
    if not (event_id and sender and poll):
        return None
    root, quoted = _thread_and_reply(mapping(content.get("m.relates_to")))
    return Message(
        event_id=EventId(event_id),
        room_id=room_id,
        sender=UserId(sender),
        msgtype=POLL,
        body=_extensible_text(mapping(poll.get("question"))),
        timestamp=timestamp(source),
        thread_root=root,
        mentions=_mentions(content),
        replies_to=quoted,
    )


def _extensible_text(content: Json) -> str:
    """Return a text of extensible events (MSC1767): a string, or a list of representations."""
    several = content.get("m.text")
    first = mapping(several[0]) if isinstance(several, list) and several else {}
    return text(content, TEXT) or text(content, "m.text") or text(first, "body")


def _parse_vote(source: Json, room_id: RoomId) -> Vote | None:
    """Parse one vote. With malformed answers it has none: an invalid vote."""
    event_id, sender = identifier(source, "event_id"), identifier(source, "sender")
    content = mapping(source.get("content"))
    relation = mapping(content.get("m.relates_to"))
    target = identifier(relation, "event_id")
    if not (event_id and sender and target) or text(relation, "rel_type") != "m.reference":
        return None
    named = [mapping(content[name]).get("answers") for name in POLL_RESPONSES if name in content]
    answers = named[0] if named else content.get("m.selections")
    found = answers if isinstance(answers, list) else []
    valid = all(can_be_id(one) for one in found)
    return Vote(
        event_id=EventId(event_id),
        room_id=room_id,
        sender=UserId(sender),
        target=EventId(target),
        answers=tuple(found[:MOST_ANSWERS]) if valid else (),
        timestamp=timestamp(source),
    )


def _parse_reaction(source: Json, room_id: RoomId) -> Reaction | None:
    """Parse one `m.reaction` (spec: event annotations)."""
    event_id, sender = identifier(source, "event_id"), identifier(source, "sender")
    relation = mapping(mapping(source.get("content")).get("m.relates_to"))
    target, key = identifier(relation, "event_id"), text(relation, "key")
    annotates = text(relation, "rel_type") == "m.annotation"
    if not (event_id and sender and target and key and annotates):
        return None
    return Reaction(
        event_id=EventId(event_id),
        room_id=room_id,
        sender=UserId(sender),
        target=EventId(target),
        key=_SELECTORS.sub("", key),
        timestamp=timestamp(source),
    )


def _parse_redaction(source: Json, room_id: RoomId) -> Redaction | None:
    """Parse one `m.room.redaction`. Since room version 11, `redacts` is in its content."""
    event_id, sender = identifier(source, "event_id"), identifier(source, "sender")
    target = identifier(source, "redacts") or identifier(mapping(source.get("content")), "redacts")
    if not (event_id and sender and target):
        return None
    return Redaction(EventId(event_id), room_id, UserId(sender), EventId(target))


def parse_undecryptable(source: Json, room_id: RoomId) -> Undecryptable | None:
    """Parse the clear fields of an encrypted event; None if it is no prompt and no vote.

    The relation decides (spec: m.relates_to stays outside the ciphertext). A prompt has none or
    one to a thread, a vote one to its poll. Edits and reactions have others.
    """
    content = mapping(source.get("content"))
    event_id, sender = identifier(source, "event_id"), identifier(source, "sender")
    relation = mapping(content.get("m.relates_to"))
    kind = text(relation, "rel_type")
    if text(source, "type") != "m.room.encrypted" or not (event_id and sender):
        return None
    target = EventId(identifier(relation, "event_id")) or None
    if kind not in {"", "m.thread", "m.reference"}:
        return None
    session_id = identifier(content, "session_id")
    return Undecryptable(
        event_id=EventId(event_id),
        room_id=room_id,
        sender=UserId(sender),
        session_id=session_id,
        timestamp=timestamp(source),
        thread_root=target if kind == "m.thread" else None,
        fingerprint=fingerprint(sender, session_id, text(content, "ciphertext")),
        refers_to=target if kind == "m.reference" else None,
    )


def _parse_upgrade(source: Json, room_id: RoomId) -> Upgraded | None:
    """Parse one `m.room.tombstone` (spec: room upgrades)."""
    event_id, sender = identifier(source, "event_id"), identifier(source, "sender")
    replacement = identifier(mapping(source.get("content")), "replacement_room")
    if not (event_id and sender and replacement) or source.get("state_key") != "":
        return None
    return Upgraded(EventId(event_id), room_id, UserId(sender), RoomId(replacement))


def _mentions(content: Json) -> frozenset[UserId]:
    """Return the mentioned users: `m.mentions`, or the pills of older clients."""
    if "m.mentions" in content:
        user_ids = mapping(content["m.mentions"]).get("user_ids")
        return frozenset(map(UserId, _valid_ids(user_ids if isinstance(user_ids, list) else [])))
    pills_of = pills(text(content, "formatted_body"))
    return frozenset(map(UserId, _valid_ids(user_id for user_id, _ in pills_of)))


def _own_type(msgtype: object, content: Json) -> object:
    """Return the `msgtype` of one of the bot's messages; its announcements count as notices."""
    if QUESTION in content:
        return QUESTION
    return "m.notice" if NOTICE_MARKER in content else msgtype


def _typed_at(content: Json, *, quotes: bool) -> tuple[str, ...]:
    """Return the text after each "@" of a message."""
    body = text(content, "body")
    if "@" not in body:
        return ()
    if content.get("format") == HTML and (formatted := text(content, "formatted_body")):
        return typed_in_html(formatted)
    return typed_in_text(without_fallback(body) if quotes else body)


def _answers(content: Json) -> tuple[EventId, ...]:
    """Return the messages that a generated message answers: its prompt, and those joined to it."""
    return _prompt_of(content, MARKER)


def _prompt_of(content: Json, name: str) -> tuple[EventId, ...]:
    """Return the events of the prompt that a marker names."""
    marker = mapping(content.get(name))
    joined = marker.get("joined")
    ids = [marker.get("prompt"), *(joined if isinstance(joined, list) else [])]
    return tuple(map(EventId, _valid_ids(ids)))


def _claim(content: Json) -> int:
    """Return the number that all parts of one generated text share; 0 for none."""
    return whole(mapping(content.get(MARKER)).get("claim"))


def _is_final(content: Json) -> bool:
    """Return whether a generated message completes its reply."""
    return mapping(content.get(MARKER)).get("final") is True


def _without_unfinished(body: str, lines: Collection[str]) -> str:
    """Return the body without the "unfinished" sign, after which only the bot's own lines come."""
    said = body.split("\n")
    while said and (not said[-1] or said[-1] in lines):
        said.pop()
    return "\n".join(said).removesuffix(UNFINISHED)


def _valid_ids(values: Iterable[object]) -> Iterator[str]:
    """Yield the valid ids, at most as many as a prompt has messages."""
    ids = (one for one in values if can_be_id(one))
    return itertools.islice(ids, MOST_MESSAGES)


def _body(content: Json, me: UserId, *, quoting: bool = False) -> str:
    """Return the body without the bot's own lines, a leading mention, and a quotation."""
    added = mapping(content.get(MARKER)).get("added")
    lines = (
        set(added) if isinstance(added, list) and all(isinstance(x, str) for x in added) else ()
    )
    body = text(content, "body")
    if mapping(content.get(MARKER)).get("unfinished") is True:
        body = _without_unfinished(body, lines)
    if lines:
        return "\n".join(line for line in body.split("\n") if line not in lines).strip()
    if quoting:
        body = without_fallback(body)
    return _without_name(body, content, me)


def _without_name(body: str, content: Json, me: UserId) -> str:
    """Return the body without a leading mention of the bot, unless nothing else is left."""
    formatted = text(content, "formatted_body")
    names = [words for user_id, words in pills(formatted) if user_id == me]
    for name in (*names, me, me.partition(":")[0]):
        start = body.lstrip()
        if name and start.lower().startswith(name.lower()):
            rest = start[len(name) :]
            if rest[:1].isalnum() or (name[:1] == "@" and re.match(r":\S", rest)):
                continue  # the name continues: it is another one's
            after = _AFTER_NAME.match(rest)
            return rest[after.end() if after else 0 :] or body
    return body

"""Readers of a room's timeline: its events, and the bot's own messages since a prompt."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import nio
import structlog

from bot.core.events import Edit, EventId, Message, RoomId, Undecryptable, UserId
from bot.core.outgoing import SentReply, SentSince
from bot.errors import Forbidden
from bot.matrix.error_mapping import call
from bot.matrix.json_fields import Json, identifier, mapping, text
from bot.matrix.nio_client import SafeClient
from bot.matrix.parse import ReadableEvent, latest_edit, parse_event
from bot.matrix.response_repair import ObjectResponse
from bot.matrix.time_slice import TimeSlice

log = structlog.get_logger()

PAGE = 100  # events
PAGES = 10  # most pages that are read, forward or back


async def read_events(
    client: SafeClient,
    events: Sequence[Any],
    room_id: RoomId,
    me: UserId,
    encrypted_since: float | None = None,
) -> list[ReadableEvent]:
    """Convert nio's events to core events, each followed by its bundled edit.

    An edit in clear text is ignored in an encrypted room. For `encrypted_since` see `parse_event`.
    """
    found: list[ReadableEvent] = []
    time_slice = TimeSlice()
    for event in events:
        await time_slice.yield_if_over()
        parsed = parse_event(event, room_id, me, encrypted_since)
        if parsed is None:
            continue
        found.append(parsed)
        edit = None
        if isinstance(parsed, Message):
            edit = _newest_edit(client, event, room_id, me, encrypted_since)
        if edit is not None and not edit.exposed:
            found.append(edit)
    return found


def _newest_edit(
    client: SafeClient,
    event: Any,  # noqa: ANN401  # any of nio's
    room_id: RoomId,
    me: UserId,
    encrypted_since: float | None = None,
) -> Edit | None:
    """Return the edit that is bundled with an event; None if there is none or it is unreadable."""
    edit = latest_edit(event)
    if edit is None:
        return None
    bundled = client.decrypted(room_id, nio.Event.parse_event(dict(edit)))
    newest = parse_event(bundled, room_id, me, encrypted_since)
    return newest if isinstance(newest, Edit) else None


class OwnMessages:
    """The bot's own messages since a prompt, read forward from its first message.

    The homeserver cannot find them by a relation, because they have none in the main timeline.
    Each one names its prompt in a marker, which may be encrypted.
    """

    def __init__(
        self, client: SafeClient, me: UserId, room_id: RoomId, prompt: Sequence[EventId]
    ) -> None:
        self._client = client
        self._me = me
        self._room_id = room_id
        self._prompt = frozenset(prompt)
        self._filter = {
            "senders": [me],
            "types": ["m.room.message", "m.room.encrypted"],
            "lazy_load_members": True,
        }
        self._about: dict[EventId, SentReply] = {}  # a homeserver may return an event twice
        self._unreadable: dict[EventId, Undecryptable] = {}

    async def read(self, first: EventId) -> SentSince:
        """Read forward from the message `first`, at most PAGES pages.

        Reading stops at a complete reply. If the homeserver does not return the following events,
        the result is marked as incomplete.

        Raises:
            MatrixError: the homeserver does not return the messages.
        """
        try:
            events, end = await self._begin(first)
        except Forbidden as error:
            log.warning("history not read", event_id=first, reason=str(error))
            return SentSince(whole=False)
        await self._take(events)
        if end is None:
            return self._found(whole=self._is_whole())
        for _ in range(PAGES):
            if self._is_whole():
                break
            page = await call(
                nio.RoomMessagesResponse,
                self._client.room_messages(
                    self._room_id,
                    start=end,
                    direction=nio.MessageDirection.front,
                    limit=PAGE,
                    message_filter=self._filter,
                ),
            )
            await self._take(page.chunk)
            if not page.end or page.end == end:
                return self._found(whole=True)
            end = page.end
        return self._found(whole=self._is_whole())

    async def _begin(self, first: EventId) -> tuple[list[Any], str | None]:
        """Return the events right after an event, and the token to continue with.

        Spec: GET /rooms/{roomId}/context/{eventId}, with a limit of no events.
        """
        steps = "rooms", self._room_id, "context", first
        path = "/".join(quote(step, safe="") for step in steps)
        asked = quote(nio.Api.to_json(self._filter))
        request = self._client._send(  # noqa: SLF001  # nio's own method has no filter
            ObjectResponse, "GET", f"/_matrix/client/v3/{path}?limit=0&filter={asked}"
        )
        source = (await call(ObjectResponse, request)).source
        after = source.get("events_after")
        events = [
            self._client.decrypted(self._room_id, nio.Event.parse_event(one))
            for one in (after if isinstance(after, list) else [])
            if isinstance(one, dict)
        ]
        return events, text(source, "end") or None

    def _is_whole(self) -> bool:
        return bool(self._about) and list(self._about.values())[-1].final

    def _found(self, *, whole: bool) -> SentSince:
        return SentSince(tuple(self._about.values()), tuple(self._unreadable.values()), whole)

    async def _take(self, events: Sequence[Any]) -> None:
        time_slice = TimeSlice()
        for event in events:
            await time_slice.yield_if_over()
            source = mapping(getattr(event, "source", None))
            if identifier(source, "sender") != self._me:
                continue
            parsed = parse_event(event, self._room_id, self._me)
            edit = _newest_edit(self._client, event, self._room_id, self._me)
            if isinstance(parsed, Undecryptable):
                self._take_unreadable(parsed, edit)
            elif isinstance(parsed, Message):
                self._take_message(parsed, edit or parsed, source)

    def _take_unreadable(self, one: Undecryptable, edit: Edit | None) -> None:
        """Record an undecryptable message. Its newest edit may be readable and name the prompt."""
        if edit is not None and edit.answers:
            if not self._prompt.isdisjoint(edit.answers):
                self._about[one.event_id] = _own(one, edit)
        elif one.session_id and one.refers_to in {None, *self._prompt}:
            self._unreadable[one.event_id] = one

    def _take_message(self, one: Message, newest: Message | Edit, source: Json) -> None:
        if self._prompt.isdisjoint({*one.answers, *one.about, *_related(source)}):
            return
        own = _own(one, newest)
        if not newest.answers:
            own = replace(own, body=text(mapping(source.get("content")), "body"))
        self._about[one.event_id] = own


def _own(first: Message | Undecryptable, newest: Message | Edit) -> SentReply:
    """Return one of the bot's messages in its newest version."""
    return SentReply(
        event_id=first.event_id,
        answers=newest.answers,
        claim=newest.claim,
        final=newest.final,
        body=newest.body,
    )


def _related(source: Json) -> set[str]:
    """Return the events that an event relates to or quotes, except the root of its thread."""
    relation = mapping(mapping(source.get("content")).get("m.relates_to"))
    quoted = identifier(mapping(relation.get("m.in_reply_to")), "event_id")
    in_thread = text(relation, "rel_type") == "m.thread"  # the root may be the prompt
    return {quoted, "" if in_thread else identifier(relation, "event_id")}

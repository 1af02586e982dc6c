"""Read a room's timeline: its events as ours, and what the bot itself has sent since a prompt."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import nio

from bot.core.events import EventId, Message, Revision, RoomId, Undecryptable, UserId
from bot.core.replies import Own, OwnSince
from bot.errors import NotFound
from bot.matrix.failures import call
from bot.matrix.parse import Heard, identifier, latest_edit, mapping, parse_event, text
from bot.matrix.safe_client import SafeClient, Turns
from bot.matrix.wire import ObjectResponse

PAGE = 100  # events
PAGES = 10  # as far as a timeline is read, forward or back


async def read_events(
    client: SafeClient, events: Sequence[Any], room_id: RoomId, me: UserId
) -> list[Heard]:
    """Return nio's events as ours, each followed by the edit that is bundled with it."""
    found: list[Heard] = []
    turns = Turns()
    for event in events:
        await turns.next()
        heard = parse_event(event, room_id, me)
        if heard is None:
            continue
        found.append(heard)
        edit = latest_edit(event)
        if edit is not None and isinstance(heard, Message):
            bundled = client.decrypted(room_id, nio.Event.parse_event(dict(edit)))
            revision = parse_event(bundled, room_id, me)
            if isinstance(revision, Revision):
                found.append(revision)
    return found


class OwnMessages:
    """The bot's own messages since a prompt, read forward from its first message.

    A homeserver cannot be asked for them by a relation: in the main timeline they have none. Each
    names its prompt in a marker, which may be encrypted.
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
        self._about: list[Own] = []
        self._unreadable: list[Undecryptable] = []

    async def read(self, first: EventId) -> OwnSince:
        """Read from the message `first` on, as far as it takes, and no further than PAGES.

        Behind a whole reply nothing more is looked for. Of a message that is not there, nothing
        can be told.

        Raises:
            MatrixError: the homeserver does not hand the messages out.
        """
        try:
            events, end = await self._begin(first)
        except NotFound:
            return OwnSince()
        await self._take(events)
        for _ in range(PAGES):
            if end is None or self._is_whole():
                return self._found(whole=True)
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
            end = page.end
        return self._found(whole=end is None or self._is_whole())

    async def _begin(self, first: EventId) -> tuple[list[Any], str | None]:
        """Return what the homeserver tells right behind an event, and the token to go on with.

        Spec: GET /rooms/{roomId}/context/{eventId}. It is asked for no events at all.
        """
        steps = "rooms", self._room_id, "context", first
        path = "/".join(quote(step, safe="") for step in steps)
        asked = quote(nio.Api.to_json(self._filter))
        request = self._client._send(  # noqa: SLF001  # nio's own method takes no filter
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
        return bool(self._about) and self._about[-1].final

    def _found(self, *, whole: bool) -> OwnSince:
        return OwnSince(tuple(self._about), tuple(self._unreadable), whole)

    async def _take(self, events: Sequence[Any]) -> None:
        for event in events:
            source = mapping(getattr(event, "source", None))
            if identifier(source, "sender") != self._me:
                continue
            heard = await read_events(self._client, [event], self._room_id, self._me)
            match heard:
                case [Undecryptable() as one]:
                    if one.session_id and one.refers_to in {None, *self._prompt}:
                        self._unreadable.append(one)
                case [Message() as one, *edits] if not self._prompt.isdisjoint(
                    {*one.answers, *one.about, *_related(source)}
                ):
                    newest = edits[-1] if edits and isinstance(edits[-1], Revision) else one
                    content = mapping(source.get("content"))
                    body = newest.body if newest.answers else text(content, "body")
                    self._about.append(
                        Own(
                            *(one.event_id, newest.answers, newest.claim),
                            final=newest.final,
                            body=body,
                        )
                    )


def _related(source: Any) -> set[str]:  # noqa: ANN401  # any event's JSON
    """Return what an event relates to or quotes, but for the thread that it stands in."""
    relation = mapping(mapping(source.get("content")).get("m.relates_to"))
    quoted = identifier(mapping(relation.get("m.in_reply_to")), "event_id")
    in_thread = text(relation, "rel_type") == "m.thread"  # whose root may be the prompt
    return {quoted, "" if in_thread else identifier(relation, "event_id")}

"""The history of conversations: read from their rooms, then kept up to date in memory."""

import asyncio
import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from urllib.parse import quote
from weakref import WeakValueDictionary

import nio
from nio.api import RelationshipType
from nio.responses import RoomEventRelationsResponse

from bot.core.events import (
    Conversation,
    Edit,
    EventId,
    Message,
    Prompt,
    Redaction,
    RoomId,
    Undecryptable,
    UserId,
)
from bot.core.outgoing import PreparedEvent, SentSince
from bot.core.prompt_context import History
from bot.core.transcript import Transcript, TranscriptMessage
from bot.errors import NotFound
from bot.matrix.error_mapping import call
from bot.matrix.json_fields import Json, identifier, mapping, text
from bot.matrix.member_arrivals import MemberArrivals
from bot.matrix.nio_client import SafeClient
from bot.matrix.parse import ReadableEvent
from bot.matrix.response_repair import ObjectResponse
from bot.matrix.state_events import Membership, parse_membership
from bot.matrix.time_slice import TimeSlice
from bot.matrix.timeline import PAGE, PAGES, OwnMessages, read_events

_LINKS = 10  # messages of one chain of replies
_CACHED_CHARACTERS = 16_000_000  # in all cached conversations
_CACHED_CONVERSATIONS = 2_000

_FILTER = {
    "types": ["m.room.message", "m.room.encrypted", "m.room.member"],
    "lazy_load_members": True,
}

_OPEN = {"shared", "world_readable"}  # later members can read the history

Enough = Callable[[Sequence[TranscriptMessage]], bool]


class Histories:
    """Transcripts of the recently used conversations, updated by each new event.

    They are never written to disk.

    Attributes:
        encrypted_at: when each room became encrypted, in the homeserver's milliseconds.
    """

    def __init__(self, client: SafeClient, me: UserId) -> None:
        self._client = client
        self._me = me
        # least recently used first
        self._transcripts: OrderedDict[Conversation, Transcript] = OrderedDict()
        self._sizes: Counter[Conversation] = Counter()  # characters at the last read
        self._of_room: defaultdict[RoomId, set[Conversation]] = defaultdict(set)
        self._arrivals = MemberArrivals(client)
        self.encrypted_at: dict[RoomId, float] = {}
        self._reading: WeakValueDictionary[Conversation, asyncio.Lock] = WeakValueDictionary()

    def encrypted_since(self, room_id: RoomId) -> float | None:
        """Return when the room became encrypted, in milliseconds; None if it is not.

        A room that an earlier process knew as encrypted counts as encrypted from the beginning,
        even if the homeserver does not show its encryption event.
        """
        before = 0.0 if room_id in self._client.known_encrypted else None
        return self.encrypted_at.get(room_id, before)

    def update(self, event: ReadableEvent) -> None:
        """Update the transcripts with a message, an edit or a redaction, the bot's own as well."""
        if isinstance(event, Message | Undecryptable) and not _refers(event):
            for root in {None, event.thread_root, event.event_id}:
                transcript = self._transcripts.get(Conversation(event.room_id, root))
                if transcript is not None:
                    transcript.add(event)
        elif isinstance(event, Edit | Redaction):
            for conversation in self._of_room.get(event.room_id, ()):
                self._transcripts[conversation].add(event)

    def update_member(self, room_id: RoomId, member: Membership) -> None:
        """Handle a change of somebody's membership; see `MemberArrivals.update`."""
        self._arrivals.update(room_id, member)

    def reveal(self, message: Message) -> None:
        """Add the text of a message whose key has come late."""
        for conversation in self._of_room.get(message.room_id, ()):
            self._transcripts[conversation].reveal(message)

    def begin(self, conversation: Conversation, message: Message) -> None:
        """Start a transcript with the first message of a new conversation."""
        if conversation not in self._transcripts:
            transcript = self._open(conversation)
            transcript.put_before([message])
            self._sizes[conversation] = transcript.size

    def forget(self, room_id: RoomId | None = None) -> None:
        """Drop the transcripts of a room, or of all: events were missed, or the bot has left."""
        for one in [room_id] if room_id else list(self._of_room):
            for conversation in list(self._of_room.get(one, ())):
                self._close(conversation)
        self._arrivals.forget(room_id)

    async def read(
        self, prompt: Prompt, membership: Json, enough: Enough, visibility: str = "shared"
    ) -> History:
        """Return the prompt's conversation, and the messages that it replies to.

        Args:
            prompt: the prompt.
            membership: the bot's own `m.room.member` event in the room.
            enough: returns whether the messages read so far suffice, so that older ones would not
                count.
            visibility: the room's history visibility (spec: room history visibility). Messages
                that the prompt's sender may not read are left out.

        Raises:
            MatrixError: the homeserver does not return the messages.
        """
        conversation = prompt.conversation
        async with self._reading.setdefault(conversation, asyncio.Lock()):
            transcript = self._transcripts.get(conversation)
            if transcript is None or not transcript.whole:
                transcript = self._open(conversation)
                try:
                    await self._fill(transcript, membership, enough)
                except BaseException:
                    self._close(conversation)
                    raise
            if conversation in self._transcripts:  # it may have been dropped meanwhile
                self._transcripts.move_to_end(conversation)
                self._sizes[conversation] = transcript.size
            self._evict()
        chain = await self._chain(prompt, transcript, membership)
        since = -math.inf
        if visibility not in _OPEN and not _is_only_prompt(
            prompt, [*transcript.messages(), *chain]
        ):
            since = min(
                await self._arrivals.of_sender(prompt, visibility), prompt.messages[-1].timestamp
            )
        said = transcript.messages()
        if hidden := _ids_before(prompt, [*said, *chain], since):
            said, chain = [
                [one for one in part if hidden.isdisjoint({one.event_id, *one.answers})]
                for part in (said, chain)
            ]
        readable = [one for one in chain if one.readable]
        return History(said, readable, len(chain) - len(readable))

    async def fetch(self, room_id: RoomId, event_id: EventId) -> list[ReadableEvent]:
        """Return one event and its newest edit; [] if it is gone or of no use to the bot."""
        try:
            response = await call(
                nio.RoomGetEventResponse, self._client.room_get_event(room_id, event_id)
            )
        except NotFound:
            return []
        return await self._read_events([response.event], room_id)

    async def edits(self, room_id: RoomId, event_id: EventId) -> Sequence[EventId]:
        """Return the bot's edits of its event. The homeserver lists none for a redacted event.

        It also lists edits by others, which have no effect.
        """
        pages = self._relations(room_id, event_id, RelationshipType.replacement)
        sources = [mapping(event.source) async for page in pages for event in page]
        return [
            EventId(identifier(source, "event_id"))
            for source in sources
            if identifier(source, "sender") == self._me
        ]

    async def shown(self, room_id: RoomId, event_id: EventId) -> PreparedEvent | None:
        """Return what the homeserver shows for an event: its newest edit, if it has any.

        None if it is gone. Spec: event replacements, server-side aggregation.
        """
        path = "/".join(quote(step, safe="") for step in ("rooms", room_id, "event", event_id))
        request = self._client._send(  # noqa: SLF001  # nio would drop the fields that it does not know
            ObjectResponse, "GET", f"/_matrix/client/v3/{path}"
        )
        try:
            source = (await call(ObjectResponse, request)).source
        except NotFound:
            return None
        unsigned = mapping(source.get("unsigned"))
        if "redacted_because" in unsigned:
            return None
        edit = mapping(mapping(unsigned.get("m.relations")).get("m.replace"))
        shown = edit or source
        return PreparedEvent(text(shown, "type"), mapping(shown.get("content")))

    async def own_since(self, room_id: RoomId, prompt: Sequence[EventId]) -> SentSince:
        """Return what the bot has sent since the first message of a prompt."""
        reading = OwnMessages(self._client, self._me, room_id, prompt)
        return await reading.read(prompt[0])

    async def _page(self, room_id: RoomId, start: str | None) -> nio.RoomMessagesResponse:
        """Return one page of the timeline, newest first, from `start` or from the newest event."""
        request = self._client.room_messages(
            room_id, start=start, limit=PAGE, message_filter=_FILTER
        )
        return await call(nio.RoomMessagesResponse, request)

    def _open(self, conversation: Conversation) -> Transcript:
        self._of_room[conversation.room_id].add(conversation)
        transcript = Transcript(conversation=conversation, me=self._me)
        self._transcripts[conversation] = transcript
        self._evict()
        return transcript

    def _close(self, conversation: Conversation) -> None:
        self._transcripts.pop(conversation, None)
        self._sizes.pop(conversation, None)
        of_room = self._of_room[conversation.room_id]
        of_room.discard(conversation)
        if not of_room:
            del self._of_room[conversation.room_id]

    def _evict(self) -> None:
        """Drop the least recently used transcripts while all are too large. The newest stays."""
        while len(self._transcripts) > 1 and (
            self._sizes.total() > _CACHED_CHARACTERS
            or len(self._transcripts) > _CACHED_CONVERSATIONS
        ):
            self._close(next(iter(self._transcripts)))

    async def _fill(self, transcript: Transcript, membership: Json, enough: Enough) -> None:
        """Read the earlier messages into the transcript, oldest first."""
        room_id, root = transcript.conversation.room_id, transcript.conversation.thread_root
        if root is None:
            await self._fill_from_timeline(transcript, enough)
            return
        since = await self._arrivals.of_bot(room_id, membership)
        events: list[ReadableEvent] = []
        async for page in self._relations(room_id, root, RelationshipType.thread):
            events[:0] = await self._read_events(page[::-1], room_id)
        events[:0] = await self.fetch(room_id, root)
        transcript.put_before([event for event in _readable(events) if event.timestamp >= since])

    async def _fill_from_timeline(self, transcript: Transcript, enough: Enough) -> None:
        """Page back until older events do not count, or to the bot's invitation."""
        room_id = transcript.conversation.room_id
        events: list[ReadableEvent] = []
        start: str | None = None
        for _ in range(PAGES):
            page = await self._page(room_id, start)
            fresh = _since_invitation(page.chunk, self._me)
            events[:0] = await self._read_events(fresh[::-1], room_id)
            start = page.end
            if len(fresh) < len(page.chunk) or not start:
                break
            read = Transcript(conversation=transcript.conversation, me=self._me)
            read.put_before(_readable(events))
            if enough(read.messages()):
                break
        transcript.put_before(_readable(events))

    async def _read_events(self, events: Sequence[Any], room_id: RoomId) -> list[ReadableEvent]:
        since = self.encrypted_since(room_id)
        return await read_events(self._client, events, room_id, self._me, since)

    async def _relations(
        self, room_id: RoomId, event_id: EventId, kind: RelationshipType
    ) -> AsyncIterator[list[Any]]:
        """Yield the events with this relation to an event, newest first, one page at a time."""
        following: str | None = None
        for _ in range(PAGES):
            request = nio.Api.room_get_event_relations(
                self._client.access_token,
                room_id,
                event_id,
                kind,
                paginate_from=following,
                limit=PAGE,
            )
            try:
                page = await call(
                    RoomEventRelationsResponse,
                    self._client._send(  # noqa: SLF001  # nio's own method ignores errors
                        RoomEventRelationsResponse, *request, response_data=(room_id, event_id)
                    ),
                )
            except NotFound:  # the event itself is gone
                return
            events, time_slice = list[Any](), TimeSlice()
            for event in page.events:
                events.append(self._client.decrypted(room_id, event))
                await time_slice.yield_if_over()
            yield events
            following = page.next_batch
            if not following:
                return

    async def _chain(
        self, prompt: Prompt, transcript: Transcript, membership: Json
    ) -> list[TranscriptMessage]:
        """Return the messages that the prompt replies to, link by link, oldest first.

        In a thread whose root is an answer of the bot's, the prompt of that answer comes first.
        """
        chain: dict[EventId, TranscriptMessage] = {}
        root = transcript.get(transcript.conversation.thread_root or EventId(""))
        begun: list[EventId | None] = [*root.answers] if root is not None else []
        for ends in (begun, *([message.replies_to] for message in prompt.messages)):
            links, found = ends, dict[EventId, TranscriptMessage]()
            while links and len(chain) + len(found) < _LINKS:
                link = links.pop()
                if link is None or link in chain or link in found:
                    continue
                one = transcript.get(link) or await self._quoted(prompt, link, membership)
                if one is not None:
                    found[link] = one
                    links += one.before
            chain = dict(reversed(found.items())) | chain
        return list(chain.values())

    async def _quoted(
        self, prompt: Prompt, event_id: EventId, membership: Json
    ) -> TranscriptMessage | None:
        """Return a message of the same room that is not in the conversation.

        None if it was sent before the bot came. A message that is gone, or was sent in clear text,
        is returned as unreadable.
        """
        events = _readable(await self.fetch(prompt.room_id, event_id))
        if not events or isinstance(events[0], Edit) or _is_exposed(events[0]):
            return TranscriptMessage(
                event_id=event_id,
                sender=prompt.sender,
                body="",
                timestamp=prompt.messages[-1].timestamp,
                readable=False,
            )
        if events[0].timestamp < await self._arrivals.of_bot(prompt.room_id, membership):
            return None
        quoted = Transcript(conversation=Conversation(prompt.room_id, event_id), me=self._me)
        quoted.put_before(events)
        return quoted.get(event_id)


def _is_only_prompt(prompt: Prompt, said: Sequence[TranscriptMessage]) -> bool:
    """Return whether nothing was sent but the prompt and its answers."""
    ids = set(prompt.event_ids)
    return all(ids.issuperset(one.answers or (one.event_id,)) for one in said)


def _ids_before(prompt: Prompt, said: Sequence[TranscriptMessage], since: float) -> set[EventId]:
    ids = set(prompt.event_ids)
    return {one.event_id for one in said if one.timestamp < since} - ids


def _readable(events: Sequence[ReadableEvent]) -> list[Message | Undecryptable | Edit]:
    return [
        event
        for event in events
        if isinstance(event, Message | Undecryptable | Edit) and not _refers(event)
    ]


def _is_exposed(event: Message | Undecryptable) -> bool:
    return isinstance(event, Message) and event.exposed


def _refers(event: ReadableEvent) -> bool:
    """Return whether it is no message: a vote, or a step of a verification."""
    return isinstance(event, Undecryptable) and event.refers_to is not None


def _since_invitation(newest_first: Sequence[Any], me: UserId) -> list[Any]:
    """Return the events of a page after the bot's invitation, or its own join."""
    since: list[Any] = []
    for event in newest_first:
        source = mapping(event.source)
        if "state_key" in source:
            member = parse_membership(source)
            if member is not None and member.user_id == me and _arrives(member):
                break
        since.append(event)
    return since


def _arrives(member: Membership) -> bool:
    return member.now == "invite" or (
        member.now == "join" and member.before not in {"join", "invite"}
    )

"""A client's view of its rooms, as its syncs have filled it, and waits for its changes."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from bot.core.events import EventId, RoomId, UserId

T = TypeVar("T")
JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a message: the original's content, or an edit's `m.new_content`.

    Attributes:
        event_id: the event with this version.
        timestamp: that event's `origin_server_ts`, in milliseconds.
        at: time at which this client could read it, in seconds of the local monotonic clock.
    """

    event_id: EventId
    content: JSON
    timestamp: int
    at: float
    redacted: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """A message as a client shows it at one moment, its edits applied.

    Attributes:
        type: the decrypted event's type; `m.room.encrypted` if it cannot be decrypted.
        versions: every version so far, in the order in which this client could read them.
        failure: the reason why the event cannot be decrypted; None if it can.
    """

    room_id: RoomId
    event_id: EventId
    sender: UserId
    type: str
    versions: tuple[Version, ...] = ()
    failure: str | None = None
    redacted: bool = False

    @property
    def content(self) -> JSON:
        """The current content (spec: Event replacements); {} if redacted or unreadable."""
        standing = [version for version in reversed(self.versions) if not version.redacted]
        if self.redacted or self.failure or not standing:
            return {}
        return max(standing, key=lambda version: version.timestamp).content

    @property
    def body(self) -> str:
        """The current content's body; "" if it has none."""
        return str(self.content.get("body", ""))


class ClientView:
    """The rooms of one client: their state, and all versions of their messages.

    Attributes:
        state: content of the current state events, by room, type and state key.
        typing: changes of the typing state by room and person; only for a JsPerson.
    """

    def __init__(self) -> None:
        self.state: dict[tuple[RoomId, str, str], JSON] = {}
        self.typing: defaultdict[tuple[RoomId, UserId], list[bool]] = defaultdict(list)
        self._set_at: dict[tuple[RoomId, str, str], int] = {}  # their `origin_server_ts`
        self._messages: defaultdict[RoomId, dict[EventId, Seen]] = defaultdict(dict)
        self._changes: defaultdict[RoomId, list[Seen]] = defaultdict(list)
        self._edited: dict[EventId, EventId] = {}
        self._changed = asyncio.Event()
        self._error: BaseException | None = None

    def see(self, room_id: RoomId, event: JSON, failure: str | None = None) -> None:
        """Record an event of a sync, decrypted unless `failure` gives a reason.

        The event comes again when its missing key has arrived.
        """
        relation = event["content"].get("m.relates_to")
        replaced = relation.get("event_id") if _is_edit(relation) else None
        if "state_key" in event:
            self._set(room_id, event)
        elif event["type"] == "m.room.redaction":
            self._redact(room_id, event.get("redacts") or event["content"]["redacts"])
        elif failure is None and replaced:
            self._edit(room_id, event, replaced)
        else:
            self._show(room_id, event, failure)
        self._wake()

    def fail(self, error: BaseException) -> None:
        """Record that the syncs have ended: all waits, now and later, raise this error."""
        self._error = error
        self._wake()

    def messages(self, room_id: RoomId) -> list[Seen]:
        """Return the messages of a room in their current versions, in the timeline's order."""
        return list(self._messages[room_id].values())

    def changes(self, room_id: RoomId) -> AsyncIterator[Seen]:
        """Yield a message of the room at each change, from this call on."""
        return self._changes_since(room_id, len(self._changes[room_id]))

    async def until(
        self, look: Callable[[], T | None], within: float, missing: Callable[[], str]
    ) -> T:
        """Wait until `look` finds something, and return it; else TimeoutError with `missing`."""
        try:
            async with asyncio.timeout(within):
                while (found := look()) is None:
                    await self._next()
                return found
        except TimeoutError:
            raise TimeoutError(f"{missing()} within {within} s") from None

    async def _changes_since(self, room_id: RoomId, index: int) -> AsyncIterator[Seen]:
        changes = self._changes[room_id]
        while True:
            if index == len(changes):
                await self._next()
            else:
                yield changes[index]
                index += 1

    async def _next(self) -> None:
        if self._error:
            raise RuntimeError("this person hears nothing any more") from self._error
        await self._changed.wait()

    def _set(self, room_id: RoomId, event: JSON) -> None:
        """Record a state event, unless it is older than the current one.

        If two people join at once, a sync may repeat an older event (MSC4222).
        """
        key = room_id, event["type"], event["state_key"]
        at = event.get("origin_server_ts", self._set_at.get(key, 0))  # an invitation has none
        if at >= self._set_at.get(key, 0):
            self.state[key], self._set_at[key] = event["content"], at

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _put(self, seen: Seen) -> None:
        self._messages[seen.room_id][seen.event_id] = seen
        self._changes[seen.room_id].append(seen)

    def _show(self, room_id: RoomId, event: JSON, failure: str | None) -> None:
        event_id = event["event_id"]
        known = self._messages[room_id].get(event_id)
        if known and known.failure is None:
            return
        versions = known.versions if known else ()
        if failure is None:
            versions = (*versions, _version(event, event["content"]))
        redacted = "redacted_because" in event.get("unsigned", {})
        sender, event_type = event["sender"], event["type"]
        self._put(Seen(room_id, event_id, sender, event_type, versions, failure, redacted))

    def _edit(self, room_id: RoomId, event: JSON, target: EventId) -> None:
        edit_id = event["event_id"]
        seen = self._messages[room_id].get(target)
        self._messages[room_id].pop(edit_id, None)  # it was listed while it was undecryptable
        if seen is None or seen.sender != event["sender"] or edit_id in self._edited:
            return
        self._edited[edit_id] = target
        version = _version(event, event["content"].get("m.new_content", {}))
        self._put(replace(seen, versions=(*seen.versions, version)))

    def _redact(self, room_id: RoomId, event_id: EventId) -> None:
        seen = self._messages[room_id].get(self._edited.get(event_id, event_id))
        if seen is None:
            return
        versions = tuple(
            replace(version, redacted=version.redacted or version.event_id == event_id)
            for version in seen.versions
        )
        redacted = seen.redacted or seen.event_id == event_id
        self._put(replace(seen, versions=versions, redacted=redacted))


def _is_edit(relation: object) -> bool:
    return isinstance(relation, dict) and relation.get("rel_type") == "m.replace"


def _version(event: JSON, content: JSON) -> Version:
    return Version(event["event_id"], content, event["origin_server_ts"], time.monotonic())

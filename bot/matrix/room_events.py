"""Reader of sync responses: what happened in each room, as core events."""

from collections.abc import Collection, Iterator
from dataclasses import replace

import nio
import structlog

from bot.core.bounded import BoundedDict
from bot.core.events import (
    Conversation,
    Event,
    EventId,
    Invite,
    Joined,
    KeyNews,
    Left,
    Message,
    Redaction,
    RoomId,
    Undecryptable,
    Upgraded,
    UserId,
)
from bot.matrix.crypto import WITHHELD
from bot.matrix.history import Histories
from bot.matrix.json_fields import Json, identifier, mapping, text, timestamp
from bot.matrix.parse import ReadableEvent, parse_event
from bot.matrix.room_state import RoomState
from bot.matrix.state_events import Membership, is_admin_rooms, parse_membership
from bot.monitoring.health import Health

_KNOWN = 20_000  # messages whose sender and relations are remembered

log = structlog.get_logger()


class Rooms(RoomState):
    """Room state and recent messages, updated by each sync response.

    Attributes:
        known: the messages last seen or fetched, without their text; None for redacted ones.
    """

    def __init__(self, me: UserId, health: Health, histories: Histories) -> None:
        super().__init__(me)
        self.known = BoundedDict[EventId, Message | None](_KNOWN)
        self._health = health
        self._histories = histories
        self._latest: dict[RoomId, EventId] = {}  # last message of each main timeline, no edit
        self._closed: list[RoomId] = []

    def remember(self, message: Message) -> None:
        """Remember a message's sender and relations, unless it was redacted."""
        event_id = message.event_id
        redacted = self.known.get(event_id, message) is None
        self.known[event_id] = None if redacted else replace(message, body="", typed_at=())

    def redact(self, redaction: Redaction) -> None:
        """Record that an event of the room is redacted."""
        self._histories.update(redaction)
        known = self.known.get(redaction.target)
        if known is not None and known.room_id == redaction.room_id:
            self.known[redaction.target] = None

    def miss(self, room_id: RoomId | None = None) -> None:
        """Record that events of a room, or of all rooms, were missed."""
        self._histories.forget(room_id)

    def take_closed(self) -> tuple[RoomId, ...]:
        """Return the rooms in which the bot can no longer speak. Each is returned once."""
        closed, self._closed = tuple(self._closed), []
        return closed

    def is_followed(self, room_id: RoomId, prompt: Collection[EventId]) -> bool:
        """Return whether the main timeline ends with a message that is not about the prompt."""
        latest = self._latest.get(room_id)
        if latest is None or latest in prompt:
            return False
        known = self.known.get(latest)
        is_about = known is not None and known.sender == self.me
        return not (is_about and known and {*known.answers, *known.about} & set(prompt))

    def note_sent(self, room_id: RoomId, event_id: EventId) -> None:
        """Record that the bot's message is now the last one of the room's main timeline."""
        self._latest[room_id] = event_id

    def read_response(
        self, response: nio.SyncResponse, *, first: bool, fresh: bool
    ) -> Iterator[list[Event]]:
        """Apply one sync response, and yield the events of each room in order.

        Args:
            response: the response, after its encrypted events were decrypted.
            first: whether it is the first one of this process, which holds the state of every
                room.
            fresh: whether the account has never synced. Earlier messages are then not for the bot.
        """
        for event in response.account_data_events:
            self._read_account_data(getattr(event, "type", ""), getattr(event, "content", None))
        spaces = getattr(response, "spaces", ())
        for room_id, invitation in response.rooms.invite.items():
            space = room_id in spaces
            yield self._read_invitation(RoomId(room_id), invitation, space=space)
        for room_id, joined in response.rooms.join.items():
            events = self._read_room(RoomId(room_id), joined, first=first)
            yield [] if fresh else events
        for room_id in response.rooms.leave:
            self._leave(RoomId(room_id))

    def _leave(self, room_id: RoomId) -> None:
        self.forget(room_id)
        self._latest.pop(room_id, None)
        self._histories.encrypted_at.pop(room_id, None)
        self._histories.forget(room_id)
        self._closed.append(room_id)

    def key_news(self, response: nio.SyncResponse) -> tuple[KeyNews, ...]:
        """Return which room keys have come, and which are withheld by their owners."""
        news: list[KeyNews] = []
        for event in response.to_device_events:
            if isinstance(event, nio.RoomKeyEvent):
                news.append(KeyNews(UserId(event.sender), RoomId(event.room_id), event.session_id))
            elif isinstance(event, nio.UnknownToDeviceEvent) and event.type in WITHHELD:
                content = mapping(mapping(event.source).get("content"))
                news.append(
                    KeyNews(
                        UserId(event.sender),
                        RoomId(identifier(content, "room_id")),
                        identifier(content, "session_id"),
                        text(content, "code"),
                    )
                )
        return tuple(news)

    def _read_account_data(self, kind: str, content: object) -> None:
        if kind != "m.direct":
            return
        for user_id, rooms in mapping(content).items():
            for room_id in rooms if isinstance(rooms, list) else []:
                if isinstance(room_id, str):
                    self.note_direct(UserId(user_id), RoomId(room_id))

    def _read_invitation(
        self, room_id: RoomId, invitation: nio.InviteInfo, *, space: bool
    ) -> list[Event]:
        for event in invitation.invite_state:
            if (
                isinstance(event, nio.InviteMemberEvent)
                and event.state_key == self.me
                and event.membership == "invite"
            ):
                direct = mapping(event.content).get("is_direct") is True
                event_id, sender = EventId(f"invite:{room_id}"), UserId(event.sender)
                return [
                    Invite(
                        event_id=event_id,
                        room_id=room_id,
                        sender=sender,
                        direct=direct,
                        space=space,
                    )
                ]
        return []

    def _read_room(self, room_id: RoomId, info: nio.RoomInfo, *, first: bool) -> list[Event]:
        known = room_id in self._members
        since = self._read_encryption(room_id, info, known=known)
        self._count_members(room_id, info.summary)
        arrival: Joined | None = None
        for event in info.state:
            source = mapping(getattr(event, "source", None))
            self._read_state(room_id, source)
            member = self._read_membership(room_id, source)
            if member is not None and self._joins(member) and not (known or first):
                arrival = Joined(member.event_id, room_id)
        events: list[Event] = []
        for event in info.timeline.events:
            source = mapping(getattr(event, "source", None))
            if getattr(event, "decrypted", False) or "state_key" not in source:
                events += self._read_message(room_id, event, since)
                continue
            self._read_state(room_id, source)
            events += self._read_upgrade(room_id, event)
            member = self._read_membership(room_id, source)
            if member is not None:
                arrival = self._read_member(room_id, member, events) or arrival
        return [arrival, *events] if arrival else events

    def _read_encryption(
        self, room_id: RoomId, info: nio.RoomInfo, *, known: bool
    ) -> float | None:
        """Return when the room became encrypted, for this response; None if it is not.

        If it was encrypted before the response, the answer is 0: senders choose the timestamps of
        their events.
        """
        before = self._histories.encrypted_since(room_id) if known else None
        for event in (*info.state, *info.timeline.events):
            source = mapping(getattr(event, "source", None))
            is_state = not getattr(event, "decrypted", False) and source.get("state_key") == ""
            if is_state and text(source, "type") == "m.room.encryption":
                self._note_encryption(room_id, source)
            elif is_state and is_admin_rooms(source, self.me):
                self._histories.encrypted_at[room_id] = 0.0  # the bot creates this room encrypted
        return self._histories.encrypted_since(room_id) if before is None else 0.0

    def _note_encryption(self, room_id: RoomId, source: Json) -> None:
        """Record an `m.room.encryption` event. An encrypted room stays encrypted.

        The time is unknown if the event replaces another one.
        """
        again = "replaces_state" in mapping(source.get("unsigned"))
        self._histories.encrypted_at.setdefault(
            room_id, 0.0 if again else float(timestamp(source))
        )

    def _read_membership(self, room_id: RoomId, source: Json) -> Membership | None:
        member = parse_membership(source)
        if member is not None and member.user_id == self.me:
            self._memberships[room_id] = source
        elif member is not None:
            self._histories.update_member(room_id, member)
        return member

    def _read_upgrade(self, room_id: RoomId, event: object) -> list[Event]:
        upgraded = parse_event(event, room_id, self.me)
        if not isinstance(upgraded, Upgraded):
            return []
        self._closed.append(room_id)
        return [upgraded]

    def _read_member(
        self, room_id: RoomId, member: Membership, events: list[Event]
    ) -> Joined | None:
        """Apply a change of membership; remove from `events` what is not for the bot."""
        if member.user_id != self.me:
            if member.now in {"leave", "ban"}:
                alone = self._members[room_id] == (1, 0)
                events.append(Left(member.event_id, room_id, alone=alone))
        elif member.now == "invite":
            events.clear()  # events before the invitation are not for the bot
            self._histories.forget(room_id)
        elif self._joins(member):
            if not self.room(room_id).direct:
                events.clear()  # in a salon, neither are events before the join
                self._histories.forget(room_id)
            return Joined(member.event_id, room_id)
        return None

    def _joins(self, member: Membership) -> bool:
        return member.user_id == self.me and member.now == "join" != member.before

    def _read_message(self, room_id: RoomId, event: object, since: float | None) -> list[Event]:
        parsed = parse_event(event, room_id, self.me, since)
        if parsed is None:
            return []
        if isinstance(parsed, Redaction):
            self.redact(parsed)
        else:
            self._histories.update(parsed)
        if _says_in_main(parsed):
            self._latest[room_id] = parsed.event_id
        if isinstance(parsed, Message):
            self.remember(parsed)
            self._begin_thread(parsed)
        if parsed.sender == self.me:
            return []
        if isinstance(parsed, Undecryptable):
            self._health.undecryptable()
            ids = {"event_id": parsed.event_id, "room_id": room_id}
            log.warning("undecryptable", sender=parsed.sender, **ids)
        elif getattr(event, "decrypted", False):
            self._health.decrypted()
        return [parsed]

    def _begin_thread(self, message: Message) -> None:
        """Start a conversation for a mention of the bot in the main timeline of a salon."""
        in_salon = not self.room(message.room_id).direct
        is_first = message.thread_root is None and not message.exposed
        if in_salon and is_first and self.me in message.mentions:
            conversation = Conversation(message.room_id, message.event_id)
            self._histories.begin(conversation, message)


def _says_in_main(event: ReadableEvent) -> bool:
    """Return whether the event is a message in a main timeline: no edit and no vote."""
    if isinstance(event, Undecryptable) and event.refers_to is not None:
        return False
    return isinstance(event, Message | Undecryptable) and event.thread_root is None

"""What the syncs tell of the rooms: their kind, who is left, and what was heard, as our events."""

import nio
import structlog

from bot.core.events import (
    Event,
    EventId,
    Invite,
    Joined,
    Left,
    Message,
    Room,
    RoomId,
    UserId,
)
from bot.matrix.parse import Json, Membership, mapping, parse_membership, parse_message, text

_DIRECT_MEMBERS = 2

log = structlog.get_logger()


class Rooms:
    """The homeserver's own word on each room. Nothing decrypted ever counts as state."""

    def __init__(self, me: UserId) -> None:
        self._me = me
        self._rules: dict[RoomId, str] = {}
        self._members: dict[RoomId, tuple[int, int]] = {}  # joined, invited
        self._latest: dict[RoomId, EventId] = {}
        self.direct: dict[UserId, list[RoomId]] = {}  # the account's m.direct

    def room(self, room_id: RoomId) -> Room:
        """Tell whether the room is a direct message.

        Tchap's `im.vector.room.access_rules` decides; where it is missing, `m.direct`. A third
        member makes a salon of either.
        """
        rule = self._rules.get(room_id)
        direct = rule == "direct" or (
            rule is None and any(room_id in rooms for rooms in self.direct.values())
        )
        return Room(
            room_id, direct=direct and sum(self._members.get(room_id, ())) <= _DIRECT_MEMBERS
        )

    def latest(self, room_id: RoomId) -> EventId | None:
        """Return the last message event of the room, edits not counted."""
        return self._latest.get(room_id)

    def note_sent(self, room_id: RoomId, event_id: EventId) -> None:
        """Note that the bot's own message is now the room's last one."""
        self._latest[room_id] = event_id

    def hear(self, response: nio.SyncResponse, *, first: bool, fresh: bool) -> tuple[Event, ...]:
        """Take in one sync response and return what happened, in order.

        Args:
            response: with its encrypted events already replaced by decrypted ones.
            first: the first response of this process, which holds the state of every room.
            fresh: the account has never synced: what its rooms said before is not for us.
        """
        for event in response.account_data_events:
            self._hear_account_data(getattr(event, "type", ""), getattr(event, "content", None))
        events: list[Event] = []
        for room_id, invitation in response.rooms.invite.items():
            events += self._hear_invitation(RoomId(room_id), invitation)
        for room_id, joined in response.rooms.join.items():
            heard = self._hear_room(RoomId(room_id), joined, first=first)
            events += [] if fresh else heard
        for room_id in response.rooms.leave:
            self._rules.pop(RoomId(room_id), None)
            self._members.pop(RoomId(room_id), None)
            self._latest.pop(RoomId(room_id), None)
        return tuple(events)

    def _hear_account_data(self, kind: str, content: object) -> None:
        if kind != "m.direct":
            return
        for user_id, rooms in mapping(content).items():
            for room_id in rooms if isinstance(rooms, list) else []:
                if isinstance(room_id, str):
                    self.note_direct(UserId(user_id), RoomId(room_id))

    def note_direct(self, user_id: UserId, room_id: RoomId) -> None:
        """List the room as a direct message with the person.

        Nothing is taken off the list: an echo of the account data may be older than a joining.
        """
        rooms = self.direct.setdefault(user_id, [])
        if room_id not in rooms:
            rooms.append(room_id)

    def _hear_invitation(self, room_id: RoomId, invitation: nio.InviteInfo) -> list[Event]:
        for event in invitation.invite_state:
            if (
                isinstance(event, nio.InviteMemberEvent)
                and event.state_key == self._me
                and event.membership == "invite"
            ):
                direct = mapping(event.content).get("is_direct") is True
                return [
                    Invite(EventId(f"invite:{room_id}"), room_id, UserId(event.sender), direct)
                ]
        return []

    def _hear_room(self, room_id: RoomId, info: nio.RoomInfo, *, first: bool) -> list[Event]:
        known = room_id in self._members
        self._count_members(room_id, info.summary)
        arrival: Joined | None = None
        for event in info.state:
            source = mapping(getattr(event, "source", None))
            self._hear_rule(room_id, source)
            member = parse_membership(source)
            if member is not None and self._joins(member) and not (known or first):
                arrival = Joined(member.event_id, room_id)
        heard: list[Event] = []
        for event in info.timeline.events:
            source = mapping(getattr(event, "source", None))
            if getattr(event, "decrypted", False) or "state_key" not in source:
                heard += self._hear_message(room_id, event, source)
                continue
            self._hear_rule(room_id, source)
            member = parse_membership(source)
            if member is not None:
                arrival = self._hear_member(room_id, member, heard) or arrival
        return [arrival, *heard] if arrival else heard

    def _hear_member(
        self, room_id: RoomId, member: Membership, heard: list[Event]
    ) -> Joined | None:
        """Take in one change of membership; drop from `heard` what is not for the bot."""
        if member.user_id != self._me:
            if member.now in {"leave", "ban"}:
                alone = self._members[room_id] == (1, 0)
                heard.append(Left(member.event_id, room_id, alone=alone))
        elif member.now == "invite":
            heard.clear()  # nothing from before the invitation is for the bot
        elif self._joins(member):
            if not self.room(room_id).direct:
                heard.clear()  # in a salon, nothing from before the join either
            return Joined(member.event_id, room_id)
        return None

    def _joins(self, member: Membership) -> bool:
        return member.user_id == self._me and member.now == "join" != member.before

    def _count_members(self, room_id: RoomId, summary: nio.RoomSummary | None) -> None:
        """Take in the counts that changed (spec: sync room summary)."""
        joined, invited = self._members.get(room_id, (0, 0))
        if summary is not None and summary.joined_member_count is not None:
            joined = summary.joined_member_count
        if summary is not None and summary.invited_member_count is not None:
            invited = summary.invited_member_count
        self._members[room_id] = (joined, invited)

    def _hear_message(self, room_id: RoomId, event: object, source: Json) -> list[Event]:
        if isinstance(event, nio.MegolmEvent):
            log.warning(
                "undecryptable", event_id=event.event_id, room_id=room_id, sender=event.sender
            )
            return []
        message = parse_message(source, room_id)
        if not isinstance(message, Message):
            return []
        self._latest[room_id] = message.event_id
        return [] if message.sender == self._me else [message]

    def _hear_rule(self, room_id: RoomId, source: Json) -> None:
        if text(source, "type") == "im.vector.room.access_rules" and source.get("state_key") == "":
            rule = text(mapping(source.get("content")), "rule")
            if rule:
                self._rules[room_id] = rule

"""What the syncs tell of the rooms: their kind, who is left, and what was heard, as our events."""

import math
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import replace

import nio
import structlog

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
    Room,
    RoomId,
    Undecryptable,
    Upgraded,
    UserId,
)
from bot.matrix.crypto import WITHHELD
from bot.matrix.history import Histories
from bot.matrix.json_fields import Json, identifier, mapping, text, timestamp, whole
from bot.matrix.parse import ReadableEvent, parse_event
from bot.matrix.state_events import (
    FOLLOWING,
    Membership,
    is_admin_rooms,
    is_space,
    parse_membership,
    predecessor,
)
from bot.monitoring.health import Health

_DIRECT_MEMBERS = 2
_STATE_LEVEL = 50  # where the power levels name none for state events
_CREATOR_LEVEL = 100  # where the room has no power levels
_KNOWN = 20_000  # messages of which is remembered who sent them, and to whom
_NUMBERED_CREATORS = {"", *map(str, range(1, 12))}  # room versions whose creators have a number

log = structlog.get_logger()


class Rooms:
    """The homeserver's own word on each room. Nothing decrypted ever counts as state.

    Attributes:
        known: of the messages last heard or looked up, all but what they say; None for those of
            them that have been redacted.
        direct: the account's `m.direct`.
    """

    def __init__(self, me: UserId, health: Health, histories: Histories) -> None:
        self.me = me
        self.known: OrderedDict[EventId, Message | None] = OrderedDict()
        self._health = health
        self._histories = histories
        self._rules: dict[RoomId, str] = {}
        self._members: dict[RoomId, tuple[int, int]] = {}  # joined, invited
        self._heroes: dict[RoomId, UserId] = {}  # of those with one other member
        self._create: dict[RoomId, Json] = {}  # the room's m.room.create
        self._visibility: dict[RoomId, str] = {}
        self._levels: dict[RoomId, Json] = {}  # content of its m.room.power_levels
        self._latest: dict[RoomId, EventId] = {}  # message of the main timeline, no edit
        self._memberships: dict[RoomId, Json] = {}  # the bot's own m.room.member
        self._replaced: dict[RoomId, RoomId] = {}  # by what
        self._closed: list[RoomId] = []
        self.direct: dict[UserId, list[RoomId]] = {}
        self._people: dict[RoomId, UserId] = {}  # of `direct`, by room

    def room(self, room_id: RoomId) -> Room:
        """Tell whether the room is a direct message, and whether the bot can speak there.

        Tchap's `im.vector.room.access_rules` decides; where it is missing, `m.direct`. A third
        member makes a salon of either.
        """
        rule = self._rules.get(room_id)
        person = self._people.get(room_id) or self._heroes.get(room_id)
        direct = rule == "direct" or (rule is None and room_id in self._people)
        direct = direct and sum(self._members.get(room_id, ())) <= _DIRECT_MEMBERS
        space, stray = is_space(self._create.get(room_id, {})), self.is_stray(room_id)
        gone = room_id not in self._members or room_id in self._replaced
        return Room(
            room_id,
            direct=direct,
            closed=gone or space or stray,
            admin=self._is_admin(room_id),
            person=person if direct else None,
            space=space,
            stray=stray,
            called=text(mapping(self.membership(room_id).get("content")), "displayname"),
        )

    def rooms(self) -> list[Room]:
        """Return every room in which the bot can speak."""
        return [one for one in map(self.room, self._members) if not one.closed]

    def _is_admin(self, room_id: RoomId) -> bool:
        """Tell whether the bot has made the room for its admins; nobody else can make one so."""
        return is_admin_rooms(self._create.get(room_id, {}), self.me)

    def knows(self, room_id: RoomId) -> bool:
        """Tell whether a sync has told that the bot is in the room."""
        return room_id in self._members

    def power_level(self, room_id: RoomId, user_id: UserId) -> float:
        """Return the user's power level in the room (spec: m.room.power_levels).

        Those who made a room of version 12 or later stand above every number. Who is not joined
        has the level too: ask only for the sender of an event, whom the homeserver let in.
        """
        create, levels = self._create.get(room_id, {}), self._levels.get(room_id)
        content = mapping(create.get("content"))
        creators = [identifier(create, "sender") or None]
        eternal = text(content, "room_version") not in _NUMBERED_CREATORS
        if eternal:
            additional = content.get("additional_creators")
            creators += additional if isinstance(additional, list) else []
        elif text(content, "creator"):
            creators = [text(content, "creator")]
        if user_id in creators and (eternal or levels is None):
            return math.inf if eternal else _CREATOR_LEVEL
        default = mapping(levels).get("users_default", 0)
        return whole(mapping(mapping(levels).get("users")).get(user_id, default))

    def may_upgrade(self, room_id: RoomId, user_id: UserId) -> bool:
        """Tell whether the user can give the room up for another (spec: room upgrades)."""
        levels = mapping(self._levels.get(room_id))
        default = levels.get("state_default", _STATE_LEVEL)
        needed = mapping(levels.get("events")).get("m.room.tombstone", default)
        # Where it is no number, nobody knows what the homeserver takes it for.
        return isinstance(needed, int) and self.power_level(room_id, user_id) >= needed

    def is_stray(self, room_id: RoomId) -> bool:
        """Tell whether the bot has followed another room there, which this one does not replace.

        Its own joining says whom it followed, so that this holds after a restart as well.
        """
        joining = mapping(self._memberships.get(room_id, {}).get("content"))
        old = text(joining, "reason")
        created = self._create.get(room_id, {})
        return old.startswith(FOLLOWING) and old[len(FOLLOWING) :] != predecessor(created)

    def inviter(self, room_id: RoomId) -> UserId | None:
        """Return who has invited the bot, None where it has come without that (spec: unsigned)."""
        unsigned = mapping(self.membership(room_id).get("unsigned"))
        invited = text(mapping(unsigned.get("prev_content")), "membership") == "invite"
        return UserId(text(unsigned, "prev_sender")) if invited else None

    def membership(self, room_id: RoomId) -> Json:
        """Return the bot's own `m.room.member` event, {} where the room is not known."""
        return self._memberships.get(room_id, {})

    def visibility(self, room_id: RoomId) -> str:
        """Return who may read what was said before they came (spec: room history visibility)."""
        return self._visibility.get(room_id, "shared")

    def predecessor(self, room_id: RoomId) -> RoomId | None:
        """Return the room that this one replaces, None where either of them does not say so.

        Anybody can make a room that says so alone, or point to one that does not.
        """
        before = predecessor(self._create.get(room_id, {}))
        return before if before and self._replaced.get(before) == room_id else None

    def _inherit(self, room_id: RoomId) -> None:
        """Let what replaces a direct message be one with the same person."""
        before = self.predecessor(room_id)
        person = self._people.get(before) if before else None
        if person is not None:
            self.note_direct(person, room_id)

    def remember(self, message: Message) -> None:
        """Remember who sent a message, and to whom, unless it has been redacted."""
        event_id = message.event_id
        known = self.known.setdefault(event_id, message)
        if known is not None:
            self.known[event_id] = replace(message, body="", typed_at=())
        self.known.move_to_end(event_id)
        if len(self.known) > _KNOWN:
            self.known.popitem(last=False)

    def redact(self, redaction: Redaction) -> None:
        """Take in that an event of the room is gone."""
        self._histories.hear(redaction)
        known = self.known.get(redaction.target)
        if known is not None and known.room_id == redaction.room_id:
            self.known[redaction.target] = None

    def miss(self, room_id: RoomId | None = None) -> None:
        """Note that not all that was said in the room is heard, or in any room."""
        self._histories.forget(room_id)

    def take_closed(self) -> tuple[RoomId, ...]:
        """Return, once, the rooms in which the bot can no longer speak."""
        closed, self._closed = tuple(self._closed), []
        return closed

    def is_followed(self, room_id: RoomId, prompt: Collection[EventId]) -> bool:
        """Tell whether the main timeline ends with what is neither of a prompt nor about it."""
        latest = self._latest.get(room_id)
        if latest is None or latest in prompt:
            return False
        known = self.known.get(latest)
        is_about = known is not None and known.sender == self.me
        return not (is_about and known and {*known.answers, *known.about} & set(prompt))

    def note_sent(self, room_id: RoomId, event_id: EventId) -> None:
        """Note that the bot's own message is now the last one of the room's main timeline."""
        self._latest[room_id] = event_id

    def hear(
        self, response: nio.SyncResponse, *, first: bool, fresh: bool
    ) -> Iterator[list[Event]]:
        """Take in one sync response and yield what happened in each room, in order.

        Args:
            response: with its encrypted events already replaced by decrypted ones.
            first: the first response of this process, which holds the state of every room.
            fresh: the account has never synced: what its rooms said before is not for us.
        """
        for event in response.account_data_events:
            self._hear_account_data(getattr(event, "type", ""), getattr(event, "content", None))
        spaces = getattr(response, "spaces", ())
        for room_id, invitation in response.rooms.invite.items():
            space = room_id in spaces
            yield self._hear_invitation(RoomId(room_id), invitation, space=space)
        for room_id, joined in response.rooms.join.items():
            heard = self._hear_room(RoomId(room_id), joined, first=first)
            yield [] if fresh else heard
        for room_id in response.rooms.leave:
            self._forget(RoomId(room_id))

    def _forget(self, room_id: RoomId) -> None:
        facts = self._rules, self._members, self._latest, self._create, self._levels
        for of_rooms in (*facts, self._memberships, self._visibility, self._heroes):
            of_rooms.pop(room_id, None)
        self._replaced.pop(room_id, None)
        self._histories.sealed.pop(room_id, None)
        self._histories.forget(room_id)
        self._closed.append(room_id)

    def hear_keys(self, response: nio.SyncResponse) -> tuple[KeyNews, ...]:
        """Return which rooms' keys have come, and which their owners withhold."""
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
        self._people[room_id] = user_id
        rooms = self.direct.setdefault(user_id, [])
        if room_id not in rooms:
            rooms.append(room_id)

    def _hear_invitation(
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
                return [Invite(event_id, room_id, sender, direct, space)]
        return []

    def _hear_room(self, room_id: RoomId, info: nio.RoomInfo, *, first: bool) -> list[Event]:
        known = room_id in self._members
        since = self._hear_encryption(room_id, info, known=known)
        self._count_members(room_id, info.summary)
        arrival: Joined | None = None
        for event in info.state:
            source = mapping(getattr(event, "source", None))
            self._hear_state(room_id, source)
            member = self._hear_membership(room_id, source)
            if member is not None and self._joins(member) and not (known or first):
                arrival = Joined(member.event_id, room_id)
        heard: list[Event] = []
        for event in info.timeline.events:
            source = mapping(getattr(event, "source", None))
            if getattr(event, "decrypted", False) or "state_key" not in source:
                heard += self._hear_message(room_id, event, since)
                continue
            self._hear_state(room_id, source)
            heard += self._hear_upgrade(room_id, event)
            member = self._hear_membership(room_id, source)
            if member is not None:
                arrival = self._hear_member(room_id, member, heard) or arrival
        return [arrival, *heard] if arrival else heard

    def _hear_encryption(
        self, room_id: RoomId, info: nio.RoomInfo, *, known: bool
    ) -> float | None:
        """Return since when what a response tells of the room is encrypted, None where it is not.

        Where the room was encrypted before, the dates of what is heard do not count: whoever
        writes an event dates it.
        """
        before = self._histories.sealed_since(room_id) if known else None
        for event in (*info.state, *info.timeline.events):
            source = mapping(getattr(event, "source", None))
            is_state = not getattr(event, "decrypted", False) and source.get("state_key") == ""
            if is_state and text(source, "type") == "m.room.encryption":
                self._seal(room_id, source)
            elif is_state and is_admin_rooms(source, self.me):
                self._histories.sealed[room_id] = 0.0  # it is made so
        return self._histories.sealed_since(room_id) if before is None else 0.0

    def _seal(self, room_id: RoomId, source: Json) -> None:
        """Take in an `m.room.encryption`: a room that is encrypted stays so.

        Since when is not told where the event replaces another.
        """
        again = "replaces_state" in mapping(source.get("unsigned"))
        self._histories.sealed.setdefault(room_id, 0.0 if again else float(timestamp(source)))

    def _hear_membership(self, room_id: RoomId, source: Json) -> Membership | None:
        member = parse_membership(source)
        if member is not None and member.user_id == self.me:
            self._memberships[room_id] = source
        elif member is not None:
            self._histories.hear_member(room_id, member)
        return member

    def _hear_upgrade(self, room_id: RoomId, event: object) -> list[Event]:
        upgraded = parse_event(event, room_id, self.me)
        if not isinstance(upgraded, Upgraded):
            return []
        self._closed.append(room_id)
        return [upgraded]

    def _hear_member(
        self, room_id: RoomId, member: Membership, heard: list[Event]
    ) -> Joined | None:
        """Take in one change of membership; drop from `heard` what is not for the bot."""
        if member.user_id != self.me:
            if member.now in {"leave", "ban"}:
                alone = self._members[room_id] == (1, 0)
                heard.append(Left(member.event_id, room_id, alone=alone))
        elif member.now == "invite":
            heard.clear()  # nothing from before the invitation is for the bot
            self._histories.forget(room_id)
        elif self._joins(member):
            if not self.room(room_id).direct:
                heard.clear()  # in a salon, nothing from before the join either
                self._histories.forget(room_id)
            return Joined(member.event_id, room_id)
        return None

    def _joins(self, member: Membership) -> bool:
        return member.user_id == self.me and member.now == "join" != member.before

    def _count_members(self, room_id: RoomId, summary: nio.RoomSummary | None) -> None:
        """Take in the counts that changed (spec: sync room summary)."""
        joined, invited = self._members.get(room_id, (0, 0))
        if summary is not None and summary.joined_member_count is not None:
            joined = summary.joined_member_count
        if summary is not None and summary.invited_member_count is not None:
            invited = summary.invited_member_count
        self._members[room_id] = (joined, invited)
        heroes = None if summary is None else summary.heroes  # None: they have not changed
        if joined + invited != _DIRECT_MEMBERS:
            self._heroes.pop(room_id, None)  # of a room that has a name, nothing is told
        elif heroes:
            self._heroes[room_id] = UserId(heroes[0])

    def _hear_message(self, room_id: RoomId, event: object, since: float | None) -> list[Event]:
        heard = parse_event(event, room_id, self.me, since)
        if heard is None:
            return []
        if isinstance(heard, Redaction):
            self.redact(heard)
        else:
            self._histories.hear(heard)
        if _says_in_main(heard):
            self._latest[room_id] = heard.event_id
        if isinstance(heard, Message):
            self.remember(heard)
            self._begin_thread(heard)
        if heard.sender == self.me:
            return []
        if isinstance(heard, Undecryptable):
            self._health.undecryptable()
            ids = {"event_id": heard.event_id, "room_id": room_id}
            log.warning("undecryptable", sender=heard.sender, **ids)
        elif getattr(event, "decrypted", False):
            self._health.decrypted()
        return [heard]

    def _begin_thread(self, message: Message) -> None:
        """Note that a mention of the bot in a main timeline opens a conversation of its own."""
        in_salon = not self.room(message.room_id).direct
        is_first = message.thread_root is None and not message.exposed
        if in_salon and is_first and self.me in message.mentions:
            conversation = Conversation(message.room_id, message.event_id)
            self._histories.begin(conversation, message)

    def _hear_state(self, room_id: RoomId, source: Json) -> None:
        if source.get("state_key") != "":
            return
        kind, content = text(source, "type"), mapping(source.get("content"))
        if kind == "im.vector.room.access_rules" and text(content, "rule"):
            self._rules[room_id] = text(content, "rule")
        elif kind == "m.room.history_visibility":
            self._visibility[room_id] = text(content, "history_visibility") or "shared"
        elif kind == "m.room.create":
            self._create[room_id] = source
            self._inherit(room_id)
        elif kind == "m.room.power_levels":
            self._levels[room_id] = content
        elif kind == "m.room.tombstone" and identifier(content, "replacement_room"):
            replacement = RoomId(identifier(content, "replacement_room"))
            self._replaced[room_id] = replacement
            self._inherit(replacement)


def _says_in_main(heard: ReadableEvent) -> bool:
    """Tell whether it is a message in the room's main timeline, no edit and no vote."""
    if isinstance(heard, Undecryptable) and heard.refers_to is not None:
        return False
    return isinstance(heard, Message | Undecryptable) and heard.thread_root is None

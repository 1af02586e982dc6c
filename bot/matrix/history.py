"""A conversation as it stands in the room: last versions, redactions gone, oldest first."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import nio

from bot.core.events import EventId, Message, UserId
from bot.core.turns import Said
from bot.matrix.failures import call
from bot.matrix.parse import Json, Revision, mapping, parse_membership, parse_message

_PAGE = 100
_PAGES = 5  # as far back as a conversation is read

_FILTER = {
    "types": ["m.room.message", "m.room.encrypted", "m.room.member"],
    "lazy_load_members": True,
}


@dataclass(slots=True)
class Reader:
    """Collects one conversation from pages that run backwards in time."""

    prompt: Message
    me: UserId
    said: list[Message] = field(default_factory=list)  # newest first
    edits: dict[tuple[EventId, UserId], Revision] = field(default_factory=dict)  # the newest
    reached: bool = False  # the prompt was met: what follows came before it
    ended: bool = False  # the bot's invitation was met: nothing before it is for us

    def take(self, sources: Iterable[Json]) -> None:
        """Take in one page."""
        for source in sources:
            member = parse_membership(source) if "state_key" in source else None
            if member is not None and member.user_id == self.me and member.now == "invite":
                self.ended = True
                return
            match parse_message(source, self.prompt.room_id):
                case Revision() as edit:
                    key = edit.target, edit.sender  # nobody may edit what another has said
                    if key not in self.edits or self.edits[key].timestamp < edit.timestamp:
                        self.edits[key] = edit
                case Message() as message:
                    self._take_message(message)
                case None:
                    continue

    def _take_message(self, message: Message) -> None:
        if message.event_id == self.prompt.event_id:
            self.reached = True
        elif self.reached and self._belongs(message):
            self.said.append(message)

    def _belongs(self, message: Message) -> bool:
        root = self.prompt.thread_root
        return message.msgtype in {"m.text", "m.emote"} and (
            root in {message.thread_root, message.event_id}
        )

    def result(self) -> list[Said]:
        """Return the conversation, oldest first, each message in its author's last version."""
        return [
            Said(one.event_id, self._body(one), mine=one.sender == self.me)
            for one in reversed(self.said)
        ]

    def _body(self, message: Message) -> str:
        edit = self.edits.get((message.event_id, message.sender))
        return message.body if edit is None else edit.body


async def read(client: nio.AsyncClient, prompt: Message, me: UserId) -> Sequence[Said]:
    """Page back from the present to the bot's invitation, or as far as one conversation goes.

    Raises:
        MatrixError: the homeserver does not hand the messages out.
    """
    reader = Reader(prompt, me)
    start: str | None = None
    for _ in range(_PAGES):
        page = await call(
            nio.RoomMessagesResponse,
            client.room_messages(prompt.room_id, start=start, limit=_PAGE, message_filter=_FILTER),
        )
        reader.take(
            mapping(event.source)
            for event in page.chunk
            if not (getattr(event, "decrypted", False) and "state_key" in event.source)
        )
        start = page.end
        if reader.ended or not start:
            break
    return reader.result()

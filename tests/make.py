"""Values with defaults, for tests that care about one field of many."""

from bot.core.events import EventId, Invite, Message, Pending, RoomId, UserId

ROOM = RoomId("!room:tchap.test")
BOT = UserId("@assistant:tchap.test")
AGENT = UserId("@agent:tchap.test")


def message(
    body: str = "Bonjour",
    *,
    event_id: str = "$prompt",
    sender: UserId = AGENT,
    msgtype: str = "m.text",
    thread_root: str | None = None,
) -> Message:
    """Return a message of the agent in the one room."""
    root = None if thread_root is None else EventId(thread_root)
    return Message(EventId(event_id), ROOM, sender, msgtype, body, 1_700_000_000_000, root)


def invite(sender: str = AGENT, *, direct: bool = True) -> Invite:
    """Return an invitation into the one room."""
    return Invite(EventId(f"invite:{ROOM}"), ROOM, UserId(sender), direct)


def pending(event_id: str = "$prompt") -> Pending:
    """Return a message that is known by its ids alone."""
    return Pending(EventId(event_id), ROOM)

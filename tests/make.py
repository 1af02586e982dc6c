"""Values with defaults, for tests that care about one field of many."""

from bot.core.events import (
    Conversation,
    Edit,
    EventId,
    Invite,
    KeyNews,
    Message,
    Pending,
    Prompt,
    Reaction,
    Redaction,
    RoomId,
    Undecryptable,
    UserId,
    Vote,
)

ROOM = RoomId("!room:tchap.test")
BOT = UserId("@assistant:tchap.test")
AGENT = UserId("@agent:tchap.test")
COLLEAGUE = UserId("@colleague:tchap.test")
MIDNIGHT = 1_699_920_000.0  # of some day, UTC, in seconds since the epoch


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
    return Message(
        event_id=EventId(event_id),
        room_id=ROOM,
        sender=sender,
        msgtype=msgtype,
        body=body,
        timestamp=1_700_000_000_000,
        thread_root=root,
    )


def prompt(*messages: Message, body: str = "Bonjour") -> Prompt:
    """Return messages as a direct message's prompt; without any, one that says `body`."""
    asked = messages or (message(body),)
    root = asked[0].thread_root
    return Prompt(asked, Conversation(asked[0].room_id, root), root)


def edit_event(
    body: str = "Bonsoir",
    *,
    event_id: str = "$edit",
    target: str = "$prompt",
    sender: UserId = AGENT,
    timestamp: int = 1_700_000_000_000,
) -> Edit:
    """Return an edit of the agent's message."""
    return Edit(
        event_id=EventId(event_id),
        room_id=ROOM,
        sender=sender,
        target=EventId(target),
        body=body,
        timestamp=timestamp,
    )


def redaction(
    target: str = "$prompt", *, event_id: str = "$redaction", sender: UserId = AGENT
) -> Redaction:
    """Return the redaction of the agent's message."""
    return Redaction(EventId(event_id), ROOM, sender, EventId(target))


def reaction(
    key: str = "🛑",
    *,
    target: str = "$reply",
    event_id: str = "$reaction",
    sender: UserId = AGENT,
    timestamp: int = 1_700_000_000_000,
) -> Reaction:
    """Return the agent's reaction to a reply."""
    return Reaction(
        event_id=EventId(event_id),
        room_id=ROOM,
        sender=sender,
        target=EventId(target),
        key=key,
        timestamp=timestamp,
    )


def vote(
    *answers: str,
    target: str = "$poll",
    event_id: str = "$vote",
    sender: UserId = AGENT,
    timestamp: int = 1_700_000_000_000,
) -> Vote:
    """Return the agent's vote in a poll."""
    return Vote(
        event_id=EventId(event_id),
        room_id=ROOM,
        sender=sender,
        target=EventId(target),
        answers=answers,
        timestamp=timestamp,
    )


def invite(sender: str = AGENT, *, direct: bool = True) -> Invite:
    """Return an invitation into the one room."""
    return Invite(
        event_id=EventId(f"invite:{ROOM}"), room_id=ROOM, sender=UserId(sender), direct=direct
    )


def pending(event_id: str = "$prompt") -> Pending:
    """Return a message that is known by its ids alone."""
    return Pending(EventId(event_id), ROOM)


def undecryptable(
    event_id: str = "$prompt",
    *,
    sender: UserId = AGENT,
    session_id: str = "session",
    thread_root: str | None = None,
) -> Undecryptable:
    """Return the same message, as it is heard without its key."""
    root = None if thread_root is None else EventId(thread_root)
    return Undecryptable(
        event_id=EventId(event_id),
        room_id=ROOM,
        sender=sender,
        session_id=session_id,
        timestamp=1_700_000_000_000,
        thread_root=root,
    )


def key_news(
    withheld: str | None = None,
    *,
    sender: UserId = AGENT,
    room_id: RoomId = ROOM,
    session_id: str = "session",
) -> KeyNews:
    """Return the news that the session's key has come, or is withheld."""
    return KeyNews(sender, room_id, session_id, withheld)

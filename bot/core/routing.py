"""Routing: the pure decision from an event to its intent."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import assert_never

from bot.core.display_names import ASSISTANT, begins_with_id, begins_with_name
from bot.core.events import (
    Conversation,
    Edit,
    Event,
    EventId,
    Invite,
    Joined,
    Left,
    Message,
    Prompt,
    Reaction,
    Redaction,
    Room,
    Undecryptable,
    Upgraded,
    UserId,
    Vote,
    server_name,
)
from bot.core.feedback import THUMBS
from bot.core.intents import (
    Accept,
    Answer,
    AwaitKey,
    Comment,
    Decline,
    FollowUpgrade,
    HandleEdit,
    HandleRedaction,
    Hint,
    Ignore,
    Intent,
    Leave,
    NeedsLookup,
    Rate,
    RecordVote,
    Redo,
    Refuse,
    Run,
    SendNotice,
    Stop,
    Welcome,
)
from bot.core.polls import POLL, QUESTION

# Known messages of all rooms by their ids; None for a redacted one.
MessageIndex = Mapping[EventId, Message | None]

TEXT = {"m.text", "m.emote"}

_COMMAND = re.compile(r"!([^\W\d_]\w*)\s*(.*)", re.DOTALL)
_NEW_CONVERSATION = {"nouveau", "new"}
_REACTIONS: Mapping[str, type[Stop | Redo | Rate]] = {
    "🛑": Stop,
    "⏹": Stop,
    "🔄": Redo,
    **dict.fromkeys(THUMBS, Rate),
}
_CLOSED = "the bot can no longer speak here"
_OWN = "own message"
_OTHER_BOT = "another bot"
_NOT_ALLOWED = "sender's homeserver is not allowed"
_NOT_ADDRESSED = "not addressed to the bot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The operator's settings for routing.

    Attributes:
        me: the bot's own full Matrix id.
        allowed_servers: server names, or `*.suffix`, of the people who may invite and use the bot.
        bots: other bots, which are never answered.
        age_limit: seconds after which a prompt is too old to be answered.
        inline: whether replies in salons go to the main timeline instead of a thread.
        admins: the people whose commands count in the admin room.
    """

    me: UserId
    allowed_servers: tuple[str, ...]
    bots: frozenset[UserId] = frozenset()
    age_limit: float = 86_400.0
    inline: bool = False
    admins: frozenset[UserId] = frozenset()

    def heeds(self, user_id: UserId) -> bool:
        """Return whether the bot may act on what the user writes."""
        return user_id not in self.bots and self.allows(user_id)

    def allows(self, user_id: UserId) -> bool:
        """Return whether the user's homeserver is one of `allowed_servers`."""
        return is_allowed(user_id, self.allowed_servers)


def is_allowed(user_id: UserId, servers: Collection[str]) -> bool:
    """Return whether the user's homeserver is one of the servers: names, or "*." and a suffix."""
    server = server_name(user_id)
    return any(
        server == allowed or (allowed.startswith("*.") and server.endswith(allowed[1:]))
        for allowed in servers
    )


def decide(
    event: Event, room: Room, policy: Policy, known: MessageIndex, now: float | None = None
) -> Intent | AwaitKey | NeedsLookup:
    """Return what the bot does about an event.

    Args:
        event: the event.
        room: its room.
        policy: the operator's settings.
        known: earlier messages.
        now: the current time, in seconds since the epoch; None if the event is never too old.
    """
    intent = _decide(event, room, policy, known, now)
    if isinstance(event, Message | Edit | Vote) and event.exposed:
        return _unless_exposed(event, intent, room, policy)
    return intent


def _decide(
    event: Event, room: Room, policy: Policy, known: MessageIndex, now: float | None
) -> Intent | AwaitKey | NeedsLookup:
    if room.closed and not isinstance(event, Invite | Joined | Left | Upgraded | Redaction):
        return Ignore(_CLOSED)
    match event:
        case Invite():
            return _decide_invite(event, policy)
        case Joined() | Left():
            return _decide_membership(event, room, policy)
        case Upgraded() | Undecryptable() | Edit() | Redaction() | Reaction() | Vote():
            return _decide_by_sender(event, room, policy)
        case Message():
            try:
                return _decide_message(event, room, policy, known, now)
            except _Unknown as unknown:
                return NeedsLookup(unknown.event_id)
        case _:
            assert_never(event)


def parse_command(body: str) -> tuple[str, str] | None:
    """Return a command's name (in lower case) and its argument; None if the text is no command."""
    found = _COMMAND.fullmatch(body.strip())
    return (found[1].lower(), found[2]) if found else None


def begins_anew(body: str) -> bool:
    """Return whether the text is the command that begins a new conversation."""
    command = parse_command(body)
    return command is not None and command[0] in _NEW_CONVERSATION


def _decide_invite(event: Invite, policy: Policy) -> Intent:
    if not policy.allows(event.sender):
        return Decline(event.room_id, "decline", server_name(event.sender))
    return Decline(event.room_id, "decline space") if event.space else Accept(event)


def _decide_membership(event: Joined | Left, room: Room, policy: Policy) -> Intent:
    if isinstance(event, Left):
        alone = event.alone and not room.admin
        return Leave(event.room_id) if alone else Ignore("others are still here, or may come")
    if room.space:  # the invitation did not say so
        return Decline(event.room_id, "decline space")
    if room.stray:
        return Leave(event.room_id)
    if room.closed:
        return Ignore(_CLOSED)
    if room.admin:
        return Welcome(event.room_id, event.event_id, "welcome admin")
    salon = "welcome salon inline" if policy.inline else "welcome salon"
    return Welcome(event.room_id, event.event_id, "welcome" if room.direct else salon)


def _decide_by_sender(
    event: Upgraded | Undecryptable | Edit | Redaction | Reaction | Vote,
    room: Room,
    policy: Policy,
) -> Intent | AwaitKey:
    """Decide about events that count only from people of allowed servers, never from the bot."""
    if event.sender == policy.me:
        return Ignore(_OWN)
    if isinstance(event, Redaction):  # from anybody: the homeserver has checked the permission
        return HandleRedaction(event)
    if not policy.allows(event.sender):
        return Ignore(_NOT_ALLOWED)
    if isinstance(event, Upgraded):
        return Ignore("a stray room leads nowhere") if room.stray else FollowUpgrade(event)
    if event.sender in policy.bots:
        return Ignore(_OTHER_BOT)
    return _decide_for_person(event)


def _decide_for_person(event: Undecryptable | Edit | Reaction | Vote) -> Intent | AwaitKey:
    match event:
        case Undecryptable():
            return AwaitKey(event)
        case Edit():
            return HandleEdit(event)
        case Reaction():
            intent = _REACTIONS.get(event.key)
            return intent(event) if intent else Ignore("no control")
        case Vote():
            return RecordVote(event)


def _decide_message(
    message: Message, room: Room, policy: Policy, known: MessageIndex, now: float | None
) -> Intent:
    readable = message.msgtype in TEXT
    command = parse_command(message.body) if readable else None
    related = _Related(message, policy, known)
    if room.admin:
        return _decide_admin(message, policy, command)
    reason = _no_prompt(message, policy)
    if reason is None and readable and not message.body.strip():
        reason = "empty message"
    if reason is None:
        is_command = command is not None
        reason = related.continued() if room.direct else related.skipped(command=is_command)
    is_old = now is not None and now - message.timestamp / 1000 > policy.age_limit
    if reason is not None:
        hints = reason == _NOT_ADDRESSED and not is_old and _names(message, room, policy)
        return Hint(_prompt(message, room, policy)) if hints else Ignore(reason)
    prompt = _prompt(message, room, policy)
    if command is None and readable and (poll := related.poll()) is not None:
        return Comment(prompt, poll)
    if is_old:
        return SendNotice(prompt, "expired")
    if not readable:
        return SendNotice(prompt, "unreadable message")
    return Answer(prompt) if command is None else Run(prompt, *command)


def _decide_admin(message: Message, policy: Policy, command: tuple[str, str] | None) -> Intent:
    """Decide in the admin room, where only commands of its admins are for the bot."""
    if message.sender not in policy.admins:
        return Ignore("not one of the admins")
    if command is None or message.msgtype != "m.text":
        return Ignore("no command")
    root = message.thread_root
    return Run(Prompt((message,), Conversation(message.room_id, root), root), *command)


def _names(message: Message, room: Room, policy: Policy) -> bool:
    """Return whether one of the bot's names is typed after an "@"."""
    return any(
        begins_with_id(one, policy.me[1:])
        or any(begins_with_name(one, name) for name in (room.called, ASSISTANT))
        for one in message.typed_at
    )


def _unless_exposed(
    event: Message | Edit | Vote,
    intent: Intent | AwaitKey | NeedsLookup,
    room: Room,
    policy: Policy,
) -> Intent | AwaitKey | NeedsLookup:
    """Refuse what an event in clear asks for, as its sender may be forged by the homeserver.

    In the admin room every such event is refused with a notice, even if it is no command: the
    client of an admin would never send it in clear.
    """
    is_reported = room.admin and not room.closed and event.sender != policy.me
    if isinstance(intent, NeedsLookup) or (isinstance(intent, Ignore) and not is_reported):
        return intent
    if isinstance(intent, Hint):  # its author is not known
        return Ignore(_NOT_ADDRESSED)
    prompt = intent.prompt if isinstance(intent, Answer | Run | SendNotice | Comment) else None
    return Refuse(event, prompt, "clear text admin" if room.admin else "clear text")


def _no_prompt(message: Message, policy: Policy) -> str | None:
    """Return why the message cannot be a prompt; None if it can."""
    reasons = {
        _OWN: message.sender == policy.me,
        "a notice is never a prompt": message.msgtype == "m.notice",
        _OTHER_BOT: message.sender in policy.bots,
        _NOT_ALLOWED: not policy.allows(message.sender),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _prompt(message: Message, room: Room, policy: Policy) -> Prompt:
    """Return the message as a prompt, with its conversation and the thread of its reply."""
    root = message.thread_root
    if root is not None or room.direct:
        return Prompt((message,), Conversation(message.room_id, root), root)
    conversation = Conversation(message.room_id, message.event_id)
    return Prompt((message,), conversation, None if policy.inline else message.event_id)


class _Unknown(Exception):  # ends one decision; never leaves this module
    """The message `event_id` must be looked up before the decision."""

    def __init__(self, event_id: EventId) -> None:
        super().__init__(event_id)
        self.event_id = event_id


@dataclass(frozen=True, slots=True)
class _Related:
    """A message and the messages that it relates to.

    Its methods raise `_Unknown` if one of those must be looked up.
    """

    message: Message
    policy: Policy
    known: MessageIndex

    def skipped(self, *, command: bool) -> str | None:
        """Return why a message of a salon is not for the bot; None if it is."""
        if self.message.answers:  # another assistant's; in a direct message it may be forwarded
            return _OTHER_BOT
        is_for_bot = self.commands() if command else self.addresses()
        return None if is_for_bot else _NOT_ADDRESSED

    def continued(self) -> str | None:
        """Return a reason if an assistant answers the bot in a direct message, else None.

        The two would answer each other for ever. A reply that a person forwards does not answer
        the bot.
        """
        prompt = self._look(self.message.answers[0]) if self.message.answers else None
        return _OTHER_BOT if prompt is not None and prompt.sender == self.policy.me else None

    def addresses(self) -> bool:
        """Return whether the message is for the bot.

        It is if it mentions the bot or replies to it; or if it mentions nobody else, in a thread
        of the bot that the bot or the message's sender has opened.
        """
        if self._is_for_me(self.message):
            return True
        opener = self._opener()
        if opener is None or self.message.mentions - {self.policy.me, self.message.sender}:
            return False
        return opener.sender in {self.policy.me, self.message.sender}

    def commands(self) -> bool:
        """Return whether a command is for this bot, as other bots have commands with "!" too."""
        return self.policy.me in self.message.mentions or self._opener() is not None

    def poll(self) -> EventId | None:
        """Return the bot's poll or question that the message replies to; None for none."""
        quoted = self._look(self.message.replies_to)
        is_mine = quoted is not None and quoted.sender == self.policy.me
        asks = quoted is not None and is_mine and quoted.msgtype in {POLL, QUESTION}
        return quoted.event_id if quoted and asks else None

    def _opener(self) -> Message | None:
        """Return the root message of the thread, if it makes the thread one of the bot's."""
        root = self._look(self.message.thread_root)
        if root is None:
            return None
        if root.sender == self.policy.me:  # in a thread on a notice or a poll, colleagues talk
            return root if root.msgtype in TEXT else None
        is_prompt = _no_prompt(root, self.policy) is None and self._is_for_me(root)
        return root if is_prompt else None

    def _is_for_me(self, message: Message) -> bool:
        if self.policy.me in message.mentions:
            return True
        quoted = self._look(message.replies_to)
        return quoted is not None and quoted.sender == self.policy.me

    def _look(self, event_id: EventId | None) -> Message | None:
        """Return a message; None if it is redacted, or of another room."""
        if event_id is None:
            return None
        if event_id not in self.known:
            raise _Unknown(event_id)
        found = self.known[event_id]
        if found is None or found.exposed:  # its sender may be forged
            return None
        return found if found.room_id == self.message.room_id else None

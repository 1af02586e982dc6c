from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from bot.core.events import (
    Conversation,
    Edit,
    Event,
    EventId,
    Joined,
    Left,
    Message,
    Prompt,
    Room,
    RoomId,
    Upgraded,
    UserId,
    Vote,
    server_name,
)
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
from bot.core.polls import POLL
from bot.core.routing import MessageIndex, Policy, begins_anew, decide, parse_command
from tests.make import (
    AGENT,
    BOT,
    COLLEAGUE,
    ROOM,
    edit_event,
    invite,
    message,
    prompt,
    reaction,
    redaction,
    undecryptable,
    vote,
)

OTHER_BOT = UserId("@polls:tchap.test")
STRANGER = UserId("@a:evil.test")
POLICY = Policy(me=BOT, allowed_servers=("tchap.test", "*.gouv.test"), bots=frozenset({OTHER_BOT}))
DIRECT, SALON = Room(room_id=ROOM, direct=True), Room(room_id=ROOM, direct=False)
ADMIN = Room(room_id=ROOM, direct=False, admin=True)
OBEYING = replace(POLICY, admins=frozenset({AGENT}))
SPACE = Room(room_id=ROOM, direct=False, closed=True, space=True)
STRAY = Room(room_id=ROOM, direct=False, closed=True, stray=True)
SPACE_INVITE = replace(invite(), space=True)
JOINED = Joined(EventId("$join"), ROOM)
UPGRADED = Upgraded(EventId("$stone"), ROOM, AGENT, RoomId("!new:tchap.test"))
DAY = 86_400
ASKED_AT = message().timestamp / 1000


def said(  # one message among others has this many sides
    event_id: str = "$prompt",
    sender: UserId = AGENT,
    *,
    mentions: tuple[UserId, ...] = (),
    replies_to: str | None = None,
    thread: str | None = None,
    **changed: str,
) -> Message:
    plain = message(event_id=event_id, sender=sender, thread_root=thread, **changed)
    quoted = None if replies_to is None else EventId(replies_to)
    return replace(plain, mentions=frozenset(mentions), replies_to=quoted)


def knowing(*messages: Message, gone: tuple[str, ...] = ()) -> MessageIndex:
    """Return what the bot remembers: all of a message but what it says."""
    heard: Mapping[EventId, Message | None] = {
        one.event_id: replace(one, body="") for one in messages
    }
    return {**heard, **dict.fromkeys(map(EventId, gone), None)}


OPENER = said("$root", mentions=(BOT,))  # the agent's own prompt
THEIRS = said("$root", COLLEAGUE, mentions=(BOT,))
CHAT = said("$root")  # no prompt at all
MINE = said("$root", BOT)
REPLY = said("$reply", BOT)
IN_THREAD = said(thread="$root")
COMMAND = said(body="!aide")
MY_POLL = said("$poll", BOT, msgtype=POLL)
UNDER_POLL = said("$root", BOT, msgtype=POLL)
MY_NOTICE = said("$root", BOT, msgtype="m.notice")


@pytest.mark.parametrize(
    ("event", "room", "intent"),
    [
        (invite(), SALON, Accept(invite())),
        (invite(STRANGER), SALON, Decline(ROOM, "decline", server_name(STRANGER))),
        (SPACE_INVITE, SALON, Decline(ROOM, "decline space")),
        (
            replace(SPACE_INVITE, sender=STRANGER),
            SALON,
            Decline(ROOM, "decline", server_name(STRANGER)),
        ),
        (JOINED, SPACE, Decline(ROOM, "decline space")),
        (JOINED, STRAY, Leave(ROOM)),
        (JOINED, replace(SALON, closed=True), Ignore("the bot can no longer speak here")),
        (UPGRADED, STRAY, Ignore("a stray room leads nowhere")),
        (JOINED, DIRECT, Welcome(ROOM, EventId("$join"), "welcome")),
        (JOINED, SALON, Welcome(ROOM, EventId("$join"), "welcome salon")),
        (Left(EventId("$l"), ROOM, alone=True), DIRECT, Leave(ROOM)),
        (undecryptable(), DIRECT, AwaitKey(undecryptable())),
        (undecryptable(), SALON, AwaitKey(undecryptable())),
        (UPGRADED, SALON, FollowUpgrade(UPGRADED)),
        (edit_event(), SALON, HandleEdit(edit_event())),
        (redaction(), SALON, HandleRedaction(redaction())),
        (redaction(sender=STRANGER), SALON, HandleRedaction(redaction(sender=STRANGER))),
        (reaction("🛑"), SALON, Stop(reaction("🛑"))),
        (reaction("⏹"), DIRECT, Stop(reaction("⏹"))),
        (reaction("🔄"), SALON, Redo(reaction("🔄"))),
        (reaction("👍"), SALON, Rate(reaction("👍"))),
        (reaction("👎"), DIRECT, Rate(reaction("👎"))),
        (vote("yes"), SALON, RecordVote(vote("yes"))),
        (vote(), DIRECT, RecordVote(vote())),
    ],
)
def test_each_event_has_its_intent(event: Event, room: Room, intent: Intent | AwaitKey) -> None:
    assert decide(event, room, POLICY, {}) == intent


@pytest.mark.parametrize(
    "event",
    [
        Left(EventId("$l"), ROOM, alone=False),
        replace(UPGRADED, sender=STRANGER),
        replace(UPGRADED, sender=BOT),
        undecryptable(sender=BOT),
        undecryptable(sender=STRANGER),
        undecryptable(sender=OTHER_BOT),
        edit_event(sender=BOT),
        edit_event(sender=STRANGER),
        redaction(sender=BOT),
        reaction(sender=BOT),
        reaction(sender=STRANGER),
        reaction("👍", sender=OTHER_BOT),
        vote("yes", sender=BOT),
        vote("yes", sender=STRANGER),
        vote("yes", sender=OTHER_BOT),
        *(reaction(key) for key in ("🎉", "", "🛑⏹", "🔄🔄", "👍👎", "stop")),
        said(sender=BOT),
        said(sender=STRANGER),
        said(sender=OTHER_BOT),
        said(msgtype="m.notice"),
        said(body=" \n"),
    ],
)
@pytest.mark.parametrize("room", [DIRECT, SALON], ids=["direct", "salon"])
def test_what_asks_for_nothing_is_ignored(event: Event, room: Room) -> None:
    if isinstance(event, Message):
        event = replace(event, mentions=frozenset({BOT}))

    assert isinstance(decide(event, room, POLICY, {}), Ignore)


@pytest.mark.parametrize(
    ("event", "ignored"),
    [
        (said(), True),
        (JOINED, True),
        (undecryptable(), True),
        (edit_event(), True),
        (reaction("🔄"), True),
        (vote("yes"), True),
        (redaction(), False),
        (invite(), False),
        (UPGRADED, False),
        (Left(EventId("$l"), ROOM, alone=True), False),
    ],
)
def test_where_the_bot_can_no_longer_speak_only_what_needs_no_word_is_done(
    event: Event, *, ignored: bool
) -> None:
    room = replace(DIRECT, closed=True)

    assert isinstance(decide(event, room, POLICY, {}), Ignore) is ignored


@pytest.mark.parametrize("room", [SPACE, STRAY], ids=["space", "stray"])
@pytest.mark.parametrize(
    "event", [said(mentions=(BOT,)), edit_event(), reaction("🔄"), vote("yes"), undecryptable()]
)
def test_nothing_that_is_said_in_a_space_or_a_stray_room_is_for_the_bot(
    room: Room, event: Event
) -> None:
    assert isinstance(decide(event, room, POLICY, {}), Ignore)


def exposed(event: Event) -> Event:
    """Return what was said as it is where it came in clear in an encrypted room."""
    assert isinstance(event, Message | Edit | Vote)
    return replace(event, exposed=True)


@pytest.mark.parametrize(
    ("event", "asked", "key"),
    [
        (said(), DIRECT, "clear text"),
        (said(body="!aide"), DIRECT, "clear text"),
        (said(msgtype="m.image"), DIRECT, "clear text"),
        (said(replies_to="$poll"), DIRECT, "clear text"),
        (said(mentions=(BOT,)), SALON, "clear text"),
        (said(body="!aide", mentions=(BOT,)), SALON, "clear text"),
        (said(thread="$opener", sender=COLLEAGUE), SALON, None),
        (said(), SALON, None),
        (said(msgtype="m.notice"), DIRECT, None),
        (said(sender=BOT), DIRECT, None),
        (said(sender=STRANGER), DIRECT, None),
        (said(sender=OTHER_BOT), DIRECT, None),
        (edit_event(), DIRECT, "clear text"),
        (edit_event(sender=BOT), DIRECT, None),
        (vote("yes"), SALON, "clear text"),
        (vote("yes", sender=STRANGER), SALON, None),
        (said(body="!stats"), ADMIN, "clear text admin"),
        (said(body="Bonjour"), ADMIN, "clear text admin"),
        (said(body="!stats", sender=COLLEAGUE), ADMIN, "clear text admin"),
        (said(sender=STRANGER), ADMIN, "clear text admin"),
        (said(sender=BOT), ADMIN, None),
        (edit_event(), ADMIN, "clear text admin"),
        (vote("yes"), ADMIN, "clear text admin"),
        (said(body="!stats"), replace(ADMIN, closed=True), None),
    ],
)
def test_what_came_in_clear_in_an_encrypted_room_is_refused_where_it_asks_for_anything(
    event: Event, asked: Room, key: str | None
) -> None:
    known = knowing(MY_POLL, replace(OPENER, event_id=EventId("$opener")))
    intent = decide(exposed(event), asked, OBEYING, known, ASKED_AT)

    assert (intent.key if isinstance(intent, Refuse) else None) == key
    assert isinstance(intent, Refuse | Ignore)


def test_the_refusal_stands_where_the_answer_would() -> None:
    event = replace(said(mentions=(BOT,)), exposed=True)
    answer = decide(replace(event, exposed=False), SALON, POLICY, {})
    assert isinstance(answer, Answer)

    refused = decide(event, SALON, POLICY, {})

    assert isinstance(refused, Refuse)
    assert refused.prompt == replace(answer.prompt, messages=(event,))


@pytest.mark.parametrize("event", [reaction("🛑"), redaction(), reaction("👍")])
def test_reactions_and_redactions_always_come_in_clear(event: Event) -> None:
    assert not isinstance(decide(event, ADMIN, OBEYING, {}), Refuse)


@pytest.mark.parametrize(
    ("event", "around"),
    [
        (said(thread="$root"), OPENER),
        (said(thread="$root"), MINE),
        (said(replies_to="$reply"), REPLY),
        (said(replies_to="$poll"), MY_POLL),
    ],
)
def test_what_relates_to_a_message_that_came_in_clear_is_not_addressed_by_that(
    event: Message, around: Message
) -> None:
    assert not isinstance(decide(event, SALON, POLICY, knowing(around)), Ignore)

    forged = replace(around, exposed=True)
    assert isinstance(decide(event, SALON, POLICY, knowing(forged)), Ignore)


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("thread", [None, "$reply", "$root"])
@pytest.mark.parametrize("body", ["Bonjour", "!redo", "@assistant bonjour"])
@pytest.mark.parametrize(
    ("named", "is_prompt"),
    [
        (("$mine",), False),  # of two assistants, one goes on with what the other has said
        (("$mine", "$theirs"), False),
        (("$notice",), False),
        (("$theirs",), True),  # in a direct message, a person forwards an answer
        (("$elsewhere",), True),
        (("$gone",), True),
    ],
)
def test_what_another_assistant_answers_to_the_bot_is_never_a_prompt(
    named: tuple[str, ...], body: str, thread: str | None, *, is_prompt: bool, direct: bool
) -> None:
    """In a salon, nothing that an assistant has generated is."""
    mine = message(event_id="$mine", sender=BOT)
    known: MessageIndex = {
        EventId("$mine"): mine,
        EventId("$reply"): mine,
        EventId("$root"): message(event_id="$root"),
        EventId("$notice"): message(event_id="$notice", sender=BOT, msgtype="m.notice"),
        EventId("$theirs"): message(event_id="$theirs", sender=COLLEAGUE),
        EventId("$elsewhere"): replace(mine, room_id=RoomId("!elsewhere:tchap.test")),
        EventId("$gone"): None,
    }
    generated = replace(
        message(body, thread_root=thread),
        answers=tuple(map(EventId, named)),
        mentions=frozenset({BOT}),
    )

    intent = decide(generated, DIRECT if direct else SALON, POLICY, known)

    assert isinstance(intent, Answer | Run) is (is_prompt and direct)
    assert isinstance(intent, Ignore) is not (is_prompt and direct)


def test_whose_prompt_was_answered_is_looked_up() -> None:
    generated = replace(message(), answers=(EventId("$1"), EventId("$2")))

    assert decide(generated, DIRECT, POLICY, {}) == NeedsLookup(EventId("$1"))


@pytest.mark.parametrize("thread", [None, "$root"])
@pytest.mark.parametrize("replies_to", [None, "$reply", "$chat", "$theirs", "$gone"])
def test_in_a_direct_message_every_text_is_a_prompt(
    thread: str | None, replies_to: str | None
) -> None:
    asked = said(thread=thread, replies_to=replies_to)
    root = None if thread is None else EventId(thread)
    known = knowing(REPLY, said("$chat"), replace(MY_POLL, sender=AGENT), gone=("$gone",))
    known = {**known, EventId("$theirs"): known[MY_POLL.event_id]}

    expected = Prompt((asked,), Conversation(ROOM, root), root)
    assert decide(asked, DIRECT, POLICY, known) == Answer(expected)


@pytest.mark.parametrize("thread", [None, "$root"])
def test_what_replies_to_a_poll_of_the_bot_is_a_comment(thread: str | None) -> None:
    root = None if thread is None else EventId(thread)
    alone = said(thread=thread, replies_to="$poll")
    answered = said(thread=thread, replies_to="$poll", mentions=(BOT,))
    known = knowing(MY_POLL, MINE)

    of_all = Conversation(ROOM, root or EventId("$prompt"))
    expected = Comment(Prompt((alone,), Conversation(ROOM, root), root), MY_POLL.event_id)
    in_salon = Comment(Prompt((answered,), of_all, of_all.thread_root), MY_POLL.event_id)
    assert decide(alone, DIRECT, POLICY, known, now=ASKED_AT + 30 * DAY) == expected
    assert decide(answered, SALON, POLICY, known) == in_salon


@pytest.mark.parametrize(
    "heard",
    [said(replies_to="$poll", msgtype="m.image"), said(replies_to="$poll", body="!aide")],
)
def test_neither_a_command_nor_a_picture_is_a_comment(heard: Message) -> None:
    assert isinstance(decide(heard, DIRECT, POLICY, knowing(MY_POLL)), SendNotice | Run)
    assert isinstance(decide(heard, DIRECT, POLICY, {}), SendNotice | Run)


@pytest.mark.parametrize(
    ("asked", "known"),
    [
        (said(mentions=(BOT,)), {}),
        (said(mentions=(COLLEAGUE, BOT)), {}),
        (said(replies_to="$reply"), knowing(REPLY)),
        (said(replies_to="$reply", mentions=(COLLEAGUE,)), knowing(REPLY)),
        (said(thread="$root", mentions=(BOT,)), {}),
        (said(thread="$root", replies_to="$reply"), knowing(REPLY)),
        (said(thread="$root", mentions=(BOT,)), knowing(CHAT)),
        (said(thread="$root", replies_to="$reply"), knowing(THEIRS, REPLY)),
        (IN_THREAD, knowing(OPENER)),
        (said(thread="$root", mentions=(AGENT,)), knowing(OPENER)),
        (IN_THREAD, knowing(replace(CHAT, replies_to=EventId("$reply")), REPLY)),
        (said(thread="$root", replies_to="$theirs"), knowing(OPENER, said("$theirs", COLLEAGUE))),
        (IN_THREAD, knowing(MINE)),
        (said(sender=COLLEAGUE, thread="$root"), knowing(MINE)),
    ],
)
def test_in_a_salon_a_prompt_is_what_is_said_to_the_bot(
    asked: Message, known: MessageIndex
) -> None:
    root = asked.thread_root or asked.event_id

    expected = Prompt((asked,), Conversation(ROOM, root), root)
    assert decide(asked, SALON, POLICY, known) == Answer(expected)


@pytest.mark.parametrize(
    ("heard", "known"),
    [
        (said(), {}),
        (said(mentions=(COLLEAGUE,)), {}),
        (said(replies_to="$theirs"), knowing(said("$theirs", COLLEAGUE))),
        (said(replies_to="$gone"), knowing(gone=("$gone",))),
        (said(replies_to="$reply"), knowing(replace(REPLY, room_id=RoomId("!other:x")))),
        (IN_THREAD, knowing(CHAT)),
        (IN_THREAD, knowing(THEIRS)),
        (IN_THREAD, knowing(gone=("$root",))),
        (IN_THREAD, knowing(replace(OPENER, room_id=RoomId("!other:x")))),
        (IN_THREAD, knowing(replace(OPENER, msgtype="m.notice"))),
        (IN_THREAD, knowing(UNDER_POLL)),
        (IN_THREAD, knowing(MY_NOTICE)),
        (said(thread="$root", body="!aide"), knowing(MY_NOTICE)),
        (IN_THREAD, knowing(replace(CHAT, replies_to=EventId("$gone")), gone=("$gone",))),
        (said(thread="$root", mentions=(COLLEAGUE,)), knowing(OPENER)),
        (said(thread="$root", mentions=(COLLEAGUE,)), knowing(MINE)),
        (said(sender=COLLEAGUE, thread="$root"), knowing(OPENER)),
        (said(msgtype="m.image"), {}),
    ],
)
def test_in_a_salon_the_bot_does_not_answer_what_is_said_to_others(
    heard: Message, known: MessageIndex
) -> None:
    assert decide(heard, SALON, POLICY, known) == Ignore("not addressed to the bot")


@pytest.mark.parametrize(
    ("heard", "known", "missing"),
    [
        (said(replies_to="$reply"), {}, "$reply"),
        (IN_THREAD, {}, "$root"),
        (said(thread="$root", body="!aide"), {}, "$root"),
        (said(thread="$root", replies_to="$reply"), knowing(OPENER), "$reply"),
        (IN_THREAD, knowing(replace(CHAT, replies_to=EventId("$reply"))), "$reply"),
    ],
)
def test_what_must_be_known_first_is_looked_up(
    heard: Message, known: MessageIndex, missing: str
) -> None:
    assert decide(heard, SALON, POLICY, known) == NeedsLookup(EventId(missing))


@pytest.mark.parametrize("thread", [None, "$root"])
def test_in_a_direct_message_only_what_is_replied_to_is_looked_up(thread: str | None) -> None:
    heard = said(thread=thread, replies_to="$unknown")

    assert decide(heard, DIRECT, POLICY, {}) == NeedsLookup(EventId("$unknown"))


@pytest.mark.parametrize("msgtype", ["m.image", "m.file", "m.audio", "m.location", "x.unknown"])
@pytest.mark.parametrize("room", [DIRECT, SALON], ids=["direct", "salon"])
def test_what_cannot_be_read_is_said_and_never_passed_over_in_silence(
    msgtype: str, room: Room
) -> None:
    picture = said(msgtype=msgtype, body="photo.png", mentions=(BOT,))

    intent = decide(picture, room, POLICY, {})

    assert isinstance(intent, SendNotice)
    assert (intent.prompt.messages, intent.key) == ((picture,), "unreadable message")


@pytest.mark.parametrize("msgtype", ["m.text", "m.emote"])
@pytest.mark.parametrize(
    ("body", "name", "argument"),
    [
        ("!aide", "aide", ""),
        (" !AIDE tout ", "aide", "tout"),
        ("!résumé\nfil\nentier", "résumé", "fil\nentier"),
        ("!inconnu", "inconnu", ""),
    ],
)
def test_in_a_direct_message_what_begins_with_a_sign_and_a_letter_is_a_command(
    msgtype: str, body: str, name: str, argument: str
) -> None:
    asked = said(body=body, msgtype=msgtype)

    assert decide(asked, DIRECT, POLICY, {}) == Run(prompt(asked), name, argument)


@pytest.mark.parametrize("body", ["! aide", "!", "!!", "!1", "aide !", "!_x", "Dis !aide", "!-"])
def test_other_exclamations_are_prompts(body: str) -> None:
    asked = said(body=body)

    assert parse_command(body) is None
    assert decide(asked, DIRECT, POLICY, {}) == Answer(prompt(asked))


@pytest.mark.parametrize(
    ("asked", "known"),
    [
        (replace(COMMAND, mentions=frozenset({BOT})), {}),
        (replace(COMMAND, thread_root=EventId("$root")), knowing(OPENER)),
        (replace(COMMAND, thread_root=EventId("$root")), knowing(THEIRS)),
        (replace(COMMAND, thread_root=EventId("$root")), knowing(MINE)),
        (
            replace(COMMAND, thread_root=EventId("$root"), mentions=frozenset({COLLEAGUE})),
            knowing(OPENER),
        ),
    ],
)
def test_in_a_salon_a_command_mentions_the_bot_or_stands_in_one_of_its_threads(
    asked: Message, known: MessageIndex
) -> None:
    intent = decide(asked, SALON, POLICY, known)

    assert isinstance(intent, Run)
    root = asked.thread_root or asked.event_id
    assert intent.prompt == Prompt((asked,), Conversation(ROOM, root), root)


@pytest.mark.parametrize(
    ("heard", "known"),
    [
        (COMMAND, {}),
        (replace(COMMAND, replies_to=EventId("$reply")), knowing(REPLY)),
        (replace(COMMAND, thread_root=EventId("$root")), knowing(CHAT)),
        (replace(COMMAND, thread_root=EventId("$root")), knowing(gone=("$root",))),
        (
            replace(COMMAND, thread_root=EventId("$root")),
            knowing(said("$root", STRANGER, mentions=(BOT,))),
        ),
        (
            replace(COMMAND, thread_root=EventId("$root")),
            knowing(said("$root", OTHER_BOT, mentions=(BOT,))),
        ),
    ],
)
def test_in_a_salon_any_other_command_is_left_to_other_bots(
    heard: Message, known: MessageIndex
) -> None:
    assert decide(heard, SALON, POLICY, known) == Ignore("not addressed to the bot")


@pytest.mark.parametrize(
    ("body", "anew"),
    [
        ("!nouveau", True),
        (" !New ", True),
        ("!nouveau sujet", True),
        ("!nouveaux", False),
        ("nouveau", False),
    ],
)
def test_a_new_conversation_begins_by_its_command(body: str, anew: bool) -> None:  # noqa: FBT001  # a table's column
    assert begins_anew(body) is anew


@pytest.mark.parametrize("body", ["Bonjour", "!aide"])
@pytest.mark.parametrize(
    ("now", "expired"),
    [
        (ASKED_AT, False),
        (ASKED_AT - DAY, False),
        (ASKED_AT + DAY, False),
        (ASKED_AT + DAY + 1, True),
        (None, False),
    ],
)
def test_a_prompt_expires_unless_it_was_taken_up_in_time(
    body: str,
    now: float | None,
    expired: bool,  # noqa: FBT001  # a table's column
) -> None:
    asked = said(body=body)

    intent = decide(asked, DIRECT, POLICY, {}, now)

    assert (intent == SendNotice(prompt(asked), "expired")) is expired


def test_what_is_not_for_the_bot_does_not_expire_either() -> None:
    assert isinstance(decide(said(), SALON, POLICY, {}, ASKED_AT + 9 * DAY), Ignore)


def test_in_a_salon_with_inline_replies_the_reply_goes_to_the_main_timeline() -> None:
    inline = replace(POLICY, inline=True)
    asked = said(mentions=(BOT,))
    threaded = replace(asked, thread_root=EventId("$root"))

    assert decide(asked, SALON, inline, {}) == Answer(
        Prompt((asked,), Conversation(ROOM, asked.event_id), None)
    )
    assert decide(threaded, SALON, inline, {}) == Answer(prompt(threaded))


ADMINS = Room(room_id=ROOM, direct=False, admin=True)
ADMINISTERED = replace(POLICY, admins=frozenset({AGENT}))


@pytest.mark.parametrize("thread", [None, "$root"])
def test_in_the_admin_room_an_admin_need_not_mention_the_bot(thread: str | None) -> None:
    heard = said(body="!stats 30", thread=thread)
    root = None if thread is None else EventId(thread)

    expected = Run(Prompt((heard,), Conversation(ROOM, root), root), "stats", "30")
    assert decide(heard, ADMINS, ADMINISTERED, {}, now=ASKED_AT + 30 * DAY) == expected


@pytest.mark.parametrize(
    "heard",
    [
        said(sender=COLLEAGUE, body="!stats", mentions=(BOT,)),
        said(sender=BOT, body="!stats"),
        said(sender=STRANGER, body="!stats"),
        said(body="Bonjour", mentions=(BOT,)),
        said(body="!stats", msgtype="m.notice"),
        said(body="!stats", msgtype="m.emote"),
        said(msgtype="m.image"),
    ],
)
def test_in_the_admin_room_nothing_else_is_obeyed_or_answered(heard: Message) -> None:
    assert isinstance(decide(heard, ADMINS, ADMINISTERED, {}), Ignore)


def test_the_admin_room_has_a_welcome_of_its_own_and_is_not_left() -> None:
    alone = Left(EventId("$l"), ROOM, alone=True)

    welcome = Welcome(ROOM, EventId("$join"), "welcome admin")
    assert decide(JOINED, ADMINS, ADMINISTERED, {}) == welcome
    assert isinstance(decide(alone, ADMINS, ADMINISTERED, {}), Ignore)


def test_two_mentions_in_a_salon_are_two_conversations_and_a_direct_message_is_one() -> None:
    asked = [said(one, mentions=(BOT,)) for one in ("$1", "$2")]

    def conversations(room: Room) -> set[Conversation]:
        intents = [decide(one, room, POLICY, {}) for one in asked]
        return {one.prompt.conversation for one in intents if isinstance(one, Answer)}

    assert conversations(DIRECT) == {Conversation(ROOM, None)}
    assert conversations(SALON) == {Conversation(ROOM, EventId(one)) for one in ("$1", "$2")}


@pytest.mark.parametrize(
    ("user_id", "allowed"),
    [
        ("@a:tchap.test", True),
        ("@a:agent.gouv.test", True),
        ("@a:gouv.test", False),
        ("@a:evilgouv.test", False),
        ("@a:tchap.test.evil", False),
        ("@tchap.test:evil", False),
        ("@a:TCHAP.test", False),
        ("a", False),
    ],
)
def test_only_the_whole_server_name_or_a_true_suffix_is_allowed(
    user_id: str,
    allowed: bool,  # noqa: FBT001  # a table's column
) -> None:
    assert POLICY.allows(UserId(user_id)) is allowed


def typed(*names: str, **changed: Any) -> Message:  # noqa: ANN401  # as `said` takes it
    return replace(said(body=f"@{names[0]} ?", **changed), typed_at=names)


CALLED = replace(SALON, called="Albert [Dinum]")
ME = BOT[1:]


@pytest.mark.parametrize(
    ("event", "room", "known"),
    [
        (typed("Assistant IA, bonjour"), SALON, {}),
        (typed("Ada", "assistant ia"), SALON, {}),
        (typed("Albert bonjour"), CALLED, {}),
        (typed("Assistant IA"), CALLED, {}),
        (typed(f"{ME} bonjour"), SALON, {}),
        (typed(f"{ME.partition(':')[0]}, bonjour"), SALON, {}),
        (typed("Assistant IA", thread="$root"), SALON, knowing(CHAT)),
        (typed("Assistant IA", thread="$root"), SALON, knowing(THEIRS)),
    ],
)
def test_who_types_the_bots_name_is_told_how_to_mention_it(
    event: Message, room: Room, known: MessageIndex
) -> None:
    conversation = Conversation(ROOM, event.thread_root or event.event_id)
    expected = Prompt((event,), conversation, conversation.thread_root)
    assert decide(event, room, POLICY, known) == Hint(expected)


@pytest.mark.parametrize(
    ("event", "room"),
    [
        (said(), SALON),
        (typed("Ada"), CALLED),
        (typed("Albert"), SALON),
        (typed("Assistant IA", sender=OTHER_BOT), SALON),
        (typed("Assistant IA", sender=STRANGER), SALON),
        (typed("Assistant IA", msgtype="m.notice"), SALON),
        (replace(typed("Assistant IA"), answers=(EventId("$x"),)), SALON),
        (replace(typed("Assistant IA"), exposed=True), SALON),
        (typed("Assistant IA"), ADMIN),
    ],
)
def test_nobody_else_is_told_so(event: Message, room: Room) -> None:
    assert isinstance(decide(event, room, POLICY, {}), Ignore)


def test_whoever_typed_it_long_ago_is_not_told_any_more() -> None:
    now = ASKED_AT + POLICY.age_limit + 1
    assert isinstance(decide(typed("Assistant IA"), SALON, POLICY, {}, now), Ignore)


@pytest.mark.parametrize(
    ("event", "room"),
    [
        (replace(typed("Assistant IA"), mentions=frozenset({BOT})), SALON),
        (typed("Assistant IA"), DIRECT),
    ],
)
def test_what_is_a_prompt_anyway_is_answered(event: Message, room: Room) -> None:
    assert isinstance(decide(event, room, POLICY, {}), Answer)

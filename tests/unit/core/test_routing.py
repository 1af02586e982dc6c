from dataclasses import replace

import pytest

from bot.core.events import Event, EventId, Joined, Left, Room, RoomId, UserId
from bot.core.routing import (
    Accept,
    Answer,
    Await,
    Decline,
    Explain,
    Ignore,
    Intent,
    Leave,
    Policy,
    Welcome,
    decide,
)
from tests.make import BOT, ROOM, invite, message, undecryptable

POLICY = Policy(BOT, ("tchap.test", "*.gouv.test"))
JOINED = Joined(EventId("$join"), ROOM)
PROMPT = message()


@pytest.mark.parametrize(
    ("event", "direct", "intent"),
    [
        (PROMPT, True, Answer(PROMPT)),
        (invite(), False, Accept(invite())),
        (invite("@a:evil.test"), False, Decline(ROOM, "decline")),
        (JOINED, True, Welcome(ROOM, EventId("$join"), "welcome")),
        (JOINED, False, Welcome(ROOM, EventId("$join"), "welcome salon")),
        (Left(EventId("$l"), ROOM, alone=True), True, Leave(ROOM)),
        (undecryptable(), True, Await(undecryptable())),
        (undecryptable(), False, Await(undecryptable())),
    ],
)
def test_each_event_has_its_intent(event: Event, direct: bool, intent: Intent | Await) -> None:  # noqa: FBT001  # a table's column
    assert decide(event, Room(ROOM, direct=direct), POLICY) == intent


@pytest.mark.parametrize(
    ("heard", "direct"),
    [
        (replace(PROMPT, sender=BOT), True),
        (replace(PROMPT, msgtype="m.notice"), True),
        (replace(PROMPT, sender=UserId("@a:evil.test")), True),
        (replace(PROMPT, body=" \n"), True),
        (PROMPT, False),
        (replace(PROMPT, msgtype="m.image"), False),
        (undecryptable(sender=BOT), True),
        (undecryptable(sender=UserId("@a:evil.test")), True),
    ],
)
def test_what_is_no_prompt_is_ignored(heard: Event, direct: bool) -> None:  # noqa: FBT001  # a table's column
    assert isinstance(decide(heard, Room(ROOM, direct=direct), POLICY), Ignore)


@pytest.mark.parametrize("msgtype", ["m.image", "m.file", "m.audio", "m.location", "x.unknown"])
def test_what_cannot_be_read_is_said_and_never_passed_over_in_silence(msgtype: str) -> None:
    picture = replace(PROMPT, msgtype=msgtype, body="photo.png")

    intent = decide(picture, Room(ROOM, direct=True), POLICY)

    assert intent == Explain(picture, "unreadable message")


@pytest.mark.parametrize("body", ["!aide", " !AIDE ", "!help"])
def test_the_command_that_the_welcome_names_is_answered_by_the_bot_itself(body: str) -> None:
    asked = replace(PROMPT, body=body)

    assert decide(asked, Room(ROOM, direct=True), POLICY) == Explain(asked, "help")


def test_a_room_where_others_stay_is_not_left() -> None:
    stays = Left(EventId("$l"), RoomId("!r:x"), alone=False)

    assert isinstance(decide(stays, Room(ROOM, direct=False), POLICY), Ignore)


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

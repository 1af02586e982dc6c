"""What is kept of conversations, on a homeserver that answers when it is told to."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import nio
import pytest
from typing_extensions import override

from bot.core.events import Conversation, EventId, Prompt, RoomId
from bot.core.prompt_context import History
from bot.core.transcript import TranscriptMessage
from bot.errors import HomeserverUnreachable
from bot.matrix import history, member_arrivals, response_repair, time_slice
from bot.matrix.history import Histories
from bot.matrix.nio_client import SafeClient
from bot.matrix.response_repair import ObjectResponse
from bot.matrix.state_events import Membership, parse_membership
from tests.make import AGENT, BOT, COLLEAGUE, ROOM, edit_event, message, prompt, redaction

MAIN = Conversation(ROOM, None)
ASKED = prompt(message("now", event_id="$now"))
MEMBERSHIP = {
    "type": "m.room.member",
    "event_id": "$join",
    "sender": BOT,
    "state_key": BOT,
    "origin_server_ts": 5,
    "content": {"membership": "join"},
}


def said(body: str, event_id: str = "", **changed: Any) -> dict[str, Any]:  # noqa: ANN401  # JSON
    event = {"type": "m.room.message", "event_id": event_id or f"${body}", "sender": AGENT}
    content = {"msgtype": "m.text", "body": body}
    return event | {"origin_server_ts": 10, "content": content, "room_id": ROOM} | changed


def replying(body: str, to: str, **changed: Any) -> dict[str, Any]:  # noqa: ANN401  # JSON
    content = {
        "msgtype": "m.text",
        "body": body,
        "m.relates_to": {"m.in_reply_to": {"event_id": to}},
    }
    return said(body, content=content, **changed)


class PagedClient(SafeClient):
    """Hands out a timeline, newest first, a page at a time, and single events by their ids."""

    def __init__(self, *pages: Sequence[dict[str, Any]]) -> None:
        super().__init__("http://x", BOT, "BOT")
        self.restore_login(BOT, "BOT", "token")
        self.pages = pages
        self.events: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failing = False
        self.members: dict[str, dict[str, Any]] = {}  # by user
        self.related: list[dict[str, Any]] = []

    @override
    async def room_messages(self, room_id: str, start: str | None = None, **_: object) -> Any:
        self.asked.append(f"from {start}")
        await self.gate.wait()
        if self.failing:
            raise TimeoutError
        place = int(start or 0)
        body = {"chunk": self.pages[place], "start": str(place)}
        if place + 1 < len(self.pages):
            body["end"] = str(place + 1)
        return response_repair.read(
            nio.RoomMessagesResponse, json.dumps(body).encode(), (room_id,)
        )

    @override
    async def room_get_event(self, room_id: str, event_id: str) -> Any:
        self.asked.append(event_id)
        found = self.events.get(event_id, {"errcode": "M_NOT_FOUND", "error": "gone"})
        return response_repair.read(nio.RoomGetEventResponse, json.dumps(found).encode(), ())

    @override
    async def _send(
        self,
        response_class: type[nio.Response],
        method: str,
        path: str,
        data: object = None,
        response_data: tuple[Any, ...] | None = None,
        *_: Any,  # nio's
        **__: Any,  # nio's
    ) -> Any:
        place = unquote(path.partition("?")[0]).rpartition("/")[2]
        body: dict[str, Any] = {"chunk": self.related}
        if response_class is ObjectResponse:
            assert path.endswith("?format=event")
            self.asked.append(f"member {place}")
            await self.gate.wait()
            body = self.members.get(place, {"errcode": "M_NOT_FOUND", "error": "gone"})
        return response_repair.read(response_class, json.dumps(body).encode(), response_data or ())


async def read(
    kept: Histories,
    asked: Prompt = ASKED,
    *,
    enough: bool = False,
    **membership: Any,  # noqa: ANN401  # JSON
) -> History:
    return await kept.read(asked, MEMBERSHIP | membership, lambda _: enough)


def bodies(said: Sequence[TranscriptMessage]) -> list[str]:
    return [one.body for one in said]


async def test_pages_are_read_back_from_the_present_and_told_in_order() -> None:
    client = PagedClient([said("now"), said("c")], [said("b"), said("a")])

    found = await read(Histories(client, BOT))

    assert bodies(found.messages) == ["a", "b", "c", "now"]
    assert client.asked == ["from None", "from 1"]


async def test_no_page_is_read_that_could_not_count() -> None:
    client = PagedClient([said("now"), said("b")], [said("a")])

    found = await read(Histories(client, BOT), enough=True)

    assert bodies(found.messages) == ["b", "now"]


async def test_what_is_enough_is_asked_of_the_conversation_as_it_stands() -> None:
    edit = {
        "msgtype": "m.text",
        "body": "* B",
        "m.new_content": {"msgtype": "m.text", "body": "B"},
        "m.relates_to": {"rel_type": "m.replace", "event_id": "$b"},
    }
    client = PagedClient([said("now"), said("e", content=edit), said("b")], [said("a")])
    shown: list[list[str]] = []

    def enough(known: Sequence[TranscriptMessage]) -> bool:
        shown.append(bodies(known))
        return False

    await Histories(client, BOT).read(ASKED, MEMBERSHIP, enough)

    assert shown == [["B", "now"]]


async def test_no_more_pages_are_read_than_would_ever_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history, "PAGES", 3)
    client = PagedClient(*([said(f"{number}")] for number in range(9)))

    assert bodies((await read(Histories(client, BOT))).messages) == ["2", "1", "0"]


def invitation(now: str = "invite", user: str = BOT, before: str = "leave") -> dict[str, Any]:
    return said(
        "",
        type="m.room.member",
        state_key=user,
        content={"membership": now},
        unsigned={"prev_content": {"membership": before}},
    )


@pytest.mark.parametrize(
    ("between", "read_on"),
    [
        (invitation(), False),
        (invitation("join"), False),  # it let itself in
        (invitation("join", before="invite"), True),
        (invitation("join", before="join"), True),  # its profile changed
        (invitation(user=COLLEAGUE), True),
        (said("forged", content={"membership": "invite", "msgtype": "m.text", "body": "x"}), True),
    ],
)
async def test_nothing_from_before_the_last_invitation_is_read(
    between: dict[str, Any],
    read_on: bool,  # noqa: FBT001  # a table's column
) -> None:
    client = PagedClient([said("now"), said("b"), between, said("secret")], [said("older secret")])

    found = bodies((await read(Histories(client, BOT))).messages)

    assert ("secret" in found) is ("older secret" in found) is read_on


async def test_a_conversation_is_read_once_and_then_kept_up_by_what_is_heard() -> None:
    client = PagedClient([said("now"), said("a")])
    kept = Histories(client, BOT)
    await read(kept)

    kept.update(message("next", event_id="$next"))
    kept.update(edit_event("A", target="$a"))
    kept.update(redaction("$now"))
    kept.update(message("thread", event_id="$t", thread_root="$root"))
    kept.update(replace(message("elsewhere", event_id="$x"), room_id=RoomId("!other:x")))

    assert bodies((await read(kept)).messages) == ["A", "next"]
    assert client.asked == ["from None"]


async def test_what_is_heard_while_the_conversation_is_read_is_in_it_once() -> None:
    client = PagedClient([said("now"), said("a")])
    client.gate.clear()
    kept = Histories(client, BOT)
    reading = asyncio.get_running_loop().create_task(read(kept))
    await asyncio.sleep(0)

    kept.update(message("now", event_id="$now"))
    kept.update(message("next", event_id="$next"))
    kept.update(redaction("$a"))
    client.gate.set()

    assert bodies((await reading).messages) == ["now", "next"]


async def test_two_prompts_at_once_have_their_conversation_read_once() -> None:
    client = PagedClient([said("now"), said("a")])
    client.gate.clear()
    kept = Histories(client, BOT)
    loop = asyncio.get_running_loop()
    both = [loop.create_task(read(kept)) for _ in range(2)]
    await asyncio.sleep(0)
    client.gate.set()

    assert [bodies((await one).messages) for one in both] == [["a", "now"]] * 2
    assert client.asked == ["from None"]


async def test_what_is_forgotten_while_it_is_read_is_told_once_and_not_kept() -> None:
    client = PagedClient([said("now"), said("a")])
    client.gate.clear()
    kept = Histories(client, BOT)
    reading = asyncio.get_running_loop().create_task(read(kept))
    await asyncio.sleep(0)

    kept.forget(ROOM)
    client.gate.set()

    assert bodies((await reading).messages) == ["a", "now"]
    await read(kept)
    assert client.asked == ["from None"] * 2


async def test_a_reading_that_fails_leaves_nothing_half_read() -> None:
    client = PagedClient([said("now"), said("a")])
    kept = Histories(client, BOT)
    client.failing = True
    with pytest.raises(HomeserverUnreachable):
        await read(kept)
    kept.update(message("next", event_id="$next"))
    assert not kept._transcripts

    client.failing = False
    assert bodies((await read(kept)).messages) == ["a", "now"]


async def test_a_conversation_begun_while_it_is_read_is_read_all_the_same() -> None:
    client = PagedClient([said("now"), said("a")])
    client.gate.clear()
    kept = Histories(client, BOT)
    reading = asyncio.get_running_loop().create_task(read(kept))
    await asyncio.sleep(0)

    kept.begin(MAIN, message("now", event_id="$now"))
    client.gate.set()

    assert bodies((await reading).messages) == ["a", "now"]


async def test_a_late_key_shows_the_message_where_it_was_missing() -> None:
    content = {
        "algorithm": "m.megolm.v1.aes-sha2",
        "ciphertext": "x",
        "session_id": "s",
    }
    hidden = said("", "$hidden", type="m.room.encrypted", content=content)
    kept = Histories(PagedClient([said("now"), hidden, said("a")]), BOT)
    assert [one.readable for one in (await read(kept)).messages] == [True, False, True]

    kept.reveal(message("late", event_id="$hidden"))
    kept.reveal(message("not here", event_id="$older"))

    assert bodies((await read(kept)).messages) == ["a", "late", "now"]


def kept_rooms(kept: Histories) -> set[RoomId]:
    assert {one for of_room in kept._of_room.values() for one in of_room} == set(kept._transcripts)
    return {one.room_id for one in kept._transcripts}


def test_one_room_or_all_are_forgotten() -> None:
    kept = Histories(PagedClient(), BOT)
    rooms = [RoomId(f"!{number}:x") for number in range(3)]
    for room_id in rooms:
        kept.begin(Conversation(room_id, EventId("$root")), message(event_id="$root"))

    kept.forget(rooms[0])
    assert kept_rooms(kept) == set(rooms[1:])
    kept.forget()
    kept.forget()
    assert not kept_rooms(kept)


async def test_the_coldest_conversations_go_while_all_are_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history, "_CACHED_CHARACTERS", 10)
    kept = Histories(PagedClient([said("now")]), BOT)
    for number in range(3):
        opening = message("four", event_id=f"${number}")
        kept.begin(Conversation(ROOM, opening.event_id), opening)
    first = prompt(message(event_id="$now", thread_root="$0"))

    await read(kept, first)
    assert [one.thread_root for one in kept._transcripts] == ["$2", "$0"]

    kept.update(message("very long indeed", event_id="$l", thread_root="$0"))
    await read(kept, first)
    assert [one.thread_root for one in kept._transcripts] == ["$0"]  # the one asked for stays
    assert kept_rooms(kept) == {ROOM}


async def test_no_more_conversations_are_kept_than_so_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history, "_CACHED_CONVERSATIONS", 2)
    kept = Histories(PagedClient([said("now")]), BOT)
    for number in range(5):
        opening = message("x", event_id=f"${number}")
        kept.begin(Conversation(ROOM, opening.event_id), opening)

    await read(kept)

    assert [one.thread_root for one in kept._transcripts] == ["$4", None]


# Chains of replies.


def quoting(*quoted: str) -> Prompt:
    """Return a prompt whose messages reply to these."""
    asked = [
        replace(message("now", event_id=f"$now{place}"), replies_to=EventId(to))
        for place, to in enumerate(quoted)
    ]
    return prompt(*asked)


async def chain(client: PagedClient, asked: Prompt, **membership: Any) -> tuple[list[str], int]:  # noqa: ANN401  # JSON
    found = await read(Histories(client, BOT), asked, **membership)
    return bodies(found.chain), found.lost


async def test_a_chain_of_replies_is_followed_to_its_beginning() -> None:
    client = PagedClient([])
    client.events = {"$1": said("one", "$1"), "$2": replying("two", "$1", event_id="$2")}

    assert await chain(client, quoting("$2")) == (["one", "two"], 0)


async def test_what_is_in_the_conversation_is_not_fetched_again() -> None:
    client = PagedClient([said("now", "$now0"), replying("b", "$a"), said("a")])

    assert await chain(client, quoting("$b")) == (["a", "b"], 0)
    assert client.asked == ["from None"]


async def test_a_reply_of_the_bot_brings_all_the_messages_back_that_it_answers() -> None:
    marker = {"fr.gouv.assistant.generated": {"prompt": "$1", "joined": ["$2"]}}
    content = {"msgtype": "m.text", "body": "Oui.", **marker}
    client = PagedClient([])
    client.events = {
        "$1": replying("one", "$0", event_id="$1"),
        "$2": said("two", "$2"),
        "$r": said("", "$r", sender=BOT, content=content),
        "$0": said("zero", "$0"),
    }

    assert await chain(client, quoting("$r")) == (["zero", "one", "two", "Oui."], 0)


async def test_what_several_messages_of_a_prompt_quote_is_there_once() -> None:
    client = PagedClient([])
    client.events = {
        "$1": said("one", "$1"),
        "$2": replying("two", "$1", event_id="$2"),
        "$3": said("three", "$3"),
    }

    found, _ = await chain(client, quoting("$2", "$1", "$3"))

    assert sorted(found) == ["one", "three", "two"]
    assert found.index("one") < found.index("two")


async def test_a_chain_that_runs_in_a_circle_ends() -> None:
    client = PagedClient([])
    client.events = {
        "$1": replying("one", "$2", event_id="$1"),
        "$2": replying("two", "$1", event_id="$2"),
    }

    assert await chain(client, quoting("$2")) == (["one", "two"], 0)


async def test_a_chain_is_followed_only_so_far() -> None:
    client = PagedClient([])
    client.events = {
        f"${number}": replying(f"{number}", f"${number - 1}", event_id=f"${number}")
        for number in range(20)
    }

    found, lost = await chain(client, quoting("$19"))

    assert found == [f"{number}" for number in range(10, 20)]
    assert lost == 0


@pytest.mark.parametrize(
    ("quoted", "lost"),
    [
        (None, 1),
        (said("", content={}), 1),
        (
            said(
                "",
                type="m.room.encrypted",
                content={
                    "algorithm": "m.megolm.v1.aes-sha2",
                    "ciphertext": "x",
                    "session_id": "s",
                },
            ),
            1,
        ),
        (said("", content={"msgtype": "m.notice", "body": "welcome"}), 0),
        (said("", content={"msgtype": "m.image", "body": "photo.png"}), 0),
        (said("secret", origin_server_ts=4), 0),
    ],
    ids=["gone", "redacted", "no key", "notice", "picture", "from before the bot came"],
)
async def test_what_is_lost_of_a_chain_is_counted(
    quoted: dict[str, Any] | None, lost: int
) -> None:
    client = PagedClient([])
    client.events = {"$2": replying("two", "$1", event_id="$2")}
    if quoted is not None:
        client.events["$1"] = quoted | {"event_id": "$1"}

    assert await chain(client, quoting("$2")) == (["two"], lost)


async def test_a_room_whose_membership_is_not_known_tells_nothing_of_older_messages() -> None:
    client = PagedClient([])
    client.events = {"$1": said("one", "$1")}

    assert await chain(client, quoting("$1"), type="m.room.name") == ([], 0)


# The bot's arrival.


def membership(now: str, before: str | None, at: int, replaces: str = "") -> dict[str, Any]:
    unsigned = {"prev_content": {"membership": before}} if before else {}
    return MEMBERSHIP | {
        "content": {"membership": now},
        "origin_server_ts": at,
        "unsigned": unsigned | {"replaces_state": replaces},
    }


@pytest.mark.parametrize(
    ("current", "earlier", "arrival"),
    [
        (membership("join", None, 50), {}, 50),
        (membership("join", "leave", 50, "$l"), {"$l": membership("leave", "join", 40)}, 50),
        (membership("invite", "leave", 50), {}, 50),
        (membership("join", "invite", 50, "$i"), {"$i": membership("invite", None, 40)}, 40),
        (membership("join", "invite", 50, "$i"), {}, 50),
        (
            membership("join", "join", 50, "$j"),
            {
                "$j": membership("join", "invite", 30, "$i"),
                "$i": membership("invite", "leave", 20, "$l"),
                "$l": membership("leave", "join", 10),
            },
            20,
        ),
        (
            membership("join", "join", 50, "$j2"),  # what is asked for tells nothing of before
            {
                "$j2": membership("join", None, 40, "$j"),
                "$j": membership("join", None, 30, "$i"),
                "$i": membership("invite", None, 20, "$l"),
            },
            20,
        ),
        (
            membership("join", "join", 50, "$j"),
            {
                "$j": membership("join", None, 30, "$l"),
                "$l": membership("leave", None, 20, "$old"),
                "$old": membership("join", None, 10),
            },
            30,
        ),
        (membership("join", "join", 50, "$j"), {"$j": said("odd")}, 50),
    ],
)
async def test_the_bot_has_come_when_it_was_last_invited(
    current: dict[str, Any], earlier: dict[str, dict[str, Any]], arrival: int
) -> None:
    client = PagedClient()
    client.events = earlier
    kept = Histories(client, BOT)

    assert await kept._arrivals.of_bot(ROOM, current) == arrival
    assert await kept._arrivals.of_bot(ROOM, {}) == arrival  # it is asked once


async def test_the_arrival_is_looked_up_anew_once_the_bot_was_away() -> None:
    kept = Histories(PagedClient(), BOT)
    await kept._arrivals.of_bot(ROOM, membership("join", None, 50))

    kept.forget(ROOM)

    assert await kept._arrivals.of_bot(ROOM, membership("join", None, 90)) == 90


# What a room hides from those who come later (R14 of docs/reliability.md).

THREAD = prompt(message("now", event_id="$now", thread_root="$root"))


def came(at: int, before: str | None = None, replaces: str = "", now: str = "join") -> Any:  # noqa: ANN401  # JSON
    """Return the membership of the one who asks."""
    event = membership(now, before, at, replaces)
    return event | {"sender": AGENT, "state_key": AGENT, "event_id": f"$came{at}"}


def old_thread() -> PagedClient:
    """Return a homeserver with a thread of a colleague and the bot, in which the agent asks."""
    relation = {"m.relates_to": {"rel_type": "m.thread", "event_id": "$root"}}
    answering = {"fr.gouv.assistant.generated": {"prompt": "$30"}}

    def add(body: str, at: int, sender: str, **content: object) -> dict[str, Any]:
        content |= {"msgtype": "m.text", "body": body, **relation}
        return said(body, f"${at}", origin_server_ts=at, sender=sender, content=content)

    events = [add(f"{at}", at, COLLEAGUE) for at in (20, 30, 40, 50)]
    events += [add("late reply", 45, BOT, **answering), add("now", 60, AGENT)]
    client = PagedClient()
    client.events = {event["event_id"]: event for event in events}
    client.events["$now"] = client.events.pop("$60") | {"event_id": "$now"}
    client.related = [*client.events.values()][::-1]
    client.events["$root"] = said("root", sender=COLLEAGUE)
    client.members[AGENT] = came(35, "invite", "$i")
    client.events["$i"] = came(25, now="invite")
    return client


ALL = ["root", "20", "30", "late reply", "40", "50", "now"]


@pytest.mark.parametrize(
    ("visibility", "told"),
    [
        ("shared", ALL),
        ("world_readable", ALL),
        ("invited", ["30", "late reply", "40", "50", "now"]),
        ("joined", ["40", "50", "now"]),
        ("fr.gouv.odd", ["40", "50", "now"]),
    ],
)
async def test_s8_who_asks_is_told_of_a_thread_what_they_may_read(
    visibility: str, told: list[str]
) -> None:
    client = old_thread()
    kept = Histories(client, BOT)

    found = await kept.read(THREAD, MEMBERSHIP, lambda _: False, visibility)

    assert bodies(found.messages) == told
    assert (f"member {AGENT}" in client.asked) is (told != ALL)


@pytest.mark.parametrize(
    ("member", "told"),
    [
        (came(55, "join", "$c"), ["40", "50", "now"]),  # a new profile
        (came(55, "join", "$gone"), ["now"]),
        (came(55, now="leave"), ["now"]),
        ({"membership": "join"}, ["now"]),  # the content alone
        (came(5) | {"state_key": COLLEAGUE}, ["now"]),
        (None, ["now"]),
        (came(5), ALL),
    ],
)
async def test_s8_when_somebody_came_is_found_behind_changes_of_profile_or_nothing_is_told(
    member: dict[str, Any] | None, told: list[str]
) -> None:
    client = old_thread()
    client.events["$c"] = came(35, None, "$i")
    client.members = {} if member is None else {AGENT: member}

    found = await Histories(client, BOT).read(THREAD, MEMBERSHIP, lambda _: False, "joined")

    assert bodies(found.messages) == told


async def test_s8_what_was_said_after_the_prompt_is_not_older() -> None:
    client = old_thread()
    client.members = {}
    kept = Histories(client, BOT)
    await kept.read(THREAD, MEMBERSHIP, lambda _: False)
    late = message("after", event_id="$after", sender=COLLEAGUE, thread_root="$root")
    kept.update(replace(late, timestamp=THREAD.messages[0].timestamp + 1))

    found = await kept.read(THREAD, MEMBERSHIP, lambda _: False, "joined")

    assert bodies(found.messages) == ["now", "after"]


async def test_s8_a_chain_of_replies_tells_nothing_that_is_hidden() -> None:
    client = old_thread()
    client.related = []
    client.events |= {
        "$a": said("hidden", "$a"),
        "$b": replying("old, too", "$a", event_id="$b", origin_server_ts=34),
        "$c": replying("seen", "$b", event_id="$c", origin_server_ts=36),
    }
    kept = Histories(client, BOT)

    async def told(to: str) -> tuple[list[str], int]:
        one = replace(message("now", event_id="$now"), replies_to=EventId(to))
        asked = Prompt((one,), Conversation(ROOM, one.event_id))
        found = await kept.read(asked, MEMBERSHIP, lambda _: False, "joined")
        return bodies(found.chain), found.lost

    assert await told("$c") == (["seen"], 0)
    assert await told("$b") == ([], 0)
    assert await told("$45") == ([], 0)  # it answers what is hidden
    assert await told("$nowhere") == ([], 1)


async def test_s8_of_a_fresh_mention_nothing_is_asked() -> None:
    client = old_thread()
    kept = Histories(client, BOT)
    asked = prompt(message("now", event_id="$fresh"))
    asked = Prompt(asked.messages, Conversation(ROOM, EventId("$fresh")))
    kept.begin(asked.conversation, asked.messages[0])
    answer = replace(message("Oui.", event_id="$r", sender=BOT, thread_root="$fresh"))
    kept.update(replace(answer, answers=asked.event_ids))

    found = await kept.read(asked, MEMBERSHIP, lambda _: False, "joined")

    assert bodies(found.messages) == ["now", "Oui."]
    assert client.asked == []


def agent(source: dict[str, Any]) -> Membership:
    found = parse_membership(source)
    assert found is not None
    return found


async def test_s8_when_somebody_came_is_asked_once_until_it_may_have_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = old_thread()
    kept = Histories(client, BOT)

    async def asked(visibility: str = "joined") -> int:
        before = client.asked.count(f"member {AGENT}")
        await kept.read(THREAD, MEMBERSHIP, lambda _: False, visibility)
        return client.asked.count(f"member {AGENT}") - before

    assert [await asked(), await asked()] == [1, 0]
    kept.update_member(ROOM, agent(client.members[AGENT]))  # told once more
    kept.update_member(RoomId("!other:x"), agent(came(99)))
    assert await asked() == 0
    kept.update_member(ROOM, agent(came(99)))
    assert [await asked(), await asked()] == [1, 0]
    assert [await asked("invited"), await asked("invited")] == [1, 0]
    kept.forget(RoomId("!other:x"))
    assert await asked("invited") == 0
    kept.forget(ROOM)
    assert await asked("invited") == 1
    monkeypatch.setattr(member_arrivals, "_PEOPLE", 0)
    kept = Histories(client, BOT)
    assert [await asked(), await asked()] == [1, 1]


async def test_s8_a_membership_heard_while_it_is_asked_for_is_asked_for_again() -> None:
    client = old_thread()
    kept = Histories(client, BOT)
    await kept.read(THREAD, MEMBERSHIP, lambda _: False)
    client.gate.clear()
    loop = asyncio.get_running_loop()
    reading = loop.create_task(kept.read(THREAD, MEMBERSHIP, lambda _: False, "joined"))
    for _ in range(20):  # as far as the gate
        await asyncio.sleep(0)
    assert f"member {AGENT}" in client.asked

    kept.update_member(ROOM, agent(came(58)))
    client.gate.set()
    await reading
    client.members[AGENT] = came(58)

    found = await kept.read(THREAD, MEMBERSHIP, lambda _: False, "joined")
    assert bodies(found.messages) == ["now"]


# What the homeserver lists.


async def test_only_the_bots_own_edits_are_listed() -> None:
    client = PagedClient()
    client.related = [said("x", "$mine", sender=BOT), said("x", "$forged", sender=COLLEAGUE)]

    assert await Histories(client, BOT).edits(ROOM, EventId("$r")) == ["$mine"]


async def test_others_have_the_loop_between_the_events_of_a_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time_slice, "_PIECE_SECONDS", -1)
    client, turns = PagedClient(), 0
    client.related = [said("x", f"${number}", sender=BOT) for number in range(100)]

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.get_running_loop().create_task(count())
    await Histories(client, BOT).edits(ROOM, EventId("$r"))
    listed = turns
    await Histories(client, BOT).fetch(ROOM, EventId("$r"))
    client.events["$root"] = said("root", "$root")
    await read(Histories(client, BOT), THREAD)
    counting.cancel()

    assert listed >= 100
    assert turns >= 300


def edited_in_clear(body: str, words: str) -> dict[str, Any]:
    """Return a message whose newest edit, in clear, comes with it."""
    relation = {"rel_type": "m.replace", "event_id": f"${body}"}
    new = {"msgtype": "m.text", "body": words}
    edit = said("* x", "$edit", content={**new, "m.new_content": new, "m.relates_to": relation})
    return said(body, unsigned={"m.relations": {"m.replace": edit}})


@pytest.mark.parametrize(("sealed", "found"), [(None, "nab"), (11, "nab"), (10, ""), (0, "")])
async def test_what_was_said_in_clear_once_the_room_was_encrypted_is_in_no_conversation(
    sealed: float | None, found: str
) -> None:
    kept = Histories(PagedClient([said("b"), said("a"), said("n")]), BOT)
    if sealed is not None:
        kept.encrypted_at[ROOM] = sealed

    assert "".join(bodies((await read(kept)).messages)) == found


@pytest.mark.parametrize(("sealed", "words"), [(None, "forged"), (11, "forged"), (10, "")])
async def test_an_edit_in_clear_changes_nothing_that_is_read_again(
    sealed: float | None, words: str
) -> None:
    client = PagedClient([edited_in_clear("a", "forged")])
    client.events["$a"] = edited_in_clear("a", "forged")
    kept = Histories(client, BOT)
    if sealed is not None:
        kept.encrypted_at[ROOM] = sealed

    assert bodies((await read(kept)).messages) == ([words] if words else [])
    edits = (await kept.fetch(ROOM, EventId("$a")))[1:]
    assert len(edits) == (1 if words else 0)


@pytest.mark.parametrize("sealed", [None, 10])
async def test_what_is_quoted_and_came_in_clear_counts_as_unreadable(sealed: float | None) -> None:
    client = PagedClient([said("now")])
    client.events["$forged"] = said("forged")
    kept = Histories(client, BOT)
    if sealed is not None:
        kept.encrypted_at[ROOM] = sealed
    asked = replace(message("now", event_id="$now"), replies_to=EventId("$forged"))

    found = await read(kept, prompt(asked))

    assert bodies(found.chain) == ([] if sealed else ["forged"])
    assert found.lost == (1 if sealed else 0)


async def test_what_an_earlier_process_knew_to_be_encrypted_needs_no_telling() -> None:
    client = PagedClient([said("a")])
    client.known_encrypted = frozenset({ROOM})

    assert bodies((await read(Histories(client, BOT))).messages) == []

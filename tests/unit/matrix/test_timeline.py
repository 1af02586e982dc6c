"""What the bot has sent since a prompt, on a homeserver that answers when it is told to."""

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import nio
import pytest
from typing_extensions import override

from bot.core.events import EventId, Prompt
from bot.core.markdown import Part
from bot.core.outgoing import Notice, Outgoing, OutgoingEdit, Reply, SentReply, SentSince
from bot.matrix import response_repair, timeline
from bot.matrix.content import build
from bot.matrix.nio_client import SafeClient
from bot.matrix.response_repair import ObjectResponse
from bot.matrix.timeline import OwnMessages
from tests.harness.client_view import JSON
from tests.make import AGENT, BOT, ROOM, message, prompt

FIRST, SECOND = message(), message("Et la mer ?", event_id="$second")
ASKED = prompt(FIRST, SECOND)
CIPHERTEXT = {
    "algorithm": "m.megolm.v1.aes-sha2",
    "ciphertext": "AwgAEnACgAkLmt6qF84IK++J7UDH2Za1YVchHyprqTqsg",
    "device_id": "BOT",
    "sender_key": "key",
    "session_id": "lost",
}


def event(event_id: str, content: JSON, **changed: Any) -> JSON:  # noqa: ANN401  # JSON
    whole = {"type": "m.room.message", "event_id": event_id, "sender": BOT, "content": content}
    return whole | {"origin_server_ts": 10, "room_id": ROOM} | changed


def sent(event_id: str, outgoing: Outgoing, **changed: Any) -> JSON:  # noqa: ANN401  # JSON
    return event(event_id, build(outgoing), **changed)


def reply(text: str, event_id: str = "$reply", *, final: bool = False) -> JSON:
    return sent(event_id, Reply(prompt=ASKED, part=Part(text), model="small", final=final))


def unreadable(itself: str, **relation: object) -> JSON:
    content = CIPHERTEXT | ({"m.relates_to": relation} if relation else {})
    return event(itself, content, type="m.room.encrypted")


class Forward(SafeClient):
    """Hands out what follows an event, oldest first, a page at a time."""

    def __init__(self, *pages: Sequence[JSON], after: Sequence[JSON] = ()) -> None:
        super().__init__("http://x", BOT, "BOT")
        self.restore_login(BOT, "BOT", "token")
        self.pages = pages
        self.after = after
        self.asked: list[str] = []
        self.filters: list[JSON] = []
        self.refusal = ""
        self.stuck = False

    @override
    async def room_messages(
        self, room_id: str, start: str, message_filter: JSON, **_: object
    ) -> Any:
        self.asked.append(start)
        self.filters.append(message_filter)
        place = int(start)
        body: JSON = {"chunk": self.pages[place], "start": start}
        if self.stuck or place + 1 < len(self.pages):
            body["end"] = start if self.stuck else str(place + 1)
        return response_repair.read(
            nio.RoomMessagesResponse, json.dumps(body).encode(), (room_id,)
        )

    @override
    async def _send(
        self,
        response_class: type[nio.Response],
        method: str,
        path: str,
        *_: Any,  # nio's
        **__: Any,  # nio's
    ) -> Any:
        assert response_class is ObjectResponse
        asked = urlsplit(path)
        self.asked.append(unquote(asked.path.partition("/rooms/")[2]))
        self.filters.append(json.loads(parse_qs(asked.query)["filter"][0]))
        body: JSON = {"events_after": self.after, "end": "0" if self.pages else None}
        if self.refusal:
            body = {"errcode": self.refusal, "error": "no"}
        return response_repair.read(response_class, json.dumps(body).encode(), ())


async def since(client: Forward) -> SentSince:
    return await OwnMessages(client, BOT, ROOM, ASKED.event_ids).read(FIRST.event_id)


def ids(found: SentSince) -> list[str]:
    return [one.event_id for one in found.about]


async def test_the_history_is_read_forward_from_the_prompt_for_the_bots_messages_alone() -> None:
    client = Forward([reply("Un")], [reply("Deux", "$later")])

    found = await since(client)

    assert client.asked == [f"{ROOM}/context/{FIRST.event_id}", "0", "1"]
    assert all(one["senders"] == [BOT] for one in client.filters)
    assert all(one["types"] == ["m.room.message", "m.room.encrypted"] for one in client.filters)
    assert ids(found) == ["$reply", "$later"]
    assert (found.unreadable, found.whole) == ((), True)


async def test_behind_a_whole_reply_nothing_is_read() -> None:
    client = Forward([reply("Un.", final=True)], [reply("Deux", "$later")])

    found = await since(client)

    assert ids(found) == ["$reply"]
    assert found.whole


async def test_what_comes_with_the_context_counts_as_well() -> None:
    client = Forward(after=[reply("Un")])

    assert ids(await since(client)) == ["$reply"]


async def test_a_reply_is_found_as_its_bundled_edit_has_it() -> None:
    newer = OutgoingEdit(
        EventId("$reply"), Reply(prompt=ASKED, part=Part("Deux."), model="m", claim=2, final=True)
    )
    bundled = {"m.relations": {"m.replace": sent("$edit", newer)}}
    client = Forward([reply("Un") | {"unsigned": bundled}])

    [own] = (await since(client)).about

    assert own == SentReply(
        event_id=EventId("$reply"), answers=ASKED.event_ids, claim=2, final=True, body="Deux."
    )


LEGACY = {"rel_type": "m.reference", "event_id": FIRST.event_id}
QUOTING = {"m.in_reply_to": {"event_id": SECOND.event_id}}


@pytest.mark.parametrize("relation", [LEGACY, LEGACY | QUOTING, QUOTING])
@pytest.mark.parametrize(
    "said",
    [
        Reply(prompt=ASKED, part=Part("Un"), model="m"),
        Notice(text="Non."),
        Notice(text="Non.", to=ASKED),
    ],
)
async def test_a_message_with_a_relation_in_the_history_is_understood_as_before(
    said: Outgoing, relation: JSON
) -> None:
    client = Forward([event("$old", build(said) | {"m.relates_to": relation})])

    assert ids(await since(client)) == ["$old"]


@pytest.mark.parametrize(
    "other",
    [
        reply("Un") | {"sender": AGENT},  # who forges the marker
        sent("$n", Notice(text="Bonjour.")),
        sent("$r", Reply(prompt=prompt(message(event_id="$other")), part=Part("Un"), model="m")),
        event("$t", {"msgtype": "m.notice", "body": "Fil", "m.relates_to": {
            "rel_type": "m.thread", "event_id": FIRST.event_id,
            "is_falling_back": True, "m.in_reply_to": {"event_id": "$elsewhere"},
        }}),
        event("$gone", {}, unsigned={"redacted_because": {"type": "m.room.redaction"}}),
        event("$odd", {"msgtype": 3, "body": []}),
    ],
)  # fmt: skip
async def test_what_is_about_something_else_in_the_history_is_no_reply(other: JSON) -> None:
    assert await since(Forward([other])) == SentSince()


async def test_what_cannot_be_read_in_the_history_may_be_a_reply() -> None:
    hidden = [
        unreadable("$plain"),
        unreadable("$quoting", **{"m.in_reply_to": {"event_id": "$x"}}),
        unreadable("$thread", rel_type="m.thread", event_id="$root"),
        unreadable("$ours", rel_type="m.reference", event_id=FIRST.event_id),
        unreadable("$edit", rel_type="m.replace", event_id="$reply"),
        unreadable("$theirs", rel_type="m.reference", event_id="$other"),
        event("$redacted", {}, type="m.room.encrypted", unsigned={"redacted_because": {}}),
        unreadable("$agents") | {"sender": AGENT},
    ]

    found = await since(Forward(hidden))

    assert found.about == ()
    assert found.unreadable_for(ASKED) == ["$plain", "$quoting", "$ours"]
    in_thread = prompt(message(thread_root="$root"))
    assert found.unreadable_for(in_thread) == ["$thread"]


async def test_a_history_that_is_longer_than_is_read_is_not_known_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timeline, "PAGES", 3)
    pages = [[sent(f"$n{number}", Notice(text="Bonjour."))] for number in range(5)]
    client = Forward(*pages)

    found = await since(client)

    assert client.asked[1:] == ["0", "1", "2"]
    assert not found.whole
    assert (await since(Forward(*pages[:3]))).whole
    assert (await since(Forward(*pages[:2], [reply("Un.", final=True)], *pages))).whole


async def test_a_reply_in_a_thread_of_its_own_may_be_hidden_from_the_main_timeline() -> None:
    """Where replies in salons go may have been set otherwise when it was sent."""
    own = unreadable("$own", rel_type="m.thread", event_id=SECOND.event_id)

    assert (await since(Forward([own]))).unreadable_for(ASKED) == ["$own"]


async def test_an_event_that_is_told_twice_in_the_history_counts_once() -> None:
    client = Forward([reply("Un"), unreadable("$x")], [reply("Un"), unreadable("$x")])
    client.after = [reply("Un")]

    found = await since(client)

    assert ids(found) == ["$reply"]
    assert found.unreadable_for(ASKED) == ["$x"]


async def test_a_history_that_ends_where_it_began_is_whole() -> None:
    client = Forward([reply("Un")])
    client.stuck = True

    found = await since(client)

    assert client.asked[1:] == ["0"]
    assert (ids(found), found.whole) == (["$reply"], True)


async def test_an_unreadable_message_whose_edit_can_be_read_is_what_that_says() -> None:
    def edited(asked: Prompt) -> JSON:
        newer = OutgoingEdit(
            EventId("$first"),
            Reply(prompt=asked, part=Part("Deux."), model="m", claim=2, final=True),
        )
        bundled = {"m.relations": {"m.replace": sent("$edit", newer)}}
        return unreadable("$first") | {"unsigned": bundled}

    ours, others = [
        await since(Forward([edited(one)])) for one in (ASKED, prompt(message(event_id="$other")))
    ]

    assert ours.about == (
        SentReply(
            event_id=EventId("$first"), answers=ASKED.event_ids, claim=2, final=True, body="Deux."
        ),
    )
    assert (ours.unreadable, others) == ((), SentSince())


@pytest.mark.parametrize("code", ["M_NOT_FOUND", "M_FORBIDDEN", "M_UNRECOGNIZED"])
async def test_where_the_history_is_not_handed_out_a_reply_may_stand(code: str) -> None:
    client = Forward([reply("Un")])
    client.refusal = code

    assert await since(client) == SentSince(whole=False)


async def test_a_history_whose_end_is_not_told_is_not_known_whole() -> None:
    assert await since(Forward()) == SentSince(whole=False)
    assert (await since(Forward(after=[reply("Un.", final=True)]))).whole

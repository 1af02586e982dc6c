"""What the port makes of single events, on a homeserver that answers when it is told to."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from bot.core.events import EventId, Message, Undecryptable
from bot.core.markdown import Part
from bot.core.outgoing import Notice, Reply
from bot.errors import HomeserverUnreachable
from bot.matrix.adapter import NioMatrix
from bot.matrix.error_mapping import mapped_errors
from bot.matrix.history import Histories
from bot.matrix.room_events import Rooms
from bot.matrix.session import Account
from tests.harness.vault import health, vault
from tests.make import AGENT, BOT, COLLEAGUE, ROOM, message, prompt
from tests.unit.matrix.test_history import PagedClient, said
from tests.unit.matrix.test_room_state import DIRECT, hear, sync

ONE = EventId("$one")
REQUEST = aiohttp.RequestInfo(URL("http://x"), "GET", CIMultiDictProxy(CIMultiDict()))


async def matrix(directory: Path, **events: dict[str, Any]) -> NioMatrix:
    """Return the port on a homeserver that has these events."""
    port = NioMatrix(
        Account(homeserver="http://x", user_id=BOT, device_name="bot", password="secret"),
        vault(directory),
        health(),
    )
    client = PagedClient()
    client.events = {f"${name}": event for name, event in events.items()}
    port._histories = Histories(client, BOT)
    port._rooms = Rooms(BOT, health(), port._histories)
    return port


def bundling(editor: str) -> dict[str, Any]:
    """Return a message that has been edited by somebody."""
    edit = {
        "msgtype": "m.text",
        "body": "* new",
        "m.new_content": {"msgtype": "m.text", "body": "new"},
        "m.relates_to": {"rel_type": "m.replace", "event_id": ONE},
    }
    replacement = said("", "$edit", sender=editor, content=edit)
    return said("old", ONE, unsigned={"m.relations": {"m.replace": replacement}})


@pytest.mark.parametrize(("editor", "body"), [(AGENT, "new"), (COLLEAGUE, "old")])
async def test_a_message_is_fetched_in_the_last_version_by_its_own_sender(
    tmp_path: Path, editor: str, body: str
) -> None:
    port = await matrix(tmp_path, one=bundling(editor))

    found = await port.fetch(ROOM, ONE)

    assert isinstance(found, Message)
    assert found.body == body


async def test_only_a_message_that_is_found_is_known(tmp_path: Path) -> None:
    content = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x", "session_id": "s"}
    hidden = said("", "$hidden", type="m.room.encrypted", content=content)
    port = await matrix(tmp_path, one=said("x", ONE), hidden=hidden, photo=said("", content={}))

    found = [await port.fetch(ROOM, EventId(f"${one}")) for one in ("one", "hidden", "photo", "x")]

    assert [type(one) for one in found] == [Message, Undecryptable, type(None), type(None)]
    assert list(port.known) == [ONE]


@pytest.mark.parametrize("direct", [True, False])
async def test_s8_only_a_salon_hides_anything(tmp_path: Path, *, direct: bool) -> None:
    port = await matrix(tmp_path)
    client = PagedClient([said("now", "$now"), said("a", sender=COLLEAGUE)])
    port._histories = Histories(client, BOT)
    hides = DIRECT | {"type": "m.room.history_visibility"}
    state = [hides | {"content": {"history_visibility": "joined"}}, *([DIRECT] if direct else [])]
    hear(port._rooms, sync([], state=state))

    found = await port.history(prompt(message("now", event_id="$now")), lambda _: False)

    assert [one.body for one in found.messages] == (["a", "now"] if direct else ["now"])
    assert (f"member {AGENT}" in client.asked) is not direct


@pytest.mark.parametrize(
    "error",
    [
        aiohttp.ClientResponseError(REQUEST, (), status=400, message="Bad status line: secret"),
        aiohttp.ClientPayloadError("secret"),
    ],
)
def test_what_is_no_http_is_not_quoted(error: Exception) -> None:
    with pytest.raises(HomeserverUnreachable) as told, mapped_errors():
        raise error

    assert "secret" not in str(told.value)
    assert type(error).__name__ in str(told.value)


@pytest.mark.parametrize(("root", "quotes"), [(None, True), ("$root", False)])
async def test_an_answer_never_quotes_a_prompt_that_replies_into_a_thread(
    tmp_path: Path, root: str | None, *, quotes: bool
) -> None:
    """matrix-js-sdk would show it neither there nor in the main timeline."""
    port = await matrix(tmp_path)
    port._rooms.remember(message(event_id="$inside", thread_root=root))
    asked = prompt(replace(message(), replies_to=EventId("$inside")))
    port._rooms.note_sent(ROOM, EventId("$other"))

    assert port._is_followed(ROOM, Reply(prompt=asked, part=Part("Oui."), model="small")) is quotes
    assert port._is_followed(ROOM, Notice(text="Non.", to=asked)) is quotes

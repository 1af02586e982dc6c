"""The cost of a prompt's context if its conversation is cold: it is fetched from the room."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, cast

import aiohttp
from yarl import URL

from bench.contexts import Asking, prompt_text, versions
from bench.loop_timer import LoopTimer, Spent
from bench.rows import Row
from bot.core.events import Conversation, EventId, Invite, Message, Prompt, RoomId
from bot.core.markdown import Part, render
from bot.core.outgoing import OutgoingEdit, Reply
from bot.matrix.adapter import NioMatrix
from bot.matrix.session import Account
from tests.harness.nio_person import NioPerson
from tests.harness.person import Person
from tests.harness.synapse import Synapse
from tests.harness.vault import health, vault
from tests.sending import send

_PROMPTS = 50  # each has a reply with four versions
_ROUNDS = 10
_GOAL_MS = 500.0
_PIECE_MS = 50.0
_PASSWORD = "s" * 16
_PATIENCE_SECONDS = 60.0

_Request = tuple[str, str]  # method and path


@dataclass(slots=True)
class Talk:
    """A conversation of 100 turns in a room of the homeserver, and the prompt that follows.

    Attributes:
        requests: the requests with which the bot reads it from the homeserver.
        rows: the total time, the time that blocks the event loop, and its longest piece.
    """

    name: str
    prompt: Prompt
    requests: list[_Request] = field(default_factory=list)
    rows: tuple[Row, Row, Row] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = (
            Row(f"{self.name}: whole", _GOAL_MS, above=True),
            Row(f"{self.name}: loop blocked"),
            Row(f"{self.name}: longest piece", _PIECE_MS),
        )

    def note(self, spent: Spent, homeserver: float) -> None:
        """Add one sample to each row."""
        whole, blocked, longest = self.rows
        whole.bot.append(spent.took)
        whole.beside.append(homeserver)
        blocked.bot.append(spent.blocked)
        longest.bot.append(spent.longest)


class Meeting:
    """The adapter and a person on one homeserver, who write the conversations.

    Attributes:
        token: the token of the adapter's last sync.
    """

    def __init__(self, matrix: NioMatrix, person: Person) -> None:
        self.token: str | None = None
        self._matrix = matrix
        self._person = person
        self._received: defaultdict[EventId, asyncio.Future[Message]] = defaultdict(
            asyncio.get_running_loop().create_future
        )

    async def hear(self) -> None:
        """Run the adapter's sync, for ever, and accept invitations."""
        async for batch in self._matrix.batches(None):
            self.token = batch.next_batch
            for event in batch.events:
                if isinstance(event, Invite):
                    await self._matrix.join(event)
                elif isinstance(event, Message):
                    self._received[event.event_id].set_result(event)

    async def talk(self, kind: str, secrecy: str) -> Talk:
        """Write a conversation in a new room."""
        direct, encrypted = kind == "direct message", secrecy == "encrypted"
        room_id = await self._enter(direct=direct, encrypted=encrypted)
        root: EventId | None = None
        for number in count():
            message = await self._ask(room_id, root, prompt_text(number))
            root = None if direct else root or message.event_id
            prompt = Prompt((message,), Conversation(room_id, root), root)
            if number == _PROMPTS:
                return Talk(f"{kind}, {secrecy}", prompt)
            await self._answer(prompt, number)
        raise AssertionError("numbers have no end")

    async def _enter(self, *, direct: bool, encrypted: bool) -> RoomId:
        person, me = self._person, self._matrix.user_id
        if direct:
            room_id = await person.open_direct_message(me, encrypted=encrypted)
        else:
            room_id = await person.create_room("Salon", [me], encrypted=encrypted)
        await person.wait_joined(room_id, me, within=_PATIENCE_SECONDS)
        return room_id

    async def _ask(self, room_id: RoomId, root: EventId | None, text: str) -> Message:
        """Send a text as the person, and return the message that the adapter receives."""
        thread = {"rel_type": "m.thread", "event_id": root}
        relation: dict[str, Any] = {"m.relates_to": thread} if root else {}
        event_id = await self._person.send(room_id, text, **relation)
        async with asyncio.timeout(_PATIENCE_SECONDS):
            return await self._received[event_id]

    async def _answer(self, prompt: Prompt, number: int) -> None:
        first, *edits = (
            Reply(prompt=prompt, part=Part(text), model="scripted") for text in versions(number)
        )
        name = f"{prompt.event_id}:{{}}"
        event_id = await send(self._matrix, prompt.room_id, first, name.format(0))
        for part, reply in enumerate(edits, 1):
            await send(
                self._matrix, prompt.room_id, OutgoingEdit(event_id, reply), name.format(part)
            )


class Cold:
    """The adapter on a real homeserver, restarted for each round, so that nothing is in memory.

    Its keys come from the disk, its rooms from the first sync, which is not measured.
    """

    def __init__(self, synapse: Synapse, directory: Path, loop_timer: LoopTimer) -> None:
        self._synapse = synapse
        self._directory = directory
        self._loop_timer = loop_timer
        self._talks: list[Talk] = []
        self._token: str | None = None

    async def rows(self) -> list[Row]:
        """Write the conversations, and measure how long the bot takes to read each."""
        await self._prepare()
        async with self._started() as matrix:
            client = matrix._client  # noqa: SLF001  # its requests will be repeated
            for talk in self._talks:
                recording = _Recording(client.send, talk.requests)
                client.send = recording.send  # type: ignore[method-assign,assignment]  # to record the requests
                await self._read(matrix, talk)
                client.send = recording.original  # type: ignore[method-assign]  # restored
            headers = {"Authorization": f"Bearer {client.access_token}"}
        async with aiohttp.ClientSession(headers=headers) as http:
            for number in range(_ROUNDS):
                async with self._started() as matrix:
                    for talk in self._talks:
                        await self._measure(matrix, http, talk, bot_first=number % 2 == 0)
        return [row for talk in self._talks for row in talk.rows]

    async def _prepare(self) -> None:
        for name in ("bot", "person"):
            (self._directory / name).mkdir()
        url, directory = self._synapse.url, self._directory / "person"
        me, other = [await self._synapse.register(f"cold-{x}", _PASSWORD) for x in ("bot", "nia")]
        self._account = Account(
            homeserver=url, user_id=me, device_name="bench", password=_PASSWORD
        )
        matrix = await self._open()
        async with (
            NioPerson(url, other, _PASSWORD, directory) as person,
            asyncio.TaskGroup() as tasks,
        ):
            meeting = Meeting(matrix, person)
            receiving = tasks.create_task(meeting.hear())
            talks = [
                tasks.create_task(meeting.talk(kind, secrecy))
                for kind in ("direct message", "thread in a salon")
                for secrecy in ("clear", "encrypted")
            ]
            self._talks = [await talk for talk in talks]
            receiving.cancel()
        self._token = meeting.token
        await matrix.close()

    async def _open(self) -> NioMatrix:
        matrix = NioMatrix(self._account, vault(self._directory / "bot"), health())
        await matrix.open()
        return matrix

    @asynccontextmanager
    async def _started(self) -> AsyncIterator[NioMatrix]:
        """Start the adapter, and run its first sync."""
        matrix = await self._open()
        await anext(matrix.batches(self._token))
        yield matrix
        await matrix.close()

    async def _measure(
        self, matrix: NioMatrix, http: aiohttp.ClientSession, talk: Talk, *, bot_first: bool
    ) -> None:
        """Measure the bot and a bare client with the same requests, in either order."""
        homeserver = 0.0 if bot_first else await self._request(http, talk.requests)
        spent = await self._read(matrix, talk)
        talk.note(spent, homeserver or await self._request(http, talk.requests))

    async def _read(self, matrix: NioMatrix, talk: Talk) -> Spent:
        """Return the cost of reading; assert that the bot finds the last version of each turn."""
        asking = Asking(matrix)
        spent = await self._loop_timer.spent(asking.ask(talk.prompt))
        replies = [turn["content"] for turn in asking.request if turn["role"] == "assistant"]
        last = [render(versions(number)[-1]).body for number in range(_PROMPTS)]
        assert replies == last, f"{talk.name}: not the conversation"
        assert len(asking.request) == 2 * _PROMPTS + 2, f"{talk.name}: not all prompts"
        return spent

    async def _request(self, http: aiohttp.ClientSession, requests: list[_Request]) -> float:
        """Return the milliseconds of a client that only makes these requests."""
        return (await self._loop_timer.spent(self._ask(http, requests))).took

    async def _ask(self, http: aiohttp.ClientSession, requests: list[_Request]) -> None:
        for method, path in requests:
            url = URL(f"{self._synapse.url}{path}", encoded=True)
            async with http.request(method, url) as response:
                await response.read()
                assert response.ok, f"{method} {path}: {response.status}"


class _Recording:
    """Wraps the `send` of a client, and records its requests."""

    def __init__(self, original: Any, requests: list[_Request]) -> None:  # noqa: ANN401  # nio's
        self.original = original
        self._requests = requests

    async def send(self, method: str, path: str, *rest: object) -> aiohttp.ClientResponse:
        """Record the request, and make it."""
        self._requests.append((method, path))
        return cast("aiohttp.ClientResponse", await self.original(method, path, *rest))

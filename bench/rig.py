"""The rig of a run: the homeserver, the measured clients, and the person who sends prompts."""

import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from bench.between import ANSWERS, Addresses, Notes
from bot.core.events import EventId, RoomId, UserId
from bot.core.markdown import UNFINISHED
from tests.harness.bot import Bot
from tests.harness.client_view import Seen
from tests.harness.nio_person import NioPerson
from tests.harness.person import Person
from tests.harness.synapse import Synapse

NAMES = FLOOR, CLEAR, ENCRYPTED = "F", "bot", "bot, encrypted"

_REPOSITORY = Path(__file__).parents[1]
_START_SECONDS = 30.0
_PASSWORD = secrets.token_urlsafe()


def cpu_seconds(pid: int) -> float:
    """Return the seconds of CPU that all threads of the process have taken."""
    # Linux's clock of another process, clock_getcpuclockid(3), which Python does not wrap: it
    # counts nanoseconds, /proc (so psutil) steps of 10 ms, and a reply of F takes 3.
    return time.clock_gettime(~pid << 3 | 2)


class Exchange(msgspec.Struct):
    """Times of a request to the model and of its chunks, by `time.monotonic()`."""

    prompt: str
    arrived: float
    first_token: float
    done: float


@dataclass(frozen=True, slots=True)
class Client:
    """One measured process, its proxy, and the direct message in which it gets prompts."""

    name: str
    user_id: UserId
    pid: int
    proxy: str
    room_id: RoomId

    def cpu(self) -> float:
        """Return the seconds of CPU that all threads of the process have taken."""
        return cpu_seconds(self.pid)


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply as the person saw it; times are `time.monotonic()`.

    Attributes:
        prompt: text of the prompt, different for each prompt.
        cpu: CPU seconds of the client before the prompt.
        first: time when the first version could be read.
        final: time when the whole text could be read.
    """

    prompt: str
    event_id: EventId
    cpu: float
    first: float
    final: float


@dataclass(frozen=True, slots=True)
class Part:
    """One client's replies of one kind, and the records of that time.

    Attributes:
        cpu: CPU seconds of the client at the end.
        exchanges: exchanges of the model, by prompt.
    """

    replies: Sequence[Reply]
    cpu: float
    notes: Notes
    exchanges: dict[str, Exchange]


class Rig:
    """The started parts, with every client in its room."""

    def __init__(self, person: Person, model: str, clients: Sequence[Client]) -> None:
        self._person = person
        self._model = model
        self._clients = clients

    async def ask(self, kind: str, rounds: int, pause: float) -> dict[str, Part]:
        """Send prompts to the clients, one after the other; return the part of each client.

        Args:
            kind: key of the model's answer in `ANSWERS`.
            rounds: prompts for each client; the first client changes with each round.
            pause: seconds before each prompt, so that a client's work after its reply does not
                fall into another one's time.
        """
        began = time.monotonic()
        replies: dict[str, list[Reply]] = {client.name: [] for client in self._clients}
        for number in range(rounds):
            first = number % len(self._clients)
            for client in [*self._clients[first:], *self._clients[:first]]:
                await asyncio.sleep(pause)
                prompt = f"A {kind} reply, please ({client.name}, {number}, {began})"
                replies[client.name].append(await self._ask(client, prompt, kind))
        await asyncio.sleep(pause)
        return {
            client.name: await self._part(client, replies[client.name], began)
            for client in self._clients
        }

    async def _ask(self, client: Client, prompt: str, kind: str) -> Reply:
        text = ANSWERS[kind].text
        assert text
        known = {seen.event_id for seen in self._person.messages(client.room_id)}

        def complete(seen: Seen) -> bool:
            new = seen.sender == client.user_id and seen.event_id not in known
            return new and seen.body == text

        cpu = client.cpu()
        event_id = await self._person.send(client.room_id, prompt)
        seen = await self._person.wait_for_message(client.room_id, complete)
        new = [one for one in self._person.messages(client.room_id) if one.event_id not in known]
        assert [one.event_id for one in new] == [event_id, seen.event_id], f"not one reply: {new}"
        words = [str(version.content["body"]) for version in seen.versions]
        told = [one.removesuffix(UNFINISHED) for one in words]
        assert all(map(text.startswith, told)), f"a version says what the model did not: {told}"
        assert words.index(text) == len(words) - 1, f"a version came after the last: {words}"
        return Reply(prompt, event_id, cpu, seen.versions[0].at, seen.versions[-1].at)

    async def _part(self, client: Client, replies: Sequence[Reply], began: float) -> Part:
        cpu = client.cpu()
        notes = msgspec.json.decode(await _get(f"{client.proxy}/notes"), type=Notes)
        notes.requests = [request for request in notes.requests if request.began >= began]
        return Part(replies, cpu, notes, await exchanges(self._model))


@asynccontextmanager
async def start(directory: Path) -> AsyncIterator[Rig]:
    """Start all parts in an empty directory; they end with the block."""
    async with AsyncExitStack() as parts:
        synapse = await parts.enter_async_context(Synapse(directory))
        names = ["nia", "floor", "bot", "bot-encrypted"]
        nia, *users = [await synapse.register(name, _PASSWORD) for name in names]
        between = program("bench.between", synapse.url, str(len(users)))
        line, _ = await parts.enter_async_context(between)
        addresses = msgspec.json.decode(line, type=Addresses)
        person = NioPerson(synapse.url, nia, _PASSWORD, directory)
        await parts.enter_async_context(person)
        clients = []
        for name, user, proxy in zip(NAMES, users, addresses.proxies, strict=True):
            if name == FLOOR:
                process = program("bench.floor", proxy, addresses.model, user, _PASSWORD)
            else:
                process = running(_bot(directory / name, user, proxy, addresses.model))
            _, pid = await parts.enter_async_context(process)
            room_id = await person.open_direct_message(user, encrypted=name == ENCRYPTED)
            await person.wait_joined(room_id, user)
            if name != FLOOR:  # which says nothing unless asked
                await person.wait_for_message(room_id, lambda welcome: bool(welcome.body))
            clients.append(Client(name, user, pid, proxy, room_id))
        yield Rig(person, addresses.model, clients)


def _bot(directory: Path, user_id: UserId, homeserver: str, model: str) -> Bot:
    directory.mkdir()
    matrix = {"homeserver": homeserver, "user_id": user_id, "password": _PASSWORD}
    return Bot(directory, user_id, matrix=matrix, model={"base_url": model, "name": "scripted"})


@asynccontextmanager
async def running(bot: Bot) -> AsyncIterator[tuple[bytes, int]]:
    """Run the bot in the way of `program`."""
    async with bot:
        assert bot.pid
        yield b"", bot.pid


async def exchanges(model: str) -> dict[str, Exchange]:
    """Return the exchanges of the model, by prompt."""
    log = await _get(f"{model.removesuffix('/v1')}/exchanges")
    return {one.prompt: one for one in msgspec.json.decode(log, type=list[Exchange])}


async def _get(url: str) -> bytes:
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        return await response.read()


@asynccontextmanager
async def program(module: str, *arguments: str) -> AsyncIterator[tuple[bytes, int]]:
    """Run a program of `bench`; yield the line that it prints when ready, and its process id."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        cwd=_REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # no Ctrl-C of a terminal: this process stops it in order
    )
    assert process.stdout
    try:
        async with asyncio.timeout(_START_SECONDS):
            line = await process.stdout.readline()
        assert line, f"{module} ended at its start"
        yield line, process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()

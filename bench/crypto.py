"""The cost of the crypto layer for the event loop, compared with stock matrix-nio on SQLite."""

import asyncio
import gc
import json
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median

import aiohttp
import nio
from nio.crypto import OlmAccount, OlmDevice
from nio.crypto.sessions import InboundGroupSession, OutboundGroupSession
from rich import box
from rich.table import Table

from bench.homeserver import members
from bench.loop_timer import LoopTimer, Spent
from bench.rig import program
from bench.rows import rounded, spread
from bench.sides import Ours, Side, Stock
from bot.process import freeze_garbage_collector

SIDES = STOCK, OURS = "matrix-nio", "bot"

_MAKE: Mapping[str, Callable[[str, Path], Side]] = {STOCK: Stock, OURS: Ours}
_ROUNDS = 5
_PIECE_MS = 50.0
_EVENTS = 100
_BODY = "x" * 2000
_SESSIONS = 2000
_ROOM_ID = "!read:x"
_PEER_ID, _PEER_DEVICE = "@peer:x", "PEER"


@dataclass(slots=True)
class Row:
    """One quantity in milliseconds, its samples by side.

    Attributes:
        goal: upper limit of the bot's median; None for no goal.
    """

    label: str
    goal: float | None = None
    samples: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def missed(self) -> bool:
        """Return whether the bot misses its goal."""
        return self.goal is not None and median(self.samples[OURS]) > self.goal

    def cells(self) -> list[str]:
        """Return the cells: label, samples, both sides, their ratio, and the goal."""
        stock, ours = (median(self.samples[name]) for name in SIDES)
        goal = "" if self.goal is None else f"≤ {rounded(self.goal)}"
        return [
            self.label,
            " / ".join(str(len(self.samples[name])) for name in SIDES),
            *(spread(self.samples[name]) for name in SIDES),
            f"{ours / stock:.2g}",
            f"{goal}, missed" if self.missed else goal,
        ]


def _sides(number: int) -> Sequence[str]:
    """Return the sides of a round: stock, which takes seconds, skips every second one."""
    return [OURS] if number % 2 else SIDES


def table(rows: Sequence[Row]) -> Table:
    """Return one row of cells for each of the rows."""
    found = Table(box=box.MARKDOWN)
    for heading in ("ms", "n", *SIDES, f"/ {STOCK}", "goal"):
        found.add_column(heading, no_wrap=True)
    for row in rows:
        found.add_row(*row.cells())
    return found


class Bench:
    """Measures both sides alternately, and collects the rows."""

    def __init__(self, homeserver: str, directory: Path, loop_timer: LoopTimer) -> None:
        self._homeserver = homeserver
        self._directory = directory
        self._loop_timer = loop_timer
        self._stores = count()
        self._rows: dict[str, Row] = {}

    async def run(self) -> list[Row]:
        """Measure everything."""
        for number in range(_ROUNDS):
            for name in _sides(number):
                await self._first_share(name)
                await self._query(name)
                await self._sync(name, 50)
                await self._sync(name, 3)
        await self._share_again("200 members, 600 devices", "!200x3:x", 500.0)
        await self._events()
        await self._start()
        return list(self._rows.values())

    def _note(self, name: str, label: str, milliseconds: float, goal: float | None = None) -> None:
        self._rows.setdefault(label, Row(label, goal)).samples[name].append(milliseconds)

    def _note_turns(self, name: str, label: str, spent: Spent, goal: float | None = None) -> None:
        self._note(name, f"{label}: loop blocked", spent.blocked, goal)
        self._note(name, f"{label}: longest piece", spent.longest, _PIECE_MS)

    @asynccontextmanager
    async def _side(self, name: str, directory: Path | None = None) -> AsyncIterator[Side]:
        """Open a client on a new store, or on the one in the directory."""
        if directory is None:
            directory = self._directory / f"{next(self._stores)}"
            directory.mkdir()
        side = _MAKE[name](self._homeserver, directory)
        try:
            yield side
        finally:
            await side.close()
            del side
            gc.collect()  # so that its garbage does not cost the next one

    # Keys to share.

    async def _first_share(self, name: str) -> None:
        room_id, label = "!100x3:x", "100 members, 300 devices"
        async with self._side(name) as side:
            await side.enter(room_id)
            with side.at_once():
                await side.query()
            first = await self._share(side, room_id)
            self._note_turns(name, f"first key, {label}, each claimed", first)
            again = await self._share(side, room_id)
            self._note_turns(name, f"new key, {label}", again, 250.0)

    async def _share_again(self, label: str, room_id: str, goal: float) -> None:
        async with AsyncExitStack() as stack:
            sides = {name: await stack.enter_async_context(self._side(name)) for name in SIDES}
            for side in sides.values():
                await side.enter(room_id)
                with side.at_once():
                    await side.query()
                    await self._share(side, room_id)
            for number in range(_ROUNDS):
                for name in _sides(number):
                    spent = await self._share(sides[name], room_id)
                    self._note_turns(name, f"new key, {label}", spent, goal)

    async def _share(self, side: Side, room_id: str) -> Spent:
        """Share a new key with the whole room."""
        side.client.invalidate_outbound_session(room_id)
        spent = await self._loop_timer.spent(side.share(room_id))
        users, given = members(room_id), await self._given()
        devices = sum(len(side.olm.device_store[user]) for user in users)
        assert given == devices > len(users), f"{given} devices were given the key"
        return spent

    async def _given(self) -> int:
        async with aiohttp.ClientSession() as http, http.get(f"{self._homeserver}/given") as told:
            return int(await told.text())

    async def _query(self, name: str) -> None:
        room_id = "!300x2:x"
        async with self._side(name) as side:
            await side.enter(room_id)
            spent = await self._loop_timer.spent(side.query())
            self._note_turns(name, "keys/query, 300 users, 600 devices", spent)
            known = [len(side.olm.device_store[user]) for user in members(room_id)]
            assert known == [2] * 300, "not all devices are known"

    # Rooms in a sync.

    async def _sync(self, name: str, users: int) -> None:
        label = f"first sync, 300 rooms of {users} members and 10 messages"
        async with self._side(name) as side:
            spent = await self._loop_timer.spent(side.sync(str(users)))
            assert len(side.client.rooms) == 300, "not all rooms are known"
            self._note(name, f"{label}: from request to taken in", spent.took)
            self._note_turns(name, label, spent)

    # Events.

    async def _events(self) -> None:
        """Encrypt and decrypt."""
        async with AsyncExitStack() as stack:
            sides = {name: await stack.enter_async_context(self._side(name)) for name in SIDES}
            pages = {name: Peer(side).page() for name, side in sides.items()}
            for _ in range(_ROUNDS):
                for name, side in sides.items():
                    self._note(name, "encrypt one event of 2 kB", _encrypt(side))
                    spent = await self._loop_timer.spent(side.read(_ROOM_ID, pages[name]))
                    self._note(name, "decrypt one event of 2 kB, parsed", spent.took / _EVENTS)

    # The start.

    async def _start(self) -> None:
        """Open a store with many Megolm sessions, and one with many devices."""
        for name in SIDES:
            async with self._filled(name) as (side, with_sessions):
                peer = Peer(side)
                for _ in range(_SESSIONS - 1):
                    peer.give(OutboundGroupSession())
                page = peer.page(events=1)
            async with self._filled(name) as (side, with_devices):
                known = {
                    user: {name: _device(user, name) for name in ("D0", "D1")}
                    for user in members("!500x2:x")
                }
                side.olm.store.save_device_keys(known)
            for _ in range(_ROUNDS):
                await self._open(
                    name, f"start with {_SESSIONS} Megolm sessions", with_sessions, page
                )
                await self._open(name, "start with 1000 devices of 500 users", with_devices)

    @asynccontextmanager
    async def _filled(self, name: str) -> AsyncIterator[tuple[Side, Path]]:
        """Open a new store to be filled in the block; its directory can be opened afterwards."""
        directory = self._directory / f"{next(self._stores)}"
        directory.mkdir()
        async with self._side(name, directory) as side:
            with side.at_once():
                yield side, directory

    async def _open(self, name: str, label: str, directory: Path, page: bytes = b"") -> None:
        """Open the store, and decrypt the page if there is one."""
        began = time.perf_counter()
        async with self._side(name, directory) as side:
            opened = time.perf_counter()
            self._note(name, f"{label}: open", (opened - began) * 1000)
            if page:
                await side.read(_ROOM_ID, page)
                read = time.perf_counter()
                self._note(name, f"{label}: first event decrypted", (read - opened) * 1000)


class Peer:
    """A person's device, which the client knows and gets Megolm sessions from."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._device = _device(_PEER_ID, _PEER_DEVICE)
        side.olm.device_store.add(self._device)
        side.olm.store.save_device_keys({_PEER_ID: {_PEER_DEVICE: self._device}})

    def give(self, outbound: OutboundGroupSession) -> None:
        """Give one session to the client."""
        session = InboundGroupSession(
            outbound.session_key, self._device.ed25519, self._device.curve25519, _ROOM_ID
        )
        self._side.keep(session, _PEER_ID)

    def page(self, events: int = _EVENTS) -> bytes:
        """Return a page of /messages in a new session that the client has (spec: megolm)."""
        outbound = OutboundGroupSession()
        self.give(outbound)
        outbound.mark_as_shared()  # type: ignore[no-untyped-call]  # nio has no hint
        content = {"msgtype": "m.text", "body": _BODY}
        payload = {"type": "m.room.message", "content": content, "room_id": _ROOM_ID}
        chunk = [
            {
                "type": "m.room.encrypted",
                "event_id": f"${number}",
                "room_id": _ROOM_ID,
                "sender": _PEER_ID,
                "origin_server_ts": number,
                "content": {
                    "algorithm": "m.megolm.v1.aes-sha2",
                    "sender_key": self._device.curve25519,
                    "device_id": _PEER_DEVICE,
                    "session_id": outbound.id,
                    "ciphertext": outbound.encrypt(json.dumps(payload)),  # type: ignore[no-untyped-call]  # nio has no hint
                },
            }
            for number in range(events)
        ]
        return json.dumps({"chunk": chunk, "start": "t0", "end": "t1"}).encode()


def _device(user_id: str, device_id: str) -> OlmDevice:
    keys = OlmAccount().identity_keys
    known = {"ed25519": keys["ed25519"], "curve25519": keys["curve25519"]}
    return OlmDevice(user_id, device_id, known)


def _encrypt(side: Side) -> float:
    """Return the milliseconds to encrypt one event."""
    side.client.invalidate_outbound_session(_ROOM_ID)
    side.olm.create_outbound_group_session(_ROOM_ID)
    side.olm.outbound_group_sessions[_ROOM_ID].shared = True
    began = time.perf_counter()
    for _ in range(_EVENTS):
        content = {"msgtype": "m.text", "body": _BODY}
        event = {"type": "m.room.message", "content": content}
        nio.Api.to_json(side.olm.group_encrypt(_ROOM_ID, event))
    return (time.perf_counter() - began) * 1000 / _EVENTS


def bench(directory: Path) -> list[Row]:
    """Measure on an event loop of its own, in an empty directory; AssertionError on failure."""
    logging.getLogger("nio").setLevel(
        logging.ERROR
    )  # it logs a warning for each event without a key
    loop_timer = LoopTimer()
    freeze_garbage_collector()  # as at the bot's start

    async def run() -> list[Row]:
        async with program("bench.homeserver") as (line, _):
            return await Bench(line.decode().strip(), directory, loop_timer).run()

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(loop_timer)) as runner:
        return runner.run(run())

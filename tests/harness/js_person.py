"""A person on matrix-js-sdk, whose client is a Node.js process."""

import asyncio
import itertools
import json
import time
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from bot.core.events import EventId, RoomId, UserId
from tests.harness import node
from tests.harness.client_view import JSON, Seen, Version
from tests.harness.person import Person, Refused

_LONGEST_LINE = 1 << 24
_ANSWER_SECONDS = 30.0
_STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Read:
    """A room that a client has read backwards, with each message in its last version.

    Attributes:
        main: the main timeline, oldest first, without state and edits.
        threads: the timeline of each thread by its root, which is its first message.
    """

    main: list[Seen]
    threads: dict[EventId, list[Seen]]

    @property
    def messages(self) -> dict[EventId, Seen]:
        """The messages of all timelines, by id."""
        timelines = [self.main, *self.threads.values()]
        return {seen.event_id: seen for timeline in timelines for seen in timeline}


class JsPerson(Person):
    """A person on Element's own stack, with keys only in memory; see js-person/person.mjs."""

    def __init__(
        self, homeserver: str, user_id: UserId, password: str, *, verbose: bool = False
    ) -> None:
        """Prepare the client; `verbose` sends the SDK's log to standard error."""
        super().__init__(homeserver, user_id, password)
        self._options = ["--verbose"] if verbose else []
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Any]] = {}

    @property
    def pid(self) -> int | None:
        """The process id; None while there is no process."""
        return self._process.pid if self._process else None

    @override
    async def close(self) -> None:
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        process.stdin.close()  # it ends when its input does
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        finally:
            if self._reading:
                await asyncio.wait([self._reading])

    @override
    async def send_event(self, room_id: RoomId, event_type: str, content: JSON) -> EventId:
        event = {"room_id": room_id, "type": event_type, "content": content}
        return EventId(await self._ask("send_event", **event))

    async def invite_with_history(self, room_id: RoomId, user_id: UserId) -> None:
        """Invite a user, and share the keys of earlier messages (MSC4268)."""
        await self._ask("invite_with_history", room_id=room_id, user_id=user_id)

    async def bootstrap_cross_signing(self, *, reset: bool = False) -> bool:
        """Publish a cross-signing identity and sign this device; return whether it is in force."""
        ready = await self._ask("bootstrap_cross_signing", password=self._password, reset=reset)
        return bool(ready)

    async def restore_identity(self, recovery_key: str) -> JSON:
        """Restore the account's identity and key backup from the recovery key alone.

        Returns:
            `{cached, trusted, total, imported}`: the private keys that are here now, whether the
            identity has signed the backup, and its numbers of keys in all and imported.
        """
        restored: JSON = await self._ask("restore_identity", recovery_key=recovery_key)
        return restored

    async def isolate(self, *, on: bool) -> None:
        """Exclude devices that their owner has not signed (MSC4153), or stop excluding them."""
        await self._ask("isolate", on=on)

    async def request_verification(
        self, user_id: UserId, *, room_id: RoomId | None = None, device_id: str | None = None
    ) -> None:
        """Request a verification in a room, or of one device by to-device messages."""
        asked = {"user_id": user_id, "room_id": room_id, "device_id": device_id}
        await self._ask("request_verification", **asked)

    async def start_verification(self) -> None:
        """Start the comparison of emoji when the other side is ready."""
        await self._ask("start_verification")

    async def verification(self) -> JSON:
        """Return the state of the last verification, as `{phase, code, emoji, failure}`.

        The phase is matrix-js-sdk's VerificationPhase, the code the reason of a cancellation.
        """
        state: JSON = await self._ask("verification")
        return state

    async def compare_emoji(self, *, same: bool) -> None:
        """Confirm that the emoji are the same, or that they are not."""
        await self._ask("compare_emoji", same=same)

    async def notifies(self, room_id: RoomId, event_id: EventId) -> JSON:
        """Return whether a message notifies the user: `{notify, highlight}`."""
        told: JSON = await self._ask("notifies", room_id=room_id, event_id=event_id)
        return told

    async def cancel_verification(self) -> None:
        """Cancel the last verification."""
        await self._ask("cancel_verification")

    async def exclude_unverified(self) -> None:
        """Share keys only with devices that this person has verified, signed or not."""
        await self._ask("exclude_unverified")

    async def status(self, user_id: UserId, device_id: str | None = None) -> JSON:
        """Return this client's trust in a user and in one device.

        `{known, cross_signing_verified, needs_user_approval, device}`, where `device` is None
        or `{signed_by_owner, cross_signing_verified}`.
        """
        status: JSON = await self._ask("status", user_id=user_id, device_id=device_id)
        return status

    async def shield(self, room_id: RoomId, event_id: EventId) -> JSON | None:
        """Return the shield beside an event, as `{colour, reason}`; None if not encrypted.

        The names are matrix-js-sdk's EventShieldColour and EventShieldReason.
        """
        shield: JSON | None = await self._ask("shield", room_id=room_id, event_id=event_id)
        return shield

    async def tally(self, room_id: RoomId, poll: EventId) -> dict[str, int] | None:
        """Return how many votes each answer of a poll has, as Element shows it.

        None if the client shows no such poll.
        """
        counts: dict[str, int] | None = await self._ask("tally", room_id=room_id, event_id=poll)
        return counts

    async def page_back(self, room_id: RoomId, *, limit: int = 20) -> Read:
        """Read a room from its end to its beginning with a client that has no cache.

        A reloaded Element shows a room like this: its client knows the last event from the first
        sync, and all others by pagination. Here a second matrix-js-sdk client does it in this
        process, with threads on, as a new device. It gets the room's keys from the first client,
        and is logged out afterwards. Main timeline and threads are each read through a
        `TimelineWindow` (Element's TimelinePanel), hence `MatrixClient.paginateEventTimeline`. It
        sorts each page by `Room.partitionThreadedEvents`, and drops the events that
        `EventTimelineSet.canContain` refuses. The threads are those of `Room.fetchRoomThreads`.
        The SDK applies edits and redactions.

        Args:
            room_id: a room that this person is in.
            limit: events per page.
        """
        password = self._password
        read = await self._ask("page_back", room_id=room_id, password=password, limit=limit)
        return Read(
            [_seen(room_id, tile) for tile in read["main"]],
            {
                EventId(root): [_seen(room_id, tile) for tile in tiles]
                for root, tiles in read["threads"].items()
            },
        )

    @override
    async def _connect(self) -> None:
        if not node.is_installed(node.JS_PERSON):
            raise RuntimeError("first run: python -m tests.harness.node install")
        binary, _ = node.find_node()
        self._process = await asyncio.create_subprocess_exec(
            binary,
            "person.mjs",
            *self._options,
            cwd=node.JS_PERSON,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
            start_new_session=True,  # no Ctrl-C of a terminal: this process closes it in order
        )
        assert self._process.stdout
        reading = self._read(self._process.stdout)
        self._reading = asyncio.get_running_loop().create_task(reading)
        self._reading.add_done_callback(self._on_end)
        await self._ask(
            "start",
            homeserver=self.homeserver,
            user_id=self.user_id,
            device_id=self.device_id,
            access_token=self._access_token,
        )

    async def _ask(self, command: str, **arguments: object) -> Any:  # noqa: ANN401  # any JSON
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("this person is not started")
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        line = json.dumps({"id": number, "command": command, "arguments": arguments})
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await answer

    async def _read(self, lines: asyncio.StreamReader) -> None:
        async for line in lines:
            record = json.loads(line)
            if "event" in record:
                self.observed.see(record["room_id"], record["event"], record["failure"])
            elif "typing" in record:
                self.observed.typing[record["room_id"], record["user_id"]].append(record["typing"])
            else:
                self._settle(record)
        raise EOFError("the js person's process has ended")

    def _settle(self, record: JSON) -> None:
        answer = self._answers.pop(record["id"])
        if answer.cancelled():
            return
        if "error" in record:
            answer.set_exception(Refused(record["error"]))
        else:
            answer.set_result(record["result"])

    def _on_end(self, reading: asyncio.Task[None]) -> None:
        if reading.cancelled() or (error := reading.exception()) is None:
            return
        self.observed.fail(error)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)


def _seen(room_id: RoomId, tile: JSON) -> Seen:
    event, failure = tile["event"], tile["failure"]
    event_id, at = event["event_id"], event["origin_server_ts"]
    standing = Version(event_id, event["content"], at, time.monotonic())
    return Seen(
        room_id,
        event_id,
        event["sender"],
        event["type"],
        () if failure else (standing,),
        failure,
        tile["redacted"],
    )

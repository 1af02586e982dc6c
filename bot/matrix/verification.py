"""Verifications of the bot's device, started by people in rooms or by to-device messages.

Spec: key verification framework. In a room, the event id of the request is the transaction id;
to-device messages carry their own.
"""

import asyncio
import hashlib
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import nio
import structlog

from bot.core.bounded import BoundedDict
from bot.core.events import RoomId, UserId, VerificationEvent
from bot.core.verification import (
    EmojiShown,
    VerificationCancelled,
    VerificationDone,
    VerificationStep,
)
from bot.errors import MatrixError
from bot.matrix.cross_signing import PublicIdentity
from bot.matrix.error_mapping import call
from bot.matrix.json_fields import Json, identifier, mapping, text, timestamp, whole
from bot.matrix.nio_client import SafeClient
from bot.matrix.parse import VERIFICATION_REQUEST
from bot.matrix.room_events import Rooms
from bot.matrix.sas import Answer, Device, SasResponder, State
from bot.runtime.uncancellable import run_uncancelled

_PREFIX = "m.key.verification."
_LONGEST_SECONDS = 600.0  # longest verification; an older request is invalid (spec)
_AHEAD_SECONDS = 300.0
_AT_ONCE = 8
_ASKED_KEPT = 200
_ID_LENGTH = 255

log = structlog.get_logger()


@dataclass(kw_only=True)
class _Open:
    """A verification in progress.

    Attributes:
        request: the event that started it.
        device_id: the other side's device.
        begun: the start, in the loop's time.
        machine: the state machine.
        told: the state when people were last informed.
        last: the last event of the other side.
        answers: the events still to be sent, in order.
        sent: the number of events sent.
    """

    request: VerificationEvent
    device_id: str
    begun: float
    machine: SasResponder
    told: State = "requested"
    last: VerificationEvent | None = None
    answers: list[Answer] = field(default_factory=list)
    sent: int = 0


class Verifications:
    """All verifications of the bot's device in progress."""

    def __init__(self, client: SafeClient, rooms: Rooms) -> None:
        self._client = client
        self._rooms = rooms
        self._open: dict[tuple[UserId, str], _Open] = {}  # by person and transaction, oldest first
        self._asked = BoundedDict[tuple[UserId, str], None](_ASKED_KEPT)  # requests in rooms
        self._finish = True  # whether sends are completed even if their caller is cancelled

    def read_response(
        self, response: nio.SyncResponse, now: float
    ) -> tuple[VerificationEvent, ...]:
        """Return the events of a sync response that are about verifying the bot's device.

        Other people verify each other in rooms, too: only requests to the bot count, and the
        events that follow them. matrix-js-sdk sends all of them in clear text, even in encrypted
        rooms. Their senders need not be trusted, because both sides compare the result.

        Args:
            response: the response, after its encrypted events were decrypted.
            now: seconds since the epoch.
        """
        found = [
            event
            for one in response.to_device_events
            if (event := self._to_device(mapping(getattr(one, "source", None)), now)) is not None
        ]
        for room_id, info in response.rooms.join.items():
            sources = [mapping(getattr(one, "source", None)) for one in info.timeline.events]
            answered = {_transaction(one) for one in sources if self._is_own(one)}
            events = [self._in_room(RoomId(room_id), one, now) for one in sources]
            # An earlier process has handled the requests that the bot has answered.
            found += [
                one
                for one in events
                if one and not (one.kind == "request" and one.transaction_id in answered)
            ]
        return tuple(found)

    def _is_own(self, source: Json) -> bool:
        return text(source, "sender") == self._client.user_id

    def _to_device(self, source: Json, now: float) -> VerificationEvent | None:
        kind, content = text(source, "type"), mapping(source.get("content"))
        if not kind.startswith(_PREFIX):
            return None
        transaction_id = text(content, "transaction_id")
        if not transaction_id or len(transaction_id) > _ID_LENGTH:
            return None
        is_recent = _is_recent(whole(content.get("timestamp")), now)
        if kind == VERIFICATION_REQUEST and not is_recent:
            return None
        sender = UserId(text(source, "sender"))
        return VerificationEvent(
            sender=sender,
            kind=kind.removeprefix(_PREFIX),
            transaction_id=transaction_id,
            content=content,
        )

    def _in_room(self, room_id: RoomId, source: Json, now: float) -> VerificationEvent | None:
        kind, content = text(source, "type"), mapping(source.get("content"))
        sender = UserId(text(source, "sender"))
        if self._is_own(source) or "state_key" in source:
            return None
        if kind == "m.room.message" and text(content, "msgtype") == VERIFICATION_REQUEST:
            ours = text(content, "to") == self._client.user_id
            is_recent = _is_recent(timestamp(source), now)
            event_id = identifier(source, "event_id")
            if not (ours and is_recent and event_id):
                return None
            self._asked[sender, event_id] = None
            return VerificationEvent(
                sender=sender,
                kind="request",
                transaction_id=event_id,
                content=content,
                room_id=room_id,
            )
        transaction_id = _transaction(source)
        if not kind.startswith(_PREFIX) or (sender, transaction_id) not in self._asked:
            return None
        return VerificationEvent(
            sender=sender,
            kind=kind.removeprefix(_PREFIX),
            transaction_id=transaction_id,
            content=content,
            room_id=room_id,
        )

    async def handle(self, event: VerificationEvent) -> VerificationStep | None:
        """Do one step, and return what people must be told; None for nothing.

        After an error, the same event may be passed again. Its answers are sent once.

        Args:
            event: an event of a person with whom the bot verifies.

        Raises:
            MatrixError: the homeserver refused, or did not answer.
        """
        key = event.sender, event.transaction_id
        held = self._open.get(key)
        if held is None and event.kind == "request":
            held = await self._begin(event)
        elif held is None:
            # it has ended, or an earlier process began it and its other side timed out
            return None
        if held is None:
            return None
        if held.last is not event:
            held.last = event
            held.answers += held.machine.receive(event.kind, event.content)
        log.debug("verification step", heard=event.kind, state=held.machine.state)
        await self._send(held)
        return self._told(held)

    async def refuse(self, event: VerificationEvent) -> RoomId | None:
        """Cancel the verification of a person with whom the bot does not verify.

        Returns:
            The room in which to tell the person; None for none.

        Raises:
            MatrixError: the homeserver refused, or did not answer.
        """
        answer = Answer("cancel", {"code": "m.user", "reason": "only admins verify the assistant"})
        device_id = text(event.content, "from_device")
        if device_id and len(device_id) <= _ID_LENGTH:
            await self._post(event, device_id, answer, 0)
        rooms: Sequence[RoomId] = self._rooms.direct.get(event.sender, [])
        known = [room_id for room_id in rooms if self._rooms.knows(room_id)]
        return event.room_id or (known[-1] if known else None)

    async def _begin(self, event: VerificationEvent) -> _Open | None:
        await self._end_old()
        device_id = text(event.content, "from_device")
        theirs = await self._device_of(event.sender, device_id)
        if theirs is None:
            ids = {"sender": event.sender, "device_id": device_id}
            log.warning("verification by an unknown device", **ids)
            return None
        identity = self._client.machine.identity
        ours = Device(
            str(self._client.user_id),
            str(self._client.device_id),
            str(self._client.machine.account.identity_keys["ed25519"]),
            identity.master.public if identity else None,
        )
        machine = SasResponder(ours, theirs, event.transaction_id)
        held = _Open(
            request=event,
            device_id=device_id,
            begun=asyncio.get_running_loop().time(),
            machine=machine,
        )
        self._open[event.sender, event.transaction_id] = held
        return held

    async def _end_old(self) -> None:
        """Cancel verifications that take too long, and the oldest if there are too many."""
        now = asyncio.get_running_loop().time()
        late = [one for one in self._open.values() if now - one.begun > _LONGEST_SECONDS]
        many = list(self._open.values())[: max(len(self._open) - _AT_ONCE + 1, 0)]
        for held in {id(one): one for one in (*late, *many)}.values():
            await self._cancel(held, "m.timeout", "it has taken too long")

    async def _device_of(self, user_id: UserId, device_id: str) -> Device | None:
        body: dict[str, Any] = {"device_keys": {user_id: []}}
        shown = await self._client.ask("POST", ["keys", "query"], body)
        identity = PublicIdentity.of(shown, user_id)
        keys = mapping(mapping(identity.devices.get(device_id)).get("keys"))
        ed25519 = text(keys, f"ed25519:{device_id}")
        return Device(user_id, device_id, ed25519, identity.master) if ed25519 else None

    async def _send(self, held: _Open) -> None:
        while held.answers:
            await self._post(held.request, held.device_id, held.answers[0], held.sent)
            held.answers.pop(0)
            held.sent += 1
        if held.machine.over:
            self._open.pop((held.request.sender, held.request.transaction_id), None)

    async def _post(
        self, request: VerificationEvent, device_id: str, answer: Answer, number: int
    ) -> None:
        """Send one event. Repeated sends have the same transaction id."""
        kind = f"{_PREFIX}{answer.kind}"
        named = "\0".join((request.sender, request.transaction_id, str(number)))
        transaction = hashlib.sha256(named.encode(errors="replace")).hexdigest()[:32]
        if request.room_id is None:
            content = {**answer.content, "transaction_id": request.transaction_id}
            message = nio.ToDeviceMessage(kind, request.sender, device_id, content)
            sending = self._client.to_device(message, transaction)
            await call(nio.ToDeviceResponse, self._guarded(sending))
            return
        relation = {"rel_type": "m.reference", "event_id": request.transaction_id}
        content = {**answer.content, "m.relates_to": relation}
        sending = self._client.room_send(request.room_id, kind, content, transaction)
        await call(nio.RoomSendResponse, self._guarded(sending))

    def _guarded(self, sending: Coroutine[Any, Any, object]) -> Coroutine[Any, Any, object]:
        return run_uncancelled(sending) if self._finish else sending

    def _told(self, held: _Open) -> VerificationStep | None:
        before, held.told = held.told, held.machine.state
        if held.told == before:
            return None
        match held.told:
            case "shown":
                return EmojiShown(held.machine.emoji)
            case "done":
                return VerificationDone()
            case "cancelled":
                return VerificationCancelled(held.machine.code)
            case _:
                return None

    async def cancel_all(self) -> None:
        """Cancel all verifications before the process ends.

        If this is itself cancelled, it waits for no request.
        """
        self._finish = False
        for held in list(self._open.values()):
            await self._cancel(held, "m.user", "the assistant stops")

    async def _cancel(self, held: _Open, code: str, reason: str) -> None:
        held.sent += len(held.answers)  # these may be in flight under their own ids
        held.answers[:] = held.machine.cancel(code, reason)
        try:
            await self._send(held)
        except MatrixError as error:
            log.info("verification not cancelled", reason=str(error))
        self._open.pop((held.request.sender, held.request.transaction_id), None)


def _transaction(source: Json) -> str:
    """Return the transaction id of a verification event in a room; "" for none."""
    return identifier(mapping(mapping(source.get("content")).get("m.relates_to")), "event_id")


def _is_recent(milliseconds: int, now: float) -> bool:
    """Return whether a request is recent enough (spec: at most 10 minutes old or 5 ahead)."""
    return -_AHEAD_SECONDS < now - milliseconds / 1000 < _LONGEST_SECONDS

"""An Olm machine that no single malformed event, key or signature can stop.

matrix-nio's Olm machine raises on malformed input: one to-device event from a stranger would end
the sync, and one device's malformed keys would end the key query of all users. Here each malformed
item is logged with its ids and skipped. Features that a bot with one device does not need are
ignored: key requests, forwarded keys, and nio's verifications, which are broken
(https://github.com/matrix-nio/matrix-nio/issues/570).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import nio
import structlog
from nio.crypto.sessions import InboundGroupSession, InboundSession, OutboundSession
from nio.events.to_device import EncryptedToDeviceEvent
from typing_extensions import override

from bot.core.bounded import BoundedDict
from bot.core.events import RoomId, UserId
from bot.matrix.cross_signing import CrossSigningKeys, add_signature
from bot.matrix.crypto_store import CryptoStore, RoomKeys
from bot.matrix.device_tracker import DeviceTracker
from bot.matrix.error_mapping import MALFORMED
from bot.matrix.json_fields import Json, is_room_id, mapping, text
from bot.matrix.parse import fingerprint

BUNDLE = {"m.room_key_bundle", "io.element.msc4268.room_key_bundle"}
_MOST_BUNDLES = 32
WITHHELD = {"m.room_key.withheld", "org.matrix.room_key.withheld"}

_KEY_TYPE = "signed_curve25519"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomKeyBundle:
    """The location of a room's earlier keys (MSC4268, room key bundles).

    Attributes:
        sender: the user who has sent the bundle.
        sender_key: the Curve25519 key of the sending device.
        sender_ed25519: the signing key that this device claims.
        room_id: the room of the keys.
        file: the encrypted file (spec: EncryptedFile).
    """

    sender: str
    sender_key: str
    sender_ed25519: str
    room_id: str
    file: Json


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a room's key must be replaced (spec: m.room.encryption, rotation_period_*)."""

    messages: int = 100
    age: timedelta = timedelta(days=7)

    @classmethod
    def of(cls, content: Json) -> "Rotation":
        """Read it from `m.room.encryption`, with defaults for malformed values."""
        messages, milliseconds = (
            value if isinstance(value, int) and value > 0 else None
            for value in (
                content.get("rotation_period_msgs"),
                content.get("rotation_period_ms"),
            )
        )
        default = cls()
        age = milliseconds and timedelta(
            milliseconds=min(max(milliseconds, _SHORTEST_MS), _LONGEST_MS)
        )
        return cls(messages or default.messages, age or default.age)


# shorter ones would let a room's creator force a key share at each message
_SHORTEST_MS = 3_600_000
_LONGEST_MS = 10**12  # some 30 years; a timedelta sum overflows with longer ones


class SafeOlm(DeviceTracker):
    """nio's Olm machine, in which a malformed event, key or signature affects no other.

    Attributes:
        fallback_due: whether the homeserver holds no unused fallback key.
        rotations: when the key of a room must be replaced, by room id, if its state says so.
        bundles: the room key bundles received, by sender and room id, oldest first.
        identity: the account's cross-signing keys, which sign this device; None if not known.
    """

    inbound_group_store: RoomKeys  # type: ignore[assignment]  # replaces nio's
    _maxToDeviceMessagesPerRequest = 40  # noqa: N815  # nio's name; 40 messages are some 15 ms of work

    def __init__(self, user_id: str, device_id: str, store: CryptoStore) -> None:
        self.fallback_due = False
        self.rotations: dict[str, Rotation] = {}
        self.bundles = BoundedDict[tuple[str, str], RoomKeyBundle](_MOST_BUNDLES)
        self.identity: CrossSigningKeys | None = None
        self._key_used = False  # whether a new Olm session has used a one-time key
        super().__init__(user_id, device_id, store)

    # What others send.

    @override
    def handle_to_device_event(self, event: Any) -> Any:
        """Handle one to-device event. A malformed one is logged and skipped.

        All changes are written in one transaction. If a used one-time key were saved without its
        new session, every message of that session would be lost.
        """
        try:
            if isinstance(event, nio.UnknownToDeviceEvent) and event.type in WITHHELD:
                self._handle_withheld(event)
            if not isinstance(event, EncryptedToDeviceEvent):
                return None
            with self.store.transaction():
                decrypted = super().handle_to_device_event(event)  # type: ignore[no-untyped-call]  # nio
                if self._key_used:
                    self._key_used = False
                    self.save_account()
                return decrypted
        except MALFORMED as error:
            log.warning(
                "to-device event skipped",
                sender=getattr(event, "sender", None),
                kind=type(event).__name__,
                reason=type(error).__name__,
            )
            return None

    @override
    def _create_inbound_session(
        self, sender: str, sender_key: str, message: Any
    ) -> InboundSession:
        """Start the session that a device's first message asks for.

        nio saves the account here, before decryption removes the one-time key. After a crash the
        key could then be used again, so the account is saved later (`handle_to_device_event`).
        """
        self._key_used = True
        return InboundSession(self.account, message, sender_key)

    def _handle_withheld(self, event: nio.UnknownToDeviceEvent) -> None:
        """Start a new session with a device that had no one-time key of ours (`m.no_olm`)."""
        content = mapping(mapping(event.source).get("content"))
        if content.get("code") == "m.no_olm":
            self._mark_device_for_unwedging(event.sender, text(content, "sender_key"))  # type: ignore[no-untyped-call]  # nio

    @override
    def _handle_key_claiming(self, response: nio.KeysClaimResponse) -> None:
        """Start a session with each device. A malformed key affects its own device only."""
        with self.store.transaction():
            for user_id, devices in response.one_time_keys.items():
                for device_id, key in devices.items():
                    self._begin_session(user_id, device_id, key)

    def _begin_session(self, user_id: str, device_id: str, key: object) -> None:
        one = nio.KeysClaimResponse({user_id: {device_id: key}}, {})
        try:
            super()._handle_key_claiming(one)  # type: ignore[no-untyped-call]  # nio has no hint
        except MALFORMED as error:
            log.warning(
                "one-time key unusable",
                user_id=user_id,
                device_id=device_id,
                reason=type(error).__name__,
            )

    # Our own keys.

    @property
    @override
    def should_upload_keys(self) -> bool:
        """Return whether one-time keys or the fallback key must be uploaded."""
        return bool(super().should_upload_keys) or self.fallback_due

    @override
    def share_keys(self) -> dict[str, Any]:
        """Return the keys to upload, after saving them.

        If the process dies between upload and response, it offers the same keys again, and the
        homeserver accepts them. Other keys under the same ids would be refused for ever.
        """
        account, content = self.account, dict[str, Any]()
        if not account.shared:
            content["device_keys"] = self._signed(self.device_keys())
            if self.identity is not None:
                key = self.identity.self_signing
                add_signature(content["device_keys"], self.user_id, key)
            self.fallback_due = True
        waiting = len(account.one_time_keys["curve25519"])  # offered before, without a response
        most = account.max_one_time_keys
        missing = most - (self.uploaded_key_count or 0) - waiting
        account.generate_one_time_keys(min(max(missing, 0), most))
        content["one_time_keys"] = {
            f"{_KEY_TYPE}:{key_id}": self._signed({"key": key})
            for key_id, key in account.one_time_keys["curve25519"].items()
        }
        if self.fallback_due:
            content["fallback_keys"] = self._fallback_keys()
        self.save_account()
        return content

    def _fallback_keys(self) -> dict[str, Any]:
        """Return an unclaimed fallback key; vodozemac can still decrypt with the previous one."""
        # neither nio nor the stub has fallback keys (MSC2732)
        account: Any = self.account._account  # noqa: SLF001  # see above
        if not account.fallback_key:
            account.generate_fallback_key()
        return {
            f"{_KEY_TYPE}:{key_id}": self._signed({"key": key.to_base64(), "fallback": True})
            for key_id, key in account.fallback_key.items()
        }

    def device_keys(self) -> dict[str, Any]:
        """Return this device's keys as published, without a signature."""
        keys = self.account.identity_keys
        return {
            "algorithms": list(self._algorithms),
            "device_id": self.device_id,
            "user_id": self.user_id,
            "keys": {
                f"curve25519:{self.device_id}": keys["curve25519"],
                f"ed25519:{self.device_id}": keys["ed25519"],
            },
        }

    def _signed(self, value: dict[str, Any]) -> dict[str, Any]:
        """Return the object with this device's signature (spec: signing JSON)."""
        signature = self.sign_json(value)
        return value | {"signatures": {self.user_id: {f"ed25519:{self.device_id}": signature}}}

    @override
    def handle_response(self, response: Any) -> None:
        """Handle nio's responses about keys."""
        super().handle_response(response)  # type: ignore[no-untyped-call]  # nio has no hint
        if isinstance(response, nio.KeysUploadResponse):
            self.fallback_due = False

    # The rooms' keys.

    def missing_sessions(self, user_ids: list[str], size: int) -> Iterator[dict[str, list[str]]]:
        """Yield the users' devices without an Olm session, `size` at a time."""
        missing = [
            (user_id, device.id)
            for user_id in user_ids
            for device in self.device_store.active_user_devices(user_id)
            if device.id != self.device_id
            and not self.is_device_blacklisted(device)
            and not self.session_store.get(device.curve25519)
        ]
        for start in range(0, len(missing), size):
            devices: dict[str, list[str]] = {}
            for user_id, device_id in missing[start : start + size]:
                devices.setdefault(user_id, []).append(device_id)
            yield devices

    @override
    def create_session(self, one_time_key: str, curve_key: str) -> OutboundSession:
        """Start an Olm session. The account is not changed, so it is not saved."""
        session = OutboundSession(self.account, curve_key, one_time_key)
        self.session_store.add(curve_key, session)
        self.save_session(curve_key, session)
        return session

    @override
    def create_outbound_group_session(self, room_id: str) -> None:
        """Create a new key for the bot's messages in a room."""
        super().create_outbound_group_session(room_id)
        rotation = self.rotations.get(room_id, Rotation())
        session = self.outbound_group_sessions[room_id]
        session.max_messages, session.max_age = rotation.messages, rotation.age

    @override
    def create_group_session(
        self, sender_key: str, sender_fp_key: str, room_id: str, session_id: str, session_key: str
    ) -> None:
        """Store the bot's own copy of the key of its messages."""
        session = InboundGroupSession(session_key, sender_fp_key, sender_key, room_id)
        self.inbound_group_store.keep(session, UserId(self.user_id))

    @override
    def _handle_olm_event(self, sender: str, sender_key: str, payload: Any) -> Any:
        """Handle a decrypted to-device event; room key bundles are unknown to nio."""
        if payload["type"] not in BUNDLE:
            return super()._handle_olm_event(sender, sender_key, payload)
        content = mapping(payload.get("content"))
        room_id, ed25519 = text(content, "room_id"), text(mapping(payload.get("keys")), "ed25519")
        bundle = RoomKeyBundle(
            sender=sender,
            sender_key=sender_key,
            sender_ed25519=ed25519,
            room_id=room_id,
            file=mapping(content.get("file")),
        )
        self.bundles[sender, room_id] = bundle
        return None

    @override
    def _handle_room_key_event(self, sender: str, sender_key: str, payload: Any) -> Any:
        """Store a room key as its sender's: it decrypts messages of no other user."""
        event = nio.RoomKeyEvent.from_dict(payload, sender, sender_key)
        if not isinstance(event, nio.RoomKeyEvent) or event.algorithm != self._megolm_algorithm:
            raise nio.EncryptionError("no Megolm key")
        if not is_room_id(event.room_id):
            raise nio.EncryptionError("no room's key")
        session = InboundGroupSession(
            payload["content"]["session_key"],
            payload["keys"]["ed25519"],
            sender_key,
            event.room_id,
        )
        if session.id != event.session_id:
            raise nio.EncryptionError("another session's key")
        self.inbound_group_store.keep(session, UserId(sender))
        return event

    @override
    def _handle_forwarded_room_key_event(self, sender: str, sender_key: str, payload: Any) -> None:
        """Ignore the key: keys are accepted only from the device that created them."""

    @override
    def check_if_wedged(self, event: nio.MegolmEvent) -> None:
        """Query the sender's devices if this one is new. Request no keys from anybody."""
        if event.device_id not in self.device_store[event.sender]:
            self.users_for_key_query.add(event.sender)

    @override
    def decrypt_megolm_event(self, event: nio.MegolmEvent, room_id: str | None = None) -> Any:
        """Decrypt an event. Raise nio's EncryptionError for every failure.

        The session is found by room id and session id, and must come from the event's sender. The
        event's own `sender_key` and `device_id` prove nothing (MSC3700,
        https://github.com/matrix-nio/matrix-nio/issues/466).
        """
        room = RoomId(room_id or event.room_id or "")
        try:
            self._identify(event, room)
            decrypted: Any = super().decrypt_megolm_event(event, room)
            decrypted.fingerprint = fingerprint(
                event.sender, event.session_id or "", event.ciphertext
            )
        except nio.EncryptionError:
            raise
        except MALFORMED as error:
            raise nio.EncryptionError(type(error).__name__) from error
        payload = mapping(decrypted.source)
        decrypted.decrypted = True
        # the payload is written by its sender: it must not pass as state or as another sender's
        decrypted.source = {
            "type": text(payload, "type"),
            "content": mapping(payload.get("content")),
            "event_id": event.event_id,
            "sender": event.sender,
            "origin_server_ts": event.server_timestamp,
            "unsigned": mapping(mapping(event.source).get("unsigned")),  # added by the homeserver
        }
        return decrypted

    def _identify(self, event: nio.MegolmEvent, room_id: RoomId) -> None:
        """Find the device that the event's session came from, or raise EncryptionError."""
        copies = self.inbound_group_store.copies(room_id, event.session_id or "")
        own = (key for key, copy in copies.items() if copy.sender == event.sender)
        event.sender_key = next(own, None)
        if event.sender_key is None:
            if copies:
                ids = {"event_id": event.event_id, "room_id": room_id}
                log.warning("sender has not made this key", **ids)
            self.check_if_wedged(event)
            raise nio.EncryptionError("no session of this sender's")
        device = self.device_store.device_from_sender_key(event.sender, event.sender_key)
        event.device_id = device.id if device else event.device_id

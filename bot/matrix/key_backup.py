"""The account's key backup, which stores the room keys (spec: server-side key backups).

Keys are encrypted for the backup's public key, so the homeserver's operator could add keys, too.
The bot therefore stores with each key the user whose messages it may decrypt, protected by a MAC
that needs the private key. It restores no other keys.
"""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import nio
import structlog
import vodozemac
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF
from nio.crypto.sessions import InboundGroupSession

from bot.core.events import RoomId, UserId
from bot.errors import Absent, Forbidden, MatrixError, OtherBackup
from bot.matrix.cross_signing import SigningKey, add_signature, decode, encode
from bot.matrix.crypto_store import CryptoStore, RoomKey
from bot.matrix.error_mapping import MALFORMED
from bot.matrix.json_fields import Json, is_room_id, mapping, text
from bot.matrix.nio_client import SafeClient

ALGORITHM = "m.megolm_backup.v1.curve25519-aes-sha2"

_MEGOLM = "m.megolm.v1.aes-sha2"
_SENDER = "fr.gouv.assistant.sender"
_MAC = "fr.gouv.assistant.mac"
_MAC_KEY = b"assistant-tchap key backup"
_KEYS_PER_REQUEST = 25  # some 15 ms of work
_REQUESTS_PER_RUN = 8
_REMOVALS_PER_RUN = 20
_RETRY_SECONDS = 600.0  # seconds until a backup that could not be opened is tried again

log = structlog.get_logger()


def session_data(key: RoomKey, secret: vodozemac.Curve25519SecretKey) -> dict[str, Any]:
    """Return the backup's entry for one room key (spec: KeyBackupData)."""
    session = key.session
    plain: dict[str, Any] = {
        "algorithm": _MEGOLM,
        "forwarding_curve25519_key_chain": [],
        "sender_claimed_keys": {"ed25519": session.ed25519},
        "sender_key": session.sender_key,
        "session_key": session.export_session(session.first_known_index),
        _SENDER: key.sender,
    }
    plain[_MAC] = _mac(plain, session.room_id, session.id, secret)
    encryption = vodozemac.PkEncryption.from_key(secret.public_key())
    message = encryption.encrypt(nio.Api.to_canonical_json(plain).encode())
    return {
        "first_message_index": session.first_known_index,
        "forwarded_count": 0,
        "is_verified": False,
        "session_data": {  # to_base64() of vodozemac 0.10 returns the parts in reverse order
            "ciphertext": encode(bytes(message.ciphertext)),
            "mac": encode(bytes(message.mac)),
            "ephemeral": encode(bytes(message.ephemeral_key)),
        },
    }


def read_session_data(
    room_id: str, session_id: str, data: Json, secret: vodozemac.Curve25519SecretKey
) -> RoomKey:
    """Decrypt a key that the bot has stored in the backup.

    Raises:
        ValueError: the bot has not stored it; any error of `MALFORMED` if the entry is malformed.
    """
    encrypted = mapping(data.get("session_data"))
    message = vodozemac.Message(
        *(decode(text(encrypted, part)) for part in ("ciphertext", "mac", "ephemeral"))
    )
    plain = mapping(json.loads(vodozemac.PkDecryption.from_key(secret).decrypt(message)))
    own = {name: value for name, value in plain.items() if name != _MAC}
    expected = _mac(own, room_id, session_id, secret)
    if not hmac.compare_digest(text(plain, _MAC).encode(), expected.encode()):
        raise ValueError("another client's")
    session = InboundGroupSession.import_session(
        text(plain, "session_key"),
        text(mapping(plain.get("sender_claimed_keys")), "ed25519"),
        text(plain, "sender_key"),
        room_id,
    )
    if session.id != session_id:
        raise ValueError("another session's key")
    return RoomKey(session, UserId(text(plain, _SENDER)))


def _mac(plain: Json, room_id: str, session_id: str, secret: vodozemac.Curve25519SecretKey) -> str:
    key = bytes(HKDF(secret.to_bytes(), 32, b"", SHA256, context=_MAC_KEY))
    said = nio.Api.to_canonical_json({"key": plain, "room": room_id, "session": session_id})
    return encode(hmac.new(key, said.encode(), hashlib.sha256).digest())


class KeyBackup:
    """One version of the account's key backup, as long as it belongs to the bot.

    Attributes:
        version: the version that receives keys; None if the account has none of the bot's.
    """

    def __init__(
        self,
        client: SafeClient,
        user_id: str,
        note_version: Callable[[str], None],
        beat: Callable[[], None],
    ) -> None:
        """Set up the backup of one account.

        Args:
            client: the client; logged in by the time a request is made.
            user_id: the account.
            note_version: called with the version if it was opened after the start.
            beat: called while keys are restored.
        """
        self._client = client
        self._user_id = user_id
        self._note_version = note_version
        self._beat = beat
        self._ours: _OwnBackup | None = None
        self._reopen_due: float | None = None  # in the loop's time; None for never
        self.version: str | None = None

    async def current(self) -> tuple[str, str] | None:
        """Return version and public key of the account's backup; None if there is none.

        Raises:
            MatrixError: the homeserver did not answer.
        """
        try:
            found = await self._client.ask("GET", ["room_keys", "version"])
        except Absent:
            return None
        return text(found, "version"), text(mapping(found.get("auth_data")), "public_key")

    async def open(
        self,
        secret: vodozemac.Curve25519SecretKey,
        master: SigningKey,
        known: str | None,
        *,
        replace: bool,
    ) -> str | None:
        """Open the backup of this private key, and create it if there is none.

        If that fails, `add_missing_keys` tries again.

        Args:
            secret: the backup's private key.
            master: the account's master key, which signs a new version.
            known: the version that received keys before.
            replace: whether to replace a backup of another private key, rather than leave it
                alone.

        Returns:
            The version; None if another client has its own backup.

        Raises:
            MatrixError: the homeserver refused, or did not answer.
        """
        self._ours, self.version = _OwnBackup(secret, master, known, replace), None
        self._reopen_due = asyncio.get_running_loop().time() + _RETRY_SECONDS
        return await self._open(self._ours)

    async def _open(self, ours: "_OwnBackup") -> str | None:
        current, public = await self.current(), ours.secret.public_key().to_base64()
        if current is not None and current[1].rstrip("=") == public:
            self.version = current[0]
        elif current is None or ours.replace:
            self.version = await self._make(public, ours.master)
        else:
            log.error(
                "key backup not fed: another client has made one of its own; identity reset makes"
                " a new one",
                version=current[0],
            )
        self._reopen_due = None
        if self.version is not None and self.version != ours.known:
            self._store.forget_backup()
        return self.version

    async def _make(self, public: str, master: SigningKey) -> str:
        auth_data: dict[str, Any] = {"public_key": public}
        by_device = self._client.machine.sign_json(auth_data)
        add_signature(auth_data, self._user_id, master)
        auth_data["signatures"][self._user_id][f"ed25519:{self._client.device_id}"] = by_device
        body = {"algorithm": ALGORITHM, "auth_data": auth_data}
        made = await self._client.ask("POST", ["room_keys", "version"], body)
        return text(made, "version")

    async def delete(self, version: str) -> None:
        """Delete a version with all its keys.

        Raises:
            MatrixError: the homeserver refused, or did not answer.
        """
        try:
            await self._client.ask("DELETE", ["room_keys", "version", version])
        except Absent:
            log.info("key backup gone already", version=version)

    async def add_missing_keys(self) -> None:
        """Add some of the missing keys to the backup.

        Raises:
            MatrixError: the homeserver did not answer. The next call continues.
        """
        await self._reopen()
        for _ in range(_REQUESTS_PER_RUN):
            if self.version is None or self._ours is None:
                return
            some = self._store.room_keys_to_back_up(_KEYS_PER_REQUEST)
            if not some:
                return
            await self._put(some, self.version, self._ours.secret)

    async def _reopen(self) -> None:
        """Open the backup if that has failed at the start."""
        now = asyncio.get_running_loop().time()
        if self._ours is None or self._reopen_due is None or now < self._reopen_due:
            return
        self._reopen_due = now + _RETRY_SECONDS
        try:
            version = await self._open(self._ours)
        except MatrixError as error:
            log.info("key backup not opened", reason=str(error))
        else:
            if version is not None:
                self._note_version(version)

    async def _put(
        self,
        some: Sequence[tuple[RoomKey, str]],
        version: str,
        secret: vodozemac.Curve25519SecretKey,
    ) -> None:
        rooms: dict[str, dict[str, Any]] = {}
        for key, _ in some:
            if is_room_id(key.session.room_id):  # an earlier version accepted any room id
                sessions = rooms.setdefault(key.session.room_id, {"sessions": {}})["sessions"]
                sessions[key.session.id] = session_data(key, secret)
        body = {"rooms": rooms}
        try:
            await self._client.ask("PUT", ["room_keys", "keys"], body, version=version)
        except (OtherBackup, Absent) as error:
            self._lose(error)
            return
        except Forbidden as error:
            log.warning("room keys not backed up", keys=len(some), reason=str(error))
        self._store.note_backed_up(some)

    async def remove(self) -> None:
        """Delete some of the keys from the backup that the crypto store has deleted.

        Raises:
            MatrixError: the homeserver did not answer. The next call continues.
        """
        if self.version is None:
            return
        for room_id, session_id in self._store.backup_removals(_REMOVALS_PER_RUN):
            path = ["room_keys", "keys", room_id, session_id]
            try:
                if is_room_id(room_id):
                    await self._client.ask("DELETE", path, version=self.version)
            except OtherBackup as error:
                self._lose(error)
                return
            except Forbidden as error:
                log.info("room key not in the backup", room_id=room_id, reason=str(error))
            self._store.note_removed(room_id, session_id)

    async def restore(self, room_ids: Iterable[RoomId]) -> int:
        """Restore the room keys from the backup, and return their number.

        Raises:
            HomeserverUnreachable, RateLimited: the homeserver did not answer.
        """
        restored = 0
        for room_id in room_ids:
            if self.version is None or self._ours is None:
                break
            self._beat()
            path = ["room_keys", "keys", room_id]
            try:
                found = await self._client.ask("GET", path, version=self.version)
            except Forbidden as error:
                log.info("no keys of a room restored", room_id=room_id, reason=str(error))
                continue
            sessions = list(mapping(found.get("sessions")).items())
            for start in range(0, len(sessions), _KEYS_PER_REQUEST):
                self._beat()
                some = sessions[start : start + _KEYS_PER_REQUEST]
                restored += self._take(room_id, some, self._ours.secret)
                await asyncio.sleep(0)  # let other tasks run
        return restored

    def _take(
        self,
        room_id: RoomId,
        sessions: Iterable[tuple[str, object]],
        secret: vodozemac.Curve25519SecretKey,
    ) -> int:
        taken, machine = 0, self._client.machine
        with self._store.transaction():
            for session_id, data in sessions:
                try:
                    key = read_session_data(room_id, session_id, mapping(data), secret)
                except MALFORMED as error:
                    ids = {"room_id": room_id, "session_id": session_id}
                    log.warning("backed up key left out", reason=type(error).__name__, **ids)
                    continue
                machine.inbound_group_store.keep(key.session, key.sender)
                taken += 1
        return taken

    def _lose(self, error: MatrixError) -> None:
        """Stop adding keys: the backup was replaced or deleted meanwhile."""
        self.version = None
        log.error(
            "key backup not fed until the next start: it was replaced or deleted",
            reason=str(error),
        )

    @property
    def _store(self) -> CryptoStore:
        return self._client.machine.store


@dataclass(frozen=True, slots=True)
class _OwnBackup:
    """The parameters with which the bot's own backup is opened or created."""

    secret: vodozemac.Curve25519SecretKey
    master: SigningKey
    known: str | None
    replace: bool

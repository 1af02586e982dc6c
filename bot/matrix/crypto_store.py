"""The crypto store: the keys, sessions and devices that encryption needs after a restart.

It replaces matrix-nio's own store, which runs SQL for each device's trust, writes the account at
each look-up, and reads every room key at the start. Secrets are encrypted with a key that is not
in the file.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from nio.crypto import DeviceStore, OlmAccount, OlmDevice, SessionStore, TrustState
from nio.crypto.sessions import InboundGroupSession, Session
from typing_extensions import override

from bot.core.bounded import BoundedDict
from bot.core.events import RoomId, UserId
from bot.errors import StoreError
from bot.matrix.crypto_database import CryptoDatabase
from bot.runtime.encryption import IDENTITY, Seal

_ROOM_KEYS_IN_MEMORY = 4096  # some 2 kB each
_SESSIONS_PER_DEVICE = 8


@dataclass(frozen=True, slots=True)
class RoomKey:
    """A Megolm session and its sender: it decrypts messages of this user only."""

    session: InboundGroupSession
    sender: UserId


class CryptoStore(CryptoDatabase):
    """The interface that matrix-nio needs of a store, on one connection."""

    @property
    def empty(self) -> bool:
        """Return whether no account was ever saved."""
        return self._row("SELECT 1 FROM account") is None

    # The account, its Olm sessions, and the devices of others.

    def load_account(self) -> OlmAccount | None:
        """Return the account; None before the first `save_account`.

        Raises:
            StoreError: the key is not the one that the account was saved with.
        """
        row = self._row("SELECT pickle, shared FROM account")
        if row is None:
            return None
        with self._decrypting():
            return OlmAccount.from_pickle(row[0].encode(), self._key, bool(row[1]))

    def save_account(self, account: OlmAccount) -> None:
        """Save the account's keys, and whether its device keys are published."""
        sealed = account.pickle(self._key).decode()
        with self.transaction():
            if self.empty:
                self._execute("INSERT INTO account VALUES (?, ?, 0, '')", *self._owner)
            self._execute("UPDATE account SET pickle = ?, shared = ?", sealed, account.shared)

    def load_sessions(self) -> "OlmSessions":
        """Return the Olm sessions. Each is read when its device is first needed."""
        return OlmSessions(self)

    def save_session(self, sender_key: str, session: Session) -> None:
        """Save an Olm session with the device of `sender_key`."""
        self._execute(
            "INSERT OR REPLACE INTO olm_sessions VALUES (?, ?, ?, ?, ?)",
            session.id,
            sender_key,
            session.creation_time.isoformat(),
            session.use_time.isoformat(),
            session.pickle(self._key).decode(),
        )

    def forget_session(self, session: Session) -> None:
        """Delete an Olm session."""
        self._execute("DELETE FROM olm_sessions WHERE session_id = ?", session.id)

    def sessions_of(self, sender_key: str) -> list[Session]:
        """Return the Olm sessions with one device, the most recently used first."""
        rows = self._rows(
            "SELECT pickle, created, used FROM olm_sessions WHERE sender_key = ?"
            " ORDER BY used DESC",
            sender_key,
        )
        with self._decrypting():
            return [
                Session.from_pickle(
                    pickle.encode(),
                    datetime.fromisoformat(created),
                    self._key,
                    datetime.fromisoformat(used),
                )
                for pickle, created, used in rows
            ]

    def load_device_keys(self) -> "Devices":
        """Return every known device, deleted ones as well."""
        devices = Devices()
        for user_id, device_id, ed25519, curve25519, name, deleted in self._rows(
            "SELECT * FROM devices"
        ):
            keys = {"ed25519": ed25519, "curve25519": curve25519}
            devices.add(OlmDevice(user_id, device_id, keys, name, bool(deleted)))
        return devices

    def save_device_keys(self, changed: Mapping[str, Mapping[str, OlmDevice]]) -> None:
        """Save devices, by user id and device id."""
        rows = [
            (one.user_id, one.id, one.ed25519, one.curve25519, one.display_name, one.deleted)
            for devices in changed.values()
            for one in devices.values()
        ]
        self._execute_many("INSERT OR REPLACE INTO devices VALUES (?, ?, ?, ?, ?, ?)", rows)

    def is_device_verified(self, device: OlmDevice) -> bool:
        """Return whether the device is verified."""
        return device.trust_state is TrustState.verified

    def is_device_blacklisted(self, device: OlmDevice) -> bool:
        """Return whether the device must not receive keys."""
        return device.trust_state is TrustState.blacklisted

    def is_device_ignored(self, device: OlmDevice) -> bool:
        """Return whether an unverified device receives keys. In Tchap, all do."""
        return not self.is_device_blacklisted(device)

    # Room keys.

    def load_inbound_group_sessions(self) -> "RoomKeys":
        """Return the room keys. Each is read when it is first needed."""
        return RoomKeys(self)

    def load_room_keys(self, room_id: RoomId, session_id: str) -> dict[str, RoomKey]:
        """Return the copies of one Megolm session, by the sender key of the sending device."""
        rows = self._rows(
            "SELECT sender_key, sender, ed25519, pickle FROM room_keys"
            " WHERE room_id = ? AND session_id = ?",
            room_id,
            session_id,
        )
        with self._decrypting():
            return {
                sender_key: self._room_key(room_id, sender_key, sender, ed25519, pickle)
                for sender_key, sender, ed25519, pickle in rows
            }

    def _room_key(
        self, room_id: str, sender_key: str, sender: str, ed25519: str, pickle: str
    ) -> RoomKey:
        session = InboundGroupSession.from_pickle(
            pickle.encode(), ed25519, sender_key, room_id, self._key
        )
        return RoomKey(session, UserId(sender))

    def save_room_key(self, key: RoomKey) -> None:
        """Save one copy of a Megolm session."""
        session = key.session
        self.note_removed(RoomId(session.room_id), session.id)
        self._execute(
            "INSERT OR REPLACE INTO room_keys VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
            session.room_id,
            session.id,
            session.sender_key,
            key.sender,
            session.ed25519,
            _today().toordinal(),
            session.pickle(self._key).decode(),
        )

    def prune_room_keys(self, used: Iterable[tuple[RoomId, str]], keep_days: int) -> int:
        """Delete the Megolm sessions that decrypted nothing for that many days.

        An active conversation reads its whole context at each prompt, so its keys do not age.

        Args:
            used: room and session ids of the sessions used since the last call.
            keep_days: the days that an unused session is kept.

        Returns:
            The number of deleted sessions.
        """
        [newest] = self._row("SELECT max(used) FROM room_keys")
        today = _today().toordinal()
        if newest is not None:  # a clock far ahead must not delete all keys at once
            today = min(today, newest + 1)
        with self.transaction():
            self._execute_many(
                "UPDATE room_keys SET used = ? WHERE room_id = ? AND session_id = ?",
                [(today, *one) for one in used],
            )
            gone = self._rows(
                "DELETE FROM room_keys WHERE used < ? RETURNING room_id, session_id",
                today - keep_days,
            )
            self._execute_many("INSERT OR IGNORE INTO backup_removals VALUES (?, ?)", gone)
            self._execute(
                "DELETE FROM backup_removals WHERE EXISTS (SELECT 1 FROM room_keys AS kept"
                " WHERE kept.room_id = backup_removals.room_id"
                " AND kept.session_id = backup_removals.session_id)"
            )
        return len(gone)

    # The account's cross-signing identity, and the backup of the room keys.

    def load_identity(self) -> bytes | None:
        """Return what `save_identity` saved last; None before.

        Raises:
            StoreError: the key is not the one that the identity was saved with.
        """
        row = self._row("SELECT sealed FROM identity")
        with self._decrypting():
            return None if row is None else Seal(self._key, IDENTITY).open(row[0], self._owner[0])

    def save_identity(self, secret: bytes) -> None:
        """Save the private keys of the account's identity, encrypted."""
        sealed = Seal(self._key, IDENTITY).close(secret, self._owner[0])
        with self.transaction():
            self._execute("DELETE FROM identity")
            self._execute("INSERT INTO identity VALUES (?)", sealed)

    def room_keys_to_back_up(self, most: int) -> list[tuple[RoomKey, str]]:
        """Return some room keys that the backup lacks, each with its stored pickle."""
        rows = self._rows(
            "SELECT room_id, sender_key, sender, ed25519, pickle FROM room_keys"
            " WHERE backed_up = 0 LIMIT ?",
            most,
        )
        with self._decrypting():
            return [
                (self._room_key(room_id, sender_key, sender, ed25519, pickle), pickle)
                for room_id, sender_key, sender, ed25519, pickle in rows
            ]

    def note_backed_up(self, keys: Iterable[tuple[RoomKey, str]]) -> None:
        """Record that the backup has these keys, unless they were replaced meanwhile."""
        rows = [
            (key.session.room_id, key.session.id, key.session.sender_key, pickle)
            for key, pickle in keys
        ]
        statement = (
            "UPDATE room_keys SET backed_up = 1"
            " WHERE room_id = ? AND session_id = ? AND sender_key = ? AND pickle = ?"
        )
        self._execute_many(statement, rows)

    def forget_backup(self) -> None:
        """Record that a new backup has none of the room keys."""
        with self.transaction():
            self._execute("UPDATE room_keys SET backed_up = 0")
            self._execute("DELETE FROM backup_removals")

    def backup_removals(self, most: int) -> list[tuple[RoomId, str]]:
        """Return room and session ids of keys deleted here, but not yet in the backup."""
        rows = self._rows("SELECT room_id, session_id FROM backup_removals LIMIT ?", most)
        return [(RoomId(room_id), session_id) for room_id, session_id in rows]

    def note_removed(self, room_id: RoomId, session_id: str) -> None:
        """Record that a key was deleted from the backup."""
        self._execute(
            "DELETE FROM backup_removals WHERE room_id = ? AND session_id = ?",
            room_id,
            session_id,
        )

    # Encrypted rooms: encryption cannot be switched off.

    def load_encrypted_rooms(self) -> set[str]:
        """Return the ids of all rooms that were ever encrypted."""
        return {room_id for (room_id,) in self._rows("SELECT room_id FROM encrypted_rooms")}

    def save_encrypted_rooms(self, room_ids: Iterable[str]) -> None:
        """Save that these rooms are encrypted."""
        rows = [(room_id,) for room_id in room_ids]
        self._execute_many("INSERT OR IGNORE INTO encrypted_rooms VALUES (?)", rows)

    def load_outgoing_key_requests(self) -> dict[str, Any]:
        """Return no requests: the bot requests no keys, because clients do not answer."""
        return {}


def read_identity(path: Path, user_id: str, key: str) -> bytes | None:
    """Return the identity saved in a crypto store, even while its assistant runs.

    Raises:
        StoreError: the file is no crypto store, or the key does not open it.
    """
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as db:
            [[version]] = db.execute("PRAGMA user_version")
            row = db.execute("SELECT sealed FROM identity").fetchone() if version > 1 else None
        return None if row is None else Seal(key, IDENTITY).open(row[0], user_id)
    except sqlite3.Error as error:
        raise StoreError(f"the crypto store {path} cannot be read: {error}") from error
    except ValueError as error:
        raise StoreError(f"storage.key does not open the crypto store {path}") from error


class Devices(DeviceStore):
    """nio's device store, without its search through all devices at each addition."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nio has no hint

    @override
    def add(self, device: OlmDevice) -> bool:
        """Add a device, and return whether it was new."""
        known = device.id in self[device.user_id]
        if not known:
            self[device.user_id][device.id] = device
        return not known


class _OnDemand(defaultdict[str, list[Session]]):
    """A dictionary that reads missing entries, and keeps those that are not empty."""

    def __init__(self, read: Callable[[str], list[Session]]) -> None:
        super().__init__()
        self._read = read

    @override
    def __missing__(self, key: str) -> list[Session]:
        found = self._read(key)
        if found:
            self[key] = found
        return found


class OlmSessions(SessionStore):
    """nio's Olm sessions: read when first needed, and few for each device."""

    def __init__(self, store: CryptoStore) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nio has no hint
        self._store = store
        self._entries = _OnDemand(store.sessions_of)

    @override
    def add(self, sender_key: str, session: Session) -> bool:
        """Add a session, and return whether it was new. Drop the least used one if there are many.

        Each session costs one try at every undecryptable message, and anybody with our fallback
        key can start as many as they like.
        """
        sessions = self._entries[sender_key]
        if session in sessions:
            return False
        while len(sessions) >= _SESSIONS_PER_DEVICE:
            self._store.forget_session(sessions.pop())
        self._entries[sender_key] = sorted(
            [session, *sessions], key=lambda one: one.use_time, reverse=True
        )
        return True


class RoomKeys:
    """The room keys (Megolm sessions). The most recently used ones are in memory."""

    def __init__(self, store: CryptoStore) -> None:
        self._store = store
        self._read = BoundedDict[tuple[RoomId, str], dict[str, RoomKey]](_ROOM_KEYS_IN_MEMORY)
        self._used: set[tuple[RoomId, str]] = set()

    def copies(self, room_id: RoomId, session_id: str) -> dict[str, RoomKey]:
        """Return the copies of one session, by the sender key of the sending device."""
        session_key = room_id, session_id
        found = self._read.get(session_key) or self._store.load_room_keys(room_id, session_id)
        if found:  # a missing key is looked up each time, and uses no memory
            self._read[session_key] = found
        return found

    def get(self, room_id: str, sender_key: str, session_id: str) -> InboundGroupSession | None:
        """Return the session that came from `sender_key`, and record its use."""
        key = self.copies(RoomId(room_id), session_id).get(sender_key)
        if key is None:
            return None
        self._used.add((RoomId(room_id), session_id))
        return key.session

    def keep(self, session: InboundGroupSession, sender: UserId) -> None:
        """Save a session, unless the stored copy starts at the same index or earlier."""
        copies = self.copies(RoomId(session.room_id), session.id)
        known = copies.get(session.sender_key)
        if known is None or session.first_known_index < known.session.first_known_index:
            copies[session.sender_key] = RoomKey(session, sender)
            self._store.save_room_key(copies[session.sender_key])
            self._read[RoomId(session.room_id), session.id] = copies

    def prune(self, keep_days: int) -> int:
        """Delete the keys unused for that many days; see `CryptoStore.prune_room_keys`."""
        used, self._used = self._used, set()
        self._read.clear()
        return self._store.prune_room_keys(used, keep_days)


def _today() -> date:
    return datetime.now(UTC).date()

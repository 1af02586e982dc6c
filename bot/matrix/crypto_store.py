"""The crypto store: one SQLite file with what encryption must remember over restarts.

It stands in for matrix-nio's own store, which asks SQL for each device's trust, writes the account
at each look-up, and reads every key of every room at the start. Everything secret in it is sealed
with a key that is not in it.
"""

import sqlite3
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from nio.crypto import DeviceStore, OlmAccount, OlmDevice, SessionStore, TrustState
from nio.crypto.sessions import InboundGroupSession, Session
from typing_extensions import override

from bot.core.events import RoomId, UserId
from bot.errors import StoreError
from bot.matrix.crypto_database import CryptoDatabase
from bot.runtime.encryption import IDENTITY, Seal

_ROOM_KEYS_IN_MEMORY = 4096  # some 2 kB each
_SESSIONS_A_DEVICE = 8


@dataclass(frozen=True, slots=True)
class RoomKey:
    """A Megolm session, and the user whose device gave it to us: nobody else may speak with it."""

    session: InboundGroupSession
    sender: UserId


class CryptoStore(CryptoDatabase):
    """What matrix-nio asks of a store, on one connection."""

    @property
    def empty(self) -> bool:
        """Tell whether no account was ever saved."""
        return self._one("SELECT 1 FROM account") is None

    # The account, its Olm sessions, and the devices they are with.

    def load_account(self) -> OlmAccount | None:
        """Return the account, None before the first `save_account`.

        Raises:
            StoreError: the key is not the one that it was saved with.
        """
        row = self._one("SELECT pickle, shared FROM account")
        if row is None:
            return None
        with self._unsealing():
            return OlmAccount.from_pickle(row[0].encode(), self._key, bool(row[1]))

    def save_account(self, account: OlmAccount) -> None:
        """Save the account's keys and whether its device keys are published."""
        sealed = account.pickle(self._key).decode()
        with self.transaction():
            if self.empty:
                self._execute("INSERT INTO account VALUES (?, ?, 0, '')", *self._owner)
            self._execute("UPDATE account SET pickle = ?, shared = ?", sealed, account.shared)

    def load_sessions(self) -> "OlmSessions":
        """Return the Olm sessions, each read when its device is first asked for."""
        return OlmSessions(self)

    def save_session(self, sender_key: str, session: Session) -> None:
        """Save one Olm session with the device of `sender_key`."""
        self._execute(
            "INSERT OR REPLACE INTO olm_sessions VALUES (?, ?, ?, ?, ?)",
            session.id,
            sender_key,
            session.creation_time.isoformat(),
            session.use_time.isoformat(),
            session.pickle(self._key).decode(),
        )

    def forget_session(self, session: Session) -> None:
        """Forget one Olm session."""
        self._execute("DELETE FROM olm_sessions WHERE session_id = ?", session.id)

    def sessions_of(self, sender_key: str) -> list[Session]:
        """Return the Olm sessions with one device, the last used first."""
        rows = self._all(
            "SELECT pickle, created, used FROM olm_sessions WHERE sender_key = ?"
            " ORDER BY used DESC",
            sender_key,
        )
        with self._unsealing():
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
        """Return every device known, deleted ones too."""
        devices = Devices()
        for user_id, device_id, ed25519, curve25519, name, deleted in self._all(
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
        """Tell whether the device is verified."""
        return device.trust_state is TrustState.verified

    def is_device_blacklisted(self, device: OlmDevice) -> bool:
        """Tell whether the device is given no keys."""
        return device.trust_state is TrustState.blacklisted

    def is_device_ignored(self, device: OlmDevice) -> bool:
        """Tell whether the device gets keys although nobody has verified it: in Tchap, all do."""
        return not self.is_device_blacklisted(device)

    # The rooms' keys.

    def load_inbound_group_sessions(self) -> "RoomKeys":
        """Return the rooms' keys, each read when it is first asked for."""
        return RoomKeys(self)

    def load_room_keys(self, room_id: RoomId, session_id: str) -> dict[str, RoomKey]:
        """Return the copies of one Megolm session, by the sender key that each came from."""
        rows = self._all(
            "SELECT sender_key, sender, ed25519, pickle FROM room_keys"
            " WHERE room_id = ? AND session_id = ?",
            room_id,
            session_id,
        )
        with self._unsealing():
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
        """Forget the Megolm sessions that nothing was read with for that many days.

        A conversation that goes on reads its whole context at each prompt, so none of its keys
        grow old.

        Args:
            used: room and session ids of those read with since the last time.
            keep_days: how long one is kept that nothing is read with.

        Returns:
            how many are forgotten.
        """
        [newest] = self._one("SELECT max(used) FROM room_keys")
        today = _today().toordinal()
        if newest is not None:  # a clock that is far ahead must not end all keys at once
            today = min(today, newest + 1)
        with self.transaction():
            self._execute_many(
                "UPDATE room_keys SET used = ? WHERE room_id = ? AND session_id = ?",
                [(today, *one) for one in used],
            )
            gone = self._all(
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

    # The account's cross-signing identity, and the backup of the rooms' keys.

    def load_identity(self) -> bytes | None:
        """Return what `save_identity` was given last, None before.

        Raises:
            StoreError: the key is not the one that it was saved with.
        """
        row = self._one("SELECT sealed FROM identity")
        with self._unsealing():
            return None if row is None else Seal(self._key, IDENTITY).open(row[0], self._owner[0])

    def save_identity(self, secret: bytes) -> None:
        """Save the private keys of the account's identity, sealed."""
        sealed = Seal(self._key, IDENTITY).close(secret, self._owner[0])
        with self.transaction():
            self._execute("DELETE FROM identity")
            self._execute("INSERT INTO identity VALUES (?)", sealed)

    def room_keys_to_back_up(self, most: int) -> list[tuple[RoomKey, str]]:
        """Return some of the rooms' keys that the backup lacks, each with what is stored of it."""
        rows = self._all(
            "SELECT room_id, sender_key, sender, ed25519, pickle FROM room_keys"
            " WHERE backed_up = 0 LIMIT ?",
            most,
        )
        with self._unsealing():
            return [
                (self._room_key(room_id, sender_key, sender, ed25519, pickle), pickle)
                for room_id, sender_key, sender, ed25519, pickle in rows
            ]

    def note_backed_up(self, keys: Iterable[tuple[RoomKey, str]]) -> None:
        """Note that the backup has these; one that was replaced meanwhile is another."""
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
        """Note that a new backup has none of the rooms' keys."""
        with self.transaction():
            self._execute("UPDATE room_keys SET backed_up = 0")
            self._execute("DELETE FROM backup_removals")

    def backup_removals(self, most: int) -> list[tuple[RoomId, str]]:
        """Return room and session ids of keys that are dropped here, and in the backup still."""
        rows = self._all("SELECT room_id, session_id FROM backup_removals LIMIT ?", most)
        return [(RoomId(room_id), session_id) for room_id, session_id in rows]

    def note_removed(self, room_id: RoomId, session_id: str) -> None:
        """Note that a key is gone from the backup."""
        self._execute(
            "DELETE FROM backup_removals WHERE room_id = ? AND session_id = ?",
            room_id,
            session_id,
        )

    # The rooms that are encrypted, which no later state undoes.

    def load_encrypted_rooms(self) -> set[str]:
        """Return the ids of the rooms that were ever encrypted."""
        return {room_id for (room_id,) in self._all("SELECT room_id FROM encrypted_rooms")}

    def save_encrypted_rooms(self, room_ids: Iterable[str]) -> None:
        """Remember that these rooms are encrypted."""
        rows = [(room_id,) for room_id in room_ids]
        self._execute_many("INSERT OR IGNORE INTO encrypted_rooms VALUES (?)", rows)

    def load_outgoing_key_requests(self) -> dict[str, Any]:
        """Return none: the bot asks nobody for keys, as clients do not answer."""
        return {}


def read_identity(path: Path, user_id: str, key: str) -> bytes | None:
    """Return what a crypto store holds of the identity, also while its assistant runs.

    Raises:
        StoreError: it is no crypto store, or the key does not open it.
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
    """nio's devices, in which adding one does not look through all."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nio has no hint

    @override
    def add(self, device: OlmDevice) -> bool:
        """Add a device; tell whether it was new."""
        known = device.id in self[device.user_id]
        if not known:
            self[device.user_id][device.id] = device
        return not known


class _OnDemand(defaultdict[str, list[Session]]):
    """A dictionary that reads what it does not hold, and keeps what is not empty."""

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
    """nio's Olm sessions, read when first asked for, and a few for each device."""

    def __init__(self, store: CryptoStore) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nio has no hint
        self._store = store
        self._entries = _OnDemand(store.sessions_of)

    @override
    def add(self, sender_key: str, session: Session) -> bool:
        """Add a session; tell whether it was new. The least used one goes where there are many.

        Each one costs a try at every message that no session can read, and whoever gets our
        fallback key may begin as many as they like.
        """
        sessions = self._entries[sender_key]
        if session in sessions:
            return False
        while len(sessions) >= _SESSIONS_A_DEVICE:
            self._store.forget_session(sessions.pop())
        self._entries[sender_key] = sorted(
            [session, *sessions], key=lambda one: one.use_time, reverse=True
        )
        return True


class RoomKeys:
    """The rooms' keys (Megolm sessions), the last used of them in memory."""

    def __init__(self, store: CryptoStore) -> None:
        self._store = store
        self._read: OrderedDict[tuple[RoomId, str], dict[str, RoomKey]] = OrderedDict()
        self._used: set[tuple[RoomId, str]] = set()

    def copies(self, room_id: RoomId, session_id: str) -> dict[str, RoomKey]:
        """Return the copies of one session, by the sender key that each came from."""
        place = room_id, session_id
        found = self._read.get(place) or self._store.load_room_keys(room_id, session_id)
        if found:  # what is missing costs a look each time, and no memory
            self._remember(place, found)
        return found

    def _remember(self, place: tuple[RoomId, str], copies: dict[str, RoomKey]) -> None:
        self._read[place] = copies
        self._read.move_to_end(place)
        if len(self._read) > _ROOM_KEYS_IN_MEMORY:
            self._read.popitem(last=False)

    def get(self, room_id: str, sender_key: str, session_id: str) -> InboundGroupSession | None:
        """Return the session that came from `sender_key`, and note that it is of use."""
        key = self.copies(RoomId(room_id), session_id).get(sender_key)
        if key is None:
            return None
        self._used.add((RoomId(room_id), session_id))
        return key.session

    def keep(self, session: InboundGroupSession, sender: UserId) -> None:
        """Save a session, unless the copy that is there reaches as far back."""
        copies = self.copies(RoomId(session.room_id), session.id)
        known = copies.get(session.sender_key)
        if known is None or session.first_known_index < known.session.first_known_index:
            copies[session.sender_key] = RoomKey(session, sender)
            self._store.save_room_key(copies[session.sender_key])
            self._remember((RoomId(session.room_id), session.id), copies)

    def prune(self, keep_days: int) -> int:
        """Forget what was of no use for that many days; see `CryptoStore.prune_room_keys`."""
        used, self._used = self._used, set()
        self._read.clear()
        return self._store.prune_room_keys(used, keep_days)


def _today() -> date:
    return datetime.now(UTC).date()

"""The crypto store: what it keeps, what it forgets, and what it refuses to open."""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
import vodozemac
from nio.crypto import OlmAccount, OlmDevice
from nio.crypto.sessions import InboundGroupSession, OutboundSession

from bot.core.events import RoomId, UserId
from bot.errors import StoreError
from bot.matrix import crypto_store
from bot.matrix.crypto_store import CryptoStore, RoomKeys, read_identity

ROOM, ADA, MALLORY = RoomId("!r:x"), UserId("@ada:x"), UserId("@mallory:x")
KEY = "s" * 32


def opened(directory: Path, device: str = "BOT", key: str = KEY) -> CryptoStore:
    return CryptoStore(directory / "crypto.db", "@bot:x", device, key)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CryptoStore]:
    store = opened(tmp_path)
    yield store
    store.close()


def session(
    sender_key: str = "A", of: vodozemac.GroupSession | None = None
) -> InboundGroupSession:
    whole = of or vodozemac.GroupSession()
    return InboundGroupSession(whole.session_key.to_base64(), "ed", sender_key, ROOM)


def test_an_account_and_its_sessions_outlive_the_process(tmp_path: Path) -> None:
    account, peer, store = OlmAccount(), OlmAccount(), opened(tmp_path)
    peer.generate_one_time_keys(1)
    key = next(iter(peer.one_time_keys["curve25519"].values()))
    olm = OutboundSession(account, peer.identity_keys["curve25519"], key)
    assert store.empty
    assert store.load_account() is None
    account.shared = True
    store.save_account(account)
    store.save_session("peer", olm)
    identity = cast("dict[str, str]", peer.identity_keys)
    store.save_device_keys({ADA: {"D": OlmDevice(ADA, "D", identity, "Phone")}})
    store.save_encrypted_rooms([ROOM])
    store.close()

    again = opened(tmp_path)

    loaded = again.load_account()
    assert loaded is not None
    assert loaded.shared
    assert loaded.identity_keys == account.identity_keys
    assert [one.id for one in again.load_sessions()["peer"]] == [olm.id]
    assert again.load_sessions().get("stranger") is None
    device = again.load_device_keys()[ADA]["D"]
    assert (device.keys, device.display_name) == (peer.identity_keys, "Phone")
    assert again.load_encrypted_rooms() == {ROOM}
    again.close()


def test_a_room_key_is_found_by_its_session_with_who_gave_it(store: CryptoStore) -> None:
    key = session()
    RoomKeys(store).keep(key, ADA)

    copies = RoomKeys(store).copies(ROOM, key.id)

    assert {one: copy.sender for one, copy in copies.items()} == {"A": ADA}
    assert RoomKeys(store).copies(RoomId("!other:x"), key.id) == {}


def test_anothers_copy_of_a_room_key_stands_beside_the_first(store: CryptoStore) -> None:
    outbound = vodozemac.GroupSession()
    RoomKeys(store).keep(session("M", outbound), MALLORY)
    RoomKeys(store).keep(session("A", outbound), ADA)

    copies = RoomKeys(store).copies(ROOM, outbound.session_id)

    assert {one: copy.sender for one, copy in copies.items()} == {"M": MALLORY, "A": ADA}


def test_more_room_keys_than_memory_holds_are_read_again(
    store: CryptoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crypto_store, "_ROOM_KEYS_IN_MEMORY", 2)
    keys, many = RoomKeys(store), [session() for _ in range(5)]
    for one in many:
        keys.keep(one, ADA)

    assert all(keys.get(ROOM, "A", one.id) is not None for one in many)
    assert len(keys._read) == 2


def grow_old(store: CryptoStore, days: int) -> None:
    """Let all that was used until now have been used so many days ago."""
    past = (datetime.now(UTC).date() - timedelta(days=days)).toordinal()
    store._execute("UPDATE room_keys SET used = ?", past)


def test_only_room_keys_that_nothing_is_read_with_are_forgotten(store: CryptoStore) -> None:
    keys, living, idle, new = RoomKeys(store), session(), session(), session()
    keys.keep(living, ADA)
    keys.keep(idle, ADA)
    grow_old(store, 91)
    keys.keep(new, ADA)
    assert keys.get(ROOM, "A", living.id) is not None  # a conversation's context is read

    assert keys.prune(keep_days=90) == 1

    assert keys.copies(ROOM, idle.id) == {}
    assert keys.copies(ROOM, living.id)
    assert keys.copies(ROOM, new.id)


def test_a_room_key_is_kept_to_the_last_of_its_days(store: CryptoStore) -> None:
    keys, key = RoomKeys(store), session()
    keys.keep(key, ADA)
    grow_old(store, 90)

    assert keys.prune(keep_days=90) == 0
    assert keys.copies(ROOM, key.id)


def test_what_a_transaction_began_is_undone_whole(store: CryptoStore) -> None:
    class Crash(Exception):
        pass

    def half_way() -> None:
        with store.transaction():
            store.save_account(OlmAccount())
            store.save_encrypted_rooms([ROOM])
            raise Crash

    with pytest.raises(Crash):
        half_way()

    assert store.empty
    assert store.load_encrypted_rooms() == set()


def test_what_is_committed_is_on_the_disk(store: CryptoStore) -> None:
    [[mode]], [[level]] = (
        store._db.execute(f"PRAGMA {name}").fetchall() for name in ("journal_mode", "synchronous")
    )
    assert (mode, level) == ("wal", 2)  # 2: FULL


def test_no_secret_stands_in_the_file_in_clear(tmp_path: Path) -> None:
    account, key, store = OlmAccount(), session(), opened(tmp_path)
    account.generate_one_time_keys(1)
    store.save_account(account)
    RoomKeys(store).keep(key, ADA)
    store.close()

    with pytest.raises(StoreError, match=r"storage\.key does not open"):
        opened(tmp_path, key="x" * 32).load_account()
    with pytest.raises(StoreError, match=r"storage\.key does not open"):
        RoomKeys(opened(tmp_path, key="x" * 32)).copies(ROOM, key.id)
    content = (tmp_path / "crypto.db").read_bytes()
    assert KEY.encode() not in content
    assert key.export_session(0).encode() not in content


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("CREATE TABLE notes (x)", "no store of this version"),
        ("PRAGMA user_version = 99", "no store of this version"),
    ],
)
def test_a_file_of_another_program_is_refused_and_left_alone(
    tmp_path: Path, statement: str, reason: str
) -> None:
    with sqlite3.connect(tmp_path / "crypto.db") as foreign:
        foreign.execute(statement)
    foreign.close()
    before = (tmp_path / "crypto.db").read_bytes()

    with pytest.raises(StoreError, match=reason):
        opened(tmp_path)
    assert (tmp_path / "crypto.db").read_bytes() == before


def test_the_store_of_another_device_is_refused(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.save_account(OlmAccount())
    store.close()

    with pytest.raises(StoreError, match="belongs to @bot:x's device BOT"):
        opened(tmp_path, device="OTHER")


def test_a_disk_that_takes_nothing_is_an_error_of_the_store(store: CryptoStore) -> None:
    store._execute("PRAGMA query_only = ON")

    with pytest.raises(StoreError, match=r"crypto\.db: attempt to write a readonly database"):
        store.save_account(OlmAccount())
    store._execute("PRAGMA query_only = OFF")
    store.save_account(OlmAccount())


def test_a_clock_far_ahead_does_not_end_all_keys_at_once(
    store: CryptoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, key = RoomKeys(store), session()
    keys.keep(key, ADA)
    future = datetime.now(UTC).date() + timedelta(days=400)
    monkeypatch.setattr(crypto_store, "_today", lambda: future)

    assert keys.prune(keep_days=90) == 0
    assert keys.copies(ROOM, key.id)


def olm_session(account: OlmAccount) -> OutboundSession:
    peer = OlmAccount()
    peer.generate_one_time_keys(1)
    key = next(iter(peer.one_time_keys["curve25519"].values()))
    return OutboundSession(account, peer.identity_keys["curve25519"], key)


def test_a_device_keeps_its_newest_sessions_alone(tmp_path: Path) -> None:
    account, store = OlmAccount(), opened(tmp_path)
    store.save_account(account)
    sessions, many = store.load_sessions(), [olm_session(account) for _ in range(20)]
    for one in many:
        assert sessions.add("peer", one)
        store.save_session("peer", one)
    assert not sessions.add("peer", many[-1])

    newest = {one.id for one in many[-8:]}
    assert {one.id for one in sessions["peer"]} == newest
    store.close()
    again = opened(tmp_path)
    assert {one.id for one in again.load_sessions()["peer"]} == newest
    again.close()


def test_what_strangers_make_us_look_for_in_vain_takes_no_memory(store: CryptoStore) -> None:
    sessions, keys = store.load_sessions(), RoomKeys(store)
    for number in range(100):
        assert sessions["x" * 1000 + str(number)] == []
        assert keys.copies(ROOM, "x" * 1000 + str(number)) == {}

    assert not sessions._entries
    assert not keys._read


def as_of_version_1(directory: Path) -> None:
    """Make the store what the first version of the schema was."""
    with sqlite3.connect(directory / "crypto.db") as db:
        db.executescript(
            "DROP INDEX room_keys_to_back_up; ALTER TABLE room_keys DROP COLUMN backed_up;"
            " DROP TABLE identity; DROP TABLE backup_removals; PRAGMA user_version = 1;"
        )
    db.close()


def test_a_store_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    store, key, account = opened(tmp_path), session(), OlmAccount()
    store.save_account(account)
    RoomKeys(store).keep(key, ADA)
    store.close()
    as_of_version_1(tmp_path)
    assert read_identity(tmp_path / "crypto.db", "@bot:x", KEY) is None

    again = opened(tmp_path)

    loaded = again.load_account()
    assert loaded is not None
    assert loaded.identity_keys == account.identity_keys
    assert again.load_identity() is None
    [(waiting, _)] = again.room_keys_to_back_up(9)
    assert (waiting.session.id, waiting.sender) == (key.id, ADA)
    again.close()


@pytest.mark.parametrize("version", [-1, 3])
def test_a_store_of_another_version_is_refused(tmp_path: Path, version: int) -> None:
    opened(tmp_path).close()
    with sqlite3.connect(tmp_path / "crypto.db") as db:
        db.execute(f"PRAGMA user_version = {version}")
    db.close()

    with pytest.raises(StoreError, match="no store of this version"):
        opened(tmp_path)


def test_the_identity_s_keys_are_sealed_and_read_with_the_same_key_alone(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.save_identity(b"first")
    store.save_identity(b"private keys")

    assert store.load_identity() == b"private keys"
    assert read_identity(tmp_path / "crypto.db", "@bot:x", KEY) == b"private keys"
    with pytest.raises(StoreError, match=r"storage\.key"):
        read_identity(tmp_path / "crypto.db", "@bot:x", "x" * 32)
    with pytest.raises(StoreError, match=r"storage\.key"):
        opened(tmp_path, key="x" * 32).load_identity()
    store.close()
    files = [one.read_bytes() for one in tmp_path.iterdir()]
    assert not any(b"private keys" in content for content in files)


def test_a_missing_store_has_no_identity_to_read(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        read_identity(tmp_path / "crypto.db", "@bot:x", KEY)
    assert not (tmp_path / "crypto.db").exists()


def test_a_key_is_backed_up_once_and_again_where_a_better_copy_has_come(
    store: CryptoStore,
) -> None:
    whole = vodozemac.GroupSession()
    keys = RoomKeys(store)
    keys.keep(session(of=whole).import_session(later(whole), "ed", "A", ROOM), ADA)
    [first] = store.room_keys_to_back_up(9)

    store.note_backed_up([first])
    assert store.room_keys_to_back_up(9) == []
    keys.keep(session(of=whole), ADA)
    store.note_backed_up([first])  # it was on its way when the better one came

    [(waiting, _)] = store.room_keys_to_back_up(9)
    assert waiting.session.first_known_index == 0
    store.forget_backup()
    assert len(store.room_keys_to_back_up(9)) == 1


def later(whole: vodozemac.GroupSession) -> str:
    """Return the session's key from the second message on."""
    exported = vodozemac.InboundGroupSession(whole.session_key).export_at(1)
    assert exported is not None
    return exported.to_base64()


def test_a_dropped_key_is_to_be_removed_from_the_backup_unless_it_comes_again(
    store: CryptoStore,
) -> None:
    keys, old, kept = RoomKeys(store), session(), session()
    keys.keep(old, ADA)
    keys.keep(kept, ADA)
    store._execute("UPDATE room_keys SET used = used - 10 WHERE session_id = ?", old.id)

    assert keys.prune(5) == 1
    assert store.backup_removals(9) == [(ROOM, old.id)]
    keys.keep(old, ADA)
    assert store.backup_removals(9) == []


def test_a_key_of_which_another_copy_is_kept_stays_in_the_backup(store: CryptoStore) -> None:
    whole, keys = vodozemac.GroupSession(), RoomKeys(store)
    keys.keep(session("A", whole), ADA)
    keys.keep(session("M", whole), MALLORY)
    store._execute("UPDATE room_keys SET used = used - 10 WHERE sender_key = 'M'")

    assert keys.prune(5) == 1
    assert store.backup_removals(9) == []

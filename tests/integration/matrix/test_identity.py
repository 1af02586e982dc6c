"""The account's cross-signing identity on a real Synapse: made, kept, restored, never reset."""

import json
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nio
import pytest
import pytest_asyncio

from bot.core.events import RoomId, UserId
from bot.errors import BotError, ConfigError, Forbidden, HomeserverUnreachable, IdentityError
from bot.matrix import interactive_auth, key_backup, own_devices, secret_storage
from bot.matrix.cross_signing import PublicIdentity, encode
from bot.matrix.own_devices import IdentityStatus
from bot.matrix.secret_storage import new_key, read_recovery_key, write_recovery_key
from bot.matrix.session import Account, Session
from tests.harness.fault_proxy import FaultProxy
from tests.harness.synapse import Synapse
from tests.harness.vault import vault

pytestmark = pytest.mark.asyncio(loop_scope="module")

UPLOAD = ("POST", "/keys/device_signing/upload$")
SIGN = ("POST", "/keys/signatures/upload$")
DEFAULT_KEY = "m.secret_storage.default_key"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def synapse(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Synapse]:
    async with Synapse(tmp_path_factory.mktemp("synapse")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def between(synapse: Synapse) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(synapse.url) as running:
        yield running


@dataclass
class IdentityAccount:
    """One account, and the disk of the bot that is it."""

    synapse: Synapse
    account: Account
    disk: Path

    @property
    def recovery_key(self) -> Path:
        return self.disk / "recovery.key"

    @asynccontextmanager
    async def session(self, disk: Path | None = None) -> AsyncIterator[Session]:
        session = Session(self.account, vault(disk or self.disk))
        async with AsyncExitStack() as parts:
            parts.push_async_callback(session.close)
            await session.open()
            yield session

    async def start(self, disk: Path | None = None) -> PublicIdentity:
        """Start and end, and return what the homeserver then shows."""
        async with self.session(disk) as session:
            await session.identity.ensure()
            return await session.identity.published()

    async def status(self, disk: Path | None = None) -> IdentityStatus:
        session = Session(self.account, vault(disk or self.disk))
        async with AsyncExitStack() as parts:
            parts.push_async_callback(session.close)
            return await own_devices.status(session)

    async def shown(self) -> tuple[PublicIdentity, str]:
        """Return what the homeserver shows, and the key of the account's secret storage."""
        session = Session(self.account, vault(self.disk))
        async with AsyncExitStack() as parts:
            parts.push_async_callback(session.close)
            session.load_login()
            default = await session.identity.storage.get(DEFAULT_KEY)
            return await session.identity.published(), str(default.get("key"))

    def forget(self) -> None:
        """Lose the private keys, as a store of an earlier version has none."""
        with closing(sqlite3.connect(self.disk / "crypto.db")) as store:
            store.execute("DELETE FROM identity")
            store.commit()

    def other_disk(self, *, key: bool = True) -> Path:
        """Return another disk, which has the recovery key alone, or nothing."""
        disk = self.disk / "other"
        disk.mkdir()
        if key:
            (disk / "recovery.key").write_text(self.recovery_key.read_text())
        return disk


@pytest_asyncio.fixture(loop_scope="module")
async def stage(synapse: Synapse, tmp_path: Path) -> IdentityAccount:
    name = f"bot-{tmp_path.name.replace('_', '-').lower()}"[:200]
    user_id = await synapse.register(name, "secret")
    return IdentityAccount(
        synapse,
        Account(
            homeserver=synapse.url, user_id=user_id, device_name="Assistant IA", password="secret"
        ),
        tmp_path,
    )


def is_whole(status: IdentityStatus) -> bool:
    return status.is_whole and status.others == ()


# Every case of a start.


async def test_the_first_start_makes_it_all(stage: IdentityAccount) -> None:
    await stage.start()

    assert is_whole(await stage.status())
    assert stage.recovery_key.stat().st_mode & 0o777 == 0o600
    assert len(read_recovery_key(stage.recovery_key.read_text())) == 32


async def test_the_device_s_keys_are_uploaded_with_the_signature(
    stage: IdentityAccount, between: FaultProxy
) -> None:
    stage.account = replace(stage.account, homeserver=between.url)
    with between.rule(*SIGN, "count") as signed, between.rule("POST", "/keys/upload", "count"):
        await stage.start()

    assert signed.requests == []
    assert (await stage.status()).signed


async def test_a_later_start_changes_nothing(stage: IdentityAccount, between: FaultProxy) -> None:
    first = await stage.start()
    before = await stage.shown()
    stage.account = replace(stage.account, homeserver=between.url)
    with (
        between.rule(*UPLOAD, "count") as published,
        between.rule(*SIGN, "count") as signed,
        between.rule("PUT", "/account_data/", "count") as stored,
        between.rule("POST", "/room_keys/version$", "count") as backups,
    ):
        assert await stage.start() == first

    assert await stage.shown() == before
    assert [one.requests for one in (published, signed, stored, backups)] == [[]] * 4


async def test_a_device_of_an_earlier_version_is_signed(stage: IdentityAccount) -> None:
    async with stage.session() as session:
        await session.client.keys_upload()

    await stage.start()

    assert is_whole(await stage.status())


async def test_a_signature_that_is_lost_is_made_again(stage: IdentityAccount) -> None:
    first = await stage.start()
    await stage.synapse.stop()
    with closing(sqlite3.connect(stage.synapse.database)) as database:
        device = stage.account.user_id, *first.devices
        database.execute(
            "DELETE FROM e2e_cross_signing_signatures WHERE user_id = ? AND target_device_id = ?",
            device,
        )
        query = "SELECT key_json FROM e2e_device_keys_json WHERE user_id = ? AND device_id = ?"
        [[stored]] = database.execute(query, device)
        bare = stored.replace(f"ed25519:{first.keys['self_signing']}", "ed25519:nobody")
        database.execute(
            "UPDATE e2e_device_keys_json SET key_json = ? WHERE user_id = ? AND device_id = ?",
            (bare, *device),
        )
        database.commit()
    await stage.synapse.start()
    assert not (await stage.status()).signed

    await stage.start()

    assert is_whole(await stage.status())
    assert (await stage.shown())[0].master == first.master


async def test_an_identity_that_the_homeserver_has_lost_is_published_again(
    stage: IdentityAccount, between: FaultProxy
) -> None:
    first = await stage.start()
    stage.account = replace(stage.account, homeserver=between.url)
    lost = {"device_keys": {stage.account.user_id: dict(first.devices)}}

    with (
        between.rule("POST", "/keys/query$", "answer", status=200, body=lost, times=1),
        between.rule(*UPLOAD, "count") as published,
    ):
        again = await stage.start()

    assert len(published.requests) == 1
    assert again.keys == first.keys
    assert is_whole(await stage.status())


async def test_private_keys_that_are_gone_are_restored_with_the_recovery_key(
    stage: IdentityAccount,
) -> None:
    first = await stage.start()
    stage.forget()

    assert (await stage.start()).keys == first.keys
    assert is_whole(await stage.status())


async def test_another_disk_with_the_recovery_key_has_the_identity(stage: IdentityAccount) -> None:
    first = await stage.start()
    disk = stage.other_disk()

    shown = await stage.start(disk)

    assert shown.keys == first.keys
    assert all(map(shown.has_signed, shown.devices))
    assert (await stage.status(disk)).others == tuple(first.devices)


@pytest.mark.parametrize("lost", ["the private keys", "the disk"])
async def test_without_recovery_key_nothing_is_changed(stage: IdentityAccount, lost: str) -> None:
    await stage.start()
    before = await stage.shown()
    stage.recovery_key.rename(stage.disk / "elsewhere")
    disk = stage.other_disk(key=False) if lost == "the disk" else stage.disk
    if lost == "the private keys":
        stage.forget()

    with pytest.raises(IdentityError, match=r"matrix\.recovery_key_file.*identity restore"):
        await stage.start(disk)

    shown, default = await stage.shown()
    assert (shown.keys, default) == (before[0].keys, before[1])
    assert not (disk / "recovery.key").exists()


async def test_an_identity_that_another_client_has_reset_stops_the_start(
    stage: IdentityAccount,
) -> None:
    await stage.start()
    disk = stage.other_disk(key=False)
    async with stage.session(disk) as other:
        await other.identity.reset()
    before = await stage.shown()

    with pytest.raises(IdentityError, match=r"another cross-signing identity.*identity restore"):
        await stage.start()

    assert await stage.shown() == before
    assert (await stage.status()).private_keys == "of another identity"
    key = read_recovery_key((disk / "recovery.key").read_text())
    async with stage.session() as session:  # what the sentence advises
        await session.identity.restore(key)
    status = await stage.status()
    assert (status.signed, status.private_keys) == (True, "on this disk")


# Bad input.


async def test_another_key_restores_nothing(stage: IdentityAccount) -> None:
    await stage.start()
    stage.forget()
    stage.recovery_key.write_text(write_recovery_key(new_key()))

    with pytest.raises(IdentityError, match="not the recovery key of the account"):
        await stage.start()


@pytest.mark.parametrize("text", ["", "no key", "EsTh DyKS", "é", "\0"])
async def test_a_file_without_recovery_key_is_told(stage: IdentityAccount, text: str) -> None:
    await stage.start()
    stage.forget()
    stage.recovery_key.write_text(text)

    with pytest.raises(ConfigError, match="holds no recovery key"):
        await stage.start()


async def put_data(stage: IdentityAccount, kind: str, content: dict[str, Any]) -> None:
    async with stage.session() as session:
        await session.identity.storage.put(kind, content)


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        (DEFAULT_KEY, {}, "half written"),
        (DEFAULT_KEY, {"key": "another"}, "half written"),
        (DEFAULT_KEY, {"key": 7}, "half written"),
        ("m.cross_signing.master", {}, "lacks a key of its identity"),
        ("m.cross_signing.self_signing", {"encrypted": {}}, "lacks a key of its identity"),
        ("m.cross_signing.user_signing", {"encrypted": 7}, "lacks a key of its identity"),
    ],
)
async def test_a_half_written_secret_storage_is_told(
    stage: IdentityAccount, kind: str, content: dict[str, Any], said: str
) -> None:
    await stage.start()
    await put_data(stage, kind, content)
    stage.forget()

    with pytest.raises(IdentityError, match=said):
        await stage.start()


@pytest.mark.parametrize("usage", ["master", "self_signing", "user_signing"])
async def test_a_secret_that_was_changed_is_told(stage: IdentityAccount, usage: str) -> None:
    await stage.start()
    _, default = await stage.shown()
    broken = {"iv": "AAAA", "ciphertext": "AAAA", "mac": "AAAA"}
    await put_data(stage, f"m.cross_signing.{usage}", {"encrypted": {default: broken}})
    stage.forget()

    with pytest.raises(IdentityError, match=f"no usable m.cross_signing.{usage}"):
        await stage.start()


@pytest.mark.parametrize("what", ["a secret storage", "a key backup"])
async def test_what_another_client_has_made_is_not_replaced(
    stage: IdentityAccount, what: str
) -> None:
    async with stage.session() as session:
        if what == "a secret storage":
            await session.identity.storage.put(DEFAULT_KEY, {"key": "theirs"})
        else:
            body = {
                "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2",
                "auth_data": {"public_key": "A" * 43},
            }
            await session.client.ask("POST", ["room_keys", "version"], body)

    with pytest.raises(IdentityError, match=rf"{what} that another client has made"):
        await stage.start()

    assert (await stage.shown())[0].master is None
    assert not stage.recovery_key.exists()


async def test_without_a_place_for_the_recovery_key_nothing_is_made(
    stage: IdentityAccount,
) -> None:
    session = Session(stage.account, replace(vault(stage.disk), recovery_key_file=None))
    await session.open()
    try:
        with pytest.raises(ConfigError, match=r"matrix\.recovery_key_file.*terminal"):
            await session.identity.ensure()
    finally:
        await session.close()

    assert (await stage.shown())[0].master is None


async def test_a_file_that_is_there_already_is_not_written_over(stage: IdentityAccount) -> None:
    stage.recovery_key.write_text("somebody's")

    with pytest.raises(ConfigError, match="move that file away"):
        await stage.start()

    assert stage.recovery_key.read_text() == "somebody's"
    assert (await stage.shown())[0].master is None


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (SIGN, {"failures": {"@bot": {"D": {"errcode": "M_INVALID_SIGNATURE"}}}}),
        (SIGN, {}),
        (UPLOAD, {}),
    ],
    ids=["failures in a 200", "signature dropped", "identity dropped"],
)
async def test_what_the_homeserver_only_pretends_to_take_is_told(
    stage: IdentityAccount, between: FaultProxy, request_: tuple[str, str], answer: dict[str, Any]
) -> None:
    async with stage.session() as session:  # a device that is not signed at its upload
        await session.client.keys_upload()
    stage.account = replace(stage.account, homeserver=between.url)

    with (
        between.rule(*request_, "answer", status=200, body=answer),
        pytest.raises(IdentityError, match=r"has taken the .* and does not show it"),
    ):
        await stage.start()

    await stage.start()  # once it behaves
    assert is_whole(await stage.status())


async def test_a_homeserver_that_shows_an_old_identity_changes_nothing(
    stage: IdentityAccount, between: FaultProxy
) -> None:
    first = await stage.start()
    async with stage.session() as session:
        old = await session.client.ask(
            "POST", ["keys", "query"], {"device_keys": {stage.account.user_id: []}}
        )
        stage.recovery_key.rename(stage.disk / "old.key")
        await session.identity.reset()
    before = await stage.shown()
    stage.account = replace(stage.account, homeserver=between.url)

    with (
        between.rule("POST", "/keys/query$", "answer", status=200, body=dict(old)),
        pytest.raises(IdentityError, match="or the homeserver shows an old one"),
    ):
        await stage.start()

    assert before[0].master != first.master
    assert await stage.shown() == before


# The three kinds of authentication.


async def test_a_reset_is_proved_by_the_password(stage: IdentityAccount) -> None:
    first = await stage.start()
    stage.recovery_key.rename(stage.disk / "old.key")

    async with stage.session() as session:
        await session.identity.reset()

    assert is_whole(await stage.status())
    assert (await stage.shown())[0].master != first.master
    assert stage.recovery_key.read_text() != (stage.disk / "old.key").read_text()


async def test_a_reset_that_is_refused_changes_nothing_and_can_be_taken_up(
    stage: IdentityAccount,
) -> None:
    first = await stage.start()
    stage.recovery_key.rename(stage.disk / "old.key")
    right = stage.account
    stage.account = replace(right, password="wrong")
    async with stage.session() as session:
        with pytest.raises(ConfigError, match=r"matrix\.password"):
            await session.identity.reset()
    given = stage.recovery_key.read_text()

    stage.account = right
    assert (await stage.start()).keys == first.keys
    status = await stage.status()
    assert status.signed
    assert status.private_keys == "on this disk; a reset is not finished"

    async with stage.session() as session:
        await session.identity.reset()
    assert is_whole(await stage.status())
    assert (await stage.shown())[0].master != first.master
    assert stage.recovery_key.read_text() == given


async def test_the_backup_of_an_identity_that_was_reset_is_deleted(stage: IdentityAccount) -> None:
    async with stage.session() as session:
        await session.identity.ensure()
        await talk(session)
        await session.identity.backup.add_missing_keys()
        old = str(session.identity.backup.version)
        stage.recovery_key.rename(stage.disk / "old.key")

        await session.identity.reset()
        await session.identity.backup.add_missing_keys()

        with pytest.raises(Forbidden):
            await session.client.ask("GET", ["room_keys", "version", old])
    assert (await stage.status()).backed_up == 1


async def test_a_reset_by_access_token_alone_says_what_is_needed(stage: IdentityAccount) -> None:
    await stage.start()
    stage.recovery_key.rename(stage.disk / "old.key")
    async with stage.session() as session:
        token = session.client.access_token
    stage.account = replace(stage.account, password=None, access_token=token)

    async with stage.session() as session:
        with pytest.raises(ConfigError, match=r"matrix\.password for this"):
            await session.identity.reset()
    await stage.start()
    assert (await stage.status()).signed


@pytest.mark.parametrize(
    "stage_name", ["m.oauth", "org.matrix.cross_signing_reset", "m.login.sso"]
)
async def test_where_a_person_must_approve_it_the_address_is_told_and_waited_for(
    stage: IdentityAccount, between: FaultProxy, stage_name: str
) -> None:
    stage.account = replace(stage.account, homeserver=between.url)
    told = list[str]()
    at = "https://account.stand.test/?action=org.matrix.cross_signing_reset"
    challenge = {
        "session": "session-id",
        "flows": [{"stages": [stage_name]}],
        "params": {} if stage_name == "m.login.sso" else {stage_name: {"url": at}},
    }

    async with stage.session() as session:
        session.identity._auth = interactive_auth.InteractiveAuth(
            between.url, stage.account.user_id, "secret", told.append, poll_seconds=0.01
        )
        with between.rule(*UPLOAD, "answer", status=401, body=challenge, times=3) as asked:
            await session.identity.ensure()

    fallback = f"{between.url}/_matrix/client/v3/auth/m.login.sso/fallback/web?session=session-id"
    [sentence] = told
    assert (fallback if stage_name == "m.login.sso" else at) in sentence
    first, *later = [request.get("auth") for request in asked.requests]
    assert first is None
    assert later == [{"session": "session-id"}] * 2
    assert is_whole(await stage.status())


# Devices.


async def test_other_devices_are_listed_and_removed(stage: IdentityAccount) -> None:
    await stage.start()
    disk = stage.other_disk(key=False)
    async with stage.session(disk) as stray:
        await stray.client.keys_upload()
        device_id = str(stray.client.device_id)

    session = Session(stage.account, vault(stage.disk))
    try:
        session.load_login()
        ours, other = await own_devices.devices(session)
        await own_devices.remove(session, [device_id])
        left = await own_devices.devices(session)
    finally:
        await session.close()

    assert (ours.ours, ours.signed) == (True, True)
    assert (other.device_id, other.ours, other.signed) == (device_id, False, False)
    assert [(one.device_id, one.ours, one.signed) for one in left] == [
        (ours.device_id, True, True)
    ]


# The backup of the rooms' keys.


async def talk(session: Session) -> tuple[RoomId, str]:
    """Make an encrypted room with a key, and return both."""
    encryption = {"algorithm": "m.megolm.v1.aes-sha2"}
    states = [{"type": "m.room.encryption", "state_key": "", "content": encryption}]
    client = session.client
    made = await client.ask("POST", ["createRoom"], {"initial_state": states})
    room_id = RoomId(str(made["room_id"]))
    client.rooms[room_id] = nio.MatrixRoom(room_id, client.user_id, encrypted=True)
    await client.encrypt_if_needed(room_id, "m.room.message", {"msgtype": "m.text", "body": "x"})
    return room_id, client.machine.outbound_group_sessions[room_id].id


async def test_the_rooms_keys_are_backed_up_and_restored(stage: IdentityAccount) -> None:
    async with stage.session() as session:
        await session.identity.ensure()
        room_id, session_id = await talk(session)
        await session.identity.backup.add_missing_keys()
        await session.identity.backup.add_missing_keys()
    assert (await stage.status()).backed_up == 1
    disk = stage.other_disk()

    async with stage.session(disk) as other:
        await other.identity.ensure()
        copies = other.client.machine.inbound_group_store.copies(room_id, session_id)

    [copy] = copies.values()
    assert copy.sender == stage.account.user_id


async def test_a_key_that_is_dropped_here_is_deleted_from_the_backup(
    stage: IdentityAccount,
) -> None:
    async with stage.session() as session:
        await session.identity.ensure()
        await talk(session)
        await session.identity.backup.add_missing_keys()
        assert (await stage.status()).backed_up == 1
        store = session.client.machine.store
        store._execute("UPDATE room_keys SET used = used - 10")

        assert session.client.machine.inbound_group_store.prune(0) == 1
        await session.identity.backup.remove()

        assert store.backup_removals(9) == []
    assert (await stage.status()).backed_up == 0


async def test_a_backup_that_another_client_has_replaced_is_fed_no_more(
    stage: IdentityAccount,
) -> None:
    async with stage.session() as session:
        await session.identity.ensure()
        await talk(session)
        body = {
            "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2",
            "auth_data": {"public_key": "A" * 43},
        }
        theirs = await session.client.ask("POST", ["room_keys", "version"], body)

        await session.identity.backup.add_missing_keys()
        assert session.identity.backup.version is None
        await session.identity.backup.add_missing_keys()

    await stage.start()
    status = await stage.status()
    assert (status.backup_version, status.backed_up) == (theirs["version"], 0)


async def test_a_backup_that_was_deleted_is_made_and_fed_anew(stage: IdentityAccount) -> None:
    async with stage.session() as session:
        await session.identity.ensure()
        await talk(session)
        await session.identity.backup.add_missing_keys()
        version = str(session.identity.backup.version)
        await session.client.ask("DELETE", ["room_keys", "version", version])

    async with stage.session() as session:
        await session.identity.ensure()
        await session.identity.backup.add_missing_keys()

    status = await stage.status()
    assert (status.backup_version != version, status.backed_up) == (True, 1)


# Restored without an identity of its own kind: a person's own client has made it.


async def test_an_account_without_identity_has_none_to_restore(stage: IdentityAccount) -> None:
    async with stage.session() as session:
        with pytest.raises(BotError, match="no identity to restore"):
            await session.identity.restore(new_key())


async def test_the_account_is_asked_about_by_its_own_id_alone(stage: IdentityAccount) -> None:
    async with stage.session() as session:
        body = {"master_keys": {"@other:stand.test": {"keys": {"ed25519:x": "x"}}}}
        assert PublicIdentity.of(body, UserId(str(session.client.user_id))).master is None


# A homeserver that means ill, or does not know all this.


async def test_what_the_homeserver_shows_for_this_device_is_never_signed(
    stage: IdentityAccount, between: FaultProxy
) -> None:
    first = await stage.start()
    [device_id] = first.devices
    account = json.loads(json.dumps(dict(first.devices[device_id])))
    ours = account["keys"][f"ed25519:{device_id}"]
    evil = {"curve25519:EVIL": "E" * 43, "ed25519:EVIL": "F" * 43, f"ed25519:{device_id}": ours}
    shown = {"device_id": "EVIL", "user_id": stage.account.user_id, "keys": evil}
    stage.account = replace(stage.account, homeserver=between.url)
    async with stage.session() as session:
        real = await session.client.ask(
            "POST", ["keys", "query"], {"device_keys": {stage.account.user_id: []}}
        )
    lie = {**real, "device_keys": {stage.account.user_id: {device_id: shown}}}

    with (
        between.rule("POST", "/keys/query$", "answer", status=200, body=lie),
        between.rule(*SIGN, "count") as signed,
        pytest.raises(IdentityError, match="other keys of this device"),
    ):
        await stage.start()

    assert signed.requests == []


async def test_a_homeserver_without_key_backups_has_an_identity_all_the_same(
    stage: IdentityAccount, between: FaultProxy
) -> None:
    stage.account = replace(stage.account, homeserver=between.url)
    unknown = {"errcode": "M_UNRECOGNIZED", "error": "unknown"}
    with between.rule("GET", "/room_keys/version$", "answer", status=404, body=unknown):
        await stage.start()
        await stage.start()

        status = await stage.status()
    assert (status.signed, status.secret_storage, status.backup_version) == (True, True, None)
    async with stage.session() as session:
        await session.identity.ensure()
    assert is_whole(await stage.status())


async def test_a_backup_that_is_away_at_the_start_is_taken_up_later(
    stage: IdentityAccount, between: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_backup, "_RETRY_SECONDS", 0.0)
    stage.account = replace(stage.account, homeserver=between.url)
    async with stage.session() as session:
        with between.rule("GET", "/room_keys/version$", "answer", status=502, body={}):
            await session.identity.ensure()
        assert session.identity.backup.version is None
        await talk(session)

        await session.identity.backup.add_missing_keys()

    status = await stage.status()
    assert (status.own_backup, status.backed_up) == (True, 1)
    assert is_whole(status)


async def test_an_identity_that_a_stale_answer_hides_is_not_replaced(
    stage: IdentityAccount, between: FaultProxy
) -> None:
    first = await stage.start()
    disk = stage.other_disk(key=False)
    stage.account = replace(stage.account, homeserver=between.url)
    nothing = {"errcode": "M_NOT_FOUND", "error": "nothing"}

    with (
        between.rule("POST", "/keys/query$", "answer", status=200, body={}, times=1),
        between.rule("GET", "/account_data/", "answer", status=404, body=nothing),
        between.rule("GET", "/room_keys/version$", "answer", status=404, body=nothing),
        pytest.raises(IdentityError, match="another cross-signing identity"),
    ):
        await stage.start(disk)

    assert (await stage.shown())[0].master == first.master


async def test_secret_storage_that_may_not_be_read_is_not_taken_for_none(
    stage: IdentityAccount, between: FaultProxy
) -> None:
    stage.account = replace(stage.account, homeserver=between.url)
    forbidden = {"errcode": "M_FORBIDDEN", "error": "no"}
    with (
        between.rule("GET", "/account_data/", "answer", status=403, body=forbidden),
        pytest.raises(Forbidden),
    ):
        await stage.start()

    assert (await stage.shown())[0].master is None


@pytest.mark.parametrize("length", [0, 31, 33])
async def test_a_private_key_of_another_length_is_told(
    stage: IdentityAccount, length: int
) -> None:
    await stage.start()
    _, default = await stage.shown()
    key = read_recovery_key(stage.recovery_key.read_text())
    name = "m.cross_signing.user_signing"
    sealed = secret_storage.encrypt(key, name, encode(b"x" * length).encode())
    await put_data(stage, name, {"encrypted": {default: sealed}})
    stage.forget()

    with pytest.raises(IdentityError, match=f"no usable {name}"):
        await stage.start()


async def test_a_device_that_the_homeserver_has_lost_is_told(
    stage: IdentityAccount, between: FaultProxy
) -> None:
    await stage.start()
    async with stage.session() as session:
        real = await session.client.ask(
            "POST", ["keys", "query"], {"device_keys": {stage.account.user_id: []}}
        )
    stage.account = replace(stage.account, homeserver=between.url)
    with (
        between.rule(
            "POST", "/keys/query$", "answer", status=200, body={**real, "device_keys": {}}
        ),
        pytest.raises(IdentityError, match="or none: nothing was signed"),
    ):
        await stage.start()


async def test_a_person_who_approves_late_is_waited_for_over_faults(
    stage: IdentityAccount, between: FaultProxy
) -> None:
    stage.account = replace(stage.account, homeserver=between.url)
    challenge = {"session": "s", "flows": [{"stages": ["m.oauth"]}], "params": {}}
    beats = list[None]()
    async with stage.session() as session:
        session.identity._auth = interactive_auth.InteractiveAuth(
            between.url,
            stage.account.user_id,
            None,
            lambda _: None,
            lambda: beats.append(None),
            poll_seconds=0.01,
        )
        with (
            between.rule(*UPLOAD, "answer", status=401, body=challenge, times=1),
            between.rule(*UPLOAD, "answer", status=502, body={}, times=2),
        ):
            await session.identity.ensure()

    assert len(beats) == 3
    assert is_whole(await stage.status())


# Odd keys in the backup.


@pytest.mark.parametrize("failing", [HomeserverUnreachable, None])
async def test_one_room_s_keys_that_are_refused_cost_no_other_room(
    stage: IdentityAccount, between: FaultProxy, failing: type[HomeserverUnreachable] | None
) -> None:
    async with stage.session() as session:
        await session.identity.ensure()
        first, _ = await talk(session)
        second, session_id = await talk(session)
        await session.identity.backup.add_missing_keys()
    disk = stage.other_disk()
    stage.account = replace(stage.account, homeserver=between.url)
    path = f"/room_keys/keys/{re.escape(first)}$"
    status, body = (502, {}) if failing else (403, {"errcode": "M_FORBIDDEN", "error": "no"})

    with between.rule("GET", path, "answer", status=status, body=body) as refused:
        if failing:
            with pytest.raises(failing):
                await stage.start(disk)
        else:
            await stage.start(disk)
    assert refused.statuses
    async with stage.session(disk) as other:  # what was interrupted goes on
        await other.identity.ensure()
        copies = other.client.machine.inbound_group_store.copies(second, session_id)

    assert copies


async def test_keys_of_what_is_no_room_are_neither_kept_nor_fed(stage: IdentityAccount) -> None:
    async with stage.session() as session:
        await session.identity.ensure()
        store = session.client.machine.store
        store._execute("INSERT INTO backup_removals VALUES ('..', 'x'), ('', 'y')")

        await session.identity.backup.remove()

        assert store.backup_removals(9) == []
        assert session.identity.backup.version is not None

"""The account's cross-signing identity: created once, saved, restored, never reset by itself.

The private keys are stored encrypted in the crypto store. For the loss of the disk they are also
in the account's secret storage, which the recovery key opens (spec: cross-signing, secrets). Every
step can be repeated: if the process dies between two steps, the next start completes them.
matrix-nio has no cross-signing: https://github.com/matrix-nio/matrix-nio/issues/229.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import nio
import structlog

from bot.core.events import RoomId
from bot.errors import Absent, IdentityError, MatrixError
from bot.matrix.account_secrets import AccountSecrets
from bot.matrix.cross_signing import PublicIdentity, add_signature
from bot.matrix.crypto_store import CryptoStore
from bot.matrix.error_mapping import call
from bot.matrix.interactive_auth import InteractiveAuth
from bot.matrix.json_fields import Json
from bot.matrix.key_backup import KeyBackup
from bot.matrix.nio_client import SafeClient
from bot.matrix.private_identity import PrivateIdentity, SavedIdentities
from bot.matrix.recovery_key import RecoveryKeyPlace
from bot.matrix.response_repair import GuardedResponse
from bot.runtime.failpoints import armed
from bot.runtime.uncancellable import run_uncancelled

_UNKNOWN = (
    "the account {user_id} has a cross-signing identity whose private keys are not on this disk."
    " Nothing was changed. Name the file of its recovery key in matrix.recovery_key_file, or run"
    " assistant-tchap identity restore; where the recovery key is lost, assistant-tchap identity"
    " reset makes another identity, and everybody who has verified the assistant must do so again"
)
_REPLACED = (
    "the homeserver shows another cross-signing identity of {user_id} than the one on this disk:"
    " another client has reset it, or the homeserver shows an old one. Nothing was changed. Run"
    " assistant-tchap identity restore with the recovery key of the identity that is shown, or"
    " assistant-tchap identity reset to make another"
)
_FOREIGN = (
    "the account {user_id} has no cross-signing identity, and {what} that another client has made."
    " Nothing was changed. Set the identity up in that client, and give its recovery key to"
    " assistant-tchap identity restore; or run assistant-tchap identity reset, which replaces it"
)
_NOT_KEPT = (
    "the homeserver has taken the {what} of {user_id} and does not show it: nothing more was"
    " changed; start again, and where that does not help, ask the homeserver's administrators"
)
_OTHER_DEVICE = (
    "the homeserver shows other keys of this device, {device_id}, than the crypto store holds, or"
    " none: nothing was signed. Restore session.json and crypto.db from the same backup, or log"
    " the device out and start once with --new-device"
)

log = structlog.get_logger()


class Identity:
    """The identity of the account that the client is logged in as.

    Attributes:
        backup: the backup of the room keys.
        storage: the account's secret storage.
    """

    def __init__(
        self,
        client: SafeClient,
        user_id: str,
        place: RecoveryKeyPlace,
        auth: InteractiveAuth,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """Set up the identity of one account.

        Args:
            client: the client; logged in by the time a request is made.
            user_id: the account.
            place: where a recovery key is written and read.
            auth: proves that the account's owner makes the request.
            beat: called during long work, so that the process does not count as stalled.
        """
        self._client = client
        self._user_id = user_id
        self._place = place
        self._auth = auth
        self._complete_one: PrivateIdentity | None = None
        self._others: frozenset[str] = frozenset()
        self.backup = KeyBackup(client, user_id, self._note_version, beat)
        self.storage = AccountSecrets(client, user_id)

    async def published(self) -> PublicIdentity:
        """Return the public identity that the homeserver shows for the account.

        Raises:
            MatrixError: the homeserver did not answer.
        """
        body: Json = {"device_keys": {self._user_id: []}}
        return PublicIdentity.of(
            await self._client.ask("POST", ["keys", "query"], body), self._user_id
        )

    async def ensure(self) -> None:
        """Create the identity if the account has none, complete it, and sign this device.

        Raises:
            IdentityError: the account has an identity that this disk does not know, or the
                homeserver does not keep what it has accepted. Nothing is reset.
            ConfigError: there is nowhere to write the recovery key, or the key does not fit.
            MatrixError: the homeserver refused, or did not answer.
        """
        shown, kept = await self.published(), self._load()
        if kept.pending is not None:
            kept = self._continue_reset(kept, kept.pending, shown)
        private = kept.current
        if private is None and shown.master is None:
            private = await self._begin()
        elif private is None:
            key = self._place.read()
            if key is None:
                raise IdentityError(_UNKNOWN.format(user_id=self._user_id))
            private = await self._from_storage(shown, key)
        if shown.master not in {None, private.master}:
            raise IdentityError(_REPLACED.format(user_id=self._user_id))
        await self._complete(private, shown)

    def _continue_reset(
        self, kept: SavedIdentities, pending: PrivateIdentity, shown: PublicIdentity
    ) -> SavedIdentities:
        """Continue a reset that the homeserver has accepted; log one that it has not."""
        if shown.master == pending.master:
            return self._save(SavedIdentities(pending))
        log.warning(
            "a reset of the identity was begun, and the homeserver has not taken it: the identity"
            " stays as it was; assistant-tchap identity reset goes on with it"
        )
        return kept

    async def restore(self, key: bytes) -> None:
        """Restore the identity and the room keys from the homeserver.

        Args:
            key: the recovery key.

        Raises:
            ConfigError, MatrixError: see `ensure`.
        """
        shown = await self.published()
        if shown.master is None:
            raise IdentityError(f"the account {self._user_id} has no identity to restore")
        await self._complete(await self._from_storage(shown, key), shown)

    def check_reset(self) -> None:
        """Check that there is somewhere to write a new recovery key.

        Raises:
            ConfigError: there is not.
        """
        if self._load().pending is None:
            self._place.check()

    async def reset(self) -> None:
        """Create a new identity that replaces the account's present one.

        The present one stays on this disk, and in force, until the homeserver has accepted the new
        one.

        Raises:
            ConfigError, MatrixError: see `ensure`.
        """
        self.check_reset()
        shown, kept = await self.published(), self._load()
        pending = kept.pending
        if pending is None:
            old = await self.backup.current()
            pending = PrivateIdentity.new(old_backup=old[0] if old else None)
            self._save(SavedIdentities(kept.current, pending))
            armed.reach("reset_saved")
        await self._complete(pending, shown)

    async def look_again(self) -> None:
        """Check that this device is still signed, and log new devices of the account.

        Raises:
            IdentityError: the homeserver does not keep what it has accepted.
            MatrixError: the homeserver did not answer.
        """
        if self._complete_one is None:
            return
        shown = await self.published()
        self._log_other_devices(shown)
        if not shown.is_of(self._complete_one.keys):
            raise IdentityError(_REPLACED.format(user_id=self._user_id))
        await self._sign_device(self._complete_one, shown)

    async def _begin(self) -> PrivateIdentity:
        self._place.check()
        if await self.storage.exists():
            raise IdentityError(_FOREIGN.format(user_id=self._user_id, what="a secret storage"))
        if await self._has_backup():
            raise IdentityError(_FOREIGN.format(user_id=self._user_id, what="a key backup"))
        private = PrivateIdentity.new()
        self._save(SavedIdentities(private))
        armed.reach("identity_saved")
        return private

    async def _has_backup(self) -> bool:
        try:
            return await self.backup.current() is not None
        except MatrixError as error:  # it may not have key backups at all
            log.warning("key backup not looked for", reason=str(error))
            return False

    async def _from_storage(self, shown: PublicIdentity, key: bytes) -> PrivateIdentity:
        """Read the private keys from the account's secret storage.

        Raises:
            IdentityError: see `AccountSecrets.open`; or the stored keys are not those that the
                homeserver shows.
        """
        private = await self.storage.open(key)
        if not shown.is_of(private.keys):
            raise IdentityError(_REPLACED.format(user_id=self._user_id))
        self._save(SavedIdentities(private))
        return private

    async def _complete(
        self,
        private: PrivateIdentity,
        shown: PublicIdentity,
    ) -> None:
        """Do every step that is not done yet. Each can be repeated.

        Args:
            private: the identity to put in force.
            shown: the identity that the homeserver shows.
        """
        if private.state == "new" and private.storage_key is not None:
            self._place.give(private.storage_key)
            private = replace(private, state="given")
            self._keep(private)
            armed.reach("recovery_key_given")
        if not shown.is_of(private.keys):
            shown = await self._publish(private, known=shown.master)
            armed.reach("identity_published")
        if self._is_pending(private):
            self._save(SavedIdentities(private))
        self._client.machine.identity = private.keys
        shown = await self._sign_device(private, shown)
        armed.reach("device_signed")
        private = await self._open_backup(private)
        armed.reach("backup_made")
        if private.state == "restored":
            await self._restore_room_keys()
        if private.storage_key is not None:
            await self.storage.write(private, private.storage_key)
        if private.state != "complete":
            private = replace(private, state="complete", storage_key=None)
            self._keep(private)
        self._complete_one = private
        self._log_other_devices(shown)

    async def _publish(self, private: PrivateIdentity, known: str | None) -> PublicIdentity:
        """Upload the public keys, and return what the homeserver shows afterwards.

        Args:
            private: the identity.
            known: the public master key that it replaces.
        """
        body = private.keys.published(self._user_id)
        by_device = self._client.machine.sign_json(body["master_key"])
        device = f"ed25519:{self._client.device_id}"
        body["master_key"]["signatures"] = {self._user_id: {device: by_device}}

        async def ask(auth: Mapping[str, Any] | None) -> GuardedResponse:
            if auth is not None and (await self.published()).master not in {known, private.master}:
                raise IdentityError(_REPLACED.format(user_id=self._user_id))
            sent = body if auth is None else {**body, "auth": dict(auth)}
            path = ["keys", "device_signing", "upload"]
            request = self._client.send_json(GuardedResponse, "POST", path, sent)
            return await call(GuardedResponse, run_uncancelled(request))

        await self._auth.authenticate(ask)
        shown = await self.published()
        if not shown.is_of(private.keys):
            raise IdentityError(_NOT_KEPT.format(what="identity", user_id=self._user_id))
        log.info("identity published", master_key=private.master)
        return shown

    async def _sign_device(
        self, private: PrivateIdentity, shown: PublicIdentity
    ) -> PublicIdentity:
        """Sign this device with the identity, for all to see.

        The signature covers the keys on this disk, never what the homeserver shows for them.
        """
        device_id, machine = str(self._client.device_id), self._client.machine
        if device_id not in shown.devices and not machine.account.shared:
            await call(nio.KeysUploadResponse, run_uncancelled(self._client.keys_upload()))
            armed.reach("device_uploaded")
            shown = await self.published()
        ours = machine.device_keys()
        theirs = shown.devices.get(device_id, {})
        if {name: theirs.get(name) for name in ours} != ours:
            raise IdentityError(_OTHER_DEVICE.format(device_id=device_id))
        if shown.has_signed(device_id):
            return shown
        add_signature(ours, self._user_id, private.keys.self_signing)
        body = {self._user_id: {device_id: ours}}
        answer = await self._client.ask("POST", ["keys", "signatures", "upload"], body)
        shown = await self.published()
        if answer.get("failures") or not shown.has_signed(device_id):
            what = f"signature of device {device_id}"
            raise IdentityError(_NOT_KEPT.format(what=what, user_id=self._user_id))
        log.info("device signed", device_id=device_id)
        return shown

    async def _open_backup(self, private: PrivateIdentity) -> PrivateIdentity:
        """Open the key backup. A failure stops nothing: it is tried again later."""
        try:
            version = await self.backup.open(
                private.backup,
                private.keys.master,
                private.backup_version,
                replace=private.old_backup is not None,
            )
            if private.old_backup not in {None, version}:
                await self.backup.delete(str(private.old_backup))
        except MatrixError as error:
            if private.state == "restored" and not isinstance(error, Absent):
                raise
            log.warning("key backup not opened", reason=str(error))
            return private
        opened = replace(private, backup_version=version, old_backup=None)
        if opened != private:
            self._keep(opened)
        return opened

    def _note_version(self, version: str) -> None:
        if self._complete_one is not None:
            self._complete_one = replace(self._complete_one, backup_version=version)
            self._keep(self._complete_one)

    async def _restore_room_keys(self) -> None:
        joined = await call(nio.JoinedRoomsResponse, self._client.joined_rooms())
        restored = await self.backup.restore(map(RoomId, joined.rooms))
        log.info("room keys restored", restored=restored)

    def _log_other_devices(self, shown: PublicIdentity) -> None:
        """Log other devices of the account: they can read what is written to the assistant."""
        others = frozenset(shown.devices) - {str(self._client.device_id)}
        if new := others - self._others:
            log.warning(
                "the account has other devices, which can read what is written to the assistant:"
                " assistant-tchap identity devices lists and removes them",
                devices=sorted(new),
                unsigned=sorted(one for one in new if not shown.has_signed(one)),
            )
        self._others = others

    def _load(self) -> SavedIdentities:
        return SavedIdentities.load(self._store.load_identity())

    def _save(self, kept: SavedIdentities) -> SavedIdentities:
        self._store.save_identity(kept.dump())
        return kept

    def _keep(self, private: PrivateIdentity) -> None:
        """Save the progress of an identity, as the current or the pending one."""
        kept = self._load()
        if self._is_pending(private):
            self._save(replace(kept, pending=private))
        else:
            self._save(replace(kept, current=private))

    def _is_pending(self, private: PrivateIdentity) -> bool:
        pending = self._load().pending
        return pending is not None and pending.master == private.master

    @property
    def _store(self) -> CryptoStore:
        return self._client.machine.store

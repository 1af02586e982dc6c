"""The account's cross-signing identity: made once, kept, restored, and never reset by itself.

The private keys lie sealed in the crypto store and, for another disk, in the account's secret
storage, which the recovery key opens (spec: cross-signing, secrets). Every step can be taken
again: a process that dies between two of them leaves what the next start completes.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import nio
import structlog
import vodozemac

from bot.core.events import RoomId
from bot.errors import IdentityError, NotFound
from bot.failpoints import armed
from bot.matrix import secret_storage
from bot.matrix.cross_signing import (
    USAGES,
    CrossSigningKeys,
    PublicIdentity,
    SigningKey,
    add_signature,
    decode,
    encode,
)
from bot.matrix.failures import call
from bot.matrix.interactive_auth import InteractiveAuth
from bot.matrix.key_backup import KeyBackup
from bot.matrix.parse import Json, mapping, text
from bot.matrix.recovery_key import RecoveryKeyPlace
from bot.matrix.safe_client import SafeClient
from bot.matrix.store import CryptoStore
from bot.matrix.wire import GuardedResponse
from bot.shield import to_the_end

_OF_BACKUP = "m.megolm_backup.v1"
_DEFAULT_KEY = "m.secret_storage.default_key"

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

log = structlog.get_logger()

State = Literal["new", "restored", "complete"]


@dataclass(frozen=True, slots=True)
class PrivateIdentity:
    """What the crypto store keeps of the identity.

    Attributes:
        keys: the three key pairs.
        backup: the private key of the key backup.
        state: whether the recovery key is still to be given to somebody and all to be published;
            or the secret storage still to be completed; or neither.
        storage_id: the id of the secret storage's key.
        storage_key: the recovery key, as long as there is something to do with it.
        replaces: the master key of the identity that this one is to take the place of.
        backup_version: the version of the key backup that was fed last.
    """

    keys: CrossSigningKeys
    backup: vodozemac.Curve25519SecretKey
    state: State
    storage_id: str
    storage_key: bytes | None
    replaces: str | None = None
    backup_version: str | None = None

    @property
    def shared(self) -> Mapping[str, bytes]:
        """What lies in the secret storage, by the type of its account data."""
        seeds = {f"m.cross_signing.{usage}": key.seed for usage, key in self.keys.by_usage.items()}
        encoded = {name: encode(seed).encode() for name, seed in seeds.items()}
        return {**encoded, _OF_BACKUP: encode(self.backup.to_bytes()).encode()}

    def dump(self) -> bytes:
        """Return it as bytes, for the crypto store."""
        seeds: dict[str, Any] = {
            usage: encode(key.seed) for usage, key in self.keys.by_usage.items()
        }
        fields = {
            **seeds,
            "backup": encode(self.backup.to_bytes()),
            "state": self.state,
            "storage_id": self.storage_id,
            "storage_key": None if self.storage_key is None else encode(self.storage_key),
            "replaces": self.replaces,
            "backup_version": self.backup_version,
        }
        return json.dumps(fields).encode()

    @classmethod
    def load(cls, data: bytes) -> "PrivateIdentity":
        """Read what `dump` has returned."""
        fields = json.loads(data)
        key = fields["storage_key"]
        return cls(
            CrossSigningKeys(*(SigningKey(decode(fields[usage])) for usage in USAGES)),
            vodozemac.Curve25519SecretKey.from_bytes(decode(fields["backup"])),
            fields["state"],
            fields["storage_id"],
            None if key is None else decode(key),
            fields["replaces"],
            fields["backup_version"],
        )


class Identity:
    """The identity of the account that the client is logged in as.

    Attributes:
        backup: the backup of the rooms' keys.
    """

    def __init__(
        self,
        client: SafeClient,
        user_id: str,
        place: RecoveryKeyPlace,
        auth: InteractiveAuth,
    ) -> None:
        self._client = client
        self._user_id = user_id
        self._place = place
        self._auth = auth
        self._private: PrivateIdentity | None = None
        self._strays: frozenset[str] = frozenset()
        self.backup = KeyBackup(client, user_id)

    async def published(self) -> PublicIdentity:
        """Return what the homeserver shows of the account.

        Raises:
            MatrixError: it did not answer.
        """
        body: Json = {"device_keys": {self._user_id: []}}
        return PublicIdentity.of(
            await self._client.ask("POST", ["keys", "query"], body), self._user_id
        )

    async def ensure(self) -> None:
        """Make the identity where the account has none, complete it, and sign this device.

        Raises:
            IdentityError: the account has an identity that this disk does not know, or the
                homeserver does not keep what it has taken; nothing is reset.
            ConfigError: the recovery key can be given to nobody, or does not fit.
            MatrixError: the homeserver refused, or did not answer.
        """
        shown = await self.published()
        private = self._load()
        if private is None and shown.master is None:
            private = await self._begin()
        elif private is None:
            key = self._place.read()
            if key is None:
                raise IdentityError(_UNKNOWN.format(user_id=self._user_id))
            private = await self._from_storage(shown, key)
        known = {None, private.keys.master.public, private.replaces}
        if shown.master not in known:
            raise IdentityError(_REPLACED.format(user_id=self._user_id))
        await self._complete(private, shown)

    async def restore(self, key: bytes) -> None:
        """Take the identity and the rooms' keys from the homeserver.

        Args:
            key: the recovery key.

        Raises:
            ConfigError, MatrixError: as `ensure`.
        """
        shown = await self.published()
        if shown.master is None:
            raise IdentityError(f"the account {self._user_id} has no identity to restore")
        await self._complete(await self._from_storage(shown, key), shown)

    async def reset(self) -> None:
        """Make a new identity in place of the one that the account has.

        Raises:
            ConfigError, MatrixError: as `ensure`.
        """
        self._place.check()
        shown = await self.published()
        await self._complete(self._new(replaces=shown.master), shown)

    async def has_secret_storage(self) -> bool:
        """Tell whether the account has a secret storage with all private keys of an identity.

        Raises:
            MatrixError: the homeserver did not answer.
        """
        storage_id = text(await self._account_data(_DEFAULT_KEY), "key")
        for usage in USAGES:
            content = await self._account_data(f"m.cross_signing.{usage}")
            if not secret_storage.encrypted_for(content, storage_id):
                return False
        return True

    async def look_again(self) -> None:
        """See that this device is still signed, and tell of devices that are new.

        Raises:
            MatrixError: the homeserver did not answer.
        """
        if self._private is None:
            return
        shown = await self.published()
        if shown.is_of(self._private.keys):
            await self._sign_device(self._private, shown)
        else:
            log.error("identity replaced", reason=_REPLACED.format(user_id=self._user_id))
        self._tell_strays(shown)

    async def _begin(self) -> PrivateIdentity:
        self._place.check()
        if await self._account_data(_DEFAULT_KEY):
            raise IdentityError(_FOREIGN.format(user_id=self._user_id, what="a secret storage"))
        if await self.backup.current() is not None:
            raise IdentityError(_FOREIGN.format(user_id=self._user_id, what="a key backup"))
        return self._new(replaces=None)

    def _new(self, *, replaces: str | None) -> PrivateIdentity:
        """Make the keys, which are on this disk before anybody hears of them."""
        private = PrivateIdentity(
            CrossSigningKeys.new(),
            vodozemac.Curve25519SecretKey(),
            "new",
            secrets.token_urlsafe(24),
            secret_storage.new_key(),
            replaces,
        )
        self._save(private)
        armed.reach("identity_saved")
        return private

    async def _from_storage(self, shown: PublicIdentity, key: bytes) -> PrivateIdentity:
        """Read the private keys out of the account's secret storage.

        Raises:
            IdentityError: the recovery key does not open it, it lacks a key, or what it holds are
                not the keys that the homeserver shows.
        """
        storage_id = text(await self._account_data(_DEFAULT_KEY), "key")
        described = await self._account_data(f"m.secret_storage.key.{storage_id}")
        if text(described, "algorithm") != secret_storage.ALGORITHM:
            raise IdentityError(
                "the account has no secret storage that the assistant can read, or it was only"
                " half written: nothing was changed; assistant-tchap identity reset makes another"
                " identity"
            )
        if not secret_storage.is_key_of(key, described):
            raise IdentityError(
                "this is not the recovery key of the account's secret storage: nothing was changed"
            )
        seeds = [await self._secret(f"m.cross_signing.{one}", storage_id, key) for one in USAGES]
        private = PrivateIdentity(
            CrossSigningKeys(*(SigningKey(_required(seed)) for seed in seeds)),
            _curve25519(await self._secret(_OF_BACKUP, storage_id, key)),
            "restored",
            storage_id,
            key,
        )
        if not shown.is_of(private.keys):
            raise IdentityError(_REPLACED.format(user_id=self._user_id))
        self._save(private)
        return private

    async def _secret(self, name: str, storage_id: str, key: bytes) -> bytes | None:
        content = await self._account_data(name)
        encrypted = secret_storage.encrypted_for(content, storage_id)
        if not encrypted:
            return None
        try:
            return decode(secret_storage.decrypt(key, name, encrypted).decode())
        except ValueError as error:
            raise IdentityError(
                f"the account's secret storage holds no usable {name}: nothing was changed; set"
                " it up again in the client that made it, or run assistant-tchap identity reset"
            ) from error

    async def _complete(self, private: PrivateIdentity, shown: PublicIdentity) -> None:
        """Take every step that is not taken yet; each can be taken twice."""
        if private.state == "new":
            self._place.give(_required(private.storage_key))
            armed.reach("recovery_key_given")
        self._client.machine.identity = private.keys
        if not shown.is_of(private.keys):
            shown = await self._publish(private)
            armed.reach("identity_published")
        shown = await self._sign_device(private, shown)
        armed.reach("device_signed")
        version = await self.backup.open(
            private.backup,
            private.keys.master,
            private.backup_version,
            replace=private.state == "new",
        )
        armed.reach("backup_made")
        if private.state == "restored":
            await self._restore_room_keys()
        if private.storage_key is not None:
            await self._write_storage(private, private.storage_key)
        done = replace(
            private, state="complete", storage_key=None, replaces=None, backup_version=version
        )
        if done != private:
            self._save(done)
        self._private = done
        self._tell_strays(shown)

    async def _publish(self, private: PrivateIdentity) -> PublicIdentity:
        body = private.keys.published(self._user_id)
        by_device = self._client.machine.sign_json(body["master_key"])
        device = f"ed25519:{self._client.device_id}"
        body["master_key"]["signatures"] = {self._user_id: {device: by_device}}

        async def ask(auth: Mapping[str, Any] | None) -> GuardedResponse:
            sent = body if auth is None else {**body, "auth": dict(auth)}
            path = ["keys", "device_signing", "upload"]
            request = self._client.send_json(GuardedResponse, "POST", path, sent)
            return await call(GuardedResponse, to_the_end(request))

        await self._auth.pass_(ask)
        shown = await self.published()
        if not shown.is_of(private.keys):
            raise IdentityError(_NOT_KEPT.format(what="identity", user_id=self._user_id))
        log.info("identity published", master_key=private.keys.master.public)
        return shown

    async def _sign_device(
        self, private: PrivateIdentity, shown: PublicIdentity
    ) -> PublicIdentity:
        """Let the identity's signature be on this device, for all to see."""
        device_id = str(self._client.device_id)
        if device_id not in shown.devices:
            await call(nio.KeysUploadResponse, to_the_end(self._client.keys_upload()))
            armed.reach("device_uploaded")
            shown = await self.published()
        ours = self._client.machine.account.identity_keys["ed25519"]
        theirs = mapping(shown.devices.get(device_id, {}).get("keys"))
        if text(theirs, f"ed25519:{device_id}").rstrip("=") != ours:
            raise IdentityError(
                f"the homeserver shows other keys of this device, {device_id}, than the crypto"
                " store holds: restore session.json and crypto.db from the same backup"
            )
        if shown.has_signed(device_id):
            return shown
        device = {
            name: value
            for name, value in shown.devices[device_id].items()
            if name not in {"signatures", "unsigned"}
        }
        add_signature(device, self._user_id, private.keys.self_signing)
        body = {self._user_id: {device_id: device}}
        answer = await self._client.ask("POST", ["keys", "signatures", "upload"], body)
        shown = await self.published()
        if answer.get("failures") or not shown.has_signed(device_id):
            what = f"signature of device {device_id}"
            raise IdentityError(_NOT_KEPT.format(what=what, user_id=self._user_id))
        log.info("device signed", device_id=device_id)
        return shown

    async def _write_storage(self, private: PrivateIdentity, key: bytes) -> None:
        """Put the private keys into the secret storage; what names it comes last."""
        storage_id = private.storage_id
        description = f"m.secret_storage.key.{storage_id}"
        if not await self._account_data(description):
            await self._put_account_data(description, secret_storage.description(key))
        for name, secret in private.shared.items():
            there = await self._account_data(name)
            kept = {} if private.state == "new" else dict(mapping(there.get("encrypted")))
            if not _holds(there, storage_id, key, name, secret):
                kept[storage_id] = secret_storage.encrypt(key, name, secret)
                await self._put_account_data(name, {"encrypted": kept})
            armed.reach("secret_stored")
        if text(await self._account_data(_DEFAULT_KEY), "key") != storage_id:
            await self._put_account_data(_DEFAULT_KEY, {"key": storage_id})
        armed.reach("storage_named")

    async def _restore_room_keys(self) -> None:
        joined = await call(nio.JoinedRoomsResponse, self._client.joined_rooms())
        restored = await self.backup.restore(map(RoomId, joined.rooms))
        log.info("room keys restored", restored=restored)

    def _tell_strays(self, shown: PublicIdentity) -> None:
        """Say which other devices the account has: nobody should be able to read with them."""
        strays = frozenset(shown.devices) - {str(self._client.device_id)}
        if new := strays - self._strays:
            log.warning(
                "the account has other devices, which can read what is written to the assistant:"
                " assistant-tchap identity devices lists and removes them",
                devices=sorted(new),
                unsigned=sorted(one for one in new if not shown.has_signed(one)),
            )
        self._strays = strays

    async def _account_data(self, kind: str) -> Json:
        try:
            return await self._client.ask("GET", self._account_data_path(kind))
        except NotFound:
            return {}

    async def _put_account_data(self, kind: str, content: Json) -> None:
        await self._client.ask("PUT", self._account_data_path(kind), content)

    def _account_data_path(self, kind: str) -> list[str]:
        return ["user", self._user_id, "account_data", kind]

    def _load(self) -> PrivateIdentity | None:
        data = self._store.load_identity()
        return None if data is None else PrivateIdentity.load(data)

    def _save(self, private: PrivateIdentity) -> None:
        self._store.save_identity(private.dump())

    @property
    def _store(self) -> CryptoStore:
        return self._client.machine.store


def _holds(there: Json, storage_id: str, key: bytes, name: str, secret: bytes) -> bool:
    encrypted = secret_storage.encrypted_for(there, storage_id)
    try:
        return bool(encrypted) and secret_storage.decrypt(key, name, encrypted) == secret
    except secret_storage.WrongKeyError:
        return False


def _required(secret: bytes | None) -> bytes:
    if secret is None:
        raise IdentityError(
            "the account's secret storage lacks a key of its identity: nothing was changed;"
            " assistant-tchap identity reset makes another identity"
        )
    return secret


def _curve25519(secret: bytes | None) -> vodozemac.Curve25519SecretKey:
    """Return the private key; a new one where there is none, for a backup that is yet to be."""
    if secret is None:
        return vodozemac.Curve25519SecretKey()
    return vodozemac.Curve25519SecretKey.from_bytes(secret)

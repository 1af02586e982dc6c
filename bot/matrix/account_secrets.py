"""The account's secret storage, which holds its private keys (spec: secrets, account data)."""

import vodozemac

from bot.errors import Absent, IdentityError
from bot.matrix import secret_storage
from bot.matrix.cross_signing import USAGES, CrossSigningKeys, SigningKey, decode
from bot.matrix.json_fields import Json, mapping, text
from bot.matrix.nio_client import SafeClient
from bot.matrix.private_identity import BACKUP_KEY, PrivateIdentity
from bot.runtime.failpoints import armed

DEFAULT_KEY = "m.secret_storage.default_key"


class AccountSecrets:
    """The secret storage of one account. Every method may raise MatrixError."""

    def __init__(self, client: SafeClient, user_id: str) -> None:
        self._client = client
        self._user_id = user_id

    async def exists(self) -> bool:
        """Return whether the account has a secret storage."""
        return bool(await self.get(DEFAULT_KEY))

    async def is_complete(self) -> bool:
        """Return whether the storage holds all private keys of some cross-signing identity."""
        storage_id = text(await self.get(DEFAULT_KEY), "key")
        described = await self.get(f"m.secret_storage.key.{storage_id}")
        if text(described, "algorithm") != secret_storage.ALGORITHM:
            return False
        for usage in USAGES:
            content = await self.get(f"m.cross_signing.{usage}")
            if not secret_storage.encrypted_for(content, storage_id):
                return False
        return True

    async def open(self, key: bytes) -> PrivateIdentity:
        """Decrypt the identity that the storage holds.

        Args:
            key: the recovery key.

        Raises:
            IdentityError: the key does not open the storage, or a private key is missing or
                unusable.
        """
        storage_id = text(await self.get(DEFAULT_KEY), "key")
        described = await self.get(f"m.secret_storage.key.{storage_id}")
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
        keys = [
            await self._signing_key(f"m.cross_signing.{one}", storage_id, key) for one in USAGES
        ]
        backup = await self._backup_key(storage_id, key)
        return PrivateIdentity(
            keys=CrossSigningKeys(*keys),
            backup=backup,
            state="restored",
            storage_id=storage_id,
            storage_key=key,
        )

    async def _signing_key(self, name: str, storage_id: str, key: bytes) -> SigningKey:
        secret = await self._secret(name, storage_id, key)
        if secret is None:
            raise IdentityError(
                "the account's secret storage lacks a key of its identity: nothing was changed;"
                " assistant-tchap identity reset makes another identity"
            )
        try:
            return SigningKey(secret)
        except ValueError as error:
            raise _unusable(name) from error

    async def _backup_key(self, storage_id: str, key: bytes) -> vodozemac.Curve25519SecretKey:
        """Return the private key of the backup; a new one if the storage has none."""
        secret = await self._secret(BACKUP_KEY, storage_id, key)
        if secret is None:
            return vodozemac.Curve25519SecretKey()
        try:
            return vodozemac.Curve25519SecretKey.from_bytes(secret)
        except ValueError as error:
            raise _unusable(BACKUP_KEY) from error

    async def _secret(self, name: str, storage_id: str, key: bytes) -> bytes | None:
        encrypted = secret_storage.encrypted_for(await self.get(name), storage_id)
        if not encrypted:
            return None
        try:
            return decode(secret_storage.decrypt(key, name, encrypted).decode())
        except ValueError as error:
            raise _unusable(name) from error

    async def write(self, private: PrivateIdentity, key: bytes) -> None:
        """Write an identity to the storage; the entry that names its key comes last.

        Secrets encrypted for other keys are kept, unless the identity is new.

        Args:
            private: the identity.
            key: the recovery key.
        """
        storage_id = private.storage_id
        description = f"m.secret_storage.key.{storage_id}"
        if not await self.get(description):
            await self.put(description, secret_storage.description(key))
        for name, secret in private.shared.items():
            stored = await self.get(name)
            if not _holds(stored, storage_id, key, name, secret):
                restored = private.state == "restored"
                kept = dict(mapping(stored.get("encrypted"))) if restored else {}
                kept[storage_id] = secret_storage.encrypt(key, name, secret)
                await self.put(name, {"encrypted": kept})
            armed.reach("secret_stored")
        if text(await self.get(DEFAULT_KEY), "key") != storage_id:
            await self.put(DEFAULT_KEY, {"key": storage_id})
        armed.reach("storage_named")

    async def get(self, kind: str) -> Json:
        """Return the content of one type of account data, {} if there is none."""
        try:
            return await self._client.ask("GET", self._path(kind))
        except Absent:
            return {}

    async def put(self, kind: str, content: Json) -> None:
        """Write one type of account data."""
        await self._client.ask("PUT", self._path(kind), content)

    def _path(self, kind: str) -> list[str]:
        return ["user", self._user_id, "account_data", kind]


def _holds(stored: Json, storage_id: str, key: bytes, name: str, secret: bytes) -> bool:
    encrypted = secret_storage.encrypted_for(stored, storage_id)
    try:
        return bool(encrypted) and secret_storage.decrypt(key, name, encrypted) == secret
    except secret_storage.WrongKeyError:
        return False


def _unusable(name: str) -> IdentityError:
    return IdentityError(
        f"the account's secret storage holds no usable {name}: nothing was changed; set it up"
        " again in the client that made it, or run assistant-tchap identity reset"
    )

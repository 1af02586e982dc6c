"""The private keys of the account's identity, as the crypto store keeps them."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import vodozemac

from bot.matrix import secret_storage
from bot.matrix.cross_signing import USAGES, CrossSigningKeys, SigningKey, decode, encode

BACKUP_KEY = "m.megolm_backup.v1"

State = Literal["new", "given", "restored", "complete"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateIdentity:
    """The private keys of one identity, and its progress.

    Attributes:
        keys: the three key pairs.
        backup: the private key of the key backup.
        state: "new" until the recovery key is written; "given" or "restored" until everything is
            published; then "complete".
        storage_id: the id of the secret storage's key.
        storage_key: the recovery key, while it is needed.
        backup_version: the version of the key backup that received keys last.
        old_backup: the version of a key backup that must be deleted.
    """

    keys: CrossSigningKeys = field(repr=False)
    backup: vodozemac.Curve25519SecretKey = field(repr=False)
    state: State
    storage_id: str
    storage_key: bytes | None = field(repr=False)
    backup_version: str | None = None
    old_backup: str | None = None

    @classmethod
    def new(cls, *, old_backup: str | None = None) -> "PrivateIdentity":
        """Generate new keys."""
        return cls(
            keys=CrossSigningKeys.new(),
            backup=vodozemac.Curve25519SecretKey(),
            state="new",
            storage_id=secrets.token_urlsafe(24),
            storage_key=secret_storage.new_key(),
            old_backup=old_backup,
        )

    @property
    def master(self) -> str:
        """The public master key."""
        return self.keys.master.public

    @property
    def shared(self) -> Mapping[str, bytes]:
        """The secrets of the secret storage, by the type of their account data."""
        seeds = {f"m.cross_signing.{usage}": key.seed for usage, key in self.keys.by_usage.items()}
        encoded = {name: encode(seed).encode() for name, seed in seeds.items()}
        return {**encoded, BACKUP_KEY: encode(self.backup.to_bytes()).encode()}

    def fields(self) -> dict[str, Any]:
        """Return the identity as a JSON object."""
        seeds: dict[str, Any] = {
            usage: encode(key.seed) for usage, key in self.keys.by_usage.items()
        }
        return {
            **seeds,
            "backup": encode(self.backup.to_bytes()),
            "state": self.state,
            "storage_id": self.storage_id,
            "storage_key": None if self.storage_key is None else encode(self.storage_key),
            "backup_version": self.backup_version,
            "old_backup": self.old_backup,
        }

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "PrivateIdentity":
        """Load an identity from what `fields` returned."""
        key = fields["storage_key"]
        return cls(
            keys=CrossSigningKeys(*(SigningKey(decode(fields[usage])) for usage in USAGES)),
            backup=vodozemac.Curve25519SecretKey.from_bytes(decode(fields["backup"])),
            state=fields["state"],
            storage_id=fields["storage_id"],
            storage_key=None if key is None else decode(key),
            backup_version=fields["backup_version"],
            old_backup=fields["old_backup"],
        )


@dataclass(frozen=True, slots=True)
class SavedIdentities:
    """The identities on this disk.

    Attributes:
        current: the account's identity; None if this disk does not have it.
        pending: the identity that will replace it by an operator's reset, not published yet.
    """

    current: PrivateIdentity | None = None
    pending: PrivateIdentity | None = None

    def dump(self) -> bytes:
        """Return the identities as bytes, for the crypto store."""
        both = {"current": self.current, "pending": self.pending}
        return json.dumps({name: one and one.fields() for name, one in both.items()}).encode()

    @classmethod
    def load(cls, data: bytes | None) -> "SavedIdentities":
        """Load them from what `dump` returned; None for a store without any."""
        both = {} if data is None else json.loads(data)
        one, other = both.get("current"), both.get("pending")
        return cls(one and PrivateIdentity.of(one), other and PrivateIdentity.of(other))

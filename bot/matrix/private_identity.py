"""What the crypto store keeps of the account's identity, sealed: its private keys."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import vodozemac

from bot.matrix import secret_storage
from bot.matrix.cross_signing import USAGES, CrossSigningKeys, SigningKey, decode, encode

OF_BACKUP = "m.megolm_backup.v1"

State = Literal["new", "given", "restored", "complete"]


@dataclass(frozen=True, slots=True)
class PrivateIdentity:
    """One identity.

    Attributes:
        keys: the three key pairs.
        backup: the private key of the key backup.
        state: "new" where the recovery key is still to be given to somebody; "given" or
            "restored" where something is still to be published; or "complete".
        storage_id: the id of the secret storage's key.
        storage_key: the recovery key, as long as there is something to do with it.
        backup_version: the version of the key backup that was fed last.
        old_backup: the version of a key backup that is still to be deleted.
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
        """Make new keys."""
        return cls(
            CrossSigningKeys.new(),
            vodozemac.Curve25519SecretKey(),
            "new",
            secrets.token_urlsafe(24),
            secret_storage.new_key(),
            old_backup=old_backup,
        )

    @property
    def master(self) -> str:
        """The public master key."""
        return self.keys.master.public

    @property
    def shared(self) -> Mapping[str, bytes]:
        """What lies in the secret storage, by the type of its account data."""
        seeds = {f"m.cross_signing.{usage}": key.seed for usage, key in self.keys.by_usage.items()}
        encoded = {name: encode(seed).encode() for name, seed in seeds.items()}
        return {**encoded, OF_BACKUP: encode(self.backup.to_bytes()).encode()}

    def fields(self) -> dict[str, Any]:
        """Return it as JSON."""
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
        """Read what `fields` has returned."""
        key = fields["storage_key"]
        return cls(
            CrossSigningKeys(*(SigningKey(decode(fields[usage])) for usage in USAGES)),
            vodozemac.Curve25519SecretKey.from_bytes(decode(fields["backup"])),
            fields["state"],
            fields["storage_id"],
            None if key is None else decode(key),
            fields["backup_version"],
            fields["old_backup"],
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """The identities on this disk.

    Attributes:
        current: the account's; None where this disk does not have it.
        pending: what is to take its place, as the operator wants, and is not published yet.
    """

    current: PrivateIdentity | None = None
    pending: PrivateIdentity | None = None

    def dump(self) -> bytes:
        """Return it as bytes, for the crypto store."""
        both = {"current": self.current, "pending": self.pending}
        return json.dumps({name: one and one.fields() for name, one in both.items()}).encode()

    @classmethod
    def load(cls, data: bytes | None) -> "Kept":
        """Read what `dump` has returned; None for a store that has none yet."""
        both = {} if data is None else json.loads(data)
        one, other = both.get("current"), both.get("pending")
        return cls(one and PrivateIdentity.of(one), other and PrivateIdentity.of(other))

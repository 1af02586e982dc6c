"""Cross-signing keys: making, signing with, and reading them from the homeserver.

Signatures are Ed25519 over canonical JSON (spec: appendices, signing JSON; end-to-end encryption,
cross-signing). All Base64 is written without padding: some clients silently ignore padded keys.
"""

import os
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import nio
import vodozemac
from Crypto.PublicKey import ECC
from Crypto.Signature import eddsa

from bot.matrix.json_fields import Json, mapping

Usage = Literal["master", "self_signing", "user_signing"]
USAGES: tuple[Usage, ...] = ("master", "self_signing", "user_signing")

_SEED_BYTES = 32
_UNSIGNED = ("signatures", "unsigned")


def encode(data: bytes) -> str:
    """Return unpadded Base64 (spec: appendices, unpadded Base64)."""
    return b64encode(data).decode().rstrip("=")


def decode(text: str) -> bytes:
    """Decode Base64, padded or not.

    Raises:
        ValueError: the text is not Base64.
    """
    stripped = text.rstrip("=")
    return b64decode(stripped + "=" * (-len(stripped) % 4), validate=True)


def canonical(value: Mapping[str, Any]) -> bytes:
    """Return the bytes that a signature of the object covers (spec: signing JSON)."""
    kept = {key: one for key, one in value.items() if key not in _UNSIGNED}
    return nio.Api.to_canonical_json(kept).encode()


class SigningKey:
    """An Ed25519 key pair.

    Attributes:
        seed: the private key, 32 bytes.
        public: the public key in unpadded Base64. It is also the key id.
    """

    def __init__(self, seed: bytes | None = None) -> None:
        """Load a key pair from its seed, or generate one.

        Raises:
            ValueError: the seed is not 32 bytes long.
        """
        self.seed = os.urandom(_SEED_BYTES) if seed is None else seed
        self._key = ECC.construct(curve="Ed25519", seed=self.seed)
        self.public = encode(self._key.public_key().export_key(format="raw"))

    def sign(self, value: Mapping[str, Any]) -> str:
        """Return the signature of an object, in unpadded Base64."""
        return encode(eddsa.new(self._key, "rfc8032").sign(canonical(value)))


def is_signed(value: Json, user_id: str, public: str) -> bool:
    """Return whether an object has a valid signature by the user's cross-signing key."""
    return has_signature(value, user_id, public, public)


def has_signature(value: Json, user_id: str, key_id: str, public: str) -> bool:
    """Return whether an object has a valid signature by the key `ed25519:{key_id}`."""
    signature = mapping(mapping(value.get("signatures")).get(user_id)).get(f"ed25519:{key_id}")
    if not isinstance(signature, str):
        return False
    try:
        key = vodozemac.Ed25519PublicKey.from_base64(public)
        read = vodozemac.Ed25519Signature.from_base64(signature)
        key.verify_signature(canonical(value), read)
    except (ValueError, TypeError, RecursionError):  # vodozemac's errors are ValueErrors
        return False
    return True


@dataclass(frozen=True, slots=True)
class CrossSigningKeys:
    """The three key pairs of one account."""

    master: SigningKey
    self_signing: SigningKey
    user_signing: SigningKey

    @classmethod
    def new(cls) -> "CrossSigningKeys":
        """Generate three new key pairs."""
        return cls(SigningKey(), SigningKey(), SigningKey())

    @property
    def by_usage(self) -> Mapping[Usage, SigningKey]:
        """The key pairs by usage."""
        return {
            "master": self.master,
            "self_signing": self.self_signing,
            "user_signing": self.user_signing,
        }

    def published(self, user_id: str) -> dict[str, Any]:
        """Return the body of `POST /keys/device_signing/upload`."""
        body = {
            f"{usage}_key": {
                "user_id": user_id,
                "usage": [usage],
                "keys": {f"ed25519:{key.public}": key.public},
            }
            for usage, key in self.by_usage.items()
        }
        for usage in ("self_signing", "user_signing"):
            add_signature(body[f"{usage}_key"], user_id, self.master)
        return body


def add_signature(value: dict[str, Any], user_id: str, key: SigningKey) -> None:
    """Add the signature of a cross-signing key to an object."""
    signatures = value.setdefault("signatures", {}).setdefault(user_id, {})
    signatures[f"ed25519:{key.public}"] = key.sign(value)


@dataclass(frozen=True, slots=True)
class PublicIdentity:
    """A user's cross-signing keys and devices, as the homeserver shows them.

    Attributes:
        user_id: the user.
        keys: the public cross-signing keys by usage.
        devices: the device keys by device id.
    """

    user_id: str
    keys: Mapping[Usage, str]
    devices: Mapping[str, dict[str, Any]]

    @classmethod
    def of(cls, body: Json, user_id: str) -> "PublicIdentity":
        """Read the identity from the response to `POST /keys/query`.

        A self-signing or user-signing key without the master key's signature is left out.
        """
        objects = {
            usage: mapping(mapping(body.get(f"{usage}_keys")).get(user_id)) for usage in USAGES
        }
        keys = {
            usage: public for usage, one in objects.items() if (public := _public(one)) is not None
        }
        master = keys.get("master")
        trusted = {
            usage: public
            for usage, public in keys.items()
            if usage == "master"
            or (master is not None and is_signed(objects[usage], user_id, master))
        }
        devices = mapping(mapping(body.get("device_keys")).get(user_id))
        return cls(user_id, trusted, {id_: dict(mapping(one)) for id_, one in devices.items()})

    @property
    def master(self) -> str | None:
        """The public master key; None if the user has no identity."""
        return self.keys.get("master")

    def is_of(self, keys: CrossSigningKeys) -> bool:
        """Return whether the homeserver shows exactly these three keys."""
        return dict(self.keys) == {usage: key.public for usage, key in keys.by_usage.items()}

    def has_signed(self, device_id: str) -> bool:
        """Return whether the identity has signed this device of its owner."""
        key, device = self.keys.get("self_signing"), self.devices.get(device_id)
        return key is not None and device is not None and is_signed(device, self.user_id, key)


def _public(key: Json) -> str | None:
    """Return the only public key of a cross-signing key object, without padding."""
    values = [one for one in mapping(key.get("keys")).values() if isinstance(one, str)]
    return values[0].rstrip("=") if len(values) == 1 else None

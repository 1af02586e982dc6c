"""Encryption and pseudonyms for the ledger and the crypto store, whose key is in neither."""

import hashlib
import hmac

from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF
from Crypto.Random import get_random_bytes

from bot.core.events import EventId, UserId

# Purposes: a key is derived from the operator's secret for each of them.
OUTBOX = b"assistant-tchap outbox"
IDENTITY = b"assistant-tchap identity"
_PEOPLE = b"assistant-tchap pseudonyms"
_NONCE, _TAG = 12, 16  # bytes (NIST SP 800-38D)
_PSEUDONYM_DIGITS = 32


class Seal:
    """Authenticated encryption: AES-256-GCM under a key derived from a secret (HKDF, RFC 5869)."""

    def __init__(self, secret: str, purpose: bytes = OUTBOX) -> None:
        self._key = _derive(secret, purpose)
        # Loads the cipher's library now, while files can surely be opened.
        self.open(self.close(b"", ""), "")

    def close(self, plain: bytes, context: str) -> bytes:
        """Encrypt bytes, so that they can be decrypted with the same context only.

        Args:
            plain: the bytes.
            context: associated data, such as the id of the row that holds them.
        """
        cipher = AES.new(self._key, AES.MODE_GCM, nonce=get_random_bytes(_NONCE))
        cipher.update(context.encode())
        encrypted, tag = cipher.encrypt_and_digest(plain)
        return bytes(cipher.nonce + tag + encrypted)

    def open(self, sealed: bytes, context: str) -> bytes:
        """Decrypt bytes.

        Raises:
            ValueError: the key or the context differs, or the bytes were changed.
        """
        nonce, tag = sealed[:_NONCE], sealed[_NONCE : _NONCE + _TAG]
        cipher = AES.new(self._key, AES.MODE_GCM, nonce=nonce)
        cipher.update(context.encode())
        return bytes(cipher.decrypt_and_verify(sealed[_NONCE + _TAG :], tag))


class Pseudonyms:
    """Pseudonyms that cannot be traced back without the key (HMAC, RFC 2104)."""

    def __init__(self, secret: str) -> None:
        self._key = _derive(secret, _PEOPLE)

    def of(self, one: UserId | EventId) -> str:
        """Return the pseudonym of a person or an event: always the same 32 hexadecimal digits."""
        digest = hmac.new(self._key, one.encode(), hashlib.sha256)
        return digest.hexdigest()[:_PSEUDONYM_DIGITS]


def _derive(secret: str, purpose: bytes) -> bytes:
    return bytes(HKDF(secret.encode(), 32, b"", SHA256, context=purpose))

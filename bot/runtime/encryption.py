"""What the ledger and the crypto store keep sealed, under a key that is in neither."""

import hashlib
import hmac

from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF
from Crypto.Random import get_random_bytes

from bot.core.events import EventId, UserId

OUTBOX = b"assistant-tchap outbox"  # other keys of the same secret are other keys
IDENTITY = b"assistant-tchap identity"
_PEOPLE = b"assistant-tchap pseudonyms"
_NONCE, _TAG = 12, 16  # bytes (NIST SP 800-38D)
_PSEUDONYM_DIGITS = 32


class Seal:
    """AES-256-GCM under a key derived (HKDF, RFC 5869) from the operator's secret."""

    def __init__(self, secret: str, purpose: bytes = OUTBOX) -> None:
        self._key = _derive(secret, purpose)
        self.open(self.close(b"", ""), "")  # loads the cipher while files can be opened

    def close(self, plain: bytes, place: str) -> bytes:
        """Return the bytes sealed: they open at the same place alone."""
        cipher = AES.new(self._key, AES.MODE_GCM, nonce=get_random_bytes(_NONCE))
        cipher.update(place.encode())
        sealed, tag = cipher.encrypt_and_digest(plain)
        return bytes(cipher.nonce + tag + sealed)

    def open(self, sealed: bytes, place: str) -> bytes:
        """Return what was sealed.

        Raises:
            ValueError: under another key, at another place, or changed since.
        """
        nonce, tag = sealed[:_NONCE], sealed[_NONCE : _NONCE + _TAG]
        cipher = AES.new(self._key, AES.MODE_GCM, nonce=nonce)
        cipher.update(place.encode())
        return bytes(cipher.decrypt_and_verify(sealed[_NONCE + _TAG :], tag))


class Pseudonyms:
    """Names that nobody can trace back who has no key (HMAC, RFC 2104)."""

    def __init__(self, secret: str) -> None:
        self._key = _derive(secret, _PEOPLE)

    def of(self, one: UserId | EventId) -> str:
        """Return the same 32 hexadecimal digits for a person or an event, whenever asked."""
        digest = hmac.new(self._key, one.encode(), hashlib.sha256)
        return digest.hexdigest()[:_PSEUDONYM_DIGITS]


def _derive(secret: str, purpose: bytes) -> bytes:
    return bytes(HKDF(secret.encode(), 32, b"", SHA256, context=purpose))

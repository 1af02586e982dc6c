"""Secret storage and its recovery key (spec: secrets, m.secret_storage.v1.aes-hmac-sha2)."""

import hashlib
import hmac
import os
from base64 import b64encode
from typing import Any

from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF

from bot.matrix.cross_signing import decode
from bot.matrix.json_fields import Json, mapping

ALGORITHM = "m.secret_storage.v1.aes-hmac-sha2"
KEY_BYTES = 32

_CHECKED = b"\0" * 32  # the plaintext that is encrypted under an empty name to check a key
_IV_BYTES = 16
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PREFIX = b"\x8b\x01"


class WrongKeyError(ValueError):
    """The key does not open this secret storage, or the secret was changed."""


def new_key() -> bytes:
    """Generate a key for a secret storage."""
    return os.urandom(KEY_BYTES)


def description(key: bytes) -> dict[str, Any]:
    """Return the content of `m.secret_storage.key.{id}`, with which a key can be checked."""
    check = encrypt(key, "", _CHECKED)
    return {"algorithm": ALGORITHM, "iv": check["iv"], "mac": check["mac"]}


def is_key_of(key: bytes, described: Json) -> bool:
    """Return whether the key fits a description. Without a check value, any key fits."""
    iv, mac = described.get("iv"), described.get("mac")
    if iv is None and mac is None:
        return True
    if not (isinstance(iv, str) and isinstance(mac, str)):
        return False
    try:
        expected = encrypt(key, "", _CHECKED, decode(iv))["mac"]
        return hmac.compare_digest(decode(expected), decode(mac))
    except ValueError:
        return False


def encrypt(key: bytes, name: str, secret: bytes, iv: bytes | None = None) -> dict[str, str]:
    """Encrypt a secret under its name (AES-256-CTR and HMAC-SHA-256, keys by HKDF).

    Args:
        key: the secret storage's key.
        name: the type of the account data.
        secret: the secret.
        iv: 16 bytes; None to generate them.
    """
    cipher_key, mac_key = _derive(key, name)
    iv = _new_iv() if iv is None else iv
    ciphertext = _cipher(cipher_key, iv).encrypt(secret)
    mac = hmac.new(mac_key, ciphertext, hashlib.sha256).digest()
    return {
        "iv": b64encode(iv).decode(),
        "ciphertext": b64encode(ciphertext).decode(),
        "mac": b64encode(mac).decode(),
    }


def decrypt(key: bytes, name: str, encrypted: Json) -> bytes:
    """Decrypt a secret.

    Args:
        key: the secret storage's key.
        name: the type of the account data.
        encrypted: `{iv, ciphertext, mac}`.

    Raises:
        WrongKeyError: the key is another one, or the entry was changed or is malformed.
    """
    parts = [encrypted.get(part) for part in ("iv", "ciphertext", "mac")]
    try:
        iv, ciphertext, mac = (decode(part) for part in parts if isinstance(part, str))
        cipher_key, mac_key = _derive(key, name)
        secret = bytes(_cipher(cipher_key, iv).decrypt(ciphertext))
    except ValueError as error:
        raise WrongKeyError(f"what is stored as {name} is malformed") from error
    if not hmac.compare_digest(hmac.new(mac_key, ciphertext, hashlib.sha256).digest(), mac):
        raise WrongKeyError(f"the recovery key does not open {name}")
    return secret


def encrypted_for(content: Json, key_id: str) -> Json:
    """Return the entry of an account data event that is encrypted for one key; {} for none."""
    return mapping(mapping(content.get("encrypted")).get(key_id))


def _new_iv() -> bytes:
    iv = bytearray(os.urandom(_IV_BYTES))
    iv[8] &= 0x7F  # clear bit 63, for implementations with a 64-bit counter
    return bytes(iv)


def _derive(key: bytes, name: str) -> tuple[bytes, bytes]:
    both = bytes(HKDF(key, 64, b"\0" * 32, SHA256, context=name.encode()))
    return both[:32], both[32:]


def _cipher(key: bytes, iv: bytes) -> Any:  # noqa: ANN401  # PyCryptodome's modes share no type
    return AES.new(key, AES.MODE_CTR, nonce=b"", initial_value=iv)


def write_recovery_key(key: bytes) -> str:
    """Return a key in readable form: Base58 in groups of four (spec: cryptographic key repr.)."""
    data = _PREFIX + key
    number = int.from_bytes(data + bytes([_parity(data)]))
    digits = ""
    while number:
        number, rest = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[rest] + digits
    return " ".join(digits[at : at + 4] for at in range(0, len(digits), 4))


def read_recovery_key(text: str) -> bytes:
    """Parse a key in readable form, with any spacing.

    Raises:
        ValueError: the text is no recovery key, or contains a typing error.
    """
    number = 0
    for digit in "".join(text.split()):
        number = number * len(_ALPHABET) + _ALPHABET.index(digit)
    try:
        data = number.to_bytes(len(_PREFIX) + KEY_BYTES + 1)
    except OverflowError as error:
        raise ValueError("too long for a recovery key") from error
    if not data.startswith(_PREFIX) or _parity(data) != 0:
        raise ValueError("no recovery key, or not typed as it was written")
    return data[len(_PREFIX) : -1]


def _parity(data: bytes) -> int:
    parity = 0
    for byte in data:
        parity ^= byte
    return parity

"""Signatures, secret storage and recovery keys as the spec and other clients have them."""

import json

import pytest
import vodozemac
from hypothesis import assume, given
from hypothesis import strategies as st
from nio.crypto import OlmAccount
from nio.crypto.sessions import InboundGroupSession, OutboundGroupSession

from bot.core.events import RoomId, UserId
from bot.matrix import secret_storage
from bot.matrix.cross_signing import (
    CrossSigningKeys,
    PublicIdentity,
    SigningKey,
    add_signature,
    decode,
    encode,
    is_signed,
)
from bot.matrix.crypto_store import RoomKey
from bot.matrix.error_mapping import MALFORMED
from bot.matrix.json_fields import is_room_id
from bot.matrix.key_backup import read_session_data, session_data
from bot.matrix.secret_storage import WrongKeyError, read_recovery_key, write_recovery_key

ME = "@bot:stand.test"
ROOM = RoomId("!room:stand.test")
# Spec, appendices, signing JSON: the seed, and the signatures of two objects.
SEED = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"
EMPTY = "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"
SPEC_TEST = (
    "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"
)


@pytest.mark.parametrize(
    ("value", "signature"), [({}, EMPTY), ({"one": 1, "two": "Two"}, SPEC_TEST)]
)
def test_an_object_is_signed_as_the_spec_signs_it(
    value: dict[str, object], signature: str
) -> None:
    assert SigningKey(decode(SEED)).sign(value) == signature


@given(st.binary(max_size=70))
def test_base64_is_written_without_padding_and_read_with_or_without(data: bytes) -> None:
    text = encode(data)

    assert "=" not in text
    assert decode(text) == decode(text + "=" * (-len(text) % 4)) == data


def test_a_signature_holds_for_its_object_and_its_key_alone() -> None:
    key, other = SigningKey(), SigningKey()
    signed = {"user_id": ME, "unsigned": {"name": "x"}}
    add_signature(signed, ME, key)

    assert is_signed(signed, ME, key.public)
    assert is_signed(signed | {"unsigned": {}}, ME, key.public)
    assert not is_signed(signed | {"user_id": "@other:stand.test"}, ME, key.public)
    assert not is_signed(signed, ME, other.public)
    assert not is_signed(signed, "@other:stand.test", key.public)


@pytest.mark.parametrize("signature", [None, 7, "", "?", "A" * 86, "é"])
def test_what_is_no_signature_is_none(signature: object) -> None:
    key = SigningKey()
    signed = {"signatures": {ME: {f"ed25519:{key.public}": signature}}}

    assert not is_signed(signed, ME, key.public)


def test_what_is_nested_too_deep_is_not_signed() -> None:
    key, nested = SigningKey(), dict[str, object]()
    for _ in range(100_000):
        nested = {"x": nested}
    signatures = {ME: {f"ed25519:{key.public}": "A" * 86}}

    assert not is_signed({"x": nested, "signatures": signatures}, ME, key.public)


def shown(keys: CrossSigningKeys, padding: str = "") -> dict[str, object]:
    """Return what a homeserver answers to a query."""
    body = keys.published(ME)
    objects = {usage: body[f"{usage}_key"] for usage in keys.by_usage}
    for usage, key in keys.by_usage.items():
        if padding:
            objects[usage]["keys"] = {f"ed25519:{key.public}{padding}": key.public + padding}
            if usage != "master":
                objects[usage].pop("signatures")
                add_signature(objects[usage], ME, keys.master)
    return {f"{usage}_keys": {ME: one} for usage, one in objects.items()}


@pytest.mark.parametrize("padding", ["", "="])
def test_an_identity_that_is_shown_padded_is_the_same(padding: str) -> None:
    keys = CrossSigningKeys.new()

    assert PublicIdentity.of(shown(keys, padding), ME).is_of(keys)
    assert not PublicIdentity.of(shown(CrossSigningKeys.new()), ME).is_of(keys)


@pytest.mark.parametrize("usage", ["self_signing", "user_signing"])
def test_a_key_that_the_master_key_has_not_signed_is_none(usage: str) -> None:
    keys = CrossSigningKeys.new()
    body = shown(keys)
    body[f"{usage}_keys"] = shown(CrossSigningKeys.new())[f"{usage}_keys"]

    identity = PublicIdentity.of(body, ME)

    assert identity.master == keys.master.public
    assert usage not in identity.keys


@pytest.mark.parametrize("body", [{}, {"master_keys": 7}, {"master_keys": {ME: {"keys": []}}}])
def test_an_answer_without_identity_shows_none(body: dict[str, object]) -> None:
    assert PublicIdentity.of(body, ME).master is None


def test_a_device_is_signed_by_the_identity_that_is_shown() -> None:
    keys, device = CrossSigningKeys.new(), {"device_id": "D", "user_id": ME}
    add_signature(device, ME, keys.self_signing)
    body = shown(keys) | {"device_keys": {ME: {"D": device, "E": {"device_id": "E"}}}}

    identity = PublicIdentity.of(body, ME)

    assert identity.has_signed("D")
    assert not identity.has_signed("E")
    assert not identity.has_signed("F")


# Spec, appendices, cryptographic key representation.
RECOVERY_KEY = "EsTh DyKS Fa2d yZZL 1H3D n2Fd 7oRS a1XG 8gWy mxJv iDSX zKqc"


@given(st.binary(min_size=32, max_size=32))
def test_a_recovery_key_is_read_as_it_was_written(key: bytes) -> None:
    written = write_recovery_key(key)

    assert read_recovery_key(written) == read_recovery_key(f" {written.replace(' ', '')}\n") == key


@given(st.binary(min_size=32, max_size=32), st.integers(0, 47), st.sampled_from("1zKe0Ol"))
def test_a_slip_of_the_pen_is_never_read_as_the_key(key: bytes, place: int, typed: str) -> None:
    """One in 256 slips fits the parity; the secret storage's check value finds those."""
    written = write_recovery_key(key).replace(" ", "")
    slipped = written[:place] + typed + written[place + 1 :]
    try:
        read = read_recovery_key(slipped)
    except ValueError:
        return

    assert (read == key) == (slipped == written)


@pytest.mark.parametrize("typed", ["", "EsTh", RECOVERY_KEY * 2, "ключ", "0OIl", "\0"])
def test_what_is_no_recovery_key_is_refused(typed: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_recovery_key(typed)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100))
def test_a_secret_comes_back_under_its_key_and_name_alone(key: bytes, secret: bytes) -> None:
    stored, other = secret_storage.encrypt(key, "m.cross_signing.master", secret), bytes(32)
    assume(key != other)

    assert secret_storage.decrypt(key, "m.cross_signing.master", stored) == secret
    for other_key, name in ((key, "m.other"), (other, "m.cross_signing.master")):
        with pytest.raises(WrongKeyError):
            secret_storage.decrypt(other_key, name, stored)


@pytest.mark.parametrize(
    "stored",
    [
        {},
        {"iv": 7, "ciphertext": "", "mac": ""},
        {"iv": "", "ciphertext": "", "mac": ""},
        {"iv": "AAAA", "ciphertext": "AAAA", "mac": "AAAA"},
        {"iv": "?", "ciphertext": "?", "mac": "?"},
    ],
)
def test_a_secret_that_is_none_is_refused(stored: dict[str, object]) -> None:
    with pytest.raises(WrongKeyError):
        secret_storage.decrypt(secret_storage.new_key(), "name", stored)


def test_a_key_is_told_from_others_by_its_description() -> None:
    key = secret_storage.new_key()
    described = secret_storage.description(key)

    assert secret_storage.is_key_of(key, described)
    assert not secret_storage.is_key_of(secret_storage.new_key(), described)
    assert secret_storage.is_key_of(key, {"algorithm": secret_storage.ALGORITHM})
    assert not secret_storage.is_key_of(key, {"iv": "?", "mac": 7})
    assert not secret_storage.is_key_of(key, {"iv": "AAAA", "mac": "AAAA"})


@pytest.fixture
def room_key() -> RoomKey:
    session, account = OutboundGroupSession(), OlmAccount()
    keys = account.identity_keys
    return RoomKey(
        InboundGroupSession(session.session_key, keys["ed25519"], keys["curve25519"], ROOM),
        UserId("@ada:stand.test"),
    )


def test_a_room_key_comes_back_from_the_backup_with_its_sender(room_key: RoomKey) -> None:
    secret, session = vodozemac.Curve25519SecretKey(), room_key.session

    restored = read_session_data(ROOM, session.id, session_data(room_key, secret), secret)

    assert restored.sender == room_key.sender
    assert restored.session.id == session.id
    assert restored.session.sender_key == session.sender_key
    assert restored.session.ed25519 == session.ed25519


def forged(
    room_key: RoomKey, secret: vodozemac.Curve25519SecretKey, mac: object = encode(bytes(32))
) -> dict[str, object]:
    """Return what anybody can make who knows the backup's public key."""
    own = session_data(room_key, vodozemac.Curve25519SecretKey())
    plain = {
        "algorithm": "m.megolm.v1.aes-sha2",
        "sender_claimed_keys": {"ed25519": room_key.session.ed25519},
        "sender_key": room_key.session.sender_key,
        "session_key": room_key.session.export_session(0),
        "fr.gouv.assistant.sender": room_key.sender,
        "fr.gouv.assistant.mac": mac,
    }
    encryption = vodozemac.PkEncryption.from_key(secret.public_key())
    message = encryption.encrypt(json.dumps(plain).encode())
    parts = {"ciphertext": message.ciphertext, "mac": message.mac}
    sealed = {**parts, "ephemeral": message.ephemeral_key}
    return own | {"session_data": {name: encode(bytes(one)) for name, one in sealed.items()}}


def test_a_room_key_that_the_bot_has_not_backed_up_is_not_taken(room_key: RoomKey) -> None:
    secret, session_id = vodozemac.Curve25519SecretKey(), room_key.session.id
    own = session_data(room_key, secret)

    for room_id, id_, data in (
        (ROOM, session_id, forged(room_key, secret)),
        (RoomId("!other:stand.test"), session_id, own),
        (ROOM, "other", own),
        (ROOM, session_id, {}),
        (ROOM, session_id, {"session_data": {"ciphertext": "?", "mac": "", "ephemeral": ""}}),
    ):
        with pytest.raises(ValueError, match=r"."):
            read_session_data(room_id, id_, data, secret)


@pytest.mark.parametrize("mac", ["é", "", 7, None, {}])
def test_a_mac_that_is_none_is_refused(room_key: RoomKey, mac: object) -> None:
    secret, session_id = vodozemac.Curve25519SecretKey(), room_key.session.id

    with pytest.raises(ValueError, match="another client's"):
        read_session_data(ROOM, session_id, forged(room_key, secret, mac), secret)


def test_what_is_nested_too_deep_in_a_backup_is_one_of_the_expected_errors(
    room_key: RoomKey,
) -> None:
    secret, session_id = vodozemac.Curve25519SecretKey(), room_key.session.id
    encryption = vodozemac.PkEncryption.from_key(secret.public_key())
    message = encryption.encrypt(b"[" * 100_000)
    parts = {"ciphertext": message.ciphertext, "mac": message.mac}
    sealed = {**parts, "ephemeral": message.ephemeral_key}
    data = {"session_data": {name: encode(bytes(one)) for name, one in sealed.items()}}

    with pytest.raises(MALFORMED):
        read_session_data(ROOM, session_id, data, secret)


@pytest.mark.parametrize(
    ("room_id", "sound"),
    [
        ("!room:stand.test", True),
        ("!kI8AOsBF-aGFIE_AQf4pdO4UDB4wrn126gPXa5A", True),
        *[(one, False) for one in ("", "..", "room", "!a b", "!a\0b", "!a\nb", "!" * 256, 7)],
    ],
)
def test_a_room_s_id_is_told_from_what_is_none(room_id: object, sound: object) -> None:
    assert is_room_id(room_id) == sound

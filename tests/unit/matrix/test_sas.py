"""The verification by emoji, step by step, against another side made of the same primitives."""

import hashlib
from collections.abc import Mapping
from typing import Any

import nio
import pytest
import vodozemac

from bot.matrix.cross_signing import encode
from bot.matrix.sas import Device, SasResponder

TRANSACTION = "$request"
BOT = Device("@bot:x", "BOT", "B" * 43, "M" * 43)
ADA = Device("@ada:x", "PHONE", "A" * 43, "N" * 43)
REQUEST = {"from_device": "PHONE", "methods": ["m.qr_code.scan.v1", "m.sas.v1"]}
START: dict[str, Any] = {
    "from_device": "PHONE",
    "method": "m.sas.v1",
    "key_agreement_protocols": ["curve25519", "curve25519-hkdf-sha256"],
    "hashes": ["sha256"],
    "message_authentication_codes": ["hkdf-hmac-sha256", "hkdf-hmac-sha256.v2"],
    "short_authentication_string": ["decimal", "emoji"],
}


class Starter:
    """The other side: what it sends, and what it makes of the answers."""

    def __init__(self) -> None:
        self.responder = SasResponder(BOT, ADA, TRANSACTION)
        self._sas = vodozemac.Sas()
        self.public = self._sas.public_key.to_base64()
        self.commitment = ""
        self.emoji: tuple[int, ...] = ()
        self._established: vodozemac.EstablishedSas | None = None

    def send(self, kind: str, content: Mapping[str, Any] | None = None) -> list[tuple[str, Any]]:
        answers = self.responder.receive(kind, self.next(kind) if content is None else content)
        for answer in answers:
            self.hear(answer.kind, answer.content)
        return [(answer.kind, answer.content) for answer in answers]

    def next(self, kind: str) -> Mapping[str, Any]:
        match kind:
            case "request":
                return REQUEST
            case "start":
                return START
            case "key":
                return {"key": self.public}
            case "mac":
                return self.mac(ADA.keys)
            case _:
                return {}

    def mac(self, keys: Mapping[str, str]) -> dict[str, Any]:
        assert self._established is not None
        info = f"MATRIX_KEY_VERIFICATION_MAC@ada:xPHONE@bot:xBOT{TRANSACTION}"
        made = {id_: self._established.calculate_mac(key, info + id_) for id_, key in keys.items()}
        listed = self._established.calculate_mac(",".join(sorted(keys)), f"{info}KEY_IDS")
        return {"mac": made, "keys": listed}

    def hear(self, kind: str, content: Mapping[str, Any]) -> None:
        if kind == "accept":
            self.commitment = content["commitment"]
        elif kind == "key":
            committed = content["key"] + nio.Api.to_canonical_json(START)
            assert self.commitment == encode(hashlib.sha256(committed.encode()).digest())
            theirs = vodozemac.Curve25519PublicKey.from_base64(content["key"])
            self._established = self._sas.diffie_hellman(theirs)
            info = (
                f"MATRIX_KEY_VERIFICATION_SAS|@ada:x|PHONE|{self.public}"
                f"|@bot:x|BOT|{content['key']}|{TRANSACTION}"
            )
            self.emoji = tuple(self._established.bytes(info).emoji_indices)
        elif kind == "mac":
            assert self._established is not None
            info = f"MATRIX_KEY_VERIFICATION_MAC@bot:xBOT@ada:xPHONE{TRANSACTION}"
            listed = ",".join(sorted(BOT.keys))
            self._established.verify_mac(listed, f"{info}KEY_IDS", content["keys"])
            for id_, key in BOT.keys.items():
                self._established.verify_mac(key, info + id_, content["mac"][id_])


KINDS = ("request", "start", "key", "mac", "done")


def begun(until: str) -> Starter:
    """Return a verification in which everything before `until` has happened."""
    starter = Starter()
    for kind in KINDS[: KINDS.index(until)]:
        starter.send(kind)
    return starter


def cancelled(answers: list[tuple[str, Any]]) -> str:
    [(kind, content)] = answers
    assert kind == "cancel"
    return str(content["code"])


def test_both_sides_show_the_same_emoji_and_vouch_for_their_keys() -> None:
    starter = Starter()

    answers = [kind for step in KINDS for kind, _ in starter.send(step)]

    assert answers == ["ready", "accept", "key", "mac", "done"]
    assert starter.emoji == starter.responder.emoji
    assert len(starter.emoji) == 7
    assert starter.responder.state == "done"


@pytest.mark.parametrize("step", KINDS)
@pytest.mark.parametrize("kind", [*KINDS, "ready", "accept", "other"])
def test_what_was_not_to_come_now_ends_it(step: str, kind: str) -> None:
    starter = begun(step)
    content = REQUEST if kind == step == "request" else None
    if kind == step:
        assert starter.send(kind, content) or starter.responder.state == "done"
        return

    assert cancelled(starter.send(kind, {})) == "m.unexpected_message"
    assert starter.send(kind, {}) == []
    assert starter.responder.code == "m.unexpected_message"


@pytest.mark.parametrize("step", KINDS)
def test_either_side_can_cancel_at_any_step(step: str) -> None:
    theirs, ours = begun(step), begun(step)

    assert theirs.send("cancel", {"code": "m.mismatched_sas"}) == []
    [answer] = ours.responder.cancel("m.timeout", "too long")

    assert (theirs.responder.state, theirs.responder.code) == ("cancelled", "m.mismatched_sas")
    assert (ours.responder.state, answer.content["code"]) == ("cancelled", "m.timeout")
    assert ours.responder.cancel("m.user", "again") == []
    assert theirs.send("done", {}) == []


@pytest.mark.parametrize(
    ("step", "content", "code"),
    [
        ("request", {}, "m.unknown_method"),
        ("request", {"methods": ["m.qr_code.scan.v1"]}, "m.unknown_method"),
        ("request", {"methods": "m.sas.v1"}, "m.unknown_method"),
        ("start", {}, "m.unknown_method"),
        ("start", START | {"method": "m.reciprocate.v1"}, "m.unknown_method"),
        ("start", START | {"key_agreement_protocols": ["curve25519"]}, "m.unknown_method"),
        ("start", START | {"hashes": []}, "m.unknown_method"),
        (
            "start",
            START | {"message_authentication_codes": ["hkdf-hmac-sha256"]},
            "m.unknown_method",
        ),
        ("start", START | {"short_authentication_string": ["qr"]}, "m.unknown_method"),
        ("start", START | {"from_device": "OTHER"}, "m.invalid_message"),
        ("key", {}, "m.invalid_message"),
        ("key", {"key": 7}, "m.invalid_message"),
        ("key", {"key": "é"}, "m.invalid_message"),
        ("key", {"key": "A" * 43}, "m.invalid_message"),  # no point that contributes
        ("mac", {}, "m.key_mismatch"),
        ("mac", {"mac": {"ed25519:PHONE": "A" * 43}, "keys": "A" * 43}, "m.key_mismatch"),
        ("mac", {"mac": [], "keys": 7}, "m.key_mismatch"),
    ],
)
def test_what_is_malformed_or_unknown_ends_it(
    step: str, content: dict[str, Any], code: str
) -> None:
    assert cancelled(begun(step).send(step, content)) == code


@pytest.mark.parametrize(
    "keys",
    [
        {"ed25519:PHONE": "X" * 43},  # not the key that is published
        {"ed25519:PHONE": "A" * 43, "ed25519:" + "N" * 43: "X" * 43},
        {"ed25519:" + "N" * 43: "N" * 43},  # nothing about the device
    ],
)
def test_keys_that_are_not_the_published_ones_end_it(keys: dict[str, str]) -> None:
    starter = begun("mac")

    assert cancelled(starter.send("mac", starter.mac(keys))) == "m.key_mismatch"


def test_keys_that_nobody_knows_are_passed_over() -> None:
    starter = begun("mac")

    answers = starter.send("mac", starter.mac({**ADA.keys, "ed25519:UNKNOWN": "Y" * 43}))

    assert [kind for kind, _ in answers] == ["done"]


def test_a_side_without_identity_vouches_for_its_device_alone() -> None:
    responder = SasResponder(Device("@bot:x", "BOT", "B" * 43, None), ADA, TRANSACTION)
    starter = Starter()
    responder.receive("request", REQUEST)
    responder.receive("start", START)

    _, mac = responder.receive("key", {"key": starter.public})

    assert mac.content["mac"].keys() == {"ed25519:BOT"}

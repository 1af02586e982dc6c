"""A short authentication string verification, on the side that accepts it (spec: SAS method).

matrix-nio's own implementation is broken (https://github.com/matrix-nio/matrix-nio/issues/570) and
supports neither rooms nor requests (https://github.com/matrix-nio/matrix-nio/issues/430). This one
has no input or output: it takes an event and returns the events to send.

The bot confirms its side at once. It compares nothing, and trusts nobody more afterwards. The
person compares the emoji with those on the bot's terminal, and the person's client then trusts the
bot.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import nio
import vodozemac

from bot.matrix.cross_signing import encode
from bot.matrix.json_fields import Json, mapping, text

METHOD = "m.sas.v1"

_AGREEMENT = "curve25519-hkdf-sha256"
_HASH = "sha256"
_MAC = "hkdf-hmac-sha256.v2"
_STRINGS = ("emoji", "decimal")

State = Literal["requested", "ready", "accepted", "shown", "confirmed", "done", "cancelled"]


@dataclass(frozen=True, slots=True)
class Device:
    """One side of a verification.

    Attributes:
        user_id: the device's owner.
        device_id: the device's id.
        ed25519: the device's signing key.
        master_key: the owner's public master key; None for none.
    """

    user_id: str
    device_id: str
    ed25519: str
    master_key: str | None

    @property
    def keys(self) -> Mapping[str, str]:
        """The keys that the owner confirms, by key id."""
        keys = {f"ed25519:{self.device_id}": self.ed25519}
        return keys | ({f"ed25519:{self.master_key}": self.master_key} if self.master_key else {})


@dataclass(frozen=True, slots=True)
class Answer:
    """An event to send: its type without the prefix `m.key.verification.`, and its content."""

    kind: str
    content: Mapping[str, Any]


class _Fault(Exception):  # ends one step, never leaves this module
    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class SasResponder:
    """The state machine of the accepting side.

    Attributes:
        state: the progress of the verification.
        emoji: the numbers of the seven emoji; () until both keys are known.
        code: the reason of a cancellation by either side.
    """

    def __init__(self, ours: Device, theirs: Device, transaction_id: str) -> None:
        self._ours, self._theirs = ours, theirs
        self._transaction_id = transaction_id
        self._sas = vodozemac.Sas()
        self._established: vodozemac.EstablishedSas | None = None
        self.state: State = "requested"
        self.emoji: tuple[int, ...] = ()
        self.code = ""

    @property
    def over(self) -> bool:
        """Return whether the verification has ended."""
        return self.state in {"done", "cancelled"}

    def receive(self, kind: str, content: Json) -> Sequence[Answer]:
        """Handle one event of the other side, and return the events to send."""
        if self.over:
            return []
        if kind == "cancel":
            self.state, self.code = "cancelled", text(content, "code") or "m.unknown"
            return []
        steps = {
            ("requested", "request"): self._request,
            ("ready", "start"): self._start,
            ("accepted", "key"): self._key,
            ("shown", "mac"): self._mac,
            ("confirmed", "done"): self._done,
        }
        step = steps.get((self.state, kind))
        if step is None:
            return self.cancel("m.unexpected_message", f"{kind} was not to come now")
        try:
            return step(content)
        except _Fault as fault:
            return self.cancel(fault.code, str(fault))
        except ValueError:  # vodozemac's errors
            return self.cancel("m.invalid_message", f"{kind} is malformed")

    def cancel(self, code: str, reason: str) -> Sequence[Answer]:
        """Cancel the verification, and return the event that tells the other side."""
        if self.over:
            return []
        self.state, self.code = "cancelled", code
        return [Answer("cancel", {"code": code, "reason": reason})]

    def _request(self, content: Json) -> Sequence[Answer]:
        if METHOD not in _texts(content, "methods"):
            raise _Fault("m.unknown_method", "only emoji and numbers can be compared")
        self.state = "ready"
        return [Answer("ready", {"from_device": self._ours.device_id, "methods": [METHOD]})]

    def _start(self, content: Json) -> Sequence[Answer]:
        strings = [
            one for one in _STRINGS if one in _texts(content, "short_authentication_string")
        ]
        fits = (
            text(content, "method") == METHOD
            and _AGREEMENT in _texts(content, "key_agreement_protocols")
            and _HASH in _texts(content, "hashes")
            and _MAC in _texts(content, "message_authentication_codes")
        )
        if not fits or not strings:
            raise _Fault("m.unknown_method", "no method that both sides know")
        if text(content, "from_device") != self._theirs.device_id:
            raise _Fault("m.invalid_message", "another device has started")
        said = self._sas.public_key.to_base64() + nio.Api.to_canonical_json(dict(content))
        self.state = "accepted"
        accept = {
            "method": METHOD,
            "key_agreement_protocol": _AGREEMENT,
            "hash": _HASH,
            "message_authentication_code": _MAC,
            "short_authentication_string": strings,
            "commitment": encode(hashlib.sha256(said.encode()).digest()),
        }
        return [Answer("accept", accept)]

    def _key(self, content: Json) -> Sequence[Answer]:
        theirs, ours = text(content, "key"), self._sas.public_key.to_base64()
        public = vodozemac.Curve25519PublicKey.from_base64(theirs)
        established = self._sas.diffie_hellman(public)
        info = "|".join(
            [
                "MATRIX_KEY_VERIFICATION_SAS",
                *(self._theirs.user_id, self._theirs.device_id, theirs),
                *(self._ours.user_id, self._ours.device_id, ours),
                self._transaction_id,
            ]
        )
        self.emoji = tuple(established.bytes(info).emoji_indices)
        self._established, self.state = established, "shown"
        return [Answer("key", {"key": ours}), self._own_mac(established)]

    def _own_mac(self, established: vodozemac.EstablishedSas) -> Answer:
        info, keys = self._mac_info(self._ours, self._theirs), self._ours.keys
        macs = {
            key_id: established.calculate_mac(key, info + key_id) for key_id, key in keys.items()
        }
        listed = established.calculate_mac(",".join(sorted(keys)), f"{info}KEY_IDS")
        return Answer("mac", {"mac": macs, "keys": listed})

    def _mac(self, content: Json) -> Sequence[Answer]:
        established, macs = self._established, mapping(content.get("mac"))
        info, known = self._mac_info(self._theirs, self._ours), self._theirs.keys
        if established is None or f"ed25519:{self._theirs.device_id}" not in macs:
            raise _Fault("m.key_mismatch", "the device has not vouched for its key")
        try:
            listed = ",".join(sorted(macs))
            established.verify_mac(listed, f"{info}KEY_IDS", text(content, "keys"))
            for key_id in macs:
                if key_id in known:  # unknown keys must be ignored
                    established.verify_mac(known[key_id], info + key_id, text(macs, key_id))
        except ValueError as error:
            raise _Fault("m.key_mismatch", "the keys are not those that are published") from error
        self.state = "confirmed"
        return [Answer("done", {})]

    def _done(self, _: Json) -> Sequence[Answer]:
        self.state = "done"
        return []

    def _mac_info(self, by: Device, to: Device) -> str:
        sides = f"{by.user_id}{by.device_id}{to.user_id}{to.device_id}"
        return f"MATRIX_KEY_VERIFICATION_MAC{sides}{self._transaction_id}"


def _texts(content: Json, key: str) -> list[str]:
    values = content.get(key)
    return [one for one in values if isinstance(one, str)] if isinstance(values, list) else []

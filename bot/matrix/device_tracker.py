"""Device lists: the known devices of each user, and which of them receive room keys.

Spec: end-to-end encryption, tracking the device list for a user.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import nio
import structlog
from nio.crypto import Olm, OlmDevice
from typing_extensions import override

from bot.matrix.cross_signing import PublicIdentity
from bot.matrix.crypto_store import CryptoStore
from bot.matrix.error_mapping import MALFORMED
from bot.matrix.response_repair import KeysQueryResponse

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Keys:
    """The properties of a device that decide whether it can read new messages."""

    curve25519: str
    gone: bool
    left_out: bool


class DeviceTracker(Olm):
    """nio's Olm machine, in which one malformed device or signature affects no other.

    Attributes:
        gone: users who have lost a device, or whose device has a new key, since the last read.
        signed: user and device ids of devices that their owner's identity has signed; filled only
            when `signed_only` is set.
        signed_only: whether room keys go to signed devices only (MSC4153,
            https://github.com/matrix-org/matrix-spec-proposals/pull/4153).
    """

    store: CryptoStore  # type: ignore[assignment]  # replaces nio's

    def __init__(self, user_id: str, device_id: str, store: CryptoStore) -> None:
        self.gone: set[str] = set()
        self.signed: set[tuple[str, str]] = set()
        self.signed_only = False
        super().__init__(user_id, device_id, store)  # type: ignore[arg-type]  # replaces nio's

    @override
    def verify_json(self, json: Any, user_key: str, user_id: str, device_id: str) -> bool:
        """Return whether the signature is valid. A malformed one is not."""
        kept = {key: json[key] for key in ("signatures", "unsigned") if key in json}
        try:
            return bool(super().verify_json(json, user_key, user_id, device_id))  # type: ignore[no-untyped-call]  # nio
        except MALFORMED as error:
            json |= kept  # nio removes them while it verifies
            log.warning(
                "signature unreadable",
                user_id=user_id,
                device_id=device_id,
                reason=type(error).__name__,
            )
            return False

    @override
    def _handle_key_query(self, response: nio.KeysQueryResponse) -> None:
        """Update the devices; users who changed meanwhile stay marked for a query.

        A new device name changes nothing. nio would replace the keys of all its rooms for that.
        """
        noted, before = set(self.users_for_key_query), self._keys_of(response.device_keys)
        changed: dict[str, dict[str, OlmDevice]] = {}
        with self.store.transaction():
            for user_id, devices in response.device_keys.items():
                changed |= self._update_devices(user_id, devices)
        self._update_signed(response)
        self.users_for_key_query |= noted
        after = self._keys_of(response.device_keys)
        new = {key for key, now in after.items() if before.get(key) != now}
        self.gone |= {
            user_id
            for user_id, device_id in new
            if after[user_id, device_id].gone or (user_id, device_id) in before
        }
        response.changed = {
            user_id: {one: device for one, device in devices.items() if (user_id, one) in new}
            for user_id, devices in changed.items()
            if any(user_id == other for other, _ in new)
        }

    def _update_signed(self, response: nio.KeysQueryResponse) -> None:
        if self.signed_only and isinstance(response, KeysQueryResponse):
            asked = response.device_keys
            self.signed = {one for one in self.signed if one[0] not in asked}
            for user_id in asked:
                identity = PublicIdentity.of(response.source, user_id)
                for device in self.device_store.active_user_devices(user_id):
                    if identity.has_signed(device.id) and self._has_known_keys(device, identity):
                        self.signed.add((user_id, device.id))

    @staticmethod
    def _has_known_keys(device: OlmDevice, identity: PublicIdentity) -> bool:
        """Return whether the signed keys are the ones that we know of the device."""
        shown = identity.devices[device.id]
        keys = {
            f"curve25519:{device.id}": device.curve25519,
            f"ed25519:{device.id}": device.ed25519,
        }
        ids = {"user_id": device.user_id, "device_id": device.id}
        return {name: shown.get(name) for name in ids} == ids and shown.get("keys") == keys

    @override
    def is_device_blacklisted(self, device: OlmDevice) -> bool:
        """Return whether the device must not receive keys: only signed ones may, and it is not."""
        return self.signed_only and (device.user_id, device.id) not in self.signed

    def serves(self, user_id: str) -> bool:
        """Return whether any device of the user receives keys."""
        devices = self.device_store.active_user_devices(user_id)
        return any(not self.is_device_blacklisted(device) for device in devices)

    def _update_devices(
        self, user_id: str, devices: dict[str, Any]
    ) -> dict[str, dict[str, OlmDevice]]:
        """Update one user's devices; return the ones that changed, by user id and device id."""
        one = nio.KeysQueryResponse({user_id: devices}, {})
        try:
            self._restore_deleted(user_id, devices)
            super()._handle_key_query(one)
        except MALFORMED as error:
            log.warning("devices skipped", user_id=user_id, reason=type(error).__name__)
            return {}
        return dict(one.changed)

    def _restore_deleted(self, user_id: str, devices: Mapping[str, Any]) -> None:
        """Forget devices that nio marked as deleted but that are shown again with the same key."""
        known = self.device_store[user_id]
        for device_id, keys in devices.items():
            device = known.get(device_id)
            if (
                device
                and device.deleted
                and keys["keys"].get(f"ed25519:{device_id}") == (device.ed25519)
            ):
                del known[device_id]

    def _keys_of(self, user_ids: Iterable[str]) -> "dict[tuple[str, str], _Keys]":
        """Return the key of each device, and whether the device is deleted or left out."""
        return {
            (user_id, device.id): _Keys(
                device.curve25519,
                gone=device.deleted,
                left_out=self.is_device_blacklisted(device),
            )
            for user_id in user_ids
            for device in self.device_store[user_id].values()
        }

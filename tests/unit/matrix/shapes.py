"""JSON as a homeserver sends it, for tests that change one thing of it."""

from typing import Any

import nio
from nio.crypto import OlmAccount


def device_keys(user_id: str, account: OlmAccount, device_id: str = "D") -> dict[str, Any]:
    """Return the signed keys of the user's device (spec: DeviceKeys)."""
    keys: dict[str, Any] = {
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "device_id": device_id,
        "user_id": user_id,
        "keys": {f"{kind}:{device_id}": key for kind, key in account.identity_keys.items()},
    }
    signature = account.sign(nio.Api.to_canonical_json(keys))
    return keys | {"signatures": {user_id: {f"ed25519:{device_id}": signature}}}

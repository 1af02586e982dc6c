"""The devices of the bot's account, and the status of its identity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from bot.errors import Forbidden
from bot.matrix.cross_signing import PublicIdentity
from bot.matrix.error_mapping import call
from bot.matrix.json_fields import mapping, text
from bot.matrix.private_identity import SavedIdentities
from bot.matrix.response_repair import GuardedResponse
from bot.matrix.session import Session
from bot.runtime.uncancellable import run_uncancelled

ON_THIS_DISK: Final = "on this disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device of the account.

    Attributes:
        device_id: the device's id.
        name: the display name; "" for none.
        last_seen: the last activity; None if the homeserver does not say.
        ours: whether this process uses the device.
        signed: whether the account's identity has signed it.
    """

    device_id: str
    name: str
    last_seen: datetime | None
    ours: bool
    signed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityStatus:
    """The status of the account's identity, for an operator.

    Attributes:
        user_id: the account.
        device_id: the device of this process.
        master_key: the public master key that the homeserver shows; None for none.
        private_keys: "on this disk", "on this disk, not all published yet", "not on this disk", or
            "of another identity"; "; a reset is not finished" may follow.
        signed: whether the homeserver shows this device as signed by the identity.
        secret_storage: whether the account's secret storage has all private keys of an identity.
        backup_version: the version of the key backup; None for none.
        own_backup: whether the key backup is the assistant's.
        backed_up: the number of keys in the backup.
        others: the ids of the account's other devices.
    """

    user_id: str
    device_id: str
    master_key: str | None
    private_keys: str
    signed: bool
    secret_storage: bool
    backup_version: str | None
    own_backup: bool
    backed_up: int
    others: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Return whether everything is in order, apart from other devices."""
        return (
            self.signed
            and self.private_keys == ON_THIS_DISK
            and self.secret_storage
            and self.own_backup
        )


async def status(session: Session) -> IdentityStatus:
    """Query the status of the account's identity. Nothing is changed.

    Raises:
        ConfigError, StoreError: nobody has logged in here, or the files cannot be read.
        MatrixError: the homeserver refused, or did not answer.
    """
    kept, client = SavedIdentities.load(session.load_login()), session.client
    shown = await session.identity.published()
    user_id, device_id = str(client.user_id), str(client.device_id)
    try:
        backup = await client.ask("GET", ["room_keys", "version"])
    except Forbidden:
        backup = {}
    count, public = backup.get("count"), text(mapping(backup.get("auth_data")), "public_key")
    ours = kept.current.backup.public_key().to_base64() if kept.current else None
    return IdentityStatus(
        user_id=user_id,
        device_id=device_id,
        master_key=shown.master,
        private_keys=_location_of_keys(kept, shown),
        signed=shown.has_signed(device_id),
        secret_storage=await session.identity.storage.is_complete(),
        backup_version=text(backup, "version") or None,
        own_backup=public.rstrip("=") == ours,
        backed_up=count if isinstance(count, int) else 0,
        others=tuple(one.device_id for one in await devices(session) if not one.ours),
    )


def _location_of_keys(kept: SavedIdentities, shown: PublicIdentity) -> str:
    if kept.pending is not None and shown.master != kept.pending.master:
        return (
            f"{_location_of_keys(SavedIdentities(kept.current), shown)}; a reset is not finished"
        )
    private = kept.pending or kept.current
    if private is None:
        return "not on this disk"
    if private.state != "complete":
        return "on this disk, not all published yet"
    return ON_THIS_DISK if shown.is_of(private.keys) else "of another identity"


async def devices(session: Session) -> Sequence[Device]:
    """Return the account's devices, this one first. The session has its login.

    Raises:
        MatrixError: the homeserver refused, or did not answer.
    """
    client = session.client
    shown = await session.identity.published()
    found = (await client.ask("GET", ["devices"])).get("devices")
    own = [
        Device(
            device_id=device_id,
            name=text(one, "display_name"),
            last_seen=_moment(one.get("last_seen_ts")),
            ours=device_id == client.device_id,
            signed=shown.has_signed(device_id),
        )
        for one in map(mapping, found if isinstance(found, list) else [])
        if (device_id := text(one, "device_id"))
    ]
    return sorted(own, key=lambda one: (not one.ours, one.device_id))


async def remove(session: Session, device_ids: Sequence[str]) -> None:
    """Log devices of the account out for good.

    Raises:
        ConfigError: the homeserver does not let the bot do so.
        MatrixError: the homeserver refused, or did not answer.
    """

    async def ask(auth: Mapping[str, Any] | None) -> GuardedResponse:
        body: dict[str, Any] = {"devices": list(device_ids)}
        sent = body if auth is None else {**body, "auth": dict(auth)}
        request = session.client.send_json(GuardedResponse, "POST", ["delete_devices"], sent)
        return await call(GuardedResponse, run_uncancelled(request))

    await session.auth.authenticate(ask)


def _moment(milliseconds: object) -> datetime | None:
    if not isinstance(milliseconds, int) or milliseconds <= 0:
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None

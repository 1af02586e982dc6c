"""The devices of the bot's own account, and what of its identity is in order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bot.errors import NotFound
from bot.matrix.failures import call
from bot.matrix.identity import PrivateIdentity
from bot.matrix.parse import mapping, text
from bot.matrix.session import Session
from bot.matrix.wire import GuardedResponse
from bot.shield import to_the_end


@dataclass(frozen=True, slots=True)
class Device:
    """One device of the account.

    Attributes:
        device_id: its id.
        name: its display name, "" for none.
        last_seen: when it was last active, None where the homeserver does not say.
        ours: it is this process's.
        signed: the account's identity has signed it.
    """

    device_id: str
    name: str
    last_seen: datetime | None
    ours: bool
    signed: bool


@dataclass(frozen=True, slots=True)
class IdentityStatus:
    """What an operator wants to know of the account's identity.

    Attributes:
        user_id: the account.
        device_id: this process's device.
        master_key: the public master key that the homeserver shows, None for none.
        private_keys: "on this disk", "on this disk, not all published yet", "not on this disk",
            or "of another identity".
        signed: the homeserver shows this device as signed by the identity.
        secret_storage: there is one that the recovery key opens.
        backup_version: the key backup's version, None for none.
        backed_up: how many keys the backup has.
        others: ids of the account's other devices.
    """

    user_id: str
    device_id: str
    master_key: str | None
    private_keys: str
    signed: bool
    secret_storage: bool
    backup_version: str | None
    backed_up: int
    others: tuple[str, ...]


async def status(session: Session) -> IdentityStatus:
    """Ask the homeserver how the account's identity stands; nothing is changed.

    Raises:
        ConfigError, StoreError: nobody has logged in here, or it cannot be read.
        MatrixError: the homeserver refused, or did not answer.
    """
    data, client = session.glance(), session.client
    private = None if data is None else PrivateIdentity.load(data)
    shown = await session.identity.published()
    user_id, device_id = str(client.user_id), str(client.device_id)
    private_keys = "not on this disk"
    if private is not None:
        private_keys = "on this disk" if shown.is_of(private.keys) else "of another identity"
        if private.state != "complete":
            private_keys = "on this disk, not all published yet"
    try:
        backup = await client.ask("GET", ["room_keys", "version"])
    except NotFound:
        backup = {}
    count = backup.get("count")
    return IdentityStatus(
        user_id,
        device_id,
        shown.master,
        private_keys,
        shown.has_signed(device_id),
        await session.identity.has_secret_storage(),
        text(backup, "version") or None,
        count if isinstance(count, int) else 0,
        tuple(one.device_id for one in await devices(session) if not one.ours),
    )


async def devices(session: Session) -> Sequence[Device]:
    """Return the account's devices, this one first; the session is logged in or has glanced.

    Raises:
        MatrixError: the homeserver refused, or did not answer.
    """
    client = session.client
    shown = await session.identity.published()
    found = (await client.ask("GET", ["devices"])).get("devices")
    own = [
        Device(
            device_id,
            text(one, "display_name"),
            _moment(one.get("last_seen_ts")),
            device_id == client.device_id,
            shown.has_signed(device_id),
        )
        for one in map(mapping, found if isinstance(found, list) else [])
        if (device_id := text(one, "device_id"))
    ]
    return sorted(own, key=lambda one: (not one.ours, one.device_id))


async def remove(session: Session, device_ids: Sequence[str]) -> None:
    """Log devices of the account out for good.

    Raises:
        ConfigError: the homeserver does not let the bot do so.
        MatrixError: it refused, or did not answer.
    """

    async def ask(auth: Mapping[str, Any] | None) -> GuardedResponse:
        body: dict[str, Any] = {"devices": list(device_ids)}
        sent = body if auth is None else {**body, "auth": dict(auth)}
        request = session.client.send_json(GuardedResponse, "POST", ["delete_devices"], sent)
        return await call(GuardedResponse, to_the_end(request))

    await session.auth.pass_(ask)


def _moment(milliseconds: object) -> datetime | None:
    if not isinstance(milliseconds, int) or milliseconds <= 0:
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None

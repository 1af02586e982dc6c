"""Commands of the command line on the account's cross-signing identity and devices."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import typer

from bot.config.settings import Config
from bot.errors import ConfigError, IdentityError
from bot.matrix import own_devices
from bot.matrix.own_devices import IdentityStatus
from bot.matrix.recovery_key import RecoveryKeyPlace
from bot.matrix.secret_storage import read_recovery_key
from bot.matrix.session import Session
from bot.monitoring.health import Health
from bot.runtime.clock import SystemClock
from bot.startup import StartOver, account_of, opened_ledger, vault_of

_RESET = """\
This makes another identity for {user_id}, in place of the one that the homeserver shows.
- Whoever has verified the assistant sees that its identity has changed, and must verify it again;
  until then some clients send it nothing.
- Rooms and conversations stay, and so do the keys on this disk. The key backup is made anew from
  them, and the old one deleted: what is in that alone can be read no more.
- The old recovery key opens nothing any more; a new one is given to you.
"""


async def status(config: Config) -> bool:
    """Print the state of the identity, and return whether it is complete and trusted.

    Raises:
        BotError: the state cannot be fetched.
    """
    async with _session(config) as session:
        found = await own_devices.status(session)
    for name, value in rows(found):
        typer.echo(f"{name:<16}{_printable(value)}")
    return found.is_whole


def rows(found: IdentityStatus) -> list[tuple[str, str]]:
    """Return the lines of the status, each as a label and a text."""
    signed = "signed by the account's identity" if found.signed else "not signed: not trusted"
    owner = "" if found.own_backup else ", another client's"
    backup = f"version {found.backup_version}, {found.backed_up} keys{owner}"
    return [
        ("Account", found.user_id),
        ("Identity", f"master key {found.master_key}" if found.master_key else "none"),
        ("Private keys", found.private_keys),
        ("This device", f"{found.device_id}, {signed}"),
        ("Secret storage", "complete" if found.secret_storage else "none that is complete"),
        ("Key backup", backup if found.backup_version else "none"),
        ("Other devices", ", ".join(found.others) or "none"),
    ]


async def init(config: Config) -> bool:
    """Create or complete the identity, and print its state.

    Raises:
        BotError: as `Session.open` and `Identity.ensure`.
    """
    async with _opened(config) as session:
        await session.identity.ensure()
    return await status(config)


async def restore(config: Config) -> bool:
    """Restore the identity with the recovery key from its file; without one, prompt for it.

    Raises:
        BotError: as `Session.open` and `Identity.restore`.
    """
    key_file = RecoveryKeyPlace(config.matrix.recovery_key_file)
    stored = key_file.read()
    key = stored or _typed()
    async with _opened(config, new_device=True) as session:
        try:
            await session.identity.restore(key)
        except IdentityError as error:
            if stored is None:
                raise
            raise IdentityError(
                f"{error} (the recovery key is the one in {config.matrix.recovery_key_file}; move"
                " that file away to type another)"
            ) from error
    return await status(config)


def _typed() -> bytes:
    try:
        return read_recovery_key(typer.prompt("Recovery key", hide_input=True))
    except ValueError as error:
        raise ConfigError(
            "this is no recovery key: 48 letters and digits in groups of four are expected"
        ) from error


async def reset(config: Config) -> bool:
    """Create another identity, after the operator has confirmed twice.

    Raises:
        BotError: as `Session.open` and `Identity.reset`, or the operator did not confirm.
    """
    user_id = config.matrix.user_id
    async with _opened(config) as session:
        session.identity.check_reset()
        typer.echo(_RESET.format(user_id=user_id))
        if not typer.confirm("Do you want another identity?"):
            raise IdentityError("nothing was changed")
        if typer.prompt(f"To be sure, type {user_id}").strip() != user_id:
            raise IdentityError("this is another account: nothing was changed")
        await session.identity.reset()
    return await status(config)


async def devices(config: Config, *remove: str) -> bool:
    """Print the account's devices, after logging out those to remove.

    Raises:
        BotError: devices cannot be listed or removed, or one is the bot's own.
    """
    async with _session(config) as session:
        session.load_login()
        found = await own_devices.devices(session)
        _check_removable(remove, {one.device_id: one.ours for one in found})
        if remove:
            await own_devices.remove(session, remove)
            found = await own_devices.devices(session)
    for one in found:
        seen = one.last_seen.strftime("%Y-%m-%d %H:%M UTC") if one.last_seen else "never seen"
        kind = "the assistant's" if one.ours else "stray"
        signed = "signed" if one.signed else "not signed"
        line = f"{one.device_id:<16}{kind:<18}{signed:<12}{seen:<22}{one.name}"
        typer.echo(_printable(line))
    return True


def _printable(text: str) -> str:
    """Replace unprintable characters, since names from others may contain terminal controls."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def _check_removable(remove: tuple[str, ...], known: dict[str, bool]) -> None:
    for device_id in remove:
        if device_id not in known:
            raise ConfigError(f"the account has no device {device_id}")
        if known[device_id]:
            raise ConfigError(f"{device_id} is the assistant's own device, which it lives in")


@asynccontextmanager
async def _opened(config: Config, *, new_device: bool = False) -> AsyncIterator[Session]:
    """Log in like the bot: device and ledger are both there, or both new."""
    async with _session(config) as session:
        session.lock()
        known = session.is_known()
        if not new_device:
            session.check_recovery_key()
        start_over = StartOver(device=new_device and not known)
        async with opened_ledger(config, Health(clock=SystemClock()), start_over, known=known):
            await session.open()
            yield session


@asynccontextmanager
async def _session(config: Config) -> AsyncIterator[Session]:
    session = Session(account_of(config), vault_of(config), _echo)
    try:
        yield session
    finally:
        await session.close()


def _echo(sentence: str) -> None:
    typer.echo(_printable(sentence))

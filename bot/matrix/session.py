"""The bot's login: device id, access token and crypto store, which belong together."""

import asyncio
import fcntl
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import nio
import structlog

from bot.core.events import UserId
from bot.errors import (
    ConfigError,
    Forbidden,
    HomeserverUnreachable,
    LoggedOut,
    NotMatrix,
    RateLimited,
    SoftLogout,
    StoreError,
)
from bot.matrix.crypto_store import CryptoStore, read_identity
from bot.matrix.error_mapping import call
from bot.matrix.identity import Identity
from bot.matrix.interactive_auth import InteractiveAuth
from bot.matrix.nio_client import SafeClient
from bot.matrix.recovery_key import RecoveryKeyPlace
from bot.runtime.private_files import close_to_others
from bot.runtime.tls import tls_context

_REQUEST_SECONDS = 60
_RESTORE = (
    "restore session.json and crypto.db from the same backup. Without them this device can read"
    " nothing; to start over as a new device, log the old one out, move both away, and start once"
    " with --new-device"
)

log = structlog.get_logger()


def _tell(sentence: str) -> None:
    """Show the operator what a person must do."""
    log.warning("approval needed", reason=sentence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The account and its homeserver. Either the password or the access token is set."""

    homeserver: str
    user_id: UserId
    device_name: str
    password: str | None = None
    access_token: str | None = None
    proxy: str | None = None
    ca_bundle: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Vault:
    """The place of the device's secrets, and the rules for sharing keys.

    Attributes:
        key: the secret that encrypts the crypto store. It is not kept in the directory.
        keep_days: the days that an unused room key is kept.
        recovery_key_file: the file of the account's recovery key; None for no file.
        signed_only: whether room keys go only to devices that their owner has signed.
        history_on_invite: whether keys of earlier messages are accepted from the bot's inviter.
    """

    directory: Path
    key: str
    keep_days: int
    recovery_key_file: Path | None = None
    signed_only: bool = False
    history_on_invite: bool = False


@dataclass(frozen=True, slots=True)
class _Record:
    """The content of `session.json`.

    Attributes:
        access_token: null if the configuration contains it.
        complete: whether a login has succeeded, so that others may know the device's keys.
    """

    user_id: str
    device_id: str
    access_token: str | None = None
    complete: bool = False


class Session:
    """One device of the account, the same after every restart.

    The directory holds `session.json` and `crypto.db`, which belong together. A crypto store on
    another device, or a device without its store, could neither read nor be read. If one of the
    files is missing, the start fails, and no new device is created silently.
    """

    def __init__(
        self,
        account: Account,
        vault: Vault,
        tell: Callable[[str], None] = _tell,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """Set up the session of one account.

        Args:
            account: the account.
            vault: the place of the device's secrets.
            tell: shows the operator what a person must do in a browser.
            beat: called during long steps of the start.
        """
        self.vault = vault
        self._account = account
        self._file = vault.directory / "session.json"
        self._path = vault.directory / "crypto.db"
        self._store: CryptoStore | None = None
        self._locked: int | None = None  # file descriptor of the lock
        self.client = SafeClient(
            account.homeserver,
            account.user_id,
            config=nio.AsyncClientConfig(
                # retries are ours: nio would sleep, and then send an old body
                max_limit_exceeded=0,
                max_timeouts=0,
                request_timeout=_REQUEST_SECONDS,
            ),
            ssl=tls_context(account.ca_bundle),  # type: ignore[arg-type]  # nio documents a context
            proxy=account.proxy,
        )
        owner = account.homeserver, account.user_id, account.password
        self.auth = InteractiveAuth(*owner, tell, beat)
        self._place = RecoveryKeyPlace(vault.recovery_key_file)
        self.identity = Identity(self.client, account.user_id, self._place, self.auth, beat)

    async def open(self) -> None:
        """Log in with the device of this directory, or create the device.

        Raises:
            ConfigError: the password, the token, the user id or the homeserver's URL is wrong.
            StoreError: one of the two files is missing, or cannot be read or written.
            MatrixError: the homeserver does not answer, or has ended the device's login.
        """
        self.lock()
        try:
            await self._open(self._read())
        except HomeserverUnreachable as error:
            raise HomeserverUnreachable(
                f"{self._account.homeserver} cannot be used: {error}; check matrix.homeserver"
                " (https or http, host and port), matrix.proxy, and whether it answers from here"
            ) from error

    async def _open(self, record: _Record | None) -> None:
        if self._account.access_token is not None:
            record = await self._with_token(self._account.access_token, record)
        if record is None:
            record = _Record(self._account.user_id, f"TCHAP{secrets.token_hex(5).upper()}")
            self._write(record)
        self.client.user_id, self.client.device_id = record.user_id, record.device_id
        self._open_store(record)
        token = self._account.access_token or record.access_token
        if token is None:
            await self._log_in(record)
        else:
            self.client.restore_login(record.user_id, record.device_id, token)
            try:
                await call(nio.WhoamiResponse, self.client.whoami())
            except SoftLogout:
                await self.renew()
            if not record.complete:
                self._write(replace(record, complete=True))

    def _open_store(self, record: _Record) -> None:
        """Open the device's keys. Create them only for a device that nobody knows yet."""
        self._store = CryptoStore(self._path, record.user_id, record.device_id, self.vault.key)
        if record.complete and self._store.empty:
            raise StoreError(f"the crypto store {self._path} holds no keys: {_RESTORE}")
        self.client.open_store(self._store)
        self.client.machine.signed_only = self.vault.signed_only

    def check_recovery_key(self) -> None:
        """Check that the account's identity is on this disk, or that there is a place for its key.

        Raises:
            ConfigError: neither is the case. Nothing is created.
            StoreError: the crypto store cannot be read.
        """
        there = self._path.exists()
        if not there or read_identity(self._path, self._account.user_id, self.vault.key) is None:
            self._place.check_named()

    def load_login(self) -> bytes | None:
        """Load the device's login only. This is safe while its assistant runs.

        Returns:
            The account's identity as saved in the crypto store.

        Raises:
            ConfigError, StoreError: see `open`; or nobody has logged in here.
        """
        record = self._read()
        token = self._account.access_token or (record.access_token if record else None)
        if record is None or not record.complete or token is None:
            raise StoreError(f"{self.vault.directory} holds no device that has logged in")
        self.client.restore_login(record.user_id, record.device_id, token)
        return read_identity(self._path, record.user_id, self.vault.key)

    async def renew(self) -> None:
        """Log in again on the same device after a soft logout.

        Raises:
            LoggedOut: there is no password to log in with.
            ConfigError, MatrixError: see `open`.
        """
        if self.client.access_token:
            return
        if self._account.password is None:
            raise LoggedOut("the homeserver has ended matrix.access_token")
        await self._log_in(_Record(self._account.user_id, str(self.client.device_id)))
        log.info("login renewed", device_id=self.client.device_id)

    async def close(self) -> None:
        """Close the connections and the crypto store."""
        await self.client.close()  # type: ignore[no-untyped-call]  # nio has no hint
        if self._store is not None:
            self._store.close()
        if self._locked is not None:
            os.close(self._locked)  # closing it releases the lock
            self._locked = None

    def lock(self) -> None:
        """Lock the directory: two processes on one device would break each other's sessions.

        Raises:
            StoreError: another process has locked it, or it is not writable.
        """
        if self._locked is not None:
            return
        path = self._file.with_name("lock")
        try:
            self._locked = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"{path.parent} is in use: another assistant runs on it; stop that one, or give"
                " this one a storage.directory and an account of its own"
            ) from error
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror}") from error

    def is_known(self) -> bool:
        """Return whether the directory holds a device that has logged in.

        Raises:
            ConfigError, StoreError: see `open`.
        """
        record = self._read()
        return record is not None and record.complete

    async def _with_token(self, token: str, record: _Record | None) -> _Record:
        self.client.access_token = token
        try:
            who = await call(nio.WhoamiResponse, self.client.whoami())
        except (LoggedOut, SoftLogout) as error:
            raise ConfigError(
                "the homeserver does not know matrix.access_token: give a valid one"
            ) from error
        if who.user_id != self._account.user_id:
            raise ConfigError(
                f"matrix.access_token is {who.user_id}'s, matrix.user_id is"
                f" {self._account.user_id}: give the token of that account"
            )
        if who.device_id is None:
            raise ConfigError("matrix.access_token has no device: encryption needs one")
        if record is not None and record.device_id != who.device_id:
            raise ConfigError(
                f"matrix.access_token is device {who.device_id}'s, {self._file} is device"
                f" {record.device_id}'s: give the first device's token, or another directory"
            )
        if record is None:
            record = _Record(who.user_id, who.device_id)
            self._write(record)
        return record

    async def _log_in(self, record: _Record) -> None:
        try:
            answer = await self._try_login()
        except Forbidden as error:
            raise ConfigError(
                f"the homeserver refuses the login of {record.user_id}: check matrix.user_id and"
                f" matrix.password ({error})"
            ) from error
        except NotMatrix as error:
            raise ConfigError(
                f"{self._account.homeserver} is no Matrix homeserver: check matrix.homeserver"
                f" ({error})"
            ) from error
        self._write(replace(record, access_token=answer.access_token, complete=True))

    async def _try_login(self) -> nio.LoginResponse:
        """Log in. Wait as long as the homeserver asks for after too many logins."""
        while True:
            try:
                return await call(
                    nio.LoginResponse,
                    self.client.login(self._account.password, self._account.device_name),
                )
            except RateLimited as error:
                log.warning("login limited", retry_in=error.retry_after)
                await asyncio.sleep(max(error.retry_after, 1.0))

    def _read(self) -> _Record | None:
        close_to_others(self._file)  # it contains the access token
        try:
            record = _Record(**json.loads(self._file.read_text()))
        except FileNotFoundError:
            if self._path.exists():
                raise StoreError(self._missing_half(self._file, self._path)) from None
            return None
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(f"{self._file} cannot be read: {type(error).__name__}") from None
        if record.user_id != self._account.user_id:
            raise ConfigError(
                f"{self._file} is {record.user_id}'s, matrix.user_id is {self._account.user_id}:"
                " give each account a storage.directory of its own"
            )
        if record.complete and not self._path.exists():
            raise StoreError(self._missing_half(self._path, self._file))
        return record

    @staticmethod
    def _missing_half(missing: Path, present: Path) -> str:
        return f"{missing} is missing beside {present}: {_RESTORE}"

    def _write(self, record: _Record) -> None:
        """Replace `session.json` atomically, readable by its owner only."""
        new = self._file.with_suffix(".new")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(asdict(record), file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._file)
        except OSError as error:
            raise StoreError(f"{self._file} cannot be written: {error.strerror}") from error

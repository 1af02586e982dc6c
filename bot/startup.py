"""Checks at the start: a lost device or ledger, long waits, settings that look wrong."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from bot.config.sections import MatrixSettings
from bot.config.settings import Config
from bot.core.model_catalog import Catalogue
from bot.core.routing import is_allowed
from bot.errors import CompletionError, StoreError
from bot.llm.client import OpenAIModel
from bot.matrix.session import Account, Vault
from bot.monitoring.health import Health
from bot.runtime.private_files import private_directory
from bot.storage.ledger import SqlStore

_SILENT_SECONDS: Final = 1.0  # wait of a start after which it is logged
_VERSION: Final = re.compile(r"/v[0-9]+[a-z0-9]*\Z")  # at the end of most backends' base_url

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StartOver:
    """The parts that the operator allows to be created anew if they are lost.

    Attributes:
        ledger: whether the start goes on with a known device and no ledger.
        device: whether the start goes on with a used ledger and no device.
    """

    ledger: bool = False
    device: bool = False


@contextmanager
def logged_wait(subject: str, **details: str) -> Iterator[None]:
    """Log what the start waits for, unless the block ends within a second."""
    warn = partial(log.warning, "waiting", on=subject, **details)
    timer = asyncio.get_running_loop().call_later(_SILENT_SECONDS, warn)
    try:
        yield
    finally:
        timer.cancel()


def make_private(directory: Path) -> Path:
    """Create the directory if it is missing, accessible to its owner only.

    Raises:
        StoreError: the directory cannot be created.
    """
    try:
        return private_directory(directory)
    except OSError as error:
        raise StoreError(
            f"storage.directory {directory} cannot be made: {error.strerror}; give a directory"
            " that the assistant may write to"
        ) from error


def account_of(config: Config) -> Account:
    """Return the settings of the bot's account."""
    matrix = config.matrix
    return Account(
        homeserver=matrix.homeserver,
        user_id=matrix.user_id,
        device_name=matrix.device_name,
        password=matrix.password.get_secret_value() if matrix.password else None,
        access_token=matrix.access_token.get_secret_value() if matrix.access_token else None,
        proxy=matrix.proxy,
        ca_bundle=matrix.ca_bundle,
    )


def vault_of(config: Config) -> Vault:
    """Return the storage of the device's secrets; missing directories are created.

    Raises:
        StoreError: a directory cannot be created.
    """
    directory = make_private(config.storage.directory)
    return Vault(
        directory=make_private(directory / "matrix"),
        key=config.storage.key.get_secret_value(),
        keep_days=config.storage.keep_keys_days,
        recovery_key_file=config.matrix.recovery_key_file,
        signed_only=config.matrix.encrypt_to == "signed",
        history_on_invite=config.matrix.history_on_invite,
    )


@asynccontextmanager
async def opened_ledger(
    config: Config, health: Health, start_over: StartOver, *, known: bool
) -> AsyncIterator[SqlStore]:
    """Open the ledger while the block runs; create it if it is missing and may be new.

    Args:
        config: all settings.
        health: the record of the ledger's failures.
        start_over: the parts that may be created anew.
        known: whether the device is there, and has logged in before.

    Raises:
        StoreError: ledger or device is lost and may not be created anew; or as `SqlStore.open`.
    """
    location = ledger_location(config)
    details = {"file": str(location)} if isinstance(location, Path) else {}
    key = config.storage.key.get_secret_value()
    new = start_over.ledger or not known
    with logged_wait(
        "the ledger, which another program may hold: see storage.database", **details
    ):
        store = await SqlStore.open(location, config.matrix.user_id, key, health, new=new)
    try:
        await _check_device(store, config.storage.directory, start_over, known=known)
        yield store
    finally:
        await store.close()


async def _check_device(
    store: SqlStore, directory: Path, start_over: StartOver, *, known: bool
) -> None:
    """Raise StoreError if the ledger's device is lost; warn of options that are not needed."""
    used = await store.sync_token() is not None
    if used and not (known or start_over.device):
        raise StoreError(
            f"{directory / 'matrix'} holds no device, and the ledger that belongs to one is there:"
            " restore both from the same backup, or check storage.directory. Without it nothing"
            " can be read of what was written to the assistant: to start over as a new device,"
            " log the old one out, and start once with --new-device"
        )
    if (start_over.ledger and used) or (start_over.device and known):
        log.warning("nothing is lost: leave out --new-ledger and --new-device")


def ledger_location(config: Config) -> Path | str:
    """Return the ledger's SQLite file, or the URL of its PostgreSQL database."""
    url = config.storage.database
    return url.get_secret_value() if url else config.storage.directory / "ledger.db"


def check_servers(matrix: MatrixSettings) -> None:
    """Log a warning if the bot would ignore the people of its own homeserver."""
    if not is_allowed(matrix.user_id, matrix.allowed_servers):
        log.warning(
            "the assistant's own server is not in matrix.allowed_servers: its people are ignored",
            user_id=matrix.user_id,
            allowed_servers=matrix.allowed_servers,
        )


async def check_model(model: OpenAIModel, catalogue: Catalogue, base_url: str) -> None:
    """Log warnings about the model's backend; the start goes on, since it may come back later."""
    try:
        await model.check()
    except CompletionError as error:
        log.warning(
            "the model is not usable now: check model.base_url, model.name and model.api_key;"
            " the assistant starts, and tells people so",
            reason=str(error),
        )
    else:
        if not model.listed and not _VERSION.search(base_url):
            log.warning(
                "no list of models is found below model.base_url, which most often ends in /v1:"
                " check it",
                base_url=base_url,
            )
    unlisted = [card.id for card in catalogue if card.id not in model.listed]
    if model.listed and unlisted:
        log.warning(
            "the backend does not list these models: check model.name and model.choices",
            models=unlisted,
        )
    for card in catalogue:
        length = model.context_length(card)
        if card.longest_completion(length) < card.max_tokens:
            log.warning(
                "completions are cut to half of what the model takes: check max_tokens",
                model=card.id,
                context_length=length,
                max_tokens=card.max_tokens,
            )

"""A place for the secrets of a device that lives for one test."""

from pathlib import Path

from bot.matrix.session import Vault
from bot.monitoring.health import Health
from bot.runtime.clock import SystemClock


def vault(directory: Path) -> Vault:
    """Return the directory with a key of 32 characters; the recovery key goes there, too."""
    return Vault(
        directory=directory,
        key="s" * 32,
        keep_days=90,
        recovery_key_file=directory / "recovery.key",
    )


def health() -> Health:
    """Return the health of a process that begins now."""
    return Health(SystemClock())

"""Storage for the secrets of a test's device."""

from pathlib import Path

from bot.matrix.session import Vault
from bot.monitoring.health import Health
from bot.runtime.clock import SystemClock


def vault(directory: Path) -> Vault:
    """Return a vault in the directory, with a key of 32 characters and the recovery key."""
    return Vault(
        directory=directory,
        key="s" * 32,
        keep_days=90,
        recovery_key_file=directory / "recovery.key",
    )


def health() -> Health:
    """Return a new health record."""
    return Health(clock=SystemClock())

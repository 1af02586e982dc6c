"""The TLS context: it trusts the system's authorities and the operator's own."""

import ssl
from pathlib import Path

from bot.errors import ConfigError


def tls_context(ca_bundle: Path | None) -> ssl.SSLContext:
    """Return a context that trusts the system's authorities and those in `ca_bundle` (PEM).

    Raises:
        ConfigError: the file holds no certificates, or cannot be read.
    """
    context = ssl.create_default_context()
    if ca_bundle is not None:
        try:
            context.load_verify_locations(cafile=ca_bundle)
        except OSError as error:
            raise ConfigError(f"the CA bundle {ca_bundle} cannot be used: {error}") from error
    return context

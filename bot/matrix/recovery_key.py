"""Where the recovery key of the account's secret storage is written once, and read again."""

import os
import sys
from pathlib import Path

import structlog

from bot.errors import ConfigError
from bot.matrix.secret_storage import read_recovery_key, write_recovery_key

log = structlog.get_logger()


class RecoveryKeyPlace:
    """A file that the operator has named, else the terminal; never the log."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def check(self) -> None:
        """See that a new recovery key can be given to somebody.

        Raises:
            ConfigError: there is neither file nor terminal, or the file holds another key.
        """
        if self._file is None:
            if not sys.stdout.isatty():
                raise ConfigError(
                    "the account has no cross-signing identity yet, and its recovery key must be"
                    " kept by somebody: name a new file for it in matrix.recovery_key_file, or run"
                    " assistant-tchap identity init on a terminal"
                )
        elif self._file.exists():
            raise ConfigError(
                f"matrix.recovery_key_file {self._file} is there already, and a new recovery key"
                " is to be written: move that file away, or name a new one"
            )
        elif not self._file.parent.is_dir() or not os.access(self._file.parent, os.W_OK):
            raise ConfigError(
                f"matrix.recovery_key_file {self._file} cannot be written: name a file in a"
                " directory that the assistant may write to"
            )

    def give(self, key: bytes) -> None:
        """Write the key into its file, or show it on the terminal; to do so again is no error.

        Raises:
            ConfigError: it cannot be written, or the file holds another key.
        """
        if self._file is None:
            self._show(key)
            return
        text = f"{write_recovery_key(key)}\n"
        try:
            if self._holds(text):
                return
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            descriptor = os.open(self._file, flags, 0o600)
            with os.fdopen(descriptor, "w") as file:
                os.fchmod(descriptor, 0o600)  # also where somebody else was quicker to make it
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            log.warning("recovery key written: move it off this disk", file=str(self._file))
        except OSError as error:
            raise ConfigError(
                f"matrix.recovery_key_file {self._file} cannot be written: {error.strerror}"
            ) from error

    def _holds(self, text: str) -> bool:
        """Tell whether the file holds the text; a process that died may have left a part of it."""
        try:
            found = self._file.read_text("ascii", errors="replace") if self._file else ""
        except FileNotFoundError:
            return False
        if not text.startswith(found):
            raise ConfigError(
                f"matrix.recovery_key_file {self._file} holds something else than the key of this"
                " account: name a new file"
            )
        return found == text

    def read(self) -> bytes | None:
        """Return the key that the file holds, None where there is none.

        Raises:
            ConfigError: it cannot be read, or holds no recovery key.
        """
        if self._file is None:
            return None
        try:
            return read_recovery_key(self._file.read_text("ascii"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(
                f"matrix.recovery_key_file {self._file} cannot be read: {error.strerror}"
            ) from error
        except ValueError as error:
            raise ConfigError(
                f"matrix.recovery_key_file {self._file} holds no recovery key: 48 letters and"
                " digits in groups of four are expected"
            ) from error

    @staticmethod
    def _show(key: bytes) -> None:
        sys.stdout.write(
            "\nThe recovery key of the assistant's account. It is shown this once: keep it where"
            " this machine's disk is not. Whoever has it can be the assistant, and without it"
            f" another disk cannot.\n\n    {write_recovery_key(key)}\n\n"
        )
        sys.stdout.flush()

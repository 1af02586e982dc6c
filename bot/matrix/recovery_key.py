"""The place to which the recovery key is written once, and from which it is read."""

import os
import secrets
import sys
from pathlib import Path

import structlog

from bot.errors import ConfigError
from bot.matrix.secret_storage import read_recovery_key, write_recovery_key

log = structlog.get_logger()


class RecoveryKeyPlace:
    """A file that the operator has named, or the terminal; never the log."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def check(self) -> None:
        """Check that a new recovery key can be written.

        Raises:
            ConfigError: there is neither a file nor a terminal, or the file exists already.
        """
        if self._file is None:
            self.check_named()
        elif os.path.lexists(self._file):
            raise ConfigError(
                f"matrix.recovery_key_file {self._file} is there already, and a new recovery key"
                " is to be written: move that file away, or name a new one"
            )
        elif not self._file.parent.is_dir() or not os.access(self._file.parent, os.W_OK):
            raise ConfigError(
                f"matrix.recovery_key_file {self._file} cannot be written: name a file in a"
                " directory that the assistant may write to"
            )

    def check_named(self) -> None:
        """Check that there is a file or a terminal.

        Raises:
            ConfigError: there is neither.
        """
        if self._file is None and not sys.stdout.isatty():
            raise ConfigError(
                "the account's cross-signing identity is not on this disk, and its recovery key"
                " must be kept by somebody: name a file for it in matrix.recovery_key_file, or run"
                " assistant-tchap identity init on a terminal"
            )

    def give(self, key: bytes) -> None:
        """Write the key to its file, or show it on the terminal. To repeat it is no error.

        Raises:
            ConfigError: the key cannot be written, the file holds something else, or there is
                neither a file nor a terminal.
        """
        if self._file is None:
            self.check_named()
            self._show(key)
            return
        text = f"{write_recovery_key(key)}\n"
        try:
            if os.path.lexists(self._file):
                self._check_holds(text)
                return
            self._write(self._file, text)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it holds no text"
            raise ConfigError(
                f"matrix.recovery_key_file {self._file} cannot be written: {reason}"
            ) from error
        log.warning("recovery key written: move it off this disk", file=str(self._file))

    def _check_holds(self, text: str) -> None:
        if self._file is None or self._file.is_symlink() or self._file.read_text("ascii") != text:
            raise ConfigError(
                f"matrix.recovery_key_file {self._file} holds something else than the key of this"
                " account: name a new file"
            )

    @staticmethod
    def _write(file: Path, text: str) -> None:
        """Create the file for its owner alone. A crash leaves the whole file or none."""
        new = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as opened:
                opened.write(text)
                opened.flush()
                os.fsync(descriptor)
            new.rename(file)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        directory = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def read(self) -> bytes | None:
        """Return the key in the file; None if there is no file.

        Raises:
            ConfigError: the file cannot be read, or holds no recovery key.
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

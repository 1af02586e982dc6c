"""Files and directories that only the bot's account may read."""

import os
from contextlib import suppress
from pathlib import Path
from stat import S_IMODE, S_IRWXG, S_IRWXO
from typing import Final

import structlog

_SUFFIXES: Final = ("", "-wal", "-shm", "-journal")  # SQLite's files get the mode of the first

log = structlog.get_logger()


def private_directory(directory: Path) -> Path:
    """Create the directory if it is missing; log a warning if it is open to everyone.

    An existing directory is not changed: a volume may belong to another account, and give access
    to the bot by its group.

    Raises:
        OSError: it cannot be created, or is no directory.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = S_IMODE(directory.stat().st_mode)
    if mode & S_IRWXO:
        log.warning(
            "storage.directory is open to everyone on this machine: chmod 700 it",
            directory=str(directory),
            mode=f"{mode:04o}",
        )
    return directory


def private_file(path: Path) -> None:
    """Create the file if it is missing, and close it and SQLite's files next to it to others.

    An existing file is not opened: closing it again would release the locks that this process has
    on it.

    Raises:
        OSError: it cannot be created.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    for suffix in _SUFFIXES:
        close_to_others(path.with_name(path.name + suffix))


def close_to_others(path: Path) -> None:
    """Limit an existing file's access to its owner; log a warning if that fails."""
    try:
        if path.stat().st_mode & (S_IRWXG | S_IRWXO):
            path.chmod(0o600)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning(
            "others may read a file of the assistant's: give it to the assistant's account",
            file=str(path),
            reason=error.strerror,
        )

"""Files and directories that are for the bot's account alone."""

import os
from contextlib import suppress
from pathlib import Path
from stat import S_IMODE, S_IRWXG, S_IRWXO
from typing import Final

import structlog

_BESIDE: Final = ("", "-wal", "-shm", "-journal")  # SQLite makes them with the mode of the file

log = structlog.get_logger()


def private_directory(directory: Path) -> Path:
    """Make the directory where it is missing; say so where it is there and open to everyone.

    It is left as it is: a volume may belong to somebody else, and its group be the bot's own.

    Raises:
        OSError: it cannot be made, or is none.
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
    """Make the file where it is missing, and take it and what SQLite keeps beside it from others.

    It is not opened where it is there: that would end the locks which the process has on it.

    Raises:
        OSError: it cannot be made.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    for suffix in _BESIDE:
        close_to_others(path.with_name(path.name + suffix))


def close_to_others(path: Path) -> None:
    """Let only its owner read and write a file, if it is there; say so where that cannot be."""
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

"""Structured logs: short past-tense events with ids, and never the text of a message."""

import logging
import os
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, pairwise
from types import TracebackType
from typing import Literal

import structlog

from bot.errors import FatalError
from bot.monitoring.metrics import BUGS

Format = Literal["json", "console"]

# An event id ("$") or a room id ("!") that stands alone: 32 bytes in unpadded URL-safe Base64,
# whose last character has two unused bits (spec: room versions 4 and 12). Older room ids are taken
# without their server name, which may be words; before it, Synapse's have 18 letters. Ids that a
# server may choose freely are left out: user ids, aliases, older event ids.
_ID = re.compile(
    r"""(?<![^\s'"(\[=])
    (?: [$!][\w-]{42}[AEIMQUYcgkosw048](?![\w:-]|\.\w) | ![A-Za-z]{18}(?=:[a-z0-9]) )""",
    re.ASCII | re.VERBOSE,
)
_MOST_IDS = 8  # from one message, as a library may quote a whole response


def _is_random(found: str) -> bool:
    """Return whether a text of an id's form is random, as letters in words seldom change case.

    One real id in a hundred is taken for words.
    """
    changes = sum(
        a.isalpha() and b.isalpha() and a.islower() != b.islower() for a, b in pairwise(found)
    )
    return changes >= len(found) // 6


def _ids(record: logging.LogRecord) -> list[str]:
    """Return the distinct Matrix ids in the record's message."""
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001  # arguments that do not fit, or that fail when they print
        return []
    found = dict.fromkeys(filter(_is_random, _ID.findall(message)))
    return list(islice(found, _MOST_IDS))


def _hear(_: logging.Logger, record: logging.LogRecord) -> None:
    """Log that a library has logged a warning or more, without its message.

    nio prints bodies of malformed events. The values of an exception and the variables of its
    frames may be text of messages as well.
    """
    if record.levelno < logging.WARNING:
        return
    level = min(record.levelno // 10 * 10, logging.CRITICAL)  # structlog knows the usual ones
    kind = record.exc_info[0] if record.exc_info else None
    structlog.get_logger().log(
        level,
        "library spoke",
        library=record.name,
        line=record.lineno,
        **({"ids": ids} if (ids := _ids(record)) else {}),
        **({"kind": kind.__name__} if kind else {}),
    )


def _warn(_: object, kind: type[Warning], file: str, line: int, *_more: object) -> None:
    """Log a warning's class and source line, without its message (see `warnings.showwarning`)."""
    structlog.get_logger().warning("library warned", kind=kind.__name__, file=file, line=line)


class _Lines:
    """Standard error, which may be a file on a full disk, or a pipe without a reader.

    No reply may depend on it: a line that cannot be written is lost, and the next one says so.
    """

    def __init__(self) -> None:
        self._file = sys.stderr.fileno()
        self._lost = 0

    def msg(self, line: str) -> None:
        """Write one line, which may hold newlines."""
        lost, self._lost = self._lost, 0
        data = f"{line}\n".encode(errors="backslashreplace")
        if lost:
            data = b"\n" + data  # a part of the lost line may have been written
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError:
            self._lost = lost + 1
            return
        if lost:
            structlog.get_logger().warning("log was cut", lines=lost)

    debug = info = warning = error = critical = msg  # structlog calls it by the level's name


def configure(level: str, form: Format) -> None:
    """Send the bot's log to standard error, from `level` ("debug"… "error") upwards.

    Log records of libraries and Python's reports of uncaught errors go there as well, without
    their text.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    lines = _Lines()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    # All loggers call this method, whatever handlers, propagation or class a library sets.
    logging.Logger.callHandlers = _hear  # type: ignore[assignment, method-assign]  # as above
    warnings.showwarning = _warn  # type: ignore[assignment]  # Python calls it by position
    sys.excepthook = lambda kind, _, frames: _log_bug(kind, frames)
    threading.excepthook = lambda bug: _log_bug(bug.exc_type, bug.exc_traceback)
    sys.unraisablehook = lambda bug: _log_bug(bug.exc_type, bug.exc_traceback)


def log_bug(error: Exception) -> None:
    """Count and log an unexpected error: its class and frames, never its values (texts)."""
    _log_bug(type(error), error.__traceback__)


@contextmanager
def costing_nothing() -> Iterator[None]:
    """Log a bug inside the block, and go on, as no reply depends on the block."""
    try:
        yield
    except FatalError:
        raise
    except Exception as error:  # noqa: BLE001  # as above
        log_bug(error)


def _log_bug(kind: type[BaseException], frames: TracebackType | None) -> None:
    BUGS.inc()
    at = traceback.format_tb(frames)
    structlog.get_logger().error("bug", kind=kind.__name__, at=at)

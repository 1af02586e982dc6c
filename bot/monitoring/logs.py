"""Structured logs: short past-tense events with ids; the text of a message never."""

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

# What stands alone as an event id ("$") or a room id ("!"): 32 bytes in unpadded URL-safe Base64,
# whose last character has two bits to spare (spec: room versions 4 and 12). Older room ids are
# taken without their server's name, which may be words; Synapse makes their rest of 18 letters.
# Ids that a server may word as it likes are left out: user ids, aliases, older event ids.
_ID = re.compile(
    r"""(?<![^\s'"(\[=])
    (?: [$!][\w-]{42}[AEIMQUYcgkosw048](?![\w:-]|\.\w) | ![A-Za-z]{18}(?=:[a-z0-9]) )""",
    re.ASCII | re.VERBOSE,
)
_MOST_IDS = 8  # a library may quote a whole response


def _is_random(found: str) -> bool:
    """Tell an id from words of its shape: words change case seldom, random letters at any step.

    Of true ids, one in a hundred is taken for words.
    """
    changes = sum(
        a.isalpha() and b.isalpha() and a.islower() != b.islower() for a, b in pairwise(found)
    )
    return changes >= len(found) // 6


def _ids(record: logging.LogRecord) -> list[str]:
    """Return the Matrix ids in the record's message, each once."""
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001  # arguments that do not fit, or that fail when they print
        return []
    found = dict.fromkeys(filter(_is_random, _ID.findall(message)))
    return list(islice(found, _MOST_IDS))


def _hear(_: logging.Logger, record: logging.LogRecord) -> None:
    """Log that a library spoke, from "warning" upwards, and not what it said.

    nio prints bodies of malformed events; an exception's values and the variables of its frames
    may be text as well.
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
    """Log a warning's kind and place, and not its words (see `warnings.showwarning`)."""
    structlog.get_logger().warning("library warned", kind=kind.__name__, file=file, line=line)


class _Lines:
    """Standard error, which may be a file on a full disk, or a pipe that nobody reads any more.

    No answer depends on it: a line that it does not take is lost, and the next says so.
    """

    def __init__(self) -> None:
        self._file = sys.stderr.fileno()
        self._lost = 0

    def msg(self, line: str) -> None:
        """Write one line, which may hold newlines."""
        lost, self._lost = self._lost, 0
        data = f"{line}\n".encode(errors="backslashreplace")
        if lost:
            data = b"\n" + data  # a part of the last one may be there
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

    What libraries log, and what Python prints of errors that nobody catches, goes there as well,
    without its text.
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
    # All loggers meet here, whatever handlers, propagation or class a library gives to its own.
    logging.Logger.callHandlers = _hear  # type: ignore[assignment, method-assign]  # as above
    warnings.showwarning = _warn  # type: ignore[assignment]  # Python calls it by position
    sys.excepthook = lambda kind, _, frames: _log_bug(kind, frames)
    threading.excepthook = lambda bug: _log_bug(bug.exc_type, bug.exc_traceback)
    sys.unraisablehook = lambda bug: _log_bug(bug.exc_type, bug.exc_traceback)


def log_bug(error: Exception) -> None:
    """Count and log an error nobody expected: its kind and frames, never its values (texts)."""
    _log_bug(type(error), error.__traceback__)


@contextmanager
def costing_nothing() -> Iterator[None]:
    """Log a bug inside the block, and go on: what it does is of no concern to an answer."""
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

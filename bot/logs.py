"""Structured logs: short past-tense events with ids; the text of a message never."""

import logging
import sys
import traceback
from typing import Literal

import structlog
from typing_extensions import override

Format = Literal["json", "console"]


class _Foreign(logging.Handler):
    """Passes on that a library said something, not what: nio and openai print message bodies."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Log the record's logger and level."""
        log = structlog.get_logger()
        log.log(record.levelno, "library spoke", library=record.name, line=record.lineno)


def configure(level: str, form: Format) -> None:
    """Send the bot's log to standard error, from `level` ("debug"… "error") upwards."""
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Foreign()], level=max(number, logging.WARNING), force=True)


def log_bug(error: Exception) -> None:
    """Log an error nobody expected: its kind and frames, never its values (they may be text)."""
    frames = traceback.format_tb(error.__traceback__)
    structlog.get_logger().error("bug", kind=type(error).__name__, at=frames)

"""Commands, which people type with a "!": one file each, registered by its import here."""

from bot.commands import (
    about,
    campaign,
    export,
    feedback,
    guide,
    language,
    model,
    new,
    redo,
    sources,
    statistics,
    stop,
)

__all__ = [
    "about",
    "campaign",
    "export",
    "feedback",
    "guide",
    "language",
    "model",
    "new",
    "redo",
    "sources",
    "statistics",
    "stop",
]

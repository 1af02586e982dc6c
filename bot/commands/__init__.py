"""What people type with a "!": one file each, registered by its import here."""

from bot.commands import about, feedback, guide, language, model, new, redo, sources, stop

__all__ = ["about", "feedback", "guide", "language", "model", "new", "redo", "sources", "stop"]

"""What deltas hold, kind by kind."""

from collections.abc import Iterable

from bot.core.chat import Delta, FinishDelta, TextDelta


def text_of(deltas: Iterable[Delta]) -> str:
    """Return the text of all of them."""
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


def finish_reasons(deltas: Iterable[Delta]) -> list[str]:
    """Return the reasons for which the model was done."""
    return [delta.reason for delta in deltas if isinstance(delta, FinishDelta)]

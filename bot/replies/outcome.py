"""The outcome of a reply, for the metrics and for feedback about it."""

from dataclasses import dataclass

from bot.core.chat import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a reply that stands came about; None for what only an earlier process knew.

    Attributes:
        whole: whether the model came to its end.
        model: id of the model that answered.
        first_words: seconds from the prompt until words of the model were visible.
        seconds: seconds from the prompt until the whole reply was visible.
        characters: length of the model's text.
        usage: the backend's count.
    """

    whole: bool
    model: str | None = None
    first_words: float | None = None
    seconds: float | None = None
    characters: int | None = None
    usage: Usage | None = None

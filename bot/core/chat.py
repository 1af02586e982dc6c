"""What goes to the model and what comes back: turns, deltas, usage."""

from dataclasses import dataclass
from typing import Literal

from bot.core.model_catalog import Fallback


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the model's request, in the OpenAI API's roles."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that the backend counted for one completion."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """One increment of a completion.

    Attributes:
        text: words to append, possibly "".
        finish_reason: the OpenAI API's word ("stop", "length", "content_filter"…), at the end.
        usage: the backend's count, where it sends one.
        fallback: whose words begin here, where they are not those of the model that was chosen.
    """

    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    fallback: Fallback | None = None

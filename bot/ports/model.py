"""The model port: a chat completion backend."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from bot.core.chat import Delta, Turn
from bot.core.model_catalog import ModelCard


class Model(Protocol):
    """A chat completion backend that speaks the OpenAI API."""

    def stream(self, turns: Sequence[Turn], card: ModelCard) -> AsyncGenerator[Delta, None]:
        """Yield deltas until the model says that it is done.

        Closing the generator closes the connection. A completion that is longer than the card
        allows, at 8 characters a token, is cut; its finish reason is then "length".

        Raises:
            CompletionError: the completion ended in any other way.
        """

    def context_length(self, card: ModelCard) -> int:
        """Return how many tokens the request and the completion may have together."""

"""The model port: a chat completion backend."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from bot.core.chat import Delta, Turn
from bot.core.model_catalog import ModelCard


class Model(Protocol):
    """A chat completion backend that speaks the OpenAI API.

    `stream` yields deltas until the model says that it is done, and raises CompletionError
    otherwise; closing the iterator closes the connection. What is longer than the card allows, at
    8 characters a token, is cut, and done for the reason "length".
    `context_length` returns how many tokens request and completion may have together.
    """

    def stream(self, turns: Sequence[Turn], card: ModelCard) -> AsyncGenerator[Delta, None]: ...

    def context_length(self, card: ModelCard) -> int: ...

"""The backend's list of models.

https://platform.openai.com/docs/api-reference/models/list, with the aliases and lengths that other
backends add.
"""

from collections.abc import Iterator
from contextlib import suppress

import msgspec

from bot.llm.chunks import MOST_TOKENS, UNREADABLE


class ListedModel(msgspec.Struct):
    """One model of the list.

    Attributes:
        id: its name in requests.
        aliases: other names of it.
        max_context_length: tokens of request and completion together, as Albert and Mistral call
            them.
        max_model_len: the same, as vLLM calls them.
    """

    id: str
    aliases: list[str] = []
    max_context_length: int | None = None
    max_model_len: int | None = None

    @property
    def names(self) -> set[str]:
        """All names of it."""
        return {self.id, *self.aliases}

    @property
    def context_length(self) -> int | None:
        """Tokens of request and completion together, None if the backend does not say."""
        lengths = (self.max_context_length, self.max_model_len)
        return next((one for one in lengths if one and 0 < one <= MOST_TOKENS), None)


class _List(msgspec.Struct):
    data: list[msgspec.Raw] = []


def read_models(body: bytes) -> Iterator[ListedModel]:
    """Yield the models of a list; an entry that cannot be read is left out."""
    with suppress(*UNREADABLE):
        for raw in msgspec.json.decode(body, type=_List).data:
            with suppress(*UNREADABLE):
                yield msgspec.json.decode(raw, type=ListedModel)

"""The models that people may choose among, and what they call them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from unicodedata import normalize

_NEAR = 0.5  # of difflib's ratio: "mistral" is near "mistralmedium"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model of the backend.

    Attributes:
        id: as the backend lists it.
        label: its name for people.
        key: what one types to choose it, `[a-z0-9_]+`.
        context_length: tokens of request and completion together, where the backend does not say.
        max_tokens: of the completion.
        temperature: None for the backend's own.
    """

    id: str
    label: str
    key: str
    context_length: int
    max_tokens: int
    temperature: float | None

    def longest_completion(self, context_length: int) -> int:
        """Return the tokens of the longest completion: at most half of the context's."""
        return min(self.max_tokens, context_length // 2)


class Catalogue:
    """The models in the order in which people see them; the first is the default.

    A model is named by its key, label, id or number in the list ("1" is the first), in this order
    where two share a name; all but letters and digits is ignored, and so are case and accents.
    """

    def __init__(self, cards: Sequence[ModelCard]) -> None:
        self._cards = tuple(cards)
        self._by_id = {card.id: card for card in self._cards}
        self._named: dict[str, ModelCard] = {}
        for attribute in ("key", "label", "id"):
            for card in self._cards:
                self._named.setdefault(_folded(getattr(card, attribute)), card)
        self._named.pop("", None)  # what is written in signs alone has no name to type
        self._numbered = {str(number): card for number, card in enumerate(self._cards, 1)}

    def __iter__(self) -> Iterator[ModelCard]:
        return iter(self._cards)

    @property
    def default(self) -> ModelCard:
        """The model of whoever has chosen none."""
        return self._cards[0]

    def by_id(self, model_id: str | None) -> ModelCard:
        """Return the card of that id, the default's where it is unknown or None."""
        return self._by_id.get(model_id or "", self.default)

    def find(self, words: str) -> ModelCard | None:
        """Return the model that is named so, None where there is none."""
        return (self._numbered | self._named).get(_folded(words))

    def nearest(self, words: str) -> tuple[ModelCard, ...]:
        """Return the models whose names are nearest, best first: none, or a few."""
        near = get_close_matches(_folded(words), self._named, cutoff=_NEAR)
        return tuple(dict.fromkeys(self._named[name] for name in near))


def _folded(words: str) -> str:
    return "".join(sign for sign in normalize("NFKD", words).casefold() if sign.isalnum())

"""The models that people may choose from, and their names."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from unicodedata import normalize

_NEAR = 0.5  # as difflib's ratio: "mistral" is near "mistralmedium"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """One model of the backend.

    Attributes:
        id: its id in the backend's list.
        label: its name for people.
        key: the word that chooses it, `[a-z0-9_]+`.
        context_length: tokens of request and completion together, if the backend names none.
        max_tokens: tokens of the longest completion.
        temperature: the sampling temperature; None for the backend's own.
    """

    id: str
    label: str
    key: str
    context_length: int
    max_tokens: int
    temperature: float | None

    def longest_completion(self, context_length: int) -> int:
        """Return the tokens of the longest completion: at most half of the context length."""
        return min(self.max_tokens, context_length // 2)


class Catalogue:
    """The models in the order in which people see them; the first is the default.

    A model's names are its key, its label, its id and its number in the list ("1" is the first).
    If two models share a name, the earlier kind of name counts. Case, accents and all signs but
    letters and digits are ignored.
    """

    def __init__(self, cards: Sequence[ModelCard]) -> None:
        self._cards = tuple(cards)
        self._by_id = {card.id: card for card in self._cards}
        self._named: dict[str, ModelCard] = {}
        for attribute in ("key", "label", "id"):
            for card in self._cards:
                self._named.setdefault(_folded(getattr(card, attribute)), card)
        self._named.pop("", None)  # a name without letters and digits cannot be typed
        self._numbered = {str(number): card for number, card in enumerate(self._cards, 1)}

    def __iter__(self) -> Iterator[ModelCard]:
        return iter(self._cards)

    @property
    def default(self) -> ModelCard:
        """The model of conversations in which nobody has chosen one."""
        return self._cards[0]

    def by_id(self, model_id: str | None) -> ModelCard:
        """Return the card of that id, the default's if it is unknown or None."""
        return self._by_id.get(model_id or "", self.default)

    def find(self, name: str) -> ModelCard | None:
        """Return the model of that name, None if there is none."""
        return (self._numbered | self._named).get(_folded(name))

    def nearest(self, name: str) -> tuple[ModelCard, ...]:
        """Return the few models whose names are similar, the most similar first."""
        near = get_close_matches(_folded(name), self._named, cutoff=_NEAR)
        return tuple(dict.fromkeys(self._named[name] for name in near))


def _folded(name: str) -> str:
    return "".join(one for one in normalize("NFKD", name).casefold() if one.isalnum())

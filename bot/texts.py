"""What the bot says, by key, in the language of the configuration."""

from pathlib import Path
from typing import Literal

from babel.messages.pofile import read_po

Language = Literal["fr", "en"]

_FOLDER = Path(__file__).parent / "locales"


class Texts:
    """One language's sentences, read from its gettext catalogue (`locales/fr.po`, `en.po`)."""

    def __init__(self, language: Language) -> None:
        with (_FOLDER / f"{language}.po").open("rb") as file:
            catalogue = read_po(file, locale=language)
        self._sentences = {str(one.id): str(one.string) for one in catalogue if one.id}

    def __call__(self, key: str) -> str:
        """Return the sentence (Markdown) named `key`; an unknown key is a KeyError."""
        return self._sentences[key]

    @property
    def known(self) -> set[str]:
        """Every key of the catalogue."""
        return set(self._sentences)

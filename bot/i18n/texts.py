"""The bot's sentences by key, read from the catalogues in French and English."""

from functools import cache
from gettext import c2py
from pathlib import Path
from typing import Literal

from babel.messages.pofile import read_po

Language = Literal["fr", "en"]

_FOLDER = Path(__file__).parent / "locales"


class Texts:
    """One language's sentences, read from its gettext catalogue (`locales/fr.po`, `en.po`).

    Attributes:
        language: the language.
        forms: for each key, the sentence (Markdown, with `{placeholders}`); if it depends on a
            number, one for each of the language's plural forms, in gettext's order.
    """

    def __init__(self, language: Language) -> None:
        with (_FOLDER / f"{language}.po").open("rb") as file:
            catalogue = read_po(file, locale=language)
        self.language: Language = language
        self._form = c2py(catalogue.plural_expr)
        self.forms: dict[str, tuple[str, ...]] = {}
        for one in catalogue:
            ids = (one.id,) if isinstance(one.id, str) else one.id
            strings = (one.string,) if isinstance(one.string, str) else one.string
            self.forms[ids[0]] = tuple(strings or ())
        del self.forms[""]  # the catalogue's header

    def __call__(self, key: str, /, **values: object) -> str:
        """Return the sentence named `key`, with its placeholders filled.

        Braces in a value are not read as placeholders; Markdown in it is read as Markdown.

        Args:
            key: the sentence's name in the catalogue.
            values: values of the placeholders; the number `n` also chooses the plural form.

        Raises:
            KeyError: no sentence has this name, or a value is missing.
        """
        forms, n = self.forms[key], values.get("n")
        form = self._form(n) if len(forms) > 1 and isinstance(n, int) else 0
        return forms[form].format(**values)

    @property
    def known(self) -> set[str]:
        """All keys of the catalogue."""
        return set(self.forms)


@cache
def speak(language: Language) -> Texts:
    """Return a language's sentences, which are read once."""
    return Texts(language)

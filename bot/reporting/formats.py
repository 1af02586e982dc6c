"""Numbers, days and times as readers of a language write them."""

import math
from datetime import UTC, date, datetime
from functools import cache
from typing import Final

from babel.dates import format_date, format_datetime
from babel.numbers import format_decimal, format_percent

from bot.i18n.texts import Language

_LOCALES: Final[dict[Language, str]] = {"fr": "fr_FR", "en": "en_GB"}
_SHARES: Final[dict[Language, str]] = {"fr": "#,##0\N{NARROW NO-BREAK SPACE}%", "en": "#,##0%"}
MORE_THAN: Final[dict[Language, str]] = {"fr": "plus de", "en": "more than"}
_NBSP: Final = "\N{NO-BREAK SPACE}"
_MINUTE: Final = 60
_EXACT_BELOW: Final = 10  # seconds, of which tenths are told


class Formats:
    """How one language writes them."""

    def __init__(self, language: Language) -> None:
        self._language = language
        self._locale = _LOCALES[language]

    def number(self, value: float) -> str:
        """Return a number with its thousands apart."""
        return format_decimal(value, locale=self._locale)

    def percent(self, share: float) -> str:
        """Return a share from 0 to 1 in whole per cent."""
        return format_percent(share, _SHARES[self._language], locale=self._locale)

    def seconds(self, value: float) -> str:
        """Return a span of time; what is infinite is more than any that is counted apart."""
        if math.isinf(value):
            return f"{MORE_THAN[self._language]}{_NBSP}5{_NBSP}min"
        if value < _EXACT_BELOW:
            return f"{format_decimal(round(value, 1), '0.#', locale=self._locale)}{_NBSP}s"
        whole = round(value)
        if whole < 2 * _MINUTE:
            return f"{whole}{_NBSP}s"
        minutes, rest = divmod(whole, _MINUTE)
        return f"{minutes}{_NBSP}min" + (f"{_NBSP}{rest}{_NBSP}s" if rest else "")

    def day(self, value: date) -> str:
        """Return a day with its month's name and its year."""
        text = format_date(value, "d MMMM y", locale=self._locale)
        first = value.day == 1 and self._language == "fr"
        return text.replace("1 ", "1er ", 1) if first else text

    def short_day(self, value: date) -> str:
        """Return a day for a chart: without its year."""
        return format_date(value, "d MMM", locale=self._locale)

    def moment(self, epoch: float) -> str:
        """Return seconds since the epoch as a day and a time, in UTC."""
        at = datetime.fromtimestamp(epoch, UTC)
        clock = format_datetime(at, "HH:mm", locale=self._locale)
        return f"{self.day(at.date())}, {clock}{_NBSP}UTC"


@cache
def formats(language: Language) -> Formats:
    """Return how a language writes numbers, days and times."""
    return Formats(language)

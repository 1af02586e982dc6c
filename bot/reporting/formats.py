"""Numbers, dates and durations, formatted for a language."""

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
_EXACT_BELOW: Final = 10  # seconds below which a duration is shown with tenths


class Formats:
    """The formats of one language."""

    def __init__(self, language: Language) -> None:
        self._language = language
        self._locale = _LOCALES[language]

    def number(self, value: float) -> str:
        """Return a number with its thousands separated."""
        return format_decimal(value, locale=self._locale)

    def percent(self, share: float) -> str:
        """Return a share, from 0 to 1, as a whole percentage."""
        return format_percent(share, _SHARES[self._language], locale=self._locale)

    def seconds(self, value: float) -> str:
        """Return a duration; an infinite one as more than the last class of durations."""
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
        """Return a date with the name of the month, and the year."""
        text = format_date(value, "d MMMM y", locale=self._locale)
        first = value.day == 1 and self._language == "fr"
        return text.replace("1 ", "1er ", 1) if first else text

    def short_day(self, value: date) -> str:
        """Return a date for a chart, without the year."""
        return format_date(value, "d MMM", locale=self._locale)

    def moment(self, epoch: float) -> str:
        """Return seconds since the epoch as a date and a time, in UTC."""
        at = datetime.fromtimestamp(epoch, UTC)
        clock = format_datetime(at, "HH:mm", locale=self._locale)
        return f"{self.day(at.date())}, {clock}{_NBSP}UTC"


@cache
def formats(language: Language) -> Formats:
    """Return the formats of a language."""
    return Formats(language)

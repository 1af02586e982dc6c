"""Numbers, days and times as French readers write them."""

import math
from datetime import UTC, date, datetime
from typing import Final

from babel.dates import format_date, format_datetime
from babel.numbers import format_decimal, format_percent

_FRENCH: Final = "fr_FR"
_NBSP: Final = "\N{NO-BREAK SPACE}"
_MINUTE: Final = 60
_EXACT_BELOW: Final = 10  # seconds, of which tenths are told


def number(value: float) -> str:
    """Return a number with its thousands apart."""
    return format_decimal(value, locale=_FRENCH)


def percent(share: float) -> str:
    """Return a share from 0 to 1 in whole per cent."""
    return format_percent(share, "#,##0\N{NARROW NO-BREAK SPACE}%", locale=_FRENCH)


def seconds(value: float) -> str:
    """Return a span of time; what is infinite is more than any that is counted apart."""
    if math.isinf(value):
        return f"plus de{_NBSP}5{_NBSP}min"
    if value < _EXACT_BELOW:
        return f"{format_decimal(round(value, 1), '0.#', locale=_FRENCH)}{_NBSP}s"
    whole = round(value)
    if whole < 2 * _MINUTE:
        return f"{whole}{_NBSP}s"
    minutes, rest = divmod(whole, _MINUTE)
    return f"{minutes}{_NBSP}min" + (f"{_NBSP}{rest}{_NBSP}s" if rest else "")


def day(value: date) -> str:
    """Return a day with its month's name and its year."""
    text = format_date(value, "d MMMM y", locale=_FRENCH)
    return text.replace("1 ", "1er ", 1) if value.day == 1 else text


def short_day(value: date) -> str:
    """Return a day for a chart: without its year."""
    return format_date(value, "d MMM", locale=_FRENCH)


def moment(epoch: float) -> str:
    """Return seconds since the epoch as a day and a time, in UTC."""
    at = datetime.fromtimestamp(epoch, UTC)
    return f"{day(at.date())}, {format_datetime(at, 'HH:mm', locale=_FRENCH)}{_NBSP}UTC"

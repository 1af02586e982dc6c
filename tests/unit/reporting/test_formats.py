"""Numbers and times as readers of French and English write them."""

import math
from datetime import date

import pytest

from bot.reporting.formats import formats

FRENCH, ENGLISH = formats("fr"), formats("en")
NBSP, NARROW = "\N{NO-BREAK SPACE}", "\N{NARROW NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1234567, f"1{NARROW}234{NARROW}567"), (2.5, "2,5")],
)
def test_a_number_has_its_thousands_apart(value: float, text: str) -> None:
    assert FRENCH.number(value) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0"), (0.004, "0"), (0.725, "72"), (0.999, "100"), (1, "100")]
)
def test_a_share_is_in_whole_per_cent(share: float, text: str) -> None:
    assert FRENCH.percent(share) == f"{text}{NARROW}%"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, f"0{NBSP}s"),
        (2.46, f"2,5{NBSP}s"),
        (4.0, f"4{NBSP}s"),
        (9.97, f"10{NBSP}s"),
        (14.6, f"15{NBSP}s"),
        (119.4, f"119{NBSP}s"),
        (120, f"2{NBSP}min"),
        (154.7, f"2{NBSP}min{NBSP}35{NBSP}s"),
        (math.inf, f"plus de{NBSP}5{NBSP}min"),
    ],
)
def test_a_time_is_as_exact_as_it_is_useful(seconds: float, text: str) -> None:
    assert FRENCH.seconds(seconds) == text


def test_days_have_the_names_of_their_months() -> None:
    assert FRENCH.day(date(2026, 8, 1)) == "1er août 2026"
    assert FRENCH.day(date(2026, 11, 21)) == "21 novembre 2026"
    assert FRENCH.short_day(date(2026, 2, 3)) == "3 févr."
    assert FRENCH.moment(1_699_920_060.0) == f"14 novembre 2023, 00:01{NBSP}UTC"


def test_english_is_written_otherwise() -> None:
    assert ENGLISH.number(1234567.5) == "1,234,567.5"
    assert ENGLISH.percent(0.725) == "72%"
    assert ENGLISH.seconds(2.46) == f"2.5{NBSP}s"
    assert ENGLISH.seconds(math.inf) == f"more than{NBSP}5{NBSP}min"
    assert ENGLISH.day(date(2026, 8, 1)) == "1 August 2026"
    assert ENGLISH.short_day(date(2026, 2, 3)) == "3 Feb"
    assert ENGLISH.moment(1_699_920_060.0) == f"14 November 2023, 00:01{NBSP}UTC"

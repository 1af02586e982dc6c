"""Names as people write them into a profile, and as they type them."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.display_names import begins_with_id, begins_with_name, plain_name

ISOLATE, END = "\N{FIRST STRONG ISOLATE}", "\N{POP DIRECTIONAL ISOLATE}"
OVERRIDE = "\N{RIGHT-TO-LEFT OVERRIDE}"
FAMILY = "👨\N{ZERO WIDTH JOINER}👩"


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Ada Lovelace [Dinum]", "Ada Lovelace [Dinum]"),
        ("  Ada \n\t Lovelace ", "Ada Lovelace"),
        ("Ada 🦄", "Ada 🦄"),
        (f"Ada {FAMILY}", f"Ada {FAMILY}"),
        (f"Ada {OVERRIDE}txt.exe", "Ada txt.exe"),
        ("عادل حسن", f"{ISOLATE}عادل حسن{END}"),
        (f"{OVERRIDE}\N{ZERO WIDTH SPACE}\x00", ""),
        ("", ""),
        ("x" * 61, "x" * 59 + "…"),
    ],
)
def test_a_name_stands_on_one_line_and_turns_nothing_around_it(name: str, plain: str) -> None:
    assert plain_name(name) == plain


@given(st.text(max_size=200))
def test_no_name_is_long_or_turns_what_stands_around_it(name: str) -> None:
    plain = plain_name(name)
    assert len(plain) <= 62
    assert "\n" not in plain
    assert plain.count(ISOLATE) == plain.count(END) <= 1
    inside = plain.removeprefix(ISOLATE).removesuffix(END)
    controls = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert not controls & {unicodedata.bidirectional(one) for one in inside}


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("Assistant IA, quel temps fait-il ?", "Assistant IA"),
        ("Assistant IA", "Assistant IA"),
        ("assistant  ia : bonjour", "Assistant IA"),
        ("Assistant\N{NO-BREAK SPACE}IA\N{NO-BREAK SPACE}: bonjour", "Assistant IA"),
        ("ASSISTANT IA.", "Assistant IA"),
        ("Assistant IA. Bonjour", "Assistant IA"),
        ("Assistant IA (merci)", "Assistant IA"),
        ("Assistant IA bonjour", "Assistant IA [Dinum]"),
        ("Assistant IA [Dinum] bonjour", "Assistant IA [Dinum]"),
        ("Albert bonjour", "🤖 Albert 🇫🇷"),
        ("🤖 Albert 🇫🇷 bonjour", "🤖 Albert 🇫🇷"),
        ("المساعد مرحبا", "المساعد"),
        (f"{ISOLATE}المساعد{END} مرحبا", "المساعد"),
        ("Assistant IA:bonjour", "Assistant IA"),
        ("Assistant IA.Merci", "Assistant IA"),
    ],
)
def test_a_name_is_known_however_it_is_typed(typed: str, name: str) -> None:
    assert begins_with_name(typed, name)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("Assistant IAN", "Assistant IA"),
        ("Assistant IA-bis bonjour", "Assistant IA"),
        ("Assistante IA", "Assistant IA"),
        ("Assistant", "Assistant IA"),
        ("Bonjour Assistant IA", "Assistant IA"),
        ("bonjour", ""),
        ("🤖", "🤖 🇫🇷"),
        ("bonjour", "🤖"),
    ],
)
def test_another_name_or_none_is_not_taken_for_it(typed: str, name: str) -> None:
    assert not begins_with_name(typed, name)


@pytest.mark.parametrize(
    ("typed", "known"),
    [
        ("assistant:tchap.test bonjour", True),
        ("ASSISTANT:tchap.test, bonjour", True),
        ("assistant: bonjour", True),
        ("assistant, bonjour", True),
        ("assistant !", True),
        ("assistant", True),
        ("assistant de direction : merci", False),  # a person
        ("assistant:other.test bonjour", False),
        ("assistant:tchap.test.fr bonjour", False),
        ("assistant.ia", False),
        ("assistante", False),
        ("", False),
    ],
)
def test_an_id_is_known_whole_or_by_a_local_part_that_something_follows_not(
    typed: str, *, known: bool
) -> None:
    assert begins_with_id(typed, "assistant:tchap.test") == known

"""What of a text can be read, and how long it takes to tell."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.first_words import begun, whole
from bot.core.message_split import PART_LIMIT, split
from bot.core.readable import is_readable, readable_parts, visible_length

PIECES = st.sampled_from(
    ["mot " * 900, "* " * 2_000, "```\n", "\n" * 3_000, "| a |\n|---|\n", "x\n"]
)


@given(st.lists(PIECES, max_size=8).map("".join))
def test_no_part_is_without_words_and_no_word_is_lost(text: str) -> None:
    whole_text = list(split(text))

    parts = readable_parts(whole_text)

    # The other way round it need not hold: behind a cut, signs may be code, which one sees.
    assert parts or not is_readable(text)
    assert all(part.source.strip() for part in parts)
    for part in whole_text:
        if part not in parts:
            assert "mot" not in part.source
            assert "x" not in part.source


def test_a_part_of_empty_lines_between_others_is_left_out() -> None:
    text = "Bonjour à toutes et tous.\n\n" + "\n" * 13_000 + "Fin du texte."

    assert [part.source.strip() for part in readable_parts(split(text))] == [
        *("Bonjour à toutes et tous.", "Fin du texte."),
    ]


def test_code_is_read_whatever_signs_it_is_made_of() -> None:
    code = "```\n" + "}\n" * PART_LIMIT

    assert readable_parts(split(code)) == list(split(code))
    assert visible_length("`*`") == 1


# Each took a minute, with the whole event loop.
@pytest.mark.parametrize(
    "text",
    [
        *("# \n" * 1_300, "- a\n" * 900, "mot " + "* " * 1_900, "mot " + "1 " * 1_900),
        *("M. " * 1_300, "x" * 3_990 + " a", "* " * 300_000, "\n" * 300_000 + "mot "),
    ],
    ids=["heads", "items", "stars", "numbers", "abbreviations", "a word", "many", "lines"],
)
def test_the_first_words_are_soon_found_or_not(text: str) -> None:
    begins = time.process_time()
    for least in (1, 20):
        whole(text, least)
        begun(text, least)

    assert time.process_time() - begins < 5

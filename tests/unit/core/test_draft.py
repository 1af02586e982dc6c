import time

import pytest

from bot.core.draft import Draft
from bot.core.first_words import LEAST
from bot.core.message_split import PART_LIMIT

SENTENCE = "Le ciel est bleu ce matin."


def draft(*pieces: tuple[str, float], least: int = LEAST) -> Draft:
    one = Draft(first_after=1.5, edit_interval=2.0, least=least)
    for text, now in pieces:
        one.add(text, now)
    return one


def test_nothing_is_due_before_the_first_token() -> None:
    assert draft().due_at() is None
    assert draft(("", 1.0), (" \n", 2.0)).due_at() is None


@pytest.mark.parametrize("text", ["Un. ", f"{SENTENCE} Puis", f"{SENTENCE}\n\n", "## Titre\n\nUn"])
def test_a_whole_sentence_or_block_is_due_at_once(text: str) -> None:
    one = draft(("", 1.0), (text, 5.0), least=1)

    due_at = one.due_at()

    assert due_at is not None
    assert due_at <= 5.0
    assert text.startswith(one.version(5.0))
    assert one.version(5.0)


def test_the_newest_text_is_shown_from_the_second_version_on() -> None:
    one = draft((f"{SENTENCE} Pu", 5.0))
    first = one.version(5.0)
    one.shown(first, 5.1)
    one.add("is **la", 5.2)

    assert first == SENTENCE
    assert one.version(7.1) == f"{SENTENCE} Puis **la"


def test_white_space_alone_is_no_newer_version() -> None:
    one = draft((SENTENCE, 5.0), (" ", 5.0))
    one.shown(one.version(5.0), 5.1)
    one.add(" \n\n", 5.2)

    assert one.due_at() is None


def test_a_later_version_waits_for_the_interval() -> None:
    one = draft(("Oui. ", 5.0))
    one.shown("Oui. ", 5.1)
    one.add("Et", 5.2)

    assert one.due_at() == pytest.approx(7.1)


def test_what_stands_already_is_not_shown_again() -> None:
    one = draft(("Oui. ", 5.0))
    one.shown("Oui. ", 5.1)

    assert one.due_at() is None


def test_nothing_is_due_before_the_homeserver_allows() -> None:
    one = draft((f"{SENTENCE} ", 5.0))
    one.postpone(9.0)

    assert one.due_at() == pytest.approx(9.0)


def test_the_cuts_of_a_growing_text_are_kept() -> None:
    one = draft(("mot " * PART_LIMIT, 5.0))
    [*made] = one.cuts(one.text).more(one.text)
    one.add("fin", 6.0)

    assert made
    assert one.cuts(one.text).full == made


def test_first_words_that_are_no_beginning_of_the_text_leave_no_cuts() -> None:
    one = draft(("Un **deux trois quatre", 5.0), least=1)
    words = one.version(9.0)

    assert words == "Un **deux trois**"
    assert one.cuts(words) is not one.cuts(one.text)


@pytest.mark.parametrize("unit", ["- ", "# ", "> ", "\u200b", "*", "`", "| ", "mot"])
def test_first_words_of_an_endless_text_take_no_time(unit: str) -> None:
    one = draft((unit * (200_000 // len(unit)), 5.0))
    started = time.process_time()
    one.due_at()
    one.version(9.0)

    assert time.process_time() - started < 1

import pytest

from bot.core.draft import Draft


def draft(*pieces: tuple[str, float]) -> Draft:
    one = Draft(first_after=0.8, edit_interval=2.0)
    for text, now in pieces:
        one.add(text, now)
    return one


def test_nothing_is_due_before_the_first_token() -> None:
    assert draft().due_at() is None
    assert draft(("", 1.0), (" \n", 2.0)).due_at() is None


@pytest.mark.parametrize("text", ["Oui. ", "Vraiment ? ", "« Oui. » Puis", "Titre\n", "Fin…\n"])
def test_a_whole_sentence_is_due_at_once(text: str) -> None:
    due_at = draft(("", 1.0), (text, 5.0)).due_at()

    assert due_at is not None
    assert due_at <= 5.0


@pytest.mark.parametrize("text", ["Le ciel", "3.14", "https://a.fr", "M"])
def test_less_than_a_sentence_is_due_a_moment_after_the_first_token(text: str) -> None:
    assert draft((text[0], 5.0), (text[1:], 5.5)).due_at() == pytest.approx(5.8)


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
    one = draft(("Oui. ", 5.0))
    one.postpone(9.0)

    assert one.due_at() == pytest.approx(9.0)

import ast
from pathlib import Path

import pytest

import bot
from bot import errors
from bot.core.markdown import render
from bot.texts import Texts

FR, EN = Texts("fr"), Texts("en")


def test_both_languages_have_the_same_keys_and_no_empty_sentence() -> None:
    assert FR.known == EN.known
    assert all(FR(key).strip() and EN(key).strip() for key in FR.known)


def test_every_error_of_the_model_has_its_sentence() -> None:
    keys = {error.key for error in errors.CompletionError.__subclasses__()}

    assert keys <= FR.known


def test_every_sentence_is_used() -> None:
    words = {
        node.value
        for path in Path(bot.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }

    assert FR.known <= words


@pytest.mark.parametrize("texts", [FR, EN])
def test_the_welcome_takes_at_most_six_lines_and_says_what_the_law_asks(texts: Texts) -> None:
    body = render(texts("welcome")).body

    assert 1 < len(body.splitlines()) <= 6
    assert "!aide" in body
    assert any(word in body for word in ("intelligence artificielle", "artificial intelligence"))
    assert any(word in body for word in ("chiffrement de bout en bout", "end-to-end encryption"))

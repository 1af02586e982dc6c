"""How a model is found by what people type."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.model_catalog import Catalogue, ModelCard


def card(model_id: str, label: str, key: str) -> ModelCard:
    return ModelCard(
        id=model_id, label=label, key=key, context_length=32_000, max_tokens=2048, temperature=None
    )


MEDIUM = card("mistral-medium-2508", "Mistral Médium", "medium")
CODE = card("qwen3-coder-30b-A3b-instruct", "Qwen 3 Coder", "code")
OPEN = card("openai/gpt-oss-120b", "GPT OSS", "gpt_oss")
CATALOGUE = Catalogue([MEDIUM, CODE, OPEN])


@pytest.mark.parametrize(
    ("context_length", "tokens"), [(32_000, 2048), (4096, 2048), (4095, 2047), (2048, 1024)]
)
def test_a_completion_has_at_most_half_of_the_context(context_length: int, tokens: int) -> None:
    assert MEDIUM.longest_completion(context_length) == tokens


def test_the_first_is_the_default_and_the_order_is_kept() -> None:
    assert CATALOGUE.default == MEDIUM
    assert list(CATALOGUE) == [MEDIUM, CODE, OPEN]


@pytest.mark.parametrize(
    ("model_id", "found"),
    [("openai/gpt-oss-120b", OPEN), ("vanished", MEDIUM), ("", MEDIUM), (None, MEDIUM)],
)
def test_an_id_that_is_unknown_stands_for_the_default(
    model_id: str | None, found: ModelCard
) -> None:
    assert CATALOGUE.by_id(model_id) == found


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("medium", MEDIUM),
        (" MÉDIUM ", MEDIUM),
        ("mistral-medium", MEDIUM),
        ("Mistral Medium 2508", MEDIUM),
        ("gpt-oss", OPEN),
        ("« gpt oss »", OPEN),
        ("openai/gpt-oss-120b", OPEN),
        ("qwen_3\N{NO-BREAK SPACE}coder", CODE),
        ("1", MEDIUM),
        ("3.", OPEN),
        ("4", None),
        ("0", None),
        ("9" * 5000, None),
        ("", None),
        ("…", None),
        ("mistral", None),
    ],
)
def test_a_model_is_named_by_key_label_id_or_number(words: str, found: ModelCard | None) -> None:
    assert CATALOGUE.find(words) == found


def test_a_key_goes_before_anothers_label_id_and_number() -> None:
    first = card("2", "Deux", "a")
    second, third = card("b", "b", "deux"), card("c", "c", "1")
    catalogue = Catalogue([first, second, third])

    assert [catalogue.find(words) for words in ("deux", "2", "1")] == [second, first, third]


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ("medum", (MEDIUM,)),
        ("mistral", (MEDIUM,)),
        ("gpt", (OPEN,)),
        ("coder", (CODE,)),
        ("llama", ()),
        ("", ()),
    ],
)
def test_the_nearest_are_told_for_a_name_that_none_has(
    words: str, near: tuple[ModelCard, ...]
) -> None:
    assert CATALOGUE.nearest(words) == near


@given(st.text())
def test_any_words_are_looked_up(words: str) -> None:
    assert CATALOGUE.find(words) in {*CATALOGUE, None}
    assert set(CATALOGUE.nearest(words)) <= set(CATALOGUE)

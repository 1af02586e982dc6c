import itertools

import pytest

from bot.core.sentences import is_abbreviation, sentence_ends


def sentences(text: str) -> list[str]:
    """Return the whole sentences of a text, without what is behind the last."""
    ends = [0, *sentence_ends(text)]
    return [text[start:end].strip() for start, end in itertools.pairwise(ends)]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("Le ciel est bleu. La mer", ["Le ciel est bleu."]),
        ("Le ciel est bleu. ", ["Le ciel est bleu."]),
        ("Le ciel est bleu.", []),  # what follows may make an address or a number of it
        ("Pourquoi ? Parce", ["Pourquoi ?"]),
        ("Attention ! Oui… Non", ["Attention !", "Oui…"]),
        ("« Quoi ? » demanda-t-il. Rien", ["« Quoi ? » demanda-t-il."]),
        ("« Venez. » Il", ["« Venez. »"]),
        ("(Voir plus haut.) Ensuite", ["(Voir plus haut.)"]),
        ("**Le ciel.** Puis", ["**Le ciel.**"]),
        ("Un.\nDeux", ["Un."]),
        ("Vraiment ?! Oui", ["Vraiment ?!"]),
        ("Il attend... puis part. Fin", ["Il attend... puis part."]),
        # Abbreviations.
        ("Selon l’art. 5, M. Dupont peut. Il", ["Selon l’art. 5, M. Dupont peut."]),
        ("Selon l'art. Premier", []),
        ("Mme. Durand et MM. Petit viennent. Oui", ["Mme. Durand et MM. Petit viennent."]),
        ("Prenez p. ex. Lille. Ou", ["Prenez p. ex. Lille."]),
        ("Stylos, papier, etc. Le reste", []),
        ("Cf. Le code. Voir", ["Cf. Le code."]),
        ("C.-à-d. La loi. Ensuite", ["C.-à-d. La loi."]),
        ("Code du travail, L. 1222-9. Voir", ["Code du travail, L. 1222-9."]),
        ("J. Dupont est là. Oui", ["J. Dupont est là."]),
        ("See e.g. Lille. Then", ["See e.g. Lille."]),
        ("Le décret n° 2016-151. Il", ["Le décret n° 2016-151."]),
        ("Au no. 12. Puis", []),
        ("Un mot abrév. inconnu. Oui", ["Un mot abrév. inconnu."]),
        # Numbers, dates, lists, addresses.
        ("Soit 3.14 fois. Oui", ["Soit 3.14 fois."]),
        ("En 2016. La loi", ["En 2016."]),
        ("En 2016. ", []),
        ("Le 12. 03. 2024. Oui", ["Le 12. 03. 2024."]),
        ("1. Premier point. Puis", ["1. Premier point."]),
        ("Liste\n1. Un\n2. Deux", []),
        ("- 3. Trois", []),
        ("I. Introduction. Puis", ["I. Introduction."]),
        ("Louis XIV. Il régna. Puis", ["Louis XIV.", "Il régna."]),
        ("Voir https://www.legifrance.gouv.fr/loi?id=1.2 ici. Oui",
         ["Voir https://www.legifrance.gouv.fr/loi?id=1.2 ici."]),
        ("", []),
        (". ", ["."]),
        ("… il", []),
        ("2016-151 : il", []),
    ],
)  # fmt: skip
def test_a_sentence_ends_where_a_reader_sees_it_end(text: str, whole: list[str]) -> None:
    assert sentences(text) == whole


@pytest.mark.parametrize(
    "word", ["art.", "art", "l’art.", "d'art.", "n°", "M.", "MM", "Mme", "cf.", "p.", "etc.", "É."]
)
def test_an_abbreviation_is_known_with_and_without_its_dot(word: str) -> None:
    assert is_abbreviation(word)


@pytest.mark.parametrize("word", ["bleu", "bleu.", "loi", "l’agent", "Madame", "décret"])
def test_a_word_is_no_abbreviation(word: str) -> None:
    assert not is_abbreviation(word)


def test_a_long_text_without_an_end_takes_no_long_time() -> None:
    text = "1. " * 20_000 + "((((" * 20_000 + ". " * 20_000

    assert len(list(sentence_ends(text))) <= len(text)

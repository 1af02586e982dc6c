"""What notifications show of a reply: the first version alone, for ever."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it.token import Token

from bot.core import first_words
from bot.core.draft import Draft
from bot.core.first_words import LEAST, begun, whole
from bot.core.markdown import blocks, render
from bot.core.readable import visible_length
from bot.core.sentences import is_abbreviation
from tests.harness.french_answers import ANSWERS

LOREM = "Le télétravail est un droit dans la fonction publique."

HARD = [
    ("Selon l’art. 5 de la loi n° 2016-151 du 11 févr. 2016, M. Dupont peut télétravailler trois"
    " jours par semaine. Il en fait la demande à Mme Durand, cheffe de service."),
    ("**Oui.** L’administration a un mois pour répondre ; son silence vaut refus. Voir"
    " [Légifrance](https://www.legifrance.gouv.fr/codes/id/LEGITEXT000031366350?a=1.2)."),
    ("1. Réunir les pièces : p. ex. une copie de la carte d’identité.\n2. Les envoyer.\n"
    "3. Attendre la réponse, etc."),
    "## Les étapes\n\n- [ ] **Bilan** du trimestre\n- [x] Budget *prévu*\n- Congés, cf. note",
    ("| Service | Agents | Budget |\n|---|---|---|\n| RH | 12 | 1 000 € |\n| SG | 7 | 300 € |\n"
    "\nLe total est de 19 agents."),
    "```python\nfor agent in agents:\n    print(agent.nom)\n```\n\nCe programme écrit les noms.",
    "Je propose ceci : `make test` lance les tests, puis `make check` vérifie le code. Voilà.",
    ("Bonjour,\n\nVoici une réponse en deux points :\n\n> « Nul n’est censé ignorer la loi. »\n\n"
    "C’est une fiction juridique."),
    "Le prix passe de 10 $ à 20 $ en 2024, soit 3,5 % de plus. C’est élevé !",
    "Non.",
    "Oui, bien sûr.",
    "*Attention :* la date limite est le 12 mars 2024. Passé ce délai, rien n’est possible.",
    "La formule est \\(a^2 + b^2 = c^2\\). Elle vaut pour un triangle rectangle.",
    "1. **Premier point. Il compte.**\n2. Second point.",
    "Les trois documents (cf. annexe, p. 12) sont : a) le formulaire ; b) la copie ; c) l’avis.",
    ("C.-à-d. que l’agent doit, d’une part, prévenir ; d’autre part, remplir le formulaire"
    " au format A4. Le tout sous 48 h."),
    "~~Ancien texte.~~ Nouveau texte, un peu plus long. Fin.",
    "Voir <https://www.service-public.fr/particuliers/vosdroits/F489>. Cette page dit tout.",
    "Madame, Monsieur,\n\nJ’ai l’honneur de vous informer que votre demande n° 42 est acceptée.",
    "![Un schéma](https://exemple.test/a.png) Le schéma montre les étapes. Il y en a trois.",
]  # fmt: skip


TEXTS = [*ANSWERS, *HARD]


@st.composite
def streamed(draw: st.DrawFn) -> list[str]:
    """Return an answer, cut into tokens anywhere."""
    text = draw(st.sampled_from(TEXTS) | st.lists(st.sampled_from(TEXTS)).map("\n\n".join))
    cuts = draw(st.lists(st.integers(0, len(text)), max_size=200))
    return [text[start:end] for start, end in pairwise(sorted({0, *cuts, len(text)}))]


def words_of(shown: str) -> list[str]:
    """Return what a person reads, without the signs of lists and Markdown."""
    return re.sub(r"^\s*(?:[-•]|\d+\.)\s", "", render(shown).body, flags=re.MULTILINE).split()


def is_worth_reading(shown: str) -> bool:
    """Tell whether it says anything, and neither ends with half a Markdown nor with a sign."""
    words = words_of(shown)
    body = render(shown).body
    says = any(re.search(r"[^\W\d_]", word) and not is_abbreviation(word) for word in words)
    return says and not re.search(r"\*\*|`|\]\(|(?:\A|\n)[-\d.\s]*\Z|\|\s*-", body)


@given(streamed())
def test_the_first_words_are_a_whole_sentence_or_block_wherever_tokens_are_cut(
    tokens: list[str],
) -> None:
    text = ""
    for token in tokens:
        text += token
        shown = whole(text)
        if shown:
            break
    else:
        return

    assert visible_length(shown) >= LEAST
    assert text.startswith(shown)
    assert is_worth_reading(shown)
    last = words_of(shown)[-1].strip("*_»”)\u2019")
    rest = text[len(shown) :]
    ends = re.search(r"[.!?…]\Z", last) and not (last.endswith(".") and is_abbreviation(last))
    assert ends or re.match(r"[^\S\n]*\n", rest) or rest.isspace()


@given(streamed(), st.sampled_from([1, LEAST]))
def test_what_has_begun_is_whole_words_with_closed_markdown_wherever_tokens_are_cut(
    tokens: list[str], least: int
) -> None:
    text = ""
    for token in tokens:
        text += token
        shown = begun(text, least)
        if shown:
            assert visible_length(shown) >= least
            assert is_worth_reading(shown)
            last = words_of(shown)[-1]
            assert not is_abbreviation(last.strip("*_«»()`"))


@given(st.text(max_size=300), st.sampled_from([1, LEAST]))
def test_whatever_the_model_writes_the_first_words_are_never_empty(text: str, least: int) -> None:
    for shown in (whole(text, least), begun(text, least)):
        assert not shown or render(shown).body.strip()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"{LOREM} Il", LOREM),
        (f"Oui. {LOREM} Il", f"Oui. {LOREM}"),
        ("Oui. Non. Il", ""),
        (f"## Réponse\n\n{LOREM} Il", f"## Réponse\n\n{LOREM}"),
        ("## Réponse\n\nLe ciel", ""),
        ("## Les principales dispositions\n\nLe", "## Les principales dispositions"),
        (f"**{LOREM} Il", ""),
        (f"**{LOREM}** Il", f"**{LOREM}**"),
        ("**Important : ceci. Puis** le reste. Voir", "**Important : ceci. Puis** le reste."),
        ("Utilisez `git commit. Puis", ""),
        ("```\nLe ciel est bleu. La mer aussi.\n\nEt le reste.\n", ""),
        ("```\nLe ciel est encore bleu.\n```\nVoilà", "```\nLe ciel est encore bleu.\n```"),
        ("| Le ciel est bleu aujourd’hui. Il | Un |\n", ""),
        ("| Service | Agents |\n|---|---|\n| Ressources humaines | 12 |\n| F", ""),
        ("| Service | Agents |\n|---|---|\n| Ressources humaines | 12 |\n\nLe",
         "| Service | Agents |\n|---|---|\n| Ressources humaines | 12 |"),
        ("Voir [le code. Il](http", ""),
        ("Bonjour à toutes et à tous,\n\nVoici", "Bonjour à toutes et à tous,"),
        ("- Un premier point assez long\n- ", "- Un premier point assez long"),
        ("- Un premier point assez long\n- Un", "- Un premier point assez long"),
        ("Voici les étapes à suivre :\n1. R", "Voici les étapes à suivre :"),
        ("Première ligne d’un poème\ndeuxième", ""),
    ],
)  # fmt: skip
def test_a_first_version_ends_with_a_sentence_or_a_block(text: str, shown: str) -> None:
    assert whole(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("**1.", ""),
        ("1. ", ""),
        ("L’art. ", ""),
        ("```python\n", ""),
        ("```python\nprint('un mot')\nprint", "```python\nprint('un mot')"),
        ("| Service | Agents |\n", "| Service | Agents |\n|---|---|"),
        ("| Service | Ag", ""),
        ("| Service | Agents |\n|---|---|\n| RH | 12 |\n| Fin",
         "| Service | Agents |\n|---|---|\n| RH | 12 |"),
        ("Je", ""),
        ("Je ", "Je"),
        ("… 2016-151 : il", ""),
        ("Je propose **une très", "Je propose **une**"),
        ("Je propose **", "Je propose"),
        ("Je propose `ma", "Je propose"),
        ("Je propose `make test", "Je propose `make`"),
        ("Voir [le code du tra", "Voir le code du"),
        ("Voir [le code](https://www.legi", "Voir le"),
        ("Selon M. Dupont, le 12 ", "Selon M. Dupont, le"),
        ("Cela coûte 1 ", "Cela coûte"),
        ("Pourquoi ? ", "Pourquoi ?"),
        ("Bonjour.", ""),
        ("Bonjour à tous.", "Bonjour à tous."),
        ("Voir www.legifrance.", "Voir"),
        ("Voici :\n\n- ", "Voici :"),
        ("La formule \\(a + b", "La formule"),
        (" \n", ""),
    ],
)  # fmt: skip
def test_what_has_begun_ends_with_a_whole_word_that_says_something(text: str, shown: str) -> None:
    assert begun(text, 1) == shown


def draft(*pieces: tuple[str, float], least: int = LEAST) -> Draft:
    one = Draft(first_after=1.5, edit_interval=2.0, least=least)
    for text, now in pieces:
        one.add(text, now)
    return one


def test_first_words_without_a_sentence_are_due_a_moment_after_the_first_token() -> None:
    one = draft(("Je propose une réunion ", 5.0), ("lundi à neuf heures pour ", 5.2))

    assert one.due_at() == pytest.approx(6.5)
    assert one.version(6.4) == ""
    assert one.version(6.5) == "Je propose une réunion lundi à neuf heures pour"


def test_few_first_words_are_due_later_and_a_sign_alone_never() -> None:
    few = draft(("Je pense ", 5.0))

    assert few.due_at() == pytest.approx(6.5)
    assert few.version(6.5) == ""
    assert few.due_at() == pytest.approx(8.0)
    assert (few.version(7.9), few.version(8.0)) == ("", "Je pense")
    for alone in (draft(("1. ", 5.0)), draft(("L’art. ", 5.0))):
        assert alone.version(9.0) == ""
        assert alone.due_at() is None


def test_first_words_that_come_late_are_due_at_once() -> None:
    one = draft(("1. ", 5.0), ("Un bilan ", 20.0))

    due_at = one.due_at()

    assert due_at is not None
    assert due_at <= 20.0
    assert one.version(20.0) == "1. Un bilan"


@pytest.mark.parametrize(
    "text",
    [
        ", ".join(map(str, range(400))),
        "\n".join(map(str, range(400))),
        "\n\n".join(map(str, range(400))),
        "A C G T " * 200,
        "a\n" * 900,
        "Bonjour. " * 200,
        ".\n" * 900,
        "!" * 1_900,
        "**a " * 400,
    ],
    ids=range(9),
)
def test_whatever_is_written_its_markdown_is_read_a_few_times_at_most(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(source: str) -> list[Token]:
        read.append(source)
        return blocks(source)

    monkeypatch.setattr(first_words, "blocks", counted)
    whole(text)
    begun(text, LEAST)
    begun(text, 1)

    assert len(read) <= 10


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 1", "1, 2, 3, 4, 5, 6, 7,"),
        ('```json\n{\n "nom": "Dupont",\n "a', '```json\n{\n "nom": "Dupont",'),
        ("Voici le tableau demandé :\n| Service | Agents |\n|--", "Voici le tableau demandé :"),
        ("Voici le tableau :\n\nService | Agents | Budget\n--", "Voici le tableau :"),
        ("On note \\[ x = \\frac{a}{b} et ensuite la", "On note"),
        ("Il y a ", "Il y a"),
        ("Le délai court jusqu’à ", "Le délai court jusqu’à"),
        (
            "你好，我是一个助手，可以帮助您处理行政事务" * 4,
            "你好，我是一个助手，可以帮助您处理行政事务" * 4,
        ),
    ],
)
def test_what_has_begun_is_shown_as_far_as_it_can_be_read(text: str, shown: str) -> None:
    assert begun(text, 1) == shown


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{\n "nom": "Dupont Jean",\n "',
        "```python\ndef somme(premier, second):\n ",
        "1. Lancez :\n   ```bash\n   make test && make check\n  ",
        "L’agent public doit en faire la demande à\n\t",
        "Voir [le code [du] travail. Puis](https://a.fr/x",
    ],
)
def test_what_is_still_open_is_not_whole(text: str) -> None:
    assert whole(text) == ""


def test_scripts_without_spaces_have_sentences_as_well() -> None:
    sentence = "你好，我是一个助手，可以帮助您处理行政事务，包括证件。"

    assert whole(f"{sentence}我") == sentence


def test_a_long_text_is_shown_as_it_stands() -> None:
    text = "mot " * 1_500 + "fin"

    assert whole(text) == text
    assert whole("\u200b" * 5_000) == ""

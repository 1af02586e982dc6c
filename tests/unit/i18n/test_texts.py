import ast
import re
from itertools import chain
from pathlib import Path
from string import Formatter

import pytest

import bot
from bot import errors
from bot.core.markdown import render
from bot.i18n.texts import Texts, speak
from tests.harness.words import listed

FR, EN = speak("fr"), speak("en")
COMMANDS = {
    FR: {
        *("aide", "nouveau", "stop", "refaire", "modele", "langue", "sources", "avis"),
        *("sondages", "apropos"),
    },
    EN: {
        *("help", "new", "stop", "redo", "model", "language", "sources", "feedback"),
        *("surveys", "about"),
    },
}

ADMIN_COMMANDS = {
    FR: {"sondage", "annonce", "stats", "exporter"},
    EN: {"survey", "announcement", "statistics", "export"},
}


def placeholders(sentence: str) -> set[tuple[str | None, str | None]]:
    """Return each placeholder with its format and conversion, which nobody has a use for."""
    return {
        (name, (spec or "") + (conversion or ""))
        for _, name, spec, conversion in Formatter().parse(sentence)
        if name is not None
    }


def plain(texts: Texts, key: str) -> str:
    """Return the sentence as a client without HTML shows it."""
    return render(texts.forms[key][0]).body


def test_both_languages_have_the_same_keys_and_no_empty_sentence() -> None:
    assert FR.known == EN.known
    for texts in (FR, EN):
        assert all(one.strip() for one in chain.from_iterable(texts.forms.values()))


def test_every_form_of_a_sentence_has_the_same_placeholders_and_plain_ones_alone() -> None:
    for key in FR.known:
        assert len(FR.forms[key]) == len(EN.forms[key])
        first, *others = (placeholders(form) for form in (*FR.forms[key], *EN.forms[key]))
        assert all(other == first for other in others)
        assert all(str(name).isidentifier() and not rest for name, rest in first)


def test_every_error_of_the_model_has_its_sentence() -> None:
    kinds = [one for one in vars(errors).values() if isinstance(one, type)]
    keys = {one.key for one in kinds if issubclass(one, errors.CompletionError)}

    assert keys <= FR.known


@pytest.mark.parametrize("texts", [FR, EN])
def test_no_two_errors_of_the_model_are_told_alike(texts: Texts) -> None:
    keys = {key for key in texts.known if key.startswith(("model ", "prompt "))}

    assert len({texts.forms[key] for key in keys}) == len(keys)


def test_every_sentence_is_used() -> None:
    words = {
        node.value
        for path in Path(bot.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }

    assert FR.known <= words


def test_a_language_is_read_once() -> None:
    assert speak("fr") is FR


def test_values_are_filled_in_and_never_read_as_placeholders() -> None:
    assert "`!{n}{0.x}`" in FR("command unknown", name="{n}{0.x}")
    assert (
        FR("model item", number=2, label="Petit", key="petit")
        == "2. **Petit**\u00a0: `!modele petit`"
    )


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(KeyError):
        FR("command unknown")
    with pytest.raises(KeyError):
        FR("unreadable earlier")


@pytest.mark.parametrize(
    ("texts", "n", "words"),
    [
        (FR, 0, "0 message précédent"),
        (FR, 1, "1 message précédent"),
        (FR, 2, "2 messages précédents"),
        (EN, 0, "0 earlier messages could"),
        (EN, 1, "1 earlier message could"),
        (EN, 2, "2 earlier messages could"),
    ],
)
def test_a_number_chooses_the_form_by_the_rule_of_the_language(
    texts: Texts, n: int, words: str
) -> None:
    assert words in texts("unreadable earlier", n=n)


@pytest.mark.parametrize("texts", [FR, EN])
@pytest.mark.parametrize("key", ["welcome", "welcome salon"])
def test_the_welcome_takes_at_most_six_lines_and_says_what_the_law_asks(
    texts: Texts, key: str
) -> None:
    body = plain(texts, key)

    assert 1 < len(body.splitlines()) <= 6
    assert any(word in body for word in ("!aide", "!help"))
    assert any(word in body for word in ("intelligence artificielle", "artificial intelligence"))
    assert any(word in body for word in ("chiffrement de bout en bout", "end-to-end encryption"))


@pytest.mark.parametrize("texts", [FR, EN])
def test_the_whole_help_names_every_command_and_no_sentence_any_other(texts: Texts) -> None:
    def named(sentence: str) -> set[str]:
        return set(re.findall(r"`!([a-z]+)", sentence))

    assert named(texts("help all")) == COMMANDS[texts]
    everything = "".join(chain.from_iterable(texts.forms.values()))
    assert named(everything) == COMMANDS[texts] | ADMIN_COMMANDS[texts]
    assert named(texts("help admin")) == ADMIN_COMMANDS[texts] | {
        "aide" if texts is FR else "help"
    }


@pytest.mark.parametrize("texts", [FR, EN])
def test_wording_all_reactions_have_a_typed_twin_and_nothing_else_an_emoji(
    texts: Texts,
) -> None:
    with_emoji = {
        key
        for key in texts.known
        if re.search("[\u2190-\u2bff\U0001f000-\U0001faff]", plain(texts, key))
    }

    assert with_emoji == {"help all", "welcome thumbs"}
    assert re.search("👍.*👎.*!(avis|feedback)", plain(texts, "welcome thumbs"))
    *_, thumbs, last = plain(texts, "help all").splitlines()
    assert re.search("👍.*👎.*!(avis|feedback)", thumbs)
    assert re.search("🛑.*⏹️.*!stop.*🔄.*!re", last)


def test_wording_french_sets_a_space_before_signs_and_an_apostrophe_of_its_own() -> None:
    for form in chain.from_iterable(FR.forms.values()):
        said = re.sub(r"`[^`]*`", "", form)
        assert not re.search(r"[^\s][;:?!»](?=\s|\*|$)|«\S|'", said), form


# Where French wants a space that no line ends at; what a command is, is no sentence.
_PLAIN_SPACE = re.compile(r" [:;?!%»](?![\w`])|« |[^\s\u00a0\u202f«][?!;»](?=\s|$)|\w:(?=\s|$)")


@pytest.mark.parametrize("key", sorted(FR.known))
def test_wording_of_french_signs_stand_behind_a_space_that_no_line_ends_at(key: str) -> None:
    for form in FR.forms[key]:
        text = re.sub(r"`[^`]*`", "`code`", form)
        assert not _PLAIN_SPACE.findall(text), key


@pytest.mark.parametrize("key", sorted(EN.known))
def test_english_signs_stand_behind_no_space(key: str) -> None:
    for form in EN.forms[key]:
        text = re.sub(r"`[^`]*`", "`code`", form)
        assert not re.findall(r"[ \u00a0\u202f][:;?!%](?!\w)|[«»]", text), key


def test_wording_the_list_of_words_holds_all_that_can_be_said() -> None:
    words = listed()
    for texts in (FR, EN):
        for form in chain.from_iterable(texts.forms.values()):
            assert form.split("\n")[0].rstrip() in words
    assert words.count("\n## ") == len(FR.known)


def test_wording_of_the_page_for_agents_breaks_no_line_before_a_sign() -> None:
    page = (Path(bot.__file__).parents[1] / "README.md").read_text()
    section = page.partition("## Pour les agents")[2].partition("\n## ")[0]
    for line in section.splitlines():
        said = re.sub(r"`[^`]*`", "`", line)
        assert line.startswith("|--") or not re.search(r" [:;?!%»](?=\s|$)|« ", said), line

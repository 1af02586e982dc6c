import re

from hypothesis import given
from hypothesis import strategies as st

from bot.core.markdown import render


def html(source: str) -> str:
    return render(source).formatted_body


def body(source: str) -> str:
    """Return the body with "_" for the no-break spaces, which look like others."""
    return render(source).body.replace("\u00a0", "_")


def table(*rows: tuple[str, ...]) -> str:
    head, *rest = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *rest])


FORMULAS = table(
    ("Formule", "Prix", "*Durée*"), ("Régulière", "10 €", "1 an"), ("**Étudiante**", "", "6 mois")
)


def test_a_row_is_an_item_with_a_line_for_each_value() -> None:
    assert body(FORMULAS) == (
        "Formule_:\n\n- Régulière\n  Prix_: 10 €\n  Durée_: 1 an\n- Étudiante\n  Durée_: 6 mois"
    )
    assert html(FORMULAS) == (
        "<p><strong>Formule&nbsp;:</strong></p>\n<ul>\n"
        "<li><strong>Régulière</strong><br>\nPrix&nbsp;: 10 €<br>\n"
        "<em>Durée</em>&nbsp;: 1 an</li>\n"
        "<li><strong>Étudiante</strong><br>\n<em>Durée</em>&nbsp;: 6 mois</li>\n</ul>"
    )


def test_two_columns_are_names_and_values() -> None:
    source = table(("Formule", "Prix"), ("Régulière", "10 €"), ("Étudiante", "5 €"))
    assert body(source) == "Formule_: Prix\n\n- Régulière_: 10 €\n- Étudiante_: 5 €"
    assert html(source) == (
        "<p><strong>Formule&nbsp;: Prix</strong></p>\n<ul>\n"
        "<li><strong>Régulière</strong>&nbsp;: 10 €</li>\n"
        "<li><strong>Étudiante</strong>&nbsp;: 5 €</li>\n</ul>"
    )


def test_one_column_is_a_list_under_its_name() -> None:
    assert body(table(("Pièces",), ("Carte",), ("Photo",))) == "Pièces_:\n\n- Carte\n- Photo"


def test_a_name_with_a_sign_of_its_own_gets_no_second_one() -> None:
    source = table(("Quoi ?", "Combien"), ("Prix :", "10 €"), ("Gratuit ?", "non"))
    assert body(source) == "Quoi ? Combien\n\n- Prix : 10 €\n- Gratuit ? non"


def test_what_is_empty_leaves_no_trace_where_names_tell_what_is_there() -> None:
    assert body(table(("", "A", ""), ("x", "1", "2"), ("", "3", ""), ("", "", ""))) == (
        "- x\n  A_: 1\n  2\n- A_: 3"
    )
    assert body(table(("", "B"), ("x", ""), ("", "1"))) == "B_:\n\n- x\n- –_: 1"


def test_a_column_without_values_is_told_of() -> None:
    source = table(("Nom", "Âge", "Signature"), ("Jean", "3", ""), ("Zoé", "", ""))
    assert body(source) == ("Nom_:\n\n- Jean\n  Âge_: 3\n  Signature_: –\n- Zoé\n  Signature_: –")


def test_a_table_without_rows_yet_shows_its_columns() -> None:
    assert body("| Nom | Âge |\n|---|---|\n") == "Nom_: Âge"
    assert body("| Nom | Âge | Ville |\n|---|---|---|\n") == "Nom_; Âge_; Ville"
    assert body("| Nom |\n|---|\n") == "Nom_:"
    assert body("| | |\n|---|---|\n") == ""


def test_a_table_without_names_is_the_list_of_its_rows() -> None:
    assert (
        body(table(("", ""), ("Nom", "Jean"), ("Âge", "3"), ("", ""))) == "- Nom_: Jean\n- Âge_: 3"
    )
    assert body(table(("", "", ""), ("a", "b", "c"), ("d", "", "f"))) == (
        "- a_; b_; c\n- d_; –_; f"
    )


def test_a_table_in_a_list_stays_in_its_item() -> None:
    source = "- voir\n\n  | a | b |\n  |---|---|\n  | 1 | 2 |\n"
    assert body(source) == "- voir\n\n  a_: b\n\n  - 1_: 2"


def test_a_line_break_in_a_cell_stays_in_its_item() -> None:
    assert (
        body(table(("a", "b", "c"), ("1", "2<br>3", "4"))) == "a_:\n\n- 1\n  b_: 2\n  3\n  c_: 4"
    )


def test_names_that_would_fill_the_message_stand_once() -> None:
    name = "une colonne au nom bien long " * 10
    source = table(("a", name, "c"), *[("", "", "x")] * 100)
    assert body(source) == f"a_; {name.strip()}_; c\n" + "\n- –_; –_; x" * 100


def test_a_table_may_be_shown_as_one() -> None:
    source = "| [a](http://h.fr/x) | b |\n|:--|--:|\n| ![i](http://h.fr) | **1**<br>2 |"
    rendered = render(source, tables="table")
    assert rendered.body == render(source).body
    assert rendered.formatted_body.replace("\n", "") == (
        '<table><thead><tr><th><a href="http://h.fr/x">a (h.fr)</a></th><th>b</th></tr></thead>'
        "<tbody><tr><td>i</td><td><strong>1</strong><br>2</td></tr></tbody></table>"
    )


def test_no_other_tag_is_written_for_a_table() -> None:
    source = "<table><caption>a</caption></table>\n\n| a | b |\n|---|---|\n"
    tags = set(re.findall(r"<(\w+)", render(source, tables="table").formatted_body))
    assert tags == {"p", "table", "thead", "tr", "th"}


CELLS = st.text("abcé0 €:?*`", max_size=6)


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.tuples(*[CELLS] * width), min_size=1)))
def test_every_word_of_a_table_is_in_both_forms(rows: list[tuple[str, ...]]) -> None:
    rendered = render(table(*rows))
    for word in re.findall(r"\w+|[€?:]", " ".join(cell for row in rows for cell in row)):
        assert word in rendered.body
        assert word in rendered.formatted_body

# ruff: noqa: RUF001  # signs of maths look like others
import re
import time
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.latex import LENGTH, to_text
from bot.core.markdown import render


def html(source: str) -> str:
    return render(source).formatted_body


def body(source: str) -> str:
    return render(source).body


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        ("x^2 + y_i = z", "x² + yᵢ = z"),
        (r"\frac{1}{2}", "1/2"),
        (r"2\frac{1}{2}x", "2 1/2 x"),
        (r"\frac{a+b}{2c}", "(a+b)/(2c)"),
        (r"\frac{a}{b}^2 \dfrac12\tfrac34", "(a/b)² 1/2 3/4"),
        (r"x = \frac{-b \pm \sqrt{b^2-4ac}}{2a}", "x = (-b ± √(b²-4ac))/(2a)"),
        (r"\sqrt[3]{8} = 2", "³√(8) = 2"),
        (r"\sum_{i=1}^{n} x_i", "∑ᵢ₌₁ⁿ xᵢ"),
        (r"\int_0^{+\infty} f(x)\,dx", "∫₀^(+∞) f(x)\u202fdx"),
        (r"\lim_{x \to 0} \frac{\sin x}{x}", "lim_(x → 0) (sin x)/x"),
        (r"\sin^2\theta + 2\cos\theta + \ln\frac{a}{b}", "sin² θ + 2 cos θ + ln a/b"),
        (r"\text{Taux} = \frac{\text{Nombre d'absences}}{\text{Total}} \times 100", None),
        (r"3{,}14 \approx \pi", "3,14 ≈ π"),
        (r"10\,000 \times 20\% = 2\,000", "10\u202f000 × 20% = 2\u202f000"),
        ("20% + x", "20% + x"),
        (r"\left\{1,2\right\} \subset \mathbb{N}", "{1,2} ⊂ ℕ"),
        (r"{a+b}^2 = \left(a+b\right)^2", "(a+b)² = (a+b)²"),
        (r"F_{\text{éq}}^{*} + x_{i,j}", "F_(éq)* + x_(i,j)"),
        (r"20^\circ C", "20°C"),
        (r"f''(x) + f'(x)", "f″(x) + f′(x)"),
        (r"\vec{AB} \cdot \bar{x}", "AB\u20d7 · x\u0304"),
        (r"a \equiv b \pmod{n}", "a ≡ b (mod n)"),
        (r"\Delta = b^2 - 4ac", "Δ = b² - 4ac"),
        (r"P(A \mid B) = \binom{n}{k}", "P(A | B) = C(n, k)"),
        (r"\begin{aligned} a &= b \\[2pt] &= c \end{aligned}", "a = b\n= c"),
        (r"\begin{cases} x & \text{si } x > 0 \\ -x \end{cases}", "{ x, si x > 0 ; -x }"),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", "(1 2 ; 3 4)"),
    ],
)
def test_a_formula_is_told_in_unicode(latex: str, text: str | None) -> None:
    assert to_text(latex) == (text or "Taux = (Nombre d'absences)/Total × 100")


@pytest.mark.parametrize(
    "latex",
    [
        *(r"\inconnu{x}", r"\frac{a}", "{a", "a}", "x^", "^^", "a & b", r"\begin{a}x\end{a}"),
        *(r"\begin{array}{c} a \end{array}", r"\today", r"\input{/etc/passwd}", r"\hat{ab}"),
        *(r"\begin", r"\verb|x", r"\frac\frac\frac", r"\sqrt{a \\ b}", "", " ", "{}"),
        *("{" * 1_000, r"\sqrt[" * 150, r"\left(" * 1_000, "{" * 11 + "x" + "}" * 11),
        *("x" * (LENGTH + 1), r"\begin{cases}" * 70),
    ],
)
def test_what_cannot_be_told_is_not_told_in_part(latex: str) -> None:
    assert to_text(latex) is None


def test_formulas_are_read_in_all_their_signs() -> None:
    source = (
        r"Soit $x_1$, \(y_2\), $$z^3$$ et \[\frac{a*b}{c*d}\] ; **$n$** d'$AB$, $[0, 1]$, $5$."
    )
    assert body(source) == "Soit x₁, y₂, z³ et (a*b)/(c*d) ; n d'AB, [0, 1], 5."
    assert "<strong>n</strong>" in html(source)


@pytest.mark.parametrize(("opening", "closing"), [("$$", "$$"), (r"\[", r"\]")])
def test_a_formula_of_several_lines_is_a_paragraph(opening: str, closing: str) -> None:
    source = f"Donc :\n{opening}\nx\n- y = 3\n+ z_1\n{closing}\nfin"
    assert body(source) == "Donc :\n\nx - y = 3 + z₁\n\nfin"
    assert html(source) == "<p>Donc :</p>\n<p>x - y = 3 + z₁</p>\n<p>fin</p>"
    listed = "- Donc :\n  " + "\n  ".join(source.split("\n")[1:])
    assert body(listed) == "- Donc :\n  x - y = 3 + z₁\n  fin"
    assert html(listed).count("<p>") == html(listed).count("</p>") == 2
    assert body("> " + source.replace("\n", "\n> ")).count("> x - y = 3 + z₁") == 1


def test_rows_are_lines() -> None:
    source = r"\[ \begin{aligned} a &= b \\ c &= d \end{aligned} \]"
    assert html(source) == "<p>a = b<br>\nc = d</p>"
    assert body(source) == "a = b\nc = d"


def test_what_cannot_be_read_stands_as_it_was_written() -> None:
    source = "$$\n\\inconnu{x_1} * y * z\n$$"
    assert body(source) == source
    assert body(r"\(\inconnu{a}_b_c\)") == r"\(\inconnu{a}_b_c\)"


@pytest.mark.parametrize(
    "source",
    [
        *("entre 10 $ et 20 $", "US$5 and US$6", "$10", "5$ ou 6$", "$10 et $20", "($5/$6)"),
        *(
            "$5-$10",
            "de $5 à 6$",
            "$5/h ou 6$",
            "10$/mois et 20$/an",
            "$5 - 10$",
            "5$, soit $4,50",
        ),
        *("$HOME/bin:$PATH", "${A_B}:${C_D}", "$FOO_BAR et $BAZ_QUX", "$x=$y", "$first_name$"),
        *("$_POST['a_b'] et $_GET['c']", "kill $$ et echo $$", "A=$B_C:$D_E", "$ x_1 $", "$x_1 $"),
        *("https://a.fr/$x_1$", "s/$a_1/$b/", "$$", "$$$$", "$", "$$ \\frac{a", "^a_b$|^c_d$"),
    ],
)
def test_prices_and_variables_are_no_formulas(source: str) -> None:
    assert body(source) == source


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (r"\(voir annexe\), fichier\(s\)", "(voir annexe), fichier(s)"),
        (r"\[1\], \[x\], \[texte = suite\]", "[1], [x], [texte = suite]"),
        (r"5 \$ et 6 \$", "5 $ et 6 $"),
        ("`$x_1$` et ``\\(x_1\\)``", r"$x_1$ et \(x_1\)"),
        ("$a_1 `b$`", "$a_1 b$"),
        ("```\n$x_1$\n$$\ny_1\n$$\n```", "$x_1$\n$$\ny_1\n$$"),
        ("    $$x_1$$", "$$x_1$$"),
        ("<https://a.fr/$x_1$>", "https://a.fr/$x_1$"),
        ("[a](https://a.fr/$x_1$)", "a (https://a.fr/$x_1$)"),
        ("$a_1](b) $c", "$a_1](b) $c"),
    ],
)
def test_brackets_code_and_addresses_are_no_formulas(source: str, shown: str) -> None:
    assert body(source) == shown


LATEX = [
    *"{}[]^_&'~%$|()\\ a1é\n*",
    "\\frac",
    "\\sqrt",
    "\\text",
    "\\\\",
    "\\bar",
    "\\sin",
    "\\not",
]
LATEX += [
    "\\begin{cases}",
    "\\end{cases}",
    "\\begin{aligned}",
    "\\end{aligned}",
    "\\begin",
    "\\end",
]
LATEX += [
    "\\left(",
    "\\right.",
    "\\verb",
    "\\item",
    "\\newcommand",
    "\\alpha",
    "\\{",
    "\\}",
    "\\(",
]


def digits(text: str) -> list[str]:
    """Return the digits of a text, raised ones as others."""
    return re.findall(r"[0-9]", normalize("NFKD", text))


@given(st.lists(st.sampled_from(LATEX) | st.characters(), max_size=40).map("".join))
def test_no_formula_raises_or_hides_anything(latex: str) -> None:
    text = to_text(latex)
    if text is not None:
        assert digits(text) == digits(latex)
    for opening, closing in (("$", "$"), ("$$", "$$"), (r"\(", r"\)"), (r"\[", r"\]")):
        render(f"- a {opening}{latex}{closing}\n{opening}{latex}{closing}")


@pytest.mark.parametrize(
    "source",
    [
        *("$a_b$ " * 1_000, "\\(" * 3_000, "$x" * 3_000, "$$\n" * 2_000, "\\[\n" * 2_000),
        *("[$a_b$ " * 800, "$\\frac{a}{b}$ " * 400, "> $$\n" * 1_200, "- $$ a_1\n" * 600),
        "$" + "^{" * 400 + "}" * 400 + "$",
    ],
)
def test_hostile_formulas_take_no_time(source: str) -> None:
    started = time.process_time()
    render(source)
    assert time.process_time() - started < 2

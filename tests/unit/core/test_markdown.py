import re
from html.parser import HTMLParser
from itertools import product
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from bot.core.invisible_text import visible
from bot.core.markdown import SIZE_LIMIT, Part, Tables, render

VOID = {"br", "hr"}
TAGS = {
    *VOID,
    *("p", "h3", "h4", "ul", "ol", "li", "blockquote"),
    *("pre", "code", "strong", "em", "del", "a"),
}
TABLE_TAGS = {"table", "thead", "tbody", "tr", "th", "td"}
ATTRIBUTES = {"a": {"href"}, "code": {"class"}, "ol": {"start"}}

FRAGMENTS = st.sampled_from(
    [
        *("a", "mot ", "É", "👩🏽", "\n", "\n\n", "    ", "\t", "- ", "* ", "1. ", "> "),
        *("```\n", "```py\n", "# ", "##### ", "---\n", "===\n", "**", "*", "_", "`", "~~", "\\"),
        *("| a | b |\n", "|---|---|\n", "|", "![", "[", "]", "](", "(", ")", "[x]: http://h.fr\n"),
        *("https://h.fr/p", "http://u@h.fr", "javascript:x", "data:image/png;base64,x", "<", ">"),
        *("&#x202e;", "&#12;", "&lt;", "&amp;", '"', "\u202e", "\u200b", "\U000e0041", "\0", "\r"),
        *("\ud83d", "\u2028", "@room", "@a:b.fr", "https://matrix.to/#/@a:b.fr", "mailto:a@b.fr"),
        *("<br>", "<b>", "<!--", "<img src=http://h.fr>"),
        *("$", "$$", "\\(", "\\)", "\\[", "\\]", "\\frac{", "x^2", "_{", "}", "\\text{", "\\\\"),
    ]
)
ANYTHING = st.text(st.characters()) | st.lists(FRAGMENTS | st.text(max_size=5)).map("".join)


class Page(HTMLParser):
    """What an HTML parser that is not the sanitiser's makes of the HTML."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.links: list[tuple[str, str]] = []
        self.text = ""
        self.depth = 0
        self._open: list[str] = []
        self._link = ("", 0)
        self.feed(html)
        self.close()
        assert self._open == []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += "\n" if tag == "pre" else ""
        if tag not in VOID:
            self._open.append(tag)
            self.depth = max(self.depth, len(self._open))
        if tag == "a":
            self._link = (dict(attrs).get("href") or "", len(self.text))

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        href, start = self._link
        if tag == "a" and href:
            self.links.append((href, self.text[start:]))

    @override
    def handle_data(self, data: str) -> None:
        self.text += data

    @override
    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


def html(source: str) -> str:
    return render(source).formatted_body


def body(source: str) -> str:
    return render(source).body


def test_common_markdown_becomes_the_html_that_tchap_shows() -> None:
    source = (
        "# Titre\n\nUn **mot** _fin_ ~~faux~~ `code`\n\n- un\n- deux\n\n"
        "3. trois\n4. quatre\n\n> cité\n\n---"
    )
    assert html(source) == (
        "<h3>Titre</h3>\n"
        "<p>Un <strong>mot</strong> <em>fin</em> <del>faux</del> <code>code</code></p>\n"
        "<ul>\n<li>un</li>\n<li>deux</li>\n</ul>\n"
        '<ol start="3">\n<li>trois</li>\n<li>quatre</li>\n</ol>\n'
        "<blockquote>\n<p>cité</p>\n</blockquote>\n<hr>"
    )


def test_the_body_says_the_same_in_plain_text() -> None:
    source = (
        "# Titre\n\nUn **mot** _fin_ ~~faux~~ `code`\n\n- un\n  - dans un\n- deux\n\n"
        "3. trois\n\n   suite\n4. quatre\n\n> cité\n>\n> - point\n\n---\nfin\\\nligne"
    )
    assert body(source) == (
        "Titre\n\nUn mot fin faux code\n\n- un\n  - dans un\n- deux\n\n"
        "3. trois\n\n   suite\n\n4. quatre\n\n> cité\n> \n> - point\n\n---\n\nfin\nligne"
    )


def test_code_is_kept_verbatim_with_its_language() -> None:
    code = "if a < b:\n\n    return '*x*'  # [a](b)\n"
    rendered = render(f"Voici :\n```python title=x\n{code}```")
    assert rendered.body == f"Voici :\n\n{code.strip()}"
    assert '<pre><code class="language-python">if a &lt; b:\n' in rendered.formatted_body
    assert Page(rendered.formatted_body).text.endswith(code)


def test_an_unfinished_fence_is_code_already() -> None:
    assert html("```py\nx = 1") == '<pre><code class="language-py">x = 1</code></pre>'


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5, 6])
def test_a_heading_is_no_larger_than_a_message_needs(level: int) -> None:
    tag = "h3" if level <= 2 else "h4"
    assert html("#" * level + " Titre") == f"<{tag}>Titre</{tag}>"


def test_an_underlined_heading_is_one_of_the_upper_levels() -> None:
    assert html("Titre\n===\n\nPartie\n---") == "<h3>Titre</h3>\n<h3>Partie</h3>"


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("![un *chat*](http://evil.test/a.png)", "un chat"),
        ("![](http://evil.test/a.png)", ""),
        ("![a][r]\n\n[r]: http://evil.test/a.png", "a"),
        ("![a![b](x)](y)", "ab"),
        ("![a](data:image/png;base64,AAAA)", "a"),
        ("![[a](http://evil.test)](http://evil.test)", "a"),
    ],
)
def test_an_image_is_its_alternative_text(source: str, shown: str) -> None:
    rendered = render(source)
    assert rendered.formatted_body == f"<p>{shown}</p>"
    assert rendered.body == shown


SMUGGLED = ["http://evil.test/?q=secret", "https://gouv.fr@evil.test/?q=secret", "//evil.test/x"]
SMUGGLED += ["data:image/svg+xml,<svg/onload=x>", "javascript:fetch(1)", "http://\u0435vil.test"]
FORMS = ["[a]({})", "![a]({})", "<{}>", "[a](<{}> 'b')", "![a](<{}> (b))", "[![a]({})]({})"]
FORMS += ["[a][r]\n\n[r]: {}", "![a][r]\n\n[r]: {}", "[r]\n\n[r]: <{}>", "![r][]\n\n[r]: {} 'b'"]
FORMS += ['<img src="{}">', '<a href="{}">a</a>', '<link rel="prefetch" href="{}">', "{}"]
PLACES = ["{}", "> {}", "- {}", "# {}", "**{}**", "`a` {}", "| a |\n|---|\n| {} |"]


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_loaded_and_no_host_is_hidden(place: str) -> None:
    for form, url in product(FORMS, SMUGGLED):
        first, *rest = form.format(*[url] * 2).split("\n")
        page = Page(html("\n".join([place.format(first), *rest])))
        assert not {tag for tag, _ in page.tags} & {"img", "link"}
        for href, said in page.links:
            assert urlsplit(href).scheme in {"http", "https"}
            host = urlsplit(href).netloc
            assert said == host or said.endswith(f" ({host})") or said.startswith(href)


def test_a_line_break_is_the_one_tag_that_is_read() -> None:
    assert html("a<br>b<BR/>c<br >d") == "<p>a<br>\nb<br>\nc<br>\nd</p>"
    assert body("![a<br />b](c)") == "a\nb"


def test_html_in_the_text_is_text() -> None:
    source = '<script>x</script> <b onclick="x">y</b> <!-- z -->'
    assert body(source) == source
    assert {tag for tag, _ in Page(html(source)).tags} == {"p"}


def test_a_part_is_read_with_its_opening() -> None:
    rendered = render(Part("x = 1\n```\nfin", opening="(2)\n\n```py\n"))
    assert rendered.body == "(2)\n\nx = 1\n\nfin"
    assert '<code class="language-py">x = 1' in rendered.formatted_body


def test_nothing_is_rendered_as_nothing() -> None:
    assert render("").body == ""
    assert Page(html("\n \n")).text.strip() == ""


MODES: list[tuple[Tables, set[str]]] = [("list", TAGS), ("table", TAGS | TABLE_TAGS)]


@given(ANYTHING, st.sampled_from(MODES))
def test_only_what_is_allowed_gets_out(source: str, mode: tuple[Tables, set[str]]) -> None:
    tables, allowed = mode
    page = Page(render(source, tables=tables).formatted_body)
    assert {tag for tag, _ in page.tags} <= allowed
    assert all(set(attributes) <= ATTRIBUTES.get(tag, set()) for tag, attributes in page.tags)
    assert all(re.match(r"https?://[a-z0-9]|mailto:[^@]+@", href) for href, _ in page.links)
    assert page.depth <= 100


@given(ANYTHING)
def test_both_forms_are_visible_and_valid(source: str) -> None:
    rendered = render(source)
    for text in (rendered.body, rendered.formatted_body):
        assert text.encode().decode() == text
        assert text == visible(text) == text.strip()


@given(ANYTHING)
def test_the_body_says_every_word_of_the_html(source: str) -> None:
    rendered = render(source)
    said = re.findall(r"\w+", rendered.body)
    for word in re.findall(r"\w+", Page(rendered.formatted_body).text):
        assert any(word in other for other in said)


@given(st.lists(st.sampled_from(["# ", "**", "[a](http://b.fr)", "\n\n", "- ", "\n", "mot "])))
def test_a_prefix_is_rendered_too(pieces: list[str]) -> None:
    source = "".join(pieces)
    for length in range(len(source)):
        assert Page(html(source[:length])).depth <= 100


@pytest.mark.parametrize(
    "source",
    [
        *(">" * 10_000, "[" * 10_000, "![" * 5_000, "- " * 5_000, "1. " * 3_000, "`" * 10_000),
        *("*" * 5_000 + "a" + "*" * 5_000, "![" * 1_000 + "](a)" * 1_000, "[a](" * 2_000),
        *(
            "[x]: http://h.fr/" + "x" * 2_000 + "\n\n" + "[x]" * 1_000,
            "|" * 900 + "\n" + "|-" * 900,
        ),
        *(
            ">" * 13 + "a\n" + "a\n" * 2_000,
            "".join("  " * n + "- a\n" for n in range(60)),
            "\0" * 9,
        ),
    ],
)
def test_hostile_nesting_ends_as_text_that_fits(source: str) -> None:
    rendered = render(source)
    assert rendered.size <= SIZE_LIMIT or rendered.size <= 6 * len(source) + 100
    assert Page(rendered.formatted_body).depth <= 100


@pytest.mark.parametrize("nested", ["- ", "> "])
def test_no_word_is_lost_at_any_depth(nested: str) -> None:
    for depth in range(30):
        source = nested * depth + "mot"
        assert body(source).endswith("mot")
        assert "mot" in html(source)


def test_a_megabyte_is_rendered_as_it_stands() -> None:
    source = "mot\n" * 250_000
    assert render(source).body == source.strip()


def test_a_task_of_a_list_has_a_box() -> None:
    rendered = render("- [x] fait\n- [X] **deux**\n- [ ] `trois`\n\n1. [ ] [a](https://b.fr)")
    assert rendered.body == "- ☑ fait\n- ☑ deux\n- ☐ trois\n\n1. ☐ a (https://b.fr)"
    assert "<li>☑ <strong>deux</strong></li>\n<li>☐ <code>trois</code></li>" in (
        rendered.formatted_body
    )


@pytest.mark.parametrize(
    "source",
    [
        *("[x] a", "a [x] b", "- a [ ] b", "- [] a", "- [x]a", "- [y] a", "- [ ]", "> [x] a"),
        *("- `[x] a`", "- \\[x] a", "- &#91;x] a", "- [x](http://b.fr) a", "- **[x] a**"),
        *("- [x] a\n\n[x]: http://b.fr", "```\n- [x] a\n```", "    - [x] a", "- a\n\n  [x] b"),
        *("| [x] a |\n|---|", "- # [x] a", "![- [x] a](b)"),
    ],
)
def test_a_box_is_nowhere_else(source: str) -> None:
    assert not {"☐", "☑"} & set(body(source))


@pytest.mark.parametrize(
    ("source", "body"),
    [
        ("| Tâche | Fait |\n|---|---|\n| Relire | [x] |\n| Envoyer | [ ] |",
         "Tâche\u00a0: Fait\n\n- Relire\u00a0: ☑\n- Envoyer\u00a0: ☐"),
        ("| Tâche | Fait |\n|---|---|\n| Relire | [x] oui |",
         "Tâche\u00a0: Fait\n\n- Relire\u00a0: [x] oui"),
    ],
)  # fmt: skip
def test_a_box_alone_in_a_cell_is_one_as_well(source: str, body: str) -> None:
    assert render(source).body == body

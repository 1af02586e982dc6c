import re
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest
from typing_extensions import override

from bot.core.markdown import render

HREF = re.compile(r'href="([^"]*)"')


def html(source: str) -> str:
    return render(source).formatted_body


def body(source: str) -> str:
    return render(source).body


@pytest.mark.parametrize(
    ("source", "link", "shown_in_body"),
    [
        (
            "[la note](https://x.gouv.fr/a?b=c&d#e)",
            '<a href="https://x.gouv.fr/a?b=c&amp;d#e">la note (x.gouv.fr)</a>',
            "la note (https://x.gouv.fr/a?b=c&d#e)",
        ),
        (
            "[n][r]\n\n[r]: HTTPS://X.gouv.fr:8443/A 'titre'",
            '<a href="https://x.gouv.fr:8443/A">n (x.gouv.fr:8443)</a>',
            "n (https://x.gouv.fr:8443/A)",
        ),
        (
            "<https://x.gouv.fr/é>",
            '<a href="https://x.gouv.fr/%C3%A9">https://x.gouv.fr/é</a>',
            "https://x.gouv.fr/é",
        ),
        (
            "[x.gouv.fr](https://x.gouv.fr/a)",
            '<a href="https://x.gouv.fr/a">x.gouv.fr</a>',
            "x.gouv.fr (https://x.gouv.fr/a)",
        ),
        ("[](https://x.fr/a)", '<a href="https://x.fr/a">x.fr</a>', "https://x.fr/a"),
        ("[![](i)](https://x.fr/a)", '<a href="https://x.fr/a">x.fr</a>', "https://x.fr/a"),
        ("<a@b.fr>", '<a href="mailto:a@b.fr">a@b.fr</a>', "a@b.fr"),
        (
            "[moi](mailto:a@b.fr?bcc=x@evil.test)",
            '<a href="mailto:a@b.fr">moi (a@b.fr)</a>',
            "moi (a@b.fr)",
        ),
        (
            "[**la *loi*** `n`](https://x.fr/a)",
            '<a href="https://x.fr/a"><strong>la <em>loi</em></strong> <code>n</code> (x.fr)</a>',
            "la loi n (https://x.fr/a)",
        ),
        (
            "**[voir](https://x.fr)**",
            '<strong><a href="https://x.fr">voir (x.fr)</a></strong>',
            "voir (https://x.fr)",
        ),
    ],
)
def test_a_link_shows_where_it_leads(source: str, link: str, shown_in_body: str) -> None:
    assert html(source) == f"<p>{link}</p>"
    assert body(source) == shown_in_body


@pytest.mark.parametrize(
    ("source", "host"),
    [
        ("[https://gouv.fr](https://evil.test/gouv.fr)", "evil.test"),
        ("[gouv.fr (evil.test)](https://evil.test)", "evil.test"),
        ("[a](https://gouv.fr@evil.test/)", "evil.test"),
        ("<https://gouv.fr@evil.test/>", "evil.test"),
        ("[gouv.fr](https://gouv.fr:x@b@evil.test)", "evil.test"),
        ("[gouv.fr](https://gouv.fr%2f@evil.test)", "evil.test"),
        ("[gouv.fr](<https://gouv.fr\\\\@evil.test>)", "evil.test"),
        ("<https://g\u043euv.fr>", "xn--guv-sed.fr"),  # Cyrillic
        ("[https://g\u043euv.fr](https://g\u043euv.fr)", "xn--guv-sed.fr"),
        ("[a](https://gouv\u3002fr.evil.test)", "gouv.fr.evil.test"),
        ("[gouv.fr&#x200b;](https://evil.test)", "evil.test"),
        ("[&#x202e;tset.live](https://evil.test)", "evil.test"),
    ],
)
def test_a_link_cannot_hide_its_host(source: str, host: str) -> None:
    rendered = render(source)
    assert [urlsplit(href).netloc for href in HREF.findall(rendered.formatted_body)] == [host]
    assert rendered.formatted_body.endswith(f" ({host})</a></p>")
    assert f" (https://{host}" in rendered.body
    assert rendered.body.isprintable()


class Outside(HTMLParser):
    """What stands outside of links, where clients make links of whatever looks like an address."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self._inside = False
        self.feed(html)
        self.close()

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = self._inside or tag == "a"

    @override
    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "a"

    @override
    def handle_data(self, data: str) -> None:
        self.text += "" if self._inside else data


LINKS = ["[la loi](https://hote.fr/a)", "[](https://hote.fr)", "<https://hote.fr/a?b>"]
LINKS += ["[a](https://autre.fr@hote.fr)", "[autre.fr](https://hote.fr)", "<moi@hote.fr>"]
LINKS += [
    "[*a* **b** `c`](mailto:moi@hote.fr?subject=x)",
    "[r]",
    "[a][r]",
    "[![i](h)](<//hote.fr>)",
]
LINKS += ["[![i](https://hote.fr/i.png)](https://hote.fr/a)", "![i](https://hote.fr/i.png)"]
LINKS += ["[a](https://matrix.to/#/@moi:hote.fr)", "[a](javascript:hote.fr)"]
PLACES = ["{}", "# {}", "- {}\n- {}", "> {}", "**a {} b**", "~~{}~~", "- [x] {}", "a {}, {}\\\n{}"]


PLACES += [
    "| {} | a | b |\n|---|---|---|\n| {} | {} | c |",
    "| {} | a |\n|---|---|",
    "| {} |\n|-|",
]
PLACES += ["| a | b |\n|---|---|\n| {} | {} |", "| | |\n|---|---|\n| {} | |", "| a |\n|-|\n| {} |"]


@pytest.mark.parametrize("place", PLACES)
def test_no_address_stands_beside_a_link(place: str) -> None:
    for link in LINKS:
        rendered = render(place.replace("{}", link) + "\n\n[r]: https://hote.fr/r")
        assert not re.search(
            r"hote|autre|https?:|mailto:|@", Outside(rendered.formatted_body).text
        )


NO_LINKS = ["javascript:alert(1)", "JaVaScRiPt:x", "java&#10;script:x", "vbscript:x", "data:,x"]
NO_LINKS += ["magnet:?xt=x", "file:///etc/passwd", "tel:1", "mxc://b.fr/a", "matrix:u/a:b.fr"]
NO_LINKS += ["//evil.test", "/a", "a", "#a", "https:evil.test", "https:/evil.test", "https://"]
NO_LINKS += ["https://[::1]/", "http://a%2eb", "https://gouv.fr&#9;.evil.test", "http://a b"]
NO_LINKS += ["mailto:", "mailto:a@b.fr,c@d.fr", "mailto:a@b.fr;c@d.fr"]
PERMALINKS = ["https://matrix.to/#/@a:b.fr", "HTTPS://Matrix.To/#/%40a:b.fr"]
PERMALINKS += ["http://matrix.to./#/@a:b.fr", "https://matrix.to:443/#/@a:b.fr"]
PERMALINKS += ["https://x@matrix.to/#/!r:b.fr", "https://tchap.gouv.fr/#/user/@a:b.fr"]
PERMALINKS += ["https://tchap.gouv.fr/%23/user/@a:b.fr", "https://app.element.io/#/room/!r:b.fr"]


@pytest.mark.parametrize("url", NO_LINKS + PERMALINKS)
def test_what_may_not_be_a_link_is_its_words(url: str) -> None:
    assert render(f"[un mot](<{url}>)").formatted_body == "<p>un mot</p>"
    assert render(f"[un mot][r]\n\n[r]: <{url}>").body == "un mot"
    assert "<a" not in html(f"<{url}>")


def test_a_host_that_cannot_be_is_linked_nowhere() -> None:
    assert HREF.findall(html("[un mot](https://1.2.3.4.5/)")) == []


def test_ids_in_the_text_are_text() -> None:
    assert html("@room demande à @a:b.fr") == "<p>@room demande à @a:b.fr</p>"

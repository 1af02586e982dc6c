import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.core.markdown import SIZE_LIMIT, Part, render
from bot.core.message_split import PART_LIMIT, Cuts, split

FRAGMENTS = st.sampled_from(
    [
        *(
            "mot ",
            "é",
            "👩🏽\u200d🚀",
            "\n",
            "\n\n",
            "\r\n",
            "\u2028",
            "    ",
            "\t",
            "- ",
            "  - ",
            "1. ",
        ),
        *(
            "> ",
            "```\n",
            "```py\n",
            "    ```\n",
            "~~~\n",
            "# ",
            "===\n",
            "**",
            "`",
            "\\",
            "\ud83d",
        ),
        *("$$\n", "\\[\n", "\\]\n", "$x_1$", "Fin. ", "Ah ! ", "art. 5 "),
        *("| a | b |\n", "|---|---|\n", "| c | d |\n", "[x](http://h.fr)", "a" * 30, "\0", " "),
    ]
)
MARKDOWN = st.lists(FRAGMENTS | st.text(st.characters(), max_size=5), max_size=60).map("".join)
LIMITS = st.integers(1, 200)


def sources(parts: tuple[Part, ...]) -> list[str]:
    return [part.source for part in parts]


def bodies(source: str, limit: int) -> list[str]:
    return [render(part).body for part in split(source, limit)]


@given(MARKDOWN, LIMITS)
def test_nothing_is_lost_or_added(source: str, limit: int) -> None:
    assert "".join(sources(split(source, limit))) == source


@given(MARKDOWN, LIMITS)
def test_no_part_is_longer_than_the_limit(source: str, limit: int) -> None:
    *full, last = sources(split(source, limit))
    assert all(0 < len(part) <= limit for part in full)
    assert len(last.rstrip()) <= limit
    assert last.strip() or not full


@given(MARKDOWN, LIMITS, st.data())
def test_a_growing_text_never_moves_a_cut(source: str, limit: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(source)))
    *full, _ = split(source[:length], limit)
    assert list(split(source, limit)[: len(full)]) == full


@given(MARKDOWN, LIMITS, st.lists(st.integers(0, 300)))
def test_the_cuts_of_a_growing_text_are_those_of_the_whole(
    source: str, limit: int, lengths: list[int]
) -> None:
    cuts = Cuts(limit)
    for version in [*(source[:length] for length in sorted(lengths)), source]:
        list(cuts.more(version))
        assert (*cuts.full, cuts.rest(version)) == split(version, limit)


def test_a_newer_version_costs_what_is_new_in_it() -> None:
    cuts, text = (
        Cuts(),
        "L'agent **doit** lire [la note](https://x.gouv.fr). Il répond.\n\n" * 2_500,
    )
    started = time.process_time()
    made = [len(list(cuts.more(text[:length]))) for length in range(0, len(text), 1_000)]
    assert time.process_time() - started < 5  # all of it each time would take 30
    assert sum(made) > 20


def test_a_short_text_is_one_part() -> None:
    assert split("") == (Part(""),)
    assert split("a" * PART_LIMIT + "\n\n") == (Part("a" * PART_LIMIT + "\n\n"),)


def test_later_parts_are_numbered_for_the_reader_alone() -> None:
    first, second, third = split("un\n\ndeux\n\ntrois", 7)
    assert [render(part).body for part in (first, second, third)] == [
        "un",
        "(2)\n\ndeux",
        "(3)\n\ntrois",
    ]
    assert sources((first, second, third)) == ["un\n\n", "deux\n\n", "trois"]


@pytest.mark.parametrize(
    ("source", "limit", "expected"),
    [
        ("un\n\ndeux\n\ntrois quatre", 16, ["un\n\ndeux\n\n", "trois quatre"]),
        ("un deux\n\n# T\n\ntrois quatre", 18, ["un deux\n\n", "# T\n\ntrois quatre"]),
        ("- un\n- deux\n- trois", 14, ["- un\n- deux\n", "- trois"]),
        ("- un\n  deux\n  - trois\n    quatre", 30, ["- un\n  deux\n", "  - trois\n    quatre"]),
        ("un deux\ntrois quatre", 18, ["un deux\n", "trois quatre"]),
        ("un deux trois", 10, ["un deux ", "trois"]),
        ("Un. Deux trois", 12, ["Un. ", "Deux trois"]),
        ("Un deux. Trois ! Quatre cinq", 24, ["Un deux. Trois ! ", "Quatre cinq"]),
        ("Oui. « Non. » (Si !) Peut-être", 26, ["Oui. « Non. » (Si !) ", "Peut-être"]),
        ("**Un.** Deux trois quatre", 20, ["**Un.** ", "Deux trois quatre"]),
        ("Un. Deux trois quatre cinq", 24, ["Un. Deux trois quatre ", "cinq"]),
        ("Un. Deux\ntrois quatre", 15, ["Un. Deux\n", "trois quatre"]),
        ("abcdefgh", 5, ["abcde", "fgh"]),
        ("abcde\u0301fgh", 5, ["abcd", "e\u0301fgh"]),
        ("ab👩🏽\u200d🚀c", 5, ["ab", "👩🏽\u200d🚀c"]),
        ("abcd\r\nefg", 5, ["abcd", "\r\nefg"]),
    ],
)
def test_a_cut_is_where_it_hurts_least(source: str, limit: int, expected: list[str]) -> None:
    assert sources(split(source, limit)) == expected


@pytest.mark.parametrize(
    "words",
    [
        *("l'art. L. 121", "le n°. 5", "M. Dupont", "Mme. Martin", "cf. Annexe", "p. ex. Paris"),
        *(
            "etc. Les",
            "3.14 Puis",
            "J.-C. Les",
            "c.-à-d. Les",
            "… et",
            "1. Les",
            "a. b",
            "fin. - Un",
        ),
        *("fin. # Un", "fin. 2. Un", "fin. * Un", "fin. > Un", "fin. + Un", "a.b Un", "(cf. Un"),
    ],
)
def test_a_point_within_a_sentence_is_no_end_of_it(words: str) -> None:
    first, _ = sources(split(f"Un mot {words} deux trois quatre", len(words) + 18))
    assert first == f"Un mot {words} deux "


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    source = (
        "L'agent lit l'art. 5 de la loi, c'est-à-dire 3,5 pages. Il répond à M. Dupont. " * 200
    )
    *full, last = sources(split(source))
    assert len(full) == 2
    assert all(part.endswith((" pages. ", " Dupont. ")) for part in [*full, last])


@pytest.mark.parametrize("unit", [".", ". ", ".)", "! ", "…\xa0", ".»", " ", "A. "])
def test_many_signs_take_no_time(unit: str) -> None:
    started = time.process_time()
    split("a" + unit * 6_000)
    assert time.process_time() - started < 2


CODE = [f"x{number} = {number}" for number in range(40)]


@pytest.mark.parametrize("depth", [0, 1, 2, 3, 4])
@pytest.mark.parametrize(("fence", "end"), [("```python", "```"), ("~~~~ python title=x", "~~~~")])
def test_a_fence_cut_in_two_is_code_in_both_parts(depth: int, fence: str, end: str) -> None:
    items = "".join("  " * level + "- a\n" for level in range(depth))
    lines = "".join("  " * depth + line + "\n" for line in (fence, *CODE, end))
    parts = split(f"{items}\n{lines}\nfin", 100)
    assert len(parts) > 2
    shown = [render(part).formatted_body.split('<code class="language-python">') for part in parts]
    assert [len(pieces) for pieces in shown] == [2] * len(parts)
    code = "".join(after.partition("</code>")[0] for _, after in shown)
    assert code.splitlines() == CODE
    assert shown[-1][1].endswith("<p>fin</p>")


def test_a_fence_in_a_quote_stays_code_in_the_quote() -> None:
    parts = split("> ```\n" + "".join(f"> {line}\n" for line in CODE), 100)
    rendered = [render(part) for part in parts]
    quoted = [line for one in rendered for line in one.body.split("\n") if line.startswith("> ")]
    assert quoted == [f"> {line}" for line in CODE]
    assert all(one.formatted_body.count("<code>") == 1 for one in rendered)


def test_a_closing_fence_is_not_left_alone() -> None:
    source = "```\n" + "a\n" * 20 + "```\nfin"
    for limit in range(20, len(source)):
        assert "<code></code>" not in "".join(
            render(part).formatted_body for part in split(source, limit)
        )


def test_a_table_cut_in_two_keeps_its_columns() -> None:
    rows = [f"| n{number} | {number} |\n" for number in range(20)]
    shown = bodies("| Nom | Âge |\n|---|---|\n" + "".join(rows), 100)
    items = [line for body in shown for line in body.split("\n") if line.startswith("- ")]
    assert items == [f"- n{number}\u00a0: {number}" for number in range(20)]


def test_a_list_cut_in_two_goes_on_counting() -> None:
    assert bodies("1. un\n2. deux\n3. trois", 16) == ["1. un\n2. deux", "(2)\n\n3. trois"]


def test_what_is_indented_far_into_a_list_is_not_read_as_code() -> None:
    source = "1. un\n" + "    - deux\n        - trois\n          suite\n" * 10
    for limit in (40, 55, 70, 100):
        parts = split(source, limit)
        assert len(parts) > 3
        for part in parts:
            assert "<code>" not in render(part).formatted_body


def test_a_head_too_long_to_repeat_is_not_repeated() -> None:
    source = "```" + "x" * 500 + "\n" + "a\n" * 600
    assert [part.opening for part in split(source, 1_000)] == ["", "(2)\n\n"]


@given(
    st.lists(st.text("ab `~#-|>\t", max_size=12).filter(lambda line: "```" not in line)), LIMITS
)
def test_every_line_of_a_cut_fence_is_still_code(lines: list[str], limit: int) -> None:
    source = "".join(f"{line}\n" for line in ("````", *lines, "````"))
    rendered = [render(part).formatted_body for part in split(source, max(limit, 60))]
    code = [html.partition("<code>")[2].partition("</code>")[0] for html in rendered]
    assert "".join(code).splitlines() == [
        line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for line in lines
    ]


def sent_size(part: Part) -> int:
    """Bytes of an edit's `m.room.encrypted`: ASCII JSON, Megolm's base64, and what is around."""
    rendered = render(part)
    content = {
        "msgtype": "m.text",
        "body": rendered.body,
        "format": "org.matrix.custom.html",
        "formatted_body": rendered.formatted_body,
        "m.mentions": {},
        "fr.gouv.assistant.generated": {"model": "m" * 100, "prompt": "$" + "e" * 43, "added": []},
    }
    edit = {
        "msgtype": "m.text",
        "body": f"* {rendered.body.partition(chr(10))[0][:100]}",
        "m.mentions": {},
        "m.new_content": content,
        "m.relates_to": {"rel_type": "m.replace", "event_id": "$" + "e" * 43},
    }
    payload = {"type": "m.room.message", "room_id": "!" + "r" * 100, "content": edit}
    return len(json.dumps(payload)) * 4 // 3 + 2_048


WORST = ["&", "<", "\U0001f600", "\u0416", "\x01", '"', "\\", "a\n", "é\n\n", "- a\n", "1.\n1)\n"]
WORST += [
    "**a**",
    "*a ",
    "`a`",
    ">\n\n",
    "[a](http://b.c)",
    "<http://b.c>",
    "#\n",
    "---\n",
    "<br>",
]
WORST += [
    "- \u0416\n",
    "> - # `&`\n\n",
    "| a | b |\n|---|---|\n",
    "\ud83d",
    "~~a~~",
    "\\\n",
    "![](a)",
]
WORST += ["[" + "x" * 500 + "]: http://h.fr/" + "y" * 2_000 + "\n\n" + "[" + "x" * 500 + "]" * 3]
WORST += [
    "| " + "n" * 80 + " |\n|---|\n" + "a\n" * 1_000,
    "[a]: http://" + "y" * 2_000 + "\n[a]" * 999,
]


@pytest.mark.parametrize("unit", WORST)
def test_every_part_fits_one_encrypted_event(unit: str) -> None:
    parts = split(unit * (5 * PART_LIMIT // 4 // len(unit) + 1))
    assert len(parts) >= 2
    assert max(map(sent_size, parts)) <= 65_536


@settings(max_examples=20)  # each renders some ten thousand characters
@given(
    st.lists(st.sampled_from(WORST) | st.text(st.characters(), min_size=1), min_size=1, max_size=3)
)
def test_every_part_of_a_mixture_fits_too(pieces: list[str]) -> None:
    source = "".join(pieces)
    for part in split(source * (PART_LIMIT // len(source) + 1)):
        assert render(part).size <= SIZE_LIMIT


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "L'été dernier, où allait-il ? ",
        "L'agent **doit** lire [la note](https://x.gouv.fr). ",
    ],
)
def test_french_gets_the_whole_limit(unit: str) -> None:
    first, *_ = split(unit * PART_LIMIT)
    assert len(first.source) > PART_LIMIT - len(unit)
    assert "**" not in render(first).body

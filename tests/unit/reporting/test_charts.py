"""Charts as documents and pictures: what is in them, and what is not."""

import io
import re
import struct
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
import resvg_py
from PIL import Image

from bot.reporting.charts import (
    PICTURE_SIZE,
    Chart,
    Series,
    Theme,
    letters_below,
    pictured,
    png,
    svg,
)

LINE = Chart(
    kind="line",
    title="Satisfaction",
    labels=("1 nov.", "2 nov.", "3 nov."),
    series=(Series("Part de « Oui »", (50.0, None, 75.0), ((40.0, 60.0), None, (70.0, 80.0))),),
    unit=" %",
    top=100,
)
BARS = Chart(
    kind="bar",
    title="Réponses",
    labels=("<1>", "&2"),
    series=(Series("A", (3.0, 0.0)), Series("B", (1.0, 2.0))),
)
EMPTY = Chart(kind="line", title="Rien", labels=(), series=(Series("A", ()),))
GAPS = Chart(kind="line", title="Rien", labels=("1", "2"), series=(Series("A", (None, None)),))
ALL = pytest.mark.parametrize("chart", [LINE, BARS, EMPTY, GAPS])


def elements(document: str) -> list[ET.Element]:
    return list(ET.fromstring(document).iter())  # noqa: S314  # our own


def dots(document: str) -> int:
    return sum("dot reactive" in (one.get("class") or "") for one in elements(document))


@ALL
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_document_needs_nothing_from_elsewhere_and_runs_nothing(
    chart: Chart, theme: Theme
) -> None:
    document = svg(chart, theme)
    tags = {one.tag.rpartition("}")[2] for one in elements(document)}
    assert "script" not in tags
    assert "href" not in document
    assert "url(" not in document
    assert "@import" not in document


def test_each_value_is_a_dot_and_what_is_missing_is_none() -> None:
    assert dots(svg(LINE, "light")) == 2
    assert "Aucune donnée" in svg(EMPTY, "light")
    assert "Aucune donnée" in svg(GAPS, "light")


@pytest.mark.parametrize(
    ("counts", "scale"), [((1.0, 0.0), ["0", "1"]), ((2.0, 3.0), ["0", "1", "2", "3"])]
)
def test_nothing_is_counted_by_halves(counts: tuple[float, ...], scale: list[str]) -> None:
    chart = Chart(
        kind="bar", title="Réponses", labels=("Oui", "Non"), series=(Series("A", counts),)
    )

    document = elements(svg(chart, "light"))
    [axis] = [one for one in document if one.get("class") == "axis y always_show"]
    assert [one.text for one in axis.iter() if one.tag.endswith("}text")] == scale


def test_the_themes_differ_and_the_same_chart_is_drawn_once() -> None:
    assert svg(LINE, "light") != svg(LINE, "dark")
    assert svg(LINE, "light") is svg(LINE, "light")


@ALL
async def test_a_picture_is_a_png_of_the_size_that_is_told_for_it(chart: Chart) -> None:
    picture = await png(chart)
    assert picture.startswith(b"\x89PNG\r\n")
    assert struct.unpack(">II", picture[16:24]) == PICTURE_SIZE
    assert len(picture) < 100_000


SHOWN = 340  # pixels, as wide as clients show a picture in a room's timeline
SMALLEST = 10  # pixels, of a letter that can be read


def letters(document: str) -> list[tuple[str, float]]:
    """Return each text of a document, with its size where the picture is shown so wide."""
    root = ET.fromstring(document)  # noqa: S314  # our own
    width = float((root.get("viewBox") or "").split()[2])
    sheet = "".join(one.text or "" for one in root.iter() if one.tag.endswith("}style"))
    rules = re.findall(r"#\S+ ([^{},]+)\{[^}]*font-size:([\d.]+)px", sheet)
    found = []

    def look(one: ET.Element, around: list[set[str]]) -> None:
        around = [*around, {*(one.get("class") or "").split()}]
        if one.tag.endswith("}text"):
            sizes = [float(size) for selector, size in rules if meets(selector, around)]
            found.append((one.text or "", sizes[-1] * SHOWN / width))  # the last rule holds
        for child in one:
            look(child, around)

    look(root, [])
    return found


def meets(selector: str, around: list[set[str]]) -> bool:
    """Tell whether a text is meant by a selector of classes, as pygal writes them."""
    steps = [{*step.split(".")[1:]} for step in selector.split()]
    left = iter(around[:-1])
    outer = all(any(step <= classes for classes in left) for step in steps[:-1])
    return outer and steps[-1] <= around[-1]


LONG = Chart(
    kind="line",
    title="Part de « Oui » dans les avis des trente derniers jours, en moyenne, par jour",
    labels=tuple(f"{day} sept." for day in range(1, 31)),
    series=(Series("A", (50.0,) * 30), Series("B", (60.0,) * 30)),
    unit=" %",
    top=100,
)


@pytest.mark.parametrize("chart", [LINE, BARS, EMPTY, GAPS, LONG])
def test_every_letter_of_a_picture_can_be_read_where_a_client_shows_it(chart: Chart) -> None:
    shown = letters(pictured(chart))
    assert any(chart.title.startswith(text) for text, _ in shown if text)
    assert min(size for _, size in shown) >= SMALLEST


@pytest.mark.parametrize("labels", [2, 3, 4, 5, 11, 20])
def test_labels_of_as_many_letters_as_have_room_below_a_picture_are_all_shown(labels: int) -> None:
    each = letters_below(labels)
    names = tuple(f"{number:x<{each}}"[:each] for number in range(labels))
    chart = Chart(kind="bar", title="", labels=names, series=(Series("A", (1.0,) * labels),))

    shown = {text for text, _ in letters(pictured(chart))}

    assert each < 1 or {*names} <= shown


def test_labels_that_have_no_room_below_a_picture_are_left_out() -> None:
    shown = [text for text, _ in letters(pictured(LONG))]
    assert [text for text in shown if text in LONG.labels] == [*LONG.labels[::8]]


async def test_a_picture_has_its_words_without_a_font_of_the_system() -> None:
    assert await png(LINE) != await png(replace(LINE, unit=" m"))


async def test_a_picture_that_is_not_drawn_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(OSError, match="has ended with 1"):
        await png(LINE)


PAPER: dict[Theme, str] = {"light": "#ffffff", "dark": "#161616"}  # of the pages


def luminance(colour: tuple[int, ...]) -> float:
    """Return the relative luminance of a colour (WCAG 2.2)."""
    parts = [one / 255 for one in colour[:3]]
    red, green, blue = (
        one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Return the contrast of two colours (WCAG 2.2)."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def painted(document: str, theme: Theme) -> Image.Image:
    """Return a document as it is painted on a page."""
    picture = resvg_py.svg_to_bytes(
        svg_string=document, background=PAPER[theme], skip_system_fonts=True
    )
    return Image.open(io.BytesIO(picture)).convert("RGB")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("narrow", [False, True])
def test_the_bars_of_an_interval_can_be_told_from_the_page(theme: Theme, *, narrow: bool) -> None:
    bare = replace(LINE, series=(replace(LINE.series[0], intervals=()),))
    with_bars = painted(svg(LINE, theme, narrow=narrow), theme)
    without = painted(svg(bare, theme, narrow=narrow), theme)

    paper = without.getpixel((1, 1))
    assert isinstance(paper, tuple)
    pairs = zip(with_bars.get_flattened_data(), without.get_flattened_data(), strict=True)
    bars = [one for one, other in pairs if one != other and other == paper]
    assert len(bars) > 50
    assert max(contrast(one, paper) for one in bars if isinstance(one, tuple)) >= 3


@pytest.mark.parametrize("chart", [LINE, BARS, GAPS, LONG])
def test_a_chart_for_a_telephone_is_no_wider_than_one_and_can_be_read(chart: Chart) -> None:
    document = svg(chart, "light", narrow=True)
    width = float((ET.fromstring(document).get("viewBox") or "").split()[2])  # noqa: S314  # our own
    assert width <= 360
    assert min(size for _, size in letters(document)) >= SMALLEST
    shown = [text for text, _ in letters(document)]
    assert len(chart.series) == 1 or {one.name for one in chart.series} <= {*shown}


def test_a_chart_is_in_the_language_of_its_readers() -> None:
    english = replace(EMPTY, language="en")
    assert "No data" in svg(english, "light")
    halves = Chart(
        kind="line", title="", labels=("a", "b"), series=(Series("A", (0.5, 1.5)),), language="en"
    )
    assert "0.4" in {text for text, _ in letters(svg(halves, "light"))}
    assert "0,4" in {text for text, _ in letters(svg(replace(halves, language="fr"), "light"))}

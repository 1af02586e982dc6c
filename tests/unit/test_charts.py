"""Charts as documents and pictures: what is in them, and what is not."""

import struct
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from bot.charts import Chart, Series, Theme, png, svg

LINE = Chart(
    "line",
    "Satisfaction",
    ("1 nov.", "2 nov.", "3 nov."),
    (Series("Part de « Oui »", (50.0, None, 75.0), ((40.0, 60.0), None, (70.0, 80.0))),),
    " %",
    100,
)
BARS = Chart("bar", "Réponses", ("<1>", "&2"), (Series("A", (3.0, 0.0)), Series("B", (1.0, 2.0))))
EMPTY = Chart("line", "Rien", (), (Series("A", ()),))
GAPS = Chart("line", "Rien", ("1", "2"), (Series("A", (None, None)),))
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
    chart = Chart("bar", "Réponses", ("Oui", "Non"), (Series("A", counts),))

    document = elements(svg(chart, "light"))
    [axis] = [one for one in document if one.get("class") == "axis y always_show"]
    assert [one.text for one in axis.iter() if one.tag.endswith("}text")] == scale


def test_the_themes_differ_and_the_same_chart_is_drawn_once() -> None:
    assert svg(LINE, "light") != svg(LINE, "dark")
    assert svg(LINE, "light") is svg(LINE, "light")


@ALL
async def test_a_picture_is_a_png_of_twice_the_size(chart: Chart) -> None:
    picture = await png(chart)
    assert picture.startswith(b"\x89PNG\r\n")
    assert struct.unpack(">II", picture[16:24]) == (1840, 680)
    assert len(picture) < 150_000


async def test_a_picture_has_its_words_without_a_font_of_the_system() -> None:
    assert await png(LINE) != await png(replace(LINE, unit=" m"))


async def test_a_picture_that_is_not_drawn_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(OSError, match="has ended with 1"):
        await png(LINE)

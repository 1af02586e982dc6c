"""Charts, as SVG for a web page or as PNG for a room (drawn by pygal, rasterised by resvg)."""

import asyncio
import math
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import font_source_sans_pro
import pygal
import resvg_py
from pygal.style import Style

# pygal installs an import hook for its plugins, of a kind that Python 3.11 warns of and that
# Python 3.12 ignores. The bot has no such plugin.
sys.meta_path[:] = [one for one in sys.meta_path if type(one).__module__ != pygal.__name__]

Theme = Literal["light", "dark"]
Kind = Literal["line", "bar"]

_ZOOM: Final = 2.0  # scale of pictures, as screens have a high pixel density
_LETTER: Final = 0.55  # width of a letter, as a share of the font size
_FONT: Final = "Source Sans Pro"
_FONT_FILES: Final = [
    str(Path(font_source_sans_pro.__path__[0]) / "files" / f"SourceSansPro-{weight}.ttf")
    for weight in ("Regular", "Semibold")
]
_FEW: Final = 6  # largest count with a scale of ours; for larger ones, pygal's is in whole numbers
_KEPT: Final = 64  # drawn charts in the cache
_POINTS: Final = {"fr": ",", "en": "."}  # decimal separators
NO_DATA: Final = {"fr": "Aucune donnée", "en": "No data"}


@dataclass(frozen=True, slots=True)
class Series:
    """One line, or one set of bars.

    Attributes:
        name: its name in the legend.
        values: a value for each label; None for no value.
        intervals: lower and upper bound of each value's confidence interval; () for none.
    """

    name: str
    values: tuple[float | None, ...]
    intervals: tuple[tuple[float, float] | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """The content of a chart.

    Attributes:
        title: title, shown in pictures only, as a page has a heading.
        labels: labels of the values, from left to right.
        unit: unit after each number of the scale.
        top: end of the scale; None for a value above the largest one.
        language: language of the numbers.
    """

    kind: Kind
    title: str
    labels: tuple[str, ...]
    series: tuple[Series, ...]
    unit: str = ""
    top: float | None = None
    language: Literal["fr", "en"] = "fr"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """The sizes of a drawing and of its letters, in SVG units.

    Attributes:
        size: width and height.
        sides: margin around the drawing, and width of the scale on its left.
        label: font size of the scale, of the labels below the chart, and of the legend.
        title: font size of the title.
        least: number of labels that are shown below the chart at least.
    """

    size: tuple[int, int]
    sides: tuple[int, int]
    label: int
    title: int
    least: int = 1

    @property
    def _below(self) -> float:
        """The width of the chart itself, in font sizes of a label."""
        return (self.size[0] - 2 * self.sides[0] - self.sides[1]) / self.label

    def labels_below(self, letters: int) -> int:
        """Return how many labels of so many letters fit side by side, one letter apart."""
        return max(self.least, int(self._below / (1 + letters * _LETTER)))

    def letters_below(self, labels: int) -> int:
        """Return how many letters each of so many labels may have."""
        return int((self._below / labels - 1) / _LETTER)


# A page uses the whole screen; on a telephone, about 358 pixels are left for a chart. Clients show
# a picture in a timeline about 340 pixels wide, in which no letter may be smaller than 10 pixels.
_PAGE: Final = _Layout(size=(920, 340), sides=(12, 52), label=14, title=20, least=13)
_NARROW: Final = _Layout(size=(358, 300), sides=(6, 40), label=12, title=16)
_PICTURE: Final = _Layout(size=(510, 400), sides=(16, 60), label=16, title=18)
PICTURE_SIZE: Final = (  # pixels
    round(_PICTURE.size[0] * _ZOOM),
    round(_PICTURE.size[1] * _ZOOM),
)


@dataclass(frozen=True, slots=True)
class _Colours:
    ink: str
    faint: str
    background: str
    series: tuple[str, str]


_COLOURS: Final[dict[Theme, _Colours]] = {
    "light": _Colours("#3a3a3a", "#dddddd", "#ffffff", ("#000091", "#b34000")),
    "dark": _Colours("#cecece", "#3a3a3a", "#161616", ("#8585f6", "#fc8d68")),
}


@lru_cache(maxsize=_KEPT)
def svg(chart: Chart, theme: Theme, *, narrow: bool = False) -> str:
    """Return the chart as an SVG document that refers to no other resource.

    Args:
        chart: the chart's content.
        theme: theme of the page that contains it.
        narrow: whether it is for a telephone: with letters as large as elsewhere, and fewer
            labels.
    """
    return str(_drawn(chart, theme, "", _NARROW if narrow else _PAGE).render(is_unicode=True))


def pictured(chart: Chart) -> str:
    """Return the SVG document of a picture, with its title and with large letters."""
    return str(_drawn(chart, "light", chart.title, _PICTURE).render(is_unicode=True))


def letters_below(labels: int) -> int:
    """Return how many letters each of so many labels below a picture may have."""
    return _PICTURE.letters_below(labels)


async def png(chart: Chart) -> bytes:
    """Return the chart as a picture, with its title, on white.

    Another process draws it, as resvg holds the interpreter's lock for about 120 ms.

    Raises:
        OSError: the process cannot be started, or ends without a picture.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        picture, _ = await process.communicate(pictured(chart).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise OSError(f"the process that draws charts has ended with {process.returncode}")
    return picture


async def avatar() -> bytes:
    """Return the assistant's logo as a PNG, for its account's profile."""
    document = Path(__file__).with_name("avatar.svg").read_text()
    return await asyncio.to_thread(rasterised, document)


def rasterised(document: str) -> bytes:
    """Return one of the bot's SVG documents as a PNG, in a font that comes with the bot."""
    return resvg_py.svg_to_bytes(
        svg_string=document,
        background=_COLOURS["light"].background,
        skip_system_fonts=True,
        font_files=_FONT_FILES,
        font_family=_FONT,
        sans_serif_family=_FONT,
        zoom=_ZOOM,
    )


def _drawn(chart: Chart, theme: Theme, title: str, layout: _Layout) -> Any:  # noqa: ANN401  # pygal has no hints
    empty = all(value is None for series in chart.series for value in series.values)
    draw = pygal.Line if chart.kind == "line" else pygal.Bar
    point = _POINTS[chart.language]
    drawing = draw(
        style=_style(_COLOURS[theme], layout),
        css=("file://style.css", "file://graph.css", _css(theme)),
        js=(),
        width=layout.size[0],
        height=layout.size[1],
        title=title or None,
        range=(0, chart.top) if chart.top else None,
        min_scale=4,
        max_scale=6,
        include_x_axis=True,
        show_legend=len(chart.series) > 1,
        legend_at_bottom=True,
        legend_at_bottom_columns=len(chart.series),
        legend_box_size=12,
        value_formatter=lambda value: f"{value:g}{chart.unit}".replace(".", point),
        truncate_label=-1,
        truncate_legend=-1,
        show_minor_x_labels=False,
        x_labels_major_every=_every(chart.labels, layout),
        dots_size=3,
        allow_interruptions=True,
        margin=layout.sides[0],
        spacing=10,
        print_values=False,
        show_y_labels=not empty,
        show_y_guides=not empty,
        no_data_text=NO_DATA[chart.language],
    )
    drawing.add_xml_filter(_without_script)
    drawing.x_labels = list(chart.labels)
    most = max((value or 0 for series in chart.series for value in series.values), default=0)
    if chart.kind == "bar" and 0 < most <= _FEW:
        drawing.y_labels = list(range(int(most) + 1))  # whole numbers only, as these are counts
    for series in chart.series:
        drawing.add(series.name, _values(series))
    return drawing


def _every(labels: Sequence[str], layout: _Layout) -> int | None:
    """Return n so that every n-th label is shown; None if there are no labels."""
    longest = max(map(len, labels), default=0)
    return math.ceil(len(labels) / layout.labels_below(longest)) or None


def _without_script(root: ET.Element) -> ET.Element:
    """Remove pygal's script elements, which only serve scripts that are not included."""
    for parent in root.iter():
        for script in parent.findall("script"):
            parent.remove(script)
    return root


def _values(series: Series) -> list[Any]:
    if not series.intervals:
        return list(series.values)
    return [
        value if within is None else {"value": value, "ci": {"low": within[0], "high": within[1]}}
        for value, within in zip(series.values, series.intervals, strict=True)
    ]


def _style(colours: _Colours, layout: _Layout) -> Style:
    return Style(
        background="transparent",
        plot_background="transparent",
        foreground=colours.ink,
        foreground_strong=colours.ink,
        foreground_subtle=colours.faint,
        colors=colours.series,
        opacity=".9",
        font_family=f"{_FONT}, system-ui, sans-serif",
        label_font_size=layout.label,
        major_label_font_size=layout.label,
        legend_font_size=layout.label + 1,
        title_font_size=layout.title,
        no_data_font_size=layout.title + 2,
        ci_colors=(colours.ink, colours.ink),
    )


def _css(theme: Theme) -> str:
    """Return rules that override pygal's own style sheet, whose selectors are more specific."""
    faint, first = _COLOURS[theme].faint, _COLOURS[theme].series[0]
    rules = {
        ".axis .guide.line": f"stroke: {faint}; stroke-dasharray: none",
        ".axis.x .guide.line": "stroke: none",
        ".axis.x .guides .line": f"stroke: {faint}",
        ".ci path": f"stroke: {first}; stroke-opacity: .75; stroke-width: 2",
        ".series .line": "stroke-width: 2.5",
    }
    return "inline:" + "".join(
        f"{selector} {{{text.replace(';', ' !important;')} !important}}"
        for selector, text in rules.items()
    )


if __name__ == "__main__":
    sys.stdout.buffer.write(rasterised(sys.stdin.buffer.read().decode()))

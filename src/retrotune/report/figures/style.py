"""The look that all figures share, and their forms."""

import json
import math
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import altair as alt
import pandas as pd

from retrotune.runtime.files import atomic_write
from retrotune.study.paths import FIGURE_FORMS

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31", "#7b4fa3", "#999999")
"""Okabe and Ito's palette, which color-blind readers can tell apart, and three more for many variants."""
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
SHAPES = ("circle", "square", "triangle-up", "diamond")
LABEL_LIMIT = 220
"""Pixels of a label or a legend's entry; what is longer ends in dots, and tooltips have it whole."""
_TINTS = (("#ffffff", 0.45), ("#000000", 0.4), ("#ffffff", 0.6), ("#000000", 0.65))
"""What the palette is mixed with, and the share of it, where there are more variants than colors."""
_LEGEND_ROWS = 20
CROWDED = 10
"""With more methods panels of lines are larger."""


def write_figure(figure: alt.TopLevelMixin, folder: str | Path, name: str) -> None:
    """Write a chart into `folder` in every form, each atomically, with vl-convert: no browser, no network.

    A png has 144 dots per inch.
    """
    import vl_convert

    specification = figure.to_json(indent=None)
    svg = vl_convert.vegalite_to_svg(specification)
    forms: dict[str, Callable[[], str | bytes]] = {
        "svg": lambda: svg,
        "pdf": lambda: vl_convert.svg_to_pdf(svg),
        "png": lambda: vl_convert.svg_to_png(svg, scale=2.0),
        "vl.json": lambda: specification + "\n",
    }
    for suffix in FIGURE_FORMS:
        contents = forms[suffix]()
        with atomic_write(Path(folder) / f"{name}.{suffix}") as temporary:
            temporary.write_bytes(contents.encode() if isinstance(contents, str) else contents)


def as_lines(note: str) -> list[str]:
    """A note as lines below a title, which are not broken by themselves."""
    lines = textwrap.wrap(note.replace(" %", "\u00a0%"), 110, break_on_hyphens=False)
    return [line.replace("\u00a0%", " %") for line in lines]


def short(text: str, most: int) -> str:
    """A text of at most so many characters, with dots where it goes on."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def nothing(text: str) -> alt.TopLevelMixin:
    """A figure that says why it is empty."""
    return alt.Chart(inline(pd.DataFrame()), title=text).mark_text()


def inline(frame: pd.DataFrame) -> alt.InlineData:
    """A frame as a chart's data, of any number of rows; what is unknown is null."""
    return alt.InlineData(values=frame.astype(object).where(frame.notna(), None).to_dict("records"))


def finished(
    chart: alt.ConcatChart | alt.HConcatChart | alt.VConcatChart, title: str, subtitle: list[str]
) -> alt.TopLevelMixin:
    """A figure of several panels with its title and the look that all figures share."""
    return (
        chart.properties(
            title=alt.TitleParams(title, subtitle=subtitle, anchor="start", fontSize=16, subtitleFontSize=12, offset=14)
        )
        .configure_view(stroke=None)
        .configure_axis(gridColor="#e8e8e8", labelFontSize=11, titleFontSize=11, domainColor="#888", tickColor="#888")
        .configure_axisY(labelLimit=LABEL_LIMIT)
        .configure_legend(
            labelFontSize=12, titleFontSize=12, symbolSize=110, symbolOpacity=1, symbolLimit=0, labelLimit=LABEL_LIMIT
        )
    )


def palette(count: int) -> list[str]:
    """So many colors: those of `COLORS`, then lighter and darker ones of the same hues; they repeat after all."""
    hues = [color for color in COLORS if color not in ("#000000", "#999999")]
    colors = [*COLORS, *(_mixed(hue, other, share) for other, share in _TINTS for hue in hues)]
    return [colors[place % len(colors)] for place in range(count)]


def _mixed(color: str, other: str, share: float) -> str:
    pairs = ((int(color[at : at + 2], 16), int(other[at : at + 2], 16)) for at in (1, 3, 5))
    return "#" + "".join(f"{round(one + share * (two - one)):02x}" for one, two in pairs)


def color_of(methods: list[str], shown: list[str] | None = None) -> alt.Color:
    """Color tells methods apart; many stand in several columns of the legend, which lists those that are `shown`.

    A method has one color in all figures of a study that are given the same `methods`.
    """
    listed = methods if shown is None else shown
    scale = alt.Scale(domain=methods, range=palette(len(methods)))
    legend = alt.Legend(values=listed, columns=math.ceil(len(listed) / _LEGEND_ROWS))
    return alt.Color("method:N", title="Method", scale=scale, sort=None, legend=legend)


def shape_of(families: list[str]) -> alt.Shape:
    """Shape tells families apart."""
    shapes = [SHAPES[place % len(SHAPES)] for place in range(len(families))]
    return alt.Shape("family:N", title="Family", scale=alt.Scale(domain=families, range=shapes), sort=None)


def dash_of(families: list[str]) -> alt.StrokeDash:
    """Dash tells families apart where lines are drawn."""
    dashes = [DASHES[place % len(DASHES)] for place in range(len(families))]
    return alt.StrokeDash("family:N", title="Family", scale=alt.Scale(domain=families, range=dashes), sort=None)


def tips(texts: Mapping[str, str], numbers: Mapping[str, tuple[str, str]]) -> list[alt.Tooltip]:
    """What is shown of a mark under the pointer: its row, then further texts and numbers."""
    row = {"family": "Family", "size": "Size", "model": "Model", "method": "Method"}
    return [
        *(alt.Tooltip(f"{name}:N", title=title) for name, title in {**row, **texts}.items()),
        *(alt.Tooltip(f"{name}:Q", title=title, format=spec) for name, (title, spec) in numbers.items()),
    ]


def in_brackets(low: float | None, high: float | None) -> str | None:
    """An interval as tooltips print it; None if there is none."""
    return None if low is None or high is None or math.isnan(low) else f"[{low:.1f}, {high:.1f}]"


def intervals(frame: pd.DataFrame) -> pd.Series:
    """Of each row the interval from `low` to `high` as tooltips print it."""
    printed = [in_brackets(low, high) for low, high in zip(frame["low"], frame["high"], strict=True)]
    return pd.Series(printed, index=frame.index, dtype=object)


def labels_at(ticks: Mapping[float, str | list[str]]) -> str:
    """A Vega expression that prints each tick's label, in lines where it has several."""
    cases = (f"abs(datum.value/{at!r}-1)<1e-9?{json.dumps(label)}:" for at, label in ticks.items())
    return "".join(cases) + "''"


def log_ticks(low: float, high: float, at_most: int = 6) -> list[float]:
    """Round numbers between two positive ones: 1, 2, 5 and their tenfolds, or powers of ten where that is too many."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [float(f"{step}e{power}") for power in exponents for step in steps]
        ticks = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(ticks) <= at_most:
            break
    thin = math.ceil(len(ticks) / at_most) or 1
    return ticks[::thin] or [float(f"{low:.2g}")]

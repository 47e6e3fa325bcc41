"""The look that all figures share, and their forms."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import altair as alt

from retrotune.runtime.files import atomic_write
from retrotune.study.paths import FIGURE_FORMS

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31", "#7b4fa3", "#999999")
"""Okabe and Ito's palette, which color-blind readers can tell apart, and three more for many variants."""
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
SHAPES = ("circle", "square", "triangle-up", "diamond")


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
    return textwrap.wrap(note, 110)


def finished(chart: alt.ConcatChart, title: str, subtitle: list[str]) -> alt.TopLevelMixin:
    """A figure of several panels with its title and the look that all figures share."""
    return (
        chart.properties(
            title=alt.TitleParams(title, subtitle=subtitle, anchor="start", fontSize=16, subtitleFontSize=12, offset=14)
        )
        .configure_view(stroke=None)
        .configure_axis(gridColor="#e8e8e8", labelFontSize=11, titleFontSize=11, domainColor="#888", tickColor="#888")
        .configure_legend(labelFontSize=12, titleFontSize=12, symbolSize=110, symbolOpacity=1)
    )


def color_of(methods: list[str]) -> alt.Color:
    """Color tells methods apart."""
    colors = [COLORS[place % len(COLORS)] for place in range(len(methods))]
    return alt.Color("method:N", title="Method", scale=alt.Scale(domain=methods, range=colors), sort=None)


def shape_of(families: list[str]) -> alt.Shape:
    """Shape tells families apart."""
    shapes = [SHAPES[place % len(SHAPES)] for place in range(len(families))]
    return alt.Shape("family:N", title="Family", scale=alt.Scale(domain=families, range=shapes), sort=None)

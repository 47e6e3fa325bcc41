"""Figures: score against model size, one line per family and method, one panel per dataset and one for the average.

Where each family has one size only there is nothing to draw a line through: the figure is then a dot plot of methods.
Color is the method; dash and shape are the family. Bars are 95 % bootstrap intervals over questions.
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from retrotune.data.scores import title_of
from retrotune.report.collect import Result, load_results
from retrotune.report.rows import grouped, human, in_order, mean_score, unique
from retrotune.runtime.files import atomic_write, write_text

AVERAGE = "Average"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31", "#7b4fa3", "#999999")
"""Okabe and Ito's palette, which color-blind readers can tell apart, and three more for many variants."""
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
SHAPES = ("circle", "square", "triangle-up", "diamond")


def plot_scaling(results_json: str | Path, outputs: Sequence[str | Path]) -> None:
    """Draw the study's figure into each of `outputs`; the suffix (svg, pdf, png) decides the form.

    Of several retrievals the one with the most scored cells is drawn, the first in the config among equals. A study
    without any score gives a figure that says so.
    """
    figure = scaling_chart(load_results(results_json))
    for path in outputs:
        save(figure, path)


def save(figure: alt.TopLevelMixin, path: str | Path) -> None:
    """Write a chart as svg, pdf or png (144 dots per inch), atomically, with vl-convert: no browser, no network."""
    import vl_convert

    specification = figure.to_json()
    suffix = Path(path).suffix
    if suffix == ".svg":
        write_text(path, vl_convert.vegalite_to_svg(specification))
        return
    converters = {
        ".pdf": lambda: vl_convert.vegalite_to_pdf(specification),
        ".png": lambda: vl_convert.vegalite_to_png(specification, scale=2.0),
    }
    if suffix not in converters:
        raise ValueError(f"{path}: a figure ends in .svg, .pdf or .png")
    with atomic_write(path) as temporary:
        temporary.write_bytes(converters[suffix]())


def points(results: Sequence[Result]) -> pd.DataFrame:
    """The numbers of the figure: one row per panel, family, model and method, seeds averaged.

    Columns: panel, axis (what the panel's scores are), family, size, model, method, parameters, score, low, high. The
    average has a row where every dataset has a score, and no interval.
    """
    parameters = {result.model: result.num_parameters for result in results if result.num_parameters}
    datasets = unique(result.dataset for result in results)
    rows: list[dict[str, Any]] = []
    averages: list[dict[str, Any]] = []
    for (family, model, method), members in grouped(in_order(results), lambda r: (r.arm, r.model, r.method)).items():
        size, count = members[0].size, parameters.get(model)
        base = {"family": family, "size": size, "model": model, "method": method, "parameters": count}
        scores = []
        for dataset, same in grouped(members, lambda r: r.dataset).items():
            score = mean_score(same)
            if score is None:
                continue
            scores.append(score)
            name = title_of(same[0].metric)
            low, high = _interval(same)
            rows.append({"panel": dataset, "axis": name, **base, "score": score, "low": low, "high": high})
        if len(datasets) > 1 and len(scores) == len(datasets):
            average = statistics.fmean(scores)
            averages.append(
                {"panel": AVERAGE, "axis": "mean of all", **base, "score": average, "low": None, "high": None}
            )
    columns = ["panel", "axis", "family", "size", "model", "method", "parameters", "score", "low", "high"]
    return pd.DataFrame(rows + averages, columns=columns)


def scaling_chart(results: Sequence[Result]) -> alt.TopLevelMixin:
    """The figure of a study: lines over model size, or a dot plot where each family has a single size."""
    retrievals = grouped((result for result in results if result.primary is not None), lambda r: r.retrieval)
    order = unique(result.retrieval for result in results)
    drawn = max(order, key=lambda name: len(retrievals.get(name, ())))
    chosen = [result for result in results if result.retrieval == drawn]
    frame = points(chosen)
    if frame.empty:
        return alt.Chart(title="No cell of this study has a score yet").mark_text()
    seeds = len(unique(result.seed for result in chosen))
    subtitle = [f"retrieval: {drawn}" + (f"; means over {seeds} seeds" if seeds > 1 else "")]
    if frame["low"].notna().any():
        subtitle.append("bars: 95 % bootstrap interval over questions")
    known = frame.dropna(subset=["parameters"])
    grows = known.groupby(["family", "method"])["parameters"].nunique().max() if len(known) else 0
    panel = _size_panel if grows > 1 else _method_panel
    uncounted = unique(frame.loc[frame["parameters"].isna(), "model"])
    if grows > 1 and uncounted:
        subtitle.append(f"not drawn, as their parameters were not counted: {', '.join(uncounted)}")
    title = "Score by number of parameters" if grows > 1 else "Score by method"
    methods = [method for method in unique(r.method for r in in_order(chosen)) if method in set(frame["method"])]
    families = [family for family in unique(r.arm for r in in_order(chosen)) if family in set(frame["family"])]
    panels = [
        panel(frame[frame["panel"] == name], name, methods, families)
        for name in [*unique(result.dataset for result in results), AVERAGE]
        if name in set(frame["panel"])
    ]
    chart = alt.concat(*panels, columns=min(len(panels), 4 if len(panels) in (4, 7, 8) else 3), spacing=28)
    return finished(chart.resolve_scale(color="shared", shape="shared", strokeDash="shared"), title, subtitle)


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


def _interval(same_cell: Sequence[Result]) -> tuple[float | None, float | None]:
    """Interval of a cell; over seeds, the mean of the bounds, which keeps the width of a single seed's interval."""
    entries = [result.primary for result in same_cell if result.primary is not None]
    if not entries or any(entry["ci_low"] is None for entry in entries):
        return None, None
    return statistics.fmean(e["ci_low"] for e in entries), statistics.fmean(e["ci_high"] for e in entries)


def _color(methods: list[str]) -> alt.Color:
    colors = [COLORS[place % len(COLORS)] for place in range(len(methods))]
    return alt.Color("method:N", title="Method", scale=alt.Scale(domain=methods, range=colors), sort=None)


def _shape(families: list[str]) -> alt.Shape:
    shapes = [SHAPES[place % len(SHAPES)] for place in range(len(families))]
    return alt.Shape("family:N", title="Family", scale=alt.Scale(domain=families, range=shapes), sort=None)


def _size_panel(frame: pd.DataFrame, name: str, methods: list[str], families: list[str]) -> alt.LayerChart:
    """Score over parameters (log scale), a line per family and method."""
    frame = frame.dropna(subset=["parameters"])
    dashes = [DASHES[place % len(DASHES)] for place in range(len(families))]
    ticks = _ticks(frame)
    x = alt.X(
        "parameters:Q",
        title="parameters of the base model (log scale)",
        scale=alt.Scale(type="log", nice=False, padding=14),
        axis=alt.Axis(values=list(ticks), labelExpr=_tick_labels(ticks), grid=False),
    )
    y = alt.Y(
        "score:Q", title=f"{frame['axis'].iloc[0]}, 0 to 100", scale=alt.Scale(zero=False, nice=False, padding=10)
    )
    base = alt.Chart(frame, title=alt.TitleParams(name, anchor="start"), width=230, height=210)
    dash = alt.StrokeDash("family:N", title="Family", scale=alt.Scale(domain=families, range=dashes), sort=None)
    color = _color(methods)
    line = base.mark_line(strokeWidth=2).encode(x=x, y=y, color=color, strokeDash=dash)
    bars = (
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.2, opacity=0.35)
        .encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=color)
    )
    marks = base.mark_point(filled=True, size=60, opacity=1).encode(x=x, y=y, color=color, shape=_shape(families))
    return alt.layer(bars, line, marks)


def _method_panel(frame: pd.DataFrame, name: str, methods: list[str], families: list[str]) -> alt.LayerChart:
    """Score of each method, families above each other within it."""
    base = alt.Chart(frame, title=alt.TitleParams(name, anchor="start"), width=230, height=alt.Step(14))
    y = alt.Y("method:N", title=None, sort=methods, axis=alt.Axis(grid=True, ticks=False))
    offset = alt.YOffset("family:N", sort=families)
    x = alt.X("score:Q", title=f"{frame['axis'].iloc[0]}, 0 to 100", scale=alt.Scale(zero=False, nice=True, padding=6))
    color = _color(methods)
    bars = (
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.5, opacity=0.5)
        .encode(y=y, yOffset=offset, x=alt.X("low:Q"), x2="high:Q", color=color)
    )
    marks = base.mark_point(filled=True, size=80, opacity=1).encode(
        y=y, yOffset=offset, x=x, color=color, shape=_shape(families)
    )
    return alt.layer(bars, marks)


def _ticks(frame: pd.DataFrame) -> dict[float, str]:
    """A tick per size, at the middle of the models of that size, as families differ too little for a label each."""
    models = frame.drop_duplicates("model")
    return {float(group.mean()): str(size) for size, group in models.groupby("size", sort=False)["parameters"]}


def _tick_labels(ticks: dict[float, str]) -> str:
    """A Vega expression that prints each tick as the size's name above its count of parameters."""
    cases = (f"abs(datum.value/{at!r}-1)<1e-9?{json.dumps([size, human(at)])}:" for at, size in ticks.items())
    return "".join(cases) + "''"

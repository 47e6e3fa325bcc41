"""Figures: score against model size, one line per family and method, one panel per dataset and one for the average.

Where each family has one size only there is nothing to draw a line through: the figure is then a dot plot of methods.
Color is the method; dash and shape are the family. Bars are the 95 % intervals that tables have.
"""

from typing import Any

import altair as alt
import pandas as pd

from retrotune.data.scores import title_of
from retrotune.report.figures.drawn import drawn_results, drawn_retrieval, order_of, retrieval_note
from retrotune.report.figures.style import (
    CROWDED,
    as_lines,
    color_of,
    dash_of,
    finished,
    inline,
    intervals,
    labels_at,
    nothing,
    shape_of,
    short,
    tips,
)
from retrotune.report.gathering.rows import AVERAGE, human, in_rows, parameters_of, printable, unique
from retrotune.report.tables.measures import Measures, by_dataset, measured
from retrotune.report.tables.notes import interval_note, runs_note
from retrotune.scoring.contrasts import Outcome

_TIPS = tips({"panel": "Dataset", "interval": "95 % interval"}, {"score": ("Score", ".1f")})


def points(measures: Measures, retrieval: str) -> pd.DataFrame:
    """The numbers of the figure: a row per panel and row of the study's tables that has this retrieval.

    Columns: panel, axis (what the panel's scores are), family, size, model, method, parameters, score, low, high. The
    average has a row where every dataset has a score.
    """
    parameters = parameters_of(measures.results)
    metrics = {result.dataset: title_of(result.metric) for result in measures.results}
    rows: list[dict[str, Any]] = []
    averages: list[dict[str, Any]] = []
    for members in in_rows(measures.results):
        first = members[0]
        if first.retrieval != retrieval:
            continue
        base: dict[str, Any] = {"family": first.arm, "size": printable(first.size)}
        base |= {"model": first.original, "method": first.method}
        base["parameters"] = parameters.get(first.original)
        for dataset, same in by_dataset(members).items():
            rows += _point(dataset, metrics[dataset], base, measures.score(same))
        if len(measures.datasets) > 1:
            averages += _point(AVERAGE, "mean of all", base, measures.average(members))
    columns = ["panel", "axis", "family", "size", "model", "method", "parameters", "score", "low", "high"]
    return pd.DataFrame(rows + averages, columns=columns)


def _point(panel: str, axis: str, base: dict[str, Any], found: Outcome | None) -> list[dict[str, Any]]:
    number = measured(found)
    if number is None:
        return []
    return [{"panel": panel, "axis": axis, **base, "score": number.value, "low": number.low, "high": number.high}]


def scaling_chart(measures: Measures) -> alt.TopLevelMixin:
    """The figure of a study: lines over model size, or a dot plot where each family has a single size."""
    drawn = drawn_retrieval(measures)
    chosen = drawn_results(measures)
    frame = points(measures, drawn)
    if frame.empty:
        return nothing("No cell of this study has a score yet")
    frame["interval"] = intervals(frame)
    shown = Measures(chosen, measures.sheets)
    subtitle = [retrieval_note(measures), *as_lines(interval_note(shown) if frame["low"].notna().any() else "")]
    subtitle += as_lines(runs_note(shown))
    known = frame.dropna(subset=["parameters"])
    grows = known.groupby(["family", "method"])["parameters"].nunique().max() if len(known) else 0
    panel = _size_panel if grows > 1 else _method_panel
    uncounted = unique(frame.loc[frame["parameters"].isna(), "model"])
    if grows > 1 and uncounted:
        subtitle.append(f"not drawn, as their parameters were not counted: {', '.join(uncounted)}")
    title = "Score by number of parameters" if grows > 1 else "Score by method"
    methods, families = order_of(chosen)
    panels = [
        panel(frame[frame["panel"] == name], name, methods, families)
        for name in [*measures.datasets, AVERAGE]
        if name in set(frame["panel"])
    ]
    chart = alt.concat(*panels, columns=min(len(panels), 4 if len(panels) in (4, 7, 8) else 3), spacing=28)
    return finished(chart.resolve_scale(color="shared", shape="shared", strokeDash="shared"), title, subtitle)


def _size_panel(frame: pd.DataFrame, name: str, methods: list[str], families: list[str]) -> alt.LayerChart:
    """Score over parameters (log scale), a line per family and method."""
    frame = frame.dropna(subset=["parameters"])
    ticks = _ticks(frame)
    x = alt.X(
        "parameters:Q",
        title="parameters of the base model (log scale)",
        scale=alt.Scale(type="log", nice=False, padding=14),
        axis=alt.Axis(
            values=list(ticks),
            labelExpr=labels_at({at: [short(size, 12), human(at)] for at, size in ticks.items()}),
            grid=False,
        ),
    )
    y = alt.Y(
        "score:Q", title=f"{frame['axis'].iloc[0]}, 0 to 100", scale=alt.Scale(zero=False, nice=False, padding=10)
    )
    width, height = (230, 210) if len(methods) <= CROWDED else (330, 340)
    base = alt.Chart(inline(frame), title=alt.TitleParams(name, anchor="start"), width=width, height=height)
    color = color_of(methods)
    line = base.mark_line(strokeWidth=2).encode(x=x, y=y, color=color, strokeDash=dash_of(families))
    bars = (
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.2, opacity=0.35)
        .encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=color)
    )
    marks = base.mark_point(filled=True, size=60, opacity=1).encode(
        x=x, y=y, color=color, shape=shape_of(families), tooltip=_TIPS
    )
    return alt.layer(bars, line, marks)


def _method_panel(frame: pd.DataFrame, name: str, methods: list[str], families: list[str]) -> alt.LayerChart:
    """Score of each method, families above each other within it."""
    base = alt.Chart(inline(frame), title=alt.TitleParams(name, anchor="start"), width=230, height=alt.Step(14))
    y = alt.Y("method:N", title=None, sort=methods, axis=alt.Axis(grid=True, ticks=False))
    offset = alt.YOffset("family:N", sort=families)
    x = alt.X("score:Q", title=f"{frame['axis'].iloc[0]}, 0 to 100", scale=alt.Scale(zero=False, nice=True, padding=6))
    color = color_of(methods)
    bars = (
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.5, opacity=0.5)
        .encode(y=y, yOffset=offset, x=alt.X("low:Q"), x2="high:Q", color=color)
    )
    marks = base.mark_point(filled=True, size=80, opacity=1).encode(
        y=y, yOffset=offset, x=x, color=color, shape=shape_of(families), tooltip=_TIPS
    )
    return alt.layer(bars, marks)


def _ticks(frame: pd.DataFrame) -> dict[float, str]:
    """A tick per size, at the middle of the models of that size, as families differ too little for a label each."""
    models = frame.drop_duplicates("model")
    return {float(group.mean()): str(size) for size, group in models.groupby("size", sort=False)["parameters"]}

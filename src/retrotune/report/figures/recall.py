"""Figure: the share of a cell's questions whose passages hold an answer against its score, a point per cell."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

from retrotune.data.scores import title_of
from retrotune.report.figures.style import as_lines, color_of, finished, shape_of
from retrotune.report.gathering.rows import in_order, printable, unique
from retrotune.report.judging.quadrants import Quadrants, share
from retrotune.report.tables.measures import Measures
from retrotune.study.cells import Cell

LONGEST = 220
"""Pixels of a name; longer ones end in dots."""


def recall_points(measures: Measures, quadrants: Mapping[Cell, Quadrants]) -> pd.DataFrame:
    """The numbers of the figure: a row per cell whose passages can hold an answer; recall and score from 0 to 100."""
    rows: list[dict[str, Any]] = []
    for result in in_order(measures.results):
        found = quadrants.get(result.cell)
        recall = None if found is None else share(found.there, found.there + found.absent)
        score = measures.score([result])
        if recall is None or score is None:
            continue
        row = {"panel": printable(result.dataset), "axis": title_of(result.metric), "family": result.arm}
        row |= {name: printable(str(getattr(result, name))) for name in ("model", "method", "retrieval", "seed")}
        rows.append({**row, "recall": recall, "score": score.estimate.value})
    columns = ["panel", "axis", "family", "model", "method", "retrieval", "seed", "recall", "score"]
    return pd.DataFrame(rows, columns=columns)


def recall_chart(measures: Measures, quadrants: Mapping[Cell, Quadrants]) -> alt.TopLevelMixin:
    """The figure of a study."""
    frame = recall_points(measures, quadrants)
    if frame.empty:
        return alt.Chart(title="Of no cell of this study is known whether passages hold the answers").mark_text()
    methods, families = unique(frame["method"]), unique(frame["family"])
    panels = [_panel(frame[frame["panel"] == name], name, methods, families) for name in unique(frame["panel"])]
    chart = alt.concat(*panels, columns=min(len(panels), 3), spacing=28).resolve_scale(color="shared", shape="shared")
    subtitle = as_lines(
        "A point is a cell. Passages: those that it was given, in the prompt or to RETRO's encoder; an answer is found "
        "by DPR's string match."
    )
    return finished(chart, "Score by share of questions with an answer among passages", subtitle)


def _panel(frame: pd.DataFrame, name: str, methods: list[str], families: list[str]) -> alt.Chart:
    title = alt.TitleParams(name, anchor="start", limit=2 * LONGEST)
    scale = alt.Scale(zero=False, nice=True, padding=10)
    return (
        alt.Chart(frame, title=title, width=230, height=210)
        .mark_point(filled=True, size=60, opacity=0.8)
        .encode(
            x=alt.X("recall:Q", title="questions with an answer among passages, %", scale=scale),
            y=alt.Y("score:Q", title=f"{frame['axis'].iloc[0]}, 0 to 100", scale=scale),
            color=color_of(methods).legend(symbolLimit=0, labelLimit=LONGEST),
            shape=shape_of(families),
            tooltip=[
                *(f"{field}:N" for field in ("model", "method", "retrieval", "seed")),
                *(alt.Tooltip(f"{field}:Q", format=".1f") for field in ("recall", "score")),
            ],
        )
    )

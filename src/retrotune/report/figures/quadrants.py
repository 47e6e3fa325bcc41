"""Figure: test questions by whether passages held an answer and whether it was given, a bar per model and method."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

from retrotune.report.figures.style import as_lines, finished
from retrotune.report.gathering.rows import in_rows, printable, unique
from retrotune.report.judging.quadrants import CLASSES, RIGHT, Quadrants, total
from retrotune.report.tables.measures import Measures, by_dataset
from retrotune.study.cells import Cell

NAMES = {
    "there_right": "there, right",
    "there_wrong": "there, wrong",
    "absent_right": "not there, right",
    "absent_wrong": "not there, wrong",
}
COLORS = ("#174a7c", "#d9822b", "#9cc4ea", "#f8e3cc")
"""Blue is right, orange wrong, light what passages do not hold; in grey each is lighter than the one before."""
INK = ("#ffffff", "#000000", "#000000", "#000000")
WIDE = 9.0
"""Percent of a bar that a printed share needs."""
LONGEST = 220
"""Pixels of a name; longer ones end in dots."""


def bars(measures: Measures, quadrants: Mapping[Cell, Quadrants], retrieval: str) -> pd.DataFrame:
    """The numbers of the figure: a row per dataset, row of the study's tables and class; `share` in percent.

    `start` is the sum of the shares before it. Runs of a row are counted together.
    """
    rows: list[dict[str, Any]] = []
    for members in in_rows(measures.results):
        first = members[0]
        if first.retrieval != retrieval:
            continue
        for dataset, same in by_dataset(members).items():
            runs = [quadrants[result.cell] for result in same if result.cell in quadrants]
            counts = total(runs).counts() if runs else None
            if counts is None:
                continue
            start = 0.0
            for place, (name, count) in enumerate(zip(CLASSES, counts, strict=True)):
                percent = 100 * count / sum(counts)
                row: dict[str, Any] = {
                    "panel": printable(dataset),
                    "row": printable(f"{first.original} {first.method}"),
                }
                row |= {"class": NAMES[name], "place": place, "questions": count, "share": percent}
                rows.append({**row, "start": start, "middle": start + percent / 2})
                start += percent
    return pd.DataFrame(rows, columns=["panel", "row", "class", "place", "questions", "share", "start", "middle"])


def quadrants_chart(measures: Measures, quadrants: Mapping[Cell, Quadrants]) -> alt.TopLevelMixin:
    """The figure of a study, under the retrieval of which most cells are known."""
    known = [cell for cell, found in quadrants.items() if found.counts() is not None]
    if not known:
        return alt.Chart(title="Of no cell of this study is known whether passages hold the answers").mark_text()
    order = unique(result.retrieval for result in measures.results)
    drawn = max(order, key=lambda name: sum(cell.retrieval == name for cell in known))
    frame = bars(measures, quadrants, drawn)
    panels = [_panel(frame[frame["panel"] == name], name) for name in unique(frame["panel"])]
    chart = alt.concat(*panels, columns=min(len(panels), 3), spacing=28)
    subtitle = [
        f"retrieval: {printable(drawn)}",
        *as_lines(
            "There: a passage that the cell was given holds an answer (DPR's string match). Right: a score of "
            f"{RIGHT:g} at least. Runs of a row are counted together."
        ),
    ]
    return finished(chart, "Answer among passages, and answer given", subtitle)


def _panel(frame: pd.DataFrame, name: str) -> alt.LayerChart:
    title = alt.TitleParams(name, anchor="start", limit=2 * LONGEST)
    base = alt.Chart(frame, title=title, width=260, height=alt.Step(16))
    y = alt.Y(
        "row:N",
        title=None,
        sort=unique(frame["row"]),
        axis=alt.Axis(labelLimit=LONGEST, ticks=False, grid=False),
    )
    names = list(NAMES.values())
    scale = alt.Scale(domain=[0, 100], nice=False)
    color = alt.Color("class:N", title="Answer", scale=alt.Scale(domain=names, range=list(COLORS)), sort=None)
    stacked = (
        base.transform_calculate(end="datum.start + datum.share")
        .mark_bar(stroke="#ffffff", strokeWidth=0.6)
        .encode(
            x=alt.X("start:Q", title="share of the questions, 0 to 100", scale=scale),
            x2="end:Q",
            y=y,
            color=color,
            tooltip=["row:N", "class:N", "questions:Q", alt.Tooltip("share:Q", format=".1f")],
        )
    )
    shares = [
        base.transform_filter(f"datum.place == {place} && datum.share >= {WIDE}")
        .mark_text(fontSize=9, color=ink)
        .encode(x=alt.X("middle:Q", scale=scale), y=y, text=alt.Text("share:Q", format=".0f"))
        for place, ink in enumerate(INK)
    ]
    return alt.layer(stacked, *shares)

"""How good retrievals are: a table by dataset and retrieval, and answer recall against the number of passages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from retrotune.errors import DataError, ResultError
from retrotune.report.figures.style import COLORS, SHAPES, finished, write_figure
from retrotune.report.gathering.rows import unique
from retrotune.report.tables.render import write_table
from retrotune.report.tables.table import Measured, Table, Value
from retrotune.runtime.files import read_json

HEADERS = {"answer_recall": "Recall@{k}", "gold_hit": "Gold hit@{k}", "gold_mrr": "Gold MRR"}


def report_retrieval(quality: Sequence[str | Path], tables: str | Path, figures: str | Path) -> None:
    """Write the table and the figure `retrieval_quality` in every form into two folders.

    `quality` are the files that `measure_retrieval` wrote, in the order of the config.
    """
    measured = load_quality(quality)
    write_table(quality_table(measured), tables, "retrieval_quality")
    write_figure(recall_chart(measured), figures, "retrieval_quality")


def load_quality(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Read quality files; `ResultError` naming one that is damaged or something else."""
    measured = []
    for path in paths:
        remedy = "delete it and run measure_retrieval again"
        try:
            record = read_json(path)
        except DataError as error:
            raise ResultError(f"{error}; {remedy}") from error
        if not isinstance(record, dict) or not record.keys() >= {"retrieval", "dataset", "questions", "metrics"}:
            raise ResultError(f"{path}: no measured retrieval; {remedy}")
        measured.append(record)
    return measured


def quality_table(measured: Sequence[dict[str, Any]]) -> Table:
    """Rows dataset x retrieval, columns the metrics that any of them has; best of each dataset in bold."""
    names = sorted({name for record in measured for name in record["metrics"]}, key=_order)
    datasets = unique(record["dataset"] for record in measured)
    records = sorted(measured, key=lambda record: datasets.index(record["dataset"]))
    rows: list[list[Value]] = [
        [record["dataset"], record["retrieval"], *(_measured(record["metrics"].get(name)) for name in names)]
        for record in records
    ]
    table = Table(
        title="Quality of retrieval by dataset",
        columns=["Dataset", "Retrieval", *map(_header, names)],
        rows=rows,
        num_labels=2,
        formats=[".1f"] * len(names),
        notes=[*_notes(names), *_intervals(records), *_counts(records)],
        legend="The best of each dataset is {best}.",
        rules={i for i, row in enumerate(rows) if i and row[0] != rows[i - 1][0]},
        intervals=set(range(2, 2 + len(names))),
    )
    for dataset in datasets:
        table.mark_best(rows=[i for i, row in enumerate(rows) if row[0] == dataset])
    return table


def recall_chart(measured: Sequence[dict[str, Any]]) -> alt.TopLevelMixin:
    """Answer recall against k, a line per retrieval, a panel per dataset."""
    frame = recall_points(measured)
    if frame.empty:
        return alt.Chart(title="No retrieval of this study was measured").mark_text()
    names = unique(record["retrieval"] for record in measured)
    panels = [_panel(frame[frame["dataset"] == name], name, names) for name in unique(frame["dataset"])]
    chart = alt.concat(*panels, columns=min(len(panels), 3), spacing=28).resolve_scale(color="shared", shape="shared")
    subtitle = ["share of test questions whose best k passages hold an answer"]
    if frame["low"].notna().any():
        subtitle += _intervals(measured)
    return finished(chart, "Answer recall by number of passages", subtitle)


def recall_points(measured: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The numbers of the figure: dataset, retrieval, k, score, low, high."""
    rows = [
        {
            "dataset": record["dataset"],
            "retrieval": record["retrieval"],
            "k": int(name.partition("@")[2]),
            "score": entry["value"],
            "low": entry["ci_low"],
            "high": entry["ci_high"],
        }
        for record in measured
        for name, entry in record["metrics"].items()
        if name.startswith("answer_recall@")
    ]
    return pd.DataFrame(rows, columns=["dataset", "retrieval", "k", "score", "low", "high"])


def _panel(frame: pd.DataFrame, name: str, names: list[str]) -> alt.LayerChart:
    x = alt.X(
        "k:Q",
        title="passages per question, k (log scale)",
        scale=alt.Scale(type="log", nice=False, padding=14),
        axis=alt.Axis(values=sorted(set(frame["k"])), grid=False),
    )
    y = alt.Y("score:Q", title="answer recall@k, 0 to 100", scale=alt.Scale(zero=False, nice=False, padding=10))
    colors = [COLORS[place % len(COLORS)] for place in range(len(names))]
    shapes = [SHAPES[place % len(SHAPES)] for place in range(len(names))]
    color = alt.Color("retrieval:N", title="Retrieval", scale=alt.Scale(domain=names, range=colors), sort=None)
    shape = alt.Shape("retrieval:N", title="Retrieval", scale=alt.Scale(domain=names, range=shapes), sort=None)
    base = alt.Chart(frame, title=alt.TitleParams(name, anchor="start"), width=230, height=210)
    bars = (
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.2, opacity=0.35)
        .encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=color)
    )
    line = base.mark_line(strokeWidth=2).encode(x=x, y=y, color=color)
    marks = base.mark_point(filled=True, size=60, opacity=1).encode(x=x, y=y, color=color, shape=shape)
    return alt.layer(bars, line, marks)


def _order(name: str) -> tuple[int, int]:
    kind, _, k = name.partition("@")
    return list(HEADERS).index(kind), int(k or 0)


def _header(name: str) -> str:
    kind, _, k = name.partition("@")
    return HEADERS[kind].format(k=k)


def _measured(entry: dict[str, Any] | None) -> Measured | None:
    return None if entry is None else Measured(entry["value"], entry["ci_low"], entry["ci_high"])


def _notes(names: Sequence[str]) -> list[str]:
    notes = [
        "Recall@k: percentage of test questions whose best k passages hold an answer by DPR's string match (Yes, No "
        "and numbers match easily)."
    ]
    if any(name.startswith("gold") for name in names):
        notes.append(
            "Gold: passages that annotators marked as evidence; hit@k and mean reciprocal rank (times 100) over the "
            "questions that have some."
        )
    return notes


def _intervals(records: Sequence[dict[str, Any]]) -> list[str]:
    """What was resampled in the intervals: documents with all their questions, or questions."""
    known = [record for record in records if any(entry["ci_low"] is not None for entry in record["metrics"].values())]
    own, others = (
        unique(record["dataset"] for record in known if record.get("params", {}).get("own_documents", False) == side)
        for side in (True, False)
    )
    units = [
        f"{unit} ({', '.join(names)})" if own and others else unit
        for unit, names in (("documents", own), ("questions", others))
        if names
    ]
    return [f"Intervals: 95 %, over {' and '.join(units)}."] if units else []


def _counts(records: Sequence[dict[str, Any]]) -> list[str]:
    """How many questions and passages the numbers are of."""
    parts = []
    for record in {record["dataset"]: record for record in records}.values():
        gold = record["metrics"].get("gold_mrr")
        with_gold = f", {gold['n']} with gold" if gold else ""
        parts.append(f"{record['dataset']} {record['questions']}{with_gold}")
    return ["Test questions: " + ", ".join(parts) + "."] if parts else []

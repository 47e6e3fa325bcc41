"""Figure: training loss against steps, a column per dataset, a panel per size, a line per trained cell."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from retrotune.errors import DataError, ResultError
from retrotune.report.figures.drawn import drawn_results, drawn_retrieval, order_of, retrieval_note
from retrotune.report.figures.style import (
    CROWDED,
    as_lines,
    color_of,
    dash_of,
    finished,
    in_brackets,
    inline,
    nothing,
    short,
    tips,
)
from retrotune.report.gathering.collect import Result
from retrotune.report.gathering.rows import grouped, printable, unique
from retrotune.report.tables.measures import Measures
from retrotune.runtime.files import read_jsonl
from retrotune.study.paths import Paths

LOG = "train_log.jsonl"
POINTS_OF_A_CURVE = 60
POINTS = 20_000
"""Of the whole figure; of so many curves that each would have fewer than two points the last ones are not drawn."""
LISTED = 6
_TIPS = tips(
    {"dataset": "Dataset", "seed": "Seed", "score": "Score", "interval": "95 % interval"},
    {"step": ("Step", ",d"), "loss": ("Training loss", ".3f")},
)


@dataclass(frozen=True)
class Curves:
    """Thinned curves, a row per point: family, size, model, method, dataset, seed, curve, step, loss, score, interval.

    `lacking` are the scored cells without a log, `left_out` counts curves that are too many, `most` the points of each.
    """

    frame: pd.DataFrame
    lacking: tuple[str, ...]
    left_out: int
    most: int


def learning_points(measures: Measures, paths: Paths, retrieval: str) -> Curves:
    """The numbers of the figure: training loss of each scored cell that was trained, with this retrieval.

    A cell that has no score may have a log of an earlier training, and is not drawn. Raises `ResultError` naming file
    and line of a log that is damaged.
    """
    trained = [r for r in measures.results if r.trained and r.retrieval == retrieval and r.primary is not None]
    logs = {result.cell: Path(paths.cell(result.cell, LOG)) for result in trained}
    there = [result for result in trained if logs[result.cell].exists()]
    lacking = tuple(result.name for result in trained if not logs[result.cell].exists())
    drawn = there[: POINTS // 2]
    most = max(2, min(POINTS_OF_A_CURVE, POINTS // max(len(drawn), 1)))
    rows: list[dict[str, Any]] = []
    for number, result in enumerate(drawn):
        row: dict[str, Any] = {
            "family": result.arm,
            "size": printable(result.size),
            "model": result.model,
            "method": result.method,
        }
        row |= {"dataset": result.dataset, "seed": result.seed, "curve": number, **_score(result)}
        rows += [{**row, "step": step, "loss": loss} for step, loss in thinned(read_losses(logs[result.cell]), most)]
    columns = ["family", "size", "model", "method", "dataset", "seed", "curve", "score", "interval", "step", "loss"]
    return Curves(pd.DataFrame(rows, columns=columns), lacking, len(there) - len(drawn), most)


def _score(result: Result) -> dict[str, str | None]:
    """A cell's own score as tooltips print it."""
    entry = result.primary or {}
    value, interval = entry.get("value"), in_brackets(entry.get("ci_low"), entry.get("ci_high"))
    return {"score": None if value is None else f"{value:.1f}", "interval": interval}


def read_losses(path: Path) -> list[tuple[int, float]]:
    """(step, loss) of each line of a training's log; `ResultError` naming file and line of one that is damaged."""
    remedy = "delete the cell's folder and run it again"
    losses: list[tuple[int, float]] = []
    try:
        for number, line in read_jsonl(path):
            step, loss = (line.get("step"), line.get("loss")) if isinstance(line, dict) else (None, None)
            if not isinstance(step, int) or not isinstance(loss, int | float) or isinstance(step, bool):
                raise ResultError(f"{path}:{number}: no step (a whole number) with its loss (a number); {remedy}")
            if losses and step <= losses[-1][0]:
                raise ResultError(f"{path}:{number}: step {step} stands after step {losses[-1][0]}; {remedy}")
            losses.append((step, float(loss)))
    except DataError as error:
        raise ResultError(f"{error}; {remedy}") from error
    return losses


def thinned(points: Sequence[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """At most so many (two or more) of some points, evenly spaced, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(place * (len(points) - 1) / (most - 1))] for place in range(most)]


def learning_chart(measures: Measures, paths: Paths) -> alt.TopLevelMixin:
    """The figure of a study; panels of a dataset share their axes, so that sizes can be compared."""
    curves = learning_points(measures, paths, drawn_retrieval(measures))
    frame = curves.frame
    if frame.empty:
        return nothing(f"No trained cell of this study has a score and a {LOG} yet")
    frame = frame.assign(alone=frame.groupby("curve")["step"].transform("size") == 1)
    drawn = drawn_results(measures)
    chosen = [result for result in drawn if result.trained and result.primary is not None]
    shown, families = order_of(chosen)
    color = color_of(order_of(drawn)[0], shown)
    by_size = sorted(chosen, key=lambda result: result.num_parameters or 0)
    sizes = [size for size in unique(printable(r.size) for r in by_size) if size in set(frame["size"])]
    columns = []
    for dataset in [name for name in measures.datasets if name in set(frame["dataset"])]:
        own = frame[frame["dataset"] == dataset]
        panels = [
            _panel(
                own[own["size"] == size],
                [*([dataset] if size == sizes[0] else []), *([f"size {short(size, 24)}"] if len(sizes) > 1 else [])],
                color,
                len(shown) > CROWDED,
                families,
                last=size == sizes[-1],
            )
            for size in sizes
        ]
        columns.append(alt.vconcat(*panels, spacing=8).resolve_scale(x="shared", y="shared"))
    chart = alt.hconcat(*columns, spacing=24).resolve_scale(color="shared", strokeDash="shared", x="independent")
    return finished(chart, "Training loss by step", list(_subtitle(measures, curves)))


def _panel(
    frame: pd.DataFrame, title: list[str], color: alt.Color, crowded: bool, families: list[str], last: bool
) -> alt.LayerChart:
    width, height = (320, 220) if crowded else (220, 130)
    # what a line is of stands once for all its points: pages hold thousands of them
    what = [name for name in frame.columns if name not in ("step", "loss")]
    cells = alt.LookupData(inline(frame[what].drop_duplicates("curve")), key="curve", fields=what)
    points = frame[["curve", "step", "loss"]].round({"loss": 4})
    base = alt.Chart(inline(points), width=width, height=height).transform_lookup(lookup="curve", from_=cells)
    base = base.properties(title=alt.TitleParams(title, anchor="start", fontSize=11))
    x = alt.X("step:Q", title="training step" if last else None, axis=alt.Axis(grid=False, tickCount=4, labels=last))
    y = alt.Y("loss:Q", title="training loss", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4))
    encoded = {"x": x, "y": y, "color": color, "detail": "curve:N", "tooltip": _TIPS}
    line = base.mark_line(strokeWidth=1.5, opacity=0.85).encode(strokeDash=dash_of(families), **encoded)
    alone = base.transform_filter("datum.alone").mark_point(filled=True, size=40).encode(**encoded)
    return alt.layer(line, alone)


def _subtitle(measures: Measures, curves: Curves) -> Iterator[str]:
    drawn = drawn_retrieval(measures)
    trained = [result for result in measures.results if result.trained and result.retrieval == drawn]
    counts = grouped(trained, lambda result: result.primary is not None)
    yield retrieval_note(measures)
    yield from as_lines(
        f"A curve per training, of at most {curves.most} evenly spaced lines of its log. "
        "Losses of different datasets or tokenizers cannot be compared."
    )
    if curves.lacking:
        listed = ", ".join(curves.lacking[:LISTED])
        listed += f" and {len(curves.lacking) - LISTED} more" if len(curves.lacking) > LISTED else ""
        total = len(counts[True])
        yield from as_lines(f"not drawn, as they have no {LOG}: {len(curves.lacking)} of {total} cells ({listed})")
    if curves.left_out:
        yield f"not drawn, as so many lines could not be read: {curves.left_out} of {len(counts[True])} cells"
    if counts.get(False):
        yield f"{len(counts[False])} of {len(trained)} trained cells have no score yet and are not drawn."

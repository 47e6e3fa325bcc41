"""Figure: score against what it costs, device hours and trained parameters, with the rows that nothing beats."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import altair as alt
import pandas as pd

from retrotune.data.scores import title_of
from retrotune.report.figures.drawn import drawn_results, drawn_retrieval, order_of, retrieval_note
from retrotune.report.figures.style import (
    as_lines,
    color_of,
    finished,
    inline,
    intervals,
    labels_at,
    log_ticks,
    nothing,
    shape_of,
    tips,
)
from retrotune.report.gathering.collect import Result
from retrotune.report.gathering.rows import AVERAGE, human, in_rows, printable, unique
from retrotune.report.tables.measures import Measures, by_dataset, measured
from retrotune.report.tables.notes import interval_note, runs_note
from retrotune.scoring.contrasts import Outcome

WIDTH, HEIGHT = 400, 260
LABELS = 150
"""Pixels left of the cheapest point: labels stand left of their points, where no point can be."""
LINE = 13
"""Pixels from one label to the next."""
MANY = 60
"""With more points only the front's have their intervals drawn."""
_TIPS = tips(
    {"panel": "Dataset", "interval": "95 % interval"},
    {"score": ("Score", ".1f"), "hours": ("Device hours", ".3~g"), "parameters": ("Trained parameters", ",d")},
)


def cost_points(measures: Measures, retrieval: str) -> pd.DataFrame:
    """The numbers of the figure: a row per panel and row of the study's tables that has this retrieval and a score.

    Columns: panel, axis (what the panel's scores are), family, size, model, method, hours (device hours of training
    and prediction: mean over runs, sum over the panel's datasets), parameters (trained; 0 where nothing is), score,
    low, high, hours_front, parameters_front (whether no other row of the panel is cheaper and better). What was not
    measured is NaN. There is a panel of averages over datasets; datasets have panels where a row has no average.
    """
    metrics = {result.dataset: title_of(result.metric) for result in measures.results}
    rows = [members for members in in_rows(measures.results) if members[0].retrieval == retrieval]
    several = len(measures.datasets) > 1
    averages = [
        _point(AVERAGE, "mean of all", members, measures.average(members)) for members in rows if several
    ]  # fmt: skip
    whole = [point for point in averages if point is not None]
    of_datasets = [
        point
        for dataset in measures.datasets
        for members in rows
        if (same := by_dataset(members).get(dataset))
        and (point := _point(dataset, metrics[dataset], same, measures.score(same)))
    ]
    averaged = {(point["model"], point["method"]) for point in whole}
    if any((point["model"], point["method"]) not in averaged for point in of_datasets):
        whole += of_datasets
    columns = ["panel", "axis", "family", "size", "model", "method", "hours", "parameters", "score", "low", "high"]
    frame = pd.DataFrame(whole, columns=columns)
    for name in ("hours", "parameters", "score", "low", "high"):
        frame[name] = frame[name].astype(float)
    for name in ("hours", "parameters"):
        marks = [on_front(list(own[name]), list(own["score"])) for _, own in frame.groupby("panel", sort=False)]
        frame[f"{name}_front"] = [mark for own in marks for mark in own]
    return frame


def on_front(costs: Sequence[float], scores: Sequence[float]) -> list[bool]:
    """Of each row whether no other has at most its cost and at least its score, and is cheaper or better.

    Rows without a known cost (NaN) are not on the front.
    """
    pairs = list(zip(costs, scores, strict=True))
    return [
        not math.isnan(cost) and not any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in pairs)
        for cost, score in pairs
    ]


def device_hours(results: Sequence[Result]) -> float | None:
    """Device hours of training and prediction of a row: mean over its scored runs, sum over datasets.

    A record without a number of devices counts as one device. None if a run did not measure its time.
    """
    hours = 0.0
    for own in by_dataset(result for result in results if result.primary is not None).values():
        runs = [_hours(result) for result in own]
        known = [value for value in runs if value is not None]
        if len(known) < len(runs):
            return None
        hours += fmean(known)
    return hours


def _hours(result: Result) -> float | None:
    total = 0.0
    for record in [result.train, result.predict] if result.trained else [result.predict]:
        seconds = record.get("seconds")
        if seconds is None:
            return None
        total += seconds * (record.get("num_devices") or 1) / 3600
    return total


def _trained(results: Sequence[Result]) -> float | None:
    """Parameters that a row trains, 0 for one that trains nothing; None if that was not measured."""
    counts = [
        result.train.get("num_trainable_params") if result.trained else 0
        for result in results
        if result.primary is not None
    ]
    known = [count for count in counts if count is not None]
    return fmean(known) if known and len(known) == len(counts) else None


def _point(panel: str, axis: str, members: Sequence[Result], found: Outcome | None) -> dict[str, Any] | None:
    number = measured(found)
    if number is None:
        return None
    first = members[0]
    row = {"family": first.arm, "size": printable(first.size), "model": first.original, "method": first.method}
    costs = {"hours": device_hours(members), "parameters": _trained(members)}
    return {
        "panel": panel, "axis": axis, **row, **costs, "score": number.value, "low": number.low, "high": number.high
    }  # fmt: skip


def cost_chart(measures: Measures) -> alt.TopLevelMixin:
    """The figure of a study: a line of panels per average or dataset, over device hours and over parameters."""
    frame = cost_points(measures, drawn_retrieval(measures))
    if frame.empty:
        return nothing("No cell of this study has a score yet")
    frame["interval"] = intervals(frame)
    chosen = drawn_results(measures)
    methods, families = order_of(chosen)
    sizes = unique(printable(r.size) for r in sorted(chosen, key=lambda r: r.num_parameters or 0) if r.primary)
    encoded = {
        "color": color_of(methods),
        "shape": shape_of(families),
        "size": alt.Size("size:N", title="Size", scale=alt.Scale(domain=sizes, range=_areas(len(sizes)))),
    }
    lines = []
    for panel in unique(frame["panel"]):
        own = frame[frame["panel"] == panel]
        axes = [axis(own) for axis in (_hours_axis, _parameters_axis)]
        charts = [_panel(own, panel, axis, encoded) for axis in axes if axis is not None]
        if charts:
            lines.append(alt.hconcat(*charts, spacing=28))
    if not lines:
        return nothing("No scored cell of this study measured what it cost")
    chart = alt.vconcat(*lines, spacing=28).resolve_scale(color="shared", shape="shared", size="shared")
    return finished(chart, "Score by cost", list(_subtitle(measures, chosen, frame)))


def _areas(count: int) -> list[float]:
    """Areas of points in square pixels, from small to large models."""
    return [60.0] if count == 1 else [30 + 150 * place / (count - 1) for place in range(count)]


def _subtitle(measures: Measures, chosen: Sequence[Result], frame: pd.DataFrame) -> Iterator[str]:
    shown = Measures(chosen, measures.sheets)
    several = AVERAGE in set(frame["panel"])
    yield retrieval_note(measures)
    yield from as_lines(
        "Device hours: seconds of training and prediction times devices; means over runs"
        + (", summed over the datasets of an average." if several else ".")
    )
    scored = [result for result in chosen if result.primary is not None]
    if any("num_devices" not in record for result in scored for record in (result.train, result.predict) if record):
        yield "Where the number of devices was not recorded, one is counted."
    yield "The line is the Pareto front: no other row of its panel is both cheaper and better. Its rows are labelled."
    if frame["low"].notna().any():
        bars = "Bars of rows on a front" if _crowded(frame) else "Bars"
        yield from as_lines(f"{bars} are intervals. {interval_note(shown)}")
    yield from as_lines(runs_note(shown))
    for name, what in (("hours", "device hours"), ("parameters", "trained parameters")):
        lacking = frame[frame[name].isna()]
        names = unique(f"{model}/{method}" for model, method in zip(lacking["model"], lacking["method"], strict=True))
        if names:
            listed = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
            yield from as_lines(f"not drawn over {what}, which were not measured: {listed}")
    if several and frame["panel"].nunique() > 1:
        yield "Rows that lack a score on some dataset are in the panels of datasets alone."
    unscored = len(chosen) - len(scored)
    if unscored:
        yield f"{unscored} of {len(chosen)} cells have no score."


def _crowded(frame: pd.DataFrame) -> bool:
    return int(frame["panel"].value_counts().max()) > MANY


@dataclass(frozen=True)
class _Axis:
    """A cost on a log scale: the field, where each row stands, its ticks with labels, and the end of what is trained.

    `nothing` is the place of rows that cost nothing, which a log scale has no place for.
    """

    name: str
    title: str
    places: list[float]
    ticks: dict[float, str | list[str]]
    nothing: float | None = None

    @property
    def domain(self) -> tuple[float, float]:
        """Room for labels left of the cheapest row."""
        low, high = min(self.places), max(self.places)
        high = max(high, low * 2)
        per_pixel = math.log(high / low) / (WIDTH - LABELS - 20)
        return low * math.exp(-LABELS * per_pixel), high * math.exp(20 * per_pixel)


def _hours_axis(frame: pd.DataFrame) -> _Axis | None:
    known = [hours for hours in frame["hours"] if hours > 0]
    if not known:
        return None
    places = [max(hours, min(known)) for hours in frame["hours"].dropna()]
    ticks: dict[float, str | list[str]] = {at: f"{at:g}" for at in log_ticks(min(known), max(known))}
    return _Axis("hours", "device hours of training and prediction (log scale)", places, ticks)


def _parameters_axis(frame: pd.DataFrame) -> _Axis | None:
    known = frame["parameters"].dropna()
    if known.empty:
        return None
    some = [count for count in known if count > 0]
    ticks: dict[float, str | list[str]] = {at: human(at) for at in log_ticks(min(some), max(some))} if some else {}
    left = None
    if len(some) < len(known):
        left = min(some) / max(max(some) / min(some), 10) ** 0.25 if some else 1.0
        ticks[left] = ["none", "(zero-shot)"]
    places = [count if count > 0 else float(left or 1) for count in known]
    return _Axis("parameters", "trained parameters (log scale)", places, ticks, left)


def _panel(frame: pd.DataFrame, name: str, axis: _Axis, encoded: dict[str, Any]) -> alt.LayerChart:
    frame = frame[frame[axis.name].notna()].assign(at=axis.places)
    front = frame[frame[f"{axis.name}_front"]].sort_values(["at", "score"]).drop_duplicates(["at", "score", "method"])
    bars = frame[frame["low"].notna()] if len(frame) <= MANY else front[front["low"].notna()]
    low = min([*frame["score"], *bars["low"]])
    high = max([*frame["score"], *bars["high"]])
    unit = max(high - low, 1.0) / (HEIGHT - 30)  # points per pixel
    bottom = low - 15 * unit
    labels: list[float] = []
    for score in front["score"]:
        labels.append(max([score + 6 * unit, *(at + LINE * unit for at in labels[-1:])]))
    top = max([high + 15 * unit, *(at + LINE * unit for at in labels[-1:])])
    height = round((top - bottom) / unit)
    who = front["family"] + " " + front["size"] + " " + front["method"]
    front = front.assign(label=who, label_at=labels)
    x = alt.X(
        "at:Q",
        title=axis.title,
        scale=alt.Scale(type="log", nice=False, domain=list(axis.domain)),
        axis=alt.Axis(values=sorted(axis.ticks), labelExpr=labels_at(axis.ticks), grid=False, labelOverlap=True),
    )
    scale = alt.Scale(zero=False, nice=False, domain=[bottom, top])
    y = alt.Y("score:Q", title=f"{frame['axis'].iloc[0]}, 0 to 100", scale=scale)
    title = alt.TitleParams(name, anchor="start")
    end = {"at": axis.domain[1], "score": front["score"].max()}
    steps = pd.concat([front[["at", "score"]], pd.DataFrame([end])])
    layers: list[alt.Chart] = []
    if axis.nothing is not None and len(set(axis.places)) > 1:
        edge = pd.DataFrame([{"at": math.sqrt(axis.nothing * min(at for at in axis.places if at > axis.nothing))}])
        layers.append(alt.Chart(inline(edge)).mark_rule(strokeDash=[2, 3], color="#bbbbbb").encode(x=x))
    layers += [
        alt.Chart(inline(bars))
        .mark_rule(strokeWidth=1.2, opacity=0.35)
        .encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=encoded["color"]),
        alt.Chart(inline(steps))
        .mark_line(interpolate="step-after", color="#555555", strokeWidth=1.5, strokeDash=[5, 2])
        .encode(x=x, y=y),
        alt.Chart(inline(front)).mark_rule(color="#999999", strokeWidth=0.7).encode(x=x, y=y, y2="label_at:Q"),
        alt.Chart(inline(frame)).mark_point(filled=True, opacity=0.9).encode(x=x, y=y, tooltip=_TIPS, **encoded),
        alt.Chart(inline(front))
        .mark_text(align="right", baseline="middle", dx=-4, fontSize=10, limit=LABELS - 10)
        .encode(x=x, y=alt.Y("label_at:Q"), text="label:N"),
    ]
    return alt.layer(*layers).properties(title=title, width=WIDTH, height=height)

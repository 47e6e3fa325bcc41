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
    short,
    tips,
)
from retrotune.report.gathering.collect import Result
from retrotune.report.gathering.rows import AVERAGE, human, in_rows, printable, unique
from retrotune.report.tables.cost import device_seconds
from retrotune.report.tables.measures import Measures, by_dataset, measured
from retrotune.report.tables.notes import interval_note, runs_note
from retrotune.scoring.contrasts import Outcome

WIDTH, HEIGHT, TALL_HEIGHT = 440, 260, 420
LABELS = 150
"""Pixels left of the cheapest point: labels stand left of their points, where no point can be."""
LINE = 13
"""Pixels from one label to the next."""
MANY = 60
"""With more points panels are taller, and only the fronts' have their intervals drawn."""
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

    None if a run did not record its time or its devices, as in the tables of cost.
    """
    hours = 0.0
    for own in by_dataset(result for result in results if result.primary is not None).values():
        runs = [device_seconds(result) for result in own]
        known = [seconds for seconds in runs if seconds is not None]
        if len(known) < len(runs):
            return None
        hours += fmean(known) / 3600
    return hours


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
        "size": alt.Size("size:O", title="Size", sort=sizes, scale=alt.Scale(domain=sizes, range=_areas(len(sizes)))),
    }
    lines = []
    for panel in unique(frame["panel"]):
        own = frame[frame["panel"] == panel]
        if (line := _line_of_panels(own, panel, encoded)) is not None:
            lines.append(line)
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
    yield "The line is the Pareto front: no other row of its panel is both cheaper and better. Its rows are labelled."
    if frame["low"].notna().any():
        yield from as_lines(interval_note(shown) + " Bars of rows on a front alone are drawn." * _crowded(frame))
    yield from as_lines(runs_note(shown))
    for name, what in (("hours", "device hours"), ("parameters", "trained parameters")):
        lacking = frame[frame[name].isna()]
        names = unique(f"{model}/{method}" for model, method in zip(lacking["model"], lacking["method"], strict=True))
        if names:
            listed = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
            yield from as_lines(f"not drawn over {what}, which were not recorded: {listed}")
    if several and frame["panel"].nunique() > 1:
        yield "Rows that lack a score on some dataset are in the panels of datasets alone."
    unscored = len(chosen) - len(scored)
    if unscored:
        yield f"{unscored} of {len(chosen)} cells have no score."


def _crowded(frame: pd.DataFrame) -> bool:
    return int(frame["panel"].value_counts().max()) > MANY


@dataclass(frozen=True)
class _Axis:
    """A cost on a log scale: the field, where each row stands (NaN: unknown), and its ticks with their labels.

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
        known = [place for place in self.places if not math.isnan(place)]
        low, high = min(known), max(known)
        high = max(high, low * 2)
        per_pixel = math.log(high / low) / (WIDTH - LABELS - 20)
        return low * math.exp(-LABELS * per_pixel), high * math.exp(20 * per_pixel)


@dataclass(frozen=True)
class _Scores:
    """The scale of scores: its title, its ends, and points per pixel."""

    title: str
    low: float
    high: float
    unit: float


def _hours_axis(frame: pd.DataFrame) -> _Axis | None:
    known = [hours for hours in frame["hours"] if hours > 0]
    if not known:
        return None
    places = [hours if math.isnan(hours) else max(hours, min(known)) for hours in frame["hours"]]
    ticks: dict[float, str | list[str]] = {at: f"{at:g}" for at in log_ticks(min(known), max(known))}
    return _Axis("hours", "device hours of training and prediction (log scale)", places, ticks)


def _parameters_axis(frame: pd.DataFrame) -> _Axis | None:
    known = [count for count in frame["parameters"] if not math.isnan(count)]
    if not known:
        return None
    some = [count for count in known if count > 0]
    ticks: dict[float, str | list[str]] = {at: human(at) for at in log_ticks(min(some), max(some))} if some else {}
    left = None
    if len(some) < len(known):
        left = min(some) / max(max(some) / min(some), 10) ** 0.25 if some else 1.0
        ticks[left] = ["none", "(zero-shot)"]
    places = [float(left or 1) if count == 0 else count for count in frame["parameters"]]
    return _Axis("parameters", "trained parameters (log scale)", places, ticks, left)


def _line_of_panels(frame: pd.DataFrame, name: str, encoded: dict[str, Any]) -> alt.HConcatChart | None:
    """The panels of an average or a dataset, beside each other with one scale of scores; None without any cost."""
    axes = [axis for axis in (_hours_axis(frame), _parameters_axis(frame)) if axis is not None]
    if not axes:
        return None
    bars = frame[frame["low"].notna()]
    if _crowded(frame):
        bars = bars[bars["hours_front"] | bars["parameters_front"]]
    tall = TALL_HEIGHT if _crowded(frame) else HEIGHT
    low = min([*frame["score"], *bars["low"]])
    high = max([*frame["score"], *bars["high"]])
    unit = max(high - low, 1.0) / (tall - 30)  # points per pixel
    fronts = [_front(frame, axis, unit) for axis in axes]
    top = max([high, *(at for front in fronts for at in front["label_at"])]) + 15 * unit
    scores = _Scores(f"{frame['axis'].iloc[0]}, 0 to 100", low - 15 * unit, top, unit)
    panels = [
        _panel(frame, bars, front, axis, scores, encoded).properties(title=alt.TitleParams(name, anchor="start"))
        for front, axis in zip(fronts, axes, strict=True)
    ]
    return alt.hconcat(*panels, spacing=28)


def _front(frame: pd.DataFrame, axis: _Axis, unit: float) -> pd.DataFrame:
    """Rows on a front from the cheapest, with the place of each label: above its point and the label before."""
    front = frame.assign(at=axis.places)[frame[f"{axis.name}_front"]].sort_values(["at", "score"])
    places: list[float] = []
    for score in front["score"]:
        places.append(max([score + 6 * unit, *(place + LINE * unit for place in places[-1:])]))
    labels = [
        f"{family} {short(size, 9)} {short(method, 18 if len(size) < 6 else 13)}"
        for family, size, method in zip(front["family"], front["size"], front["method"], strict=True)
    ]
    return front.assign(label=labels, label_at=places)


def _panel(
    frame: pd.DataFrame, bars: pd.DataFrame, front: pd.DataFrame, axis: _Axis, scores: _Scores, encoded: dict[str, Any]
) -> alt.LayerChart:
    places = pd.Series(axis.places, index=frame.index)
    frame, bars = (some[some[axis.name].notna()] for some in (frame, bars))
    frame, bars = (some.assign(at=places.reindex(some.index)) for some in (frame, bars))
    x = alt.X(
        "at:Q",
        title=axis.title,
        scale=alt.Scale(type="log", nice=False, domain=list(axis.domain)),
        axis=alt.Axis(values=sorted(axis.ticks), labelExpr=labels_at(axis.ticks), grid=False, labelOverlap=True),
    )
    scale = alt.Scale(zero=False, nice=False, domain=[scores.low, scores.high])
    y = alt.Y("score:Q", title=scores.title, scale=scale)
    layers: list[alt.Chart] = []
    some = [at for at in axis.places if axis.nothing is not None and at > axis.nothing]
    if axis.nothing is not None and some:
        edge = pd.DataFrame([{"at": math.sqrt(axis.nothing * min(some))}])
        layers.append(alt.Chart(inline(edge)).mark_rule(strokeDash=[2, 3], color="#bbbbbb").encode(x=x))
    end = pd.DataFrame([{"at": axis.domain[1], "score": front["score"].max()}])
    layers += [
        alt.Chart(inline(bars))
        .mark_rule(strokeWidth=1.2, opacity=0.35)
        .encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=encoded["color"]),
        alt.Chart(inline(pd.concat([front[["at", "score"]], end])))
        .mark_line(interpolate="step-after", color="#555555", strokeWidth=1.5, strokeDash=[5, 2])
        .encode(x=x, y=y),
        alt.Chart(inline(front)).mark_rule(color="#999999", strokeWidth=0.7).encode(x=x, y=y, y2="label_at:Q"),
        alt.Chart(inline(frame)).mark_point(filled=True, opacity=0.9).encode(x=x, y=y, tooltip=_TIPS, **encoded),
        alt.Chart(inline(front))
        .mark_text(align="right", baseline="middle", dx=-4, fontSize=10, limit=LABELS - 10)
        .encode(x=x, y=alt.Y("label_at:Q"), text="label:N"),
    ]
    return alt.layer(*layers).properties(width=WIDTH, height=round((scores.high - scores.low) / scores.unit))

"""Figure: what training adds to zero-shot, a tile per model and method, a panel per dataset and one for the average."""

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt
import pandas as pd

from retrotune.report.figures.drawn import drawn_results, drawn_retrieval, retrieval_note
from retrotune.report.figures.style import as_lines, finished, inline, intervals, nothing, tips
from retrotune.report.gathering.collect import Result
from retrotune.report.gathering.rows import AVERAGE, grouped, printable, row_labels, unique
from retrotune.report.tables.measures import Measures, measured, minus, scored, state_of
from retrotune.report.tables.notes import interval_note, runs_note
from retrotune.scoring.contrasts import mean_of, outcome
from retrotune.study.cells import Cell

COLORS = ("#b35806", "#f1a340", "#fee0b6", "#f7f7f7", "#d1e5f0", "#67a9cf", "#2166ac")
"""Orange below zero, blue above it: color-blind readers tell them apart."""
DARK = 0.72
"""Share of the largest gain from which a tile is so dark that its number is white."""
MANY = 16
"""With more methods tiles are narrower."""
TILE, NARROW_TILE, TILE_HEIGHT = 50, 40, 22
PAGE = 1100
"""Pixels that tiles of panels beside each other have."""
_TIPS = tips(
    {"panel": "Dataset", "interval": "95 % interval", "state": "Cells"},
    {"gain": ("Gain over zero-shot", "+.1f"), "score": ("Score", ".1f"), "zeroshot": ("Zero-shot", ".1f")},
)


def gains_points(measures: Measures, retrieval: str) -> pd.DataFrame:
    """The numbers of the figure: a row per panel, model and trained method of this retrieval, unknown gains included.

    Columns: panel, row (the model's label), family, size, model, method, gain (points that the method is above
    zero-shot of the same model, dataset and retrieval), low, high (the 95 % interval of that difference), differs
    (whether 0 is outside of it; None where there is no interval), score, zeroshot, state (of the method's cells, or
    `no zero-shot`). The average needs both rows on every dataset. Of several methods that train nothing the first is
    zero-shot.
    """
    chosen = [result for result in measures.results if result.retrieval == retrieval]
    _, label_of = row_labels(measures.results)
    rows: list[dict[str, Any]] = []
    panels = [*measures.datasets, *([AVERAGE] if len(measures.datasets) > 1 else [])]
    of_method = grouped(chosen, lambda result: (result.original, result.method))
    trained = unique(result.method for result in chosen if result.trained)
    models = unique(result.original for result in chosen)
    for model in models:
        first = next(result for result in chosen if result.original == model)
        base = {"row": " ".join(map(printable, label_of(first)[:-1])), "family": first.arm}
        base |= {"size": printable(first.size), "model": model}
        plain = of_method.get((model, _plain(chosen)), [])
        for method in trained:
            own = of_method.get((model, method), [])
            for panel in panels:
                rows.append({"panel": panel, **base, "method": method, **_gain(measures, own, plain, panel)})
    columns = ["panel", "row", "family", "size", "model", "method", "gain", "low", "high", "differs"]
    frame = pd.DataFrame(rows, columns=[*columns, "score", "zeroshot", "state"])
    numbers = ["gain", "low", "high", "score", "zeroshot"]
    return frame.astype(dict.fromkeys(numbers, float))


def _plain(results: Sequence[Result]) -> str:
    """The method that gains are over; empty if no row trains nothing."""
    return next((result.method for result in results if not result.trained), "")


def _gain(measures: Measures, own: Sequence[Result], plain: Sequence[Result], panel: str) -> dict[str, Any]:
    if panel == AVERAGE:
        mine, others = measures.averaged(own), measures.averaged(plain)
    else:
        own, plain = ([r for r in results if r.dataset == panel] for results in (own, plain))
        mine, others = scored(own), scored(plain)
    state = state_of(own) if own else "not in the grid"
    if not mine or not others:
        return {"state": state if not mine else "no zero-shot"}
    found = measured(outcome(measures.sheets, [minus(mean_of(mine), mean_of(others))], measures.runs))
    assert found is not None
    differs = None if found.low is None or found.high is None else not found.low <= 0 <= found.high
    scores = {"score": _mean(measures, mine), "zeroshot": _mean(measures, others)}
    return {"gain": found.value, "low": found.low, "high": found.high, "differs": differs, **scores, "state": state}


def _mean(measures: Measures, cells: list[Cell]) -> float:
    return outcome(measures.sheets, [mean_of(cells)], measures.runs).estimate.value


def gains_chart(measures: Measures) -> alt.TopLevelMixin:
    """The figure of a study: a heat map per dataset and one of averages, all with the same colors."""
    frame = gains_points(measures, drawn_retrieval(measures))
    if frame["gain"].isna().all():
        return nothing("No model of this study has a score both zero-shot and trained yet")
    most = max(float(frame["gain"].abs().max()), 1.0)
    frame = frame.assign(
        text=[_text(float(gain), differs) for gain, differs in zip(frame["gain"], frame["differs"], strict=True)],
        ink=["#ffffff" if abs(gain) > DARK * most else "#000000" for gain in frame["gain"]],
        weight=[differs is True for differs in frame["differs"]],
        interval=intervals(frame),
    )
    names = unique(frame["panel"])
    methods = unique(frame["method"])
    tile = TILE if len(methods) <= MANY else NARROW_TILE
    columns = max(1, min(len(names), PAGE // (tile * len(methods) + 30)))
    panels = [
        _panel(frame[frame["panel"] == name], name, tile, most, place % columns == 0)
        for place, name in enumerate(names)
    ]
    chart = alt.concat(*panels, columns=columns, spacing=20).resolve_scale(color="shared")
    return finished(chart, "Gain over zero-shot, in points", list(_subtitle(measures, frame)))


def _text(gain: float, differs: bool | None) -> str:
    """A tile's number: in brackets unless it is significant; nothing where it is unknown."""
    if pd.isna(gain):
        return ""
    number = f"{gain:+.1f}".replace("-", "\u2212")
    return number if differs else f"({number})"


def _panel(frame: pd.DataFrame, name: str, tile: int, most: float, labelled: bool) -> alt.LayerChart:
    size = 11 if tile == TILE else 9.5
    labels = alt.Axis(ticks=False, domain=False, grid=False) if labelled else None
    y = alt.Y("row:N", title=None, sort=unique(frame["row"]), axis=labels)
    below = alt.Axis(labelAngle=-40, labelLimit=130, ticks=False, domain=False, grid=False)
    x = alt.X("method:N", title=None, sort=unique(frame["method"]), axis=below)
    scale = alt.Scale(domain=[most * (place - 3) / 3 for place in range(7)], range=list(COLORS), clamp=True)
    legend = alt.Legend(
        title=["points over", "zero-shot"],
        gradientLength=140,
        values=[-most, 0, most],
        labelExpr="datum.value==0?'0':format(datum.value,'+.0f')",
    )
    base = alt.Chart(inline(frame)).encode(x=x, y=y, tooltip=_TIPS)
    full = (
        base.transform_filter("isValid(datum.gain)")
        .mark_rect(stroke="#ffffff")
        .encode(color=alt.Color("gain:Q", scale=scale, legend=legend))
    )
    empty = base.transform_filter("!isValid(datum.gain)").mark_rect(fill="#ffffff", stroke="#bbbbbb", strokeDash=[2, 2])
    layers: list[alt.Chart] = [full, empty]
    for ink in ("#000000", "#ffffff"):
        for bold in (False, True):
            some = f"datum.ink=='{ink}'&&datum.weight=={str(bold).lower()}"
            weight = "bold" if bold else "normal"
            layers.append(
                base.transform_filter(some).mark_text(fontSize=size, color=ink, fontWeight=weight).encode(text="text:N")
            )
    title = alt.TitleParams(name, anchor="start")
    return alt.layer(*layers).properties(title=title, width=alt.Step(tile), height=alt.Step(TILE_HEIGHT))


def _subtitle(measures: Measures, frame: pd.DataFrame) -> Iterator[str]:
    chosen = drawn_results(measures)
    shown = Measures(chosen, measures.sheets)
    plain = unique(result.method for result in measures.results if not result.trained)
    yield f"{retrieval_note(measures)}; gains are over {_plain(chosen)}"
    if len(plain) > 1:
        yield from as_lines(f"not drawn, as they train nothing: {', '.join(plain[1:])}")
    yield from as_lines(
        "Differences are of the same model on the same questions. In brackets: not significant, as the difference's "
        "95 % interval contains 0"
        + (", or unknown, as there is no interval." if frame["differs"].isna()[frame["gain"].notna()].any() else ".")
    )
    yield "Tests are not corrected for their number."
    yield from as_lines(interval_note(shown))
    yield from as_lines(runs_note(shown))
    unknown = int(frame["gain"].isna().sum())
    if unknown:
        yield f"{unknown} of {len(frame)} tiles are empty: a score is missing there, or zero-shot's is."

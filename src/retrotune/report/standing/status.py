"""The study at a glance: a matrix of cells, the time that is left, and the log of each failure."""

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retrotune.errors import DataError
from retrotune.report.gathering.collect import Result, read_cells
from retrotune.report.gathering.rows import grouped, in_order, row_labels, unique
from retrotune.report.standing.standings import (
    STATES,
    Failure,
    Standing,
    passed_over,
    read_standings,
    read_work,
    shared_failures,
)
from retrotune.runtime.files import read_json
from retrotune.study.config import Config
from retrotune.study.paths import CELL_STAGES, Paths, stages_of

SYMBOLS = {"done": "✓", "running": "▶", "queued": "…", "failed": "✗", "missing": "·"}
LETTERS = {"done": "d", "running": "r", "queued": "q", "failed": "F", "missing": "-"}
_MEASURED = {"finetune_cell": "train", "predict_cell": "predict"}


@dataclass(frozen=True)
class Estimate:
    """Seconds of work that unfinished cells need.

    `rests_on` counts them by what their estimate rests on; `unknown` cells have nothing to go by and are left out.
    """

    seconds: float
    rests_on: Mapping[str, int]
    finished: int
    unknown: int


def study_status(config: Config, symbols: Mapping[str, str] = SYMBOLS) -> str:
    """Text of `retrotune status`, of the study's cells as they stand now.

    `symbols` gives each state of `standings.STATES` a sign.
    """
    paths = Paths.of(config)
    results = read_cells(config)
    work = read_work(paths)
    standings, failures = read_standings(paths, results, work), shared_failures(config, work)
    if work.slurm is None:  # where jobs are not tried again
        standings = passed_over(config, results, standings, failures)
    now = time.time()
    counts = Counter(standing.state for standing in standings)
    parts = [
        f"{config.study}: {len(results)} cells, " + ", ".join(f"{counts[state]} {state}" for state in STATES[::-1]),
        f"snakemake at work: {work.head}" if work.head else "no snakemake is at work" * (counts["done"] < len(results)),
        matrix(results, standings, symbols),
        _running(results, standings, now),
        _estimate_text(estimate(paths, results, standings, now), counts["running"]),
        _failures(results, standings, failures),
    ]
    return "\n\n".join(part for part in parts if part)


def matrix(results: Sequence[Result], standings: Sequence[Standing], symbols: Mapping[str, str]) -> str:
    """Rows of family, size and method, columns of datasets. Retrievals and seeds of an entry are counted together:
    its sign is that of the state to look at first, its numbers are done/all."""
    state = {result.name: standing.state for result, standing in zip(results, standings, strict=True)}
    ordered = in_order(results)
    datasets = unique(result.dataset for result in results)
    names, label_of = row_labels(results)
    rows = [[*names, *datasets]]
    for label, row in grouped(ordered, label_of).items():
        entries = []
        for dataset in datasets:
            states = [state[result.name] for result in row if result.dataset == dataset]
            first = next((name for name in STATES if name in states), None)
            sign = symbols[first] if first else ""
            entries.append(f"{sign} {states.count('done')}/{len(states)}" if len(states) > 1 else sign)
        rows.append([*label, *entries])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    legend = ", ".join(f"{symbols[name]} {name}" for name in STATES[::-1])
    counted = (
        "; n/m: n of m retrievals, replicates and seeds are done"
        if any("/" in entry for row in rows[1:] for entry in row)
        else ""
    )
    return "\n".join([*lines, f"({legend}{counted})"])


def estimate(paths: Paths, results: Sequence[Result], standings: Sequence[Standing], now: float) -> Estimate:
    """Work left, from the seconds that finished cells measured: of the same model, method and dataset, else of the
    same model and method, else of the same model and another method. What a running stage has done is taken off."""
    known: dict[tuple[str, ...], list[float]] = defaultdict(list)
    finished = 0
    for result, standing in zip(results, standings, strict=True):
        for stage, entry in _measured(paths, result, standing).items():
            finished += standing.state == "done" and stage == "predict_cell"
            for key in _keys(result, stage):
                known[key].append(entry)
    means = {key: statistics.fmean(values) for key, values in known.items()}
    seconds, rests_on, unknown = 0.0, Counter[str](), 0
    for result, standing in zip(results, standings, strict=True):
        if standing.state == "done":
            continue
        left = stages_of(result.trained)
        left = [stage for stage in left[left.index(standing.stage or left[0]) :] if stage in _MEASURED]
        found = [next(((n, means[key]) for n, key in enumerate(_keys(result, s)) if key in means), None) for s in left]
        if None in found:
            unknown += 1
            continue
        levels = [entry for entry in found if entry is not None]
        if levels:
            rests_on[_BASES[max(level for level, _ in levels)]] += 1
        spent = _spent(standing, levels[0][1], now) if levels else 0.0
        seconds += sum(mean for _, mean in levels) - spent
    return Estimate(seconds, dict(rests_on), finished, unknown)


_BASES = ("the same model, method and dataset", "the same model and method", "the same model with another method")


def _keys(result: Result, stage: str) -> list[tuple[str, ...]]:
    return [
        (stage, result.model, result.method, result.dataset),
        (stage, result.model, result.method),
        (stage, result.model),
    ]


def _measured(paths: Paths, result: Result, standing: Standing) -> dict[str, float]:
    """Seconds by stage: of a done cell from its result, of another from the stages that it has finished."""
    if standing.state == "done":
        found: dict[str, Any] = {stage: getattr(result, name) for stage, name in _MEASURED.items()}
    elif standing.stage in ("predict_cell", "score_cell"):
        folder = paths.study + "/cells/" + result.name
        found = {stage: _read(f"{folder}/{file}") for stage, file in CELL_STAGES.items() if stage in _MEASURED}
    else:
        return {}
    seconds = {stage: entry.get("seconds") for stage, entry in found.items()}
    return {stage: float(value) for stage, value in seconds.items() if isinstance(value, int | float)}


def _read(path: str) -> dict[str, Any]:
    try:
        value = read_json(path)
    except (OSError, DataError):
        return {}
    return value if isinstance(value, dict) else {}


def _spent(standing: Standing, mean: float, now: float) -> float:
    """Seconds that a running stage has had so far, at most its mean."""
    if standing.state != "running" or standing.began is None:
        return 0.0
    return min(mean, max(0.0, now - standing.began))


def _estimate_text(left: Estimate, running: int) -> str:
    if not left.rests_on:
        return f"time left: unknown, no finished cell to go by for {left.unknown} cells" if left.unknown else ""
    at_once = max(1, running)
    how = f"with {running} at once as now" if running else "one after another"
    basis = ", ".join(f"{count} by {what}" for what, count in left.rests_on.items())
    lines = [
        f"time left: about {duration(left.seconds / at_once)} {how} ({duration(left.seconds)} of work)",
        f"  rests on {left.finished} finished cells' measured seconds: {basis};",
        "  without waiting, loading and what cells share",
    ]
    if left.unknown:
        lines.append(f"  {left.unknown} cells more have no finished cell of their model to go by")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 12 min, 3.4 h, 2.5 days."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{0 if unit == 'min' else 1}f} {unit}"
    return f"{seconds:.0f} s"


def _running(results: Sequence[Result], standings: Sequence[Standing], now: float) -> str:
    lines = []
    for result, standing in zip(results, standings, strict=True):
        if standing.state != "running":
            continue
        age = "" if standing.log_time is None else f", last word {duration(max(0.0, now - standing.log_time))} ago"
        note = f", {standing.note}" if standing.note else ""
        lines.append(f"  {result.name}: {standing.stage}{age}{note}")
    return "\n".join(["running:", *lines]) if lines else ""


def _failures(results: Sequence[Result], standings: Sequence[Standing], shared: Sequence[Failure]) -> str:
    lines = [f"  {failure.note}\n    log: {failure.log}" for failure in shared]
    for result, standing in zip(results, standings, strict=True):
        if standing.state == "failed":
            log = f"\n    log: {standing.log}" if standing.log else ""
            lines.append(f"  {result.name}: {standing.stage}: {standing.note}{log}")
    return "\n".join(["failed:", *lines, "  why and how to run one alone: retrotune explain CELL"]) if lines else ""

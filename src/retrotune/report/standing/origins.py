"""Where the numbers of one cell come from, and whether they are what this code would make of the files on disk."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retrotune.data.scores import METRICS
from retrotune.errors import ResultError
from retrotune.report.gathering.present import changed, digest_of, used_files
from retrotune.study.cells import Cell
from retrotune.study.paths import Paths
from retrotune.study.records import Made, MetricsRecord, MetricValue, Software, read_metrics

SHOWN_DIGITS = 12


def number_origins(paths: Paths, cell: Cell) -> list[str]:
    """Lines of `retrotune explain` on a cell's numbers; none where it has no result, one where it is unusable.

    Each metric with its interval, the key that it stands at and the parts that it is made of; the stages that made
    them, with their numbers, commits, times and machines; the files that they rest on, read to see whether they are
    still the same.
    """
    metrics = Path(paths.cell(cell, "metrics.json"))
    if not metrics.exists():
        return []
    try:
        found = read_metrics(metrics)
    except ResultError as error:
        return ["", "numbers: none that can be used", f"  {error}"]
    return [
        "",
        f"numbers, in {metrics}, each a function of means over {metrics.with_name('scores.jsonl').name}:",
        *(f"  {line}" for line in _numbers(found)),
        "made by:",
        *(f"  {line}" for line in _makers(found)),
        "rest on (sha256):",
        *(f"  {line}" for line in _files(paths, cell, found)),
    ]


def _numbers(found: MetricsRecord) -> Iterator[str]:
    headline = next((name for name, entry in found.metrics.items() if entry.primary), "")
    for name, entry in found.metrics.items():
        yield f"{_number(entry)}  metrics.{name}, {_parts(name)}{', the headline' if entry.primary else ''}"
    for kind, entry in found.by_type.items():
        yield f"{_number(entry)}  by_type.{kind}, {headline} of the answers of this type"


def _number(entry: MetricValue) -> str:
    known = entry.ci_low is not None and entry.ci_high is not None
    bounds = f"[{entry.ci_low:.1f}, {entry.ci_high:.1f}]" if known else "no interval"
    return f"{entry.value:6.2f}  {bounds:14}  n={entry.n} in {entry.clusters} clusters"


def _parts(name: str) -> str:
    if name not in METRICS:
        return "a metric that this code does not know"
    metric = METRICS[name]
    keys = ", ".join(f"scores.{part}" for part in metric.parts)
    return f"mean of {keys}" if len(metric.parts) == 1 else f"{metric.combination} mean of the means of {keys}"


def _makers(found: MetricsRecord) -> Iterator[str]:
    for stage, made in found.makers.items():
        device = f", on {found.predict.device}" if stage == "predict_cell" else ""
        yield f"{stage} version {found.versions.stages[stage]}, the present one: {_maker(made)}{device}"


def _maker(made: Made | None) -> str:
    if made is None:
        return "by what and when was not recorded"
    software: Software = made.software
    code = f"retrotune {software.retrotune}, {_commit(software)}"
    packages = {name: getattr(software, name) for name in ("torch", "transformers", "peft")}
    versions = ", ".join(f"{name} {version}" for name, version in packages.items() if version is not None)
    return f"{made.finished}, {code}, {versions}, Python {software.python}, {software.platform}"


def _commit(software: Software) -> str:
    if software.git is None:
        return "no commit known"
    return f"commit {software.git.commit[:SHOWN_DIGITS]}{' with uncommitted changes' if software.git.dirty else ''}"


def _files(paths: Paths, cell: Cell, found: MetricsRecord) -> Iterator[str]:
    own: Mapping[str, Any] = {"predictions": found.inputs.predictions, "scores": found.inputs.scores}
    files = [(name, paths.cell(cell, f"{name}.jsonl"), digest) for name, digest in own.items()]
    for name, path, digest in [*files, *used_files(paths, cell, found)]:
        yield f"{digest[:SHOWN_DIGITS]}  {name}: {path}, {_whether(path, digest)}"


def _whether(path: str, digest: str) -> str:
    time = changed(path)
    if time is None:
        return "which is not there"
    now = digest_of(path, time)
    return "the present one" if now == digest else f"which is another one by now ({now[:SHOWN_DIGITS]})"

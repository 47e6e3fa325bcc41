"""All cells' results in two files: `metrics.csv` for people and spreadsheets, `results.json` for tables and figures.

Every cell of the grid is in them, in the order of the config, also one that is missing or failed: no number is filled
in and no cell disappears.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from retrotune.data.scores import METRICS
from retrotune.errors import ResultError
from retrotune.report.gathering.base_models import disk_bytes, read_models
from retrotune.report.gathering.present import Used, changed, check_present, different_data, used_files
from retrotune.runtime.files import atomic_write, read_result, sha256, write_json
from retrotune.runtime.lifecycle import End, read_end
from retrotune.runtime.log import logger
from retrotune.scoring.contrasts import Runs
from retrotune.scoring.sheets import Sheet, read_sheets, write_scores
from retrotune.study.cells import Cell
from retrotune.study.config import Config
from retrotune.study.paths import CELL_STAGES, MODEL_STAGES, Paths
from retrotune.study.records import MetricsRecord, OutdatedError, ScoredFiles, read_metrics
from retrotune.study.resolve import collecting
from retrotune.study.stages import CellLabels, CollectParams

FAMILIES = {"gpt": "GPT", "retro": "RETRO"}
KEPT = {"finetune_cell": ("adapter",), "predict_cell": ("predictions.jsonl", "scores.jsonl")}
"""What a cell keeps, by the stages whose room it is; scores count as a part of what was predicted."""
VALUES = ("value", "ci_low", "ci_high", "n", "higher_is_better", "primary")


@dataclass(frozen=True)
class Result:
    """One cell as tables and figures see it.

    `status` is what metrics.json says (done), damaged where that is no result, outdated where it cannot stand beside
    present ones (`report.gathering.present`), else what the logs say: running, stopped, failed, or missing where no job
    has begun. `problem` says more, and where the log is. `provenance` of a result: `inputs`, digests by name; `stages`,
    numbers of their code; `software`, by stage, None where it was not recorded. `disk` are bytes by the stage that
    wrote them: of trained weights, and of predictions with their scores.
    """

    model: str
    method: str
    dataset: str
    retrieval: str
    seed: int
    family: str
    size: str
    instruct: bool
    kind: str
    trained: bool
    metric: str
    status: str
    problem: str | None
    num_parameters: int | None = None
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    predict: dict[str, Any] = field(default_factory=dict)
    departures: list[str] = field(default_factory=list)
    retrieval_gate: float | None = None
    replicate_of: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    fingerprint: str | None = None
    """Digest of the base model's weights: cells of one model must not rest on different ones unsaid."""
    disk: dict[str, int] = field(default_factory=dict)

    @property
    def cell(self) -> Cell:
        """The cell's coordinates."""
        return Cell(self.model, self.method, self.dataset, self.retrieval, self.seed)

    @property
    def original(self) -> str:
        """The model whose row this is: the one that it replicates, or itself."""
        return self.replicate_of or self.model

    @property
    def name(self) -> str:
        """The cell's name in messages."""
        return self.cell.name

    @property
    def arm(self) -> str:
        """The family as it is printed; instruction-tuned models and gates that a study closes or scales are marked."""
        name = FAMILIES[self.family] + (" instruct" if self.instruct else "")
        if self.retrieval_gate in (None, 1):
            return name
        return f"{name}, encoder off" if self.retrieval_gate == 0 else f"{name}, gate {self.retrieval_gate:g}"

    @property
    def primary(self) -> dict[str, Any] | None:
        """The primary metric's entry (value, ci_low, ci_high, n), None unless the cell is done."""
        return self.metrics.get(self.metric) if self.status == "done" else None


def collect_metrics(
    params: CollectParams, paths: Paths, out_csv: str | Path, out_json: str | Path, out_scores: str | Path
) -> None:
    """Gather the study's results: a row per cell and metric in `out_csv`, a record per cell and model in `out_json`.

    `out_scores` has the scores of each question (`scoring.sheets`). A missing, unreadable or failed cell keeps its row,
    with a status and no value.
    """
    results = _results(paths, params)
    write_results(paths, results, out_csv, out_json, out_scores)


def read_cells(config: Config) -> list[Result]:
    """Results of the study's cells as they are on disk now, in the order of the config."""
    return _results(Paths.of(config), collecting(config))


def write_results(
    paths: Paths, results: Sequence[Result], out_csv: str | Path, out_json: str | Path, out_scores: str | Path
) -> None:
    """Write results as `collect_metrics` does, of any cells."""
    with atomic_write(out_csv) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*_COORDINATES, "status", "metric", *VALUES])
        writer.writerows(_rows(results))
    done_cells = [result.cell for result in results if result.primary is not None]
    metrics = dict.fromkeys(name for result in results for name in result.metrics if name in METRICS)
    write_scores(out_scores, ((cell, paths.cell(cell, "scores.jsonl")) for cell in done_cells), metrics)
    models = read_models(paths, dict.fromkeys(result.model for result in results))
    write_json(
        out_json,
        {"study": paths.name, "results": [vars(result) for result in results], "models": list(map(vars, models))},
    )
    done = sum(result.status == "done" for result in results)
    logger.info("collected %d cells: %d done, %d not", len(results), done, len(results) - done)


def load_results(path: str | Path) -> list[Result]:
    """Read what `collect_metrics` wrote to `out_json`."""
    return [Result(**record) for record in read_result(path)["results"]]


def load_sheets(path: str | Path, results: Sequence[Result]) -> dict[str, Sheet]:
    """Scores of each question of those `results` that are done, from what `collect_metrics` wrote to `out_scores`."""
    done = [result for result in results if result.primary is not None]
    return read_sheets(path, {result.dataset: result.metric for result in done}, [result.cell for result in done])


def runs_of(results: Sequence[Result]) -> Runs:
    """Which results are runs of one row."""
    return Runs.of({result.model: result.replicate_of for result in results})


def holds(path: str | Path, results: Sequence[Result]) -> bool:
    """Whether `path` is there and has exactly these results, in any order.

    It may have those of a selection, or of cells that were run again since. Whoever makes room on a disk changes none.
    """
    try:
        found = load_results(path)
    except (ResultError, KeyError, TypeError):
        return False
    one, other = ({result.name: replace(result, disk={}) for result in some} for some in (found, results))
    return one == other


_COORDINATES = ("family", "size", "instruct", "num_parameters", "model", "method", "dataset", "retrieval", "seed")


def _rows(results: Sequence[Result]) -> Iterator[list[Any]]:
    for result in results:
        coordinates = [getattr(result, name) for name in _COORDINATES]
        for name, entry in result.metrics.items():
            yield [*coordinates, result.status, name, *(entry.get(value) for value in VALUES)]
        if not result.metrics:
            yield [*coordinates, result.status, result.metric, *(None for _ in VALUES[:-1]), True]


def _unfinished(paths: Paths, cell: Cell) -> tuple[str, str | None]:
    """(status, problem) of a cell without metrics.json: what its last job said, or that it has no base model."""
    log, end = _last_end([paths.log(stage, **vars(cell)) for stage in CELL_STAGES])
    if end is None and not Path(paths.model_manifest(cell.model)).exists():
        log, end = _last_end([paths.log(stage, model=cell.model) for stage in MODEL_STAGES])
        if end is not None and end.state != "failed":
            end = None
    if end is None or end.state == "finished":
        return "missing", None
    return end.state, f"{end.message} (log: {log})"


def _last_end(logs: Sequence[str]) -> tuple[str, End | None]:
    """The log that was written last, and how its job ended."""
    times = {log: time for log in logs if (time := changed(log)) is not None}
    log = max(times, key=lambda log: times[log], default="")
    return log, read_end(log) if log else None


def _results(paths: Paths, params: CollectParams) -> list[Result]:
    results = [_result(paths, labels) for labels in params.labels()]
    scored = [place for place, result in enumerate(results) if result.status == "done"]
    different = different_data(
        [results[place].cell for place in scored], [results[place].provenance["inputs"] for place in scored]
    )
    for place, problem in different:
        results[scored[place]] = replace(results[scored[place]], status="outdated", problem=problem, metrics={})
    return results


def _result(paths: Paths, labels: CellLabels) -> Result:
    cell = Cell(labels.model, labels.method, labels.dataset, labels.retrieval, labels.seed)
    path = Path(paths.cell(cell, "metrics.json"))
    found: MetricsRecord | None = None
    used: list[Used] = []
    if not path.exists():
        status, problem = _unfinished(paths, cell)
    else:
        try:
            found = read_metrics(path)
            status, problem = found.status, found.problem
            if found.cell.cell != cell:
                raise ResultError(
                    f"{path}: belongs to cell {found.cell.cell.name}; delete the cell's folder and run it again"
                )
            _check_scored(path, found.inputs)
            used = used_files(paths, cell, found)
            check_present(path, used)
        except ResultError as error:
            status, problem = "outdated" if isinstance(error, OutdatedError) else "damaged", str(error)
            found = None if status == "damaged" else found
            logger.warning("%s: %s: %s", path, status, error)
    if found is None:
        return Result(**labels.model_dump(), status=status, problem=problem)
    values = found.model_dump()
    return Result(
        **labels.model_dump(),
        status=status,
        problem=problem,
        num_parameters=found.model.num_parameters,
        metrics=values["metrics"] if status == "done" else {},
        train=values["train"] or {},
        predict=values["predict"],
        disk={stage: sum(disk_bytes(paths.cell(cell, file)) for file in files) for stage, files in KEPT.items()},
        departures=found.model.departures,
        fingerprint=found.model.fingerprint,
        provenance={
            "inputs": {file.name: file.digest for file in used},
            "stages": found.versions.stages,
            "software": {
                stage: None if made is None else made.model_dump()["software"] for stage, made in found.makers.items()
            },
        },
    )


def _check_scored(metrics: Path, inputs: ScoredFiles) -> None:
    """Raise `ResultError` if scores are not those that the result was made of, or answers were made anew since."""
    scores = metrics.with_name("scores.jsonl")
    if not scores.is_file() or sha256(scores) != inputs.scores:
        raise ResultError(
            f"{scores}: missing, or not what {metrics.name} was made of: delete {metrics} and run snakemake"
        )
    predictions = metrics.with_name("predictions.jsonl")
    if not predictions.exists() or predictions.stat().st_mtime <= metrics.stat().st_mtime:
        return
    if sha256(predictions) != inputs.predictions:
        raise ResultError(f"{metrics}: older than its predictions: run snakemake, which scores them again")

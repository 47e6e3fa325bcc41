"""Where each cell of a study stands, read from the file system, and from Slurm's queue where there is one.

What is looked at, for the stages of a cell in their order:

- `metrics.json`: the cell is done.
- The study's lock (`runtime.heads`): whether a head is at work, since when, and what it has planned. What is planned
  and has not begun since is queued, whatever its log says of an earlier attempt.
- The markers that Snakemake keeps of jobs that it has started or submitted: such a job runs once its log is younger
  than the marker, until then it waits. Markers older than the head are left from one that was killed or interrupted.
- The end of the log of the first stage that has no result (`runtime.lifecycle.read_end`): how it failed or was stopped.

Everything else is missing.
"""

import base64
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from retrotune.report.gathering.collect import Result
from retrotune.runtime.heads import Head, living
from retrotune.runtime.lifecycle import End, read_end
from retrotune.runtime.slurm.queue import own_jobs
from retrotune.study.artifacts import Artifacts
from retrotune.study.cells import Cell
from retrotune.study.config import Config
from retrotune.study.paths import CELL_STAGES, Paths, stages_of

STATES = ("failed", "running", "queued", "missing", "done")
_PENDING = ("PENDING", "REQUEUED", "CONFIGURING", "SUSPENDED")


@dataclass(frozen=True)
class Standing:
    """Where a cell stands.

    `state` is one of `STATES`; `stage` is the first rule without a result, the one that runs, waits or failed (None:
    no work left). `note` says why it failed or what Slurm says. `log` is that stage's log where it has one, `log_time`
    when it was written last, `began` when the stage was started, if that is known; both in seconds since the epoch.
    """

    state: str
    stage: str | None = None
    note: str = ""
    log: str | None = None
    log_time: float | None = None
    began: float | None = None


@dataclass(frozen=True)
class Failure:
    """A job shared by cells (data, models) that failed: its log and the log's last word."""

    log: str
    note: str


@dataclass(frozen=True)
class _Marker:
    time: float
    job: str | None


@dataclass
class Work:
    """What Snakemake and Slurm say about work in progress, read once for all cells.

    `head`: the Snakemake at work on the study, if one is. `markers`: outputs whose job was started or submitted.
    `slurm`: state of Slurm's jobs, by id and by comment; None where there is no squeue.
    """

    head: Head | None = None
    markers: Mapping[str, _Marker] = field(default_factory=dict)
    slurm: Mapping[str, str] | None = None

    def plans(self, log: str) -> bool:
        """Whether the head at work had to do the stage with this log when it began."""
        return self.head is not None and log in self.head.planned

    def waits(self, log: str) -> bool:
        """Whether the head has yet to begin the stage with this log."""
        if self.head is None or log not in self.head.planned:
            return False
        written = _time(log)
        return written is None or written < self.head.began


def read_work(paths: Paths, folder: str | Path = ".snakemake") -> Work:
    """Read the study's lock and Snakemake's markers in `folder`, and ask `squeue`, if it is there, for own jobs."""
    return Work(living(paths.study), dict(_markers(Path(folder) / "incomplete")), own_jobs())


def read_standings(paths: Paths, results: Iterable[Result], work: Work) -> list[Standing]:
    """Where each cell stands whose result as it is on disk is given, in the same order."""
    return [_standing(paths, result, work) for result in results]


def shared_failures(config: Config, work: Work) -> list[Failure]:
    """Failed jobs that cells share, by the last lines of their logs, without those that wait to be done again."""
    artifacts, failures = Artifacts(config), list[Failure]()
    made = [artifact for artifact in artifacts.all() if artifact.stage not in (None, *CELL_STAGES)]
    for log in dict.fromkeys(artifacts.log(artifact) for artifact in made):
        end = read_end(log)
        if end is not None and end.state == "failed" and not work.waits(log):
            failures.append(Failure(log, end.message))
    return failures


def passed_over(
    config: Config, results: Sequence[Result], standings: Sequence[Standing], failures: Sequence[Failure]
) -> list[Standing]:
    """`standings`, but queued cells that rest on one of the `failures` are missing: the head goes on without them."""
    artifacts, logs = Artifacts(config), {failure.log for failure in failures}

    def standing_of(result: Result, standing: Standing) -> Standing:
        if standing.state != "queued":
            return standing
        cell = Cell(result.model, result.method, result.dataset, result.retrieval, result.seed)
        needed = artifacts.rest_on([artifacts.cell(cell, "score_cell", "metrics.json")])
        failed = logs & {artifacts.log(artifact) for artifact in needed if artifact.stage is not None}
        return replace(standing, state="missing", note=f"rests on {min(failed)}") if failed else standing

    return [standing_of(*pair) for pair in zip(results, standings, strict=True)] if logs else list(standings)


def log_of(paths: Paths, cell: Cell, stage: str) -> str:
    """Log of one stage of a cell."""
    return paths.log(stage, **vars(cell))


def _markers(root: Path) -> Iterator[tuple[str, _Marker]]:
    """Outputs with a marker: its path below `root` is the output's in base64, long ones cut into folders with @."""
    for parent, _, files in os.walk(root):
        above = Path(parent).relative_to(root).parts
        for name in files:
            path = Path(parent) / name
            try:
                output = base64.urlsafe_b64decode("".join([part[1:] for part in above] + [name])).decode()
                marker = json.loads(path.read_text(encoding="utf-8") or "{}")
                job = marker.get("external_jobid") if isinstance(marker, dict) else None
                yield output, _Marker(path.stat().st_mtime, None if job is None else str(job))
            except (OSError, ValueError):  # gone since, or not a marker
                continue


def _standing(paths: Paths, result: Result, work: Work) -> Standing:
    cell = Cell(result.model, result.method, result.dataset, result.retrieval, result.seed)
    folder = paths.cell(cell)
    stages = stages_of(result.trained)
    if work.markers or work.slurm:
        for one in stages:
            if (working := _working(paths, cell, folder, one, work)) is not None:
                return working
    for one in stages:
        log = log_of(paths, cell, one)
        if work.waits(log):
            return Standing("queued", one)
        if work.plans(log) and (end := read_end(log)) is not None and end.state != "finished":
            return _ended(end, one, log)
    if result.status == "done":
        return Standing("done")
    if result.status == "damaged":
        return Standing("failed", "score_cell", result.problem or "its result is damaged")
    if result.status == "outdated":
        return Standing("missing", "score_cell", result.problem or "its result is outdated")
    stage = _next_stage(folder, stages)
    if stage is None:  # done since its result was looked for
        return Standing("done")
    log = log_of(paths, cell, stage)
    return _ended(read_end(log), stage, log)


def _ended(end: End | None, stage: str, log: str) -> Standing:
    """The standing of a cell by how one stage of it ended."""
    if end is None or end.state == "finished":
        return Standing("missing", stage)
    state = "missing" if end.state == "stopped" else end.state
    return Standing(state, stage, end.message, log, _time(log))


def _working(paths: Paths, cell: Cell, folder: str, stage: str, work: Work) -> Standing | None:
    """The standing of a cell one stage of which was started or submitted; None for one that was not."""
    marker = work.markers.get(f"{folder}/{CELL_STAGES[stage]}")
    slurm = None
    if work.slurm is not None:
        comment = "_".join((cell.model, cell.method, cell.dataset, cell.retrieval, str(cell.seed)))
        # a job that several rules share is known by its id alone
        jobs = [f"rule_{stage}_wildcards_{comment}", *([marker.job] if marker and marker.job else [])]
        slurm = next((work.slurm[job] for job in jobs if job in work.slurm), None)
    if slurm is None and (marker is None or work.head is None or marker.time < work.head.began):
        return None
    log = log_of(paths, cell, stage)
    said = _time(log)
    begun = said is not None and (marker is None or said >= marker.time)
    if slurm is not None:
        state = "queued" if slurm in _PENDING else "running"
        return Standing(state, stage, f"Slurm: {slurm}", log if begun else None, said if begun else None)
    if not begun:
        return Standing("queued", stage)
    end = read_end(log)
    if end is not None and end.state in ("failed", "stopped"):
        ended = _ended(end, stage, log)
        again = end.state == "stopped" and work.slurm is not None  # at its time limit
        return replace(ended, state="queued") if again else ended
    if end is not None and end.state == "finished" and work.slurm is not None:
        return None  # its head has not noticed yet, as it looks at Slurm's queue now and then only
    return Standing("running", stage, "", log, said, None if marker is None else marker.time)


def _next_stage(folder: str, stages: Sequence[str]) -> str | None:
    return next((stage for stage in stages if _time(f"{folder}/{CELL_STAGES[stage]}") is None), None)


def _time(path: str) -> float | None:
    """When a file was written; None if it is not there."""
    try:
        return os.stat(path).st_mtime  # noqa: PTH116 (a third of the time of pathlib's, in thousands of cells)
    except OSError:
        return None

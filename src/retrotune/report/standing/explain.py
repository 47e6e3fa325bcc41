"""One cell explained: what it reads, what it is made with, where its numbers come from, why it would run, and how."""

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from retrotune.report.gathering.collect import read_cells
from retrotune.report.standing.origins import number_origins
from retrotune.report.standing.standings import log_of, read_standings, read_work
from retrotune.runtime.files import sha256_text
from retrotune.study.artifacts import Artifacts
from retrotune.study.cells import Cell
from retrotune.study.config import Config, Select
from retrotune.study.paths import Paths, find_cell
from retrotune.study.resolve import cell_stages
from retrotune.study.stages import STAGES, StageParams

_RULE = re.compile(r"^(?:local)?rule (\w+):$|^    reason: (.*)$", flags=re.MULTILINE)
_VALUES = re.compile(r"(Params have changed since last execution): .*")
"""What Snakemake says of changed values; which ones they are stands under the configuration."""


_NEWER = ("Updated input files: ", "Input files updated by another job: ")
"""What Snakemake says where an input is newer than an output, or will be once another job has run."""


def explain_cell(config: Config, name: str, options: Sequence[str] = (), snakefile: str = "Snakefile") -> str:
    """Text of `retrotune explain`; `options` are the words that name the study for snakemake.

    What would run and why is what Snakemake's own dry run of this cell says, in the current folder.
    """
    cell = find_cell(config, name)
    paths = Paths.of(config)
    alone = config.model_copy(update={"select": Select(**vars(cell))})
    used = cell_stages(config, cell)
    (standing,) = read_standings(paths, read_cells(alone), read_work(paths))
    state = f"{standing.state}{f' ({standing.stage})' if standing.stage else ''}"
    target = paths.cell(cell, "metrics.json")
    run = ["snakemake", "--cores", "1", *options]
    model = config.models[cell.model]
    named = f"{cell.name}: {model.family}, size {model.size}, {state}"
    lines = [named if not standing.note else f"{named}: {standing.note}", "", "inputs and results:"]
    lines += [f"  {_dated(file)}" for file in cell_files(config, cell)]
    lines += ["", f"configuration: {digest(used)}{_compared(used, Path(paths.cell(cell, 'config.yaml')))}"]
    lines += number_origins(paths, cell)
    lines += ["", "what would run, and why:", *_reasons([*options, target], snakefile)]
    # a list of values ends where the next option begins
    ended = ["--", target] if options else [target]
    lines += [
        "",
        "alone:",
        f"  {shlex.join([*run, *ended])}",
        "again from its start:",
        f"  {shlex.join([*run, '--forcerun', *used, *(['--', target])])}",
        "on Slurm: the same with --profile slurm instead of --cores 1",
        "logs:",
        *(f"  {_dated(log_of(paths, cell, stage))}" for stage in used),
    ]
    return "\n".join(lines)


def cell_files(config: Config, cell: Cell) -> list[str]:
    """Files that a cell's stages read and write, in the order in which they are made."""
    artifacts = Artifacts(config)
    result = artifacts.cell(cell, "score_cell", "metrics.json")
    stages = artifacts.cell_stages(cell)
    needs = [need for stage in stages for need in artifacts.inputs(stage, result.wildcards).values()]
    shared = [str(need) for need in needs if not str(need).startswith(artifacts.paths.cell(cell))]
    made = ["adapter", "train_log.jsonl", "train.json"] if "finetune_cell" in stages else []
    made += ["predictions.jsonl", "predict.json", "scores.jsonl", "config.yaml", "metrics.json"]
    return [*dict.fromkeys(shared), *(artifacts.paths.cell(cell, file) for file in made)]


def digest(used: Mapping[str, StageParams]) -> str:
    """Twelve digits of the sha256 of what a cell's stages use."""
    return sha256_text("".join(params.text() for params in used.values()))[:12]


def differences(now: Any, then: Any, place: str = "") -> Iterator[str]:
    """Where two configurations differ, a line per value: its place, what it was, what it is."""
    if isinstance(now, dict) and isinstance(then, dict):
        for key in sorted(now.keys() | then.keys()):
            yield from differences(now.get(key), then.get(key), f"{place}.{key}" if place else str(key))
    elif now != then:
        yield f"{place}: {json.dumps(then)} -> {json.dumps(now)}"


def read_reasons(output: str) -> list[tuple[str, str]]:
    """(rule, reason) of each job in what a dry run prints, target rules left out."""
    jobs, rule = [], ""
    for name, reason in _RULE.findall(output):
        if name:
            rule = name
        elif rule not in ("all", "models", "neighbors"):
            jobs.append((rule, _VALUES.sub(r"\1", reason)))
    return jobs


def only_times(reasons: Iterable[str]) -> bool:
    """Whether jobs would run for no other reason than that files are newer than what was made of them."""
    parts = [part for reason in reasons for part in reason.split("; ")]
    return bool(parts) and all(part.startswith(_NEWER) for part in parts)


def _compared(used: Mapping[str, StageParams], recorded: Path) -> str:
    """Whether a cell's result was made with what its stages use now, and where not."""
    try:
        then = yaml.safe_load(recorded.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return f"; {recorded} cannot be read: {error}"
    if not isinstance(then, dict):
        return f"; {recorded} cannot be read: no mapping of stages"
    changed = [
        line
        for stage, params in used.items()
        for line in differences(params.recorded(), _completed(stage, then.get(stage)), stage)
    ]
    if not changed:
        return ", the one that its result was made with"
    return "\n  its result was made with another one:\n" + "\n".join(f"    {line}" for line in changed)


def _completed(stage: str, recorded: Any) -> Any:
    """What a result recorded of a stage, with the defaults of keys that were not there yet."""
    if not isinstance(recorded, dict):
        return recorded
    values = {key: value for key, value in recorded.items() if key != "version"}
    try:
        params = STAGES[stage].model_validate(values)
    except ValidationError:
        return recorded
    return {**params.recorded(), "version": recorded.get("version")}


def _dated(file: str) -> str:
    try:
        written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(Path(file).stat().st_mtime))
    except OSError:
        written = "not there"
    return f"{written:19}  {file}"


def _reasons(arguments: Sequence[str], snakefile: str) -> list[str]:
    if not Path(snakefile).is_file():
        return [f"  there is no {snakefile} here: run this in the folder where you run snakemake"]
    *options, target = arguments
    command = [sys.executable, "-m", "snakemake", "--snakefile", snakefile, "--dry-run", "--nolock", "--nocolor"]
    command += [*options, "--", target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (arguments, no shell)
    if done.returncode:
        return [f"  {line}" for line in (done.stdout + done.stderr).strip().splitlines()[-8:]]
    jobs = read_reasons(done.stdout + done.stderr)
    lines = [f"  {rule}: {reason}" for rule, reason in jobs] or ["  nothing: its result is up to date"]
    if only_times(reason for _, reason in jobs):
        touch = shlex.join(["snakemake", "--cores", "1", *options, "--touch", "--", target])
        lines.append(f"  Newer files are the only reason. If these are copies and nothing has changed: {touch}")
    return lines

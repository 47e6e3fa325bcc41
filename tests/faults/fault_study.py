"""A small study that is killed, starved and cut off, and must always end with the results of an undisturbed run."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parent.parent.parent
MEASURED = {"seconds", "peak_memory_bytes", "energy_joules", "git"}
"""Keys of JSON files whose values differ from run to run, or while somebody works on the code."""
KINDS = ("job", "head", "everything", "preemption")


class Study:
    """The study of faults.yaml in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.cells = folder / "results/faults/cells"
        self.work = folder / "results/faults/work"

    def command(self, *arguments: str) -> list[str]:
        files = [REPOSITORY / "config/config.yaml", Path(__file__).with_name("faults.yaml")]
        options = ["--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(self.folder), "--cores", "2"]
        profile = ["--workflow-profile", str(REPOSITORY / "profiles/default")]
        return [
            *(sys.executable, "-m", "snakemake", "--configfile", *map(str, files)),
            *options,
            *profile,
            *arguments,
        ]

    def start(self) -> subprocess.Popen[str]:
        """Snakemake in a session of its own; what it says is in `said`."""
        with open(self.folder / "head.log", "w") as log:
            return subprocess.Popen(
                self.command(), cwd=self.folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, text=True
            )

    @property
    def said(self) -> str:
        """Output of the last `start`."""
        return (self.folder / "head.log").read_text()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def finish(self) -> str:
        """Run again until all is done, as the messages say; what Snakemake says."""
        self.run("--unlock")
        done = self.run()
        assert done.returncode == 0, done.stdout
        return done.stdout

    def tables(self) -> str:
        """What `retrotune tables` prints."""
        files = ["--configfile", str(REPOSITORY / "config/config.yaml"), str(Path(__file__).with_name("faults.yaml"))]
        done = subprocess.run(
            [sys.executable, "-m", "retrotune.cli", "tables", *files],
            cwd=self.folder, text=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def jobs(self, head: int) -> dict[int, str]:
        """Script of each process at work below a head, by process."""
        found = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(head).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    script = next((part for part in process.cmdline() if ".snakemake/scripts/" in part), None)
                    if script is not None:
                        found[process.pid] = Path(script).name.partition(".")[2]
        return found

    def wait_for(self, head: subprocess.Popen[str], what: Any, seconds: float = 300) -> Any:
        """Poll until `what()` is true or the head has ended; its last value."""
        end = time.monotonic() + seconds
        while not (value := what()) and head.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        return value

    def results(self) -> dict[str, Any]:
        """Cells and score tables by path, whatever was measured left out: a value for JSON, else a checksum."""
        files = [path for path in self.cells.rglob("*") if path.is_file() and not path.name.startswith(".")]
        tables = self.folder / "results/faults/tables"
        files += [tables / name for name in ("comparison.csv", "comparison.md", "metrics.csv", "results.json")]
        model = self.folder / "resources/faults/models/retro-tiny"
        files += [model / name for name in ("model.safetensors", "manifest.json", "train_log.jsonl")]
        return {str(path.relative_to(self.folder)): _value(path) for path in sorted(files) if path.exists()}

    def forget(self, rng: Random) -> str:
        """Delete what an earlier run made: the cells' results, all results, or the base model too."""
        what = rng.choice(("cells", "cells", "results", "models"))
        shutil.rmtree(self.cells if what == "cells" else self.folder / "results", ignore_errors=True)
        if what == "models":
            shutil.rmtree(self.folder / "resources/faults/models", ignore_errors=True)
        return what

    def disturb(self, rng: Random, seconds: float) -> str:
        """Start, and within `seconds` of the first job kill a job, the head, everything, or preempt; what was done."""
        kind = rng.choice(KINDS)
        head = self.start()
        self.wait_for(head, lambda: self.jobs(head.pid))
        pause = rng.uniform(0, seconds)
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(pause)
        jobs = self.wait_for(head, lambda: self.jobs(head.pid)) or {}
        with contextlib.suppress(ProcessLookupError):
            if kind == "job" and jobs:
                os.kill(rng.choice(sorted(jobs)), signal.SIGKILL)
            elif kind == "head":
                head.kill()
            elif kind == "everything":
                os.killpg(head.pid, signal.SIGKILL)
            elif kind == "preemption":
                os.killpg(head.pid, signal.SIGTERM)
        head.wait()
        return f"{kind} after {pause:.1f} s during {', '.join(sorted(jobs.values())) or 'nothing'}"


def _value(path: Path) -> Any:
    if path.suffix == ".json":
        return _without_measured(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [_without_measured(json.loads(line)) for line in path.read_text().splitlines()]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _without_measured(value: Any, inside: str = "") -> Any:
    if isinstance(value, dict):
        # `inputs.model` is the checksum of the base model's manifest, which says how long its training took
        kept = (key for key in value if key not in MEASURED and (inside, key) != ("inputs", "model"))
        return {key: _without_measured(value[key], key) for key in kept}
    return [_without_measured(part) for part in value] if isinstance(value, list) else value


def atomic_files(results: dict[str, Any]) -> dict[str, Any]:
    """Those of a study's results that exist whole or not at all, at any moment."""
    return {path: value for path, value in results.items() if path.endswith((".json", ".jsonl", ".yaml", ".csv"))}


def rounds(study: Study, number: int, seed: int, seconds: float) -> Iterator[tuple[str, bool]]:
    """Disturb the finished `study` again and again; of each round what happened, and whether it ended as before."""
    expected = study.results()
    for place in range(number):
        rng = Random(f"{seed}/{place}")
        forgotten = study.forget(rng)
        hit = study.disturb(rng, seconds)
        half = [path for path, value in atomic_files(study.results()).items() if value != expected[path]]
        study.finish()
        ended = study.results()
        differing = sorted(path for path in {*ended, *expected} if ended.get(path) != expected.get(path))
        faults = f"; half written: {half}" * bool(half) + f"; differing: {differing}" * bool(differing)
        yield f"without {forgotten}: {hit}{faults}", not half and not differing

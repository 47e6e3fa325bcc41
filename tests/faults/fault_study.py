"""A small study that is killed, starved and cut off, and must always end with the results of an undisturbed run."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import psutil
from study_runs import Workflow, differing

REPOSITORY = Path(__file__).resolve().parent.parent.parent
KINDS = ("job", "head", "everything", "preemption")


class Study(Workflow):
    """The study of faults.yaml in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        files = (REPOSITORY / "config/config.yaml", Path(__file__).with_name("faults.yaml"))
        super().__init__(REPOSITORY, folder, *files)
        self.cells = folder / "results/faults/cells"
        self.work = folder / "results/faults/work"

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

    def run(self, *arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        """With all that Snakemake says in `stdout`."""
        done = super().run(*arguments, timeout=timeout)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout + done.stderr)

    def finish(self) -> str:
        """Run again until all is done, as the messages say; what Snakemake says."""
        done = self.run()
        assert done.returncode == 0, done.stdout
        return done.stdout

    def jobs(self, head: int) -> dict[int, str]:
        """Name of each script at work below a head, by process; scripts that continue in a fork have two."""
        found = {}
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(head).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    script = next((part for part in process.cmdline() if ".snakemake/scripts/" in part), None)
                    if script is not None:
                        found[process.pid] = Path(script).name.split(".")[1]
                    elif "retrotune.runtime.warm" in process.parent().cmdline():
                        found[process.pid] = f"{process.name()} (fork)"
        return found

    def wait_for(self, head: subprocess.Popen[str], what: Any, seconds: float = 300) -> Any:
        """Poll until `what()` is true or the head has ended; its last value."""
        end = time.monotonic() + seconds
        while not (value := what()) and head.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        return value

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
        other = differing(ended, expected)
        faults = f"; half written: {half}" * bool(half) + f"; differing: {other}" * bool(other)
        yield f"without {forgotten}: {hit}{faults}", not half and not other

"""What planning costs: seconds and peak memory of the head for generated grids, one cell more on a finished grid, and
what each cell costs beyond its work.

    python benchmarks/planning.py [CELLS ...]      default: 3000 30000

Each grid has all rules (downloads, examples, passages, vectors, indexes, neighbors, conversion, cells, tables) and no
output. Seconds are those of the processor: planning runs on one core and hardly waits for the disk, so on a quiet
machine the wall clock, printed beside them, says the same.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from retrotune.study.paths import REPORT_STAGES

REPOSITORY = Path(__file__).resolve().parent.parent
DRY = ("--dry-run", "--quiet", "rules")
SCRIPTS = {
    "finetune": "retrotune.training.finetune",
    "predict": "retrotune.prediction.generate",
    "score": "retrotune.scoring.score, pandas, pyarrow.parquet, scipy.stats",
}
REPORT = {stage: 1 for stage in REPORT_STAGES if stage != "report_retrieval"}


def study(cells: int) -> dict:
    """The paper's models, methods and datasets with as many retrievals and seeds as give this number of cells."""
    raw = yaml.safe_load((REPOSITORY / "config" / "paper.yaml").read_text(encoding="utf-8"))
    models = raw["grid"][0]["models"]
    points = len(models) * len(raw["methods"]) * len(raw["datasets"])
    many = max(1, cells // points)
    retrievals = 5 if many % 5 == 0 and many > 10 else 1
    one = raw["retrievals"]["dragon5"]
    raw["retrievals"] = {f"dragon{5 + number}": {**one, "top_k": 5 + number} for number in range(retrievals)}
    seeds = list(range(many // retrievals))
    raw["grid"] = [{"models": models, "retrievals": list(raw["retrievals"]), "seeds": seeds}]
    return {**raw, "study": "planning"}


def snakemake(folder: Path, raw: dict, *arguments: str) -> tuple[float, float, int, str]:
    """(processor seconds, wall seconds, peak bytes, output) of one Snakemake process in `folder`."""
    config = folder / "study.yaml"
    config.write_text(yaml.safe_dump(raw), encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "--configfile", str(config), "--cores", "1"]
    command += ["--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(folder)]
    command += ["--workflow-profile", str(REPOSITORY / "profiles" / "default"), *arguments]
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
        output.seek(0)
        text = output.read()
    if status:
        sys.exit(text)
    return usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024, text


def planned(text: str) -> dict[str, int]:
    """Jobs per rule in the output of a dry run, without the target rule."""
    jobs = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", text, flags=re.MULTILINE)}
    return {rule: count for rule, count in jobs.items() if rule not in ("all", "total")}


def finish(folder: Path, raw: dict) -> None:
    """Leave all files of a study as a finished run does: empty, but in order and known to Snakemake."""
    for line in snakemake(folder, raw, "--summary")[3].splitlines():
        name, tab, _ = line.partition("\t")
        if not tab or name == "output_file":
            continue
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == "adapter":
            path.mkdir(exist_ok=True)
        else:
            path.touch()
    snakemake(folder, raw, "--touch", "--quiet", "all")


def one_cell_more() -> None:
    """A seed of one cell added to a finished grid of 300: what is planned, and for how long."""
    raw = study(300)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        finish(folder, raw)
        seconds, _, _, text = snakemake(folder, raw, *DRY)
        assert planned(text) == {}, text
        grid = raw["grid"][0]
        one = {"models": ["retro-m"], "methods": ["lora"], "datasets": ["qasper"], "seeds": [77]}
        raw = {**raw, "grid": [grid, {**grid, **one}]}
        more, _, _, text = snakemake(folder, raw, *DRY)
    jobs = planned(text)
    expected = {"finetune_cell": 1, "predict_cell": 1, "score_cell": 1, **REPORT}
    if jobs != expected:
        sys.exit(f"one cell more plans {jobs}, not {expected}")
    print(f"VALUE plan_finished_300_seconds {seconds:.1f}")
    print(f"VALUE plan_one_cell_more_seconds {more:.1f}")
    print(f"VALUE plan_one_cell_more_jobs {sum(jobs.values())}")


def cell_overhead() -> None:
    """Processor seconds of a cell's jobs beyond their work: Snakemake started in each job, and imports of each script.

    A job's own Snakemake parses the study and plans that job alone; here as a dry run of one file, in 3,000 cells.
    """
    raw = study(3000)
    with tempfile.TemporaryDirectory() as folder:
        start, _, peak, _ = snakemake(Path(folder), raw, "resources/planning/raw/nq.downloaded.json", *DRY)
    print(f"VALUE job_start_seconds {start:.1f}")
    print(f"VALUE job_start_peak_bytes {peak}")
    for stage, module in SCRIPTS.items():
        before = os.times()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        print(f"VALUE {stage}_import_seconds {used:.1f}")


def main() -> None:
    """Run and print."""
    sizes = [int(argument) for argument in sys.argv[1:]] or [3000, 30000]
    paper = yaml.safe_load((REPOSITORY / "config" / "paper.yaml").read_text(encoding="utf-8"))
    grids = {"paper": paper, **{str(size): study(size) for size in sizes}}
    for name, raw in grids.items():
        with tempfile.TemporaryDirectory() as folder:
            seconds, wall, peak, text = snakemake(Path(folder), raw, *DRY)
        print(f"VALUE plan_{name}_cells {planned(text)['score_cell']}")
        print(f"VALUE plan_{name}_jobs {sum(planned(text).values())}")
        print(f"VALUE plan_{name}_peak_bytes {peak}")
        print(f"VALUE plan_{name}_wall_seconds {wall:.1f}")
        print(f"VALUE plan_{name}_seconds {seconds:.1f}", flush=True)
    one_cell_more()
    cell_overhead()


if __name__ == "__main__":
    main()

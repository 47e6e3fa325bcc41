"""What a cell costs on a Slurm beyond its work: seconds for which it holds its place, imports and Snakemake included.

    python benchmarks/overhead.py [--cells 100] [--together 1] [--jobs 2]

A grid of trivial cells (the smallest model of the demo, two steps of training, two questions) runs on a real Slurm
on this machine, which must be quiet, with as many jobs at once as it has cores. Everything that cells share is made
beforehand. Work is what the logs of the stages in these jobs say they took, from the end of their imports on, but for
fine-tuning that has a job to itself (`--together 1`): it imports torch within its stage. Scoring runs where Snakemake
runs and holds no place. `--together` cells of one base model share a job. Slurm's packages and root are needed, as for
tests/slurm.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/slurm"))
from cluster import Cluster, missing

REPOSITORY = Path(__file__).resolve().parent.parent
FINISHED = re.compile(r"finished after ([\d.]+) s$")
STAGES = ("finetune_cell", "predict_cell")


def study(cells: int) -> dict:
    """A trained cell for each seed: zero-shot cells have none of what training costs."""
    return {
        "study": "overhead",
        "world": {"pretraining_pages": 120, "train_documents": 2, "test_documents": 2, "questions_per_document": 1},
        "datasets": {"nq": {"max_train": 2, "max_test": 2}},
        "pretrainings": {"reading": {"steps": 1, "batch_size": 2, "warmup_steps": 0}},
        "finetuning": {"batch_size": 1, "max_steps": 2, "warmup_steps": 0},
        "evaluation": {"batch_size": 2},
        "grid": [
            {
                "models": ["gpt-tiny"],
                "methods": ["lora"],
                "datasets": ["nq"],
                "retrievals": ["none"],
                "seeds": list(range(cells)),
            }
        ],
    }


def snakemake(folder: Path, *arguments: str) -> list[str]:
    command = [sys.executable, "-m", "snakemake", "--directory", str(folder), "--quiet", "rules", "host", *arguments]
    files = [str(REPOSITORY / "config/config.yaml"), str(folder / "study.yaml")]
    return [*command, "--configfile", *files]


def run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)


def elapsed(text: str) -> dict[str, float]:
    """Seconds that each finished job held its place, by job, from `scontrol show job --oneliner`."""
    seconds = {}
    for line in text.splitlines():
        values = dict(word.partition("=")[::2] for word in line.split())
        if values.get("JobState") == "COMPLETED":
            start, end = (time.strptime(values[key], "%Y-%m-%dT%H:%M:%S") for key in ("StartTime", "EndTime"))
            seconds[values["JobId"]] = time.mktime(end) - time.mktime(start)
    return seconds


def work(folder: Path) -> float:
    """Seconds that the stages in Slurm's jobs say they took."""
    logs = [path for stage in STAGES for path in (folder / "logs/overhead" / stage).rglob("*.log")]
    return sum(float(FINISHED.search(path.read_text().rstrip())[1]) for path in logs)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100)
    parser.add_argument("--together", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if reason := missing():
        sys.exit(reason)
    base, folder = Path(tempfile.mkdtemp(prefix="slurm-")), Path(tempfile.mkdtemp())
    try:
        (folder / "study.yaml").write_text(yaml.safe_dump(study(options.cells)))
        shared = [f"resources/overhead/datasets/nq/{split}.parquet" for split in ("train", "test")]
        run([*snakemake(folder, "--cores", "all"), "--", "models", *shared])
        pace = ["--jobs", str(options.jobs), "--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "10"]
        groups = ["--group-components", *(f"{name}={options.together}" for name in ("training", "answering"))]
        with Cluster(base, accounting=False) as cluster:
            start = time.monotonic()
            run(snakemake(folder, "--profile", "slurm", *pace, *groups))
            wall = time.monotonic() - start
            seconds = elapsed(cluster.run("scontrol", "show", "job", "--oneliner"))
        assert (folder / "results/overhead/tables/comparison.md").exists()
        spent = work(folder)
    finally:
        shutil.rmtree(base, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    print(f"VALUE cells {options.cells}")
    print(f"VALUE jobs {len(seconds)}")
    print(f"VALUE cell_wall_seconds {wall / options.cells:.1f}")
    print(f"VALUE cell_place_seconds {sum(seconds.values()) / options.cells:.1f}")
    print(f"VALUE cell_work_seconds {spent / options.cells:.1f}")
    print(f"VALUE cell_overhead_seconds {(sum(seconds.values()) - spent) / options.cells:.1f}")


if __name__ == "__main__":
    main()

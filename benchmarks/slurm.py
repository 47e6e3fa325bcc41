"""A whole study through a real Slurm on this machine: cells, jobs, seconds, and whether the results are those of a run
without Slurm.

    python benchmarks/slurm.py [--configfile FILE ...] [--jobs 6] [--together 1] [--compare [FOLDER]]

Starts the Slurm of tests/slurm/cluster.py, which needs root and the packages slurm-wlm and munge. With --compare the
study is run without Slurm too, or was in FOLDER; results are compared file by file, all but measured seconds, memory
and energy.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/slurm"))
from cluster import Cluster, Submission, missing
from study_runs import Workflow, differing

REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configfile", type=Path, nargs="+", default=[REPOSITORY / "config/config.yaml"])
    parser.add_argument("--jobs", type=int, default=6, help="jobs in Slurm's queue at once; the nodes share two cores")
    parser.add_argument("--together", type=int, default=1, help="cells of one base model that share a job")
    parser.add_argument("--compare", type=Path, nargs="?", const=True, help="also run it here, or FOLDER of such a run")
    options = parser.parse_args()
    if reason := missing():
        sys.exit(reason)
    files = [path.resolve() for path in options.configfile]
    with contextlib.ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-"))) for _ in range(3)]
        with Cluster(folders[0]):
            study = Workflow(REPOSITORY, folders[1], *files)
            submission = Submission(REPOSITORY, study.folder)
            pace = ["--jobs", str(options.jobs)]
            pace += ["--group-components", *(f"{name}={options.together}" for name in ("training", "answering"))]
            start = time.monotonic()
            status, said = submission.run(*study.files, *pace, timeout=7200)
            seconds = time.monotonic() - start
        if status != 0:
            sys.exit(said)
        results = study.results()
        print(study.retrotune("tables"))
        other: list[str] | None = None
        if options.compare is not None:
            local = Workflow(REPOSITORY, folders[2] if options.compare is True else options.compare.resolve(), *files)
            if options.compare is True:
                done = local.run(timeout=7200)
                assert done.returncode == 0, done.stderr
            other = differing(results, local.results())
            print("\n".join(f"differs: {path}" for path in other))
    print(f"VALUE slurm_cells {sum(path.endswith('/metrics.json') for path in results)}")
    print(f"VALUE slurm_jobs {said.count('has been submitted with SLURM jobid')}")
    print(f"VALUE slurm_seconds {seconds:.0f}")
    if other is not None:
        print(f"VALUE slurm_files_differing {len(other)}")


if __name__ == "__main__":
    main()

"""Rounds of faults on a small study: does each end with the results of an undisturbed run, and what does it cost?

    python benchmarks/faults.py [--rounds 30] [--seed 0]

In each round a part of what is done is deleted, the study is started, at a random moment a job, the head or everything
is killed with -9, or all processes get SIGTERM as on preemption, and the study is run again to its end. Results are
compared file by file, all but measured seconds, memory and energy.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/faults"))
from fault_study import Study, rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder))
        start = time.monotonic()
        study.finish()
        seconds = time.monotonic() - start
        print(f"undisturbed: {seconds:.0f} s", flush=True)
        identical = 0
        for number, (what, good) in enumerate(rounds(study, options.rounds, options.seed, seconds / 2), start=1):
            identical += good
            print(f"round {number}: {'identical' if good else 'DIFFERENT'}: {what}", flush=True)
    print(f"VALUE fault_rounds_identical {identical}")
    print(f"VALUE fault_rounds {options.rounds}")


if __name__ == "__main__":
    main()

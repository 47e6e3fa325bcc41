"""The demo from an empty folder on this machine: seconds and peak memory, then what a no-op rerun and a plan cost."""

import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def snakemake(folder: str, *arguments: str, study: str = "config.yaml") -> tuple[float, int, str]:
    """(seconds, highest memory in bytes of all its processes together, output) of one Snakemake run."""
    command = [sys.executable, "-m", "snakemake", "--configfile", str(REPOSITORY / "config" / study)]
    command += ["--snakefile", str(REPOSITORY / "Snakefile"), "--directory", folder, "--cores", "2"]
    command += ["--workflow-profile", str(REPOSITORY / "profiles" / "default"), *arguments]
    start = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, session_memory(process.pid))
            time.sleep(0.5)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output = process.communicate()[0]
    watcher.join()
    if process.returncode:
        sys.exit(output)
    return time.monotonic() - start, peak, output


def session_memory(session: int) -> int:
    """Resident bytes of all processes of a session."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == session:
                total += int(fields[21]) * resource.getpagesize()
        except (OSError, IndexError):
            continue
    return total


def main() -> None:
    """Run and print."""
    os.environ.pop("OMP_NUM_THREADS", None)
    with tempfile.TemporaryDirectory() as folder:
        seconds, peak, output = snakemake(folder)
        cells = len(list(Path(folder).glob("results/*/cells/*/*/*/*/*/metrics.json")))
        again, _, _ = snakemake(folder)
    with tempfile.TemporaryDirectory() as folder:
        plan, _, output = snakemake(folder, "--dry-run", "--quiet", "rules", study="paper.yaml")
    planned = re.search(r"^score_cell +(\d+)$", output, flags=re.MULTILINE)
    print(f"VALUE demo_cells {cells}")
    print(f"VALUE demo_seconds {seconds:.0f}")
    print(f"VALUE demo_peak_bytes {peak}")
    print(f"VALUE demo_noop_seconds {again:.1f}")
    print(f"VALUE paper_cells {planned.group(1) if planned else 0}")
    print(f"VALUE paper_plan_seconds {plan:.1f}")


if __name__ == "__main__":
    main()

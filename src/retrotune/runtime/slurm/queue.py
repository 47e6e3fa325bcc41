"""What Slurm is asked and told: the state of jobs, and what to do with them."""

import re
import shutil
import subprocess
from pathlib import Path

from retrotune.errors import ClusterError
from retrotune.runtime.slurm.steps import own_job


def ask(*command: str) -> str:
    """Output of a command of Slurm; `ClusterError` if it fails."""
    done = run(*command)
    if done.returncode != 0:
        raise ClusterError(
            f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()}. Slurm's controller must answer "
            "before jobs can be submitted: try again, or ask the cluster's administrators"
        )
    return done.stdout


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm, a minute at most."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", "no answer in 60 s")


def jobs_of_others(prefix: str, folder: str | Path) -> list[str]:
    """This user's jobs that another Snakemake submitted from `folder`: one that was killed, or one at work."""
    done = run("squeue", "--me", "-h", "-o", "%A|%j|%Z")
    lines = (line.split("|") for line in done.stdout.splitlines() if done.returncode == 0)
    return sorted({job for job, name, where in lines if name.startswith(f"{prefix}_") and where == str(folder)})


def accounting_answers() -> bool:
    """Whether `sacct` can be asked for the state of jobs: it is often installed where no accounting runs."""
    return shutil.which("sacct") is not None and run("sacct", "-X", "-n").returncode == 0


def cancel_left(said: str) -> list[str]:
    """Cancel what a run that ended left in Slurm's queue, by what Snakemake said of it; the jobs' ids.

    An interrupted Snakemake cancels its jobs, but not those whose state it is asking for at that moment: its list of
    them is empty then (snakemake-interface-executor-plugins 9, `RemoteExecutor.cancel`).
    """
    names = re.findall(r"^SLURM run ID: (\S+)$", said, flags=re.MULTILINE)
    if not names:
        return []
    done = run("squeue", "--me", "-h", "-t", "PENDING,RUNNING,SUSPENDED", "-n", names[-1], "-o", "%A")
    jobs = sorted(set(done.stdout.split())) if done.returncode == 0 else []
    if jobs:
        run("scancel", *jobs)
    return jobs


def failed_without_log(said: str) -> list[str]:
    """Jobs that failed and whose log of Slurm's, which Snakemake names last, is not there; by what it said of a run."""
    logs = re.findall(r"(\S+/(\d+)\.log) \(check log file", said)
    return sorted({job for path, job in logs if not Path(path).exists()}, key=int)


def own_jobs() -> dict[str, str] | None:
    """States of this user's jobs in Slurm by job id and by comment; None without squeue or without its answer."""
    program = shutil.which("squeue")
    if program is None:
        return None
    command = [program, "--me", "--noheader", "--array", "--format=%i|%F|%T|%k"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)  # noqa: S603 (no input)
    except (OSError, subprocess.SubprocessError):
        return None
    return read_jobs(done.stdout)


def read_jobs(text: str) -> dict[str, str]:
    """States by job id, array id and comment in lines of `squeue --format=%i|%F|%T|%k`; other lines are skipped."""
    jobs: dict[str, str] = {}
    for line in text.splitlines():
        parts = [part.strip() for part in line.split("|", 3)]
        if len(parts) == 4 and parts[2]:
            job, array, state, comment = parts
            jobs |= {name: state for name in (array, job, comment) if name and name != "(null)"}
    return jobs


def requeue_preempted() -> str | None:
    """Put the Slurm job that this process is part of back into the queue if Slurm preempts it; its id if that was done.

    Slurm does so itself with a job that it must kill. One that ends within the partition's GraceTime it takes for
    failed (seen with 22.05), and Snakemake would use up an attempt.
    """
    job, scontrol = own_job(), shutil.which("scontrol")
    if job is None or scontrol is None:
        return None

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([scontrol, *arguments], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603

    try:
        # neither near the time limit nor canceled: then PreemptTime is None
        state = ask("show", "job", job).stdout
        if not all(re.search(rf"\b{what}", state) for what in ("JobState=RUNNING", r"PreemptTime=\d", "Requeue=1")):
            return None
        return job if ask("requeue", job).returncode == 0 else None
    except (OSError, subprocess.SubprocessError):
        return None

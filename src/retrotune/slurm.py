"""Snakemake on Slurm: requests compared with what a cluster offers, the step of a job, and what runs leave behind.

Requests are compared before the first job is submitted: Slurm refuses some job by job, and leaves others waiting for
ever, such as a run time above the limit.
"""

import getpass
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrotune.config import Resources
from retrotune.errors import ClusterError

CPU_PARTITION, GPU_PARTITION, ACCOUNT = "slurm_partition", "gpu_partition", "slurm_account"
"""Keys of a profile's `default-resources`."""
RENAMED = {"partition": CPU_PARTITION, "account": ACCOUNT, "time": "runtime", "walltime": "runtime"}
"""Keys of profiles for Snakemake 7, which the executor does not read, and what they are called now."""
COMMANDS = ("sbatch", "squeue", "sinfo", "scancel")


@dataclass(frozen=True)
class Limits:
    """The most that one job can get of a partition: of one node, and nodes; no `runtime` (minutes): no limit."""

    gpus: int
    cpus: int
    mem_mb: int
    runtime: int | None
    nodes: int = 1

    def exceeded(self, wanted: Resources) -> list[str]:
        """What of a request no node can give."""
        keys = ("gpus", "cpus", "mem_mb", "runtime", "nodes")
        pairs = ((key, getattr(wanted, key, 1), getattr(self, key)) for key in keys)
        return [
            f"{key}={value} (at most {limit})" for key, value, limit in pairs if limit is not None and value > limit
        ]


def continue_in_step() -> None:
    """Go on as the only step of the Slurm job that started this Snakemake, if `step_command` knows how.

    What srun starts is asked to stop before the time limit and when Slurm preempts the job; the process that a job
    starts with is not.
    """
    command = step_command(sys.argv, os.environ)
    if command is None:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and srun would go on doing so
    os.execvpe(command[0], command, step_environment(os.environ))  # noqa: S606


def step_command(arguments: Sequence[str], environment: Mapping[str, str]) -> list[str] | None:
    """Command that does in one step of this job all that its Snakemake was started for with `arguments`.

    The executor's own way is a step, and another Snakemake, for each of the cells that share a job. None where that
    must stay: this is no Slurm job's first process, its rule starts steps of its own on several nodes, or the job is
    one of an array.
    """
    first = "slurm-jobstep" in arguments and "SLURM_JOB_ID" in environment
    if not first or environment.get("SLURM_JOB_NUM_NODES") != "1" or "SLURM_ARRAY_TASK_ID" in environment:
        return None
    mine, words = [], iter(arguments[1:])
    for word in words:
        if word in ("--executor", "--jobs"):
            next(words)
        elif not word.startswith("--slurm-"):
            mine.append(word)
    srun = ["srun", "-n1", "--nodes=1", "--cpu-bind=q", "--input=none"]
    for option, variable in (("--cpus-per-task", "SLURM_CPUS_PER_TASK"), ("--gpus", "SLURM_GPUS")):
        if variable in environment:
            srun.append(f"{option}={environment[variable]}")
    return [*srun, sys.executable, "-m", "snakemake", *mine, "--force-use-threads"]


def step_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what Slurm says of the job's request: srun takes it for options, some of which exclude others."""
    kept = ("SLURM_JOB_ID", "SLURM_JOBID", "SLURM_CLUSTER_NAME", "SLURM_SUBMIT_DIR", "SLURM_SUBMIT_HOST", "SLURM_CONF")
    foreign = ("SLURM_", "SRUN_", "SBATCH_")
    return {name: value for name, value in environment.items() if name in kept or not name.startswith(foreign)}


def parse_minutes(text: str) -> int | None:
    """Minutes of a Slurm time limit such as `1-12:00:00`, `30:00` or `infinite` (None)."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + minutes


def parse_gpus(text: str) -> int:
    """GPUs of one node in Slurm's list of generic resources, such as `gpu:a100:4(S:0-1),shard:8`."""
    return sum(int(count) for count in re.findall(r"(?:^|,)gpu(?::[^:,(]+)?:(\d+)", text))


def parse_partitions(text: str) -> dict[str, Limits]:
    """Limits of each partition, from `sinfo -h -N -o '%R|%l|%c|%m|%G'`, one line per node and partition."""
    partitions: dict[str, Limits] = {}
    for line in filter(None, text.splitlines()):
        name, limit, cpus, memory, gres = line.split("|")
        old = partitions.get(name, Limits(0, 0, 0, None, nodes=0))
        partitions[name] = Limits(
            gpus=max(old.gpus, parse_gpus(gres)),
            cpus=max(old.cpus, int(cpus.rstrip("+"))),
            mem_mb=max(old.mem_mb, int(memory.rstrip("+"))),
            runtime=parse_minutes(limit),
            nodes=old.nodes + 1,
        )
    return partitions


def grown(wanted: Resources, key: str, attempt: int, limits: Limits | None) -> int:
    """Memory or run time of a further attempt: as many times the first one's, up to what the partition has."""
    value: int = getattr(wanted, key) * attempt
    limit = getattr(limits, key) if limits else None
    return value if limit is None else min(value, limit)


def profile_line(profiles: Iterable[Path], key: str) -> str:
    """Where a key of the profile is set, for messages."""
    for path in profiles:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if re.match(rf"\s*{re.escape(key)}\s*:", line):
                return f"{path}, line {number}: {line.strip()}"
    return f"`{key}` of your profile"


def check_cluster(
    wanted: Mapping[str, Resources], defaults: Mapping[str, str], profiles: Iterable[Path]
) -> dict[str, Limits]:
    """Compare what jobs ask for with what the cluster's partitions offer.

    Args:
        wanted: requests by the configuration key that makes them
        defaults: the profile's partitions and account, under `CPU_PARTITION`, `GPU_PARTITION` and `ACCOUNT`
        profiles: files that may hold these, named in messages

    Returns:
        The limits of both partitions, by key of the profile; a partition that is not named has none.

    Raises:
        ClusterError: Slurm's commands are absent or do not answer, a partition or the account is unknown, or no node
            can give what is asked for.

    """
    profiles = list(profiles)
    absent = [command for command in COMMANDS if shutil.which(command) is None]
    if absent:
        raise ClusterError(
            f"no {', '.join(absent)} on PATH: start where jobs can be submitted (a login node; some need `module load "
            "slurm`), or run without a cluster: snakemake --cores N"
        )
    known = parse_partitions(_ask("sinfo", "-h", "-N", "-o", "%R|%l|%c|%m|%G"))
    limits = {}
    for key in (CPU_PARTITION, GPU_PARTITION):
        names = [name for name in str(defaults.get(key) or "").split(",") if name]
        if unknown := [name for name in names if name not in known]:
            raise ClusterError(
                f"no partition {', '.join(unknown)} on this cluster, which has {', '.join(sorted(known))}. "
                f"Edit {profile_line(profiles, key)}"
            )
        if names:
            limits[key] = _best([known[name] for name in names])
    _check_account(defaults.get(ACCOUNT), profiles)
    too_much, lines = [], set()
    for place, request in wanted.items():
        key = GPU_PARTITION if request.gpus else CPU_PARTITION
        if key in limits and (exceeded := limits[key].exceeded(request)):
            too_much.append(f"  {place}: {', '.join(exceeded)} in partition {defaults[key]}")
            lines.add(f"  {profile_line(profiles, key)}")
    if too_much:
        raise ClusterError(
            "no node can give what is asked for:\n"
            + "\n".join(too_much)
            + "\nAsk for less there, leave those out (`select`), or name another partition:\n"
            + "\n".join(sorted(lines))
        )
    return limits


def check_profile(defaults: Iterable[str]) -> None:
    """Refuse a profile whose `default-resources` have keys of Snakemake 7, which nothing reads any more.

    Raises:
        ClusterError: Such a key is there.

    """
    if old := [f"`{key}` is called `{RENAMED[key]}` now" for key in defaults if key in RENAMED]:
        raise ClusterError(
            f"default-resources of the profile: {', '.join(old)}. It was written for an older executor: compare "
            "it with profiles/slurm/config.yaml"
        )


def jobs_of_others(prefix: str, folder: str | Path) -> list[str]:
    """This user's jobs that another Snakemake submitted from `folder`: one that was killed, or one at work."""
    done = _done("squeue", "--me", "-h", "-o", "%A|%j|%Z")
    lines = (line.split("|") for line in done.stdout.splitlines() if done.returncode == 0)
    return sorted({job for job, name, where in lines if name.startswith(f"{prefix}_") and where == str(folder)})


def accounting_answers() -> bool:
    """Whether `sacct` can be asked for the state of jobs: it is often installed where no accounting runs."""
    return shutil.which("sacct") is not None and _done("sacct", "-X", "-n").returncode == 0


def cancel_left(said: str) -> list[str]:
    """Cancel what a run that ended left in Slurm's queue, by what Snakemake said of it; the jobs' ids.

    An interrupted Snakemake cancels its jobs, but not those whose state it is asking for at that moment: its list of
    them is empty then (snakemake-interface-executor-plugins 9, `RemoteExecutor.cancel`).
    """
    names = re.findall(r"^SLURM run ID: (\S+)$", said, flags=re.MULTILINE)
    if not names:
        return []
    done = _done("squeue", "--me", "-h", "-t", "PENDING,RUNNING,SUSPENDED", "-n", names[-1], "-o", "%A")
    jobs = sorted(set(done.stdout.split())) if done.returncode == 0 else []
    if jobs:
        _done("scancel", *jobs)
    return jobs


def failed_without_log(said: str) -> list[str]:
    """Jobs that failed and whose log of Slurm's, which Snakemake names last, is not there; by what it said of a run."""
    logs = re.findall(r"(\S+/(\d+)\.log) \(check log file", said)
    return sorted({job for path, job in logs if not Path(path).exists()}, key=int)


def _best(partitions: list[Limits]) -> Limits:
    """Limits of a job that may run in any of several partitions."""
    times = [one.runtime for one in partitions]
    return Limits(
        gpus=max(one.gpus for one in partitions),
        cpus=max(one.cpus for one in partitions),
        mem_mb=max(one.mem_mb for one in partitions),
        runtime=None if None in times else max(time for time in times if time is not None),
        nodes=max(one.nodes for one in partitions),
    )


def _check_account(account: str | None, profiles: list[Path]) -> None:
    """Clusters without accounting, or whose users may not list accounts, are left to sbatch."""
    if not account or shutil.which("sacctmgr") is None:
        return
    done = _done("sacctmgr", "-n", "-P", "list", "associations", f"user={getpass.getuser()}", "format=account")
    known = sorted(set(done.stdout.split())) if done.returncode == 0 else []
    names = [name for name in re.split(r"[,\s]+", str(account)) if name]
    unknown = [name for name in names if name.lower() not in {name.lower() for name in known}]
    if known and unknown:
        raise ClusterError(
            f"account {', '.join(unknown)} is not yours on this cluster; yours are {', '.join(known)}. "
            f"Edit {profile_line(profiles, ACCOUNT)}"
        )


def _ask(*command: str) -> str:
    done = _done(*command)
    if done.returncode != 0:
        raise ClusterError(
            f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()}. Slurm's controller must answer "
            "before jobs can be submitted: try again, or ask the cluster's administrators"
        )
    return done.stdout


def _done(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", "no answer in 60 s")

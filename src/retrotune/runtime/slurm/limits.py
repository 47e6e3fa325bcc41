"""What jobs ask for, compared with what a cluster offers, before the first one is submitted.

Slurm refuses some requests job by job, and leaves others waiting for ever, such as a run time above the limit.
"""

import getpass
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from retrotune.errors import ClusterError
from retrotune.runtime.slurm.queue import ask, run

CPU_PARTITION, GPU_PARTITION, ACCOUNT = "slurm_partition", "gpu_partition", "slurm_account"
"""Keys of a profile's `default-resources`."""
RENAMED = {"partition": CPU_PARTITION, "account": ACCOUNT, "time": "runtime", "walltime": "runtime"}
"""Keys of profiles for Snakemake 7, which the executor does not read, and what they are called now."""
COMMANDS = ("sbatch", "squeue", "sinfo", "scancel")


class Request(Protocol):
    """What a job asks for: GPUs and CPU cores of one node, memory in MB, run time in minutes."""

    @property
    def gpus(self) -> int: ...  # noqa: D102 (the class says it)
    @property
    def cpus(self) -> int: ...  # noqa: D102
    @property
    def mem_mb(self) -> int: ...  # noqa: D102
    @property
    def runtime(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class Limits:
    """The most that one job can get of a partition: of one node, and nodes; no `runtime` (minutes): no limit."""

    gpus: int
    cpus: int
    mem_mb: int
    runtime: int | None
    nodes: int = 1

    def exceeded(self, wanted: Request) -> list[str]:
        """What of a request no node can give."""
        keys = ("gpus", "cpus", "mem_mb", "runtime", "nodes")
        pairs = ((key, getattr(wanted, key, 1), getattr(self, key)) for key in keys)
        return [
            f"{key}={value} (at most {limit})" for key, value, limit in pairs if limit is not None and value > limit
        ]


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


def grown(wanted: Request, key: str, attempt: int, limits: Limits | None) -> int:
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
    wanted: Mapping[str, Request], defaults: Mapping[str, str], profiles: Iterable[Path]
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
    known = parse_partitions(ask("sinfo", "-h", "-N", "-o", "%R|%l|%c|%m|%G"))
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
    done = run("sacctmgr", "-n", "-P", "list", "associations", f"user={getpass.getuser()}", "format=account")
    known = sorted(set(done.stdout.split())) if done.returncode == 0 else []
    names = [name for name in re.split(r"[,\s]+", str(account)) if name]
    unknown = [name for name in names if name.lower() not in {name.lower() for name in known}]
    if known and unknown:
        raise ClusterError(
            f"account {', '.join(unknown)} is not yours on this cluster; yours are {', '.join(known)}. "
            f"Edit {profile_line(profiles, ACCOUNT)}"
        )

"""GPUs that jobs ask for, held against those in sight: what computes on the CPU instead says so before it begins."""

from collections.abc import Mapping
from typing import Any

from retrotune.errors import ClusterError
from retrotune.runtime.devices import visible_gpus
from retrotune.runtime.log import logger
from retrotune.runtime.slurm.limits import Request, parse_gpus
from retrotune.runtime.slurm.steps import own_job


def gpus_asked(resources: Mapping[str, Any]) -> int:
    """GPUs of one node in a job's resources as Snakemake has them: `gpu`, or `gres` where nodes are several."""
    return int(resources.get("gpu") or 0) or parse_gpus(str(resources.get("gres") or ""))


def check_gpus(resources: Mapping[str, Any]) -> None:
    """Warn of a job that sees fewer GPUs than it asked for.

    Raises `ClusterError` in a job of Slurm that sees none: it would take days on the CPU, beside GPUs that it holds.
    """
    asked, seen = gpus_asked(resources), visible_gpus()
    if seen >= asked:
        return
    if not seen and (job := own_job()):
        raise ClusterError(
            f"job {job} of Slurm asks for {_count(asked)} and sees none (CUDA_VISIBLE_DEVICES, /dev/nvidia*): set "
            "gpu_partition in the profile to nodes that have some, leave a broken node out (slurm_extra: "
            "'--exclude=NODE'), or set gpus: 0 in `resources` to compute on the CPU"
        )
    logger.warning("this job asks for %s and sees %s", _count(asked), seen or "none: it computes on the CPU")


def unseen_gpus(asked: Mapping[str, Request]) -> str | None:
    """One line that names the entries of `asked` that want GPUs, where none is in sight."""
    wanted = sorted(f"{place}.gpus: {request.gpus}" for place, request in asked.items() if request.gpus)
    if not wanted or visible_gpus():
        return None
    return f"{', '.join(wanted)}, but no GPU is in sight here: jobs use the CPU"


def _count(gpus: int) -> str:
    return f"{gpus} GPU{'s' * (gpus > 1)}"

"""The job that this process is part of: its number, its nodes, and a step on each of them."""

import os
import shutil
import subprocess

NODE_RANK, FIRST_NODE = '"$SLURM_NODEID"', '"$SLURM_LAUNCH_NODE_IPADDR"'
"""What a shell in a step of `task_on_each_node` calls its node's number, and the address of the job's first node.

The latter is that of the node where srun was called.
"""


def own_job() -> str | None:
    """Number of the job that this process is part of; None outside of one."""
    job = os.environ.get("SLURM_JOB_ID", "")
    return job if job.isdecimal() else None


def nodes_of_own_job() -> int:
    """Nodes of the job that this process is part of; 0 outside of one."""
    job = own_job()
    if job is None or shutil.which("squeue") is None:
        return 0
    squeue = ["squeue", "-h", "-j", job, "-o", "%D"]
    done = subprocess.run(squeue, capture_output=True, text=True, check=False)  # noqa: S603
    return int(done.stdout) if done.stdout.strip().isdecimal() else 0


def task_on_each_node(nodes: int, cpus: int) -> list[str]:
    """Command that starts what follows it once on each of a job's `nodes`, with `cpus` cores there.

    The step inherits the job's GPUs and memory of each node. It ends as soon as one of its tasks fails.
    """
    each = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", f"--cpus-per-task={cpus}"]
    return ["srun", *each, "--mpi=none", "--kill-on-bad-exit=1", "--wait=0", "--input=none", "--export=ALL"]

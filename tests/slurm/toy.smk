"""Jobs that go wrong in the ways of a cluster, without the weight of the project's own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir).parent.parent / "src"))
from retrotune.runtime.slurm.queue import cancel_left

GPU = dict(gpu=1, slurm_partition="gpu", slurm_extra="--exclude=gpu2", mem_mb=600)
ONCE = "mkdir -p seen; if mkdir seen/{rule}; then "
"""Shell text that runs only in the first attempt; ends with `fi`."""


localrules:
    all,


onerror:
    cancel_left(Path(log[0]).read_text())


rule all:
    input:
        [f"gpu{index}.txt" for index in range(4)],
        ["pair.txt", "flaky.txt", "memory.txt", "limit.txt", "canceled.txt", "moved.txt", "dead.txt"],


# Sees its own devices, and says when.
rule gpu:
    output:
        "gpu{index,[0-9]}.txt",
    resources:
        **GPU,
    shell:
        "s=$(date +%s.%N); sleep 4; echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES $s $(date +%s.%N) > {output}"


rule pair:
    output:
        "pair.txt",
    threads: 3
    resources:
        **{**GPU, "gpu": 2, "nodes": 1},
    shell:
        "echo $CUDA_VISIBLE_DEVICES $(squeue -h -j $SLURM_JOB_ID -o %C) >> pair.log; sleep 1; cp pair.log {output}"


rule flaky:
    output:
        "flaky.txt",
    resources:
        mem_mb=600,
    shell:
        ONCE + "exit 1; fi; touch {output}"


# 900 MB beside Snakemake's own processes
rule memory:
    output:
        "memory.txt",
    resources:
        mem_mb=lambda wildcards, attempt: 800 * attempt,
    shell:
        "python3 -c 'import time; held = bytearray(900 * 2**20); time.sleep(4)'; echo {resources.mem_mb} > {output}"


# Saves when Slurm announces the limit, and goes on from there in the next attempt.
rule limit:
    output:
        "limit.txt",
    resources:
        mem_mb=600,
        runtime=lambda wildcards, attempt: attempt,
        slurm_extra="--signal=TERM@50",
    shell:
        ONCE + "trap 'echo half > saved.txt; exit 1' TERM; sleep 300 & wait; fi; cat saved.txt > {output}"


rule canceled:
    output:
        "canceled.txt",
    resources:
        mem_mb=600,
    shell:
        ONCE + "echo $SLURM_JOB_ID > canceled.id; sleep 300; fi; touch {output}"


# Its node goes down.
rule moved:
    output:
        "moved.txt",
    resources:
        mem_mb=600,
        slurm_partition="gpu",
        slurm_extra="--nodelist=gpu2",
    shell:
        ONCE + "echo $SLURM_JOB_ID > moved.id; sleep 300; fi; echo $SLURM_JOB_ID > {output}"


rule dead:
    output:
        "dead.txt",
    log:
        "dead.log",
    resources:
        mem_mb=600,
    shell:
        "echo no use > {log}; exit 1"

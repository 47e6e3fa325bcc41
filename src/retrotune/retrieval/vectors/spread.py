"""Embedding on several devices: one process per device, each making every n-th block.

The processes are started as commands, not forked or spawned: a stage may run inside another program's script, which a
spawned process would run again.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from retrotune.errors import RetrievalError
from retrotune.runtime.log import logger
from retrotune.study.config import RetrieverEntry

POLL_SECONDS = 0.1
BLOCKS = "retrotune.retrieval.vectors.embeddings"
"""Module that a process runs: it makes the blocks of the task on its standard input."""


def share_blocks(
    passages: str | Path, retriever: RetrieverEntry, folder: str | Path, devices: Sequence[str], num_blocks: int
) -> None:
    """Make all blocks of vectors below `folder`, one process per device; what is there already is kept.

    Raises `RetrievalError` with the message of the first process that fails; the others are ended, and the blocks they
    have finished stay.
    """
    devices = devices[:num_blocks]
    threads = max(1, len(os.sched_getaffinity(0)) // len(devices))
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    logger.info("%d blocks on %s", num_blocks, ", ".join(devices))
    processes: list[subprocess.Popen[str]] = []
    try:
        for number, device in enumerate(devices):
            task = {
                "passages": str(passages),
                "retriever": retriever.given(),
                "folder": str(folder),
                "device": device,
                "first": number,
                "every": len(devices),
            }
            process = subprocess.Popen(  # noqa: S603 the command is ours
                [sys.executable, "-P", "-m", BLOCKS],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            processes.append(process)
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it is gone already: its status says so below
                process.stdin.write(json.dumps(task))
                process.stdin.close()
        while any(process.poll() is None for process in processes):
            _raise_failure(processes, devices)
            time.sleep(POLL_SECONDS)
        _raise_failure(processes, devices)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _raise_failure(processes: Sequence["subprocess.Popen[str]"], devices: Sequence[str]) -> None:
    for process, device in zip(processes, devices, strict=True):
        if process.poll():
            assert process.stdout is not None
            ended = f"its process ended with status {process.returncode} (its log lines say why; out of memory?)"
            raise RetrievalError(f"embedding on {device}: {process.stdout.read().strip() or ended}")

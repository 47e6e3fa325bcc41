"""Stages without torch for several processes, which end in all the ways in which processes end."""

import os
import signal
import sys
import time
from pathlib import Path

from retrotune.errors import ModelError
from retrotune.runtime import interruption
from retrotune.study.config import PassageLayout, SizeEntry


class SignaledError(Exception):
    """A signal arrives while its message is written."""

    def __str__(self) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return "and a signal"


def ending(
    work_dir: Path, threads: int, sharded: bool, how: str, shape: SizeEntry, layout: PassageLayout | None
) -> None:
    """Write what this process got; then finish, fail, die or wait for a signal."""
    rank = os.environ["RANK"]
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    (work_dir / f"{rank}.txt").write_text(
        f"{type(shape).__name__} {shape.num_heads} {layout} {threads} {sharded} {os.environ['OMP_NUM_THREADS']} "
        f"{os.environ.get('CUDA_VISIBLE_DEVICES')}"
    )
    if how == "finish":
        return
    if rank == "1":
        if how == "error":
            raise ModelError("models.x: a word to the user")
        if how == "bug":
            raise KeyError("nobody thought of it")
        if how == "late":
            raise SignaledError
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
    with interruption.deferred():
        (work_dir / f"{rank}.waits").touch()
        limit = time.monotonic() + 60
        while not interruption.requested() and time.monotonic() < limit:
            time.sleep(0.05)
        if how == "signal":
            time.sleep(1)  # saves
            interruption.stop("all is saved")
    sys.exit(3)

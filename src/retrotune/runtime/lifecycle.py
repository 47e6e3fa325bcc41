"""How a stage begins, is locked and ends: its log is its standard output, and the log's last line says how it ended."""

import contextlib
import errno
import fcntl
import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn, TextIO

from retrotune.errors import Interrupted, RetrotuneError
from retrotune.runtime import interruption, warm
from retrotune.runtime.log import logger, setup_logging
from retrotune.runtime.slurm.queue import requeue_preempted


@contextlib.contextmanager
def stage_log(path: str, forked: bool = False) -> Iterator[None]:
    """Run one stage of the workflow with everything it prints in the file `path`, whose last line says how it ended.

    Libraries below write to the process's standard streams, so these are redirected as a whole. A `RetrotuneError` ends
    the process with status 1 and its message, without a traceback, in the log and on the terminal; any other exception
    keeps its traceback in the log. What the system refuses (a full disk, a read-only folder) is named on the terminal
    too. A signal that stops the stage ends it with `interruption.STATUS`; its Slurm job goes back into the queue if it
    was preempted. Where another process has the log, left by a Snakemake that was killed or started by a second one,
    the stage waits until it ends.

    `forked`: on CPUs the script goes on in a fork of a process that has imported torch (`runtime.warm`), from its first
    line. Such a script imports what it needs within the block.
    """
    if forked:
        warm.continue_in_fork()
    terminal = os.dup(2)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        log = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (open until the process ends)
        _wait_for_turn(log, terminal)
        log.truncate(0)
    except OSError as error:
        _end(terminal, 1, f"error: the log cannot be written ({error}); mend that and run again")
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    setup_logging()
    logger.info("started on %s, process %d", socket.gethostname(), os.getpid())
    interruption.listen()
    interruption.end_with_parent()
    start = time.monotonic()
    try:
        yield
        logger.info("finished after %.1f s", time.monotonic() - start)
    except RetrotuneError as error:
        _end(terminal, 1, f"error: {error}", path)
    except Interrupted as error:
        interruption.ignore()
        job = requeue_preempted()
        _end(
            terminal, interruption.STATUS, f"{error} (job {job} is in Slurm's queue again)" if job else str(error), path
        )
    except BaseException as error:
        traceback.print_exc()
        if refused := refusal(error):
            _end(terminal, 1, f"error: {refused}; mend that and run again", path)
        _end(terminal, 1, f"failed: {type(error).__name__}: {error}", path)


def _wait_for_turn(log: TextIO, terminal: int) -> None:
    """Lock the log while the process lives; file systems without locks are used without."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.write(terminal, f"waiting for the process that still writes {log.name}\n".encode())
        fcntl.flock(log, fcntl.LOCK_EX)
    except OSError:
        pass


def refusal(error: BaseException) -> str | None:
    """What the system refused, also where a library put it into an error of its own."""
    if isinstance(error, OSError):
        return str(error)
    said = str(error)
    return said if any(os.strerror(number) in said for number in (errno.ENOSPC, errno.EROFS, errno.EDQUOT)) else None


def _end(terminal: int, status: int, message: str, log: str | None = None) -> NoReturn:
    """End the process with a message on the terminal, and as the last line of the log."""
    if log is not None:
        with contextlib.suppress(OSError):  # the log may lie on the disk that is full
            sys.stderr.write(f"{message}\n" if "\n" in message else "")
            sys.stderr.write(f"ended: {' '.join(message.split())}\n")
            sys.stderr.flush()
    os.write(terminal, (f"{message} (log: {log})\n" if log else f"{message}\n").encode())
    os._exit(status)


class End(NamedTuple):
    """How a stage ended: finished, failed, stopped (by a signal, its work saved) or running, and what it said."""

    state: str
    message: str


_STARTED = re.compile(r"INFO started on (\S+), process (\d+)$", re.MULTILINE)
_FINISHED = re.compile(r" INFO finished( after [\d.]+ s)?$")
_FIRST, _LAST = 4096, 65536


def read_end(path: str | Path) -> End | None:
    """How the stage with this log ended; None where there is no log.

    A process that is gone without a last word was killed, and has failed. On another computer that cannot be told from
    one that is at work, and counts as running.
    """
    try:
        with open(path, "rb") as log:
            first = log.read(_FIRST).decode("utf-8", errors="replace")
            log.seek(max(0, Path(path).stat().st_size - _LAST))
            last = log.read().decode("utf-8", errors="replace").rstrip().rpartition("\n")[2]
    except OSError:
        return None
    if _FINISHED.search(last):
        return End("finished", "")
    if last.startswith("ended: "):
        message = last.removeprefix("ended: ")
        return End("stopped" if message.startswith("stopped by ") else "failed", message)
    started = _STARTED.search(first)
    if started is not None and started[1] != socket.gethostname():
        return End("running", f"at work on {started[1]}, or killed there")
    if started is not None and Path(f"/proc/{started[2]}").exists():
        return End("running", f"process {started[2]}")
    return End("failed", "killed without a word: by hand, by the system for want of memory, or at its time limit")

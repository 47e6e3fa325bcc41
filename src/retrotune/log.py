"""Logging: one logger, plain lines, and progress with rate and remaining time for long stages."""

import contextlib
import errno
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import NoReturn, TypeVar

from retrotune import interruption
from retrotune.errors import Interrupted, RetrotuneError

T = TypeVar("T")
logger = logging.getLogger("retrotune")


def setup_logging(path: str | None = None, level: int = logging.INFO) -> None:
    """Send the package's log to `path` (appending) or, without one, to standard error."""
    handler: logging.Handler = logging.FileHandler(path) if path else logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


def progress(items: Iterable[T], what: str, total: int | None = None, every_seconds: float = 10.0) -> Iterator[T]:
    """Yield `items` and log count, rate and remaining time, at most once per `every_seconds`.

    `what` names the unit, for example "passages embedded". Plain lines, fit for a terminal and a log file alike.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    start = last = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= every_seconds:
            last = now
            rate = count / (now - start)
            rest = f", {(total - count) / rate:.0f} s left" if total else ""
            logger.info("%s: %d%s (%.1f/s%s)", what, count, f" of {total}" if total else "", rate, rest)


FINISHED, ERROR, FAILED, STOPPED = "finished", "error: ", "failed: ", "stopped by "
"""How the last line of a stage's log begins; a process that was killed leaves no such line."""


@contextlib.contextmanager
def stage_log(path: str) -> Iterator[None]:
    """Run one stage of the workflow with everything it prints in the file `path`, whose last line says how it ended.

    Libraries below write to the process's standard streams, so these are redirected as a whole. A `RetrotuneError` ends
    the process with status 1 and its message, without a traceback, in the log and on the terminal; any other exception
    keeps its traceback in the log. What the system refuses (a full disk, a read-only folder) is named on the terminal
    too. A signal that stops the stage (`retrotune.interruption`) ends it with `interruption.STATUS`.
    """
    terminal = os.dup(2)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        log = open(path, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 (open until the process ends)
    except OSError as error:
        _end(terminal, 1, f"{ERROR}the log cannot be written ({error}); mend that and run again")
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    setup_logging()
    interruption.listen()
    try:
        yield
        logger.info(FINISHED)
    except RetrotuneError as error:
        _end(terminal, 1, f"{ERROR}{error}", path)
    except Interrupted as error:
        _end(terminal, interruption.STATUS, str(error), path)
    except BaseException as error:
        traceback.print_exc()
        if refusal := _refusal(error):
            _end(terminal, 1, f"{ERROR}{refusal}; mend that and run again", path)
        _end(terminal, 1, f"{FAILED}{type(error).__name__}: {error}", path)


def _refusal(error: BaseException) -> str | None:
    """What the system refused, also where a library put it into an error of its own."""
    if isinstance(error, OSError):
        return str(error)
    said = str(error)
    return said if any(os.strerror(number) in said for number in (errno.ENOSPC, errno.EROFS, errno.EDQUOT)) else None


def _end(terminal: int, status: int, message: str, log: str | None = None) -> NoReturn:
    """End the process with a message as the log's last line, and on the terminal."""
    with contextlib.suppress(OSError):  # the log may lie on the disk that is full
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()
    os.write(terminal, (f"{message} (log: {log})\n" if log else f"{message}\n").encode())
    os._exit(status)

"""Logging: one logger, plain lines, and progress with rate and remaining time for long stages."""

import contextlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import TypeVar

from retrotune.errors import RetrotuneError

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


@contextlib.contextmanager
def stage_log(path: str) -> Iterator[None]:
    """Run one stage of the workflow with everything it prints in the file `path`.

    Libraries below write to the process's standard streams, so these are redirected as a whole. A `RetrotuneError` ends
    the process with status 1 and its message, without a traceback, in the log and on the terminal; any other exception
    keeps its traceback in the log. What the system refuses (a full disk, a read-only folder) is named on the terminal
    too.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    terminal = os.dup(2)
    with open(path, "w", encoding="utf-8", buffering=1) as log:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        setup_logging()
        try:
            yield
        except RetrotuneError as error:
            sys.stderr.write(f"error: {error}\n")
            sys.stderr.flush()
            os.write(terminal, f"error: {error} (log: {path})\n".encode())
            os._exit(1)
        except BaseException as error:
            traceback.print_exc()
            sys.stderr.flush()
            reason = f"error: {error}; mend that and run again" if isinstance(error, OSError) else "failed"
            os.write(terminal, f"{reason} (log: {path})\n".encode())
            os._exit(1)

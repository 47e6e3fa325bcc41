"""Logging: one logger, plain lines, and progress with rate and remaining time for long stages."""

import contextlib
import errno
import fcntl
import logging
import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path
from typing import NamedTuple, NoReturn, TextIO, TypeVar

from retrotune import interruption
from retrotune.errors import Interrupted, RetrotuneError

T = TypeVar("T")
logger = logging.getLogger("retrotune")


CLEAR_LINE = "\r\x1b[K"


class _LineHandler(logging.Handler):
    """Lines of the log on standard error, in a terminal in place of the live line of a progress."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(f"{CLEAR_LINE if sys.stderr.isatty() else ''}{self.format(record)}\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            self.handleError(record)


def setup_logging(path: str | None = None, level: int = logging.INFO, plain: bool = False) -> None:
    """Send the package's log to `path` (appending) or, without one, to standard error.

    `plain`: the messages alone, as commands show them in a terminal, without time and level.
    """
    handler: logging.Handler = logging.FileHandler(path) if path else _LineHandler()
    handler.setFormatter(
        logging.Formatter("%(message)s" if plain else "%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    )
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


def duration(seconds: float) -> str:
    """Seconds as people say them: 5 s, 3 min 20 s, 1 h 05 min, 2 d 03 h."""
    seconds = round(seconds)
    for unit, size, part, part_size in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // part_size:02d} {part}"
    return f"{seconds} s"


class Progress:
    """Count, share, rate and remaining time of a long stage: a live line in a terminal, else lines in the log.

    `what` names the unit, for example "passages embedded"; `total` is how many there are, where that is known. A log
    gets a line per `every_seconds` at most, a terminal (standard error) is written to five times per second. A stage
    that took longer than `every_seconds` ends with a line that says how long.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        every_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.count = 0
        self._kept = 0
        self._what, self._total, self._clock = what, total, clock
        self._every = every_seconds
        self._live = sys.stderr.isatty()
        self._start = self._last = clock()

    def advance(self, count: int = 1, kept: bool = False) -> None:
        """Count some more as done. What was `kept` from an earlier run says nothing about the rate."""
        self.count += count
        self._kept += count * kept
        now = self._clock()
        wait = min(0.2, self._every) if self._live else self._every
        if now - self._last < wait or (self._total is not None and self.count >= self._total and not self._live):
            return  # the last line is that of __exit__
        self._last = now
        if self._live:
            sys.stderr.write(CLEAR_LINE + self._line(now))
            sys.stderr.flush()
        else:
            logger.info("%s", self._line(now))

    def _line(self, now: float) -> str:
        line = f"{self._what}: {self.count:,}"
        if self._total:
            line += f" of {self._total:,} ({self.count / self._total:.0%})"
        rate = self._rate(now)
        if not rate:
            return line
        line += f", {_number(rate)}/s"
        return f"{line}, {duration(max(self._total - self.count, 0) / rate)} left" if self._total else line

    def _rate(self, now: float) -> float:
        return (self.count - self._kept) / (now - self._start) if now > self._start else 0.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._live:
            sys.stderr.write(CLEAR_LINE)
            sys.stderr.flush()
        now = self._clock()
        if kind is None and now - self._start >= self._every and self.count:
            line = f"{self._what}: {self.count:,} in {duration(now - self._start)}"
            rate = self._rate(now)
            logger.info("%s", f"{line}, {_number(rate)}/s" if rate else line)


def _number(rate: float) -> str:
    """A rate with two digits at least: 0.35, 4.2, 1,234."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def progress(
    items: Iterable[T],
    what: str,
    total: int | None = None,
    every_seconds: float = 10.0,
    size: Callable[[T], int] | None = None,
) -> Iterator[T]:
    """Yield `items` and show the progress through them, as `Progress` does.

    `what` names the unit, for example "passages embedded". Where an item holds several units, `size(item)` says how
    many, and `total` counts units too.
    """
    if total is None and size is None and isinstance(items, Sized):
        total = len(items)
    with Progress(what, total, every_seconds) as shown:
        for item in items:
            yield item
            shown.advance(size(item) if size is not None else 1)


@contextlib.contextmanager
def stage_log(path: str) -> Iterator[None]:
    """Run one stage of the workflow with everything it prints in the file `path`, whose last line says how it ended.

    Libraries below write to the process's standard streams, so these are redirected as a whole. A `RetrotuneError` ends
    the process with status 1 and its message, without a traceback, in the log and on the terminal; any other exception
    keeps its traceback in the log. What the system refuses (a full disk, a read-only folder) is named on the terminal
    too. A signal that stops the stage (`retrotune.interruption`) ends it with `interruption.STATUS`; its Slurm job goes
    back into the queue if it was preempted. Where another process has the log, left by a Snakemake that was killed or
    started by a second one, the stage waits until it ends.
    """
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
        job = interruption.requeue_preempted()
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

"""Logging: one logger, plain lines, and progress with rate and remaining time for long stages.

Other libraries draw no bars. Their warnings come once each, in one line that names the library; what they say to those
who write code is left out.
"""

import functools
import json
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
logger = logging.getLogger("retrotune")


CLEAR_LINE = "\r\x1b[K"
QUIET = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
"""Environment that libraries read when they are imported. transformers' warnings are advice about its own arguments."""
FOR_AUTHORS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
"""Warnings that only the authors of the calling code can heed."""


class _LineHandler(logging.Handler):
    """Lines of the log on standard error, in a terminal in place of the live line of a progress."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(f"{CLEAR_LINE if sys.stderr.isatty() else ''}{self.format(record)}\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            self.handleError(record)


class _ForeignHandler(logging.Handler):
    """Warnings and errors of other libraries as lines of this log, the same one once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] == logger.name:
            return  # handled already
        text = f"{record.name.partition('.')[0]}: {' '.join(record.getMessage().split())}"
        if text not in self._told:
            self._told.add(text)
            logger.log(record.levelno, "%s", text, exc_info=record.exc_info)


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """In place of `warnings.showwarning`: log the warning under the name of the library whose file warns."""
    if not issubclass(category, FOR_AUTHORS):
        inside = re.split(r"(?:site|dist)-packages/", filename)
        library = inside[-1].partition("/")[0] if len(inside) > 1 else Path(filename).name
        logging.getLogger(library.removesuffix(".py")).warning("%s", message)


def quiet_libraries() -> None:
    """Route what other libraries say to this log: those imported, those to come, and those of child processes."""
    os.environ.update(QUIET)
    if said := sys.modules.get("transformers.utils.logging"):
        said.disable_progress_bar()
        said.set_verbosity_error()
    if bars := sys.modules.get("tqdm.std"):
        bars.tqdm.__init__ = functools.partialmethod(vars(bars.tqdm)["__init__"], disable=True)
    warnings.showwarning = _show_warning
    if not any(isinstance(handler, _ForeignHandler) for handler in logging.root.handlers):
        logging.root.addHandler(_ForeignHandler())


def setup_logging(path: str | None = None, level: int = logging.INFO, plain: bool = False) -> None:
    """Send the package's log to `path` (appending) or, without one, to standard error; other libraries are made quiet.

    `plain`: the messages alone, as commands show them in a terminal, without time and level.
    """
    handler: logging.Handler = logging.FileHandler(path) if path else _LineHandler()
    handler.setFormatter(
        logging.Formatter("%(message)s" if plain else "%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    )
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    quiet_libraries()


def log_configuration(values: Mapping[str, Any]) -> None:
    """Log what a stage works with as one line, `name=value` for each value that is not None."""
    said = ((name, value if isinstance(value, str) else json.dumps(value)) for name, value in values.items())
    logger.info("configuration: %s", " ".join(f"{name}={text}" for name, text in said if text != "null"))


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

"""Requests to stop: what a stage does when Slurm preempts its job, time runs out, or a person presses Ctrl-C.

A stage that `listen`s ends with `Interrupted` when SIGTERM, SIGUSR1 or SIGINT arrives: at once, or, inside `deferred`,
where the stage itself looks at `requested` between two steps, saves, and calls `stop`.
"""

import contextlib
import ctypes
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from retrotune.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
STATUS = 75
"""Exit status of an interrupted stage, EX_TEMPFAIL of sysexits.h: run again. Sites list it in Slurm's RequeueExit."""


class _State:
    signal_name: str | None = None
    deferrals = 0


def listen() -> None:
    """Handle the signals from now on, in the main thread of the process; earlier requests are forgotten."""
    forget()
    for number in SIGNALS:
        signal.signal(number, _receive)


def end_with_parent() -> None:
    """Get SIGTERM when the process that started this one dies: no stage works on behind a dead Snakemake's back.

    On Linux only; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, prctl(2)


def ignore() -> None:
    """Let further signals do nothing: the work stops already."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def forget() -> None:
    """Forget a signal that has arrived."""
    _State.signal_name, _State.deferrals = None, 0


def _receive(number: int, frame: FrameType | None) -> None:
    """Remember the request. Nothing is logged here: the interrupted code may be in the middle of a log line."""
    _State.signal_name = _State.signal_name or signal.Signals(number).name
    if not _State.deferrals:
        stop("nothing was left half written")


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let the block run on when a signal arrives: it asks `requested` where it can stop. Blocks nest."""
    stop_if_requested("nothing was left half written")  # a library may have swallowed the exception
    _State.deferrals += 1
    try:
        yield
    finally:
        _State.deferrals -= 1


def requested() -> bool:
    """Whether a signal has arrived."""
    return _State.signal_name is not None


def requested_by() -> str | None:
    """Name of the signal that has arrived, if one has."""
    return _State.signal_name


def stop(state: str, together: bool = False) -> NoReturn:
    """Raise `Interrupted`, which names the signal and says in which `state` the work was left.

    Where several processes stop `together`, another one may have got the signal.
    """
    signal_name = _State.signal_name or "a signal"
    raise Interrupted(f"stopped by {signal_name}: {state}; run again to go on", together)


def stop_if_requested(state: str) -> None:
    """Call `stop` if a signal has arrived."""
    if requested():
        stop(state)

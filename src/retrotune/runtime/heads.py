"""Snakemake processes at work on a study, its heads, and the files that they lock for as long as they live.

- `{results}/{study}/.lock`: held by the one head of the study. It says who that is and what is planned.
- `{resources}/.lock`: held by all heads that read what lies there together, or by one that makes some of it again.
- `{resources}/.making.lock`: held by the one head that makes files there, until they are made.

Locks are the operating system's (flock): whatever ends a process frees them. The files stay behind.
"""

import contextlib
import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from retrotune.errors import BusyError

STUDY, RESOURCES, MAKING = ".lock", ".lock", ".making.lock"
_PATIENCE = 1.0
"""Seconds for which a lock is tried: `living` holds it for a moment."""


@dataclass(frozen=True)
class Head:
    """A Snakemake process at work. `planned`: logs of the stages that it had to do when it began.

    `began`: seconds since the epoch, by the clock of the file system, as times of logs are.
    """

    study: str
    process: int
    host: str
    command: str
    planned: frozenset[str] = frozenset()
    began: float = 0.0

    @classmethod
    def here(cls, study: str, planned: Iterable[str] = ()) -> "Head":
        """This process."""
        return cls(study, os.getpid(), socket.gethostname(), shlex.join(sys.orig_argv), frozenset(planned))

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.began))
        return f"process {self.process} on {self.host} (study {self.study}, since {since})"


class Lock:
    """A file that says which head has locked it. It is locked until `release`, or until the process ends.

    `blind`: the file system has no locks, or the file cannot be written; a warning was all that could be done.
    """

    def __init__(self, path: str | Path, head: Head, warn: Callable[[str], None]) -> None:
        self.path, self.head, self.blind = Path(path), head, False
        self._warn = warn
        self._file: int | None = None

    def take(self, shared: bool = False, wait: bool = False) -> bool:
        """Lock the file, alone or `shared` with others that do so; False if another head has it and not to `wait`."""
        try:
            if self._file is None:
                self._file = self._open(shared)
            self._lock(fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait)
        except BlockingIOError:
            return False
        except OSError as error:
            self.blind = True
            # a folder that is only read, where nobody has locked anything
            if not (shared and isinstance(error, FileNotFoundError | PermissionError)):
                self._warn(
                    f"{self.path} cannot be locked ({error}): let no other snakemake write to this folder meanwhile"
                )
        else:
            self.sign()
        return True

    def release(self) -> None:
        """Let others have it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self, shared: bool) -> int:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            if not shared:
                raise
            return os.open(self.path, os.O_RDONLY)

    def _lock(self, kind: int, wait: bool) -> None:
        assert self._file is not None
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(self._file, kind if wait else kind | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def sign(self) -> None:
        """Say who has the lock."""
        record = vars(self.head) | {"planned": sorted(self.head.planned)}
        del record["began"]
        with contextlib.suppress(OSError):  # a full disk, or a folder that is only read
            if self._file is not None:
                os.ftruncate(self._file, 0)
                os.pwrite(self._file, json.dumps(record).encode(), 0)


def read_head(path: str | Path) -> Head | None:
    """The head that signed a lock last, alive or not; None if none did."""
    try:
        with open(path, encoding="utf-8") as stream:
            record = json.load(stream)
            began = os.fstat(stream.fileno()).st_mtime
        return Head(**record | {"planned": frozenset(record["planned"]), "began": began})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def living(study: str | Path) -> Head | None:
    """The head that works on the study with this folder of results; None if none does."""
    path = Path(study) / STUDY
    try:
        with open(path, "rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return read_head(path)
    except FileNotFoundError:
        return None
    except OSError:  # no locks here
        head = read_head(path)
        return head if head is not None and _lives(head) else None


def claim_study(folder: str | Path, head: Head, warn: Callable[[str], None]) -> Lock:
    """Make `head` the only one of the study with this folder of results, until it ends.

    Raises `BusyError` that names the head at work, if there is one.
    """
    lock = Lock(Path(folder) / STUDY, head, warn)
    taken, other = lock.take(), None
    if lock.blind:
        other = read_head(lock.path)
        taken = other is None or other.process == head.process or not _lives(other)
        if taken:
            lock.sign()
    if not taken:
        other = other or read_head(lock.path)
        named = f"{other}: {other.command}" if other else "a snakemake that has not said yet which it is"
        stop = f", or stop it (kill -INT {other.process} on {other.host})" if other else ""
        raise BusyError(
            f"{folder} is being worked on by {named}. Wait until it ends{stop}, and start again; "
            "`retrotune status` says how far it is"
        )
    return lock


class Resources:
    """What a head may do in a folder that studies share: read what is there, beside others, or make files.

    Files that are made again vanish meanwhile, so then no other head may work with the folder. Files that are new
    disturb nobody, but two heads would make them twice.
    """

    def __init__(self, folder: str | Path, head: Head, warn: Callable[[str], None]) -> None:
        self._folder, self._warn = Path(folder), warn
        head = replace(head, planned=frozenset())  # asked for in a study's lock only
        self._reading = Lock(self._folder / RESOURCES, head, warn)
        self._making = Lock(self._folder / MAKING, head, warn)

    def holds(self, path: str) -> bool:
        """Whether a file lies in the folder."""
        return Path(path).is_relative_to(self._folder)

    def claim(self, made: Iterable[str], missing: Iterable[str]) -> bool:
        """Claim what a plan needs: to make files, of which some were `missing` when it was made, or only to read.

        Waits for other heads if it must. False: the plan is out of date, as they have changed what is there.
        """
        files = [path for path in made if self.holds(path)]
        again = [path for path in files if Path(path).exists()]
        why = f", {again[0]} for one, have to be made again here" if again else ""
        claimed = (
            (not files or self._taken(self._making, False, "makes files in it"))
            and not any(self.holds(path) and Path(path).exists() for path in missing)
            and self._taken(self._reading, not again, f"works with files that lie there{why}")
        )
        if not claimed:
            self._making.release()
            self._reading.release()
        return claimed

    def made(self) -> None:
        """All files are made: others may make theirs, and read all."""
        self._reading.take(shared=True)
        self._making.release()

    def _taken(self, lock: Lock, shared: bool, what: str) -> bool:
        if lock.take(shared):
            return True
        other = read_head(lock.path)
        self._warn(f"waiting for {other or 'another snakemake'}, which shares {self._folder} and {what}")
        lock.take(shared, wait=True)
        return False


def _lives(head: Head) -> bool:
    """Whether it is at work on this computer; of others that cannot be told."""
    return head.host == socket.gethostname() and Path(f"/proc/{head.process}").exists()

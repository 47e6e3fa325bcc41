"""Base models on a node's own disk: copied once per node, verified, shared by the node's jobs, and cleaned.

Used where the environment variable `RETROTUNE_SCRATCH` names a folder; jobs read the shared file system otherwise.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from retrotune.errors import ModelError, RetrotuneError
from retrotune.runtime.files import read_json, sha256, sha256_text
from retrotune.runtime.log import logger

VARIABLE = "RETROTUNE_SCRATCH"
UNUSED_DAYS = 14
"""A copy that no job has used for so long is removed when another is made."""


@contextlib.contextmanager
def nearby(folder: str | Path) -> Iterator[Path]:
    """Yield a copy of a model folder on this node's disk, which stays while the block runs.

    The folder itself is yielded where no scratch folder is named, where its manifest has no checksums, and, with a
    warning, where the copy fails: a full disk costs time, not the cell.
    """
    folder = Path(folder)
    with contextlib.ExitStack() as stack:
        path, root = folder, os.environ.get(VARIABLE)
        if root and (folder / "manifest.json").is_file():
            try:
                if read_json(folder / "manifest.json").get("weights_sha256"):
                    path = _hold(folder, Path(root) / f"retrotune-{os.getuid()}", stack)
            except (OSError, RetrotuneError) as error:
                logger.warning("%s: no copy in %s=%s (%s); read where it is", folder, VARIABLE, root, error)
        yield path


def _hold(folder: Path, root: Path, stack: contextlib.ExitStack) -> Path:
    """The copy of `folder` under `root`, made if need be, with a shared lock that lasts as long as `stack`."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise ModelError(f"{root} belongs to somebody else")
    # the manifest has the checksums of all weights, so a model that is made anew is another copy
    copy = root / sha256_text((folder / "manifest.json").read_text(encoding="utf-8"))[:16]
    lock = stack.enter_context(open(f"{copy}.lock", "a"))  # noqa: SIM115 - the stack closes it
    while True:
        fcntl.flock(lock, fcntl.LOCK_SH)
        if _sizes(copy) == _sizes(folder):
            os.utime(lock.name)
            return copy
        # no conversion of a lock is atomic: look again after each
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _sizes(copy) != _sizes(folder):
            _make(folder, copy)


def _make(folder: Path, copy: Path) -> None:
    started = time.monotonic()
    temporary = copy.with_suffix(".tmp")
    for leftover in (copy, temporary):
        shutil.rmtree(leftover, ignore_errors=True)
    sizes = _sizes(folder)
    _clean(copy, sum(sizes.values()))
    temporary.mkdir()
    try:
        for name in sizes:
            shutil.copyfile(folder / name, temporary / name)
        for name, digest in read_json(folder / "manifest.json")["weights_sha256"].items():
            if (found := sha256(temporary / name)) != digest:
                raise ModelError(f"{folder / name}: sha256 {found} of the copy is not the manifest's {digest}")
        temporary.rename(copy)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    logger.info("%s: copied to %s in %.0f s", folder, copy, time.monotonic() - started)


def _clean(copy: Path, needed: int) -> None:
    """Remove copies that no job holds: old ones, then as many of the others as room is needed for, oldest first."""
    locks = [lock for lock in copy.parent.glob("*.lock") if lock != Path(f"{copy}.lock")]
    for lock in sorted(locks, key=lambda path: path.stat().st_mtime):
        old = time.time() - lock.stat().st_mtime > UNUSED_DAYS * 86400
        if old or shutil.disk_usage(copy.parent).free < needed:
            with open(lock, "a") as opened, contextlib.suppress(BlockingIOError):
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
    if (free := shutil.disk_usage(copy.parent).free) < needed:
        raise ModelError(f"{needed} bytes are needed, {free} are free")


def _sizes(folder: Path) -> dict[str, int]:
    """Names and sizes of a model folder's files."""
    return {file.name: file.stat().st_size for file in sorted(folder.glob("*")) if file.is_file()}

"""Checkpoints of a training run on disk: folders `checkpoint-{step}` in its work folder.

A checkpoint's last file, `progress.json`, holds the run's counters and the checksums of all other files. Without it a
checkpoint was not finished; where a checksum differs it is damaged. Neither is resumed: the one before is.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from retrotune.errors import DataError
from retrotune.runtime.files import read_json, sha256, sha256_text, write_json, write_text
from retrotune.runtime.log import logger

KEPT = 2
_LAST = "progress.json"


def claim(work: Path, identity: str) -> None:
    """Make `work` the folder of the run `identity`; whatever another run left in it is deleted."""
    owner = work / "identity"
    if work.exists() and not (owner.is_file() and owner.read_text(encoding="utf-8") == identity):
        shutil.rmtree(work)
    write_text(owner, identity)


def checkpoint_path(work: Path, step: int) -> Path:
    """Folder of the checkpoint after `step` steps, as transformers names it."""
    return work / f"checkpoint-{step}"


def seal(folder: Path, state: Mapping[str, Any], others: Iterable[str] = ()) -> None:
    """Declare a checkpoint whole, with `state` beside it, and delete all but the last `KEPT`.

    `others` are files that other processes wrote: a shared file system may open them before it lists them.
    """
    names = {file.name for file in folder.iterdir() if file.name != _LAST} | set(others)
    files = {name: sha256(folder / name) for name in sorted(names)}
    write_json(folder / _LAST, {"state": state, "files": files, "sha256": _digest(state, files)})
    for old in _newest_first(folder.parent)[KEPT:]:
        shutil.rmtree(old)


def last_checkpoint(work: Path) -> tuple[Path, dict[str, Any]] | None:
    """(folder, state) of the newest checkpoint that is whole; those after it are deleted, with a line in the log."""
    for folder in _newest_first(work):
        problem = _problem(folder)
        if problem is None:
            return read_checkpoint(work, int(folder.name[11:]))
        logger.warning("%s %s: it is deleted and the one before is used, if there is one", folder, problem)
        shutil.rmtree(folder)
    return None


def read_checkpoint(work: Path, step: int) -> tuple[Path, dict[str, Any]]:
    """(folder, state) of the checkpoint after `step` steps, which is known to be whole."""
    folder = checkpoint_path(work, step)
    return folder, read_json(folder / _LAST)["state"]


def _newest_first(work: Path) -> list[Path]:
    folders = {int(step): path for path in work.glob("checkpoint-*") if (step := path.name[11:]).isdecimal()}
    return [folders[step] for step in sorted(folders, reverse=True)]


def _problem(folder: Path) -> str | None:
    """What is wrong with a checkpoint, None if it is whole."""
    if not (folder / _LAST).is_file():
        return "was not finished"
    try:
        last = read_json(folder / _LAST)
        if last["sha256"] != _digest(last["state"], last["files"]):
            return f"is damaged ({_LAST}: checksum differs)"
        for name, checksum in last["files"].items():
            if sha256(folder / name) != checksum:
                return f"is damaged ({name}: checksum differs)"
    except (DataError, OSError, KeyError, TypeError, AttributeError) as error:
        return f"is damaged ({error})"
    return None


def _digest(state: Any, files: Any) -> str:
    return sha256_text(json.dumps([state, files], sort_keys=True))

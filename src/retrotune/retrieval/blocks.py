"""Blocks of arrays on disk that outlive an interrupted run: each is whole and made from what is asked, or made again.

A block has a record beside it, `{block}.json`, written after it: rows, checksum, and a digest of what the block was
made from. No rule declares a folder of blocks: Snakemake would delete it with a failed job.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from retrotune.errors import DataError, RetrievalError
from retrotune.runtime.files import atomic_write, lock, read_json, sha256, write_json
from retrotune.runtime.log import logger

RECORD_KEYS = {"rows", "sha256", "made_from"}
Record = dict[str, Any]


def kept_or_made(
    path: Path,
    made_from: str,
    rows: int,
    make: Callable[[], Any],
    save: Callable[[BinaryIO, Any], Mapping[str, Any]],
    check: Callable[[Path, Mapping[str, Any]], Any],
) -> tuple[Record, bool]:
    """(record of the block at `path`, whether it was there already).

    A block is kept if its record says `made_from` and `rows`, and `check(path, record)` raises nothing. Otherwise
    `make()` computes it and `save(stream, value)` writes it, giving what its record says besides. A block that is made
    again is named in the log. Of several processes that want the same block one makes it, and the others wait for it.
    """
    with lock(path):
        record = _kept(path, made_from, rows, check)
        if record is not None:
            return record, True
        value = make()
        with atomic_write(path) as temporary, open(temporary, "wb") as stream:
            more = save(stream, value)
        record = {"rows": rows, **more, "sha256": sha256(path), "made_from": made_from}
        write_json(path.with_suffix(".json"), record)
        return record, False


def _kept(path: Path, made_from: str, rows: int, check: Callable[[Path, Mapping[str, Any]], Any]) -> Record | None:
    """The record of a block that can be kept; None, with a line in the log, if it must be made (again)."""
    if not path.exists():
        return None
    try:
        record: Record = read_json(path.with_suffix(".json"))
        if not isinstance(record, dict) or not record.keys() >= RECORD_KEYS:
            raise RetrievalError(f"{path}: its record is incomplete")
        if record["made_from"] != made_from or record["rows"] != rows:
            raise RetrievalError(f"{path}: made from other texts or by another model")
        check(path, record)
    except (DataError, RetrievalError) as error:
        logger.warning("%s; making the block again", error)
        return None
    return record


def check_sum(path: Path, record: Mapping[str, Any]) -> None:
    """Raise `RetrievalError` if a block is missing or is not the file that its record describes."""
    try:
        found = sha256(path)
    except OSError as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise RetrievalError(f"{path}: block {what}") from error
    if found != record.get("sha256"):
        raise RetrievalError(f"{path}: block is damaged (checksum differs)")

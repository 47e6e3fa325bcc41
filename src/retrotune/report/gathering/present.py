"""Whether results may stand beside each other: made of the data that lie on disk, or at least of the same data.

The versions of stages are compared where results are read (`study.records`). What cannot be compared is not compared:
such a result is outdated, and has no score in tables, figures and tests.
"""

import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from retrotune.runtime.files import sha256
from retrotune.study.cells import Cell
from retrotune.study.paths import Paths
from retrotune.study.records import MetricsRecord, OutdatedError

DATA = ("references", "test questions", "training questions", "test neighbors", "training neighbors")
"""Names of the data of results: cells with the same dataset and retrieval have the same."""


class Used(NamedTuple):
    """A file that a result rests on: what it is, where it lies, and its sha256 then (None: there was none)."""

    name: str
    path: str
    digest: str | None


def used_files(paths: Paths, cell: Cell, found: MetricsRecord) -> list[Used]:
    """The files outside of its folder that a cell's result rests on."""
    manifest, test, train = paths.model_manifest(cell.model), found.inputs, found.train and found.train.inputs
    files = [
        Used("base model", manifest, test.model),
        Used("references", paths.references(cell.dataset, "test"), test.references),
        Used("test questions", paths.examples(cell.dataset, "test"), test.examples),
        Used("test neighbors", paths.neighbors(cell.retrieval, cell.dataset, "test"), test.neighbors),
    ]
    if train:
        files += [
            Used("base model of training", manifest, train.model),
            Used("training questions", paths.examples(cell.dataset, "train"), train.examples),
            Used("training neighbors", paths.neighbors(cell.retrieval, cell.dataset, "train"), train.neighbors),
        ]
    return [used for used in files if used.digest is not None]


def check_present(metrics: Path, files: Iterable[Used]) -> None:
    """Raise `OutdatedError` if one of the files that a result rests on has other contents by now.

    Only files that were written after the result are read, so that thousands of cells take no time.
    """
    written = metrics.stat().st_mtime_ns
    for used in files:
        time = changed(used.path)
        if time is not None and time > written and digest_of(used.path, time) != used.digest:
            raise OutdatedError(
                f"{metrics}: made with other {used.name} than {used.path} holds by now; run snakemake, which makes it "
                "again"
            )


def changed(path: str) -> int | None:
    """When a file was written last, in nanoseconds; None if it is not there."""
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 (a third of the time of pathlib's, in thousands of cells)
    except OSError:
        return None


@functools.lru_cache(maxsize=4096)
def digest_of(path: str, time: int) -> str:
    """The sha256 of a file that was written at `time`."""
    return sha256(path)


def cells_of(count: int) -> str:
    """How many cells, in words."""
    return "1 cell" if count == 1 else f"{count} cells"


def different_data(cells: Sequence[Cell], inputs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, str]]:
    """(place, problem) of cells that rest on other data than others of their dataset, or of their retrieval too.

    `inputs` has the digests of each cell's `DATA`. No cell of such a group is compared: nothing tells which is right.
    """
    groups: dict[tuple[str, ...], dict[str, list[int]]] = {}
    for place, (cell, digests) in enumerate(zip(cells, inputs, strict=True)):
        for name in DATA:
            if (digest := digests.get(name)) is not None:
                shared = (name, cell.dataset, cell.retrieval) if "neighbors" in name else (name, cell.dataset)
                groups.setdefault(shared, {}).setdefault(digest, []).append(place)
    for (name, *owner), found in groups.items():
        if len(found) > 1:
            counts = ", ".join(f"{digest[:12]} in {cells_of(len(places))}" for digest, places in found.items())
            for place in sorted(place for places in found.values() for place in places):
                yield (
                    place,
                    f"cells of {' and '.join(owner)} rest on different {name} ({counts}) and cannot be compared; run "
                    "snakemake, which makes the older ones again",
                )

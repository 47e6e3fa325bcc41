"""The files of a FAISS index: what it learned, and its shards, each made once and kept while it is whole.

Beside `{index}.json` lies the folder `{index}/` with `trained.faiss`, the empty index that all shards start from, and
`00000.faiss`, … with the vectors; each file has its record (`.json`) with checksum and what it was made from. No rule
declares the folder: Snakemake would delete it with a failed job.
"""

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from retrotune.errors import DataError, RetrievalError
from retrotune.retrieval.search.factory import Settings, make_index, on_device, set_search
from retrotune.retrieval.vectors.embeddings import Embeddings, check_vectors
from retrotune.runtime.files import atomic_write, block_path, lock, read_json, sha256, write_json
from retrotune.runtime.log import logger, progress
from retrotune.study.stages import BuildIndexParams

RECORD_KEYS = {"sha256", "made_from", "seconds"}


def build_shards(vectors: Embeddings, settings: Settings, folder: Path) -> tuple[list[dict[str, Any]], float]:
    """Make the shards that are missing or damaged; (start, rows, sha256 and bytes of each, seconds of all work).

    Memory holds one shard. Two processes that build the same shard make it once. Raises `RetrievalError` for settings
    that FAISS refuses and for a vector that is zero or not finite.
    """
    origin = {
        "stage_version": BuildIndexParams.version,
        "embeddings_sha256": sha256(vectors.path),
        "factory": settings.factory,
        "training_vectors": settings.training_vectors,
    }
    trained = folder / "trained.faiss"
    record = _make(trained, origin, lambda: make_index(settings, vectors))
    seconds, shards = record["seconds"], []
    borders = np.linspace(0, vectors.rows, settings.num_shards + 1).astype(int).tolist()
    for number, (start, stop) in enumerate(itertools.pairwise(borders)):
        path = block_path(folder, number, ".faiss")
        made_from = {"trained_sha256": record["sha256"], "start": start, "stop": stop}
        made = _make(path, made_from, partial(_fill, vectors, trained, start, stop))
        seconds += made["seconds"]
        shards.append({"start": start, "rows": stop - start, "sha256": made["sha256"], "bytes": path.stat().st_size})
        logger.info("%s: %d of %d shards", folder, number + 1, settings.num_shards)
    for path in folder.glob("[0-9]*"):
        if path.suffix in {".faiss", ".json"} and int(path.stem) >= settings.num_shards:
            path.unlink(missing_ok=True)
    return shards, seconds


def _fill(vectors: Embeddings, trained: Path, start: int, stop: int) -> Any:
    """The trained index with vectors `start` to `stop`, added block by block."""
    import faiss

    index = faiss.read_index(str(trained))
    added = 0
    for row, block in progress(
        vectors.blocks(start=start, stop=stop), "vectors indexed", stop - start, size=lambda item: len(item[1])
    ):
        check_vectors(block, lambda place, row=row: vectors.name_of(row + place))
        index.add(block)
        added += len(block)
    assert index.ntotal == added == stop - start
    return index


def _make(path: Path, made_from: Mapping[str, Any], build: Callable[[], Any]) -> dict[str, Any]:
    """The record of an index file, which is built if it is not there as it should be."""
    import faiss

    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    with lock(path):
        record = _kept(path, digest)
        if record is None:
            began = time.perf_counter()
            index = build()
            with atomic_write(path) as temporary:
                faiss.write_index(index, str(temporary))
            record = {"sha256": sha256(path), "made_from": digest, "seconds": time.perf_counter() - began}
            write_json(path.with_suffix(".json"), record)
    return record


def _kept(path: Path, digest: str) -> dict[str, Any] | None:
    """The record of a file that can be kept; None, with a line in the log, if it must be made (again)."""
    if not path.exists():
        return None
    try:
        record: dict[str, Any] = read_json(path.with_suffix(".json"))
        if not isinstance(record, dict) or not record.keys() >= RECORD_KEYS:
            raise RetrievalError(f"{path}: its record is incomplete")
        if record["made_from"] != digest:
            raise RetrievalError(f"{path}: made from other vectors or with other settings")
        if record["sha256"] != sha256(path):
            raise RetrievalError(f"{path}: damaged (checksum differs)")
    except (DataError, RetrievalError) as error:
        logger.warning("%s; making it again", error)
        return None
    return record


class Shard:
    """One FAISS index over rows `start` and following; its vectors or codes stay in the file, which is mapped."""

    def __init__(self, path: Path, record: Mapping[str, Any], dim: int, settings: Settings) -> None:
        if not path.is_file():
            raise RetrievalError(f"{path}: no such shard")
        if sha256(path) != record["sha256"]:
            raise RetrievalError(f"{path}: damaged (checksum differs)")
        try:
            index = _map_index(path)
        except RuntimeError as error:
            raise RetrievalError(f"{path}: FAISS cannot read it ({str(error).strip().splitlines()[-1]})") from error
        if (index.ntotal, index.d) != (record["rows"], dim):
            found = f"holds {index.ntotal} vectors of width {index.d}, expected {record['rows']} of {dim}"
            raise RetrievalError(f"{path}: {found}")
        set_search(index, settings)
        self.start: int = record["start"]
        self.index = on_device(index, settings.device)

    def search(self, queries: Any, k: int) -> tuple[Any, Any]:
        """(scores, rows) [Q, k]; row -1 with score -inf where fewer are found."""
        fetched = min(k, self.index.ntotal)
        scores, rows = self.index.search(queries, fetched)
        found = rows >= 0
        all_scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        all_rows = np.full((len(queries), k), -1, dtype=np.int64)
        all_scores[:, :fetched] = np.where(found, scores, -np.inf)
        all_rows[:, :fetched] = np.where(found, rows + self.start, -1)
        return all_scores, all_rows


def _map_index(path: Path) -> Any:
    import faiss

    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    try:
        lists: Any = faiss.extract_index_ivf(index).invlists
    except RuntimeError:
        return index
    lists = faiss.downcast_InvertedLists(lists)
    if hasattr(lists, "prefetch_nthread"):
        lists.prefetch_nthread = 0  # its 32 threads would take 8 MB of stack each
    return index


def best_of(scores: Any, rows: Any, k: int) -> tuple[Any, Any]:
    """The best `k` of each line of hits [Q, n], best first; ties go to the lower row, -1 to the end."""
    order = np.lexsort((rows, -scores), axis=-1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

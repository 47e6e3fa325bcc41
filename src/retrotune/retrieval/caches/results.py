"""Search results on disk, in blocks named by their range of texts: `000000000000-000000010000.npz`.

A block holds `rows` (int64 [n, k], passage rows, best first, -1 after the last one found) and `scores` (float32 [n, k],
higher is better), and for text without a file of its own, as chunks are, whose results these are (`Keys`).
"""

import hashlib
import itertools
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from retrotune.errors import DataError, RetrievalError
from retrotune.retrieval.blocks import Record, check_sum, kept_or_made
from retrotune.retrieval.passages import PassageTable
from retrotune.retrieval.search.hits import Hits
from retrotune.runtime.files import read_json, sha256
from retrotune.runtime.log import logger
from retrotune.study.config import RetrieverEntry

BLOCK_NAME = re.compile(r"\d{12,}-\d{12,}\.npz")
LISTED = ("start", "rows", "top_k", "sha256", "made_from")
COUNTS = ("texts_without_passage", "texts_with_fewer", "hits")
BLOCK_TEXTS = 10_000
"""Texts per block: what an interrupted search loses at most, and what memory holds."""


@dataclass(frozen=True)
class Search:
    """What is searched, and with what: all that determines hits beside the texts that ask."""

    retriever: RetrieverEntry
    top_k: int
    passages: str | Path
    embeddings: str | Path | None = None
    index: str | Path | None = None

    def digest(self, table: PassageTable, stage_version: int, **more: Any) -> str:
        """Hex digest of the search and of `more` that the stage adds; `table` is opened from `passages`."""
        parts = {
            "stage_version": stage_version,
            "retriever": _retriever_parts(self.retriever),
            "base": _retriever_parts(self.retriever.starts_from) if self.retriever.kind == "degraded" else None,
            "top_k": self.top_k,
            "passages": table.sha256,
            "embeddings": _file_digest(self.embeddings),
            "index": _file_digest(self.index),
            **more,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def request(self, manifest: str | Path) -> dict[str, Any]:
        """The search as a cache's manifest keeps it for `verify`, paths as seen from the manifest's folder."""
        return {
            "retriever": self.retriever.given(),
            "top_k": self.top_k,
            **{name: relative(getattr(self, name), manifest) for name in ("passages", "embeddings", "index")},
        }

    @classmethod
    def requested(cls, manifest: str | Path, request: Mapping[str, Any]) -> "Search":
        """The search that `request` keeps."""
        files = {name: from_relative(request[name], manifest) for name in ("passages", "embeddings", "index")}
        return cls(RetrieverEntry.model_validate(request["retriever"]), request["top_k"], **files)


def relative(path: str | Path | None, manifest: str | Path) -> str | None:
    """A path as seen from the folder of `manifest`."""
    return None if path is None else Path(os.path.relpath(path, Path(manifest).parent)).as_posix()


def from_relative(path: str | None, manifest: str | Path) -> Any:
    """The inverse of `relative`."""
    return None if path is None else os.path.normpath(Path(manifest).parent / path)


def _retriever_parts(retriever: RetrieverEntry) -> dict[str, Any]:
    """A retriever's settings, those apart that change speed only, and the files of the model that encodes queries."""
    parts = retriever.for_search().model_dump(mode="json", exclude={"batch_tokens", "base"}) | {"base": None}
    if retriever.kind == "dense":
        from retrotune.retrieval.vectors.encoders import fingerprint

        parts["query_model"] = fingerprint(retriever, "query")
    return parts


def _file_digest(path: str | Path | None) -> str | None:
    """Digest of a file; None without one, which is reported where it is opened."""
    return sha256(path) if path is not None and Path(path).is_file() else None


# keys of chunks ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Keys:
    """(document id, chunk number) of consecutive texts, as runs: a document's chunks follow each other."""

    doc_ids: list[str] = field(default_factory=list)
    first_chunks: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, int]]) -> "Keys":
        """Runs of (document id, chunk number) pairs."""
        keys = cls()
        for doc_id, chunk in pairs:
            if keys.doc_ids and keys.doc_ids[-1] == doc_id and keys.first_chunks[-1] + keys.counts[-1] == chunk:
                keys.counts[-1] += 1
            else:
                keys.doc_ids.append(doc_id)
                keys.first_chunks.append(chunk)
                keys.counts.append(1)
        return keys

    def pairs(self) -> Iterator[tuple[str, int]]:
        """The pairs in order."""
        for doc_id, first, count in zip(self.doc_ids, self.first_chunks, self.counts, strict=True):
            for chunk in range(first, first + count):
                yield doc_id, chunk

    def arrays(self) -> dict[str, Any]:
        """The runs as arrays that need no pickle."""
        joined = "".join(self.doc_ids).encode()
        ends = np.cumsum([len(doc_id.encode()) for doc_id in self.doc_ids], dtype=np.int64)
        numbers = {"first_chunks": self.first_chunks, "counts": self.counts}
        return {
            "doc_id_bytes": np.frombuffer(joined, dtype=np.uint8),
            "doc_id_ends": ends,
            **{name: np.array(values, dtype=np.int64) for name, values in numbers.items()},
        }

    @classmethod
    def read(cls, arrays: Mapping[str, Any]) -> "Keys":
        """The inverse of `arrays`; `KeyError` or `ValueError` if they are none."""
        joined, ends = arrays["doc_id_bytes"].tobytes(), arrays["doc_id_ends"].tolist()
        doc_ids = [joined[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]
        keys = cls(doc_ids, arrays["first_chunks"].tolist(), arrays["counts"].tolist())
        if not len(doc_ids) == len(keys.first_chunks) == len(keys.counts):
            raise ValueError("document ids, first chunks and counts differ in number")
        return keys


# blocks --------------------------------------------------------------------------------------------------------------
def block_name(start: int, rows: int) -> str:
    """File of the block of texts `start` to `start + rows`; names sort in the order of the texts."""
    return f"{start:012d}-{start + rows:012d}.npz"


def kept_or_found(
    folder: Path, start: int, rows: int, made_from: str, find: Callable[[], Hits], keys: Keys | None = None
) -> tuple[Record, bool]:
    """(record of a block of hits, whether it was there already); `find()` searches only if it was not."""

    def make() -> dict[str, Any]:
        found, scores = find()
        return {"rows": found.astype(np.int64), "scores": scores.astype(np.float32), **(keys.arrays() if keys else {})}

    def save(stream: BinaryIO, arrays: Mapping[str, Any]) -> dict[str, Any]:
        np.savez(stream, **arrays)
        counts = (arrays["rows"] >= 0).sum(axis=1)
        top_k = arrays["rows"].shape[1]
        counted = {
            "texts_without_passage": int((counts == 0).sum()),
            "texts_with_fewer": int((counts < top_k).sum()),
            "hits": int(counts.sum()),
        }
        return {"top_k": top_k, **counted}

    record, kept = kept_or_made(folder / block_name(start, rows), made_from, rows, make, save, read_block)
    return {"start": start, **record}, kept


def read_block(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays of a block; `RetrievalError` naming it if it is not what its record says."""
    check_sum(path, record)
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored.items())
        rows, scores = arrays["rows"], arrays["scores"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RetrievalError(f"{path}: block is damaged ({error})") from error
    expected = (record["rows"], record["top_k"])
    if (rows.dtype, scores.dtype, rows.shape, scores.shape) != (np.int64, np.float32, expected, expected):
        found = f"rows {rows.dtype} {rows.shape} and scores {scores.dtype} {scores.shape}"
        raise RetrievalError(f"{path}: block holds {found}, expected int64 and float32 {expected}")
    return arrays


def read_blocks(folder: Path, records: Sequence[Record], remedy: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the first text, arrays) of each block, one in memory at a time.

    Raises `RetrievalError` naming a block that is not whole, and `remedy`.
    """
    for record in records:
        try:
            yield record["start"], read_block(folder / block_name(record["start"], record["rows"]), record)
        except RetrievalError as error:
            raise RetrievalError(f"{error}; {remedy}") from error


def summary(folder: Path, records: Sequence[Record], top_k: int) -> dict[str, Any]:
    """What a cache's manifest says of its blocks; a line in the log if texts have fewer than `top_k` passages.

    Blocks of other ranges, left by a run with other texts or another block size, are removed.
    """
    names = {block_name(record["start"], record["rows"]) for record in records}
    for path in folder.glob("*.npz"):
        if path.name not in names and BLOCK_NAME.fullmatch(path.name):
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
    texts = sum(record["rows"] for record in records)
    counts = {name: sum(record[name] for record in records) for name in COUNTS}
    if counts["texts_with_fewer"]:
        logger.warning(
            "%s: %d of %d texts have fewer than %d passages", folder, counts["texts_with_fewer"], texts, top_k
        )
    listed = [{name: record[name] for name in LISTED} for record in records]
    return {"texts": texts, **counts, "top_k": top_k, "blocks": listed}


def read_manifest(path: str | Path, remedy: str) -> dict[str, Any]:
    """The manifest of a finished cache; `RetrievalError` naming `remedy` if it is missing, damaged or no such thing."""
    try:
        manifest = read_json(path)
    except DataError as error:
        raise RetrievalError(f"{error}; {remedy}") from error
    records = manifest.get("blocks") if isinstance(manifest, dict) else None
    if not isinstance(records, list) or not all(isinstance(r, dict) and r.keys() >= set(LISTED) for r in records):
        raise RetrievalError(f"{path}: no manifest of a neighbor cache; {remedy}")
    starts = [0, *itertools.accumulate(record["rows"] for record in records)]
    if [record["start"] for record in records] != starts[:-1] or starts[-1] != manifest.get("texts"):
        raise RetrievalError(f"{path}: its blocks do not follow each other to the last text; {remedy}")
    found: dict[str, Any] = manifest
    return found

"""Indexes over passage vectors, inner product: built, measured, opened and searched.

`{index}.json` says what the index is: its settings, its shards with their checksums and the embeddings it was made
from. It holds no time and no date, so that an index built again from the same files is the same. Beside it,
`{index}.manifest.json` holds what was measured: recall against exact search, bytes per vector, build and search time.
An exact index has no shard: its search reads the embeddings.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np

from retrotune.errors import DataError, RetrievalError
from retrotune.retrieval.search.exact import ExactIndex
from retrotune.retrieval.search.factory import Settings, settle
from retrotune.retrieval.search.shards import Shard, best_of, build_shards
from retrotune.retrieval.vectors.embeddings import Embeddings, check_vectors
from retrotune.runtime.files import block_path, read_json, sha256, write_json
from retrotune.runtime.log import logger, progress
from retrotune.study.stages import BuildIndexParams

SAMPLE = 200
RECALL_AT = (1, 5, 20, 100)
RERANK_FLOATS = 1 << 23
"""Vectors that re-ranking holds at a time: 32 MB."""
INDEX_KEYS = {"rows", "dim", "settings", "shards", "embeddings_sha256"}


def manifest_path(index: str | Path) -> Path:
    """`{index}.manifest.json` beside `{index}.json`."""
    return Path(index).with_suffix(".manifest.json")


def build_index(params: BuildIndexParams, embeddings_manifest: str | Path, out_index: str | Path) -> None:
    """Build an index over all vectors, shard by shard and block by block, measure it, and write `out_index` last.

    Shards of an earlier run are kept if they are whole and made from the same vectors with the same settings. Raises
    `RetrievalError` for a factory string that FAISS does not know or cannot train on so few vectors, for damaged
    blocks, and for a vector that is zero or not finite (naming the passage).
    """
    vectors = Embeddings(embeddings_manifest)
    out_index = Path(out_index)
    settings = settle(params.index, vectors.rows)
    if settings.exact:
        shards: list[dict[str, Any]] = []
        began = time.perf_counter()
        for start, block in progress(vectors.blocks(), "vectors checked", vectors.rows, size=lambda item: len(item[1])):
            check_vectors(block, lambda row, start=start: vectors.name_of(start + row))
        seconds = time.perf_counter() - began
    else:
        shards, seconds = build_shards(vectors, settings, out_index.with_suffix(""))
    content = {
        "stage_version": params.version,
        "rows": vectors.rows,
        "dim": vectors.dim,
        "settings": settings.as_dict(),
        "shards": shards,
        "embeddings_sha256": sha256(embeddings_manifest),
    }
    size = sum(shard["bytes"] for shard in shards)
    manifest = {
        "kind": "exact" if settings.exact else "faiss",
        "factory": settings.factory,
        "count": vectors.rows,
        "dim": vectors.dim,
        "bytes": size,
        "bytes_per_vector": size / vectors.rows,
        "build_seconds": seconds,
        **measure(OpenIndex(vectors, settings, _open_shards(out_index, shards, vectors, settings))),
        "shards": shards,
        "embeddings_sha256": content["embeddings_sha256"],
    }
    write_json(manifest_path(out_index), manifest)
    write_json(out_index, content)
    recall = ", ".join(f"recall@{depth} {share:.3f}" for depth, share in manifest["recall"].items())
    logger.info("%s: %d vectors, %s, %s", out_index, vectors.rows, settings.factory, recall)


def open_index(index: str | Path, vectors: Embeddings) -> "OpenIndex":
    """Open an index and verify that it is whole and was made from these embeddings.

    Raises `RetrievalError` if it is missing, damaged, or belongs to other embeddings.
    """
    remedy = f"delete {index} and run build_index, which rebuilds what is missing"
    try:
        content = read_json(index)
    except DataError as error:
        raise RetrievalError(f"{error}; {remedy}") from error
    if not isinstance(content, dict) or not content.keys() >= INDEX_KEYS:
        raise RetrievalError(f"{index}: not an index of this package; {remedy}")
    found, expected = (content["rows"], content["dim"]), (vectors.rows, vectors.dim)
    if content["embeddings_sha256"] != sha256(vectors.path) or found != expected:
        raise RetrievalError(
            f"{index}: made from other embeddings ({found[0]} vectors of width {found[1]}) than {vectors.path}"
            f" ({expected[0]} of {expected[1]}); {remedy}"
        )
    try:
        settings = Settings(**content["settings"])
        return OpenIndex(vectors, settings, _open_shards(Path(index), content["shards"], vectors, settings))
    except (RetrievalError, TypeError, KeyError) as error:
        raise RetrievalError(f"{index}: {error}; {remedy}") from error


def _open_shards(index: Path, records: list[dict[str, Any]], vectors: Embeddings, settings: Settings) -> list[Shard]:
    folder = index.with_suffix("")
    return [
        Shard(block_path(folder, number, ".faiss"), record, vectors.dim, settings)
        for number, record in enumerate(records)
    ]


class OpenIndex:
    """An index ready to be searched: `ntotal` vectors of width `d`, in `shards`, or exact if there is none."""

    def __init__(self, vectors: Embeddings, settings: Settings, shards: list[Shard]) -> None:
        self.ntotal, self.d = vectors.rows, vectors.dim
        self.settings = settings
        self.vectors = vectors
        self.shards = shards

    def search(self, queries: Any, k: int) -> tuple[Any, Any]:
        """(scores, rows) [Q, k] of the best `k`, best first, ties by row; row -1, score -inf where fewer are found.

        Every shard is searched and the hits are merged; with `rerank`, so many candidates get their exact score first.
        Raises `RetrievalError` for queries of another width or that are not finite.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.d:
            raise RetrievalError(
                f"queries of shape {queries.shape} for vectors of width {self.d} ({self.vectors.path}): query model and"
                " passage model do not belong together"
            )
        if not np.isfinite(queries).all():
            bad = int(np.flatnonzero(~np.isfinite(queries).all(axis=1))[0])
            raise RetrievalError(f"query {bad} has a vector that is not finite; check its text and the query model")
        if not self.shards:
            return ExactIndex(self.vectors, self.settings.device).search(queries, k)
        fetch = max(k, self.settings.rerank)
        hits = [shard.search(queries, fetch) for shard in self.shards]
        scores, rows = np.concatenate([s for s, _ in hits], axis=1), np.concatenate([r for _, r in hits], axis=1)
        if not self.settings.rerank:
            return best_of(scores, rows, k)
        scores, rows = best_of(scores, rows, fetch)
        return best_of(self._exact_scores(queries, rows), rows, k)

    def _exact_scores(self, queries: Any, rows: Any) -> Any:
        """Inner products [Q, n] of each query with its own rows; -inf for row -1."""
        scores = np.full(rows.shape, -np.inf, dtype=np.float32)
        step = max(1, RERANK_FLOATS // (rows.shape[1] * self.d))
        for start in range(0, len(queries), step):
            part = rows[start : start + step]
            found = part >= 0
            query, _ = np.nonzero(found)
            vectors = self.vectors.take(part[found])
            scores[start : start + step][found] = np.einsum("nd,nd->n", queries[start : start + step][query], vectors)
        return scores


def measure(index: OpenIndex) -> dict[str, Any]:
    """Recall of an index against exact search, and the seconds of both per query, on a seeded sample.

    Queries are stored vectors, each left out of its own hits: questions are not known yet, and a stored vector lies
    where the corpus lies, which a vector with added noise does not. Recall@k is the share of the `k` hits that are as
    similar as the k-th of the exact ones, so that a twin counts; `k` as far as there are so many others.
    """
    vectors = index.vectors
    rng = np.random.default_rng(0)
    picked = np.sort(rng.choice(vectors.rows, min(vectors.rows, SAMPLE), replace=False))
    queries = vectors.take(picked)
    depths = [k for k in RECALL_AT if k < vectors.rows]
    deepest = max(depths, default=0) + 1
    began = time.perf_counter()
    _, rows = index.search(queries, deepest)
    searched = time.perf_counter()
    exact_scores, exact_rows = ExactIndex(vectors, index.settings.device).search(queries, deepest)
    compared = time.perf_counter()
    hits: dict[int, list[float]] = {k: [] for k in depths}
    for number, own in enumerate(picked):
        others = rows[number][(rows[number] != own) & (rows[number] >= 0)]
        scores = vectors.take(others) @ queries[number]
        best = exact_scores[number][exact_rows[number] != own]
        for k in depths:
            bar = best[k - 1] - 1e-5 * abs(best[k - 1])
            hits[k].append(np.count_nonzero(scores[:k] >= bar) / k)
    return {
        "recall": {str(k): round(float(np.mean(values)), 4) for k, values in hits.items()},
        "recall_queries": len(picked),
        "recall_queries_are": "stored vectors, themselves left out (seed 0)",
        "search_seconds_per_query": (searched - began) / len(picked),
        "exact_seconds_per_query": (compared - searched) / len(picked),
    }

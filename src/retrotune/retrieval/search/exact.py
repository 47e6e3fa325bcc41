"""Exact search over vectors that stay on disk: blocks are read one after the other and only the best hits are kept.

Shape letters: Q queries, n vectors of a block, D width, k hits.
"""

from typing import Any

import numpy as np

from retrotune.retrieval.vectors.embeddings import Embeddings

QUERIES_AT_ONCE = 1024


class ExactIndex:
    """Inner product with every stored vector; memory holds one block, its scores and the hits.

    `search` breaks ties by the lower row. With `device` auto and faiss-gpu installed, blocks are compared on the first
    GPU, where FAISS keeps any of equal scores.
    """

    def __init__(self, vectors: Embeddings, device: str = "auto") -> None:
        import faiss

        self.ntotal, self.d = vectors.rows, vectors.dim
        self._vectors = vectors
        gpu = device == "auto" and faiss.get_num_gpus() > 0
        self._resources: Any = faiss.StandardGpuResources() if gpu else None

    def search(self, queries: Any, k: int) -> tuple[Any, Any]:
        """(scores, rows) [Q, k] of the best `k`, best first; row -1 with score -inf beyond the last vector."""
        groups = [queries[start : start + QUERIES_AT_ONCE] for start in range(0, len(queries), QUERIES_AT_ONCE)]
        best = [Best(len(group), k) for group in groups]
        for start, block_nD in self._vectors.blocks():
            for group, hits in zip(groups, best, strict=True):
                if self._resources is None:
                    hits.offer(group @ block_nD.T, start)
                else:
                    hits.add(*self._on_gpu(group, block_nD, min(k, len(block_nD))), start)
        if not best:
            return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
        return np.concatenate([hits.scores for hits in best]), np.concatenate([hits.rows for hits in best])

    def _on_gpu(self, queries: Any, block_nD: Any, k: int) -> tuple[Any, Any, Any]:
        """(query, position, score) of the best `k` of a block, flat."""
        import faiss

        scores, rows = faiss.knn_gpu(self._resources, queries, block_nD, k, metric=faiss.METRIC_INNER_PRODUCT)
        return np.repeat(np.arange(len(queries)), k), rows.ravel(), scores.ravel()


class Best:
    """The best `k` of each query so far: `scores` (-inf where none) and `rows` (-1) [Q, k], best first."""

    def __init__(self, num_queries: int, k: int) -> None:
        self.k = k
        self.scores = np.full((num_queries, k), -np.inf, dtype=np.float32)
        self.rows = np.full((num_queries, k), -1, dtype=np.int64)

    def offer(self, scores_Qn: Any, start: int) -> None:
        """Take what is better from the scores of rows `start`, `start` + 1, …; blocks come in ascending order."""
        n = scores_Qn.shape[1]
        # Equal to the last one kept is not better: that one has the lower row.
        better = scores_Qn > self.scores[:, -1:]
        if n > self.k and np.count_nonzero(better) > 4 * self.k * len(better):
            better &= scores_Qn >= np.partition(scores_Qn, n - self.k, axis=1)[:, n - self.k, None]
        query, position = np.nonzero(better)
        if len(query):
            self.add(query, position, scores_Qn[query, position], start)

    def add(self, query: Any, position: Any, scores: Any, start: int) -> None:
        """Merge hits given as flat arrays; `position` counts from row `start`."""
        number = len(self.scores)
        queries = np.concatenate([np.repeat(np.arange(number), self.k), query])
        all_scores = np.concatenate([self.scores.ravel(), scores])
        all_rows = np.concatenate([self.rows.ravel(), position + start])
        order = np.lexsort((all_rows, -all_scores, queries))
        borders = np.searchsorted(queries[order], np.arange(number))
        kept = order[borders[:, None] + np.arange(self.k)]
        self.scores, self.rows = all_scores[kept], all_rows[kept]
